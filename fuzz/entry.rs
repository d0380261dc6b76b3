//! What the fuzz targets and the test that replays their corpus do with an input.
//!
//! No input can reach a file: the kinds are those of the demo plugin with every `format: path` and `code` taken away.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use volvelle::digest::RecipeKey;
use volvelle::graph::{self, Graph, NodeId};
use volvelle::spec::kind::{COMMAND, Catalog, Kind, Plugin, Provider};
use volvelle::spec::plugin;
use volvelle::spec::template::{self, Part};
use volvelle::spec::{Additional, Mistakes, Options, Schema, load_text};

/// A folder that does not exist: what paths of a pipeline would be relative to.
const NOWHERE: &str = "/nonexistent/volvelle";

/// How many nodes of a graph are looked at one by one.
const MAX_CHECKED: usize = 40;

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("tests/fixtures/plugins"))
        .find(|dir| dir.is_dir())
        .expect("the repository has the demo plugin");
    let found = plugin::catalog(&[demo], Path::new(NOWHERE), &mut Vec::new());
    let wanted = found
        .iter()
        .filter(|kind| kind.name == COMMAND || kind.name.starts_with("demo."));
    wanted.map(|kind| without_files(kind)).collect()
});

/// Reads the text of a pipeline, builds its graph, and tells what is wrong with it as the program would.
///
/// Comments at its beginning are the command line: `#set PATH=VALUE`, `#sweep PATH=VALUES` and `#profile NAME`. Returns whether it is right.
///
/// # Panics
/// On a bug: that is what it looks for.
pub fn pipeline(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mut options = Options::default();
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        if let Some(set) = line.strip_prefix("#set ") {
            options.sets.push(set.to_owned());
        } else if let Some(sweep) = line.strip_prefix("#sweep ") {
            options.sweeps.push(sweep.to_owned());
        } else if let Some(profile) = line.strip_prefix("#profile ") {
            options.profile = Some(profile.to_owned());
        }
    }
    let told = |mistakes: &Mistakes| assert!(!mistakes.render(false, 100).trim().is_empty(), "{mistakes:?}");
    let built = || {
        let pipeline = load_text("fuzzed.yaml", text, Path::new(NOWHERE), &options, catalog())?;
        graph::build(&pipeline, None)
    };
    match (built(), built()) {
        (Ok(graph), Ok(again)) => {
            assert_eq!(named(&graph), named(&again), "built twice, differently");
            check_nodes(&graph);
            true
        }
        (Err(mistakes), Err(again)) => {
            told(&mistakes);
            assert_eq!(mistakes.to_string(), again.to_string(), "told twice, differently");
            false
        }
        (Ok(_), Err(mistakes)) | (Err(mistakes), Ok(_)) => panic!("right once and wrong once: {mistakes}"),
    }
}

/// Returns the JSON Schema for the same kinds.
pub fn schema() -> serde_json::Value {
    volvelle::spec::json_schema(&catalog())
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    KINDS.iter().for_each(|kind| assert!(catalog.add(kind.clone())));
    catalog
}

/// Cuts a text into its parts, which must make up the same text again.
///
/// # Panics
/// On a bug: that is what it looks for.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let filled = template::substitute(text, |name| Some(template::shell_quote(name)));
    let Ok(parts) = template::parse(text) else {
        assert!(filled.is_err(), "{text:?} is malformed and was filled in");
        return;
    };
    let has_default = parts.iter().any(|part| matches!(part, Part::Default { .. }));
    assert_eq!(filled.is_err(), has_default, "{text:?} is well formed");
    let mut written = String::new();
    for part in &parts {
        match part {
            Part::Text(text) => template::push_text(&mut written, text),
            Part::Reference(name) => template::push_template(&mut written, &format!("${{{name}}}")),
            Part::Default { name, default } => {
                template::push_template(&mut written, &format!("${{{name}:-{default}}}"));
            }
        }
    }
    assert_eq!(
        template::parse(&written).as_ref(),
        Ok(&parts),
        "{text:?} written as {written:?}"
    );
}

/// Checks that every node can be worked out, and that its name finds it and nothing else.
fn check_nodes(graph: &Graph) {
    for idx in 0..graph.len().min(MAX_CHECKED) {
        let node = graph.node(idx);
        assert_eq!((&node.id, node.recipe_key), (&graph.id(idx), graph.recipe_key(idx)));
        assert_eq!(graph.select_all(&node.id.0), Ok(vec![idx]), "{}", node.id);
        let producers = node.inputs.iter().flat_map(|input| &input.items).map(|item| item.node);
        assert!(
            producers.max().is_none_or(|producer| producer < idx),
            "{} stands before its input",
            node.id
        );
    }
}

/// Returns the name and key of every node.
fn named(graph: &Graph) -> Vec<(NodeId, RecipeKey)> {
    (0..graph.len())
        .map(|idx| (graph.id(idx), graph.recipe_key(idx)))
        .collect()
}

fn without_files(kind: &Kind) -> Kind {
    let mut kind = kind.clone();
    kind.params.0.iter_mut().for_each(|(_, schema)| forget_paths(schema));
    if let Provider::Plugin(plugin) = &kind.provider {
        kind.provider = Provider::Plugin(Arc::new(Plugin {
            code: Vec::new(),
            ..Plugin::clone(plugin)
        }));
    }
    kind
}

fn forget_paths(schema: &mut Schema) {
    schema.format = None;
    schema.items.iter_mut().for_each(|items| forget_paths(items));
    schema
        .properties
        .0
        .iter_mut()
        .for_each(|(_, schema)| forget_paths(schema));
    if let Additional::Of(schema) = &mut schema.additional_properties {
        forget_paths(schema);
    }
}
