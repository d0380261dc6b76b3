//! `volvelle kinds [NAME]`: what stages can use, with parameters, inputs and outputs.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{CliError, Global, Output};
use crate::report;
use crate::spec::kind::{Catalog, Kind, Provider};
use crate::spec::{Class, Mistakes, Schema, choices, nearest, plugin, text_of};

/// Arguments of `kinds`.
#[derive(Debug, Args)]
pub struct KindsArgs {
    /// Show all about one kind
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &KindsArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let catalog = catalog(global)?;
    let Some(name) = &args.name else {
        let kinds: Vec<&Kind> = catalog.iter().map(|kind| &**kind).collect();
        list(&kinds, args.json, output)?;
        return tell_flawed(catalog, output);
    };
    let Some(kind) = catalog.get(name) else {
        let near = nearest(name, catalog.iter().map(|kind| kind.name.as_str()));
        let help = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(CliError::Usage(format!("there is no kind `{name}`{help}")));
    };
    if args.json {
        output.json(&kind_json(kind))
    } else {
        describe(kind, output)
    }
}

/// Returns the kinds that can be used in the current folder.
pub(super) fn catalog(global: &Global) -> Result<Catalog, CliError> {
    let here = std::env::current_dir().unwrap_or_else(|_| Path::new(".").to_path_buf());
    let mut mistakes = Vec::new();
    let catalog = plugin::catalog(&global.plugin_dirs(), &here, &mut mistakes);
    Mistakes::check(mistakes)?;
    Ok(catalog)
}

/// Tells about plugins that can't be used, below what was printed.
pub(super) fn tell_flawed(catalog: Catalog, output: &mut Output) -> Result<(), CliError> {
    if let Err(flawed) = Mistakes::check(catalog.flawed) {
        output.flush()?;
        output.error_text(&flawed.render(output.error_paint().color, output.width()));
    }
    Ok(())
}

fn list(kinds: &[&Kind], json: bool, output: &mut Output) -> Result<(), CliError> {
    if json {
        return output.json(&Value::Array(kinds.iter().map(|kind| kind_json(kind)).collect()));
    }
    let row = |kind: &&Kind| {
        vec![
            kind.name.clone(),
            format!("v{}", kind.version),
            provider(kind).to_owned(),
            kind.summary.clone(),
        ]
    };
    output.text(&report::table(&kinds.iter().map(row).collect::<Vec<_>>()))
}

fn describe(kind: &Kind, output: &mut Output) -> Result<(), CliError> {
    output.line(&format!(
        "{}, version {}, from {}",
        kind.name,
        kind.version,
        provider(kind)
    ))?;
    output.line(&kind.summary)?;
    let param = |(name, schema): &(String, Schema)| {
        let class = if schema.class == Class::Identity {
            String::new()
        } else {
            schema.class.to_string()
        };
        vec![
            format!("  {name}"),
            type_text(schema),
            default_text(schema),
            class,
            schema.description.clone(),
        ]
    };
    section("parameters", kind.params.0.iter().map(param).collect(), output)?;
    let input = |input: &crate::spec::kind::InputSpec| {
        let how = match (input.optional, input.gathered) {
            (true, true) => "optional, a list",
            (true, false) => "optional",
            (false, true) => "a list",
            (false, false) => "",
        };
        vec![
            format!("  {}", input.name),
            input.type_name.clone(),
            how.to_owned(),
            input.description.clone(),
        ]
    };
    section("inputs", kind.inputs.iter().map(input).collect(), output)?;
    let row = |output: &crate::spec::kind::OutputSpec| {
        vec![
            format!("  {}", output.name),
            output.type_name.clone(),
            output.description.clone(),
        ]
    };
    section("outputs", kind.outputs.iter().map(row).collect(), output)?;
    if kind.is_open() {
        output.line("\nany inputs; the stage names its outputs: `outputs: {NAME: TYPE}`")?;
    }
    Ok(())
}

fn section(title: &str, rows: Vec<Vec<String>>, output: &mut Output) -> Result<(), CliError> {
    if rows.is_empty() {
        return Ok(());
    }
    output.line(&format!("\n{title}"))?;
    output.text(&report::table(&rows))
}

/// Returns the type of a parameter with its range.
fn type_text(schema: &Schema) -> String {
    let mut text = choices(schema).map_or_else(|| schema.described(), |choices| format!("one of {choices}"));
    let bounds = [
        (schema.minimum, ">="),
        (schema.exclusive_minimum, ">"),
        (schema.maximum, "<="),
        (schema.exclusive_maximum, "<"),
    ];
    for (bound, relation) in bounds {
        if let Some(bound) = bound {
            text.push_str(&format!(" {relation} {bound}"));
        }
    }
    text
}

fn default_text(schema: &Schema) -> String {
    match &schema.default {
        Some(Value::String(text)) if text.is_empty() => "default \"\"".to_owned(),
        Some(default) => format!("default {}", text_of(default)),
        None => "required".to_owned(),
    }
}

fn provider(kind: &Kind) -> &str {
    match &kind.provider {
        Provider::Command => "the engine",
        Provider::Plugin(plugin) => &plugin.name,
    }
}

fn kind_json(kind: &Kind) -> Value {
    let param = |(name, schema): &(String, Schema)| {
        let mut value = json!({
            "type": schema.types, "class": schema.class, "description": schema.description,
            "required": schema.default.is_none(), "path": schema.format.is_some(),
        });
        let optional = [
            ("default", schema.default.clone()),
            (
                "enum",
                (!schema.values.is_empty()).then(|| schema.values.clone().into()),
            ),
            ("minimum", schema.minimum.map(Value::from)),
            ("maximum", schema.maximum.map(Value::from)),
            ("exclusiveMinimum", schema.exclusive_minimum.map(Value::from)),
            ("exclusiveMaximum", schema.exclusive_maximum.map(Value::from)),
        ];
        for (word, bound) in optional {
            if let Some(bound) = bound {
                value[word] = bound;
            }
        }
        (name.clone(), value)
    };
    let params: Map<String, Value> = kind.params.0.iter().map(param).collect();
    let inputs: Map<String, Value> = kind.inputs.iter().map(|input| {
        let spec = json!({"type": input.type_name, "optional": input.optional, "gathered": input.gathered, "description": input.description});
        (input.name.clone(), spec)
    }).collect();
    let outputs: Map<String, Value> = kind
        .outputs
        .iter()
        .map(|output| {
            (
                output.name.clone(),
                json!({"type": output.type_name, "description": output.description}),
            )
        })
        .collect();
    json!({
        "name": kind.name, "version": kind.version, "summary": kind.summary, "plugin": provider(kind),
        "params": params, "inputs": inputs, "outputs": outputs,
    })
}
