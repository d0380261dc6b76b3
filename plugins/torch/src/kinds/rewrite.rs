//! `astro.rewrite`: traces become conversations, by templates or by a model.
//!
//! What does not read back as its trace is written to `rejects` with the reason and never learned from. Answers of a model
//! that an attempt that was stopped has are not asked for again (`saver`).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::asking::{Asking, WordingParams};
use super::measure::Measure;
use super::sampling::report_usage;
use super::saver::is_stop;
use crate::formats::{Trace, VerifierName, read_jsonl, write_json, write_jsonl};
use crate::lm::Tokenizer;
use crate::policy::{self, Completion, Follower, Request};
use crate::random::stream;
use crate::rewrite::card::Asked;
use crate::rewrite::model::{Fallback, ModelConfig, Prompts, STOPS, Writing};
use crate::rewrite::{MaxLength, RewriteCard, RewriteConfig, Written, purposes, rewrite};
use crate::verify::{BacktrackPatterns, Wording, paragraphs};
use crate::worker::Job;

/// Parameters of `astro.rewrite`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    /// Positive reflections in a trace before the final one, at most.
    positive_reflections: usize,
    /// Steps with at least this Q may get one, 0..=1.
    high_q: f64,
    /// Whether a searching solution ends with a positive reflection.
    final_reflection: bool,
    /// Of question and solution together: tokens where there is a tokenizer, otherwise words.
    max_length: Option<usize>,
    /// Share of traces that may be rejected before the node fails, 0..=1.
    max_rejected: f64,
    // With a model only:
    /// None: the built-in prompts.
    prompt: Option<PathBuf>,
    num_attempts: usize,
    fallback: Fallback,
}

impl Params {
    fn config(&self, wording: Wording) -> RewriteConfig {
        RewriteConfig {
            patterns: BacktrackPatterns::of(&wording),
            wording,
            positive_reflections: self.positive_reflections,
            high_q: self.high_q,
            final_reflection: self.final_reflection,
        }
    }
}

/// How each verifier's traces are written.
struct Configs {
    math: RewriteConfig,
    countdown: RewriteConfig,
}

impl Configs {
    fn of(&self, verifier: VerifierName) -> &RewriteConfig {
        match verifier {
            VerifierName::Math => &self.math,
            VerifierName::Countdown => &self.countdown,
        }
    }
}

/// Reads `traces`, and perhaps `policy` (model) and `tokenizer`; writes `chats`, `rejects` and `card`.
///
/// # Errors
/// More traces than allowed were rejected, a file of prompts is not usable, or the policy's own.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!((0.0..=1.0).contains(&params.high_q), "high_q must be in 0..=1");
    let traces: Vec<Trace> = read_jsonl(&job.input("traces")?, "trace")?;
    let wording: WordingParams = job.params()?;
    let configs = Configs {
        math: params.config(wording.of(VerifierName::Math)),
        countdown: params.config(wording.of(VerifierName::Countdown)),
    };
    let measure = Measure::open(job)?;
    let max_length = MaxLength {
        most: params.max_length,
        measure: &|text| measure.length(text),
    };
    let (written, asked) = match job.input_opt("policy")? {
        Some(dir) => by_model(job, &params, &dir, &traces, &configs, max_length)?,
        None => {
            ensure!(
                params.prompt.is_none(),
                "prompt says what a model is asked, but there is no model; connect the input policy"
            );
            let by_template = |(purpose, trace): (String, &Trace)| {
                let mut rng = stream(job.seed(), &purpose, 0);
                let written = rewrite(trace, configs.of(trace.problem.verifier), max_length, &mut rng);
                Written::from(written)
            };
            let written = purposes(&traces).into_iter().zip(&traces).map(by_template);
            (written.collect(), Asked::default())
        }
    };
    let card = RewriteCard::of(&traces, &written, asked, measure.unit(), max_length)?;
    write_jsonl(
        &job.output("chats")?,
        written.iter().filter_map(|written| Some(&written.chat.as_ref()?.0)),
    )?;
    write_jsonl(
        &job.output("rejects")?,
        written.iter().filter_map(|written| written.reject.as_ref()),
    )?;
    write_json(&job.output("card")?, &card)?;
    report(job, &params, &card)
}

/// Says how it came out.
///
/// # Errors
/// More traces than allowed were rejected.
fn report(job: &Job, params: &Params, card: &RewriteCard) -> Result<()> {
    job.metric("chats", card.num_chats as f64, None);
    job.metric("rejects", card.num_rejected as f64, None);
    if card.asked.num_requests > 0 {
        let num_fallbacks: usize = card.fallbacks.values().sum();
        job.metric("fallbacks", num_fallbacks as f64, None);
        job.metric("generated_tokens", card.asked.completion_tokens as f64, None);
        job.info(&format!(
            "{} of {} answers were used for {} conversations; they took {} tokens",
            card.asked.num_accepted, card.asked.num_requests, card.num_chats, card.asked.completion_tokens
        ));
        if num_fallbacks > 0 {
            job.warning(&format!(
                "{num_fallbacks} of {} traces were written by the template, because the model's text did not pass: {}",
                card.num_traces,
                RewriteCard::reasons(&card.fallbacks)
            ));
        }
    }
    if card.num_rejected == 0 && card.num_chats > 0 {
        return Ok(());
    }
    let message = format!(
        "{} of {} traces were rejected: {}",
        card.num_rejected,
        card.num_traces,
        RewriteCard::reasons(&card.rejected)
    );
    if card.num_chats == 0 || card.num_rejected as f64 > params.max_rejected * card.num_traces as f64 {
        bail!("{message}");
    }
    job.warning(&message);
    Ok(())
}

fn by_model(
    job: &Job,
    params: &Params,
    dir: &Path,
    traces: &[Trace],
    configs: &Configs,
    max_length: MaxLength<'_>,
) -> Result<(Vec<Written>, Asked)> {
    ensure!(params.num_attempts >= 1, "num_attempts must be at least 1");
    check_traces(job, traces, configs)?;
    let config = ModelConfig {
        prompts: Prompts::open(params.prompt.as_deref())?,
        num_attempts: params.num_attempts,
        fallback: params.fallback,
        seed: job.seed(),
    };
    let mut asking = Asking::open(job, dir, STOPS.map(str::to_owned).to_vec())?;
    let mut cost = PromptCost::open(dir)?;
    let mut writing = Writing::new(traces, &config, &|verifier| configs.of(verifier), max_length);
    for round in 0.. {
        let (done, total) = writing.progress();
        job.progress(done, total, "part", &format!("round {}", round + 1));
        let requests = writing.requests();
        if requests.is_empty() {
            break;
        }
        cost.add(&requests)?;
        let mut follower = Counting {
            inner: asking.saver.follow(round, |_, _| ()),
            num_recalled: 0,
        };
        let answers = (asking.policy).complete(&requests, &asking.options, &mut follower);
        cost.num_recalled += follower.num_recalled;
        match answers {
            Err(error) if is_stop(&error) => return Err(asking.saver.stopped(|_| Ok(()))),
            answers => writing.take(answers?),
        }
    }
    asking.saver.generated()?;
    report_usage(job, asking.policy.as_ref());
    let (written, mut asked) = writing.finish();
    asked.prompt_tokens = cost.total(asking.policy.usage());
    Ok((written, asked))
}

/// Refuses wordings that a model's text can't be read back with, and warns of traces that no model can write.
fn check_traces(job: &Job, traces: &[Trace], configs: &Configs) -> Result<()> {
    let is_countdown = |trace: &&Trace| trace.problem.verifier == VerifierName::Countdown;
    let num_countdown = traces.iter().filter(is_countdown).count();
    if num_countdown > 0 {
        job.warning(&format!(
            "{num_countdown} traces are of Countdown, whose verifier reads equations and no prose: what a model writes of \
             them is used where it is the step itself"
        ));
    }
    let separator = &configs.math.wording.separator;
    ensure!(
        num_countdown == traces.len() || paragraphs(&format!("a{separator}b")).len() == 2,
        "separator {separator:?} does not separate paragraphs (a blank line does, or ' ; '), so that what a model writes \
         could not be read back step by step"
    );
    Ok(())
}

/// The tokens of what is asked: counted here where the model's folder has a tokenizer, otherwise by the server.
struct PromptCost {
    tokenizer: Option<Tokenizer>,
    num_tokens: u64,
    num_recalled: usize,
}

impl PromptCost {
    fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            tokenizer: Tokenizer::find(dir)?,
            num_tokens: 0,
            num_recalled: 0,
        })
    }

    fn add(&mut self, requests: &[Request]) -> Result<()> {
        if let Some(tokenizer) = &self.tokenizer {
            for request in requests {
                self.num_tokens += tokenizer.encode_prompt(&request.prompt)?.len() as u64;
            }
        }
        Ok(())
    }

    fn total(&self, usage: Option<policy::Usage>) -> Option<u64> {
        match &self.tokenizer {
            Some(_) => Some(self.num_tokens),
            None => usage
                .map(|usage| usage.prompt_tokens)
                .filter(|_| self.num_recalled == 0),
        }
    }
}

/// Counts the answers that were known already.
struct Counting<F> {
    inner: F,
    num_recalled: usize,
}

impl<F: Follower> Follower for Counting<F> {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>> {
        let known = self.inner.recall(request_idx);
        self.num_recalled += usize::from(known.is_some());
        known
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]) {
        self.inner.finished(requests, completions);
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        self.inner.progress(num_done, num_tokens);
    }
}
