//! A revision of a pipeline, read with the program `git` into a temporary tree.
//!
//! The whole tree of the revision is laid out, so that what the pipeline includes and its plugins are those of then.
//! What git does not keep, such as data sets and built programs, is the present one, by symbolic links. Neither the
//! repository nor its index is touched.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::CliError;

/// A pipeline file as it was; its tree is removed with the value.
pub(super) struct Revision {
    _folder: TempDir,
    /// The pipeline file in the temporary tree.
    pub file: PathBuf,
    /// The root of the temporary tree.
    pub tree: PathBuf,
    /// The root of the repository.
    pub root: PathBuf,
    /// Where the pipeline file is, or was, in the repository.
    pub original: PathBuf,
}

/// Lays out a revision of a pipeline. `path` is relative to the repository, or to the current folder with `./`.
pub(super) fn check_out(revision: &str, path: &str) -> Result<Revision, CliError> {
    let usage = |error: String| CliError::Usage(format!("can't read `{revision}:{path}`: {error}"));
    if revision.is_empty() || revision.starts_with('-') {
        return Err(usage(format!("`{revision}` is no revision")));
    }
    let root = git(None, &["rev-parse", "--show-toplevel"], None).map_err(usage)?;
    let root = PathBuf::from(root.trim_end());
    let commit = git(
        None,
        &["rev-parse", "--verify", &format!("{revision}^{{commit}}")],
        None,
    )
    .map_err(|_| usage(format!("git knows no revision `{revision}`")))?;
    let commit = commit.trim_end();
    let inside = match path.starts_with("./") || path.starts_with("../") {
        // git puts the path of the current folder in front of these by itself.
        true => git(
            None,
            &["ls-tree", "--name-only", "--full-name", commit, "--", path],
            None,
        )
        .map_err(usage)?,
        false => git(Some(&root), &["ls-tree", "--name-only", commit, "--", path], None).map_err(usage)?,
    };
    let inside = inside.trim_end();
    if inside.is_empty() {
        let hint = match path.starts_with('.') || !Path::new(path).exists() {
            true => String::new(),
            false => format!("; paths are relative to the repository, so from here it may be `{revision}:./{path}`"),
        };
        return Err(usage(format!("that revision has no such file{hint}")));
    }
    let io = |error: std::io::Error| usage(format!("no temporary tree can be made: {error}"));
    let folder = tempfile::Builder::new().prefix("volvelle-").tempdir().map_err(io)?;
    // Messages about the pipeline show this path, so it says which revision is meant.
    let tree = folder.path().join(revision.replace(['/', ':'], "-"));
    std::fs::create_dir(&tree).map_err(io)?;
    let index = folder.path().join("index");
    git(Some(&root), &["read-tree", commit], Some(&index)).map_err(usage)?;
    let prefix = format!("--prefix={}/", tree.display());
    git(
        Some(&root),
        &["checkout-index", "--all", "--quiet", &prefix],
        Some(&index),
    )
    .map_err(usage)?;
    link_others(&root, &tree).map_err(usage)?;
    Ok(Revision {
        file: tree.join(inside),
        original: root.join(inside),
        _folder: folder,
        tree,
        root,
    })
}

/// Links what git does not keep into the tree, where that revision has nothing of its own.
fn link_others(root: &Path, tree: &Path) -> Result<(), String> {
    let listed = git(Some(root), &["ls-files", "--others", "--directory", "-z"], None)?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let name = name.trim_end_matches('/');
        let (from, to) = (root.join(name), tree.join(name));
        let has_folder = to.parent().is_some_and(Path::is_dir);
        if has_folder && std::fs::symlink_metadata(&to).is_err() {
            // Whatever needs one that can't be linked will say that it is missing.
            if let Err(error) = std::os::unix::fs::symlink(&from, &to) {
                tracing::warn!(path = name, %error, "a file outside of git is not there for the revision");
            }
        }
    }
    Ok(())
}

/// Runs git and returns what it printed, or why it failed.
fn git(folder: Option<&Path>, arguments: &[&str], index: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new("git");
    command
        .args(folder.map(|_| OsStr::new("-C")))
        .args(folder)
        .args(arguments);
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "the program `git`, which reads revisions, was not found".to_owned(),
        _ => format!("git can't be started: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or_default();
    Err(line.trim_start_matches("fatal: ").to_owned())
}
