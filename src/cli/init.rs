//! `volvelle init`: a commented pipeline to begin with. It never touches a file that is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::{CliError, Global, Output, kinds};
use crate::spec;
use crate::spec::template::shell_quote;

const PIPELINE: &str = "pipeline.yaml";
/// The first line of the pipeline names it.
const SCHEMA: &str = "volvelle.schema.json";
const IGNORE: &str = "# What volvelle makes; it can be deleted at any time.\n/cache/\n";

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to write; it is made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The name of the pipeline [default: that of the folder]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// What to begin with
    #[arg(long, value_enum, default_value_t = Starter::Sweep)]
    starter: Starter,
}

/// What the pipeline shows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Starter {
    /// A sweep of two axes and a table of all results
    Sweep,
    /// One command
    Minimal,
}

impl Starter {
    fn text(self) -> &'static str {
        match self {
            Starter::Sweep => include_str!("init/sweep.yaml"),
            Starter::Minimal => include_str!("init/minimal.yaml"),
        }
    }

    /// Returns an output that shows what came out, and a change to ask about.
    fn next(self) -> (&'static str, &'static str) {
        match self {
            Starter::Sweep => ("table.csv", "noise=0.5"),
            Starter::Minimal => ("hello.text", "whom=moon"),
        }
    }
}

pub(super) fn run(args: &InitArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let path = |name: &str| args.dir.join(name);
    if path(PIPELINE).symlink_metadata().is_ok() {
        let message = "is there already, and init overwrites nothing; name another folder";
        return Err(CliError::Usage(format!("{} {message}", path(PIPELINE).display())));
    }
    let schema = spec::json_schema(&kinds::catalog(global)?);
    fs::create_dir_all(&args.dir).map_err(CliError::writing(&args.dir))?;
    let name = args.name.clone().unwrap_or_else(|| folder_name(&args.dir));
    // A text of JSON is one of YAML as well, whatever is in it.
    let pipeline = args
        .starter
        .text()
        .replace("@NAME@", &serde_json::json!(name).to_string());
    let files = [
        (PIPELINE, pipeline),
        (SCHEMA, format!("{schema:#}\n")),
        (".gitignore", IGNORE.to_owned()),
    ];
    for (name, text) in files {
        let state = if write_new(&path(name), &text)? {
            "wrote"
        } else {
            "kept "
        };
        output.line(&format!("{state} {}", path(name).display()))?;
    }
    let (result, change) = args.starter.next();
    let go = match args.dir.to_str() {
        Some(".") | None => String::new(),
        Some(dir) => format!("cd {} && ", shell_quote(dir)),
    };
    output.line(&format!("\n{go}volvelle run {PIPELINE}"))?;
    output.line(&format!("volvelle show {PIPELINE} {result}"))?;
    output.line(&format!("volvelle plan {PIPELINE} --set {change}"))
}

/// Writes a file if there is none; tells whether it did.
fn write_new(path: &Path, text: &str) -> Result<bool, CliError> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file
            .write_all(text.as_bytes())
            .map(|()| true)
            .map_err(CliError::writing(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(CliError::writing(path)(error)),
    }
}

fn folder_name(dir: &Path) -> String {
    let absolute = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "pipeline".to_owned())
}
