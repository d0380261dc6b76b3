//! The command `volvelle-torch`: the worker of the torch plugin, and commands for a model by itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use volvelle_torch::{debug, kinds, lm, worker::Job};

/// The libtorch kinds of Volvelle, and tools to look at a model folder.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one node, as the engine asks (plugins/CONTRACT.md).
    Worker {
        /// The request file.
        request: PathBuf,
    },
    /// Answers the lines of standard input as one conversation.
    Chat(debug::chat::ChatArgs),
    /// Prints log p of each next token: lines {"input_ids": [...]} -> {"logprobs": [...]}.
    Score(debug::score::ScoreArgs),
    /// Continues prompts: lines {"input_ids": [...]} or {"prompt": "..."} ->
    /// {"output_ids": [...], "text": "...", "finish_reason": "stop" or "length"}; no text without a tokenizer.json.
    Generate(debug::generate::GenerateArgs),
    /// Times generation and training on a model folder.
    Bench(debug::bench::BenchArgs),
    /// Takes optimizer steps on one batch: lines {"input_ids": [...], "labels": [...]} -> a line for each step.
    TrainStep(debug::train_step::TrainStepArgs),
    /// Compares answers: lines {"gold": "...", "pred": "..."} -> {"equal": true, "how": "..."}.
    Verify(debug::verify::VerifyArgs),
    /// Scores stored samples: lines {"problem_id": "...", "completion": "..."} -> pass@k, maj@k and more, as JSON.
    Judge(debug::judge::JudgeArgs),
}

fn main() -> ExitCode {
    // Before anything else touches libtorch (`lm::device`).
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
    lm::device::init(num_threads);
    match Cli::parse().command {
        Command::Worker { request } => work(&request),
        Command::Chat(args) => report(debug::chat::chat(&args)),
        Command::Score(args) => report(debug::score::score(&args)),
        Command::Generate(args) => report(debug::generate::generate(&args)),
        Command::Bench(args) => report(debug::bench::bench(&args)),
        Command::TrainStep(args) => report(debug::train_step::train_step(&args)),
        Command::Verify(args) => report(debug::verify::verify(&args)),
        Command::Judge(args) => report(debug::judge::judge(&args)),
    }
}

/// Runs a node; its error, or a panic, becomes an error event. To be stopped is no error.
fn work(request: &std::path::Path) -> ExitCode {
    /// What a shell reports of a program that SIGTERM ended.
    const TERMINATED: u8 = 128 + 15;

    let job = match Job::open(request) {
        Ok(job) => job,
        Err(error) => return report(Err(error)),
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kinds::run(&job)));
    let message = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) if matches!(error.downcast_ref(), Some(lm::LmError::Stopped)) => {
            eprintln!("ended by SIGTERM");
            return ExitCode::from(TERMINATED);
        }
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            format!("bug in {}: {}", job.kind(), text.lines().next().unwrap_or(text))
        }
    };
    job.error(&message);
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
