//! The parameters and resources of a stage at each of its points, without work that points could share.
//!
//! A parameter is the same everywhere, a text with coordinates in it, or something that is worked out once for each
//! combination of the coordinates that it depends on. Everything is checked while this is made: what it gives at a
//! point afterwards is right.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::axes::{AxisName, Values};
use super::points::Points;
use crate::digest::canonical;
use crate::spec::kind::Kind;
use crate::spec::template;
use crate::spec::values::{self, Slot};
use crate::spec::{Class, Item, Mistake, Outcome, Point, Resources, Schema, Stage, Tree, Type};

/// Marks the place of a coordinate while a text is filled in; private characters, which no pipeline has.
const MARK: [char; 2] = ['\u{f8f0}', '\u{f8f1}'];

/// A parameter of a stage.
#[derive(Debug)]
pub(super) enum Param {
    /// The same at every point.
    Fixed(Checked),
    /// A string with coordinates in it.
    Text { pieces: Pieces, in_key: bool },
    /// Anything else that depends on the axes.
    ByAxes(ByAxes<Checked>),
}

/// A value that was checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    /// As the worker gets it.
    pub value: Value,
    /// As it stands in the key, in canonical form; absent if it doesn't.
    pub identity: Option<Box<str>>,
}

/// A text cut at its coordinates.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Vec<Piece>,
    /// Whether a second filling in follows, so that what looks like a reference must not become one.
    deferred: bool,
}

/// A piece of a text.
#[derive(Debug)]
enum Piece {
    /// What stands between coordinates; where a second filling in follows, with the references for it.
    Literal(Box<str>),
    /// The coordinate in this column.
    Axis(usize),
}

impl Pieces {
    /// Appends the text at a point to one that is empty.
    fn push(&self, out: &mut String, point: &[u32], values: &Values) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) if self.deferred => template::push_template(out, text),
                Piece::Literal(text) => out.push_str(text),
                Piece::Axis(column) => match &values.tree(point[*column]).item {
                    Item::Text(text) if self.deferred => template::push_text(out, text),
                    Item::Text(text) => out.push_str(text),
                    // Of a plain value the canonical text is the one that people write.
                    _ => out.push_str(values.canonical(point[*column])),
                },
            }
        }
    }
}

/// Something that depends on some of the axes, worked out for each combination that there is.
#[derive(Debug)]
pub(super) struct ByAxes<T> {
    columns: Vec<usize>,
    known: HashMap<Box<[u32]>, T>,
}

impl<T> ByAxes<T> {
    /// Calls `work` with one point for each combination; `None` if some call gave none.
    fn new(columns: Vec<usize>, points: &Points, mut work: impl FnMut(&[u32]) -> Option<T>) -> Option<ByAxes<T>> {
        let mut known = HashMap::new();
        let mut is_complete = true;
        for (idx, key) in points.project(&columns).iter().enumerate() {
            if !known.contains_key(key) {
                // Each combination is tried, so that all mistakes are told.
                match work(points.get(idx)) {
                    Some(value) => drop(known.insert(key.into(), value)),
                    None => is_complete = false,
                }
            }
        }
        is_complete.then_some(ByAxes { columns, known })
    }

    /// Returns what there is at a point.
    pub fn at(&self, point: &[u32]) -> &T {
        let mut key = [0; 8];
        let found = match key.get_mut(..self.columns.len()) {
            Some(key) => {
                key.iter_mut()
                    .zip(&self.columns)
                    .for_each(|(part, &column)| *part = point[column]);
                self.known.get(&*key)
            }
            None => self
                .known
                .get(&*self.columns.iter().map(|&column| point[column]).collect::<Vec<u32>>()),
        };
        found.expect("every combination of the stage's points was worked out")
    }
}

impl Param {
    /// Returns the value at a point as the worker gets it.
    pub fn value(&self, point: &[u32], values: &Values) -> Value {
        match self {
            Param::Fixed(checked) => checked.value.clone(),
            Param::ByAxes(by_axes) => by_axes.at(point).value.clone(),
            Param::Text { pieces, .. } => {
                let mut text = String::new();
                pieces.push(&mut text, point, values);
                Value::String(text)
            }
        }
    }

    /// Returns a text that differs for two parameters that have other values at some point.
    pub fn summary(&self, values: &Values) -> String {
        match self {
            Param::Fixed(checked) => checked.value.to_string(),
            Param::Text { pieces, .. } => format!("{pieces:?}"),
            Param::ByAxes(by_axes) => {
                let line = |key: &[u32], checked: &Checked| {
                    let key: Vec<&str> = key.iter().map(|&value| values.canonical(value)).collect();
                    format!("{key:?} {}", checked.value)
                };
                let lines = by_axes.known.iter().map(|(key, checked)| line(key, checked));
                let mut lines: Vec<String> = lines.collect();
                lines.sort_unstable();
                lines.join("\n")
            }
        }
    }

    /// Appends what a point contributes to the key, if anything, and tells whether there was something.
    pub fn push_identity(
        &self,
        out: &mut String,
        name: &str,
        point: &[u32],
        values: &Values,
        scratch: &mut String,
    ) -> bool {
        let identity = match self {
            Param::Fixed(checked) => checked.identity.as_deref(),
            Param::ByAxes(by_axes) => by_axes.at(point).identity.as_deref(),
            Param::Text { in_key: false, .. } => None,
            Param::Text { pieces, .. } => {
                scratch.clear();
                pieces.push(scratch, point, values);
                out.push_str(name);
                canonical::push_string(out, scratch);
                return true;
            }
        };
        if let Some(identity) = identity {
            out.push_str(name);
            out.push_str(identity);
        }
        identity.is_some()
    }
}

/// A stage with its points, as far as its parameters need to know it.
pub(super) struct AtPoints<'a> {
    pub stage: &'a Stage,
    pub kind: &'a Kind,
    pub axes: &'a [AxisName],
    pub points: &'a Points,
    pub values: &'a Values,
}

impl AtPoints<'_> {
    /// Completes a parameter, given what is known of it without the axes; `None` after telling `out` what is wrong.
    ///
    /// `identity_of` returns what a value contributes to the key.
    pub fn param(
        &self,
        idx: usize,
        slot: Slot,
        mut identity_of: impl FnMut(&Schema, &Value, &mut Vec<Mistake>) -> Option<Option<Box<str>>>,
        out: &mut Vec<Mistake>,
    ) -> Option<Param> {
        let schema = &self.kind.params.0[idx].1;
        let mut checked = |slot: Slot, out: &mut Vec<Mistake>| match slot {
            Slot::Ready(value) => Some(Checked {
                identity: identity_of(schema, &value, out)?,
                value,
            }),
            Slot::Pending(_) | Slot::Wrong => None,
        };
        let tree = match slot {
            Slot::Pending(tree) => tree,
            slot => return checked(slot, out).map(Param::Fixed),
        };
        if let Some(pieces) = self.pieces(&tree, schema) {
            let in_key = schema.class == Class::Identity;
            return Some(Param::Text { pieces, in_key });
        }
        let columns = self.columns(&[&tree]);
        let by_axes = ByAxes::new(columns, self.points, |point| {
            let axes = self.axes_at(point);
            let slot = values::param_at(self.stage, self.kind, idx, &tree, Point::At(&axes), out);
            checked(slot, out)
        });
        by_axes.map(Param::ByAxes)
    }

    /// Returns the resources of the stage; `None` after telling `out` what is wrong with them.
    pub fn resources(&self, fixed: Option<Resources>, out: &mut Vec<Mistake>) -> Option<ByAxes<Resources>> {
        let trees: Vec<&Tree> = self.stage.resources.iter().map(|(_, tree)| tree).collect();
        let columns = if fixed.is_some() {
            Vec::new()
        } else {
            self.columns(&trees)
        };
        ByAxes::new(columns, self.points, |point| {
            let here = || values::resources(self.stage, Some(&self.axes_at(point)), out);
            fixed.clone().or_else(here)
        })
    }

    /// Returns the columns of the axes that some trees refer to.
    fn columns(&self, trees: &[&Tree]) -> Vec<usize> {
        let mut names = BTreeSet::new();
        trees
            .iter()
            .for_each(|tree| self.stage.home.scope.axes_in(tree, &mut names));
        let is_used = |column: &usize| names.contains(&*self.axes[*column]);
        (0..self.axes.len()).filter(is_used).collect()
    }

    fn axes_at(&self, point: &[u32]) -> BTreeMap<String, Tree> {
        let axes = self.axes.iter().zip(point);
        axes.map(|(axis, &value)| (axis.to_string(), self.values.tree(value).clone()))
            .collect()
    }

    /// Cuts a text at its coordinates, if all that is asked of it is to be a string.
    ///
    /// It is filled in once, as any text is, with a mark for each coordinate.
    fn pieces(&self, tree: &Tree, schema: &Schema) -> Option<Pieces> {
        let is_plain_string = schema.values.is_empty()
            && schema.format.is_none()
            && (schema.types.is_empty() || schema.types.contains(&Type::String))
            && !schema.default.as_ref().is_some_and(Value::is_string);
        let text = tree.as_text().filter(|text| is_plain_string && !text.contains(MARK))?;
        // Of a scalar that is one reference the type survives, so it may be no string.
        if matches!(
            template::parse(text).as_deref(),
            Ok([template::Part::Reference(_) | template::Part::Default { .. }])
        ) {
            return None;
        }
        let marked = (0..).zip(self.axes).map(|(column, axis): (usize, _)| {
            let item = Item::Text(format!("{}{column}{}", MARK[0], MARK[1]));
            let at = tree.at.clone();
            (axis.to_string(), Tree { item, at })
        });
        let mut wrong = Vec::new();
        let marked: BTreeMap<String, Tree> = marked.collect();
        let filled = match self
            .stage
            .home
            .scope
            .fill(tree, Point::At(&marked), schema.deferred, &mut wrong)
        {
            Outcome::Value(filled) if wrong.is_empty() => filled,
            // The ordinary way tells what is wrong.
            _ => return None,
        };
        let mut pieces = Vec::new();
        for (idx, part) in filled.as_text()?.split(MARK[0]).enumerate() {
            let literal = match part.split_once(MARK[1]).filter(|_| idx > 0) {
                None => part,
                Some((column, rest)) => {
                    pieces.push(Piece::Axis(column.parse().ok()?));
                    rest
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.into()));
            }
        }
        Some(Pieces {
            pieces,
            deferred: schema.deferred,
        })
    }
}
