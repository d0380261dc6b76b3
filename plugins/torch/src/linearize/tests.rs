//! Traces worked by hand, and Algorithm 1's invariants on random trees.

use proptest::prelude::*;

use super::*;
use crate::card::tally;
use crate::formats::{Problem, SelfEval, TreeNode, VerifierName};

pub(crate) fn config() -> LinearizeConfig {
    LinearizeConfig {
        style: Style::Search,
        num_backtracks: vec![0, 1, 1, 2],
        traces_per_problem: 4,
        min_traces_per_problem: 1,
        even_backtracks: false,
        wrong: WrongChoice::Uniform,
        distinct: Distinct::Answer,
        sound_attempts: true,
        self_eval: SelfEvalUse::IfPresent,
        min_agree: None,
        return_to: ReturnTo::Ancestor,
        max_length: None,
        too_long: TooLong::Drop,
        dedupe: true,
        seed: 3,
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn lengths(tree: &Tree) -> Vec<usize> {
    tree.nodes.iter().map(|node| words(&node.text)).collect()
}

fn terminals_of(tree: &Tree, config: &LinearizeConfig) -> Terminals {
    let lengths = lengths(tree);
    Terminals::of(
        Measured {
            tree,
            lengths: &lengths,
        },
        config,
    )
}

/// The searching traces of one tree; none where its terminals are of one sort.
pub(crate) fn traces_of(tree: &Tree, config: &LinearizeConfig) -> TreeTraces {
    let lengths = lengths(tree);
    let measured = Measured {
        tree,
        lengths: &lengths,
    };
    let terminals = Terminals::of(measured, config);
    match terminals.objection() {
        Some(_) => TreeTraces::default(),
        None => search_traces(measured, &terminals, config),
    }
}

/// The traces of a set of trees that come from one file.
fn linearize_set(trees: &[Tree], config: &LinearizeConfig) -> Result<(Vec<Trace>, Card), String> {
    let sources = [Source {
        name: "trees".into(),
        path: "trees.jsonl".into(),
    }];
    let sourced: Vec<Sourced> = trees
        .iter()
        .enumerate()
        .map(|(idx, tree)| Sourced {
            tree: tree.clone(),
            source_idx: 0,
            line: idx + 1,
        })
        .collect();
    linearize_all(&sources, &sourced, config, "words", &mut |text| Ok(words(text)))
        .map_err(|error| format!("{error:#}"))
}

fn named(mut tree: Tree, id: &str) -> Tree {
    tree.problem.id = id.into();
    tree.problem.problem = format!("How many {id}?");
    tree
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
    assert_eq!(shape(&merge_sequences(&tree, &[2, 4, 5], ReturnTo::Ancestor)), expected);
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
    assert_eq!(shape(&merge_sequences(&tree, &[2, 7, 5], ReturnTo::Ancestor)), expected);
    assert_eq!(
        shape(&merge_sequences(&tree, &[8], ReturnTo::Ancestor)),
        [(0, Root), (6, Child), (8, Child)]
    );
    // The ablation begins each attempt anew.
    let expected = [
        (0, Root),
        (1, Child),
        (2, Child),
        (0, Restart),
        (1, Child),
        (3, Child),
        (4, Child),
        (0, Restart),
        (1, Child),
        (3, Child),
        (5, Child),
    ];
    assert_eq!(shape(&merge_sequences(&tree, &[2, 4, 5], ReturnTo::Root)), expected);
}

#[test]
fn wrong_answers_are_different_or_wrong_attempts_are() {
    let tree = small_tree();
    let terminals = terminals_of(&tree, &config());
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
    let made = traces_of(&tree, &config);
    assert_eq!((made.num_capped, made.traces[0].k), (2, 2));
    let made = traces_of(
        &tree,
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
    let terminals = terminals_of(&tree, &config());
    let search = traces_of(&tree, &config());
    let direct = direct_traces(&tree, &terminals, search.traces.len(), &config());
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
fn the_mix_goes_on_from_a_place_that_the_problem_decides() {
    let ks = |id: usize, traces_per_problem| {
        let config = LinearizeConfig {
            traces_per_problem,
            ..config()
        };
        let made = traces_of(&named(small_tree(), &id.to_string()), &config);
        made.traces.iter().map(|trace| trace.k).collect::<Vec<_>>()
    };
    // Whole cycles begin with the first number; of three traces each, all four beginnings occur, about equally often.
    assert_eq!(ks(0, 4), [0, 1, 1, 2]);
    let begun = tally((0..400).map(|id| ks(id, 3)));
    assert_eq!(
        begun.keys().cloned().collect::<Vec<_>>(),
        [[0, 1, 1], [1, 1, 2], [1, 2, 0], [2, 0, 1]]
    );
    assert!(begun.values().all(|count| (70..130).contains(count)), "{begun:?}");
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
    let terminals = terminals_of(&tree, &config());
    assert_eq!((terminals.wrong.as_slice(), terminals.num_unsound), (&[2][..], 2));
    assert_eq!(
        terminals_of(
            &tree,
            &LinearizeConfig {
                sound_attempts: false,
                ..config()
            }
        )
        .wrong,
        [2, 4, 7]
    );
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

fn votes(votes: u32, agree: u32) -> Option<SelfEval> {
    Some(SelfEval {
        votes,
        agree,
        good: agree == votes,
    })
}

#[test]
fn right_terminals_that_were_voted_down_are_not_used() {
    let mut tree = small_tree();
    tree.nodes[5].self_eval = votes(8, 7);
    let right = |change: &dyn Fn(&mut LinearizeConfig)| {
        let mut config = config();
        change(&mut config);
        terminals_of(&tree, &config).right
    };
    assert_eq!(right(&|_| ()), [8]);
    assert_eq!(right(&|config| config.min_agree = Some(7)), [5, 8]);
    assert_eq!(right(&|config| config.self_eval = SelfEvalUse::Ignore), [5, 8]);
    assert_eq!(right(&|config| config.self_eval = SelfEvalUse::Require), [0usize; 0]);
    tree.nodes[8].self_eval = votes(8, 0);
    let terminals = terminals_of(&tree, &config());
    assert_eq!(
        (terminals.num_voted_down, terminals.objection()),
        (2, Some("without_self_evaluated"))
    );
    // Whom nobody voted on was not voted down.
    let required = LinearizeConfig {
        self_eval: SelfEvalUse::Require,
        ..config()
    };
    tree.nodes[5].self_eval = None;
    let terminals = terminals_of(&tree, &required);
    assert_eq!((terminals.num_voted_down, terminals.num_without_votes), (1, 1));
    let terminals = terminals_of(&small_tree(), &required);
    assert_eq!(
        (terminals.num_voted_down, terminals.objection()),
        (0, Some("without_votes"))
    );
}

#[test]
fn without_traces_the_advice_is_about_the_reason() {
    let advice = |tree: Tree, change: &dyn Fn(&mut LinearizeConfig)| {
        let mut config = config();
        change(&mut config);
        let (traces, card) = linearize_set(&[tree], &config).unwrap();
        assert!(traces.is_empty());
        card.advice().unwrap()
    };
    let text = advice(small_tree(), &|config| config.self_eval = SelfEvalUse::Require);
    assert!(text.contains("nobody voted") && text.contains("if_present"), "{text}");
    let text = advice(small_tree(), &|config| config.max_length = Some(5));
    assert!(text.contains("max_length"), "{text}");
    let text = advice(small_tree(), &|config| {
        (config.max_length, config.num_backtracks) = (Some(20), vec![2]);
    });
    assert!(text.contains("too_long: shorten"), "{text}");
    let mut voted_down = small_tree();
    for id in [5, 8] {
        voted_down.nodes[id].self_eval = votes(8, 0);
    }
    assert!(advice(voted_down, &|_| ()).contains("min_agree"));
    assert!(advice(math_tree(&[(0, Some(1))]), &|_| ()).contains("usable wrong"));
    assert!(advice(math_tree(&[(0, Some(2))]), &|_| ()).contains("a right terminal"));
}

#[test]
fn long_traces_are_left_out_or_shortened_from_the_front() {
    // Steps of the small tree have 6 words, terminals 8. Of its traces with two backtracks one alone has 36, and the
    // others more than 40; its solutions have 20 and 14.
    let tree = small_tree();
    let at_most = |most, too_long| LinearizeConfig {
        num_backtracks: vec![2],
        max_length: Some(most),
        too_long,
        ..config()
    };
    let longest = |traces: &[Trace]| {
        let written = |trace: &Trace| {
            trace
                .nodes
                .iter()
                .filter(|node| node.relation == Relation::Child)
                .count()
        };
        traces.iter().map(written).max()
    };
    let (traces, card) = linearize_set(std::slice::from_ref(&tree), &at_most(40, TooLong::Drop)).unwrap();
    assert!(
        longest(&traces) == Some(5) && traces.iter().all(|trace| trace.k == 2),
        "{traces:?}"
    );
    assert_eq!(
        card.num_asked,
        card.num_traces + card.dropped_traces.values().sum::<usize>()
    );
    let (traces, card) = linearize_set(std::slice::from_ref(&tree), &at_most(30, TooLong::Shorten)).unwrap();
    assert!(
        longest(&traces) == Some(4) && traces.iter().all(|trace| trace.k < 2),
        "{traces:?}"
    );
    assert!(card.num_shortened > 0 && !card.dropped_traces.contains_key(dropped::TOO_LONG));
    let (traces, card) = linearize_set(std::slice::from_ref(&tree), &at_most(9, TooLong::Shorten)).unwrap();
    assert_eq!(
        (
            traces.len(),
            card.dropped["solutions_too_long"],
            card.num_too_long_terminals
        ),
        (0, 1, 2)
    );
}

#[test]
fn a_problem_in_other_words_is_new_and_the_same_words_are_not() {
    let mut repeated = named(small_tree(), "b");
    repeated.problem.problem = "  how many   A?\n".into();
    let trees = [named(small_tree(), "a"), repeated, named(small_tree(), "c")];
    let (_, card) = linearize_set(&trees, &config()).unwrap();
    assert_eq!((card.num_used, card.dropped["repeated_problem"]), (2, 1));
    let (_, card) = linearize_set(
        &trees,
        &LinearizeConfig {
            dedupe: false,
            ..config()
        },
    )
    .unwrap();
    assert_eq!(card.num_used, 3);
    // A tree that gives nothing does not stand in the way of the next one.
    let mut trees = trees;
    trees[0].nodes.truncate(3);
    let (traces, card) = linearize_set(&trees, &config()).unwrap();
    assert_eq!((card.num_used, card.dropped["without_correct_terminal"]), (2, 1));
    assert!(traces.iter().any(|trace| trace.problem.id == "b"), "{:?}", card.dropped);
}

#[test]
fn fewer_backtracks_than_any_number_asked_for_cost_no_other_traces() {
    // Nine trees with two different wrong answers, and one with one.
    let mut trees: Vec<Tree> = (0..9).map(|idx| named(small_tree(), &idx.to_string())).collect();
    trees.push(named(math_tree(&[(0, Some(2)), (0, Some(1))]), "poor"));
    let even = |num_backtracks| LinearizeConfig {
        num_backtracks,
        even_backtracks: true,
        ..config()
    };
    let (traces, card) = linearize_set(&trees, &even(vec![2])).unwrap();
    assert_eq!((traces.len(), card.num_backtracks[&1]), (card.num_asked - 3, 1));
    assert!(!card.dropped_traces.contains_key(dropped::EVEN_BACKTRACKS));
}

#[test]
fn traces_of_the_same_words_are_one() {
    // Two wrong and two right terminals, which differ in their number and not in their words.
    let mut tree = math_tree(&[(0, Some(5)), (0, Some(5)), (0, Some(1)), (0, Some(1))]);
    for (id, text) in [
        (1, "It is \\boxed{5}."),
        (2, "It  is \\boxed{5}."),
        (3, "It is \\boxed{1}."),
        (4, "It is \\boxed{1}.\n"),
    ] {
        tree.nodes[id].text = text.into();
    }
    let config = LinearizeConfig {
        num_backtracks: vec![1],
        ..config()
    };
    let made = traces_of(&tree, &config);
    assert_eq!((made.traces.len(), made.dropped[dropped::DUPLICATE]), (1, 3));
    let made = traces_of(
        &tree,
        &LinearizeConfig {
            dedupe: false,
            ..config
        },
    );
    assert_eq!(made.traces.len(), 4);
}

#[test]
fn two_trees_of_one_problem_are_an_error_that_names_both() {
    let sources = ["shard_index=0", "shard_index=1"].map(|name| Source {
        name: name.into(),
        path: format!("{name}.jsonl").into(),
    });
    let sourced = |source_idx, line| Sourced {
        tree: small_tree(),
        source_idx,
        line,
    };
    let trees = [sourced(0, 4), sourced(1, 9)];
    let error = linearize_all(&sources, &trees, &config(), "words", &mut |_| Ok(1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"p\""), "{error}");
    assert!(error.contains("shard_index=0.jsonl:4 (shard_index=0)"), "{error}");
    assert!(error.contains("shard_index=1.jsonl:9 (shard_index=1)"), "{error}");
}

#[test]
fn a_broken_tree_is_an_error_that_names_its_line() {
    let mut tree = small_tree();
    tree.nodes[1].parent = Some(9);
    let error = linearize_set(&[named(small_tree(), "a"), tree], &config()).unwrap_err();
    assert!(
        error.contains("trees.jsonl:2 (trees): the tree of problem \"p\" is broken"),
        "{error}"
    );
}

#[test]
fn the_card_says_what_was_used_and_what_was_not() {
    let mut trees = [
        named(small_tree(), "a"),
        named(math_tree(&[(0, Some(1))]), "b"),
        named(math_tree(&[(0, Some(2))]), "c"),
        named(math_tree(&[(0, None)]), "d"),
        named(math_tree(&[(0, Some(1)), (0, Some(2))]), "e"),
    ];
    for (tree, subject) in trees
        .iter_mut()
        .zip(["Algebra", "Algebra", "Geometry", "Geometry", "Geometry"])
    {
        tree.problem.meta.insert("subject".into(), subject.into());
    }
    let (traces, card) = linearize_set(&trees, &config()).unwrap();
    assert_eq!((card.num_trees, card.num_used, card.num_traces), (5, 2, traces.len()));
    let reasons = [
        "without_correct_terminal",
        "without_usable_terminals",
        "without_wrong_terminal",
    ];
    assert_eq!(card.dropped, reasons.map(|reason| (reason.to_owned(), 1)).into());
    // Of the last tree, k = 0 and k = 1 are all there is: a second 1 repeats, and 2 is capped into another repeat.
    assert_eq!(card.dropped_traces, [(dropped::DUPLICATE.to_owned(), 2)].into());
    assert_eq!(card.num_backtracks, tally(traces.iter().map(|trace| trace.k)));
    assert_eq!((card.num_asked, card.length.count), (8, traces.len()));
    let algebra = &card.groups["subject"]["Algebra"];
    assert_eq!((algebra.num_trees, algebra.num_used, algebra.num_traces), (2, 1, 4));
    let text = card.text(&traces);
    for part in [
        "6 traces of 2 problems, out of 5 trees.",
        "| no right terminal | 1 | 20.0% |",
        "| repeats another of its problem in every draw | 2 | 25.0% |",
        "| Geometry | 3 | 1 | 33.3% | 2 |",
        "## An example: problem a\n\n```text\nHow many a?\n",
        "Conclude So it is \\boxed{1}.  <- right\n```\n",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let direct = LinearizeConfig {
        style: Style::Direct,
        ..config()
    };
    let (direct, direct_card) = linearize_set(&trees, &direct).unwrap();
    assert_eq!((direct.len(), direct_card.num_used), (traces.len(), card.num_used));
}

#[test]
fn what_can_not_be_asked_for_is_said() {
    let refused = |config: &LinearizeConfig| linearize_set(&[small_tree()], config).unwrap_err();
    assert!(
        refused(&LinearizeConfig {
            num_backtracks: vec![],
            ..config()
        })
        .contains("num_backtracks is empty")
    );
    let error = refused(&LinearizeConfig {
        min_traces_per_problem: 5,
        ..config()
    });
    assert!(
        error.contains("min_traces_per_problem is 5, but no problem gives more than 4"),
        "{error}"
    );
}

fn any_config() -> impl Strategy<Value = LinearizeConfig> {
    let mixes = prop_oneof![3 => prop::collection::vec(0usize..5, 1..5), 1 => Just(vec![2])];
    let wrongs = vec![WrongChoice::Uniform, WrongChoice::HighestQ, WrongChoice::LowestQ];
    let evals = vec![SelfEvalUse::IfPresent, SelfEvalUse::Require, SelfEvalUse::Ignore];
    let balance = (1usize..6).prop_flat_map(|most| (Just(most), 0..=most, any::<bool>()));
    (
        (mixes, balance, prop::sample::select(wrongs), any::<bool>()),
        (prop::sample::select(evals), prop::option::of(0u32..9), any::<bool>()),
        (
            prop::option::weighted(0.5, 5usize..80),
            any::<bool>(),
            any::<bool>(),
            any::<u64>(),
        ),
    )
        .prop_map(
            |(
                (mix, (most, least, even), wrong, by_answer),
                (self_eval, min_agree, to_root),
                (max_length, shorten, dedupe, seed),
            )| {
                LinearizeConfig {
                    style: Style::Search,
                    num_backtracks: mix,
                    traces_per_problem: most,
                    min_traces_per_problem: least,
                    even_backtracks: even,
                    wrong,
                    distinct: if by_answer { Distinct::Answer } else { Distinct::Attempt },
                    sound_attempts: true,
                    self_eval,
                    min_agree,
                    return_to: if to_root { ReturnTo::Root } else { ReturnTo::Ancestor },
                    max_length,
                    too_long: if shorten { TooLong::Shorten } else { TooLong::Drop },
                    dedupe,
                    seed,
                }
            },
        )
}

/// A tree whose right terminals were voted on, or were not.
fn any_judged_tree() -> impl Strategy<Value = Tree> {
    (any_tree(), prop::collection::vec(prop::option::of(0u32..9), 40)).prop_map(|(mut tree, agrees)| {
        for (node, agree) in tree.nodes.iter_mut().zip(agrees) {
            if node.correct == Some(true) {
                node.self_eval = agree.and_then(|agree| votes(8, agree));
            }
        }
        tree
    })
}

/// Walks a trace over its tree, step by step as a solver would, and checks each.
fn replay(tree: &Tree, trace: &Trace, config: &LinearizeConfig) -> Result<(), TestCaseError> {
    let nodes = &trace.nodes;
    prop_assert_eq!((nodes[0].id, nodes[0].relation), (0, Relation::Root));
    let mut at = &tree.nodes[0];
    let mut num_returns = 0;
    for (idx, visit) in nodes.iter().enumerate() {
        let node = &tree.nodes[visit.id];
        prop_assert_eq!(
            (&visit.text, &visit.answer, visit.correct),
            (&node.text, &node.answer, node.correct)
        );
        match visit.relation {
            Relation::Root => prop_assert_eq!(idx, 0, "a second root"),
            Relation::Child => prop_assert_eq!(node.parent, Some(at.id), "a step to no child"),
            Relation::Backtrack | Relation::Restart => {
                num_returns += 1;
                prop_assert_eq!(at.correct, Some(false), "a return in the middle of an attempt");
                prop_assert_eq!(visit.relation == Relation::Restart, node.id == 0);
                prop_assert!(
                    at.id != node.id && path_to(tree, at.id).contains(&node.id),
                    "a return to no ancestor"
                );
                let next = nodes[idx..]
                    .iter()
                    .find(|later| later.terminal)
                    .map(|later| path_to(tree, later.id));
                let next = next.expect("an attempt follows");
                let lowest = path_to(tree, at.id).into_iter().filter(|id| next.contains(id)).max();
                let expected = if config.return_to == ReturnTo::Root {
                    Some(0)
                } else {
                    lowest
                };
                prop_assert_eq!(Some(node.id), expected, "not the last common ancestor");
            }
        }
        at = node;
    }
    prop_assert!(
        at.terminal && at.correct == Some(true),
        "it ends elsewhere than at a correct leaf"
    );
    prop_assert!(
        !tree.nodes.iter().any(|node| node.parent == Some(at.id)),
        "it ends at no leaf"
    );
    prop_assert_eq!(&Some(trace.answer.clone()), &at.answer);
    let wrong: Vec<&TraceNode> = nodes.iter().filter(|node| node.correct == Some(false)).collect();
    prop_assert_eq!((wrong.len(), num_returns), (trace.k, trace.k));
    let kept: BTreeSet<&str> = match config.distinct {
        Distinct::Answer => wrong.iter().filter_map(|node| node.answer.as_deref()).collect(),
        Distinct::Attempt => wrong.iter().map(|node| node.text.as_str()).collect(),
    };
    prop_assert_eq!(kept.len(), trace.k, "a wrong attempt occurs twice");
    Ok(())
}

proptest! {
    #[test]
    fn every_trace_replays_on_its_tree(trees in prop::collection::vec(any_judged_tree(), 1..6), config in any_config()) {
        let trees: Vec<Tree> = trees.into_iter().enumerate().map(|(idx, tree)| named(tree, &idx.to_string())).collect();
        let (traces, card) = linearize_set(&trees, &config).expect("whole trees");
        let tree_of = |trace: &Trace| trees.iter().find(|tree| tree.problem.id == trace.problem.id).expect("its tree");
        let mut identities = BTreeSet::new();
        for trace in &traces {
            let tree = tree_of(trace);
            replay(tree, trace, &config)?;
            let last = &tree.nodes[trace.nodes[trace.nodes.len() - 1].id];
            let is_good = last.self_eval.map(|votes| config.min_agree.map_or(votes.good, |least| votes.agree >= least));
            match config.self_eval {
                SelfEvalUse::IfPresent => prop_assert!(is_good != Some(false)),
                SelfEvalUse::Require => prop_assert_eq!(is_good, Some(true)),
                SelfEvalUse::Ignore => {}
            }
            let written = trace.nodes.iter().filter(|node| node.relation == Relation::Child);
            let length: usize = written.map(|node| words(&node.text)).sum();
            prop_assert!(config.max_length.is_none_or(|most| length <= most));
            prop_assert!(identities.insert((trace.problem.id.clone(), identity(&trace.nodes, &config))), "a duplicate");
        }
        let per_problem = tally(traces.iter().map(|trace| trace.problem.id.clone()));
        for count in per_problem.values() {
            prop_assert!((config.min_traces_per_problem.max(1)..=config.traces_per_problem).contains(count));
        }
        if config.even_backtracks && config.min_traces_per_problem <= 1 {
            let asked: BTreeSet<usize> = config.num_backtracks.iter().copied().collect();
            let group = |k: usize| asked.range(..=k).next_back().or(asked.first()).copied();
            let counts: BTreeSet<usize> = tally(traces.iter().map(|trace| group(trace.k))).into_values().collect();
            prop_assert!(counts.len() <= 1, "uneven: {counts:?}");
            let is_uneven = card.dropped_traces.contains_key(dropped::EVEN_BACKTRACKS);
            prop_assert!(asked.len() > 1 || !is_uneven, "one number has as many as it has");
        }
        prop_assert_eq!(card.num_trees, card.num_used + card.dropped.values().sum::<usize>());
        prop_assert_eq!(card.num_asked, traces.len() + card.dropped_traces.values().sum::<usize>());
        prop_assert_eq!(&card.num_backtracks, &tally(traces.iter().map(|trace| trace.k)));
        prop_assert_eq!((card.num_used, card.length.count), (per_problem.len(), traces.len()));

        let direct = LinearizeConfig { style: Style::Direct, ..config.clone() };
        let (direct, direct_card) = linearize_set(&trees, &direct).expect("whole trees");
        prop_assert_eq!(tally(direct.iter().map(|trace| trace.problem.id.clone())), per_problem, "another number of examples");
        prop_assert_eq!(direct_card.num_asked, card.num_asked);
        for trace in &direct {
            replay(tree_of(trace), trace, &config)?;
            prop_assert!(trace.k == 0 && trace.nodes.iter().skip(1).all(|node| node.relation == Relation::Child));
        }
    }

    /// A problem's traces are its own: neither the order of the trees nor those beside it matter.
    #[test]
    fn other_trees_change_nothing(
        trees in prop::collection::vec(any_judged_tree(), 2..6),
        config in any_config(),
        to_direct in any::<bool>(),
    ) {
        let style = if to_direct { Style::Direct } else { Style::Search };
        let config = LinearizeConfig { style, even_backtracks: false, ..config };
        let trees: Vec<Tree> = trees.into_iter().enumerate().map(|(idx, tree)| named(tree, &idx.to_string())).collect();
        let (all, _) = linearize_set(&trees, &config).expect("whole trees");
        let reversed: Vec<Tree> = trees.iter().rev().cloned().collect();
        let (mut turned, _) = linearize_set(&reversed, &config).expect("whole trees");
        turned.sort_by_key(|trace| trace.problem.id.clone());
        prop_assert_eq!(&turned, &all);
        let (shard, _) = linearize_set(&trees[1..], &config).expect("whole trees");
        let left: Vec<Trace> = all.into_iter().filter(|trace| trace.problem.id != "0").collect();
        prop_assert_eq!(shard, left);
        // Evened out, the same traces stay in any order.
        let even = LinearizeConfig { even_backtracks: true, ..config };
        let (all, _) = linearize_set(&trees, &even).expect("whole trees");
        let (mut turned, _) = linearize_set(&reversed, &even).expect("whole trees");
        turned.sort_by_key(|trace| trace.problem.id.clone());
        prop_assert_eq!(turned, all);
    }

    /// Where a tree has the wrong answers and there is room, a trace has the backtracks that were asked for.
    #[test]
    fn a_trace_has_as_many_backtracks_as_were_asked_for(
        tree in any_tree(),
        wanted in 0usize..5,
        seed in any::<u64>(),
        to_root in any::<bool>(),
    ) {
        let return_to = if to_root { ReturnTo::Root } else { ReturnTo::Ancestor };
        let config = LinearizeConfig { num_backtracks: vec![wanted], return_to, seed, ..config() };
        let terminals = terminals_of(&tree, &config);
        prop_assume!(terminals.objection().is_none());
        let possible = num_distinct(&tree, &terminals.wrong, Distinct::Answer);
        let made = traces_of(&tree, &config);
        prop_assert!(!made.traces.is_empty());
        for trace in &made.traces {
            prop_assert_eq!(trace.k, wanted.min(possible));
            replay(&tree, trace, &config)?;
        }
        prop_assert_eq!(made.num_capped, if wanted > possible { made.traces.len() } else { 0 });
    }
}
