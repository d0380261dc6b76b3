//! How fast a step was and what memory it took, told as events.
//!
//! Events only: these values vary between runs that make the same, so they are in no artifact.

use std::time::Instant;

use tch::Device;

use crate::lm::train::Flops;
use crate::lm::{CausalLm, device};
use crate::worker::Job;

/// Measures from the end of one step to that of the next, saving left out.
pub struct Meter<'a> {
    job: &'a Job,
    device: Device,
    flops: Flops,
    peak_tflops: Option<f64>,
    began: Instant,
}

impl<'a> Meter<'a> {
    /// `peak_tflops` is what the device can do, in 10^12 floating-point operations a second; none: no `mfu`.
    pub fn new(job: &'a Job, model: &CausalLm, peak_tflops: Option<f64>) -> Self {
        let device = model.device();
        device::reset_peak_memory(device);
        Self {
            job,
            device,
            flops: Flops::of(model),
            peak_tflops,
            began: Instant::now(),
        }
    }

    /// Reports `tokens_per_second`, `mfu` and `peak_memory_bytes` of a step that trained on sequences of these lengths.
    pub fn step_done(&mut self, step: usize, lengths: &[usize]) {
        let seconds = self.began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let num_tokens = lengths.iter().sum::<usize>() as f64;
        self.job.metric("tokens_per_second", num_tokens / seconds, Some(step));
        if let Some(peak) = self.peak_tflops {
            let share = self.flops.of_step(lengths) / seconds / (peak * 1e12);
            self.job.metric("mfu", share, Some(step));
        }
        if let Some(bytes) = device::peak_memory(self.device) {
            self.job.metric("peak_memory_bytes", bytes as f64, Some(step));
        }
        self.go_on();
    }

    /// Leaves out what was done since the last step.
    pub fn go_on(&mut self) {
        self.began = Instant::now();
    }
}
