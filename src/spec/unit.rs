//! One pipeline file on its own: from its tree to its stages, with kinds and axes, as far as no other pipeline matters.
//!
//! `load.rs` brings several of them together.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::document::{self, Stage};
use super::home::Home;
use super::kind::Catalog;
use super::matrix::Matrix;
use super::mistake::Mistake;
use super::scope::Scope;
use super::when::{self, Off};
use super::yaml::Tree;
use super::{check, extends, overrides, sweep};

/// What the command line changes in one pipeline file.
#[derive(Clone, Copy, Default)]
pub(super) struct Changes<'a> {
    pub profile: Option<&'a str>,
    pub sets: &'a [String],
    pub sweeps: &'a [String],
}

/// A pipeline file that was read.
pub(super) struct Unit {
    /// The name that it gives itself.
    pub name: Option<String>,
    pub home: Arc<Home>,
    /// The stages that exist, in the order they were written.
    pub stages: Vec<Stage>,
    /// The stages that don't, because of their `when`.
    pub off: Vec<Off>,
    /// The names of the profiles.
    pub profiles: Vec<String>,
    /// The indices of `stages` by name.
    pub index: HashMap<String, usize>,
}

impl Unit {
    /// Reads the tree of a file, in which includes are laid out already.
    pub fn read(
        mut root: Tree,
        (file, dir): (&Path, &Path),
        catalog: &Catalog,
        changes: Changes<'_>,
        out: &mut Vec<Mistake>,
    ) -> Unit {
        overrides::check_profiles(&root, out);
        if let Some(profile) = changes.profile {
            overrides::apply_profile(&mut root, profile, out);
        }
        for option in changes.sets {
            overrides::apply_set(&mut root, option, out);
        }
        let sweeps = sweep::read(&mut root, changes.sweeps, out);
        document::check_templates(&root, out);
        extends::apply(&mut root, out);
        let top = document::top(&root, out);
        let profile = changes.profile.unwrap_or_default();
        let scope = Scope::new(&top.params, top.env.clone(), profile, sweep::swept(&sweeps), out);
        let home = Arc::new(Home {
            file: file.to_path_buf(),
            dir: dir.to_path_buf(),
            scope,
        });
        let profiles = overrides::profile_names(&root);
        let stages = document::stages(&root, &top, &home, out);
        let (mut stages, off) = on_and_off(stages, &profiles, out);
        for stage in &mut stages {
            stage.matrix = match &stage.matrix_tree {
                Some(tree) => Matrix::read(tree, &home.scope, out),
                None => Some(Matrix::none()),
            };
        }
        let names = stages.iter().map(|stage| stage.name.0.clone());
        let index = names.zip(0..).collect();
        sweep::apply(&mut stages, &index, &sweeps, out);
        check::kinds(&mut stages, catalog, out);
        Unit {
            name: top.name,
            home,
            stages,
            off,
            profiles,
            index,
        }
    }
}

/// Parts the stages by their `when`.
fn on_and_off(stages: Vec<Stage>, profiles: &[String], out: &mut Vec<Mistake>) -> (Vec<Stage>, Vec<Off>) {
    let mut on = Vec::with_capacity(stages.len());
    let mut off = Vec::new();
    let profiles: Vec<&str> = profiles.iter().map(String::as_str).collect();
    for stage in stages {
        let mut reason = |when: &Tree| when::unmet(when, &stage.name.0, &stage.home.scope, &profiles, out);
        match stage
            .when
            .as_ref()
            .and_then(|when| Some((when.at.clone(), reason(when)?)))
        {
            Some((at, reason)) => off.push(Off {
                name: stage.name,
                at,
                reason,
            }),
            None => on.push(stage),
        }
    }
    (on, off)
}
