//! Calls over HTTP: one at a time, tried again where that may help.

use std::error::Error as _;
use std::io::Read as _;
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::Duration;

use rand::Rng;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::EndpointError;
use super::config::{Limits, is_local};
use super::secret::Secret;
use crate::random;

/// A larger answer is no answer.
pub const MAX_BODY_BYTES: u64 = 64 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server may ask for more patience than a run should have.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How long to wait before a call is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Before the second try; doubled for each one after it.
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// Returns the time before try `attempt + 2`: exponential, with as much as half of it drawn, so that callers that
    /// failed together don't come back together.
    fn before_retry(&self, attempt: u32, place: u64) -> Duration {
        let whole = self
            .first
            .saturating_mul(2_u32.saturating_pow(attempt))
            .min(self.longest);
        let mut rng = random::stream(
            u64::from(std::process::id()),
            "retry",
            place.wrapping_mul(64) + u64::from(attempt),
        );
        whole.mul_f64(0.5 + rng.random::<f64>() / 2.0)
    }
}

/// A server with what calls to it need.
#[derive(Debug, Clone)]
pub struct Server {
    http: Client,
    /// As messages may show it.
    url: String,
    key: Option<Secret>,
    max_retries: u32,
    backoff: Backoff,
}

/// Why a try failed.
enum Fault {
    /// It may pass: what happened, and how long the server asks to wait.
    Passing(EndpointError, Option<Duration>),
    Final(EndpointError),
}

/// Whether the calls are over, because the work was stopped or has failed.
#[derive(Debug, Default)]
pub struct Calls {
    over: Mutex<bool>,
    changed: Condvar,
}

/// The calls are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl Calls {
    /// Ends all waiting.
    pub fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits, unless the calls are over or end meanwhile.
    ///
    /// # Errors
    /// They are.
    pub fn wait(&self, pause: Duration) -> Result<(), Cancelled> {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(over, pause, |over| !*over);
        let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *over { Err(Cancelled) } else { Ok(()) }
    }
}

impl Server {
    /// `url` is that of the interface, with its path.
    ///
    /// # Errors
    /// The key can't be sent, or there is no TLS.
    pub fn new(url: String, key: Option<Secret>, limits: &Limits, backoff: Backoff) -> Result<Self, EndpointError> {
        install_tls();
        let unusable = |message: String| EndpointError::Unreachable {
            url: url.clone(),
            message,
        };
        let parsed = Url::parse(&url).map_err(|error| unusable(error.to_string()))?;
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(limits.timeout())
            // Shorter than a server keeps a silent connection, which would be lost under a call otherwise.
            .pool_idle_timeout(Duration::from_secs(4))
            // A redirection would carry prompts, and perhaps the key, to somebody else.
            .redirect(reqwest::redirect::Policy::none());
        if is_local(&parsed) {
            builder = builder.no_proxy();
        }
        if parsed.scheme() == "http" {
            // Machines without certificates of authorities need none for this.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| unusable(chain(&error)))?;
        let server = Self {
            http,
            url,
            key,
            max_retries: limits.max_retries,
            backoff,
        };
        server.authorization()?;
        Ok(server)
    }

    /// Posts a body and returns what `read` makes of the response's; `place` tells calls apart.
    ///
    /// # Errors
    /// [`Cancelled`] where `calls` are over; inside, the fault of the last try.
    pub fn post<T>(
        &self,
        body: &Value,
        place: u64,
        calls: &Calls,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Result<T, EndpointError>, Cancelled> {
        let mut pause = Duration::ZERO;
        for attempt in 0.. {
            calls.wait(pause)?;
            match self.try_once(body, &read) {
                Ok(value) => return Ok(Ok(value)),
                Err(Fault::Final(error)) => return Ok(Err(error)),
                Err(Fault::Passing(error, _)) if attempt == self.max_retries => {
                    return Ok(Err(EndpointError::GivenUp {
                        tries: u64::from(attempt) + 1,
                        last: Box::new(error),
                    }));
                }
                Err(Fault::Passing(_, asked)) => {
                    pause = asked.unwrap_or_else(|| self.backoff.before_retry(attempt, place));
                }
            }
        }
        Err(Cancelled)
    }

    fn try_once<T>(&self, body: &Value, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Fault> {
        let mut request = self.http.post(&self.url).json(body);
        if let Some(value) = self.authorization().map_err(Fault::Final)? {
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().map_err(|error| {
            let fault = self.unreachable(&chain(&error));
            if error.is_builder() {
                Fault::Final(fault)
            } else {
                Fault::Passing(fault, None)
            }
        })?;
        let status = response.status();
        let asked = retry_after(&response);
        let text = self.text(response)?;
        if !status.is_success() {
            let error = EndpointError::Refused {
                url: self.url.clone(),
                status: status.as_u16(),
                message: self.message_in(&text),
            };
            return Err(if may_pass(status) {
                Fault::Passing(error, asked)
            } else {
                Fault::Final(error)
            });
        }
        read(&text).map_err(|message| {
            let error = EndpointError::Response {
                url: self.url.clone(),
                message: shorten(&self.redact(&format!("{message}: {text}"))),
            };
            Fault::Passing(error, None)
        })
    }

    fn text(&self, mut response: Response) -> Result<String, Fault> {
        let too_long = || {
            Fault::Final(EndpointError::Response {
                url: self.url.clone(),
                message: format!("it has more than {MAX_BODY_BYTES} bytes"),
            })
        };
        if response.content_length().is_some_and(|len| len > MAX_BODY_BYTES) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        let read = response.by_ref().take(MAX_BODY_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Fault::Passing(self.unreachable(&format!("the answer broke off: {error}")), None))?;
        if bytes.len() as u64 > MAX_BODY_BYTES {
            return Err(too_long());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, EndpointError> {
        let Some(key) = &self.key else { return Ok(None) };
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| EndpointError::Key)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn unreachable(&self, message: &str) -> EndpointError {
        EndpointError::Unreachable {
            url: self.url.clone(),
            message: self.redact(message),
        }
    }

    /// The sentence in an error's body, where the usual servers put it, else its beginning.
    fn message_in(&self, body: &str) -> String {
        let json: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let places = ["/error/message", "/message", "/error", "/detail"];
        let sentence = places.iter().find_map(|place| json.pointer(place)?.as_str());
        // After it was read: JSON can write the same text in other ways.
        shorten(&self.redact(sentence.unwrap_or(body)))
    }

    /// Returns a message without the key.
    fn redact(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.redact(text))
    }

    /// Returns a model's text without the key, unless that is one of those words that stand for "no key" and that a model
    /// may well write.
    pub fn redact_answer(&self, text: String) -> String {
        match &self.key {
            Some(key) if !key.may_be_a_word() => key.redact(&text),
            _ => text,
        }
    }
}

/// Chooses ring for all TLS of this process; has to be called before the first client is made.
fn install_tls() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // It fails only where somebody else in this process has chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Returns the seconds that a server asks to wait; its other form, a date, is taken for no word.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds: f64 = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::try_from_secs_f64(seconds).ok()?.min(MAX_RETRY_AFTER))
}

/// What an error says, with its causes and without the URL, which the message around it has.
fn chain(error: &reqwest::Error) -> String {
    let mut message = match error {
        error if error.is_timeout() => "no answer in time".to_owned(),
        error if error.is_connect() => "no connection".to_owned(),
        _ => "the call failed".to_owned(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}

/// The beginning of a text as one line.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
