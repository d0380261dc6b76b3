//! A key that can be sent and not be shown.

use std::fmt;

/// A secret; neither printing nor debugging shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What stands where a secret was.
const REDACTED: &str = "[redacted]";

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the secret itself, for the one header that carries it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a text may have the same characters by chance: `EMPTY` and its like are given to servers that ask for no key.
    pub(super) fn may_be_a_word(&self) -> bool {
        const SHORTEST_KEY: usize = 16;
        self.0.len() < SHORTEST_KEY
    }

    /// Returns a text without the secret: a server may send back what it got.
    pub fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            text.to_owned()
        } else {
            text.replace(&self.0, REDACTED)
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}
