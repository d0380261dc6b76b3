//! `volvelle-torch verify`: pairs of a reference answer and a response, and the verdict on each.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::verify::math::compare_texts;

#[derive(Args)]
pub struct VerifyArgs {
    /// JSON Lines with `gold` and `pred`; other keys are ignored. `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
}

#[derive(Deserialize)]
struct Pair {
    /// The reference answer, bare or with text around it.
    gold: String,
    /// The answer of a model, or its whole response.
    pred: String,
}

#[derive(Serialize)]
struct Line {
    equal: bool,
    how: &'static str,
}

/// Prints for each pair `{"equal": ..., "how": ...}`, where `how` names the rule that decided.
///
/// # Errors
/// The input can't be read, or a line is not a pair.
pub fn verify(args: &VerifyArgs) -> Result<()> {
    let input: Box<dyn BufRead> = if args.input == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.input).with_context(|| args.input.display().to_string())?;
        Box::new(BufReader::new(file))
    };
    let mut output = BufWriter::new(io::stdout().lock());
    for (idx, line) in input.lines().enumerate() {
        let place = || format!("{}: line {}", args.input.display(), idx + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let pair: Pair = serde_json::from_str(&line)
            .with_context(|| format!("{}: expected {{\"gold\": \"...\", \"pred\": \"...\"}}", place()))?;
        let found = compare_texts(&pair.gold, &pair.pred);
        let verdict = Line {
            equal: found.equal,
            how: found.how,
        };
        serde_json::to_writer(&mut output, &verdict)?;
        output.write_all(b"\n")?;
    }
    output.flush()?;
    Ok(())
}
