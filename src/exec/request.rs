//! What a worker is told: its folders, the request file, and the command line.
//!
//! The contract is `plugins/CONTRACT.md`. This file writes it; nothing here starts anything.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::attempt::AttemptError;
use super::limits::Grant;
use super::worker::Launch;
use crate::digest::ContentKey;
use crate::graph::{Node, NodeInput, Worker};
use crate::spec::template;

/// What `${inputs.NAME.list}` ends with.
const LIST: &str = ".list";

/// The folders of one attempt.
#[derive(Debug)]
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
    partial: PathBuf,
}

impl Folders {
    /// Makes the file of events and the folders that the node's worker can have use for, those that are not there yet.
    /// Commands come by the thousand: they run elsewhere than in `scratch/`, and make the partial folder and the file of
    /// events themselves if they want them.
    pub(crate) fn make(root: PathBuf, partial: PathBuf, node: &Node) -> Result<Folders, AttemptError> {
        let is_plugin = matches!(node.worker, Worker::Plugin { .. });
        let mut paths = vec![root.join("out"), root.join("in")];
        if is_plugin {
            paths.extend([root.join("scratch"), partial.clone()]);
        }
        for path in paths {
            fs::create_dir_all(&path).map_err(|source| AttemptError::Io {
                action: "create",
                path,
                source,
            })?;
        }
        let folders = Folders { root, partial };
        if is_plugin {
            write(&folders.events(), b"")?;
        }
        Ok(folders)
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.root.join("out").join(file_name(name))
    }

    /// Writes the paths of an input's items into a file, one a line, and returns it.
    fn list(&self, input: &str, paths: &[PathBuf]) -> PathBuf {
        let lines: Vec<String> = paths.iter().map(|path| format!("{}\n", path.display())).collect();
        let path = self.root.join("in").join(format!("{}{LIST}", file_name(input)));
        if let Err(error) = fs::write(&path, lines.concat()) {
            // The command will miss it, and its log says so.
            tracing::warn!(path = %path.display(), %error, "the list of an input could not be written");
        }
        path
    }

    /// Returns where each item of an input goes, and makes the folder that holds several.
    pub(crate) fn input_paths(&self, input: &NodeInput) -> Result<Vec<PathBuf>, AttemptError> {
        let path = self.root.join("in").join(file_name(&input.name));
        if !input.gathered {
            return Ok(vec![path]);
        }
        fs::create_dir_all(&path).map_err(|source| AttemptError::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Ok((0..input.items.len()).map(|idx| path.join(idx.to_string())).collect())
    }
}

/// Writes the request file and returns how the worker is to be started.
///
/// # Errors
/// The request can't be written, or the command line of a command names something that does not exist.
pub(crate) fn launch(
    node: &Node,
    key: ContentKey,
    grant: &Grant,
    folders: &Folders,
    log: PathBuf,
) -> Result<Launch, AttemptError> {
    let mut inputs = HashMap::new();
    for input in &node.inputs {
        inputs.insert(input.name.as_str(), folders.input_paths(input)?);
    }
    let request_path = folders.root.join("request.json");
    let request = request(node, key, grant, folders, &inputs);
    write(&request_path, format!("{request:#}\n").as_bytes())?;
    let mut environment = BTreeMap::from([("CUDA_VISIBLE_DEVICES".to_owned(), grant.gpus.join(","))]);
    // A worker computes with the cores it was granted, and idle OpenMP threads must not spin on those of others.
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        environment.insert("OMP_WAIT_POLICY".to_owned(), "passive".to_owned());
    }
    let (program, arguments, directory) = match &node.worker {
        Worker::Plugin { program, .. } => {
            let (program, rest) = program
                .split_first()
                .ok_or_else(|| AttemptError::Parameter("the plugin's `command` is empty".to_owned()))?;
            let mut arguments = rest.to_vec();
            arguments.push(request_path.to_string_lossy().into_owned());
            (program.clone(), arguments, folders.root.join("scratch"))
        }
        Worker::Command { directory } => {
            let fill = Fill {
                node,
                grant,
                folders,
                inputs: &inputs,
            };
            environment.extend(fill.environment()?);
            // A command has no argument to find these by.
            environment.insert(
                "VOLVELLE_REQUEST".to_owned(),
                request_path.to_string_lossy().into_owned(),
            );
            environment.insert(
                "VOLVELLE_EVENTS".to_owned(),
                folders.events().to_string_lossy().into_owned(),
            );
            let (program, arguments) = fill.command_line()?;
            (program, arguments, directory.clone())
        }
    };
    Ok(Launch {
        program,
        arguments,
        directory,
        environment,
        log,
        timeout: node.resources.timeout,
    })
}

fn request(
    node: &Node,
    key: ContentKey,
    grant: &Grant,
    folders: &Folders,
    paths: &HashMap<&str, Vec<PathBuf>>,
) -> Value {
    let mut inputs = Map::new();
    for input in &node.inputs {
        let described = input.items.iter().zip(&paths[input.name.as_str()]);
        let mut items: Vec<Value> = described
            .map(|(item, path)| json!({"path": path.to_string_lossy(), "axes": item.axes, "label": item.label}))
            .collect();
        let value = if input.gathered {
            Value::Array(items)
        } else {
            items.pop().unwrap_or(Value::Null)
        };
        inputs.insert(input.name.clone(), value);
    }
    let output = |name: &String| (name.clone(), json!(folders.output(name).to_string_lossy()));
    let outputs: Map<String, Value> = node.outputs.iter().map(|named| output(&named.name)).collect();
    let gpu = |name: &String| name.parse::<u64>().map_or_else(|_| json!(name), |idx| json!(idx));
    json!({
        "contract": 1,
        "kind": node.kind,
        "node": node.id,
        "key": key,
        "seed": node.seed,
        "params": node.params,
        "inputs": inputs,
        "outputs": outputs,
        "partial": folders.partial.to_string_lossy(),
        "events": folders.events().to_string_lossy(),
        "resources": {
            "cpu": grant.cpu,
            "gpu": grant.gpus.iter().map(gpu).collect::<Vec<_>>(),
            "mem_bytes": node.resources.mem_bytes,
        },
    })
}

/// What the placeholders of a command stand for.
struct Fill<'a> {
    node: &'a Node,
    grant: &'a Grant,
    folders: &'a Folders,
    inputs: &'a HashMap<&'a str, Vec<PathBuf>>,
}

impl Fill<'_> {
    /// Returns program and arguments: a shell for a text, the words themselves for a list.
    fn command_line(&self) -> Result<(String, Vec<String>), AttemptError> {
        match self.node.params.get("run") {
            Some(Value::String(text)) => {
                let quoted = |name: &str| {
                    let words = self.words(name)?;
                    Some(
                        words
                            .iter()
                            .map(|word| template::shell_quote(word))
                            .collect::<Vec<_>>()
                            .join(" "),
                    )
                };
                let script = template::substitute(text, quoted)?;
                // With -e the first line that fails fails the node, rather than passing for a result.
                Ok(("sh".to_owned(), vec!["-e".to_owned(), "-c".to_owned(), script]))
            }
            Some(Value::Array(list)) => {
                let mut words = Vec::new();
                for word in list {
                    let word = word
                        .as_str()
                        .ok_or_else(|| AttemptError::Parameter("`run` has a word that is not text".into()))?;
                    words.extend(self.expand(word)?);
                }
                let mut words = words.into_iter();
                let program = words
                    .next()
                    .ok_or_else(|| AttemptError::Parameter("`run` has no words".into()))?;
                Ok((program, words.collect()))
            }
            _ => Err(AttemptError::Parameter(
                "`run` is neither a text nor a list of words".into(),
            )),
        }
    }

    /// A word that is nothing but an input with several items becomes several words.
    fn expand(&self, word: &str) -> Result<Vec<String>, AttemptError> {
        if let [template::Part::Reference(name)] = template::parse(word)?.as_slice()
            && let Some(words) = self.words(name)
        {
            return Ok(words);
        }
        Ok(vec![self.text(word)?])
    }

    fn text(&self, text: &str) -> Result<String, AttemptError> {
        Ok(template::substitute(text, |name| Some(self.words(name)?.join(" ")))?)
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, AttemptError> {
        let Some(Value::Object(wanted)) = self.node.params.get("env") else {
            return Ok(BTreeMap::new());
        };
        let text = |(name, value): (&String, &Value)| match value {
            Value::String(text) => Ok((name.clone(), self.text(text)?)),
            _ => Err(AttemptError::Parameter(format!("`env.{name}` is not text"))),
        };
        wanted.iter().map(text).collect()
    }

    /// Returns what a placeholder stands for: one word, or one for each item of an input.
    fn words(&self, name: &str) -> Option<Vec<String>> {
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        match name.split_once('.') {
            Some(("inputs", input)) => match input.strip_suffix(LIST) {
                Some(input) => Some(vec![shown(&self.folders.list(input, self.inputs.get(input)?))]),
                None => Some(self.inputs.get(input)?.iter().map(shown).collect()),
            },
            Some(("outputs", output)) => {
                let known = self.node.outputs.iter().any(|declared| declared.name == output);
                known.then(|| vec![shown(&self.folders.output(output))])
            }
            Some(("resources", "cpu")) => Some(vec![self.grant.cpu.to_string()]),
            None if name == "seed" => Some(vec![self.node.seed.to_string()]),
            _ => None,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), AttemptError> {
    fs::write(path, bytes).map_err(|source| AttemptError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

/// Returns a name as a file name: what could be misread as a path or is awkward in a shell becomes `_`.
pub(crate) fn file_name(name: &str) -> String {
    const LONGEST: usize = 120;
    let plain = |c: char| {
        if c.is_alphanumeric() || "._-=,[]+".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().take(LONGEST).map(plain).collect();
    if name.is_empty() || name.starts_with('.') {
        format!("_{name}")
    } else {
        name
    }
}
