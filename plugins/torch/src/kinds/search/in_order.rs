//! The output: trees come as they are done and are written in the problems' order, each as soon as those before it are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::formats::Tree;

/// A file of trees that grows in order.
pub(super) struct InOrder {
    path: PathBuf,
    file: BufWriter<File>,
    /// Trees that others have to come before.
    held: BTreeMap<usize, Tree>,
    next: usize,
}

impl InOrder {
    /// # Errors
    /// The file can't be made.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
            held: BTreeMap::new(),
            next: 0,
        })
    }

    /// Adds the tree at a place.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn add(&mut self, place: usize, tree: Tree) -> Result<()> {
        self.held.insert(place, tree);
        while let Some(tree) = self.held.remove(&self.next) {
            let mut line = serde_json::to_vec(&tree)?;
            line.push(b'\n');
            let written = self.file.write_all(&line);
            written.with_context(|| format!("{}", self.path.display()))?;
            self.next += 1;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The file can't be written, or a tree is missing.
    pub(super) fn end(mut self) -> Result<()> {
        ensure!(self.held.is_empty(), "the tree at place {} is missing", self.next);
        self.file.flush().with_context(|| format!("{}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Problem, VERSION, VerifierName, read_jsonl};

    fn tree(id: usize) -> Tree {
        Tree {
            version: VERSION,
            problem: Problem {
                version: VERSION,
                id: id.to_string(),
                problem: String::new(),
                answer: String::new(),
                verifier: VerifierName::Math,
                meta: serde_json::Map::new(),
            },
            nodes: Vec::new(),
            num_simulations: 0,
            num_tokens: 0,
        }
    }

    #[test]
    fn trees_are_written_in_order_whenever_they_come() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("trees.jsonl");
        let mut out = InOrder::create(path.clone()).expect("a file");
        for place in [2, 0, 1, 4, 3] {
            out.add(place, tree(place)).expect("written");
        }
        assert!(out.held.is_empty(), "nothing is held back longer than it must be");
        out.end().expect("all are there");
        let trees: Vec<Tree> = read_jsonl(&path, "tree").expect("trees");
        assert_eq!(trees, [0, 1, 2, 3, 4].map(tree));
        let mut out = InOrder::create(path).expect("a file");
        out.add(1, tree(1)).expect("kept");
        assert!(out.end().is_err());
    }
}
