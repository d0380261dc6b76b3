//! Signatures of records: who vouches for what an execution left.
//!
//! A record file may have lines after its check line, `signed KEY SIGNATURE`, each an ed25519 signature of the check,
//! which covers keys, preimages and the digests of all outputs: so neither a blob nor a record can be put under another
//! key. What a signature is worth is decided by a [`Trust`]. It knows no files of keys; those belong to `cli`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// Keeps signatures of records apart from whatever else a key may sign one day.
const CONTEXT: &str = "volvelle record v1\n";
const PREFIX: &str = "ed25519:";
const LINE: &str = "signed ";

/// Names who signs, by a public key; written `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Returns the beginning of the key, for people.
    pub fn short(&self) -> String {
        format!("{PREFIX}{}", Digest(self.0).short())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", Digest(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Text that is no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no public key, which is `ed25519:` and 64 hexadecimal digits as `volvelle key show` prints it")]
pub struct BadPublicKey(String);

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<PublicKey, BadPublicKey> {
        let bad = || BadPublicKey(text.to_owned());
        let digits = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        let key = PublicKey(digits.parse::<Digest>().map_err(|_| bad())?.0);
        // Not every 32 bytes are a point of the curve.
        ed25519_dalek::VerifyingKey::from_bytes(&key.0).map_err(|_| bad())?;
        Ok(key)
    }
}

/// A private key that signs the records of this user. It shows itself to nobody.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().short())
    }
}

impl SigningKey {
    /// Returns the key that 32 secret bytes stand for.
    pub fn from_secret(secret: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// Returns what others need to check our signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Returns the line that signs the check of a record.
    pub(super) fn line(&self, check: Digest) -> String {
        let signature = self.0.sign(&message(check)).to_bytes();
        let mut halves = [[0; 32]; 2];
        halves[0].copy_from_slice(&signature[..32]);
        halves[1].copy_from_slice(&signature[32..]);
        let [first, second] = halves.map(Digest);
        format!("{LINE}{} {first}{second}\n", self.public())
    }
}

fn message(check: Digest) -> Vec<u8> {
    format!("{CONTEXT}{check}").into_bytes()
}

/// Returns who signed a check, from the lines after it; none if a line is no signature or a signature is wrong.
pub(super) fn signers(check: Digest, lines: &str) -> Option<Vec<PublicKey>> {
    lines.lines().map(|line| signer(check, line)).collect()
}

fn signer(check: Digest, line: &str) -> Option<PublicKey> {
    let (key, signature) = line.strip_prefix(LINE)?.split_once(' ')?;
    let key: PublicKey = key.parse().ok()?;
    let (first, second) = signature.split_at_checked(64)?;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&first.parse::<Digest>().ok()?.0);
    bytes[32..].copy_from_slice(&second.parse::<Digest>().ok()?.0);
    let verifying = ed25519_dalek::VerifyingKey::from_bytes(&key.0).ok()?;
    let signature = ed25519_dalek::Signature::from_bytes(&bytes);
    verifying
        .verify_strict(&message(check), &signature)
        .is_ok()
        .then_some(key)
}

/// Whose records count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Everyone's who can write into the cache.
    #[default]
    Anyone,
    /// Those that one of these keys signed; each with the name that the project gives it.
    Signers(BTreeMap<PublicKey, String>),
}

impl Trust {
    /// Returns whether a record counts that this key signed, or nobody.
    pub fn accepts(&self, signer: Option<PublicKey>) -> bool {
        match self {
            Trust::Anyone => true,
            Trust::Signers(keys) => signer.is_some_and(|signer| keys.contains_key(&signer)),
        }
    }

    /// Returns, of those who signed a record, the one that it counts by: a trusted one before any other.
    pub(super) fn best(&self, signers: &[PublicKey]) -> Option<PublicKey> {
        let trusted = signers.iter().find(|signer| self.accepts(Some(**signer)));
        trusted.or(signers.first()).copied()
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_its_check_only() {
        let (ada, eve) = (SigningKey::from_secret(&[1; 32]), SigningKey::from_secret(&[2; 32]));
        let check = Digest::of(b"record");
        let line = ada.line(check);
        assert_eq!(signers(check, &line), Some(vec![ada.public()]));
        assert_eq!(signers(Digest::of(b"another"), &line), None);
        let claimed = line.replace(&ada.public().to_string(), &eve.public().to_string());
        assert_eq!(signers(check, &claimed), None, "a signature under a foreign name");
        assert_eq!(signers(check, ""), Some(Vec::new()));
        assert_eq!(
            signers(check, &format!("{line}{}", eve.line(check))),
            Some(vec![ada.public(), eve.public()])
        );
    }

    #[test]
    fn a_public_key_survives_its_text_and_a_private_one_is_not_shown() {
        let key = SigningKey::from_secret(&[7; 32]);
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        let is_refused = |y: u8| {
            format!("ed25519:{y:02x}{}", "0".repeat(62))
                .parse::<PublicKey>()
                .is_err()
        };
        assert!(
            (2..32).any(is_refused),
            "about half of all bytes are no point of the curve"
        );
        assert!(!format!("{key:?}").contains("0707"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in "\\PC{0,220}") {
            let _ = signers(Digest::of(b""), &format!("{LINE}{line}"));
        }
    }
}
