//! Kinds: what a stage can do, with the schema of its parameters, its inputs and its outputs.
//!
//! The engine itself has one, `command`; all others come from plugins (`plugin.rs`). Nothing here knows a pipeline.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::mistake::Mistake;
use super::schema::{Additional, Format, Ordered, Schema, Type};

/// The name of the kind that is any command line.
pub const COMMAND: &str = "command";

/// The type of an artifact that fits everywhere.
pub const ANY: &str = "any";

/// What a stage does.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The name, as in `uses`.
    pub name: String,
    /// The version, which enters the key.
    pub version: u64,
    /// What it does, in a sentence.
    pub summary: String,
    /// The parameters.
    pub params: Ordered<Schema>,
    /// The inputs; the stage names them itself if the provider is the engine.
    pub inputs: Vec<InputSpec>,
    /// The outputs; the stage names them itself if the provider is the engine.
    pub outputs: Vec<OutputSpec>,
    /// Who runs it.
    pub provider: Provider,
}

/// Who runs a kind.
#[derive(Debug, Clone)]
pub enum Provider {
    /// The engine: the kind `command`.
    Command,
    /// The worker of a plugin.
    Plugin(Arc<Plugin>),
}

/// What the kinds of one `plugin.yaml` share.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The name.
    pub name: String,
    /// The folder, absolute.
    pub dir: PathBuf,
    /// Program and arguments; a program that was not found is still a bare word.
    pub program: Vec<String>,
    /// Globs of the files whose bytes enter every key, relative to the folder.
    pub code: Vec<String>,
}

/// An input of a kind.
#[derive(Debug, Clone)]
pub struct InputSpec {
    /// The name.
    pub name: String,
    /// The type of the artifact.
    pub type_name: String,
    /// Whether a stage may leave it out.
    pub optional: bool,
    /// Whether it is always a list.
    pub gathered: bool,
    /// What it is for.
    pub description: String,
}

/// An output of a kind.
#[derive(Debug, Clone)]
pub struct OutputSpec {
    /// The name.
    pub name: String,
    /// The type of the artifact.
    pub type_name: String,
    /// What it holds.
    pub description: String,
}

impl Kind {
    /// Tells whether the stage, and not the kind, names inputs and outputs.
    pub fn is_open(&self) -> bool {
        matches!(self.provider, Provider::Command)
    }

    /// Returns the declaration of an input.
    pub fn input(&self, name: &str) -> Option<&InputSpec> {
        self.inputs.iter().find(|input| input.name == name)
    }
}

/// All kinds that were found.
#[derive(Debug, Default)]
pub struct Catalog {
    kinds: Vec<Arc<Kind>>,
    by_name: HashMap<String, usize>,
    /// Plugins that can't be used; they matter only to who misses a kind of theirs.
    pub flawed: Vec<Mistake>,
}

impl Catalog {
    /// Returns the catalog with the engine's own kind.
    pub fn new() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.add(command());
        catalog
    }

    /// Adds a kind; returns false if another one already has the name, which then stays.
    pub fn add(&mut self, kind: Kind) -> bool {
        if self.by_name.contains_key(&kind.name) {
            return false;
        }
        self.by_name.insert(kind.name.clone(), self.kinds.len());
        self.kinds.push(Arc::new(kind));
        true
    }

    /// Returns the kind of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Kind>> {
        self.by_name.get(name).map(|&idx| &self.kinds[idx])
    }

    /// Returns all kinds in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }
}

fn command() -> Kind {
    let text = Schema {
        types: vec![Type::String],
        deferred: true,
        ..Schema::default()
    };
    let run = Schema {
        types: vec![Type::String, Type::Array],
        items: Some(Box::new(text.clone())),
        description: "The command line: a text for `sh -c`, or a list of words. `${inputs.NAME}`, `${outputs.NAME}`, \
                      `${resources.cpu}` and `${seed}` are filled in when it starts."
            .to_owned(),
        deferred: true,
        ..Schema::default()
    };
    let path = Schema {
        types: vec![Type::String],
        format: Some(Format::Path),
        ..Schema::default()
    };
    let files = Schema {
        types: vec![Type::Array],
        items: Some(Box::new(path)),
        default: Some(Value::Array(Vec::new())),
        description: "Files and folders that the command reads; their content enters the key.".to_owned(),
        ..Schema::default()
    };
    let env = Schema {
        types: vec![Type::Object],
        additional_properties: Additional::Of(Box::new(text)),
        default: Some(Value::Object(serde_json::Map::new())),
        description: "Environment variables of the command.".to_owned(),
        deferred: true,
        ..Schema::default()
    };
    let params = [("run", run), ("files", files), ("env", env)].map(|(name, schema)| (name.to_owned(), schema));
    Kind {
        name: COMMAND.to_owned(),
        version: 1,
        summary: "Runs any command line in the folder of the pipeline; the stage names its inputs and outputs."
            .to_owned(),
        params: Ordered(params.into()),
        inputs: Vec::new(),
        outputs: Vec::new(),
        provider: Provider::Command,
    }
}
