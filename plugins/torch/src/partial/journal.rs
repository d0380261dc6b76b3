//! A journal: what was finished since a checkpoint (or since the beginning), one line each.
//!
//! Every line checks itself. The end of a line that was being written when its attempt was killed, or a line that was
//! damaged, costs what it held and no more.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FORMAT, Owner, Setup, Unusable, checked, io, write_file};

/// A journal that lines can be added to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub struct Content<T> {
    pub setup: Setup,
    pub values: Vec<T>,
    /// Whole lines that were not as they had been written.
    pub num_damaged: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    owner: Owner,
    setup: Setup,
    /// The digest of the checkpoint that it goes on from; empty for the beginning.
    base: String,
}

/// The journal of what is finished for good. It goes on from nothing, and no checkpoint ends it.
pub(super) const DONE: &str = "done.lines";

/// Returns where the journal since a step lies.
fn path_of(folder: &Path, step: usize) -> PathBuf {
    folder.join(format!("journal-{step}.jsonl"))
}

impl Journal {
    /// Starts an empty journal in place of any other since this step.
    ///
    /// # Errors
    /// It can't be written.
    pub fn create(folder: &Path, owner: &Owner, setup: &Setup, step: usize, base: &str) -> Result<Self, Unusable> {
        Self::create_at(folder, path_of(folder, step), owner, setup, base)
    }

    /// Starts an empty journal of what is finished for good, in place of any other.
    ///
    /// # Errors
    /// It can't be written.
    pub fn create_done(folder: &Path, owner: &Owner, setup: &Setup) -> Result<Self, Unusable> {
        Self::create_at(folder, folder.join(DONE), owner, setup, "")
    }

    /// Removes the journal of what is finished for good, if there is one; where that fails, it is read again.
    pub fn remove_done(folder: &Path) {
        let _ = fs::remove_file(folder.join(DONE));
    }

    fn create_at(folder: &Path, path: PathBuf, owner: &Owner, setup: &Setup, base: &str) -> Result<Self, Unusable> {
        let header = Header {
            format: FORMAT,
            owner: owner.clone(),
            setup: setup.clone(),
            base: base.to_owned(),
        };
        fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
        Self::with_lines(path, &checked::encode(&header))
    }

    /// Opens the journal since a step and returns what it holds; nothing where there is none.
    ///
    /// # Errors
    /// It is of another format or owner, goes on from another checkpoint, or can't be read.
    pub fn open<T: DeserializeOwned>(
        folder: &Path,
        owner: &Owner,
        step: usize,
        base: &str,
    ) -> Result<Option<(Self, Content<T>)>, Unusable> {
        Self::open_at(path_of(folder, step), owner, base)
    }

    /// Opens the journal of what is finished for good; nothing where there is none.
    ///
    /// # Errors
    /// It is of another format or owner, or can't be read.
    pub fn open_done<T: DeserializeOwned>(
        folder: &Path,
        owner: &Owner,
    ) -> Result<Option<(Self, Content<T>)>, Unusable> {
        Self::open_at(folder.join(DONE), owner, "")
    }

    fn open_at<T: DeserializeOwned>(
        path: PathBuf,
        owner: &Owner,
        base: &str,
    ) -> Result<Option<(Self, Content<T>)>, Unusable> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(&path, source)),
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.split_inclusive('\n');
        let first = lines.next().unwrap_or("");
        let damaged = || Unusable::Damaged {
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let header = checked::decode(first).ok_or_else(damaged)?;
        super::check_format(header).map_err(|got| got.map_or_else(damaged, |got| Unusable::Format { got }))?;
        let header: Header = serde_json::from_str(header).map_err(|_| damaged())?;
        owner.check(header.owner)?;
        if header.base != base {
            return Err(Unusable::Unfinished);
        }
        let (mut good, mut values) = (first.to_owned(), Vec::new());
        let mut num_damaged = 0;
        for line in lines {
            match checked::decode(line).and_then(|text| serde_json::from_str(text).ok()) {
                Some(value) => {
                    good.push_str(line);
                    values.push(value);
                }
                // A line without its end was being written when the attempt was killed.
                None => num_damaged += usize::from(line.ends_with('\n')),
            }
        }
        let journal = if good.len() == bytes.len() {
            let file = File::options().append(true).open(&path);
            Self {
                file: file.map_err(|source| io(&path, source))?,
                path,
            }
        } else {
            Self::with_lines(path, &good)?
        };
        let content = Content {
            setup: header.setup,
            values,
            num_damaged,
        };
        Ok(Some((journal, content)))
    }

    fn with_lines(path: PathBuf, lines: &str) -> Result<Self, Unusable> {
        write_file(&path, lines)?;
        let file = File::options().append(true).open(&path);
        Ok(Self {
            file: file.map_err(|source| io(&path, source))?,
            path,
        })
    }

    /// Adds lines and waits until they are on the disk.
    ///
    /// # Errors
    /// They can't be written; the next reader skips what is torn.
    pub fn append(&mut self, values: &[impl Serialize]) -> Result<(), Unusable> {
        let lines: Vec<String> = values.iter().map(checked::encode).collect();
        self.append_lines(&lines)
    }

    /// Returns a value as the line that [`Self::append_lines`] takes.
    pub fn line(value: &impl Serialize) -> String {
        checked::encode(value)
    }

    /// As [`Self::append`], for lines that were made before.
    ///
    /// # Errors
    /// They can't be written; the next reader skips what is torn.
    pub fn append_lines(&mut self, lines: &[String]) -> Result<(), Unusable> {
        let text = lines.concat();
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|source| io(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner {
        Owner {
            kind: "k".to_owned(),
            key: "1f".to_owned(),
        }
    }

    fn setup() -> Setup {
        Setup {
            num_threads: 2,
            device: "cpu".to_owned(),
            settings: BTreeMap::new(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Cut anywhere, a journal holds the lines that are whole, and goes on from there.
        #[test]
        fn a_cut_journal_holds_what_is_whole(values in prop::collection::vec(".{0,12}", 1..6), at in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let mut journal = Journal::create(dir.path(), &owner(), &setup(), 3, "base").unwrap();
            journal.append(&values).unwrap();
            let path = path_of(dir.path(), 3);
            let bytes = fs::read(&path).unwrap();
            let length = at.index(bytes.len());
            fs::write(&path, &bytes[..length]).unwrap();
            let opened = Journal::open::<String>(dir.path(), &owner(), 3, "base");
            let header = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            if length < header {
                let is_damaged = matches!(opened, Err(Unusable::Damaged { .. }));
                prop_assert!(is_damaged);
            } else {
                let (mut journal, content) = opened.unwrap().unwrap();
                prop_assert_eq!((content.num_damaged, &content.setup), (0, &setup()));
                prop_assert_eq!(&content.values[..], &values[..content.values.len()]);
                let num_whole = bytes[header..length].iter().filter(|&&byte| byte == b'\n').count();
                prop_assert_eq!(content.values.len(), num_whole);
                journal.append(&["more"]).unwrap();
                let (_, content) = Journal::open::<String>(dir.path(), &owner(), 3, "base").unwrap().unwrap();
                prop_assert_eq!(content.values.last().map(String::as_str), Some("more"));
                prop_assert_eq!((content.values.len(), content.num_damaged), (num_whole + 1, 0));
            }
        }
    }

    #[test]
    fn a_journal_that_goes_on_from_something_else_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path(), &owner(), &setup(), 0, "").unwrap();
        let open = |owner: &Owner, step, base| Journal::open::<String>(dir.path(), owner, step, base);
        assert!(open(&owner(), 0, "").unwrap().is_some());
        assert!(open(&owner(), 1, "").unwrap().is_none());
        assert!(matches!(open(&owner(), 0, "other"), Err(Unusable::Unfinished)));
        let other = Owner {
            key: "2e".to_owned(),
            ..owner()
        };
        assert!(matches!(open(&other, 0, ""), Err(Unusable::Foreign { .. })));
    }
}
