//! `astro.feedback`: search trees become solutions judged as a whole and step by step, for `astro.kto`.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::feedback::{FeedbackConfig, StepLabel, balance, feedback};
use crate::formats::{Feedback, Tree, read_jsonl_numbered, write_jsonl};
use crate::linearize::defect;
use crate::random::stream;
use crate::worker::Job;

/// Parameters of `astro.feedback`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    step_label: StepLabel,
    good_step: f64,
    /// Right solutions of a problem, at most.
    num_desirable: usize,
    /// Wrong ones.
    num_undesirable: usize,
    distinct: bool,
    /// Whether there are to be as many right solutions as wrong ones.
    balance: bool,
    seed: u64,
}

/// Reads `trees`, writes `feedback`.
///
/// # Errors
/// A tree is broken, or there is nothing to learn from.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!((0.0..=1.0).contains(&params.good_step), "good_step must be in 0..=1");
    let config = FeedbackConfig {
        step_label: params.step_label,
        good_step: params.good_step,
        num_desirable: params.num_desirable,
        num_undesirable: params.num_undesirable,
        distinct: params.distinct,
    };
    let mut all: Vec<Feedback> = Vec::new();
    let mut num_trees = 0_u64;
    for input in job.inputs("trees")? {
        let trees: Vec<(usize, Tree)> = read_jsonl_numbered(&input.path, "tree")?;
        for (line, tree) in &trees {
            if let Some(defect) = defect(tree) {
                bail!(
                    "{}:{line}: the tree of problem {}: {defect}",
                    input.path.display(),
                    tree.problem.id
                );
            }
            let purpose = format!("feedback {}", tree.problem.id);
            all.extend(feedback(tree, &config, &mut stream(params.seed, &purpose, 0)));
            num_trees += 1;
        }
    }
    let num_found = all.len();
    let num_right = all.iter().filter(|it| it.label).count();
    if params.balance {
        all = balance(all, &mut stream(params.seed, "feedback balance", 0));
    }
    if all.is_empty() {
        let why = match (num_found, num_right) {
            (0, _) => "no tree has a terminal that is judged".to_owned(),
            (_, 0) => format!("all {num_found} solutions are wrong; with balance: false they are kept"),
            _ => format!("all {num_found} solutions are right; with balance: false they are kept"),
        };
        bail!("there is no feedback in {num_trees} trees: {why}");
    }
    let count = |is_it: &dyn Fn(&&Feedback) -> bool| all.iter().filter(is_it).count() as f64;
    job.metric("desirable", count(&|it| it.label), None);
    job.metric("undesirable", count(&|it| !it.label), None);
    let steps = || all.iter().flat_map(|it| &it.steps);
    let good = steps().filter(|step| step.label == Some(true)).count() as f64;
    job.metric("good_steps", good / steps().count().max(1) as f64, None);
    job.info(&format!(
        "{} of {num_found} solutions of {num_trees} trees, {num_right} of which are right, were kept",
        all.len()
    ));
    write_jsonl(&job.output("feedback")?, &all)?;
    Ok(())
}
