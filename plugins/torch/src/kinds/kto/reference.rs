//! What the reference policy makes of the data: computed before training, kept by whoever stops and goes on.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::data::Batches;
use crate::formats::{read_jsonl, write_jsonl};
use crate::kinds::saver::Saver;
use crate::kinds::training::warn_of_memory;
use crate::lm::kto::{Sequence, score};
use crate::lm::train::{Compute, fitting, largest_joint};
use crate::lm::{CausalLm, LmError};
use crate::worker::Job;

/// Log p of the parts of one sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored(Vec<f64>);

/// Sequences that are computed, and kept, together: what one gives depends by rounding on those beside it.
const NUM_TOGETHER: usize = 64;

/// The file of a checkpoint.
const FILE: &str = "reference.jsonl";

/// Computes what earlier attempts have not.
///
/// # Errors
/// Memory runs out, or the worker was asked to stop; what was computed is kept then.
pub fn compute(
    job: &Job,
    model: &CausalLm,
    batches: &Batches,
    compute: &mut Compute,
    saver: &mut Saver<'_, Scored>,
    num_steps: usize,
) -> Result<Vec<Scored>> {
    let sequences = sequences(batches);
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&idx| sequences[idx].num_tokens());
    let mut found: Vec<Option<Scored>> = vec![None; sequences.len()];
    let mut num_done = 0;
    for window in order.chunks(NUM_TOGETHER) {
        let mut recall = |idx: &usize| saver.follow(0, |_, _| ()).recall(*idx)?.pop();
        let known: Option<Vec<Scored>> = window.iter().map(&mut recall).collect();
        let scored = match known {
            Some(known) => known,
            None => {
                let together: Vec<&Sequence> = window.iter().map(|&idx| sequences[idx]).collect();
                match score_fitting(job, model, &together, compute) {
                    Err(LmError::Stopped) => return Err(saver.stopped(|_| Ok(()))),
                    scored => scored?.into_iter().map(Scored).collect(),
                }
            }
        };
        num_done += window.len();
        let message = format!("reference: {num_done} of {} solutions and pairs", sequences.len());
        job.progress(0, num_steps, "step", &message);
        let kept: Vec<Vec<Scored>> = scored.iter().map(|it| vec![it.clone()]).collect();
        saver.follow(0, |_, _| ()).keep(window, &kept);
        for (&idx, scored) in window.iter().zip(scored) {
            found[idx] = Some(scored);
        }
    }
    Ok(found
        .into_iter()
        .map(|it| it.expect("every window was computed"))
        .collect())
}

fn score_fitting(
    job: &Job,
    model: &CausalLm,
    sequences: &[&Sequence],
    compute: &mut Compute,
) -> Result<Vec<Vec<f64>>, LmError> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.num_tokens()).collect();
    let plain = *compute;
    fitting(
        &mut compute.micro_batch_tokens,
        lengths.iter().copied().max().unwrap_or(0),
        |tokens| largest_joint(&lengths, tokens),
        |tokens| warn_of_memory(job, tokens),
        |micro_batch_tokens| {
            let compute = Compute {
                micro_batch_tokens,
                ..plain
            };
            score(model, sequences, &compute)
        },
    )
}

/// The sequences of all batches: solutions, then mismatched pairs.
fn sequences(batches: &Batches) -> Vec<&Sequence> {
    let items = batches
        .0
        .iter()
        .flat_map(|batch| batch.items.iter().map(|item| &item.sequence));
    let pairs = batches
        .0
        .iter()
        .flat_map(|batch| batch.mismatched.iter().map(|pair| &pair.sequence));
    items.chain(pairs).collect()
}

/// Notes with all sequences what was computed of them.
pub fn note(batches: &mut Batches, scored: &[Scored]) {
    let mut rest = scored.iter();
    let mut next = |slot: &mut Vec<f64>| slot.clone_from(&rest.next().expect("one for each sequence").0);
    batches
        .0
        .iter_mut()
        .flat_map(|batch| &mut batch.items)
        .for_each(|item| next(&mut item.reference));
    batches
        .0
        .iter_mut()
        .flat_map(|batch| &mut batch.mismatched)
        .for_each(|pair| next(&mut pair.reference));
}

/// Writes it into a checkpoint.
///
/// # Errors
/// The file can't be written.
pub fn write(scored: &[Scored], folder: &Path) -> Result<()> {
    Ok(write_jsonl(&folder.join(FILE), scored)?)
}

/// Returns what [`write`] left.
///
/// # Errors
/// The file can't be read, or is not of these sequences.
pub fn read(folder: &Path, batches: &Batches) -> Result<Vec<Scored>> {
    let scored: Vec<Scored> = read_jsonl(&folder.join(FILE), "reference log-probabilities")?;
    let sequences = sequences(batches);
    let fits = |(scored, sequence): (&Scored, &&Sequence)| scored.0.len() == sequence.num_steps() + 1;
    ensure!(
        scored.len() == sequences.len() && scored.iter().zip(&sequences).all(fits),
        "its {FILE} has {} rows, or rows of other lengths; expected {}",
        scored.len(),
        sequences.len()
    );
    Ok(scored)
}
