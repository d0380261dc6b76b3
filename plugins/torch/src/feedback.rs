//! Search trees as judged solutions: what KTO and Step-KTO learn from. No tensors, no files.
//!
//! Every terminal of a tree is a solution whose outcome the verifier knows. Its steps are judged by what the search found
//! out about the states that they lead to, in place of Step-KTO's process reward model (arXiv:2501.10799): a step is good
//! where solutions that go on from it are right often enough, as in Math-Shepherd (arXiv:2312.08935).

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::formats::{Feedback, StepFeedback, Tree, TreeNode, VERSION};
use crate::verify::{join_steps, same_answer};

/// What a step is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepLabel {
    /// The Q of the step: all rollouts at and below it.
    QValue,
    /// The rollouts made when the step was found, alone.
    RolloutValue,
    /// Whether any rollout or terminal at or below it was right: Math-Shepherd's hard estimate.
    AnySuccess,
}

/// How solutions are chosen and judged.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackConfig {
    pub step_label: StepLabel,
    /// Steps of at least this value are good, the others bad, 0..=1.
    pub good_step: f64,
    /// Right solutions of a problem, at most.
    pub num_desirable: usize,
    /// Wrong ones.
    pub num_undesirable: usize,
    /// Whether no two wrong solutions of a problem share an answer.
    pub distinct: bool,
}

/// Returns the judged solutions of a tree, whose nodes come before their children: right ones, then wrong ones, each sort as drawn.
///
/// Right solutions that a model found unjustified (`self_eval`) are left out, since they are neither.
pub fn feedback(tree: &Tree, config: &FeedbackConfig, rng: &mut ChaCha8Rng) -> Vec<Feedback> {
    let mut terminals: Vec<&TreeNode> = tree
        .nodes
        .iter()
        .filter(|node| node.terminal && node.parent.is_some())
        .collect();
    terminals.shuffle(rng);
    let of = |verdict| {
        terminals
            .iter()
            .copied()
            .filter(move |node| node.correct == Some(verdict))
    };
    let right = of(true).filter(|node| node.self_eval.is_none_or(|votes| votes.good));
    let mut chosen: Vec<&TreeNode> = right.take(config.num_desirable).collect();
    let mut wrong: Vec<&TreeNode> = Vec::new();
    for node in of(false) {
        let repeats = |other: &&TreeNode| match (&other.answer, &node.answer) {
            (Some(a), Some(b)) => same_answer(tree.problem.verifier, a, b),
            (a, b) => a == b,
        };
        if wrong.len() < config.num_undesirable && !(config.distinct && wrong.iter().any(repeats)) {
            wrong.push(node);
        }
    }
    chosen.append(&mut wrong);
    let is_good = good_nodes(tree, config);
    chosen.into_iter().map(|node| solution(tree, node, &is_good)).collect()
}

/// Leaves as many of each sort: the larger loses some at random, the rest stays in order.
pub fn balance(all: Vec<Feedback>, rng: &mut ChaCha8Rng) -> Vec<Feedback> {
    let (mut right, mut wrong): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|&idx| all[idx].label);
    let count = right.len().min(wrong.len());
    let mut is_kept = vec![false; all.len()];
    for sort in [&mut right, &mut wrong] {
        sort.shuffle(rng);
        sort.iter().take(count).for_each(|&idx| is_kept[idx] = true);
    }
    let kept = all.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept);
    kept.map(|(feedback, _)| feedback).collect()
}

fn solution(tree: &Tree, terminal: &TreeNode, is_good: &[bool]) -> Feedback {
    let mut path = vec![terminal];
    while let Some(parent) = path[path.len() - 1].parent.filter(|&parent| parent > 0) {
        path.push(&tree.nodes[parent]);
    }
    path.reverse();
    let texts: Vec<&str> = path.iter().map(|node| node.text.trim()).collect();
    let verifier = tree.problem.verifier;
    let steps = path.iter().enumerate().map(|(idx, node)| {
        let end = join_steps(verifier, &texts[..=idx]).len();
        StepFeedback {
            range: [end - texts[idx].len(), end],
            label: Some(is_good[node.id]),
        }
    });
    Feedback {
        version: VERSION,
        problem_id: tree.problem.id.clone(),
        prompt: tree.problem.problem.clone(),
        completion: join_steps(verifier, &texts),
        label: terminal.correct == Some(true),
        steps: steps.collect(),
    }
}

/// Whether each node is a good step.
fn good_nodes(tree: &Tree, config: &FeedbackConfig) -> Vec<bool> {
    let value = |node: &TreeNode| match (node.correct, config.step_label) {
        (Some(correct), _) if node.terminal => f64::from(u8::from(correct)),
        (_, StepLabel::QValue) => node.q_value,
        (_, StepLabel::RolloutValue) => node.rollout_value,
        (_, StepLabel::AnySuccess) => f64::from(u8::from(node.rollout_value > 0.0)),
    };
    if config.step_label != StepLabel::AnySuccess {
        return tree.nodes.iter().map(|node| value(node) >= config.good_step).collect();
    }
    let mut any: Vec<bool> = tree.nodes.iter().map(|node| value(node) > 0.0).collect();
    // Each node comes before its children.
    for node in tree.nodes.iter().rev() {
        if let Some(parent) = node.parent.filter(|_| any[node.id]) {
            any[parent] = true;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Problem, SelfEval, VerifierName};
    use crate::random::stream;

    fn node(id: usize, parent: Option<usize>, text: &str, q: f64, rollouts: f64) -> TreeNode {
        TreeNode {
            id,
            parent,
            text: text.into(),
            prior: 1.0,
            visit_count: 1,
            q_value: q,
            rollout_value: rollouts,
            terminal: false,
            answer: None,
            correct: None,
            self_eval: None,
        }
    }

    fn terminal(id: usize, parent: usize, text: &str, answer: &str, correct: bool) -> TreeNode {
        let value = f64::from(u8::from(correct));
        TreeNode {
            terminal: true,
            answer: Some(answer.into()),
            correct: Some(correct),
            ..node(id, Some(parent), text, value, value)
        }
    }

    fn tree() -> Tree {
        Tree {
            version: 1,
            problem: Problem {
                version: 1,
                id: "p".into(),
                problem: "7 3 4 -> 40".into(),
                answer: "40".into(),
                verifier: VerifierName::Countdown,
                meta: serde_json::Map::new(),
            },
            nodes: vec![
                node(0, None, "", 0.4, 0.0),
                node(1, Some(0), "7 + 3 = 10 | 4 10", 0.6, 0.25),
                node(2, Some(0), "7 - 3 = 4 | 4 4", 0.1, 0.0),
                terminal(3, 1, "10 * 4 = 40 , 40 ? 40", "40", true),
                terminal(4, 1, "10 + 4 = 14 , 14 ? 40", "14", false),
                terminal(5, 2, "4 * 4 = 16 , 16 ? 40", "16", false),
                terminal(6, 2, "4 + 4 = 16 , 16 ? 40", "16", false),
            ],
            num_simulations: 1,
            num_tokens: 0,
        }
    }

    fn config() -> FeedbackConfig {
        FeedbackConfig {
            step_label: StepLabel::QValue,
            good_step: 0.5,
            num_desirable: 9,
            num_undesirable: 9,
            distinct: true,
        }
    }

    fn made(tree: &Tree, config: &FeedbackConfig) -> Vec<Feedback> {
        feedback(tree, config, &mut stream(1, "test", 0))
    }

    fn labels(feedback: &Feedback) -> Vec<Option<bool>> {
        feedback.steps.iter().map(|step| step.label).collect()
    }

    #[test]
    fn a_right_solution_has_its_text_and_the_bytes_of_its_steps() {
        let all = made(&tree(), &config());
        let right: Vec<&Feedback> = all.iter().filter(|it| it.label).collect();
        let [right] = right.as_slice() else { panic!("{all:?}") };
        assert_eq!(right.completion, "7 + 3 = 10 | 4 10 ; 10 * 4 = 40 , 40 ? 40");
        let texts: Vec<&str> = right
            .steps
            .iter()
            .map(|it| &right.completion[it.range[0]..it.range[1]])
            .collect();
        assert_eq!(texts, ["7 + 3 = 10 | 4 10", "10 * 4 = 40 , 40 ? 40"]);
        assert_eq!((right.prompt.as_str(), right.problem_id.as_str()), ("7 3 4 -> 40", "p"));
    }

    #[test]
    fn steps_are_judged_by_what_is_asked_for() {
        let of_fourteen = |step_label| {
            let config = FeedbackConfig { step_label, ..config() };
            let all = made(&tree(), &config);
            labels(all.iter().find(|it| it.completion.contains("14 ?")).unwrap())
        };
        assert_eq!(of_fourteen(StepLabel::QValue), [Some(true), Some(false)]);
        assert_eq!(of_fourteen(StepLabel::RolloutValue), [Some(false), Some(false)]);
        assert_eq!(of_fourteen(StepLabel::AnySuccess), [Some(true), Some(false)]);
        // No rollout succeeded, but a terminal below did.
        let mut other = tree();
        other.nodes[1].rollout_value = 0.0;
        let hard = FeedbackConfig {
            step_label: StepLabel::AnySuccess,
            ..config()
        };
        assert!(
            made(&other, &hard)
                .iter()
                .filter(|it| it.label)
                .all(|it| labels(it) == [Some(true); 2])
        );
    }

    #[test]
    fn answers_are_distinct_and_counts_are_kept() {
        assert_eq!(made(&tree(), &config()).len(), 3);
        let all = FeedbackConfig {
            distinct: false,
            ..config()
        };
        assert_eq!(made(&tree(), &all).len(), 4);
        let few = FeedbackConfig {
            num_desirable: 0,
            num_undesirable: 1,
            ..config()
        };
        assert_eq!(made(&tree(), &few).len(), 1);
        let mut lucky = tree();
        lucky.nodes[3].self_eval = Some(SelfEval {
            votes: 8,
            agree: 5,
            good: false,
        });
        assert!(made(&lucky, &config()).iter().all(|it| !it.label));
    }

    #[test]
    fn the_larger_sort_is_thinned_out() {
        let kept = balance(made(&tree(), &config()), &mut stream(1, "test", 1));
        assert_eq!(kept.iter().filter(|it| it.label).count(), 1);
        assert_eq!(kept.len(), 2);
    }
}
