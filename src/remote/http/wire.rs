//! One request to a server: made, repeated while that can help, and its answer understood.
//!
//! It knows addresses, tokens and statuses, nothing of blobs. A token is in no log and no message.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::protocol::{PROTOCOL, PROTOCOL_HEADER};
use crate::remote::{RemoteError, tls};
use crate::settings::RemoteSettings;

/// How long a server may be silent where the settings don't say.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often a request is made before the server counts as down.
pub(super) const ATTEMPTS: u32 = 5;

/// How often a connection is tried.
const CONNECT_ATTEMPTS: u32 = 3;

/// A server that asks for more patience is asked again after this all the same.
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The slowest network that is still of use, in bytes per second.
const LEAST_RATE: f64 = 64.0 * 1024.0;

/// What a server says about a refusal is cut to this.
const MOST_ERROR_BYTES: u64 = 4096;

/// A text that is never shown.
struct Secret(HeaderValue);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The way to a server.
#[derive(Debug)]
pub(super) struct Wire {
    client: Client,
    /// Ends with a slash.
    base: String,
    token: Option<Secret>,
    timeout: Duration,
}

/// Returns the token that the environment names, if it names one.
pub(super) fn token_of_environment() -> Result<Option<String>, RemoteError> {
    let value = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.trim().is_empty())
    };
    if let Some(token) = value("VOLVELLE_TOKEN") {
        return Ok(Some(token));
    }
    let Some(file) = value("VOLVELLE_TOKEN_FILE") else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&file);
    text.map(Some)
        .map_err(|error| RemoteError::Settings(format!("cannot read VOLVELLE_TOKEN_FILE, {file}: {error}")))
}

/// Returns 256 random bits as text.
pub(super) fn random_text() -> Result<String, RemoteError> {
    let mut random = [0; 32];
    match getrandom::fill(&mut random) {
        Ok(()) => Ok(blake3::Hash::from_bytes(random).to_hex().to_string()),
        Err(error) => Err(RemoteError::Settings(format!(
            "this machine has no random numbers: {error}"
        ))),
    }
}

impl Wire {
    pub fn new(settings: &RemoteSettings, token: Option<String>) -> Result<Wire, RemoteError> {
        let (url, is_local) = parse(&settings.url)?;
        let timeout = settings.timeout.unwrap_or(TIMEOUT);
        tls::install();
        let mut builder = Client::builder()
            .user_agent(concat!("volvelle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeout)
            // Shorter than a server keeps a silent connection, which would be lost under a request otherwise.
            .pool_idle_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            // A redirection would carry bodies, and perhaps a token, to somebody else.
            .redirect(reqwest::redirect::Policy::none());
        if is_local {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // Machines without certificates of authorities need none for this.
            builder = builder.tls_certs_only([]);
            if token.is_some() && !is_local {
                tracing::warn!("the token travels to {url} unencrypted; https:// keeps it secret");
            }
        }
        let client = builder
            .build()
            .map_err(|error| RemoteError::Settings(format!("no connection to {url} can be made: {error}")))?;
        Ok(Wire {
            client,
            base: url.to_string(),
            token: token.map(|token| secret(&token)).transpose()?,
            timeout,
        })
    }

    pub fn address(&self) -> &str {
        self.base.trim_end_matches('/')
    }

    /// Returns how long a server may be silent.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins a request to a path, which starts with `v1/`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.0.clone()),
            None => request,
        }
    }

    /// Sends a request that may be repeated, and returns an answer of a server of ours, whatever it is.
    pub async fn send(
        &self,
        what: &str,
        make: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, RemoteError> {
        self.send_bytes(what, 0, make).await
    }

    /// As [`Wire::send`], for a request that carries so many bytes.
    pub async fn send_bytes(
        &self,
        what: &str,
        bytes: usize,
        make: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, RemoteError> {
        let patience = self.timeout + Duration::from_secs_f64(bytes as f64 / LEAST_RATE);
        let (mut attempt, mut attempts) = (0, ATTEMPTS);
        loop {
            let sent = tokio::time::timeout(patience, make().send()).await;
            let (error, patience) = match sent {
                Ok(Ok(response)) if !is_passing(&response) => return self.understood(what, response),
                Ok(Ok(response)) => {
                    let patience = retry_after(response.headers());
                    (self.fault(what, response).await, patience)
                }
                Ok(Err(error)) => {
                    // Where nobody listens, nobody will a second later.
                    attempts = if error.is_connect() { CONNECT_ATTEMPTS } else { attempts };
                    (self.unreachable(what, &error), None)
                }
                Err(_) => (self.silent(what), None),
            };
            attempt += 1;
            if attempt >= attempts {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "asked again");
            pause(attempt, patience).await;
        }
    }

    /// Makes sure that an answer is one of `volvelle serve`, so that no other server's 404 is taken for a miss.
    pub fn understood(&self, what: &str, response: Response) -> Result<Response, RemoteError> {
        let status = response.status();
        let header = response.headers().get(PROTOCOL_HEADER);
        let protocol = header.and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        match protocol {
            Some(PROTOCOL) => Ok(response),
            Some(other) => Err(RemoteError::Format(format!(
                "{} speaks protocol {other}, and this volvelle speaks {PROTOCOL}; use the same volvelle on both sides",
                self.address()
            ))),
            // What stands before it, such as a proxy, may refuse as well.
            None if matches!(status.as_u16(), 401 | 403 | 413) || status.is_server_error() => Ok(response),
            None => Err(RemoteError::Format(format!(
                "{} answered {status} for {what} and is no `volvelle serve`",
                self.address()
            ))),
        }
    }

    /// Returns what a refusal means.
    pub async fn fault(&self, what: &str, response: Response) -> RemoteError {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let status = response.status();
        let said = self.json::<Refusal>(what, response, MOST_ERROR_BYTES).await;
        let why = said.map_or_else(|_| status.to_string(), |said| shown(&said.error));
        let at = format!("{what} at {}", self.address());
        match status {
            StatusCode::UNAUTHORIZED => RemoteError::Denied {
                what: at,
                hint: match self.token {
                    None => "put a token into VOLVELLE_TOKEN or VOLVELLE_TOKEN_FILE".to_owned(),
                    Some(_) => "the token in VOLVELLE_TOKEN is not known there, or its time is over".to_owned(),
                },
            },
            StatusCode::FORBIDDEN => RemoteError::Denied { what: at, hint: why },
            StatusCode::NOT_FOUND => RemoteError::Absent { what: what.to_owned() },
            StatusCode::INSUFFICIENT_STORAGE => RemoteError::Full { what: at },
            _ if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) => {
                RemoteError::Unreachable { what: at, why }
            }
            _ => RemoteError::Refused { what: at, why },
        }
    }

    /// Returns what lies at a path, asked for again if it breaks off; none where nothing does.
    pub async fn get_small(&self, what: &str, path: &str, limit: u64) -> Result<Option<Bytes>, RemoteError> {
        let mut attempt = 0;
        loop {
            let response = self.send(what, || self.request(Method::GET, path)).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(self.fault(what, response).await),
            }
            match self.body(what, response, limit).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error @ RemoteError::Unreachable { .. }) if attempt + 1 < ATTEMPTS => {
                    attempt += 1;
                    tracing::debug!(%error, attempt, "asked again");
                    pause(attempt, None).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the whole body of an answer.
    pub async fn body(&self, what: &str, mut response: Response, limit: u64) -> Result<Bytes, RemoteError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(what, &mut response).await? {
            all.extend_from_slice(&piece);
            if all.len() as u64 > limit {
                return Err(RemoteError::Damaged {
                    what: what.to_owned(),
                    why: format!("the answer is longer than {limit} bytes"),
                });
            }
        }
        Ok(all.freeze())
    }

    /// Returns the next piece of an answer; none at its end.
    pub async fn piece(&self, what: &str, response: &mut Response) -> Result<Option<Bytes>, RemoteError> {
        match tokio::time::timeout(self.timeout, response.chunk()).await {
            Ok(piece) => piece.map_err(|error| self.unreachable(what, &error)),
            Err(_) => Err(self.silent(what)),
        }
    }

    /// Returns an answer in JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        what: &str,
        response: Response,
        limit: u64,
    ) -> Result<T, RemoteError> {
        let body = self.body(what, response, limit).await?;
        serde_json::from_slice(&body).map_err(|error| RemoteError::Damaged {
            what: format!("the answer for {what}"),
            why: error.to_string(),
        })
    }

    pub fn silent(&self, what: &str) -> RemoteError {
        RemoteError::Unreachable {
            what: format!("{what} at {}", self.address()),
            why: format!("no answer within {} s", self.timeout.as_secs_f64()),
        }
    }

    pub fn unreachable(&self, what: &str, error: &reqwest::Error) -> RemoteError {
        // The outermost error says what was tried; why it failed is in the innermost.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        RemoteError::Unreachable {
            what: format!("{what} at {}", self.address()),
            why: shown(&cause.to_string()),
        }
    }
}

/// Waits longer from attempt to attempt, and never as long as somebody else who failed at the same moment.
pub(super) async fn pause(attempt: u32, asked: Option<Duration>) {
    let mut random = [0; 2];
    // Without randomness they only wait equally long.
    let _ = getrandom::fill(&mut random);
    let spread = 0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
    let wait = Duration::from_millis(100 << attempt.min(6)).mul_f64(spread);
    tokio::time::sleep(asked.map_or(wait, |asked| wait.max(asked)).min(MOST_PATIENCE)).await;
}

/// Returns an address that ends with a slash, and whether it is on this machine.
fn parse(text: &str) -> Result<(Url, bool), RemoteError> {
    let bad = |why: &str| RemoteError::Settings(format!("{text:?} is no address of a `volvelle serve`: {why}"));
    let mut url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        let why = "it has a user name or a password in it; put a token into VOLVELLE_TOKEN instead";
        return Err(RemoteError::Settings(format!(
            "the address of the remote is not good: {why}"
        )));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("it has to start with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a `?` or `#`"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    let is_local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    Ok((url, is_local))
}

fn secret(token: &str) -> Result<Secret, RemoteError> {
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut value =
        value.map_err(|_| RemoteError::Settings("the token has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(Secret(value))
}

/// Tells whether the same request may go well a little later.
pub(super) fn is_passing(response: &Response) -> bool {
    match response.status().as_u16() {
        // A server of ours says when it is only busy; a store that can't be written stays so for longer.
        503 => response.headers().contains_key(RETRY_AFTER) || !response.headers().contains_key(PROTOCOL_HEADER),
        status => matches!(status, 408 | 425 | 429 | 502 | 504),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns what somebody else said, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(url: &str, token: Option<&str>) -> Result<Wire, RemoteError> {
        Wire::new(&RemoteSettings::at(url), token.map(str::to_owned))
    }

    #[test]
    fn an_address_is_taken_with_or_without_a_slash_and_never_with_a_secret() {
        for url in ["http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            let wire = wire(url, None).expect("a good address");
            assert_eq!(
                (wire.base.as_str(), wire.address()),
                ("http://127.0.0.1:1/", "http://127.0.0.1:1")
            );
        }
        let behind = wire("https://h/volvelle", None);
        assert!(behind.is_ok_and(|wire| wire.base == "https://h/volvelle/"));
        for bad in ["ftp://h", "http://", "h:1", "http://h?x", "http://user:secret@h"] {
            let error = wire(bad, None).expect_err("no address").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let wire = wire("http://127.0.0.1:1", Some(" vlv_hidden\n")).expect("a good token");
        assert!(!format!("{wire:?}").contains("hidden"));
        assert!(super::secret("two\nlines").is_err());
    }
}
