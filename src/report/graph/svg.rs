//! The drawing of a pipeline in SVG: for a page or a paper, without any other program.
//!
//! A box says its name, its kind, its axes and how its nodes stand; the bar at its lower edge shows the shares. A box
//! of several nodes looks like a pile. What was cut for want of room is in the tooltip.

use std::fmt::Write;

use super::diagram::{Diagram, Figure, Link, num_nodes};
use super::layers::{Size, Wire};
use super::layout::{Layout, Line, Rect, lay_out};
use super::markup::{coordinate, escape, svg_open, text, text_width};
use crate::exec::PlanState;
use crate::report::text::{duration, truncate};

const MARGIN: f64 = 20.0;
const HEADER: f64 = 44.0;
const LEGEND: f64 = 40.0;
/// The legend with all of its parts needs this much.
const LEGEND_WIDTH: f64 = 470.0;
const NAME_FONT: f64 = 12.5;
const FONT: f64 = 10.5;
const LINE: f64 = 14.0;
const PAD_X: f64 = 12.0;
const PAD_Y: f64 = 9.0;
/// How much of its measure a text in a proportional font takes on average.
const LEGEND_TEXT: f64 = 0.88;
/// How thick the bar is that shows the shares of the states.
const BAR: f64 = 4.0;
/// How far the second sheet of a pile sticks out.
const PILE: f64 = 3.5;
const TIP: f64 = 8.0;
const MAX_COLUMNS: usize = 36;
const MIN_WIDTH: f64 = 96.0;
/// A box is wide enough for its links to be so far apart, up to a width.
const LINK_GAP: f64 = 13.0;
const MAX_LINKS_WIDTH: f64 = 420.0;
/// Labels of a link that reads more than this are counted.
const MAX_LABELS: usize = 4;

/// Draws a diagram.
pub fn draw_svg(diagram: &Diagram) -> String {
    let lines: Vec<Vec<(&str, String)>> = diagram.boxes.iter().map(box_lines).collect();
    let num_links = |idx: usize| {
        let num_from = diagram.links.iter().filter(|link| link.from == idx).count();
        num_from.max(diagram.links.iter().filter(|link| link.to == idx).count())
    };
    let sized = |(idx, lines): (usize, &Vec<(&str, String)>)| box_size(&diagram.boxes[idx], lines, num_links(idx));
    let sizes: Vec<Size> = lines.iter().enumerate().map(sized).collect();
    let labels: Vec<Vec<(&str, String)>> = diagram.links.iter().map(link_lines).collect();
    let wire = |(link, label): (&Link, &Vec<(&str, String)>)| Wire {
        from: link.from,
        to: link.to,
        label: label_size(label),
    };
    let wires: Vec<Wire> = diagram.links.iter().zip(&labels).map(wire).collect();
    let mut layout = lay_out(&sizes, &wires);
    let heading = format!("{}: {}", diagram.pipeline, diagram.summary());
    let least = LEGEND_WIDTH.max(text_width(&truncate(&diagram.summary(), 90), FONT));
    let width = (layout.width.max(least) + 2.0 * MARGIN).ceil();
    let height = (layout.height + HEADER + LEGEND + 2.0 * MARGIN).ceil();
    let aside = (width - layout.width) / 2.0;
    shift(&mut layout, aside, MARGIN + HEADER);

    let mut svg = svg_open(width, height, &heading);
    svg += &text("head", MARGIN, MARGIN + 10.0, &truncate(&diagram.pipeline, 60));
    svg += &text("soft", MARGIN, MARGIN + 26.0, &truncate(&diagram.summary(), 90));
    for (link, line) in diagram.links.iter().zip(&layout.lines) {
        svg += &draw_line(link, line, diagram);
    }
    for (label, line) in labels.iter().zip(&layout.lines) {
        svg += &draw_label(label, &line.label);
    }
    for ((figure, lines), rect) in diagram.boxes.iter().zip(&lines).zip(&layout.boxes) {
        svg += &draw_box(figure, lines, rect);
    }
    svg += &legend(diagram, MARGIN, height - MARGIN);
    svg + "</svg>\n"
}

fn shift(layout: &mut Layout, dx: f64, dy: f64) {
    let move_rect = |rect: &mut Rect| {
        rect.x += dx;
        rect.y += dy;
    };
    layout.boxes.iter_mut().for_each(move_rect);
    for line in &mut layout.lines {
        move_rect(&mut line.label);
        line.points
            .iter_mut()
            .for_each(|point| *point = (point.0 + dx, point.1 + dy));
    }
}

/// Returns the lines of a box with their classes.
fn box_lines(figure: &Figure) -> Vec<(&'static str, String)> {
    let is_node = !figure.coordinates.is_empty();
    let name = if is_node { &figure.stage } else { &figure.name };
    let mut lines = vec![("mono name mid", name.clone()), ("mono soft mid", figure.kind.clone())];
    lines.extend(
        figure
            .coordinates
            .iter()
            .map(|coordinate| ("mono mid", coordinate.clone())),
    );
    lines.extend(
        Some(figure.extent("×"))
            .filter(|text| !text.is_empty())
            .map(|text| ("mid", text)),
    );
    lines.extend(
        Some(figure.states())
            .filter(|text| !text.is_empty())
            .map(|text| ("mid", text)),
    );
    lines
        .iter_mut()
        .for_each(|line| line.1 = truncate(&line.1, MAX_COLUMNS));
    lines
}

fn box_size(figure: &Figure, lines: &[(&str, String)], num_links: usize) -> Size {
    let font = |class: &str| if class.contains("name") { NAME_FONT } else { FONT };
    let widest = lines
        .iter()
        .map(|(class, line)| text_width(line, font(class)))
        .fold(0.0, f64::max);
    let pile = if figure.nodes > 1 { PILE } else { 0.0 };
    let bar = if figure.counts.is_some() { BAR } else { 0.0 };
    // Many links need room to arrive side by side.
    let links = (2.0 * PAD_X + num_links.saturating_sub(1) as f64 * LINK_GAP).min(MAX_LINKS_WIDTH);
    Size {
        // A pile has a second sheet at both sides, so that the first one stands in the middle.
        width: (widest + 2.0 * PAD_X).max(MIN_WIDTH).max(links) + 2.0 * pile,
        height: lines.len() as f64 * LINE + 2.0 * PAD_Y + bar + pile,
    }
}

/// Returns the lines of a link's label with their classes.
fn link_lines(link: &Link) -> Vec<(&'static str, String)> {
    let all = link.labels("→");
    let shown = if all.len() > MAX_LABELS {
        MAX_LABELS - 1
    } else {
        all.len()
    };
    let mut lines: Vec<(&str, String)> = all[..shown]
        .iter()
        .map(|label| ("soft mid", truncate(label, MAX_COLUMNS)))
        .collect();
    if all.len() > shown {
        lines.push(("soft mid", format!("and {} more", all.len() - shown)));
    }
    lines.extend(
        link.gathers()
            .map(|gather| ("gtext mid", truncate(&gather, MAX_COLUMNS))),
    );
    lines
}

fn label_size(lines: &[(&str, String)]) -> Size {
    let widest = lines.iter().map(|(_, line)| text_width(line, FONT)).fold(0.0, f64::max);
    Size {
        width: widest + 8.0,
        height: lines.len() as f64 * (LINE - 1.0) + 3.0,
    }
}

fn draw_line(link: &Link, line: &Line, diagram: &Diagram) -> String {
    let path = path(line);
    let (from, to) = (&diagram.boxes[link.from].name, &diagram.boxes[link.to].name);
    let gathers = link.gathers().map(|gather| format!("\n{gather}")).unwrap_or_default();
    let title = format!("{from} to {to}\n{}{gathers}", link.labels("→").join("\n"));
    let mut svg = format!("<g><title>{}</title>\n", escape(&title));
    // A gathered link is a double line: two strokes of one path.
    let classes: &[&str] = if link.gather.is_empty() {
        &["edge"]
    } else {
        &["gather", "inner"]
    };
    for class in classes {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    let (x, y) = line.points[line.points.len() - 1];
    let (tip, half) = if link.gather.is_empty() {
        ("tip", 3.6)
    } else {
        ("gtip", 5.4)
    };
    let [left, x, right] = [x - half, x, x + half].map(coordinate);
    let [top, y] = [y - TIP, y].map(coordinate);
    svg + &format!("<path class=\"{tip}\" d=\"M{left} {top}L{right} {top}L{x} {y}Z\"/></g>\n")
}

/// Returns a line as a path that ends where its arrow begins.
fn path(line: &Line) -> String {
    let mut points = line.points.clone();
    if let Some(last) = points.last_mut() {
        last.1 -= TIP - 1.0;
    }
    let mut path = String::new();
    for (idx, &(x, y)) in points.iter().enumerate() {
        let [cx, cy] = [x, y].map(coordinate);
        path += &match idx.checked_sub(1).map(|before| points[before]) {
            None => format!("M{cx} {cy}"),
            Some((before, _)) if (before - x).abs() < 0.005 => format!("V{cy}"),
            Some((x1, y1)) => {
                let [x1, middle] = [x1, f64::midpoint(y1, y)].map(coordinate);
                format!("C{x1} {middle} {cx} {middle} {cx} {cy}")
            }
        };
    }
    path
}

fn draw_label(lines: &[(&str, String)], rect: &Rect) -> String {
    let mut svg = rectangle("paper", rect, 0.0);
    for (idx, (class, line)) in lines.iter().enumerate() {
        let y = rect.y + 10.5 + idx as f64 * (LINE - 1.0);
        svg += &text(class, rect.x + rect.width / 2.0, y, line);
    }
    svg
}

fn draw_box(figure: &Figure, lines: &[(&str, String)], rect: &Rect) -> String {
    let class = match figure.state() {
        None => "stage",
        Some(PlanState::Cached) => "cached",
        Some(PlanState::Run) => "run",
        Some(PlanState::Maybe) => "maybe",
    };
    let mut svg = format!("<g class=\"{class}\"><title>{}</title>\n", escape(&tooltip(figure)));
    let mut sheet = *rect;
    if figure.nodes > 1 {
        sheet = Rect {
            x: rect.x + PILE,
            width: rect.width - 2.0 * PILE,
            height: rect.height - PILE,
            ..*rect
        };
        let below = Rect {
            x: sheet.x + PILE,
            y: sheet.y + PILE,
            ..sheet
        };
        svg += &rectangle("box pile", &below, 4.0);
    }
    svg += &rectangle("box", &sheet, 4.0);
    svg += &shares(figure, &sheet);
    for (idx, (class, line)) in lines.iter().enumerate() {
        let y = sheet.y + PAD_Y + 10.0 + idx as f64 * LINE;
        svg += &text(class, sheet.x + sheet.width / 2.0, y, line);
    }
    svg + "</g>\n"
}

/// Draws how large the share of each state is, as a bar inside the lower edge.
fn shares(figure: &Figure, sheet: &Rect) -> String {
    let Some(counts) = figure.counts else {
        return String::new();
    };
    let inner = sheet.width - 16.0;
    let mut x = sheet.x + 8.0;
    let mut svg = String::new();
    for (class, num) in [("run", counts.run), ("maybe", counts.maybe), ("cached", counts.cached)] {
        let width = inner * num as f64 / figure.nodes as f64;
        if num > 0 {
            let bar = Rect {
                x,
                y: sheet.bottom() - BAR - 4.0,
                width,
                height: BAR,
            };
            svg += &rectangle(&format!("share {class}"), &bar, 1.0);
        }
        x += width;
    }
    svg
}

fn tooltip(figure: &Figure) -> String {
    let mut parts = vec![
        figure.name.clone(),
        figure.kind.clone(),
        figure.extent("×"),
        figure.states(),
    ];
    if let Some(seconds) = figure.estimate_s.filter(|seconds| *seconds > 0.0) {
        parts.push(format!("about {} of work", duration(seconds)));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn rectangle(class: &str, rect: &Rect, radius: f64) -> String {
    let [x, y, width, height] = [rect.x, rect.y, rect.width, rect.height].map(coordinate);
    let radius = if radius > 0.0 {
        format!(" rx=\"{}\"", coordinate(radius))
    } else {
        String::new()
    };
    format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"{radius}/>\n")
}

/// Draws what the strokes and colours mean, as far as they occur.
fn legend(diagram: &Diagram, left: f64, base: f64) -> String {
    let mut svg = String::from("<g>\n");
    let mut x = left;
    for (class, num) in diagram
        .counts
        .iter()
        .flat_map(|counts| [("cached", counts.cached), ("run", counts.run), ("maybe", counts.maybe)])
    {
        let meaning = match class {
            "cached" => "cached",
            "run" => "runs",
            _ => "runs if its inputs change",
        };
        let swatch = Rect {
            x,
            y: base - 11.0,
            width: 20.0,
            height: 12.0,
        };
        if num > 0 {
            let _ = write!(
                svg,
                "<g class=\"{class}\">{}</g>",
                rectangle("box", &swatch, 2.0).trim_end()
            );
            svg += &text("soft", x + 26.0, base - 1.0, meaning);
            x += 26.0 + text_width(meaning, FONT) * LEGEND_TEXT + 14.0;
        }
    }
    let y = coordinate(base - 5.0);
    if diagram.links.iter().any(|link| !link.gather.is_empty()) {
        for class in ["gather", "inner"] {
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{} {y}H{}\"/>",
                coordinate(x),
                coordinate(x + 24.0)
            );
        }
        svg += &text("soft", x + 30.0, base - 1.0, "gathers axes into one list");
        x += 30.0 + text_width("gathers axes into one list", FONT) * LEGEND_TEXT + 14.0;
    }
    if diagram.boxes.iter().any(|figure| figure.nodes > 1) {
        let swatch = Rect {
            x,
            y: base - 12.0,
            width: 20.0,
            height: 11.0,
        };
        let below = Rect {
            x: x + 3.0,
            y: base - 9.0,
            ..swatch
        };
        svg += &(rectangle("box pile", &below, 2.0) + &rectangle("box", &swatch, 2.0));
        svg += &text("soft", x + 30.0, base - 1.0, &format!("{} or more", num_nodes(2)));
    }
    svg + "</g>\n"
}
