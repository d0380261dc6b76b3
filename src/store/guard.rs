//! Who may take something away from the store, and when: the rule between runs and `gc`.
//!
//! Only `gc` removes what a record needs, and it must never take what a live run will use. A run lasts for days, so it
//! can't simply keep `gc` out. Instead:
//!
//! - A *user* holds a shared lock for the moments in which it builds on what it has just looked at: while a run registers
//!   itself (its list of nodes and its state, before it decides anything), from the first look at whether a blob is
//!   there to the end of the record that needs it, and while a record is written again under another recipe.
//! - `gc` *sweeps* in bursts of some tens of milliseconds with the lock to itself. In each burst it first looks again at
//!   which runs live, what is pinned and which records were written, and then removes only what nobody of these needs.
//!
//! So a run is either registered before a burst, and then all its nodes are spared, or it registers after the burst and
//! then decides about a store from which things are gone already: a miss. A blob that a commit found and reuses is there
//! until the record is written, and from then on it is needed by a record that the next burst knows of. A hit, a plan
//! and everything else that only reads takes no lock.
//!
//! The lock is a byte of `locks/gc`; a second byte, the turn, is held while `gc` waits, so that many short users can't
//! keep it waiting for ever. It holds the turn for [`TURN`] at most: when a user takes longer, as with an artifact of many
//! gigabytes, `gc` steps back and tries again later, and no user waits for another one. Both go with the process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Store;
use super::error::{IoContext, StoreError};
use super::lock::{Hold, Wait, lock_byte};

const TURN_BYTE: i64 = 0;
const USE_BYTE: i64 = 1;

/// For so long `gc` may keep users waiting before it has the lock.
const TURN: Duration = Duration::from_millis(150);

/// For so long `gc` lets the users go on when it had to step back.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Keeps `gc` from removing anything until it is dropped. To be held for moments, not for the length of a run.
#[derive(Debug)]
pub struct UseGuard {
    // Closing the file is what releases the lock.
    _file: Option<File>,
}

/// Keeps users out until it is dropped.
#[derive(Debug)]
pub(super) struct SweepGuard {
    _file: File,
}

impl Store {
    /// Keeps `gc` from removing anything as long as the guard lives.
    ///
    /// Whoever adds something holds it from the first look at what the store has to the end of the record that needs it.
    /// It waits for a burst of `gc` at most.
    ///
    /// # Errors
    /// The lock can't be had for another reason than that the cache is read-only.
    pub fn use_guard(&self) -> Result<UseGuard, StoreError> {
        let path = self.root().join("locks/gc");
        let Some(file) = open(&path)? else {
            return Ok(UseGuard { _file: None });
        };
        for (byte, hold) in [
            (TURN_BYTE, Hold::Shared),
            (USE_BYTE, Hold::Shared),
            (TURN_BYTE, Hold::Free),
        ] {
            lock_byte(&file, byte, hold, Wait::UntilFree).at("lock", &path)?;
        }
        Ok(UseGuard { _file: Some(file) })
    }

    /// Waits until no user is left, and keeps them out; none if that did not happen within `patience`.
    pub(super) fn sweep_guard(&self, patience: Duration) -> Result<Option<SweepGuard>, StoreError> {
        let path = self.root().join("locks/gc");
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&path).at("open", &path)?;
        let start = Instant::now();
        loop {
            lock_byte(&file, TURN_BYTE, Hold::Alone, Wait::UntilFree).at("lock", &path)?;
            let turn = Instant::now();
            let mut pause = Duration::from_micros(200);
            while turn.elapsed() < TURN {
                if lock_byte(&file, USE_BYTE, Hold::Alone, Wait::No).at("lock", &path)? {
                    lock_byte(&file, TURN_BYTE, Hold::Free, Wait::No).at("unlock", &path)?;
                    return Ok(Some(SweepGuard { _file: file }));
                }
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            lock_byte(&file, TURN_BYTE, Hold::Free, Wait::No).at("unlock", &path)?;
            if start.elapsed() >= patience {
                return Ok(None);
            }
            thread::sleep(BACK_OFF);
        }
    }
}

/// Opens the file of the lock; none where it is not there and can't be made, because then nobody here can write either.
fn open(path: &Path) -> Result<Option<File>, StoreError> {
    let made = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let is_denied = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    };
    match made {
        Err(error) if is_denied(&error) => match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_denied(&error) || error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", path),
        },
        other => other.map(Some).at("open", path),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Tested = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn users_and_sweeps_exclude_each_other_and_users_do_not() -> Tested {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        let (one, two) = (store.use_guard()?, store.use_guard()?);
        assert!(store.sweep_guard(Duration::ZERO)?.is_none());
        drop(one);
        assert!(store.sweep_guard(Duration::ZERO)?.is_none());
        drop(two);
        let sweep = store.sweep_guard(Duration::ZERO)?;
        assert!(sweep.is_some());
        assert!(store.sweep_guard(Duration::ZERO)?.is_none());
        drop(sweep);
        store.use_guard()?;
        Ok(())
    }

    #[test]
    fn neither_side_starves_under_load() -> Tested {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        let (users, longest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sweeps = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    while sweeps.load(Ordering::SeqCst) < 20 {
                        let start = Instant::now();
                        let guard = store.use_guard();
                        longest.fetch_max(start.elapsed().as_millis() as usize, Ordering::SeqCst);
                        users.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(2));
                        users.fetch_sub(1, Ordering::SeqCst);
                        assert!(guard.is_ok());
                    }
                });
            }
            for _ in 0..20 {
                let sweep = store.sweep_guard(Duration::from_secs(20));
                assert!(matches!(sweep, Ok(Some(_))));
                assert_eq!(users.load(Ordering::SeqCst), 0);
                sweeps.fetch_add(1, Ordering::SeqCst);
            }
        });
        // The turn is bounded; the rest is what a busy machine adds.
        assert!(longest.load(Ordering::SeqCst) < 5_000);
        Ok(())
    }
}
