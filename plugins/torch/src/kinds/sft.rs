//! `astro.sft`: supervised fine-tuning on chats (ASTRO, arXiv:2507.00417, sec. 3.1).

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::checkpoints::Checkpoints;
use super::training::{SupervisedParams, TrainingParams, save_trained, train_supervised};
use crate::formats::{Chat, read_jsonl, write_jsonl};
use crate::lm::chat::ChatOptions;
use crate::lm::lora::LoraParams;
use crate::lm::train::{Example, IGNORE};
use crate::lm::{self, Tokenizer};
use crate::worker::Job;

/// What SFT adds to [`TrainingParams`] and [`LoraParams`]; names are TRL's.
#[derive(Debug, Deserialize)]
struct Params {
    /// Longer chats, in tokens, are left out.
    max_length: usize,
    /// Whether the loss leaves out the prompt. The paper trains on all tokens.
    completion_only_loss: bool,
    /// Whether the loss looks at what the assistant wrote alone, in every turn.
    assistant_only_loss: bool,
}

/// Reads `model` and `data` (chats), writes `model`, `metrics` and `checkpoints`. With an adapter, `model` has it merged into the weights,
/// and as it is in a folder of its own.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let training: TrainingParams = job.params()?;
    let supervised: SupervisedParams = job.params()?;
    let lora: LoraParams = job.params()?;
    let model_dir = job.input("model")?;
    let device = training.device(job)?;
    let tokenizer = Tokenizer::load(&model_dir)?;
    let base = lm::load(&model_dir, device, lora.base_kind(&model_dir, training.bf16)?)?;
    let (model, adapter) = lora.begin(base, training.seed)?;
    let chats: Vec<Chat> = read_jsonl(&job.input("data")?, "chat")?;
    let examples = examples(job, &tokenizer, &chats, &params)?;
    let lora_dropout = adapter.as_ref().map_or(0.0, |config| config.lora_dropout);
    let mut checkpoints = Checkpoints::of_job(job, adapter.clone(), &model_dir)?;
    let metrics = train_supervised(
        job,
        &model,
        &examples,
        &training,
        &supervised,
        lora_dropout,
        &mut checkpoints,
    )?;
    save_trained(&model, adapter.as_ref(), &job.output("model")?, &model_dir)?;
    write_jsonl(&job.output("metrics")?, &metrics)?;
    checkpoints.finish(&metrics)
}

fn examples(job: &Job, tokenizer: &Tokenizer, chats: &[Chat], params: &Params) -> Result<Vec<Example>> {
    let all = chats
        .iter()
        .map(|chat| encode(tokenizer, chat, params))
        .collect::<Result<Vec<_>>>()?;
    let shortest = all.iter().map(|example| example.ids.len()).min().unwrap_or(0);
    let mut kept: Vec<Example> = all
        .into_iter()
        .filter(|example| example.ids.len() <= params.max_length)
        .collect();
    let num_dropped = chats.len() - kept.len();
    if kept.is_empty() {
        bail!(
            "no chat fits into max_length {}; the shortest of {} has {shortest} tokens",
            params.max_length,
            chats.len()
        );
    }
    if num_dropped > 0 {
        job.warning(&format!(
            "{num_dropped} of {} chats are longer than max_length and were left out",
            chats.len()
        ));
    }
    let num_silent = kept.iter().filter(|example| example.num_labels() == 0).count();
    if num_silent == kept.len() {
        bail!("no token of any chat counts in the loss");
    }
    if num_silent > 0 {
        job.warning(&format!(
            "{num_silent} chats have no token that counts in the loss and were left out"
        ));
        kept.retain(|example| example.num_labels() > 0);
    }
    let num_tokens: usize = kept.iter().map(|example| example.ids.len()).sum();
    job.info(&format!(
        "{} chats, {:.1} tokens each",
        kept.len(),
        num_tokens as f64 / kept.len() as f64
    ));
    Ok(kept)
}

/// Tokenizes a chat; its last message is the completion.
fn encode(tokenizer: &Tokenizer, chat: &Chat, params: &Params) -> Result<Example> {
    let messages: Vec<Value> = chat
        .messages
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?;
    let options = ChatOptions::generation_prompt(false);
    let ids = tokenizer.encode(&tokenizer.render_conversation(&messages, &options)?, false)?;
    let mut labels = ids.clone();
    let mut keep = |mask: Vec<bool>| {
        for (label, _) in labels.iter_mut().zip(mask).filter(|(_, counts)| !counts) {
            *label = IGNORE;
        }
    };
    if params.assistant_only_loss {
        keep(tokenizer.encode_chat(&messages, &options)?.1);
    }
    if params.completion_only_loss {
        keep(tokenizer.encode_completion(&messages, &options)?.1);
    }
    Ok(Example { ids, labels })
}
