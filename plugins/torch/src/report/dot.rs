//! A search tree and a solution in Graphviz' language, for those who want to lay them out anew.

use std::fmt::Write;

use super::markup::{truncate, wrap};
use super::solution::Solution;
use crate::formats::Tree;

/// Returns one file with a `digraph` for each that is given.
pub fn dot(tree: Option<&Tree>, solution: Option<&Solution>) -> String {
    let graphs: Vec<String> = [tree.map(tree_dot), solution.map(solution_dot)]
        .into_iter()
        .flatten()
        .collect();
    graphs.join("\n")
}

fn tree_dot(tree: &Tree) -> String {
    let mut out = String::from("digraph tree {\n  node [shape=box, fontname=\"monospace\"];\n");
    for node in &tree.nodes {
        let label = match node.parent {
            None => lines(&tree.problem.problem),
            Some(_) => format!("{}\\nN {}  Q {:.2}", lines(&node.text), node.visit_count, node.q_value),
        };
        let _ = writeln!(
            out,
            "  n{} [label=\"{label}\"{}];",
            node.id,
            verdict(node.correct.filter(|_| node.terminal))
        );
    }
    for (id, parent) in tree
        .nodes
        .iter()
        .filter_map(|node| node.parent.map(|parent| (node.id, parent)))
    {
        let _ = writeln!(out, "  n{parent} -> n{id};");
    }
    out + "}\n"
}

fn solution_dot(solution: &Solution) -> String {
    let mut out = String::from("digraph solution {\n  node [shape=box, fontname=\"monospace\"];\n");
    for step in &solution.steps {
        let _ = writeln!(
            out,
            "  s{} [label=\"{}\"{}];",
            step.id,
            lines(&step.text),
            verdict(step.right)
        );
    }
    for (id, parent) in solution
        .steps
        .iter()
        .filter_map(|step| step.parent.map(|parent| (step.id, parent)))
    {
        let _ = writeln!(out, "  s{parent} -> s{id};");
    }
    for m in &solution.moves {
        let (style, colour) = if m.restart {
            ("dotted", "#8250c4")
        } else {
            ("dashed", "#d9730d")
        };
        let doubt = if m.uncertain { "?" } else { "" };
        let _ = writeln!(
            out,
            "  s{} -> s{} [style={style}, color=\"{colour}\", constraint=false, label=\"{}{doubt}\"];",
            m.from, m.to, m.number
        );
    }
    out + "}\n"
}

fn verdict(right: Option<bool>) -> &'static str {
    match right {
        Some(true) => ", color=\"#1c8348\", peripheries=2",
        Some(false) => ", color=\"#c0392f\", style=bold",
        None => "",
    }
}

/// Returns a text as a quoted label's inside, in lines.
fn lines(text: &str) -> String {
    let escaped = |line: &String| truncate(line, 40).replace('\\', "\\\\").replace('"', "\\\"");
    wrap(text, 28, 6).iter().map(escaped).collect::<Vec<_>>().join("\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::draw_tree::fixtures::{countdown_tree, tree};
    use crate::report::solution::fixtures::{COUNTDOWN, read};

    #[test]
    fn both_graphs_have_their_nodes_and_edges() {
        let text = dot(Some(&countdown_tree()), Some(&read("7 3 4 -> 24", COUNTDOWN, true)));
        assert_eq!(text.matches("digraph").count(), 2);
        assert_eq!(text.matches(" -> n").count(), 11);
        assert_eq!(
            (
                text.matches("style=dashed").count(),
                text.matches("style=dotted").count()
            ),
            (2, 1)
        );
    }

    #[test]
    fn quotes_and_backslashes_are_escaped() {
        let text = dot(
            Some(&tree(&[
                (None, "", 1, 0.0, None),
                (Some(0), "\\boxed{\"4\"}", 1, 1.0, None),
            ])),
            None,
        );
        assert!(text.contains("\\\\boxed{\\\"4\\\"}"), "{text}");
    }
}
