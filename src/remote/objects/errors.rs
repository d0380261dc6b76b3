//! What a fault of an object store means to us, in words that help: what was tried, and what to look at.
//!
//! Nothing of a request but its path gets into a message: an address may carry a signature.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;

use super::address::Kind;
use crate::remote::RemoteError;

/// What messages need to know.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) address: Arc<str>,
    /// Where the requests go, if that is not what the address says anyway.
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) kind: Kind,
}

impl Context {
    pub(super) fn unreachable(&self, why: &str) -> RemoteError {
        let what = match &self.endpoint {
            Some(endpoint) => format!("{} at {endpoint}", self.address),
            None => self.address.to_string(),
        };
        RemoteError::Unreachable {
            what,
            why: why.to_owned(),
        }
    }

    pub(super) fn damaged(&self, path: &Path, why: &str) -> RemoteError {
        RemoteError::Damaged {
            what: format!("{} in {}", path, self.address),
            why: why.to_owned(),
        }
    }

    pub(super) fn absent(&self, path: &Path) -> RemoteError {
        RemoteError::Absent {
            what: format!("{} of {}", path, self.address),
        }
    }

    pub(super) fn no_container(&self) -> RemoteError {
        RemoteError::Settings(format!("{}: there is no such {}", self.address, self.kind.container()))
    }

    fn denied(&self, why: &str) -> RemoteError {
        RemoteError::Denied {
            what: format!("{}{why}", self.address),
            hint: self.kind.hint().to_owned(),
        }
    }

    /// Returns what a fault means.
    pub(super) fn fault(&self, path: &Path, error: object_store::Error) -> RemoteError {
        let text = error.to_string();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let code = server_code(&text);
        let full = || RemoteError::Full {
            what: self.address.to_string(),
        };
        if says(&[
            "NoSuchBucket",
            "ContainerNotFound",
            "The specified bucket does not exist",
        ]) {
            return RemoteError::Settings(format!("{}: there is no such {}", self.address, self.kind.container()));
        }
        if matches!(status(&text), Some(507 | 413)) || says(&FULL) {
            return full();
        }
        match io_kind(&error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) => {
                return full();
            }
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => return self.denied(""),
            _ => {}
        }
        match &error {
            object_store::Error::NotFound { .. } => self.absent(path),
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                if code.is_some_and(|code| code == "RequestTimeTooSkewed") {
                    return RemoteError::Denied {
                        what: self.address.to_string(),
                        hint: "the clock of this machine is wrong".to_owned(),
                    };
                }
                self.denied(&code.map(|code| format!(" ({code})")).unwrap_or_default())
            }
            _ if says(&[
                "InvalidAccessKeyId",
                "InvalidToken",
                "ExpiredToken",
                "MissingAuthenticationToken",
            ]) =>
            {
                self.denied(&code.map(|code| format!(" ({code})")).unwrap_or_default())
            }
            _ if says(&[
                "redirect without LOCATION",
                "PermanentRedirect",
                "AuthorizationHeaderMalformed",
            ]) =>
            {
                RemoteError::Settings(format!(
                    "{}: the bucket is in another region; set `region`",
                    self.address
                ))
            }
            _ if says(&NO_CREDENTIALS) => self.denied(": no credentials were found"),
            _ => self.unreachable(&why(&error, &text, code)),
        }
    }
}

const FULL: [&str; 8] = [
    "QuotaExceeded",
    "InsufficientStorage",
    "StorageFull",
    "DiskFull",
    "StorageQuotaExceeded",
    "no space left",
    "No space left",
    "no writable volumes",
];

/// What object_store says when it got to the end of the usual chain.
const NO_CREDENTIALS: [&str; 5] = [
    "latest/api/token",
    "latest/meta-data",
    "computeMetadata",
    "metadata/identity",
    "Missing AccessKeyId",
];

/// Says in a few words why there was no useful answer.
fn why(error: &object_store::Error, text: &str, code: Option<&str>) -> String {
    if let Some(status) = status(text) {
        return match code {
            Some(code) => format!("the server answered {status} ({code})"),
            None => format!("the server answered {status}"),
        };
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = None;
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            match http.kind() {
                HttpErrorKind::Timeout => return "no answer in time".to_owned(),
                HttpErrorKind::Interrupted => return "the connection broke".to_owned(),
                _ => {}
            }
        }
        source = error.source();
        last = Some(error);
    }
    // The innermost reason is the system's: "Connection refused", and has no address in it.
    let reason = last.map(ToString::to_string).unwrap_or_default();
    let reason = reason.split(" (os error").next().unwrap_or_default();
    match reason.contains("://") {
        true => "the request failed".to_owned(),
        false => reason.chars().take(200).collect(),
    }
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

/// Returns the HTTP status in a message of object_store, which keeps it private.
fn status(text: &str) -> Option<u16> {
    let digits = text.split_once("status code: ")?.1.get(..3)?;
    digits.parse().ok()
}

/// Returns the `<Code>` of an answer in XML.
fn server_code(text: &str) -> Option<&str> {
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    (code.len() < 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}
