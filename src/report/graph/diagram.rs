//! What is drawn: boxes for stages or single nodes, and the links between them, with names and states.
//!
//! It is the only part of the drawing that looks at a graph and its plan; the drawings see nothing but this.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use crate::exec::{Plan, PlanCounts, PlanState};
use crate::graph::Graph;
use crate::report::duration;

/// A pipeline as boxes and links.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagram {
    /// The name of the pipeline.
    pub pipeline: String,
    /// How many stages are shown.
    pub stages: usize,
    /// How many nodes are shown.
    pub nodes: usize,
    /// How many of the nodes are in which state; absent if no plan was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<PlanCounts>,
    /// The expected work of the nodes that run or may, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate_s: Option<f64>,
    /// Each after those that it depends on.
    pub boxes: Vec<Figure>,
    /// Ordered by the box that reads, then by the one that makes.
    pub links: Vec<Link>,
}

/// A box: a stage with all of its nodes, or one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The stage, or the id of the node.
    pub name: String,
    /// The stage.
    pub stage: String,
    /// What it does.
    pub kind: String,
    /// The axes with their numbers of values; of a node, empty.
    pub axes: Vec<Extent>,
    /// The coordinates of a node, `axis=value`; of a stage, empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coordinates: Vec<String>,
    /// How many nodes it stands for.
    pub nodes: usize,
    /// How many of them are in which state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<PlanCounts>,
    /// The expected work of those that run or may, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate_s: Option<f64>,
}

/// An axis of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The name of the axis.
    pub axis: String,
    /// How many values it has.
    pub values: usize,
}

/// What one box reads from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The index of the box that makes it.
    pub from: usize,
    /// The index of the box that reads it.
    pub to: usize,
    /// What is read as what, each pair once.
    pub uses: Vec<Use>,
    /// The axes that are collapsed on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gather: Vec<String>,
}

/// An output that is read as an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Use {
    /// The output, with the path inside it if one is named.
    pub output: String,
    /// The input.
    pub input: String,
}

impl Diagram {
    /// Returns the diagram of a graph: a box for each stage, or for each node if it is `expanded`.
    ///
    /// With `only`, the others are left out with the links to and from them.
    pub fn new(graph: &Graph, plan: Option<&Plan>, only: Option<&BTreeSet<usize>>, expanded: bool) -> Diagram {
        let is_shown = |idx: &usize| only.is_none_or(|only| only.contains(idx));
        let shown: Vec<usize> = (0..graph.len()).filter(is_shown).collect();
        let by_stage = || shown.chunk_by(|&a, &b| graph.stage(a) == graph.stage(b));
        let groups: Vec<&[usize]> = match expanded {
            true => shown.chunks(1).collect(),
            false => by_stage().collect(),
        };
        Diagram {
            pipeline: graph.pipeline.clone(),
            stages: by_stage().count(),
            nodes: shown.len(),
            counts: plan.map(|plan| counts(plan, &shown)),
            estimate_s: plan.map(|plan| estimate(plan, &shown)),
            boxes: groups
                .iter()
                .map(|group| figure(graph, plan, group, expanded))
                .collect(),
            links: links(graph, &groups),
        }
    }
}

fn figure(graph: &Graph, plan: Option<&Plan>, group: &[usize], expanded: bool) -> Figure {
    let first = group[0];
    let stage = graph.stage(first).0.clone();
    let coordinates = graph.coordinates(first);
    Figure {
        name: if expanded { graph.id(first).0 } else { stage.clone() },
        stage,
        kind: graph.kind(first).to_owned(),
        axes: if expanded { Vec::new() } else { extents(graph, group) },
        coordinates: match expanded {
            true => coordinates.map(|(axis, value)| format!("{axis}={value}")).collect(),
            false => Vec::new(),
        },
        nodes: group.len(),
        counts: plan.map(|plan| counts(plan, group)),
        estimate_s: plan.map(|plan| estimate(plan, group)),
    }
}

/// Returns the axes of nodes of one stage, with how many values they have there.
fn extents(graph: &Graph, group: &[usize]) -> Vec<Extent> {
    let mut values: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for (axis, value) in group.iter().flat_map(|&idx| graph.coordinates(idx)) {
        values.entry(axis).or_default().insert(value);
    }
    let extent = |(axis, values): (&str, HashSet<&str>)| Extent {
        axis: axis.to_owned(),
        values: values.len(),
    };
    values.into_iter().map(extent).collect()
}

fn counts(plan: &Plan, group: &[usize]) -> PlanCounts {
    let mut counts = PlanCounts::default();
    for &idx in group {
        *match plan.state(idx) {
            PlanState::Cached => &mut counts.cached,
            PlanState::Run => &mut counts.run,
            PlanState::Maybe => &mut counts.maybe,
        } += 1;
    }
    counts
}

fn estimate(plan: &Plan, group: &[usize]) -> f64 {
    group.iter().filter_map(|&idx| plan.estimate_of(idx)).sum()
}

/// What one box reads from another, as it is collected.
#[derive(Default)]
struct Found<'a> {
    /// Input, output and the path inside it.
    uses: Vec<(&'a str, &'a str, Option<&'a str>)>,
    gather: BTreeSet<&'a str>,
}

fn links(graph: &Graph, groups: &[&[usize]]) -> Vec<Link> {
    let mut box_of: Vec<Option<usize>> = vec![None; graph.len()];
    for (idx, group) in groups.iter().enumerate() {
        group.iter().for_each(|&node| box_of[node] = Some(idx));
    }
    let mut all: BTreeMap<(usize, usize), Found<'_>> = BTreeMap::new();
    let readers = groups.iter().enumerate();
    for (to, &reader) in readers.flat_map(|(to, group)| group.iter().map(move |reader| (to, reader))) {
        for input in graph.inputs(reader) {
            for item in input.items() {
                let Some(from) = box_of[item.node] else { continue };
                let found = all.entry((to, from)).or_default();
                let used = (input.name(), item.output, item.subpath);
                // In a large sweep the same is read thousands of times.
                if found.uses.contains(&used) {
                    continue;
                }
                found.uses.push(used);
                if input.is_gathered() {
                    found.gather.extend(collapsed(graph, item.node, reader));
                }
            }
        }
    }
    let link = |((to, from), found): ((usize, usize), Found<'_>)| Link {
        from,
        to,
        uses: found.uses.into_iter().map(described).collect(),
        gather: found.gather.into_iter().map(str::to_owned).collect(),
    };
    all.into_iter().map(link).collect()
}

fn described((input, output, subpath): (&str, &str, Option<&str>)) -> Use {
    Use {
        output: match subpath {
            Some(path) => format!("{output}/{path}"),
            None => output.to_owned(),
        },
        input: input.to_owned(),
    }
}

/// Returns the axes of a node that its reader hasn't.
fn collapsed(graph: &Graph, node: usize, reader: usize) -> impl Iterator<Item = &str> {
    let axes = |idx| graph.coordinates(idx).map(|(axis, _)| axis);
    axes(node).filter(move |axis| axes(reader).all(|kept| kept != *axis))
}

impl Figure {
    /// Returns the state that its colour tells: of all states of its nodes the one that asks for most.
    pub fn state(&self) -> Option<PlanState> {
        self.counts.map(|counts| match counts {
            PlanCounts { run: 1.., .. } => PlanState::Run,
            PlanCounts { maybe: 1.., .. } => PlanState::Maybe,
            _ => PlanState::Cached,
        })
    }

    /// Returns the axes in words, as in `seed x style: 3 x 2 = 6 nodes`, with the sign of a product; empty without axes.
    pub fn extent(&self, times: &str) -> String {
        if self.axes.is_empty() {
            return String::new();
        }
        let names: Vec<&str> = self.axes.iter().map(|extent| extent.axis.as_str()).collect();
        let sizes: Vec<String> = self.axes.iter().map(|extent| extent.values.to_string()).collect();
        let product: usize = self.axes.iter().map(|extent| extent.values).product();
        let times = format!(" {times} ");
        let (names, sizes, nodes) = (names.join(&times), sizes.join(&times), num_nodes(self.nodes));
        match self.axes.len() {
            1 => format!("{names}: {nodes}"),
            _ if product == self.nodes => format!("{names}: {sizes} = {nodes}"),
            // Points were left out, or axes go together.
            _ => format!("{names}: {nodes} of {sizes}"),
        }
    }

    /// Returns how many nodes are in which state, in words; empty without a plan.
    pub fn states(&self) -> String {
        self.counts.map(describe_counts).unwrap_or_default()
    }
}

/// Returns how many nodes are in which state, in words; for a single node, its state.
fn describe_counts(counts: PlanCounts) -> String {
    let all = [(counts.run, "run"), (counts.maybe, "maybe"), (counts.cached, "cached")];
    let total: usize = all.iter().map(|(num, _)| num).sum();
    let parts = all.iter().filter(|(num, _)| *num > 0);
    let part = |(num, word): &(usize, &str)| match total {
        1 => (*word).to_owned(),
        _ => format!("{num} {word}"),
    };
    parts.map(part).collect::<Vec<_>>().join(", ")
}

/// Returns a number of nodes in words.
pub fn num_nodes(num: usize) -> String {
    format!("{num} {}", if num == 1 { "node" } else { "nodes" })
}

impl Link {
    /// Returns what is read as what, a line each, with an arrow between two names that differ.
    pub fn labels(&self, arrow: &str) -> Vec<String> {
        let label = |used: &Use| match used.output == used.input {
            true => used.output.clone(),
            false => format!("{} {arrow} {}", used.output, used.input),
        };
        self.uses.iter().map(label).collect()
    }

    /// Returns which axes it gathers, in words.
    pub fn gathers(&self) -> Option<String> {
        (!self.gather.is_empty()).then(|| format!("gather {}", self.gather.join(", ")))
    }
}

impl Diagram {
    /// Returns how much is shown and in which states, in a line.
    pub fn summary(&self) -> String {
        let stages = if self.stages == 1 { "stage" } else { "stages" };
        let mut text = format!("{} {stages}, {}", self.stages, num_nodes(self.nodes));
        if let Some(counts) = self.counts {
            text.push_str(&match counts.run + counts.maybe {
                0 => ": all cached".to_owned(),
                _ => format!(": {}", describe_counts(counts)),
            });
        }
        if let Some(seconds) = self.estimate_s.filter(|seconds| *seconds > 0.0) {
            let most = if self.counts.is_some_and(|counts| counts.maybe > 0) {
                "at most "
            } else {
                ""
            };
            text.push_str(&format!("; {most}{} of work", duration(seconds)));
        }
        text
    }
}
