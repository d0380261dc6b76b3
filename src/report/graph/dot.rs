//! A diagram in Graphviz' language, for those who want to lay it out anew.

use std::fmt::Write;

use super::diagram::{Diagram, Figure};
use crate::exec::PlanState;

/// Returns a `digraph`.
pub fn draw_dot(diagram: &Diagram) -> String {
    let mut out = format!("digraph \"{}\" {{\n", escape(&diagram.pipeline));
    out += "  graph [fontname=\"sans-serif\", tooltip=\" \"];\n";
    out += "  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f3f6f9\", color=\"#5f7690\", \
            fontname=\"sans-serif\", fontsize=11];\n";
    out += "  edge [color=\"#5f7690\", fontname=\"sans-serif\", fontsize=9];\n";
    for (idx, figure) in diagram.boxes.iter().enumerate() {
        let lines = [
            figure.name.clone(),
            figure.kind.clone(),
            figure.extent("×"),
            figure.states(),
        ];
        let lines: Vec<String> = lines
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| escape(line))
            .collect();
        let _ = writeln!(out, "  b{idx} [label=\"{}\"{}];", lines.join("\\n"), look(figure));
    }
    for link in &diagram.links {
        let mut lines: Vec<String> = link.labels("→").iter().map(|label| escape(label)).collect();
        lines.extend(link.gathers().map(|gather| escape(&gather)));
        let look = match link.gather.is_empty() {
            true => "",
            false => ", class=\"gather\", color=\"#2f6fb3:#2f6fb3\", fontcolor=\"#2f6fb3\"",
        };
        let _ = writeln!(
            out,
            "  b{} -> b{} [label=\"{}\"{look}];",
            link.from,
            link.to,
            lines.join("\\n")
        );
    }
    out + "}\n"
}

fn look(figure: &Figure) -> String {
    let pile = if figure.nodes > 1 { ", peripheries=2" } else { "" };
    let state = match figure.state() {
        None => "",
        Some(PlanState::Cached) => ", class=\"cached\", color=\"#1c8348\"",
        Some(PlanState::Run) => ", class=\"run\", color=\"#c2560a\", penwidth=2",
        Some(PlanState::Maybe) => ", class=\"maybe\", color=\"#8250c4\", style=\"rounded,filled,dashed\"",
    };
    format!("{pile}{state}")
}

/// Escapes text for a quoted string that is a label: there, backslashes and `&` have meanings of their own.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_label_shows_what_it_was_given() {
        assert_eq!(super::escape("a\"b\\N&lt;\n"), "a\\\"b\\\\N&amp;lt;\u{fffd}");
    }
}
