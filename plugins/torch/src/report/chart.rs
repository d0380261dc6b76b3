//! Line charts and interval charts as SVG, for a page that brings `markup::DRAWING_CSS`.
//!
//! Knows numbers and names, not what they mean. Series differ by colour, by dashes and by the shape of their marks, so
//! that a chart can be read without colours. Values that aren't finite are left out.

use super::markup::{CHAR_WIDTH, coordinate, escape, text_columns, truncate};

/// One named line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    /// Chooses colour, dashes and marks; the same model has the same style in every chart of a page.
    pub style: usize,
    pub points: Vec<(f64, f64)>,
}

/// What a line chart looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    pub title: String,
    pub x_label: String,
    pub width: f64,
    pub height: f64,
    /// A logarithmic x axis; points at or below 0 are left out.
    pub x_log: bool,
    /// y is a share, shown in percent.
    pub y_percent: bool,
    /// Draw faint raw points and a moving mean through them, instead of a line through marked points.
    pub smooth: bool,
}

/// A value with its interval, for the chart of intervals.
#[derive(Debug, Clone, PartialEq)]
pub struct Interval {
    pub name: String,
    pub style: usize,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

const DASHES: [&str; 4] = ["", "8 4", "2 4", "10 4 2 4"];
pub(super) const NUM_COLOURS: usize = 8;
const FONT: f64 = 12.0;
/// Width of a digit of an axis.
pub(super) const CHAR: f64 = FONT * CHAR_WIDTH;
pub(super) const LEGEND_ROW: f64 = 18.0;
/// More raw points than this are thinned out: they would be one grey band.
const MAX_RAW_POINTS: usize = 240;

/// A range of values and where it lies on the paper.
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub from: f64,
    pub to: f64,
    pub log: bool,
}

impl Scale {
    pub fn at(&self, value: f64) -> f64 {
        let t = |v: f64| if self.log { v.ln() } else { v };
        let share = (t(value) - t(self.low)) / (t(self.high) - t(self.low));
        self.from + share * (self.to - self.from)
    }
}

/// Returns the window of the moving mean for a series of this length: a twelfth of it, odd.
pub fn smoothing_window(num_points: usize) -> usize {
    (num_points / 12).max(1) | 1
}

/// Returns the centred moving mean; near an end the window is cut, not padded.
pub fn moving_mean(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let half = window / 2;
    let around = |i: usize| &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
    let mean = |part: &[(f64, f64)]| part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64;
    points.iter().enumerate().map(|(i, p)| (p.0, mean(around(i)))).collect()
}

/// Draws series over common axes; series without a point are left out, and `None` is returned if all are.
pub fn line_chart(chart: &LineChart, series: &[Series]) -> Option<String> {
    let usable = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite() && !(chart.x_log && p.0 <= 0.0);
    let mut series: Vec<Series> = series
        .iter()
        .map(|s| Series {
            points: s.points.iter().filter(usable).copied().collect(),
            ..s.clone()
        })
        .filter(|s| !s.points.is_empty())
        .collect();
    series
        .iter_mut()
        .for_each(|s| s.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let all = || series.iter().flat_map(|s| s.points.iter());
    let (x_low, x_high) = range(all().map(|p| p.0))?;
    let (y_low, y_high) = range(all().map(|p| p.1))?;

    let y_ticks = linear_ticks(y_low, y_high, 5);
    let y_label = |v: f64| {
        if chart.y_percent {
            format!("{}%", number(v * 100.0))
        } else {
            number(v)
        }
    };
    let label_width = y_ticks.iter().map(|v| text_columns(&y_label(*v))).max().unwrap_or(1) as f64 * FONT * CHAR_WIDTH;
    let legend = legend_rows(&series, chart.width - 16.0);
    let top = 30.0 + legend.len() as f64 * LEGEND_ROW + 6.0;
    let (left, right, bottom) = (label_width + 16.0, chart.width - 18.0, chart.height - 40.0);
    let (x_low, x_high) = if chart.x_log {
        (x_low / 1.1, x_high * 1.1)
    } else {
        padded(x_low, x_high, 0.0)
    };
    let x = Scale {
        low: x_low,
        high: x_high,
        from: left,
        to: right,
        log: chart.x_log,
    };
    let (y_low, y_high) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
    let y = Scale {
        low: y_low,
        high: y_high,
        from: bottom,
        to: top,
        log: false,
    };

    let mut svg = open(chart.width, chart.height, &chart.title);
    for tick in &y_ticks {
        let at = y.at(*tick);
        svg += &line("grid", left, at, right, at);
        svg += &text("end", left - 8.0, at + 4.0, &y_label(*tick));
    }
    let x_ticks = if chart.x_log {
        log_ticks(x_low, x_high)
    } else {
        linear_ticks_inside(x_low, x_high, 6)
    };
    for tick in x_ticks {
        let at = x.at(tick);
        svg += &line("axis", at, bottom, at, bottom + 5.0);
        svg += &text("mid", at, bottom + 19.0, &number(tick));
    }
    svg += &line("axis", left, bottom, right, bottom);
    svg += &text(
        "soft mid",
        f64::midpoint(left, right),
        chart.height - 5.0,
        &chart.x_label,
    );
    for s in &series {
        svg += &draw_series(s, &x, &y, chart.smooth);
    }
    svg += &draw_legend(&legend, chart.smooth);
    Some(svg + "</svg>\n")
}

/// Draws one row per value: a mark, and a whisker over its interval, on an axis of percent that starts at 0.
pub fn interval_chart(title: &str, intervals: &[Interval], width: f64) -> String {
    let height = 30.0 + intervals.len() as f64 * 26.0 + 36.0;
    let names = intervals
        .iter()
        .map(|i| text_columns(&i.name))
        .max()
        .unwrap_or(0)
        .min(28);
    let (left, right) = (names as f64 * FONT * CHAR_WIDTH + 20.0, width - 150.0);
    let high = intervals
        .iter()
        .map(|i| i.high.max(i.value))
        .filter(|v| v.is_finite())
        .fold(0.01, f64::max);
    let ticks = linear_ticks(0.0, high.min(1.0), 6);
    let x = Scale {
        low: 0.0,
        high: ticks[ticks.len() - 1],
        from: left,
        to: right,
        log: false,
    };
    let bottom = height - 36.0;
    let mut svg = open(width, height, title);
    for tick in &ticks {
        svg += &line("grid", x.at(*tick), 26.0, x.at(*tick), bottom);
        svg += &text("mid", x.at(*tick), bottom + 18.0, &format!("{}%", number(tick * 100.0)));
    }
    for (row, interval) in intervals.iter().enumerate() {
        let at = 30.0 + 26.0 * row as f64 + 13.0;
        let percent = |v: f64| format!("{:.1}", v * 100.0);
        svg += &text("end", left - 12.0, at + 4.0, &truncate(&interval.name, 28));
        svg += &format!("<g class=\"s{}\">", interval.style % NUM_COLOURS);
        for (x1, y1, x2, y2) in [
            (x.at(interval.low), at, x.at(interval.high), at),
            (x.at(interval.low), at - 5.0, x.at(interval.low), at + 5.0),
            (x.at(interval.high), at - 5.0, x.at(interval.high), at + 5.0),
        ] {
            svg += &line("series", x1, y1, x2, y2);
        }
        svg += &mark(interval.style, x.at(interval.value), at, 5.0);
        svg += "</g>\n";
        let label = format!(
            "{}%  ({} - {})",
            percent(interval.value),
            percent(interval.low),
            percent(interval.high)
        );
        svg += &text("", right + 14.0, at + 4.0, &label);
    }
    svg + "</svg>\n"
}

fn draw_series(series: &Series, x: &Scale, y: &Scale, smooth: bool) -> String {
    let mut svg = format!(
        "<g class=\"s{}\"><title>{}</title>",
        series.style % NUM_COLOURS,
        escape(&series.name)
    );
    let window = smoothing_window(series.points.len());
    let points = if smooth {
        moving_mean(&series.points, window)
    } else {
        series.points.clone()
    };
    if smooth && window > 1 {
        let every = series.points.len().div_ceil(MAX_RAW_POINTS);
        for p in series.points.iter().step_by(every) {
            let (cx, cy) = (coordinate(x.at(p.0)), coordinate(y.at(p.1)));
            svg += &format!("<circle class=\"raw\" cx=\"{cx}\" cy=\"{cy}\" r=\"1.7\"/>");
        }
    }
    let path: Vec<String> = points
        .iter()
        .map(|p| format!("{} {}", coordinate(x.at(p.0)), coordinate(y.at(p.1))))
        .collect();
    let dashes = DASHES[series.style % DASHES.len()];
    svg += &format!(
        "<path class=\"series\" stroke-dasharray=\"{dashes}\" d=\"M{}\"/>",
        path.join("L")
    );
    if !smooth || points.len() == 1 {
        svg.extend(points.iter().map(|p| mark(series.style, x.at(p.0), y.at(p.1), 4.0)));
    }
    svg + "</g>\n"
}

/// A mark whose shape tells series apart: circle, square, triangle, diamond, triangle that points down.
pub(super) fn mark(style: usize, x: f64, y: f64, r: f64) -> String {
    let polygon = |points: &[(f64, f64)]| {
        let points: Vec<String> = points
            .iter()
            .map(|(dx, dy)| format!("{},{}", coordinate(x + dx * r), coordinate(y + dy * r)))
            .collect();
        format!("<polygon class=\"mark\" points=\"{}\"/>", points.join(" "))
    };
    match style % 5 {
        0 => format!(
            "<circle class=\"mark\" cx=\"{}\" cy=\"{}\" r=\"{}\"/>",
            coordinate(x),
            coordinate(y),
            coordinate(r)
        ),
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
        3 => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        _ => polygon(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
    }
}

/// Distributes the legend's entries over rows: (x, series) in each.
pub(super) fn legend_rows(series: &[Series], width: f64) -> Vec<Vec<(f64, Series)>> {
    let mut rows: Vec<Vec<(f64, Series)>> = Vec::new();
    let mut used = f64::INFINITY;
    for s in series {
        let entry = 34.0 + text_columns(&s.name) as f64 * FONT * CHAR_WIDTH + 14.0;
        if used + entry > width {
            rows.push(Vec::new());
            used = 10.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((used, s.clone()));
        }
        used += entry;
    }
    rows
}

pub(super) fn draw_legend(rows: &[Vec<(f64, Series)>], smooth: bool) -> String {
    let mut svg = String::new();
    for (row, entries) in rows.iter().enumerate() {
        let y = 30.0 + LEGEND_ROW * row as f64 + 6.0;
        for (x, s) in entries {
            svg += &format!("<g class=\"s{}\">", s.style % NUM_COLOURS);
            let (from, to, at) = (coordinate(*x), coordinate(x + 26.0), coordinate(y));
            let dashes = DASHES[s.style % DASHES.len()];
            svg += &format!("<path class=\"series\" stroke-dasharray=\"{dashes}\" d=\"M{from} {at}H{to}\"/>");
            if !smooth {
                svg += &mark(s.style, x + 13.0, y, 4.0);
            }
            svg += "</g>";
            svg += &text("", x + 32.0, y + 4.0, &s.name);
        }
    }
    svg
}

pub(super) fn open(width: f64, height: f64, title: &str) -> String {
    let (w, h, title) = (coordinate(width), coordinate(height), escape(title));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"vv\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" \
         role=\"img\" aria-label=\"{title}\">\n<text class=\"head\" x=\"8\" y=\"17\">{title}</text>\n"
    )
}

pub(super) fn line(class: &str, x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(coordinate);
    format!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>\n")
}

pub(super) fn text(class: &str, x: f64, y: f64, content: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n",
        coordinate(x),
        coordinate(y),
        escape(content)
    )
}

pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// Widens a range by a share of itself, and one point to something that can be drawn.
fn padded(low: f64, high: f64, share: f64) -> (f64, f64) {
    if high - low > f64::EPSILON * high.abs().max(low.abs()) {
        let pad = (high - low) * share;
        return (low - pad, high + pad);
    }
    let pad = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
    (low - pad, high + pad)
}

/// Returns about `count` round values whose first and last enclose the range.
pub(super) fn linear_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (low, high) = padded(low, high, 0.0);
    let step = round_step((high - low) / count as f64);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (first..=last.max(first + 1)).map(|i| i as f64 * step).collect()
}

/// Returns about `count` round values inside the range.
fn linear_ticks_inside(low: f64, high: f64, count: usize) -> Vec<f64> {
    let slack = (high - low) * 1e-9;
    linear_ticks(low, high, count)
        .into_iter()
        .filter(|v| *v >= low - slack && *v <= high + slack)
        .collect()
}

/// Returns 1, 2 and 5 times powers of ten inside the range, or the range's ends where it holds fewer than two.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power)));
    let ticks: Vec<f64> = all.filter(|v| (low..=high).contains(v)).collect();
    if ticks.len() < 2 { vec![low, high] } else { ticks }
}

fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|f| f * power >= raw * 0.999)
        .unwrap_or(10.0);
    factor * power
}

/// Formats a tick: at most four significant digits, `k` and `M` for thousands and millions, powers for tiny values.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if size > 0.0 && size < 1e-3 {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{scaled:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chart(smooth: bool, x_log: bool) -> LineChart {
        let (title, x_label) = ("loss <x>".to_owned(), "step".to_owned());
        LineChart {
            title,
            x_label,
            width: 500.0,
            height: 280.0,
            x_log,
            y_percent: false,
            smooth,
        }
    }

    fn series(points: Vec<(f64, f64)>) -> Series {
        Series {
            name: "search & SFT".into(),
            style: 2,
            points,
        }
    }

    #[test]
    fn ticks_are_round_and_enclose_the_range() {
        assert_eq!(
            linear_ticks(0.0, 0.53, 6),
            [0.0, 0.1, 0.2, 0.30000000000000004, 0.4, 0.5, 0.6000000000000001]
        );
        assert_eq!(linear_ticks(3.0, 3.0, 5), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(log_ticks(9.0, 250.0), [10.0, 20.0, 50.0, 100.0, 200.0]);
        let labels = [0.30000000000000004, 12_000.0, -0.0, 2.5e-4, 1e-4].map(number);
        assert_eq!(labels, ["0.3", "12k", "0", "2.5e-4", "1e-4"]);
    }

    #[test]
    fn the_moving_mean_is_centred() {
        let points = [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0), (3.0, 0.0)];
        assert_eq!(
            moving_mean(&points, 3),
            [(0.0, 1.5), (1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]
        );
        assert_eq!(moving_mean(&points, 1), points);
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        assert_eq!(
            line_chart(&chart(true, false), &[series(vec![]), series(vec![(1.0, f64::NAN)])]),
            None
        );
        assert_eq!(line_chart(&chart(false, true), &[series(vec![(0.0, 1.0)])]), None);
    }

    #[test]
    fn names_are_escaped() {
        let svg = line_chart(&chart(true, false), &[series(vec![(0.0, 1.0), (1.0, 2.0)])]).expect("two points");
        assert!(svg.contains("loss &lt;x&gt;") && svg.contains("search &amp; SFT") && !svg.contains("<x>"));
    }

    /// Every number of a path or a mark, as x and y in turn.
    fn coordinates(svg: &str) -> Vec<(f64, f64)> {
        let path = regex::Regex::new(r"[ML](-?[\d.]+) (-?[\d.]+)|cx=.(-?[\d.]+). cy=.(-?[\d.]+).").expect("a pattern");
        let number = |m: regex::Match| m.as_str().parse().expect("a number");
        path.captures_iter(svg)
            .filter_map(|c| Some((number(c.get(1).or(c.get(3))?), number(c.get(2).or(c.get(4))?))))
            .collect()
    }

    proptest! {
        #[test]
        fn all_points_lie_on_the_paper(
            points in proptest::collection::vec((0.0..1e5f64, -1e4..1e4f64), 1..80), smooth: bool, x_log: bool,
        ) {
            if let Some(svg) = line_chart(&chart(smooth, x_log), &[series(points)]) {
                for (x, y) in coordinates(&svg) {
                    prop_assert!((0.0..=500.0).contains(&x) && (0.0..=280.0).contains(&y), "{x} {y}");
                }
            }
        }
    }
}
