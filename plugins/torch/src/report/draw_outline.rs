//! A whole search tree as SVG, however large: from left to right, a line of text for each tree node.
//!
//! For pages that are printed or read without scripts, and for a reader who wants to see all of 2,000 steps on one
//! long sheet: `draw_tree` shows the shape of few. Each leaf has a row of its own and each parent stands amid the rows
//! below it, so that no two labels of a column can touch.

use super::draw_tree::tooltip;
use super::layout::Rect;
use super::markup::{CHAR_WIDTH, coordinate, escape, svg_open, truncate};
use crate::formats::{Tree, TreeNode};

const ROW: f64 = 14.0;
const FONT: f64 = 10.5;
const LABEL_COLUMNS: usize = 26;
/// Left of a label, for the dot or sign of its node.
const SIGN_WIDTH: f64 = 16.0;
/// Between a label and the next column, for the edges.
const GUTTER: f64 = 34.0;
const MARGIN: f64 = 16.0;
const HEADER: f64 = 26.0;
/// A tooltip that repeats pages of text would make the drawing as heavy as the tree.
const TOOLTIP_COLUMNS: usize = 160;

/// Draws all tree nodes.
pub fn draw_outline(tree: &Tree) -> String {
    let parents: Vec<Option<usize>> = tree.nodes.iter().map(|node| node.parent).collect();
    let boxes = outline(&parents);
    let width = boxes.iter().map(Rect::right).fold(420.0, f64::max) + 2.0 * MARGIN;
    let height = boxes.iter().map(Rect::bottom).fold(0.0, f64::max) + HEADER + 2.0 * MARGIN;
    let title = format!("Search tree of problem {}", tree.problem.id);
    let mut svg = svg_open(width.ceil(), height.ceil(), &title);
    let x = coordinate(MARGIN);
    svg += &format!(
        "<text class=\"head\" x=\"{x}\" y=\"{}\">{}   ·   all {} nodes; a diamond is a right answer, a cross a wrong one</text>\n",
        coordinate(MARGIN + 6.0),
        escape(&truncate(&tree.problem.problem.replace('\n', " "), 40)),
        tree.nodes.len()
    );
    svg += &format!("<g transform=\"translate({x} {})\">\n", coordinate(MARGIN + HEADER));
    svg += &edges(&parents, &boxes);
    for (node, at) in tree.nodes.iter().zip(&boxes) {
        svg += &draw_node(tree, node, at);
    }
    svg + "</g>\n</svg>\n"
}

/// Places a box for each node, whose parents come before it: a column for each depth, a row for each leaf.
fn outline(parents: &[Option<usize>]) -> Vec<Rect> {
    let n = parents.len();
    let mut depth = vec![0usize; n];
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (id, parent) in parents.iter().enumerate() {
        if let Some(parent) = *parent {
            depth[id] = depth[parent] + 1;
            children[parent].push(id);
        }
    }
    let mut rows = vec![(f64::INFINITY, f64::NEG_INFINITY); n];
    let mut next_row = 0.0;
    let mut pending: Vec<usize> = (0..n.min(1)).collect();
    while let Some(id) = pending.pop() {
        if children[id].is_empty() {
            rows[id] = (next_row, next_row);
            next_row += 1.0;
        }
        pending.extend(children[id].iter().rev());
    }
    // Children come after their parents, so going backwards meets every child before its parent.
    for id in (1..n).rev() {
        if let Some(parent) = parents[id] {
            rows[parent] = (rows[parent].0.min(rows[id].0), rows[parent].1.max(rows[id].1));
        }
    }
    let width = SIGN_WIDTH + LABEL_COLUMNS as f64 * FONT * CHAR_WIDTH;
    let place = |id: usize| Rect {
        x: depth[id] as f64 * (width + GUTTER),
        y: f64::midpoint(rows[id].0, rows[id].1) * ROW,
        width,
        height: ROW,
    };
    (0..n).map(place).collect()
}

fn middle(at: &Rect) -> f64 {
    at.y + at.height / 2.0
}

fn edges(parents: &[Option<usize>], boxes: &[Rect]) -> String {
    let mut path = String::new();
    for (parent, to) in parents.iter().zip(boxes) {
        let Some(from) = parent.map(|parent| &boxes[parent]) else {
            continue;
        };
        let turn = coordinate(from.right() + GUTTER / 2.0);
        let [x1, y1, x2, y2] = [from.right(), middle(from), to.x, middle(to)].map(coordinate);
        path += &format!("M{x1} {y1}C{turn} {y1} {turn} {y2} {x2} {y2}");
    }
    format!("<path class=\"edge\" stroke-opacity=\"0.6\" d=\"{path}\"/>\n")
}

fn draw_node(tree: &Tree, node: &TreeNode, at: &Rect) -> String {
    let (x, y) = (at.x + 6.0, middle(at));
    let sign = match (node.terminal, node.correct) {
        (true, Some(true)) => format!(
            "<path class=\"hollow right\" d=\"M{} {}l5 5l-5 5l-5 -5z\"/>",
            coordinate(x),
            coordinate(y - 5.0)
        ),
        (true, Some(false)) => format!(
            "<path class=\"hollow wrong\" d=\"M{} {}l7 7m0 -7l-7 7\"/>",
            coordinate(x - 3.5),
            coordinate(y - 3.5)
        ),
        _ => format!(
            "<circle class=\"q\" stroke=\"var(--forward)\" fill-opacity=\"{}\" cx=\"{}\" cy=\"{}\" r=\"4\"/>",
            coordinate(0.05 + 0.9 * node.q_value.clamp(0.0, 1.0)),
            coordinate(x),
            coordinate(y)
        ),
    };
    let is_root = node.parent.is_none();
    let step = if is_root { &tree.problem.problem } else { &node.text };
    let step: Vec<&str> = step.split_whitespace().collect();
    format!(
        "<g><title>{}</title>{sign}<text class=\"mono small\" x=\"{}\" y=\"{}\">{}</text></g>\n",
        escape(&truncate(&tooltip(tree, node), TOOLTIP_COLUMNS)),
        coordinate(at.x + SIGN_WIDTH),
        coordinate(y + 3.6),
        escape(&truncate(&step.join(" "), LABEL_COLUMNS))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::draw_tree::fixtures::{countdown_tree, tree};
    use crate::report::layout::assert_apart_and_inside;

    #[test]
    fn every_node_has_its_line_and_its_sign() {
        let svg = draw_outline(&countdown_tree());
        assert_eq!(svg.matches("<g><title>").count(), 12);
        assert_eq!(svg.matches("hollow right").count(), 1);
        assert_eq!(svg.matches("hollow wrong").count(), 6);
        assert!(svg.contains("all 12 nodes"));
    }

    #[test]
    fn two_thousand_nodes_are_a_drawing_of_bounded_size() {
        let nodes: Vec<_> = (0..2000usize)
            .map(|id| {
                (
                    (id > 0).then(|| (id - 1) / 3),
                    "We add 3 to both sides and divide by 2.",
                    1,
                    0.5,
                    None,
                )
            })
            .collect();
        let svg = draw_outline(&tree(&nodes));
        assert!(svg.len() < 1_500_000, "{}", svg.len());
        assert_eq!(svg.matches("<g><title>").count(), 2000);
    }

    #[test]
    fn text_is_escaped() {
        let svg = draw_outline(&tree(&[
            (None, "", 1, 0.0, None),
            (Some(0), "<script>&\"'", 1, 0.5, None),
        ]));
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&amp;&quot;&#39;"));
    }

    proptest! {
        #[test]
        fn no_two_lines_touch(picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..300)) {
            let parents: Vec<Option<usize>> =
                picks.iter().enumerate().map(|(id, pick)| (id > 0).then(|| pick.index(id.max(1)))).collect();
            let boxes = outline(&parents);
            assert_apart_and_inside(&boxes, 1e9, parents.len() as f64 * ROW);
            for (id, parent) in parents.iter().enumerate() {
                if let Some(parent) = parent {
                    prop_assert!(boxes[*parent].right() < boxes[id].x);
                }
            }
        }
    }
}
