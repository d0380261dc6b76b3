//! What a request is answered that can't be served: a status and a line of JSON, never a path of the machine.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::store::{AdmitError, StoreError};

/// An answer that says why not.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal {
            status,
            body: json!({"error": error.into()}),
            headers: Vec::new(),
        }
    }

    pub fn bad(error: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    pub fn absent() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "there is no such thing here")
    }

    /// Something that is busy now and will not be soon.
    pub fn busy(error: &str) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error).header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    pub fn full() -> Refusal {
        Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "there is no room left for this")
    }

    /// A caller who has not said who it is, or not rightly.
    pub fn unknown_caller(error: &str) -> Refusal {
        let challenge = HeaderValue::from_static("Bearer realm=\"volvelle\"");
        Refusal::new(StatusCode::UNAUTHORIZED, error).header(header::WWW_AUTHENTICATE, challenge)
    }

    pub fn read_only_token() -> Refusal {
        let challenge = HeaderValue::from_static("Bearer realm=\"volvelle\", error=\"insufficient_scope\"");
        Refusal::new(StatusCode::FORBIDDEN, "this token may read only").header(header::WWW_AUTHENTICATE, challenge)
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }

    /// Adds a member to what is answered.
    pub fn with(mut self, name: &str, value: Value) -> Refusal {
        self.body[name] = value;
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (self.status, kind, self.body.to_string()).into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Refusal::absent(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                tracing::warn!(%error, "the store is full");
                Refusal::full()
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "the store cannot be written");
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the store cannot be written just now")
            }
            _ => {
                tracing::warn!(%error, "the store failed");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed")
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match error {
            StoreError::Io { action, path, source } => {
                tracing::warn!(action, path = %path.display(), error = %source, "a file of the store");
                match source.kind() {
                    // What was asked for is looked for elsewhere; a file that goes meanwhile is no answer.
                    std::io::ErrorKind::NotFound => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed"),
                    _ => source.into(),
                }
            }
            StoreError::WrongBytes { .. } => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            StoreError::MissingBlob { .. } | StoreError::BadManifest { .. } => {
                Refusal::new(StatusCode::NOT_FOUND, error.to_string())
            }
            other => {
                tracing::warn!(error = %other, "the store failed");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed")
            }
        }
    }
}

impl From<AdmitError> for Refusal {
    fn from(error: AdmitError) -> Refusal {
        let text = error.to_string();
        match error {
            AdmitError::Store(error) => error.into(),
            AdmitError::Missing { missing } => Refusal::new(StatusCode::CONFLICT, text).with("missing", json!(missing)),
            _ => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text),
        }
    }
}
