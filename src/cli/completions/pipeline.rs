//! What a pipeline has to offer: stages with their axes, parameters, profiles.
//!
//! It reads the pipeline but builds no graph: that would read the files that parameters name, and expand every node.
//! So coordinates are completed axis by axis, and a point that the matrix leaves out may be offered as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::Candidate;
use crate::graph::axis_text;
use crate::spec::{Options, Pipeline, Reference, Stage, Tree, load};

/// Larger files are no pipelines that a person wrote.
const MAX_BYTES: u64 = 4 << 20;

/// What a word may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// One node.
    One,
    /// A stage, or a node of it.
    Several,
    /// A node or an output of it.
    Output,
}

/// The values of each axis of a stage.
type Axes = BTreeMap<String, Vec<String>>;

/// Reads a pipeline, with or without mistakes, if it is a file of a sensible size.
pub(super) fn read(file: &Path, options: &Options) -> Option<Pipeline> {
    let metadata = fs::metadata(file).ok()?;
    (metadata.is_file() && metadata.len() <= MAX_BYTES).then(|| load(file, options).ok())?
}

/// Returns the profiles.
pub(super) fn profiles(pipeline: &Pipeline) -> Vec<Candidate> {
    pipeline
        .profiles
        .iter()
        .map(|name| Candidate::whole(name, ""))
        .collect()
}

/// Returns the stages.
pub(super) fn stages(pipeline: &Pipeline) -> Vec<Candidate> {
    let about = |stage: &Stage| stage.uses.as_ref().map(|uses| uses.text.clone()).unwrap_or_default();
    let stages = pipeline.stages.iter();
    stages
        .map(|stage| Candidate::whole(&stage.name.0, about(stage)))
        .collect()
}

/// Returns the names of parameters, up to the `=`, and behind `stages.` those of stages.
pub(super) fn params(pipeline: &Pipeline, current: &str) -> Vec<Candidate> {
    if current.contains('=') {
        return Vec::new();
    }
    let prefix = if current.starts_with("params.") { "params." } else { "" };
    let names = pipeline.home.scope.param_names();
    let is_mapping = |name: &str| names.iter().any(|other| other.starts_with(&format!("{name}.")));
    let leaves = names.iter().filter(|name| !is_mapping(name));
    let mut found: Vec<Candidate> = leaves
        .map(|name| Candidate::part(format!("{prefix}{name}="), ""))
        .collect();
    match current.strip_prefix("stages.").map(|rest| rest.split_once('.')) {
        None => found.push(Candidate::part("stages.", "parameters of a stage")),
        Some(None) => {
            // What another pipeline says can't be changed from here.
            let own = |stage: &&Stage| Arc::ptr_eq(&stage.home, &pipeline.home);
            found = pipeline
                .stages
                .iter()
                .filter(own)
                .map(|stage| Candidate::part(format!("stages.{}.", stage.name), ""))
                .collect();
        }
        Some(Some((stage, _))) => {
            let kind = pipeline
                .stage_idx(stage)
                .and_then(|idx| pipeline.stages[idx].kind.as_ref());
            let param = |(name, schema): &(String, crate::spec::Schema)| {
                Candidate::part(format!("stages.{stage}.with.{name}="), &schema.description)
            };
            found = kind
                .into_iter()
                .flat_map(|kind| kind.params.0.iter().map(param))
                .collect();
        }
    }
    found
}

/// Returns names of nodes.
pub(super) fn nodes(pipeline: &Pipeline, current: &str, named: Named) -> Vec<Candidate> {
    if let Some((stage, coordinates)) = current.split_once('[') {
        let Some(idx) = pipeline.stage_idx(stage) else {
            return Vec::new();
        };
        return match coordinates.split_once(']') {
            None => coordinate(current, coordinates, &axes(pipeline)[idx], named),
            Some((coordinates, _)) if named == Named::Output => {
                outputs(pipeline, &format!("{stage}[{coordinates}]"), idx)
            }
            Some(_) => Vec::new(),
        };
    }
    // In the name of a stage of another pipeline there is a dot as well.
    let name_start = current.find('#').map_or(0, |idx| idx + 1);
    let dot = current[name_start..].find('.').map(|idx| name_start + idx);
    if let Some(idx) = dot.and_then(|dot| pipeline.stage_idx(&current[..dot]).filter(|_| named == Named::Output)) {
        return outputs(pipeline, &pipeline.stages[idx].name.0, idx);
    }
    let mut found = Vec::new();
    for (stage, axes) in pipeline.stages.iter().zip(axes(pipeline)) {
        let about = stage.uses.as_ref().map(|uses| uses.text.as_str()).unwrap_or_default();
        let has_axes = !axes.is_empty();
        if !has_axes || named == Named::Several {
            found.push(Candidate::whole(&stage.name.0, about));
        }
        if has_axes {
            found.push(Candidate::part(format!("{}[", stage.name), about));
        } else if named == Named::Output {
            found.push(Candidate::part(format!("{}.", stage.name), about));
        }
    }
    found
}

fn outputs(pipeline: &Pipeline, node: &str, stage_idx: usize) -> Vec<Candidate> {
    let specs = pipeline.stages[stage_idx].output_specs().unwrap_or_default();
    let output = |name: &str, about: &str| Candidate::whole(format!("{node}.{name}"), about);
    let outputs = specs.iter().map(|spec| output(&spec.name, &spec.type_name));
    std::iter::once(Candidate::whole(node, "")).chain(outputs).collect()
}

/// Returns what may follow the coordinates so far, as whole words: an axis, a value, or the end.
fn coordinate(current: &str, coordinates: &str, axes: &Axes, named: Named) -> Vec<Candidate> {
    let (done, last) = coordinates.rsplit_once(',').unwrap_or(("", coordinates));
    let before = &current[..current.len() - last.len()];
    let is_given = |axis: &str| done.split(',').any(|given| given.split('=').next() == Some(axis));
    let open: Vec<&String> = axes.keys().filter(|axis| !is_given(axis)).collect();
    let Some((axis, _)) = last.split_once('=') else {
        return open
            .iter()
            .map(|axis| Candidate::part(format!("{before}{axis}="), ""))
            .collect();
    };
    let num_left = open.iter().filter(|name| **name != axis).count();
    let mut found = Vec::new();
    for value in axes.get(axis).into_iter().flatten() {
        if num_left > 0 {
            found.push(Candidate::part(format!("{before}{axis}={value},"), ""));
        }
        // Fewer coordinates than axes name several nodes.
        if num_left == 0 || named == Named::Several {
            found.push(Candidate::whole(format!("{before}{axis}={value}]"), ""));
        }
    }
    found
}

/// Returns the axes of every stage: its own and those of its inputs, less what a reference fixes or the stage gathers. Stages that need each other
/// in a circle have their own alone.
fn axes(pipeline: &Pipeline) -> Vec<Axes> {
    let stages = &pipeline.stages;
    let mut axes: Vec<Axes> = stages.iter().map(own_axes).collect();
    let mut num_open = vec![0; stages.len()];
    let mut consumers: Vec<Vec<(usize, &Reference)>> = vec![Vec::new(); stages.len()];
    for (idx, stage) in stages.iter().enumerate() {
        let references = stage.needs.iter().flat_map(|need| &need.refs);
        for reference in references {
            if let Some(producer) = pipeline.stage_idx(&reference.stage) {
                consumers[producer].push((idx, reference));
                num_open[idx] += 1;
            }
        }
    }
    let mut ready: Vec<usize> = (0..stages.len()).filter(|&idx| num_open[idx] == 0).collect();
    while let Some(idx) = ready.pop() {
        for &(consumer, reference) in &consumers[idx] {
            let is_fixed = |axis: &str| reference.point.iter().any(|(key, _)| key.text == axis);
            let is_gathered = |axis: &str| {
                stages[consumer]
                    .gather
                    .iter()
                    .any(|key| key.text == axis || key.text == "*")
            };
            let carried: Axes = axes[idx]
                .clone()
                .into_iter()
                .filter(|(axis, _)| !is_fixed(axis) && !is_gathered(axis))
                .collect();
            axes[consumer].extend(carried);
            num_open[consumer] -= 1;
            if num_open[consumer] == 0 {
                ready.push(consumer);
            }
        }
    }
    axes
}

fn own_axes(stage: &Stage) -> Axes {
    let own = stage.matrix.iter().flat_map(|matrix| &matrix.axes);
    let text = |value: &Tree| axis_text(&value.to_value());
    own.map(|axis| (axis.name.text.clone(), axis.values.iter().map(text).collect()))
        .collect()
}
