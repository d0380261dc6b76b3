//! Learning rates over the steps of a training run.

use serde::Deserialize;

/// The shape after the warm-up; names are transformers' `lr_scheduler_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerType {
    Constant,
    Linear,
    Cosine,
}

/// A learning rate that rises linearly over the warm-up and then follows `kind` down to 0 (or stays).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub kind: SchedulerType,
    /// The highest learning rate.
    pub learning_rate: f64,
    pub num_warmup_steps: usize,
    pub num_steps: usize,
}

impl Schedule {
    /// Returns the learning rate of the optimizer step `step_idx`, counted from 0.
    ///
    /// Source: transformers, `optimization.py`, `get_{constant,linear,cosine}_schedule_with_warmup`.
    pub fn learning_rate(&self, step_idx: usize) -> f64 {
        if step_idx < self.num_warmup_steps {
            return self.learning_rate * step_idx as f64 / self.num_warmup_steps as f64;
        }
        let remaining = (self.num_steps.saturating_sub(self.num_warmup_steps)).max(1);
        let progress = (step_idx - self.num_warmup_steps) as f64 / remaining as f64;
        let factor = match self.kind {
            SchedulerType::Constant => 1.0,
            SchedulerType::Linear => 1.0 - progress,
            SchedulerType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.learning_rate * factor.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_transformers() {
        let schedule = |kind| Schedule {
            kind,
            learning_rate: 1.0,
            num_warmup_steps: 2,
            num_steps: 10,
        };
        let rates = |kind| {
            (0..10)
                .map(|step| schedule(kind).learning_rate(step))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rates(SchedulerType::Constant),
            [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        assert_eq!(
            rates(SchedulerType::Linear),
            [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
        );
        let cosine = rates(SchedulerType::Cosine);
        assert!((cosine[6] - 0.5).abs() < 1e-12 && cosine[9] > 0.0 && cosine[2] == 1.0);
    }
}
