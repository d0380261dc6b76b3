//! `astro.sft`: supervised fine-tuning on chats (ASTRO, arXiv:2507.00417, sec. 3.1).

use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::checkpoints::Checkpoints;
use super::training::{SupervisedParams, TrainingParams, save_trained, train_supervised};
use crate::formats::{Chat, Message, read_jsonl, write_jsonl};
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
        .enumerate()
        .map(|(idx, chat)| encode(tokenizer, chat, params).with_context(|| format!("chat {}", idx + 1)))
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

/// Tokenizes a chat; its last message is the completion. Masked parts are read and not learned: no token that touches one
/// counts.
fn encode(tokenizer: &Tokenizer, chat: &Chat, params: &Params) -> Result<Example> {
    // Without `masked`, which is not for templates.
    let messages: Vec<Value> = (chat.messages.iter())
        .map(|message| json!({"role": message.role, "content": message.content}))
        .collect();
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
    if chat.messages.iter().any(|message| !message.masked.is_empty()) {
        let masked: Vec<Vec<Range<usize>>> = chat.messages.iter().map(masked_ranges).collect();
        let touched = tokenizer.encode_ranges(&messages, &masked, &options)?.1;
        keep(touched.iter().map(Option::is_none).collect());
    }
    Ok(Example { ids, labels })
}

/// The masked parts of a message in order, those that overlap as one.
fn masked_ranges(message: &Message) -> Vec<Range<usize>> {
    let mut sorted = message.masked.clone();
    sorted.sort_unstable();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for [start, end] in sorted {
        match ranges.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => ranges.push(start..end),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(name);
        Tokenizer::load(&dir).unwrap()
    }

    fn chat(content: &str, masked: &[[usize; 2]]) -> Chat {
        Chat {
            messages: vec![
                Message::new("user", "add 12 and 30"),
                Message {
                    masked: masked.to_vec(),
                    ..Message::new("assistant", content)
                },
            ],
            problem_id: String::new(),
            style: None,
            num_backtracks: 0,
        }
    }

    fn params(completion_only_loss: bool) -> Params {
        Params {
            max_length: 1000,
            completion_only_loss,
            assistant_only_loss: false,
        }
    }

    /// What the tokens that count say.
    fn learned(tokenizer: &Tokenizer, example: &Example) -> String {
        let ids: Vec<i64> = example.labels.iter().copied().filter(|&id| id != IGNORE).collect();
        tokenizer.decode(&ids, false).unwrap()
    }

    const FAMILIES: [&str; 4] = ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"];

    /// The words of the prompt are masked in the answer, and the answer's in the middle alone.
    #[test]
    fn masked_parts_are_read_and_not_learned() {
        let content = "add 12 and 30\n\n12 + 30 = 43\n\nNo, it is 42.";
        let wrong = content.find("12 +").unwrap();
        let ranges = [[wrong, wrong + "12 + 30 = 43".len()], [0, 13]];
        for name in FAMILIES {
            let tokenizer = tokenizer(name);
            let plain = encode(&tokenizer, &chat(content, &[]), &params(true)).unwrap();
            let masked = encode(&tokenizer, &chat(content, &ranges), &params(true)).unwrap();
            assert_eq!(masked.ids, plain.ids, "{name}: all of it is read");
            let (all, rest) = (learned(&tokenizer, &plain), learned(&tokenizer, &masked));
            assert!(all.contains(content), "{name}: {all:?}");
            assert_eq!(
                rest,
                all.replace("add 12 and 30", "").replace("12 + 30 = 43", ""),
                "{name}"
            );
            // In the prompt the same words count where the prompt does.
            let whole = encode(&tokenizer, &chat(content, &ranges), &params(false)).unwrap();
            assert_eq!(
                learned(&tokenizer, &whole).matches("add 12 and 30").count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn a_token_that_touches_a_masked_byte_does_not_count() {
        let tokenizer = tokenizer("smollm-tied");
        let content = "straight to it";
        let of = |masked: &[[usize; 2]]| {
            let example = encode(&tokenizer, &chat(content, masked), &params(true)).unwrap();
            example.num_labels()
        };
        let ids = tokenizer.encode(content, false).unwrap();
        let first = tokenizer.decode(&ids[..1], false).unwrap();
        assert!(first.len() > 1, "{first:?} has one byte, which shows nothing");
        assert_eq!(of(&[[0, 1]]), of(&[]) - 1);
        assert_eq!(of(&[[first.len() - 1, first.len()]]), of(&[]) - 1);
        assert_eq!(of(&[[0, 1], [0, first.len()]]), of(&[]) - 1);
        assert_eq!(of(&[[3, 3]]), of(&[]));
    }

    #[test]
    fn what_is_masked_must_be_there() {
        let tokenizer = tokenizer("smollm-tied");
        for masked in [[0, 99], [3, 2], [1, 2]] {
            let error = encode(&tokenizer, &chat("äb", &[masked]), &params(true)).unwrap_err();
            assert!(format!("{error:#}").contains("message 2, of 3 bytes"), "{error:#}");
        }
    }
}
