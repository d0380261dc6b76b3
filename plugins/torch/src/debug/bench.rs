//! `volvelle-torch bench`: how fast a model folder generates and learns on this machine.
//!
//! Tokens are made up, so a folder needs no tokenizer that fits; nothing stops early, so the amount of work is fixed.
//! `bench/lm` runs the same cases with transformers and TRL.

use std::io::Write;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tch::Kind;

use super::ModelArgs;

use crate::lm::generate::{Generator, Options, Prompt};
use crate::lm::grpo::{
    Completion, Group, ImportanceSamplingLevel, LossSettings, LossType, Objective, ScaleRewards, advantages, update,
};
use crate::lm::learner::Learner;
use crate::lm::optimizer::{AdamwSettings, Decay};
use crate::lm::sampler::Sampling;
use crate::lm::train::{AdapterDropout, Compute, Example, supervised_step};
use crate::lm::{CausalLm, Tokenizer, device};

/// `volvelle-torch bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What to measure.
    #[arg(long, value_enum, default_value = "generate")]
    task: Task,
    /// Sequences generated or learned from at once; several sizes are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    batch_size: Vec<usize>,
    #[arg(long, default_value_t = 128)]
    prompt_length: usize,
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Lengths are spread evenly over an eighth of these two to all of them.
    #[arg(long)]
    unequal: bool,
    /// All sequences begin with the same prompt and are sampled.
    #[arg(long)]
    shared_prefix: bool,
    /// Completions of each prompt, for grpo.
    #[arg(long, default_value_t = 8)]
    num_generations: usize,
    /// Tokens that a training step computes at once.
    #[arg(long, default_value_t = 2048)]
    micro_batch_tokens: usize,
    /// CPU threads; by default all.
    #[arg(long)]
    num_threads: Option<usize>,
    /// Repeats that are not measured.
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// One JSON line for each batch size.
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Greedy continuations; samples where the prompt is shared.
    Generate,
    /// An optimizer step on whole sequences, every token a label.
    Sft,
    /// Sampled completions of each prompt, and one step on them with made-up rewards.
    Grpo,
}

/// Times the task for each batch size.
///
/// # Errors
/// The folder can't be loaded, or the device fails.
pub fn bench(args: &BenchArgs) -> Result<()> {
    ensure!(args.repeats > 0, "--repeats is 0; something has to be measured");
    let num_threads = args
        .num_threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    device::set_num_threads(num_threads);
    let begun = Instant::now();
    let bench = Bench::open(args, num_threads)?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(out, "{}", bench.headline(load_seconds))?;
    }
    for &batch_size in &args.batch_size {
        let measured = bench.run(batch_size)?;
        let line = if args.json {
            measured.json().to_string()
        } else {
            measured.told(batch_size)
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// A model with what is to be done with it.
struct Bench<'a> {
    args: &'a BenchArgs,
    model: CausalLm,
    /// What is computed in; where a model learns, its weights are f32 all the same.
    kind: Kind,
    num_threads: usize,
}

impl<'a> Bench<'a> {
    fn open(args: &'a BenchArgs, num_threads: usize) -> Result<Self> {
        let kind = args.model.kind()?;
        let stored = if args.task == Task::Generate { kind } else { Kind::Float };
        Ok(Self {
            args,
            model: args.model.load(stored)?.0,
            kind,
            num_threads,
        })
    }

    fn headline(&self, load_seconds: f64) -> String {
        format!(
            "{}: {:.1} M parameters, {:?}, {:?}, {} threads; loaded in {load_seconds:.2} s",
            self.args.model.model.display(),
            self.model.num_parameters() as f64 / 1e6,
            self.kind,
            self.model.device(),
            self.num_threads
        )
    }

    fn run(&self, batch_size: usize) -> Result<Measured> {
        ensure!(batch_size > 0, "--batch-size is 0, expected at least 1");
        match self.args.task {
            Task::Generate => self.generate(batch_size),
            Task::Sft => self.sft(batch_size),
            Task::Grpo => self.grpo(batch_size),
        }
    }

    fn generate(&self, batch_size: usize) -> Result<Measured> {
        let args = self.args;
        let new = lengths(args.max_new_tokens, batch_size, args.unequal, 3);
        let rows: Vec<Vec<i64>> = lengths(args.prompt_length, batch_size, args.unequal, 5)
            .into_iter()
            .enumerate()
            .map(|(row, length)| self.tokens(row, length))
            .collect();
        let seeds: Vec<u64> = (0..batch_size as u64).collect();
        let prompts: Vec<Prompt<'_>> = if args.shared_prefix {
            vec![prompt(&rows[0], &seeds, args.max_new_tokens)]
        } else {
            let row = |row: usize| prompt(&rows[row], &seeds[row..=row], new[row]);
            (0..batch_size).map(row).collect()
        };
        let sampling = if args.shared_prefix {
            Sampling::PLAIN
        } else {
            Sampling::GREEDY
        };
        let options = self.options(batch_size, sampling);
        let mut output_ids = Vec::new();
        let times = self.time(|| {
            output_ids = self.complete(&self.model, &prompts, &options)?.concat();
            Ok(())
        })?;
        Ok(Measured {
            times,
            num_tokens: new.iter().sum(),
            result: json!({"output_ids": output_ids}),
        })
    }

    fn sft(&self, batch_size: usize) -> Result<Measured> {
        let examples: Vec<Example> = (0..batch_size)
            .map(|row| self.tokens(row, self.args.prompt_length))
            .map(|ids| Example {
                labels: ids.clone(),
                ids,
            })
            .collect();
        let examples: Vec<&Example> = examples.iter().collect();
        let mut learner = Learner::computing_in(self.kind, &self.model, settings(0.01), self.num_threads);
        let mut loss = 0.0;
        let times = self.time(|| {
            loss = supervised_step(
                &mut learner,
                &examples,
                &Compute::new(self.args.micro_batch_tokens),
                1e-5,
            )?
            .loss;
            Ok(())
        })?;
        Ok(Measured {
            times,
            num_tokens: batch_size * self.args.prompt_length,
            result: json!({"loss": loss}),
        })
    }

    /// One iteration on policy: the completions of all prompts, group advantages, one update.
    fn grpo(&self, batch_size: usize) -> Result<Measured> {
        let args = self.args;
        ensure!(
            args.num_generations > 1 && batch_size.is_multiple_of(args.num_generations),
            "--batch-size {batch_size} is not a multiple of --num-generations {}, or that is less than 2",
            args.num_generations
        );
        let rows: Vec<Vec<i64>> = (0..batch_size / args.num_generations)
            .map(|row| self.tokens(row, args.prompt_length))
            .collect();
        let seeds: Vec<u64> = (0..args.num_generations as u64).collect();
        let prompts: Vec<Prompt<'_>> = rows
            .iter()
            .map(|row| prompt(row, &seeds, args.max_new_tokens))
            .collect();
        let options = self.options(batch_size, Sampling::PLAIN);
        let mut learner = Learner::computing_in(self.kind, &self.model, settings(0.0), self.num_threads);
        let compute = Compute::new(args.micro_batch_tokens);
        let times = self.time(|| {
            let completions = self.complete(learner.model(), &prompts, &options)?;
            let rewards: Vec<Vec<f64>> = completions
                .iter()
                .map(|list| list.iter().map(|ids| reward(ids)).collect())
                .collect();
            let mut advantages = advantages(&rewards, ScaleRewards::Group).into_iter();
            let mut groups: Vec<Group> = rows
                .iter()
                .zip(completions)
                .map(|(prompt, list)| Group {
                    prompt: prompt.clone(),
                    completions: list
                        .into_iter()
                        .zip(advantages.by_ref())
                        .map(|(ids, advantage)| Completion::new(ids, advantage, false))
                        .collect(),
                })
                .collect();
            update(
                &mut learner,
                &objective(args.max_new_tokens),
                None,
                &mut groups,
                &compute,
                1e-6,
            )?;
            Ok(())
        })?;
        Ok(Measured {
            times,
            num_tokens: batch_size * (args.prompt_length + args.max_new_tokens),
            result: json!({}),
        })
    }

    /// The completions of all prompts. Each call has a cache of its own: no prompt is known from the one before.
    fn complete(&self, model: &CausalLm, prompts: &[Prompt<'_>], options: &Options) -> Result<Vec<Vec<Vec<i64>>>> {
        let mut lists = vec![Vec::new(); prompts.len()];
        let mut generator = Generator::new(model, self.num_threads, options.cache_memory)?;
        generator.run(None::<&Tokenizer>, prompts, options, &mut |progress| {
            for (idx, completions) in progress.finished {
                lists[idx] = completions.into_iter().map(|completion| completion.ids).collect();
            }
        })?;
        Ok(lists)
    }

    fn options(&self, max_batch_size: usize, sampling: Sampling) -> Options {
        Options {
            max_new_tokens: self.args.max_new_tokens,
            sampling,
            eos_token_ids: Vec::new(),
            stop: Vec::new(),
            max_batch_size,
            num_threads: self.num_threads,
            cache_memory: None,
        }
    }

    /// The made-up prompt of a row.
    fn tokens(&self, row: usize, length: usize) -> Vec<i64> {
        (0..length)
            .map(|position| token(row as u64, position as u64, self.model.config.vocab_size as u64))
            .collect()
    }

    /// Wall and CPU seconds of each measured repeat.
    fn time(&self, mut once: impl FnMut() -> Result<()>) -> Result<Vec<(f64, f64)>> {
        for _ in 0..self.args.warmup {
            once()?;
        }
        (0..self.args.repeats)
            .map(|_| {
                let (begun, cpu) = (Instant::now(), cpu_seconds());
                once()?;
                Ok((begun.elapsed().as_secs_f64(), cpu_seconds() - cpu))
            })
            .collect()
    }
}

/// The figures of one batch size.
struct Measured {
    /// Wall and CPU seconds.
    times: Vec<(f64, f64)>,
    num_tokens: usize,
    /// What came out, for a comparison with other programs.
    result: Value,
}

impl Measured {
    fn json(&self) -> Value {
        let (seconds, cpu_seconds): (Vec<f64>, Vec<f64>) = self.times.iter().copied().unzip();
        let mut line = json!({"seconds": seconds, "cpu_seconds": cpu_seconds, "num_tokens": self.num_tokens});
        if let (Some(line), Value::Object(result)) = (line.as_object_mut(), &self.result) {
            line.extend(result.clone());
        }
        line
    }

    fn told(&self, batch_size: usize) -> String {
        let mut seconds: Vec<f64> = self.times.iter().map(|(wall, _)| *wall).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        format!(
            "batch {batch_size:>4}: {median:>8.3} s, {:>9.1} tokens/s",
            self.num_tokens as f64 / median
        )
    }
}

fn prompt<'a>(ids: &'a [i64], seeds: &'a [u64], max_new_tokens: usize) -> Prompt<'a> {
    Prompt {
        ids,
        seeds,
        max_new_tokens,
    }
}

/// AdamW as both programs of `bench/lm` use it.
fn settings(weight_decay: f64) -> AdamwSettings {
    AdamwSettings {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay,
        decay: Decay::All,
        max_grad_norm: 1.0,
    }
}

fn objective(max_completion_length: usize) -> Objective {
    Objective {
        temperature: 1.0,
        settings: LossSettings {
            loss_type: LossType::Dapo,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            epsilon: 0.2,
            epsilon_high: 0.28,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: false,
            max_completion_length,
        },
        dropout: AdapterDropout {
            probability: 0.0,
            seed: 0,
        },
        log_kl: false,
    }
}

/// A made-up reward in [0, 1) that differs from completion to completion.
fn reward(ids: &[i64]) -> f64 {
    ids.iter().sum::<i64>().rem_euclid(101) as f64 / 101.0
}

/// The length of each row: all `longest`, or spread over an eighth of it to all of it in an order that `step` mixes.
/// As `lengths` of `bench/lm/workload.py`.
fn lengths(longest: usize, count: usize, unequal: bool, step: usize) -> Vec<usize> {
    if !unequal || count < 2 {
        return vec![longest; count];
    }
    let least = (longest / 8).max(1);
    (0..count)
        .map(|row| least + (longest - least) * ((row * step) % count) / (count - 1))
        .collect()
}

/// A made-up token id, none of the first three. As `token` of `bench/lm/workload.py`.
fn token(row: u64, position: u64, vocab_size: u64) -> i64 {
    let mixed = ((row * 1_000_003 + position * 7_919 + 12_345) * 1_103_515_245) & 0x7FFF_FFFF;
    (3 + (mixed >> 8) % (vocab_size - 3)) as i64
}

/// CPU time of this process so far, all threads together.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_the_same_as_in_the_python_side() {
        // From bench/lm/workload.py.
        assert_eq!(lengths(128, 8, true, 5), [16, 96, 48, 128, 80, 32, 112, 64]);
        assert_eq!(
            [token(0, 0, 32_000), token(3, 17, 32_000), token(31, 511, 49_152)],
            [24298, 9813, 14141]
        );
    }
}
