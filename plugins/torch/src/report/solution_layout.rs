//! Where a solution's steps and returns go: a column for each attempt, a row for each depth, and lanes between them.
//!
//! A step that follows from the one before it stays in its column; one that follows a return opens the next column.
//! Edges run in gutters right of columns and in gaps below rows, each on a lane of its own, so that no edge crosses a
//! box and no two lie on each other. Knows rectangles and polylines, not how they look.

use std::collections::BTreeMap;

use super::layout::Rect;
use super::solution::Solution;

/// Room that boxes and lanes take, in pixels.
const GUTTER: f64 = 40.0;
const GUTTER_LANE: f64 = 24.0;
const LANE: f64 = 11.0;
/// Between a box and the nearest lane: room for an arrow head.
const ARROW: f64 = 17.0;
/// Badges sit in the gutter; this is their radius.
pub const BADGE: f64 = 9.0;

/// A line that bends at right angles.
pub type Polyline = Vec<(f64, f64)>;

/// Everything's place, from (0, 0).
#[derive(Debug, Clone, PartialEq)]
pub struct SolutionLayout {
    /// One for each step.
    pub boxes: Vec<Rect>,
    /// From parent to child, for each step but the first.
    pub forward: Vec<Polyline>,
    /// For each move, from its source to its target.
    pub back: Vec<Polyline>,
    /// For each move, the middle of its number.
    pub badges: Vec<(f64, f64)>,
    pub width: f64,
    pub height: f64,
}

/// Lays out a solution whose boxes are all `box_width` wide and as high as `heights` says.
pub fn lay_out(solution: &Solution, box_width: f64, heights: &[f64]) -> SolutionLayout {
    let grid = Grid::of(solution);
    let lanes = Lanes::of(solution, &grid);
    let column_x = grid.column_positions(&lanes, box_width);
    let row_y = grid.row_positions(&lanes, heights);
    let boxes: Vec<Rect> = (0..solution.steps.len())
        .map(|id| Rect {
            x: column_x[grid.column[id]],
            y: row_y[grid.row[id]],
            width: box_width,
            height: heights[id],
        })
        .collect();
    let gap_top = |row: usize| row_y[row] + grid.row_height(row, heights);

    let forward = solution.steps[1..].iter().map(|step| {
        let parent = step.parent.unwrap_or(0);
        let (from, to) = (boxes[parent], boxes[step.id]);
        let (x1, x2) = (from.center_x(), to.center_x());
        if x1 == x2 {
            return vec![(x1, from.bottom()), (x2, to.y)];
        }
        let row = grid.row[parent];
        let lane = gap_top(row) + ARROW + (lanes.back_in_gap(row) + lanes.forward_lane[&parent]) as f64 * LANE;
        vec![(x1, from.bottom()), (x1, lane), (x2, lane), (x2, to.y)]
    });
    let forward: Vec<Polyline> = forward.collect();

    let mut back = Vec::new();
    let mut badges = Vec::new();
    for (idx, m) in solution.moves.iter().enumerate() {
        let (from, to) = (boxes[m.from], boxes[m.to]);
        let gutter = from.right() + GUTTER / 2.0 + lanes.gutter_lane[idx] as f64 * GUTTER_LANE;
        let lane = gap_top(grid.row[m.to]) + ARROW + lanes.gap_lane[idx] as f64 * LANE;
        let (place, count) = lanes.landing[idx];
        let landing = to.x + box_width * (0.6 + 0.34 * (place as f64 + 0.5) / count as f64);
        let start = from.y + from.height / 2.0;
        back.push(vec![
            (from.right(), start),
            (gutter, start),
            (gutter, lane),
            (landing, lane),
            (landing, to.bottom()),
        ]);
        badges.push((gutter, f64::midpoint(start, lane)));
    }
    let lanes_right = |gutter: usize| lanes.in_gutter(gutter).saturating_sub(1) as f64 * GUTTER_LANE + GUTTER;
    let last = grid.num_columns - 1;
    let width = column_x[last]
        + box_width
        + if lanes.in_gutter(last) > 0 {
            lanes_right(last)
        } else {
            0.0
        };
    let last_row = grid.num_rows - 1;
    let below = lanes.back_in_gap(last_row);
    let height = gap_top(last_row) + if below > 0 { ARROW + below as f64 * LANE } else { 0.0 };
    SolutionLayout {
        boxes,
        forward,
        back,
        badges,
        width,
        height,
    }
}

/// Each step's column and row.
struct Grid {
    column: Vec<usize>,
    row: Vec<usize>,
    num_columns: usize,
    num_rows: usize,
}

impl Grid {
    fn of(solution: &Solution) -> Self {
        let (mut column, mut row) = (vec![0], vec![0]);
        let mut num_columns = 1;
        for step in &solution.steps[1..] {
            let parent = step.parent.unwrap_or(0);
            row.push(row[parent] + 1);
            if parent + 1 == step.id {
                column.push(column[parent]);
            } else {
                column.push(num_columns);
                num_columns += 1;
            }
        }
        let num_rows = row.iter().max().map_or(1, |max| max + 1);
        Self {
            column,
            row,
            num_columns,
            num_rows,
        }
    }

    fn row_height(&self, row: usize, heights: &[f64]) -> f64 {
        let in_row = self
            .row
            .iter()
            .zip(heights)
            .filter(|(r, _)| **r == row)
            .map(|(_, height)| *height);
        in_row.fold(0.0, f64::max)
    }

    fn column_positions(&self, lanes: &Lanes, box_width: f64) -> Vec<f64> {
        let mut x = 0.0;
        (0..self.num_columns)
            .map(|column| {
                let here = x;
                x += box_width + GUTTER + lanes.in_gutter(column).saturating_sub(1) as f64 * GUTTER_LANE;
                here
            })
            .collect()
    }

    fn row_positions(&self, lanes: &Lanes, heights: &[f64]) -> Vec<f64> {
        let mut y = 0.0;
        (0..self.num_rows)
            .map(|row| {
                let here = y;
                let num_lanes = lanes.back_in_gap(row) + lanes.forward_in_gap(row);
                y += self.row_height(row, heights) + 2.0 * ARROW + num_lanes.saturating_sub(1) as f64 * LANE;
                here
            })
            .collect()
    }
}

/// Which lane each edge has in the gutters and gaps that it passes.
struct Lanes {
    /// For each move: its lane in the gutter right of its source.
    gutter_lane: Vec<usize>,
    num_in_gutter: BTreeMap<usize, usize>,
    /// For each move: its lane in the gap below its target's row.
    gap_lane: Vec<usize>,
    num_back: BTreeMap<usize, usize>,
    /// For each move: its place among the moves to the same target, from the left, and how many they are.
    landing: Vec<(usize, usize)>,
    /// For each step with a child in another column: the lane of its edges below the returns' lanes.
    forward_lane: BTreeMap<usize, usize>,
    num_forward: BTreeMap<usize, usize>,
}

impl Lanes {
    fn of(solution: &Solution, grid: &Grid) -> Self {
        let count = |counts: &mut BTreeMap<usize, usize>, key: usize| {
            let entry = counts.entry(key).or_insert(0);
            *entry += 1;
            *entry - 1
        };
        let (mut num_in_gutter, mut num_back, mut num_forward) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let gutter_lane = solution
            .moves
            .iter()
            .map(|m| count(&mut num_in_gutter, grid.column[m.from]))
            .collect();
        // The last return comes from furthest right: on the uppermost lane, and landing rightmost, it crosses none.
        let places: Vec<usize> = solution
            .moves
            .iter()
            .map(|m| count(&mut num_back, grid.row[m.to]))
            .collect();
        let gap_lane = solution
            .moves
            .iter()
            .zip(&places)
            .map(|(m, place)| num_back[&grid.row[m.to]] - 1 - place)
            .collect();
        let mut num_landing = BTreeMap::new();
        let landing: Vec<usize> = solution.moves.iter().map(|m| count(&mut num_landing, m.to)).collect();
        let landing = solution
            .moves
            .iter()
            .zip(landing)
            .map(|(m, place)| (place, num_landing[&m.to]))
            .collect();
        let mut forward_lane = BTreeMap::new();
        for step in &solution.steps[1..] {
            let parent = step.parent.unwrap_or(0);
            if grid.column[step.id] != grid.column[parent] && !forward_lane.contains_key(&parent) {
                forward_lane.insert(parent, count(&mut num_forward, grid.row[parent]));
            }
        }
        Self {
            gutter_lane,
            num_in_gutter,
            gap_lane,
            num_back,
            landing,
            forward_lane,
            num_forward,
        }
    }

    fn in_gutter(&self, column: usize) -> usize {
        self.num_in_gutter.get(&column).copied().unwrap_or(0)
    }

    fn back_in_gap(&self, row: usize) -> usize {
        self.num_back.get(&row).copied().unwrap_or(0)
    }

    fn forward_in_gap(&self, row: usize) -> usize {
        self.num_forward.get(&row).copied().unwrap_or(0)
    }
}

/// Solutions of any shape for tests.
#[cfg(test)]
pub mod fixtures {
    use crate::report::solution::{Move, Solution, Step};

    /// Returns a solution from, for each attempt, its number of steps and where on the path the return before it goes.
    pub fn solution(attempts: &[(usize, usize)]) -> Solution {
        let step = |id, parent, terminal| Step {
            id,
            parent,
            text: format!("{id} + 3 = 10 | 4 10 <&>"),
            terminal,
            right: terminal.then_some(false),
            num_positive: id % 2,
            num_negative: id % 3,
        };
        let (mut steps, mut moves) = (vec![step(0, None, false)], Vec::new());
        let mut path = vec![0];
        for (idx, (length, target)) in attempts.iter().enumerate() {
            if idx > 0 {
                let from = path[path.len() - 1];
                path.truncate(target % path.len() + 1);
                let to = path[path.len() - 1];
                let (number, text) = (idx, "Let's go back.".to_owned());
                moves.push(Move {
                    number,
                    from,
                    to,
                    restart: to == 0,
                    uncertain: idx % 3 == 0,
                    text,
                });
            }
            for i in 0..*length {
                let id = steps.len();
                steps.push(step(id, path.last().copied(), i + 1 == *length));
                path.push(id);
            }
        }
        let problem_id = "p".to_owned();
        Solution {
            version: 1,
            problem_id,
            correct: false,
            truncated: false,
            steps,
            moves,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixtures::solution;
    use super::*;
    use crate::report::layout::assert_apart_and_inside;

    fn laid_out(attempts: &[(usize, usize)]) -> SolutionLayout {
        let solution = solution(attempts);
        let heights: Vec<f64> = solution
            .steps
            .iter()
            .map(|step| 30.0 + 14.0 * (step.id % 4) as f64)
            .collect();
        lay_out(&solution, 160.0, &heights)
    }

    /// Asserts that no edge runs through a box: it may touch its own ends only.
    fn assert_edges_avoid_boxes(layout: &SolutionLayout) {
        for line in layout.forward.iter().chain(&layout.back) {
            for part in line.windows(2) {
                let ((x1, y1), (x2, y2)) = (part[0], part[1]);
                let around = Rect {
                    x: x1.min(x2),
                    y: y1.min(y2),
                    width: (x2 - x1).abs(),
                    height: (y2 - y1).abs(),
                };
                for b in &layout.boxes {
                    let inner = Rect {
                        x: b.x + 0.5,
                        y: b.y + 0.5,
                        width: b.width - 1.0,
                        height: b.height - 1.0,
                    };
                    let crosses = around.x < inner.right()
                        && inner.x < around.right()
                        && around.y < inner.bottom()
                        && inner.y < around.bottom();
                    assert!(!crosses, "{part:?} crosses {b:?}");
                }
            }
        }
    }

    #[test]
    fn an_attempt_is_a_column_and_a_depth_a_row() {
        let layout = laid_out(&[(2, 0), (1, 1), (2, 0)]);
        let columns: Vec<f64> = layout.boxes.iter().map(|b| b.x).collect();
        assert_eq!(columns, [0.0, 0.0, 0.0, 200.0, 400.0, 400.0]);
        assert_eq!(layout.boxes[1].y, layout.boxes[4].y);
        assert_eq!((layout.forward.len(), layout.back.len()), (5, 2));
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_is_inside(attempts in proptest::collection::vec((0usize..7, 0usize..9), 1..60)) {
            let layout = laid_out(&attempts);
            assert_apart_and_inside(&layout.boxes, layout.width, layout.height);
            assert_edges_avoid_boxes(&layout);
            for (x, y) in layout.forward.iter().chain(&layout.back).flatten().chain(&layout.badges) {
                prop_assert!(*x >= 0.0 && *x <= layout.width && *y >= 0.0 && *y <= layout.height);
            }
            for (i, a) in layout.badges.iter().enumerate() {
                for b in &layout.badges[i + 1..] {
                    let apart = (a.0 - b.0).hypot(a.1 - b.1);
                    prop_assert!(apart >= 2.0 * BADGE, "{a:?} {b:?}");
                }
                for b in &layout.boxes {
                    let beside = a.0 + BADGE <= b.x || a.0 - BADGE >= b.right();
                    prop_assert!(beside || a.1 + BADGE <= b.y || a.1 - BADGE >= b.bottom(), "{a:?} {b:?}");
                }
            }
        }
    }
}
