//! `--sweep PATH=VALUES`: an axis from the command line.
//!
//! The axis is added to every stage that depends on the swept value and doesn't inherit the axis already. It is named by
//! the last word of the path. What it does to parameters is in `scope.rs`; here it is read, and given to stages.

use std::collections::HashMap;

use super::axis;
use super::document::Stage;
use super::matrix::Axis;
use super::mistake::{At, Mistake};
use super::overrides::Target;
use super::reference;
use super::scope::Swept;
use super::yaml::{self, Item, Key, Tree};

/// A `--sweep` that was read.
pub(super) struct Sweep {
    /// The axis, named where the path ends.
    name: Key,
    values: Vec<Tree>,
    /// What it varies.
    on: On,
}

enum On {
    /// A parameter of the pipeline, by its dotted path.
    Param(String),
    /// A value in one stage.
    Stage(String),
}

/// Reads every `--sweep`, and lets swept values of stages refer to their axes.
pub(super) fn read(root: &mut Tree, options: &[String], out: &mut Vec<Mistake>) -> Vec<Sweep> {
    let mut sweeps: Vec<Sweep> = Vec::new();
    for option in options {
        let Some(sweep) = read_one(root, option, out) else {
            continue;
        };
        if sweeps.iter().any(|other| other.name.text == sweep.name.text) {
            let message = format!("two sweeps have the axis `{}`", sweep.name.text);
            out.push(Mistake::new(&sweep.name.at, message).help("an axis is named by the last word of its path"));
            continue;
        }
        sweeps.push(sweep);
    }
    sweeps
}

fn read_one(root: &mut Tree, option: &str, out: &mut Vec<Mistake>) -> Option<Sweep> {
    let target = Target::read("--sweep", option, "learning_rate=1e-5,3e-5", out)?;
    let name = target.parts.last()?.clone();
    let before = out.len();
    let values = read_values(&name, &target.value, out)?;
    let path: Vec<&str> = target.parts.iter().map(|part| part.text.as_str()).collect();
    let on = match target.section.as_str() {
        "params" => {
            check_param(root, &target, out);
            On::Param(path.join("."))
        }
        "stages" if path.get(1).is_some_and(|part| matches!(*part, "with" | "resources")) && path.len() > 2 => {
            let reference = Tree {
                item: Item::Text(format!("${{matrix.{}}}", name.text)),
                at: name.at.clone(),
            };
            target.set(root, reference, out);
            On::Stage(path[0].to_owned())
        }
        _ => {
            let message = "only parameters can be swept";
            let help = "write --sweep PARAMETER=VALUES or --sweep stages.NAME.with.PARAMETER=VALUES";
            out.push(Mistake::new(&target.parts[0].at, message).help(help));
            return None;
        }
    };
    (out.len() == before).then_some(Sweep { name, values, on })
}

/// Tells about a parameter that there is not, or that is no single value.
fn check_param(root: &mut Tree, target: &Target, out: &mut Vec<Mistake>) {
    let path: Vec<&str> = target.parts.iter().map(|part| part.text.as_str()).collect();
    let found = path
        .iter()
        .try_fold(root.get("params"), |tree, part| Some(tree?.get(part)));
    match found.flatten() {
        Some(tree) if matches!(tree.item, Item::Map(_)) => {
            let message = format!("`params.{}` is a mapping, which can't be swept", path.join("."));
            out.push(Mistake::new(&target.parts[path.len() - 1].at, message).help("sweep one of its members"));
        }
        Some(_) => {}
        // Setting it tells what there is instead.
        None => target.set(
            &mut root.clone(),
            Tree::from_value(&serde_json::Value::Null, &target.value),
            out,
        ),
    }
}

/// Reads `1,2,3`, `[1, 2, 3]` or a form such as `{range: [1, 5]}`.
fn read_values(name: &Key, at: &At, out: &mut Vec<Mistake>) -> Option<Vec<Tree>> {
    let before = out.len();
    let text = at.text().trim();
    let tree = if text.starts_with(['[', '{']) {
        yaml::parse(at, out)?
    } else {
        let mut items = Vec::new();
        let base = at.bytes().start;
        for (start, part) in reference::split(at.text(), ',') {
            let place = at.part(base + start..base + start + part.len());
            if part.is_empty() {
                out.push(Mistake::new(
                    &name.at,
                    format!("axis `{}` has an empty value", name.text),
                ));
                continue;
            }
            items.extend(yaml::scalar(part, &place, out));
        }
        Tree {
            item: Item::List(items),
            at: at.clone(),
        }
    };
    if out.len() > before {
        return None;
    }
    axis::values(name, &tree, true, out)
}

/// Returns the parameters that have the value of an axis.
pub(super) fn swept(sweeps: &[Sweep]) -> Vec<Swept> {
    let swept = sweeps.iter().filter_map(|sweep| match &sweep.on {
        On::Param(path) => Some(Swept {
            path: path.clone(),
            axis: sweep.name.text.clone(),
        }),
        On::Stage(_) => None,
    });
    swept.collect()
}

/// Adds the axes of all sweeps to the stages that depend on what they vary.
pub(super) fn apply(stages: &mut [Stage], index: &HashMap<String, usize>, sweeps: &[Sweep], out: &mut Vec<Mistake>) {
    for sweep in sweeps {
        let name = sweep.name.text.as_str();
        let taken = stages.iter().find(|stage| {
            let axes = stage.matrix.as_ref().map_or(&[][..], |matrix| &matrix.axes);
            axes.iter().any(|axis| axis.name.text == name)
        });
        if let Some(taken) = taken {
            let message = format!("stage `{}` has an axis `{name}` already", taken.name);
            let help = format!(
                "change its values with --set 'stages.{}.matrix.{name}=[...]'",
                taken.name
            );
            out.push(Mistake::new(&sweep.name.at, message).help(help));
            continue;
        }
        let depends: Vec<bool> = stages.iter().map(|stage| sweep.varies(stage)).collect();
        // A `matrix` or `when` that depends on it was told about where it is filled in.
        let is_told = stages.iter().any(|stage| sweep.reaches_axes(stage));
        if !depends.contains(&true) && !is_told {
            let message = format!("no stage depends on `{name}`, so there is nothing to sweep");
            out.push(Mistake::new(&sweep.name.at, message));
            continue;
        }
        for idx in added(stages, index, &depends, name) {
            let stage = &mut stages[idx];
            let axis = Axis {
                name: sweep.name.clone(),
                values: sweep.values.clone(),
            };
            stage.matrix = stage.matrix.take().and_then(|matrix| matrix.multiply(axis, out));
        }
    }
}

impl Sweep {
    fn reaches_axes(&self, stage: &Stage) -> bool {
        let On::Param(path) = &self.on else { return false };
        let mut trees = stage.matrix_tree.iter().chain(&stage.when);
        trees.any(|tree| stage.home.scope.depends(tree, path))
    }

    fn varies(&self, stage: &Stage) -> bool {
        match &self.on {
            On::Stage(name) => stage.name.0 == *name,
            On::Param(path) => stage
                .with
                .iter()
                .chain(&stage.resources)
                .any(|(_, tree)| stage.home.scope.depends(tree, path)),
        }
    }
}

/// Returns the stages that depend on a swept value and don't inherit its axis.
fn added(stages: &[Stage], index: &HashMap<String, usize>, depends: &[bool], axis: &str) -> Vec<usize> {
    let inherits_from = |stage: &Stage| -> Vec<usize> {
        if stage.gather.iter().any(|key| key.text == axis || key.text == "*") {
            return Vec::new();
        }
        let references = stage.needs.iter().flat_map(|need| &need.refs);
        let carried = references.filter(|reference| !reference.point.iter().any(|(key, _)| key.text == axis));
        let own = carried.filter(|reference| reference.file.is_none());
        own.filter_map(|reference| index.get(&reference.stage).copied())
            .collect()
    };
    let producers: Vec<Vec<usize>> = stages.iter().map(inherits_from).collect();
    // Whatever is below a stage that depends has the axis from there, at the latest.
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); stages.len()];
    for (idx, producers) in producers.iter().enumerate() {
        producers.iter().for_each(|&producer| consumers[producer].push(idx));
    }
    let mut inherits = vec![false; stages.len()];
    let mut open: Vec<usize> = (0..stages.len()).filter(|&idx| depends[idx]).collect();
    while let Some(idx) = open.pop() {
        for &consumer in &consumers[idx] {
            if !inherits[consumer] {
                inherits[consumer] = true;
                open.push(consumer);
            }
        }
    }
    (0..stages.len())
        .filter(|&idx| depends[idx] && !inherits[idx])
        .collect()
}
