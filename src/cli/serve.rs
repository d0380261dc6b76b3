//! `volvelle serve`: shares the cache with other machines over HTTP, until it is told to stop.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Global, Output};
use crate::server::{Access, Listening, Options, ServeError, TlsFiles, TokenFile};
use crate::settings::{parse_age, parse_size};
use crate::store::Store;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    listen: String,
    /// The file of tokens [default: `serve/tokens` in the cache; see `volvelle token`]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Let every program of this machine read and write, and nobody else
    #[arg(long, conflicts_with = "tokens")]
    no_auth: bool,
    /// The certificate for HTTPS, as PEM with its chain; read again at SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Refuse uploads that would leave less than this on the disk
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    keep_free: u64,
    /// Refuse larger files
    #[arg(long, value_name = "SIZE", default_value = "1TiB", value_parser = parse_size)]
    max_blob: u64,
    /// Refuse more connections at once
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_connections: u32,
    /// Refuse more uploads at once
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_uploads: u32,
    /// End connections that are silent for longer in the middle of something
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_age)]
    timeout: Duration,
    /// How long requests may take to end once the server is stopped
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_age)]
    grace: Duration,
}

pub(super) fn run(args: &ServeArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = Arc::new(global.local_store(None)?);
    let options = options(args, &store)?;
    let is_plain = args.tls_cert.is_none() && !options.listen.ip().is_loopback();
    // Inside the runtime from the start: listening sockets belong to one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Failed)?;
    let root = store.root().to_path_buf();
    let listening = Listening::bind(store, options)?;
    if is_plain {
        let text = "tokens and content travel unencrypted; use --tls-cert and --tls-key, or a proxy that speaks TLS";
        tracing::warn!("{text}");
    }
    output.line(&format!("listening on {}, sharing {}", listening.url(), root.display()))?;
    output.flush()?;
    runtime.block_on(serve(listening))?;
    // What still hangs after the grace time is not waited for.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(listening: Listening) -> Result<(), CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(ServeError::Failed)?;
    let reload = listening.reloader();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut running = std::pin::pin!(listening.run(async move {
        // Without its sender it is over as well.
        let _ = stopped.await;
    }));
    loop {
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            _ = hangup.recv() => match reload() {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(error) => tracing::warn!(%error, "the certificate stays as it was"),
            },
            _ = async { tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} } } => {
                match stop.take() {
                    Some(stop) => drop(stop.send(())),
                    None => return Err(CliError::Interrupted),
                }
            }
        }
    }
}

fn options(args: &ServeArgs, store: &Store) -> Result<Options, CliError> {
    let bad = |why: String| CliError::Usage(format!("{:?} is no address to listen on: {why}", args.listen));
    let mut addresses = args.listen.to_socket_addrs().map_err(|error| bad(error.to_string()))?;
    let listen: SocketAddr = addresses.next().ok_or_else(|| bad("it has no addresses".to_owned()))?;
    let access = match (&args.tokens, args.no_auth) {
        (_, true) => Access::Open,
        (Some(file), false) => Access::Tokens(TokenFile::at(file.clone())),
        (None, false) => Access::Tokens(TokenFile::of_store(store.root())),
    };
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    Ok(Options {
        tls: tls.map(|(cert, key)| TlsFiles { cert, key }),
        grace: args.grace,
        patience: args.timeout,
        max_connections: args.max_connections as usize,
        max_uploads: args.max_uploads as usize,
        max_blob_bytes: args.max_blob,
        keep_free_bytes: args.keep_free,
        ..Options::new(listen, access)
    })
}
