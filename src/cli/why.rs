//! `volvelle why FILE NODE`: the whole key of a node, part by part, against the nearest earlier record.

use clap::Args;
use serde_json::{Value, json};

use super::{CliError, Global, Output, PipelineArgs};
use crate::exec::{self, History, Nearest, Part, Plan, PlannedNode, RunOptions};
use crate::graph::{self, Graph, Node};
use crate::report;
use crate::spec::{Class, Pipeline, text_of};
use crate::store::Record;

/// How many inputs are listed.
const MAX_INPUTS: usize = 24;

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The node: `sft[style=search]`, or a stage that has one node
    node: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is known about the key of a node.
struct Why<'a> {
    node: &'a Node,
    planned: PlannedNode,
    /// The node that the change comes from, if that is another one.
    root: Option<PlannedNode>,
    record: Option<Record>,
    nearest: Option<Nearest>,
    parts: Vec<Part>,
    /// What the node reads: input, producer and its output.
    inputs: Vec<(&'a str, PlannedNode, String)>,
    /// Parameters at their default, which are left out of the key.
    defaults: Vec<(&'a str, &'a Value)>,
    /// Parameters that don't change the result.
    outside: Vec<(&'a str, &'a Value, Class)>,
}

pub(super) fn run(args: &WhyArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let pipeline = args.pipeline.load(global)?;
    let graph = graph::build(&pipeline, Some(&store))?;
    let idx = graph.select(&args.node)?;
    let plan = exec::plan(&graph, &store, &RunOptions::default())?;
    let node = graph.node(idx);
    let record = store.record(node.recipe_key);
    let nearest = History::new(&store, &graph.pipeline).nearest(&node);
    let why = why(&pipeline, &graph, &plan, (idx, &node), record, nearest);
    if args.json {
        output.json(&to_json(&why))
    } else {
        print(&why, output)
    }
}

fn why<'a>(
    pipeline: &'a Pipeline,
    graph: &Graph,
    plan: &Plan,
    (idx, node): (usize, &'a Node),
    record: Option<Record>,
    nearest: Option<Nearest>,
) -> Why<'a> {
    let planned = plan.node(graph, idx);
    let kind = pipeline.catalog.get(&node.kind);
    let params = kind.into_iter().flat_map(|kind| &kind.params.0);
    let (mut defaults, mut outside) = (Vec::new(), Vec::new());
    for (name, schema) in params {
        let Some(value) = node.params.get(name) else { continue };
        match schema.class {
            Class::Identity if node.recipe["params"].get(name).is_none() => defaults.push((name.as_str(), value)),
            Class::Identity => {}
            class => outside.push((name.as_str(), value, class)),
        }
    }
    let items = node
        .inputs
        .iter()
        .flat_map(|input| input.items.iter().map(move |item| (input, item)));
    let inputs = items.map(|(input, item)| {
        let path = item.subpath.as_ref().map(|path| format!("/{path}")).unwrap_or_default();
        (
            input.name.as_str(),
            plan.node(graph, item.node),
            format!("{}{path}", item.output),
        )
    });
    Why {
        inputs: inputs.collect(),
        parts: exec::parts(node, nearest.as_ref()),
        root: planned
            .root
            .as_ref()
            .and_then(|root| Some(plan.node(graph, graph.select(&root.0).ok()?))),
        node,
        planned,
        record,
        nearest,
        defaults,
        outside,
    }
}

fn print(why: &Why<'_>, output: &mut Output) -> Result<(), CliError> {
    let (node, planned, paint) = (why.node, &why.planned, output.paint());
    output.line(&format!("{}: {}", node.id, planned.state))?;
    output.line(&format!("  kind         {} version {}", node.kind, node.kind_version))?;
    output.line(&format!("  recipe key   {}", node.recipe_key))?;
    if let Some(record) = &why.record {
        output.line(&format!("  content key  {}", record.content_key))?;
        output.line(&format!(
            "  record       run {} on {}, {}",
            record.run, record.host, record.ended
        ))?;
    }
    let cause = report::describe_cause(planned);
    if !cause.is_empty() {
        output.line(&format!("  because      {cause}"))?;
    }
    if let Some(root) = &why.root {
        output.line(&format!("               {}: {}", root.id, report::describe_cause(root)))?;
    }
    match &why.nearest {
        Some(nearest) => {
            let record = &nearest.record;
            output.line(&format!(
                "\nkey, against the nearest earlier record: {} {}, run {}, {}",
                record.node,
                record.recipe_key.short(),
                record.run,
                record.ended
            ))?;
        }
        None => output.line(&format!(
            "\nkey; there is no earlier record of {} to compare it with",
            node.kind
        ))?,
    }
    output.text(&report::describe_parts(&why.parts, paint))?;
    print_inputs(why, output)?;
    if !why.defaults.is_empty() {
        let texts = why
            .defaults
            .iter()
            .map(|(name, value)| format!("{name} {}", text_of(value)));
        output.line(&format!(
            "\nat their defaults: {}",
            texts.collect::<Vec<_>>().join(", ")
        ))?;
    }
    if !why.outside.is_empty() {
        let texts = why
            .outside
            .iter()
            .map(|(name, value, class)| format!("{name} {} ({})", text_of(value), class));
        output.line(&format!("not in the key: {}", texts.collect::<Vec<_>>().join(", ")))?;
    }
    Ok(())
}

/// Prints where the inputs come from, and what would happen there.
fn print_inputs(why: &Why<'_>, output: &mut Output) -> Result<(), CliError> {
    let row = |(name, producer, path): &(&str, PlannedNode, String)| {
        vec![
            format!("  {name}"),
            format!("{}.{path}", producer.id),
            producer.state.to_string(),
            report::describe_cause(producer),
        ]
    };
    if why.inputs.is_empty() {
        return Ok(());
    }
    output.line("\ninputs")?;
    output.text(&report::table(
        &why.inputs.iter().take(MAX_INPUTS).map(row).collect::<Vec<_>>(),
    ))?;
    if why.inputs.len() > MAX_INPUTS {
        output.line(&format!("  and {} more", why.inputs.len() - MAX_INPUTS))?;
    }
    Ok(())
}

fn to_json(why: &Why<'_>) -> Value {
    let nearest = why.nearest.as_ref().map(|nearest| {
        let record = &nearest.record;
        let changes = [nearest.own.as_slice(), nearest.inputs.as_slice()].concat();
        json!({
            "node": record.node, "pipeline": record.pipeline, "run": record.run, "ended": record.ended,
            "recipe_key": record.recipe_key, "changes": changes,
        })
    });
    let inputs = why.inputs.iter().map(|(name, producer, path)| {
        json!({"input": name, "node": producer.id, "output": path, "state": producer.state, "cause": producer.cause})
    });
    let outside = why
        .outside
        .iter()
        .map(|(name, value, class)| json!({"name": name, "value": value, "class": class}));
    let defaults: serde_json::Map<_, _> = why
        .defaults
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).clone()))
        .collect();
    json!({
        "node": why.planned,
        "root": why.root,
        "content_key": why.record.as_ref().map(|record| record.content_key),
        "recipe": why.node.recipe,
        "inputs": inputs.collect::<Vec<_>>(),
        "nearest": nearest,
        "parts": why.parts,
        "defaults": defaults,
        "outside": outside.collect::<Vec<_>>(),
        "seed": why.node.seed,
    })
}
