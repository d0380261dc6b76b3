//! How many bytes the blobs of a store have together, without looking at each of them.
//!
//! Whoever adds blobs adds to the number in the file `size`; `gc`, which looks at all of them, sets it right. A process that
//! dies in between makes it a little wrong, which is why it only decides whether it is time to look.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::Store;
use super::error::{IoContext, StoreError};
use super::lock::{Hold, Wait, lock_byte};

/// The bytes of all blobs, and how many of them `gc` found that it can't remove under the limit of then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub bytes: u64,
    /// The number of bytes with which a limit could not be kept the last time; 0 if it could.
    pub stuck: u64,
}

impl Store {
    fn size_path(&self) -> PathBuf {
        self.root().join("size")
    }

    /// Returns the kept size; none if it was never counted.
    pub(super) fn size(&self) -> Option<Size> {
        parse(&fs::read_to_string(self.size_path()).ok()?)
    }

    /// Adds to the kept size. If it was never counted, it stays so.
    pub(super) fn grow(&self, bytes: u64) {
        if bytes > 0
            && let Err(error) = self.change_size(|size| {
                size.map(|size| Size {
                    bytes: size.bytes + bytes,
                    ..size
                })
            })
        {
            tracing::debug!(%error, "the size of the cache could not be kept");
        }
    }

    /// Replaces the kept size.
    pub(super) fn set_size(&self, size: Size) -> Result<(), StoreError> {
        self.change_size(|_| Some(size))
    }

    fn change_size(&self, change: impl FnOnce(Option<Size>) -> Option<Size>) -> Result<(), StoreError> {
        let path = self.size_path();
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = file.at("open", &path)?;
        lock_byte(&file, 0, Hold::Alone, Wait::UntilFree).at("lock", &path)?;
        let mut text = [0; 64];
        let len = file.read_at(&mut text, 0).at("read", &path)?;
        let old = std::str::from_utf8(&text[..len]).ok().and_then(parse);
        if let Some(size) = change(old) {
            // Always as long as the longest, so that no rest of an older text stays.
            let text = format!("{:<20} {:<20}\n", size.bytes, size.stuck);
            file.write_all_at(text.as_bytes(), 0).at("write", &path)?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Size> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    Some(Size {
        bytes: words.next()?.ok()?,
        stuck: words.next()?.ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_what_was_never_counted_stays_unknown() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        store.grow(5);
        assert_eq!(store.size(), None);
        store.set_size(Size { bytes: 100, stuck: 7 })?;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| store.grow(3)));
            }
        });
        assert_eq!(store.size(), Some(Size { bytes: 700, stuck: 7 }));
        Ok(())
    }
}
