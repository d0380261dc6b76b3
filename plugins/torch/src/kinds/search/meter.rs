//! The progress of a search, told between rounds and within them.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use crate::worker::Job;

/// What is told: simulations done, how the trees stand, and how many tokens a second this attempt generates.
pub(super) struct Meter<'j> {
    job: &'j Job,
    began: Cell<Instant>,
    /// Simulations that there will be at most.
    total: usize,
    num_done: Cell<usize>,
    num_tokens: Cell<u64>,
    /// Tokens of earlier attempts.
    tokens_before: Cell<u64>,
    /// Tokens of calls of this round that have ended.
    tokens_in_round: Cell<u64>,
    standing: RefCell<String>,
    /// Steps that this attempt's policy proposed, and those of them that were cut at their length limit.
    num_steps: Cell<u64>,
    num_cut: Cell<u64>,
}

impl<'j> Meter<'j> {
    pub(super) fn new(job: &'j Job, total: usize) -> Self {
        Self {
            job,
            began: Cell::new(Instant::now()),
            total,
            num_done: Cell::new(0),
            num_tokens: Cell::new(0),
            tokens_before: Cell::new(0),
            tokens_in_round: Cell::new(0),
            standing: RefCell::default(),
            num_steps: Cell::new(0),
            num_cut: Cell::new(0),
        }
    }

    /// Takes the time from here; what there is was made before.
    pub(super) fn begin(&self) {
        self.began.set(Instant::now());
        self.tokens_before.set(self.num_tokens.get());
    }

    /// Tells how the search stands after a round.
    pub(super) fn stand(&self, num_done: usize, num_tokens: u64, standing: String) {
        self.num_done.set(num_done);
        self.num_tokens.set(num_tokens);
        self.tokens_in_round.set(0);
        self.standing.replace(standing);
        self.tell(0);
    }

    /// Tells how it stands while a call runs that has generated so many tokens.
    pub(super) fn generating(&self, num_tokens: usize) {
        self.tell(num_tokens as u64);
    }

    /// Counts the tokens of a call that has ended.
    pub(super) fn generated(&self, num_tokens: u64) {
        self.tokens_in_round.set(self.tokens_in_round.get() + num_tokens);
    }

    /// Counts a proposed step.
    pub(super) fn proposed(&self, is_cut: bool) {
        self.num_steps.set(self.num_steps.get() + 1);
        self.num_cut.set(self.num_cut.get() + u64::from(is_cut));
    }

    /// Returns the share of the proposed steps that were cut, if there were any.
    pub(super) fn cut_steps(&self) -> Option<f64> {
        let num_steps = self.num_steps.get();
        (num_steps > 0).then(|| self.num_cut.get() as f64 / num_steps as f64)
    }

    fn tell(&self, num_tokens_of_call: u64) {
        let num_tokens = self.num_tokens.get() + self.tokens_in_round.get() + num_tokens_of_call;
        let num_new = num_tokens.saturating_sub(self.tokens_before.get());
        let seconds = self.began.get().elapsed().as_secs_f64();
        let rate = if num_new > 0 && seconds > 0.0 {
            format!(", {:.0} tokens/s", num_new as f64 / seconds)
        } else {
            String::new()
        };
        let message = format!("{}{rate}", self.standing.borrow());
        self.job
            .progress(self.num_done.get(), self.total, "simulation", &message);
    }
}
