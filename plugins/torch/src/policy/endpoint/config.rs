//! `endpoint.json`: where a model is served. It names secrets and never holds one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::EndpointError;
use super::secret::Secret;
use crate::formats::{FormatError, read_json};

/// The file that makes a `model` artifact an endpoint.
pub const ENDPOINT_FILE: &str = "endpoint.json";

/// The environment variable with the hosts that a key may be sent to because an `endpoint.json` says so, separated by commas.
pub(super) const KEY_HOSTS: &str = "VOLVELLE_KEY_HOSTS";

/// A model behind an OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    pub version: u32,
    /// The name that the server knows the model by.
    pub model: String,
    pub api: Api,
    /// Up to and without `/chat/completions`, such as `http://localhost:8000/v1`.
    pub base_url: Option<String>,
    /// The environment variable that has the URL instead, where the same model is served at changing places.
    pub base_url_env: Option<String>,
    /// The environment variable that has the key.
    pub api_key_env: Option<String>,
    /// Whether to ask for log-probabilities.
    pub logprobs: bool,
}

/// Which of the server's interfaces is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `/chat/completions`: the server writes the prompt. An answer that was begun is sent as the last message with
    /// `continue_final_message`, which vLLM and SGLang have. Where the server's chat template trims messages, the
    /// continuation begins with the white space that was trimmed, and a search by paragraphs needs `/completions`.
    Chat,
    /// `/completions`: the prompt is written here, by the chat template of the tokenizer beside `endpoint.json`.
    Completions,
}

/// How a server is used; nothing of it changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Limits {
    /// Calls in flight at once.
    pub max_concurrency: usize,
    /// Seconds that one call may take.
    pub request_timeout: f64,
    /// How often a call is tried again after a fault that may pass.
    pub max_retries: u32,
}

impl Limits {
    /// Returns the time that one call may take; a number that is no duration is for ever.
    pub(super) fn timeout(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.request_timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero())
    }
}

impl EndpointConfig {
    /// The version of `endpoint.json`.
    pub const VERSION: u32 = 1;

    /// Reads `endpoint.json` in a folder.
    ///
    /// # Errors
    /// It is missing, broken, or of another version, or [`EndpointConfig::check`] refuses it.
    pub fn read(dir: &Path) -> Result<Self, EndpointError> {
        let path = dir.join(ENDPOINT_FILE);
        let config: Self = read_json(&path, "endpoint").map_err(|error| match error {
            FormatError::Line { source, .. } => EndpointError::Config {
                path: path.clone(),
                message: source.to_string(),
            },
            other => EndpointError::Config {
                path: path.clone(),
                message: other.to_string(),
            },
        })?;
        config
            .check()
            .map_err(|message| EndpointError::Config { path, message })?;
        Ok(config)
    }

    /// Returns what is wrong with the values.
    ///
    /// # Errors
    /// A sentence about the first value that can't be.
    pub fn check(&self) -> Result<(), String> {
        if self.version != Self::VERSION {
            return Err(format!("version {}, but only {} is known", self.version, Self::VERSION));
        }
        if self.model.is_empty() {
            return Err("model is empty; expected the name that the server knows it by".to_owned());
        }
        for (name, variable) in [("base_url_env", &self.base_url_env), ("api_key_env", &self.api_key_env)] {
            if let Some(variable) = variable
                && !is_variable(variable)
            {
                // What was given may be the secret itself.
                return Err(format!(
                    "{name} is not the name of an environment variable (letters, digits and _); the value itself \
                     belongs into that variable"
                ));
            }
        }
        match (&self.base_url, &self.base_url_env) {
            (Some(url), None) => check_url(url).map_err(|message| format!("base_url: {message}")),
            (None, Some(_)) => Ok(()),
            _ => Err("expected either base_url or base_url_env".to_owned()),
        }
    }

    /// Returns whether a key would be sent where others can read it.
    pub fn exposes_key(&self) -> bool {
        let is_plain = |url: &String| Url::parse(url).is_ok_and(|url| url.scheme() == "http" && !is_local(&url));
        self.api_key_env.is_some() && self.base_url.as_ref().is_some_and(is_plain)
    }

    /// Returns the URL without a slash at its end.
    ///
    /// # Errors
    /// The environment variable is not set, or has no URL.
    pub(super) fn url(&self) -> Result<String, EndpointError> {
        let url = match (&self.base_url, &self.base_url_env) {
            (Some(url), _) => url.clone(),
            (None, Some(name)) => {
                let url = variable(name, "base_url_env")?;
                check_url(&url).map_err(|message| EndpointError::Variable {
                    name: name.clone(),
                    message,
                })?;
                url
            }
            (None, None) => String::new(),
        };
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// Returns the key, if one is named.
    ///
    /// # Errors
    /// The environment variable is not set, or [`KEY_HOSTS`] lacks the host that would get it.
    pub(super) fn key(&self) -> Result<Option<Secret>, EndpointError> {
        self.key_for(&std::env::var(KEY_HOSTS).unwrap_or_default())
    }

    /// As [`EndpointConfig::key`], with the value of [`KEY_HOSTS`].
    ///
    /// The file may come from elsewhere, and would else choose any variable of whoever runs it and any place to send it to.
    pub(super) fn key_for(&self, key_hosts: &str) -> Result<Option<Secret>, EndpointError> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        let is_trusted = |host: &String| {
            key_hosts
                .split(',')
                .any(|other| other.trim().eq_ignore_ascii_case(host))
        };
        match self.named_host().filter(|host| !is_trusted(host)) {
            Some(host) => Err(EndpointError::KeyHost {
                name: name.clone(),
                host,
            }),
            None => variable(name, "api_key_env").map(Secret::new).map(Some),
        }
    }

    /// The host that the file itself names, if it is another machine.
    fn named_host(&self) -> Option<String> {
        let url = Url::parse(self.base_url.as_ref()?).ok()?;
        if is_local(&url) {
            None
        } else {
            url.host_str().map(str::to_owned)
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn variable(name: &str, setting: &str) -> Result<String, EndpointError> {
    match std::env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
        _ => Err(EndpointError::Variable {
            name: name.to_owned(),
            message: format!("not set, but {setting} names it"),
        }),
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err("expected a URL that begins with http:// or https://".to_owned());
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("it has a user or a password; a key belongs into the variable that api_key_env names".to_owned());
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("expected a URL without ? and #".to_owned());
    }
    Ok(())
}

/// Whether a URL leads to this machine.
pub(super) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Files of a tokenizer, which write prompts for `/completions`.
pub fn tokenizer_files(dir: &Path) -> Vec<PathBuf> {
    const NAMES: [&str; 6] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
        "chat_templates",
    ];
    NAMES
        .iter()
        .map(|name| dir.join(name))
        .filter(|path| path.exists())
        .collect()
}
