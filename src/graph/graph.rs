//! The graph of a pipeline: its stages with all their nodes, the keys of these, and the edges between them.
//!
//! A node is an index. What is asked of all nodes (key, stage, inputs) is had at once; a [`Node`] with everything in it
//! is worked out for those that run or are explained.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use super::axes::Values;
use super::key::{self, Origin};
use super::model::{Axes, InputItem, Node, NodeId, NodeInput, Output};
use super::stage::{StageInput, StageNodes, StageRef};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::spec::{Resources, StageName};

/// A stage with at least this many nodes has its keys made by several threads.
const WORTH_THREADS: usize = 2048;

/// A pipeline with every stage at every point of its axes.
#[derive(Debug)]
pub struct Graph {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The file it was read from.
    pub file: PathBuf,
    /// The dependencies: one graph node per node, with the same index; edges lead from producer to consumer, one each.
    pub dag: DiGraph<(), ()>,
    /// The stages that don't exist, and why.
    pub(super) off: Vec<(String, String)>,
    pub(super) values: Values,
    pub(super) stages: Vec<StageNodes>,
    /// The recipe keys of all nodes, each node after those it depends on.
    keys: Vec<RecipeKey>,
    /// For each node the index of its stage.
    stage_of: Vec<u32>,
}

/// An artifact that a node reads, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// The index of the node that makes it.
    pub node: usize,
    /// The output of that node.
    pub output: &'a str,
    /// A file or folder inside the artifact, if the pipeline names one.
    pub subpath: Option<&'a str>,
}

/// An input of a node.
#[derive(Debug, Clone, Copy)]
pub struct InputView<'a> {
    graph: &'a Graph,
    input: &'a StageInput,
    point: usize,
}

/// A stage of a graph, as a whole.
#[derive(Debug, Clone, Copy)]
pub struct StageView<'a> {
    stage: &'a StageNodes,
    values: &'a Values,
}

impl Graph {
    pub(super) fn new(pipeline: String, file: PathBuf) -> Graph {
        Graph {
            pipeline,
            file,
            dag: DiGraph::new(),
            off: Vec::new(),
            values: Values::default(),
            stages: Vec::new(),
            keys: Vec::new(),
            stage_of: Vec::new(),
        }
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Tells whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the name of a node.
    pub fn id(&self, idx: usize) -> NodeId {
        let (stage, point) = self.place(idx);
        stage.id_at(point, &self.values)
    }

    /// Returns the stage of a node.
    pub fn stage(&self, idx: usize) -> &StageName {
        &self.place(idx).0.name
    }

    /// Returns the number of a node's stage in [`Graph::stages`].
    pub fn stage_idx(&self, idx: usize) -> u32 {
        self.stage_of[idx]
    }

    /// Returns the name of a node's kind.
    pub fn kind(&self, idx: usize) -> &str {
        &self.place(idx).0.kind.name
    }

    /// Returns the coordinates of a node.
    pub fn axes(&self, idx: usize) -> Axes {
        let (stage, point) = self.place(idx);
        stage.axes_at(point, &self.values)
    }

    /// Returns the axes of a node in the order of names, each with its value as it stands in the node's name.
    pub fn coordinates(&self, idx: usize) -> impl Iterator<Item = (&str, &str)> {
        let (stage, point) = self.place(idx);
        let named = stage.axes.iter().zip(stage.points.get(point));
        named.map(|(axis, &value)| (&**axis, self.values.shown(value)))
    }

    /// Returns the recipe key of a node.
    pub fn recipe_key(&self, idx: usize) -> RecipeKey {
        self.keys[idx]
    }

    /// Returns what a node makes.
    pub fn outputs(&self, idx: usize) -> &[Output] {
        &self.place(idx).0.outputs
    }

    /// Returns what a node needs while it runs.
    pub fn resources(&self, idx: usize) -> &Resources {
        let (stage, point) = self.place(idx);
        stage.resources.at(stage.points.get(point))
    }

    /// Returns the inputs of a node, in the order of names.
    pub fn inputs(&self, idx: usize) -> impl Iterator<Item = InputView<'_>> {
        let (stage, point) = self.place(idx);
        stage.inputs.iter().map(move |input| InputView {
            graph: self,
            input,
            point,
        })
    }

    /// Returns what a node reads, in the order of the inputs' names.
    pub fn items(&self, idx: usize) -> impl Iterator<Item = Item<'_>> {
        self.inputs(idx).flat_map(InputView::items)
    }

    /// Returns the nodes that a node reads from, each once, in no order.
    pub fn producers(&self, idx: usize) -> impl Iterator<Item = usize> {
        let neighbors = self.dag.neighbors_directed(NodeIndex::new(idx), Direction::Incoming);
        neighbors.map(NodeIndex::index)
    }

    /// Returns the nodes that read from a node, each once, in no order.
    pub fn consumers(&self, idx: usize) -> impl Iterator<Item = usize> {
        self.dag.neighbors(NodeIndex::new(idx)).map(NodeIndex::index)
    }

    /// Returns the preimage of a node's recipe key.
    pub fn recipe(&self, idx: usize) -> Value {
        let mut text = String::new();
        self.write_recipe(idx, &mut text, &mut String::new());
        key::parse(&text)
    }

    /// Returns the preimage of a node's recipe key without the inputs.
    pub fn own_recipe(&self, idx: usize) -> Value {
        let (stage, point) = self.place(idx);
        let mut recipe = key::parse(&stage.own_preimage(point, &self.values));
        recipe.as_object_mut().map(|members| members.remove("inputs"));
        recipe
    }

    /// Returns a node's content key and its preimage as text: the recipe with the digest of each input in place of how
    /// it is made.
    ///
    /// `digest_of` returns the digest of what an item names: the artifact or, with a `subpath`, what lies there.
    pub fn content(&self, idx: usize, mut digest_of: impl FnMut(Item<'_>) -> Digest) -> (ContentKey, String) {
        let (stage, point) = self.place(idx);
        let mut text = String::new();
        let mut origin = |reference: &StageRef, member: u32| Origin::Content(digest_of(self.item(reference, member)));
        stage.write_preimage(
            &mut text,
            point,
            &self.stages,
            &self.values,
            &mut String::new(),
            &mut origin,
        );
        (key::content_key(&text), text)
    }

    /// Returns all that there is to know of a node.
    pub fn node(&self, idx: usize) -> Node {
        let (stage, point) = self.place(idx);
        let recipe = self.recipe(idx);
        let seed = key::seed(&stage.kind.name, stage.kind.version, &recipe["params"]);
        Node {
            id: stage.id_at(point, &self.values),
            stage: stage.name.clone(),
            kind: stage.kind.name.clone(),
            kind_version: stage.kind.version,
            axes: stage.axes_at(point, &self.values),
            params: stage.params.at(&stage.kind, stage.points.get(point), &self.values),
            defaults: Arc::clone(&stage.defaults),
            seed: seed.expect("what was read back from a canonical text has one"),
            inputs: self.node_inputs(stage, point),
            outputs: Arc::clone(&stage.outputs),
            resources: self.resources(idx).clone(),
            worker: stage.worker.clone(),
            code: stage.code.clone(),
            recipe_key: self.keys[idx],
            recipe,
        }
    }

    /// Returns all nodes, one after the other, each after those it depends on.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node> {
        (0..self.len()).map(|idx| self.node(idx))
    }

    /// Returns the stages that have nodes, each after those it needs.
    pub fn stages(&self) -> impl ExactSizeIterator<Item = StageView<'_>> {
        self.stages.iter().map(|stage| StageView {
            stage,
            values: &self.values,
        })
    }

    /// Returns a digest of all that [`Graph::node`] says of the nodes of a stage.
    pub fn fingerprint(&self, stage: StageView<'_>) -> Digest {
        let mut hasher = blake3::Hasher::new();
        stage.stage.hash_into(&mut hasher, &self.values);
        for idx in stage.nodes() {
            hasher.update(&self.keys[idx].0.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// Adds a stage whose producers are all there and makes the keys of its nodes; returns its index.
    pub(super) fn add_stage(&mut self, stage: StageNodes) -> usize {
        let stage_idx = self.stages.len();
        let num_nodes = stage.points.len();
        self.stage_of.extend(std::iter::repeat_n(stage_idx as u32, num_nodes));
        self.stages.push(stage);
        let keys = self.keys_of(stage_idx, num_nodes);
        self.keys.extend(keys);
        stage_idx
    }

    fn keys_of(&self, stage_idx: usize, num_nodes: usize) -> Vec<RecipeKey> {
        let first = self.stages[stage_idx].first;
        let keys = |range: std::ops::Range<usize>| {
            let (mut text, mut scratch) = (String::new(), String::new());
            let key = |point: usize| {
                text.clear();
                self.write_recipe(first + point, &mut text, &mut scratch);
                key::recipe_key(&text)
            };
            range.map(key).collect::<Vec<_>>()
        };
        let num_threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        if num_nodes < WORTH_THREADS || num_threads < 2 {
            return keys(0..num_nodes);
        }
        let share = num_nodes.div_ceil(num_threads);
        let keys = &keys;
        std::thread::scope(|scope| {
            let start = |thread: usize| {
                let range = (thread * share).min(num_nodes)..((thread + 1) * share).min(num_nodes);
                scope.spawn(move || keys(range))
            };
            let threads: Vec<_> = (0..num_threads).map(start).collect();
            let keys = threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("writing a key does not panic"));
            keys.collect()
        })
    }

    /// Makes the edges, once all stages are there.
    pub(super) fn connect(&mut self) {
        let mut dag = DiGraph::with_capacity(self.len(), self.len());
        let mut producers: Vec<usize> = Vec::new();
        for idx in 0..self.len() {
            let consumer = dag.add_node(());
            producers.clear();
            producers.extend(self.items(idx).map(|item| item.node));
            producers.sort_unstable();
            producers.dedup();
            for &producer in &producers {
                dag.add_edge(NodeIndex::new(producer), consumer, ());
            }
        }
        self.dag = dag;
    }

    fn write_recipe(&self, idx: usize, out: &mut String, scratch: &mut String) {
        let (stage, point) = self.place(idx);
        let mut origin = |reference: &StageRef, member: u32| Origin::Recipe(self.keys[self.node_of(reference, member)]);
        stage.write_preimage(out, point, &self.stages, &self.values, scratch, &mut origin);
    }

    fn node_inputs(&self, stage: &StageNodes, point: usize) -> Vec<NodeInput> {
        let item = |(reference, member): (&StageRef, u32)| InputItem {
            node: self.node_of(reference, member),
            output: reference.output.clone(),
            subpath: reference.subpath.clone(),
            axes: self.stages[reference.stage].axes_at(member as usize, &self.values),
            label: reference.label.clone(),
        };
        let input = |input: &StageInput| NodeInput {
            name: input.name.clone(),
            gathered: input.gathered,
            items: input.items(point).map(item).collect(),
        };
        stage.inputs.iter().map(input).collect()
    }

    pub(super) fn place(&self, idx: usize) -> (&StageNodes, usize) {
        let stage = &self.stages[self.stage_of[idx] as usize];
        (stage, idx - stage.first)
    }

    fn item<'a>(&self, reference: &'a StageRef, member: u32) -> Item<'a> {
        Item {
            node: self.node_of(reference, member),
            output: &reference.output,
            subpath: reference.subpath.as_deref(),
        }
    }

    fn node_of(&self, reference: &StageRef, member: u32) -> usize {
        self.stages[reference.stage].first + member as usize
    }
}

impl<'a> InputView<'a> {
    /// Returns the name that the kind gave it.
    pub fn name(self) -> &'a str {
        &self.input.name
    }

    /// Tells whether the worker gets a list.
    pub fn is_gathered(self) -> bool {
        self.input.gathered
    }

    /// Returns what is read; exactly one artifact if the input is not gathered.
    pub fn items(self) -> impl Iterator<Item = Item<'a>> {
        let items = self.input.items(self.point);
        items.map(move |(reference, member)| self.graph.item(reference, member))
    }
}

impl<'a> StageView<'a> {
    /// Returns the name.
    pub fn name(&self) -> &'a StageName {
        &self.stage.name
    }

    /// Returns the name of the kind.
    pub fn kind(&self) -> &'a str {
        &self.stage.kind.name
    }

    /// Returns the version of the kind.
    pub fn kind_version(&self) -> u64 {
        self.stage.kind.version
    }

    /// Returns the indices of its nodes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        self.stage.first..self.stage.first + self.stage.points.len()
    }

    /// Returns the axes in the order of names, each with how many values it has.
    pub fn axes(&self) -> Vec<(&'a str, usize)> {
        let count = |column: usize| {
            let mut values: Vec<u32> = self.stage.points.iter().map(|point| point[column]).collect();
            values.sort_unstable();
            values.dedup();
            values.len()
        };
        let axes = self.stage.axes.iter().enumerate();
        axes.map(|(column, axis)| (&**axis, count(column))).collect()
    }

    /// Tells whether another stage has the same axes and the same points in the same order, so that the nodes of both
    /// have the same coordinates one by one.
    pub fn has_points_of(&self, other: StageView<'_>) -> bool {
        let (ours, theirs) = (self.stage, other.stage);
        let is_same = |(&a, &b): (&u32, &u32)| self.values.canonical(a) == other.values.canonical(b);
        let coordinates = || ours.points.iter().flatten().zip(theirs.points.iter().flatten());
        ours.axes == theirs.axes && ours.points.len() == theirs.points.len() && coordinates().all(is_same)
    }

    /// Returns the texts of an axis's values as they stand in names of nodes, in the order of the points.
    pub fn values(&self, axis: &str) -> Vec<&'a str> {
        let Some(column) = self.stage.axes.iter().position(|name| &**name == axis) else {
            return Vec::new();
        };
        let mut seen = std::collections::HashSet::new();
        let values = self.stage.points.iter().map(|point| point[column]);
        values
            .filter(|value| seen.insert(*value))
            .map(|value| self.values.shown(value))
            .collect()
    }
}
