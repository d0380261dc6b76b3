//! Stages against what there is: kinds, parameters, inputs, and the outputs of other stages.
//!
//! All of this is known without any axis. What depends on coordinates, and whether stages need each other in a
//! circle, is found where the graph is built.

use super::document::Stage;
use super::kind::{ANY, Catalog, Kind, OutputSpec};
use super::mistake::{Mistake, listed, nearest};
use super::reference::{Need, Reference};
use super::template::{self, Part};
use super::yaml::{Item, Tree};

/// Gives every stage its kind and tells what doesn't fit.
pub(super) fn kinds(stages: &mut [Stage], catalog: &Catalog, out: &mut Vec<Mistake>) {
    let mut is_missing = false;
    for stage in stages {
        let Some(uses) = &stage.uses else { continue };
        stage.kind = catalog.get(&uses.text).cloned();
        if stage.kind.is_some() {
            continue;
        }
        is_missing = true;
        let names: Vec<&str> = catalog.iter().map(|kind| kind.name.as_str()).collect();
        let mistake = Mistake::new(&uses.at, format!("unknown kind `{}`", uses.text));
        out.push(match nearest(&uses.text, names.iter().copied()) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None if names.len() == 1 => mistake.help("no plugins were found; name their folder with --plugins"),
            None => mistake.help("`volvelle kinds` lists them"),
        });
    }
    if is_missing {
        out.extend(catalog.flawed.iter().cloned());
    }
}

/// Where a reference leads.
pub(super) enum Producer<'a> {
    /// To a stage.
    Stage(&'a Stage),
    /// To none; these there are.
    Unknown(Vec<&'a str>),
    /// Into a file that can't be read, which was told.
    Lost,
}

/// Checks the names in every stage against its kind and the other stages.
pub(super) fn stages<'a>(stages: &'a [Stage], producer: impl Fn(&Reference) -> Producer<'a>, out: &mut Vec<Mistake>) {
    for stage in stages {
        for need in &stage.needs {
            for reference in &need.refs {
                check_reference(stage, need, reference, producer(reference), out);
            }
        }
        let Some(kind) = &stage.kind else { continue };
        check_params(stage, kind, out);
        if kind.is_open() {
            check_placeholders(stage, out);
        } else {
            check_inputs(stage, kind, out);
        }
    }
}

fn check_params(stage: &Stage, kind: &Kind, out: &mut Vec<Mistake>) {
    for (key, _) in &stage.with {
        if kind.params.get(&key.text).is_none() {
            let names = kind.params.0.iter().map(|(name, _)| name.as_str());
            let message = format!("unknown parameter `{}` of `{}`", key.text, kind.name);
            out.push(Mistake::unknown(&key.at, message, &key.text, names));
        }
    }
    let is_given = |name: &str| stage.with.iter().any(|(key, _)| key.text == name);
    let missing = kind
        .params
        .0
        .iter()
        .filter(|(name, schema)| schema.default.is_none() && !is_given(name));
    let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        let message = format!(
            "stage `{}` lacks {} of `{}`",
            stage.name,
            plural("parameter", &missing),
            kind.name
        );
        out.push(Mistake::new(&stage.at, message).help(format!("add {} under `with`", listed(&missing))));
    }
}

fn check_inputs(stage: &Stage, kind: &Kind, out: &mut Vec<Mistake>) {
    for need in &stage.needs {
        let Some(spec) = kind.input(&need.name.text) else {
            let names = kind.inputs.iter().map(|input| input.name.as_str());
            let message = format!("unknown input `{}` of `{}`", need.name.text, kind.name);
            out.push(Mistake::unknown(&need.name.at, message, &need.name.text, names));
            continue;
        };
        if need.refs.len() > 1 && !spec.gathered {
            let message = format!(
                "input `{}` of `{}` takes one artifact, not {}",
                spec.name,
                kind.name,
                need.refs.len()
            );
            out.push(Mistake::new(&need.name.at, message));
        }
    }
    let is_given = |name: &str| stage.needs.iter().any(|need| need.name.text == name);
    let missing = kind
        .inputs
        .iter()
        .filter(|input| !input.optional && !is_given(&input.name));
    let missing: Vec<&str> = missing.map(|input| input.name.as_str()).collect();
    if !missing.is_empty() {
        let message = format!(
            "stage `{}` lacks {} of `{}`",
            stage.name,
            plural("input", &missing),
            kind.name
        );
        out.push(Mistake::new(&stage.at, message).help(format!("add {} under `needs`", listed(&missing))));
    }
    if let Some((key, _)) = stage.outputs.first() {
        let message = format!("the outputs of `{}` are fixed", kind.name);
        out.push(Mistake::new(&key.at, message).help("`outputs` can be chosen only where a stage uses `command`"));
    }
}

fn check_reference(stage: &Stage, need: &Need, reference: &Reference, producer: Producer<'_>, out: &mut Vec<Mistake>) {
    let producer = match producer {
        Producer::Stage(stage) => stage,
        Producer::Lost => return,
        Producer::Unknown(names) => {
            let place = reference.at.find(&reference.stage);
            let message = match &reference.file {
                Some(file) => format!("`{file}` has no stage `{}`", reference.stage),
                None => format!("unknown stage `{}`", reference.stage),
            };
            out.push(Mistake::unknown(&place, message, &reference.stage, names));
            return;
        }
    };
    let Some(outputs) = producer.output_specs() else {
        return;
    };
    let Some(output) = outputs.iter().find(|output| output.name == reference.output) else {
        out.push(no_output(reference, &outputs));
        return;
    };
    // What lies inside an artifact has no declared type.
    let wanted = stage
        .kind
        .as_ref()
        .and_then(|kind| kind.input(&need.name.text))
        .map(|input| input.type_name.as_str());
    let Some(wanted) = wanted.filter(|_| reference.subpath.is_none()) else {
        return;
    };
    if wanted != ANY && output.type_name != ANY && wanted != output.type_name {
        let given = &output.type_name;
        let message = format!("input `{}` must be of type `{wanted}`, not `{given}`", need.name.text);
        let fitting = outputs.iter().find(|output| output.type_name == wanted);
        let mistake = Mistake::new(&reference.at, message);
        out.push(match fitting {
            Some(fitting) => mistake.help(format!("did you mean `{}.{}`?", reference.stage, fitting.name)),
            None => mistake.help(format!("`{}.{}` makes `{given}`", reference.stage, reference.output)),
        });
    }
}

fn no_output(reference: &Reference, outputs: &[&OutputSpec]) -> Mistake {
    let at = reference.at.find(&format!(".{}", reference.output));
    let at = at.part((at.bytes().start + 1).min(at.bytes().end)..at.bytes().end);
    let message = format!("stage `{}` has no output `{}`", reference.stage, reference.output);
    let names = outputs.iter().map(|output| output.name.as_str());
    let mistake = Mistake::unknown(&at, message, &reference.output, names);
    match outputs.is_empty() {
        true => mistake.help("it has none; a `command` names them under `outputs`"),
        false => mistake,
    }
}

/// Checks the names that a command line leaves for its start.
fn check_placeholders(stage: &Stage, out: &mut Vec<Mistake>) {
    let mut open: Vec<&Tree> = stage
        .with
        .iter()
        .filter(|(key, _)| key.text != "files")
        .map(|(_, tree)| tree)
        .collect();
    while let Some(tree) = open.pop() {
        match &tree.item {
            Item::Plain(_) => {}
            Item::List(items) => open.extend(items),
            Item::Map(entries) => open.extend(entries.iter().map(|(_, tree)| tree)),
            Item::Text(text) => {
                // A malformed text is told where it is filled in.
                for part in template::parse(text).unwrap_or_default() {
                    if let Part::Reference(name) = part {
                        check_placeholder(stage, &name, tree, out);
                    }
                }
            }
        }
    }
}

fn check_placeholder(stage: &Stage, name: &str, tree: &Tree, out: &mut Vec<Mistake>) {
    let at = tree.at.find(&format!("${{{name}}}"));
    let (head, rest) = name.split_once('.').unwrap_or((name, ""));
    let valid: Vec<&str> = match head {
        "inputs" => stage.needs.iter().map(|need| need.name.text.as_str()).collect(),
        "outputs" => stage.outputs.iter().map(|(key, _)| key.text.as_str()).collect(),
        "resources" => vec!["cpu"],
        "seed" if !rest.is_empty() => {
            out.push(Mistake::new(&at, format!("unknown reference `${{{name}}}`")).help("did you mean `${seed}`?"));
            return;
        }
        _ => return,
    };
    // Of an input there is also the file that lists its paths.
    let named = if head == "inputs" {
        rest.strip_suffix(".list").unwrap_or(rest)
    } else {
        rest
    };
    if !valid.contains(&named) {
        let message = format!("unknown reference `${{{name}}}`");
        let mistake = Mistake::new(&at, message);
        out.push(match (nearest(rest, valid.iter().copied()), head) {
            (Some(near), _) => mistake.help(format!("did you mean `${{{head}.{near}}}`?")),
            (None, "inputs") => mistake.help(format!("add `{rest}` under `needs`")),
            (None, "outputs") => mistake.help(format!("add `{rest}: TYPE` under `outputs`")),
            (None, _) => mistake.help("there is `${resources.cpu}`"),
        });
    }
}

fn plural(what: &str, names: &[&str]) -> String {
    let s = if names.len() > 1 { "s" } else { "" };
    format!("the {what}{s} {}", listed(names))
}
