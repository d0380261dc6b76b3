//! `lm.pretrain`: a small Llama from scratch, with a word-level tokenizer made from the corpus.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::checkpoints::Checkpoints;
use super::training::{SupervisedParams, TrainingParams, train_supervised};
use crate::formats::{Text, read_jsonl, write_jsonl};
use crate::lm::checkpoint;
use crate::lm::config::{Config, NewModel};
use crate::lm::tokenizer::{Tokenizer, WordLevel};
use crate::lm::train::{Example, IGNORE};
use crate::lm::{CausalLm, LmError};
use crate::worker::Job;

/// The tokenizer's part of the parameters; the model's is [`NewModel`], training's [`TrainingParams`].
#[derive(Debug, Deserialize)]
struct Params {
    /// Phrases of several words that become one token each.
    phrases: Vec<String>,
    user_token: String,
    assistant_token: String,
    end_token: String,
    max_position_embeddings: i64,
}

/// Reads `data` (texts), writes `model` and `metrics`.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let shape: NewModel = job.params()?;
    let training: TrainingParams = job.params()?;
    let supervised: SupervisedParams = job.params()?;
    let texts: Vec<Text> = read_jsonl(&job.input("data")?, "text")?;
    let dir = job.output("model")?;
    std::fs::create_dir_all(&dir)?;

    word_level(&params, &texts).write(&dir)?;
    let tokenizer = Tokenizer::load(&dir)?;
    let Some(&end) = tokenizer.eos_token_ids.first() else {
        bail!("the new tokenizer has no end token")
    };
    let config = Config::new(&shape, tokenizer.vocab_size(), end, tokenizer.pad_token_id)?;
    let model = CausalLm::random(config, training.seed, training.device(job)?)?;
    job.info(&format!(
        "{} parameters, {} tokens in the vocabulary",
        model.num_parameters(),
        tokenizer.vocab_size()
    ));

    let examples = texts
        .iter()
        .map(|text| encode(&tokenizer, text))
        .collect::<Result<Vec<_>, _>>()?;
    let longest = examples.iter().map(|example| example.ids.len()).max().unwrap_or(0);
    if longest as i64 > params.max_position_embeddings {
        bail!(
            "the longest text has {longest} tokens, max_position_embeddings is {}",
            params.max_position_embeddings
        );
    }
    let metrics = train_supervised(
        job,
        &model,
        &examples,
        &training,
        &supervised,
        0.0,
        &mut Checkpoints::none(),
    )?;
    checkpoint::write_weights(&model, &dir)?;
    write_jsonl(&job.output("metrics")?, metrics)?;
    Ok(())
}

/// Every word of the corpus that is not part of a phrase becomes a token.
fn word_level(params: &Params, texts: &[Text]) -> WordLevel {
    let mut words = BTreeSet::new();
    for text in texts {
        for segment in &text.segments {
            let mut rest = segment.text.clone();
            for phrase in &params.phrases {
                rest = rest.replace(phrase, " ");
            }
            words.extend(rest.split_whitespace().map(str::to_owned));
        }
    }
    for special in [&params.user_token, &params.assistant_token, &params.end_token] {
        words.remove(special);
    }
    WordLevel {
        words,
        phrases: params.phrases.clone(),
        user_token: params.user_token.clone(),
        assistant_token: params.assistant_token.clone(),
        end_token: params.end_token.clone(),
        max_length: params.max_position_embeddings,
    }
}

fn encode(tokenizer: &Tokenizer, text: &Text) -> Result<Example, LmError> {
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    for segment in &text.segments {
        let segment_ids = tokenizer.encode(&segment.text, false)?;
        labels.extend(segment_ids.iter().map(|&id| if segment.loss { id } else { IGNORE }));
        ids.extend(segment_ids);
    }
    Ok(Example { ids, labels })
}
