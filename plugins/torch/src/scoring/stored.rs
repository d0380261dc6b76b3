//! Samples from a file, ours or anyone's, judged by the verifier as it is now.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Finished, judge};
use crate::formats::{Changed, Problem, Sample};

/// A stored completion. `problem_id` and `completion` are all that it needs; `sample` lines have the rest too.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StoredSample {
    pub problem_id: String,
    pub completion: String,
    /// Place among the samples of its problem; without it, the next one that no line before has taken.
    pub sample_idx: Option<usize>,
    pub prompt: Option<String>,
    /// 0 where nobody counted.
    #[serde(default)]
    pub num_tokens: usize,
    #[serde(default)]
    pub truncated: bool,
    /// The verdict that it came with.
    pub correct: Option<bool>,
}

/// What stored samples can't be judged for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoredError {
    #[error("line {line}: there is no problem {id:?}; do the samples belong to these problems?")]
    UnknownProblem { line: usize, id: String },
    #[error(
        "line {line}: problem {id:?} has a sample {sample_idx} already; give each sample of a problem a sample_idx of its \
         own, or none of them one"
    )]
    Repeated { line: usize, id: String, sample_idx: usize },
    #[error("{num_missing} of {num_problems} problems have no sample, the first of them {first:?}")]
    Missing {
        num_missing: usize,
        num_problems: usize,
        first: String,
    },
}

/// The samples of each problem that has some.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub problems: Vec<Problem>,
    /// As long as `problems`.
    pub samples: Vec<Vec<Sample>>,
    pub changed: Changed,
    /// Problems without a sample, which were left out.
    pub num_missing: usize,
}

/// Judges stored samples, each with its line for messages.
///
/// # Errors
/// A sample belongs to no problem or occurs twice, or a problem has no sample and `allow_missing` is not set.
pub fn judge_stored(
    problems: &[Problem],
    stored: Vec<(usize, StoredSample)>,
    allow_missing: bool,
) -> Result<Judged, StoredError> {
    let places: BTreeMap<&str, usize> = problems.iter().enumerate().map(|(i, p)| (p.id.as_str(), i)).collect();
    let mut lists: Vec<BTreeMap<usize, Sample>> = vec![BTreeMap::new(); problems.len()];
    let mut changed = Changed::default();
    for (line, stored) in stored {
        let id = stored.problem_id;
        let Some(&place) = places.get(id.as_str()) else {
            return Err(StoredError::UnknownProblem { line, id });
        };
        let (problem, list) = (&problems[place], &mut lists[place]);
        let next_free = || (list.len()..).find(|idx| !list.contains_key(idx)).unwrap_or(usize::MAX);
        let sample_idx = stored.sample_idx.unwrap_or_else(next_free);
        let sample = judge(
            problem,
            Finished {
                sample_idx,
                prompt: stored.prompt.unwrap_or_else(|| problem.problem.clone()),
                completion: stored.completion,
                num_tokens: stored.num_tokens,
                truncated: stored.truncated,
            },
        );
        if let Some(before) = stored.correct {
            changed.num_judged_before += 1;
            changed.num_to_correct += usize::from(!before && sample.correct);
            changed.num_to_wrong += usize::from(before && !sample.correct);
        }
        if list.insert(sample_idx, sample).is_some() {
            return Err(StoredError::Repeated { line, id, sample_idx });
        }
    }
    let missing: Vec<&Problem> = problems
        .iter()
        .zip(&lists)
        .filter(|(_, l)| l.is_empty())
        .map(|(p, _)| p)
        .collect();
    let num_missing = missing.len();
    if let Some(first) = missing.first()
        && !(allow_missing && num_missing < problems.len())
    {
        return Err(StoredError::Missing {
            num_missing,
            num_problems: problems.len(),
            first: first.id.clone(),
        });
    }
    let (problems, samples) = problems
        .iter()
        .zip(lists)
        .filter(|(_, list)| !list.is_empty())
        .map(|(problem, list)| (problem.clone(), list.into_values().collect()))
        .unzip();
    Ok(Judged {
        problems,
        samples,
        changed,
        num_missing,
    })
}
