//! Where boxes, links and labels go: layers from top to bottom, links as smooth lines around everything else.
//!
//! A link crosses a rank of boxes only at the place that it was given there, upright; it bends only between ranks,
//! where nothing stands. So no line runs through a box. Knows rectangles and lines, not what they mean; the same input
//! gives the same drawing.

use super::layers::{Layers, Size, Wire};
use super::place::{middles, spread};

/// Room between neighbours in a rank.
const GAP_X: f64 = 22.0;
/// Room between ranks where links hardly bend, and where they bend most.
const GAP_Y: (f64, f64) = (15.0, 60.0);
/// How much room a bend takes, as a share of how far it leads aside.
const BEND: f64 = 0.15;
/// How long a line is upright before it meets its last box, so that an arrow points down.
const STUB: f64 = 8.0;
/// How far the ends of links at one box are apart, and from its corners.
const PORT_GAP: f64 = 16.0;
const PORT_INSET: f64 = 14.0;

/// A rectangle on the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    pub fn bottom(&self) -> f64 {
        self.y + self.height
    }
}

/// A point on the paper.
pub type Point = (f64, f64);

/// A link on the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Where it begins, bends and ends: between two points it is upright, or a smooth bend that is upright at both.
    pub points: Vec<Point>,
    /// Where its label goes.
    pub label: Rect,
}

/// Everything that is drawn, at or right of and below (0, 0).
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// In the order of the sizes.
    pub boxes: Vec<Rect>,
    /// In the order of the wires.
    pub lines: Vec<Line>,
    pub width: f64,
    pub height: f64,
}

/// The upper and lower edge of a rank.
#[derive(Clone, Copy)]
struct Band {
    top: f64,
    bottom: f64,
}

/// Lays out boxes of these sizes; each wire must lead to a later box.
pub fn lay_out(sizes: &[Size], wires: &[Wire]) -> Layout {
    let layers = Layers::new(sizes, wires);
    let x = middles(&layers, GAP_X);
    let (starts, ends) = ports(&layers, wires, &x);
    let bands = bands(&layers, &x, &starts, &ends);
    let rect = |v: usize| {
        let vertex = &layers.vertices[v];
        let band = bands[vertex.rank];
        Rect {
            x: x[v] - vertex.size.width / 2.0,
            y: f64::midpoint(band.top, band.bottom) - vertex.size.height / 2.0,
            width: vertex.size.width,
            height: vertex.size.height,
        }
    };
    let boxes: Vec<Rect> = (0..sizes.len()).map(rect).collect();
    let lines = wires.iter().enumerate().map(|(idx, wire)| {
        let route = &layers.routes[idx];
        let (from, to) = (&boxes[wire.from], &boxes[wire.to]);
        let mut points = vec![(starts[idx], from.bottom())];
        points.push((starts[idx], bands[layers.vertices[wire.from].rank].bottom));
        for &v in &route.passing {
            let band = bands[layers.vertices[v].rank];
            points.extend([(x[v], band.top), (x[v], band.bottom)]);
        }
        points.push((ends[idx], bands[layers.vertices[wire.to].rank].top - STUB));
        points.push((ends[idx], to.y));
        points.dedup();
        Line {
            points,
            label: rect(route.passing[route.label]),
        }
    });
    let reach = layers
        .vertices
        .iter()
        .zip(&x)
        .map(|(vertex, x)| x + vertex.size.width / 2.0);
    Layout {
        lines: lines.collect(),
        width: reach.fold(0.0, f64::max),
        height: bands.last().map_or(0.0, |band| band.bottom),
        boxes,
    }
}

/// Returns where on the lower edge of its first and the upper edge of its last box each link begins and ends: straight
/// below or above where it goes on, as far as the box is wide and other links leave room.
fn ports(layers: &Layers, wires: &[Wire], x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut ends = [vec![0.0; wires.len()], vec![0.0; wires.len()]];
    for (side, ends) in ends.iter_mut().enumerate() {
        let box_of = |wire: &Wire| if side == 0 { wire.from } else { wire.to };
        let mut at_box: Vec<Vec<(f64, usize)>> = vec![Vec::new(); layers.vertices.len()];
        for (idx, wire) in wires.iter().enumerate() {
            let passing = &layers.routes[idx].passing;
            let next = if side == 0 { passing.first() } else { passing.last() };
            at_box[box_of(wire)].extend(next.map(|&v| (x[v], idx)));
        }
        for (v, mut links) in at_box.into_iter().enumerate() {
            links.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let wished: Vec<f64> = links.iter().map(|link| link.0).collect();
            let half = (layers.vertices[v].size.width / 2.0 - PORT_INSET).max(0.0);
            let places = spread(&wished, PORT_GAP, x[v] - half, x[v] + half);
            links
                .iter()
                .zip(places)
                .for_each(|((_, idx), place)| ends[*idx] = place);
        }
    }
    let [starts, ends] = ends;
    (starts, ends)
}

/// Returns the heights of the ranks, with more room between two where links lead far aside.
fn bands(layers: &Layers, x: &[f64], starts: &[f64], ends: &[f64]) -> Vec<Band> {
    let mut aside = vec![0.0f64; layers.ranks.len()];
    for (idx, route) in layers.routes.iter().enumerate() {
        let mut before = starts[idx];
        for &v in &route.passing {
            let rank = layers.vertices[v].rank;
            aside[rank] = aside[rank].max((x[v] - before).abs());
            before = x[v];
        }
        let last = route.passing.last().map_or(0, |&v| layers.vertices[v].rank + 1);
        aside[last] = aside[last].max((ends[idx] - before).abs());
    }
    let mut top = 0.0;
    let has_boxes = |members: &[usize]| members.iter().any(|&v| !layers.vertices[v].is_passing);
    let mut bands = Vec::with_capacity(layers.ranks.len());
    for (rank, members) in layers.ranks.iter().enumerate() {
        if rank > 0 {
            top += (aside[rank] * BEND).clamp(GAP_Y.0, GAP_Y.1);
            top += if has_boxes(members) { STUB } else { 0.0 };
        }
        let height = members
            .iter()
            .map(|&v| layers.vertices[v].size.height)
            .fold(0.0, f64::max);
        let bottom = top + height;
        bands.push(Band { top, bottom });
        top = bottom;
    }
    bands
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(width: f64, height: f64) -> Size {
        Size { width, height }
    }

    impl Rect {
        fn right(&self) -> f64 {
            self.x + self.width
        }
    }

    fn is_apart(a: &Rect, b: &Rect) -> bool {
        let e = 1e-6;
        a.right() <= b.x + e || b.right() <= a.x + e || a.bottom() <= b.y + e || b.bottom() <= a.y + e
    }

    /// Returns points of a line, close together, as the drawing bends it.
    fn sampled(line: &Line) -> Vec<Point> {
        let mut all = Vec::new();
        for pair in line.points.windows(2) {
            let ((x1, y1), (x2, y2)) = (pair[0], pair[1]);
            let middle = f64::midpoint(y1, y2);
            for step in 0..=24 {
                let t = f64::from(step) / 24.0;
                let s = 1.0 - t;
                let weights = [s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t];
                let bend = |c: [f64; 4]| c.iter().zip(weights).map(|(c, w)| c * w).sum();
                all.push((bend([x1, x1, x2, x2]), bend([y1, middle, middle, y2])));
            }
        }
        all
    }

    fn is_inside(rect: &Rect, (x, y): Point) -> bool {
        let e = 1e-6;
        x > rect.x + e && x < rect.right() - e && y > rect.y + e && y < rect.bottom() - e
    }

    #[test]
    fn a_chain_is_one_straight_line() {
        let wire = |from, to| Wire {
            from,
            to,
            label: size(30.0, 10.0),
        };
        let layout = lay_out(
            &[size(50.0, 20.0), size(80.0, 20.0), size(40.0, 20.0)],
            &[wire(0, 1), wire(1, 2)],
        );
        let columns: Vec<f64> = layout
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.0)
            .collect();
        assert!(columns.iter().all(|x| (x - 40.0).abs() < 1e-9), "{columns:?}");
        assert_eq!(layout.width, 80.0);
    }

    #[test]
    fn nothing_takes_no_room() {
        let layout = lay_out(&[], &[]);
        assert_eq!((layout.width, layout.height, layout.boxes.len()), (0.0, 0.0, 0));
    }

    proptest! {
        // One layout is worth hundreds of comparisons, and takes as long.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn boxes_and_labels_stay_apart_and_lines_end_at_their_boxes_and_run_through_nothing(
            sizes in proptest::collection::vec((10.0..200.0f64, 8.0..70.0f64), 1..16),
            links in proptest::collection::vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), 0.0..120.0f64), 0..32),
        ) {
            let sizes: Vec<Size> = sizes.iter().map(|&(width, height)| size(width, height)).collect();
            let mut wires: Vec<Wire> = Vec::new();
            for (a, b, width) in &links {
                let (a, b) = (a.index(sizes.len()), b.index(sizes.len()));
                let (from, to) = (a.min(b), a.max(b));
                if from < to && !wires.iter().any(|wire| (wire.from, wire.to) == (from, to)) {
                    wires.push(Wire { from, to, label: size(*width, 12.0) });
                }
            }
            let layout = lay_out(&sizes, &wires);
            let rects: Vec<&Rect> = layout.boxes.iter().chain(layout.lines.iter().map(|line| &line.label)).collect();
            for (idx, a) in rects.iter().enumerate() {
                prop_assert!(a.x >= -1e-6 && a.y >= -1e-6 && a.right() <= layout.width + 1e-6 && a.bottom() <= layout.height + 1e-6);
                for b in &rects[idx + 1..] {
                    prop_assert!(is_apart(a, b), "{a:?} {b:?}");
                }
            }
            for (line, wire) in layout.lines.iter().zip(&wires) {
                let (from, to) = (&layout.boxes[wire.from], &layout.boxes[wire.to]);
                let (start, end) = (line.points[0], line.points[line.points.len() - 1]);
                prop_assert!(start.1 == from.bottom() && start.0 >= from.x && start.0 <= from.right());
                prop_assert!(end.1 == to.y && end.0 >= to.x && end.0 <= to.right());
                prop_assert!(line.points.windows(2).all(|pair| pair[0].1 <= pair[1].1 + 1e-6));
                let points = sampled(line);
                for rect in &layout.boxes {
                    prop_assert!(!points.iter().any(|&point| is_inside(rect, point)), "{line:?} through {rect:?}");
                }
                let others = layout.lines.iter().map(|other| &other.label).filter(|label| **label != line.label);
                for label in others {
                    prop_assert!(!points.iter().any(|&point| is_inside(label, point)), "{line:?} through {label:?}");
                }
            }
            prop_assert_eq!(layout, lay_out(&sizes, &wires));
        }
    }
}
