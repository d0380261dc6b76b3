//! Scatter plots as SVG, in the style of `chart`: two quantities of the same checkpoints, in the order of training.
//!
//! Points of a series are joined by a faint line in their order, so that a reader sees the way that training took.

use super::chart::{self, CHAR, Scale, Series};
use super::markup::{coordinate, escape};

/// One checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// Shown beside the point; may be empty.
    pub label: String,
}

/// The points of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Cloud {
    pub name: String,
    /// As [`Series::style`].
    pub style: usize,
    pub points: Vec<Point>,
}

/// What a scatter plot looks like; y is a share, shown in percent.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    pub title: String,
    pub x_label: String,
    pub width: f64,
    pub height: f64,
}

/// More labels than this on one plot would lie on each other; then the first and the last of a series have one.
const MAX_LABELS: usize = 12;

/// Draws clouds over common axes; `None` if there is no point with finite coordinates.
pub fn scatter(plot: &Scatter, clouds: &[Cloud]) -> Option<String> {
    let usable = |p: &&Point| p.x.is_finite() && p.y.is_finite();
    let clouds: Vec<Cloud> = clouds
        .iter()
        .map(|cloud| Cloud {
            points: cloud.points.iter().filter(usable).cloned().collect(),
            ..cloud.clone()
        })
        .filter(|cloud| !cloud.points.is_empty())
        .collect();
    let all = || clouds.iter().flat_map(|cloud| &cloud.points);
    let (x_low, x_high) = chart::range(all().map(|p| p.x))?;
    let (y_low, y_high) = chart::range(all().map(|p| p.y))?;
    let (x_ticks, y_ticks) = (
        chart::linear_ticks(x_low, x_high, 6),
        chart::linear_ticks(y_low, y_high, 5),
    );
    let names: Vec<Series> = clouds
        .iter()
        .map(|cloud| Series {
            name: cloud.name.clone(),
            style: cloud.style,
            points: Vec::new(),
        })
        .collect();
    let legend = chart::legend_rows(&names, plot.width - 16.0);
    let top = 30.0 + legend.len() as f64 * chart::LEGEND_ROW + 10.0;
    let (left, right, bottom) = (7.0 * CHAR + 16.0, plot.width - 30.0, plot.height - 40.0);
    let scale = |ticks: &[f64], from: f64, to: f64| Scale {
        low: ticks[0],
        high: ticks[ticks.len() - 1],
        from,
        to,
        log: false,
    };
    let (x, y) = (scale(&x_ticks, left, right), scale(&y_ticks, bottom, top));

    let mut svg = chart::open(plot.width, plot.height, &plot.title);
    for tick in &y_ticks {
        svg += &chart::line("grid", left, y.at(*tick), right, y.at(*tick));
        let label = format!("{}%", chart::number(tick * 100.0));
        svg += &chart::text("end", left - 8.0, y.at(*tick) + 4.0, &label);
    }
    for tick in &x_ticks {
        svg += &chart::line("axis", x.at(*tick), bottom, x.at(*tick), bottom + 5.0);
        svg += &chart::text("mid", x.at(*tick), bottom + 19.0, &chart::number(*tick));
    }
    svg += &chart::line("axis", left, bottom, right, bottom);
    svg += &chart::text("soft mid", f64::midpoint(left, right), plot.height - 5.0, &plot.x_label);
    let label_all = all().count() <= MAX_LABELS;
    for cloud in &clouds {
        svg += &draw_cloud(cloud, &x, &y, label_all);
    }
    svg += &chart::draw_legend(&legend, false);
    Some(svg + "</svg>\n")
}

fn draw_cloud(cloud: &Cloud, x: &Scale, y: &Scale, label_all: bool) -> String {
    let places: Vec<(f64, f64)> = cloud.points.iter().map(|p| (x.at(p.x), y.at(p.y))).collect();
    let way: Vec<String> = places
        .iter()
        .map(|(x, y)| format!("{} {}", coordinate(*x), coordinate(*y)))
        .collect();
    let mut svg = format!(
        "<g class=\"s{}\"><title>{}</title><path class=\"series\" stroke-opacity=\"0.3\" d=\"M{}\"/>",
        cloud.style % chart::NUM_COLOURS,
        escape(&cloud.name),
        way.join("L")
    );
    let last = places.len() - 1;
    for (idx, (point, (x, y))) in cloud.points.iter().zip(&places).enumerate() {
        svg += &chart::mark(cloud.style, *x, *y, 4.5);
        if !point.label.is_empty() && (label_all || idx == 0 || idx == last) {
            svg += &chart::text("soft small", x + 7.0, y - 5.0, &point.label);
        }
    }
    svg + "</g>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(points: &[(f64, f64, &str)]) -> Cloud {
        let point = |(x, y, label): &(f64, f64, &str)| Point {
            x: *x,
            y: *y,
            label: (*label).to_owned(),
        };
        Cloud {
            name: "search <SFT>".into(),
            style: 1,
            points: points.iter().map(point).collect(),
        }
    }

    fn plot() -> Scatter {
        Scatter {
            title: "accuracy".into(),
            x_label: "backtracks".into(),
            width: 500.0,
            height: 300.0,
        }
    }

    #[test]
    fn each_point_has_its_mark_and_label() {
        let svg = scatter(
            &plot(),
            &[cloud(&[(0.5, 0.2, "10"), (1.5, 0.4, "20"), (f64::NAN, 0.1, "x")])],
        )
        .expect("points");
        assert_eq!(svg.matches("class=\"mark\"").count(), 3, "two points and the legend");
        assert!(svg.contains(">10</text>") && svg.contains("search &lt;SFT&gt;") && !svg.contains(">x</text>"));
        assert!(svg.contains("20%") && svg.contains("40%"));
    }

    #[test]
    fn one_point_is_drawn_and_none_is_no_plot() {
        assert!(scatter(&plot(), &[cloud(&[(0.0, 0.0, "")])]).is_some());
        assert_eq!(scatter(&plot(), &[cloud(&[])]), None);
    }
}
