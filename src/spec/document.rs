//! From the tree of a pipeline file to its parts: which keys there are and which shape each value has.
//!
//! Every shape that is wrong is told and left out, so that the rest can still be read. It doesn't know which kinds,
//! parameters or stages exist; `check.rs` does.

use std::sync::Arc;

use super::StageName;
use super::kind::{Kind, OutputSpec};
use super::matrix::Matrix;
use super::mistake::{At, Mistake};
use super::resources::Resources;
use super::yaml::{Item, Key, Tree};

/// The version of the language that is read.
const LANGUAGE: u64 = 1;

const TOP: [&str; 8] = [
    "volvelle",
    "name",
    "description",
    "params",
    "profiles",
    "defaults",
    "env",
    "stages",
];
const STAGE: [&str; 8] = [
    "uses",
    "description",
    "with",
    "needs",
    "matrix",
    "gather",
    "resources",
    "outputs",
];

/// A pipeline file, taken apart.
pub(super) struct Document {
    pub name: Option<String>,
    pub params: Tree,
    pub env: Vec<Key>,
    pub stages: Vec<Stage>,
}

/// A stage as it was written.
#[derive(Debug)]
pub struct Stage {
    /// The name.
    pub name: StageName,
    /// Where the name was written.
    pub at: At,
    /// The name of the kind and where it was written.
    pub uses: Option<Key>,
    /// The kind; absent if there is none of that name.
    pub kind: Option<Arc<Kind>>,
    /// The parameters that are given, with references.
    pub with: Vec<(Key, Tree)>,
    /// The inputs that are given, in the order of names.
    pub needs: Vec<Need>,
    /// The axes that the stage adds, as written.
    pub matrix_tree: Option<Tree>,
    /// The axes that the stage adds; absent if they are wrong.
    pub matrix: Option<Matrix>,
    /// The axes that the stage collapses.
    pub gather: Vec<Key>,
    /// The resources of the stage and, where it says nothing, of the pipeline, with references.
    pub resources: Vec<(Key, Tree)>,
    /// The outputs of a command.
    pub outputs: Vec<(Key, OutputSpec)>,
}

/// An input that a stage is given.
#[derive(Debug)]
pub struct Need {
    /// The name of the input.
    pub name: Key,
    /// Whether it was written as a list or a mapping of references.
    pub is_list: bool,
    /// The references; in the order of their labels if a mapping gives them.
    pub refs: Vec<Reference>,
}

/// A `stage.output/path`.
#[derive(Debug)]
pub struct Reference {
    /// The label that a mapping gives it.
    pub label: Option<String>,
    /// The stage.
    pub stage: String,
    /// The output.
    pub output: String,
    /// A file or folder inside the artifact.
    pub subpath: Option<String>,
    /// The values of axes that select some of the stage's points.
    pub point: Vec<(Key, Tree)>,
    /// Where it was written.
    pub at: At,
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

/// Takes a pipeline file apart.
pub(super) fn read(root: &Tree, out: &mut Vec<Mistake>) -> Document {
    let entries = mapping(root, "a pipeline", out);
    check_keys(entries, "a pipeline", &TOP, out);
    match root.get("volvelle") {
        Some(version) if version.to_value().as_u64() == Some(LANGUAGE) => {}
        Some(version) => {
            let message = format!("this version reads `volvelle: {LANGUAGE}`, not {}", version.described());
            out.push(Mistake::new(&version.at, message));
        }
        None if matches!(root.item, Item::Map(_)) => {
            let first = entries.first().map_or(&root.at, |(key, _)| &key.at);
            let message = "the version of the language is missing";
            out.push(Mistake::new(first, message).help(format!("begin the file with `volvelle: {LANGUAGE}`")));
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
    check_names(params_entries, "parameter", out);
    if let Some(profiles) = root.get("profiles") {
        read_profiles(profiles, out);
    }
    let stages = root.get("stages").unwrap_or(&none);
    let resources = root
        .get("defaults")
        .map(|defaults| read_defaults(defaults, out))
        .unwrap_or_default();
    let stage_entries = mapping(stages, "`stages`", out);
    check_names(stage_entries, "stage", out);
    if stage_entries.is_empty() && matches!(root.item, Item::Map(_)) {
        out.push(Mistake::new(&stages.at, "the pipeline has no stages").help("add `stages: {NAME: {uses: KIND}}`"));
    }
    Document {
        name: root.get("name").and_then(|tree| text(tree, "`name`", out)),
        params: if params.is_null() { none.clone() } else { params.clone() },
        env: root
            .get("env")
            .map(|tree| names(tree, "`env`", out))
            .unwrap_or_default(),
        stages: stage_entries
            .iter()
            .map(|(key, tree)| read_stage(key, tree, &resources, out))
            .collect(),
    }
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

fn read_stage(key: &Key, tree: &Tree, defaults: &[(Key, Tree)], out: &mut Vec<Mistake>) -> Stage {
    let what = format!("stage `{}`", key.text);
    let entries = mapping(tree, &what, out);
    check_keys(entries, &what, &STAGE, out);
    let uses = tree.get("uses").and_then(|uses| {
        text(uses, &format!("`uses` of {what}"), out).map(|text| Key {
            text,
            at: uses.at.clone(),
        })
    });
    if tree.get("uses").is_none() && matches!(tree.item, Item::Map(_) | Item::Plain(serde_json::Value::Null)) {
        out.push(Mistake::new(&key.at, format!("{what} does not say which kind it uses")).help("add `uses: KIND`"));
    }
    if let Some(tree) = tree.get("description") {
        text(tree, "`description`", out);
    }
    let section = |name: &str, out: &mut Vec<Mistake>| {
        tree.get(name)
            .map(|tree| mapping(tree, &format!("`{name}` of {what}"), out).to_vec())
            .unwrap_or_default()
    };
    let mut resources = section("resources", out);
    if let Some(tree) = tree.get("resources") {
        Resources::check_names(tree, out);
    }
    let own = resources.len();
    for (key, value) in defaults {
        if !resources[..own].iter().any(|(k, _)| k.text == key.text) {
            resources.push((key.clone(), value.clone()));
        }
    }
    let mut needs: Vec<Need> = section("needs", out)
        .iter()
        .map(|(key, tree)| read_need(key, tree, out))
        .collect();
    needs.sort_by(|a, b| a.name.text.cmp(&b.name.text));
    let outputs = section("outputs", out);
    check_names(&outputs, "output", out);
    let mut outputs: Vec<(Key, OutputSpec)> = outputs
        .into_iter()
        .filter_map(|(key, tree)| read_output(key, &tree, out))
        .collect();
    outputs.sort_by(|a, b| a.0.text.cmp(&b.0.text));
    Stage {
        name: StageName(key.text.clone()),
        at: key.at.clone(),
        uses,
        kind: None,
        with: section("with", out),
        needs,
        matrix_tree: tree.get("matrix").filter(|tree| !tree.is_null()).cloned(),
        matrix: None,
        gather: tree
            .get("gather")
            .map(|tree| names(tree, "`gather`", out))
            .unwrap_or_default(),
        resources,
        outputs,
    }
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

fn read_need(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Need {
    let mut refs = Vec::new();
    match &tree.item {
        Item::List(items) => refs.extend(items.iter().filter_map(|item| read_list_item(item, out))),
        Item::Map(entries) => {
            refs.extend(
                entries
                    .iter()
                    .filter_map(|(label, tree)| reference(Some(label.text.clone()), tree, out)),
            );
            // The order of keys means nothing in this language; a list of `- label: reference` chooses an order.
            refs.sort_by(|a, b| a.label.cmp(&b.label));
        }
        _ => refs.extend(reference(None, tree, out)),
    }
    let is_list = matches!(tree.item, Item::List(_) | Item::Map(_));
    if is_list && refs.is_empty() && matches!(&tree.item, Item::List(items) if items.is_empty()) {
        out.push(Mistake::new(&key.at, format!("input `{}` is an empty list", key.text)));
    }
    Need {
        name: key.clone(),
        is_list,
        refs,
    }
}

/// Reads `stage.output` or `label: stage.output`.
fn read_list_item(item: &Tree, out: &mut Vec<Mistake>) -> Option<Reference> {
    match &item.item {
        Item::Map(entries) => match &entries[..] {
            [(label, tree)] => reference(Some(label.text.clone()), tree, out),
            _ => {
                let message = "an item of a list of inputs is `stage.output` or one `LABEL: stage.output`";
                out.push(Mistake::new(&item.at, message));
                None
            }
        },
        _ => reference(None, item, out),
    }
}

fn reference(label: Option<String>, tree: &Tree, out: &mut Vec<Mistake>) -> Option<Reference> {
    let text = text(tree, "an input", out)?;
    let mut wrong = |message: String, help: &str| {
        out.push(Mistake::new(&tree.at, message).help(help));
        None
    };
    if text.contains("${") {
        return wrong(
            format!("`{text}`: an input can't have `${{...}}` in it"),
            "name the stage and its output",
        );
    }
    let (name, subpath) = match text.split_once('/') {
        Some((name, path)) => (name, Some(path)),
        None => (text.as_str(), None),
    };
    let Some((stage, output)) = name.split_once('.') else {
        return wrong(
            format!("`{text}` does not name an output"),
            "write `stage.output`, or `stage.output/path/inside`",
        );
    };
    if let Some(path) = subpath
        && path.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return wrong(
            format!("`{path}` is not a path inside an artifact"),
            "write `stage.output/path/inside`, without `..`",
        );
    }
    let subpath = subpath.map(str::to_owned);
    Some(Reference {
        label,
        stage: stage.to_owned(),
        output: output.to_owned(),
        subpath,
        point: Vec::new(),
        at: tree.at.clone(),
    })
}

/// Returns the entries of a mapping; null has none.
fn mapping<'a>(tree: &'a Tree, what: &str, out: &mut Vec<Mistake>) -> &'a [(Key, Tree)] {
    match &tree.item {
        Item::Map(entries) => entries,
        _ if tree.is_null() => &[],
        _ => {
            out.push(Mistake::new(
                &tree.at,
                format!("{what} must be a mapping, not {}", tree.described()),
            ));
            &[]
        }
    }
}

fn text(tree: &Tree, what: &str, out: &mut Vec<Mistake>) -> Option<String> {
    let text = tree.as_text().map(str::to_owned);
    if text.is_none() {
        out.push(Mistake::new(
            &tree.at,
            format!("{what} must be a string, not {}", tree.described()),
        ));
    }
    text
}

/// Returns a list of names, each once.
fn names(tree: &Tree, what: &str, out: &mut Vec<Mistake>) -> Vec<Key> {
    let Item::List(items) = &tree.item else {
        if !tree.is_null() {
            let message = format!("{what} must be a list of names, not {}", tree.described());
            out.push(Mistake::new(&tree.at, message).help(format!("write `[{}]`", tree.at.text().trim())));
        }
        return Vec::new();
    };
    let mut names: Vec<Key> = Vec::new();
    for item in items {
        let Some(name) = text(item, &format!("an item of {what}"), out) else {
            continue;
        };
        if names.iter().any(|key| key.text == name) {
            out.push(Mistake::new(&item.at, format!("{what} names `{name}` twice")));
        } else {
            names.push(Key {
                text: name,
                at: item.at.clone(),
            });
        }
    }
    names
}

fn check_keys(entries: &[(Key, Tree)], what: &str, valid: &[&str], out: &mut Vec<Mistake>) {
    for (key, _) in entries.iter().filter(|(key, _)| !valid.contains(&key.text.as_str())) {
        out.push(Mistake::unknown(
            &key.at,
            format!("{what} has no key `{}`", key.text),
            &key.text,
            valid.iter().copied(),
        ));
    }
}

/// Tells whether a text is a name: letters, digits, `_` and `-`, beginning with a letter or `_`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn check_names(entries: &[(Key, Tree)], what: &str, out: &mut Vec<Mistake>) {
    for (key, _) in entries.iter().filter(|(key, _)| !is_name(&key.text)) {
        let message = format!("`{}` can't be the name of a {what}", key.text);
        out.push(
            Mistake::new(&key.at, message).help("a name has letters, digits, `_` and `-`, and begins with a letter"),
        );
    }
}
