//! The journal of records: which recipe keys were written, in order, for whoever keeps something about all records.
//!
//! The index, the snapshot and `gc` remember how far they have read and look only at what came since. A position counts
//! all bytes that were ever written, so the beginning can be dropped: the first line says how much is gone. Who is
//! behind that reads all records instead, which is slower and never wrong.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{IoContext, StoreError};
use super::{Store, durable};
use crate::digest::RecipeKey;

/// The beginning of the first line; a journal of an earlier version has none and begins with position 0.
const BASE: &str = "base ";

/// The length of the first line, which has room for any position so that it can be overwritten in place.
const HEADER: usize = BASE.len() + 20 + 1;

/// The journal as it was when it was read.
#[derive(Debug, Default)]
pub(super) struct Journal {
    lines: Vec<u8>,
    base: u64,
}

impl Journal {
    fn parse(mut bytes: Vec<u8>) -> Journal {
        let base = std::str::from_utf8(bytes.get(..HEADER).unwrap_or_default())
            .ok()
            .and_then(|header| header.strip_prefix(BASE)?.trim_end().parse().ok());
        let Some(base) = base else {
            return Journal { lines: bytes, base: 0 };
        };
        Journal {
            lines: bytes.split_off(HEADER),
            base,
        }
    }

    /// Returns whether the last line has its end.
    pub fn is_whole(&self) -> bool {
        self.lines.last().is_none_or(|&byte| byte == b'\n')
    }

    /// Returns whether its beginning was dropped.
    pub fn is_shortened(&self) -> bool {
        self.base > 0
    }

    /// Returns all keys that are in it.
    pub fn keys(&self) -> impl Iterator<Item = RecipeKey> + '_ {
        self.since(self.base).into_iter().flatten()
    }

    /// Returns the position after the last line.
    pub fn end(&self) -> u64 {
        self.base + self.lines.len() as u64
    }

    /// Returns the keys that were written after a position; none if that part is not there any more.
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = RecipeKey> + '_> {
        let unread = self
            .lines
            .get(usize::try_from(position.checked_sub(self.base)?).ok()?..)?;
        let line = |line: &[u8]| std::str::from_utf8(line).ok()?.parse().ok();
        Some(unread.split(|&byte| byte == b'\n').filter_map(line))
    }
}

impl Store {
    fn journal_path(&self) -> PathBuf {
        self.root().join("records/journal")
    }

    /// Reads the journal; an empty one where there is none.
    pub(super) fn journal(&self) -> Journal {
        Journal::parse(fs::read(self.journal_path()).unwrap_or_default())
    }

    /// Adds a line, which is a key.
    ///
    /// Where that fails, all that was written before is dropped, which needs no room on the disk: `gc` relies on hearing
    /// of every record, or of not having heard of one.
    pub(super) fn append_journal(&self, line: impl std::fmt::Display) {
        let path = self.journal_path();
        let mut options = File::options();
        let appended = options.create(true).append(true).open(&path).and_then(|mut file| {
            let is_empty = file.metadata()?.len() == 0;
            let header = if is_empty { header(0) } else { String::new() };
            file.write_all(format!("{header}{line}\n").as_bytes())
        });
        if let Err(error) = appended {
            tracing::warn!(path = %path.display(), %error, "the journal of records could not be written");
            if let Err(error) = self.drop_journal() {
                tracing::warn!(path = %path.display(), %error, "nor could it be emptied");
            }
        }
    }

    fn drop_journal(&self) -> std::io::Result<()> {
        let end = self.journal().end();
        let file = File::options().write(true).open(self.journal_path())?;
        // One more than anybody can have read, so that all notice.
        file.write_all_at(header(end + 1).as_bytes(), 0)?;
        file.set_len(HEADER as u64)
    }

    /// Drops what lies before a position. Nobody else may write meanwhile.
    pub(super) fn shorten_journal(&self, position: u64) -> Result<(), StoreError> {
        let journal = self.journal();
        let from = usize::try_from(position.saturating_sub(journal.base)).unwrap_or(usize::MAX);
        let kept = journal.lines.get(from..).unwrap_or_default();
        let base = journal.end() - kept.len() as u64;
        let bytes = [header(base).as_bytes(), kept].concat();
        let temporary = durable::unique_path(&self.tmp());
        fs::write(&temporary, bytes).at("write", &temporary)?;
        fs::rename(&temporary, self.journal_path()).at("rename into", &self.journal_path())
    }

    /// Shortens a journal of more than so many bytes to what came after a position, unless the users of the store leave
    /// no room for that.
    pub(super) fn shorten_long_journal(&self, position: u64, max_bytes: u64, patience: Duration) {
        if fs::metadata(self.journal_path()).is_ok_and(|found| found.len() <= max_bytes) {
            return;
        }
        let shortened = match self.sweep_guard(patience) {
            Ok(Some(_guard)) => self.shorten_journal(position),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = shortened {
            tracing::debug!(%error, "the journal of records could not be shortened");
        }
    }
}

fn header(base: u64) -> String {
    format!("{BASE}{base:<20}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn key(number: u8) -> RecipeKey {
        RecipeKey(Digest([number; 32]))
    }

    fn since(store: &Store, position: u64) -> Option<Vec<RecipeKey>> {
        store.journal().since(position).map(Iterator::collect)
    }

    #[test]
    fn positions_outlive_shortening() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        assert_eq!(since(&store, 0), Some(vec![]));
        store.append_journal(key(1));
        let first = store.journal().end();
        store.append_journal(key(2));
        assert_eq!(since(&store, first), Some(vec![key(2)]));
        store.shorten_journal(first)?;
        assert_eq!(since(&store, first), Some(vec![key(2)]));
        assert_eq!(since(&store, 0), None, "who is behind has to read everything");
        let end = store.journal().end();
        store.shorten_journal(end)?;
        store.append_journal(key(3));
        assert_eq!(since(&store, end), Some(vec![key(3)]));
        store.drop_journal()?;
        store.append_journal(key(4));
        store.append_journal(key(5));
        assert_eq!(since(&store, store.journal().end()), Some(vec![]));
        assert_eq!(since(&store, end), None, "what was dropped is noticed by all");
        Ok(())
    }

    #[test]
    fn a_journal_of_an_earlier_version_begins_at_0() {
        let journal = Journal::parse(format!("{}\n{}\n", key(1), key(2)).into_bytes());
        assert_eq!(journal.since(65).map(Iterator::collect::<Vec<_>>), Some(vec![key(2)]));
    }
}
