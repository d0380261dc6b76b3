//! Plugins: finding every `plugin.yaml`, reading it, and digesting the code that it names.
//!
//! It knows the folders in which plugins lie and the format of the file (`plugins/CONTRACT.md`), not what any plugin
//! does. A flawed plugin is kept as a mistake: it concerns only who uses it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::kind::{Catalog, InputSpec, Kind, OutputSpec, Plugin, Provider};
use super::mistake::{At, Mistake, shown};
use super::schema::{Ordered, Schema};
use crate::digest::{Digest, DigestCache, FileError, file_digest};

/// The version of `plugin.yaml` that is read.
const FORMAT: u64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginFile {
    plugin: u64,
    name: String,
    command: Vec<String>,
    #[serde(default)]
    code: Vec<String>,
    kinds: Ordered<KindFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindFile {
    version: u64,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    params: Ordered<Schema>,
    #[serde(default)]
    inputs: Ordered<InputFile>,
    #[serde(default)]
    outputs: Ordered<OutputFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputFile {
    #[serde(rename = "type")]
    type_name: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    gathered: bool,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputFile {
    #[serde(rename = "type")]
    type_name: String,
    #[serde(default)]
    description: String,
}

/// Returns all kinds of the plugins in `given` folders, then of those in VOLVELLE_PLUGINS, then of the nearest
/// `plugins/` at or above `beside`, then at or above the program. The first of two plugins of one name wins.
///
/// A given folder that does not exist is a mistake, for `out`.
pub fn catalog(given: &[PathBuf], beside: &Path, out: &mut Vec<Mistake>) -> Catalog {
    for (option, dir) in named(given).into_iter().filter(|(_, dir)| !dir.is_dir()) {
        let text = dir.display().to_string();
        out.push(Mistake::new(
            &At::whole(option, &text),
            format!("there is no folder `{text}`"),
        ));
    }
    let mut catalog = Catalog::new();
    let mut seen = HashSet::new();
    for folder in folders(given, beside) {
        for file in plugin_files(&folder) {
            match read(&file) {
                Ok((name, _)) if !seen.insert(name.clone()) => {
                    tracing::debug!(plugin = name, file = %file.display(), "another plugin of this name was found before");
                }
                Ok((_, kinds)) => add(&mut catalog, kinds, &file),
                Err(flaws) => catalog.flawed.extend(flaws),
            }
        }
    }
    catalog
}

/// Returns the folders that the user named, each with what named it.
fn named(given: &[PathBuf]) -> Vec<(&'static str, PathBuf)> {
    let variable = std::env::var_os("VOLVELLE_PLUGINS").unwrap_or_default();
    let by_variable = std::env::split_paths(&variable).filter(|dir| !dir.as_os_str().is_empty());
    let by_option = given.iter().cloned().map(|dir| ("--plugins", dir));
    by_option
        .chain(by_variable.map(|dir| ("VOLVELLE_PLUGINS", dir)))
        .collect()
}

/// Returns the folders in which plugins are looked for, in the order of [`catalog`].
pub fn folders(given: &[PathBuf], beside: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = named(given).into_iter().map(|(_, dir)| dir).collect();
    let program = std::env::current_exe().ok();
    for start in [Some(beside), program.as_deref().and_then(Path::parent)]
        .into_iter()
        .flatten()
    {
        folders.extend(
            start
                .ancestors()
                .map(|dir| dir.join("plugins"))
                .find(|dir| dir.is_dir()),
        );
    }
    folders
}

fn add(catalog: &mut Catalog, kinds: Vec<Kind>, file: &Path) {
    for kind in kinds {
        let name = kind.name.clone();
        if !catalog.add(kind) {
            tracing::warn!(
                "{} provides `{name}`, which another plugin provides already",
                shown(file)
            );
        }
    }
}

/// Returns the `plugin.yaml` files of a folder: its own, and those of the folders in it, by name.
fn plugin_files(folder: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut files: Vec<PathBuf> = inside
        .chain([folder.to_path_buf()])
        .map(|dir| dir.join("plugin.yaml"))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files
}

/// Reads one `plugin.yaml`: the name of the plugin and its kinds.
fn read(file: &Path) -> Result<(String, Vec<Kind>), Vec<Mistake>> {
    let name = shown(file);
    let text =
        fs::read_to_string(file).map_err(|error| vec![Mistake::nowhere(format!("can't read {name}: {error}"))])?;
    let whole = At::whole(&name, &text);
    let mut parsed: PluginFile = serde_yaml::from_str(&text).map_err(|error| vec![at_location(&whole, &error)])?;
    let flaws = flaws(&mut parsed, &whole);
    if !flaws.is_empty() {
        return Err(flaws);
    }
    let dir = file.parent().unwrap_or(Path::new("."));
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let plugin = Arc::new(Plugin {
        program: resolve_command(&parsed.command, &dir),
        name: parsed.name.clone(),
        code: parsed.code,
        dir,
    });
    let kinds = parsed
        .kinds
        .0
        .into_iter()
        .map(|(name, kind)| kind_of(name, kind, &plugin))
        .collect();
    Ok((parsed.name, kinds))
}

fn at_location(whole: &At, error: &serde_yaml::Error) -> Mistake {
    let text = error.to_string();
    // The place is drawn, so the words for it are left out.
    let message = text.split(" at line ").next().unwrap_or(&text);
    let at = error
        .location()
        .map_or_else(|| whole.clone(), |place| whole.part(place.index()..place.index() + 1));
    Mistake::new(&at, message)
}

/// Returns what makes no sense in a file that could be read, and settles the defaults of its schemas.
fn flaws(parsed: &mut PluginFile, whole: &At) -> Vec<Mistake> {
    let mut flaws = Vec::new();
    if parsed.plugin != FORMAT {
        let message = format!(
            "`plugin: {}` is a format that this version can't read; it reads {FORMAT}",
            parsed.plugin
        );
        flaws.push(Mistake::new(&whole.find("plugin"), message));
    }
    if parsed.command.first().is_none_or(String::is_empty) {
        flaws.push(Mistake::new(&whole.find("command"), "`command` must name a program"));
    }
    for (kind, spec) in &mut parsed.kinds.0 {
        let wrong = spec
            .params
            .0
            .iter_mut()
            .filter_map(|(name, schema)| schema.settle(name).err());
        flaws.extend(wrong.map(|message| Mistake::new(&whole.find(kind), format!("kind `{kind}`: {message}"))));
    }
    flaws
}

fn kind_of(name: String, file: KindFile, plugin: &Arc<Plugin>) -> Kind {
    let input = |(name, input): (String, InputFile)| InputSpec {
        name,
        type_name: input.type_name,
        optional: input.optional,
        gathered: input.gathered,
        description: input.description,
    };
    let output = |(name, output): (String, OutputFile)| OutputSpec {
        name,
        type_name: output.type_name,
        description: output.description,
    };
    Kind {
        name,
        version: file.version,
        summary: file.summary,
        params: file.params,
        inputs: file.inputs.0.into_iter().map(input).collect(),
        outputs: file.outputs.0.into_iter().map(output).collect(),
        provider: Provider::Plugin(plugin.clone()),
    }
}

/// Makes the words of a command absolute where they name files of the plugin.
///
/// A program that is found nowhere stays as it is: that is a failure only of a node that runs.
fn resolve_command(command: &[String], dir: &Path) -> Vec<String> {
    let text = |path: PathBuf| path.to_str().map(str::to_owned);
    let word = |(idx, word): (usize, &String)| {
        let in_plugin = Some(dir.join(word));
        let found = if idx > 0 {
            in_plugin.filter(|path| path.is_file())
        } else if word.contains('/') {
            in_plugin
        } else {
            let beside = std::env::current_exe()
                .ok()
                .and_then(|exe| Some(exe.parent()?.join(word)));
            let path = std::env::var_os("PATH").unwrap_or_default();
            let on_path = std::env::split_paths(&path).map(|dir| dir.join(word));
            in_plugin
                .into_iter()
                .chain(beside)
                .chain(on_path)
                .find(|path| is_program(path))
        };
        found.and_then(text).unwrap_or_else(|| word.clone())
    };
    command.iter().enumerate().map(word).collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Code of a plugin that can't be digested.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// A glob that is malformed.
    #[error("`{pattern}` is not a glob")]
    Pattern {
        /// The glob.
        pattern: String,
    },
    /// A glob without a match.
    #[error("no file matches `{pattern}` in {}", dir.display())]
    NoMatch {
        /// The glob.
        pattern: String,
        /// The folder of the plugin.
        dir: PathBuf,
    },
    /// A file that can't be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The code that a plugin declares.
#[derive(Debug, Clone, PartialEq)]
pub struct Code {
    /// Names all of it: what enters the key.
    pub digest: Digest,
    /// The digest of each file, by its path from the plugin's folder.
    pub files: Value,
}

/// Returns the code that a plugin declares: the names and bytes of all files that its globs match.
///
/// # Errors
/// A glob is malformed or matches nothing, or a file can't be read.
pub fn code(plugin: &Plugin, cache: Option<&dyn DigestCache>) -> Result<Code, CodeError> {
    let mut files = Map::new();
    for pattern in &plugin.code {
        let base = glob::Pattern::escape(&plugin.dir.to_string_lossy());
        let paths = glob::glob(&format!("{base}/{pattern}")).map_err(|_| CodeError::Pattern {
            pattern: pattern.clone(),
        })?;
        let before = files.len();
        let mut num_matches = 0;
        for path in paths.filter_map(Result::ok).filter(|path| path.is_file()) {
            num_matches += 1;
            let name = path
                .strip_prefix(&plugin.dir)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            files.insert(name, Value::String(file_digest(&path, cache)?.to_string()));
        }
        if num_matches == 0 && files.len() == before {
            return Err(CodeError::NoMatch {
                pattern: pattern.clone(),
                dir: plugin.dir.clone(),
            });
        }
    }
    let files = Value::Object(files);
    match Digest::of_code(&files) {
        Ok(digest) => Ok(Code { digest, files }),
        Err(_) => Err(CodeError::File(FileError::Name {
            path: plugin.dir.clone(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "plugin: 1\nname: demo\ncommand: [sh, work.sh]\ncode: ['*.sh']\nkinds:\n  demo.kind:\n    version: 2\n    params:\n      n: { type: integer, default: 3 }\n    inputs:\n      data: { type: problems, optional: true }\n    outputs:\n      out: { type: json }\n";

    fn plugins(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let plugin = dir.path().join("demo");
        fs::create_dir(&plugin).expect("a folder");
        fs::write(plugin.join("plugin.yaml"), text).expect("a file");
        fs::write(plugin.join("work.sh"), "true\n").expect("a file");
        dir
    }

    fn load(text: &str) -> (tempfile::TempDir, Catalog) {
        let dir = plugins(text);
        let mut out = Vec::new();
        let catalog = catalog(&[dir.path().to_path_buf()], dir.path(), &mut out);
        assert!(out.is_empty(), "{out:?}");
        (dir, catalog)
    }

    #[test]
    fn a_plugin_is_read_and_its_command_made_absolute() {
        let (dir, catalog) = load(GOOD);
        let kind = catalog.get("demo.kind").expect("the kind of the plugin");
        assert_eq!(
            (kind.version, kind.inputs[0].optional, kind.outputs[0].name.as_str()),
            (2, true, "out")
        );
        let Provider::Plugin(plugin) = &kind.provider else {
            panic!("a plugin provides it")
        };
        assert!(plugin.program[0].ends_with("/sh"), "{:?}", plugin.program);
        assert_eq!(plugin.program[1], dir.path().join("demo/work.sh").to_string_lossy());
    }

    #[test]
    fn the_code_digest_follows_the_bytes() {
        let (dir, catalog) = load(GOOD);
        let Provider::Plugin(plugin) = &catalog.get("demo.kind").expect("the kind").provider else {
            panic!("a plugin")
        };
        let before = code(plugin, None).expect("readable");
        assert_eq!(code(plugin, None).expect("readable"), before);
        fs::write(dir.path().join("demo/work.sh"), "false\n").expect("a file");
        assert_ne!(code(plugin, None).expect("readable"), before);
        let none = Plugin {
            code: vec!["*.py".into()],
            ..Plugin::clone(plugin)
        };
        assert!(matches!(code(&none, None), Err(CodeError::NoMatch { .. })));
    }

    #[test]
    fn a_flawed_plugin_is_kept_as_a_mistake_with_its_place() {
        for (from, to, message) in [
            ("version: 2", "versoin: 2", "unknown field `versoin`"),
            ("default: 3", "default: x", "the default of `n` must be an integer"),
            ("plugin: 1", "plugin: 9", "is a format that this version can't read"),
            ("{ type: json }", "{ type: json", "did not find expected"),
        ] {
            let (_dir, catalog) = load(&GOOD.replace(from, to));
            assert!(catalog.get("demo.kind").is_none());
            let flaw = catalog.flawed.first().expect("a flaw");
            assert!(flaw.message.contains(message) && flaw.at.is_some(), "{flaw:?}");
        }
    }

    #[test]
    fn the_first_of_two_plugins_of_one_name_wins() {
        let (first, second) = (plugins(GOOD), plugins(&GOOD.replace("version: 2", "version: 3")));
        let given = [first.path().to_path_buf(), second.path().to_path_buf()];
        let catalog = catalog(&given, first.path(), &mut Vec::new());
        assert_eq!(catalog.get("demo.kind").map(|kind| kind.version), Some(2));
    }
}
