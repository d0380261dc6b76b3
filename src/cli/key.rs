//! `volvelle key`: the key that a user signs records with.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{CliError, Output, signing_key};

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key; every run signs its records from then on
    New,
    /// Print the public half, for the `trust.keys` of a project
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &KeyArgs, output: &mut Output) -> Result<(), CliError> {
    let path = signing_key::path()?;
    match args.command {
        KeyCommand::New => {
            let key = signing_key::create(&path)?;
            output.line(&format!("wrote {}: keep it to yourself", path.display()))?;
            output.line("\nwhoever is to trust what you sign puts this into volvelle.yaml:\n")?;
            output.line(&format!(
                "trust:\n  require: signed\n  keys:\n    NAME: {}",
                key.public()
            ))
        }
        KeyCommand::Show { json } => {
            let key = signing_key::read()?;
            let key = key.ok_or_else(|| {
                CliError::Absent(format!(
                    "there is no key at {}; `volvelle key new` makes one",
                    path.display()
                ))
            })?;
            if json {
                output.json(&json!({"public_key": key.public(), "file": path}))
            } else {
                output.line(&key.public().to_string())
            }
        }
    }
}
