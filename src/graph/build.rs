//! From a pipeline to its graph: stages in order, expanded along their axes, each node with its inputs and its key.
//!
//! It goes on after a mistake wherever it can, so that all of them are told at once. It reads the files that
//! parameters and plugins name, for their digests, and nothing else from outside.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::{Map, Value};

use super::axes::{Coordinates, Expansion, Link, Values, expand};
use super::key::{self, Identity};
use super::model::{Axes, Graph, InputItem, Node, NodeId, NodeInput, Output, Worker};
use crate::digest::{Digest, DigestCache, FileError, path_digest};
use crate::spec::kind::{Kind, Plugin, Provider};
use crate::spec::values::{self, Slot};
use crate::spec::{Class, Mistake, Mistakes, Pipeline, Point, Resources, Schema, Stage, Tree};

/// Builds the graph of a pipeline.
///
/// `cache` spares reading large files that parameters name and that have not changed.
///
/// # Errors
/// All mistakes of the pipeline, those that [`crate::spec::load`] found among them.
pub fn build(pipeline: &Pipeline, cache: Option<&dyn DigestCache>) -> Result<Graph, Mistakes> {
    let mut builder = Builder {
        pipeline,
        contents: Contents {
            cache,
            files: HashMap::new(),
            code: HashMap::new(),
        },
        values: Values::default(),
        expanded: pipeline.stages.iter().map(|_| None).collect(),
        nodes: Vec::new(),
        out: pipeline.mistakes.clone(),
    };
    for stage_idx in builder.order() {
        builder.add_stage(stage_idx);
    }
    Mistakes::check(builder.out)?;
    let dag = dag(&builder.nodes);
    Ok(Graph {
        pipeline: pipeline.name.clone(),
        file: pipeline.file.clone(),
        nodes: builder.nodes,
        dag,
    })
}

fn dag(nodes: &[Node]) -> DiGraph<usize, ()> {
    let mut dag = DiGraph::with_capacity(nodes.len(), nodes.len());
    for idx in 0..nodes.len() {
        dag.add_node(idx);
    }
    for (idx, node) in nodes.iter().enumerate() {
        let producers: HashSet<usize> = node
            .inputs
            .iter()
            .flat_map(|input| &input.items)
            .map(|item| item.node)
            .collect();
        for producer in producers {
            dag.add_edge(NodeIndex::new(producer), NodeIndex::new(idx), ());
        }
    }
    dag
}

/// Digests of what lies outside the store, each read once.
struct Contents<'a> {
    cache: Option<&'a dyn DigestCache>,
    files: HashMap<PathBuf, Digest>,
    code: HashMap<PathBuf, Result<Option<Digest>, String>>,
}

impl Contents<'_> {
    fn file(&mut self, path: &Path) -> Result<Digest, FileError> {
        if let Some(digest) = self.files.get(path) {
            return Ok(*digest);
        }
        let digest = path_digest(path, self.cache)?;
        self.files.insert(path.to_path_buf(), digest);
        Ok(digest)
    }

    fn code(&mut self, plugin: &Plugin) -> Result<Option<Digest>, String> {
        let read = || match plugin.code.is_empty() {
            true => Ok(None),
            false => crate::spec::plugin::code_digest(plugin, self.cache)
                .map(Some)
                .map_err(|error| with_sources(&error)),
        };
        self.code.entry(plugin.dir.clone()).or_insert_with(read).clone()
    }

    /// Returns what a parameter contributes to the key, if anything.
    fn identity(&mut self, schema: &Schema, value: &Value) -> Result<Option<Value>, FileError> {
        if schema.class != Class::Identity {
            return Ok(None);
        }
        let identity = schema.identity(value, &mut |path| self.file(path))?;
        // A path at its default still names content, which may change.
        let is_default = schema.default.as_ref() == Some(value) && identity == *value;
        Ok((!is_default).then_some(identity))
    }
}

/// A stage that has nodes.
struct Expanded {
    expansion: Expansion,
    /// The index of the node at the first point; the others follow.
    first: usize,
}

/// What all nodes of a stage share.
struct Prepared<'a> {
    stage: &'a Stage,
    kind: &'a Kind,
    slots: Vec<Slot>,
    /// For every slot that is ready, what it contributes to the key.
    identities: Vec<Option<Value>>,
    defaults: Arc<Map<String, Value>>,
    resources: Option<Resources>,
    code: Option<Digest>,
    worker: Worker,
    outputs: Vec<Output>,
    links: Vec<Link>,
}

struct Builder<'a> {
    pipeline: &'a Pipeline,
    contents: Contents<'a>,
    values: Values,
    /// By stage; absent while it is not expanded, or because it can't be.
    expanded: Vec<Option<Expanded>>,
    nodes: Vec<Node>,
    out: Vec<Mistake>,
}

impl<'a> Builder<'a> {
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
        let stage = &self.pipeline.stages[stage_idx];
        let Some(kind) = &stage.kind else { return };
        let before = self.out.len();
        let slots = values::params(stage, kind, &mut self.out);
        let resources = values::resources(stage, None, &mut self.out);
        let is_good = self.out.len() == before && !slots.iter().any(|slot| matches!(slot, Slot::Wrong));
        let Some((expansion, links)) = self.expand(stage) else {
            return;
        };
        let first = self.nodes.len();
        if is_good {
            let prepared = self.prepare(stage, kind, slots, resources, links);
            if let Some(prepared) = prepared {
                for point in &expansion.points {
                    self.add_node(&prepared, point);
                }
            }
        }
        // Stages below are still expanded and checked; their nodes are never used, as something is wrong.
        self.expanded[stage_idx] = Some(Expanded { expansion, first });
    }

    fn expand(&mut self, stage: &Stage) -> Option<(Expansion, Vec<Link>)> {
        let matrix = stage.matrix.as_ref()?;
        let mut upstream = Vec::new();
        for reference in stage.needs.iter().flat_map(|need| &need.refs) {
            let producer = self.pipeline.stage_idx(&reference.stage)?;
            upstream.push(&self.expanded[producer].as_ref()?.expansion);
        }
        let (expansion, links) = expand(stage, matrix, &upstream, &mut self.values, &mut self.out)?;
        let before = self.out.len();
        self.check_singles(stage, &expansion, &links);
        (self.out.len() == before).then_some((expansion, links))
    }

    /// Tells about inputs that take one artifact and would get several.
    fn check_singles(&mut self, stage: &Stage, expansion: &Expansion, links: &[Link]) {
        let Some(kind) = stage.kind.as_ref().filter(|kind| !kind.is_open()) else {
            return;
        };
        let mut links = links.iter();
        for need in &stage.needs {
            let links: Vec<&Link> = links.by_ref().take(need.refs.len()).collect();
            let is_single = kind.input(&need.name.text).is_some_and(|input| !input.gathered);
            let most = |link: &Link| {
                expansion
                    .points
                    .iter()
                    .map(|point| link.members(point).len())
                    .max()
                    .unwrap_or(0)
            };
            let num = links
                .first()
                .filter(|_| is_single && links.len() == 1)
                .map_or(0, |link| most(link));
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

    fn prepare(
        &mut self,
        stage: &'a Stage,
        kind: &'a Kind,
        slots: Vec<Slot>,
        resources: Option<Resources>,
        links: Vec<Link>,
    ) -> Option<Prepared<'a>> {
        let mut identities = Vec::with_capacity(slots.len());
        for (slot, (_, schema)) in slots.iter().zip(&kind.params.0) {
            identities.push(match slot {
                Slot::Ready(value) => self.identity(stage, schema, value)?,
                Slot::Pending(_) | Slot::Wrong => None,
            });
        }
        let (worker, code) = match &kind.provider {
            Provider::Command => (
                Worker::Command {
                    directory: stage.home.dir.clone(),
                },
                None,
            ),
            Provider::Plugin(plugin) => {
                let code = self.contents.code(plugin).map_err(|error| {
                    let at = stage.uses.as_ref().map_or(&stage.at, |uses| &uses.at);
                    let message = format!("the code of plugin `{}` has no digest: {error}", plugin.name);
                    self.out
                        .push(Mistake::new(at, message).help("mend `code` in its plugin.yaml"));
                });
                let program = plugin.program.clone();
                (
                    Worker::Plugin {
                        program,
                        plugin: plugin.name.clone(),
                        dir: plugin.dir.clone(),
                    },
                    code.ok()?,
                )
            }
        };
        let specs = stage.output_specs().unwrap_or_default();
        let output = |spec: &&crate::spec::kind::OutputSpec| Output {
            name: spec.name.clone(),
            type_name: spec.type_name.clone(),
        };
        let outputs = specs.iter().map(output).collect();
        let identity = kind
            .params
            .0
            .iter()
            .filter(|(_, schema)| schema.class == Class::Identity);
        let defaults = identity.filter_map(|(name, schema)| Some((name.clone(), schema.default.clone()?)));
        Some(Prepared {
            defaults: Arc::new(defaults.collect()),
            stage,
            kind,
            slots,
            identities,
            resources,
            code,
            worker,
            outputs,
            links,
        })
    }

    fn identity(&mut self, stage: &Stage, schema: &Schema, value: &Value) -> Option<Option<Value>> {
        let identity = self.contents.identity(schema, value);
        identity
            .map_err(|error| self.out.push(Mistake::new(&stage.at, with_sources(&error))))
            .ok()
    }

    fn add_node(&mut self, prepared: &Prepared<'a>, point: &Coordinates) {
        let Prepared { stage, kind, .. } = prepared;
        let is_pending =
            prepared.resources.is_none() || prepared.slots.iter().any(|slot| matches!(slot, Slot::Pending(_)));
        let trees: BTreeMap<String, Tree> = match is_pending {
            true => point
                .iter()
                .map(|(axis, value)| (axis.to_string(), self.values.tree(*value).clone()))
                .collect(),
            false => BTreeMap::new(),
        };
        let Some((params, identity)) = self.params_at(prepared, &trees) else {
            return;
        };
        let resources = prepared.resources.clone();
        let resources = resources.or_else(|| values::resources(stage, Some(&trees), &mut self.out));
        let Some(resources) = resources else { return };
        let axes: Axes = point
            .iter()
            .map(|(axis, value)| (axis.to_string(), self.values.tree(*value).to_value()))
            .collect();
        let inputs = self.inputs_at(prepared, point);
        let names: Vec<Value> = prepared
            .outputs
            .iter()
            .map(|output| output.name.clone().into())
            .collect();
        let identity = Identity {
            kind: &kind.name,
            version: kind.version,
            params: identity,
            code: prepared.code,
            outputs: kind.is_open().then_some(Value::Array(names)),
        };
        let keys = key::seed(&identity).and_then(|seed| {
            Ok((
                seed,
                key::recipe(identity, &inputs, |item| self.nodes[item.node].recipe_key)?,
            ))
        });
        match keys {
            Err(error) => self.out.push(Mistake::new(
                &stage.at,
                format!("stage `{}` has no key: {error}", stage.name),
            )),
            Ok((seed, (recipe_key, recipe))) => self.nodes.push(Node {
                id: node_id(stage, &axes),
                stage: stage.name.clone(),
                kind: kind.name.clone(),
                kind_version: kind.version,
                axes,
                params,
                defaults: prepared.defaults.clone(),
                seed,
                inputs,
                outputs: prepared.outputs.clone(),
                resources,
                worker: prepared.worker.clone(),
                recipe_key,
                recipe,
            }),
        }
    }

    /// Returns all parameters at a point, and those that enter the key.
    fn params_at(
        &mut self,
        prepared: &Prepared<'a>,
        axes: &BTreeMap<String, Tree>,
    ) -> Option<(Map<String, Value>, Map<String, Value>)> {
        let (mut params, mut identities) = (Map::new(), Map::new());
        let mut is_complete = true;
        for (idx, (name, schema)) in prepared.kind.params.0.iter().enumerate() {
            let (value, identity) = match &prepared.slots[idx] {
                Slot::Ready(value) => (value.clone(), prepared.identities[idx].clone()),
                Slot::Wrong => return None,
                Slot::Pending(tree) => {
                    let slot =
                        values::param_at(prepared.stage, prepared.kind, idx, tree, Point::At(axes), &mut self.out);
                    let Slot::Ready(value) = slot else {
                        is_complete = false;
                        continue;
                    };
                    let identity = self.identity(prepared.stage, schema, &value)?;
                    (value, identity)
                }
            };
            params.insert(name.clone(), value);
            if let Some(identity) = identity {
                identities.insert(name.clone(), identity);
            }
        }
        is_complete.then_some((params, identities))
    }

    fn inputs_at(&self, prepared: &Prepared<'a>, point: &Coordinates) -> Vec<NodeInput> {
        let mut links = prepared.links.iter();
        let mut inputs = Vec::with_capacity(prepared.stage.needs.len());
        for need in &prepared.stage.needs {
            let mut items = Vec::new();
            let mut is_collapsed = false;
            for (reference, link) in need.refs.iter().zip(links.by_ref()) {
                is_collapsed |= link.is_collapsed;
                let producer = self.pipeline.stage_idx(&reference.stage);
                let Some(producer) = producer.and_then(|idx| self.expanded[idx].as_ref()) else {
                    continue;
                };
                let members = link.members(point).iter();
                // Where a stage above has a mistake it has no nodes; then the graph is never used.
                let nodes = members
                    .map(|member| producer.first + member)
                    .filter(|&node| node < self.nodes.len());
                items.extend(nodes.map(|node| InputItem {
                    node,
                    output: reference.output.clone(),
                    subpath: reference.subpath.clone(),
                    axes: self.nodes[node].axes.clone(),
                    label: reference.label.clone(),
                }));
            }
            let gathered = match prepared.kind.input(&need.name.text) {
                Some(spec) => spec.gathered,
                None => need.is_list || is_collapsed,
            };
            inputs.push(NodeInput {
                name: need.name.text.clone(),
                gathered,
                items,
            });
        }
        inputs
    }
}

fn node_id(stage: &Stage, axes: &Axes) -> NodeId {
    if axes.is_empty() {
        return NodeId(stage.name.0.clone());
    }
    let coordinates: Vec<String> = axes
        .iter()
        .map(|(axis, value)| format!("{axis}={}", key::axis_text(value)))
        .collect();
    NodeId(format!("{}[{}]", stage.name, coordinates.join(",")))
}

/// Returns an error with all that it was caused by, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
