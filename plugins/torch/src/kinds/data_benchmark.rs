//! `data.benchmark`: the problems of a known benchmark from a file that the user has, under its usual prompt.
//!
//! Reads the fields that `scripts/fetch-benchmarks.py` writes and those of the usual hub files, makes answers what the
//! verifier expects, and says where a file is not the published set. The prompts are in `prompts/benchmark`; as they are
//! part of the program, an edit of one needs a new version of the kind. The bare statement stays in `meta.statement`,
//! so that `eval` can put another prompt around it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::problem_lines::{open, text_of};
use crate::formats::{Problem, VERSION, VerifierName, write_jsonl};
use crate::template::Template;
use crate::verify::stated_answer;
use crate::worker::Job;

/// Parameters of `data.benchmark`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    name: Benchmark,
    /// The file: `.jsonl`, or `.jsonl.gz`.
    path: PathBuf,
    /// A file with what the policy is shown, with `{problem}` for the statement; null: the benchmark's own.
    prompt: Option<PathBuf>,
    /// Problems taken from the front; 0 takes all.
    num_problems: usize,
}

/// The benchmarks that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Benchmark {
    Math500,
    Aime24,
    Aime25,
    Amc23,
    Gsm8k,
}

/// Names that files give to a field, the first that a line has being taken.
const ID_FIELDS: [&str; 5] = ["id", "unique_id", "ID", "problem_idx", "idx"];
const STATEMENT_FIELDS: [&str; 4] = ["problem", "question", "Problem", "Question"];
const ANSWER_FIELDS: [&str; 3] = ["answer", "Answer", "expected_answer"];
const SOLUTION_FIELDS: [&str; 2] = ["solution", "Solution"];
const SUBJECT_FIELDS: [&str; 2] = ["subject", "type"];

/// Reads the file, writes `problems`.
///
/// # Errors
/// The file can't be read, a line is no problem of the benchmark, or two have the same id.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let template = match &params.prompt {
        Some(path) => Template::of(Some(path))?,
        None => Template::new(params.name.prompt())?,
    };
    let found = read(
        params.name,
        &params.path.display().to_string(),
        open(&params.path)?,
        &template,
    )?;
    for warning in &found.warnings {
        job.warning(warning);
    }
    let mut problems = found.problems;
    job.info(&format!("{} problems of {}", problems.len(), params.name.title()));
    if params.num_problems > 0 {
        problems.truncate(params.num_problems);
    }
    write_jsonl(&job.output("problems")?, &problems)?;
    Ok(())
}

impl Benchmark {
    fn title(self) -> &'static str {
        match self {
            Self::Math500 => "MATH-500",
            Self::Aime24 => "AIME 2024",
            Self::Aime25 => "AIME 2025",
            Self::Amc23 => "AMC 2023",
            Self::Gsm8k => "GSM8K",
        }
    }

    /// What ids begin with where a file has none.
    fn slug(self) -> &'static str {
        match self {
            Self::Math500 => "math500",
            Self::Aime24 => "aime24",
            Self::Aime25 => "aime25",
            Self::Amc23 => "amc23",
            Self::Gsm8k => "gsm8k",
        }
    }

    /// Sizes of the published sets; GSM8K has a test and a training set.
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Math500 => &[500],
            Self::Aime24 | Self::Aime25 => &[30],
            Self::Amc23 => &[40],
            Self::Gsm8k => &[1319, 7473],
        }
    }

    fn prompt(self) -> &'static str {
        match self {
            Self::Math500 => include_str!("../../prompts/benchmark/math.txt"),
            Self::Aime24 | Self::Aime25 => include_str!("../../prompts/benchmark/aime.txt"),
            Self::Amc23 => include_str!("../../prompts/benchmark/amc23.txt"),
            Self::Gsm8k => include_str!("../../prompts/benchmark/gsm8k.txt"),
        }
    }

    /// Makes an answer of a file what the verifier compares with.
    fn answer(self, text: &str) -> Result<String> {
        let text = text.trim();
        match self {
            Self::Math500 => Ok(text.to_owned()),
            // The file of the authors has a solution and `#### 1,234`.
            Self::Gsm8k => {
                let answer = text.rsplit("####").next().unwrap_or(text);
                Ok(answer.trim().replace(',', ""))
            }
            Self::Aime24 | Self::Aime25 | Self::Amc23 => {
                let digits = text.trim_end_matches("^\\circ").trim();
                let number: f64 = digits
                    .parse()
                    .map_err(|_| anyhow!("the answer {text:?} is no integer"))?;
                ensure!(number.fract() == 0.0, "the answer {text:?} is no integer");
                let in_range = self == Self::Amc23 || (0.0..=999.0).contains(&number);
                ensure!(
                    in_range,
                    "the answer {text:?} is not from 0 to 999, as every answer of an AIME is"
                );
                Ok(format!("{number:.0}"))
            }
        }
    }
}

/// What was found in a file.
#[derive(Debug)]
struct Found {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

fn read(benchmark: Benchmark, path: &str, source: impl Read, template: &Template) -> Result<Found> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    let mut statements: BTreeMap<String, String> = BTreeMap::new();
    let mut warnings = Vec::new();
    for (idx, line) in BufReader::new(source).lines().enumerate() {
        let place = || format!("{path}:{}", idx + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let (mut problem, statement) = entry(benchmark, &line, problems.len() + 1).with_context(place)?;
        if let Some(first) = ids.insert(problem.id.clone(), idx + 1) {
            return Err(anyhow!("the id {:?} is that of line {first} too", problem.id)).with_context(place);
        }
        let letters: String = statement.chars().filter(|c| c.is_alphanumeric()).collect();
        if let Some(first) = statements.insert(letters.to_lowercase(), problem.id.clone()) {
            warnings.push(format!("{path}: {:?} asks the same as {first:?}", problem.id));
        }
        problem.problem = statement;
        problem.problem = template.fill(&problem).with_context(place)?;
        problems.push(problem);
    }
    ensure!(!problems.is_empty(), "{path}: there are no problems in it");
    if !benchmark.sizes().contains(&problems.len()) {
        let sizes: Vec<String> = benchmark.sizes().iter().map(usize::to_string).collect();
        warnings.push(format!(
            "{path} has {} problems, but {} has {}: scores on it are not those that others publish",
            problems.len(),
            benchmark.title(),
            sizes.join(" or ")
        ));
    }
    Ok(Found { problems, warnings })
}

/// Reads a line: the problem, still without its text, and its statement.
fn entry(benchmark: Benchmark, line: &str, number: usize) -> Result<(Problem, String)> {
    let fields: Map<String, Value> = serde_json::from_str(line).context("not a JSON object")?;
    let statement = first_of(&fields, &STATEMENT_FIELDS)?.trim().to_owned();
    let answer = benchmark.answer(&stated(&fields)?)?;
    ensure!(!answer.is_empty(), "the answer is empty");
    let id = match first_of(&fields, &ID_FIELDS) {
        // A bare number says nothing outside its file.
        Ok(id) if id.parse::<u64>().is_err() => id,
        Ok(id) => format!("{}-{id}", benchmark.slug()),
        Err(_) => format!("{}-{number:04}", benchmark.slug()),
    };
    let mut meta = Map::new();
    if let Some(level) = fields.get("level").and_then(level) {
        meta.insert("level".into(), level.into());
    }
    if let Ok(subject) = first_of(&fields, &SUBJECT_FIELDS) {
        meta.insert("subject".into(), subject.into());
    }
    let source = text_of(&fields, "source").unwrap_or_else(|_| benchmark.title().to_owned());
    meta.insert("source".into(), source.into());
    meta.insert("statement".into(), statement.clone().into());
    let problem = Problem {
        version: VERSION,
        id,
        problem: String::new(),
        answer,
        verifier: VerifierName::Math,
        meta,
    };
    Ok((problem, statement))
}

/// Returns the reference answer, or the one that the reference solution ends in.
fn stated(fields: &Map<String, Value>) -> Result<String> {
    first_of(fields, &ANSWER_FIELDS).or_else(|error| {
        let solution = first_of(fields, &SOLUTION_FIELDS).map_err(|_| error)?;
        stated_answer(VerifierName::Math, &solution).context("there is no answer, and the solution states none")
    })
}

/// Returns the first of some fields that a line has. A list of one, as some files have for answers, is its item.
fn first_of(fields: &Map<String, Value>, names: &[&str]) -> Result<String> {
    let name = names
        .iter()
        .find(|name| fields.get(**name).is_some_and(|value| !value.is_null()));
    let name = name.unwrap_or(&names[0]);
    match fields.get(*name) {
        Some(Value::Array(items)) if items.len() == 1 => {
            let only = Map::from_iter([((*name).to_owned(), items[0].clone())]);
            text_of(&only, name)
        }
        _ => text_of(fields, name),
    }
}

/// Reads a level: `3` or MATH's own `Level 3`.
fn level(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.trim_start_matches("Level ").trim().parse().ok(),
        other => other.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_lines(benchmark: Benchmark, text: &str) -> Result<Found> {
        let template = Template::new(benchmark.prompt()).expect("the built-in prompt has a place");
        read(benchmark, "set.jsonl", text.as_bytes(), &template)
    }

    fn one(benchmark: Benchmark, line: &str) -> Problem {
        read_lines(benchmark, line).expect("a good line").problems.remove(0)
    }

    #[test]
    fn canonical_lines_become_problems_under_the_prompt() {
        let line = r#"{"id": "math500-algebra-1", "problem": " What is $x$? ", "answer": "\\frac{1}{2}", "solution": "s", "level": 3, "subject": "Algebra", "source": "MATH-500"}"#;
        let problem = one(Benchmark::Math500, line);
        assert_eq!(
            (problem.id.as_str(), problem.answer.as_str()),
            ("math500-algebra-1", "\\frac{1}{2}")
        );
        assert!(problem.problem.ends_with("Problem: What is $x$?") && problem.problem.contains("## Step N"));
        assert!(problem.problem.contains("\\boxed{...}"));
        let meta =
            serde_json::json!({"level": 3, "subject": "Algebra", "source": "MATH-500", "statement": "What is $x$?"});
        assert_eq!(Value::Object(problem.meta), meta);
    }

    #[test]
    fn hub_files_are_read_by_their_own_field_names() {
        let hendrycks =
            r#"{"problem": "p", "level": "Level 5", "type": "Geometry", "solution": "So $\\boxed{7}$ it is."}"#;
        let problem = one(Benchmark::Math500, hendrycks);
        assert_eq!((problem.answer.as_str(), problem.id.as_str()), ("7", "math500-0001"));
        assert_eq!(
            (&problem.meta["level"], &problem.meta["subject"]),
            (&5.into(), &"Geometry".into())
        );
        let gsm8k = r#"{"question": "q", "answer": "He has <<1000+234=1234>>1,234.\n#### 1,234"}"#;
        assert_eq!(one(Benchmark::Gsm8k, gsm8k).answer, "1234");
        let amc = r#"{"id": 0, "question": "q", "answer": 27.0, "url": "u"}"#;
        assert_eq!(
            (one(Benchmark::Amc23, amc).answer, one(Benchmark::Amc23, amc).id),
            ("27".into(), "amc23-0".into())
        );
        assert_eq!(
            one(Benchmark::Amc23, r#"{"question": "q", "answer": ["-1.0"]}"#).answer,
            "-1"
        );
        let aime = r#"{"ID": "2024-II-4", "Problem": "p", "Answer": "033"}"#;
        assert_eq!(
            (one(Benchmark::Aime24, aime).answer, one(Benchmark::Aime24, aime).id),
            ("33".into(), "2024-II-4".into())
        );
        assert_eq!(
            one(Benchmark::Aime25, r#"{"question": "q", "answer": "336^\\circ"}"#).answer,
            "336"
        );
    }

    #[test]
    fn what_is_not_the_published_set_is_told() {
        let text =
            "{\"question\": \"Is it so?\", \"answer\": \"1\"}\n\n{\"question\": \"is it, so\", \"answer\": \"1\"}\n";
        let found = read_lines(Benchmark::Amc23, text).expect("two lines");
        let [same, count] = found.warnings.as_slice() else {
            panic!("{:?}", found.warnings)
        };
        assert!(
            same.contains("\"amc23-0002\" asks the same as \"amc23-0001\""),
            "{same}"
        );
        assert!(count.contains("has 2 problems, but AMC 2023 has 40"), "{count}");
    }

    #[test]
    fn bad_lines_are_named() {
        let error = |benchmark, text: &str| format!("{:#}", read_lines(benchmark, text).expect_err("a bad line"));
        assert!(error(Benchmark::Aime24, r#"{"problem": "p", "answer": "1000"}"#).contains("from 0 to 999"));
        assert!(
            error(Benchmark::Amc23, r#"{"problem": "p", "answer": "x"}"#).contains("set.jsonl:1: the answer \"x\"")
        );
        assert!(
            error(Benchmark::Gsm8k, r#"{"text": "p", "answer": "1"}"#).contains("no field \"problem\"; the line has")
        );
        assert!(error(Benchmark::Math500, r#"{"problem": "p", "solution": ""}"#).contains("no field \"answer\""));
        let twice =
            "{\"id\": \"a\", \"problem\": \"p\", \"answer\": 1}\n{\"id\": \"a\", \"problem\": \"q\", \"answer\": 1}";
        assert!(error(Benchmark::Gsm8k, twice).contains("set.jsonl:2: the id \"a\" is that of line 1 too"));
        assert!(error(Benchmark::Gsm8k, "\n").contains("no problems"));
    }
}
