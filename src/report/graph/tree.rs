//! A diagram for the terminal: a tree in which every box hangs below the last thing that it waits for.
//!
//! A graph is no tree, so each line also says all that its box reads. Nothing is wider than the terminal.

use unicode_width::UnicodeWidthStr;

use super::diagram::{Diagram, Link};
use crate::report::plan::color_of;
use crate::report::text::{Paint, truncate};

/// What a box reads is given this many columns, or else the kinds are left out.
const MIN_NEEDS: usize = 34;
/// The least that anything is cut to.
const MIN_COLUMNS: usize = 12;
/// Sources of one input beyond this are counted.
const MAX_SOURCES: usize = 3;

/// A line of the tree.
struct Row {
    idx: usize,
    /// The lines and corners before the name.
    rails: String,
    /// The same before what continues the line.
    below: String,
}

/// Draws a diagram in at most `width` columns.
pub fn draw_tree(diagram: &Diagram, width: usize, paint: Paint) -> String {
    let rows = rows(diagram);
    let mut columns: Vec<Vec<String>> = vec![
        rows.iter()
            .map(|row| format!("{}{}", row.rails, diagram.boxes[row.idx].name))
            .collect(),
        rows.iter().map(|row| diagram.boxes[row.idx].states()).collect(),
        rows.iter().map(|row| diagram.boxes[row.idx].extent("x")).collect(),
        rows.iter().map(|row| diagram.boxes[row.idx].kind.clone()).collect(),
    ];
    columns.retain(|column| column.iter().any(|cell| !cell.is_empty()));
    let used = |columns: &[Vec<String>]| columns.iter().map(|column| widest(column) + 2).sum::<usize>();
    while columns.len() > 2 && used(&columns) + MIN_NEEDS > width {
        columns.pop();
    }
    let room = width.saturating_sub(used(&columns)).max(MIN_COLUMNS);
    let widths: Vec<usize> = columns.iter().map(|column| widest(column)).collect();
    let mut out = format!("{}: {}\n\n", diagram.pipeline, diagram.summary());
    for (at, row) in rows.iter().enumerate() {
        let needs = wrapped(&needs(diagram, row.idx), room);
        let cells: Vec<String> = columns
            .iter()
            .zip(&widths)
            .map(|(column, &width)| padded(&column[at], width))
            .collect();
        let rest = cells[0].strip_prefix(row.rails.as_str()).unwrap_or(&cells[0]);
        let name = match diagram.boxes[row.idx].state() {
            Some(state) => paint.state(color_of(state), &[&[rest.to_owned()], &cells[1..2]].concat().join("  ")),
            None => [&[rest.to_owned()], &cells[1..]].concat()[..1].join("  "),
        };
        let told = if diagram.boxes[row.idx].counts.is_some() { 2 } else { 1 };
        let others = cells.get(told..).unwrap_or_default().join("  ");
        let first = needs.first().map_or("", String::as_str);
        let tail: Vec<&str> = [others.as_str(), first]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let line = format!("{}{name}  {}", row.rails, paint.dim(&tail.join("  ")));
        out.push_str(line.trim_end());
        out.push('\n');
        for more in needs.iter().skip(1) {
            let indent = padded(&row.below, used(&columns));
            out.push_str(&format!("{indent}{}\n", paint.dim(more)));
        }
    }
    out
}

fn widest(column: &[String]) -> usize {
    column.iter().map(|cell| cell.width()).max().unwrap_or(0)
}

fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Returns the boxes in the order of a walk through the tree.
fn rows(diagram: &Diagram) -> Vec<Row> {
    let mut depth = vec![0usize; diagram.boxes.len()];
    let mut parent: Vec<Option<usize>> = vec![None; diagram.boxes.len()];
    // Links are ordered by the box that reads, and boxes stand after what they depend on.
    for link in &diagram.links {
        if parent[link.to].is_none_or(|known| (depth[link.from], link.from) > (depth[known], known)) {
            parent[link.to] = Some(link.from);
            depth[link.to] = depth[link.from] + 1;
        }
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); diagram.boxes.len()];
    let mut roots = Vec::new();
    for (idx, parent) in parent.iter().enumerate() {
        parent.map_or(&mut roots, |parent| &mut children[parent]).push(idx);
    }
    let mut rows = Vec::with_capacity(diagram.boxes.len());
    let mut stack: Vec<Row> = roots
        .iter()
        .rev()
        .map(|&idx| row(idx, "", "", !children[idx].is_empty()))
        .collect();
    while let Some(top) = stack.pop() {
        let rail = top.below.strip_suffix("│").unwrap_or(&top.below).to_owned();
        let below = &children[top.idx];
        for (place, &child) in below.iter().enumerate().rev() {
            let (corner, under) = if place + 1 == below.len() {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            let has_children = !children[child].is_empty();
            stack.push(row(
                child,
                &format!("{rail}{corner}"),
                &format!("{rail}{under}"),
                has_children,
            ));
        }
        rows.push(top);
    }
    rows
}

fn row(idx: usize, rails: &str, below: &str, has_children: bool) -> Row {
    Row {
        idx,
        rails: rails.to_owned(),
        below: format!("{below}{}", if has_children { "│" } else { "" }),
    }
}

/// Returns what a box reads: a part for each input, and what it gathers.
fn needs(diagram: &Diagram, idx: usize) -> Vec<String> {
    let links: Vec<&Link> = diagram.links.iter().filter(|link| link.to == idx).collect();
    let mut inputs: Vec<(&str, Vec<String>)> = Vec::new();
    let mut gather: Vec<&str> = Vec::new();
    for link in links {
        gather.extend(link.gather.iter().map(String::as_str));
        for used in &link.uses {
            let source = format!("{}.{}", diagram.boxes[link.from].name, used.output);
            match inputs.iter_mut().find(|(name, _)| *name == used.input) {
                Some((_, sources)) => sources.push(source),
                None => inputs.push((&used.input, vec![source])),
            }
        }
    }
    inputs.sort_by_key(|(name, _)| *name);
    gather.sort_unstable();
    gather.dedup();
    let gathers = (!gather.is_empty()).then(|| format!("gather {}", gather.join(", ")));
    let input = |(name, sources): &(&str, Vec<String>)| {
        let shown = if sources.len() > MAX_SOURCES { 1 } else { sources.len() };
        let more = if sources.len() > shown {
            format!(" and {} more", sources.len() - shown)
        } else {
            String::new()
        };
        format!("{name}: {}{more}", sources[..shown].join(" + "))
    };
    inputs.iter().map(input).chain(gathers).collect()
}

/// Joins parts with commas, in lines of at most `width` columns; a part that is too long alone is cut.
fn wrapped(parts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (idx, part) in parts.iter().enumerate() {
        let comma = if idx + 1 < parts.len() { "," } else { "" };
        let part = format!("{}{comma}", truncate(part, width - comma.len()));
        match lines.last_mut() {
            Some(line) if line.width() + 1 + part.width() <= width => *line += &format!(" {part}"),
            _ => lines.push(part),
        }
    }
    lines
}
