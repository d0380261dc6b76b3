//! One stage as the engine would start it, attempt after attempt, and ways to end an attempt at a defined moment.

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::pipelines::engine;

/// Longer than anything here takes on a busy machine: what waits longer is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stage with a folder of its own.
pub struct Stage {
    dir: TempDir,
    request: Value,
    outputs: Vec<&'static str>,
    /// Longer files can't be written, as on a disk that is full.
    max_file_size: Option<u64>,
}

/// The digest of each file of the outputs, by path.
pub type Digests = BTreeMap<String, String>;

/// How an attempt ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub events: Vec<Value>,
}

impl Ended {
    /// Everything that was said in events with a message, one a line.
    pub fn messages(&self) -> String {
        let message = |event: &Value| {
            Some(format!(
                "{}: {}\n",
                event["event"].as_str()?,
                event["message"].as_str()?
            ))
        };
        self.events.iter().filter_map(message).collect()
    }

    #[track_caller]
    pub fn assert_done(&self) -> &Self {
        assert!(self.status.success(), "{:?}\n{}", self.status, self.messages());
        self
    }

    #[track_caller]
    pub fn assert_says(&self, text: &str) -> &Self {
        assert!(
            self.messages().contains(text),
            "nobody said {text:?}:\n{}",
            self.messages()
        );
        self
    }

    /// The step that the attempt continued from.
    pub fn continued_from(&self) -> Option<usize> {
        let messages = self.messages();
        let (_, rest) = messages.split_once("continues from step ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

impl Stage {
    /// `params` are those that are not at their default; outputs are made in a new folder.
    pub fn new(kind: &str, params: Value, inputs: &[(&str, PathBuf)], outputs: &[&'static str]) -> Self {
        let inputs: Map<String, Value> = inputs
            .iter()
            .map(|(name, path)| ((*name).to_owned(), json!({"path": path})))
            .collect();
        let mut all = defaults(kind);
        for (name, value) in params.as_object().expect("parameters by name") {
            assert!(
                all.insert(name.clone(), value.clone()).is_some() || ["path", "name", "step"].contains(&name.as_str()),
                "{kind} has no {name}"
            );
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| dir.path().join(name);
        let paths: Map<String, Value> = outputs
            .iter()
            .map(|name| ((*name).to_owned(), json!(at("out").join(name))))
            .collect();
        let request = json!({
            "contract": 1, "kind": kind, "node": "n", "key": format!("key of {kind}"), "seed": 5, "params": all,
            "inputs": inputs, "outputs": paths, "partial": at("partial"), "events": at("events"),
            "resources": {"cpu": 2},
        });
        Self {
            dir,
            request,
            outputs: outputs.to_vec(),
            max_file_size: None,
        }
    }

    /// The same stage with nothing saved and nothing made.
    pub fn fresh(&self) -> Self {
        let params = &self.request["params"];
        let inputs: Vec<(&str, PathBuf)> = self.request["inputs"]
            .as_object()
            .expect("inputs by name")
            .iter()
            .map(|(name, input)| (name.as_str(), PathBuf::from(input["path"].as_str().expect("a path"))))
            .collect();
        let kind = self.request["kind"].as_str().expect("a kind");
        Self::new(kind, params.clone(), &inputs, &self.outputs)
    }

    /// Changes the request for the attempts that follow.
    pub fn set(&mut self, pointer: &str, value: Value) {
        *self.request.pointer_mut(pointer).expect("it is in every request") = value;
    }

    /// Makes writing longer files fail in the attempts that follow.
    pub fn limit_file_size(&mut self, bytes: u64) {
        self.max_file_size = Some(bytes);
    }

    pub fn input(&self, name: &str) -> PathBuf {
        PathBuf::from(self.request["inputs"][name]["path"].as_str().expect("a path"))
    }

    pub fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    pub fn partial(&self) -> PathBuf {
        self.dir.path().join("partial")
    }

    fn start(&self) -> Child {
        // As the engine does: an attempt finds the folders empty, but for `partial`.
        let (out, events) = (self.dir.path().join("out"), self.dir.path().join("events"));
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out).expect("a folder");
        std::fs::create_dir_all(self.partial()).expect("a folder");
        std::fs::write(events, "").expect("a file");
        let path = self.dir.path().join("request.json");
        std::fs::write(&path, self.request.to_string()).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_volvelle-torch"));
        command
            .arg("worker")
            .arg(path)
            .env("OMP_WAIT_POLICY", "passive")
            .stderr(Stdio::null());
        if let Some(bytes) = self.max_file_size {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            let apply = move || {
                // SAFETY: two calls that may be made between fork and exec. Without the first the second would kill.
                let status = unsafe {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
                };
                if status == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            };
            // SAFETY: as said above, and it touches no memory but its own.
            unsafe { command.pre_exec(apply) };
        }
        command.spawn().expect("the worker starts")
    }

    fn end(&self, mut child: Child) -> Ended {
        let status = child.wait().expect("it ends");
        let text = std::fs::read_to_string(self.dir.path().join("events")).expect("the events");
        Ended {
            status,
            // A killed worker may leave half a line.
            events: text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
        }
    }

    /// The events of the newest attempt so far, as text.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("events")).unwrap_or_default()
    }

    /// Runs an attempt to its end.
    pub fn run(&self) -> Ended {
        self.end(self.start())
    }

    /// Starts an attempt, and sends a signal as soon as `is_time` says so. An attempt that ends before the signal comes
    /// is nothing to learn from: it is repeated from the same partial folder.
    fn signal_when(&self, signal: i32, is_time: &dyn Fn() -> bool) -> Ended {
        let before = self.dir.path().join("before");
        copy_tree(&self.partial(), &before);
        for _ in 0..20 {
            let mut child = self.start();
            let started = Instant::now();
            let mut is_running = true;
            while is_running && !is_time() {
                assert!(started.elapsed() < PATIENCE, "it is never time");
                std::thread::sleep(Duration::from_micros(300));
                is_running = child.try_wait().expect("a child of ours").is_none();
            }
            if is_running {
                // SAFETY: a process that we started and have not waited for yet.
                unsafe { libc::kill(child.id() as i32, signal) };
            }
            let ended = self.end(child);
            if !ended.status.success() {
                let _ = std::fs::remove_dir_all(&before);
                return ended;
            }
            std::fs::remove_dir_all(self.partial()).expect("it was there");
            copy_tree(&before, &self.partial());
        }
        panic!("the stage always ends before the signal comes");
    }

    /// Kills an attempt with SIGKILL when the checkpoint of `step`, or a later one, is there.
    #[track_caller]
    pub fn kill_after(&self, step: usize) {
        let ended = self.signal_when(libc::SIGKILL, &|| self.saved_step() >= Some(step));
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{}", ended.messages());
    }

    /// Kills an attempt when a journal has so many lines, the header not counted.
    #[track_caller]
    pub fn kill_after_lines(&self, count: usize) {
        let ended = self.signal_when(libc::SIGKILL, &|| self.num_lines() >= count);
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{}", ended.messages());
    }

    /// Sends SIGTERM when `done` units are reported as done.
    #[track_caller]
    pub fn terminate_after(&self, done: u64) -> Ended {
        let is_time = || {
            let text = self.said();
            let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.filter_map(|event| event["done"].as_u64()).any(|at| at >= done)
        };
        self.terminate_when(&is_time)
    }

    /// Sends SIGTERM when it is time.
    #[track_caller]
    pub fn terminate_when(&self, is_time: &dyn Fn() -> bool) -> Ended {
        let ended = self.signal_when(libc::SIGTERM, is_time);
        assert_eq!(ended.status.code(), Some(143), "{}", ended.messages());
        ended
    }

    /// The newest checkpoint that has a manifest.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        let step = self.saved_step()?;
        Some(self.partial().join(format!("checkpoint-{step}")))
    }

    pub fn saved_step(&self) -> Option<usize> {
        let step = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            path.join("manifest.json").exists().then_some(step)
        };
        std::fs::read_dir(self.partial()).ok()?.filter_map(step).max()
    }

    /// The journal with most lines.
    pub fn journal(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.partial()).ok()?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .max_by_key(|path| num_ends(path))
    }

    pub fn num_lines(&self) -> usize {
        self.journal().map_or(0, |path| num_ends(&path).saturating_sub(1))
    }

    /// The digests of all files of all outputs, by path.
    pub fn digests(&self) -> Digests {
        let mut found = BTreeMap::new();
        digest_tree(&self.dir.path().join("out"), "", &mut found);
        for name in &self.outputs {
            assert!(found.keys().any(|path| path.starts_with(name)), "no output {name}");
        }
        found
    }
}

fn num_ends(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

fn digest_tree(folder: &Path, prefix: &str, found: &mut Digests) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            digest_tree(&entry.path(), &format!("{name}/"), found);
        } else {
            let bytes = std::fs::read(entry.path()).expect("an output");
            found.insert(name, blake3::hash(&bytes).to_hex().to_string());
        }
    }
}

/// Copies a folder; one that is not there becomes an empty one.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

/// The defaults of a kind's parameters, as the engine would fill them in.
fn defaults(kind: &str) -> Map<String, Value> {
    static KNOWN: Mutex<BTreeMap<String, Map<String, Value>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("no test panics here");
    let read = || {
        let output = Command::new(engine())
            .args(["kinds", kind, "--json", "--plugins"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .output()
            .expect("the engine starts");
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let params = shown["params"].as_object().expect("parameters");
        params
            .iter()
            .filter_map(|(name, param)| Some((name.clone(), param.get("default")?.clone())))
            .collect()
    };
    known.entry(kind.to_owned()).or_insert_with(read).clone()
}

/// Countdown problems, a corpus, chats, and a small model that solves some of them.
pub struct Base {
    data: Stage,
    model: Stage,
    chats: PathBuf,
}

impl Base {
    pub fn get() -> &'static Base {
        static BASE: OnceLock<Base> = OnceLock::new();
        BASE.get_or_init(|| {
            let sizes = json!({
                "max_number": 4, "max_target": 8, "max_value": 16, "num_train": 24, "num_test": 8,
                "num_playouts": 2000, "num_drills": 500, "drills_per_line": 2,
            });
            Base::new(sizes, 200)
        })
    }

    /// Problems of two numbers, of which the model solves about a third, so that nearly every group has something to learn
    /// from.
    pub fn easy() -> &'static Base {
        static EASY: OnceLock<Base> = OnceLock::new();
        EASY.get_or_init(|| {
            let sizes = json!({
                "count_numbers": 2, "max_number": 6, "max_target": 12, "num_train": 24, "num_test": 6,
                "num_playouts": 2000, "num_drills": 0,
            });
            Base::new(sizes, 150)
        })
    }

    fn new(sizes: Value, num_steps: usize) -> Base {
        let data = Stage::new("data.countdown", sizes, &[], &["train", "test", "corpus"]);
        data.run().assert_done();
        let model = pretrain(&data, json!({"max_steps": num_steps}));
        model.run().assert_done();
        let chats = data.dir.path().join("chats");
        write_chats(&data.output("corpus"), &chats);
        Base { data, model, chats }
    }

    pub fn pretrain(&self, params: Value) -> Stage {
        pretrain(&self.data, params)
    }

    pub fn sft(&self, params: Value) -> Stage {
        let inputs = [("model", self.model.output("model")), ("data", self.chats.clone())];
        Stage::new("astro.sft", params, &inputs, &["model", "metrics", "checkpoints"])
    }

    pub fn grpo(&self, params: Value) -> Stage {
        let inputs = [
            ("model", self.model.output("model")),
            ("problems", self.data.output("train")),
        ];
        Stage::new(
            "astro.grpo",
            params,
            &inputs,
            &["model", "metrics", "samples", "checkpoints"],
        )
    }

    pub fn search(&self, params: Value) -> Stage {
        let inputs = [
            ("policy", self.model.output("model")),
            ("problems", self.data.output("train")),
        ];
        Stage::new("astro.search", params, &inputs, &["trees"])
    }

    /// Solutions that a search by the small model found, judged: few right ones and many wrong ones.
    fn feedback(&self) -> PathBuf {
        static MADE: OnceLock<(Stage, Stage)> = OnceLock::new();
        let make = || {
            let search = self.search(json!({
                "num_simulations": 10, "num_candidates": 4, "num_rollouts": 4, "max_step_length": 16,
                "max_completion_length": 32,
            }));
            search.run().assert_done();
            let inputs = [("trees", search.output("trees"))];
            let all = json!({"num_desirable": 20, "num_undesirable": 20, "distinct": false, "balance": false});
            let feedback = Stage::new("astro.feedback", all, &inputs, &["feedback"]);
            feedback.run().assert_done();
            (search, feedback)
        };
        MADE.get_or_init(make).1.output("feedback")
    }

    pub fn kto(&self, params: Value) -> Stage {
        let inputs = [("model", self.model.output("model")), ("data", self.feedback())];
        Stage::new("astro.kto", params, &inputs, &["model", "metrics"])
    }

    pub fn eval(&self, params: Value) -> Stage {
        let inputs = [
            ("model", self.model.output("model")),
            ("problems", self.data.output("test")),
        ];
        Stage::new("eval", params, &inputs, &["scores", "samples"])
    }
}

/// A model so small that a step takes milliseconds.
fn pretrain(data: &Stage, params: Value) -> Stage {
    let mut all = json!({
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 96, "per_device_train_batch_size": 48,
        "learning_rate": 0.01, "initializer_range": 0.05, "micro_batch_tokens": 256,
    });
    for (name, value) in params.as_object().expect("parameters by name") {
        all[name] = value.clone();
    }
    Stage::new(
        "lm.pretrain",
        all,
        &[("data", data.output("corpus"))],
        &["model", "metrics"],
    )
}

/// Makes a chat of every playout of a corpus.
fn write_chats(corpus: &Path, to: &Path) {
    let text = std::fs::read_to_string(corpus).expect("the corpus");
    let mut chats = String::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a text");
        let segment = |idx: usize| line["segments"][idx]["text"].as_str().unwrap_or("");
        let Some(problem) = segment(0).strip_prefix("<|user|> ") else {
            continue;
        };
        let user = problem.trim_end_matches(" <|assistant|>");
        let assistant = segment(1).trim_start().trim_end_matches(" <|end|>");
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let chat = json!({"messages": [message("user", user), message("assistant", assistant)]});
        chats.push_str(&format!("{chat}\n"));
    }
    std::fs::write(to, chats).expect("a file");
}
