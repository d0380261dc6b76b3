//! A solution as SVG: steps as boxes, forward edges, and the numbered returns between attempts.
//!
//! Returns are dashed orange, restarts dotted purple; a wrong answer has a red border and a cross, the right one a
//! green double border and a tick; a reflection is a ring around its step, plain green with `+` or dotted red with
//! `-`. `solution` knows what the text says, `solution_layout` where it goes.

use super::draw_tree::{cross, tick};
use super::layout::Rect;
use super::markup::{CHAR_WIDTH, coordinate, escape, svg_open, text_columns, truncate, wrap_parts};
use super::solution::{Move, Solution, Step};
use super::solution_layout::{BADGE, Polyline, SolutionLayout, lay_out};

const FONT: f64 = 12.0;
const LINE: f64 = 16.0;
const LABEL_COLUMNS: usize = 24;
const LABEL_LINES: usize = 4;
/// Left of a label, for the step's number; right of it, for the sign of a verdict.
const NUMBER_WIDTH: f64 = 26.0;
const SIGN_WIDTH: f64 = 22.0;
const RING: f64 = 5.0;
const MARGIN: f64 = 20.0;
const HEADER: f64 = 26.0;
const LEGEND_HEIGHT: f64 = 72.0;
const LEGEND_WIDTH: f64 = 700.0;
const CORNER: f64 = 7.0;

/// Draws the first `max_steps` steps of a solution, and says how many more there are.
pub fn draw_solution(solution: &Solution, max_steps: usize) -> String {
    let (shown, num_hidden) = cut(solution, max_steps.max(1));
    let labels: Vec<Vec<String>> = shown
        .steps
        .iter()
        .map(|step| wrap_parts(&step.text, LABEL_COLUMNS, LABEL_LINES))
        .collect();
    let columns = labels
        .iter()
        .flatten()
        .map(|line| text_columns(line))
        .max()
        .unwrap_or(1);
    let box_width = NUMBER_WIDTH + columns as f64 * FONT * CHAR_WIDTH + SIGN_WIDTH;
    let heights: Vec<f64> = labels
        .iter()
        .map(|lines| lines.len().max(1) as f64 * LINE + 14.0)
        .collect();
    let layout = lay_out(&shown, box_width, &heights);
    let width = (layout.width.max(LEGEND_WIDTH) + 2.0 * MARGIN).ceil();
    let height = (layout.height + HEADER + LEGEND_HEIGHT + 2.0 * MARGIN).ceil();

    let mut svg = svg_open(width, height, &format!("Solution of problem {}", solution.problem_id));
    svg += MARKERS;
    svg += &text("head", MARGIN, MARGIN, &heading(&shown, num_hidden));
    svg += &format!(
        "<g transform=\"translate({} {})\">\n",
        coordinate(MARGIN),
        coordinate(MARGIN + HEADER)
    );
    svg += &edges(&shown, &layout);
    for (step, lines) in shown.steps.iter().zip(&labels) {
        svg += &draw_step(step, lines, &layout.boxes[step.id]);
    }
    for (m, at) in shown.moves.iter().zip(&layout.badges) {
        svg += &badge(m, *at);
    }
    svg += "</g>\n";
    svg += &legend(MARGIN, height - LEGEND_HEIGHT + 8.0);
    svg + "</svg>\n"
}

/// Names start with `vv-` because a page may hold several drawings; all of them define the same markers.
const MARKERS: &str = concat!(
    "<defs>",
    "<marker id=\"vv-tip-forward\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" ",
    "markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"tip-forward\" d=\"M0 0L8 4L0 8Z\"/></marker>",
    "<marker id=\"vv-tip-back\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"9\" markerHeight=\"9\" ",
    "markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"tip-back\" d=\"M0 0L8 4L0 8Z\"/></marker>",
    "<marker id=\"vv-tip-restart\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"9\" markerHeight=\"9\" ",
    "markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"tip-restart\" d=\"M0 0L8 4L0 8Z\"/></marker>",
    "</defs>\n"
);

/// Returns the solution without its last steps, where it has too many, and how many those are.
fn cut(solution: &Solution, max_steps: usize) -> (Solution, usize) {
    let mut shown = solution.clone();
    // The problem is a box too, but no step.
    shown.steps.truncate(max_steps + 1);
    let num_shown = shown.steps.len();
    shown.moves.retain(|m| m.from < num_shown);
    if num_shown < solution.steps.len() {
        // What follows the last shown step was cut off with it.
        shown.moves.retain(|m| m.from + 1 < num_shown);
    }
    (shown, solution.steps.len() - num_shown)
}

fn heading(solution: &Solution, num_hidden: usize) -> String {
    let outcome = match (solution.correct, solution.truncated) {
        (true, _) => "right",
        (false, true) => "cut off by the token limit",
        (false, false) => "wrong",
    };
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let hidden = if num_hidden > 0 {
        format!(", {num_hidden} more not shown")
    } else {
        String::new()
    };
    format!(
        "{}   ·   {}{hidden}, {}, {outcome}",
        truncate(&solution.steps[0].text.replace('\n', " "), 40),
        plural(solution.steps.len() - 1, "step"),
        plural(solution.moves.len(), "return")
    )
}

fn edges(solution: &Solution, layout: &SolutionLayout) -> String {
    let mut svg = String::new();
    for line in &layout.forward {
        svg += &format!(
            "<path class=\"edge\" marker-end=\"url(#vv-tip-forward)\" d=\"{}\"/>\n",
            rounded(line)
        );
    }
    for (m, line) in solution.moves.iter().zip(&layout.back) {
        let class = move_class(m);
        svg += &format!(
            "<path class=\"{class}\" marker-end=\"url(#vv-tip-{class})\" d=\"{}\"/>\n",
            rounded(line)
        );
    }
    svg
}

fn move_class(m: &Move) -> &'static str {
    if m.restart { "restart" } else { "back" }
}

/// A polyline as a path with rounded corners.
fn rounded(line: &Polyline) -> String {
    let pair = |(x, y): (f64, f64)| format!("{} {}", coordinate(x), coordinate(y));
    let toward = |from: (f64, f64), to: (f64, f64)| {
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let share = if length > 0.0 { (CORNER / length).min(0.5) } else { 0.0 };
        (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share)
    };
    let mut path = String::new();
    for (i, point) in line.iter().enumerate() {
        path += &match (i, line.get(i + 1)) {
            (0, _) => format!("M{}", pair(*point)),
            (_, None) => format!("L{}", pair(*point)),
            (_, Some(next)) => {
                let (before, after) = (toward(*point, line[i - 1]), toward(*point, *next));
                format!("L{}Q{} {}", pair(before), pair(*point), pair(after))
            }
        };
    }
    path
}

fn draw_step(step: &Step, lines: &[String], b: &Rect) -> String {
    let mut svg = format!("<g class=\"step\"><title>{}</title>\n", escape(&tooltip(step)));
    let rect = |class: &str, out: f64| {
        let [x, y, w, h] = [b.x - out, b.y - out, b.width + 2.0 * out, b.height + 2.0 * out].map(coordinate);
        format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{}\"/>\n",
            coordinate(6.0 + out)
        )
    };
    svg += &rect(if step.parent.is_none() { "box root" } else { "box" }, 0.0);
    let sign_at = (b.right() - SIGN_WIDTH / 2.0 - 2.0, b.y + b.height / 2.0);
    match step.right {
        Some(true) => {
            svg += &(rect("hollow right", 0.0) + &rect("hollow right", -3.5) + &tick(sign_at.0, sign_at.1, "right"))
        }
        Some(false) => svg += &(rect("hollow wrong", 0.0) + &cross(sign_at.0, sign_at.1, "wrong")),
        None => {}
    }
    if step.num_negative > 0 {
        svg += &(rect("ring-bad", RING) + &ring_sign(b, 0.0, "-", "ring-bad"));
    }
    if step.num_positive > 0 {
        let out = if step.num_negative > 0 { RING + 3.5 } else { RING };
        svg += &(rect("ring-good", out) + &ring_sign(b, 16.0, "+", "ring-good"));
    }
    let number = if step.parent.is_none() {
        "?".to_owned()
    } else {
        step.id.to_string()
    };
    svg += &text("soft small", b.x + 8.0, b.y + 7.0 + FONT, &number);
    for (i, line) in lines.iter().enumerate() {
        svg += &text("mono", b.x + NUMBER_WIDTH, b.y + 7.0 + FONT + i as f64 * LINE, line);
    }
    svg + "</g>\n"
}

/// The sign on a ring, at the upper left of its box, where no edge passes.
fn ring_sign(b: &Rect, shift: f64, sign: &str, class: &str) -> String {
    let (x, y) = (b.x + 6.0 + shift, b.y - RING);
    format!(
        "<circle class=\"badge {class}\" cx=\"{}\" cy=\"{}\" r=\"6\"/>{}",
        coordinate(x),
        coordinate(y),
        text("small mid", x, y + 3.5, sign)
    )
}

fn badge(m: &Move, (x, y): (f64, f64)) -> String {
    let class = move_class(m);
    let number = format!("{}{}", m.number, if m.uncertain { "?" } else { "" });
    let kind = if m.restart { "restart" } else { "return" };
    let sure = if m.uncertain { ", uncertain" } else { "" };
    let title = format!(
        "{kind} {}: from step {} to step {}{sure}\n{}",
        m.number, m.from, m.to, m.text
    );
    format!(
        "<g class=\"move\"><title>{}</title><circle class=\"badge {class}\" stroke-dasharray=\"none\" cx=\"{}\" \
         cy=\"{}\" r=\"{}\"/>{}</g>\n",
        escape(&title),
        coordinate(x),
        coordinate(y),
        coordinate(BADGE),
        text("small mid", x, y + 3.5, &number)
    )
}

fn tooltip(step: &Step) -> String {
    let mut text = match step.parent {
        None => format!("problem\n{}", step.text),
        Some(_) => format!("step {}\n{}", step.id, step.text),
    };
    text += match step.right {
        Some(true) => "\nanswer: right",
        Some(false) => "\nanswer: wrong",
        None => "",
    };
    if step.num_negative > 0 {
        text += "\nthe text doubts it here";
    }
    if step.num_positive > 0 {
        text += "\nthe text approves of it here";
    }
    text
}

fn legend(x: f64, y: f64) -> String {
    let mut svg = format!("<g transform=\"translate({} {})\">\n", coordinate(x), coordinate(y));
    let entry =
        |at: (f64, f64), drawn: &str, name: &str| format!("{drawn}{}", text("small", at.0 + 40.0, at.1 + 4.0, name));
    let line = |at: (f64, f64), class: &str, tip: &str| {
        format!(
            "<path class=\"{class}\" marker-end=\"url(#vv-tip-{tip})\" d=\"M{} {}H{}\"/>",
            coordinate(at.0),
            coordinate(at.1),
            coordinate(at.0 + 32.0)
        )
    };
    let swatch = |at: (f64, f64), class: &str, out: f64| {
        let [x, y, w, h] = [at.0 + 4.0 - out, at.1 - 6.0 - out, 24.0 + 2.0 * out, 12.0 + 2.0 * out].map(coordinate);
        format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"3\"/>")
    };
    let (top, low) = (12.0, 38.0);
    svg += &entry((0.0, top), &line((0.0, top), "edge", "forward"), "next step");
    svg += &entry(
        (170.0, top),
        &line((170.0, top), "back", "back"),
        "return, numbered in order",
    );
    svg += &entry((400.0, top), &line((400.0, top), "restart", "restart"), "restart");
    svg += &text("small", 510.0, top + 4.0, "? at a number: target uncertain");
    let right = swatch((0.0, low), "hollow right", 0.0) + &swatch((0.0, low), "hollow right", -3.0);
    svg += &entry((0.0, low), &right, "right answer");
    svg += &entry((170.0, low), &swatch((170.0, low), "hollow wrong", 0.0), "wrong answer");
    let ring = |at, class| swatch(at, "box", -2.0) + &swatch(at, class, 2.0);
    svg += &entry((400.0, low), &ring((400.0, low), "ring-bad"), "- doubted");
    svg += &entry((530.0, low), &ring((530.0, low), "ring-good"), "+ approved");
    svg + "</g>\n"
}

fn text(class: &str, x: f64, y: f64, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n",
        coordinate(x),
        coordinate(y),
        escape(content)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::solution::fixtures::{COUNTDOWN, read};
    use crate::report::solution_layout::fixtures::solution;

    #[test]
    fn steps_returns_and_verdicts_are_drawn() {
        let svg = draw_solution(&read("7 3 4 -> 24", COUNTDOWN, true), 60);
        assert_eq!(svg.matches("<g class=\"step\">").count(), 7);
        assert_eq!(svg.matches("<g class=\"move\">").count(), 3);
        assert!(svg.contains("6 steps, 3 returns, right") && svg.contains("return 1: from step 2 to step 1"));
        assert!(svg.contains("restart 2: from step 3 to step 0"));
    }

    #[test]
    fn too_many_steps_are_cut_with_a_word() {
        let svg = draw_solution(&read("7 3 4 -> 24", COUNTDOWN, true), 3);
        assert_eq!(svg.matches("<g class=\"step\">").count(), 4);
        assert!(svg.contains("3 steps, 3 more not shown, 1 return,"), "{svg}");
    }

    proptest! {
        #[test]
        fn any_solution_is_drawn(attempts in proptest::collection::vec((0usize..7, 0usize..9), 1..50), max_steps in 1usize..400) {
            let svg = draw_solution(&solution(&attempts), max_steps);
            prop_assert!(!svg.contains("<&>") && svg.contains("&lt;&amp;&gt;"));
            for element in ["g", "text", "title", "svg"] {
                let (open, close) = (format!("<{element}"), format!("</{element}>"));
                let opened = svg.match_indices(&open).filter(|(at, _)| svg[at + open.len()..].starts_with([' ', '>'])).count();
                prop_assert_eq!(opened, svg.matches(&close).count());
            }
        }
    }
}
