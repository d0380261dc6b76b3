//! The difference of two sides as text: the summary first, then every change with all that follows from it.

use std::collections::{HashMap, HashSet};

use super::compare::number;
use super::plan::describe_change;
use super::text::{Paint, table};
use crate::digest::Change;
use crate::exec::NodeState;
use crate::graph::NodeId;
use crate::inspect::{Changed, Difference, Known, MetricChange};

/// How many nodes of one kind of difference are listed before the rest is only counted.
const MAX_LISTED: usize = 8;

/// Nodes of a stage that changed in the same way, with what is below them.
struct Group<'a> {
    members: Vec<&'a Changed>,
    below: Vec<&'a Changed>,
}

/// Returns a difference in words. `names` are those of the two sides.
pub fn describe_difference(difference: &Difference, names: [&str; 2], paint: Paint) -> String {
    let mut out = format!("{} -> {}\n{}\n", names[0], names[1], summary(difference));
    for group in groups(difference) {
        out.push_str(&describe_group(&group, paint));
    }
    known(&mut out, "added", &difference.added, paint, NodeState::Executed);
    known(&mut out, "gone", &difference.gone, paint, NodeState::Failed);
    if !difference.renamed.is_empty() {
        out.push_str("\nrenamed, with the same key\n");
        let rows = difference
            .renamed
            .iter()
            .map(|node| vec![format!("  {}", node.old), format!("-> {}", node.new)]);
        out.push_str(&limited(rows.collect()));
    }
    if !difference.outside.is_empty() {
        out.push_str("\nthe same key, other values outside of it\n");
        let rows = difference
            .outside
            .iter()
            .map(|node| vec![format!("  {}", node.id), texts(&node.changes).join(", ")]);
        out.push_str(&limited(rows.collect()));
    }
    out
}

fn summary(difference: &Difference) -> String {
    let num_roots = difference.changed.iter().filter(|node| node.is_root()).count();
    let num_below = difference.changed.len() - num_roots;
    let counts = [
        (num_roots, "changed"),
        (num_below, "below them"),
        (difference.added.len(), "added"),
        (difference.gone.len(), "gone"),
        (difference.renamed.len(), "renamed"),
        (difference.num_same, "the same"),
    ];
    let told = counts
        .iter()
        .filter(|(num, _)| *num > 0)
        .map(|(num, what)| format!("{num} {what}"));
    match told.collect::<Vec<_>>().join(", ") {
        text if text.is_empty() => "no nodes".to_owned(),
        text if difference.is_empty() => format!("no difference: {text}"),
        text => text,
    }
}

/// Groups the nodes that changed by themselves by stage and change; each other node goes to the first of its roots.
fn groups(difference: &Difference) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_change: HashMap<(&str, Vec<String>, bool), usize> = HashMap::new();
    let mut by_root: HashMap<&NodeId, usize> = HashMap::new();
    for node in difference.changed.iter().filter(|node| node.is_root()) {
        let like = (node.stage.as_str(), texts(&node.changes), node.is_incomplete);
        let idx = *by_change.entry(like).or_insert_with(|| {
            groups.push(Group {
                members: Vec::new(),
                below: Vec::new(),
            });
            groups.len() - 1
        });
        groups[idx].members.push(node);
        by_root.insert(&node.id, idx);
    }
    for node in difference.changed.iter().filter(|node| !node.is_root()) {
        if let Some(&idx) = node.roots.first().and_then(|root| by_root.get(root)) {
            groups[idx].below.push(node);
        }
    }
    groups
}

fn describe_group(group: &Group<'_>, paint: Paint) -> String {
    let Some(first) = group.members.first() else {
        return String::new();
    };
    let title = match group.members.len() {
        1 => first.id.to_string(),
        num => format!("{}: {num} nodes", first.stage),
    };
    let mut out = format!("\nchanged  {}\n", paint.state(NodeState::CutOff, &title));
    for text in texts(&first.changes) {
        out.push_str(&format!("  {}\n", paint.warning(&text)));
    }
    if !first.outside.is_empty() {
        out.push_str(&format!("  not in the key: {}\n", texts(&first.outside).join(", ")));
    }
    if first.is_incomplete {
        out.push_str("  one side has no record, so its code and inputs are not known\n");
    }
    let after = group.members.iter().flat_map(|node| &node.after);
    let mut seen = HashSet::new();
    let after: Vec<&str> = after.map(|id| id.0.as_str()).filter(|id| seen.insert(*id)).collect();
    if !after.is_empty() {
        out.push_str(&format!("  also reads what changed: {}\n", short_list(&after)));
    }
    out.push_str(&limited(
        group.members.iter().map(|node| node_row("  ", node)).collect(),
    ));
    if !group.below.is_empty() {
        out.push_str("  below\n");
        let all: HashSet<&NodeId> = group.members.iter().map(|node| &node.id).collect();
        let rows = group.below.iter().map(|node| {
            let mut row = node_row("    ", node);
            let others: Vec<&str> = node
                .roots
                .iter()
                .filter(|root| !all.contains(root))
                .map(|id| id.0.as_str())
                .collect();
            if !others.is_empty() {
                row.push(format!("(also after {})", short_list(&others)));
            }
            row
        });
        out.push_str(&limited(rows.collect()));
    }
    out
}

/// Returns a node with its keys and what became of its metrics.
fn node_row(indent: &str, node: &Changed) -> Vec<String> {
    let keys = format!("{} -> {}", node.old_key.short(), node.new_key.short());
    let metrics: Vec<String> = node.metrics.iter().map(metric_text).collect();
    let result = match node.has_result {
        [true, true] if metrics.is_empty() => String::new(),
        [true, true] => metrics.join(", "),
        [false, false] => "no results".to_owned(),
        [true, false] => "no result on the new side".to_owned(),
        [false, true] => "no result on the old side".to_owned(),
    };
    vec![format!("{indent}{}", node.id), keys, result]
}

fn metric_text(metric: &MetricChange) -> String {
    let side = |value: Option<f64>| value.map_or_else(|| "absent".to_owned(), number);
    let difference = metric.difference.map(|difference| {
        let sign = if difference >= 0.0 { "+" } else { "" };
        format!(" ({sign}{})", number(difference))
    });
    format!(
        "{} {} -> {}{}",
        metric.name,
        side(metric.old),
        side(metric.new),
        difference.unwrap_or_default()
    )
}

fn known(out: &mut String, what: &str, nodes: &[Known], paint: Paint, color: NodeState) {
    if nodes.is_empty() {
        return;
    }
    out.push_str(&format!("\n{}\n", paint.state(color, what)));
    let row = |node: &Known| vec![format!("  {}", node.id), node.kind.clone(), node.recipe_key.short()];
    out.push_str(&limited(nodes.iter().map(row).collect()));
}

fn limited(mut rows: Vec<Vec<String>>) -> String {
    let num_more = rows.len().saturating_sub(MAX_LISTED);
    rows.truncate(MAX_LISTED);
    let indent = rows
        .first()
        .and_then(|row| row.first())
        .map_or(0, |cell| cell.len() - cell.trim_start().len());
    let mut out = table(&rows);
    if num_more > 0 {
        out.push_str(&format!("{:indent$}and {num_more} more\n", ""));
    }
    out
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(describe_change).collect()
}

fn short_list(names: &[&str]) -> String {
    const MAX_NAMES: usize = 3;
    let listed = names[..names.len().min(MAX_NAMES)].join(", ");
    match names.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        Some(more) => format!("{listed} and {more} more"),
        None => listed,
    }
}
