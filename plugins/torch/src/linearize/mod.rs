//! Procedure cloning, first half: a search tree becomes the sequence in which a solver would visit it.
//!
//! ASTRO, Algorithm 1 (arXiv:2507.00417, section 2.3): some wrong terminals with pairwise different answers, then a
//! right one; after each wrong terminal the sequence returns to the last common ancestor with what comes next. The
//! direct control takes right terminals alone, from the same trees and in the same number. Self-evaluation of right
//! terminals is not here: the verifiers in use leave no room for luck. Knows nothing of sentences.

use std::collections::BTreeSet;

use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::formats::{Relation, Style, Trace, TraceNode, Tree, TreeNode, VERSION};
use crate::random::stream;
use crate::search::steps_to;
use crate::verify::{failure, join_steps, same_answer, verify};

/// Draws for one trace before it is given up as a duplicate of another.
const MAX_DRAWS: usize = 8;

/// How to make traces.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearizeConfig {
    pub style: Style,
    /// Backtracks asked for, cycled over the traces; a tree with fewer wrong answers gives fewer. Not empty.
    pub num_backtracks: Vec<usize>,
    /// Traces of each tree.
    pub traces_per_problem: usize,
    pub wrong: WrongChoice,
    pub distinct: Distinct,
    /// Use only wrong terminals that the verifier calls an honest wrong answer: no false steps, no false claims.
    pub sound_attempts: bool,
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

/// The traces of one tree, with what was asked for and not had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TreeTraces {
    pub traces: Vec<Trace>,
    /// Traces with fewer backtracks than asked for.
    pub num_capped: usize,
    /// Traces left out because no new one could be drawn.
    pub num_duplicates: usize,
    /// Direct traces that repeat a solution of this tree.
    pub num_resampled: usize,
}

/// The terminals of a tree that traces may visit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminals {
    pub right: Vec<usize>,
    pub wrong: Vec<usize>,
    /// Wrong terminals that are no honest attempts.
    pub num_unsound: usize,
}

impl Terminals {
    /// Sorts the terminals of a tree.
    pub fn of(tree: &Tree, sound_attempts: bool) -> Self {
        let mut terminals = Self::default();
        for node in tree.nodes.iter().filter(|node| node.terminal) {
            if node.correct == Some(true) {
                terminals.right.push(node.id);
            } else if node.answer.is_some() && (!sound_attempts || is_honest(tree, node.id)) {
                terminals.wrong.push(node.id);
            } else {
                terminals.num_unsound += 1;
            }
        }
        terminals
    }
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

/// Makes the traces of a tree; `terminals` must have some of both sorts, whatever the style, and `tree_idx` is the
/// tree's place among all.
pub fn linearize(tree: &Tree, terminals: &Terminals, tree_idx: usize, config: &LinearizeConfig) -> TreeTraces {
    let search = search_traces(tree, terminals, tree_idx, config);
    match config.style {
        Style::Search => search,
        Style::Direct => direct_traces(tree, terminals, search.traces.len(), config),
    }
}

fn search_traces(tree: &Tree, terminals: &Terminals, tree_idx: usize, config: &LinearizeConfig) -> TreeTraces {
    let mut made = TreeTraces::default();
    let mut seen = BTreeSet::new();
    for idx in 0..config.traces_per_problem {
        let at = (tree_idx * config.traces_per_problem + idx) % config.num_backtracks.len();
        let wanted = config.num_backtracks[at];
        let mut rng = stream(config.seed, &format!("trace {}", tree.problem.id), idx as u64);
        let new = (0..MAX_DRAWS).find_map(|_| {
            let mut visits = choose_wrong(tree, &terminals.wrong, wanted, config, &mut rng);
            visits.extend(terminals.right.choose(&mut rng));
            seen.insert(visits.clone()).then_some(visits)
        });
        let Some(visits) = new else {
            made.num_duplicates += 1;
            continue;
        };
        made.num_capped += usize::from(visits.len() - 1 < wanted);
        made.traces.push(trace(tree, &visits, Style::Search));
    }
    made
}

/// Takes as many right solutions, each once before any is taken again.
fn direct_traces(tree: &Tree, terminals: &Terminals, count: usize, config: &LinearizeConfig) -> TreeTraces {
    let mut rng = stream(config.seed, &format!("direct {}", tree.problem.id), 0);
    let mut chosen = terminals.right.clone();
    chosen.shuffle(&mut rng);
    chosen.truncate(count);
    let num_resampled = count - chosen.len();
    for _ in 0..num_resampled {
        chosen.extend(terminals.right.choose(&mut rng));
    }
    let traces = chosen
        .into_iter()
        .map(|right| trace(tree, &[right], Style::Direct))
        .collect();
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

fn trace(tree: &Tree, visits: &[usize], style: Style) -> Trace {
    let nodes = merge_sequences(tree, visits);
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

/// Returns the visits that lead from the root to each terminal in turn.
///
/// Between two of them the last common ancestor is visited again; that visit is the backtrack. Where it is the root,
/// it is a restart.
pub fn merge_sequences(tree: &Tree, terminals: &[usize]) -> Vec<TraceNode> {
    let mut sequence = vec![visit(&tree.nodes[0], Relation::Root)];
    let mut last_path = vec![0];
    for &terminal in terminals {
        let path = path_to(tree, terminal);
        let shared = path.iter().zip(&last_path).take_while(|(a, b)| a == b).count();
        let ancestor = path[shared - 1];
        if last_path.last() != Some(&ancestor) {
            let relation = if ancestor == 0 {
                Relation::Restart
            } else {
                Relation::Backtrack
            };
            sequence.push(visit(&tree.nodes[ancestor], relation));
        }
        sequence.extend(path[shared..].iter().map(|&id| visit(&tree.nodes[id], Relation::Child)));
        last_path = path;
    }
    sequence
}

fn path_to(tree: &Tree, node: usize) -> Vec<usize> {
    let mut path: Vec<usize> = std::iter::successors(Some(node), |&id| tree.nodes[id].parent).collect();
    path.reverse();
    path
}

fn visit(node: &TreeNode, relation: Relation) -> TraceNode {
    TraceNode {
        id: node.id,
        parent: node.parent,
        relation,
        text: node.text.clone(),
        q_value: node.q_value,
        terminal: node.terminal,
        answer: node.answer.clone(),
        correct: node.correct,
    }
}

#[cfg(test)]
pub(crate) mod tests;
