//! `volvelle serve`: one local store over HTTP, for machines that share results. The protocol is in `PROTOCOL.md`.
//!
//! It owns what goes over the wire and who may do what; what a blob or a record is, and when it is good enough to be let
//! in, is the store's business. The store itself is trusted; nothing that a client says is. It knows no pipelines, and
//! nothing here prints.

mod batch;
mod blobs;
mod body;
mod census;
mod claims;
mod listen;
mod metrics;
mod records;
mod refusal;
mod routes;
mod shared;
mod tokens;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use listen::{Listening, ServeError};
pub use tokens::{Scope, Token, TokenError, TokenFile};

/// How a server serves.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    pub access: Access,
    pub tls: Option<TlsFiles>,
    /// How long requests may take to end once the server was told to.
    pub grace: Duration,
    /// How long a client may be silent in the middle of something.
    pub patience: Duration,
    pub max_connections: usize,
    /// How many requests may bring content at once.
    pub max_uploads: usize,
    pub max_blob_bytes: u64,
    /// What uploads leave free on the disk.
    pub keep_free_bytes: u64,
}

impl Options {
    /// Returns how a server at an address serves, where nothing else is said.
    pub fn new(listen: SocketAddr, access: Access) -> Options {
        Options {
            listen,
            access,
            tls: None,
            grace: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            max_connections: 1024,
            max_uploads: 32,
            max_blob_bytes: 1 << 40,
            keep_free_bytes: 1 << 30,
        }
    }
}

/// Who is let in.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever has one of these tokens.
    Tokens(TokenFile),
    /// Everybody on this machine.
    Open,
}

/// Where a certificate and its key lie, both as PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[cfg(test)]
mod tests;
