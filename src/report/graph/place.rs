//! How far to the right each vertex stands, once its rank has an order: links straight, boxes apart and centred.
//!
//! The method of Brandes and Koepf (2002): vertices are aligned with the median of their neighbours in four ways,
//! each way is packed, and the mean of the two middle places is taken. Links that pass several ranks stay straight.
//! The packing is by longest paths over blocks, as in dagre, which needs none of the corrections of the original.

use std::collections::{BTreeMap, HashSet};

use super::layers::Layers;

/// Returns the middle of each vertex, the leftmost edge being at 0; neighbours in a rank are at least `gap` apart.
pub fn middles(layers: &Layers, gap: f64) -> Vec<f64> {
    let conflicts = conflicts(layers);
    let mut ways: Vec<Vec<f64>> = Vec::new();
    for is_upwards in [false, true] {
        for is_leftwards in [false, true] {
            let mut ranks = layers.ranks.clone();
            if is_upwards {
                ranks.reverse();
            }
            if is_leftwards {
                ranks.iter_mut().for_each(|rank| rank.reverse());
            }
            let neighbours = if is_upwards { &layers.below } else { &layers.above };
            let root = align(&ranks, neighbours, &conflicts);
            let places = pack(layers, &ranks, &root, gap);
            let sign = if is_leftwards { -1.0 } else { 1.0 };
            ways.push(places.into_iter().map(|x| sign * x).collect());
        }
    }
    balance(layers, &mut ways)
}

/// Returns the pairs of neighbours (upper, lower) that must not be aligned: links between boxes that cross a link on
/// its way, which is to stay straight.
fn conflicts(layers: &Layers) -> HashSet<(usize, usize)> {
    let mut place = vec![0; layers.vertices.len()];
    for rank in &layers.ranks {
        rank.iter().enumerate().for_each(|(idx, &v)| place[v] = idx);
    }
    let passing_above = |v: usize| {
        let above = layers.above[v].first().copied();
        above.filter(|&w| layers.vertices[v].is_passing && layers.vertices[w].is_passing)
    };
    let mut found = HashSet::new();
    for pair in layers.ranks.windows(2) {
        let (upper, lower) = (&pair[0], &pair[1]);
        let (mut from, mut scanned) = (0, 0);
        for (idx, &v) in lower.iter().enumerate() {
            let inner = passing_above(v);
            if inner.is_none() && idx + 1 < lower.len() {
                continue;
            }
            let to = inner.map_or(upper.len(), |w| place[w]);
            for &scan in &lower[scanned..=idx] {
                for &w in &layers.above[scan] {
                    let is_inner = layers.vertices[w].is_passing && layers.vertices[scan].is_passing;
                    if (place[w] < from || place[w] > to) && !is_inner {
                        found.insert((w, scan));
                    }
                }
            }
            (from, scanned) = (to, idx + 1);
        }
    }
    found
}

/// Aligns each vertex with a median neighbour in the rank before; returns for each the first of its block.
fn align(ranks: &[Vec<usize>], neighbours: &[Vec<usize>], conflicts: &HashSet<(usize, usize)>) -> Vec<usize> {
    let num = neighbours.len();
    let mut place = vec![0; num];
    for rank in ranks {
        rank.iter().enumerate().for_each(|(idx, &v)| place[v] = idx);
    }
    let mut root: Vec<usize> = (0..num).collect();
    let mut is_taken = vec![false; num];
    for rank in ranks {
        // Alignments of a rank must not cross, so each has to end right of the one before.
        let mut free = 0;
        for &v in rank {
            let mut around = neighbours[v].clone();
            around.sort_by_key(|&w| place[w]);
            let Some(last) = around.len().checked_sub(1) else {
                continue;
            };
            for &w in &around[last / 2..=last.div_ceil(2)] {
                let is_barred = conflicts.contains(&(w, v)) || conflicts.contains(&(v, w));
                if root[v] == v && !is_taken[w] && place[w] >= free && !is_barred {
                    root[v] = root[w];
                    is_taken[w] = true;
                    free = place[w] + 1;
                }
            }
        }
    }
    root
}

/// Returns the middle of each vertex, with blocks first as far left as they can be, then as far right as their right
/// neighbours let them.
fn pack(layers: &Layers, ranks: &[Vec<usize>], root: &[usize], gap: f64) -> Vec<f64> {
    // From block to block, how far their middles are apart at least.
    let mut right: Vec<BTreeMap<usize, f64>> = vec![BTreeMap::new(); root.len()];
    let mut num_left = vec![0; root.len()];
    for pair in ranks.iter().flat_map(|rank| rank.windows(2)) {
        let half = |v: usize| layers.vertices[v].size.width / 2.0;
        let apart = half(pair[0]) + gap + half(pair[1]);
        let distance = right[root[pair[0]]].entry(root[pair[1]]).or_insert_with(|| {
            num_left[root[pair[1]]] += 1;
            0.0
        });
        *distance = distance.max(apart);
    }
    let mut x = vec![0.0f64; root.len()];
    let mut order: Vec<usize> = (0..root.len()).filter(|&v| root[v] == v && num_left[v] == 0).collect();
    let mut next = 0;
    while let Some(&block) = order.get(next) {
        next += 1;
        for (&other, distance) in &right[block] {
            x[other] = x[other].max(x[block] + distance);
            num_left[other] -= 1;
            if num_left[other] == 0 {
                order.push(other);
            }
        }
    }
    for &block in order.iter().rev() {
        let most = right[block].iter().map(|(&other, distance)| x[other] - distance);
        let most = most.fold(f64::INFINITY, f64::min);
        if most.is_finite() {
            x[block] = x[block].max(most);
        }
    }
    root.iter().map(|&block| x[block]).collect()
}

/// Moves all ways onto the narrowest one and takes the mean of the two middle places of each vertex.
fn balance(layers: &Layers, ways: &mut [Vec<f64>]) -> Vec<f64> {
    let reach = |way: &[f64]| {
        let sides = way.iter().zip(&layers.vertices).map(|(x, vertex)| {
            let half = vertex.size.width / 2.0;
            (x - half, x + half)
        });
        sides.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (a, b)| {
            (low.min(a), high.max(b))
        })
    };
    let reaches: Vec<(f64, f64)> = ways.iter().map(|way| reach(way)).collect();
    let width = |(low, high): &(f64, f64)| high - low;
    let Some(narrowest) = reaches.iter().min_by(|a, b| width(a).total_cmp(&width(b))).copied() else {
        return Vec::new();
    };
    for (idx, (way, reach)) in ways.iter_mut().zip(&reaches).enumerate() {
        // Ways that were packed to the right keep their right edge.
        let is_leftwards = idx % 2 == 1;
        let shift = if is_leftwards {
            narrowest.1 - reach.1
        } else {
            narrowest.0 - reach.0
        };
        way.iter_mut().for_each(|x| *x += shift);
    }
    let middle = |v: usize| {
        let mut all: Vec<f64> = ways.iter().map(|way| way[v]).collect();
        all.sort_by(f64::total_cmp);
        f64::midpoint(all[1], all[2])
    };
    let mut x: Vec<f64> = (0..layers.vertices.len()).map(middle).collect();
    let left = reach(&x).0;
    x.iter_mut().for_each(|x| *x -= left);
    x
}

/// Returns places in the given order that are at least `gap` apart, inside `low..=high` if there is room, and as near
/// to the wished ones as that allows.
///
/// Neighbours that would come too close share the mean of their wishes (pooling of adjacent violators).
pub fn spread(wished: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let num = wished.len();
    let room = (high - low).max(0.0);
    let gap = if num > 1 { gap.min(room / (num - 1) as f64) } else { gap };
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (idx, wish) in wished.iter().enumerate() {
        pools.push((wish - idx as f64 * gap, 1));
        while let [.., (a, num_a), (b, num_b)] = pools[..]
            && a >= b
        {
            pools.truncate(pools.len() - 2);
            let total = num_a + num_b;
            pools.push(((a * num_a as f64 + b * num_b as f64) / total as f64, total));
        }
    }
    let most = (low + room - gap * num.saturating_sub(1) as f64).max(low);
    let flat = pools
        .iter()
        .flat_map(|&(x, num)| std::iter::repeat_n(x.clamp(low, most), num));
    flat.enumerate().map(|(idx, x)| x + idx as f64 * gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_where_they_are_wished_unless_they_are_too_close() {
        assert_eq!(spread(&[1.0, 5.0, 9.0], 2.0, 0.0, 10.0), [1.0, 5.0, 9.0]);
        assert_eq!(spread(&[5.0, 5.0], 2.0, 0.0, 10.0), [4.0, 6.0]);
        assert_eq!(spread(&[50.0, 60.0], 2.0, 0.0, 10.0), [8.0, 10.0]);
        assert_eq!(spread(&[5.0, 5.0, 5.0], 20.0, 0.0, 10.0), [0.0, 5.0, 10.0]);
        assert_eq!(spread(&[], 1.0, 0.0, 1.0), Vec::<f64>::new());
    }
}
