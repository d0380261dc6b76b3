//! What the kinds that ask a policy for texts have in common: how it is opened, how it samples, and how its answers are kept.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::sampling::report_usage;
use super::saver::{Saver, is_stop};
use crate::formats::VerifierName;
use crate::lm::device;
use crate::lm::sampler::Sampling;
use crate::policy::{self, Completion, Limits, Means, Options, Policy, Request};
use crate::verify::Wording;
use crate::worker::Job;

/// How a policy is asked; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
struct AskParams {
    temperature: f64,
    top_p: f64,
    /// In tokens, of one answer.
    max_completion_length: usize,
    /// Computes a model of ours in bf16; an endpoint computes in what it is served in.
    bf16: bool,
    /// Rows generated at once.
    generation_batch_size: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    device: String,
}

/// A policy that is open, and what keeps its answers.
pub struct Asking<'a> {
    job: &'a Job,
    pub saver: Saver<'a, Completion>,
    pub policy: Box<dyn Policy>,
    pub options: Options,
}

impl<'a> Asking<'a> {
    /// Opens the policy in `dir`, with the job's parameters; texts of `stop` end an answer.
    ///
    /// # Errors
    /// The device is not there, or the policy's own.
    pub fn open(job: &'a Job, dir: &Path, stop: Vec<String>) -> Result<Self> {
        let params: AskParams = job.params()?;
        device::set_num_threads(job.resources().cpu);
        let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
        let settings = [("generation_batch_size", params.generation_batch_size)];
        let mut saver = Saver::keeping(job, device, &settings)?.counting_requests();
        saver.resume(|_, _, _| Ok(()));
        let means = Means {
            device,
            bf16: params.bf16,
            num_threads: saver.num_threads(),
            generation_batch_size: params.generation_batch_size,
            limits: job.params::<Limits>()?,
        };
        Ok(Self {
            job,
            saver,
            policy: policy::open(dir, &means)?,
            options: Options {
                max_new_tokens: params.max_completion_length,
                sampling: Sampling {
                    temperature: params.temperature,
                    top_k: 0,
                    top_p: params.top_p,
                    ..Sampling::PLAIN
                },
                stop,
            },
        })
    }

    /// Asks everything at once and ends the policy's part; `unit` names an answer where progress is shown.
    ///
    /// # Errors
    /// The policy's own, or the worker was asked to stop; what is finished is saved.
    pub fn ask(mut self, requests: &[Request], unit: &str) -> Result<Vec<Vec<Completion>>> {
        let total = requests.iter().map(|request| request.seeds.len()).sum();
        let job = self.job;
        let on_progress = |done, tokens| job.progress(done, total, unit, &format!("{tokens} tokens"));
        let completed = (self.policy).complete(requests, &self.options, &mut self.saver.follow(0, on_progress));
        let completions = match completed {
            Err(error) if is_stop(&error) => return Err(self.saver.stopped(|_| Ok(()))),
            completed => completed?,
        };
        self.saver.generated()?;
        report_usage(job, self.policy.as_ref());
        Ok(completions)
    }
}

/// The sentences of a stage; one that is null is the verifier's usual one.
#[derive(Debug, Clone, Deserialize)]
pub struct WordingParams {
    /// Between paragraphs.
    separator: Option<String>,
    /// The question before each verdict.
    reflection: Option<String>,
    negative: Option<String>,
    positive: Option<String>,
    /// The return sentences, with `{state}` for the name of the state. Not every stage returns to a step.
    go_back: Option<String>,
    restart: Option<String>,
}

impl WordingParams {
    /// Returns the wording for a verifier's problems.
    pub fn of(&self, verifier: VerifierName) -> Wording {
        let usual = Wording::of(verifier);
        let or = |given: &Option<String>, usual: String| given.clone().unwrap_or(usual);
        Wording {
            separator: or(&self.separator, usual.separator),
            reflection: or(&self.reflection, usual.reflection),
            negative: or(&self.negative, usual.negative),
            positive: or(&self.positive, usual.positive),
            go_back: or(&self.go_back, usual.go_back),
            restart: or(&self.restart, usual.restart),
        }
    }
}
