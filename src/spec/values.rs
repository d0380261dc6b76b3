//! The parameters and resources of a stage: checked once, and completed at each point of its axes.
//!
//! What does not depend on an axis is filled in and checked a single time, however many nodes the stage has.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::Stage;
use super::fill::Outcome;
use super::kind::Kind;
use super::mistake::Mistake;
use super::resources::Resources;
use super::scope::Point;
use super::yaml::{MAX_DEPTH, Tree};

/// A parameter or a resource of a stage.
#[derive(Debug, Clone)]
pub enum Slot {
    /// The same at every point, and right.
    Ready(Value),
    /// It depends on an axis.
    Pending(Tree),
    /// Something is wrong with it at every point.
    Wrong,
}

/// Returns every parameter of a stage, in the order of the kind's declaration.
///
/// One that is required and missing is `Wrong`, which is told elsewhere.
pub fn params(stage: &Stage, kind: &Kind, out: &mut Vec<Mistake>) -> Vec<Slot> {
    let slot = |(idx, (name, schema)): (usize, &(String, super::schema::Schema))| {
        let given = stage
            .with
            .iter()
            .find(|(key, _)| key.text == *name)
            .map(|(_, tree)| tree);
        match (given, &schema.default) {
            (Some(tree), _) => param_at(stage, kind, idx, tree, Point::Unknown, out),
            (None, Some(Value::String(path))) if schema.format.is_some() => {
                // A plugin's default is relative to the pipeline, wherever the kind was named.
                let at = stage.uses.as_ref().map_or(&stage.at, |uses| &uses.at);
                let tree = Tree::from_value(&stage.home.dir.join(path).to_string_lossy().into(), at);
                param_at(stage, kind, idx, &tree, Point::Unknown, out)
            }
            (None, Some(default)) => Slot::Ready(default.clone()),
            (None, None) => Slot::Wrong,
        }
    };
    kind.params.0.iter().enumerate().map(slot).collect()
}

/// Returns the parameter with index `idx` at a point.
pub fn param_at(stage: &Stage, kind: &Kind, idx: usize, tree: &Tree, point: Point<'_>, out: &mut Vec<Mistake>) -> Slot {
    let (name, schema) = &kind.params.0[idx];
    let home = &stage.home;
    match home.scope.fill(tree, point, schema.deferred, out) {
        Outcome::Value(filled) if filled.is_deeper_than(MAX_DEPTH) => {
            let message = format!("parameter `{name}` is nested more than {MAX_DEPTH} levels deep");
            out.push(
                Mistake::new(&tree.at, message).help("a reference brings a list or mapping in that is nested itself"),
            );
            Slot::Wrong
        }
        Outcome::Value(filled) => {
            let what = format!("parameter `{name}` of `{}`", kind.name);
            schema
                .check(&filled, &what, &home.dir, out)
                .map_or(Slot::Wrong, Slot::Ready)
        }
        Outcome::Pending => Slot::Pending(tree.clone()),
        Outcome::Wrong | Outcome::Kept => Slot::Wrong,
    }
}

/// Returns the resources of a stage; absent if they depend on an axis and no point is given.
pub fn resources(stage: &Stage, axes: Option<&BTreeMap<String, Tree>>, out: &mut Vec<Mistake>) -> Option<Resources> {
    let mut resources = Resources::default();
    let mut is_complete = true;
    for (key, tree) in &stage.resources {
        match stage
            .home
            .scope
            .fill(tree, axes.map_or(Point::Unknown, Point::At), false, out)
        {
            Outcome::Value(filled) => resources.set(&key.text, &filled, out),
            Outcome::Pending | Outcome::Wrong | Outcome::Kept => is_complete = false,
        }
    }
    is_complete.then_some(resources)
}
