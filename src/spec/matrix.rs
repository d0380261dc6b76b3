//! The `matrix` of a stage: its axes, their values and the points that are left of their product.
//!
//! It knows the axes that one stage adds and not those it inherits; `graph` joins the two.

use std::collections::HashSet;

use serde_json::Value;

use super::document::is_name;
use super::mistake::{At, Mistake, listed};
use super::schema::text_of;
use super::scope::{Outcome, Point, Scope};
use super::yaml::{Item, Key, Tree};
use crate::digest::canonical;

/// More points than this are taken for a mistake.
const MAX_POINTS: usize = 1_000_000;

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
    /// The values: strings, numbers and booleans.
    pub values: Vec<Tree>,
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
    pub fn read(tree: &Tree, scope: &Scope, out: &mut Vec<Mistake>) -> Option<Matrix> {
        let before = out.len();
        let Item::Map(entries) = &tree.item else {
            let message = format!("`matrix` must be a mapping of axes to lists, not {}", tree.described());
            out.push(Mistake::new(&tree.at, message));
            return None;
        };
        let mut axes: Vec<Axis> = Vec::new();
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for (key, tree) in entries {
            let Outcome::Value(tree) = scope.fill(tree, Point::Nowhere("`matrix`"), false, out) else {
                continue;
            };
            match key.text.as_str() {
                "include" => include = points(key, &tree, out),
                "exclude" => exclude = points(key, &tree, out),
                _ => axes.extend(axis(key, &tree, out)),
            }
        }
        if out.len() > before {
            return None;
        }
        axes.sort_by(|a, b| a.name.text.cmp(&b.name.text));
        let mut matrix = Matrix {
            points: product(&axes, &tree.at, out)?,
            axes,
        };
        if matrix.axes.is_empty() {
            matrix.points.clear();
        }
        exclude.iter().for_each(|point| matrix.exclude(point, out));
        include.iter().for_each(|point| matrix.include(point, out));
        if matrix.points.is_empty() && out.len() == before {
            out.push(Mistake::new(&tree.at, "the matrix has no points"));
        }
        let mut points: Vec<Vec<usize>> = std::mem::take(&mut matrix.points);
        points.sort_unstable();
        points.dedup();
        (out.len() == before).then_some(Matrix { points, ..matrix })
    }

    /// Removes the points that agree with a partial one.
    fn exclude(&mut self, point: &[(Key, Tree)], out: &mut Vec<Mistake>) {
        let mut wanted = Vec::new();
        for (key, tree) in point {
            let Some(idx) = self.axes.iter().position(|axis| axis.name.text == key.text) else {
                let names = self.axes.iter().map(|axis| axis.name.text.as_str());
                out.push(Mistake::unknown(
                    &key.at,
                    format!("the matrix has no axis `{}`", key.text),
                    &key.text,
                    names,
                ));
                return;
            };
            let value = tree.to_value();
            let Some(rank) = self.axes[idx].values.iter().position(|tree| tree.to_value() == value) else {
                let message = format!("axis `{}` has no value {}", key.text, text_of(&value));
                out.push(Mistake::new(&tree.at, message));
                return;
            };
            wanted.push((idx, rank));
        }
        self.points
            .retain(|point| !wanted.iter().all(|&(idx, rank)| point[idx] == rank));
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
        if !names
            .iter()
            .copied()
            .eq(self.axes.iter().map(|axis| axis.name.text.as_str()))
        {
            let axes: Vec<&str> = self.axes.iter().map(|axis| axis.name.text.as_str()).collect();
            let message = format!("a point of `include` must have exactly the axes {}", listed(&axes));
            let at = point
                .first()
                .map_or_else(|| self.axes[0].name.at.clone(), |(key, _)| key.at.clone());
            out.push(Mistake::new(&at, message));
            return;
        }
        let rank = |axis: &mut Axis| {
            let tree = point
                .iter()
                .find(|(key, _)| key.text == axis.name.text)
                .map(|(_, tree)| tree)?;
            let value = tree.to_value();
            Some(
                axis.values
                    .iter()
                    .position(|tree| tree.to_value() == value)
                    .unwrap_or_else(|| {
                        axis.values.push(tree.clone());
                        axis.values.len() - 1
                    }),
            )
        };
        self.points
            .extend(self.axes.iter_mut().map(rank).collect::<Option<Vec<usize>>>());
    }
}

fn axis(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<Axis> {
    if !is_name(&key.text) {
        let help = "a name has letters, digits, `_` and `-`, and begins with a letter";
        out.push(Mistake::new(&key.at, format!("`{}` can't be the name of an axis", key.text)).help(help));
    }
    let Item::List(items) = &tree.item else {
        let message = format!("axis `{}` must be a list of values, not {}", key.text, tree.described());
        out.push(Mistake::new(&tree.at, message).help("write it as a list: `[...]`"));
        return None;
    };
    if items.is_empty() {
        out.push(Mistake::new(&tree.at, format!("axis `{}` has no values", key.text)));
    }
    let mut seen: HashSet<String> = HashSet::new();
    for item in items {
        if check_value(key, item, out) && !seen.insert(canonical::to_string(&item.to_value()).unwrap_or_default()) {
            out.push(Mistake::new(
                &item.at,
                format!("axis `{}` has {} twice", key.text, item.described()),
            ));
        }
    }
    Some(Axis {
        name: key.clone(),
        values: items.clone(),
    })
}

/// Tells whether a value can be a coordinate.
fn check_value(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> bool {
    let is_good = match &tree.item {
        Item::Text(_) | Item::Plain(Value::Bool(_) | Value::Number(_)) => true,
        Item::Plain(_) | Item::List(_) | Item::Map(_) => false,
    };
    if !is_good {
        let message = format!(
            "a value of axis `{}` must be a string, number or boolean, not {}",
            key.text,
            tree.described()
        );
        out.push(Mistake::new(&tree.at, message));
    }
    is_good
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
            Item::Map(entries) if !entries.is_empty() => {
                if entries
                    .iter()
                    .filter(|(key, tree)| !check_value(key, tree, out))
                    .count()
                    == 0
                {
                    points.push(entries.clone());
                }
            }
            _ => out.push(Mistake::new(
                &item.at,
                format!("a point is a mapping of axes to values, not {}", item.described()),
            )),
        }
    }
    points
}

/// Returns the product of the axes, the last one varying fastest.
fn product(axes: &[Axis], at: &At, out: &mut Vec<Mistake>) -> Option<Vec<Vec<usize>>> {
    let num_points = axes
        .iter()
        .try_fold(1usize, |product, axis| product.checked_mul(axis.values.len()));
    if num_points.is_none_or(|num| num > MAX_POINTS) {
        out.push(Mistake::new(
            at,
            format!("the matrix has more than {MAX_POINTS} points"),
        ));
        return None;
    }
    let mut points: Vec<Vec<usize>> = vec![Vec::new()];
    for axis in axes {
        let longer = |point: &Vec<usize>| {
            let point = point.clone();
            (0..axis.values.len())
                .map(move |rank| point.iter().copied().chain([rank]).collect())
                .collect::<Vec<_>>()
        };
        points = points.iter().flat_map(longer).collect();
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::yaml;

    fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
        let mut out = Vec::new();
        let params = yaml::parse(&At::whole("p", "{seeds: [1, 2]}"), &mut out).expect("YAML");
        let scope = Scope::new(&params, Vec::new(), "", &mut out);
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
