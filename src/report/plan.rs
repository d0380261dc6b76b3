//! Plans and explanations as text: a line for each node with its reason, and a key part by part.

use serde_json::Value;

use super::text::{Paint, duration, table};
use crate::digest::{Change, Digest};
use crate::exec::{Cause, NodeState, Part, Plan, PlanState, PlannedNode};
use crate::graph::Graph;

/// How many differences of one node are told in its line.
const MAX_REASONS: usize = 3;

/// Returns a plan: the nodes that run or may run with their reasons, and how many are cached.
///
/// With `all`, cached nodes have a line as well.
pub fn describe_plan(plan: &Plan, graph: &Graph, all: bool, paint: Paint) -> String {
    let shown = |idx: &usize| all || plan.state(*idx) != PlanState::Cached;
    let shown: Vec<PlannedNode> = (0..graph.len())
        .filter(shown)
        .map(|idx| plan.node(graph, idx))
        .collect();
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    let mut out = String::new();
    for (line, node) in table(&rows).lines().zip(&shown) {
        out.push_str(&paint.state(color_of(node.state), line));
        out.push('\n');
    }
    out.push_str(&describe_plan_counts(plan, &graph.pipeline));
    out
}

/// Returns the last line of a plan: how many nodes are in which state, and the work that is expected.
pub fn describe_plan_counts(plan: &Plan, pipeline: &str) -> String {
    let (counts, cached) = (plan.counts, plan.num_reused());
    let total = counts.cached + counts.run + counts.maybe;
    let summary = match (counts.run + counts.maybe, counts.maybe) {
        (0, _) => format!("nothing to do: {cached} nodes cached"),
        (_, 0) => format!("{total} nodes: {} run, {cached} cached", counts.run),
        _ => format!(
            "{total} nodes: {} run, {} may run, {cached} cached",
            counts.run, counts.maybe
        ),
    };
    let mut out = format!("{pipeline}: {summary}");
    if plan.left_out > 0 {
        out.push_str(&format!(", {} left out", plan.left_out));
    }
    if plan.estimate_s > 0.0 {
        let most = if counts.maybe > 0 { "at most " } else { "" };
        out.push_str(&format!("; {most}{} of work", duration(plan.estimate_s)));
    }
    let unknown = plan.num_unknown();
    if unknown > 0 && plan.estimate_s > 0.0 {
        out.push_str(&format!(" and {unknown} nodes whose time is not known"));
    }
    out.push('\n');
    out
}

/// Returns the cells of a node: what happens, its name, how long it takes, and why.
pub(super) fn row(node: &PlannedNode) -> Vec<String> {
    let is_run = node.state != PlanState::Cached && node.cause != Some(Cause::LeftOut);
    let time = match node.estimate_s.filter(|_| is_run) {
        Some(seconds) => format!("about {}", duration(seconds)),
        None => String::new(),
    };
    // Times stand before reasons, which can be long.
    vec![node.state.to_string(), node.id.to_string(), time, describe_cause(node)]
}

/// Returns why a node of a plan is not cached; empty if it is.
pub fn describe_cause(node: &PlannedNode) -> String {
    match (node.cause, &node.root) {
        (None, _) => String::new(),
        (Some(Cause::LeftOut), _) => "not cached, and the selection leaves it out: a run fails here".to_owned(),
        (Some(Cause::Rerun), _) => "--rerun".to_owned(),
        (Some(Cause::BlobMissing), _) => "a blob of its result is missing".to_owned(),
        (Some(Cause::Untrusted), _) => "its record is not signed by anyone whom volvelle.yaml trusts".to_owned(),
        (Some(Cause::New), _) => "never run".to_owned(),
        (Some(Cause::Upstream), Some(root)) => format!("after {root}"),
        (Some(Cause::Upstream), None) => "its inputs were made again with other bytes".to_owned(),
        (Some(Cause::Changed), _) => {
            // Keys of inputs say little where the node's own values say what changed.
            let is_own = |change: &&Change| !change.path.starts_with("needs");
            let own: Vec<&Change> = node.reasons.iter().filter(is_own).collect();
            let told = if own.is_empty() {
                node.reasons.iter().collect()
            } else {
                own
            };
            let mut texts: Vec<String> = told
                .iter()
                .take(MAX_REASONS)
                .map(|change| describe_change(change))
                .collect();
            if told.len() > MAX_REASONS {
                texts.push(format!("and {} more", told.len() - MAX_REASONS));
            }
            texts.join(", ")
        }
    }
}

/// Returns a difference as people read it: `with.num_train_epochs 1 -> 2`.
pub fn describe_change(change: &Change) -> String {
    match (&change.old, &change.new) {
        (Some(Value::String(old)), Some(Value::String(new))) => {
            let (old, new) = differing(old, new);
            format!(
                "{} {} -> {}",
                change.path,
                value_text(&old.into()),
                value_text(&new.into())
            )
        }
        (Some(old), Some(new)) => format!("{} {} -> {}", change.path, value_text(old), value_text(new)),
        (None, Some(new)) => format!("{} {} (new)", change.path, value_text(new)),
        (Some(old), None) => format!("{} {} (gone)", change.path, value_text(old)),
        (None, None) => change.path.clone(),
    }
}

/// Returns two texts without most of what they have in common at both ends, if they are long.
fn differing(old: &str, new: &str) -> (String, String) {
    const LONG: usize = 48;
    const CONTEXT: usize = 12;
    let (a, b): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    if a.len().max(b.len()) <= LONG || old.parse::<Digest>().is_ok() {
        return (old.to_owned(), new.to_owned());
    }
    let before = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let most = a.len().min(b.len()) - before;
    let after = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take(most)
        .take_while(|(a, b)| a == b)
        .count();
    let start = if before > CONTEXT + 3 { before - CONTEXT } else { 0 };
    let cut_end = if after > CONTEXT + 3 { after - CONTEXT } else { 0 };
    let cut = |chars: &[char]| {
        let dots = |is_cut: bool| if is_cut { "..." } else { "" };
        let middle: String = chars[start..chars.len() - cut_end].iter().collect();
        format!("{}{middle}{}", dots(start > 0), dots(cut_end > 0))
    };
    (cut(&a), cut(&b))
}

/// Returns the parts of a key, with an arrow where one differs from the earlier record.
pub fn describe_parts(parts: &[Part], paint: Paint) -> String {
    let row = |part: &Part| {
        let text = |side: &Option<Value>| side.as_ref().map_or_else(|| "absent".to_owned(), value_text);
        let value = if part.changed {
            format!("{} -> {}", text(&part.old), text(&part.new))
        } else {
            text(&part.new)
        };
        vec![
            if part.changed { "*" } else { " " }.to_owned(),
            part.path.clone(),
            value,
        ]
    };
    let rows: Vec<Vec<String>> = parts.iter().map(row).collect();
    let mut out = String::new();
    for (line, part) in table(&rows).lines().zip(parts) {
        out.push_str(&if part.changed {
            paint.warning(line)
        } else {
            line.to_owned()
        });
        out.push('\n');
    }
    out
}

/// Returns a value in one short line; digests by their first digits.
pub(super) fn value_text(value: &Value) -> String {
    const MAX_CHARS: usize = 100;
    let text = match value {
        Value::String(text) => match text.parse::<Digest>() {
            Ok(digest) => digest.short(),
            Err(_) => value.to_string(),
        },
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Returns the state whose colour a plan state has.
pub(super) fn color_of(state: PlanState) -> NodeState {
    match state {
        PlanState::Cached => NodeState::Cached,
        PlanState::Run => NodeState::Ready,
        PlanState::Maybe => NodeState::CutOff,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_one_short_line() {
        let change = |old: Option<Value>, new: Option<Value>| {
            describe_change(&Change {
                path: "with.x".into(),
                old,
                new,
            })
        };
        assert_eq!(change(Some(json!(1)), Some(json!(2))), "with.x 1 -> 2");
        assert_eq!(change(None, Some(json!("a"))), "with.x \"a\" (new)");
        let digest = Digest::of(b"x");
        assert_eq!(
            change(Some(json!(digest.to_string())), None),
            format!("with.x {} (gone)", digest.short())
        );
        let (old, new) = (
            format!("run {} now", "a".repeat(80)),
            format!("run {}b now", "a".repeat(80)),
        );
        assert_eq!(
            change(Some(json!(old)), Some(json!(new))),
            "with.x \"...aaaaaaaaaaaa now\" -> \"...aaaaaaaaaaaab now\""
        );
        assert!(change(Some(json!("x".repeat(500))), None).len() < 130);
    }
}
