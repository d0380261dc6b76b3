//! The algebra of axes: at which points a stage exists, and which points of its inputs belong to each.
//!
//! A stage has the axes of its inputs, less those it gathers, and those of its own matrix. Inputs that share an axis
//! are matched on it. Everything is ordered by axis name and then by the order in which an axis's values were
//! written, so that the order of keys in the file means nothing. It knows points only, no kinds, parameters or keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::digest::canonical;
use crate::spec::{Key, Matrix, Mistake, Stage, Tree, listed, text_of};

/// More points than this in one stage are taken for a mistake.
const MAX_POINTS: usize = 1_000_000;

/// The name of an axis.
pub(super) type AxisName = Arc<str>;

/// Coordinates in the order of axis names, each value by its number in [`Values`].
pub(super) type Coordinates = Vec<(AxisName, u32)>;

/// All values of all axes, each once.
#[derive(Default)]
pub(super) struct Values {
    trees: Vec<Tree>,
    numbers: HashMap<String, u32>,
}

impl Values {
    /// Returns the value with a number, and where it was written.
    pub fn tree(&self, number: u32) -> &Tree {
        &self.trees[number as usize]
    }

    fn number(&mut self, tree: &Tree) -> u32 {
        let text = canonical::to_string(&tree.to_value()).unwrap_or_default();
        *self.numbers.entry(text).or_insert_with(|| {
            self.trees.push(tree.clone());
            (self.trees.len() - 1) as u32
        })
    }
}

/// The points at which a stage exists.
pub(super) struct Expansion {
    /// The axes, each with its values in order.
    pub axes: BTreeMap<AxisName, Vec<u32>>,
    /// The points, in order.
    pub points: Vec<Coordinates>,
}

/// The points of one reference's stage, grouped by the axes that stay.
pub(super) struct Link {
    axes: BTreeSet<AxisName>,
    groups: HashMap<Coordinates, Vec<usize>>,
    order: Vec<Coordinates>,
    /// Whether some axis of the stage was gathered.
    pub is_collapsed: bool,
}

impl Link {
    fn new(upstream: &Expansion, gather: &[Key]) -> Link {
        let stays = |axis: &AxisName| !gather.iter().any(|key| *key.text == **axis);
        let axes: BTreeSet<AxisName> = upstream.axes.keys().filter(|axis| stays(axis)).cloned().collect();
        let mut groups: HashMap<Coordinates, Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        for (idx, point) in upstream.points.iter().enumerate() {
            let group = groups.entry(project(point, &axes)).or_insert_with_key(|key| {
                order.push(key.clone());
                Vec::new()
            });
            group.push(idx);
        }
        Link {
            is_collapsed: axes.len() < upstream.axes.len(),
            axes,
            groups,
            order,
        }
    }

    /// Returns the indices of the upstream points that belong to a point of the stage, in order.
    pub fn members(&self, point: &Coordinates) -> &[usize] {
        self.groups.get(&project(point, &self.axes)).map_or(&[], Vec::as_slice)
    }
}

/// Returns the points of a stage and a link for each of its references, in the order of `Stage::needs`; `None` after
/// telling `out` what doesn't fit.
pub(super) fn expand(
    stage: &Stage,
    matrix: &Matrix,
    upstream: &[&Expansion],
    values: &mut Values,
    out: &mut Vec<Mistake>,
) -> Option<(Expansion, Vec<Link>)> {
    let before = out.len();
    check_gather(stage, upstream, out);
    let links: Vec<Link> = upstream
        .iter()
        .map(|upstream| Link::new(upstream, &stage.gather))
        .collect();
    let mut axes: BTreeMap<AxisName, Vec<u32>> = BTreeMap::new();
    let mut points: Vec<Coordinates> = vec![Vec::new()];
    for (idx, link) in links.iter().enumerate() {
        for axis in &link.axes {
            match axes.get(axis) {
                None => {
                    axes.insert(axis.clone(), upstream[idx].axes[axis].clone());
                }
                Some(known) => check_match(stage, idx, axis, known, &upstream[idx].axes[axis], values, out),
            }
        }
    }
    let own = own_axes(stage, matrix, &axes, values, out);
    if out.len() > before {
        return None;
    }
    let mut joined = BTreeSet::new();
    for link in links.iter().filter(|link| !link.axes.is_empty()) {
        points = join(&points, &joined, link, stage, out)?;
        joined.extend(link.axes.iter().cloned());
    }
    points = product(points, &own, stage, out)?;
    for (axis, idx) in own.names.iter().zip(0..) {
        axes.insert(axis.clone(), own.values[idx].clone());
    }
    if points.is_empty() {
        let message = format!("no point of the axes of stage `{}` has all of its inputs", stage.name);
        out.push(Mistake::new(&stage.at, message));
        return None;
    }
    Some((sorted(axes, points), links))
}

/// Returns the points in order, and of each axis the values that are left.
fn sorted(mut axes: BTreeMap<AxisName, Vec<u32>>, mut points: Vec<Coordinates>) -> Expansion {
    let mut ranks: HashMap<(AxisName, u32), usize> = HashMap::new();
    for (axis, values) in &axes {
        ranks.extend(
            values
                .iter()
                .enumerate()
                .map(|(rank, &value)| ((axis.clone(), value), rank)),
        );
    }
    points.sort_by_cached_key(|point| {
        point
            .iter()
            .map(|coordinate| ranks.get(coordinate).copied())
            .collect::<Vec<_>>()
    });
    let mut used: BTreeSet<&(AxisName, u32)> = BTreeSet::new();
    points.iter().for_each(|point| used.extend(point));
    for (axis, values) in &mut axes {
        values.retain(|&value| used.contains(&(axis.clone(), value)));
    }
    Expansion { axes, points }
}

fn check_gather(stage: &Stage, upstream: &[&Expansion], out: &mut Vec<Mistake>) {
    let names: BTreeSet<&str> = upstream
        .iter()
        .flat_map(|upstream| upstream.axes.keys().map(|axis| &**axis))
        .collect();
    for key in stage.gather.iter().filter(|key| !names.contains(key.text.as_str())) {
        let message = format!(
            "no input of stage `{}` has an axis `{}` to gather",
            stage.name, key.text
        );
        let mistake = Mistake::unknown(&key.at, message, &key.text, names.iter().copied());
        out.push(if names.is_empty() {
            mistake.help("the inputs have no axes")
        } else {
            mistake
        });
    }
}

fn check_match(
    stage: &Stage,
    idx: usize,
    axis: &AxisName,
    known: &[u32],
    found: &[u32],
    values: &Values,
    out: &mut Vec<Mistake>,
) {
    let (a, b): (BTreeSet<u32>, BTreeSet<u32>) = (known.iter().copied().collect(), found.iter().copied().collect());
    if a == b {
        return;
    }
    let texts = |only: Vec<&u32>| {
        listed(
            &only
                .iter()
                .map(|&&v| text_of(&values.tree(v).to_value()))
                .collect::<Vec<_>>(),
        )
    };
    let references: Vec<_> = stage.needs.iter().flat_map(|need| &need.refs).collect();
    let here = references[idx];
    let (more, fewer) = (
        b.difference(&a).collect::<Vec<_>>(),
        a.difference(&b).collect::<Vec<_>>(),
    );
    let difference = match (more.is_empty(), fewer.is_empty()) {
        (false, true) => format!("only it has {}", texts(more)),
        (true, false) => format!("it lacks {}", texts(fewer)),
        _ => format!("only it has {}, and it lacks {}", texts(more), texts(fewer)),
    };
    let message = format!(
        "axis `{axis}` of `{}.{}` does not match the same axis of the other inputs: {difference}",
        here.stage, here.output
    );
    let help = format!("give both the same values, rename one of the axes, or collapse it with `gather: [{axis}]`");
    out.push(Mistake::new(&here.at, message).help(help));
}

/// The axes of a matrix, with values as numbers.
struct Own {
    names: Vec<AxisName>,
    values: Vec<Vec<u32>>,
    points: Vec<Vec<u32>>,
}

fn own_axes(
    stage: &Stage,
    matrix: &Matrix,
    inherited: &BTreeMap<AxisName, Vec<u32>>,
    values: &mut Values,
    out: &mut Vec<Mistake>,
) -> Own {
    let mut own = Own {
        names: Vec::new(),
        values: Vec::new(),
        points: Vec::new(),
    };
    for axis in &matrix.axes {
        let name = axis.name.text.as_str();
        if inherited.contains_key(name) {
            let message = format!("stage `{}` has the axis `{name}` already, from its inputs", stage.name);
            let help = format!("use it as `${{matrix.{name}}}`, or give the new axis another name");
            out.push(Mistake::new(&axis.name.at, message).help(help));
        }
        own.names.push(name.into());
        own.values
            .push(axis.values.iter().map(|tree| values.number(tree)).collect());
    }
    let numbers = |point: &Vec<usize>| {
        point
            .iter()
            .enumerate()
            .map(|(axis, &rank)| own.values[axis][rank])
            .collect()
    };
    own.points = matrix.points.iter().map(numbers).collect();
    own
}

/// Extends points by those of a link that agree with them on the axes that both have.
fn join(
    points: &[Coordinates],
    axes: &BTreeSet<AxisName>,
    link: &Link,
    stage: &Stage,
    out: &mut Vec<Mistake>,
) -> Option<Vec<Coordinates>> {
    let shared: BTreeSet<AxisName> = axes.intersection(&link.axes).cloned().collect();
    let mut by_shared: HashMap<Coordinates, Vec<&Coordinates>> = HashMap::new();
    for point in &link.order {
        by_shared.entry(project(point, &shared)).or_default().push(point);
    }
    let mut joined = Vec::new();
    for point in points {
        for other in by_shared.get(&project(point, &shared)).into_iter().flatten() {
            let fresh = other.iter().filter(|(axis, _)| !shared.contains(axis)).cloned();
            joined.push(merged(point, fresh));
        }
        if joined.len() > MAX_POINTS {
            return too_many(stage, out);
        }
    }
    Some(joined)
}

fn product(points: Vec<Coordinates>, own: &Own, stage: &Stage, out: &mut Vec<Mistake>) -> Option<Vec<Coordinates>> {
    if own.names.is_empty() {
        return Some(points);
    }
    if points.len().saturating_mul(own.points.len()) > MAX_POINTS {
        return too_many(stage, out);
    }
    let with_own = |point: &Coordinates| {
        let point = point.clone();
        own.points
            .iter()
            .map(move |values| merged(&point, own.names.iter().cloned().zip(values.iter().copied())))
    };
    Some(points.iter().flat_map(with_own).collect())
}

fn too_many<T>(stage: &Stage, out: &mut Vec<Mistake>) -> Option<T> {
    let message = format!("the axes of stage `{}` have more than {MAX_POINTS} points", stage.name);
    out.push(Mistake::new(&stage.at, message).help("collapse axes with `gather`, or shorten them"));
    None
}

fn merged(point: &Coordinates, more: impl Iterator<Item = (AxisName, u32)>) -> Coordinates {
    let mut merged: Coordinates = point.iter().cloned().chain(more).collect();
    merged.sort_unstable();
    merged
}

fn project(point: &Coordinates, axes: &BTreeSet<AxisName>) -> Coordinates {
    point.iter().filter(|(axis, _)| axes.contains(axis)).cloned().collect()
}
