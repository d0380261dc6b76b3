//! How far a long piece of work is: a bar on a terminal, and a line now and then in a pipe.
//!
//! It knows a number of units and when it began; it says nothing of work that is over within two seconds. Both forms go
//! to standard error, so that what a command prints stays what it is.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report;

/// Before this nobody wonders.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a pipe is told.
const EVERY: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Things(&'static str),
    Bytes,
}

/// A piece of work of known size; several threads may tell how far they are.
pub(super) struct Meter(Mutex<State>);

struct State {
    what: &'static str,
    unit: Unit,
    total: u64,
    done: u64,
    began: Instant,
    told: Option<Instant>,
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

impl Meter {
    /// Makes a meter on which nothing has begun.
    pub(super) fn new() -> Meter {
        Meter(Mutex::new(State {
            what: "",
            unit: Unit::Bytes,
            total: 0,
            done: 0,
            began: Instant::now(),
            told: None,
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
        }))
    }

    /// Begins something, such as "reading blobs", and ends what was before.
    pub(super) fn begin(&self, what: &'static str, unit: Unit, total: u64) {
        let mut state = self.lock();
        state.end();
        *state = State {
            what,
            unit,
            total,
            done: 0,
            began: Instant::now(),
            told: None,
            bar: None,
            is_terminal: state.is_terminal,
        };
    }

    /// Tells that so much more is done.
    pub(super) fn advance(&self, more: u64) {
        self.lock().advance(more);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.lock().end();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn advance(&mut self, more: u64) {
        self.done += more;
        let elapsed = self.began.elapsed();
        if elapsed < PATIENCE {
            return;
        }
        if self.is_terminal {
            if self.bar.is_none() {
                self.bar = Some(self.new_bar());
            }
            if let Some(bar) = &self.bar {
                bar.set_position(self.done);
            }
        } else if self.told.is_none_or(|told| told.elapsed() >= EVERY) {
            self.told = Some(Instant::now());
            // Nobody can be told of an error stream that is gone.
            let _ = writeln!(std::io::stderr(), "{}", self.line(elapsed));
        }
    }

    fn new_bar(&self) -> ProgressBar {
        let numbers = match self.unit {
            Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
            Unit::Things(_) => "{pos}/{len} {per_sec}",
        };
        let template = format!("{{prefix}} [{{bar:24}}] {numbers}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(self.what);
        // The rate counts from the beginning of the work, not from when it is first shown.
        bar.with_elapsed(self.began.elapsed())
    }

    fn line(&self, elapsed: Duration) -> String {
        let amount = |amount: u64| match self.unit {
            Unit::Bytes => report::bytes(amount),
            Unit::Things(_) => amount.to_string(),
        };
        let name = match self.unit {
            Unit::Bytes => "",
            Unit::Things(name) => name,
        };
        let rate = self.done as f64 / elapsed.as_secs_f64();
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        format!(
            "{}: {} of {}{}{name}, {}/s, about {} left",
            self.what,
            amount(self.done),
            amount(self.total),
            if name.is_empty() { "" } else { " " },
            amount(rate as u64),
            report::duration(left)
        )
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let meter = Meter::new();
        meter.begin("reading blobs", Unit::Bytes, 4 << 20);
        meter.advance(1 << 20);
        let line = meter.lock().line(Duration::from_secs(2));
        assert_eq!(line, "reading blobs: 1.0 MiB of 4.0 MiB, 512.0 KiB/s, about 6.0 s left");
        meter.begin("reading records", Unit::Things("records"), 10);
        meter.advance(5);
        let line = meter.lock().line(Duration::from_secs(1));
        assert_eq!(line, "reading records: 5 of 10 records, 5/s, about 1.0 s left");
    }
}
