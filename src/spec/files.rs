//! The files that a pipeline is made of: each read once, with what it includes laid under it.
//!
//! It knows `include` and `volvelle` and no other key. Everything keeps the place where it was written, so that a mistake in an included
//! file is shown there, and a path in it is relative to its own folder.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::document;
use super::merge::{self, Level};
use super::mistake::{At, Mistake};
use super::paths;
use super::yaml::{self, Item, Tree};

/// Files that include each other further than this are refused, so that no chain can exhaust the stack.
const MAX_CHAIN: usize = 64;

/// Larger files are no pipelines that a person or a script wrote.
const MAX_BYTES: u64 = 64 << 20;

/// All files that were read.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Their paths, absolute, in the order they were first asked for, those that can't be read among them.
    pub paths: Vec<PathBuf>,
    /// A text that stands for the first file; no other is read then.
    only: Option<String>,
    /// By real path: what a file says with its includes; `None` if something is wrong with it.
    trees: HashMap<PathBuf, Option<Tree>>,
    /// The files whose includes are being read, outermost first: real path and name.
    chain: Vec<(PathBuf, String)>,
}

impl Files {
    /// Returns what reads `text` in place of the first file, and no other.
    pub fn only(text: &str) -> Files {
        Files {
            only: Some(text.to_owned()),
            ..Files::default()
        }
    }

    /// Reads the file `path`, which messages call `name`, and all that it includes; `None` after telling `out` what is
    /// wrong with any of them.
    ///
    /// `asked` is where another file names it.
    pub fn load(&mut self, path: &Path, name: &str, asked: Option<&At>, out: &mut Vec<Mistake>) -> Option<Tree> {
        let absolute = paths::absolute(path);
        if !self.paths.contains(&absolute) {
            self.paths.push(absolute.clone());
        }
        let real = std::fs::canonicalize(path).unwrap_or(absolute);
        if let Some(mistake) = self.circle(&real, name, asked) {
            out.push(mistake);
            return None;
        }
        if let Some(known) = self.trees.get(&real) {
            return known.clone();
        }
        self.chain.push((real.clone(), name.to_owned()));
        let tree = self.read(path, name, asked, out);
        self.chain.pop();
        self.trees.insert(real, tree.clone());
        tree
    }

    fn circle(&self, real: &Path, name: &str, asked: Option<&At>) -> Option<Mistake> {
        let at = asked?;
        if let Some(idx) = self.chain.iter().position(|(open, _)| open == real) {
            let names: Vec<&str> = self.chain[idx..]
                .iter()
                .map(|(_, name)| name.as_str())
                .chain([name])
                .collect();
            let message = format!("files include each other in a circle: {}", names.join(" -> "));
            return Some(Mistake::new(at, message));
        }
        let message = format!("more than {MAX_CHAIN} files include each other in a row");
        (self.chain.len() > MAX_CHAIN).then(|| Mistake::new(at, message))
    }

    fn read(&mut self, path: &Path, name: &str, asked: Option<&At>, out: &mut Vec<Mistake>) -> Option<Tree> {
        let dir = paths::absolute(path)
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        let text = match (&self.only, asked) {
            (Some(text), None) => Ok(text.clone()),
            (Some(_), Some(at)) => {
                let message = format!("can't read `{name}`: this pipeline is a text on its own, without files");
                Err(Mistake::new(at, message))
            }
            (None, _) => read_text(path, name, asked),
        };
        let text = match text {
            Ok(text) => text,
            Err(mistake) => {
                out.push(mistake);
                return None;
            }
        };
        let before = out.len();
        let Some(mut tree) = yaml::parse(&At::file(name, text.trim_start_matches('\u{feff}'), &dir), out) else {
            if out.len() == before {
                out.push(Mistake::nowhere(format!("{name} is broken YAML")));
            }
            return None;
        };
        if self.chain.len() > 1 && !matches!(tree.item, Item::Map(_)) && !tree.is_null() {
            let message = format!("an included file must be a mapping, not {}", tree.described());
            out.push(Mistake::new(&tree.at, message));
            return None;
        }
        let Some(includes) = take(&mut tree, "include") else {
            return Some(tree);
        };
        let mut base = Tree {
            item: Item::Map(Vec::new()),
            at: tree.at.clone(),
        };
        let includes = include_list(&includes, out);
        let mut is_complete = out.len() == before;
        for (text, at) in includes {
            let path = paths::lexical(&dir.join(&text));
            let name = beside(name, &text);
            match self.load(&path, &name, Some(&at), out) {
                Some(mut included) => {
                    // Each file says for itself which language it is written in.
                    if let Some(version) = take(&mut included, "volvelle") {
                        document::check_version(&version, out);
                    }
                    merge::lay(&mut base, &included, Level::File);
                }
                None => is_complete = false,
            }
        }
        merge::lay(&mut base, &tree, Level::File);
        base.at = tree.at;
        is_complete.then_some(base)
    }
}

/// Returns how a file is called that the file `name` calls `text`.
pub(super) fn beside(name: &str, text: &str) -> String {
    let path = Path::new(name).parent().unwrap_or(Path::new("")).join(text);
    paths::lexical(&path).display().to_string()
}

fn read_text(path: &Path, name: &str, asked: Option<&At>) -> Result<String, Mistake> {
    let mistake = |why: &str| match asked {
        Some(at) => Mistake::new(at, format!("can't read `{name}`: {why}")),
        None => Mistake::nowhere(format!("can't read the pipeline {name}: {why}")),
    };
    let unreadable = |error: std::io::Error| match (error.kind(), asked) {
        (std::io::ErrorKind::NotFound, Some(at)) => {
            let text = at.text().trim_matches(['"', '\'']);
            paths::missing(mistake("there is no such file"), path, text)
        }
        (std::io::ErrorKind::NotFound, None) => match paths::near(path) {
            Some(near) => mistake("there is no such file").help(near),
            None => mistake("there is no such file"),
        },
        _ => mistake(&error.to_string()),
    };
    // To open a pipe is to wait for its writer, and a device has no end. Only who runs a pipeline may give it as a pipe.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(mistake("it is a folder"));
    }
    if asked.is_some() && !metadata.is_file() {
        return Err(mistake("it is no ordinary file"));
    }
    let too_large = || {
        let why = format!("it is larger than {} MiB", MAX_BYTES >> 20);
        mistake(&why).help("a pipeline names large data by its path")
    };
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            let line = good.matches('\n').count() + 1;
            Err(mistake("it is not UTF-8").help(format!(
                "the first wrong byte is on line {line}; save the file as UTF-8"
            )))
        }
    }
}

/// Removes a key from a mapping and returns its value.
fn take(tree: &mut Tree, name: &str) -> Option<Tree> {
    let Item::Map(entries) = &mut tree.item else {
        return None;
    };
    let idx = entries.iter().position(|(key, _)| key.text == name)?;
    Some(entries.remove(idx).1)
}

/// Returns the files that `include` names, each with its place.
fn include_list(tree: &Tree, out: &mut Vec<Mistake>) -> Vec<(String, At)> {
    let Item::List(items) = &tree.item else {
        if !tree.is_null() {
            let message = format!("`include` must be a list of files, not {}", tree.described());
            let help = match &tree.item {
                Item::Text(text) => format!("write `include: [{text}]`"),
                _ => "write `include: [common/models.yaml]`".to_owned(),
            };
            out.push(Mistake::new(&tree.at, message).help(help));
        }
        return Vec::new();
    };
    let mut files = Vec::new();
    for item in items {
        match &item.item {
            Item::Text(text) if text.contains("${") => {
                let message = format!("`{text}`: a file to include can't have `${{...}}` in its name");
                out.push(Mistake::new(&item.at, message).help("files are read before there are any parameters"));
            }
            Item::Text(text) if text.is_empty() => out.push(Mistake::new(&item.at, "a file to include has no name")),
            Item::Text(text) => files.push((text.clone(), item.at.clone())),
            _ => {
                let message = format!("a file to include must be a path, not {}", item.described());
                out.push(Mistake::new(&item.at, message));
            }
        }
    }
    files
}
