//! The files that a plan depends on, and their changes as they happen.
//!
//! Folders are watched, not files, so that a file that is replaced, or deleted and made again, is still followed. What
//! is told is what differs: a file that was written with the same bytes has not changed. It knows no plan.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Input;
use crate::digest::Digest;
use crate::spec::kind::{Plugin, Provider};
use crate::spec::{Pipeline, plugin};

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// It was opened or written, and is not closed yet.
    Writing,
    /// It is there with all of its content.
    Written,
    /// It is not there any more.
    Removed,
}

/// Files and folders to watch.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// The files, which need not exist.
    files: BTreeSet<PathBuf>,
    /// Folders in which something new may matter: those of plugins.
    folders: BTreeSet<PathBuf>,
    /// Globs of code, which may match files that don't exist yet.
    patterns: Vec<glob::Pattern>,
}

impl Targets {
    /// Returns what a pipeline depends on, as far as is known: without one, the file and the folders of plugins.
    pub(super) fn new(file: &Path, pipeline: Option<&Pipeline>, plugin_dirs: &[PathBuf]) -> Targets {
        let mut targets = Targets::default();
        targets.add(file);
        let dir = file.parent().unwrap_or(Path::new("."));
        for folder in plugin::folders(plugin_dirs, &absolute(dir)) {
            targets.add_plugin_folder(&absolute(&folder));
        }
        if let Some(pipeline) = pipeline {
            pipeline.files.iter().for_each(|file| targets.add(file));
            let kinds = pipeline.stages.iter().filter_map(|stage| stage.kind.as_ref());
            for kind in kinds {
                if let Provider::Plugin(plugin) = &kind.provider {
                    targets.add_code(plugin);
                }
            }
        }
        targets
    }

    /// Adds a file, and the one that it is a link to.
    pub(super) fn add(&mut self, file: &Path) {
        self.files.extend(file.canonicalize());
        self.files.insert(absolute(file));
    }

    fn add_plugin_folder(&mut self, folder: &Path) {
        let inside = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for dir in inside.filter(|path| path.is_dir()).chain([folder.to_path_buf()]) {
            self.add(&dir.join("plugin.yaml"));
        }
        self.folders.insert(folder.to_path_buf());
    }

    fn add_code(&mut self, plugin: &Plugin) {
        for code in &plugin.code {
            let base = glob::Pattern::escape(&plugin.dir.to_string_lossy());
            let pattern = absolute(Path::new(&format!("{base}/{code}")));
            let pattern = pattern.to_string_lossy();
            for file in glob::glob(&pattern).into_iter().flatten().flatten() {
                self.add(&file);
            }
            self.patterns.extend(glob::Pattern::new(&pattern));
        }
    }

    /// Tells whether a plan depends on what is in a file.
    fn has_file(&self, path: &Path) -> bool {
        self.files.contains(path) || self.patterns.iter().any(|pattern| pattern.matches_path(path))
    }

    /// Tells whether a path is a file that matters, or a folder that may hold one, now that it came or went.
    fn contains(&self, path: &Path) -> bool {
        self.has_file(path)
            || path.parent().is_some_and(|parent| self.folders.contains(parent))
            || self.files.iter().any(|file| file.starts_with(path))
    }

    /// Adds all that others hold.
    fn extend(&mut self, others: Targets) {
        self.files.extend(others.files);
        self.folders.extend(others.folders);
        self.patterns.extend(others.patterns);
    }

    /// Returns the folders that have to be watched, of those that exist.
    fn dirs(&self) -> BTreeSet<PathBuf> {
        let parents = self.files.iter().filter_map(|file| file.parent());
        let wanted = parents.chain(self.folders.iter().map(PathBuf::as_path));
        // Where a folder is missing, the one above it tells when it comes.
        wanted
            .filter_map(|dir| dir.ancestors().find(|dir| dir.is_dir()))
            .map(Path::to_path_buf)
            .collect()
    }
}

/// Returns an absolute path without `.` and `..`, as the paths of events are.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The watched files and what was in them.
pub(super) struct Sources {
    watcher: RecommendedWatcher,
    targets: Targets,
    watched: BTreeSet<PathBuf>,
    /// The digest of each file when it was last looked at; none for one that was missing.
    contents: HashMap<PathBuf, Option<Digest>>,
}

impl Sources {
    /// Starts to watch nothing; what happens will be sent to `inputs`.
    pub(super) fn new(inputs: Sender<Input>) -> notify::Result<Sources> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let at = Instant::now();
            let paths = match event {
                Ok(event) if event.need_rescan() => return drop(inputs.send(Input::Lost)),
                Ok(event) => happened(event),
                Err(_) => return drop(inputs.send(Input::Lost)),
            };
            // Reading makes events as well; they are left out here, or a plan would be a reason for the next one.
            for (path, what) in paths {
                // Nobody listens any more when the program ends.
                let _ = inputs.send(Input::File { path, what, at });
            }
        })?;
        Ok(Sources {
            watcher,
            targets: Targets::default(),
            watched: BTreeSet::new(),
            contents: HashMap::new(),
        })
    }

    /// Watches these from now on. Returns those files that may have changed while nobody looked: new ones that were
    /// written since `loaded`, or all new ones if nothing was loaded, and those in a folder that was not watched.
    pub(super) fn follow(&mut self, targets: Targets, loaded: Option<SystemTime>) -> notify::Result<Vec<PathBuf>> {
        let dirs = targets.dirs();
        let mut added = BTreeSet::new();
        for dir in &dirs {
            match self.watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) if self.watched.contains(dir) => {}
                Ok(()) => drop(added.insert(dir.clone())),
                // It went away in between; its parent will tell when it comes back.
                Err(_) if !dir.is_dir() => {}
                Err(error) => return Err(error),
            }
        }
        for gone in self.watched.difference(&dirs) {
            // A folder that does not exist any more is watched no more either.
            let _ = self.watcher.unwatch(gone);
        }
        self.watched = dirs;
        self.targets = targets;
        let mut suspects = Vec::new();
        for file in &self.targets.files {
            let is_suspect = match self.contents.get(file) {
                Some(known) => file.parent().is_some_and(|dir| added.contains(dir)) && *known != digest(file),
                None => file.exists() && loaded.is_none_or(|loaded| modified(file).is_none_or(|time| time >= loaded)),
            };
            if is_suspect {
                suspects.push(file.clone());
            } else if !self.contents.contains_key(file) {
                self.contents.insert(file.clone(), digest(file));
            }
        }
        Ok(suspects)
    }

    /// Watches these as well; for when it is not known whether the others still matter.
    pub(super) fn follow_also(&mut self, mut targets: Targets, loaded: SystemTime) -> notify::Result<Vec<PathBuf>> {
        targets.extend(std::mem::take(&mut self.targets));
        self.follow(targets, Some(loaded))
    }

    /// Tells whether anything about a path matters, and notes a watched folder that is gone.
    pub(super) fn concerns(&mut self, path: &Path, what: Happened) -> bool {
        if what == Happened::Removed {
            self.watched.remove(path);
        }
        self.targets.contains(path)
    }

    /// Returns those of the files whose content is not what it was when they were last looked at.
    pub(super) fn changed(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for path in paths {
            if !self.targets.has_file(&path) {
                continue;
            }
            let now = digest(&path);
            let is_known = self.contents.contains_key(&path);
            let before = self.contents.insert(path.clone(), now).flatten();
            if before != now || (!is_known && now.is_some()) {
                changed.push(path);
            }
        }
        changed
    }

    /// Returns all files, for when it is not known which of them changed.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.targets.files.iter().cloned().collect()
    }
}

fn digest(path: &Path) -> Option<Digest> {
    fs::read(path).ok().map(|bytes| Digest::of(&bytes))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Returns what an event says about which paths.
fn happened(event: notify::Event) -> Vec<(PathBuf, Happened)> {
    use Happened::{Removed, Writing, Written};
    let what: &[Happened] = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => &[Written],
        EventKind::Create(notify::event::CreateKind::Folder) => &[Written],
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => &[Writing],
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => &[Removed],
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => &[Written],
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => &[Removed, Written],
        _ => &[],
    };
    event.paths.into_iter().zip(what.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn paths_are_plain() {
        assert_eq!(absolute(Path::new("/a/./b/../c.yaml")), Path::new("/a/c.yaml"));
    }

    #[test]
    fn code_that_does_not_exist_yet_concerns_us() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let plugin = Plugin {
            name: "demo".into(),
            dir: dir.path().join("demo"),
            program: Vec::new(),
            code: vec!["*.py".into(), "../sdk/one.py".into()],
        };
        let mut targets = Targets::default();
        targets.add_code(&plugin);
        let inside = |name: &str| targets.contains(&dir.path().join(name));
        assert_eq!(
            ["demo/new.py", "sdk/one.py", "demo/new.txt", "sdk/two.py"].map(inside),
            [true, true, false, false]
        );
        Ok(())
    }

    #[test]
    fn only_other_bytes_are_a_change() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("p.yaml");
        fs::write(&file, "a")?;
        let mut sources = Sources::new(mpsc::channel().0)?;
        let mut targets = Targets::default();
        targets.add(&file);
        sources.follow(targets, Some(SystemTime::now() + std::time::Duration::from_secs(1)))?;
        let mut changed = || sources.changed([file.clone()]).len();
        assert_eq!(changed(), 0);
        fs::write(&file, "b")?;
        assert_eq!((changed(), changed()), (1, 0));
        fs::remove_file(&file)?;
        assert_eq!((changed(), changed()), (1, 0));
        Ok(())
    }
}
