//! A diagram in Mermaid's language, which GitHub and many editors draw.

use std::fmt::Write;

use super::diagram::{Diagram, Figure};
use crate::exec::PlanState;

/// The classes of the states; fills are those of the paper, so that Mermaid's own text colours stay readable.
const CLASSES: [(PlanState, &str, &str); 3] = [
    (PlanState::Cached, "cached", "fill:#e6f4ec,stroke:#1c8348,color:#1d2329"),
    (
        PlanState::Run,
        "run",
        "fill:#fdeee0,stroke:#c2560a,stroke-width:3px,color:#1d2329",
    ),
    (
        PlanState::Maybe,
        "maybe",
        "fill:#f1eafb,stroke:#8250c4,stroke-dasharray:5 3,color:#1d2329",
    ),
];

/// Returns a `flowchart`.
pub fn draw_mermaid(diagram: &Diagram) -> String {
    let mut out = String::from("flowchart TD\n");
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
        // A box of several nodes is one with a double frame.
        let (open, close) = if figure.nodes > 1 { ("[[", "]]") } else { ("[", "]") };
        let _ = writeln!(out, "  b{idx}{open}\"{}\"{close}", lines.join("<br/>"));
    }
    for link in &diagram.links {
        let mut lines: Vec<String> = link.labels("→").iter().map(|label| escape(label)).collect();
        lines.extend(link.gathers().map(|gather| escape(&gather)));
        let arrow = if link.gather.is_empty() { "-->" } else { "==>" };
        let _ = writeln!(
            out,
            "  b{} {arrow}|\"{}\"| b{}",
            link.from,
            lines.join("<br/>"),
            link.to
        );
    }
    for (state, name, look) in CLASSES {
        let has_state = |(_, figure): &(usize, &Figure)| figure.state() == Some(state);
        let members: Vec<String> = diagram
            .boxes
            .iter()
            .enumerate()
            .filter(has_state)
            .map(|(idx, _)| format!("b{idx}"))
            .collect();
        if !members.is_empty() {
            let _ = writeln!(out, "  classDef {name} {look}");
            let _ = writeln!(out, "  class {} {name}", members.join(","));
        }
    }
    out
}

/// Writes everything that could mean something to Mermaid, Markdown or HTML as an entity by number.
///
/// `#` begins an entity there, as `&` does in HTML; a quote would end the text. A colon is written so as well, because
/// Mermaid takes `style ...:#...;` inside a label for a style.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        // Inside a word a dot or a hyphen begins no list.
        let goes_on = chars.peek().is_some_and(|next| next.is_alphanumeric());
        match c {
            '.' | '-' if goes_on && !out.is_empty() => out.push(c),
            c if c.is_alphanumeric() || matches!(c, ' ' | '_' | ',' | '=' | '/' | '→' | '×') => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => {
                let _ = write!(out, "#{};", c as u32);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_in_a_name_means_anything() {
        assert_eq!(super::escape("a\"b#<i>`x`"), "a#34;b#35;#60;i#62;#96;x#96;");
        assert_eq!(super::escape("sft[lr=0.1]: 2"), "sft#91;lr=0.1#93;#58; 2");
        assert_eq!(super::escape("1. a - b"), "1#46; a #45; b");
    }
}
