//! The graph behind a solution's text: steps, and the moves that take up an earlier one again.
//!
//! Cuts the text into paragraphs and each into sentences. Sentences that reflect, judge or return are told by
//! patterns that a user can change; what is left is a step, which follows from the current one. A return makes the
//! step that it names the current one. Knows no verifier: whether a stated answer is right comes from the sample's own
//! verdict, from an explicit check (`24 ? 24`) or from what the text itself says next. `draw_solution` draws the result.

use regex::Regex;
use serde::Serialize;

use super::solution_target::named_step;

/// How to read a solution's text. All patterns are regular expressions that ignore case.
#[derive(Debug, Clone)]
pub struct Phrases {
    /// What separates paragraphs; `None`: ` ; ` if the text has it, else blank lines, else `## Step` or line breaks.
    pub separator: Option<String>,
    pub reflection: Vec<Regex>,
    pub negative: Vec<Regex>,
    pub positive: Vec<Regex>,
    pub go_back: Vec<Regex>,
    pub restart: Vec<Regex>,
    /// Marks a step that states an answer.
    pub terminal: Vec<Regex>,
}

/// A solution as a directed graph; step 0 is the problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Solution {
    pub version: u32,
    pub problem_id: String,
    pub correct: bool,
    pub truncated: bool,
    pub steps: Vec<Step>,
    pub moves: Vec<Move>,
}

/// One step of reasoning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub id: usize,
    /// The step that it follows from; earlier than it.
    pub parent: Option<usize>,
    pub text: String,
    /// States an answer.
    pub terminal: bool,
    /// Whether that answer is right, where it is known.
    pub right: Option<bool>,
    pub num_positive: usize,
    pub num_negative: usize,
}

/// A return to an earlier step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// From 1, in the order of the text.
    pub number: usize,
    pub from: usize,
    pub to: usize,
    pub restart: bool,
    /// The text doesn't clearly say where to.
    pub uncertain: bool,
    /// The return sentence.
    pub text: String,
}

/// A text to read, with what is known about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading<'a> {
    pub problem_id: &'a str,
    pub problem: &'a str,
    pub completion: &'a str,
    pub correct: bool,
    pub truncated: bool,
}

/// Compiles patterns, ignoring case.
///
/// # Errors
/// One of them is not a regular expression.
pub fn patterns(texts: &[String]) -> Result<Vec<Regex>, regex::Error> {
    texts
        .iter()
        .map(|text| regex::RegexBuilder::new(text).case_insensitive(true).build())
        .collect()
}

/// Reads the graph out of a solution's text.
pub fn read_solution(reading: Reading, phrases: &Phrases) -> Solution {
    let mut reader = Reader {
        phrases,
        steps: vec![step(0, None, reading.problem, phrases)],
        moves: Vec::new(),
        current: 0,
    };
    let completion = plain(reading.completion);
    for paragraph in paragraphs(&completion, phrases.separator.as_deref()) {
        reader.paragraph(paragraph);
    }
    let Reader {
        mut steps,
        moves,
        current,
        ..
    } = reader;
    judge(&mut steps, &moves, current, reading.correct);
    let Reading {
        problem_id,
        correct,
        truncated,
        ..
    } = reading;
    Solution {
        version: 1,
        problem_id: problem_id.to_owned(),
        correct,
        truncated,
        steps,
        moves,
    }
}

/// Drops chat markers such as `<|end|>`, and makes apostrophes plain so that patterns need to know one kind only.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("<|") {
        let Some(length) = rest[start..].find("|>") else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out.replace('\u{2019}', "'").trim().to_owned()
}

struct Reader<'a> {
    phrases: &'a Phrases,
    steps: Vec<Step>,
    moves: Vec<Move>,
    current: usize,
}

impl Reader<'_> {
    fn paragraph(&mut self, paragraph: &str) {
        let matches = |patterns: &[Regex], text: &str| patterns.iter().any(|pattern| pattern.is_match(text));
        let mut content = String::new();
        let mut returned = false;
        for sentence in sentences(paragraph) {
            let restart = matches(&self.phrases.restart, sentence);
            if restart || matches(&self.phrases.go_back, sentence) {
                self.finish(&mut content);
                // One return a paragraph: "let's go back to ..., that is, let's go back to ..." is one move.
                if !returned {
                    self.go_back(sentence, restart);
                }
                returned = true;
            } else if matches(&self.phrases.negative, sentence) {
                self.finish(&mut content);
                self.steps[self.current].num_negative += 1;
            } else if matches(&self.phrases.positive, sentence) {
                self.finish(&mut content);
                self.steps[self.current].num_positive += 1;
            } else if matches(&self.phrases.reflection, sentence) {
                self.finish(&mut content);
            } else {
                content.push_str(sentence);
            }
        }
        self.finish(&mut content);
    }

    /// Makes what was read since the last phrase a step.
    fn finish(&mut self, content: &mut String) {
        let text = std::mem::take(content);
        if text.chars().any(char::is_alphanumeric) {
            let id = self.steps.len();
            self.steps.push(step(id, Some(self.current), text.trim(), self.phrases));
            self.current = id;
        }
    }

    fn go_back(&mut self, sentence: &str, restart: bool) {
        let (to, uncertain) = if restart { (0, false) } else { self.target(sentence) };
        let (number, from) = (self.moves.len() + 1, self.current);
        self.moves.push(Move {
            number,
            from,
            to,
            restart,
            uncertain,
            text: sentence.trim().to_owned(),
        });
        self.current = to;
    }

    /// Returns the step that a return sentence names, and whether that is a guess.
    fn target(&self, sentence: &str) -> (usize, bool) {
        let mut path = self.path();
        if path.len() > 1 {
            path.pop();
        }
        named_step(sentence, &path, &self.steps).unwrap_or((self.steps[self.current].parent.unwrap_or(0), true))
    }

    /// Returns the ids from the root to the current step.
    fn path(&self) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(self.current), |id| self.steps[*id].parent).collect();
        path.reverse();
        path
    }
}

fn step(id: usize, parent: Option<usize>, text: &str, phrases: &Phrases) -> Step {
    let terminal = parent.is_some() && phrases.terminal.iter().any(|pattern| pattern.is_match(text));
    Step {
        id,
        parent,
        text: plain(text),
        terminal,
        right: None,
        num_positive: 0,
        num_negative: 0,
    }
}

/// Decides which stated answers are right: the one that stands has the sample's verdict; of the abandoned ones an
/// explicit check that fails, or the text's own negative judgement, makes a wrong one.
fn judge(steps: &mut [Step], moves: &[Move], current: usize, correct: bool) {
    // A correct sample states its answer somewhere, even in words that no pattern knows.
    if current > 0 && correct {
        steps[current].terminal = true;
    }
    for step in steps.iter_mut().filter(|step| step.terminal) {
        let abandoned = moves.iter().any(|m| m.from == step.id);
        step.right = if step.id == current && !abandoned {
            Some(correct)
        } else if failed_check(&step.text) || step.num_negative > 0 {
            Some(false)
        } else {
            None
        };
    }
}

/// Tells whether a step checks a value against the target (`14 ? 24`) and they differ.
fn failed_check(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(3).any(|w| w[1] == "?" && w[0] != w[2])
}

fn paragraphs<'a>(text: &'a str, separator: Option<&str>) -> Vec<&'a str> {
    let by = |separator: &str| text.split(separator).collect::<Vec<_>>();
    let parts = match separator {
        Some(separator) if !separator.is_empty() => by(separator),
        _ if text.contains(" ; ") => by(" ; "),
        _ => {
            let blocks = by("\n\n");
            if blocks.len() > 1 {
                blocks
            } else if text.contains("## Step") {
                at_headings(text)
            } else {
                by("\n")
            }
        }
    };
    parts
        .into_iter()
        .map(|part| part.trim().trim_end_matches(" ;"))
        .filter(|part| !part.is_empty())
        .collect()
}

fn at_headings(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.match_indices("## Step").map(|(at, _)| at).collect();
    starts.insert(0, 0);
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

/// Splits after `.`, `!`, `?` or `…` and white space where a capital follows: `14 ? 24` is one sentence.
fn sentences(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut after_mark = false;
    let mut after_space = false;
    for (at, c) in text.char_indices() {
        if after_mark && after_space && c.is_uppercase() {
            parts.push(&text[start..at]);
            start = at;
        }
        if c.is_whitespace() {
            after_space = true;
        } else {
            after_mark = matches!(c, '.' | '!' | '?' | '…');
            after_space = false;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The phrases that the shipped kinds write, and a solution in them.
#[cfg(test)]
pub mod fixtures {
    use super::*;

    pub const COUNTDOWN: &str = "7 + 3 = 10 | 4 10 ; 10 + 4 = 14 , 14 ? 24 ; But wait, are we solving the problem \
        correctly so far? Hmm... I'm not sure if we're solving the problem correctly so far. Let's go back to where we \
        had 4 10 ; 10 * 4 = 40 , 40 ? 24 ; But wait, are we solving the problem correctly so far? Hmm... I'm not sure \
        if we're solving the problem correctly so far. Let's restart our solution from the beginning with 7 3 4 ; 7 * \
        4 = 28 | 3 28 ; 28 - 3 = 25 , 25 ? 24 ; But wait, are we solving the problem correctly so far? Hmm... I'm not \
        sure if we're solving the problem correctly so far. Let's go back to where we had 3 28 ; 28 - 4 = 24 , 24 ? \
        24 ; But wait, are we solving the problem correctly so far? Hmm... Our solution seems to be correct so far. \
        <|end|>";

    pub fn phrases() -> Phrases {
        let compile = |texts: &[&str]| {
            patterns(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).expect("valid patterns")
        };
        Phrases {
            separator: None,
            reflection: compile(&["^\\s*but wait", "^\\s*hmm\\W*$"]),
            negative: compile(&["not sure if we're solving"]),
            positive: compile(&["seems to be correct so far"]),
            go_back: compile(&["let's go back to"]),
            restart: compile(&["let's restart"]),
            terminal: compile(&["\\s\\?\\s", "\\\\boxed\\{", "\\banswer is\\b"]),
        }
    }

    pub fn read(problem: &str, completion: &str, correct: bool) -> Solution {
        let reading = Reading {
            problem_id: "p",
            problem,
            completion,
            correct,
            truncated: false,
        };
        read_solution(reading, &phrases())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixtures::{COUNTDOWN, read};
    use super::*;

    fn parents(solution: &Solution) -> Vec<Option<usize>> {
        solution.steps.iter().map(|step| step.parent).collect()
    }

    fn moves(solution: &Solution) -> Vec<(usize, usize, bool, bool)> {
        solution
            .moves
            .iter()
            .map(|m| (m.from, m.to, m.restart, m.uncertain))
            .collect()
    }

    #[test]
    fn a_countdown_solution_is_read() {
        let solution = read("7 3 4 -> 24", COUNTDOWN, true);
        let texts: Vec<&str> = solution.steps.iter().map(|step| step.text.as_str()).collect();
        assert_eq!(
            texts[1..4],
            ["7 + 3 = 10 | 4 10", "10 + 4 = 14 , 14 ? 24", "10 * 4 = 40 , 40 ? 24"]
        );
        assert_eq!(
            parents(&solution),
            [None, Some(0), Some(1), Some(1), Some(0), Some(4), Some(4)]
        );
        assert_eq!(
            moves(&solution),
            [(2, 1, false, false), (3, 0, true, false), (5, 4, false, false)]
        );
        let right: Vec<Option<bool>> = solution.steps.iter().map(|step| step.right).collect();
        assert_eq!(
            right,
            [None, None, Some(false), Some(false), None, Some(false), Some(true)]
        );
        assert_eq!((solution.steps[6].num_positive, solution.steps[2].num_negative), (1, 1));
    }

    #[test]
    fn prose_is_read_and_a_step_may_follow_its_return_sentence() {
        let text = "We set up the equation x + 3 = 10 from the two conditions.\n\nSo x is 13, the answer is \
            \\boxed{13}.\n\nBut wait, are we solving the problem correctly so far? Hmm... I\u{2019}m not sure if \
            we\u{2019}re solving the problem correctly so far. Let\u{2019}s go back to where we set up the equation. \
            Subtract 3 on both sides.\n\nThen x = 7, so the answer is \\boxed{7}.";
        let solution = read("Find x.", text, true);
        assert_eq!(parents(&solution), [None, Some(0), Some(1), Some(1), Some(3)]);
        assert_eq!(moves(&solution), [(2, 1, false, false)]);
        assert_eq!(solution.steps[3].text, "Subtract 3 on both sides.");
        assert_eq!(
            solution.steps.iter().map(|s| s.right).collect::<Vec<_>>(),
            [None, None, Some(false), None, Some(true)]
        );
    }

    #[test]
    fn a_step_number_names_the_target() {
        let text = "## Step 1: add\n7 + 3\n\n## Step 2: double\n20\n\n## Step 3: check\nno\n\nLet's go back to step 1.\n\nmore";
        let solution = read("p", text, false);
        assert_eq!(
            (moves(&solution), solution.steps[4].parent),
            (vec![(3, 1, false, false)], Some(1))
        );
    }

    #[test]
    fn an_unclear_target_is_a_guess() {
        let solution = read("p", "alpha beta\n\ngamma delta\n\nLet's go back to zeta.", false);
        assert_eq!(moves(&solution), [(2, 1, false, true)]);
        // Nothing before it to go back to.
        let solution = read("p", "Let's go back to zeta.\n\nalpha", false);
        assert_eq!(
            (moves(&solution), parents(&solution)),
            (vec![(0, 0, false, true)], vec![None, Some(0)])
        );
    }

    #[test]
    fn a_named_state_may_be_in_another_order() {
        let text =
            "7 + 3 = 10 | 4 10 ; 10 + 4 = 14 , 14 ? 24 ; Let's go back to where we had 10 4 ; 10 * 4 = 40 , 40 ? 24";
        assert_eq!(moves(&read("7 3 4 -> 24", text, false)), [(2, 1, false, false)]);
    }

    #[test]
    fn the_answer_that_stands_has_the_samples_verdict() {
        let text = "7 * 4 = 28 | 3 28 ; 28 - 4 = 24 , 24 ? 24";
        assert_eq!(read("7 3 4 -> 24", text, false).steps[2].right, Some(false));
        assert_eq!(read("7 3 4 -> 24", text, true).steps[2].right, Some(true));
        assert_eq!(read("p", "7 * 4 = 28 | 3 28 ;", false).steps[1].right, None);
    }

    /// A trace: for each visit after the root its parent, and the moves between them.
    #[derive(Debug, Clone)]
    struct Known {
        parents: Vec<Option<usize>>,
        moves: Vec<(usize, usize, bool, bool)>,
        text: String,
    }

    /// Makes a trace with a return to a random ancestor after each attempt, and its text.
    fn known(attempts: &[(usize, proptest::sample::Index)]) -> Known {
        let state = |id: usize| format!("s{id} t{}", id * 7 % 11);
        let mut known = Known {
            parents: vec![None],
            moves: Vec::new(),
            text: String::new(),
        };
        let mut path = vec![0];
        let mut paragraphs: Vec<String> = Vec::new();
        for (number, (length, target)) in attempts.iter().enumerate() {
            if number > 0 {
                let from = path[path.len() - 1];
                path.truncate(target.index(path.len() - 1) + 1);
                let to = path[path.len() - 1];
                known.moves.push((from, to, to == 0, false));
                let sentence = match to {
                    0 => "Let's restart our solution from the beginning with 7 3".to_owned(),
                    id => format!("Let's go back to where we had {}", state(id)),
                };
                paragraphs.push(format!(
                    "But wait, are we right? Hmm... I'm not sure if we're solving it. {sentence}"
                ));
            }
            for _ in 0..*length {
                let id = known.parents.len();
                known.parents.push(path.last().copied());
                path.push(id);
                paragraphs.push(format!("a{id} + b = c | {}", state(id)));
            }
        }
        known.text = paragraphs.join(" ; ");
        known
    }

    proptest! {
        #[test]
        fn traces_are_read_as_they_were_made(
            attempts in proptest::collection::vec((1usize..5, any::<proptest::sample::Index>()), 1..10),
        ) {
            let known = known(&attempts);
            let solution = read("7 3 -> 24", &known.text, false);
            prop_assert_eq!(parents(&solution), known.parents);
            prop_assert_eq!(moves(&solution), known.moves);
        }

        #[test]
        fn any_text_makes_a_graph(text in "(\\PC{0,12}|Let's go back to | ; |\n\n|Let's restart\\. |7 \\? 8|## Step 2){0,30}") {
            let solution = read("p", &text, true);
            for step in &solution.steps[1..] {
                prop_assert!(step.parent.is_some_and(|parent| parent < step.id));
            }
            for m in &solution.moves {
                prop_assert!(m.from < solution.steps.len() && m.to <= m.from);
            }
        }
    }
}
