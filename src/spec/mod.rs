//! The pipeline language as typed data with positions, and every mistake a user can make in it.
//!
//! [`load`] reads a pipeline with its profile, its `--set` options and the plugins it can use. It goes on after a
//! mistake, so that all are told at once; a [`Pipeline`] carries those that were found, and building its graph finds
//! the rest. It doesn't know what was run before, and of axes only what a single stage says.

mod check;
mod document;
pub mod kind;
mod matrix;
mod mistake;
mod overrides;
pub mod plugin;
mod resources;
mod schema;
mod scope;
pub mod template;
pub mod values;
mod yaml;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use document::{Need, Reference, Stage};
pub use matrix::{Axis, Matrix};
pub use mistake::{At, Mistake, Mistakes, listed, nearest, shown};
pub use resources::Resources;
pub use schema::{Class, Schema, Type, choices, text_of};
pub use scope::{Outcome, Point, Scope};
pub use yaml::{Item, Key, Tree};

use kind::Catalog;

/// Names a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageName(pub String);

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What the command line says about a pipeline.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Every `--set PATH=VALUE`, in order.
    pub sets: Vec<String>,
    /// The chosen profile.
    pub profile: Option<String>,
    /// Every `--plugins DIR`, in order.
    pub plugin_dirs: Vec<PathBuf>,
}

/// A pipeline file, read and checked as far as that goes without its axes.
#[derive(Debug)]
pub struct Pipeline {
    /// The file.
    pub file: PathBuf,
    /// The folder of the file, absolute: what paths are relative to.
    pub dir: PathBuf,
    /// The name; that of the file if it gives none.
    pub name: String,
    /// What references refer to.
    pub scope: Arc<Scope>,
    /// The stages in the order they were written.
    pub stages: Vec<Stage>,
    /// The kinds that were found.
    pub catalog: Catalog,
    /// What was found wrong; a graph is built only without any.
    pub mistakes: Vec<Mistake>,
    index: HashMap<String, usize>,
}

impl Pipeline {
    /// Returns the index of a stage.
    pub fn stage_idx(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

/// Reads a pipeline.
///
/// # Errors
/// The file can't be read or is not YAML. All other mistakes are in the pipeline.
pub fn load(file: &Path, options: &Options) -> Result<Pipeline, Mistakes> {
    let name = shown(file);
    let unreadable = |why: String| Mistake::nowhere(format!("can't read the pipeline {name}: {why}"));
    let bytes = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let dir = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let dir = std::path::absolute(dir).map_err(|error| unreadable(error.to_string()))?;
    let mut pipeline = read(&At::whole(&name, text.trim_start_matches('\u{feff}')), dir, options)?;
    pipeline.file = file.to_path_buf();
    if pipeline.name.is_empty() {
        pipeline.name = file
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
    }
    Ok(pipeline)
}

fn read(whole: &At, dir: PathBuf, options: &Options) -> Result<Pipeline, Mistakes> {
    let mut mistakes = Vec::new();
    let Some(mut root) = yaml::parse(whole, &mut mistakes) else {
        Mistakes::check(mistakes)?;
        return Err(Mistake::new(whole, "broken YAML").into());
    };
    overrides::check_profiles(&root, &mut mistakes);
    if let Some(profile) = &options.profile {
        overrides::apply_profile(&mut root, profile, &mut mistakes);
    }
    for option in &options.sets {
        overrides::apply_set(&mut root, option, &mut mistakes);
    }
    let mut document = document::read(&root, &mut mistakes);
    let profile = options.profile.as_deref().unwrap_or_default();
    let scope = Scope::new(&document.params, document.env, profile, &mut mistakes);
    for stage in &mut document.stages {
        stage.matrix = match &stage.matrix_tree {
            Some(tree) => Matrix::read(tree, &scope, &mut mistakes),
            None => Some(Matrix::none()),
        };
    }
    let catalog = plugin::catalog(&options.plugin_dirs, &dir, &mut mistakes);
    let index = document
        .stages
        .iter()
        .enumerate()
        .map(|(idx, stage)| (stage.name.0.clone(), idx))
        .collect();
    check::kinds(&mut document.stages, &catalog, &mut mistakes);
    check::stages(&document.stages, &index, &mut mistakes);
    Ok(Pipeline {
        file: PathBuf::new(),
        name: document.name.unwrap_or_default(),
        stages: document.stages,
        dir,
        scope: Arc::new(scope),
        catalog,
        mistakes,
        index,
    })
}
