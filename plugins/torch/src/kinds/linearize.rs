//! `astro.linearize`: search trees become traces, searching ones or the direct control.
//!
//! Both styles use the same trees - those that can show a wrong attempt and a right one - so that both arms see the
//! same problems, and give the same number of examples.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::formats::{Style, Trace, Tree, VERSION, read_jsonl, write_json, write_jsonl};
use crate::linearize::{Distinct, LinearizeConfig, Terminals, WrongChoice, defect, linearize, num_distinct};
use crate::worker::Job;

/// Parameters of `astro.linearize`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// With backtracks, or the control without.
    style: Style,
    /// Backtracks asked for, cycled over the traces.
    num_backtracks: Vec<usize>,
    /// Traces of each tree, at least 1; ASTRO: 4.
    traces_per_problem: usize,
    wrong: WrongChoice,
    distinct: Distinct,
    /// Leave out wrong attempts that the verifier finds dishonest: false steps or false claims.
    sound_attempts: bool,
    /// Must be the same for both styles.
    seed: u64,
}

/// What was made of the trees, for the report and for who wonders where examples went.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Card {
    version: u32,
    style: Style,
    num_trees: usize,
    num_used: usize,
    /// Trees left out, by reason.
    dropped: BTreeMap<&'static str, usize>,
    num_traces: usize,
    /// k -> traces with k backtracks.
    num_backtracks: BTreeMap<usize, usize>,
    /// Traces with fewer backtracks than asked for, because the tree has no more different wrong answers.
    num_capped: usize,
    /// Traces left out because every draw repeated another one.
    num_duplicates: usize,
    /// Direct traces that repeat a solution, because the tree has no more.
    num_resampled: usize,
    /// Wrong terminals that were no honest attempts, in all trees.
    num_unsound_terminals: usize,
    /// Means over the used trees.
    mean_correct_terminals: f64,
    mean_distinct_wrong: f64,
    /// Mean visits per trace, root and returns included.
    mean_nodes: f64,
}

/// Reads `trees`, writes `traces` and `card`.
///
/// # Errors
/// A tree is broken, or none can be used.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!(!params.num_backtracks.is_empty(), "num_backtracks is empty");
    ensure!(params.traces_per_problem >= 1, "traces_per_problem must be at least 1");
    let config = LinearizeConfig {
        style: params.style,
        num_backtracks: params.num_backtracks,
        traces_per_problem: params.traces_per_problem,
        wrong: params.wrong,
        distinct: params.distinct,
        sound_attempts: params.sound_attempts,
        seed: params.seed,
    };
    let trees: Vec<Tree> = read_jsonl(&job.input("trees")?, "tree")?;
    let (traces, card) = make_traces(&trees, &config)?;
    job.info(&format!(
        "{} traces of {} of {} trees",
        traces.len(),
        card.num_used,
        trees.len()
    ));
    if card.num_capped > 0 && config.style == Style::Search {
        job.info(&format!(
            "{} traces have fewer backtracks than asked for",
            card.num_capped
        ));
    }
    job.metric("traces", traces.len() as f64, None);
    write_jsonl(&job.output("traces")?, &traces)?;
    write_json(&job.output("card")?, &card)?;
    if traces.is_empty() {
        bail!(
            "none of {} trees has both a correct and a usable wrong terminal ({}); search longer, or with more candidates",
            trees.len(),
            card.dropped
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    Ok(())
}

fn make_traces(trees: &[Tree], config: &LinearizeConfig) -> Result<(Vec<Trace>, Card)> {
    let mut card = Card {
        version: VERSION,
        style: config.style,
        num_trees: trees.len(),
        num_used: 0,
        dropped: BTreeMap::new(),
        num_traces: 0,
        num_backtracks: BTreeMap::new(),
        num_capped: 0,
        num_duplicates: 0,
        num_resampled: 0,
        num_unsound_terminals: 0,
        mean_correct_terminals: 0.0,
        mean_distinct_wrong: 0.0,
        mean_nodes: 0.0,
    };
    let mut traces: Vec<Trace> = Vec::new();
    let (mut num_right, mut num_wrong) = (0, 0);
    for (idx, tree) in trees.iter().enumerate() {
        if let Some(defect) = defect(tree) {
            bail!("the tree of problem {:?} is broken: {defect}", tree.problem.id);
        }
        let terminals = Terminals::of(tree, config.sound_attempts);
        card.num_unsound_terminals += terminals.num_unsound;
        let reason = match (terminals.right.is_empty(), terminals.wrong.is_empty()) {
            (false, false) => None,
            (true, true) => Some("without_usable_terminals"),
            (true, false) => Some("without_correct_terminal"),
            (false, true) => Some("without_wrong_terminal"),
        };
        if let Some(reason) = reason {
            *card.dropped.entry(reason).or_default() += 1;
            continue;
        }
        let made = linearize(tree, &terminals, idx, config);
        card.num_used += 1;
        card.num_capped += made.num_capped;
        card.num_duplicates += made.num_duplicates;
        card.num_resampled += made.num_resampled;
        num_right += terminals.right.len();
        num_wrong += num_distinct(tree, &terminals.wrong, config.distinct);
        traces.extend(made.traces);
    }
    for trace in &traces {
        *card.num_backtracks.entry(trace.k).or_default() += 1;
    }
    let mean = |sum: usize, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
    card.num_traces = traces.len();
    card.mean_correct_terminals = mean(num_right, card.num_used);
    card.mean_distinct_wrong = mean(num_wrong, card.num_used);
    card.mean_nodes = mean(traces.iter().map(|trace| trace.nodes.len()).sum(), traces.len());
    Ok((traces, card))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearize::tests::{config, math_tree, small_tree};

    #[test]
    fn the_card_says_what_was_used_and_what_was_not() {
        let trees = [
            small_tree(),
            math_tree(&[(0, Some(1))]),
            math_tree(&[(0, Some(2))]),
            math_tree(&[(0, None)]),
            math_tree(&[(0, Some(1)), (0, Some(2))]),
        ];
        let (traces, card) = make_traces(&trees, &config()).unwrap();
        assert_eq!((card.num_trees, card.num_used, card.num_traces), (5, 2, traces.len()));
        let reasons = [
            "without_correct_terminal",
            "without_usable_terminals",
            "without_wrong_terminal",
        ];
        assert_eq!(card.dropped, reasons.map(|reason| (reason, 1)).into());
        // Of the last tree, k = 0 and k = 1 are all there is: a second 1 repeats, and 2 is capped into another repeat.
        assert_eq!(
            (card.num_duplicates, card.num_backtracks.values().sum::<usize>()),
            (2, traces.len())
        );
        let (direct, direct_card) = make_traces(
            &trees,
            &LinearizeConfig {
                style: Style::Direct,
                ..config()
            },
        )
        .unwrap();
        assert_eq!((direct.len(), direct_card.num_used), (traces.len(), card.num_used));
    }

    #[test]
    fn a_broken_tree_is_an_error_that_names_its_problem() {
        let mut tree = small_tree();
        tree.nodes[1].parent = Some(9);
        let error = make_traces(&[tree], &config()).unwrap_err().to_string();
        assert!(error.contains("problem \"p\" is broken"), "{error}");
    }
}
