//! Writing by a model whose answers are scripted: good ones, bad ones, and bad ones at first.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::card::{Asked, RewriteCard};
use super::check::unboxed;
use super::model::{Fallback, ModelConfig, Prompts, Writing};
use super::tests::{any_length, config, countdown_tree, trace};
use super::*;
use crate::formats::{Relation, Tree, VerifierName};
use crate::linearize::LinearizeConfig;
use crate::linearize::tests::{any_tree, config as linearize_config, math_tree, traces_of};
use crate::policy::{Completion, Finish};
use crate::verify::verify;

/// What a prompt of ours asks for: the words behind its examples.
#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Step(String),
    Attempt(String),
    Final(String),
    GoBack(String),
    Restart,
}

fn wanted(prompt: &str) -> Wanted {
    let (_, own) = prompt.split_once("Now yours.").expect("an end of the examples");
    let notes = |from: &str, to: &str| {
        let (_, rest) = own.rsplit_once(from)?;
        let (_, notes) = rest.split_once(":\n")?;
        notes.strip_suffix(to).map(|notes| notes.trim().to_owned())
    };
    if let Some(step) = notes("Step to go back to", "Sentence:") {
        return Wanted::GoBack(step);
    }
    if let Some(step) = notes("Notes of the last step, which answers", "Paragraph:") {
        return Wanted::Final(step);
    }
    if let Some(step) = notes("Notes of the next step, which answers", "Paragraph:") {
        return Wanted::Attempt(step);
    }
    notes("Notes of the next step", "Paragraph:").map_or(Wanted::Restart, Wanted::Step)
}

/// What a willing model answers.
fn good(wanted: &Wanted) -> String {
    let body = |step: &str| step.lines().last().unwrap_or_default().to_owned();
    match wanted {
        Wanted::Step(step) => format!("Paragraph: We go on with this: {}", step.replace('\n', "\n\n")),
        Wanted::Attempt(step) => format!("We try this. {} That is it.", unboxed(step)),
        Wanted::Final(step) => format!("\"In the end: {step}\""),
        Wanted::GoBack(step) => format!("Let's go back to where we said: {}\n\nThen more.", body(step)),
        Wanted::Restart => "Let's restart our solution from the beginning and read it again.".to_owned(),
    }
}

fn model_config(num_attempts: usize, fallback: Fallback) -> ModelConfig {
    ModelConfig {
        prompts: Prompts::open(None).expect("the built-in prompts"),
        num_attempts,
        fallback,
        seed: 4,
    }
}

/// Writes all traces with answers of `answer`, which gets what is wanted and how often this was asked before.
fn write(
    traces: &[Trace],
    model: &ModelConfig,
    max_length: MaxLength<'_>,
    mut answer: impl FnMut(&Wanted, usize) -> String,
) -> (Vec<Written>, Asked, Vec<usize>) {
    let configs = [VerifierName::Math, VerifierName::Countdown].map(config);
    let config_of = |verifier| &configs[usize::from(verifier == VerifierName::Countdown)];
    let mut writing = Writing::new(traces, model, &config_of, max_length);
    let mut asked_before: BTreeMap<String, usize> = BTreeMap::new();
    let mut batches = Vec::new();
    loop {
        let requests = writing.requests();
        if requests.is_empty() {
            break;
        }
        batches.push(requests.len());
        let answers = requests.iter().map(|request| {
            let count = asked_before.entry(request.prompt.clone()).or_default();
            *count += 1;
            let text = answer(&wanted(&request.prompt), *count - 1);
            vec![Completion {
                num_tokens: text.split_whitespace().count(),
                text,
                sum_logprob: None,
                finish: Finish::Eos,
            }]
        });
        let answers = answers.collect();
        writing.take(answers);
    }
    let (done, total) = writing.progress();
    assert_eq!(done, total);
    let (written, asked) = writing.finish();
    assert_eq!(
        asked.num_requests,
        asked.num_accepted + asked.failed.values().sum::<usize>()
    );
    (written, asked, batches)
}

/// 0 -> 1 -> {2 wrong 11, 3 right 10}, 0 -> 4 wrong 7
fn sum_tree() -> Tree {
    let mut tree = math_tree(&[(0, None), (1, Some(11)), (1, Some(1)), (0, Some(7))]);
    tree.problem.answer = "10".into();
    tree.problem.problem = "Add 2 and 3 and double the sum.".into();
    for (id, text, answer) in [
        (1, "## Step 1: Add\n2 + 3 = 5", None),
        (2, "5 * 2 = 11, so \\boxed{11}", Some("11")),
        (3, "5 * 2 = 10, so \\boxed{10}", Some("10")),
        (4, "Double 2 and add 3 = \\boxed{7}", Some("7")),
    ] {
        tree.nodes[id].text = text.into();
        tree.nodes[id].answer = answer.map(str::to_owned);
    }
    tree
}

fn sum_trace() -> Trace {
    let mut trace = trace(&sum_tree(), &[4, 2, 3]);
    trace.answer = "10".into();
    trace
}

#[test]
fn a_trace_is_written_part_by_part_with_the_text_so_far() {
    let mut asked = Vec::new();
    let (written, cost, batches) = write(
        &[sum_trace()],
        &model_config(1, Fallback::Reject),
        any_length(),
        |wanted, _| {
            asked.push(wanted.clone());
            good(wanted)
        },
    );
    let expected = [
        Wanted::Attempt("Double 2 and add 3 = \\boxed{7}".into()),
        Wanted::Restart,
        Wanted::Step("## Step 1: Add\n2 + 3 = 5".into()),
        Wanted::Attempt("5 * 2 = 11, so \\boxed{11}".into()),
        Wanted::GoBack("## Step 1: Add\n2 + 3 = 5".into()),
        Wanted::Final("5 * 2 = 10, so \\boxed{10}".into()),
    ];
    assert_eq!(asked, expected);
    let question = "But wait, are we solving the problem correctly so far? Hmm...";
    let doubt = "I'm not sure if we're solving the problem correctly so far.";
    let expected = [
        "We try this. Double 2 and add 3 = 7 That is it.".to_owned(),
        format!("{question} {doubt} Let's restart our solution from the beginning and read it again."),
        "We go on with this: ## Step 1: Add\n2 + 3 = 5".to_owned(),
        "We try this. 5 * 2 = 11, so 11 That is it.".to_owned(),
        format!("{question} {doubt} Let's go back to where we said: 2 + 3 = 5"),
        "In the end: 5 * 2 = 10, so \\boxed{10}".to_owned(),
        format!("{question} Our solution seems to be correct so far."),
    ];
    let (chat, writer) = written[0].chat.clone().expect("it is written");
    assert_eq!(
        (chat.messages[1].content.as_str(), writer),
        (expected.join("\n\n").as_str(), Writer::Model)
    );
    assert_eq!(chat.num_backtracks, 2);
    assert_eq!((cost.num_requests, cost.num_accepted, batches), (6, 6, vec![1; 6]));
    assert!(cost.completion_tokens > 40);
}

#[test]
fn the_text_so_far_is_in_the_prompt() {
    let traces = [sum_trace()];
    let (model, configs) = (model_config(1, Fallback::Reject), config(VerifierName::Math));
    let mut writing = Writing::new(&traces, &model, &|_| &configs, any_length());
    let first = writing.requests()[0].prompt.clone();
    assert!(
        first.contains("Problem: Add 2 and 3 and double the sum.\nSolution so far: (nothing yet)\n"),
        "{first}"
    );
    assert!(first.contains("which answers 7:"), "{first}");
    writing.take(vec![vec![Completion {
        text: "So 4 and 3 would be 7, from 2 and 3.".into(),
        num_tokens: 9,
        sum_logprob: None,
        finish: Finish::Eos,
    }]]);
    let second = writing.requests()[0].prompt.clone();
    assert!(
        second.contains("Solution so far: So 4 and 3 would be 7, from 2 and 3.\n"),
        "{second}"
    );
}

/// What becomes of the trace if the model answers `bad` where `is_it` says so, `times` times for each.
fn with_bad(bad: &str, is_it: fn(&Wanted) -> bool, times: usize, fallback: Fallback) -> (Written, Asked) {
    let (mut written, asked, _) = write(
        &[sum_trace()],
        &model_config(3, fallback),
        any_length(),
        |wanted, before| match is_it(wanted) && before < times {
            true => bad.to_owned(),
            false => good(wanted),
        },
    );
    (written.remove(0), asked)
}

fn is_step(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::Step(_))
}

fn is_attempt(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::Attempt(_))
}

fn is_final(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::Final(_))
}

fn is_return(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::GoBack(_))
}

#[test]
fn each_fault_of_an_answer_has_its_reason() {
    type Which = fn(&Wanted) -> bool;
    let cases: [(&str, Which, &str); 18] = [
        ("", is_step, "empty"),
        ("We add: 2 + 3.", is_step, "numbers_lost"),
        (
            "We add 2 + 3 = 5. But wait, is that right?",
            is_step,
            "unasked_reflection",
        ),
        (
            "We add 2 + 3 = 5. Let's go back to the start.",
            is_step,
            "unasked_reflection",
        ),
        ("We add 2 + 3 = \\boxed{5}.", is_step, "boxed_early"),
        ("We add 2 + 3 = 5 ; and so on.", is_step, "several_paragraphs"),
        (
            "## Step 1: Add\n2 + 3 = 5\n## Step 2: Double\nThat is twice 5.",
            is_step,
            "several_steps",
        ),
        ("We add 2 + 3 = 5 and double 5 * 2 = 10.", is_step, "results_added"),
        (
            "We try this. Double 2 and add 3 = 7 That is it.",
            is_step,
            "numbers_lost",
        ),
        ("We try 5 * 2, 3 = 12.", is_attempt, "answer_lost"),
        ("In the end 5 * 2 = 10.", is_final, "box_lost"),
        ("In the end 5 * 2 = 10, so \\boxed{12}.", is_final, "other_answer"),
        ("In the end \\boxed{5} * 2 = \\boxed{10}.", is_final, "several_boxes"),
        ("We return to 5.", is_return, "no_return"),
        ("Let's restart with 5.", is_return, "no_return"),
        ("Let's go back to where we were.", is_return, "return_names_nothing"),
        ("Let's go back to where we had \\boxed{5}.", is_return, "boxed_early"),
        (
            "Let's go back to where we had 5. But wait, are we solving the problem correctly so far? Hmm...",
            is_return,
            "unasked_reflection",
        ),
    ];
    for (bad, is_it, reason) in cases {
        let (written, asked) = with_bad(bad, is_it, 1, Fallback::Reject);
        assert!(asked.failed.contains_key(reason), "{bad:?}: {:?}", asked.failed);
        assert!(
            written.chat.is_some_and(|(_, writer)| writer == Writer::Model),
            "{bad:?}: the second answer was good"
        );
        let (written, asked) = with_bad(bad, is_it, 9, Fallback::Reject);
        assert_eq!(
            (asked.failed[reason], asked.failed.len()),
            (3, 1),
            "{bad:?}: three attempts"
        );
        assert_eq!(
            written.reject.map(|reject| reject.reason).as_deref(),
            Some(reason),
            "{bad:?}"
        );
        assert_eq!(written.chat, None);
    }
}

#[test]
fn a_paragraph_that_is_there_already_is_not_taken() {
    let mut tree = sum_tree();
    tree.nodes[1].text = "2 + 3 = 5, not 7".into();
    let copied = "It is 7, since 2 and 3 make 5.";
    let (written, asked, _) = write(
        &[trace(&tree, &[4, 3])],
        &model_config(2, Fallback::Reject),
        any_length(),
        |wanted, _| match is_step(wanted) || is_attempt(wanted) {
            true => copied.to_owned(),
            false => good(wanted),
        },
    );
    assert_eq!(asked.failed, [("copied_paragraph".to_owned(), 2)].into());
    assert!(written[0].chat.is_none());
}

#[test]
fn what_a_model_does_not_manage_is_the_templates_or_nobodys() {
    let bad = "No.";
    let (written, _) = with_bad(bad, is_step, 9, Fallback::Template);
    let (chat, writer) = written.chat.expect("the template's");
    assert_eq!(writer, Writer::Template);
    assert!(
        chat.messages[1]
            .content
            .contains("so 11\nThe answer is 11.\n\nBut wait"),
        "{chat:?}"
    );
    let reject = written.reject.expect("what it replaces");
    assert_eq!(
        (reject.reason.as_str(), reject.replaced_by),
        ("numbers_lost", Some(Writer::Template))
    );
    assert!(reject.text.starts_with("We try this."), "{reject:?}");

    let (written, asked) = with_bad(bad, is_step, 9, Fallback::Step);
    let (chat, writer) = written.chat.expect("of both");
    assert_eq!((writer, asked.num_pasted), (Writer::Mixed, 1));
    assert!(
        chat.messages[1]
            .content
            .contains("\n\n## Step 1: Add\n2 + 3 = 5\n\nWe try this."),
        "{chat:?}"
    );
    let (written, _) = with_bad(bad, is_attempt, 9, Fallback::Step);
    let (chat, _) = written.chat.expect("of both");
    assert_eq!(
        chat.messages[1].content.matches("boxed").count(),
        1,
        "wrong answers are pasted without their box"
    );

    let (written, _) = with_bad(bad, is_step, 9, Fallback::Reject);
    assert_eq!(written.chat, None);
}

#[test]
fn pasted_returns_may_be_worded_in_any_way() {
    let traces = [sum_trace()];
    let mut configs = config(VerifierName::Math);
    configs.wording.go_back = "Back we are at {state}, then.".into();
    configs.wording.restart = "We start again.".into();
    configs.patterns = BacktrackPatterns::of(&configs.wording);
    let model = model_config(1, Fallback::Step);
    let mut writing = Writing::new(&traces, &model, &|_| &configs, any_length());
    loop {
        let requests = writing.requests();
        let Some(request) = requests.first() else { break };
        let wanted = wanted(&request.prompt);
        let is_return = matches!(wanted, Wanted::GoBack(_) | Wanted::Restart);
        let text = if is_return { "No.".to_owned() } else { good(&wanted) };
        writing.take(vec![vec![Completion {
            text,
            num_tokens: 1,
            sum_logprob: None,
            finish: Finish::Eos,
        }]]);
    }
    let (written, asked) = writing.finish();
    let (chat, writer) = written[0].chat.clone().expect("it is written");
    assert_eq!((writer, asked.num_pasted), (Writer::Mixed, 2));
    assert!(
        chat.messages[1]
            .content
            .contains("so far. Back we are at Step 1: Add, then.\n\n"),
        "{chat:?}"
    );
}

#[test]
fn a_text_that_is_too_long_falls_back() {
    let long = |wanted: &Wanted, _| match wanted {
        Wanted::Step(_) => good(wanted) + &" and on".repeat(100),
        _ => good(wanted),
    };
    let at_most = |most| MaxLength {
        most: Some(most),
        ..any_length()
    };
    let reason = |fallback, most| {
        let (mut written, ..) = write(&[sum_trace()], &model_config(1, fallback), at_most(most), long);
        let written = written.remove(0);
        (
            written.chat.map(|(_, writer)| writer),
            written.reject.expect("it is too long").reason,
        )
    };
    let (writer, why) = reason(Fallback::Template, 150);
    assert_eq!(writer, Some(Writer::Template));
    assert!(why.starts_with("too_long: ") && why.ends_with("at most 150"), "{why}");
    assert_eq!(reason(Fallback::Reject, 150).0, None);
    // The template's text is too long as well.
    assert_eq!(reason(Fallback::Template, 30).0, None);
}

#[test]
fn all_traces_are_asked_about_together() {
    let (short, long) = (trace(&sum_tree(), &[3]), sum_trace());
    let traces = [long.clone(), short, long];
    let (written, _, batches) = write(
        &traces,
        &model_config(1, Fallback::Reject),
        any_length(),
        |wanted, _| good(wanted),
    );
    assert!(written.iter().all(|written| written.chat.is_some()));
    assert_eq!(batches, [3, 3, 2, 2, 2, 2]);
}

#[test]
fn countdown_is_written_by_the_template_unless_the_model_copies() {
    let traces = [trace(&countdown_tree(), &[7, 5])];
    let prose = |wanted: &Wanted, _| good(wanted);
    let (written, asked, _) = write(&traces, &model_config(2, Fallback::Template), any_length(), prose);
    assert_eq!(asked.failed, [("not_the_step".to_owned(), 2)].into());
    let (chat, writer) = written[0].chat.clone().expect("the template's");
    assert!(verify(&traces[0].problem, &chat.messages[1].content).correct);
    assert_eq!(writer, Writer::Template);
}

#[test]
fn a_file_of_prompts_must_have_what_is_needed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("p.txt");
    let open = |text: &str| {
        std::fs::write(&path, text).expect("a file");
        Prompts::open(Some(&path)).map_err(|error| error.to_string())
    };
    assert!(open("=== step ===\n{step}\n=== go_back ===\n{step}").is_ok());
    let error = open("=== step ===\n{step}").expect_err("no go_back");
    assert!(error.contains("there is no part `=== go_back ===`"), "{error}");
    let error = open("=== step ===\nWrite\n=== go_back ===\n{step}").expect_err("no place");
    assert!(error.contains("\"step\" lacks {step}"), "{error}");
}

#[test]
fn without_a_prompt_for_it_a_restart_is_the_fixed_sentence() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("p.txt");
    let built_in = include_str!("../../prompts/rewrite.txt");
    std::fs::write(&path, &built_in[..built_in.find("=== restart").expect("it has one")]).expect("a file");
    let model = ModelConfig {
        prompts: Prompts::open(Some(&path)).expect("good prompts"),
        ..model_config(1, Fallback::Reject)
    };
    let (written, asked, _) = write(&[sum_trace()], &model, any_length(), |wanted, _| good(wanted));
    let (chat, _) = written[0].chat.clone().expect("it is written");
    assert!(
        chat.messages[1]
            .content
            .contains("Let's restart our solution from the beginning.\n\n"),
        "{chat:?}"
    );
    assert_eq!(asked.num_requests, 5);
}

proptest! {
    /// Whatever the tree and whenever the model fails: what is written verifies, has the trace's backtracks and one box,
    /// and the numbers of the card add up.
    #[test]
    fn every_conversation_reads_back(
        tree in any_tree(),
        seed in any::<u64>(),
        faults in prop::collection::vec(0usize..5, 1..20),
        fallback in prop::sample::select(vec![Fallback::Template, Fallback::Step, Fallback::Reject]),
    ) {
        let traces = traces_of(&tree, &LinearizeConfig { seed, ..linearize_config() }).traces;
        let mut calls = 0;
        let (written, asked, _) = write(&traces, &model_config(2, fallback), any_length(), |wanted, _| {
            calls += 1;
            match faults[calls % faults.len()] {
                0 => "I can't.".to_owned(),
                1 => good(wanted).replace(['1', '2', '3', '4', '5'], "9"),
                _ => good(wanted),
            }
        });
        let card = RewriteCard::of(&traces, &written, asked, "words", any_length()).expect("it is measured");
        prop_assert_eq!(card.num_traces, card.num_chats + card.num_rejected);
        prop_assert_eq!(card.num_chats, card.written.values().sum::<usize>());
        prop_assert_eq!(card.num_chats, card.num_backtracks.values().sum::<usize>());
        prop_assert_eq!(card.num_rejected, card.rejected.values().sum::<usize>());
        prop_assert_eq!(card.num_chats, card.length.count);
        let num_replaced = written.iter().filter(|written| written.chat.is_some() && written.reject.is_some()).count();
        prop_assert_eq!(num_replaced, card.fallbacks.values().sum::<usize>());
        for (trace, written) in traces.iter().zip(&written) {
            let Some((chat, writer)) = &written.chat else {
                prop_assert!(written.reject.as_ref().is_some_and(|reject| reject.replaced_by.is_none()));
                prop_assert_eq!(fallback, Fallback::Reject, "the template can write every trace");
                continue;
            };
            let text = &chat.messages[1].content;
            let verdict = verify(&trace.problem, text);
            prop_assert!(verdict.correct, "{}", text);
            prop_assert_eq!(verdict.num_backtracks, trace.k);
            let returns = trace.nodes.iter().filter(|node| matches!(node.relation, Relation::Backtrack | Relation::Restart));
            prop_assert_eq!(text.matches("I'm not sure if we're solving").count(), returns.count());
            if *writer != Writer::Template {
                prop_assert_eq!(text.matches("\\boxed").count(), 1);
            }
        }
    }
}
