//! How often a stage failed by itself since something was last saved.
//!
//! A stage that fails at step 500 fails there again when it is continued from step 480, and soon: that is cheap, and
//! right while the reason is its own (a learning rate that is too high) or the world's (a full GPU). But if the reason
//! lies in what was saved, continuing would fail for ever. So after [`LIMIT`] failures the next attempt starts over. A
//! worker that is killed has not failed by itself and is not counted.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Unusable, remove, write_file};

/// Failures after which what was saved is no longer continued.
const LIMIT: u32 = 2;

/// The count, and what it is about.
#[derive(Debug)]
pub struct Failures {
    path: PathBuf,
    counted: Counted,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    /// The checkpoint that the failed attempts began with, or saved last; empty where there was none.
    digest: String,
    count: u32,
}

impl Failures {
    /// Reads the count; one that can't be read is none.
    pub fn read(folder: &Path) -> Self {
        let path = folder.join("failures.json");
        let counted = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { path, counted }
    }

    /// Returns how many failures speak against what has this digest, if that is too many.
    pub fn against(&self, digest: &str) -> Option<u32> {
        (self.counted.digest == digest && self.counted.count >= LIMIT).then_some(self.counted.count)
    }

    /// Counts one more.
    ///
    /// # Errors
    /// The count can't be written.
    pub fn add(&mut self, digest: &str) -> Result<(), Unusable> {
        if self.counted.digest != digest {
            self.counted = Counted {
                digest: digest.to_owned(),
                count: 0,
            };
        }
        self.counted.count += 1;
        let text = serde_json::to_string(&self.counted).expect("text and a number are JSON");
        write_file(&self.path, &text)
    }

    /// Forgets them all: something was saved since.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn clear(&mut self) -> Result<(), Unusable> {
        if self.counted.count == 0 {
            return Ok(());
        }
        self.counted = Counted::default();
        remove(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_failure_after_the_same_save_is_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Failures::read(dir.path());
        assert_eq!(read().against("a"), None);
        read().add("a").unwrap();
        assert_eq!(read().against("a"), None);
        read().add("a").unwrap();
        assert_eq!((read().against("a"), read().against("b")), (Some(2), None));
        read().add("b").unwrap();
        assert_eq!((read().against("a"), read().against("b")), (None, None));
        read().clear().unwrap();
        std::fs::write(dir.path().join("failures.json"), "{").unwrap();
        assert_eq!(read().against("b"), None, "what can't be read is none");
    }
}
