//! Traces worked by hand, and Algorithm 1's invariants on random trees.

use proptest::prelude::*;

use super::*;
use crate::formats::{Problem, VerifierName};

pub(crate) fn config() -> LinearizeConfig {
    LinearizeConfig {
        style: Style::Search,
        num_backtracks: vec![0, 1, 1, 2],
        traces_per_problem: 4,
        wrong: WrongChoice::Uniform,
        distinct: Distinct::Answer,
        sound_attempts: true,
        seed: 3,
    }
}

fn math_problem() -> Problem {
    Problem {
        version: VERSION,
        id: "p".into(),
        problem: "How many?".into(),
        answer: "1".into(),
        verifier: VerifierName::Math,
        meta: serde_json::Map::new(),
    }
}

/// Builds a tree of (parent, stated answer); the answer 1 is the right one.
pub(crate) fn math_tree(nodes: &[(usize, Option<u32>)]) -> Tree {
    let node = |id: usize, parent: Option<usize>, answer: Option<u32>| TreeNode {
        id,
        parent,
        text: match (parent, answer) {
            (None, _) => String::new(),
            (_, Some(answer)) => format!("## Step {id}: Conclude\nSo it is \\boxed{{{answer}}}."),
            (_, None) => format!("## Step {id}: Think {id}\nThought."),
        },
        prior: 1.0,
        visit_count: 1,
        q_value: (id % 11) as f64 / 10.0,
        rollout_value: 0.0,
        terminal: answer.is_some(),
        answer: answer.map(|answer| answer.to_string()),
        correct: answer.map(|answer| answer == 1),
        self_eval: None,
    };
    let mut all = vec![node(0, None, None)];
    all.extend(
        nodes
            .iter()
            .enumerate()
            .map(|(idx, &(parent, answer))| node(idx + 1, Some(parent), answer)),
    );
    Tree {
        version: VERSION,
        problem: math_problem(),
        nodes: all,
        num_simulations: 1,
        num_tokens: 1,
    }
}

/// 0 -> 1 -> {2 wrong 5, 3 -> {4 wrong 6, 5 right}}, 0 -> 6 -> {7 wrong 5, 8 right}
pub(crate) fn small_tree() -> Tree {
    math_tree(&[
        (0, None),
        (1, Some(5)),
        (1, None),
        (3, Some(6)),
        (3, Some(1)),
        (0, None),
        (6, Some(5)),
        (6, Some(1)),
    ])
}

fn shape(nodes: &[TraceNode]) -> Vec<(usize, Relation)> {
    nodes.iter().map(|node| (node.id, node.relation)).collect()
}

#[test]
fn the_last_common_ancestor_is_visited_again() {
    use Relation::{Backtrack, Child, Restart, Root};
    let tree = small_tree();
    let expected = [
        (0, Root),
        (1, Child),
        (2, Child),
        (1, Backtrack),
        (3, Child),
        (4, Child),
        (3, Backtrack),
        (5, Child),
    ];
    assert_eq!(shape(&merge_sequences(&tree, &[2, 4, 5])), expected);
    // Back in a branch that was left before, its steps are taken again.
    let expected = [
        (0, Root),
        (1, Child),
        (2, Child),
        (0, Restart),
        (6, Child),
        (7, Child),
        (0, Restart),
        (1, Child),
        (3, Child),
        (5, Child),
    ];
    assert_eq!(shape(&merge_sequences(&tree, &[2, 7, 5])), expected);
    assert_eq!(
        shape(&merge_sequences(&tree, &[8])),
        [(0, Root), (6, Child), (8, Child)]
    );
}

#[test]
fn wrong_answers_are_different_or_wrong_attempts_are() {
    let tree = small_tree();
    let terminals = Terminals::of(&tree, true);
    assert_eq!(
        (terminals.right.as_slice(), terminals.wrong.as_slice()),
        (&[5, 8][..], &[2, 4, 7][..])
    );
    assert_eq!(num_distinct(&tree, &terminals.wrong, Distinct::Answer), 2);
    assert_eq!(num_distinct(&tree, &terminals.wrong, Distinct::Attempt), 3);
    let config = LinearizeConfig {
        num_backtracks: vec![8],
        traces_per_problem: 2,
        ..config()
    };
    let made = linearize(&tree, &terminals, 0, &config);
    assert_eq!((made.num_capped, made.traces[0].k), (2, 2));
    let made = linearize(
        &tree,
        &terminals,
        0,
        &LinearizeConfig {
            distinct: Distinct::Attempt,
            ..config
        },
    );
    assert_eq!(made.traces[0].k, 3);
}

#[test]
fn promising_attempts_come_first_when_asked_for() {
    let tree = small_tree();
    let mut rng = stream(0, "test", 0);
    // Q of the states before: 0.1 before 2, 0.3 before 4, 0.6 before 7; 2 and 7 answer alike.
    let highest = LinearizeConfig {
        wrong: WrongChoice::HighestQ,
        ..config()
    };
    assert_eq!(choose_wrong(&tree, &[2, 4, 7], 8, &highest, &mut rng), [7, 4]);
    let lowest = LinearizeConfig {
        wrong: WrongChoice::LowestQ,
        ..config()
    };
    assert_eq!(choose_wrong(&tree, &[2, 4, 7], 8, &lowest, &mut rng), [2, 4]);
}

#[test]
fn the_control_has_as_many_examples_and_tells_which_repeat() {
    let tree = small_tree();
    let terminals = Terminals::of(&tree, true);
    let search = linearize(&tree, &terminals, 0, &config());
    let direct = linearize(
        &tree,
        &terminals,
        0,
        &LinearizeConfig {
            style: Style::Direct,
            ..config()
        },
    );
    assert_eq!(
        (search.traces.len(), direct.traces.len(), direct.num_resampled),
        (4, 4, 2)
    );
    let solutions: BTreeSet<usize> = direct
        .traces
        .iter()
        .map(|trace| trace.nodes[trace.nodes.len() - 1].id)
        .collect();
    assert_eq!(solutions, BTreeSet::from([5, 8]));
}

#[test]
fn the_mix_goes_on_from_tree_to_tree() {
    let tree = small_tree();
    let terminals = Terminals::of(&tree, true);
    let config = LinearizeConfig {
        traces_per_problem: 3,
        ..config()
    };
    let ks = |idx| {
        linearize(&tree, &terminals, idx, &config)
            .traces
            .iter()
            .map(|trace| trace.k)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        [ks(0), ks(1), ks(2), ks(3)],
        [[0, 1, 1], [2, 0, 1], [1, 2, 0], [1, 1, 2]]
    );
}

#[test]
fn attempts_that_are_not_honest_are_no_attempts() {
    let mut tree = small_tree();
    tree.problem.verifier = VerifierName::Countdown;
    tree.problem.problem = "7 3 4 -> 40".into();
    for (id, text) in [
        (1, "7 + 3 = 10 | 4 10"),
        (2, "10 + 4 = 14 , 14 ? 40"),
        (3, "10 - 4 = 6 | 6"),
        (4, "10 + 4 = 15 , 15 ? 40"),
        (5, "10 * 4 = 40 , 40 ? 40"),
        (6, "7 - 3 = 4 | 4 4"),
        (7, "4 * 4 = 16 , 40 ? 40"),
        (8, "10 * 4 = 40 , 40 ? 40"),
    ] {
        tree.nodes[id].text = text.into();
    }
    let terminals = Terminals::of(&tree, true);
    assert_eq!((terminals.wrong.as_slice(), terminals.num_unsound), (&[2][..], 2));
    assert_eq!(Terminals::of(&tree, false).wrong, [2, 4, 7]);
}

#[test]
fn broken_trees_are_noticed() {
    assert_eq!(defect(&small_tree()), None);
    let mut tree = small_tree();
    tree.nodes[3].parent = Some(7);
    assert!(defect(&tree).is_some());
    let mut tree = small_tree();
    tree.nodes[3].parent = Some(2);
    assert_eq!(defect(&tree), Some("a terminal has children"));
    tree.nodes.clear();
    assert!(defect(&tree).is_some());
}

/// Any tree: each node hangs below an earlier inner node and may be a terminal with one of a few answers.
pub(crate) fn any_tree() -> impl Strategy<Value = Tree> {
    prop::collection::vec(
        (any::<prop::sample::Index>(), prop::option::weighted(0.6, 1u32..6)),
        1..40,
    )
    .prop_map(|drawn| {
        let mut inner = vec![0];
        let mut nodes = Vec::new();
        for (idx, (parent, answer)) in drawn.into_iter().enumerate() {
            nodes.push((inner[parent.index(inner.len())], answer));
            if answer.is_none() {
                inner.push(idx + 1);
            }
        }
        math_tree(&nodes)
    })
}

proptest! {
    #[test]
    fn invariants_of_the_traces(
        tree in any_tree(),
        tree_idx in 0usize..10,
        num_backtracks in prop::collection::vec(0usize..5, 1..5),
        traces_per_problem in 1usize..6,
        wrong in prop::sample::select(vec![WrongChoice::Uniform, WrongChoice::HighestQ, WrongChoice::LowestQ]),
        seed in any::<u64>(),
    ) {
        prop_assert_eq!(defect(&tree), None);
        let terminals = Terminals::of(&tree, true);
        prop_assume!(!terminals.right.is_empty() && !terminals.wrong.is_empty());
        let config =
            LinearizeConfig { num_backtracks, traces_per_problem, wrong, seed, ..config() };
        let made = linearize(&tree, &terminals, tree_idx, &config);
        prop_assert_eq!(made.traces.len() + made.num_duplicates, traces_per_problem);
        let mut sequences = BTreeSet::new();
        for trace in &made.traces {
            let nodes = &trace.nodes;
            prop_assert_eq!((nodes[0].id, nodes[0].relation), (0, Relation::Root));
            prop_assert_eq!(nodes[nodes.len() - 1].correct, Some(true));
            prop_assert_eq!(&trace.answer, "1");
            let wrong: Vec<_> = nodes.iter().filter(|node| node.correct == Some(false)).collect();
            let returns = nodes.iter().filter(|node| matches!(node.relation, Relation::Backtrack | Relation::Restart));
            prop_assert_eq!((wrong.len(), returns.count()), (trace.k, trace.k));
            let answers: BTreeSet<_> = wrong.iter().map(|node| &node.answer).collect();
            prop_assert_eq!(answers.len(), trace.k, "a wrong answer occurs twice");
            for pair in nodes.windows(2) {
                let [before, node] = pair else { unreachable!("windows of two") };
                match node.relation {
                    Relation::Child => prop_assert_eq!(node.parent, Some(before.id)),
                    Relation::Backtrack | Relation::Restart => {
                        prop_assert_eq!(before.correct, Some(false), "a return in the middle of an attempt");
                        prop_assert_eq!(node.relation == Relation::Restart, node.id == 0);
                        prop_assert!(path_to(&tree, before.id).contains(&node.id));
                    }
                    Relation::Root => prop_assert!(false, "a second root"),
                }
            }
            prop_assert!(sequences.insert(nodes.iter().map(|node| node.id).collect::<Vec<_>>()), "a duplicate");
        }
        let direct = linearize(&tree, &terminals, tree_idx, &LinearizeConfig { style: Style::Direct, ..config });
        prop_assert_eq!(direct.traces.len(), made.traces.len());
        for trace in &direct.traces {
            prop_assert!(trace.k == 0 && trace.nodes.iter().skip(1).all(|node| node.relation == Relation::Child));
        }
    }
}
