//! `volvelle gc`: keeps the cache small.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{CliError, Global, Output};
use crate::report;
use crate::settings::{CacheSettings, parse_age, parse_size};
use crate::store::{Collected, Policy, RunState, Store, Timestamp};

/// After so long it is told how far it has come.
const PATIENCE: Duration = Duration::from_secs(2);

/// In a pipe it is told again after so long.
const INTERVAL: Duration = Duration::from_secs(5);

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove nodes until the cache is no larger: those that take the least time to compute again per byte first
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Remove only nodes that were not used for so long, such as 30d; without --max-size all of them
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Keep what the last N different runs of each pipeline used [default: 1]; alone, all other nodes are removed
    #[arg(long, value_name = "N")]
    keep_runs: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GcArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.local_store(None)?;
    let policy = policy(args, &global.settings(None)?.cache);
    let progress = Progress::new();
    let collected = store.collect(&policy, args.dry_run, &|num_read| progress.tell(num_read))?;
    progress.finish();
    let Some(collected) = collected else {
        return Err(CliError::Absent(
            "another `volvelle gc` is at work on this cache".to_owned(),
        ));
    };
    if args.json {
        return output.json(&json!({"dry_run": args.dry_run, "result": collected}));
    }
    let paint = output.paint();
    output.text(&report::describe_collected(
        &collected,
        args.dry_run,
        Timestamp::now(),
        paint,
    ))
}

/// A policy on the command line counts; what the settings say of runs to keep goes with any.
fn policy(args: &GcArgs, settings: &CacheSettings) -> Policy {
    let is_told = args.max_size.is_some() || args.older_than.is_some() || args.keep_runs.is_some();
    Policy {
        max_bytes: args.max_size.or(settings.max_size.filter(|_| !is_told)),
        older_than: args.older_than.or(settings.older_than.filter(|_| !is_told)),
        keep_runs: args.keep_runs.or(settings.keep_runs),
        keep: Vec::new(),
    }
}

/// Keeps the size that the settings allow, after a run that may have written.
pub(super) fn keep_size(store: &Store, settings: &CacheSettings, run: &RunState) -> Option<String> {
    let policy = Policy {
        max_bytes: settings.max_size,
        older_than: settings.older_than,
        keep_runs: settings.keep_runs,
        keep: vec![run.id.clone()],
    };
    match store.keep_size(&policy) {
        Ok(collected) => collected
            .filter(|collected: &Collected| collected.total().bytes > 0 || collected.excess_bytes() > 0)
            .map(|collected| report::describe_kept_size(&collected)),
        // The run is done, and its results are as true in a cache that is too large.
        Err(error) => Some(format!("cache: it could not be kept small: {error}")),
    }
}

/// Tells how many records were read, when that takes long.
struct Progress {
    start: Instant,
    bar: Mutex<Option<ProgressBar>>,
    last_line: Mutex<Duration>,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            start: Instant::now(),
            bar: Mutex::default(),
            last_line: Mutex::new(PATIENCE),
        }
    }

    fn tell(&self, num_read: usize) {
        let elapsed = self.start.elapsed();
        if elapsed < PATIENCE || !num_read.is_multiple_of(64) {
            return;
        }
        if !std::io::stderr().is_terminal() {
            let mut last = self.last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if elapsed >= *last {
                *last = elapsed + INTERVAL;
                let rate = num_read as f64 / elapsed.as_secs_f64();
                eprintln!("reading records: {num_read}, {rate:.0}/s");
            }
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} reading records: {pos}, {per_sec}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        bar.set_position(num_read as u64);
    }

    fn finish(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(bar) = bar.take() {
            bar.finish_and_clear();
        }
    }
}
