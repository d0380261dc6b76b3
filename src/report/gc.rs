//! What `gc` did, or would do, in words.

use super::text::{Paint, bytes, duration, table};
use crate::store::{Collected, Kept, Pin, Removed, Sum, Timestamp, Why};

/// Returns what `gc` did, or would do, and what stays. `now` is what ages are counted from.
pub fn describe_collected(collected: &Collected, is_dry_run: bool, now: Timestamp, paint: Paint) -> String {
    let total = collected.total();
    let (removes, is_there) = match is_dry_run {
        true => ("would remove", "would be"),
        false => ("removed", "are"),
    };
    let mut out = match (total.nodes, total.files) {
        (0, 0) => format!("nothing {} removed", if is_dry_run { "would be" } else { "was" }),
        (0, _) => format!("{removes} {} of what is of no use", bytes(total.bytes)),
        (nodes, _) => format!(
            "{removes} {} and {}; to compute them again takes {}",
            counted(nodes, "node"),
            bytes(total.bytes),
            duration(total.seconds)
        ),
    };
    out.push('\n');
    let reasons = collected.removed.iter().filter(|(_, sum)| sum.nodes + sum.files > 0);
    let rows: Vec<Vec<String>> = reasons.map(|(why, sum)| reason(*why, *sum, collected)).collect();
    out.push_str(&table(&rows));
    if !collected.largest.is_empty() {
        out.push_str("the largest\n");
        let rows: Vec<Vec<String>> = collected.largest.iter().map(|removed| node(removed, now)).collect();
        out.push_str(&table(&rows));
    }
    out.push_str(&format!(
        "{} {is_there} left{}\n",
        bytes(collected.bytes_after),
        collected
            .max_bytes
            .map(|max_bytes| format!(" of {}", bytes(max_bytes)))
            .unwrap_or_default()
    ));
    let kept = collected.kept.iter().filter(|(_, sum)| sum.nodes > 0);
    let rows = kept.map(|(kept, sum)| {
        let why = match kept {
            Kept::Pinned => "pinned",
            Kept::LiveRun => "of a run that goes on",
            Kept::LastRuns => "of the last runs",
            Kept::Recent => "used lately",
            Kept::Room => "within the policy",
        };
        vec![
            format!("  {}", counted(sum.nodes, "node")),
            bytes(sum.bytes),
            why.to_owned(),
        ]
    });
    out.push_str(&table(&rows.collect::<Vec<_>>()));
    for warning in warnings(collected, is_dry_run) {
        out.push_str(&format!("{} {warning}\n", paint.warning("warning:")));
    }
    out
}

/// Returns one line on what was freed after a run, or on why the limit can't be kept.
pub fn describe_kept_size(collected: &Collected) -> String {
    let total = collected.total();
    let freed = (total.bytes > 0).then(|| {
        format!(
            "freed {} ({}, {} to compute again), ",
            bytes(total.bytes),
            counted(total.nodes, "node"),
            duration(total.seconds)
        )
    });
    let reason = too_large(collected).map(|reason| format!("; {reason}"));
    format!(
        "cache: {}{} left{}",
        freed.unwrap_or_default(),
        bytes(collected.bytes_after),
        reason.unwrap_or_default()
    )
}

/// Returns pins as a table.
pub fn describe_pins(pins: &[Pin]) -> String {
    let row = |pin: &Pin| {
        vec![
            pin.name.clone(),
            counted(pin.keys.len(), "node"),
            pin.created.to_string(),
            pin.target.clone(),
            pin.note.clone().unwrap_or_default(),
        ]
    };
    table(&pins.iter().map(row).collect::<Vec<_>>())
}

fn warnings(collected: &Collected, is_dry_run: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(run) = &collected.blind_run {
        warnings.push(format!(
            "run {run} goes on and what it needs can't be read, so no node was removed; try again when it has ended"
        ));
    }
    if collected.num_unreadable > 0 {
        warnings.push(format!(
            "{} can't be read, so blobs that no other record needs stay; `volvelle fsck --repair` puts that right",
            counted(collected.num_unreadable, "record")
        ));
    }
    if collected.num_spared > 0 && !is_dry_run {
        warnings.push(format!(
            "{} stayed, because runs came to use them meanwhile or left no time for it",
            counted(collected.num_spared, "thing")
        ));
    }
    warnings.extend(too_large(collected));
    for failure in &collected.failures {
        warnings.push(format!("could not be removed: {failure}"));
    }
    warnings
}

/// Returns why the limit is not kept; none if it is.
fn too_large(collected: &Collected) -> Option<String> {
    let excess_bytes = collected.excess_bytes();
    (excess_bytes > 0 && collected.blind_run.is_none()).then(|| {
        let nodes = |kept: &[Kept]| {
            let sums = kept.iter().filter_map(|kept| collected.kept.get(kept));
            sums.map(|sum| sum.nodes).sum::<usize>()
        };
        format!(
            "that is {} more than it may have, because nodes have to stay: {} pinned, {} of runs that go on, {} of the last \
             runs, {} used lately (see `volvelle unpin`, and keep_runs, older_than and max_size of gc and of `cache:`)",
            bytes(excess_bytes),
            nodes(&[Kept::Pinned]),
            nodes(&[Kept::LiveRun]),
            nodes(&[Kept::LastRuns]),
            nodes(&[Kept::Recent]),
        )
    })
}

fn reason(why: Why, sum: Sum, collected: &Collected) -> Vec<String> {
    let what = match why {
        Why::Size => match collected.max_bytes {
            Some(max_bytes) => format!("to have no more than {}", bytes(max_bytes)),
            None => "to have less".to_owned(),
        },
        Why::Age => "not used for long".to_owned(),
        Why::Runs => "not used by the last runs".to_owned(),
        Why::Orphan => "blobs that no record needs".to_owned(),
        Why::Replaced => "results that were replaced by others".to_owned(),
        Why::Temporary => "what ended processes left".to_owned(),
        Why::Partial => "what interrupted nodes left".to_owned(),
        Why::Quarantine => "what was damaged long ago".to_owned(),
        Why::Incoming => "what broken transfers left".to_owned(),
        Why::Run => "old runs".to_owned(),
        Why::List => "lists of nodes of old runs".to_owned(),
        Why::Code => "code that made nothing that is left".to_owned(),
        Why::Output => "copies of results that are gone".to_owned(),
    };
    let number = match sum.nodes {
        0 => sum.files.to_string(),
        nodes => counted(nodes, "node"),
    };
    vec![format!("  {number}"), bytes(sum.bytes), what]
}

fn node(removed: &Removed, now: Timestamp) -> Vec<String> {
    vec![
        format!("  {}", removed.node),
        removed.pipeline.clone(),
        bytes(removed.bytes),
        format!("used {} ago", age(removed.used, now)),
        format!("took {}", duration(removed.seconds)),
    ]
}

/// Returns how long ago something was, roughly.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.0.saturating_sub(then.0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn counted(num: usize, what: &str) -> String {
    match num {
        1 => format!("1 {what}"),
        _ => format!("{num} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_limit_that_is_not_kept_is_explained() {
        let sum = |nodes, bytes| Sum {
            nodes,
            files: nodes,
            bytes,
            seconds: 60.0,
        };
        let collected = Collected {
            bytes_before: 5 << 30,
            bytes_after: 3 << 30,
            max_bytes: Some(1 << 30),
            removed: BTreeMap::from([(Why::Size, sum(2, 2 << 30))]),
            kept: BTreeMap::from([(Kept::Pinned, sum(1, 3 << 30))]),
            ..Collected::default()
        };
        let text = describe_collected(&collected, true, Timestamp(0), Paint { color: false });
        assert!(text.starts_with("would remove 2 nodes and 2.0 GiB; to compute them again takes 1 min 00 s\n"));
        assert!(
            text.contains("2.0 GiB more than it may have, because nodes have to stay: 1 pinned, 0 of runs"),
            "{text}"
        );
        assert!(describe_kept_size(&collected).contains("more than it may have"));
    }
}
