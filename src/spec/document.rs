//! From the tree of a pipeline file to its parts: which keys there are and which shape each value has.
//!
//! Every shape that is wrong is told and left out, so that the rest can still be read. It doesn't know which kinds,
//! parameters or stages exist; `check.rs` does.

use std::collections::HashMap;
use std::sync::Arc;

use super::home::Home;
use super::kind::{Kind, OutputSpec};
use super::matrix::Matrix;
use super::mistake::{At, Mistake};
use super::reference::{Need, read_need};
use super::resources::Resources;
use super::scope::Variable;
use super::shape::{check_keys, check_names, mapping, names, text};
use super::yaml::{Item, Key, Tree};
use super::{StageName, schema};

/// The version of the language that is read.
const LANGUAGE: u64 = 1;

const TOP: [&str; 10] = [
    "volvelle",
    "name",
    "description",
    "include",
    "params",
    "profiles",
    "defaults",
    "env",
    "templates",
    "stages",
];
const STAGE: [&str; 11] = [
    "uses",
    "extends",
    "description",
    "tags",
    "when",
    "with",
    "needs",
    "matrix",
    "gather",
    "resources",
    "outputs",
];

/// What a pipeline file says outside of its stages.
pub(super) struct Top {
    pub name: Option<String>,
    pub params: Tree,
    pub env: Vec<Variable>,
    defaults: Vec<(Key, Tree)>,
}

/// A stage as it was written.
#[derive(Debug)]
pub struct Stage {
    /// The name.
    pub name: StageName,
    /// Where the name was written.
    pub at: At,
    /// What it shares with the other stages of its pipeline.
    pub home: Arc<Home>,
    /// What it is for, in the words of its author.
    pub description: Option<String>,
    /// Words that its author chose to find it by.
    pub tags: Vec<String>,
    /// The name of the kind and where it was written.
    pub uses: Option<Key>,
    /// The kind; absent if there is none of that name.
    pub kind: Option<Arc<Kind>>,
    /// The condition under which it exists, with references.
    pub when: Option<Tree>,
    /// The parameters that are given, with references.
    pub with: Vec<(Key, Tree)>,
    /// The inputs that are given, in the order of names.
    pub needs: Vec<Need>,
    /// The axes that the stage adds, as written.
    pub matrix_tree: Option<Tree>,
    /// The axes that the stage adds; absent if they are wrong.
    pub matrix: Option<Matrix>,
    /// The axes that the stage collapses; a single `*` is all of them.
    pub gather: Vec<Key>,
    /// The resources of the stage and, where it says nothing, of the pipeline, with references.
    pub resources: Vec<(Key, Tree)>,
    /// The outputs of a command.
    pub outputs: Vec<(Key, OutputSpec)>,
}

impl Stage {
    /// Returns the outputs, whoever names them; absent if the kind is not known.
    pub fn output_specs(&self) -> Option<Vec<&OutputSpec>> {
        let kind = self.kind.as_ref()?;
        Some(if kind.is_open() {
            self.outputs.iter().map(|(_, spec)| spec).collect()
        } else {
            kind.outputs.iter().collect()
        })
    }
}

/// Reads what a pipeline file says outside of its stages.
pub(super) fn top(root: &Tree, out: &mut Vec<Mistake>) -> Top {
    let entries = mapping(root, "a pipeline", out);
    check_keys(entries, "a pipeline", &TOP, out);
    match root.get("volvelle") {
        Some(version) => check_version(version, out),
        None if matches!(root.item, Item::Map(_)) => {
            let first = entries.first().map_or(&root.at, |(key, _)| &key.at);
            let message = "the version of the language is missing";
            out.push(Mistake::new(first, message).help(format!("begin the file with `volvelle: {LANGUAGE}`")));
        }
        None if root.is_null() => {
            let help = format!("a pipeline begins with `volvelle: {LANGUAGE}` and has `stages`");
            out.push(Mistake::new(&root.at, "the file says nothing").help(help));
        }
        None => {}
    }
    if let Some(tree) = root.get("description") {
        text(tree, "`description`", out);
    }
    let none = Tree {
        item: Item::Map(Vec::new()),
        at: root.at.clone(),
    };
    let params = root.get("params").unwrap_or(&none);
    let params_entries = mapping(params, "`params`", out);
    check_names(params_entries, "a parameter", out);
    if let Some(profiles) = root.get("profiles") {
        read_profiles(profiles, out);
    }
    Top {
        name: root.get("name").and_then(|tree| text(tree, "`name`", out)),
        params: match params.item {
            Item::Map(_) => params.clone(),
            _ => none,
        },
        env: root.get("env").map(|tree| variables(tree, out)).unwrap_or_default(),
        defaults: root
            .get("defaults")
            .map(|defaults| read_defaults(defaults, out))
            .unwrap_or_default(),
    }
}

/// Checks which version of the language a file says it is written in.
pub(super) fn check_version(version: &Tree, out: &mut Vec<Mistake>) {
    if version.to_value().as_u64() != Some(LANGUAGE) {
        let message = format!("this version reads `volvelle: {LANGUAGE}`, not {}", version.described());
        out.push(Mistake::new(&version.at, message));
    }
}

/// Reads the stages of a pipeline file, none of which extends another any more.
pub(super) fn stages(root: &Tree, top: &Top, home: &Arc<Home>, out: &mut Vec<Mistake>) -> Vec<Stage> {
    let stages = root.get("stages");
    let entries = stages.map_or(&[][..], |stages| mapping(stages, "`stages`", out));
    check_names(entries, "a stage", out);
    let is_empty = stages.is_none_or(|tree| tree.is_null() || matches!(tree.item, Item::Map(_))) && entries.is_empty();
    if is_empty && matches!(root.item, Item::Map(_)) {
        let at = stages.map_or(&root.at, |stages| &stages.at);
        let message = "the pipeline has no stages";
        out.push(Mistake::new(at, message).help("add `stages: {NAME: {uses: KIND}}`"));
    }
    entries
        .iter()
        .map(|(key, tree)| read_stage(key, tree, &top.defaults, home, out))
        .collect()
}

/// Checks the keys of templates; what is in them is checked where a stage extends them.
pub(super) fn check_templates(root: &Tree, out: &mut Vec<Mistake>) {
    let Some(templates) = root.get("templates") else { return };
    let entries = mapping(templates, "`templates`", out);
    check_names(entries, "a template", out);
    for (key, tree) in entries {
        let what = format!("template `{}`", key.text);
        check_keys(mapping(tree, &what, out), &what, &STAGE, out);
    }
}

/// Reads `env`: a list of names, or a mapping of names to defaults.
fn variables(tree: &Tree, out: &mut Vec<Mistake>) -> Vec<Variable> {
    let Item::Map(entries) = &tree.item else {
        let without_default = |name| Variable { name, default: None };
        return names(tree, "`env`", out).into_iter().map(without_default).collect();
    };
    let mut variables = Vec::new();
    for (key, tree) in entries {
        let default = match &tree.item {
            Item::List(_) | Item::Map(_) => {
                let message = format!(
                    "the default of `{}` must be a string, not {}",
                    key.text,
                    tree.described()
                );
                out.push(Mistake::new(&tree.at, message));
                continue;
            }
            _ if tree.is_null() => None,
            _ => Some(schema::text_of(&tree.to_value())),
        };
        variables.push(Variable {
            name: key.clone(),
            default,
        });
    }
    variables
}

fn read_profiles(profiles: &Tree, out: &mut Vec<Mistake>) {
    for (key, profile) in mapping(profiles, "`profiles`", out) {
        let what = format!("profile `{}`", key.text);
        check_keys(mapping(profile, &what, out), &what, &["params", "defaults"], out);
        if let Some(params) = profile.get("params") {
            mapping(params, &format!("`params` of {what}"), out);
        }
        if let Some(defaults) = profile.get("defaults") {
            read_defaults(defaults, out);
        }
    }
}

fn read_defaults(defaults: &Tree, out: &mut Vec<Mistake>) -> Vec<(Key, Tree)> {
    check_keys(mapping(defaults, "`defaults`", out), "`defaults`", &["resources"], out);
    let Some(resources) = defaults.get("resources") else {
        return Vec::new();
    };
    Resources::check_names(resources, out);
    mapping(resources, "`resources`", out).to_vec()
}

fn read_stage(key: &Key, tree: &Tree, defaults: &[(Key, Tree)], home: &Arc<Home>, out: &mut Vec<Mistake>) -> Stage {
    let what = format!("stage `{}`", key.text);
    let entries = mapping(tree, &what, out);
    check_keys(entries, &what, &STAGE, out);
    let given: HashMap<&str, &Tree> = entries
        .iter()
        .filter(|(_, tree)| !tree.is_null())
        .map(|(key, tree)| (key.text.as_str(), tree))
        .collect();
    let get = |name: &str| given.get(name).copied();
    // What such a stage inherits is not known, so that little can be said about the rest.
    let is_extended = get("extends").is_none();
    let uses = get("uses").filter(|_| is_extended).and_then(|uses| {
        text(uses, &format!("`uses` of {what}"), out).map(|text| Key {
            text,
            at: uses.at.clone(),
        })
    });
    if is_extended && get("uses").is_none() && (matches!(tree.item, Item::Map(_)) || tree.is_null()) {
        out.push(Mistake::new(&key.at, format!("{what} does not say which kind it uses")).help("add `uses: KIND`"));
    }
    let section = |name: &str, out: &mut Vec<Mistake>| {
        get(name)
            .map(|tree| mapping(tree, &format!("`{name}` of {what}"), out).to_vec())
            .unwrap_or_default()
    };
    let mut needs: Vec<Need> = section("needs", out)
        .iter()
        .map(|(key, tree)| read_need(key, tree, out))
        .collect();
    needs.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    let outputs = section("outputs", out);
    check_names(&outputs, "an output", out);
    let mut outputs: Vec<(Key, OutputSpec)> = outputs
        .into_iter()
        .filter_map(|(key, tree)| read_output(key, &tree, out))
        .collect();
    outputs.sort_by(|a, b| a.0.text.cmp(&b.0.text));
    let tags = get("tags").map(|tree| names(tree, "`tags`", out)).unwrap_or_default();
    Stage {
        name: StageName(key.text.clone()),
        at: key.at.clone(),
        home: home.clone(),
        description: get("description").and_then(|tree| text(tree, "`description`", out)),
        tags: tags.into_iter().map(|tag| tag.text).collect(),
        uses,
        kind: None,
        when: get("when").cloned(),
        with: section("with", out),
        needs,
        matrix_tree: get("matrix").cloned(),
        matrix: None,
        gather: get("gather").map(|tree| read_gather(tree, out)).unwrap_or_default(),
        resources: read_resources(section("resources", out), get("resources"), defaults, out),
        outputs,
    }
}

/// Returns the resources of a stage, completed by those of the pipeline.
fn read_resources(
    own: Vec<(Key, Tree)>,
    tree: Option<&Tree>,
    defaults: &[(Key, Tree)],
    out: &mut Vec<Mistake>,
) -> Vec<(Key, Tree)> {
    if let Some(tree) = tree {
        Resources::check_names(tree, out);
    }
    let is_own = |name: &str| own.iter().any(|(key, _)| key.text == name);
    let more: Vec<(Key, Tree)> = defaults.iter().filter(|(key, _)| !is_own(&key.text)).cloned().collect();
    own.into_iter().chain(more).collect()
}

/// Reads `gather`: a list of axes, or `*` for all of them.
fn read_gather(tree: &Tree, out: &mut Vec<Mistake>) -> Vec<Key> {
    let star = |tree: &Tree| tree.as_text() == Some("*");
    if star(tree) {
        return vec![Key {
            text: "*".to_owned(),
            at: tree.at.clone(),
        }];
    }
    let mut axes = names(tree, "`gather`", out);
    if axes.len() > 1
        && let Some(all) = axes.iter().find(|key| key.text == "*")
    {
        let message = "`*` gathers every axis, so no other can stand beside it";
        out.push(Mistake::new(&all.at, message).help("write `gather: \"*\"`, or only the names"));
        axes.retain(|key| key.text != "*");
    }
    axes
}

fn read_output(key: Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<(Key, OutputSpec)> {
    let type_name = text(tree, &format!("the type of output `{}`", key.text), out)?;
    let spec = OutputSpec {
        name: key.text.clone(),
        type_name,
        description: String::new(),
    };
    Some((key, spec))
}
