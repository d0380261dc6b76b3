//! What training is between two steps, in memory and as a checkpoint.
//!
//! Learning rate and random numbers follow from the step. Everything else is here: weights and optimizer, the cursor in
//! the data, and the rows that the output `metrics` already has.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::training::Order;
use crate::formats::{MetricsLine, read_json, read_jsonl, write_json, write_jsonl};
use crate::lm::learner::Learner;
use crate::lm::learner_state;
use crate::worker::Job;

/// A value of the rows of steps that changed nothing because their gradient was not finite.
const SKIPPED: &str = "skipped";

/// Steps in a row with such a gradient that end a run.
const MAX_SKIPPED: usize = 5;

/// The state of a training run.
pub struct TrainState {
    pub learner: Learner,
    pub order: Order,
    /// One row for each step that is done.
    pub metrics: Vec<MetricsLine>,
    /// Indices that are drawn from `order` at a time.
    num_per_draw: usize,
    /// Steps on what was drawn at a time.
    steps_per_draw: usize,
    /// A draw may need more indices than `num_per_draw`.
    may_draw_more: bool,
    /// Indices that were drawn for the steps that are done.
    num_drawn: usize,
}

/// What the other files of a checkpoint don't say.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    step: usize,
    /// Indices that were drawn from the data order.
    num_drawn: usize,
}

impl TrainState {
    /// Returns the state before the first step; each draws `num_per_draw` indices from `order`.
    pub fn new(learner: Learner, order: Order, num_per_draw: usize) -> Self {
        Self {
            learner,
            order,
            metrics: Vec::new(),
            num_per_draw,
            steps_per_draw: 1,
            may_draw_more: false,
            num_drawn: 0,
        }
    }

    /// For training that draws before the first of every `steps_per_draw` steps only.
    pub fn drawing_every(self, steps_per_draw: usize) -> Self {
        Self { steps_per_draw, ..self }
    }

    /// For training whose draws depend on what came of them: `num_per_draw` is the least then.
    pub fn drawing_at_least(self) -> Self {
        Self {
            may_draw_more: true,
            ..self
        }
    }

    /// Writes the state after the last whole step; what was drawn for another does not count.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        learner_state::write(&self.learner, folder)?;
        write_jsonl(&folder.join("metrics.jsonl"), &self.metrics)?;
        let cursor = Cursor {
            step: self.metrics.len(),
            num_drawn: self.num_drawn,
        };
        write_json(&folder.join("cursor.json"), &cursor)?;
        Ok(())
    }

    /// Returns this run as it was after a step, as [`Self::write`] left it in a folder.
    ///
    /// # Errors
    /// A file can't be read, or is not of such a run.
    pub fn read(self, folder: &Path, step: usize) -> Result<Self> {
        let cursor: Cursor = read_json(&folder.join("cursor.json"), "cursor")?;
        let metrics: Vec<MetricsLine> = read_jsonl(&folder.join("metrics.jsonl"), "row of metrics")?;
        let expected = Cursor {
            step,
            num_drawn: step.div_ceil(self.steps_per_draw) * self.num_per_draw,
        };
        let has_drawn_more = self.may_draw_more && cursor.num_drawn >= expected.num_drawn;
        ensure!(
            cursor.step == step && metrics.len() == step && (cursor == expected || has_drawn_more),
            "it was saved at {cursor:?} with {} rows of metrics, expected {expected:?}{}",
            metrics.len(),
            if self.may_draw_more { " or more" } else { "" }
        );
        learner_state::read(&self.learner, folder)?;
        Ok(Self {
            order: self.order.at(cursor.num_drawn),
            num_drawn: cursor.num_drawn,
            metrics,
            ..self
        })
    }

    /// Notes the row of a step. One whose gradient is not finite changed nothing (the optimizer skips it), which the row
    /// tells as [`SKIPPED`].
    ///
    /// # Errors
    /// That is so for the last [`MAX_SKIPPED`] steps: the run is broken.
    pub fn push(&mut self, job: &Job, mut line: MetricsLine) -> Result<()> {
        self.num_drawn = self.order.num_drawn();
        let grad_norm = line.values.get("grad_norm").copied().unwrap_or(0.0);
        // JSON has no other numbers.
        line.values.retain(|_, value| value.is_finite());
        if grad_norm.is_finite() {
            self.metrics.push(line);
            return Ok(());
        }
        let step = line.step;
        line.values.insert(SKIPPED.to_owned(), 1.0);
        self.metrics.push(line);
        // From the rows, so that an attempt that goes on counts as one that was never stopped.
        let is_skipped = |line: &&MetricsLine| line.values.contains_key(SKIPPED);
        let num_skipped = self.metrics.iter().rev().take_while(is_skipped).count();
        ensure!(
            num_skipped < MAX_SKIPPED,
            "the gradient norm is {grad_norm}, as in the {} steps before; lower the learning rate or max_grad_norm",
            MAX_SKIPPED - 1
        );
        job.warning(&format!(
            "the gradient norm of step {step} is {grad_norm}, so its update is skipped; after {MAX_SKIPPED} such steps in a \
             row the stage fails"
        ));
        Ok(())
    }

    /// Reports the newest row, or those of its values that `is_reported` picks.
    pub fn report(&self, job: &Job, is_reported: impl Fn(&str) -> bool) {
        if let Some(line) = self.metrics.last() {
            for (name, value) in line.values.iter().filter(|(name, _)| is_reported(name)) {
                job.metric(name, *value, Some(line.step));
            }
        }
    }
}
