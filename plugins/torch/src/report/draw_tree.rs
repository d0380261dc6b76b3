//! A search tree as SVG: a circle for each tree node, as large as its visits, filled by its Q, with its step below.
//!
//! Wrong terminals have a red border and a cross, right ones a green double border and a tick; what a label has no
//! room for is in the tooltip. Trees that are too large are pruned to what was visited most, and say how much is gone.

use super::layout::{Rect, tidy_tree};
use super::markup::{CHAR_WIDTH, coordinate, escape, svg_open, text_columns, wrap_parts};
use super::prune::{Shown, prune};
use crate::formats::{Tree, TreeNode};

const MIN_RADIUS: f64 = 7.0;
const MAX_RADIUS: f64 = 22.0;
/// Room between a circle's largest radius and its label, for the outer border of a right terminal.
const RING: f64 = 5.0;
const FONT: f64 = 11.0;
const LINE: f64 = 14.0;
const LABEL_COLUMNS: usize = 14;
const LABEL_LINES: usize = 3;
const MARGIN: f64 = 18.0;
const HEADER: f64 = 30.0;
const LEGEND_HEIGHT: f64 = 52.0;
const LEGEND_WIDTH: f64 = 640.0;

/// Draws a tree with at most `max_nodes` tree nodes.
pub fn draw_tree(tree: &Tree, max_nodes: usize) -> String {
    let shown = prune(tree, max_nodes.max(1));
    let max_visits = shown
        .nodes
        .iter()
        .skip(1)
        .map(|node| node.visit_count)
        .max()
        .unwrap_or(1)
        .max(1);
    let labels: Vec<Vec<String>> = (0..shown.nodes.len()).map(|i| label(tree, &shown, i)).collect();
    let sizes: Vec<(f64, f64)> = labels.iter().map(|lines| box_size(lines)).collect();
    let mut layout = tidy_tree(&shown.parents, &sizes, 12.0, 30.0);
    let width = (layout.width.max(LEGEND_WIDTH) + 2.0 * MARGIN).ceil();
    let height = (layout.height + HEADER + LEGEND_HEIGHT + 2.0 * MARGIN).ceil();
    let shift = (width - layout.width) / 2.0;
    for rect in &mut layout.boxes {
        rect.x += shift;
        rect.y += MARGIN + HEADER;
    }

    let mut svg = svg_open(width, height, &format!("Search tree of problem {}", tree.problem.id));
    svg += &text("head", MARGIN, MARGIN + 6.0, &heading(tree, &shown));
    for (idx, parent) in shown.parents.iter().enumerate() {
        if let Some(parent) = parent {
            svg += &edge(
                &layout.boxes[*parent],
                &layout.boxes[idx],
                radius(shown.nodes[idx], max_visits),
            );
        }
    }
    for (idx, lines) in labels.iter().enumerate() {
        svg += &draw_node(tree, shown.nodes[idx], lines, &layout.boxes[idx], max_visits);
    }
    svg += &legend(MARGIN, height - LEGEND_HEIGHT, max_visits);
    svg + "</svg>\n"
}

fn heading(tree: &Tree, shown: &Shown) -> String {
    let count = |correct| {
        tree.nodes
            .iter()
            .filter(|node| node.terminal && node.correct == Some(correct))
            .count()
    };
    let part = if shown.nodes.len() < tree.nodes.len() {
        format!("{} of ", shown.nodes.len())
    } else {
        String::new()
    };
    format!(
        "{}   ·   {} simulations, {part}{} nodes, {} right and {} wrong terminals",
        super::markup::truncate(&tree.problem.problem, 40),
        tree.num_simulations,
        tree.nodes.len(),
        count(true),
        count(false)
    )
}

fn label(tree: &Tree, shown: &Shown, idx: usize) -> Vec<String> {
    let node = shown.nodes[idx];
    let step = if node.parent.is_none() {
        &tree.problem.problem
    } else {
        &node.text
    };
    let mut lines = wrap_parts(step, LABEL_COLUMNS, LABEL_LINES);
    if node.parent.is_some() {
        lines.push(format!("N {}  Q {:.2}", node.visit_count, node.q_value));
    }
    if shown.num_hidden[idx] > 0 {
        lines.push(format!("+{} hidden", shown.num_hidden[idx]));
    }
    lines
}

fn box_size(lines: &[String]) -> (f64, f64) {
    let text = lines.iter().map(|line| text_columns(line)).max().unwrap_or(0) as f64 * FONT * CHAR_WIDTH;
    (
        text.max(2.0 * (MAX_RADIUS + RING)) + 4.0,
        2.0 * (MAX_RADIUS + RING) + lines.len() as f64 * LINE + 4.0,
    )
}

/// The area of a circle grows with the visits.
fn radius(node: &TreeNode, max_visits: u32) -> f64 {
    let share = f64::from(node.visit_count.min(max_visits)) / f64::from(max_visits);
    (MAX_RADIUS * share.sqrt()).max(MIN_RADIUS)
}

fn circle_y(rect: &Rect) -> f64 {
    rect.y + MAX_RADIUS + RING
}

fn edge(parent: &Rect, child: &Rect, child_radius: f64) -> String {
    let (x1, y1) = (parent.center_x(), parent.bottom());
    let (x2, y2) = (child.center_x(), circle_y(child) - child_radius);
    let middle = f64::midpoint(y1, y2);
    let [x1, y1, x2, y2, middle] = [x1, y1, x2, y2, middle].map(coordinate);
    format!("<path class=\"edge\" d=\"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}\"/>\n")
}

fn draw_node(tree: &Tree, node: &TreeNode, lines: &[String], rect: &Rect, max_visits: u32) -> String {
    let (x, y, r) = (rect.center_x(), circle_y(rect), radius(node, max_visits));
    let mut svg = format!("<g><title>{}</title>\n", escape(&tooltip(tree, node)));
    svg += &circle(x, y, r, node);
    let mut at = y + MAX_RADIUS + RING + FONT;
    for (i, line) in lines.iter().enumerate() {
        // The root has no statistics, so all its lines are text; elsewhere the last ones are figures.
        let is_step = node.parent.is_none()
            || i < lines
                .len()
                .min(wrap_parts(&node.text, LABEL_COLUMNS, LABEL_LINES).len());
        let class = if is_step {
            "mono small mid halo"
        } else {
            "soft small mid halo"
        };
        svg += &text(class, x, at, line);
        at += LINE;
    }
    svg + "</g>\n"
}

fn circle(x: f64, y: f64, r: f64, node: &TreeNode) -> String {
    let (cx, cy) = (coordinate(x), coordinate(y));
    let ring = |class: &str, r: f64, extra: &str| {
        format!(
            "<circle class=\"{class}\" cx=\"{cx}\" cy=\"{cy}\" r=\"{}\"{extra}/>",
            coordinate(r)
        )
    };
    if node.parent.is_none() {
        return ring("box root", r, "");
    }
    let opacity = format!(
        " fill-opacity=\"{}\"",
        coordinate(0.05 + 0.9 * node.q_value.clamp(0.0, 1.0))
    );
    let mut svg = ring("paper", r, "") + &ring("q", r, &opacity);
    match (node.terminal, node.correct) {
        (true, Some(true)) => {
            svg += &(ring("hollow right", r, "") + &ring("hollow right", r + 4.0, ""));
            svg += &tick(x, y, "right");
        }
        (true, Some(false)) => svg += &(ring("hollow wrong", r, "") + &cross(x, y, "wrong")),
        _ => svg += &ring("hollow edge", r, ""),
    }
    svg + "\n"
}

/// A tick of 8 by 7 around a point; signs are paths because not every font has them.
pub fn tick(x: f64, y: f64, class: &str) -> String {
    let points = [(-4.0, 0.5), (-1.2, 3.5), (4.5, -3.5)].map(|(dx, dy)| (x + dx, y + dy));
    sign(
        &format!("M{}L{}L{}", pair(points[0]), pair(points[1]), pair(points[2])),
        class,
    )
}

/// A cross of 7 by 7 around a point.
pub fn cross(x: f64, y: f64, class: &str) -> String {
    let corner = |dx: f64, dy: f64| pair((x + dx * 3.5, y + dy * 3.5));
    let path = format!(
        "M{}L{}M{}L{}",
        corner(-1.0, -1.0),
        corner(1.0, 1.0),
        corner(1.0, -1.0),
        corner(-1.0, 1.0)
    );
    sign(&path, class)
}

/// A sign with a paler, broader copy below it, so that it stands out on any fill.
fn sign(path: &str, class: &str) -> String {
    format!(
        "<path d=\"{path}\" fill=\"none\" stroke=\"var(--paper)\" stroke-width=\"5\" stroke-linecap=\"round\"/>\
         <path class=\"hollow {class}\" d=\"{path}\" stroke-linecap=\"round\"/>"
    )
}

fn pair((x, y): (f64, f64)) -> String {
    format!("{} {}", coordinate(x), coordinate(y))
}

/// What a drawing has no room for.
pub fn tooltip(tree: &Tree, node: &TreeNode) -> String {
    if node.parent.is_none() {
        return format!(
            "problem {}\n{}\nanswer {}",
            tree.problem.id, tree.problem.problem, tree.problem.answer
        );
    }
    let mut text = format!(
        "{}\nN {}  Q {:.3}  prior {:.3}  rollouts {:.3}",
        node.text, node.visit_count, node.q_value, node.prior, node.rollout_value
    );
    if node.terminal {
        let verdict = match node.correct {
            Some(true) => "right",
            Some(false) => "wrong",
            None => "not judged",
        };
        text += &format!(
            "\nterminal, {verdict}, answer {}",
            node.answer.as_deref().unwrap_or("none")
        );
    }
    text
}

fn legend(x: f64, y: f64, max_visits: u32) -> String {
    let mut svg = format!("<g transform=\"translate({} {})\">\n", coordinate(x), coordinate(y));
    svg += &format!(
        "<circle class=\"hollow edge\" cx=\"22\" cy=\"16\" r=\"{}\"/>",
        coordinate(MIN_RADIUS)
    );
    svg += &format!(
        "<circle class=\"hollow edge\" cx=\"50\" cy=\"16\" r=\"{}\"/>",
        coordinate(14.0)
    );
    svg += &text("small", 72.0, 20.0, &format!("area: visits, up to {max_visits}"));
    for step in 0..5 {
        let opacity = coordinate(0.05 + 0.9 * f64::from(step) / 4.0);
        let at = 210 + step * 14;
        svg +=
            &format!("<rect class=\"q\" x=\"{at}\" y=\"10\" width=\"14\" height=\"12\" fill-opacity=\"{opacity}\"/>");
    }
    svg += "<rect class=\"hollow edge\" x=\"210\" y=\"10\" width=\"70\" height=\"12\"/>";
    svg += &text("small", 288.0, 20.0, "fill: Q, 0 to 1");
    for (at, correct, name) in [(400.0, true, "right terminal"), (520.0, false, "wrong terminal")] {
        let node = legend_terminal(correct);
        svg += &circle(at, 16.0, 8.0, &node);
        svg += &text("small", at + 18.0, 20.0, name);
    }
    svg + "</g>\n"
}

fn legend_terminal(correct: bool) -> TreeNode {
    TreeNode {
        id: 1,
        parent: Some(0),
        text: String::new(),
        prior: 0.0,
        visit_count: 0,
        q_value: 0.0,
        rollout_value: 0.0,
        terminal: true,
        answer: None,
        correct: Some(correct),
        self_eval: None,
    }
}

fn text(class: &str, x: f64, y: f64, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n",
        coordinate(x),
        coordinate(y),
        escape(content)
    )
}

/// Trees made up for tests.
#[cfg(test)]
pub mod fixtures {
    use super::*;
    use crate::formats::{Problem, VerifierName};

    pub fn problem(id: &str, text: &str, answer: &str) -> Problem {
        let (id, problem, answer) = (id.to_owned(), text.to_owned(), answer.to_owned());
        Problem {
            version: 1,
            id,
            problem,
            answer,
            verifier: VerifierName::Countdown,
            meta: serde_json::Map::new(),
        }
    }

    /// A tree node's parent, step, visits, Q and, for a terminal, verdict.
    pub type Node<'a> = (Option<usize>, &'a str, u32, f64, Option<bool>);

    pub fn tree(nodes: &[Node]) -> Tree {
        let node = |(id, (parent, text, visit_count, q_value, correct)): (usize, &Node)| TreeNode {
            id,
            parent: *parent,
            text: (*text).to_owned(),
            prior: 0.25,
            visit_count: *visit_count,
            q_value: *q_value,
            rollout_value: *q_value,
            terminal: correct.is_some(),
            answer: correct.map(|_| "24".to_owned()),
            correct: *correct,
            self_eval: None,
        };
        let nodes = nodes.iter().enumerate().map(node).collect();
        Tree {
            version: 1,
            problem: problem("t1", "7 3 4 -> 24", "24"),
            nodes,
            num_simulations: 8,
            num_tokens: 900,
        }
    }

    pub fn countdown_tree() -> Tree {
        tree(&[
            (None, "", 9, 0.3, None),
            (Some(0), "7 - 3 = 4 | 4 4", 2, 0.05, None),
            (Some(0), "7 + 3 = 10 | 4 10", 3, 0.10, None),
            (Some(0), "3 * 4 = 12 | 7 12", 2, 0.0, None),
            (Some(0), "7 * 4 = 28 | 3 28", 4, 0.4, None),
            (Some(2), "10 + 4 = 14 , 14 ? 24", 1, 0.0, Some(false)),
            (Some(2), "10 * 4 = 40 , 40 ? 24", 1, 0.0, Some(false)),
            (Some(4), "28 - 3 = 25 , 25 ? 24", 1, 0.0, Some(false)),
            (Some(4), "28 + 3 = 31 , 31 ? 24", 1, 0.0, Some(false)),
            (Some(1), "4 * 4 = 16 , 16 ? 24", 1, 0.0, Some(false)),
            (Some(3), "12 + 7 = 19 , 19 ? 24", 1, 0.0, Some(false)),
            (Some(4), "28 - 4 = 24 , 24 ? 24", 2, 1.0, Some(true)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixtures::{countdown_tree, tree};
    use super::*;

    #[test]
    fn every_tree_node_is_drawn_with_its_figures() {
        let svg = draw_tree(&countdown_tree(), 60);
        assert_eq!(svg.matches("<g><title>").count(), 12);
        assert!(svg.contains("N 4  Q 0.40") && svg.contains("terminal, right, answer 24"));
        assert!(svg.contains("8 simulations, 12 nodes, 1 right and 6 wrong terminals"));
    }

    #[test]
    fn a_large_tree_says_what_is_hidden() {
        let tree = countdown_tree();
        assert!(draw_tree(&tree, 6).contains("+2 hidden") && draw_tree(&tree, 6).contains("6 of 12 nodes"));
    }

    #[test]
    fn text_is_escaped() {
        let svg = draw_tree(
            &tree(&[(None, "", 1, 0.0, None), (Some(0), "<a & \"b\">", 1, 0.5, None)]),
            9,
        );
        assert!(svg.contains("&lt;a &amp; &quot;b&quot;&gt;") && !svg.contains("<a &"));
    }

    proptest! {
        #[test]
        fn any_tree_is_drawn_whole_or_pruned(
            nodes in proptest::collection::vec((any::<proptest::sample::Index>(), 0u32..40, 0.0..1.0f64, any::<Option<bool>>()), 1..300),
            max_nodes in 1usize..80,
        ) {
            let nodes: Vec<_> = nodes.iter().enumerate().map(|(id, (parent, visits, q, correct))| {
                ((id > 0).then(|| parent.index(id.max(1))), "7 + 3 = 10 | 4 10", *visits, *q, *correct)
            }).collect();
            let tree = tree(&nodes);
            let shown = prune(&tree, max_nodes);
            prop_assert!(shown.nodes.len() <= max_nodes && shown.nodes[0].id == 0);
            prop_assert!(shown.parents.iter().skip(1).enumerate().all(|(i, parent)| parent.is_some_and(|p| p < i + 1)));
            let svg = draw_tree(&tree, max_nodes);
            prop_assert_eq!(svg.matches("<g>").count(), shown.nodes.len());
            prop_assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
        }
    }
}
