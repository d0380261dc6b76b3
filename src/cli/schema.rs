//! `volvelle schema`: the pipeline language with the kinds at hand, as a JSON Schema for editors.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Global, Output, kinds};
use crate::spec;

/// What `--help` says about editors.
const HINT: &str = "\
Editors with the YAML language server (VS Code, Neovim, Helix, Zed) complete and check pipelines with it:

  volvelle schema --output volvelle.schema.json

and as the first line of the pipeline, with the path as it is seen from there:

  # yaml-language-server: $schema=volvelle.schema.json

Write it again when plugins change.";

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_long_help = HINT, after_help = HINT)]
pub struct SchemaArgs {
    /// Write it into this file instead of printing it
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &SchemaArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let catalog = kinds::catalog(global)?;
    let schema = spec::json_schema(&catalog);
    match &args.output {
        None => output.json(&schema)?,
        Some(path) => std::fs::write(path, format!("{schema:#}\n")).map_err(CliError::writing(path))?,
    }
    kinds::tell_flawed(catalog, output)
}
