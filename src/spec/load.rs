//! A pipeline file and the other pipelines that it needs, brought together as one list of stages.
//!
//! Every file is read on its own (`unit.rs`). From another pipeline only the stages that are needed join, with all that
//! they depend on, under names such as `other.yaml#sft`; their keys are the same wherever they are named from.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, Producer};
use super::document::Stage;
use super::files::{Files, beside};
use super::kind::Catalog;
use super::mistake::{At, Mistake, Mistakes, shown};
use super::reference::Reference;
use super::unit::{Changes, Unit};
use super::when::Off;
use super::{Options, Pipeline, StageName, paths, plugin};

/// The index of a unit; the first is that of the pipeline itself.
type UnitIdx = usize;

struct Loader<'a> {
    options: &'a Options,
    files: Files,
    units: Vec<Unit>,
    /// By path; `None` if the file can't be used.
    by_path: HashMap<PathBuf, Option<UnitIdx>>,
    /// The pipelines whose references are being followed, outermost first: real path and name.
    chain: Vec<(PathBuf, String)>,
    /// By the folder that plugins are looked for beside.
    catalogs: HashMap<PathBuf, Arc<Catalog>>,
    out: Vec<Mistake>,
}

/// Reads a pipeline.
///
/// # Errors
/// The file, or one that it includes, can't be read or is not YAML. All other mistakes are in the pipeline.
pub fn load(file: &Path, options: &Options) -> Result<Pipeline, Mistakes> {
    Loader::new(options, Files::default()).pipeline(file, &shown(file))
}

/// Reads a pipeline from its text as if it were the file `name` in the folder `dir`, with kinds that are given. For tests
/// and fuzzing: no file is read, so that what it includes is refused, and no plugin is looked for.
///
/// # Errors
/// The text is not YAML. All other mistakes are in the pipeline.
pub fn load_text(
    name: &str,
    text: &str,
    dir: &Path,
    options: &Options,
    catalog: Catalog,
) -> Result<Pipeline, Mistakes> {
    let mut loader = Loader::new(options, Files::only(text));
    let file = dir.join(name);
    let dir = paths::absolute(&file).parent().map(Path::to_path_buf);
    loader.catalogs.insert(dir.unwrap_or_default(), Arc::new(catalog));
    loader.pipeline(&file, name)
}

impl<'a> Loader<'a> {
    fn new(options: &'a Options, files: Files) -> Loader<'a> {
        Loader {
            options,
            files,
            units: Vec::new(),
            by_path: HashMap::new(),
            chain: Vec::new(),
            catalogs: HashMap::new(),
            out: Vec::new(),
        }
    }

    /// Reads the pipeline `file`, which messages call `name`.
    fn pipeline(mut self, file: &Path, name: &str) -> Result<Pipeline, Mistakes> {
        if self.unit(file, name, None).is_none() {
            Mistakes::check(self.out)?;
            return Err(Mistake::nowhere(format!("can't read the pipeline {name}")).into());
        }
        self.drop_off();
        self.check();
        Ok(self.join(file))
    }

    /// Reads a pipeline file and all that it refers to; `None` after telling what is wrong with the file itself.
    fn unit(&mut self, path: &Path, name: &str, asked: Option<&At>) -> Option<UnitIdx> {
        let place = paths::absolute(path);
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| place.clone());
        if let (Some(at), Some(idx)) = (asked, self.chain.iter().position(|(open, _)| *open == real)) {
            let names = self.chain[idx..].iter().map(|(_, name)| name.as_str());
            let names: Vec<&str> = names.chain([name]).collect();
            let mistake = match self.chain.len() - idx {
                1 => Mistake::new(at, "a pipeline can't name itself").help("write `stage.output`, without the file"),
                _ => {
                    let message = format!("pipelines need each other in a circle: {}", names.join(" -> "));
                    Mistake::new(at, message)
                }
            };
            self.out.push(mistake);
            return None;
        }
        if let Some(known) = self.by_path.get(&place) {
            return *known;
        }
        let Some(tree) = self.files.load(path, name, asked, &mut self.out) else {
            self.by_path.insert(place, None);
            return None;
        };
        let dir = place.parent().unwrap_or(&place).to_path_buf();
        let catalog = self.catalog(&dir);
        let changes = match asked {
            None => Changes {
                profile: self.options.profile.as_deref(),
                sets: &self.options.sets,
                sweeps: &self.options.sweeps,
            },
            Some(_) => Changes::default(),
        };
        let unit = Unit::read(tree, (path, &dir), &catalog, changes, &mut self.out);
        let references = unit
            .stages
            .iter()
            .flat_map(|stage| stage.needs.iter().flat_map(|need| &need.refs));
        let others: Vec<(PathBuf, String, At)> = references
            .filter_map(|reference| {
                let other = other_path(reference, &dir)?;
                let from = match reference.at.dir() {
                    Some(_) => reference.at.source_name(),
                    None => name,
                };
                Some((other, beside(from, reference.file.as_deref()?), reference.at.clone()))
            })
            .collect();
        let idx = self.units.len();
        self.units.push(unit);
        self.by_path.insert(place, Some(idx));
        self.chain.push((real, name.to_owned()));
        for (path, name, at) in others {
            let file = at.find(
                at.text()
                    .trim_matches(['"', '\''])
                    .split('#')
                    .next()
                    .unwrap_or_default(),
            );
            self.unit(&path, &name, Some(&file));
        }
        self.chain.pop();
        Some(idx)
    }

    fn catalog(&mut self, dir: &Path) -> Arc<Catalog> {
        if let Some(catalog) = self.catalogs.get(dir) {
            return catalog.clone();
        }
        let catalog = Arc::new(plugin::catalog(&self.options.plugin_dirs, dir, &mut self.out));
        self.catalogs.insert(dir.to_path_buf(), catalog.clone());
        catalog
    }

    /// Returns the unit that a reference leads into, from a unit; `None` if its file can't be used.
    fn unit_of(&self, from: UnitIdx, reference: &Reference) -> Option<UnitIdx> {
        match other_path(reference, &self.units[from].home.dir) {
            None => Some(from),
            Some(path) => self.by_path.get(&path).copied().flatten(),
        }
    }

    /// Removes references to stages that don't exist because of their `when`, where something can be left out.
    fn drop_off(&mut self) {
        let off: Vec<HashMap<String, Off>> = self
            .units
            .iter()
            .map(|unit| unit.off.iter().map(|off| (off.name.0.clone(), off.clone())).collect())
            .collect();
        if off.iter().all(HashMap::is_empty) {
            return;
        }
        let mut out = Vec::new();
        for idx in 0..self.units.len() {
            let mut stages = std::mem::take(&mut self.units[idx].stages);
            for stage in &mut stages {
                let find = |reference: &Reference| off[self.unit_of(idx, reference)?].get(&reference.stage);
                drop_off(stage, find, &mut out);
            }
            self.units[idx].stages = stages;
        }
        self.out.append(&mut out);
    }

    fn check(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        for (idx, unit) in self.units.iter().enumerate() {
            let producer = |reference: &Reference| {
                let Some(other) = self.unit_of(idx, reference).map(|idx| &self.units[idx]) else {
                    return Producer::Lost;
                };
                if other.off.iter().any(|off| off.name.0 == reference.stage) {
                    return Producer::Lost;
                }
                match other.index.get(&reference.stage) {
                    Some(&stage) => Producer::Stage(&other.stages[stage]),
                    None => Producer::Unknown(other.stages.iter().map(|stage| stage.name.0.as_str()).collect()),
                }
            };
            check::stages(&unit.stages, producer, &mut out);
        }
        self.out = out;
    }

    /// Returns, for each unit, which of its stages the pipeline has: its own, and of others those that they need.
    fn needed(&self) -> Vec<HashSet<usize>> {
        let mut needed: Vec<HashSet<usize>> = vec![HashSet::new(); self.units.len()];
        let mut open: Vec<(UnitIdx, usize)> = (0..self.units[0].stages.len()).map(|stage| (0, stage)).collect();
        while let Some((unit, stage)) = open.pop() {
            if !needed[unit].insert(stage) {
                continue;
            }
            for reference in self.units[unit].stages[stage].needs.iter().flat_map(|need| &need.refs) {
                let other = self.unit_of(unit, reference);
                let found = other.and_then(|idx| Some((idx, *self.units[idx].index.get(&reference.stage)?)));
                open.extend(found);
            }
        }
        needed
    }

    /// Puts the stages of all units together.
    fn join(mut self, file: &Path) -> Pipeline {
        let needed = self.needed();
        let dir = self.units[0].home.dir.clone();
        let prefixes: Vec<String> = self
            .units
            .iter()
            .enumerate()
            .map(|(idx, unit)| match idx {
                0 => String::new(),
                _ => format!("{}#", paths::relative(&paths::absolute(&unit.home.file), &dir)),
            })
            .collect();
        let mut joined: Vec<(&str, Vec<Stage>)> = Vec::new();
        for idx in 0..self.units.len() {
            let mut stages = std::mem::take(&mut self.units[idx].stages);
            for stage in &mut stages {
                stage.name = StageName(format!("{}{}", prefixes[idx], stage.name));
                for reference in stage.needs.iter_mut().flat_map(|need| &mut need.refs) {
                    let prefix = self.unit_of(idx, reference).map(|idx| prefixes[idx].clone());
                    let prefix =
                        prefix.unwrap_or_else(|| format!("{}#", reference.file.as_deref().unwrap_or_default()));
                    reference.stage = format!("{prefix}{}", reference.stage);
                }
            }
            let kept = stages
                .into_iter()
                .enumerate()
                .filter(|(stage, _)| needed[idx].contains(stage));
            joined.push((&prefixes[idx], kept.map(|(_, stage)| stage).collect()));
        }
        // Other pipelines come first, as what they make comes first, in an order that no file chooses.
        joined[1..].sort_by(|a, b| a.0.cmp(b.0));
        joined.rotate_left(1);
        let stages: Vec<Stage> = joined.into_iter().flat_map(|(_, stages)| stages).collect();
        let index = stages.iter().map(|stage| stage.name.0.clone()).zip(0..).collect();
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let unit = &mut self.units[0];
        Pipeline {
            file: file.to_path_buf(),
            files: self.files.paths,
            name: unit.name.take().or(stem).unwrap_or_default(),
            profiles: std::mem::take(&mut unit.profiles),
            home: unit.home.clone(),
            stages,
            off: std::mem::take(&mut unit.off),
            catalog: self.catalogs.remove(&dir).unwrap_or_default(),
            mistakes: self.out,
            index,
        }
    }
}

/// Returns the file of another pipeline that a reference names; `dir` is the folder of the pipeline it stands in.
fn other_path(reference: &Reference, dir: &Path) -> Option<PathBuf> {
    let file = reference.file.as_ref()?;
    Some(paths::lexical(&reference.at.dir().unwrap_or(dir).join(file)))
}

/// Removes from a stage what can be left out of its references to stages that are off, and tells about the others.
fn drop_off<'a>(stage: &mut Stage, find: impl Fn(&Reference) -> Option<&'a Off>, out: &mut Vec<Mistake>) {
    let kind = stage.kind.clone();
    stage.needs.retain_mut(|need| {
        let num = need.refs.len();
        let is_optional = kind
            .as_ref()
            .and_then(|kind| kind.input(&need.name.text))
            .is_some_and(|input| input.optional);
        if !need.is_list && !is_optional {
            for (reference, off) in need
                .refs
                .iter()
                .filter_map(|reference| Some((reference, find(reference)?)))
            {
                let message = format!("stage `{}` is off: {}", reference.stage, off.reason);
                let takes_list = kind.as_ref().is_some_and(|kind| {
                    kind.is_open() || kind.input(&need.name.text).is_some_and(|input| input.gathered)
                });
                let help = match takes_list {
                    true => "give this stage the same `when`, or write the input as a list, from which it is left out",
                    false => "give this stage the same `when`",
                };
                out.push(Mistake::new(&reference.at.find(&reference.stage), message).help(help));
            }
            return true;
        }
        let off = need.refs.iter().find_map(&find).cloned();
        need.refs.retain(|reference| find(reference).is_none());
        let (0, Some(off)) = (need.refs.len(), off) else {
            return true;
        };
        if num > 0 && !is_optional {
            let message = format!("every stage of input `{}` is off: {}", need.name.text, off.reason);
            out.push(Mistake::new(&need.name.at, message).help("give this stage a `when` too"));
            return true;
        }
        false
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_says_which_files_it_is_made_of_and_what_is_off() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        write(
            "p.yaml",
            "volvelle: 1\ninclude: [part.yaml]\nstages:\n  a: { uses: command, needs: { x: o.yaml#b.x, y: [c.x, b.x] }, with: { run: x }, description: One., tags: [t] }\n",
        );
        write(
            "part.yaml",
            "stages:\n  b: { uses: command, outputs: { x: text }, with: { run: x } }\n  c: { uses: command, outputs: { x: text }, with: { run: x }, when: { profile: fast } }\nprofiles: { fast: {} }\n",
        );
        write(
            "o.yaml",
            "volvelle: 1\ninclude: [part.yaml]\nstages: { d: { uses: command, with: { run: x } } }\n",
        );
        let pipeline = load(&folder.path().join("p.yaml"), &Options::default()).expect("a good pipeline");
        assert!(pipeline.mistakes.is_empty(), "{:?}", pipeline.mistakes);
        let files = ["p.yaml", "part.yaml", "o.yaml"].map(|name| folder.path().join(name));
        assert_eq!(pipeline.files, files);
        let stages: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.0.as_str()).collect();
        assert_eq!(stages, ["o.yaml#b", "b", "a"]);
        let a = &pipeline.stages[2];
        assert_eq!(
            (a.description.as_deref(), &a.tags[..]),
            (Some("One."), &["t".to_owned()][..])
        );
        let references: Vec<&str> = a
            .needs
            .iter()
            .flat_map(|need| &need.refs)
            .map(|r| r.stage.as_str())
            .collect();
        assert_eq!(references, ["o.yaml#b", "b"]);
        assert_eq!(pipeline.off[0].name.0, "c");
        assert_eq!(
            pipeline.off[0].reason,
            "its `when` needs `profile` to be `fast`, and it is nothing"
        );
    }
}
