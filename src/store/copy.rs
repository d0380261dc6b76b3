//! New files with the bytes of others: shared blocks where the filesystem has them, else what lies between the holes.
//!
//! It makes files and never replaces one; what it could not finish is gone when it returns.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

use super::error::{IoContext, StoreError};

/// How much is copied where the system can't do it by itself.
const BUFFER_BYTES: u64 = 256 << 10;

/// Makes files in one filesystem; remembers whether it turned out not to have reflinks.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    no_reflinks: AtomicBool,
}

impl Copier {
    /// Makes `to`, which must not exist, share the blocks of `from`; false where the filesystem can't.
    pub(crate) fn reflink(&self, from: &Path, to: &Path, mode: u32) -> bool {
        // Asked once where the answer is no: it is the same for every file of a cache.
        if self.no_reflinks.load(Ordering::Relaxed) {
            return false;
        }
        let cloned = make(from, to, mode, |source, target| {
            rustix::fs::ioctl_ficlone(target, source).map_err(io::Error::from)
        });
        let is_unable = |error: &io::Error| {
            let errno = Errno::from_io_error(error);
            errno.is_some_and(|errno| [Errno::OPNOTSUPP, Errno::NOTTY].contains(&errno))
        };
        if let Err(StoreError::Io { source, .. }) = &cloned
            && is_unable(source)
        {
            self.no_reflinks.store(true, Ordering::Relaxed);
        }
        cloned.is_ok()
    }

    /// Makes `to`, which must not exist, a file of its own with the bytes of `from`.
    ///
    /// # Errors
    /// `from` can't be read or `to` can't be written; nothing is left of it then.
    pub(crate) fn copy(&self, from: &Path, to: &Path, mode: u32) -> Result<(), StoreError> {
        if self.reflink(from, to, mode) {
            return Ok(());
        }
        make(from, to, mode, copy_data)
    }
}

fn make(
    from: &Path,
    to: &Path,
    mode: u32,
    fill: impl FnOnce(&File, &File) -> io::Result<()>,
) -> Result<(), StoreError> {
    let source = File::open(from).at("read", from)?;
    let target = File::options().write(true).create_new(true).mode(mode).open(to);
    let target = target.at("create", to)?;
    let made = fill(&source, &target).at("write", to);
    // The mode at creation is less what the umask takes away.
    let made = made.and_then(|()| {
        target
            .set_permissions(fs::Permissions::from_mode(mode))
            .at("change the mode of", to)
    });
    if made.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(to);
    }
    made
}

/// Copies what a file holds and leaves its holes out.
fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            // A filesystem that knows of no holes.
            Err(_) => at,
        };
        let end = seek(source, SeekFrom::Hole(start)).unwrap_or(size);
        copy_range(source, target, start, end.min(size))?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX >> 1);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES.min(end - at) as usize];
    while at < end {
        let wanted = BUFFER_BYTES.min(end - at) as usize;
        source.read_exact_at(&mut buffer[..wanted], at)?;
        target.write_all_at(&buffer[..wanted], at)?;
        at += wanted as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_the_length_and_the_holes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).expect("a file");
        file.set_len(64 << 20).expect("a length");
        file.write_all_at(b"middle", 20 << 20).expect("written");
        file.write_all_at(&[7; 5000], 40 << 20).expect("written");
        Copier::default().copy(&from, &to, 0o640).expect("a copy");
        assert!(fs::read(&from).expect("read") == fs::read(&to).expect("read"));
        let (from, to) = (fs::metadata(&from).expect("there"), fs::metadata(&to).expect("there"));
        assert_eq!(to.permissions().mode() & 0o777, 0o640);
        assert!(to.blocks() <= from.blocks() + 64, "{} {}", to.blocks(), from.blocks());
    }

    #[test]
    fn bytes_are_copied_by_hand_as_well() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(folder.path().join("from"), &bytes).expect("a file");
        let source = File::open(folder.path().join("from")).expect("there");
        let target = File::create(folder.path().join("to")).expect("a file");
        copy_by_hand(&source, &target, 0, bytes.len() as u64).expect("copied");
        assert!(fs::read(folder.path().join("to")).expect("read") == bytes);
    }

    #[test]
    fn nothing_is_replaced_and_nothing_half_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, b"new").expect("a file");
        fs::write(&to, b"old").expect("a file");
        assert!(Copier::default().copy(&from, &to, 0o644).is_err());
        assert_eq!(fs::read(&to).expect("read"), b"old");
        // A folder opens but does not read.
        let target = folder.path().join("of-a-folder");
        assert!(Copier::default().copy(folder.path(), &target, 0o644).is_err());
        assert!(!target.exists());
    }
}
