//! The `matrix` of a stage: its axes, which of them vary together, and the points that are left of their product.
//!
//! It knows the axes that one stage adds and not those it inherits; `graph` joins the two.

use std::collections::{HashMap, HashSet};

use super::axis::{FORMS, check_value, values};
use super::fill::Outcome;
use super::mistake::{At, Mistake, listed};
use super::schema::text_of;
use super::scope::{Point, Scope};
use super::shape::is_name;
use super::yaml::{Item, Key, Tree, same};
use crate::digest::canonical;

/// More points than this are taken for a mistake. A fuzzer looks for crashes, not for what is large.
pub(super) const MAX_POINTS: usize = if cfg!(fuzzing) { 1_000 } else { 1_000_000 };

/// The axes that a stage adds.
#[derive(Debug)]
pub struct Matrix {
    /// The axes in the order of names.
    pub axes: Vec<Axis>,
    /// The points, in order: for each axis the index of its value.
    pub points: Vec<Vec<usize>>,
}

/// An axis and its values in the order they were written.
#[derive(Debug)]
pub struct Axis {
    /// The name.
    pub name: Key,
    /// The values: strings, numbers and booleans, each once.
    pub values: Vec<Tree>,
}

/// Axes that vary together: each row has the index of a value for each of them.
struct Group {
    axes: Vec<Axis>,
    rows: Vec<Vec<usize>>,
}

impl Matrix {
    /// Returns the matrix of a stage without one: a single point.
    pub fn none() -> Matrix {
        Matrix {
            axes: Vec::new(),
            points: vec![Vec::new()],
        }
    }

    /// Reads a `matrix`; `None` after telling `out` what is wrong.
    pub(super) fn read(tree: &Tree, scope: &Scope, out: &mut Vec<Mistake>) -> Option<Matrix> {
        let before = out.len();
        let point = Point::Nowhere("`matrix`");
        let whole = match &tree.item {
            // A text may be a reference to a mapping; the parts of a mapping are filled in one by one, to tell about each.
            Item::Text(_) => match scope.fill(tree, point, false, out) {
                Outcome::Value(filled) => filled,
                _ => return None,
            },
            _ => tree.clone(),
        };
        let Item::Map(entries) = &whole.item else {
            let message = format!("`matrix` must be a mapping of axes to lists, not {}", whole.described());
            out.push(Mistake::new(&whole.at, message));
            return None;
        };
        let mut groups: Vec<Group> = Vec::new();
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for (key, tree) in entries {
            let Outcome::Value(tree) = scope.fill(tree, point, false, out) else {
                continue;
            };
            match key.text.as_str() {
                "include" => include = points(key, &tree, out),
                "exclude" => exclude = points(key, &tree, out),
                "zip" => groups.extend(zips(&tree, out)),
                form if FORMS.contains(&form) => {
                    let message = format!("`{form}` gives the values of an axis, and here is no axis");
                    out.push(Mistake::new(&key.at, message).help(format!("write `AXIS: {{ {form}: ... }}`")));
                }
                _ => groups.extend(single(key, &tree, out)),
            }
        }
        check_names(&groups, out);
        if out.len() > before {
            return None;
        }
        let mut matrix = product(groups, &tree.at, out)?;
        matrix.exclude(&exclude, out);
        include.iter().for_each(|point| matrix.include(point, out));
        if matrix.points.is_empty() && out.len() == before {
            out.push(Mistake::new(&tree.at, "the matrix has no points"));
        }
        matrix.points.sort_unstable();
        matrix.points.dedup();
        (out.len() == before).then_some(matrix)
    }

    /// Adds an axis that varies by itself.
    pub(super) fn multiply(self, axis: Axis, out: &mut Vec<Mistake>) -> Option<Matrix> {
        let at = axis.name.at.clone();
        let rows = (0..axis.values.len()).map(|rank| vec![rank]).collect();
        let added = Group { axes: vec![axis], rows };
        let own = Group {
            axes: self.axes,
            rows: self.points,
        };
        let mut matrix = product(vec![own, added], &at, out)?;
        matrix.points.sort_unstable();
        Some(matrix)
    }

    /// Removes the points that agree with any of the partial ones.
    fn exclude(&mut self, points: &[Vec<(Key, Tree)>], out: &mut Vec<Mistake>) {
        let wanted: Vec<Vec<(usize, Vec<usize>)>> = points
            .iter()
            .filter_map(|point| {
                let found: Vec<_> = point.iter().map(|(key, tree)| self.ranks(key, tree, out)).collect();
                found.into_iter().collect::<Option<_>>()
            })
            .collect();
        let agrees = |point: &[usize], wanted: &[(usize, Vec<usize>)]| {
            wanted.iter().all(|(axis, ranks)| ranks.contains(&point[*axis]))
        };
        for (idx, wanted) in wanted.iter().enumerate().filter(|_| wanted.len() == points.len()) {
            if !self.points.iter().any(|point| agrees(point, wanted)) {
                let first = &points[idx][0].0;
                let message = "no point of the matrix is like this one, so there is nothing to exclude";
                out.push(Mistake::new(&first.at, message));
            }
        }
        self.points
            .retain(|point| !wanted.iter().any(|wanted| agrees(point, wanted)));
    }

    /// Returns an axis and which of its values are meant by a value or a list of values.
    fn ranks(&self, key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<(usize, Vec<usize>)> {
        let Some(axis) = self.axes.iter().position(|axis| axis.name.text == key.text) else {
            let names = self.axes.iter().map(|axis| axis.name.text.as_str());
            let message = format!("the matrix has no axis `{}`", key.text);
            out.push(Mistake::unknown(&key.at, message, &key.text, names));
            return None;
        };
        let wanted = match &tree.item {
            Item::List(items) => items.as_slice(),
            _ => std::slice::from_ref(tree),
        };
        let values = &self.axes[axis].values;
        let rank = |tree: &Tree, out: &mut Vec<Mistake>| {
            let value = tree.to_value();
            let rank = values.iter().position(|known| same(&known.to_value(), &value));
            if rank.is_none() {
                let texts: Vec<String> = values.iter().map(|tree| text_of(&tree.to_value())).collect();
                let message = format!("axis `{}` has no value {}", key.text, text_of(&value));
                let texts = texts.iter().map(String::as_str);
                out.push(Mistake::unknown(&tree.at, message, &text_of(&value), texts));
            }
            rank
        };
        let ranks: Vec<Option<usize>> = wanted.iter().map(|tree| rank(tree, out)).collect();
        Some((axis, ranks.into_iter().collect::<Option<_>>()?))
    }

    /// Adds a point; the first one makes the axes if there are none.
    fn include(&mut self, point: &[(Key, Tree)], out: &mut Vec<Mistake>) {
        if self.axes.is_empty() {
            let mut axes: Vec<Axis> = point
                .iter()
                .map(|(key, _)| Axis {
                    name: key.clone(),
                    values: Vec::new(),
                })
                .collect();
            axes.sort_by(|a, b| a.name.text.cmp(&b.name.text));
            self.axes = axes;
        }
        let mut names: Vec<&str> = point.iter().map(|(key, _)| key.text.as_str()).collect();
        names.sort_unstable();
        let axes: Vec<&str> = self.axes.iter().map(|axis| axis.name.text.as_str()).collect();
        if names != axes {
            let message = format!("a point of `include` must have exactly the axes {}", listed(&axes));
            let at = point.first().map_or(&self.axes[0].name.at, |(key, _)| &key.at);
            out.push(Mistake::new(at, message).help(format!("this one has {}", listed(&names))));
            return;
        }
        let before = out.len();
        for (key, tree) in point {
            check_value(key, tree, out);
        }
        if out.len() > before {
            return;
        }
        let rank = |axis: &mut Axis| {
            let (_, tree) = point.iter().find(|(key, _)| key.text == axis.name.text)?;
            let value = tree.to_value();
            let known = axis.values.iter().position(|tree| same(&tree.to_value(), &value));
            Some(known.unwrap_or_else(|| {
                axis.values.push(tree.clone());
                axis.values.len() - 1
            }))
        };
        self.points
            .extend(self.axes.iter_mut().map(rank).collect::<Option<Vec<usize>>>());
    }
}

fn single(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<Group> {
    if !check_axis_name(key, out) {
        return None;
    }
    let values = values(key, tree, true, out)?;
    Some(Group {
        rows: (0..values.len()).map(|rank| vec![rank]).collect(),
        axes: vec![Axis {
            name: key.clone(),
            values,
        }],
    })
}

fn check_axis_name(key: &Key, out: &mut Vec<Mistake>) -> bool {
    if !is_name(&key.text) {
        let help = "a name has letters, digits, `_` and `-`, and begins with a letter";
        out.push(Mistake::new(&key.at, format!("`{}` can't be the name of an axis", key.text)).help(help));
        return false;
    }
    true
}

/// Reads `zip`: a mapping of axes that vary together, or a list of such mappings.
fn zips(tree: &Tree, out: &mut Vec<Mistake>) -> Vec<Group> {
    let trees = match &tree.item {
        Item::List(items) => items.as_slice(),
        _ => std::slice::from_ref(tree),
    };
    trees.iter().filter_map(|tree| zip(tree, out)).collect()
}

fn zip(tree: &Tree, out: &mut Vec<Mistake>) -> Option<Group> {
    let Item::Map(entries) = &tree.item else {
        let message = format!(
            "`zip` must be a mapping of axes, or a list of such mappings, not {}",
            tree.described()
        );
        out.push(Mistake::new(&tree.at, message).help("write `zip: { a: [1, 2], b: [x, y] }`"));
        return None;
    };
    let before = out.len();
    let mut columns: Vec<(&Key, Vec<Tree>)> = Vec::new();
    for (key, tree) in entries {
        if check_axis_name(key, out)
            && let Some(values) = values(key, tree, false, out)
        {
            columns.push((key, values));
        }
    }
    if entries.is_empty() {
        out.push(Mistake::new(&tree.at, "a `zip` of no axes"));
    }
    if out.len() > before {
        return None;
    }
    let num = columns[0].1.len();
    if columns.iter().any(|(_, values)| values.len() != num) {
        let lengths: Vec<String> = columns
            .iter()
            .map(|(key, values)| format!("`{}` has {}", key.text, values.len()))
            .collect();
        let message = format!(
            "the axes of a `zip` must have equally many values; {}",
            lengths.join(", ")
        );
        let odd = columns.iter().find(|(_, values)| values.len() != num);
        out.push(Mistake::new(odd.map_or(&tree.at, |(key, _)| &key.at), message));
        return None;
    }
    let is_drawn = entries.iter().any(|(_, tree)| matches!(tree.item, Item::Map(_)));
    let (axes, columns): (Vec<Axis>, Vec<Vec<usize>>) =
        columns.into_iter().map(|(key, values)| ranked(key, values)).unzip();
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(num);
    for idx in 0..num {
        let row: Vec<usize> = columns.iter().map(|column| column[idx]).collect();
        if seen.insert(row.clone()) {
            rows.push(row);
        } else if !is_drawn {
            let point: Vec<String> = axes
                .iter()
                .zip(&row)
                .map(|(axis, &rank)| format!("{}={}", axis.name.text, text_of(&axis.values[rank].to_value())))
                .collect();
            let message = format!("the `zip` has the point {} twice", point.join(","));
            out.push(Mistake::new(&tree.at, message));
            return None;
        }
    }
    Some(Group { axes, rows })
}

/// Returns the axis of a column, with each value once, and for each row the index of its value.
fn ranked(key: &Key, column: Vec<Tree>) -> (Axis, Vec<usize>) {
    let mut ranks = HashMap::new();
    let mut values: Vec<Tree> = Vec::new();
    let mut rows = Vec::with_capacity(column.len());
    for tree in column {
        let text = canonical::to_string(&tree.to_value()).unwrap_or_default();
        rows.push(*ranks.entry(text).or_insert_with(|| {
            values.push(tree);
            values.len() - 1
        }));
    }
    let name = key.clone();
    (Axis { name, values }, rows)
}

/// Tells about every name that two axes have.
fn check_names(groups: &[Group], out: &mut Vec<Mistake>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for axis in groups.iter().flat_map(|group| &group.axes) {
        if !seen.insert(&axis.name.text) {
            let message = format!("the matrix has the axis `{}` twice", axis.name.text);
            out.push(Mistake::new(&axis.name.at, message));
        }
    }
}

fn points(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Vec<Vec<(Key, Tree)>> {
    let Item::List(items) = &tree.item else {
        let message = format!("`{}` must be a list of points, not {}", key.text, tree.described());
        out.push(Mistake::new(&tree.at, message).help("write `[{axis: value, ...}, ...]`"));
        return Vec::new();
    };
    let mut points = Vec::new();
    for item in items {
        match &item.item {
            Item::Map(entries) if !entries.is_empty() => points.push(entries.clone()),
            _ => {
                let message = format!("a point is a mapping of axes to values, not {}", item.described());
                out.push(Mistake::new(&item.at, message));
            }
        }
    }
    points
}

/// Returns the product of the groups: axes by name, the last one varying fastest. No groups have no points.
fn product(groups: Vec<Group>, at: &At, out: &mut Vec<Mistake>) -> Option<Matrix> {
    let num_points = groups
        .iter()
        .try_fold(1usize, |product, group| product.checked_mul(group.rows.len()));
    if num_points.is_none_or(|num| num > MAX_POINTS) {
        let message = format!("the matrix has more than {MAX_POINTS} points");
        out.push(Mistake::new(at, message));
        return None;
    }
    let mut points: Vec<Vec<usize>> = match groups.is_empty() {
        true => Vec::new(),
        false => vec![Vec::new()],
    };
    for group in &groups {
        let longer = |point: &Vec<usize>| {
            let rows = group.rows.iter();
            rows.map(|row| [point.as_slice(), row.as_slice()].concat())
                .collect::<Vec<_>>()
        };
        points = points.iter().flat_map(longer).collect();
    }
    let mut axes: Vec<(usize, Axis)> = groups.into_iter().flat_map(|group| group.axes).enumerate().collect();
    axes.sort_by(|a, b| a.1.name.text.cmp(&b.1.name.text));
    let order: Vec<usize> = axes.iter().map(|(idx, _)| *idx).collect();
    let sorted = |point: Vec<usize>| order.iter().map(|&idx| point[idx]).collect();
    let mut points: Vec<Vec<usize>> = points.into_iter().map(sorted).collect();
    points.sort_unstable();
    Some(Matrix {
        points,
        axes: axes.into_iter().map(|(_, axis)| axis).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::yaml;

    fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
        let mut out = Vec::new();
        let params = yaml::parse(&At::whole("p", "{seeds: [1, 2]}"), &mut out).expect("YAML");
        let scope = Scope::new(&params, Vec::new(), "", Vec::new(), &mut out);
        let tree = yaml::parse(&At::whole("p", text), &mut out).expect("YAML");
        let Some(matrix) = Matrix::read(&tree, &scope, &mut out) else {
            return Err(out.into_iter().map(|m| m.message).collect());
        };
        let point = |point: &Vec<usize>| {
            let value = |(axis, &rank): (&Axis, &usize)| {
                format!("{}={}", axis.name.text, text_of(&axis.values[rank].to_value()))
            };
            matrix.axes.iter().zip(point).map(value).collect::<Vec<_>>().join(",")
        };
        Ok(matrix.points.iter().map(point).collect())
    }

    #[test]
    fn the_product_does_not_depend_on_the_order_of_keys() {
        let expected = Ok(["lr=0.3,seed=1", "lr=0.3,seed=2", "lr=0.1,seed=1", "lr=0.1,seed=2"]
            .map(str::to_owned)
            .to_vec());
        assert_eq!(read("{seed: '${params.seeds}', lr: [0.3, 0.1]}"), expected);
        assert_eq!(read("{lr: [0.3, 0.1], seed: [1, 2]}"), expected);
    }

    #[test]
    fn points_are_excluded_and_included() {
        let text = "{a: [1, 2], b: [x, y], exclude: [{a: 2}], include: [{a: 3, b: z}]}";
        assert_eq!(
            read(text),
            Ok(["a=1,b=x", "a=1,b=y", "a=3,b=z"].map(str::to_owned).to_vec())
        );
        assert_eq!(
            read("{include: [{a: 1, b: x}, {b: y, a: 2}]}"),
            Ok(["a=1,b=x", "a=2,b=y"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn axes_of_a_zip_vary_together() {
        let points = |points: &[&str]| Ok(points.iter().map(|point| (*point).to_owned()).collect());
        assert_eq!(
            read("{zip: {b: [x, y, x], a: {range: [1, 3]}}}"),
            points(&["a=1,b=x", "a=2,b=y", "a=3,b=x"])
        );
        assert_eq!(
            read("{zip: [{a: [1, 2], c: [3, 4]}, {b: [x]}], exclude: [{a: [1, 2], c: 3}]}"),
            points(&["a=2,b=x,c=4"])
        );
    }

    #[test]
    fn ranges_are_exact_and_have_both_ends() {
        let points = |points: &[&str]| Ok(points.iter().map(|point| format!("a={point}")).collect());
        for (text, expected) in [
            ("{range: [1, 5]}", &["1", "2", "3", "4", "5"][..]),
            ("{range: [9, 1, -4]}", &["9", "5", "1"]),
            ("{range: {from: 0.1, to: 0.3, step: 0.1}}", &["0.1", "0.2", "0.3"]),
            ("{range: {from: 0, to: 1, num: 3}}", &["0.0", "0.5", "1.0"]),
            (
                "{log_range: {from: 1e-5, to: 1e-3, num: 5}}",
                &["1e-5", "3.16228e-5", "0.0001", "0.000316228", "0.001"],
            ),
            ("{log_range: {from: 1, to: 1000, num: 4}}", &["1", "10", "100", "1000"]),
        ] {
            assert_eq!(read(&format!("{{a: {text}}}")), points(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn products_multiply_and_zips_do_not(a in 1usize..6, b in 1usize..6, c in 1usize..4) {
            let axis = |num: usize| format!("{{range: [1, {num}]}}");
            let num = |text: String| read(&text).map(|points| points.len());
            prop_assert_eq!(num(format!("{{x: {}, y: {}}}", axis(a), axis(b))), Ok(a * b));
            let zip = format!("{{x: {}, y: {}}}", axis(a), axis(a));
            prop_assert_eq!(num(format!("{{zip: {zip}, z: {}}}", axis(c))), Ok(a * c));
            prop_assert_eq!(num(format!("{{zip: [{zip}, {{z: {}}}]}}", axis(c))), Ok(a * c));
            // A zip of one axis is that axis, and a zip is the diagonal of its product.
            prop_assert_eq!(read(&format!("{{zip: {{x: {}}}}}", axis(a))), read(&format!("{{x: {}}}", axis(a))));
            let (zipped, all) = (read(&format!("{{zip: {zip}}}")), read(&zip));
            prop_assert!(zipped.expect("good").iter().all(|point| all.as_ref().expect("good").contains(point)));
        }
    }

    #[test]
    fn wrong_matrices_are_told() {
        for (text, message) in [
            ("{a: 1}", "axis `a` must be a list of values, not the number `1`"),
            ("{a: []}", "axis `a` has no values"),
            ("{a: [1, 1]}", "axis `a` has the number `1` twice"),
            (
                "{a: [[1]]}",
                "a value of axis `a` must be a string, number or boolean, not a list",
            ),
            ("{a: [1], exclude: [{b: 1}]}", "the matrix has no axis `b`"),
            ("{a: [1], exclude: [{a: 2}]}", "axis `a` has no value 2"),
            ("{a: [1], exclude: [{a: 1}]}", "the matrix has no points"),
            (
                "{a: [1], include: [{b: 1}]}",
                "a point of `include` must have exactly the axes `a`",
            ),
            (
                "{a: ['${matrix.b}']}",
                "`${matrix.b}` can't be used in `matrix`: there are no axes yet",
            ),
            ("[1]", "`matrix` must be a mapping of axes to lists, not a list"),
        ] {
            assert_eq!(read(text), Err(vec![message.to_owned()]), "{text}");
        }
    }
}
