//! The data that the shipped kinds pass to each other: problems, trees, traces, chats, samples, scores and metrics.
//!
//! JSON Lines with a `version` in each line (chats and texts have none: they are the ecosystem's own shapes). This
//! module knows how these look on disk and nothing of how they come about. See also `plugins/CONTRACT.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version written into each line.
pub const VERSION: u32 = 1;

/// What can go wrong between a data file and its values.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("{path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: not a valid {what}")]
    Line {
        path: PathBuf,
        line: usize,
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("{path}:{line}: version {got} of {what}, but only {VERSION} is known")]
    Version {
        path: PathBuf,
        line: usize,
        what: &'static str,
        got: u64,
    },
}

/// A question with a reference answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(default = "version")]
    pub version: u32,
    pub id: String,
    /// The text that the policy is shown.
    pub problem: String,
    /// The reference answer, as the verifier understands it (Countdown: the target number).
    pub answer: String,
    /// Which verifier judges an answer.
    #[serde(default)]
    pub verifier: VerifierName,
    /// Level, subject, source and the like; kept, not interpreted.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub meta: serde_json::Map<String, serde_json::Value>,
}

/// The verifiers that `verify` provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifierName {
    #[default]
    Math,
    Countdown,
}

/// One search tree; `nodes[0]` is the root and each parent comes before its children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    #[serde(default = "version")]
    pub version: u32,
    pub problem: Problem,
    pub nodes: Vec<TreeNode>,
    pub num_simulations: u32,
    /// Tokens that the policy generated for this tree, rollouts included.
    pub num_tokens: u64,
}

/// A reasoning step in a search tree, with the statistics of the edge that leads into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Index in `Tree::nodes`.
    pub id: usize,
    pub parent: Option<usize>,
    /// The step's text; the root's is empty.
    pub text: String,
    /// P(a|s): siblings sum to 1.
    pub prior: f64,
    /// N(s, a).
    pub visit_count: u32,
    /// Q(s, a) in [0, 1].
    pub q_value: f64,
    /// R(s) in [0, 1]: the mean reward of the rollouts made when the node was created.
    pub rollout_value: f64,
    pub terminal: bool,
    /// The stated final answer of a terminal.
    pub answer: Option<String>,
    /// The verifier's verdict on a terminal.
    pub correct: Option<bool>,
    /// How a model judged the solution that ends here, where one was asked (`astro.self_eval`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_eval: Option<SelfEval>,
}

/// Votes on a finished solution: whether every step of it is right and justified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfEval {
    pub votes: u32,
    /// Votes that called the solution good.
    pub agree: u32,
    /// Whether these are as many as were asked for.
    pub good: bool,
}

/// A search tree linearized into the order in which a solver would visit it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    #[serde(default = "version")]
    pub version: u32,
    pub problem: Problem,
    pub style: Style,
    /// Number of wrong terminals, which is the number of backtracks.
    pub k: usize,
    pub nodes: Vec<TraceNode>,
    /// The final, correct answer.
    pub answer: String,
}

/// The two arms: with backtracks, or the control without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    Search,
    Direct,
}

/// One visit of a tree node in a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceNode {
    /// Id of the tree node.
    pub id: usize,
    pub parent: Option<usize>,
    pub relation: Relation,
    pub text: String,
    pub q_value: f64,
    pub terminal: bool,
    pub answer: Option<String>,
    pub correct: Option<bool>,
}

/// How a visit follows from the one before it in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    Root,
    Child,
    /// The last common ancestor, visited again after a wrong terminal.
    Backtrack,
    /// The same where that ancestor is the root.
    Restart,
}

/// A conversation for SFT, in the layout that TRL and transformers read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    pub messages: Vec<Message>,
    #[serde(default)]
    pub problem_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<Style>,
    #[serde(default)]
    pub num_backtracks: usize,
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
    /// Byte ranges of `content`, from and up to, whose tokens don't count in a loss: wrong attempts that a model is to
    /// read and not to learn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<[usize; 2]>,
}

impl Message {
    /// A message that counts as a whole.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            masked: Vec::new(),
        }
    }
}

/// A line of pretraining text, in segments so that a drill can ask for its answers alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub segments: Vec<Segment>,
}

/// A run of text; the segments of a line are tokenized one by one and joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub text: String,
    /// Whether its tokens count in the loss.
    pub loss: bool,
}

/// A solution of which only is known whether it is right, as a whole and step by step: what KTO learns from.
///
/// TRL's unpaired preferences, `{prompt, completion, label}`, with more; both texts are what a user and an assistant say,
/// without a chat template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    #[serde(default = "version")]
    pub version: u32,
    #[serde(default)]
    pub problem_id: String,
    /// The text of the problem.
    pub prompt: String,
    pub completion: String,
    /// Whether the final answer is right.
    pub label: bool,
    #[serde(default)]
    pub steps: Vec<StepFeedback>,
}

/// The verdict on one step of a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFeedback {
    /// The bytes of the completion, from and up to, that are the step.
    pub range: [usize; 2],
    /// None where it was not judged.
    pub label: Option<bool>,
}

/// One generated solution, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    #[serde(default = "version")]
    pub version: u32,
    pub problem_id: String,
    pub sample_idx: usize,
    pub prompt: String,
    pub completion: String,
    pub num_tokens: usize,
    pub answer: Option<String>,
    pub correct: bool,
    /// The token limit ended the completion.
    pub truncated: bool,
    pub num_backtracks: usize,
    /// Why a wrong sample is wrong, in the verifier's words (`arithmetic`, `operand`, `false_yes` ...).
    pub failure: Option<String>,
}

/// What `eval` found for one model on one problem set; `scoring` has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    #[serde(default = "version")]
    pub version: u32,
    pub num_problems: usize,
    /// Samples per problem; of the problem with the fewest, where they differ.
    pub num_samples: usize,
    /// `None` where samples of unknown origin were judged.
    pub temperature: Option<f64>,
    /// In tokens; `None` as for `temperature`.
    pub max_completion_length: Option<usize>,
    /// Mean over problems of correct / samples.
    pub pass_at_1: f64,
    /// 95% bootstrap interval of pass@1 over problems: low, high.
    pub pass_at_1_ci95: [f64; 2],
    /// Standard error of that mean; `None` with a single problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_at_1_stderr: Option<f64>,
    /// k -> pass@k (unbiased, Chen et al. 2021, arXiv:2107.03374), for k = 1 .. `num_samples`.
    pub pass_at_k: BTreeMap<usize, f64>,
    /// As `pass_at_1_ci95`, at the largest k.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at_k_ci95: BTreeMap<usize, [f64; 2]>,
    /// k -> share of problems whose most frequent answer among the first k samples is correct.
    pub maj_at_k: BTreeMap<usize, f64>,
    /// As `pass_at_1_ci95`, at the largest k.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maj_at_k_ci95: BTreeMap<usize, [f64; 2]>,
    /// Mean generated tokens per sample; 0 where nobody counted them.
    pub mean_tokens: f64,
    /// `p10`, `p50`, `p90`, `p99` and `max` of the tokens of a sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub token_percentiles: BTreeMap<String, f64>,
    pub mean_backtracks: f64,
    /// Mean number of reflections per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_reflections: Option<f64>,
    /// Share of samples that the token limit ended.
    pub truncated: f64,
    /// Failure -> share of all samples.
    pub failures: BTreeMap<String, f64>,
    /// Backtracks in the sample ("0", "1", "2", "3+") -> its samples and how many were correct.
    pub by_backtracks: BTreeMap<String, Tally>,
    /// "correct" and "wrong" -> how such samples were written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_verdict: BTreeMap<String, Behaviour>,
    /// `None` in files from before it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Field of `Problem::meta` (`level`, `subject`) -> its value -> the problems that have it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_meta: BTreeMap<String, BTreeMap<String, GroupScore>>,
    /// How the verdicts differ from those that came with the samples, where stored samples were judged again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    pub problems: Vec<ProblemScore>,
}

/// How samples with one verdict were written; means per sample.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Behaviour {
    pub num_samples: usize,
    pub mean_tokens: f64,
    pub mean_backtracks: f64,
    pub mean_reflections: f64,
    /// Share of samples with at least one backtrack.
    pub with_backtracks: f64,
}

/// Samples whose first stated answer was wrong, and those of them that were correct in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recovery {
    pub num_first_wrong: usize,
    pub num_recovered: usize,
}

impl Recovery {
    /// Returns the share that recovered, or `None` where nothing was wrong at first.
    pub fn rate(&self) -> Option<f64> {
        (self.num_first_wrong > 0).then(|| self.num_recovered as f64 / self.num_first_wrong as f64)
    }
}

/// The problems that share a value of a meta field.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GroupScore {
    pub num_problems: usize,
    pub num_samples: usize,
    pub num_correct: usize,
    /// Mean over these problems.
    pub pass_at_1: f64,
}

/// Verdicts that are others than the stored ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changed {
    /// Samples that came with a verdict.
    pub num_judged_before: usize,
    /// Wrong then, correct now.
    pub num_to_correct: usize,
    /// Correct then, wrong now.
    pub num_to_wrong: usize,
}

/// A count of samples and of correct ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub num_samples: usize,
    pub num_correct: usize,
}

/// The samples of one problem, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProblemScore {
    pub id: String,
    pub num_samples: usize,
    pub num_correct: usize,
    pub num_tokens: usize,
    #[serde(default)]
    pub num_backtracks: usize,
    /// Whether the most frequent answer among all samples is correct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority_correct: Option<bool>,
}

/// One line of training metrics: `step` and any numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    pub step: usize,
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// What a folder of the type `checkpoints` holds: its `index.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointIndex {
    pub version: u32,
    /// In the order of their steps.
    pub checkpoints: Vec<KeptStep>,
}

/// A model that was kept during training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptStep {
    /// Optimizer steps that it has learned from.
    pub step: usize,
    /// Its model folder, beside the index.
    pub folder: String,
    /// The metrics of that step.
    pub metrics: BTreeMap<String, f64>,
}

fn version() -> u32 {
    VERSION
}

/// Reads a JSON Lines file; empty lines are skipped.
///
/// # Errors
/// The file can't be read, or a line is not a `T` (with its number), or has a newer version.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Vec<T>, FormatError> {
    let numbered = read_jsonl_numbered(path, what)?;
    Ok(numbered.into_iter().map(|(_, value)| value).collect())
}

/// As [`read_jsonl`], each value with the number of its line, from 1.
///
/// # Errors
/// As [`read_jsonl`].
pub fn read_jsonl_numbered<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<Vec<(usize, T)>, FormatError> {
    let io = |source| FormatError::Io {
        path: path.to_owned(),
        source,
    };
    let reader = BufReader::new(File::open(path).map_err(io)?);
    let mut values = Vec::new();
    for (idx, text) in reader.lines().enumerate() {
        let text = text.map_err(io)?;
        if text.trim().is_empty() {
            continue;
        }
        let line = |source| FormatError::Line {
            path: path.to_owned(),
            line: idx + 1,
            what,
            source,
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(line)?;
        if let Some(got) = value.get("version").and_then(serde_json::Value::as_u64)
            && got != u64::from(VERSION)
        {
            return Err(FormatError::Version {
                path: path.to_owned(),
                line: idx + 1,
                what,
                got,
            });
        }
        values.push((idx + 1, serde_json::from_value(value).map_err(line)?));
    }
    Ok(values)
}

/// Writes a JSON Lines file.
///
/// # Errors
/// The file can't be written.
pub fn write_jsonl<T: Serialize>(path: &Path, values: impl IntoIterator<Item = T>) -> Result<(), FormatError> {
    let io = |source| FormatError::Io {
        path: path.to_owned(),
        source,
    };
    let mut writer = BufWriter::new(File::create(path).map_err(io)?);
    for value in values {
        serde_json::to_writer(&mut writer, &value).map_err(|e| io(e.into()))?;
        writer.write_all(b"\n").map_err(io)?;
    }
    writer.flush().map_err(io)
}

/// Reads one JSON file.
///
/// # Errors
/// The file can't be read or is not a `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, FormatError> {
    let text = std::fs::read(path).map_err(|source| FormatError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| FormatError::Line {
        path: path.to_owned(),
        line: source.line(),
        what,
        source,
    })
}

/// Writes one JSON file, indented.
///
/// # Errors
/// The file can't be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FormatError> {
    let io = |source| FormatError::Io {
        path: path.to_owned(),
        source,
    };
    let mut writer = BufWriter::new(File::create(path).map_err(io)?);
    serde_json::to_writer_pretty(&mut writer, value).map_err(|e| io(e.into()))?;
    writer.write_all(b"\n").and_then(|()| writer.flush()).map_err(io)
}
