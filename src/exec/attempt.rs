//! One attempt at one node: its folder, its worker, and what becomes of the outputs.
//!
//! An attempt either ends with a durable record or leaves nothing in the cache. It knows no other node; who may run
//! when is the scheduler's business.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::event::Event;
use super::guard::Guard;
use super::interrupt::Stop;
use super::limits::Grant;
use super::request::{self, Folders};
use super::spare::Spare;
use super::tail::{self, Tail, WorkerEvent};
use super::{transfer, worker};
use crate::digest::{ContentKey, Digest};
use crate::graph::{Node, Worker};
use crate::remote::link::Link;
use crate::spec::template::TemplateError;
use crate::store::{Artifact, Placed, Record, RunFolder, Store, StoreError, Timestamp, host_name};

/// How many of a log's last lines a failure shows.
const TAIL_LINES: usize = 15;

/// Why an attempt did not end with a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    #[error("the program `{program}` was not found; build it, or put it beside volvelle or on PATH")]
    NoProgram { program: String },
    #[error("the folder {} does not exist", path.display())]
    NoDirectory { path: PathBuf },
    #[error("cannot run `{program}`: {source}")]
    Spawn { program: String, source: std::io::Error },
    #[error("{message}")]
    Reported { message: String, hint: Option<String> },
    #[error("the worker ended with {}", ending(*.status))]
    Exit { status: ExitStatus },
    #[error("the worker did not end within its time limit of {} s", limit.as_secs_f64())]
    TimedOut { limit: Duration },
    #[error("the worker ended well but did not make {}", names.join(", "))]
    MissingOutput { names: Vec<String> },
    #[error("the worker changed its input `{input}`: {}", paths.join(", "))]
    InputChanged { input: String, paths: Vec<String> },
    #[error("an input of it is gone: blob {} is not in the cache", digest.short())]
    InputGone { producer: usize, digest: Digest },
    #[error("in the command line: {0}")]
    Template(#[from] TemplateError),
    #[error("{0}")]
    Parameter(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("a thread of the engine ended early: {0}")]
    Thread(#[from] tokio::task::JoinError),
    #[error("stopped")]
    Cancelled,
}

impl AttemptError {
    /// Returns whether another try could end otherwise.
    pub(crate) fn is_worth_retrying(&self) -> bool {
        match self {
            AttemptError::Reported { .. }
            | AttemptError::Exit { .. }
            | AttemptError::TimedOut { .. }
            | AttemptError::MissingOutput { .. }
            | AttemptError::Spawn { .. } => true,
            AttemptError::NoProgram { .. }
            | AttemptError::NoDirectory { .. }
            | AttemptError::InputChanged { .. }
            | AttemptError::InputGone { .. }
            | AttemptError::Template(_)
            | AttemptError::Parameter(_)
            | AttemptError::Store(_)
            | AttemptError::Io { .. }
            | AttemptError::Thread(_)
            | AttemptError::Cancelled => false,
        }
    }

    /// Returns what the user could do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            AttemptError::Reported { hint, .. } => hint.clone(),
            AttemptError::InputChanged { .. } => {
                Some("inputs are read-only: copy what has to be changed; nothing of this attempt was kept".into())
            }
            AttemptError::Exit { status } if status.signal() == Some(9) => {
                Some("SIGKILL often means that the machine ran out of memory".into())
            }
            AttemptError::Spawn { source, .. } if source.kind() == std::io::ErrorKind::ArgumentListTooLong => {
                Some("write `${inputs.NAME.list}`: a file that names the input's paths, one a line".into())
            }
            AttemptError::TimedOut { .. } => Some("raise `resources.timeout` of the stage".into()),
            AttemptError::Store(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}{}", signal_name(signal)),
        (None, None) => "an unknown status".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Takes what happens during an attempt.
pub(crate) type Reporter<'a> = dyn Fn(Event) + Send + Sync + 'a;

/// Everything that an attempt needs to know.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) pipeline: String,
    pub(crate) idx: usize,
    pub(crate) node: Arc<Node>,
    pub(crate) store: Arc<Store>,
    pub(crate) run: RunFolder,
    pub(crate) number: u32,
    pub(crate) content_key: ContentKey,
    /// The preimage of the content key.
    pub(crate) content: String,
    /// For each input, in its order, the artifact of each item.
    pub(crate) artifacts: Vec<Vec<Artifact>>,
    pub(crate) grant: Grant,
    pub(crate) guard: Arc<Mutex<Guard>>,
    pub(crate) spare: Arc<Spare>,
    pub(crate) link: Option<Arc<Link>>,
}

/// What lies ready for the worker.
struct Prepared {
    folders: Folders,
    placed: Vec<(String, Placed)>,
    launch: worker::Launch,
}

/// What a worker that ended well left.
struct Ended {
    metrics: BTreeMap<String, f64>,
    started: Timestamp,
    seconds: f64,
}

impl Attempt {
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the path of the log, relative to the run's folder.
    pub(crate) fn log_name(&self) -> String {
        let short = self.content_key.short();
        format!(
            "logs/{}-{short}.{}.log",
            request::file_name(&self.node().id.0),
            self.number
        )
    }

    fn log_path(&self) -> PathBuf {
        self.run.path.join(self.log_name())
    }

    /// Returns the last lines that the worker wrote.
    pub(crate) fn log_tail(&self) -> Vec<String> {
        last_lines(&self.log_path()).unwrap_or_default()
    }
}

/// Runs an attempt to its end; a returned record is durable.
///
/// # Errors
/// Anything that keeps the node from having its outputs; nothing of it is in the cache then.
pub(crate) async fn execute(
    attempt: Attempt,
    report: &Reporter<'_>,
    stop: &mut watch::Receiver<Stop>,
) -> Result<Record, AttemptError> {
    let attempt = Arc::new(attempt);
    let preparing = blocking(&attempt, prepare);
    // What is fetched may take long; the thread that does it is left to itself when nobody wants it any more.
    let prepared = tokio::select! {
        prepared = transfer::told(preparing, attempt.link.as_ref(), &attempt.node.id, report) => prepared?,
        Ok(()) = stop.changed() => return Err(AttemptError::Cancelled),
    };
    let outcome = work(&attempt, &prepared, report, stop).await;
    let (attempt, folder) = (Arc::clone(&attempt), prepared.folders.root.clone());
    let result = blocking(&attempt, move |attempt| {
        refuse_changes(attempt, &prepared.placed)?;
        let record = keep(attempt, &prepared.folders, outcome?)?;
        prepared
            .placed
            .iter()
            .for_each(|(_, placed)| attempt.store.take_back(placed));
        Ok(record)
    })
    .await;
    if result.is_err() {
        // Of a kind that saved nothing, what was made for it is only in the way.
        attempt.store.remove_empty_partial(attempt.content_key);
    }
    // After a failure the folder stays for whoever wants to look into it, until the next run.
    if matches!(result, Ok(_) | Err(AttemptError::Cancelled)) {
        let removed = blocking(&attempt, move |attempt| {
            Ok(attempt.spare.give(&attempt.store, folder, &attempt.node.worker)?)
        })
        .await;
        if let Err(error) = removed {
            tracing::warn!(%error, "the folder of an attempt could not be removed");
        }
    }
    result
}

async fn blocking<T: Send + 'static>(
    attempt: &Arc<Attempt>,
    work: impl FnOnce(&Attempt) -> Result<T, AttemptError> + Send + 'static,
) -> Result<T, AttemptError> {
    let attempt = Arc::clone(attempt);
    tokio::task::spawn_blocking(move || work(&attempt)).await?
}

fn prepare(attempt: &Attempt) -> Result<Prepared, AttemptError> {
    let name = format!("{}.{}.{}", attempt.content_key.short(), attempt.idx, attempt.number);
    let root = attempt
        .spare
        .take(&attempt.store, &attempt.run.id, &name, &attempt.node.worker)?;
    let partial = attempt.store.partial_path(attempt.content_key);
    let folders = Folders::make(root, partial, attempt.node())?;
    if matches!(attempt.node().worker, Worker::Plugin { .. }) {
        attempt
            .store
            .mark_partial(attempt.content_key, attempt.node().recipe_key);
    }
    let placed = place_inputs(attempt, &folders).inspect_err(|_| {
        // The same attempt may be made again, in a folder of the same name.
        if let Err(error) = attempt.store.remove_folder(&folders.root) {
            tracing::warn!(%error, "the folder of an attempt could not be removed");
        }
    })?;
    let launch = request::launch(
        attempt.node(),
        attempt.content_key,
        &attempt.grant,
        &folders,
        attempt.log_path(),
    )?;
    Ok(Prepared {
        folders,
        placed,
        launch,
    })
}

/// Lays the inputs out, each with its name; what is not in the cache is fetched first, if it can be.
fn place_inputs(attempt: &Attempt, folders: &Folders) -> Result<Vec<(String, Placed)>, AttemptError> {
    let mut placed = Vec::new();
    for (input, artifacts) in attempt.node().inputs.iter().zip(&attempt.artifacts) {
        let paths = folders.input_paths(input)?;
        for ((item, artifact), path) in input.items.iter().zip(artifacts).zip(paths) {
            let laid = attempt.store.place(artifact, item.subpath.as_deref(), &path);
            let laid = laid.map_err(|error| match error {
                StoreError::MissingBlob { digest } => AttemptError::InputGone {
                    producer: item.node,
                    digest,
                },
                error => error.into(),
            })?;
            placed.push((input.name.clone(), laid));
        }
    }
    Ok(placed)
}

async fn work(
    attempt: &Attempt,
    prepared: &Prepared,
    report: &Reporter<'_>,
    stop: &mut watch::Receiver<Stop>,
) -> Result<Ended, AttemptError> {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let mut metrics = BTreeMap::new();
    let mut reported = None;
    let tail = Tail::new(prepared.folders.events());
    let status = worker::run(&prepared.launch, &attempt.guard, stop, tail, |said| {
        for event in said {
            tail::note_metric(&mut metrics, &event);
            if let WorkerEvent::Error { message, hint } = &event {
                reported = Some(AttemptError::Reported {
                    message: message.clone(),
                    hint: hint.clone(),
                });
            }
            report(to_event(attempt.node(), event));
        }
    })
    .await?;
    if !status.success() {
        return Err(reported.unwrap_or(AttemptError::Exit { status }));
    }
    Ok(Ended {
        metrics,
        started,
        seconds: clock.elapsed().as_secs_f64(),
    })
}

fn to_event(node: &Node, event: WorkerEvent) -> Event {
    let id = node.id.clone();
    match event {
        WorkerEvent::Progress {
            done,
            total,
            unit,
            message,
        } => Event::NodeProgress {
            id,
            done,
            total,
            unit,
            message,
        },
        WorkerEvent::Metric { name, value, step } => Event::NodeMetric { id, name, value, step },
        WorkerEvent::Log { level, message } => Event::NodeLog {
            id,
            level: level.unwrap_or_else(|| "info".to_owned()),
            message,
        },
        WorkerEvent::Warning { message } => Event::NodeWarning { id, message },
        WorkerEvent::Error { message, .. } => Event::NodeLog {
            id,
            level: "error".to_owned(),
            message,
        },
    }
}

/// Fails an attempt whose worker wrote into an input, whatever else it did.
fn refuse_changes(attempt: &Attempt, placed: &[(String, Placed)]) -> Result<(), AttemptError> {
    let mut first = None;
    // All inputs are looked at: each blob that was changed has to be moved aside.
    for (input, placed) in placed {
        let changed = attempt.store.changes(placed);
        if !changed.is_empty() && first.is_none() {
            let shown = |path: &PathBuf| match path.to_string_lossy() {
                name if name.is_empty() => "the file itself".to_owned(),
                name => name.into_owned(),
            };
            let paths = changed.iter().take(5).map(shown).collect();
            first = Some(AttemptError::InputChanged {
                input: input.clone(),
                paths,
            });
        }
    }
    first.map_or(Ok(()), Err)
}

/// Moves the outputs into the store and writes the record.
fn keep(attempt: &Attempt, folders: &Folders, ended: Ended) -> Result<Record, AttemptError> {
    let node = attempt.node();
    let outputs: Vec<(String, PathBuf)> = node
        .outputs
        .iter()
        .map(|output| (output.name.clone(), folders.output(&output.name)))
        .collect();
    let absent = outputs.iter().filter(|(_, path)| fs::symlink_metadata(path).is_err());
    let names: Vec<String> = absent.map(|(name, _)| format!("its output `{name}`")).collect();
    if !names.is_empty() {
        return Err(AttemptError::MissingOutput { names });
    }
    // Blobs that the store has already are not written again, so they have to stay until the record needs them.
    let _guard = attempt.store.use_guard()?;
    let artifacts = attempt.store.admit(&outputs)?;
    let path = attempt.log_path();
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(source) => {
            return Err(AttemptError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    let log = if length == 0 {
        None
    } else {
        Some(attempt.store.add_copy(&path)?)
    };
    let record = Record {
        format: Record::FORMAT,
        recipe_key: node.recipe_key,
        recipe: node.recipe.clone(),
        content_key: attempt.content_key,
        content: serde_json::from_str(&attempt.content).expect("a preimage is written as JSON"),
        node: node.id.0.clone(),
        stage: node.stage.0.clone(),
        kind: node.kind.clone(),
        kind_version: node.kind_version,
        pipeline: attempt.pipeline.clone(),
        run: attempt.run.id.0.clone(),
        attempt: attempt.number,
        artifacts,
        metrics: ended.metrics,
        started: ended.started,
        ended: Timestamp::now(),
        seconds: ended.seconds,
        host: host_name(),
        versions: BTreeMap::from([("volvelle".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        log,
        same_as: None,
    };
    if let Some(code) = &node.code {
        attempt.store.put_code(code.digest, &code.files);
    }
    attempt.store.put_record(&record)?;
    // The node is done: what an earlier attempt left can't be needed again.
    if let Err(error) = attempt.store.remove_partial(attempt.content_key) {
        tracing::warn!(%error, "what an earlier attempt left could not be removed");
    }
    Ok(record)
}

fn last_lines(path: &Path) -> std::io::Result<Vec<String>> {
    const ENOUGH_BYTES: u64 = 16 << 10;
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(ENOUGH_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // A progress bar of a worker is one long line of carriage returns, of which only the last state is of use.
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or(""))
        .collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
    Ok(shown.map(|line| line.chars().take(400).collect()).collect())
}
