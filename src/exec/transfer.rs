//! What a run tells of its remote: inputs that are being fetched, results that are being pushed, and faults.
//!
//! The transfers themselves are the link's; here they become events.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::event::Event;
use super::journal::Journal;
use crate::graph::NodeId;
use crate::remote::Meter;
use crate::remote::link::Link;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a run that is done waits for its pushes while none of them makes progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for some work and tells meanwhile what is fetched for a node.
pub(super) async fn told<T>(
    work: impl Future<Output = T>,
    link: Option<&Arc<Link>>,
    id: &NodeId,
    report: &super::attempt::Reporter<'_>,
) -> T {
    let Some(link) = link else { return work.await };
    tokio::pin!(work);
    let before = done_of(link.fetched());
    let mut last = before;
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(LOOK) => {
                let done = done_of(link.fetched());
                if done != last {
                    let total = link.fetched().total_bytes.load(Ordering::Relaxed);
                    report(Event::NodeProgress {
                        id: id.clone(),
                        done: (done - before) as f64,
                        total: Some(total.saturating_sub(before) as f64).filter(|total| *total > 0.0),
                        unit: Some("bytes".to_owned()),
                        message: Some("fetching inputs".to_owned()),
                    });
                    last = done;
                }
            }
        }
    }
}

fn done_of(meter: &Meter) -> u64 {
    meter.done_bytes.load(Ordering::Relaxed)
}

/// Tells the faults that a remote had since the last time.
pub(super) fn tell_notes(link: Option<&Arc<Link>>, journal: &mut Journal<'_>) {
    for message in link.into_iter().flat_map(|link| link.notes()) {
        journal.emit(&Event::Note { message });
    }
}

/// Waits until the results of a run are pushed, as long as that makes progress; what is left waits for the next run.
pub(super) fn finish_pushes(link: &Arc<Link>, journal: &mut Journal<'_>) {
    let begun = Instant::now();
    let (mut last, mut moved_at) = ((0, 0), Instant::now());
    // A run that is over is not interrupted any more: only the wait for its pushes is.
    let is_interrupted = link.interrupts();
    while link.num_unpushed() > 0 && !link.is_down() {
        let meter = link.sent();
        let now = (link.num_unpushed(), done_of(meter));
        if now != last {
            (last, moved_at) = (now, Instant::now());
        }
        if moved_at.elapsed() > PATIENCE || is_interrupted.load(Ordering::Relaxed) {
            let message = format!(
                "{} results are not pushed yet; `volvelle push` or the next run goes on with them",
                link.num_unpushed()
            );
            journal.emit(&Event::Note { message });
            break;
        }
        // What is pushed at once needs no words.
        if begun.elapsed() > LOOK {
            journal.emit(&Event::Pushing {
                address: link.address().to_owned(),
                left: now.0,
                done_bytes: now.1,
                total_bytes: meter.total_bytes.load(Ordering::Relaxed),
                wire_bytes: meter.wire_bytes.load(Ordering::Relaxed),
                seconds: begun.elapsed().as_secs_f64(),
            });
            journal.flush();
            std::thread::sleep(LOOK);
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    link.release_all();
    tell_notes(Some(link), journal);
}
