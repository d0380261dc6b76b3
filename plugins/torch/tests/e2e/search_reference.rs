//! The search beside a reference in Python, `search_reference.py`, on random scripted trees: the same selections, visits
//! and values, and the right end found.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Deserialize;
use volvelle_torch::formats::{Problem, Tree, VERSION, VerifierName};
use volvelle_torch::search::{
    Candidate, Earlier, Flow, Observer, Policy, Prior, Progress, Rollout, SavedSearch, SearchConfig, State, Strategy,
    search,
};

const NUM_TREES: usize = 100;
const NUM_ROLLOUTS: usize = 16;

/// A line of the reference.
#[derive(Debug, Deserialize)]
struct Case {
    /// State -> its next steps: name, log-probability, tokens.
    steps: BTreeMap<String, Vec<(String, f64, usize)>>,
    /// State -> how many of its rollouts are right.
    right: BTreeMap<String, usize>,
    /// The one right end.
    goal: String,
    num_simulations: u32,
    c_puct: f64,
    /// The node that each simulation ended at.
    order: Vec<usize>,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    path: String,
    parent: Option<usize>,
    prior: f64,
    #[serde(rename = "N")]
    visit_count: u32,
    #[serde(rename = "Q")]
    q_value: f64,
    #[serde(rename = "R")]
    rollout_value: f64,
    terminal: bool,
}

impl Policy for &Case {
    fn propose(&mut self, states: &[State<'_>], _: usize) -> Result<Vec<Vec<Candidate>>> {
        let of = |state: &State<'_>| {
            let path = state.steps.join(" ");
            let candidate = |(name, sum_logprob, num_tokens): &(String, f64, usize)| {
                let below = format!("{path} {name}");
                let below = below.trim();
                let text = match self.steps.contains_key(below) {
                    true => name.clone(),
                    false => format!("{name} \\boxed{{{}}}", u8::from(below == self.goal)),
                };
                Candidate {
                    text,
                    sum_logprob: *sum_logprob,
                    num_tokens: *num_tokens,
                    ended: false,
                    truncated: false,
                }
            };
            self.steps[&path].iter().map(candidate).collect()
        };
        Ok(states.iter().map(of).collect())
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let of = |state: &State<'_>| {
            let right = self.right[&state.steps.join(" ")];
            let rollout = |idx| Rollout {
                text: format!("\\boxed{{{}}}", u8::from(idx < right)),
                num_tokens: 1,
                truncated: false,
            };
            (0..m).map(rollout).collect()
        };
        Ok(states.iter().map(of).collect())
    }
}

/// Keeps the visits after every round, and the tree.
#[derive(Default)]
struct Keeper {
    visits: Vec<Vec<u32>>,
    tree: Option<Tree>,
}

impl Observer for Keeper {
    fn finished(&mut self, _: usize, tree: Tree) -> Result<()> {
        self.visits
            .push(tree.nodes.iter().map(|node| node.visit_count).collect());
        self.tree = Some(tree);
        Ok(())
    }

    fn advanced(&mut self, _: Progress, save: &dyn Fn() -> SavedSearch) -> Result<Flow> {
        if let Some(tree) = save().trees.first() {
            self.visits
                .push(tree.nodes.iter().map(|node| node.visit_count).collect());
        }
        Ok(Flow::GoOn)
    }
}

impl Keeper {
    /// The node that each simulation ended at: the last one, among those that there were, with another visit.
    fn order(&self) -> Vec<usize> {
        let root = vec![0];
        let before = std::iter::once(&root).chain(&self.visits);
        let last = |(before, after): (&Vec<u32>, &Vec<u32>)| {
            let changed = before.iter().zip(after).rposition(|(before, after)| before != after);
            changed.expect("a simulation visits nodes")
        };
        before.zip(&self.visits).map(last).collect()
    }
}

fn reference() -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/search_reference.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(NUM_TREES.to_string())
        .output()
        .expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let case = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(case).collect()
}

fn problem() -> Problem {
    Problem {
        version: VERSION,
        id: "p".to_owned(),
        problem: "Which way?".to_owned(),
        answer: "1".to_owned(),
        verifier: VerifierName::Math,
        meta: serde_json::Map::new(),
    }
}

#[test]
fn the_search_is_that_of_the_reference_on_random_trees_and_finds_the_right_end() {
    let cases = reference();
    assert_eq!(cases.len(), NUM_TREES);
    for (idx, case) in cases.iter().enumerate() {
        let config = SearchConfig {
            strategy: Strategy::Mcts,
            num_simulations: case.num_simulations,
            num_candidates: 8,
            num_rollouts: NUM_ROLLOUTS,
            max_depth: 50,
            c_puct: case.c_puct,
            prior: Prior::MeanLogprob,
            revisit_terminals: true,
            leaves_per_round: 1,
            virtual_loss: 1.0,
            beam_width: 1,
            min_value: 0.0,
            max_tokens: 0,
            stop_when: None,
            max_active_problems: 1,
        };
        let mut keeper = Keeper::default();
        search(&[problem()], &config, &mut &*case, Earlier::default(), &mut keeper).expect("a search");
        assert_eq!(keeper.order(), case.order, "tree {idx}");
        let tree = keeper.tree.expect("a tree");
        assert_eq!(tree.num_simulations as usize, case.order.len(), "tree {idx}");
        assert_eq!(tree.nodes.len(), case.nodes.len(), "tree {idx}");
        for (got, expected) in tree.nodes.iter().zip(&case.nodes) {
            let at = format!("tree {idx}, {:?}: {got:?}, expected {expected:?}", expected.path);
            let is_close = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert_eq!((got.parent, got.terminal), (expected.parent, expected.terminal), "{at}");
            assert_eq!(got.visit_count, expected.visit_count, "{at}");
            assert!(is_close(got.q_value, expected.q_value), "{at}");
            assert!(is_close(got.rollout_value, expected.rollout_value), "{at}");
            assert!(is_close(got.prior, expected.prior), "{at}");
            let is_goal = expected.terminal && expected.path == case.goal;
            assert_eq!(got.correct, expected.terminal.then_some(is_goal), "{at}");
        }
        // From the root into the child with the highest Q, again and again, leads to the right end.
        let mut at = 0;
        loop {
            let children = tree.nodes.iter().filter(|node| node.parent == Some(at));
            let Some(best) = children.max_by(|a, b| a.q_value.total_cmp(&b.q_value)) else {
                break;
            };
            at = best.id;
        }
        assert_eq!(case.nodes[at].path, case.goal, "tree {idx}");
    }
}
