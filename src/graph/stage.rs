//! A stage with all of its nodes: what they share once, and what tells them apart as numbers.
//!
//! A node is a stage and a point; everything about it is worked out from these two when somebody asks. That keeps a
//! sweep of a hundred thousand nodes in a few megabytes. It writes the preimages of its nodes and knows no keys of
//! others.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::axes::{AxisName, Members, Values};
use super::key::{Frame, ItemTexts, Origin, push_list};
use super::model::{Axes, NodeId, Output, Worker};
use super::params::{ByAxes, Param};
use super::points::Points;
use crate::digest::canonical;
use crate::spec::kind::Kind;
use crate::spec::plugin::Code;
use crate::spec::{Resources, StageName};

/// A stage and its nodes.
#[derive(Debug)]
pub(super) struct StageNodes {
    pub name: StageName,
    pub kind: Arc<Kind>,
    pub axes: Vec<AxisName>,
    pub points: Points,
    /// The index of the node at the first point; the others follow.
    pub first: usize,
    pub params: Params,
    pub inputs: Vec<StageInput>,
    pub outputs: Arc<[Output]>,
    pub resources: ByAxes<Resources>,
    pub worker: Worker,
    /// The code of the plugin, if it declares any.
    pub code: Option<Arc<Code>>,
    /// The defaults of the identity parameters.
    pub defaults: Arc<Map<String, Value>>,
    pub frame: Frame,
}

/// An input of a stage.
#[derive(Debug)]
pub(super) struct StageInput {
    pub name: String,
    /// The name as a member of a preimage, with its colon.
    member: String,
    pub gathered: bool,
    pub refs: Vec<StageRef>,
}

/// A reference of a stage to another.
#[derive(Debug)]
pub(super) struct StageRef {
    /// The index of the other one.
    pub stage: usize,
    pub output: String,
    pub subpath: Option<String>,
    pub label: Option<String>,
    pub members: Members,
    texts: ItemTexts,
}

/// The parameters of a stage in the order of the kind's declaration.
#[derive(Debug)]
pub(super) struct Params {
    params: Vec<Param>,
    /// The parameters in the order of a canonical text, each with its name as a member.
    order: Vec<(usize, String)>,
}

impl Params {
    pub fn new(kind: &Kind, params: Vec<Param>) -> Params {
        let member = |(idx, (name, _)): (usize, &(String, _))| {
            let mut member = String::new();
            canonical::push_string(&mut member, name);
            (idx, member)
        };
        let mut order: Vec<(usize, String)> = kind.params.0.iter().enumerate().map(member).collect();
        order.sort_by(|a, b| a.1.as_bytes().cmp(b.1.as_bytes()));
        order.iter_mut().for_each(|(_, member)| member.push(':'));
        Params { params, order }
    }

    /// Returns all parameters at a point.
    pub fn at(&self, kind: &Kind, point: &[u32], values: &Values) -> Map<String, Value> {
        let named = kind.params.0.iter().zip(&self.params);
        named
            .map(|((name, _), param)| (name.clone(), param.value(point, values)))
            .collect()
    }

    /// Writes the parameters that enter the key.
    fn write(&self, out: &mut String, point: &[u32], values: &Values, scratch: &mut String) {
        out.push('{');
        for (idx, member) in &self.order {
            if self.params[*idx].push_identity(out, member, point, values, scratch) {
                out.push(',');
            }
        }
        if out.ends_with(',') {
            out.pop();
        }
        out.push('}');
    }
}

impl StageInput {
    pub fn new(name: &str, gathered: bool, refs: Vec<StageRef>) -> StageInput {
        let mut member = String::new();
        canonical::push_string(&mut member, name);
        member.push(':');
        StageInput {
            name: name.to_owned(),
            member,
            gathered,
            refs,
        }
    }

    /// Returns the reference and the upstream point of each item at a point.
    pub fn items(&self, point: usize) -> impl Iterator<Item = (&StageRef, u32)> {
        self.refs.iter().flat_map(move |reference| {
            let members = reference.members.of(point).iter();
            members.map(move |&member| (reference, member))
        })
    }
}

impl StageRef {
    pub fn new(stage: usize, reference: &crate::spec::Reference, members: Members) -> StageRef {
        StageRef {
            stage,
            texts: ItemTexts::new(
                reference.label.as_deref(),
                &reference.output,
                reference.subpath.as_deref(),
            ),
            output: reference.output.clone(),
            subpath: reference.subpath.clone(),
            label: reference.label.clone(),
            members,
        }
    }
}

impl StageNodes {
    /// Returns the coordinates of a point.
    pub fn axes_at(&self, point: usize, values: &Values) -> Axes {
        let named = self.axes.iter().zip(self.points.get(point));
        named
            .map(|(axis, &value)| (axis.to_string(), values.tree(value).to_value()))
            .collect()
    }

    /// Returns the name of the node at a point.
    pub fn id_at(&self, point: usize, values: &Values) -> NodeId {
        let mut id = self.name.0.clone();
        for (idx, (axis, &value)) in self.axes.iter().zip(self.points.get(point)).enumerate() {
            id.push(if idx == 0 { '[' } else { ',' });
            id.push_str(axis);
            id.push('=');
            id.push_str(values.shown(value));
        }
        if !self.axes.is_empty() {
            id.push(']');
        }
        NodeId(id)
    }

    /// Hashes what tells this stage from another one, apart from its keys.
    pub fn hash_into(&self, hasher: &mut blake3::Hasher, values: &Values) {
        let mut text = |text: &str| {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text.as_bytes());
        };
        text(&self.name.0);
        text(&self.kind.name);
        text(&self.kind.version.to_string());
        self.axes.iter().for_each(|axis| text(axis));
        self.params.params.iter().for_each(|param| text(&param.summary(values)));
        // Values by the order in which they come: their numbers differ from graph to graph.
        let mut order: HashMap<u32, u32> = HashMap::new();
        for &value in self.points.iter().flatten() {
            let next = order.len() as u32;
            let number = *order.entry(value).or_insert(next);
            if number == next {
                hasher.update(values.canonical(value).as_bytes()).update(b"\n");
            }
            hasher.update(&number.to_le_bytes());
        }
    }

    /// Writes a preimage of the node at a point. `origin_of` tells of each item where it comes from.
    pub fn write_preimage(
        &self,
        out: &mut String,
        point: usize,
        stages: &[StageNodes],
        values: &Values,
        scratch: &mut String,
        origin_of: &mut impl FnMut(&StageRef, u32) -> Origin,
    ) {
        let coordinates = self.points.get(point);
        self.frame.write(
            out,
            |out| self.write_inputs(out, point, stages, values, origin_of),
            |out| self.params.write(out, coordinates, values, scratch),
        );
    }

    /// Returns a preimage of the node at a point as if it had no inputs.
    pub fn own_preimage(&self, point: usize, values: &Values) -> String {
        let (mut out, coordinates) = (String::new(), self.points.get(point));
        self.frame.write(
            &mut out,
            |out| out.push_str("{}"),
            |out| self.params.write(out, coordinates, values, &mut String::new()),
        );
        out
    }

    fn write_inputs(
        &self,
        out: &mut String,
        point: usize,
        stages: &[StageNodes],
        values: &Values,
        origin_of: &mut impl FnMut(&StageRef, u32) -> Origin,
    ) {
        let mut write = |out: &mut String, (reference, member): (&StageRef, u32), in_list: bool| {
            let producer = &stages[reference.stage];
            let axes = |out: &mut String| producer.write_axes(out, member as usize, values);
            let axes = (!producer.axes.is_empty()).then_some(axes);
            reference.texts.write(out, origin_of(reference, member), axes, in_list);
        };
        out.push('{');
        for (idx, input) in self.inputs.iter().enumerate() {
            if idx > 0 {
                out.push(',');
            }
            out.push_str(&input.member);
            if input.gathered {
                push_list(out, input.items(point), |out, item| write(out, item, true));
            } else {
                input.items(point).for_each(|item| write(out, item, false));
            }
        }
        out.push('}');
    }

    fn write_axes(&self, out: &mut String, point: usize, values: &Values) {
        out.push('{');
        for (idx, (axis, &value)) in self.axes.iter().zip(self.points.get(point)).enumerate() {
            if idx > 0 {
                out.push(',');
            }
            out.push('"');
            // The name of an axis is a plain word.
            out.push_str(axis);
            out.push_str("\":");
            out.push_str(values.canonical(value));
        }
        out.push('}');
    }
}
