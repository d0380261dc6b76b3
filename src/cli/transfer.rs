//! How a transfer goes, while it goes: a bar on a terminal, a line now and then in a pipe.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::remote::Meter;
use crate::report;

/// How often it is looked at, and how far two lines in a pipe are apart.
const LOOK: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(5);

/// Does some work and tells on standard error meanwhile what a meter says of it.
pub(super) fn told<T>(what: &str, meter: &Meter, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let teller = scope.spawn(|| tell(what, meter, &is_over));
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        done
    })
}

fn tell(what: &str, meter: &Meter, is_over: &AtomicBool) {
    let (begun, mut last_line) = (Instant::now(), Instant::now());
    let mut bar = None;
    let before = meter.done_bytes.load(Ordering::Relaxed);
    loop {
        std::thread::park_timeout(LOOK);
        if is_over.load(Ordering::Relaxed) {
            bar.iter().for_each(ProgressBar::finish_and_clear);
            return;
        }
        let done = meter.done_bytes.load(Ordering::Relaxed);
        let total = meter.total_bytes.load(Ordering::Relaxed);
        if std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(|| new_bar(what));
            bar.set_length(total.max(done));
            bar.set_position(done);
        } else if last_line.elapsed() >= LINE {
            last_line = Instant::now();
            let rate = (done - before) as f64 / begun.elapsed().as_secs_f64();
            let left = total.saturating_sub(done) as f64 / rate.max(1.0);
            let sizes = [done, total, rate as u64].map(report::bytes);
            eprintln!(
                "{what}: {} of {}, {}/s, about {} left",
                sizes[0],
                sizes[1],
                sizes[2],
                report::duration(left)
            );
        }
    }
}

fn new_bar(what: &str) -> ProgressBar {
    let template = "{prefix} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style.progress_chars("=> "));
    bar.set_prefix(what.to_owned());
    bar
}
