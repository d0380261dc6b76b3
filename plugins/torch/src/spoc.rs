//! PairSFT data of SPOC, spontaneous self-correction (arXiv:2506.06923): solutions and verifications take turns. No tensors,
//! no files.
//!
//! Of a question that a model solves sometimes come two conversations: a wrong solution, a verification that says so, and a
//! right solution; and a right solution with a verification that says so. The paper has a message for each; here they are
//! paragraphs of one, so that one pass generates solution, verdict and next solution, and `eval`, `astro.grpo` and the
//! verifiers read it as any other solution: the verdict on a wrong one is the return to the problem, and the last solution
//! counts. So that a pass does not end between solution and verdict, the last solution gets its verdict as well
//! (`final_verdict`). Wrong solutions are masked: they are read and not learned.

use std::sync::LazyLock;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::formats::{Chat, Message, Problem, Sample};
use crate::prompts::fill;
use crate::rewrite::check::{count_boxes, mentions, reflects};
use crate::verify::math::without_thought;
use crate::verify::{BacktrackPatterns, Wording, state_after, stated_answer, verify_with};

/// How conversations are written.
#[derive(Debug, Clone)]
pub struct SpocConfig {
    pub wording: Wording,
    /// Whether a verdict follows the last solution after a wrong one, too.
    pub final_verdict: bool,
}

/// Drawn pairs of solutions that are tried until one reads as meant; where so many don't, none will.
const MAX_TRIES: usize = 64;

/// A question with samples of both sorts.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub problem: &'a Problem,
    pub right: Vec<&'a str>,
    pub wrong: Vec<&'a str>,
}

/// Why a question gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    AllRight,
    AllWrong,
    /// It was not sampled.
    NoSamples,
    /// It has samples of both sorts, but the wrong ones were all cut off or state no answer.
    NoWholeWrong,
}

impl Skipped {
    /// As the card calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllRight => "all_right",
            Self::AllWrong => "all_wrong",
            Self::NoSamples => "no_samples",
            Self::NoWholeWrong => "no_whole_wrong",
        }
    }
}

impl<'a> Question<'a> {
    /// Sorts the samples of a problem. Wrong ones that the token limit ended, or that state no answer, are no solutions.
    ///
    /// # Errors
    /// The reason why there is nothing to learn from them.
    pub fn of(problem: &'a Problem, samples: &[&'a Sample]) -> Result<Self, Skipped> {
        let texts = |is_it: &dyn Fn(&Sample) -> bool| -> Vec<&'a str> {
            samples
                .iter()
                .filter(|sample| is_it(sample))
                .map(|sample| sample.completion.as_str())
                .collect()
        };
        let right = texts(&|sample| sample.correct);
        let wrong = texts(&|sample| !sample.correct && !sample.truncated && sample.answer.is_some());
        if samples.is_empty() {
            Err(Skipped::NoSamples)
        } else if right.len() == samples.len() {
            Err(Skipped::AllRight)
        } else if right.is_empty() {
            Err(Skipped::AllWrong)
        } else if wrong.is_empty() {
            Err(Skipped::NoWholeWrong)
        } else {
            Ok(Self { problem, right, wrong })
        }
    }
}

/// The texts of a conversation before they are joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turns<'a> {
    pub problem: &'a Problem,
    /// The solution that is told from the right one; none where the right one is the first.
    pub wrong: Option<&'a str>,
    pub right: &'a str,
}

impl Turns<'_> {
    /// The solution that is verified, and whether it is right.
    pub fn verified(&self) -> (&str, bool) {
        (self.wrong.unwrap_or(self.right), self.wrong.is_none())
    }
}

/// Draws what the conversations of a question consist of: with a wrong solution first, and of a right one alone. Solutions
/// that don't read as meant once they are joined are passed over; none where all are.
pub fn draw<'a>(
    question: &Question<'a>,
    config: &SpocConfig,
    rng: &mut ChaCha8Rng,
) -> (Option<Turns<'a>>, Option<Turns<'a>>) {
    let shuffled = |texts: &[&'a str], rng: &mut ChaCha8Rng| {
        let mut texts = texts.to_vec();
        texts.shuffle(rng);
        texts
    };
    let (right, wrong) = (shuffled(&question.right, rng), shuffled(&question.wrong, rng));
    let confirmed = shuffled(&question.right, rng);
    let turns = |wrong, right| Turns {
        problem: question.problem,
        wrong,
        right,
    };
    let reads = |turns: &Turns<'a>| write(turns, config, None).is_ok();
    let pairs = wrong
        .iter()
        .flat_map(|&wrong| right.iter().map(move |&right| turns(Some(wrong), right)));
    let alone = confirmed.into_iter().map(|right| turns(None, right));
    (pairs.take(MAX_TRIES).find(reads), alone.take(MAX_TRIES).find(reads))
}

/// Writes a conversation; `critique` goes before the verdict on the solution that is verified.
///
/// # Errors
/// Why the text must not be learned from: the verifier does not call it right.
pub fn write(turns: &Turns<'_>, config: &SpocConfig, critique: Option<&str>) -> Result<Chat, String> {
    let wording = &config.wording;
    let problem = turns.problem;
    let bare = |text: &str| without_approval(text, wording).to_owned();
    let critique = critique
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    let right = bare(turns.right);
    let (mut paragraphs, mut masked) = (Vec::new(), Vec::new());
    match turns.wrong {
        Some(wrong) => {
            let wrong = bare(wrong);
            masked.push([0, wrong.len()]);
            paragraphs.push(wrong);
            paragraphs.extend(critique);
            paragraphs.push(wording.backtrack(&state_after::<&str>(problem, &[]), true));
            paragraphs.push(right);
            paragraphs.extend(config.final_verdict.then(|| wording.approval()));
        }
        None => {
            paragraphs.push(right);
            paragraphs.extend(critique);
            paragraphs.push(wording.approval());
        }
    }
    let text = paragraphs.join(&wording.separator);
    let verdict = verify_with(problem, &text, wording);
    if !verdict.correct {
        return Err(verdict.failure.unwrap_or("wrong_answer").to_owned());
    }
    Ok(Chat {
        messages: vec![
            Message::new("user", problem.problem.clone()),
            Message {
                masked,
                ..Message::new("assistant", text)
            },
        ],
        problem_id: problem.id.clone(),
        style: None,
        num_backtracks: verdict.num_backtracks,
    })
}

/// A model that already judges itself has written the verdict, right or not.
fn without_approval<'a>(text: &'a str, wording: &Wording) -> &'a str {
    let text = text.trim();
    let Some(rest) = text.strip_suffix(&wording.approval()) else {
        return text;
    };
    let rest = rest.trim_end();
    rest.strip_suffix(wording.separator.trim()).unwrap_or(rest).trim_end()
}

/// The built-in prompt of a model that writes verifications; the reference is a right solution.
pub const PROMPT: &str = include_str!("../prompts/spoc.txt");

/// The places that a prompt must have.
pub const PLACES: [&str; 3] = ["problem", "solution", "reference"];

/// Fills in the prompt for the verification of a solution.
pub fn prompt(template: &str, turns: &Turns<'_>) -> String {
    let values = [
        ("problem", turns.problem.problem.as_str()),
        ("solution", turns.verified().0),
        ("reference", turns.right),
    ];
    fill(template, &values)
}

/// Reads a written verification: its text without the verdict, and whether that is yes. None where the text does not end
/// with a verdict in a line or a sentence of its own: of "Step 2 is false, so no." a stump would be left.
pub fn read_verification(text: &str) -> Option<(&str, bool)> {
    static ENDING: LazyLock<Regex> = LazyLock::new(|| {
        let sentence_end = r#"[.!?][)\]$*_"']*\s+"#;
        let own_line = r"[\s*_#>-]*(?:final\s+)?verdict[\s*_]*:?";
        Regex::new(&format!(
            r"(?is)^(?:((?:.*(?:\n|{sentence_end}))?){own_line}|((?:.*{sentence_end})?))[\s*_]*\b(yes|no)\b[.!\s*_]*$"
        ))
        .expect("a regular expression")
    });
    let parts = ENDING.captures(text)?;
    let (critique, verdict) = (parts.get(1).or(parts.get(2))?, parts.get(3)?);
    Some((critique.as_str().trim(), verdict.as_str().eq_ignore_ascii_case("yes")))
}

/// Writes a conversation with a verification as a model wrote it.
///
/// # Errors
/// Why it can't be used, in a word: it never stops thinking, has no verdict or a false one, says what belongs to the
/// sentences around it or to who knows the answer, or does not read as right.
pub fn write_with(turns: &Turns<'_>, config: &SpocConfig, verification: &str) -> Result<Chat, &'static str> {
    let text = without_thought(verification).ok_or("unfinished_thought")?;
    let (critique, verdict) = read_verification(text.trim()).ok_or("no_verdict")?;
    if verdict != turns.verified().1 {
        return Err("false_verdict");
    }
    if let Some(reason) = objection(turns, config, critique) {
        return Err(reason);
    }
    write(turns, config, Some(critique)).map_err(|_| "not_verified")
}

/// Returns why a critique must not stand between a solution and its verdict.
fn objection(turns: &Turns<'_>, config: &SpocConfig, critique: &str) -> Option<&'static str> {
    // What only who saw the prompt can speak of.
    static PROMPTED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\breference\b|\b(?:the|known|given)\s+correct\s+solution\b|\bsolution\s+to\s+check\b")
            .expect("a regular expression")
    });
    let wording = &config.wording;
    if reflects(wording, &BacktrackPatterns::of(wording), critique) {
        return Some("reflects");
    }
    if count_boxes(critique) > 0 || critique.lines().any(|line| line.trim_start().starts_with("####")) {
        return Some("boxed");
    }
    if PROMPTED.is_match(critique) {
        return Some("names_reference");
    }
    // Of a right solution the answer stands just above.
    let stated = stated_answer(turns.problem.verifier, turns.right);
    let answers = [Some(turns.problem.answer.clone()), stated];
    let names = |answer: &String| names_answer(critique, answer);
    (turns.wrong.is_some() && answers.iter().flatten().any(names)).then_some("names_answer")
}

/// Returns whether a critique names an answer. The number of a step is none; short answers that are no numbers are words.
fn names_answer(critique: &str, answer: &str) -> bool {
    static NUMBERING: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)\b(?:step|line|paragraph|equation)s?\s+\d+").expect("a regular expression"));
    let critique = NUMBERING.replace_all(critique, "");
    let is_word = answer.chars().count() <= 2 && answer.chars().all(char::is_alphabetic);
    match is_word {
        true => (critique.split(|c: char| !c.is_alphanumeric())).any(|word| word == answer),
        false => mentions(&critique, answer),
    }
}

/// How conversations of both sorts are brought to about the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The more frequent sort loses some at random.
    Drop,
    /// The rarer sort is repeated.
    Resample,
    None,
}

/// Brings both sorts to the same number.
pub fn balance<T: Clone>(mut a: Vec<T>, mut b: Vec<T>, how: Balance, rng: &mut ChaCha8Rng) -> (Vec<T>, Vec<T>) {
    match how {
        Balance::None => {}
        Balance::Drop => {
            let count = a.len().min(b.len());
            keep(&mut a, count, rng);
            keep(&mut b, count, rng);
        }
        Balance::Resample => {
            let count = a.len().max(b.len());
            repeat(&mut a, count, rng);
            repeat(&mut b, count, rng);
        }
    }
    (a, b)
}

/// Keeps so many at random, in their order.
fn keep<T>(list: &mut Vec<T>, count: usize, rng: &mut ChaCha8Rng) {
    let mut kept: Vec<bool> = (0..list.len()).map(|idx| idx < count).collect();
    kept.shuffle(rng);
    let mut kept = kept.into_iter();
    list.retain(|_| kept.next().unwrap_or(false));
}

/// Repeats items, each as often as the others but for one time.
fn repeat<T: Clone>(list: &mut Vec<T>, count: usize, rng: &mut ChaCha8Rng) {
    let mut order: Vec<usize> = (0..list.len()).collect();
    while !order.is_empty() && list.len() < count {
        order.shuffle(rng);
        let missing = (count - list.len()).min(order.len());
        let more: Vec<T> = order[..missing].iter().map(|&idx| list[idx].clone()).collect();
        list.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::VerifierName;
    use crate::prompts::PromptFile;
    use crate::random::stream;
    use crate::verify::verify;

    fn problem(verifier: VerifierName) -> Problem {
        let (text, answer) = match verifier {
            VerifierName::Countdown => ("7 3 4 -> 40", "40"),
            VerifierName::Math => ("What is 7 times 6?", "42"),
        };
        Problem {
            version: 1,
            id: "p".into(),
            problem: text.into(),
            answer: answer.into(),
            verifier,
            meta: serde_json::Map::new(),
        }
    }

    fn sample(completion: &str, correct: bool) -> Sample {
        Sample {
            version: 1,
            problem_id: "p".into(),
            sample_idx: 0,
            prompt: String::new(),
            completion: completion.into(),
            num_tokens: 1,
            answer: Some("1".into()),
            correct,
            truncated: false,
            num_backtracks: 0,
            failure: None,
        }
    }

    fn config(verifier: VerifierName) -> SpocConfig {
        SpocConfig {
            wording: Wording::of(verifier),
            final_verdict: true,
        }
    }

    const RIGHT: &str = "7 + 3 = 10 | 4 10 ; 10 * 4 = 40 , 40 ? 40";
    const WRONG: &str = "7 - 3 = 4 | 4 4 ; 4 * 4 = 16 , 16 ? 40";

    #[test]
    fn a_wrong_solution_is_masked_and_the_last_one_counts() {
        let problem = problem(VerifierName::Countdown);
        let turns = Turns {
            problem: &problem,
            wrong: Some(WRONG),
            right: RIGHT,
        };
        let chat = write(&turns, &config(VerifierName::Countdown), None).unwrap();
        let message = &chat.messages[1];
        let doubt = "But wait, are we solving the problem correctly so far? Hmm... I'm not sure if we're solving the \
                     problem correctly so far. Let's restart our solution from the beginning with 7 3 4";
        let praise =
            "But wait, are we solving the problem correctly so far? Hmm... Our solution seems to be correct so far.";
        assert_eq!(message.content, format!("{WRONG} ; {doubt} ; {RIGHT} ; {praise}"));
        assert_eq!(message.masked, [[0, WRONG.len()]]);
        assert_eq!(chat.num_backtracks, 1);
        // As a model's output is read: by the usual verifier, which takes the last solution's word.
        let verdict = verify(&problem, &message.content);
        assert!(verdict.correct);
        assert_eq!(verdict.answer.as_deref(), Some("40"));
        let swapped = format!("{RIGHT} ; {doubt} ; {WRONG} ; {praise}");
        assert!(
            !verify(&problem, &swapped).correct,
            "the last solution counts, not the first"
        );
    }

    #[test]
    fn a_right_solution_is_confirmed_and_not_masked() {
        let problem = problem(VerifierName::Math);
        let turns = Turns {
            problem: &problem,
            wrong: None,
            right: "Six sevens are \\boxed{42}.",
        };
        let chat = write(&turns, &config(VerifierName::Math), Some("Every step holds.")).unwrap();
        let content = &chat.messages[1].content;
        assert!(
            content.starts_with("Six sevens are \\boxed{42}.\n\nEvery step holds.\n\nBut wait"),
            "{content}"
        );
        assert!(chat.messages[1].masked.is_empty());
        assert!(verify(&problem, content).correct);
    }

    #[test]
    fn a_verdict_that_is_there_already_is_written_once() {
        let problem = problem(VerifierName::Countdown);
        let config = config(VerifierName::Countdown);
        let judged = |text: &str| format!("{text} ; {}", config.wording.approval());
        let (right, wrong) = (judged(RIGHT), judged(WRONG));
        let turns = Turns {
            problem: &problem,
            wrong: Some(&wrong),
            right: &right,
        };
        let plain = Turns {
            problem: &problem,
            wrong: Some(WRONG),
            right: RIGHT,
        };
        assert_eq!(write(&turns, &config, None), write(&plain, &config, None));
    }

    #[test]
    fn what_does_not_read_as_right_is_refused() {
        let problem = problem(VerifierName::Math);
        let turns = Turns {
            problem: &problem,
            wrong: Some("It is \\boxed{41}."),
            right: "The answer is 42.",
        };
        // The box of the wrong solution would be taken for the answer.
        assert!(write(&turns, &config(VerifierName::Math), None).is_err());
        let question = Question {
            problem: &problem,
            right: vec!["The answer is 42.", "So \\boxed{42}."],
            wrong: vec!["It is \\boxed{41}."],
        };
        let (pair, alone) = draw(&question, &config(VerifierName::Math), &mut stream(0, "", 0));
        assert_eq!(pair.unwrap().right, "So \\boxed{42}.");
        assert!(alone.is_some());
    }

    #[test]
    fn questions_need_samples_of_both_sorts() {
        let problem = problem(VerifierName::Math);
        let (right, wrong) = (sample("a", true), sample("b", false));
        let cut = Sample {
            truncated: true,
            ..wrong.clone()
        };
        let of = |samples: &[&Sample]| Question::of(&problem, samples).map(|it| (it.right.len(), it.wrong.len()));
        let (r, w) = (&right, &wrong);
        assert_eq!(of(&[r, r]), Err(Skipped::AllRight));
        assert_eq!(of(&[w, w]), Err(Skipped::AllWrong));
        assert_eq!(of(&[r, &cut]), Err(Skipped::NoWholeWrong));
        assert_eq!(of(&[]), Err(Skipped::NoSamples));
        assert_eq!(of(&[r, w, &cut]), Ok((1, 1)));
    }

    #[test]
    fn verifications_end_with_their_verdict() {
        for (text, expected) in [
            ("7 + 3 is 11.\nVerdict: No", Some(("7 + 3 is 11.", false))),
            ("All holds. **Verdict:** Yes.", Some(("All holds.", true))),
            ("Step 2 is false.\n**Verdict:** no", Some(("Step 2 is false.", false))),
            ("7 + 3 = 11\n\n## Final verdict: No", Some(("7 + 3 = 11", false))),
            ("It is $5$. No!", Some(("It is $5$.", false))),
            ("Verdict: Yes", Some(("", true))),
            ("Yes", Some(("", true))),
            // A verdict inside of a sentence would leave a stump.
            ("Step 2 is false, so no.", None),
            ("Step 2 is false, so the verdict: no.", None),
            ("Step 2 is false, so\nno.", None),
            ("Verdict: No, because step 2 is false.", None),
            ("It is unknown", None),
            ("No doubt about it", None),
            ("", None),
        ] {
            assert_eq!(read_verification(text), expected, "{text}");
        }
    }

    #[test]
    fn verifications_say_what_is_wrong_and_no_more() {
        let problem = problem(VerifierName::Math);
        let config = config(VerifierName::Math);
        let pair = Turns {
            problem: &problem,
            wrong: Some("It is \\boxed{41}."),
            right: "So \\boxed{42}.",
        };
        let reason = |turns: &Turns<'_>, text: &str| write_with(turns, &config, text).err();
        let chat = write_with(
            &pair,
            &config,
            "<think>It is 42.</think>Step 42 is off by one.\nVerdict: No",
        )
        .unwrap();
        assert_eq!(
            chat.messages[1]
                .content
                .matches("41}.\n\nStep 42 is off by one.\n\nBut wait")
                .count(),
            1
        );
        for (text, expected) in [
            ("<think>Off by one.\nVerdict: No", "unfinished_thought"),
            ("It is off by one, so no.", "no_verdict"),
            ("All holds.\nVerdict: Yes", "false_verdict"),
            ("But wait, it is off by one.\nVerdict: No", "reflects"),
            ("Let's go back to the start.\nVerdict: No", "reflects"),
            ("It is \\boxed{40} at most.\nVerdict: No", "boxed"),
            ("#### 40\nVerdict: No", "boxed"),
            ("It should be 42.\nVerdict: No", "names_answer"),
            ("Unlike the correct solution, it adds.\nVerdict: No", "names_reference"),
            ("The solution to check adds.\nVerdict: No", "names_reference"),
        ] {
            assert_eq!(reason(&pair, text), Some(expected), "{text}");
        }
        let alone = Turns { wrong: None, ..pair };
        assert_eq!(reason(&alone, "6 times 7 is 42.\nVerdict: Yes"), None);
        assert_eq!(reason(&alone, "It is off by one.\nVerdict: No"), Some("false_verdict"));
        assert!(names_answer("The right choice is A.", "A") && !names_answer("A step is false.", "B"));
    }

    #[test]
    fn a_prompt_is_filled_in_once() {
        let mut problem = problem(VerifierName::Math);
        problem.problem = "a {reference} b".into();
        let turns = Turns {
            problem: &problem,
            wrong: Some("W"),
            right: "R",
        };
        assert_eq!(
            prompt("{problem}|{solution}|{reference}|{x}", &turns),
            "a {reference} b|W|R|{x}"
        );
        let built_in = PromptFile::open(None, PROMPT).unwrap().whole(&PLACES).unwrap();
        assert!(prompt(&built_in, &turns).contains("Correct solution:\nR\n"));
    }

    #[test]
    fn both_sorts_come_to_the_same_number() {
        let rng = || stream(0, "", 0);
        let (a, b) = balance(vec![1, 2, 3, 4, 5], vec![6, 7], Balance::Drop, &mut rng());
        assert!(a.len() == 2 && a.is_sorted() && b == [6, 7], "{a:?} {b:?}");
        let (a, b) = balance(vec![1, 2, 3, 4, 5], vec![6, 7], Balance::Resample, &mut rng());
        let count = |value| b.iter().filter(|&&it| it == value).count();
        assert_eq!((a.len(), b.len()), (5, 5));
        assert!(count(6) >= 2 && count(7) >= 2, "{b:?}");
        assert_eq!(
            balance(vec![1], Vec::<i32>::new(), Balance::Resample, &mut rng()),
            (vec![1], vec![])
        );
        assert_eq!(
            balance(vec![1, 2], vec![3], Balance::None, &mut rng()),
            (vec![1, 2], vec![3])
        );
    }
}
