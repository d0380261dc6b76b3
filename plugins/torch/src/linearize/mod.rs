//! Procedure cloning, first half: a search tree becomes the sequence in which a solver would visit it.
//!
//! ASTRO, Algorithm 1 (arXiv:2507.00417, section 2.3): some wrong terminals with pairwise different answers, then a
//! right one; after each wrong terminal the sequence returns to the last common ancestor with what comes next. The
//! direct control takes right terminals alone, from the same trees and in the same number. This file draws the traces of
//! one tree; `set` makes a set of the traces of many, `card` says what became of them, and `self_eval` asks a model
//! whether right terminals are right for good reasons. Knows nothing of the sentences around steps.

mod card;
mod merge;
pub mod self_eval;
mod set;

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::formats::{Relation, Style, Trace, TraceNode, Tree, VERSION};
use crate::random::stream;
use crate::search::steps_to;
use crate::verify::{failure, join_steps, same_answer, squeezed, verify};

pub use card::{Card, Group, SourceCounts};
pub use merge::{ReturnTo, merge_sequences, path_to};
pub use set::{Source, Sourced, linearize_all};

/// Draws for one trace before it is given up as a duplicate of another, or as too long.
const MAX_DRAWS: usize = 8;

/// How to make traces. As parameters of a stage, with their defaults, these are in `plugin.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearizeConfig {
    /// With backtracks, or the control without.
    pub style: Style,
    /// Backtracks asked for, cycled over the traces of a problem from a place that its id decides; a tree with fewer wrong
    /// answers gives fewer. Not empty.
    pub num_backtracks: Vec<usize>,
    /// Traces of each tree, at least 1; ASTRO: 4.
    pub traces_per_problem: usize,
    /// A problem that gives fewer traces gives none.
    pub min_traces_per_problem: usize,
    /// Whether all numbers of backtracks that were asked for occur equally often.
    pub even_backtracks: bool,
    pub wrong: WrongChoice,
    pub distinct: Distinct,
    /// Use only wrong terminals that the verifier calls an honest wrong answer: no false steps, no false claims.
    pub sound_attempts: bool,
    pub self_eval: SelfEvalUse,
    /// Votes that make a right terminal good; none: as many as `astro.self_eval` was told.
    pub min_agree: Option<u32>,
    pub return_to: ReturnTo,
    /// In the unit of the lengths that are given: the steps of a trace, those that are written twice counted twice.
    pub max_length: Option<usize>,
    pub too_long: TooLong,
    /// Whether traces of the same words, and problems of the same words, are used once.
    pub dedupe: bool,
    /// Seed of all draws; the same for both styles, or their example counts may differ.
    pub seed: u64,
}

/// Which wrong terminals a trace visits, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrongChoice {
    /// As drawn.
    Uniform,
    /// Those first whose last state before the answer has the highest Q: the promising ones.
    HighestQ,
    LowestQ,
}

/// What two wrong attempts of a trace must not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distinct {
    /// The answer, as in the paper.
    Answer,
    /// The last step: in Countdown many ways lead to one wrong number.
    Attempt,
}

/// What the votes of `astro.self_eval` on a right terminal decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfEvalUse {
    /// A terminal that was voted down is not used; one without votes is.
    IfPresent,
    /// Only a terminal that was voted for is used.
    Require,
    Ignore,
}

/// What becomes of a trace that is too long in all its draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// It is left out.
    Drop,
    /// It loses its first attempts until it fits.
    Shorten,
}

/// Why a trace that was asked for is not there. In the order of the stages that drop it.
pub mod dropped {
    /// Every draw repeated another trace of the tree.
    pub const DUPLICATE: &str = "duplicate";
    /// Every draw was longer than `max_length`.
    pub const TOO_LONG: &str = "too_long";
    /// There are more traces with as many backtracks than with other numbers of them (`even_backtracks`).
    pub const EVEN_BACKTRACKS: &str = "even_backtracks";
    /// Its problem has too few traces (`min_traces_per_problem`).
    pub const TOO_FEW: &str = "too_few_of_problem";
}

/// The traces of one tree, with what was asked for and not had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TreeTraces {
    pub traces: Vec<Trace>,
    /// Traces with fewer backtracks than asked for, because there are no more different wrong answers.
    pub num_capped: usize,
    /// Traces that lost attempts because they were too long.
    pub num_shortened: usize,
    /// Traces left out, by reason ([`dropped`]).
    pub dropped: BTreeMap<&'static str, usize>,
    /// Direct traces that repeat a solution of this tree.
    pub num_resampled: usize,
}

/// A tree with the length of each node's text.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    pub tree: &'a Tree,
    pub lengths: &'a [usize],
}

impl Measured<'_> {
    /// The length of a sequence: of the steps that it writes. Returns write a sentence, whose length isn't known here.
    fn length(&self, nodes: &[TraceNode]) -> usize {
        let written = nodes.iter().filter(|node| node.relation == Relation::Child);
        written.map(|node| self.lengths[node.id]).sum()
    }
}

/// The terminals of a tree that traces may visit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminals {
    pub right: Vec<usize>,
    pub wrong: Vec<usize>,
    /// Wrong terminals that are no honest attempts.
    pub num_unsound: usize,
    /// Right terminals that the votes of `astro.self_eval` leave out.
    pub num_voted_down: usize,
    /// Right terminals that nobody voted on, where votes are required.
    pub num_without_votes: usize,
    /// Right terminals whose solution alone is too long.
    pub num_too_long: usize,
}

impl Terminals {
    /// Sorts the terminals of a tree.
    pub fn of(measured: Measured<'_>, config: &LinearizeConfig) -> Self {
        let tree = measured.tree;
        let mut terminals = Self::default();
        for node in tree.nodes.iter().filter(|node| node.terminal) {
            if node.correct == Some(true) {
                let path = merge_sequences(tree, &[node.id], config.return_to);
                let is_good = opinion(tree, node.id, config);
                if config.self_eval == SelfEvalUse::Require && is_good.is_none() {
                    terminals.num_without_votes += 1;
                } else if config.self_eval != SelfEvalUse::Ignore && is_good == Some(false) {
                    terminals.num_voted_down += 1;
                } else if config.max_length.is_some_and(|most| measured.length(&path) > most) {
                    terminals.num_too_long += 1;
                } else {
                    terminals.right.push(node.id);
                }
            } else if node.answer.is_some() && (!config.sound_attempts || is_honest(tree, node.id)) {
                terminals.wrong.push(node.id);
            } else {
                terminals.num_unsound += 1;
            }
        }
        terminals
    }

    /// Returns why a tree with these terminals gives no traces.
    pub fn objection(&self) -> Option<&'static str> {
        match (self.right.is_empty(), self.wrong.is_empty()) {
            (false, false) => None,
            (true, _) if self.num_too_long > 0 => Some("solutions_too_long"),
            (true, _) if self.num_voted_down > 0 => Some("without_self_evaluated"),
            (true, _) if self.num_without_votes > 0 => Some("without_votes"),
            (true, true) => Some("without_usable_terminals"),
            (true, false) => Some("without_correct_terminal"),
            (false, true) => Some("without_wrong_terminal"),
        }
    }
}

/// Returns whether the votes call a right terminal a good one; none: there are no votes.
fn opinion(tree: &Tree, node: usize, config: &LinearizeConfig) -> Option<bool> {
    let votes = tree.nodes[node].self_eval?;
    Some(match config.min_agree {
        Some(least) => votes.agree >= least,
        None => votes.good,
    })
}

fn is_honest(tree: &Tree, node: usize) -> bool {
    let text = join_steps(tree.problem.verifier, &steps_to(&tree.nodes, node));
    verify(&tree.problem, &text).failure == Some(failure::WRONG_ANSWER)
}

/// Returns what is wrong with the structure of a tree that was read from a file.
pub fn defect(tree: &Tree) -> Option<&'static str> {
    if tree.nodes.first().is_none_or(|root| root.parent.is_some()) {
        return Some("its first node is not a root");
    }
    for (idx, node) in tree.nodes.iter().enumerate() {
        if node.id != idx {
            return Some("a node's id is not its place");
        }
        if idx > 0 && node.parent.is_none_or(|parent| parent >= idx) {
            return Some("a node comes before its parent");
        }
        if node.parent.is_some_and(|parent| tree.nodes[parent].terminal) {
            return Some("a terminal has children");
        }
        if node.terminal && node.correct == Some(true) && node.answer.is_none() {
            return Some("a correct terminal has no answer");
        }
    }
    None
}

/// Makes the searching traces of a tree whose `terminals` are of both sorts.
///
/// What is drawn depends on the seed, the problem's id and the tree alone, so that neither other trees nor the way in which
/// they are spread over files change it. So does where the cycle of `num_backtracks` begins: the places of the trees in a
/// file would tell traces apart that have nothing to do with each other.
pub fn search_traces(measured: Measured<'_>, terminals: &Terminals, config: &LinearizeConfig) -> TreeTraces {
    let tree = measured.tree;
    // As if the tree had this place among many: where a tree's traces are whole cycles, each begins with the first number.
    let place: u32 = stream(config.seed, &format!("place {}", tree.problem.id), 0).random();
    let mut made = TreeTraces::default();
    let mut seen = BTreeSet::new();
    for idx in 0..config.traces_per_problem {
        let num_before = (place as usize).wrapping_mul(config.traces_per_problem);
        let at = num_before.wrapping_add(idx) % config.num_backtracks.len();
        let wanted = config.num_backtracks[at];
        let mut rng = stream(config.seed, &format!("trace {}", tree.problem.id), idx as u64);
        let mut reason = dropped::DUPLICATE;
        let new = (0..MAX_DRAWS).find_map(|_| {
            let mut visits = choose_wrong(tree, &terminals.wrong, wanted, config, &mut rng);
            let num_chosen = visits.len();
            visits.extend(terminals.right.choose(&mut rng));
            let Some(fitting) = fit(measured, &visits, config) else {
                reason = dropped::TOO_LONG;
                return None;
            };
            let trace = trace(tree, fitting, Style::Search, config);
            seen.insert(identity(&trace.nodes, config))
                .then_some((trace, num_chosen))
        });
        let Some((trace, num_chosen)) = new else {
            *made.dropped.entry(reason).or_default() += 1;
            continue;
        };
        made.num_capped += usize::from(num_chosen < wanted);
        made.num_shortened += usize::from(trace.k < num_chosen);
        made.traces.push(trace);
    }
    made
}

/// Returns the visits if their trace is short enough, or as many of the last as are, where that is allowed.
fn fit<'v>(measured: Measured<'_>, visits: &'v [usize], config: &LinearizeConfig) -> Option<&'v [usize]> {
    let Some(most) = config.max_length else {
        return Some(visits);
    };
    let fewest = match config.too_long {
        TooLong::Drop => visits.len(),
        TooLong::Shorten => 1,
    };
    (0..=visits.len() - fewest)
        .map(|from| &visits[from..])
        .find(|left| measured.length(&merge_sequences(measured.tree, left, config.return_to)) <= most)
}

/// What makes two traces of a tree the same one: their visits, or their words.
fn identity(nodes: &[TraceNode], config: &LinearizeConfig) -> Vec<String> {
    let name = |node: &TraceNode| match config.dedupe {
        true => format!("{:?} {}", node.relation, squeezed(&node.text)),
        false => node.id.to_string(),
    };
    nodes.iter().map(name).collect()
}

/// Makes `count` traces of right solutions, each once before any is taken again.
pub fn direct_traces(tree: &Tree, terminals: &Terminals, count: usize, config: &LinearizeConfig) -> TreeTraces {
    let mut rng = stream(config.seed, &format!("direct {}", tree.problem.id), 0);
    let mut order = terminals.right.clone();
    order.shuffle(&mut rng);
    let solution = |right: &usize| trace(tree, &[*right], Style::Direct, config);
    let mut seen = BTreeSet::new();
    let mut traces: Vec<Trace> = order
        .iter()
        .map(solution)
        .filter(|trace| seen.insert(identity(&trace.nodes, config)))
        .take(count)
        .collect();
    let num_resampled = count - traces.len();
    for _ in 0..num_resampled {
        traces.extend(terminals.right.choose(&mut rng).map(solution));
    }
    TreeTraces {
        traces,
        num_resampled,
        ..TreeTraces::default()
    }
}

/// Returns up to `count` wrong terminals, no two alike, in the order of their visits.
fn choose_wrong(
    tree: &Tree,
    wrong: &[usize],
    count: usize,
    config: &LinearizeConfig,
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let mut order = wrong.to_vec();
    order.shuffle(rng);
    // A wrong terminal's own Q is 0; how good the attempt looked stands in the state that it was made from. Sorting is
    // stable, so that ties stay as drawn.
    let promise = |id: &usize| tree.nodes[*id].parent.map_or(0.0, |parent| tree.nodes[parent].q_value);
    match config.wrong {
        WrongChoice::Uniform => {}
        WrongChoice::HighestQ => order.sort_by(|a, b| promise(b).total_cmp(&promise(a))),
        WrongChoice::LowestQ => order.sort_by(|a, b| promise(a).total_cmp(&promise(b))),
    }
    let mut chosen: Vec<usize> = Vec::new();
    for id in order {
        if chosen.len() == count {
            break;
        }
        if !chosen.iter().any(|&other| are_alike(tree, id, other, config.distinct)) {
            chosen.push(id);
        }
    }
    chosen
}

/// Returns how many wrong attempts one trace of the tree could visit.
pub fn num_distinct(tree: &Tree, wrong: &[usize], distinct: Distinct) -> usize {
    let mut kept: Vec<usize> = Vec::new();
    for &id in wrong {
        if !kept.iter().any(|&other| are_alike(tree, id, other, distinct)) {
            kept.push(id);
        }
    }
    kept.len()
}

fn are_alike(tree: &Tree, a: usize, b: usize, distinct: Distinct) -> bool {
    let (a, b) = (&tree.nodes[a], &tree.nodes[b]);
    match (distinct, &a.answer, &b.answer) {
        (Distinct::Attempt, ..) => a.text == b.text,
        (Distinct::Answer, Some(a), Some(b)) => same_answer(tree.problem.verifier, a, b),
        (Distinct::Answer, a, b) => a == b,
    }
}

fn trace(tree: &Tree, visits: &[usize], style: Style, config: &LinearizeConfig) -> Trace {
    let nodes = merge_sequences(tree, visits, config.return_to);
    let answer = nodes.last().and_then(|node| node.answer.clone()).unwrap_or_default();
    Trace {
        version: VERSION,
        problem: tree.problem.clone(),
        style,
        k: visits.len() - 1,
        nodes,
        answer,
    }
}

#[cfg(test)]
pub(crate) mod tests;
