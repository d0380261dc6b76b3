//! The pipeline language as typed data with positions, and every mistake a user can make in it.
//!
//! [`load`] reads a pipeline with what it includes, its profile, its `--set` and `--sweep` options and the plugins it
//! can use. It goes on after a mistake, so that all are told at once; a [`Pipeline`] carries those that were found, and building its graph finds
//! the rest. It doesn't know what was run before, and of axes only what a single stage says.

mod axis;
mod check;
mod decimal;
mod document;
mod draw;
mod extends;
mod fields;
mod files;
mod fill;
mod home;
mod json_schema;
pub mod kind;
mod load;
mod matrix;
mod merge;
mod mistake;
mod overrides;
mod params;
mod paths;
pub mod plugin;
mod reference;
mod resources;
mod schema;
mod scope;
mod shape;
mod sweep;
pub mod template;
mod traps;
mod unit;
pub mod values;
mod when;
mod yaml;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use document::Stage;
pub use fill::Outcome;
pub use home::Home;
pub use json_schema::json_schema;
pub use load::{load, load_text};
pub use matrix::{Axis, Matrix};
pub use mistake::{At, Mistake, Mistakes, listed, nearest, shown};
pub use reference::{Need, Reference};
pub use resources::Resources;
pub use schema::{Additional, Class, Schema, Type, choices, text_of};
pub use scope::{Point, Scope};
pub use when::Off;
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
    /// Every `--sweep PATH=VALUES`, in order.
    pub sweeps: Vec<String>,
    /// Every `--plugins DIR`, in order.
    pub plugin_dirs: Vec<PathBuf>,
}

/// A pipeline, read and checked as far as that goes without its axes.
#[derive(Debug)]
pub struct Pipeline {
    /// The file.
    pub file: PathBuf,
    /// All files that it was read from, absolute: the file itself, what it includes, other pipelines.
    pub files: Vec<PathBuf>,
    /// The name; that of the file if it gives none.
    pub name: String,
    /// The names of the profiles.
    pub profiles: Vec<String>,
    /// What the stages of the file share.
    pub home: Arc<Home>,
    /// The stages in the order they were written, after those of other pipelines.
    pub stages: Vec<Stage>,
    /// The stages of the file that don't exist, because of their `when`.
    pub off: Vec<Off>,
    /// The kinds that were found.
    pub catalog: Arc<Catalog>,
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
