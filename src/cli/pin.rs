//! `volvelle pin`, `unpin` and `pins`: what `gc` must keep.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::locate_run::{listing_of, run_named};
use super::{CliError, Global, Output, PipelineArgs};
use crate::digest::{Digest, RecipeKey};
use crate::report;
use crate::store::{BadPinName, Pin, Store, Timestamp};

/// So many digits of a digest have to be given.
const MIN_DIGITS: usize = 8;

/// Arguments of `pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// A pipeline file, a run (`@1` is the latest), or the digest of a result or a key
    target: String,
    /// Nodes of the pipeline or the run, as `run --until` has them; without them, all
    nodes: Vec<String>,
    /// The name of the pin [default: one that is made from what is pinned]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Why it is kept
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Change a value of the pipeline
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Add an axis to the pipeline
    #[arg(long = "sweep", value_name = "PATH=VALUES")]
    sweeps: Vec<String>,
    /// Apply a profile of the pipeline
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

/// Arguments of `unpin`.
#[derive(Debug, Args)]
pub struct UnpinArgs {
    /// The names of pins
    #[arg(required = true)]
    names: Vec<String>,
}

/// Arguments of `pins`.
#[derive(Debug, Args)]
pub struct PinsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is to be pinned, and how a pin of it is called by default.
struct Pinned {
    keys: BTreeSet<RecipeKey>,
    name: String,
}

pub(super) fn run(args: &PinArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let path = Path::new(&args.target);
    let is_file = path.is_file();
    let store = global.local_store(is_file.then_some(path))?;
    let pinned = match is_file {
        true => of_pipeline(args, global, &store)?,
        false => of_run_or_digest(args, &store)?,
    };
    let name = args.name.clone().unwrap_or(pinned.name);
    BadPinName::check(&name).map_err(|error| CliError::Usage(error.to_string()))?;
    let words = [std::slice::from_ref(&args.target), args.nodes.as_slice()].concat();
    let pin = Pin {
        format: Pin::FORMAT,
        name,
        target: words.join(" "),
        note: args.note.clone(),
        created: Timestamp::now(),
        keys: pinned.keys.into_iter().collect(),
    };
    if args.name.is_some()
        && store
            .pins()?
            .iter()
            .any(|other| other.name == pin.name && other.keys != pin.keys)
    {
        return Err(CliError::Usage(format!(
            "there is a pin `{name}` already; `volvelle unpin {name}` first, or choose another name",
            name = pin.name
        )));
    }
    store.put_pin(&pin)?;
    // Only now: what `gc` removed before the pin was there is gone, and what is there stays.
    let num_there = pin.keys.iter().filter(|key| store.record(**key).is_some()).count();
    if num_there == 0 {
        store.remove_pin(&pin.name)?;
        return Err(CliError::Absent(format!("{} has no result yet to pin", pin.target)));
    }
    output.line(&format!("pinned {num_there} of {} as {}", pin.keys.len(), pin.name))
}

pub(super) fn unpin(args: &UnpinArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.local_store(None)?;
    for name in &args.names {
        if !store.remove_pin(name)? {
            let pins = store.pins()?;
            let near = crate::spec::nearest(name, pins.iter().map(|pin| pin.name.as_str()));
            let hint = near.map_or_else(
                || "`volvelle pins` lists them".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(CliError::Usage(format!("there is no pin `{name}`; {hint}")));
        }
        output.line(&format!("unpinned {name}"))?;
    }
    Ok(())
}

pub(super) fn list(args: &PinsArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let pins = global.local_store(None)?.pins()?;
    match args.json {
        true => output.json(&json!(pins)),
        false => output.text(&report::describe_pins(&pins)),
    }
}

/// Returns the names of the pins that keep a recipe; none where the pins can't be read.
pub(super) fn names_of(store: &Store, key: RecipeKey) -> Vec<String> {
    let pins = store.pins().unwrap_or_default();
    let of_key = pins.into_iter().filter(|pin| pin.keys.contains(&key));
    of_key.map(|pin| pin.name).collect()
}

fn of_pipeline(args: &PinArgs, global: &Global, store: &Store) -> Result<Pinned, CliError> {
    let pipeline = PipelineArgs {
        file: PathBuf::from(&args.target),
        sets: args.sets.clone(),
        sweeps: args.sweeps.clone(),
        profile: args.profile.clone(),
    };
    let graph = pipeline.graph(global, store)?;
    let mut nodes: BTreeSet<usize> = BTreeSet::new();
    for text in &args.nodes {
        nodes.extend(graph.select_all(text)?);
    }
    if args.nodes.is_empty() {
        nodes.extend(0..graph.len());
    }
    let keys: BTreeSet<RecipeKey> = nodes.iter().map(|&idx| graph.recipe_key(idx)).collect();
    let words = match nodes.first() {
        Some(&first) if !args.nodes.is_empty() => graph.stage(first).0.clone(),
        _ => graph.pipeline.clone(),
    };
    Ok(Pinned {
        name: name_for(&words, &keys),
        keys,
    })
}

fn of_run_or_digest(args: &PinArgs, store: &Store) -> Result<Pinned, CliError> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_digest = args.target.len() >= MIN_DIGITS && args.target.bytes().all(is_digit);
    if is_digest && args.nodes.is_empty() && store.run_state(&args.target).is_none() {
        return of_digest(&args.target, store);
    }
    if args.target.ends_with(".yaml") || args.target.ends_with(".yml") {
        return Err(CliError::Usage(format!("there is no file {}", args.target)));
    }
    let run = run_named(store, &args.target, None)?;
    let listing = listing_of(store, &run)?;
    let mut keys = BTreeSet::new();
    for text in &args.nodes {
        let is_meant = |id: &str, stage: &str| id == text || stage == text;
        let found: Vec<RecipeKey> = listing
            .nodes
            .iter()
            .filter(|node| is_meant(&node.id.0, &node.stage))
            .map(|node| node.recipe_key)
            .collect();
        if found.is_empty() {
            return Err(CliError::Usage(format!("run {} has no node `{text}`", run.id)));
        }
        keys.extend(found);
    }
    if args.nodes.is_empty() {
        keys.extend(listing.nodes.iter().map(|node| node.recipe_key));
    }
    let name = match args.nodes.is_empty() {
        true => run.id.0,
        false => name_for(&run.id.0, &keys),
    };
    Ok(Pinned { keys, name })
}

/// Returns the records that a digest, or the beginning of one, is a key or a result of.
fn of_digest(prefix: &str, store: &Store) -> Result<Pinned, CliError> {
    let begins = |digest: Digest| digest.to_string().starts_with(prefix);
    let mut found: BTreeSet<Digest> = BTreeSet::new();
    let mut keys = BTreeSet::new();
    store.each_record(|record| {
        let own = [record.recipe_key.0, record.content_key.0];
        let all = own
            .into_iter()
            .chain(record.artifacts.values().map(|artifact| artifact.digest));
        for digest in all.filter(|digest| begins(*digest)) {
            found.insert(digest);
            keys.insert(record.recipe_key);
        }
    });
    match found.len() {
        0 => Err(CliError::Usage(format!("no key and no result begins with {prefix}"))),
        1 => Ok(Pinned {
            name: prefix.chars().take(12).collect(),
            keys,
        }),
        num => Err(CliError::Usage(format!(
            "{num} keys and results begin with {prefix}; give more of it"
        ))),
    }
}

/// Returns a name from words and from what is pinned, so that the same thing has the same name again.
fn name_for(words: &str, keys: &BTreeSet<RecipeKey>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let words: String = words.chars().map(plain).take(60).collect();
    let text: String = keys.iter().map(|key| key.to_string()).collect();
    let short = &Digest::of(text.as_bytes()).short()[..8];
    let words = words.trim_matches('-');
    match words.is_empty() {
        true => short.to_owned(),
        false => format!("{words}-{short}"),
    }
}
