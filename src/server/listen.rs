//! Connections: how many there are, how slowly they may go, TLS, and how a server ends.

use std::future::{Future, Ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::shared::Shared;
use super::tokens::TokenError;
use super::{Access, Options, TlsFiles, routes};
use crate::store::{Store, StoreError};

/// What the head of a request may take, and so what a connection has as its buffer.
const MOST_HEAD_BYTES: usize = 128 << 10;

const MOST_HEADERS: usize = 64;

/// Why a server can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "there are no tokens in {}, so nobody could come in; make one with `volvelle token new NAME --scope write`{}",
        path.display(),
        if *is_local { ", or serve this machine alone with --no-auth" } else { "" }
    )]
    NoTokens { path: PathBuf, is_local: bool },
    #[error("--no-auth lets everybody who reaches {0} read and write; it goes with a loopback address only")]
    OpenToAll(SocketAddr),
    #[error("cannot read {}: {why}", path.display())]
    Tls { path: PathBuf, why: String },
    #[error("{0}")]
    Tokens(#[from] TokenError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the server failed: {0}")]
    Failed(#[source] io::Error),
}

/// A server that has its address and waits to be run.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    options: Options,
    shared: Arc<Shared>,
    tls: Option<RustlsConfig>,
}

impl Listening {
    /// Takes the address, once it is sure that not everybody would be let in.
    pub fn bind(store: Arc<Store>, options: Options) -> Result<Listening, ServeError> {
        let is_local = options.listen.ip().is_loopback();
        match &options.access {
            Access::Open if !is_local => return Err(ServeError::OpenToAll(options.listen)),
            Access::Open => {}
            Access::Tokens(file) if file.read()?.is_empty() => {
                return Err(ServeError::NoTokens {
                    path: file.path().to_path_buf(),
                    is_local,
                });
            }
            Access::Tokens(_) => {}
        }
        let tls = options.tls.as_ref().map(tls_config).transpose()?;
        let taken = |source| ServeError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        Ok(Listening {
            listener,
            address,
            shared: Arc::new(Shared::new(store, &options)?),
            tls: tls.map(|config| RustlsConfig::from_config(Arc::new(config))),
            options,
        })
    }

    /// Returns the address, as a client is told it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns what reads the files of the certificate again; a fault in them leaves the old one in use.
    pub fn reloader(&self) -> impl Fn() -> Result<(), ServeError> + Send + use<> {
        let (config, files) = (self.tls.clone(), self.options.tls.clone());
        move || {
            if let (Some(config), Some(files)) = (&config, &files) {
                config.reload_from_config(Arc::new(tls_config(files)?));
            }
            Ok(())
        }
    }

    /// Serves until `stop` is done, and then lets what goes on come to its end, as long as that may take.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let handle = axum_server::Handle::new();
        let (stopping, grace) = (handle.clone(), self.options.grace);
        let stopper = tokio::spawn(async move {
            stop.await;
            stopping.graceful_shutdown(Some(grace));
        });
        let gate = Gate {
            slots: Arc::new(Semaphore::new(self.options.max_connections)),
            patience: self.options.patience,
            shared: Arc::clone(&self.shared),
        };
        let mut server = axum_server::from_tcp(self.listener)
            .map_err(ServeError::Failed)?
            .handle(handle)
            .first_request_timeout(self.options.patience)
            .http1_only();
        server
            .http_builder()
            .http1()
            .header_read_timeout(self.options.patience)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEAD_BYTES);
        let service = routes::router(self.shared).into_make_service();
        let served = match self.tls {
            None => server.acceptor(gate).serve(service).await,
            Some(config) => {
                let acceptor = RustlsAcceptor::new(config).acceptor(gate);
                server.acceptor(acceptor).serve(service).await
            }
        };
        stopper.abort();
        served.map_err(ServeError::Failed)
    }
}

fn tls_config(files: &TlsFiles) -> Result<rustls::ServerConfig, ServeError> {
    let bad_cert = |why: String| ServeError::Tls {
        path: files.cert.clone(),
        why,
    };
    let certs = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad_cert(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| ServeError::Tls {
        path: files.key.clone(),
        why: error.to_string(),
    })?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
        .map_err(|error| bad_cert(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Lets connections in as long as there are places.
#[derive(Clone)]
struct Gate {
    slots: Arc<Semaphore>,
    patience: Duration,
    shared: Arc<Shared>,
}

impl<S> Accept<TcpStream, S> for Gate {
    type Stream = Connection;
    type Service = S;
    type Future = Ready<io::Result<(Connection, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.shared.metrics.refused_connections.fetch_add(1, Ordering::Relaxed);
            return std::future::ready(Err(io::Error::other("too many connections")));
        };
        // Small answers are not to wait for more to send.
        if let Err(error) = stream.set_nodelay(true) {
            return std::future::ready(Err(error));
        }
        self.shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            stream,
            patience: self.patience,
            stalled: Box::pin(tokio::time::sleep(self.patience)),
            is_stalled: false,
            shared: Arc::clone(&self.shared),
            _slot: slot,
        };
        std::future::ready(Ok((connection, service)))
    }
}

/// A connection that counts its bytes, and that ends when the other side doesn't take what is sent.
struct Connection {
    stream: TcpStream,
    patience: Duration,
    stalled: Pin<Box<Sleep>>,
    is_stalled: bool,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Watches how long a write has to wait.
    fn watch(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.is_stalled = false;
            let count = *result.as_ref().unwrap_or(&0) as u64;
            self.shared.metrics.bytes_out.fetch_add(count, Ordering::Relaxed);
            return Poll::Ready(result);
        }
        if !self.is_stalled {
            self.is_stalled = true;
            self.stalled.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buf);
        let count = (buf.filled().len() - before) as u64;
        self.shared.metrics.bytes_in.fetch_add(count, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
