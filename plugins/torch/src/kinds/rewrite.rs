//! `astro.rewrite`: traces become conversations, by templates.
//!
//! What does not read back as its trace is written to `rejects` with the reason and never learned from.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::formats::{Trace, VerifierName, read_jsonl, write_jsonl};
use crate::random::stream;
use crate::rewrite::{RewriteConfig, rewrite};
use crate::verify::{BacktrackPatterns, Wording};
use crate::worker::Job;

/// Parameters of `astro.rewrite`; defaults are in `plugin.yaml`. A sentence that is null is the verifier's usual one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Between paragraphs.
    separator: Option<String>,
    /// The question before each verdict.
    reflection: Option<String>,
    negative: Option<String>,
    positive: Option<String>,
    /// The return sentences, with `{state}` for the name of the state.
    go_back: Option<String>,
    restart: Option<String>,
    /// Positive reflections in a trace before the final one, at most.
    positive_reflections: usize,
    /// Steps with at least this Q may get one, 0..=1.
    high_q: f64,
    /// Whether a searching solution ends with a positive reflection.
    final_reflection: bool,
    /// Share of traces that may be rejected before the node fails, 0..=1.
    max_rejected: f64,
}

impl Params {
    fn wording(&self, verifier: VerifierName) -> Wording {
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

    fn config(&self, verifier: VerifierName) -> RewriteConfig {
        let wording = self.wording(verifier);
        RewriteConfig {
            patterns: BacktrackPatterns::of(&wording),
            wording,
            positive_reflections: self.positive_reflections,
            high_q: self.high_q,
            final_reflection: self.final_reflection,
        }
    }
}

/// Reads `traces`, writes `chats` and `rejects`.
///
/// # Errors
/// More traces than allowed were rejected.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!((0.0..=1.0).contains(&params.high_q), "high_q must be in 0..=1");
    let traces: Vec<Trace> = read_jsonl(&job.input("traces")?, "trace")?;
    let (math, countdown) = (
        params.config(VerifierName::Math),
        params.config(VerifierName::Countdown),
    );
    let mut chats = Vec::new();
    let mut rejects = Vec::new();
    for (idx, trace) in traces.iter().enumerate() {
        let config = match trace.problem.verifier {
            VerifierName::Math => &math,
            VerifierName::Countdown => &countdown,
        };
        match rewrite(trace, config, &mut stream(job.seed(), "rewrite", idx as u64)) {
            Ok(chat) => chats.push(chat),
            Err(reject) => rejects.push(reject),
        }
    }
    write_jsonl(&job.output("chats")?, &chats)?;
    write_jsonl(&job.output("rejects")?, &rejects)?;
    job.metric("chats", chats.len() as f64, None);
    job.metric("rejects", rejects.len() as f64, None);
    if rejects.is_empty() && !chats.is_empty() {
        return Ok(());
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reject in &rejects {
        *reasons.entry(&reject.reason).or_default() += 1;
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let message = format!(
        "{} of {} traces were rejected: {}",
        rejects.len(),
        traces.len(),
        reasons.join(", ")
    );
    if chats.is_empty() || rejects.len() as f64 > params.max_rejected * traces.len() as f64 {
        bail!("{message}");
    }
    job.warning(&message);
    Ok(())
}
