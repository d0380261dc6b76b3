//! Whether somebody could still write to a file through a descriptor or a mapping that was opened earlier.
//!
//! A worker's processes are killed before its outputs are taken over, but one that left the process group lives on, and
//! taking write permission away does not stop who has the file open. The kernel knows: it gives no read lease on a file
//! that is open for writing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long processes that were killed may take to let go of their files.
const PATIENCE: Duration = Duration::from_millis(300);

/// How often it is looked whether they have.
const PAUSE: Duration = Duration::from_millis(5);

/// Which signal tells of a lease that is being broken; `libc` does not have the name.
const F_SETSIG: libc::c_int = 10;

/// Waits for writers, once: who outlives the first wait is not about to go.
#[derive(Debug, Default)]
pub(crate) struct Patience(AtomicBool);

impl Patience {
    /// Returns whether a file is open for writing by anybody, after some time for those that are on their way out.
    pub(crate) fn is_written(&self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        let started = Instant::now();
        while is_open_for_writing(&file) {
            if self.0.load(Ordering::Relaxed) {
                return Ok(true);
            }
            if started.elapsed() > PATIENCE {
                self.0.store(true, Ordering::Relaxed);
                return Ok(true);
            }
            thread::sleep(PAUSE);
        }
        Ok(false)
    }
}

/// Asks for a lease and gives it back. Where there are no leases (some network filesystems, files of others), the
/// answer is no, and what changes meanwhile is found by the stamps alone.
fn is_open_for_writing(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open as long as `file` lives, and these commands take plain integers. Who opens the file
    // for writing while the lease is held makes the kernel send a signal; SIGURG is ignored unless somebody handles it,
    // where the default, SIGIO, would end the process.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_written_as_long_as_somebody_has_it_open_for_that() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("output");
        fs::write(&path, b"bytes").expect("a file");
        let is_written = || Patience::default().is_written(&path).expect("the file opens");
        assert!(!is_written());
        let reader = File::open(&path).expect("the file opens");
        assert!(!is_written());
        let writer = File::options().append(true).open(&path).expect("the file opens");
        // A filesystem without leases can't tell, which is no fault.
        let has_leases = is_open_for_writing(&reader);
        assert_eq!(is_written(), has_leases);
        drop(writer);
        assert!(!is_written());
        let path = path.clone();
        let writer = File::options().append(true).open(&path).expect("the file opens");
        let ending = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            drop(writer);
        });
        assert!(!is_written(), "a writer that is on its way out is waited for");
        ending.join().expect("it ends");
    }
}
