//! `volvelle-torch train-step`: optimizer steps on one batch, for comparison with another implementation.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;
use tch::Kind;

use super::{InputArgs, ModelArgs, check_ids, check_length, input_path, place};
use crate::formats::read_jsonl_numbered;
use crate::lm::learner::Learner;
use crate::lm::optimizer::{AdamwSettings, Decay};
use crate::lm::schedule::{Schedule, SchedulerType};
use crate::lm::train::{Compute, Example, IGNORE, evaluate, supervised_step};
use crate::lm::{self, CausalLm, lora};

/// `volvelle-torch train-step`: the lines of the input are one batch, and every step is taken on it.
///
/// The loss of a step is the mean over all its label tokens, before the step. A last line has the loss after the last
/// step, under the number of the step that would come next, and only that.
#[derive(Args)]
pub struct TrainStepArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: InputArgs,
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 5e-5)]
    learning_rate: f64,
    /// Shape of the learning rate over the steps, without a warm-up.
    #[arg(long, value_enum, default_value_t = SchedulerType::Constant)]
    lr_scheduler_type: SchedulerType,
    #[arg(long, default_value_t = 0.9)]
    adam_beta1: f64,
    #[arg(long, default_value_t = 0.999)]
    adam_beta2: f64,
    #[arg(long, default_value_t = 1e-8)]
    adam_epsilon: f64,
    /// Decoupled weight decay.
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// What decays: matrices as in transformers' Trainer, or all, as in plain torch.optim.AdamW.
    #[arg(long, value_enum, default_value_t = DecayArg::Matrices)]
    decay: DecayArg,
    /// Global L2 norm to which gradients are clipped; 0: not at all.
    #[arg(long, default_value_t = 1.0)]
    max_grad_norm: f64,
    /// Tokens computed at once.
    #[arg(long, default_value_t = 4096)]
    micro_batch_tokens: usize,
    /// Keeps the inputs of layers only, and computes the rest twice.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Writes the folder of the trained model, or of the trained adapter where one was given.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

/// Names of [`Decay`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DecayArg {
    All,
    Matrices,
}

/// A line of the input.
#[derive(Debug, Deserialize)]
struct Line {
    input_ids: Vec<i64>,
    /// As in transformers: aligned with `input_ids`, -100 where a token does not count; absent: every token counts.
    labels: Option<Vec<i64>>,
}

/// Takes the steps and prints a line for each.
pub fn train_step(args: &TrainStepArgs) -> Result<()> {
    args.check()?;
    // Weights and optimizer are float32 in any case; another kind computes with rounded copies.
    let (model, adapter) = args.model.load(Kind::Float)?;
    let examples = args.read_examples(&model)?;
    let batch: Vec<&Example> = examples.iter().collect();
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut learner = Learner::computing_in(args.kind()?, &model, args.settings(), num_threads);
    let compute = Compute {
        gradient_checkpointing: args.gradient_checkpointing,
        ..Compute::new(args.micro_batch_tokens)
    };
    let schedule = Schedule {
        kind: args.lr_scheduler_type,
        learning_rate: args.learning_rate,
        num_warmup_steps: 0,
        num_steps: args.steps,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    for step_idx in 0..args.steps {
        let learning_rate = schedule.learning_rate(step_idx);
        let stats = supervised_step(&mut learner, &batch, &compute, learning_rate)?;
        let line = json!({
            "step": step_idx + 1,
            "loss": stats.loss,
            "grad_norm": stats.grad_norm,
            "num_tokens": stats.num_label_tokens,
            "learning_rate": learning_rate,
        });
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    let loss = evaluate(learner.model(), &batch, &compute)?;
    writeln!(out, "{}", json!({"step": args.steps + 1, "loss": loss}))?;
    out.flush()?;
    if let Some(dir) = &args.save {
        match &adapter {
            Some(config) => lora::save(&model, config, dir)?,
            None => lm::save(&model, dir, &args.model.model)?,
        }
    }
    Ok(())
}

impl TrainStepArgs {
    fn check(&self) -> Result<()> {
        let unit = |value: f64| (0.0..1.0).contains(&value);
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let numbers = [
            (
                "--learning-rate",
                self.learning_rate,
                not_negative(self.learning_rate),
                "0 or more",
            ),
            (
                "--adam-beta1",
                self.adam_beta1,
                unit(self.adam_beta1),
                "0 or more and less than 1",
            ),
            (
                "--adam-beta2",
                self.adam_beta2,
                unit(self.adam_beta2),
                "0 or more and less than 1",
            ),
            (
                "--adam-epsilon",
                self.adam_epsilon,
                self.adam_epsilon > 0.0,
                "more than 0",
            ),
            (
                "--weight-decay",
                self.weight_decay,
                not_negative(self.weight_decay),
                "0 or more",
            ),
            (
                "--max-grad-norm",
                self.max_grad_norm,
                not_negative(self.max_grad_norm),
                "0 or more",
            ),
        ];
        if let Some((name, value, _, expected)) = numbers.iter().find(|(_, _, is_right, _)| !is_right) {
            bail!("{name} is {value}, expected {expected}");
        }
        Ok(())
    }

    fn kind(&self) -> Result<Kind> {
        match self.model.kind()? {
            Kind::Half => bail!("training in float16 is not supported; expected float32 or bfloat16"),
            kind => Ok(kind),
        }
    }

    fn settings(&self) -> AdamwSettings {
        AdamwSettings {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            decay: match self.decay {
                DecayArg::All => Decay::All,
                DecayArg::Matrices => Decay::Matrices,
            },
            max_grad_norm: self.max_grad_norm,
        }
    }

    fn read_examples(&self, model: &CausalLm) -> Result<Vec<Example>> {
        let input = &self.input.input;
        read_jsonl_numbered::<Line>(input_path(input), "example")?
            .into_iter()
            .map(|(number, Line { input_ids, labels })| {
                let place = place(input, number);
                check_ids(&place, &input_ids, model)?;
                check_length(&place, &input_ids, model)?;
                let labels = labels.unwrap_or_else(|| input_ids.clone());
                if labels.len() != input_ids.len() {
                    bail!("{place}: {} labels for {} input_ids", labels.len(), input_ids.len());
                }
                let named: Vec<i64> = labels.iter().copied().filter(|&label| label != IGNORE).collect();
                check_ids(&format!("{place}, labels"), &named, model)?;
                Ok(Example { ids: input_ids, labels })
            })
            .collect()
    }
}
