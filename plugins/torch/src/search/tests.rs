//! A tree worked by hand, the rules of merging and stopping, and the invariants under random policies.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Strategy;
use super::puct::priors;
use super::round::merge;
use super::*;

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
        strategy: Strategy::Mcts,
        num_simulations: 3,
        num_candidates: 2,
        num_rollouts: 2,
        max_depth: 10,
        c_puct: 1.0,
        prior: Prior::SumLogprob,
        revisit_terminals: true,
        leaves_per_round: 1,
        virtual_loss: 1.0,
        beam_width: 2,
        min_value: 0.0,
        max_tokens: 0,
        stop_when: None,
        max_active_problems: 8,
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
                truncated: false,
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
                    truncated: false,
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

/// Keeps the trees, and the search after every round; ends it after some.
struct Keeper {
    trees: BTreeMap<usize, Tree>,
    rounds: Vec<(SavedSearch, BTreeSet<usize>)>,
    max_rounds: usize,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            trees: BTreeMap::new(),
            rounds: Vec::new(),
            max_rounds: usize::MAX,
        }
    }
}

impl Observer for Keeper {
    fn finished(&mut self, problem_idx: usize, tree: Tree) -> Result<()> {
        assert!(self.trees.insert(problem_idx, tree).is_none(), "a tree came twice");
        Ok(())
    }

    fn advanced(&mut self, progress: Progress, save: &dyn Fn() -> SavedSearch) -> Result<Flow> {
        assert_eq!(progress.num_rounds, save().num_rounds);
        assert_eq!(progress.active, Tally::of_saved(&save().trees));
        self.rounds.push((save(), self.trees.keys().copied().collect()));
        Ok(if self.rounds.len() < self.max_rounds {
            Flow::GoOn
        } else {
            Flow::End
        })
    }
}

/// Searches all problems from the beginning.
fn run_all(problems: &[Problem], config: &SearchConfig, policy: &mut dyn Policy) -> Vec<Tree> {
    let mut keeper = Keeper::default();
    search(problems, config, policy, Earlier::default(), &mut keeper).unwrap();
    assert_eq!(keeper.trees.len(), problems.len());
    keeper.trees.into_values().collect()
}

fn run(config: &SearchConfig, policy: &mut dyn Policy) -> Tree {
    run_all(&[problem()], config, policy).remove(0)
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
        truncated: false,
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
    // Half a step is none, and its share goes to the others; what was written whole beside it counts.
    let cut = |candidate: Candidate| Candidate {
        truncated: true,
        ..candidate
    };
    let mut candidates = candidates;
    candidates[0] = cut(candidates[0].clone());
    let merged = merge(candidates.clone(), &weights);
    assert_eq!(merged.len(), 2);
    assert!(
        merged
            .iter()
            .all(|(candidate, prior)| !candidate.truncated && (prior - 0.5).abs() < 1e-12)
    );
    assert!(merge(candidates.into_iter().map(cut).collect(), &weights).is_empty());
}

/// Proposes one list of steps and rolls out one text, whatever the state is.
struct Same {
    steps: Vec<Candidate>,
    rollout: Rollout,
}

impl Policy for Same {
    fn propose(&mut self, states: &[State<'_>], _: usize) -> Result<Vec<Vec<Candidate>>> {
        Ok(vec![self.steps.clone(); states.len()])
    }
    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        Ok(vec![vec![self.rollout.clone(); m]; states.len()])
    }
}

/// The verifier takes the last number of what is not marked as an answer.
fn same(text: &str, change: impl Fn(&mut Candidate, &mut Rollout)) -> Same {
    let mut step = Candidate {
        text: text.to_owned(),
        sum_logprob: -1.0,
        num_tokens: 3,
        ended: false,
        truncated: false,
    };
    let mut rollout = Rollout {
        text: text.to_owned(),
        num_tokens: 5,
        truncated: false,
    };
    change(&mut step, &mut rollout);
    Same {
        steps: vec![step],
        rollout,
    }
}

#[test]
fn a_rollout_that_was_cut_is_wrong_whatever_its_last_words_are() {
    let text = "5 - 4 = 1.";
    let value = |policy: &mut Same| run(&config().with_simulations(1), policy).nodes[1].rollout_value;
    assert_eq!(value(&mut same(text, |_, _| ())), 1.0);
    assert_eq!(value(&mut same(text, |_, rollout| rollout.truncated = true)), 0.0);
}

#[test]
fn the_depth_limit_alone_states_no_answer() {
    let config = SearchConfig {
        max_depth: 1,
        ..config()
    };
    let end = |policy: &mut Same| {
        let mut tree = run(&config, policy);
        let node = tree.nodes.remove(1);
        assert!(node.terminal);
        (node.answer, node.correct, node.q_value)
    };
    assert_eq!(end(&mut same("5 - 4 = 1.", |_, _| ())), (None, Some(false), 0.0));
    let right = |answer: &str| (Some(answer.to_owned()), Some(true), 1.0);
    let text = "5 - 4 = 1.";
    assert_eq!(end(&mut same(text, |step, _| step.ended = true)), right(text));
    assert_eq!(end(&mut same("so \\boxed{1}", |_, _| ())), right("1"));
}

#[test]
fn a_state_whose_steps_were_all_cut_has_nothing_to_expand() {
    let tree = run(&config(), &mut same("5 - 4 = 1", |step, _| step.truncated = true));
    // What they cost is counted.
    assert_eq!((tree.nodes.len(), tree.num_simulations, tree.num_tokens), (1, 1, 3));
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
            &format!("{} {:?} {}", state.problem.id, state.steps, state.draw),
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
                truncated: draw.is_multiple_of(13) && !self.always_right,
            }
        };
        Ok(states
            .iter()
            .map(|state| (0..k).map(|idx| candidate(state, idx)).collect())
            .collect())
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let rollout = |state: &State<'_>, idx| {
            let draw = self.draw(state, 1000 + idx);
            let right = self.always_right || draw.is_multiple_of(3);
            let steps = ["first", "second", "", "third"][..(draw / 3 % 5) as usize % 4].join("\n\n");
            let end = if draw.is_multiple_of(7) && !self.always_right {
                "no answer"
            } else {
                "\\boxed"
            };
            Rollout {
                text: format!("{steps}\n\n{end}{{{}}}", u8::from(right)),
                num_tokens: 1,
                truncated: self.draw(state, 2000 + idx).is_multiple_of(5) && !self.always_right,
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

#[test]
fn what_is_no_tree_is_not_continued() {
    let mut keeper = Keeper::default();
    search(
        &[problem()],
        &config(),
        &mut scripted(),
        Earlier::default(),
        &mut keeper,
    )
    .unwrap();
    let (whole, _) = keeper.rounds.remove(1);
    let with = |change: &dyn Fn(&mut SavedSearch)| {
        let mut saved = whole.clone();
        change(&mut saved);
        let earlier = Earlier {
            search: saved,
            ..Earlier::default()
        };
        search(
            &[problem()],
            &config(),
            &mut scripted(),
            earlier,
            &mut Keeper::default(),
        )
    };
    assert!(with(&|_| ()).is_ok());
    assert!(with(&|saved| saved.trees[0].problem_idx = 1).is_err());
    assert!(with(&|saved| saved.trees[0].nodes.clear()).is_err());
    assert!(with(&|saved| saved.trees[0].exhausted.truncate(1)).is_err());
    assert!(with(&|saved| saved.trees[0].nodes[2].parent = Some(2)).is_err());
    assert!(with(&|saved| saved.trees[0].nodes[2].parent = None).is_err());
}

#[test]
fn leaves_of_a_round_differ_and_are_led_apart_by_virtual_losses() {
    // 1: a (N 1, Q 1/2, P 0.6) and b (N 1, Q 0, P 0.4) below the root (N 1); the root was the only leaf.
    // 2: a has 0.5 + 0.6 * 1 / 2 and is chosen. With a virtual loss of 1 the root has N 2, and a, of which nothing is left
    //    to choose, is out: b comes next. Both are backed up: Q(a) = 1/2, Q(b) = (1 + 0 + 0) / 3, N(root) = 3.
    let config = SearchConfig {
        leaves_per_round: 4,
        ..config()
    };
    let tree = run(&config, &mut scripted());
    let expected = [
        ("", 3, 0.416667),
        ("a", 2, 0.5),
        ("b", 2, 0.333333),
        ("c", 1, 1.0),
        ("so \\boxed{0}", 1, 0.0),
        ("so \\boxed{1}", 1, 1.0),
        ("so \\boxed{2}", 1, 0.0),
    ];
    assert_eq!(statistics(&tree), expected);
    assert_eq!(tree.num_simulations, 3);

    // A round of two below a and b, each with two children. The highest two scores are both below a, which without a
    // virtual loss gets both.
    let steps = |names: [&'static str; 2]| names.map(|name| (name, 0.5)).to_vec();
    let policy = || Scripted {
        steps: BTreeMap::from([
            ("", steps(["a", "b"])),
            ("a", steps(["a1", "a2"])),
            ("b", steps(["b1", "b2"])),
            ("a1", steps(["x", "y"])),
            ("a2", steps(["x", "y"])),
            ("b1", steps(["x", "y"])),
            ("b2", steps(["x", "y"])),
        ]),
        num_right: BTreeMap::from([
            ("a", 2),
            ("b", 1),
            ("a1", 2),
            ("a2", 2),
            ("b1", 2),
            ("b2", 2),
            ("x", 0),
            ("y", 0),
        ]),
    };
    let parents = |virtual_loss| {
        let config = SearchConfig {
            num_simulations: 5,
            leaves_per_round: 2,
            virtual_loss,
            ..config.clone()
        };
        let tree = run(&config, &mut policy());
        let of = |node: &TreeNode| tree.nodes[node.parent.expect("no root")].text.clone();
        tree.nodes[7..].iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(parents(0.0), ["a1", "a1", "a2", "a2"]);
    assert_eq!(parents(2.0), ["a1", "a1", "b1", "b1"]);
}

#[test]
fn tokens_and_time_end_a_search_between_rounds() {
    // The first round generates 2 candidates of 3 tokens and 4 rollouts of 5.
    for (max_tokens, num_simulations) in [(26, 1), (27, 2), (0, 3)] {
        let config = SearchConfig { max_tokens, ..config() };
        assert_eq!(run(&config, &mut scripted()).num_simulations, num_simulations);
    }
    let problems = [problem(), problem(), problem()];
    let config = SearchConfig {
        max_active_problems: 2,
        ..config()
    };
    let mut keeper = Keeper {
        max_rounds: 2,
        ..Keeper::default()
    };
    search(&problems, &config, &mut scripted(), Earlier::default(), &mut keeper).unwrap();
    let simulations = keeper.trees.values().map(|tree| tree.num_simulations);
    assert_eq!(simulations.collect::<Vec<_>>(), [2, 2, 0]);
    assert_eq!(keeper.trees[&2].nodes.len(), 1);
}

/// Steps below each state, and the rollout values of a, b and c, for the plainer searches.
fn forking() -> Scripted {
    Scripted {
        steps: BTreeMap::from([
            ("", vec![("a", 0.5), ("b", 0.3), ("c", 0.2)]),
            ("a", vec![("d", 0.5), ("\\boxed{0}", 0.5)]),
            ("b", vec![("e", 0.6), ("f", 0.4)]),
            ("c", vec![("\\boxed{1}", 1.0)]),
            ("d", vec![("\\boxed{2}", 1.0)]),
            ("e", vec![("\\boxed{3}", 1.0)]),
            ("f", vec![("\\boxed{1}", 1.0)]),
        ]),
        num_right: BTreeMap::from([("a", 2), ("b", 1), ("c", 0), ("d", 0), ("e", 1), ("f", 1)]),
    }
}

fn plain(strategy: Strategy) -> SearchConfig {
    SearchConfig {
        strategy,
        num_simulations: 100,
        num_candidates: 3,
        ..config()
    }
}

/// The texts of the states that were expanded, in the order in which their children were made.
fn expanded(tree: &Tree) -> Vec<&str> {
    let mut parents: Vec<usize> = tree.nodes.iter().filter_map(|node| node.parent).collect();
    parents.dedup();
    parents.iter().map(|&parent| tree.nodes[parent].text.as_str()).collect()
}

#[test]
fn a_beam_expands_the_best_states_of_each_depth() {
    let tree = run(&plain(Strategy::Beam), &mut forking());
    // c falls out at the first depth; e and f are alike, e has the higher prior; d has no chance.
    assert_eq!(expanded(&tree), ["", "a", "b", "e", "f"]);
    assert_eq!((tree.num_simulations, tree.nodes[0].visit_count), (5, 5));
    let narrow = SearchConfig {
        beam_width: 1,
        ..plain(Strategy::Beam)
    };
    assert_eq!(expanded(&run(&narrow, &mut forking())), ["", "a", "d"]);
    let short = SearchConfig {
        num_simulations: 2,
        ..plain(Strategy::Beam)
    };
    assert_eq!(expanded(&run(&short, &mut forking())), ["", "a"]);
}

#[test]
fn a_depth_first_search_backs_up_at_wrong_ends_and_stops_at_a_right_one() {
    let tree = run(&plain(Strategy::Dfs), &mut forking());
    assert_eq!(expanded(&tree), ["", "a", "d", "b", "e", "f"]);
    assert_eq!(tree.nodes.last().and_then(|node| node.correct), Some(true));
    // What is not worth a quarter is not entered: neither d nor c.
    let pruned = SearchConfig {
        min_value: 0.25,
        stop_when: Some(StopWhen {
            num_correct: 100,
            num_wrong: 0,
        }),
        ..plain(Strategy::Dfs)
    };
    assert_eq!(expanded(&run(&pruned, &mut forking())), ["", "a", "b", "e", "f"]);
}

/// Whole solutions, and whether each was cut off.
struct Samples(Vec<(&'static str, bool)>);
impl Policy for Samples {
    fn propose(&mut self, _: &[State<'_>], _: usize) -> Result<Vec<Vec<Candidate>>> {
        unreachable!("whole solutions are sampled")
    }
    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let rollout = |&(text, truncated): &(&str, bool)| Rollout {
            text: text.to_owned(),
            num_tokens: 4,
            truncated,
        };
        let of = |state: &State<'_>| {
            assert!(state.steps.is_empty());
            self.0[m * state.draw..m * (state.draw + 1)]
                .iter()
                .map(rollout)
                .collect()
        };
        Ok(states.iter().map(of).collect())
    }
}

#[test]
fn best_of_n_is_the_tree_of_its_samples() {
    let samples = || {
        Samples(vec![
            ("a\n\nb \\boxed{1}\n\nand so on", false),
            ("a\n\n\n\nc", true),
            ("a\n\nb  \\boxed{1}", true),
            ("d\n\n\\boxed{0}", false),
            ("a", false),
            ("", false),
        ])
    };
    let tree = run(&plain(Strategy::BestOfN).with_simulations(2), &mut samples());
    let third = 1.0 / 3.0;
    let sixth = 1.0 / 6.0;
    let expected = [
        ("", 6, 0.333333),
        ("a", 3, 0.666667),
        ("b \\boxed{1}", 2, 1.0),
        ("c", 1, 0.0),
        ("d", 1, 0.0),
        ("\\boxed{0}", 1, 0.0),
        ("a", 1, 0.0),
        ("", 1, 0.0),
    ];
    assert_eq!(statistics(&tree), expected);
    assert!(tree.nodes[7].terminal && tree.nodes[7].correct == Some(false));
    let priors: Vec<f64> = tree.nodes.iter().map(|node| node.prior).collect();
    assert_eq!(priors, [1.0, 0.5, 2.0 * third, third, sixth, 1.0, sixth, sixth]);
    let answers: Vec<_> = tree.nodes.iter().map(|node| node.answer.as_deref()).collect();
    assert_eq!(answers[2..6], [Some("1"), None, None, Some("0")]);
    assert_eq!((tree.num_simulations, tree.num_tokens), (2, 24));
    let at_once = SearchConfig {
        leaves_per_round: 2,
        ..plain(Strategy::BestOfN).with_simulations(2)
    };
    assert_eq!(run(&at_once, &mut samples()), tree);
}

#[test]
fn a_sample_that_was_cut_is_wrong_beside_one_of_the_same_words() {
    let last_number = "5 - 4 = 1.";
    let ends = |samples: Vec<(&'static str, bool)>, max_depth| {
        let config = SearchConfig {
            num_candidates: samples.len(),
            max_depth,
            ..plain(Strategy::BestOfN).with_simulations(1)
        };
        let tree = run(&config, &mut Samples(samples));
        let ends = tree.nodes.into_iter().filter(|node| node.terminal);
        ends.map(|node| (node.visit_count, node.correct == Some(true)))
            .collect::<Vec<_>>()
    };
    let samples = vec![(last_number, true), (last_number, false), (last_number, true)];
    for max_depth in [1, 10] {
        assert_eq!(ends(samples.clone(), max_depth), [(2, false), (1, true)]);
    }
    // The depth limit cuts what goes on.
    assert_eq!(ends(vec![("5 - 4 = 1.\n\nso \\boxed{1}", false)], 1), [(1, false)]);
    assert_eq!(ends(vec![("5 - 4 = 1.\n\nso \\boxed{1}", false)], 2), [(1, true)]);
}

impl SearchConfig {
    fn with_simulations(self, num_simulations: u32) -> Self {
        Self {
            num_simulations,
            ..self
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants_of_the_tree(
        seed in any::<u64>(),
        (num_simulations, num_candidates) in (1u32..24, 1usize..5),
        strategy in prop::sample::select(vec![
            Strategy::Mcts, Strategy::Mcts, Strategy::Mcts, Strategy::BestOfN, Strategy::Beam, Strategy::Dfs,
        ]),
        (leaves_per_round, virtual_loss) in (1usize..5, 0.0..3.0),
        (max_tokens, min_value) in (prop::sample::select(vec![0, 0, 40, 200]), prop::sample::select(vec![0.0, 0.0, 0.4])),
        revisit_terminals in any::<bool>(),
        prior in prop::sample::select(vec![Prior::MeanLogprob, Prior::SumLogprob, Prior::Uniform]),
        always_right in any::<bool>(),
        max_active_problems in 1usize..4,
    ) {
        let config = SearchConfig {
            strategy, num_simulations, num_candidates, num_rollouts: 3, max_depth: 6, c_puct: 1.5, prior,
            revisit_terminals, leaves_per_round, virtual_loss, max_tokens, min_value, max_active_problems, ..config()
        };
        let problems: Vec<Problem> = (0..3).map(|idx| Problem { id: format!("p{idx}"), ..problem() }).collect();
        let mut policy = Random { seed, always_right };
        let trees = run_all(&problems, &config, &mut policy);
        for (tree, problem) in trees.iter().zip(&problems) {
            prop_assert_eq!(&tree.problem, problem);
            prop_assert!(tree.num_simulations <= num_simulations);
            let samples_each = if strategy == Strategy::BestOfN { num_candidates as u32 } else { 1 };
            prop_assert_eq!(tree.nodes[0].visit_count, samples_each * tree.num_simulations);
            for node in &tree.nodes {
                prop_assert!((0.0..=1.0).contains(&node.q_value));
                prop_assert!((node.q_value - from_scratch(tree, node.id)).abs() < 1e-9);
                prop_assert!(node.parent.is_none_or(|parent| parent < node.id));
                let children: Vec<_> = tree.nodes.iter().filter(|child| child.parent == Some(node.id)).collect();
                prop_assert!(!node.terminal || children.is_empty());
                prop_assert_eq!(node.correct.is_some(), node.terminal);
                let total: f64 = children.iter().map(|child| child.prior).sum();
                prop_assert!(children.is_empty() || (total - 1.0).abs() < 1e-9);
                // Each visit but the one that made the node, and those that ended at it, went on to a child. Children are
                // made with a visit of their own.
                let below: u32 = children.iter().map(|child| child.visit_count).sum();
                if strategy == Strategy::BestOfN {
                    prop_assert!(node.terminal || below == node.visit_count);
                } else if !children.is_empty() {
                    let own = u32::from(node.id != 0);
                    prop_assert_eq!(node.visit_count - own - 1, below - children.len() as u32);
                }
                // The depth limit states no answer, and so is wrong; above it all rollouts are right.
                let is_good = |node: &&TreeNode| node.rollout_value == 1.0;
                if always_right && is_good(&node) && children.iter().all(|child| child.q_value == 1.0) {
                    prop_assert_eq!(node.q_value, 1.0);
                }
            }
            // A problem's tree does not depend on what is searched beside it.
            prop_assert_eq!(&run_all(std::slice::from_ref(problem), &config, &mut policy)[0], tree);
        }
        // A search that goes on from any of its rounds, through JSON, ends with the same trees: even where more trees are
        // known to be done than what was saved last knows of.
        let mut keeper = Keeper::default();
        search(&problems, &config, &mut policy, Earlier::default(), &mut keeper).unwrap();
        for (idx, (saved, _)) in keeper.rounds.iter().enumerate() {
            for (_, done) in [&keeper.rounds[idx], &keeper.rounds[keeper.rounds.len() - 1]] {
                let text = serde_json::to_string(&saved.trees).unwrap();
                let read = SavedSearch { trees: serde_json::from_str(&text).unwrap(), ..saved.clone() };
                let mut rest = Keeper::default();
                let earlier = Earlier { search: read, done: done.clone() };
                search(&problems, &config, &mut policy, earlier, &mut rest).unwrap();
                for (problem_idx, tree) in trees.iter().enumerate() {
                    let expected = (!done.contains(&problem_idx)).then_some(tree);
                    prop_assert_eq!(rest.trees.get(&problem_idx), expected);
                }
            }
        }
    }
}
