//! `volvelle remote`: what lies in the remote, and removing what nobody needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{CliError, Global, Output};
use crate::remote::link::Link;
use crate::remote::{RemoteError, RemoteGc};
use crate::report;
use crate::settings::parse_age;
use crate::store::Store;

/// Arguments of `remote`.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    #[command(subcommand)]
    command: RemoteCommand,
}

#[derive(Debug, Subcommand)]
enum RemoteCommand {
    /// Show what the remote has, and whether it can be written
    Status {
        /// A pipeline of the project [default: the project around the current folder]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what no record needs, and records that are too old
    Gc {
        /// A pipeline of the project [default: the project around the current folder]
        file: Option<PathBuf>,
        /// Remove records that were written longer ago than this, such as 90d
        #[arg(long, value_name = "AGE", value_parser = parse_age)]
        older_than: Option<Duration>,
        /// Keep what nobody needs if it is younger than this: somebody may be pushing just now what needs it
        #[arg(long, value_name = "AGE", default_value = "1d", value_parser = parse_age)]
        grace: Duration,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &RemoteArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    match &args.command {
        RemoteCommand::Status { file, json } => {
            let (_, link) = linked(global, file.as_deref())?;
            let remote = Arc::clone(link.remote());
            let status = answer(&link, async move { remote.status().await })?;
            if *json {
                return output.json(&status);
            }
            let yes = |is: bool| if is { "yes" } else { "no" };
            output.line(link.address())?;
            output.text(&report::table(&[
                vec!["  records".into(), status.records.to_string()],
                vec!["  artifacts".into(), status.artifacts.to_string()],
                vec!["  stored".into(), report::bytes(status.stored_bytes)],
                vec!["  writable".into(), yes(status.writable).into()],
                vec!["  claims".into(), yes(status.claims).into()],
            ]))
        }
        RemoteCommand::Gc {
            file,
            older_than,
            grace,
            dry_run,
            json,
        } => {
            let (_, link) = linked(global, file.as_deref())?;
            let remote = Arc::clone(link.remote());
            let how = RemoteGc {
                older_than: *older_than,
                grace: Some(*grace),
                dry_run: *dry_run,
            };
            let collected = answer(&link, async move { remote.collect(how).await })?;
            if *json {
                return output.json(&collected);
            }
            output.line(&format!(
                "{}: {} {} records and {} objects, {}; {} stay",
                link.address(),
                if *dry_run { "would remove" } else { "removed" },
                collected.removed_records,
                collected.removed_objects,
                report::bytes(collected.removed_bytes),
                report::bytes(collected.kept_bytes)
            ))
        }
    }
}

/// Opens a store whose remote the command is about.
pub(super) fn linked(global: &Global, file: Option<&Path>) -> Result<(Store, Arc<Link>), CliError> {
    let (store, link) = global.linked(file)?;
    let link = link.ok_or_else(|| {
        CliError::Usage(
            "there is no remote: put `remote: {url: s3://BUCKET/PREFIX}` into volvelle.yaml, or pass --remote URL"
                .into(),
        )
    })?;
    Ok((store, link))
}

fn answer<T: Send + 'static>(
    link: &Link,
    question: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
) -> Result<T, CliError> {
    let answered = link.wait(question);
    let early = || RemoteError::Unreachable {
        what: link.address().to_owned(),
        why: "the work ended early".into(),
    };
    Ok(answered.unwrap_or_else(|| Err(early()))?)
}
