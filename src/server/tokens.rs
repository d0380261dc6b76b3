//! Bearer tokens: who may read from a server and who may write to it.
//!
//! Only hashes of tokens are kept, in a file that is replaced as a whole and that its owner alone can read. A token is
//! 256 random bits, so that a plain keyed hash is enough and nothing has to be slowed down. It knows no HTTP.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::store::Timestamp;

const CONTEXT: &str = "volvelle 2026-11-24 bearer token of serve v1";

/// What every token starts with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "vlv_";

/// No token is longer; what is longer isn't hashed.
const MOST_BYTES: usize = 256;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Read,
    /// Reading as well.
    Write,
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// For people: who or what uses it.
    pub name: String,
    pub scope: Scope,
    /// BLAKE3 in key-derivation mode over the token.
    hash: Digest,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

impl Token {
    /// Returns whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Why the file of tokens can't be used, or a token not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is no file of tokens of this volvelle: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} can be written by others than its owner; `chmod 600` it", path.display())]
    Exposed { path: PathBuf },
    #[error("{0:?} is no name of a token: 1 to 64 letters, digits, `.`, `_` or `-`")]
    BadName(String),
    #[error("there is a token named `{0}` already; revoke it first, or take another name")]
    Exists(String),
    #[error("there is no token named `{0}`")]
    Unknown(String),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    tokens: Vec<Token>,
}

/// A file of tokens.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// Names a file; it need not exist.
    pub fn at(path: PathBuf) -> TokenFile {
        TokenFile { path }
    }

    /// Returns where the tokens of a store are kept, if nothing else is said.
    pub fn of_store(root: &Path) -> TokenFile {
        TokenFile::at(root.join("serve/tokens"))
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the tokens, expired ones as well; none where there is no file.
    pub fn read(&self) -> Result<Vec<Token>, TokenError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(self.failed("read"))?,
        };
        let mode = fs::metadata(&self.path).map_err(self.failed("read"))?.mode();
        if mode & 0o022 != 0 {
            return Err(TokenError::Exposed {
                path: self.path.clone(),
            });
        }
        let damaged = |why: String| TokenError::Damaged {
            path: self.path.clone(),
            why,
        };
        let content: Content = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if content.format != 1 {
            return Err(damaged(format!("format {}", content.format)));
        }
        Ok(content.tokens)
    }

    /// Makes a token and returns it: this is the only time that it can be seen.
    pub fn add(&self, name: &str, scope: Scope, lasts: Option<Duration>) -> Result<String, TokenError> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_good) {
            return Err(TokenError::BadName(name.to_owned()));
        }
        let _lock = self.lock()?;
        let mut tokens = self.read()?;
        if tokens.iter().any(|token| token.name == name) {
            return Err(TokenError::Exists(name.to_owned()));
        }
        let secret = new_secret().map_err(self.failed("make a token for"))?;
        let now = Timestamp::now();
        let millis = |lasts: Duration| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        tokens.push(Token {
            name: name.to_owned(),
            scope,
            hash: Digest(*hash(&secret).as_bytes()),
            created: now,
            // The last moment that a timestamp can be written for.
            expires: lasts.map(|lasts| Timestamp(now.0.saturating_add(millis(lasts)).min(253_402_300_799_999))),
        });
        self.write(tokens)?;
        Ok(secret)
    }

    /// Takes a token back; servers that run notice at their next request.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let _lock = self.lock()?;
        let mut tokens = self.read()?;
        let before = tokens.len();
        tokens.retain(|token| token.name != name);
        if tokens.len() == before {
            return Err(TokenError::Unknown(name.to_owned()));
        }
        self.write(tokens)
    }

    fn write(&self, tokens: Vec<Token>) -> Result<(), TokenError> {
        let content = Content { format: 1, tokens };
        let text = serde_json::to_vec_pretty(&content).map_err(|error| self.failed("write")(error.into()))?;
        let new = self.path.with_extension("new");
        let written = (|| {
            let mut options = File::options();
            options.create(true).truncate(true).write(true).mode(0o600);
            let mut file = options.open(&new)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(self.folder())?.sync_all()
        })();
        written.map_err(self.failed("write"))
    }

    /// Keeps other processes from changing the file as long as it is held.
    fn lock(&self) -> Result<File, TokenError> {
        fs::create_dir_all(self.folder()).map_err(self.failed("make the folder of"))?;
        let path = self.path.with_extension("lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(self.failed("lock"))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| self.failed("lock")(errno.into()))?;
        Ok(file)
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> TokenError {
        let path = self.path.clone();
        move |source| TokenError::Io {
            action,
            path: path.clone(),
            source,
        }
    }
}

/// Who made a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub name: Arc<str>,
    pub scope: Scope,
}

/// The tokens that a server accepts, read again whenever the file changes.
#[derive(Debug)]
pub(super) struct Accepted {
    file: TokenFile,
    known: RwLock<(Option<FileStamp>, Arc<Vec<Token>>)>,
}

type FileStamp = (u64, u64, i64, i64);

impl Accepted {
    pub fn new(file: TokenFile) -> Accepted {
        Accepted {
            file,
            known: RwLock::new((None, Arc::default())),
        }
    }

    /// Returns who a token belongs to; none for one that is unknown, revoked or expired.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        if token.len() > MOST_BYTES {
            return None;
        }
        let (hash, now) = (hash(token), Timestamp::now());
        let mut found = None;
        for token in self.current().iter() {
            // The comparison of `blake3::Hash` takes the same time for all, and all are compared.
            if blake3::Hash::from_bytes(token.hash.0) == hash && !token.is_expired(now) {
                found = Some(Caller {
                    name: Arc::from(token.name.as_str()),
                    scope: token.scope,
                });
            }
        }
        found
    }

    fn current(&self) -> Arc<Vec<Token>> {
        let stamp = fs::metadata(&self.file.path)
            .ok()
            .map(|found| (found.ino(), found.len(), found.ctime(), found.ctime_nsec()));
        let unchanged = self
            .known
            .read()
            .ok()
            .filter(|known| known.0.is_some() && known.0 == stamp);
        if let Some(known) = unchanged {
            return Arc::clone(&known.1);
        }
        let tokens = self.file.read().unwrap_or_else(|error| {
            // What can't be read lets nobody in.
            tracing::warn!(%error, "nobody is let in");
            Vec::new()
        });
        let tokens = Arc::new(tokens);
        if let Ok(mut known) = self.known.write() {
            *known = (stamp, Arc::clone(&tokens));
        }
        tokens
    }
}

/// Returns a text of 256 random bits that starts with a prefix.
fn new_secret() -> io::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{PREFIX}{}", blake3::Hash::from_bytes(random).to_hex()))
}

fn hash(token: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(CONTEXT, token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tested = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_token_opens_until_it_is_revoked_or_expired_and_is_kept_nowhere() -> Tested {
        let folder = tempfile::tempdir()?;
        let file = TokenFile::of_store(folder.path());
        let accepted = Accepted::new(file.clone());
        assert_eq!(accepted.caller("vlv_x"), None);
        let reader = file.add("ci", Scope::Read, None)?;
        let writer = file.add("ada", Scope::Write, Some(Duration::from_secs(3600)))?;
        let late = file.add("late", Scope::Write, Some(Duration::ZERO))?;
        assert_eq!(accepted.caller(&reader).map(|caller| caller.scope), Some(Scope::Read));
        assert_eq!(accepted.caller(&writer).map(|caller| caller.scope), Some(Scope::Write));
        assert_eq!(accepted.caller(&late), None);
        assert_eq!(accepted.caller(&reader[..reader.len() - 1]), None);
        assert!(matches!(file.add("ci", Scope::Write, None), Err(TokenError::Exists(_))));
        assert!(matches!(
            file.add("../x", Scope::Write, None),
            Err(TokenError::BadName(_))
        ));
        let text = fs::read_to_string(file.path())?;
        assert!(!text.contains(&reader[PREFIX.len()..]) && !text.contains(&writer[PREFIX.len()..]));
        assert_eq!(fs::metadata(file.path())?.mode() & 0o777, 0o600);
        file.revoke("ci")?;
        assert_eq!(accepted.caller(&reader), None);
        assert!(matches!(file.revoke("ci"), Err(TokenError::Unknown(_))));
        Ok(())
    }

    #[test]
    fn a_file_that_others_write_or_that_is_damaged_lets_nobody_in() -> Tested {
        let folder = tempfile::tempdir()?;
        let file = TokenFile::of_store(folder.path());
        let accepted = Accepted::new(file.clone());
        let token = file.add("ci", Scope::Read, None)?;
        assert!(accepted.caller(&token).is_some());
        fs::set_permissions(file.path(), Permissions::from_mode(0o666))?;
        assert!(matches!(file.read(), Err(TokenError::Exposed { .. })));
        fs::set_permissions(file.path(), Permissions::from_mode(0o600))?;
        fs::write(file.path(), "{}")?;
        assert!(matches!(file.read(), Err(TokenError::Damaged { .. })));
        assert_eq!(accepted.caller(&token), None);
        Ok(())
    }
}
