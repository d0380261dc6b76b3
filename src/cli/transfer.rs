//! How a transfer goes, while it goes: what a remote counts, as a bar or as lines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::meter::{Meter, Unit};
use crate::remote;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Does some work and tells on standard error meanwhile what a remote's meter says of it.
pub(super) fn told<T>(what: &'static str, moved: &remote::Meter, work: impl FnOnce() -> T) -> T {
    let meter = Meter::new();
    meter.begin(what, Unit::Bytes, 0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let teller = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOOK);
                let total = moved.total_bytes.load(Ordering::Relaxed);
                meter.set(moved.done_bytes.load(Ordering::Relaxed), total);
            }
            meter.end();
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        done
    })
}
