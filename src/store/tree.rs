//! What a folder artifact consists of, and what of it may ever reach a disk.
//!
//! A manifest names files with their digests, and where there are any, symbolic links and empty folders. It is pure
//! data: nothing here touches a disk. It may come from another machine, so it is checked before anything is done with
//! it: no path that is absolute or climbs, none twice, none below a file or a link, no link that leads out.
//!
//! Format 1 has files only. Format 2 is written where there are links or empty folders and nowhere else, so an artifact
//! without them has the digest that it always had.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// As many links as this in a row are followed, as Linux does.
const MAX_HOPS: u32 = 40;

/// Links out of a part of an artifact are replaced by what they lead to, which may hold such links itself.
const MAX_DEPTH: u32 = 8;

/// How many entries a part may have at most when all its links are replaced.
const MAX_ENTRIES: usize = 1 << 20;

/// The longest path and the longest name that Linux takes, in bytes.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// What a folder consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The files, sorted by path.
    pub files: Vec<TreeFile>,
    /// The folders with nothing in them, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,
    /// The version of this format: 2 if there are links or empty folders, else 1.
    pub format: u32,
    /// The symbolic links, sorted by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<TreeLink>,
}

/// One file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeFile {
    /// The digest of its bytes: the name of its blob.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Relative, with `/` between its parts, none of them `.`, `..` or empty.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
}

/// One symbolic link of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeLink {
    /// As the path of a file.
    pub path: String,
    /// What it says, relative to where it lies. It may lead to nothing, but never out of the folder.
    pub target: String,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// It does not read as one.
    #[error("it is not a manifest")]
    Syntax,
    /// A format of a later program, or one that does not fit what it holds.
    #[error("it has format {format}")]
    Format { format: u32 },
    /// A path that could lead elsewhere, or that no disk takes.
    #[error("{path:?} is no path inside a folder")]
    Path { path: String },
    /// Two entries in one place, or one below a file or a link; or a list out of order.
    #[error("{path:?} is there twice, out of order, or below something that is no folder")]
    Clash { path: String },
    /// More bytes than can be counted.
    #[error("its sizes add up to more than there can be")]
    Size,
    /// A link that is refused.
    #[error("the link {path:?} to {target:?} {fault}")]
    Link {
        path: String,
        target: String,
        fault: LinkFault,
    },
}

/// Why a symbolic link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    #[error("leads out of the folder")]
    Leaves,
    #[error("has an absolute target")]
    Absolute,
    #[error("leads to itself")]
    Loops,
    #[error("has a target that is no path")]
    NoPath,
}

/// What lies at a path inside a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    File(TreeFile),
    Folder(Manifest),
}

impl Manifest {
    /// Makes the manifest of these entries, in whatever order they are given.
    pub fn new(mut files: Vec<TreeFile>, mut folders: Vec<String>, mut links: Vec<TreeLink>) -> Manifest {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        folders.sort();
        links.sort_by(|a, b| a.path.cmp(&b.path));
        Manifest {
            format: if folders.is_empty() && links.is_empty() { 1 } else { 2 },
            files,
            folders,
            links,
        }
    }

    /// Reads and checks a manifest. What this returns can be laid out in a folder without ever leaving it.
    ///
    /// # Errors
    /// It does not read as one, or names something that has no place in a folder.
    pub fn read(bytes: &[u8]) -> Result<Manifest, TreeFault> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|_| TreeFault::Syntax)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the canonical text. The fields stand in the order of their names, and paths keep their bytes: a name
    /// is not text to be normalized, or it could not be given back as it was.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a manifest holds only strings, integers and booleans")
    }

    /// Returns the bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().fold(0, |total, file| total.saturating_add(file.size))
    }

    /// Returns all folders that there have to be, parents first.
    pub(crate) fn all_folders(&self) -> BTreeSet<&str> {
        let paths = self.files.iter().map(|file| file.path.as_str());
        let paths = paths.chain(self.links.iter().map(|link| link.path.as_str()));
        let mut folders = BTreeSet::new();
        let mut last = "";
        for path in paths {
            let parent = parent(path);
            // Files of one folder mostly stand together.
            if parent != last {
                folders.extend(ancestors(path));
                last = parent;
            }
        }
        for folder in &self.folders {
            folders.insert(folder.as_str());
            folders.extend(ancestors(folder));
        }
        folders
    }

    /// Checks that this is the folder of somebody who means well.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn check(&self) -> Result<(), TreeFault> {
        let expected = if self.folders.is_empty() && self.links.is_empty() {
            1
        } else {
            2
        };
        if self.format != expected {
            return Err(TreeFault::Format { format: self.format });
        }
        let files: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let folders: Vec<&str> = self.folders.iter().map(String::as_str).collect();
        let links: Vec<&str> = self.links.iter().map(|link| link.path.as_str()).collect();
        let clash = |path: &str| TreeFault::Clash { path: path.to_owned() };
        for paths in [&files, &folders, &links] {
            if let Some(path) = paths.iter().find(|path| !is_inside(path)) {
                return Err(TreeFault::Path {
                    path: (*path).to_owned(),
                });
            }
            if let Some(pair) = paths.windows(2).find(|pair| pair[0] >= pair[1]) {
                return Err(clash(pair[1]));
            }
        }
        let mut leaves = HashSet::with_capacity(files.len() + folders.len() + links.len());
        let all = || files.iter().chain(&folders).chain(&links).copied();
        if let Some(path) = all().find(|path| !leaves.insert(*path)) {
            return Err(clash(path));
        }
        let mut last = "";
        for path in all() {
            let parent = parent(path);
            if parent != last && ancestors(path).any(|folder| leaves.contains(folder)) {
                return Err(clash(path));
            }
            last = parent;
        }
        let total = self
            .files
            .iter()
            .try_fold(0u64, |total, file| total.checked_add(file.size));
        total.ok_or(TreeFault::Size)?;
        self.check_links()
    }

    fn check_links(&self) -> Result<(), TreeFault> {
        let links = self.link_targets();
        for link in &self.links {
            follow(&links, parent(&link.path), &link.target).map_err(|fault| TreeFault::Link {
                path: link.path.clone(),
                target: link.target.clone(),
                fault,
            })?;
        }
        Ok(())
    }

    fn link_targets(&self) -> HashMap<&str, &str> {
        let links = self.links.iter();
        links.map(|link| (link.path.as_str(), link.target.as_str())).collect()
    }

    /// Returns what lies at a path inside, links followed: one file, or a folder as a manifest of its own.
    ///
    /// A link out of the part to elsewhere in the artifact is replaced by what it leads to; one that leads to nothing
    /// there is left out.
    pub(crate) fn at(&self, subpath: &str) -> Option<Inside> {
        let subpath = subpath.trim_matches('/');
        if !is_inside(subpath) {
            return None;
        }
        let place = follow(&self.link_targets(), "", subpath).ok()?;
        let mut room = MAX_ENTRIES;
        self.inside(&place, 0, &mut room)
    }

    /// Returns what lies at a path without links in it. `room` is how many entries may still be made.
    fn inside(&self, path: &str, depth: u32, room: &mut usize) -> Option<Inside> {
        if let Ok(at) = self.files.binary_search_by(|file| file.path.as_str().cmp(path)) {
            return Some(Inside::File(self.files[at].clone()));
        }
        let below = |inner: &str| match path {
            "" => Some(inner.to_owned()),
            _ => Some(inner.strip_prefix(path)?.strip_prefix('/')?.to_owned()),
        };
        let mut files: Vec<TreeFile> = self
            .files
            .iter()
            .filter_map(|file| {
                Some(TreeFile {
                    path: below(&file.path)?,
                    ..file.clone()
                })
            })
            .collect();
        let mut folders: Vec<String> = self.folders.iter().filter_map(|folder| below(folder)).collect();
        let links: Vec<TreeLink> = self
            .links
            .iter()
            .filter_map(|link| {
                Some(TreeLink {
                    path: below(&link.path)?,
                    target: link.target.clone(),
                })
            })
            .collect();
        let is_listed = path.is_empty() || self.folders.iter().any(|folder| folder == path);
        if files.is_empty() && folders.is_empty() && links.is_empty() && !is_listed {
            return None;
        }
        *room = room.checked_sub(files.len() + folders.len() + links.len())?;
        let part = Manifest::new(Vec::new(), Vec::new(), links);
        let (inner, outer) = (part.link_targets(), self.link_targets());
        let mut kept = Vec::new();
        for link in &part.links {
            if follow(&inner, parent(&link.path), &link.target).is_ok() {
                kept.push(link.clone());
                continue;
            }
            let from = [path, parent(&link.path)].join("/");
            let found = follow(&outer, &from, &link.target).ok();
            let found = found.filter(|_| depth < MAX_DEPTH);
            match found.and_then(|place| self.inside(&place, depth + 1, room)) {
                Some(Inside::File(file)) => files.push(TreeFile {
                    path: link.path.clone(),
                    ..file
                }),
                Some(Inside::Folder(folder)) => folder.graft(&link.path, &mut files, &mut folders, &mut kept),
                None => {}
            }
        }
        Some(Inside::Folder(Manifest::new(files, folders, kept)))
    }

    /// Puts everything in here below a path of another folder.
    fn graft(self, path: &str, files: &mut Vec<TreeFile>, folders: &mut Vec<String>, links: &mut Vec<TreeLink>) {
        if self == Manifest::new(Vec::new(), Vec::new(), Vec::new()) {
            folders.push(path.to_owned());
        }
        files.extend(self.files.into_iter().map(|file| TreeFile {
            path: format!("{path}/{}", file.path),
            ..file
        }));
        folders.extend(self.folders.iter().map(|folder| format!("{path}/{folder}")));
        links.extend(self.links.into_iter().map(|link| TreeLink {
            path: format!("{path}/{}", link.path),
            target: link.target,
        }));
    }
}

/// Returns where a path leads from a folder, as the system would go: each link on the way is followed, and `..` goes up
/// from where one really is. What is not there is taken for a folder without links.
fn follow(links: &HashMap<&str, &str>, from: &str, path: &str) -> Result<String, LinkFault> {
    let mut place: Vec<&str> = from.split('/').filter(|name| !name.is_empty()).collect();
    let mut ahead = Vec::new();
    push_path(&mut ahead, path)?;
    let mut hops = 0;
    while let Some(name) = ahead.pop() {
        match name {
            "" | "." => continue,
            ".." => {
                place.pop().ok_or(LinkFault::Leaves)?;
                continue;
            }
            _ => place.push(name),
        }
        if let Some(target) = links.get(place.join("/").as_str()) {
            hops += 1;
            if hops > MAX_HOPS {
                return Err(LinkFault::Loops);
            }
            place.pop();
            push_path(&mut ahead, target)?;
        }
    }
    Ok(place.join("/"))
}

/// Puts the names of a path before those that are ahead.
fn push_path<'a>(ahead: &mut Vec<&'a str>, path: &'a str) -> Result<(), LinkFault> {
    if path.starts_with('/') {
        return Err(LinkFault::Absolute);
    }
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(LinkFault::NoPath);
    }
    ahead.extend(path.rsplit('/'));
    Ok(())
}

/// Returns whether a path is relative and goes down only.
fn is_inside(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME;
    path.len() <= MAX_PATH && !path.contains('\0') && path.split('/').all(is_name)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Returns the folders that a path lies in, nearest last.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}
