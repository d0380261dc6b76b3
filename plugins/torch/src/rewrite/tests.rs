//! Writing by templates; `model_tests` has the same by a model.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::formats::{Tree, VerifierName};
use crate::linearize::tests::{any_tree, config as linearize_config, small_tree, traces_of};
use crate::linearize::{LinearizeConfig, ReturnTo, merge_sequences};
use crate::random::stream;
use crate::verify::{first_answer, same_answer};

pub(super) fn config(verifier: VerifierName) -> RewriteConfig {
    let wording = Wording::of(verifier);
    RewriteConfig {
        patterns: BacktrackPatterns::of(&wording),
        wording,
        positive_reflections: 0,
        high_q: 0.8,
        final_reflection: true,
    }
}

/// No limit, in words.
pub(super) fn any_length() -> MaxLength<'static> {
    MaxLength {
        most: None,
        measure: &|text| Ok(text.split_whitespace().count()),
    }
}

fn rewrite(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Result<Chat, Reject> {
    super::rewrite(trace, config, any_length(), rng)
}

pub(super) fn trace(tree: &Tree, visits: &[usize]) -> Trace {
    Trace {
        version: 1,
        problem: tree.problem.clone(),
        style: Style::Search,
        k: visits.len() - 1,
        nodes: merge_sequences(tree, visits, ReturnTo::Ancestor),
        answer: "1".into(),
    }
}

pub(super) fn countdown_tree() -> Tree {
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
fn the_right_answer_alone_is_boxed() {
    let mut tree = small_tree();
    tree.nodes[2].text = "So it is $\\boxed{5}$, of 3 kinds.".into();
    tree.nodes[4].text = "We get $\\boxed{6}$.".into();
    tree.nodes[5].text = "We get \\boxed{1}, so the answer is \\boxed{1}.".into();
    let config = config(VerifierName::Math);
    let chat = rewrite(&trace(&tree, &[2, 4, 5]), &config, &mut stream(0, "", 0)).unwrap();
    let paragraphs: Vec<&str> = chat.messages[1].content.split("\n\n").collect();
    // Without its box nothing would declare an answer before the return.
    assert_eq!(paragraphs[1], "So it is $5$, of 3 kinds.\nThe answer is 5.");
    assert_eq!(paragraphs[4], "We get $6$.\nThe answer is 6.");
    assert_eq!(paragraphs[6], "We get 1, so the answer is \\boxed{1}.");
    tree.nodes[5].text = "It is \\fbox{\\boxed{1}}.".into();
    let reject = rewrite(&trace(&tree, &[5]), &config, &mut stream(0, "", 0)).unwrap_err();
    assert_eq!(reject.reason, "boxes: 2 in the text");
}

#[test]
fn what_is_drawn_for_a_trace_does_not_depend_on_other_problems() {
    let of = |id: &str, visits: &[usize]| {
        let mut trace = trace(&small_tree(), visits);
        trace.problem.id = id.into();
        trace
    };
    let traces = [of("a", &[5]), of("b", &[2, 5]), of("a", &[5]), of("b", &[5])];
    let names = purposes(&traces);
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    let own = [&traces[1], &traces[3]].map(Clone::clone);
    assert_eq!(purposes(&own), [names[1].clone(), names[3].clone()]);
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
        let made = traces_of(&tree, &LinearizeConfig { seed, ..linearize_config() });
        let config = RewriteConfig { positive_reflections, ..config(VerifierName::Math) };
        for trace in &made.traces {
            let chat = rewrite(trace, &config, &mut stream(seed, "rewrite", 0));
            prop_assert!(chat.is_ok(), "{chat:?}");
            let praise = chat.as_ref().unwrap().messages[1].content.matches("seems to be correct").count();
            prop_assert!((1..=1 + positive_reflections).contains(&praise));
            let text = &chat.unwrap().messages[1].content;
            prop_assert_eq!(text.matches("\\boxed").count(), 1, "{}", text);
            // The first attempt's answer is still what the text says before it returns.
            let first = trace.nodes.iter().find_map(|node| node.answer.as_deref()).expect("an answer");
            let said = first_answer(VerifierName::Math, text);
            prop_assert!(said.is_some_and(|said| same_answer(VerifierName::Math, &said, first)), "{}", text);
        }
    }
}
