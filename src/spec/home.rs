//! What the stages of one pipeline file share, when stages of several files meet in one graph.

use std::path::PathBuf;

use super::scope::Scope;

/// A pipeline file as the home of its stages.
#[derive(Debug)]
pub struct Home {
    /// The file.
    pub file: PathBuf,
    /// The folder of the file, absolute: what paths are relative to and where commands run.
    pub dir: PathBuf,
    /// What references refer to.
    pub scope: Scope,
}
