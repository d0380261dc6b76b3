//! `astro.kto`: Step-KTO (arXiv:2501.10799), or KTO (arXiv:2402.01306), on solutions judged as a whole and step by step.
//!
//! The reference policy is the starting model, or another one; what it makes of the data is computed once, before training
//! (`reference`). Batches are drawn once, because the KL estimate of a batch pairs its prompts with its own completions;
//! each epoch goes through them in a new order. Step-KTO's loop of sampling, labelling and training again is a chain of
//! stages in a pipeline.

mod data;
mod reference;
mod trainer;

use anyhow::Result;
use serde::Deserialize;

use self::data::{Batches, Read, read_items};
use self::trainer::{Training, train};
use super::training::{SupervisedParams, TrainingParams, check_reference, save_trained};
use crate::formats::write_jsonl;
use crate::lm::kto::{LossSettings, LossType};
use crate::lm::lora::LoraParams;
use crate::lm::{self, Tokenizer};
use crate::worker::Job;

/// What KTO adds to [`TrainingParams`], [`SupervisedParams`] and [`LoraParams`]; names are TRL's where it has them.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    /// Longer solutions, in tokens with their prompt, are left out.
    max_length: usize,
    loss_type: LossType,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
    /// Weight of the steps beside the outcome; 0 is KTO.
    step_weight: f64,
}

impl Params {
    fn settings(&self) -> LossSettings {
        LossSettings {
            loss_type: self.loss_type,
            beta: self.beta,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
            step_weight: self.step_weight,
        }
    }
}

/// Reads `model`, `data` (feedback) and perhaps `reference`, writes `model` and `metrics`. With an adapter, `model` has it
/// merged into the weights, and as it is in a folder of its own.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let training: TrainingParams = job.params()?;
    let supervised: SupervisedParams = job.params()?;
    let lora: LoraParams = job.params()?;
    let model_dir = job.input("model")?;
    let reference_dir = job.input_opt("reference")?;
    let device = training.device(job)?;
    let tokenizer = Tokenizer::load(&model_dir)?;
    let items = read_items(job, &tokenizer, &job.input("data")?, params.max_length)?;
    if let Some(dir) = &reference_dir {
        let vocab_size = lm::Config::read(&model_dir)?.vocab_size;
        check_reference(dir, vocab_size, &tokenizer, items.iter().map(Read::prompt))?;
    }
    let batches = Batches::draw(items, &supervised, params.max_length, training.seed);
    let base = lm::load(&model_dir, device, lora.base_kind(&model_dir, training.bf16)?)?;
    let (model, adapter) = lora.begin(base, training.seed)?;
    let training = Training {
        job,
        model: &model,
        reference_dir,
        settings: params.settings(),
        lora_dropout: adapter.as_ref().map_or(0.0, |config| config.lora_dropout),
        training,
        supervised,
    };
    let metrics = train(&training, batches)?;
    save_trained(&model, adapter.as_ref(), &job.output("model")?, &model_dir)?;
    write_jsonl(&job.output("metrics")?, metrics)?;
    Ok(())
}
