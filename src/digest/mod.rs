//! Digests and keys: the 32-byte BLAKE3 names that everything in the engine is known by.
//!
//! Owns the [`Digest`] type, the two key newtypes, and the one way in which a JSON value becomes a key: its canonical
//! text under a domain tag. It doesn't know what a value means, so nothing here mentions nodes, stages or artifacts.
//! The text that is hashed is the text that is stored and shown, so a key can always be explained.

mod bytes;
pub mod canonical;
mod diff;
mod files;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

pub use bytes::read_digest;
pub use canonical::CanonicalError;
pub use diff::{Change, diff, leaves};
pub use files::{DigestCache, FileError, FileStat, FolderStat, file_digest, path_digest};

/// Names bytes by their BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the digest of a value: BLAKE3 of the line `tag` followed by the canonical text.
    ///
    /// The tag keeps digests of different purposes apart, even of equal values.
    ///
    /// # Errors
    /// The value has no canonical text.
    pub fn of_value(tag: &str, value: &Value) -> Result<Digest, CanonicalError> {
        let text = canonical::to_string(value)?;
        Ok(Digest::of_text(tag, &text))
    }

    /// Returns the digest of a canonical text that is already at hand; see [`Digest::of_value`].
    pub fn of_text(tag: &str, text: &str) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(tag.as_bytes()).update(b"\n").update(text.as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// Returns the digest of a plugin's code, which is that of the digests of its files by name.
    ///
    /// # Errors
    /// A name of a file has no canonical form.
    pub fn of_code(files: &Value) -> Result<Digest, CanonicalError> {
        Digest::of_value("volvelle code v1", files)
    }

    /// Appends the 64 hexadecimal digits to a text.
    pub fn push_to(&self, out: &mut String) {
        out.push_str(blake3::Hash::from_bytes(self.0).to_hex().as_str());
    }

    /// Returns the first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a digest of 64 lower-case hexadecimal digits: {text:?}")]
pub struct ParseDigestError {
    /// What was found.
    pub text: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        // One spelling per digest: a digest is also a file name.
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match blake3::Hash::from_hex(text) {
            Ok(hash) if lower => Ok(Digest(*hash.as_bytes())),
            _ => Err(ParseDigestError {
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

macro_rules! key_newtype {
    ($(#[$doc:meta])* $name:ident $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// Returns the key of a preimage, which is a canonical text.
            pub fn of_text(preimage: &str) -> $name {
                $name(Digest::of_text($tag, preimage))
            }

            /// Returns the key of a preimage that was read back.
            ///
            /// # Errors
            /// The value has no canonical text, so it is no preimage.
            pub fn of_preimage(preimage: &Value) -> Result<$name, CanonicalError> {
                Digest::of_value($tag, preimage).map($name)
            }

            /// Returns the first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<$name, ParseDigestError> {
                text.parse().map($name)
            }
        }
    };
}

key_newtype! {
    /// Names a computation by kind, version, parameters and the recipe keys of its inputs: known before anything runs.
    RecipeKey "volvelle recipe v1"
}
key_newtype! {
    /// Names a computation by kind, version, parameters and the digests of its input artifacts.
    ContentKey "volvelle content v1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text_and_json() {
        let digest = Digest::of(b"volvelle");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        let json = serde_json::to_string(&RecipeKey(digest)).expect("a digest is a string");
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(
            serde_json::from_str::<RecipeKey>(&json).expect("it was just written"),
            RecipeKey(digest)
        );
        assert_eq!(digest.short().len(), 12);
    }

    #[test]
    fn only_64_lower_case_digits_are_a_digest() {
        let text = Digest::of(b"").to_string();
        for wrong in [
            "",
            "abc",
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}0"),
            &format!("g{}", &text[1..]),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tag_keeps_equal_values_apart() {
        let value = serde_json::json!({"a": 1});
        assert_ne!(Digest::of_value("a v1", &value), Digest::of_value("b v1", &value));
        assert_eq!(Digest::of_value("a v1", &value), Ok(Digest::of(b"a v1\n{\"a\":1}")));
    }
}
