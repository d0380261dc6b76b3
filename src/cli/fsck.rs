//! `volvelle fsck`: rereads the whole cache, tells what is damaged and who needs it, and repairs it if told to.

use clap::Args;
use serde_json::json;

use super::meter::{Meter, Unit};
use super::{CliError, Global, Output};
use crate::digest::Digest;
use crate::report;
use crate::store::Elsewhere;
use crate::store::{FsckOptions, FsckStep};

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Move damage into `quarantine/` and repair what can be; nodes that lost a result run again when they are asked for
    #[arg(long)]
    repair: bool,
    /// Reread only a share of the blobs, such as `5%`, another one each time; sizes are checked for all
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sample: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FsckArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let (store, link) = global.linked(None)?;
    if let Some(link) = link.filter(|_| args.repair) {
        // Whatever it says of this key, it has answered.
        link.look_ahead(&[Digest::of(b"")]);
        if link.is_down() {
            return Err(CliError::Usage(
                "the remote can't be reached, and what lies only there would count as lost: try again later, or pass \
                 --no-remote to make do with what is here"
                    .into(),
            ));
        }
    }
    let options = FsckOptions {
        repair: args.repair,
        sample: args.sample,
    };
    let meter = Meter::new();
    let report = store.fsck(&options, store.elsewhere(), &|step| match step {
        FsckStep::Records(total) => meter.begin("reading records", Unit::Things("records"), total),
        FsckStep::Blobs(total) => meter.begin("reading blobs", Unit::Bytes, total),
        FsckStep::Done(more) => meter.advance(more),
    });
    meter.end();
    let report = report?;
    if args.json {
        let mut value = json!(report);
        value["clean"] = report.problems.is_empty().into();
        value["repaired"] = (args.repair && report.is_clean()).into();
        value["seconds_to_rebuild"] = report.seconds_to_rebuild().into();
        output.json(&value)?;
    } else {
        output.text(&report::describe_fsck(&report, args.repair, output.paint()))?;
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(CliError::Damaged)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Ok(percent / 100.0),
        None => Err("write a share from 0% to 100%, such as 5%".to_owned()),
    }
}
