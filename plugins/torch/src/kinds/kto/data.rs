//! Judged solutions as tokens, and the batches that they are learned from in.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::formats::{Feedback, read_jsonl_numbered};
use crate::kinds::training::SupervisedParams;
use crate::lm::Tokenizer;
use crate::lm::chat::ChatOptions;
use crate::lm::kto::{Item, Mismatched, Sequence, mismatched};
use crate::random;
use crate::worker::Job;

/// A solution, and what tells its prompt from others.
pub struct Read {
    item: Item,
    prompt: String,
}

impl Read {
    /// What the model was shown.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }
}

/// What a step learns from.
pub struct Batch {
    pub items: Vec<Item>,
    /// The prompts of the items with other items' completions.
    pub mismatched: Vec<Mismatched>,
}

/// All batches of an epoch; what the reference policy makes of them is not known yet.
pub struct Batches(pub Vec<Batch>);

/// Reads feedback, tokenizes it, and leaves out what is too long.
///
/// # Errors
/// The file can't be read, a line of it does not fit together, or nothing is left.
pub fn read_items(job: &Job, tokenizer: &Tokenizer, path: &Path, max_length: usize) -> Result<Vec<Read>> {
    let lines: Vec<(usize, Feedback)> = read_jsonl_numbered(path, "feedback")?;
    let all = lines
        .iter()
        .map(|(line, feedback)| encode(tokenizer, feedback).with_context(|| format!("{}:{line}", path.display())))
        .collect::<Result<Vec<_>>>()?;
    let shortest = all
        .iter()
        .map(|read| read.item.sequence.num_tokens())
        .min()
        .unwrap_or(0);
    let kept: Vec<Read> = all
        .into_iter()
        .filter(|read| read.item.sequence.num_tokens() <= max_length)
        .collect();
    if kept.is_empty() {
        bail!(
            "no solution fits into max_length {max_length}; the shortest of {} has {shortest} tokens with its prompt",
            lines.len()
        );
    }
    if kept.len() < lines.len() {
        job.warning(&format!(
            "{} of {} solutions are longer than max_length and were left out",
            lines.len() - kept.len(),
            lines.len()
        ));
    }
    let num_desirable = kept.iter().filter(|read| read.item.label).count();
    let steps = || kept.iter().flat_map(|read| read.item.steps.iter().flatten());
    job.info(&format!(
        "{num_desirable} right solutions and {} wrong ones; {} good steps and {} bad ones",
        kept.len() - num_desirable,
        steps().filter(|&&good| good).count(),
        steps().filter(|&&good| !good).count()
    ));
    Ok(kept)
}

/// Tokenizes one solution as the answer to its prompt, in the model's own chat format.
fn encode(tokenizer: &Tokenizer, feedback: &Feedback) -> Result<Read> {
    let messages: [Value; 2] = [
        json!({"role": "user", "content": feedback.prompt}),
        json!({"role": "assistant", "content": feedback.completion}),
    ];
    let ranges: Vec<Range<usize>> = feedback.steps.iter().map(|step| step.range[0]..step.range[1]).collect();
    let options = ChatOptions::generation_prompt(false);
    let (ids, is_completion) = tokenizer.encode_completion(&messages, &options)?;
    let step_of = tokenizer.encode_ranges(&messages, &[Vec::new(), ranges], &options)?.1;
    let border = is_completion.iter().position(|&it| it).unwrap_or(ids.len());
    Ok(Read {
        item: Item {
            sequence: Sequence::new(&ids[..border], &ids[border..], &step_of[border..], feedback.steps.len())?,
            label: feedback.label,
            steps: feedback.steps.iter().map(|step| step.label).collect(),
            reference: Vec::new(),
        },
        prompt: feedback.prompt.clone(),
    })
}

impl Batches {
    /// Deals the solutions out at random. A last one alone, which has no other to be paired with, joins the batch before.
    pub fn draw(mut items: Vec<Read>, supervised: &SupervisedParams, max_length: usize, seed: u64) -> Self {
        let size = supervised
            .per_device_train_batch_size
            .saturating_mul(supervised.gradient_accumulation_steps)
            .clamp(1, items.len().max(1));
        items.shuffle(&mut random::stream(seed, "kto batches", 0));
        let mut batches: Vec<Vec<Read>> = Vec::new();
        for item in items {
            match batches.last_mut() {
                Some(batch) if batch.len() < size => batch.push(item),
                _ => batches.push(vec![item]),
            }
        }
        if batches.len() > 1
            && let Some(alone) = batches.pop_if(|batch| batch.len() == 1)
            && let Some(last) = batches.last_mut()
        {
            last.extend(alone);
        }
        Self(batches.into_iter().map(|batch| Batch::of(batch, max_length)).collect())
    }
}

impl Batch {
    fn of(read: Vec<Read>, max_length: usize) -> Self {
        let prompts: Vec<&str> = read.iter().map(|it| it.prompt.as_str()).collect();
        let pair = |(own, partner): (usize, usize)| Mismatched {
            sequence: read[own]
                .item
                .sequence
                .followed_by(&read[partner].item.sequence, max_length),
            reference: Vec::new(),
        };
        let mismatched = mismatched(&prompts).into_iter().enumerate().map(pair).collect();
        Self {
            mismatched,
            items: read.into_iter().map(|it| it.item).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::StepFeedback;

    fn tokenizer(name: &str) -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(name);
        Tokenizer::load(&dir).unwrap()
    }

    #[test]
    fn steps_are_the_tokens_of_their_bytes() {
        let completion = "## Step 1\nadd 3 and 4\n\n## Step 2\nit is 7";
        let at = completion.find("\n\n").unwrap();
        let step = |from, to, label| StepFeedback {
            range: [from, to],
            label,
        };
        let feedback = Feedback {
            version: 1,
            problem_id: "p".into(),
            prompt: "it is 7".into(),
            completion: completion.into(),
            label: true,
            steps: vec![step(0, at, Some(true)), step(at + 2, completion.len(), None)],
        };
        for name in ["llama3-gqa", "smollm-tied", "qwen3-qknorm"] {
            let tokenizer = tokenizer(name);
            let Read { item, .. } = encode(&tokenizer, &feedback).unwrap();
            assert_eq!(item.steps, [Some(true), None]);
            // Built anew: prompt and answer as a template writes them, cut by the bytes of each token.
            let prompt = tokenizer.encode_prompt(&feedback.prompt).unwrap();
            let num_labels = item.sequence.num_labels();
            assert_eq!(item.sequence.num_tokens(), prompt.len() + num_labels, "{name}");
            let texts: Vec<String> = item.sequence.texts_of_parts(&tokenizer);
            assert_eq!(texts[0].trim(), &completion[..at], "{name}");
            assert_eq!(texts[1].trim(), &completion[at + 2..], "{name}");
            assert!(!texts[2].contains("Step"), "{name}: {}", texts[2]);
        }
    }

    #[test]
    fn a_solution_alone_joins_the_batch_before() {
        let read = |idx: usize| Read {
            item: Item {
                sequence: Sequence::new(&[1], &[idx as i64], &[None], 0).unwrap(),
                label: true,
                steps: Vec::new(),
                reference: Vec::new(),
            },
            prompt: idx.to_string(),
        };
        let supervised = SupervisedParams {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            num_train_epochs: 1.0,
        };
        let sizes = |count| {
            let batches = Batches::draw((0..count).map(read).collect(), &supervised, 10, 3).0;
            batches.iter().map(|batch| batch.items.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(9), [4, 5]);
        assert_eq!(sizes(10), [4, 4, 2]);
        assert_eq!(sizes(3), [3]);
        assert_eq!(sizes(1), [1]);
    }
}
