//! A tree worked by hand, the rules of merging and stopping, and the invariants under random policies.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::formats::VerifierName;

fn problem() -> Problem {
    Problem {
        version: 1,
        id: "p".into(),
        problem: "How many?".into(),
        answer: "1".into(),
        verifier: VerifierName::Math,
        meta: serde_json::Map::new(),
    }
}

fn config() -> SearchConfig {
    SearchConfig {
        num_simulations: 3,
        num_candidates: 2,
        num_rollouts: 2,
        max_depth: 10,
        c_puct: 1.0,
        prior: Prior::SumLogprob,
        revisit_terminals: true,
        stop_when: None,
    }
}

/// Says what the script says for the last step of a state.
struct Scripted {
    /// Last step -> next steps with their probabilities.
    steps: BTreeMap<&'static str, Vec<(&'static str, f64)>>,
    /// Last step -> how many of the rollouts are right.
    num_right: BTreeMap<&'static str, usize>,
}

impl Policy for Scripted {
    fn propose(&mut self, states: &[State<'_>], k: usize) -> Result<Vec<Vec<Candidate>>> {
        let of = |state: &State<'_>| {
            let steps = &self.steps[state.steps.last().map_or("", String::as_str)];
            assert!(steps.len() <= k);
            let candidate = |&(text, probability): &(&'static str, f64)| Candidate {
                text: text.to_owned(),
                sum_logprob: probability.ln(),
                num_tokens: 3,
                ended: false,
            };
            steps.iter().map(candidate).collect()
        };
        Ok(states.iter().map(of).collect())
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let of = |state: &State<'_>| {
            let right = self.num_right[state.steps.last().map_or("", String::as_str)];
            let answer = |idx| if idx < right { "\\boxed{1}" } else { "\\boxed{0}" };
            (0..m)
                .map(|idx| Rollout {
                    text: answer(idx).to_owned(),
                    num_tokens: 5,
                })
                .collect()
        };
        Ok(states.iter().map(of).collect())
    }
}

fn scripted() -> Scripted {
    Scripted {
        steps: BTreeMap::from([
            ("", vec![("a", 0.6), ("b", 0.4)]),
            ("a", vec![("c", 0.5), ("so \\boxed{0}", 0.5)]),
            ("b", vec![("so \\boxed{1}", 0.75), ("so \\boxed{2}", 0.25)]),
            ("c", vec![("so \\boxed{1}", 1.0)]),
        ]),
        num_right: BTreeMap::from([("a", 1), ("b", 0), ("c", 2)]),
    }
}

fn run(config: &SearchConfig, policy: &mut dyn Policy) -> Tree {
    search(&[problem()], config, policy, None, &mut |_: Progress| {})
        .unwrap()
        .remove(0)
}

fn statistics(tree: &Tree) -> Vec<(&str, u32, f64)> {
    let round = |q: f64| (q * 1e6).round() / 1e6;
    tree.nodes
        .iter()
        .map(|node| (node.text.as_str(), node.visit_count, round(node.q_value)))
        .collect()
}

#[test]
fn a_tree_worked_by_hand() {
    // 1: the root gets a (P 0.6, R 1/2) and b (P 0.4, R 0).
    let tree = run(
        &SearchConfig {
            num_simulations: 1,
            ..config()
        },
        &mut scripted(),
    );
    assert_eq!(statistics(&tree), [("", 1, 0.25), ("a", 1, 0.5), ("b", 1, 0.0)]);
    // 2: a has 0.5 + 0.6 * 1 / 2 = 0.8, b 0.2. Below a: c (R 1) and a wrong terminal.
    //    Q(a) = (1*1 + 0*1 + 0.5) / 3 = 0.5, N(a) = 2; Q(root) = (0.5*2 + 0*1) / 3.
    let tree = run(
        &SearchConfig {
            num_simulations: 2,
            ..config()
        },
        &mut scripted(),
    );
    let expected = [
        ("", 2, 0.333333),
        ("a", 2, 0.5),
        ("b", 1, 0.0),
        ("c", 1, 1.0),
        ("so \\boxed{0}", 1, 0.0),
    ];
    assert_eq!(statistics(&tree), expected);
    // 3: a has 0.5 + 0.6 * 1.4142 / 3 = 0.78, b 0.28; c has 1 + 0.5 * 1.4142 / 2. Below c: a right terminal.
    //    Q(c) = (1 + 1) / 2 = 1, N(c) = 2; Q(a) = (1*2 + 0*1 + 0.5) / 4 = 0.625, N(a) = 3;
    //    Q(root) = (0.625*3 + 0) / 4 = 0.46875.
    let tree = run(&config(), &mut scripted());
    let expected = [
        ("", 3, 0.46875),
        ("a", 3, 0.625),
        ("b", 1, 0.0),
        ("c", 2, 1.0),
        ("so \\boxed{0}", 1, 0.0),
        ("so \\boxed{1}", 1, 1.0),
    ];
    assert_eq!(statistics(&tree), expected);
    assert_eq!(
        (tree.nodes[5].answer.as_deref(), tree.nodes[5].correct),
        (Some("1"), Some(true))
    );
    // Tokens: 3 for each of 5 candidates, 5 for each of 2 rollouts of a, b and c.
    assert_eq!((tree.num_simulations, tree.num_tokens), (3, 15 + 30));
}

#[test]
fn exhausted_branches_are_passed_over_when_asked_and_end_the_search() {
    let config = SearchConfig {
        num_simulations: 100,
        revisit_terminals: false,
        ..config()
    };
    let tree = run(&config, &mut scripted());
    assert_eq!((tree.num_simulations, tree.nodes.len()), (4, 8));
    // With revisits, simulations go to the right terminal again, but the frontier is exhausted in the end, too.
    let tree = run(
        &SearchConfig {
            revisit_terminals: true,
            ..config
        },
        &mut scripted(),
    );
    assert!(tree.num_simulations > 4);
    assert_eq!(
        tree.nodes.iter().map(|node| node.id).collect::<Vec<_>>(),
        (0..tree.nodes.len()).collect::<Vec<_>>()
    );
}

#[test]
fn enough_terminals_stop_the_search() {
    let stop = StopWhen {
        num_correct: 1,
        num_wrong: 1,
    };
    let config = SearchConfig {
        num_simulations: 100,
        stop_when: Some(stop),
        ..config()
    };
    assert_eq!(run(&config, &mut scripted()).num_simulations, 3);
}

#[test]
fn the_depth_limit_and_the_end_of_a_turn_make_terminals_without_an_answer() {
    let tree = run(
        &SearchConfig {
            max_depth: 1,
            ..config()
        },
        &mut scripted(),
    );
    assert_eq!((tree.nodes.len(), tree.num_simulations), (3, 1));
    assert!(tree.nodes[1].terminal && tree.nodes[1].answer.is_none() && tree.nodes[1].correct == Some(false));
}

#[test]
fn candidates_that_differ_in_white_space_are_one() {
    let candidate = |text: &str, probability: f64| Candidate {
        text: text.into(),
        sum_logprob: probability.ln(),
        num_tokens: 2,
        ended: false,
    };
    let candidates = vec![
        candidate("x  1", 0.2),
        candidate("y", 0.2),
        candidate(" x 1\n", 0.2),
        candidate(" ", 0.4),
    ];
    let weights = priors(&candidates, Prior::SumLogprob);
    let merged = merge(candidates.clone(), &weights);
    assert_eq!(merged.len(), 2);
    assert!((merged[0].1 - 2.0 / 3.0).abs() < 1e-12 && (merged[1].1 - 1.0 / 3.0).abs() < 1e-12);
    let mean = priors(&candidates[..2], Prior::MeanLogprob);
    assert!((mean[0] - 0.5).abs() < 1e-12);
    let impossible = vec![candidate("x", 0.0), candidate("y", 0.0)];
    assert_eq!(priors(&impossible, Prior::SumLogprob), [0.5, 0.5]);
    assert_eq!(priors(&[], Prior::Uniform), Vec::<f64>::new());
}

#[test]
fn a_policy_with_nothing_to_say_ends_the_search() {
    struct Silent;
    impl Policy for Silent {
        fn propose(&mut self, states: &[State<'_>], _: usize) -> Result<Vec<Vec<Candidate>>> {
            Ok(vec![Vec::new(); states.len()])
        }
        fn rollout(&mut self, _: &[State<'_>], _: usize) -> Result<Vec<Vec<Rollout>>> {
            unreachable!("there is no new state")
        }
    }
    let tree = run(&config(), &mut Silent);
    assert_eq!((tree.nodes.len(), tree.num_simulations), (1, 1));
}

/// Draws steps and outcomes from a seed and the state alone.
struct Random {
    seed: u64,
    always_right: bool,
}

impl Random {
    fn draw(&self, state: &State<'_>, idx: usize) -> u64 {
        use rand::Rng;
        crate::random::stream(
            self.seed,
            &format!("{} {:?}", state.problem.id, state.steps),
            idx as u64,
        )
        .random()
    }
}

impl Policy for Random {
    fn propose(&mut self, states: &[State<'_>], k: usize) -> Result<Vec<Vec<Candidate>>> {
        let candidate = |state: &State<'_>, idx| {
            let draw = self.draw(state, idx);
            let text = match draw % 6 {
                _ if self.always_right => format!("step {}", draw % 4),
                0 => "\\boxed{0}".to_owned(),
                1 => "\\boxed{1}".to_owned(),
                other => format!("step {other}"),
            };
            Candidate {
                text,
                sum_logprob: -((draw % 100) as f64) / 10.0,
                num_tokens: 1 + idx,
                ended: draw.is_multiple_of(17) && !self.always_right,
            }
        };
        Ok(states
            .iter()
            .map(|state| (0..k).map(|idx| candidate(state, idx)).collect())
            .collect())
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let rollout = |state: &State<'_>, idx| {
            let right = self.always_right || self.draw(state, 1000 + idx).is_multiple_of(3);
            Rollout {
                text: format!("\\boxed{{{}}}", u8::from(right)),
                num_tokens: 1,
            }
        };
        Ok(states
            .iter()
            .map(|state| (0..m).map(|idx| rollout(state, idx)).collect())
            .collect())
    }
}

/// The value of a node from visits and rollout values alone.
fn from_scratch(tree: &Tree, node: usize) -> f64 {
    let own = if node == 0 { 0.0 } else { 1.0 };
    let children = tree.nodes.iter().filter(|child| child.parent == Some(node));
    let (mut sum, mut visits) = (tree.nodes[node].rollout_value * own, own);
    for child in children {
        sum += from_scratch(tree, child.id) * f64::from(child.visit_count);
        visits += f64::from(child.visit_count);
    }
    if visits == 0.0 { 0.0 } else { sum / visits }
}

/// Keeps the search after every simulation.
#[derive(Default)]
struct Keeper(Vec<SavedSearch>);

impl Observer for Keeper {
    fn simulated(&mut self, _: Progress, save: &dyn Fn() -> SavedSearch) -> Result<()> {
        self.0.push(save());
        Ok(())
    }
}

#[test]
fn what_is_no_tree_is_not_continued() {
    let mut keeper = Keeper::default();
    search(&[problem()], &config(), &mut scripted(), None, &mut keeper).unwrap();
    let whole = keeper.0.remove(1);
    let with = |change: &dyn Fn(&mut SavedSearch)| {
        let mut saved = whole.clone();
        change(&mut saved);
        search(
            &[problem()],
            &config(),
            &mut scripted(),
            Some(saved),
            &mut |_: Progress| {},
        )
    };
    assert!(with(&|_| ()).is_ok());
    assert!(with(&|saved| saved.trees.clear()).is_err());
    assert!(with(&|saved| saved.trees[0].nodes.clear()).is_err());
    assert!(with(&|saved| saved.trees[0].exhausted.truncate(1)).is_err());
    assert!(with(&|saved| saved.trees[0].nodes[2].parent = Some(2)).is_err());
    assert!(with(&|saved| saved.trees[0].nodes[2].parent = None).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants_of_the_tree(
        seed in any::<u64>(),
        num_simulations in 1u32..24,
        num_candidates in 1usize..5,
        revisit_terminals in any::<bool>(),
        prior in prop::sample::select(vec![Prior::MeanLogprob, Prior::SumLogprob, Prior::Uniform]),
        always_right in any::<bool>(),
    ) {
        let config = SearchConfig {
            num_simulations, num_candidates, num_rollouts: 3, max_depth: 6, c_puct: 1.5, prior, revisit_terminals,
            stop_when: None,
        };
        let problems: Vec<Problem> = (0..3).map(|idx| Problem { id: format!("p{idx}"), ..problem() }).collect();
        let search_with = |problems: &[Problem], saved, observer: &mut dyn Observer| {
            search(problems, &config, &mut Random { seed, always_right }, saved, observer)
        };
        let trees = search_with(&problems, None, &mut |_: Progress| {}).unwrap();
        for (tree, problem) in trees.iter().zip(&problems) {
            prop_assert_eq!(&tree.problem, problem);
            prop_assert_eq!(tree.nodes[0].visit_count, tree.num_simulations);
            for node in &tree.nodes {
                prop_assert!((0.0..=1.0).contains(&node.q_value));
                prop_assert!((node.q_value - from_scratch(tree, node.id)).abs() < 1e-9);
                prop_assert!(node.parent.is_none_or(|parent| parent < node.id));
                let children: Vec<_> = tree.nodes.iter().filter(|child| child.parent == Some(node.id)).collect();
                prop_assert!(!node.terminal || children.is_empty());
                let total: f64 = children.iter().map(|child| child.prior).sum();
                prop_assert!(children.is_empty() || (total - 1.0).abs() < 1e-9);
                // The depth limit states no answer, and so is wrong; above it all rollouts are right.
                let is_good = |node: &&TreeNode| node.rollout_value == 1.0;
                if always_right && is_good(&node) && children.iter().all(|child| child.q_value == 1.0) {
                    prop_assert_eq!(node.q_value, 1.0);
                }
            }
            // A problem's tree does not depend on what is searched beside it.
            let alone = search_with(std::slice::from_ref(problem), None, &mut |_: Progress| {});
            prop_assert_eq!(&alone.unwrap()[0], tree);
        }
        // A search that goes on from any of its simulations, through JSON, ends with the same trees.
        let mut keeper = Keeper::default();
        search_with(&problems, None, &mut keeper).unwrap();
        for saved in keeper.0 {
            let text = serde_json::to_string(&saved.trees).unwrap();
            let read = SavedSearch { trees: serde_json::from_str(&text).unwrap(), ..saved };
            prop_assert_eq!(&search_with(&problems, Some(read), &mut |_: Progress| {}).unwrap(), &trees);
        }
    }
}
