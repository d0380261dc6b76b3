//! Which box stands in which layer, and in which order: the first two steps of Sugiyama's method.
//!
//! Boxes stand in even ranks, each below everything that it depends on. A link has a vertex in every rank that it
//! passes, so that it takes its place in the order like a box and nothing stands in its way; one of these vertices, in
//! an odd rank, is as large as the link's label. Knows sizes, not what is in them.

use std::cmp::Reverse;

/// A width and a height.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Size {
    pub width: f64,
    pub height: f64,
}

/// A link from one box to a later one, and the size of its label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wire {
    pub from: usize,
    pub to: usize,
    pub label: Size,
}

/// Something that takes room in a rank.
#[derive(Debug, Clone)]
pub struct Vertex {
    pub rank: usize,
    pub size: Size,
    /// Whether it is a link on its way, not a box.
    pub is_passing: bool,
}

/// Boxes and passing links in ranks, from left to right.
pub struct Layers {
    /// The boxes first, with their own indices.
    pub vertices: Vec<Vertex>,
    /// From top to bottom.
    pub ranks: Vec<Vec<usize>>,
    /// For each vertex its neighbours in the rank above.
    pub above: Vec<Vec<usize>>,
    /// For each vertex its neighbours in the rank below.
    pub below: Vec<Vec<usize>>,
    /// For each link the vertices that it passes, from top to bottom, and which of them holds the label.
    pub routes: Vec<Route>,
}

/// The way of a link.
pub struct Route {
    pub passing: Vec<usize>,
    /// Index into `passing`.
    pub label: usize,
}

/// How often the order is improved downwards and upwards.
const SWEEPS: usize = 16;
/// From how many orders it is tried, and how many vertices times attempts are worth the time.
const ATTEMPTS: usize = 24;
const MAX_EFFORT: usize = 6000;

impl Layers {
    /// Puts boxes and links in ranks; each link must lead to a later box.
    pub fn new(sizes: &[Size], wires: &[Wire]) -> Layers {
        let ranks = box_ranks(sizes.len(), wires);
        let boxes = sizes.iter().zip(&ranks).map(|(&size, &rank)| Vertex {
            rank,
            size,
            is_passing: false,
        });
        let mut layers = Layers {
            vertices: boxes.collect(),
            ranks: Vec::new(),
            above: vec![Vec::new(); sizes.len()],
            below: vec![Vec::new(); sizes.len()],
            routes: Vec::with_capacity(wires.len()),
        };
        let num_from = |idx: usize| wires.iter().filter(|wire| wire.from == idx).count();
        let num_to = |idx: usize| wires.iter().filter(|wire| wire.to == idx).count();
        for wire in wires {
            // The label stands at the end where the fewer links meet.
            let is_at_end = num_to(wire.to) <= num_from(wire.from);
            layers.add_route(wire, is_at_end);
        }
        layers.ranks = vec![Vec::new(); ranks.iter().max().map_or(0, |max| max + 1)];
        layers.order();
        layers
    }

    fn add_route(&mut self, wire: &Wire, is_at_end: bool) {
        let (first, last) = (self.vertices[wire.from].rank + 1, self.vertices[wire.to].rank);
        let mut route = Route {
            passing: Vec::new(),
            label: if is_at_end { last - first - 1 } else { 0 },
        };
        let mut before = wire.from;
        for rank in first..last {
            let vertex = self.vertices.len();
            let is_label = route.passing.len() == route.label;
            self.vertices.push(Vertex {
                rank,
                size: if is_label { wire.label } else { Size::default() },
                is_passing: true,
            });
            self.above.push(vec![before]);
            self.below.push(Vec::new());
            self.below[before].push(vertex);
            route.passing.push(vertex);
            before = vertex;
        }
        self.below[before].push(wire.to);
        self.above[wire.to].push(before);
        self.routes.push(route);
    }

    /// Orders every rank so that few links cross, by the means of the neighbours' places.
    fn order(&mut self) {
        // Where a sweep ends depends on where it starts, so it is tried from several orders, always the same ones.
        let mut best = (usize::MAX, Vec::new());
        let attempts = (MAX_EFFORT / self.vertices.len().max(1)).clamp(1, ATTEMPTS);
        for attempt in 0..attempts {
            self.first_order(attempt as u64);
            for sweep in 0..SWEEPS {
                let crossings = self.num_crossings();
                if crossings < best.0 {
                    best = (crossings, self.ranks.clone());
                }
                if best.0 == 0 {
                    break;
                }
                let place = self.places();
                self.sweep(sweep % 2 == attempt / 2 % 2, place);
                self.swap_neighbours();
            }
        }
        self.ranks = best.1;
    }

    /// Puts vertices in the order in which a walk from the first boxes meets them; `attempt` says which way it turns.
    fn first_order(&mut self, attempt: u64) {
        self.ranks.iter_mut().for_each(Vec::clear);
        let mut is_met = vec![false; self.vertices.len()];
        let mut roots: Vec<usize> = (0..self.vertices.len()).filter(|&v| self.above[v].is_empty()).collect();
        roots.sort_by_key(|&v| (self.vertices[v].rank, v));
        for root in roots {
            let mut stack = vec![root];
            while let Some(v) = stack.pop() {
                if std::mem::replace(&mut is_met[v], true) {
                    continue;
                }
                self.ranks[self.vertices[v].rank].push(v);
                let mut below = self.below[v].clone();
                // The first walk keeps the order of the pipeline.
                if attempt > 0 {
                    below.sort_by_key(|&w| scrambled(w as u64 ^ attempt << 32));
                }
                stack.extend(below.iter().rev());
            }
        }
    }

    fn places(&self) -> Vec<usize> {
        let mut place = vec![0; self.vertices.len()];
        for rank in &self.ranks {
            rank.iter().enumerate().for_each(|(idx, &v)| place[v] = idx);
        }
        place
    }

    fn sweep(&mut self, is_down: bool, mut place: Vec<usize>) {
        let num = self.ranks.len();
        for step in 1..num {
            let rank = if is_down { step } else { num - 1 - step };
            let neighbours = if is_down { &self.above } else { &self.below };
            let mean = |v: usize| {
                let around = &neighbours[v];
                match around.len() {
                    0 => place[v] as f64,
                    num => around.iter().map(|&w| place[w]).sum::<usize>() as f64 / num as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = self.ranks[rank].iter().map(|&v| (mean(v), v)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.ranks[rank] = keyed.into_iter().map(|(_, v)| v).collect();
            self.ranks[rank].iter().enumerate().for_each(|(idx, &v)| place[v] = idx);
        }
    }

    /// Swaps neighbours as long as that saves crossings.
    fn swap_neighbours(&mut self) {
        let mut place = self.places();
        let mut has_changed = true;
        let mut rounds = 0;
        while has_changed && rounds < 8 {
            has_changed = false;
            rounds += 1;
            for rank in 0..self.ranks.len() {
                for idx in 1..self.ranks[rank].len() {
                    let (left, right) = (self.ranks[rank][idx - 1], self.ranks[rank][idx]);
                    if self.crossings_of(right, left, &place) < self.crossings_of(left, right, &place) {
                        self.ranks[rank].swap(idx - 1, idx);
                        (place[left], place[right]) = (idx, idx - 1);
                        has_changed = true;
                    }
                }
            }
        }
    }

    /// Returns how often links of two neighbours cross if they stand in this order.
    fn crossings_of(&self, left: usize, right: usize, place: &[usize]) -> usize {
        [&self.above, &self.below]
            .iter()
            .map(|neighbours| {
                let pairs = neighbours[left]
                    .iter()
                    .flat_map(|a| neighbours[right].iter().map(move |b| (a, b)));
                pairs.filter(|(a, b)| place[**a] > place[**b]).count()
            })
            .sum()
    }

    /// Returns how many pairs of links cross between neighbouring ranks.
    pub fn num_crossings(&self) -> usize {
        let place = self.places();
        let between = |rank: &Vec<usize>| {
            // In the order of their upper ends, two links cross where the lower ends are the other way round.
            let mut ends: Vec<(usize, usize)> = Vec::new();
            for &v in rank {
                ends.extend(self.below[v].iter().map(|&w| (place[v], place[w])));
            }
            ends.sort_unstable();
            inversions(&ends.iter().map(|end| end.1).collect::<Vec<_>>())
        };
        self.ranks.iter().map(between).sum()
    }
}

/// Returns a number that looks random, always the same one for the same input (the last step of MurmurHash3).
fn scrambled(number: u64) -> u64 {
    let mut mixed = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

/// Counts the pairs that are out of order, with sums over prefixes kept in a binary tree.
fn inversions(values: &[usize]) -> usize {
    let mut sums = vec![0usize; values.iter().max().map_or(0, |max| max + 2)];
    let mut total = 0;
    for (num_before, &value) in values.iter().enumerate() {
        let (mut not_larger, mut at) = (0, value + 1);
        while at > 0 {
            not_larger += sums[at];
            at &= at - 1;
        }
        total += num_before - not_larger;
        let mut at = value + 1;
        while at < sums.len() {
            sums[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    total
}

/// Returns an even rank for each box: as high as its inputs allow, and lower where that makes its links shorter.
fn box_ranks(num: usize, wires: &[Wire]) -> Vec<usize> {
    let mut rank = vec![0usize; num];
    let mut sorted: Vec<&Wire> = wires.iter().collect();
    sorted.sort_by_key(|wire| (wire.from, wire.to));
    for wire in &sorted {
        rank[wire.to] = rank[wire.to].max(rank[wire.from] + 2);
    }
    sorted.sort_by_key(|wire| Reverse(wire.from));
    for group in sorted.chunk_by(|a, b| a.from == b.from) {
        let from = group[0].from;
        let num_inputs = wires.iter().filter(|wire| wire.to == from).count();
        let lowest = group.iter().map(|wire| rank[wire.to] - 2).min().unwrap_or(rank[from]);
        if group.len() > num_inputs {
            rank[from] = lowest;
        }
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(from: usize, to: usize) -> Wire {
        let label = Size {
            width: 10.0,
            height: 4.0,
        };
        Wire { from, to, label }
    }

    #[test]
    fn a_box_stands_below_all_it_depends_on_and_a_source_close_to_its_reader() {
        let layers = Layers::new(&[Size::default(); 4], &[wire(0, 1), wire(1, 3), wire(0, 3), wire(2, 3)]);
        let ranks: Vec<usize> = (0..4).map(|v| layers.vertices[v].rank).collect();
        assert_eq!(ranks, [0, 2, 2, 4]);
        assert_eq!(layers.routes[2].passing.len(), 3);
    }

    #[test]
    fn links_that_need_not_cross_do_not() {
        let layers = Layers::new(&[Size::default(); 6], &[wire(0, 5), wire(1, 4), wire(2, 3)]);
        assert_eq!(layers.num_crossings(), 0);
    }

    #[test]
    fn pairs_out_of_order_are_counted() {
        assert_eq!(inversions(&[0, 1, 2, 2]), 0);
        assert_eq!(inversions(&[3, 2, 1, 0]), 6);
        assert_eq!(inversions(&[1, 0, 1, 0]), 3);
        assert_eq!(inversions(&[]), 0);
    }
}
