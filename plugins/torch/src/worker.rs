//! The worker's side of the contract (`plugins/CONTRACT.md`): request in, events out, outputs in place.
//!
//! Knows nothing of kinds. A kind gets a [`Job`] and returns; `main` turns its error, or a panic, into an error event
//! and an exit code, so that a failed node always has a message.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The contract's version that this worker speaks.
pub const CONTRACT: u32 = 1;

/// Progress events closer together than this are dropped (but never the last one of a total).
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What the engine asks for.
#[derive(Debug, Clone, Deserialize)]
pub struct Request {
    pub contract: u32,
    pub kind: String,
    pub node: String,
    pub key: String,
    pub seed: u64,
    pub params: Value,
    pub inputs: BTreeMap<String, Value>,
    pub outputs: BTreeMap<String, PathBuf>,
    pub partial: PathBuf,
    pub events: PathBuf,
    pub resources: Resources,
}

/// What the node may use.
#[derive(Debug, Clone, Deserialize)]
pub struct Resources {
    /// Threads.
    pub cpu: usize,
    /// Indices of the GPUs, already set in CUDA_VISIBLE_DEVICES.
    #[serde(default)]
    pub gpu: Vec<usize>,
}

/// An input artifact.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Input {
    pub path: PathBuf,
    /// The point of the sweep that it comes from.
    #[serde(default)]
    pub axes: BTreeMap<String, Value>,
    /// The pipeline's word for it, where one input gathers several outputs.
    #[serde(default)]
    pub label: Option<String>,
}

/// One node's work: its request, and the way to report on it.
pub struct Job {
    request: Request,
    events: RefCell<File>,
    last_progress: RefCell<Option<Instant>>,
}

impl Job {
    /// Reads a request file and opens its event stream.
    ///
    /// # Errors
    /// The file can't be read, or speaks another version of the contract.
    pub fn open(request: &Path) -> Result<Self> {
        let text = std::fs::read(request).with_context(|| format!("{}", request.display()))?;
        let request: Request =
            serde_json::from_slice(&text).with_context(|| format!("{} is not a request", request.display()))?;
        if request.contract != CONTRACT {
            bail!(
                "the engine speaks version {} of the worker contract, this plugin {CONTRACT}",
                request.contract
            );
        }
        let events = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&request.events)
            .with_context(|| format!("{}", request.events.display()))?;
        Ok(Self {
            request,
            events: RefCell::new(events),
            last_progress: RefCell::new(None),
        })
    }

    pub fn kind(&self) -> &str {
        &self.request.kind
    }

    pub fn seed(&self) -> u64 {
        self.request.seed
    }

    pub fn resources(&self) -> &Resources {
        &self.request.resources
    }

    /// Returns the folder of the content key, in which a killed attempt may have left something. It may not exist.
    pub fn partial(&self) -> &Path {
        &self.request.partial
    }

    /// Returns the content key.
    pub fn key(&self) -> &str {
        &self.request.key
    }

    /// Parses the parameters.
    ///
    /// # Errors
    /// They don't fit `T`: the plugin's `plugin.yaml` and the kind's struct disagree.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.request.params.clone())
            .with_context(|| format!("parameters of {}", self.request.kind))
    }

    /// Returns the path of a single input.
    ///
    /// # Errors
    /// The request has no such input, or a list.
    pub fn input(&self, name: &str) -> Result<PathBuf> {
        self.input_opt(name)?
            .ok_or_else(|| anyhow!("the request has no input {name:?}"))
    }

    /// Returns the path of an input that may be absent.
    ///
    /// # Errors
    /// It is a list.
    pub fn input_opt(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(value) = self.request.inputs.get(name) else {
            return Ok(None);
        };
        let input: Input = serde_json::from_value(value.clone()).with_context(|| format!("input {name:?}"))?;
        Ok(Some(input.path))
    }

    /// Returns the items of a gathered input in order; a single one counts as a list of one, an absent one as empty.
    ///
    /// # Errors
    /// An item is not an input.
    pub fn inputs(&self, name: &str) -> Result<Vec<Input>> {
        match self.request.inputs.get(name) {
            None => Ok(Vec::new()),
            Some(list @ Value::Array(_)) => Ok(serde_json::from_value(list.clone())?),
            Some(one) => Ok(vec![serde_json::from_value(one.clone())?]),
        }
    }

    /// Returns the path at which an output must be created.
    ///
    /// # Errors
    /// The request has no such output.
    pub fn output(&self, name: &str) -> Result<PathBuf> {
        self.request
            .outputs
            .get(name)
            .cloned()
            .ok_or_else(|| anyhow!("the request has no output {name:?}"))
    }

    /// Reports progress: `done` of `total` `unit`s, with a few words on how it stands.
    pub fn progress(&self, done: usize, total: usize, unit: &str, message: &str) {
        let mut last = self.last_progress.borrow_mut();
        let now = Instant::now();
        if done < total && last.is_some_and(|t| now.duration_since(t) < PROGRESS_INTERVAL) {
            return;
        }
        *last = Some(now);
        self.emit(json!({"event": "progress", "done": done, "total": total, "unit": unit, "message": message}));
    }

    /// Reports one value of a metric.
    pub fn metric(&self, name: &str, value: f64, step: Option<usize>) {
        if value.is_finite() {
            self.emit(json!({"event": "metric", "name": name, "value": value, "step": step}));
        }
    }

    pub fn info(&self, message: &str) {
        self.emit(json!({"event": "log", "level": "info", "message": message}));
    }

    /// Reports what is of use to whoever reads the log of a node or the events of a run, and not worth a line of a terminal.
    pub fn debug(&self, message: &str) {
        eprintln!("{message}");
        self.emit(json!({"event": "log", "level": "debug", "message": message}));
    }

    pub fn warning(&self, message: &str) {
        self.emit(json!({"event": "warning", "message": message}));
    }

    pub fn error(&self, message: &str) {
        self.emit(json!({"event": "error", "message": message}));
    }

    /// Events are news, not results: one that can't be written must not fail the work.
    fn emit(&self, event: Value) {
        let mut line = event.to_string();
        line.push('\n');
        if let Err(error) = self.events.borrow_mut().write_all(line.as_bytes()) {
            eprintln!("event not written: {error}");
        }
    }
}
