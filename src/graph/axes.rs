//! The algebra of axes: at which points a stage exists, and which points of its inputs belong to each.
//!
//! A stage has the axes of its inputs, less those it gathers and those on which a reference selects a value, and those
//! of its own matrix. Inputs that share an axis are matched on it. Everything is ordered by axis name and then by the
//! order in which an axis's values were written, so that the order of keys in the file means nothing. It knows points
//! only, no kinds, parameters or keys.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::key::axis_text;
use super::points::Points;
use crate::digest::canonical;
use crate::spec::{Key, Matrix, Mistake, Reference, Stage, Tree, listed, text_of};

/// More points than this in one stage are taken for a mistake. A fuzzer looks for crashes, not for what is large.
const MAX_POINTS: usize = if cfg!(fuzzing) { 1_000 } else { 1_000_000 };

/// More inputs of all nodes of a stage together, too.
const MAX_ITEMS: usize = 20_000_000;

/// What `gather` calls all axes of the inputs.
const ALL: &str = "*";

/// The name of an axis.
pub(super) type AxisName = Arc<str>;

/// All values of all axes, each once and known by its number.
#[derive(Debug, Default)]
pub(super) struct Values {
    trees: Vec<Tree>,
    /// For each value its canonical text.
    canonical: Vec<Box<str>>,
    /// For each value its text in the name of a node.
    shown: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Values {
    /// Returns the value with a number, and where it was written.
    pub fn tree(&self, number: u32) -> &Tree {
        &self.trees[number as usize]
    }

    /// Returns the canonical text of a value, as it stands in a preimage.
    pub fn canonical(&self, number: u32) -> &str {
        &self.canonical[number as usize]
    }

    /// Returns a value as it stands in the name of a node.
    pub fn shown(&self, number: u32) -> &str {
        &self.shown[number as usize]
    }

    fn number(&mut self, tree: &Tree) -> u32 {
        let value = tree.to_value();
        let text = canonical::to_string(&value).unwrap_or_default().into_boxed_str();
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        let number = self.trees.len() as u32;
        self.trees.push(tree.clone());
        self.shown.push(axis_text(&value).into());
        self.canonical.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    /// Returns the number of a value that some axis has.
    fn known(&self, tree: &Tree) -> Option<u32> {
        let text = canonical::to_string(&tree.to_value()).ok()?;
        self.numbers.get(text.as_str()).copied()
    }
}

/// An axis of a stage and its values, in order.
#[derive(Debug, Clone)]
pub(super) struct StageAxis {
    pub name: AxisName,
    pub values: Vec<u32>,
}

/// The points at which a stage exists.
#[derive(Debug)]
pub(super) struct Expansion {
    /// The axes in the order of names.
    pub axes: Vec<StageAxis>,
    /// The points, in order; a number for each axis.
    pub points: Points,
}

impl Expansion {
    fn column(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| &*axis.name == name)
    }
}

/// Which points of a reference's stage belong to each point of the stage that has the reference.
#[derive(Debug)]
pub(super) enum Members {
    /// One each.
    One(Vec<u32>),
    /// The same for all.
    Fixed(Vec<u32>),
    /// Those of point `i` are `members[starts[i]..starts[i + 1]]`.
    Several { starts: Vec<u32>, members: Vec<u32> },
}

impl Members {
    /// Returns the indices of the upstream points that belong to a point of the stage, in order.
    pub fn of(&self, point: usize) -> &[u32] {
        match self {
            Members::One(members) => &members[point..=point],
            Members::Fixed(members) => members,
            Members::Several { starts, members } => &members[starts[point] as usize..starts[point + 1] as usize],
        }
    }

    /// Returns how many members a point has at most.
    pub fn most(&self) -> usize {
        match self {
            Members::One(_) => 1,
            Members::Fixed(members) => members.len(),
            Members::Several { starts, .. } => {
                let counts = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
                counts.max().unwrap_or(0)
            }
        }
    }
}

/// A reference with its members at every point.
#[derive(Debug)]
pub(super) struct Link {
    pub members: Members,
    /// Whether some axis of the reference's stage was gathered.
    pub is_collapsed: bool,
}

/// The points of one reference's stage, by the axes that stay.
struct Part<'a> {
    /// The axes that stay, in the order of names.
    axes: Vec<AxisName>,
    /// For each upstream point that is selected, its coordinates on those axes.
    kept: Cow<'a, Points>,
    /// The indices of these points; absent if all are selected.
    selected: Option<Vec<u32>>,
    is_collapsed: bool,
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
    let references: Vec<&Reference> = stage.needs.iter().flat_map(|need| &need.refs).collect();
    let mut parts = Vec::with_capacity(references.len());
    for (reference, upstream) in references.iter().zip(upstream) {
        parts.extend(part(stage, reference, upstream, values, out));
    }
    if parts.len() < references.len() {
        return None;
    }
    let mut axes: Vec<StageAxis> = Vec::new();
    for (idx, part) in parts.iter().enumerate() {
        for name in &part.axes {
            let found = &upstream[idx].axes[upstream[idx].column(name)?];
            match axes.iter().find(|axis| axis.name == *name) {
                None => axes.push(found.clone()),
                Some(known) => check_match(references[idx], known, found, values, out),
            }
        }
    }
    let own = own_axes(stage, matrix, &axes, values, out);
    if out.len() > before {
        return None;
    }
    let mut joined = Joined::unit();
    for part in parts.iter().filter(|part| !part.axes.is_empty()) {
        joined = joined.with(&part.axes, &part.kept, stage, out)?;
    }
    let names: Vec<AxisName> = own.axes.iter().map(|axis| axis.name.clone()).collect();
    joined = joined.with(&names, &own.points, stage, out)?;
    axes.extend(own.axes);
    axes.sort_by(|a, b| a.name.cmp(&b.name));
    if joined.points.len() == 0 {
        let message = format!("no point of the axes of stage `{}` has all of its inputs", stage.name);
        out.push(Mistake::new(&stage.at, message));
        return None;
    }
    let expansion = sorted(axes, joined.points);
    let mut room = MAX_ITEMS;
    let links: Option<Vec<Link>> = parts.iter().map(|part| link(part, &expansion, &mut room)).collect();
    if links.is_none() {
        let message = format!(
            "the nodes of stage `{}` have more than {MAX_ITEMS} inputs together",
            stage.name
        );
        let help = "gather into a stage without a matrix of its own, and let this one read what that makes";
        out.push(Mistake::new(&stage.at, message).help(help));
    }
    Some((expansion, links?))
}

/// Returns what a stage sees of the points of a reference.
fn part<'a>(
    stage: &Stage,
    reference: &Reference,
    upstream: &'a Expansion,
    values: &Values,
    out: &mut Vec<Mistake>,
) -> Option<Part<'a>> {
    let selected = selected(reference, upstream, values, out)?;
    let is_fixed = |axis: &StageAxis| reference.point.iter().any(|(key, _)| *key.text == *axis.name);
    let is_gathered = |axis: &StageAxis| {
        let named = |key: &Key| key.text == ALL || *key.text == *axis.name;
        stage.gather.iter().any(named)
    };
    let stays = |axis: &StageAxis| !is_fixed(axis) && !is_gathered(axis);
    let columns: Vec<usize> = (0..upstream.axes.len())
        .filter(|&column| stays(&upstream.axes[column]))
        .collect();
    let points = match &selected {
        None => Cow::Borrowed(&upstream.points),
        Some(selected) => Cow::Owned(upstream.points.pick(selected.iter().map(|&idx| idx as usize))),
    };
    Some(Part {
        axes: columns
            .iter()
            .map(|&column| upstream.axes[column].name.clone())
            .collect(),
        is_collapsed: upstream.axes.iter().any(|axis| !is_fixed(axis) && is_gathered(axis)),
        kept: if columns.len() == upstream.axes.len() {
            points
        } else {
            Cow::Owned(points.project(&columns))
        },
        selected,
    })
}

/// Returns the points that have the values which a reference selects; all of them if it selects none.
fn selected(
    reference: &Reference,
    upstream: &Expansion,
    values: &Values,
    out: &mut Vec<Mistake>,
) -> Option<Option<Vec<u32>>> {
    let mut wanted = Vec::new();
    for (key, tree) in &reference.point {
        let Some(column) = upstream.column(&key.text) else {
            let names: Vec<&str> = upstream.axes.iter().map(|axis| &*axis.name).collect();
            let message = format!("stage `{}` has no axis `{}`", reference.stage, key.text);
            let mistake = Mistake::unknown(&key.at, message, &key.text, names.iter().copied());
            out.push(if names.is_empty() {
                mistake.help("the stage has no axes")
            } else {
                mistake
            });
            return None;
        };
        let number = values
            .known(tree)
            .filter(|number| upstream.axes[column].values.contains(number));
        let Some(number) = number else {
            let texts: Vec<String> = upstream.axes[column]
                .values
                .iter()
                .map(|&v| values.shown(v).to_owned())
                .collect();
            let wrong = text_of(&tree.to_value());
            let message = format!(
                "axis `{}` of stage `{}` has no value `{wrong}`",
                key.text, reference.stage
            );
            out.push(Mistake::unknown(
                &tree.at,
                message,
                &wrong,
                texts.iter().map(String::as_str),
            ));
            return None;
        };
        wanted.push((column, number));
    }
    if wanted.is_empty() {
        return Some(None);
    }
    let fits = |point: &[u32]| wanted.iter().all(|&(column, number)| point[column] == number);
    let selected: Vec<u32> = (0..)
        .zip(upstream.points.iter())
        .filter(|(_, point)| fits(point))
        .map(|(idx, _)| idx)
        .collect();
    if selected.is_empty() {
        let message = format!("stage `{}` has no point with all of these values", reference.stage);
        out.push(Mistake::new(&reference.at, message).help("the matrix of the stage excludes it"));
        return None;
    }
    Some(Some(selected))
}

/// Returns which points of a part belong to each point of the stage; none if that are more than there is room for.
fn link(part: &Part<'_>, expansion: &Expansion, room: &mut usize) -> Option<Link> {
    let mut take = |num: usize| {
        *room = room.checked_sub(num)?;
        Some(())
    };
    let upstream_idx = |idx: u32| part.selected.as_ref().map_or(idx, |selected| selected[idx as usize]);
    let num_kept = part.kept.len() as u32;
    let members = if part.axes.is_empty() {
        take(part.kept.len().saturating_mul(expansion.points.len()))?;
        Members::Fixed((0..num_kept).map(upstream_idx).collect())
    } else {
        let columns: Vec<usize> = part.axes.iter().filter_map(|name| expansion.column(name)).collect();
        let mut groups: HashMap<&[u32], Vec<u32>> = HashMap::with_capacity(part.kept.len());
        for (idx, point) in (0..num_kept).zip(part.kept.iter()) {
            groups.entry(point).or_default().push(upstream_idx(idx));
        }
        let here = expansion.points.project(&columns);
        let of = |point: &[u32]| groups.get(point).map_or(&[] as &[u32], Vec::as_slice);
        take(here.iter().map(|point| of(point).len()).sum())?;
        if here.iter().all(|point| of(point).len() == 1) {
            Members::One(here.iter().map(|point| of(point)[0]).collect())
        } else {
            let (mut starts, mut members) = (vec![0], Vec::new());
            for point in here.iter() {
                members.extend_from_slice(of(point));
                starts.push(members.len() as u32);
            }
            Members::Several { starts, members }
        }
    };
    Some(Link {
        members,
        is_collapsed: part.is_collapsed,
    })
}

/// Points while they are put together, with their axes in the order of names.
struct Joined {
    axes: Vec<AxisName>,
    points: Points,
}

impl Joined {
    fn unit() -> Joined {
        Joined {
            axes: Vec::new(),
            points: Points::unit(),
        }
    }

    /// Returns the points extended by those of `others` that agree with them on the axes that both have.
    fn with(self, axes: &[AxisName], others: &Points, stage: &Stage, out: &mut Vec<Mistake>) -> Option<Joined> {
        let shared: Vec<&AxisName> = axes.iter().filter(|axis| self.axes.contains(axis)).collect();
        let column = |axes: &[AxisName], name: &AxisName| axes.iter().position(|axis| axis == name);
        let columns = |axes: &[AxisName]| shared.iter().filter_map(|name| column(axes, name)).collect::<Vec<_>>();
        let (left, right) = (
            self.points.project(&columns(&self.axes)),
            others.project(&columns(axes)),
        );
        let mut by_shared: HashMap<&[u32], Vec<usize>> = HashMap::with_capacity(right.len());
        let mut seen: HashSet<&[u32]> = HashSet::new();
        for (idx, point) in right.iter().enumerate() {
            // Where axes were gathered, a point comes once for each of the points that are now one.
            if seen.insert(others.get(idx)) {
                by_shared.entry(point).or_default().push(idx);
            }
        }
        let mut merged: Vec<AxisName> = self.axes.iter().chain(axes).cloned().collect();
        merged.sort_unstable();
        merged.dedup();
        // Where each coordinate of a new point comes from.
        let sources: Vec<(bool, usize)> = merged
            .iter()
            .filter_map(|name| match column(&self.axes, name) {
                Some(column) => Some((true, column)),
                None => column(axes, name).map(|column| (false, column)),
            })
            .collect();
        let mut points = Points::none(merged.len());
        for (idx, key) in left.iter().enumerate() {
            let own = self.points.get(idx);
            for &other in by_shared.get(key).into_iter().flatten() {
                let other = others.get(other);
                points.push(
                    sources
                        .iter()
                        .map(|&(is_own, column)| if is_own { own[column] } else { other[column] }),
                );
            }
            if points.len() > MAX_POINTS {
                let message = format!("the axes of stage `{}` have more than {MAX_POINTS} points", stage.name);
                out.push(Mistake::new(&stage.at, message).help("collapse axes with `gather`, or shorten them"));
                return None;
            }
        }
        Some(Joined { axes: merged, points })
    }
}

/// Returns the points in order, and of each axis the values that are left.
fn sorted(mut axes: Vec<StageAxis>, points: Points) -> Expansion {
    let ranks: Vec<HashMap<u32, u32>> = axes
        .iter()
        .map(|axis| axis.values.iter().copied().zip(0..).collect())
        .collect();
    let mut ranked = Points::none(points.width());
    for point in points.iter() {
        ranked.push(point.iter().zip(&ranks).map(|(value, ranks)| ranks[value]));
    }
    let mut used: Vec<Vec<bool>> = axes.iter().map(|axis| vec![false; axis.values.len()]).collect();
    for point in ranked.iter() {
        point
            .iter()
            .zip(&mut used)
            .for_each(|(&rank, used)| used[rank as usize] = true);
    }
    for (axis, used) in axes.iter_mut().zip(&used) {
        let mut used = used.iter();
        axis.values.retain(|_| used.next().copied().unwrap_or(false));
    }
    let is_sorted = (1..ranked.len()).all(|idx| ranked.get(idx - 1) <= ranked.get(idx));
    let points = if is_sorted {
        points
    } else {
        let mut order: Vec<usize> = (0..ranked.len()).collect();
        order.sort_by(|&a, &b| ranked.get(a).cmp(ranked.get(b)));
        points.pick(order)
    };
    Expansion { axes, points }
}

fn check_gather(stage: &Stage, upstream: &[&Expansion], out: &mut Vec<Mistake>) {
    let names: BTreeSet<&str> = upstream
        .iter()
        .flat_map(|upstream| upstream.axes.iter().map(|axis| &*axis.name))
        .collect();
    let is_missing = |key: &&Key| key.text != ALL && !names.contains(key.text.as_str());
    for key in stage.gather.iter().filter(is_missing) {
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

fn check_match(here: &Reference, known: &StageAxis, found: &StageAxis, values: &Values, out: &mut Vec<Mistake>) {
    let set = |axis: &StageAxis| axis.values.iter().copied().collect::<BTreeSet<u32>>();
    let (a, b) = (set(known), set(found));
    if a == b {
        return;
    }
    let texts = |only: Vec<&u32>| {
        let texts: Vec<String> = only.iter().map(|&&v| text_of(&values.tree(v).to_value())).collect();
        listed(&texts)
    };
    let (more, fewer) = (
        b.difference(&a).collect::<Vec<_>>(),
        a.difference(&b).collect::<Vec<_>>(),
    );
    let difference = match (more.is_empty(), fewer.is_empty()) {
        (false, true) => format!("only it has {}", texts(more)),
        (true, false) => format!("it lacks {}", texts(fewer)),
        _ => format!("only it has {}, and it lacks {}", texts(more), texts(fewer)),
    };
    let axis = &known.name;
    let message = format!(
        "axis `{axis}` of `{}.{}` does not match the same axis of the other inputs: {difference}",
        here.stage, here.output
    );
    let help = format!("give both the same values, rename one of the axes, or collapse it with `gather: [{axis}]`");
    out.push(Mistake::new(&here.at, message).help(help));
}

/// The axes of a matrix, with values as numbers.
struct Own {
    axes: Vec<StageAxis>,
    points: Points,
}

fn own_axes(
    stage: &Stage,
    matrix: &Matrix,
    inherited: &[StageAxis],
    values: &mut Values,
    out: &mut Vec<Mistake>,
) -> Own {
    let mut axes = Vec::with_capacity(matrix.axes.len());
    for axis in &matrix.axes {
        let name = axis.name.text.as_str();
        if inherited.iter().any(|known| &*known.name == name) {
            let message = format!("stage `{}` has the axis `{name}` already, from its inputs", stage.name);
            let help = format!("use it as `${{matrix.{name}}}`, or give the new axis another name");
            out.push(Mistake::new(&axis.name.at, message).help(help));
        }
        axes.push(StageAxis {
            name: name.into(),
            values: axis.values.iter().map(|tree| values.number(tree)).collect(),
        });
    }
    let mut points = Points::none(axes.len());
    for point in &matrix.points {
        points.push(point.iter().zip(&axes).map(|(&rank, axis)| axis.values[rank]));
    }
    Own { axes, points }
}
