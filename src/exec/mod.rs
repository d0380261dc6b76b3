//! Running a graph: which nodes have to run, in which order, within which limits, and what becomes of them.
//!
//! It owns the states of nodes, the scheduling loop, the worker contract and the one stream of events. It never prints
//! and knows no kind. A run in which nothing has to be done starts neither a runtime nor a process.

mod attempt;
mod decide;
mod event;
mod explain;
mod guard;
mod interrupt;
mod journal;
mod limits;
mod outputs;
mod plan;
mod priority;
mod request;
mod resolved;
mod scheduler;
mod selection;
mod spare;
mod tail;
mod transfer;
mod worker;

use std::sync::Arc;
use std::time::Instant;

pub use event::{Counts, Event, NodeState, Reason};
pub use explain::{History, Nearest, Part, parts, shown_path};
pub use journal::Listener;
pub use limits::Limits;
pub use outputs::{PublishedOutput, published_digest};
pub use plan::{Cause, Plan, PlanCounts, PlanState, PlannedNode, plan};
pub use resolved::{RunNode, run_nodes};

use crate::graph::{Graph, NodeId, SelectError};
use crate::remote::link::Link;
use crate::store::{RunState, RunStatus, Store, StoreError, Timestamp};
use decide::{Decider, Decision, Settled};
use journal::Journal;
use scheduler::{How, Scheduler};

/// What the user asks of a run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Stages or nodes that run again although their results are there.
    pub rerun: Vec<String>,
    /// Stages or nodes: only they and what they depend on are looked at.
    pub until: Vec<String>,
    /// Stages or nodes: only they and what depends on them may run, and what else that needs has to be there.
    pub from: Vec<String>,
    /// Stages or nodes: only they may run, and what they depend on has to be there.
    pub only: Vec<String>,
    pub limits: Limits,
    /// Stop everything at the first failure.
    pub fail_fast: bool,
    /// Tell of each node that is cached; otherwise only how many there are is told.
    pub tell_cached: bool,
    /// The link to the remote, which the store was given as well: who else runs what, and where results go.
    pub link: Option<Arc<Link>>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct RunReport {
    pub state: RunState,
    pub counts: Counts,
    pub seconds: f64,
    /// The results that nothing else in the pipeline reads.
    pub outputs: Vec<PublishedOutput>,
}

impl RunReport {
    /// Returns whether nothing had to be done.
    pub fn is_no_op(&self) -> bool {
        self.state.status == RunStatus::Succeeded && self.counts[NodeState::Executed] == 0
    }
}

/// Why a run could not take place at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Select(#[from] SelectError),
    #[error("{id} asks for {wanted} GPUs, and there are {found}; lower `resources.gpu` or pass --gpus")]
    TooFewGpus { id: NodeId, wanted: usize, found: usize },
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the scheduler could not start: {0}")]
    Runtime(std::io::Error),
}

/// Runs what has to run of a graph, and tells `listener` everything that happens.
///
/// # Errors
/// Only what keeps the run from taking place. Nodes that fail are part of the report.
pub fn run(
    graph: Arc<Graph>,
    store: Arc<Store>,
    options: &RunOptions,
    listener: Listener<'_>,
) -> Result<RunReport, RunError> {
    let clock = Instant::now();
    options.link.iter().for_each(|link| link.begin());
    let selection = selection::select(&graph, options)?;
    let file = std::path::absolute(&graph.file).unwrap_or_else(|_| graph.file.clone());
    store.verify_touched();
    let (folder, mut state) = store.start_run(&graph.pipeline, file, |folder| {
        if let Err(error) = resolved::write(&store, folder, &graph) {
            tracing::warn!(%error, "the resolved pipeline of this run is not kept");
        }
    })?;
    let mut journal = Journal::open(&folder, listener);
    let mut scheduler = Scheduler::new(
        Arc::clone(&graph),
        Arc::clone(&store),
        folder.clone(),
        selection,
        How {
            fail_fast: options.fail_fast,
            tell_cached: options.tell_cached,
        },
        options.link.clone(),
    );
    let interrupted = match work(&mut scheduler, options, &mut journal) {
        Ok(interrupted) => interrupted,
        Err(error) => {
            state.status = RunStatus::Failed;
            state.ended = Some(Timestamp::now());
            store.write_run(&state)?;
            return Err(error);
        }
    };
    let counts = scheduler.counts();
    let undone = counts[NodeState::Failed] + counts[NodeState::Skipped] + counts[NodeState::Cancelled];
    // Laying results out may fetch them, which nobody waits for who wants to stop.
    let outputs = if interrupted {
        Vec::new()
    } else {
        outputs::publish(scheduler.decider(), scheduler.settled())
    };
    if let Some(link) = &options.link {
        if interrupted {
            link.release_all();
        } else {
            transfer::finish_pushes(link, &mut journal);
        }
        transfer::tell_notes(Some(link), &mut journal);
    }
    // What the run knew of each node is not needed any more, and may be much.
    drop(scheduler);
    if counts[NodeState::Executed] + counts[NodeState::CutOff] > 0 {
        store.refresh();
    }
    state.status = match (interrupted, undone) {
        (true, _) => RunStatus::Interrupted,
        (false, 0) => RunStatus::Succeeded,
        (false, _) => RunStatus::Failed,
    };
    state.ended = Some(Timestamp::now());
    state.counts = NodeState::FINAL
        .iter()
        .map(|&state| (state.name().to_owned(), counts[state]))
        .collect();
    store.write_run(&state)?;
    let seconds = clock.elapsed().as_secs_f64();
    journal.emit(&Event::RunFinished {
        ok: state.status == RunStatus::Succeeded,
        executed: counts[NodeState::Executed],
        cached: counts[NodeState::Cached],
        cut_off: counts[NodeState::CutOff],
        failed: counts[NodeState::Failed],
        skipped: counts[NodeState::Skipped],
        cancelled: counts[NodeState::Cancelled],
        interrupted,
        run_id: state.id.clone(),
        seconds,
    });
    journal.flush();
    Ok(RunReport {
        state,
        counts,
        seconds,
        outputs,
    })
}

/// Settles what needs nothing, then runs the rest; returns whether the user interrupted it.
fn work(scheduler: &mut Scheduler, options: &RunOptions, journal: &mut Journal<'_>) -> Result<bool, RunError> {
    scheduler.settle_all(journal);
    transfer::tell_notes(options.link.as_ref(), journal);
    if let Some(link) = &options.link {
        link.offer_again();
    }
    if !scheduler.has_work() {
        return Ok(false);
    }
    scheduler.prepare(&options.limits, journal)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let interrupted = runtime.block_on(scheduler.run(journal)).map_err(RunError::Runtime);
    // A thread that still hashes for a cancelled node must not hold up the exit.
    runtime.shutdown_background();
    interrupted
}

/// Returns the states in which the nodes would start: those that are settled without running anything.
///
/// A node whose inputs would have to run first stays `Waiting`.
pub fn states(graph: &Graph, store: &Store) -> Vec<(NodeState, Option<Reason>)> {
    let snapshot = store.snapshot();
    let decider = Decider {
        graph,
        store,
        snapshot: &snapshot,
    };
    let mut settled = vec![None; graph.len()];
    let mut states = Vec::with_capacity(graph.len());
    for (idx, stored) in decider.stored(|_| true).into_iter().enumerate() {
        if graph.items(idx).any(|item| settled[item.node].is_none()) {
            states.push((NodeState::Waiting, None));
            continue;
        }
        states.push(match decider.look_up(idx, &settled, stored) {
            Ok(Decision::Hit { found, cut_off, .. }) => {
                settled[idx] = Some(Settled { found, fresh: cut_off });
                (if cut_off { NodeState::CutOff } else { NodeState::Cached }, None)
            }
            Ok(Decision::Run(pending)) => (NodeState::Ready, Some(pending.reason)),
            Err(_) => (NodeState::Waiting, None),
        });
    }
    states
}
