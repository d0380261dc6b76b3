//! Where the nodes of a tree go: top-down in layers, each parent above the middle of its children, as narrow as the
//! boxes allow.
//!
//! The contour method of Reingold and Tilford (1981), without its even spreading of inner subtrees. Knows rectangles,
//! not what is in them.

/// A rectangle on the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    pub fn center_x(&self) -> f64 {
        self.x + self.width / 2.0
    }

    pub fn right(&self) -> f64 {
        self.x + self.width
    }

    pub fn bottom(&self) -> f64 {
        self.y + self.height
    }

    /// Tells whether two rectangles share some area.
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.x < other.right() && other.x < self.right() && self.y < other.bottom() && other.y < self.bottom()
    }
}

/// Boxes with their upper left corner at or right of and below (0, 0), and the size of all.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeLayout {
    pub boxes: Vec<Rect>,
    pub width: f64,
    pub height: f64,
}

/// The outline of a subtree: for each depth below its root, how far it reaches left and right of the root's middle.
struct Contour {
    left: Vec<f64>,
    right: Vec<f64>,
}

/// Lays out a tree: `parents[i] < i` for all but the root, node 0; `sizes` are width and height.
///
/// Siblings keep their order. `gap_x` is left between neighbours in a layer, `gap_y` between layers.
pub fn tidy_tree(parents: &[Option<usize>], sizes: &[(f64, f64)], gap_x: f64, gap_y: f64) -> TreeLayout {
    let n = parents.len();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut depth = vec![0usize; n];
    for (id, parent) in parents.iter().enumerate() {
        if let Some(parent) = *parent {
            children[parent].push(id);
            depth[id] = depth[parent] + 1;
        }
    }
    // Bottom up: children come after their parents, so going backwards meets every child before its parent.
    let mut offset = vec![0.0; n];
    let mut contours: Vec<Option<Contour>> = (0..n).map(|_| None).collect();
    for id in (0..n).rev() {
        let parts: Vec<Contour> = children[id]
            .iter()
            .filter_map(|child| contours[*child].take())
            .collect();
        let (shifts, contour) = place_side_by_side(parts, sizes[id].0, gap_x);
        for (child, shift) in children[id].iter().zip(shifts) {
            offset[*child] = shift;
        }
        contours[id] = Some(contour);
    }
    let layer_y = layer_tops(&depth, sizes, gap_y);
    let mut center = vec![0.0; n];
    for id in 0..n {
        center[id] = parents[id].map_or(0.0, |parent| center[parent]) + offset[id];
    }
    let leftmost = (0..n)
        .map(|id| center[id] - sizes[id].0 / 2.0)
        .fold(f64::INFINITY, f64::min);
    let boxes: Vec<Rect> = (0..n)
        .map(|id| {
            let (width, height) = sizes[id];
            Rect {
                x: center[id] - width / 2.0 - leftmost,
                y: layer_y[depth[id]],
                width,
                height,
            }
        })
        .collect();
    TreeLayout {
        width: boxes.iter().map(Rect::right).fold(0.0, f64::max),
        height: boxes.iter().map(Rect::bottom).fold(0.0, f64::max),
        boxes,
    }
}

/// Puts subtrees beside each other under a parent of this width: each child's shift, and the whole outline.
fn place_side_by_side(parts: Vec<Contour>, width: f64, gap: f64) -> (Vec<f64>, Contour) {
    let mut shifts: Vec<f64> = Vec::new();
    let mut all = Contour {
        left: Vec::new(),
        right: Vec::new(),
    };
    for part in &parts {
        let shared = all.right.iter().zip(&part.left);
        let shift = shared
            .map(|(right, left)| right - left + gap)
            .fold(f64::NEG_INFINITY, f64::max);
        let shift = if shifts.is_empty() { 0.0 } else { shift };
        for (depth, (left, right)) in part.left.iter().zip(&part.right).enumerate() {
            match all.right.get_mut(depth) {
                Some(reach) => *reach = right + shift,
                None => {
                    all.left.push(left + shift);
                    all.right.push(right + shift);
                }
            }
        }
        shifts.push(shift);
    }
    let middle = f64::midpoint(
        shifts.first().copied().unwrap_or(0.0),
        shifts.last().copied().unwrap_or(0.0),
    );
    let own = |reach: f64, below: &[f64]| std::iter::once(reach).chain(below.iter().map(|x| x - middle)).collect();
    let contour = Contour {
        left: own(-width / 2.0, &all.left),
        right: own(width / 2.0, &all.right),
    };
    (shifts.into_iter().map(|shift| shift - middle).collect(), contour)
}

fn layer_tops(depth: &[usize], sizes: &[(f64, f64)], gap_y: f64) -> Vec<f64> {
    let mut heights = vec![0.0f64; depth.iter().max().map_or(0, |max| max + 1)];
    for (depth, size) in depth.iter().zip(sizes) {
        heights[*depth] = heights[*depth].max(size.1);
    }
    let mut top = 0.0;
    let mut tops = Vec::with_capacity(heights.len());
    for height in heights {
        tops.push(top);
        top += height + gap_y;
    }
    tops
}

/// Asserts that no two boxes share area and that all lie within the paper.
#[cfg(test)]
pub fn assert_apart_and_inside(boxes: &[Rect], width: f64, height: f64) {
    for (i, a) in boxes.iter().enumerate() {
        assert!(
            a.x >= -1e-6 && a.y >= -1e-6 && a.right() <= width + 1e-6 && a.bottom() <= height + 1e-6,
            "{a:?}"
        );
        for b in &boxes[i + 1..] {
            let shrunk = Rect {
                x: b.x + 1e-6,
                y: b.y + 1e-6,
                width: b.width - 2e-6,
                height: b.height - 2e-6,
            };
            assert!(!a.overlaps(&shrunk), "{a:?} {b:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_parent_stands_over_the_middle_of_its_children() {
        let layout = tidy_tree(&[None, Some(0), Some(0), Some(0)], &[(10.0, 10.0); 4], 6.0, 20.0);
        let centers: Vec<f64> = layout.boxes.iter().map(Rect::center_x).collect();
        assert_eq!(centers, [21.0, 5.0, 21.0, 37.0]);
        assert_eq!((layout.width, layout.height), (42.0, 40.0));
    }

    #[test]
    fn a_small_subtree_fits_under_a_wide_neighbour() {
        // 1 has one leaf, 2 has three: 2's left leaf may come closer to 1's than two full subtrees would.
        let parents = [None, Some(0), Some(0), Some(1), Some(2), Some(2), Some(2)];
        let layout = tidy_tree(&parents, &[(10.0, 10.0); 7], 6.0, 20.0);
        assert_apart_and_inside(&layout.boxes, layout.width, layout.height);
        assert_eq!(layout.width, 4.0 * 10.0 + 3.0 * 6.0);
    }

    #[test]
    fn no_nodes_take_no_room() {
        assert_eq!(
            tidy_tree(&[], &[], 1.0, 1.0),
            TreeLayout {
                boxes: vec![],
                width: 0.0,
                height: 0.0
            }
        );
    }

    proptest! {
        #[test]
        fn no_two_boxes_overlap(
            nodes in proptest::collection::vec((any::<proptest::sample::Index>(), 5.0..90.0f64, 5.0..60.0f64), 1..300),
        ) {
            let parents: Vec<Option<usize>> =
                nodes.iter().enumerate().map(|(id, node)| (id > 0).then(|| node.0.index(id.max(1)))).collect();
            let sizes: Vec<(f64, f64)> = nodes.iter().map(|node| (node.1, node.2)).collect();
            let layout = tidy_tree(&parents, &sizes, 8.0, 20.0);
            assert_apart_and_inside(&layout.boxes, layout.width, layout.height);
            for (id, parent) in parents.iter().enumerate() {
                if let Some(parent) = parent {
                    prop_assert!(layout.boxes[*parent].bottom() < layout.boxes[id].y);
                }
            }
        }
    }
}
