//! From a pipeline to its graph: stages in order, expanded along their axes, each node with its inputs and its key.
//!
//! It goes on after a mistake wherever it can, so that all of them are told at once. It reads the files that
//! parameters and plugins name, for their digests, and nothing else from outside.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::axes::{AxisName, Expansion, Link, expand};
use super::contents::Contents;
use super::graph::Graph;
use super::key::Frame;
use super::model::{Output, Worker};
use super::params::{AtPoints, ByAxes, Param};
use super::stage::{Params, StageInput, StageNodes, StageRef};
use crate::digest::DigestCache;
use crate::spec::kind::{Kind, Provider};
use crate::spec::plugin::Code;
use crate::spec::{Class, Mistake, Mistakes, Pipeline, Resources, Stage, values};

/// Builds the graph of a pipeline.
///
/// `cache` spares reading large files that parameters name and that have not changed.
///
/// # Errors
/// All mistakes of the pipeline, those that [`crate::spec::load`] found among them.
pub fn build(pipeline: &Pipeline, cache: Option<&dyn DigestCache>) -> Result<Graph, Mistakes> {
    let mut builder = Builder {
        pipeline,
        contents: Contents::new(cache),
        expanded: pipeline.stages.iter().map(|_| None).collect(),
        graph: Graph::new(pipeline.name.clone(), pipeline.file.clone()),
        out: pipeline.mistakes.clone(),
    };
    for stage_idx in builder.order() {
        builder.add_stage(stage_idx);
    }
    Mistakes::check(builder.out)?;
    builder.graph.connect();
    let off = pipeline
        .off
        .iter()
        .map(|off| (off.name.to_string(), off.reason.clone()));
    builder.graph.off = off.collect();
    Ok(builder.graph)
}

/// A stage that was expanded.
struct Expanded {
    expansion: Expansion,
    /// The index of its nodes in the graph; absent if something is wrong with it or with what it needs.
    nodes: Option<usize>,
}

/// A stage of which everything is right.
struct Complete<'a> {
    stage: &'a Stage,
    kind: &'a Arc<Kind>,
    code: Option<Arc<Code>>,
    axes: Vec<AxisName>,
    params: Vec<Param>,
    inputs: Vec<StageInput>,
    resources: ByAxes<Resources>,
}

struct Builder<'a> {
    pipeline: &'a Pipeline,
    contents: Contents<'a>,
    /// By stage; absent while it is not expanded, or because it can't be.
    expanded: Vec<Option<Expanded>>,
    graph: Graph,
    out: Vec<Mistake>,
}

impl Builder<'_> {
    /// Returns the stages so that each comes after those it needs, otherwise in the order they were written; tells
    /// about circles and leaves them out.
    fn order(&mut self) -> Vec<usize> {
        let stages = &self.pipeline.stages;
        let producers: Vec<Vec<usize>> = stages.iter().map(|stage| self.producers(stage)).collect();
        let mut num_open: Vec<usize> = producers.iter().map(Vec::len).collect();
        let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); stages.len()];
        for (idx, producers) in producers.iter().enumerate() {
            producers.iter().for_each(|&producer| consumers[producer].push(idx));
        }
        let mut ready: BinaryHeap<Reverse<usize>> = (0..stages.len())
            .filter(|&idx| num_open[idx] == 0)
            .map(Reverse)
            .collect();
        let mut order = Vec::with_capacity(stages.len());
        while let Some(Reverse(idx)) = ready.pop() {
            order.push(idx);
            for &consumer in &consumers[idx] {
                num_open[consumer] -= 1;
                if num_open[consumer] == 0 {
                    ready.push(Reverse(consumer));
                }
            }
        }
        self.tell_cycles(&producers, &num_open);
        order
    }

    /// Returns the stages that a stage needs, once for every reference.
    fn producers(&self, stage: &Stage) -> Vec<usize> {
        let references = stage.needs.iter().flat_map(|need| &need.refs);
        references
            .filter_map(|reference| self.pipeline.stage_idx(&reference.stage))
            .collect()
    }

    fn tell_cycles(&mut self, producers: &[Vec<usize>], num_open: &[usize]) {
        let stages = &self.pipeline.stages;
        let mut is_seen = vec![false; stages.len()];
        for start in (0..stages.len()).filter(|&idx| num_open[idx] > 0) {
            // A stage that never became ready needs another such one, so the walk ends where it was before.
            let mut walk: Vec<usize> = Vec::new();
            let mut position: HashMap<usize, usize> = HashMap::new();
            let mut current = start;
            while !is_seen[current] {
                is_seen[current] = true;
                position.insert(current, walk.len());
                walk.push(current);
                match producers[current]
                    .iter()
                    .copied()
                    .find(|&producer| num_open[producer] > 0)
                {
                    Some(producer) => current = producer,
                    None => break,
                }
            }
            let Some(&begin) = position.get(&current) else { continue };
            let cycle = &walk[begin..];
            let names: Vec<&str> = cycle
                .iter()
                .chain(cycle.first())
                .map(|&idx| stages[idx].name.0.as_str())
                .collect();
            let next = cycle.get(1).unwrap_or(&cycle[0]);
            let references = stages[cycle[0]].needs.iter().flat_map(|need| &need.refs);
            let reference = references
                .into_iter()
                .find(|reference| reference.stage == stages[*next].name.0);
            let at = reference.map_or(&stages[cycle[0]].at, |reference| &reference.at);
            let message = format!("stages need each other in a circle: {}", names.join(" -> "));
            self.out.push(Mistake::new(at, message));
        }
    }

    fn add_stage(&mut self, stage_idx: usize) {
        let pipeline = self.pipeline;
        let stage = &pipeline.stages[stage_idx];
        let Some(kind) = &stage.kind else { return };
        let before = self.out.len();
        let slots = values::params(stage, kind, &mut self.out);
        let fixed = values::resources(stage, None, &mut self.out);
        let Some((expansion, links)) = self.expand(stage) else {
            return;
        };
        let axes: Vec<AxisName> = expansion.axes.iter().map(|axis| axis.name.clone()).collect();
        let at_points = AtPoints {
            stage,
            kind,
            axes: &axes,
            points: &expansion.points,
            values: &self.graph.values,
        };
        let mut identity_of = |schema: &_, value: &_, out: &mut Vec<Mistake>| {
            let identity = self.contents.identity(schema, value);
            let tell = |error| {
                out.push(Mistake::new(
                    &stage.at,
                    format!("stage `{}` has no key: {error}", stage.name),
                ))
            };
            identity.map_err(tell).ok()
        };
        let mut params = Vec::with_capacity(slots.len());
        for (idx, slot) in slots.into_iter().enumerate() {
            params.extend(at_points.param(idx, slot, &mut identity_of, &mut self.out));
        }
        let resources = at_points.resources(fixed, &mut self.out);
        let code = self.code(stage, kind);
        let inputs = self.inputs(stage, kind, links);
        let nodes = match (resources, code, inputs) {
            // A parameter that is missing was told where the stage was read.
            (Some(resources), Some(code), Some(inputs))
                if self.out.len() == before && params.len() == kind.params.0.len() =>
            {
                let complete = Complete {
                    stage,
                    kind,
                    code,
                    axes,
                    params,
                    inputs,
                    resources,
                };
                Some(self.graph.add_stage(self.nodes(complete, &expansion)))
            }
            _ => None,
        };
        // Stages below are still expanded and checked, though there will be no graph.
        self.expanded[stage_idx] = Some(Expanded { expansion, nodes });
    }

    fn expand(&mut self, stage: &Stage) -> Option<(Expansion, Vec<Link>)> {
        let matrix = stage.matrix.as_ref()?;
        let mut upstream = Vec::new();
        for reference in stage.needs.iter().flat_map(|need| &need.refs) {
            let producer = self.pipeline.stage_idx(&reference.stage)?;
            upstream.push(&self.expanded[producer].as_ref()?.expansion);
        }
        let (expansion, links) = expand(stage, matrix, &upstream, &mut self.graph.values, &mut self.out)?;
        let before = self.out.len();
        self.check_singles(stage, &links);
        (self.out.len() == before).then_some((expansion, links))
    }

    /// Tells about inputs that take one artifact and would get several.
    fn check_singles(&mut self, stage: &Stage, links: &[Link]) {
        let Some(kind) = stage.kind.as_ref().filter(|kind| !kind.is_open()) else {
            return;
        };
        let mut links = links.iter();
        for need in &stage.needs {
            let links: Vec<&Link> = links.by_ref().take(need.refs.len()).collect();
            let is_single = kind.input(&need.name.text).is_some_and(|input| !input.gathered);
            let num = links
                .first()
                .filter(|_| is_single && links.len() == 1)
                .map_or(0, |link| link.members.most());
            if num > 1 {
                let message = format!(
                    "input `{}` of `{}` takes one artifact; `gather` makes it {num}",
                    need.name.text, kind.name
                );
                let help = "gather fewer axes, or give this input to a stage of its own";
                self.out.push(Mistake::new(&need.name.at, message).help(help));
            }
        }
    }

    /// Returns the code of a stage's plugin, if it declares any; `None` after telling why it has none.
    fn code(&mut self, stage: &Stage, kind: &Kind) -> Option<Option<Arc<Code>>> {
        let Provider::Plugin(plugin) = &kind.provider else {
            return Some(None);
        };
        let code = self.contents.code(plugin).map_err(|error| {
            let at = stage.uses.as_ref().map_or(&stage.at, |uses| &uses.at);
            let message = format!("the code of plugin `{}` has no digest: {error}", plugin.name);
            self.out
                .push(Mistake::new(at, message).help("mend `code` in its plugin.yaml"));
        });
        code.ok()
    }

    /// Returns the inputs of a stage; `None` if a stage that it needs has no nodes.
    fn inputs(&self, stage: &Stage, kind: &Kind, links: Vec<Link>) -> Option<Vec<StageInput>> {
        let mut links = links.into_iter();
        let mut inputs = Vec::with_capacity(stage.needs.len());
        for need in &stage.needs {
            let mut refs = Vec::with_capacity(need.refs.len());
            let mut is_collapsed = false;
            for (reference, link) in need.refs.iter().zip(links.by_ref()) {
                let producer = self.pipeline.stage_idx(&reference.stage)?;
                let nodes = self.expanded[producer].as_ref()?.nodes?;
                is_collapsed |= link.is_collapsed;
                refs.push(StageRef::new(nodes, reference, link.members));
            }
            let gathered = match kind.input(&need.name.text) {
                Some(spec) => spec.gathered,
                None => need.is_list || is_collapsed,
            };
            inputs.push(StageInput::new(&need.name.text, gathered, refs));
        }
        Some(inputs)
    }

    fn nodes(&self, complete: Complete<'_>, expansion: &Expansion) -> StageNodes {
        let Complete { stage, kind, code, .. } = complete;
        let specs = stage.output_specs().unwrap_or_default();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let identity = kind
            .params
            .0
            .iter()
            .filter(|(_, schema)| schema.class == Class::Identity);
        let defaults = identity.filter_map(|(name, schema)| Some((name.clone(), schema.default.clone()?)));
        let output = |spec: &&crate::spec::kind::OutputSpec| Output {
            name: spec.name.clone(),
            type_name: spec.type_name.clone(),
        };
        StageNodes {
            name: stage.name.clone(),
            frame: Frame::new(
                &kind.name,
                kind.version,
                code.as_ref().map(|code| code.digest),
                kind.is_open().then_some(&names),
            ),
            code,
            axes: complete.axes,
            points: expansion.points.clone(),
            first: self.graph.len(),
            params: Params::new(kind, complete.params),
            inputs: complete.inputs,
            outputs: specs.iter().map(output).collect(),
            resources: complete.resources,
            worker: match &kind.provider {
                Provider::Command => Worker::Command {
                    directory: stage.home.dir.clone(),
                },
                Provider::Plugin(plugin) => Worker::Plugin {
                    program: plugin.program.clone(),
                    plugin: plugin.name.clone(),
                    dir: plugin.dir.clone(),
                },
            },
            defaults: Arc::new(defaults.collect()),
            kind: Arc::clone(kind),
        }
    }
}
