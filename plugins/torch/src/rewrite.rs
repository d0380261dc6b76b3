//! Procedure cloning, second half, by templates: a trace becomes a conversation.
//!
//! ASTRO, section 2.4: a child is pasted as it is; a return to an ancestor becomes reflection, negative verdict and
//! return sentence; after promising steps, and after the final one, comes the same reflection with a positive
//! verdict, so that the verdict must be judged and can't be told from the question. What was written is then read
//! back with the verifier. A direct solution gets none of these sentences. No model writes here.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::formats::{Chat, Message, Relation, Style, Trace, TraceNode};
use crate::verify::{BacktrackPatterns, Wording, count_backtracks, paragraphs, state_after, verify_with};

/// How to write.
#[derive(Debug, Clone)]
pub struct RewriteConfig {
    pub wording: Wording,
    /// What counts as a return when the text is read back.
    pub patterns: BacktrackPatterns,
    /// Positive reflections before the final one, at most.
    pub positive_reflections: usize,
    /// Steps with at least this Q are promising, 0..=1.
    pub high_q: f64,
    /// Whether a positive reflection ends the solution.
    pub final_reflection: bool,
}

/// A trace whose text does not pass the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    pub problem_id: String,
    pub style: Style,
    pub k: usize,
    pub reason: String,
    pub text: String,
}

/// Writes a trace as a conversation of one question and one solution.
///
/// # Errors
/// The trace is broken, or its text does not say what the trace does.
pub fn rewrite(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Result<Chat, Reject> {
    let reject = |reason: String, text: String| Reject {
        problem_id: trace.problem.id.clone(),
        style: trace.style,
        k: trace.k,
        reason,
        text,
    };
    let Some(text) = write(trace, config, rng) else {
        return Err(reject("broken_trace".to_owned(), String::new()));
    };
    if let Some(reason) = objection(trace, config, &text) {
        return Err(reject(reason, text));
    }
    Ok(Chat {
        messages: vec![
            Message::new("user", trace.problem.problem.clone()),
            Message::new("assistant", text),
        ],
        problem_id: trace.problem.id.clone(),
        style: Some(trace.style),
        num_backtracks: trace.k,
    })
}

/// Returns the text of a trace; `None` if a node's parent was never visited.
fn write(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Option<String> {
    let wording = &config.wording;
    let praised = praised(trace, config, rng);
    let mut visited: BTreeMap<usize, &TraceNode> = BTreeMap::new();
    let mut written: Vec<String> = Vec::new();
    for (idx, node) in trace.nodes.iter().enumerate() {
        visited.insert(node.id, node);
        match node.relation {
            Relation::Root => {}
            Relation::Child => written.push(node.text.trim().to_owned()),
            Relation::Backtrack | Relation::Restart => {
                let state = state_after(&trace.problem, &steps_to(&visited, node.id)?);
                written.push(wording.backtrack(&state, node.relation == Relation::Restart));
            }
        }
        if praised.contains(&idx) {
            written.push(wording.approval());
        }
    }
    if trace.style == Style::Search && config.final_reflection {
        written.push(wording.approval());
    }
    Some(written.join(&wording.separator))
}

fn steps_to<'a>(visited: &BTreeMap<usize, &'a TraceNode>, node: usize) -> Option<Vec<&'a str>> {
    let mut steps = Vec::new();
    let mut node = *visited.get(&node)?;
    while let Some(parent) = node.parent {
        steps.push(node.text.trim());
        // A cycle of parents would never end.
        let next = *visited.get(&parent).filter(|next| next.id < node.id)?;
        node = next;
    }
    steps.reverse();
    Some(steps)
}

/// Chooses the steps that a positive reflection follows, uniformly among the promising ones.
///
/// Terminals are left out: the one verdict after the final step is `final_reflection`'s, and after a wrong one comes
/// the return.
fn praised(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Vec<usize> {
    if trace.style == Style::Direct {
        return Vec::new();
    }
    let is_promising = |&idx: &usize| {
        let node = &trace.nodes[idx];
        let goes_on = trace
            .nodes
            .get(idx + 1)
            .is_some_and(|next| next.relation == Relation::Child);
        node.relation == Relation::Child && !node.terminal && node.q_value >= config.high_q && goes_on
    };
    let promising: Vec<usize> = (0..trace.nodes.len()).filter(is_promising).collect();
    promising
        .choose_multiple(rng, config.positive_reflections)
        .copied()
        .collect()
}

/// Returns why a text must not be learned from.
fn objection(trace: &Trace, config: &RewriteConfig, text: &str) -> Option<String> {
    let verdict = verify_with(&trace.problem, text, &config.wording);
    if let Some(failure) = verdict.failure {
        return Some(format!("not_verified: {failure}"));
    }
    let counted = count_backtracks(text, &config.patterns);
    if counted != trace.k {
        return Some(format!("backtracks: {counted} in the text, {} in the trace", trace.k));
    }
    let paragraphs = paragraphs(text);
    let repeats = paragraphs.windows(2).any(|pair| pair[0] == pair[1]);
    repeats.then(|| "repeated_paragraph".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::{Tree, VerifierName};
    use crate::linearize::tests::{any_tree, config as linearize_config, small_tree};
    use crate::linearize::{LinearizeConfig, Terminals, linearize, merge_sequences};
    use crate::random::stream;

    fn config(verifier: VerifierName) -> RewriteConfig {
        let wording = Wording::of(verifier);
        RewriteConfig {
            patterns: BacktrackPatterns::of(&wording),
            wording,
            positive_reflections: 0,
            high_q: 0.8,
            final_reflection: true,
        }
    }

    fn trace(tree: &Tree, visits: &[usize]) -> Trace {
        Trace {
            version: 1,
            problem: tree.problem.clone(),
            style: Style::Search,
            k: visits.len() - 1,
            nodes: merge_sequences(tree, visits),
            answer: "1".into(),
        }
    }

    fn countdown_tree() -> Tree {
        let mut tree = small_tree();
        tree.problem.verifier = VerifierName::Countdown;
        tree.problem.problem = "7 3 4 -> 40".into();
        for (id, text) in [
            (1, "7 + 3 = 10 | 4 10"),
            (2, "10 + 4 = 14 , 14 ? 40"),
            (5, "10 * 4 = 40 , 40 ? 40"),
            (6, "7 - 3 = 4 | 4 4"),
            (7, "4 * 4 = 16 , 16 ? 40"),
        ] {
            tree.nodes[id].text = text.into();
        }
        tree.nodes[5].parent = Some(1);
        tree
    }

    #[test]
    fn a_countdown_trace_becomes_the_text_of_a_search() {
        let chat = rewrite(
            &trace(&countdown_tree(), &[7, 2, 5]),
            &config(VerifierName::Countdown),
            &mut stream(0, "", 0),
        );
        let question = "But wait, are we solving the problem correctly so far? Hmm...";
        let doubt = "I'm not sure if we're solving the problem correctly so far.";
        let expected = [
            "7 - 3 = 4 | 4 4".to_owned(),
            "4 * 4 = 16 , 16 ? 40".to_owned(),
            format!("{question} {doubt} Let's restart our solution from the beginning with 7 3 4"),
            "7 + 3 = 10 | 4 10".to_owned(),
            "10 + 4 = 14 , 14 ? 40".to_owned(),
            format!("{question} {doubt} Let's go back to where we had 4 10"),
            "10 * 4 = 40 , 40 ? 40".to_owned(),
            format!("{question} Our solution seems to be correct so far."),
        ];
        let chat = chat.unwrap();
        assert_eq!(chat.messages[0].content, "7 3 4 -> 40");
        assert_eq!(chat.messages[1].content, expected.join(" ; "));
        assert_eq!(chat.num_backtracks, 2);
    }

    #[test]
    fn a_math_trace_names_the_step_it_returns_to() {
        let chat = rewrite(
            &trace(&small_tree(), &[2, 5]),
            &config(VerifierName::Math),
            &mut stream(0, "", 0),
        )
        .unwrap();
        assert!(
            chat.messages[1]
                .content
                .contains("Let's go back to Step 1: Think 1.\n\n## Step 3"),
            "{chat:?}"
        );
    }

    #[test]
    fn direct_solutions_are_the_steps_alone() {
        let direct = Trace {
            style: Style::Direct,
            ..trace(&countdown_tree(), &[5])
        };
        let config = RewriteConfig {
            positive_reflections: 9,
            high_q: 0.0,
            ..config(VerifierName::Countdown)
        };
        let chat = rewrite(&direct, &config, &mut stream(0, "", 0)).unwrap();
        assert_eq!(chat.messages[1].content, "7 + 3 = 10 | 4 10 ; 10 * 4 = 40 , 40 ? 40");
    }

    #[test]
    fn promising_steps_are_praised_and_terminals_are_not() {
        let config = RewriteConfig {
            positive_reflections: 9,
            high_q: 0.0,
            ..config(VerifierName::Countdown)
        };
        let chat = rewrite(&trace(&countdown_tree(), &[7, 5]), &config, &mut stream(0, "", 0)).unwrap();
        // After each of the two first steps and at the end.
        assert_eq!(chat.messages[1].content.matches("seems to be correct").count(), 3);
        let one = RewriteConfig {
            positive_reflections: 1,
            ..config
        };
        let chat = rewrite(&trace(&countdown_tree(), &[7, 5]), &one, &mut stream(0, "", 0)).unwrap();
        assert_eq!(chat.messages[1].content.matches("seems to be correct").count(), 2);
    }

    #[test]
    fn what_does_not_verify_is_rejected_with_its_reason() {
        let mut tree = countdown_tree();
        tree.nodes[5].text = "10 * 4 = 44 , 40 ? 40".into();
        let reject = rewrite(
            &trace(&tree, &[2, 5]),
            &config(VerifierName::Countdown),
            &mut stream(0, "", 0),
        )
        .unwrap_err();
        assert_eq!(reject.reason, "not_verified: arithmetic");
        let wrong = Trace {
            k: 5,
            ..trace(&countdown_tree(), &[5])
        };
        let reject = rewrite(&wrong, &config(VerifierName::Countdown), &mut stream(0, "", 0)).unwrap_err();
        assert_eq!(reject.reason, "backtracks: 0 in the text, 5 in the trace");
        let mut broken = trace(&countdown_tree(), &[2, 5]);
        broken.nodes[3].parent = Some(77);
        let reject = rewrite(&broken, &config(VerifierName::Countdown), &mut stream(0, "", 0)).unwrap_err();
        assert_eq!(reject.reason, "broken_trace");
    }

    proptest! {
        /// Whatever the tree, a trace is written so that the verifier accepts it and counts its backtracks.
        #[test]
        fn every_trace_reads_back(tree in any_tree(), seed in any::<u64>(), positive_reflections in 0usize..3) {
            let terminals = Terminals::of(&tree, true);
            prop_assume!(!terminals.right.is_empty() && !terminals.wrong.is_empty());
            let made = linearize(&tree, &terminals, 0, &LinearizeConfig { seed, ..linearize_config() });
            let config = RewriteConfig { positive_reflections, ..config(VerifierName::Math) };
            for trace in &made.traces {
                let chat = rewrite(trace, &config, &mut stream(seed, "rewrite", 0));
                prop_assert!(chat.is_ok(), "{chat:?}");
                let praise = chat.unwrap().messages[1].content.matches("seems to be correct").count();
                prop_assert!((1..=1 + positive_reflections).contains(&praise));
            }
        }
    }
}
