//! One worker process: starting it, watching it, ending it.
//!
//! It knows program, folders and time, but not what the worker makes. A worker leads a process group of its own, so
//! a Ctrl-C at the terminal reaches it only through us, and whatever it started ends with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::attempt::AttemptError;
use super::guard::{self, Guard};
use super::interrupt::Stop;
use super::tail::{Tail, WorkerEvent};

/// How long a worker may take to save its work after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// How often the file of events is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How a worker is started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) log: PathBuf,
    pub(crate) timeout: Option<Duration>,
}

/// Starts a worker and waits for its end; `on_events` sees what it says, as it says it.
///
/// # Errors
/// It could not be started, was stopped by the user, or ran into its time limit. How it exited is for the caller to judge.
pub(crate) async fn run(
    launch: &Launch,
    guard: &Arc<Mutex<Guard>>,
    stop: &mut watch::Receiver<Stop>,
    mut tail: Tail,
    mut on_events: impl FnMut(Vec<WorkerEvent>),
) -> Result<ExitStatus, AttemptError> {
    if *stop.borrow() != Stop::No {
        return Err(AttemptError::Cancelled);
    }
    let mut child = spawn(launch, guard)?;
    let group = child.id().unwrap_or(0);
    let started = Instant::now();
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ending = None;
    let mut next = launch.timeout.map(|timeout| started + timeout);
    let status = loop {
        let deadline = next.unwrap_or(started + Duration::from_secs(1 << 32));
        tokio::select! {
            status = child.wait() => break status,
            _ = ticks.tick() => on_events(tail.poll()),
            () = sleep_until(deadline), if next.is_some() => {
                // The first deadline is the time limit; the one after SIGTERM is the end of our patience.
                if ending.is_none() {
                    ending = launch.timeout.map(|limit| AttemptError::TimedOut { limit });
                    signal(group, Signal::TERM);
                    next = Some(Instant::now() + GRACE);
                } else {
                    signal(group, Signal::KILL);
                    next = None;
                }
            }
            Ok(()) = stop.changed() => {
                let now = *stop.borrow_and_update() == Stop::Now;
                ending = Some(AttemptError::Cancelled);
                signal(group, if now { Signal::KILL } else { Signal::TERM });
                next = (!now).then(|| Instant::now() + GRACE);
            }
        }
    };
    // What the worker left running would go on writing into folders that are about to be read.
    signal(group, Signal::KILL);
    guard
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .forget(group);
    on_events(tail.finish());
    match ending {
        Some(error) => Err(error),
        None => status.map_err(|source| AttemptError::Spawn {
            program: launch.program.clone(),
            source,
        }),
    }
}

fn spawn(launch: &Launch, guard: &Arc<Mutex<Guard>>) -> Result<Child, AttemptError> {
    let failed = |source| AttemptError::Spawn {
        program: launch.program.clone(),
        source,
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(&launch.log)
        .map_err(failed)?;
    let mut guard = guard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .current_dir(&launch.directory)
        .envs(&launch.environment)
        .env(guard::MARK, guard.mark())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound if !launch.directory.is_dir() => AttemptError::NoDirectory {
            path: launch.directory.clone(),
        },
        std::io::ErrorKind::NotFound => AttemptError::NoProgram {
            program: launch.program.clone(),
        },
        _ => failed(source),
    })?;
    child.id().into_iter().for_each(|group| guard.watch(group));
    Ok(child)
}

/// Sends a signal to a process group; one that is gone has got what it should.
fn signal(group: u32, signal: Signal) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}
