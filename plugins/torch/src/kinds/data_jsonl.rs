//! `data.jsonl`: problems from a local JSON Lines file, plain or gzipped.
//!
//! Maps the file's own field names to problems and says at which line something is missing. Ids come from the file or
//! from the line numbers, never from the file's path. Where the file has reference solutions, they also become chats,
//! to start a policy that is too weak to be searched with.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use rand::seq::SliceRandom;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::problem_lines::{open, text_of};
use crate::formats::{Chat, Message, Problem, VERSION, VerifierName, write_jsonl};
use crate::random::stream;
use crate::verify::{Wording, check_problem};
use crate::worker::Job;

/// Where the statement goes in a template.
const PROBLEM: &str = "{problem}";
const SOLUTION: &str = "{solution}";
const ANSWER: &str = "{answer}";

/// Parameters of `data.jsonl`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The file: `.jsonl`, or `.jsonl.gz`.
    path: PathBuf,
    /// Field with the statement, a string.
    problem_field: String,
    /// Field with the reference answer, a string or a number.
    answer_field: String,
    /// Field with the id; null: the line number.
    id_field: Option<String>,
    /// Fields that are kept in `meta`, where a line has them.
    meta_fields: Vec<String>,
    /// Problems to skip and to take, after shuffling; a null `count` takes all.
    offset: usize,
    count: Option<usize>,
    shuffle: bool,
    /// Seed of the shuffling.
    seed: u64,
    /// Regular expression that finds the answer in its field: its last match, of which the first group if it has one.
    answer_pattern: Option<String>,
    verifier: VerifierName,
    /// What the policy is shown, with `{problem}` for the statement.
    template: String,
    /// Field with a reference solution; null: there are none, and `chats` stays empty.
    solution_field: Option<String>,
    /// What a chat answers, with `{solution}`, each line a paragraph of its own, and `{answer}`.
    solution_template: String,
}

/// A line of the file.
#[derive(Debug)]
struct Entry {
    problem: Problem,
    solution: Option<String>,
}

/// Reads the file, writes `problems` and `chats`.
///
/// # Errors
/// The file can't be read, a line is no such problem, or fewer than `count` are left.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let reader = Reader::new(&params)?;
    let mut entries = reader.read(open(&params.path)?)?;
    let found = entries.len();
    if params.shuffle {
        entries.shuffle(&mut stream(params.seed, "shuffle", 0));
    }
    entries.drain(..params.offset.min(found));
    if let Some(count) = params.count {
        ensure!(
            entries.len() >= count,
            "{} has {found} problems: after offset {} there are {} left, but count is {count}",
            params.path.display(),
            params.offset,
            entries.len()
        );
        entries.truncate(count);
    }
    ensure!(
        !entries.is_empty(),
        "{}: no problem is left of {found}",
        params.path.display()
    );
    job.info(&format!("{} of {found} problems", entries.len()));
    write_jsonl(&job.output("problems")?, entries.iter().map(|entry| &entry.problem))?;
    write_jsonl(
        &job.output("chats")?,
        entries.iter().filter_map(|entry| entry.chat(&params.solution_template)),
    )?;
    Ok(())
}

impl Entry {
    /// Returns the reference solution as a conversation.
    fn chat(&self, template: &str) -> Option<Chat> {
        let separator = Wording::of(self.problem.verifier).separator;
        let lines = self
            .solution
            .as_ref()?
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let solution = lines.collect::<Vec<_>>().join(&separator);
        let answer = template
            .replace(SOLUTION, &solution)
            .replace(ANSWER, &self.problem.answer);
        Some(Chat {
            messages: vec![
                Message::new("user", self.problem.problem.clone()),
                Message::new("assistant", answer),
            ],
            problem_id: self.problem.id.clone(),
            style: None,
            num_backtracks: 0,
        })
    }
}

/// Turns lines into problems.
struct Reader<'a> {
    params: &'a Params,
    answer_pattern: Option<Regex>,
}

impl<'a> Reader<'a> {
    fn new(params: &'a Params) -> Result<Self> {
        ensure!(
            params.template.contains(PROBLEM),
            "the template {:?} has no {PROBLEM} in it",
            params.template
        );
        let compile = |pattern: &String| Regex::new(pattern).with_context(|| format!("answer_pattern {pattern:?}"));
        Ok(Self {
            params,
            answer_pattern: params.answer_pattern.as_ref().map(compile).transpose()?,
        })
    }

    fn read(&self, source: impl Read) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (idx, line) in BufReader::new(source).lines().enumerate() {
            let place = || format!("{}:{}", self.params.path.display(), idx + 1);
            let line = line.with_context(place)?;
            if !line.trim().is_empty() {
                entries.push(self.entry(&line, idx + 1).with_context(place)?);
            }
        }
        Ok(entries)
    }

    fn entry(&self, line: &str, number: usize) -> Result<Entry> {
        let fields: Map<String, Value> = serde_json::from_str(line).context("not a JSON object")?;
        let statement = text_of(&fields, &self.params.problem_field)?;
        let mut answer = text_of(&fields, &self.params.answer_field)?;
        if let Some(pattern) = &self.answer_pattern {
            let found = pattern.captures_iter(&answer).last();
            let found = found.and_then(|found| found.get(1).or_else(|| found.get(0)));
            let field = &self.params.answer_field;
            answer = found
                .ok_or_else(|| anyhow!("answer_pattern finds nothing in field {field:?}"))?
                .as_str()
                .to_owned();
        }
        let answer = answer.trim().to_owned();
        ensure!(!answer.is_empty(), "the answer is empty");
        let id = match &self.params.id_field {
            Some(field) => text_of(&fields, field)?,
            None => format!("line-{number:06}"),
        };
        let meta_fields = self.params.meta_fields.iter();
        let problem = Problem {
            version: VERSION,
            id,
            problem: self.params.template.replace(PROBLEM, statement.trim()),
            answer,
            verifier: self.params.verifier,
            meta: meta_fields
                .filter_map(|name| Some((name.clone(), fields.get(name)?.clone())))
                .collect(),
        };
        check_problem(&problem)?;
        let solution = self
            .params
            .solution_field
            .as_ref()
            .map(|field| text_of(&fields, field))
            .transpose()?;
        Ok(Entry { problem, solution })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn params() -> Params {
        Params {
            path: "set.jsonl".into(),
            problem_field: "question".into(),
            answer_field: "answer".into(),
            id_field: None,
            meta_fields: vec!["level".into()],
            offset: 0,
            count: None,
            shuffle: false,
            seed: 0,
            answer_pattern: Some(r"####\s*(.+)".into()),
            verifier: VerifierName::Math,
            template: "{problem}\nBox it.".into(),
            solution_field: None,
            solution_template: "{solution}\n\nThe answer is {answer}.".into(),
        }
    }

    fn read(params: &Params, text: &str) -> Result<Vec<Problem>> {
        let entries = Reader::new(params)?.read(text.as_bytes())?;
        Ok(entries.into_iter().map(|entry| entry.problem).collect())
    }

    #[test]
    fn fields_are_mapped_and_the_answer_is_found() {
        let line = r#"{"question": "1 + 1?", "answer": "It is 2.\n#### 1,002", "level": 3, "other": 1}"#;
        let problems = read(&params(), &format!("\n{line}\n")).unwrap();
        let problem = &problems[0];
        assert_eq!(
            (problem.problem.as_str(), problem.answer.as_str()),
            ("1 + 1?\nBox it.", "1,002")
        );
        assert_eq!((problem.id.as_str(), problem.meta.len()), ("line-000002", 1));
    }

    #[test]
    fn mistakes_name_the_line_and_the_fields_there_are() {
        let message = |text: &str| format!("{:#}", read(&params(), text).unwrap_err());
        let good = r#"{"question": "q", "answer": "So #### 1"}"#;
        assert_eq!(
            message(&format!("{good}\n{{\"problem\": \"q\"}}")),
            "set.jsonl:2: there is no field \"question\"; the line has problem"
        );
        assert!(message("[1]").starts_with("set.jsonl:1: not a JSON object"));
        assert!(message(r#"{"question": "q", "answer": "1"}"#).contains("answer_pattern finds nothing"));
        assert!(message(r#"{"question": " ", "answer": "1"}"#).contains("\"question\" is empty"));
        let countdown = Params {
            verifier: VerifierName::Countdown,
            template: PROBLEM.into(),
            ..params()
        };
        assert!(format!("{:#}", read(&countdown, good).unwrap_err()).contains("not of the form"));
        assert!(
            read(
                &Params {
                    template: "no place".into(),
                    ..params()
                },
                good
            )
            .is_err()
        );
        assert!(
            read(
                &Params {
                    answer_pattern: Some("(".into()),
                    ..params()
                },
                good
            )
            .is_err()
        );
    }

    #[test]
    fn gzip_is_read_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        encoder.write_all(br#"{"question": "q", "answer": 7}"#).unwrap();
        encoder.finish().unwrap();
        let params = Params {
            answer_pattern: None,
            ..params()
        };
        let problems = Reader::new(&params).unwrap().read(open(&path).unwrap()).unwrap();
        assert_eq!(problems[0].problem.answer, "7");
    }

    #[test]
    fn a_reference_solution_becomes_a_chat_of_one_paragraph_a_line() {
        let params = Params {
            solution_field: Some("steps".into()),
            ..params()
        };
        let line = r#"{"question": "q", "answer": "\u0023### 4", "steps": "1 + 1 = 2\n\n2 + 2 = 4 "}"#;
        let entries = Reader::new(&params).unwrap().read(line.as_bytes()).unwrap();
        let chat = entries[0].chat(&params.solution_template).unwrap();
        assert_eq!(chat.messages[0].content, "q\nBox it.");
        assert_eq!(chat.messages[1].content, "1 + 1 = 2\n\n2 + 2 = 4\n\nThe answer is 4.");
    }
}
