//! What a check of the store found, as text.

use super::text::{Paint, bytes, duration};
use crate::store::{Fate, Fault, FsckReport, Need, Problem};

/// How many of the nodes that need something are named before the rest is only counted.
const MAX_NEEDS: usize = 5;

/// Returns what was found, with a line break at its end.
pub fn describe_fsck(report: &FsckReport, repaired: bool, paint: Paint) -> String {
    let mut out = String::new();
    for problem in &report.problems {
        out.push_str(&describe_problem(problem, paint));
    }
    for note in &report.notes {
        out.push_str(&format!("{} {note}\n", paint.dim("note:")));
    }
    if report.orphans > 0 {
        let size = bytes(report.orphan_bytes);
        let note = format!("{} blobs ({size}) that no record needs", report.orphans);
        out.push_str(&format!("{} {note}\n", paint.dim("note:")));
    }
    if report.elsewhere > 0 {
        let note = format!("{} blobs are not here but in a remote", report.elsewhere);
        out.push_str(&format!("{} {note}\n", paint.dim("note:")));
    }
    out.push_str(&describe_rebuild(report, repaired));
    out.push_str(&summary(report, repaired, paint));
    out
}

fn summary(report: &FsckReport, repaired: bool, paint: Paint) -> String {
    let read = match report.reread == report.blobs {
        true => format!("{} blobs ({})", report.blobs, bytes(report.reread_bytes)),
        false => format!(
            "{} of {} blobs ({})",
            report.reread,
            report.blobs,
            bytes(report.reread_bytes)
        ),
    };
    let read = format!("read {} records and {read}", report.records);
    match report.problems.len() {
        0 => format!("clean: {read}\n"),
        count if repaired && report.is_clean() => format!("repaired: {read}, {count} damaged or missing\n"),
        count if repaired => format!(
            "{} {read}, {count} damaged or missing\n",
            paint.error("not all repaired:")
        ),
        count => format!(
            "{} {read}, {count} damaged or missing; `volvelle fsck --repair` moves damage aside and repairs what it can\n",
            paint.error("damaged:")
        ),
    }
}

fn describe_rebuild(report: &FsckReport, repaired: bool) -> String {
    let seconds = report.seconds_to_rebuild();
    if repaired && !report.to_rebuild.is_empty() {
        let nodes = names(&report.to_rebuild);
        format!(
            "to run again when they are asked for: {nodes} (took {})\n",
            duration(seconds)
        )
    } else if seconds > 0.0 {
        format!("computing again what is lost would take about {}\n", duration(seconds))
    } else {
        String::new()
    }
}

fn describe_problem(problem: &Problem, paint: Paint) -> String {
    let what = match &problem.fault {
        Fault::DamagedBlob {
            digest,
            size_bytes,
            why,
        } => {
            format!(
                "{}  blob {} ({}): {why}",
                paint.error("damaged"),
                digest.short(),
                bytes(*size_bytes)
            )
        }
        Fault::MissingBlob { digest, size_bytes } if *size_bytes > 0 => {
            format!(
                "{}  blob {} ({})",
                paint.error("missing"),
                digest.short(),
                bytes(*size_bytes)
            )
        }
        Fault::MissingBlob { digest, .. } => format!("{}  blob {}", paint.error("missing"), digest.short()),
        Fault::DamagedRecord { key, why } => {
            format!("{}  record {}: {why}", paint.error("damaged"), key.short())
        }
        Fault::WrongSnapshot { key } => {
            format!(
                "{}  snapshot: it says something else than record {}",
                paint.error("damaged"),
                key.short()
            )
        }
    };
    let fate = match problem.fate {
        Fate::Left => "",
        Fate::Fetched => "; fetched again",
        Fate::Restored => "; restored",
        Fate::SetAside if matches!(problem.fault, Fault::MissingBlob { .. }) => {
            "; the records that need it are moved aside"
        }
        Fate::SetAside => "; moved aside",
    };
    let mut out = format!("{what}{fate}\n");
    if problem.needed_by.is_empty() && !matches!(problem.fault, Fault::DamagedRecord { .. }) {
        out.push_str("  no record needs it\n");
    }
    for need in problem.needed_by.iter().take(MAX_NEEDS) {
        let part = match need.outputs.as_slice() {
            [] => "its log".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        out.push_str(&format!(
            "  {} of {} ({}, pipeline {}), which took {}\n",
            part,
            need.node,
            need.kind,
            need.pipeline,
            duration(need.seconds)
        ));
    }
    if let Some(more) = problem.needed_by.len().checked_sub(MAX_NEEDS).filter(|more| *more > 0) {
        out.push_str(&format!("  and {more} more nodes\n"));
    }
    out
}

fn names(needs: &[Need]) -> String {
    let mut names: Vec<&str> = needs
        .iter()
        .take(2 * MAX_NEEDS)
        .map(|need| need.node.as_str())
        .collect();
    let more = format!("{} more", needs.len().saturating_sub(names.len()));
    if needs.len() > names.len() {
        names.push(&more);
    }
    names.join(", ")
}
