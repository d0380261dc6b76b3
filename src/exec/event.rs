//! The one stream of what happens in a run: the terminal, `--json`, the run's log and the tests all read these.
//!
//! It knows no output form. A line of `events.jsonl` is an event with its time in front, under `at`.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::graph::NodeId;
use crate::store::{Owner, PublicKey, RunId, Timestamp};

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// An input is not settled yet.
    Waiting,
    /// It has to run and could.
    Ready,
    Running,
    /// Its record was there.
    Cached,
    /// What is upstream changed or ran again, and made the same bytes.
    CutOff,
    Executed,
    Failed,
    /// Something that it depends on failed.
    Skipped,
    /// The run was stopped before it was done.
    Cancelled,
}

impl NodeState {
    /// All states in which a node can end.
    pub const FINAL: [NodeState; 6] = [
        NodeState::Executed,
        NodeState::Cached,
        NodeState::CutOff,
        NodeState::Failed,
        NodeState::Skipped,
        NodeState::Cancelled,
    ];

    /// Returns the name that files and `--json` use.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Waiting => "waiting",
            NodeState::Ready => "ready",
            NodeState::Running => "running",
            NodeState::Cached => "cached",
            NodeState::CutOff => "cut_off",
            NodeState::Executed => "executed",
            NodeState::Failed => "failed",
            NodeState::Skipped => "skipped",
            NodeState::Cancelled => "cancelled",
        }
    }

    /// Returns whether the node has its outputs.
    pub fn is_done(self) -> bool {
        matches!(self, NodeState::Cached | NodeState::CutOff | NodeState::Executed)
    }

    /// Returns whether nothing more will happen to the node in this run.
    pub fn is_final(self) -> bool {
        !matches!(self, NodeState::Waiting | NodeState::Ready | NodeState::Running)
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name().replace('_', " "))
    }
}

/// Why a node has to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// No record of this computation on these inputs.
    NoRecord,
    /// The record is there, a blob of it is not.
    BlobMissing { digest: Digest },
    /// There is a record, and nobody signed it whom the project trusts.
    Untrusted { signer: Option<PublicKey> },
    /// It was asked for with `--rerun`.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoRecord => f.write_str("not in the cache"),
            Reason::BlobMissing { digest } => write!(f, "blob missing: {}", digest.short()),
            Reason::Untrusted { signer: None } => f.write_str("its record is not signed"),
            Reason::Untrusted { signer: Some(signer) } => {
                write!(
                    f,
                    "its record is signed by {}, whom volvelle.yaml does not trust",
                    signer.short()
                )
            }
            Reason::Forced => f.write_str("--rerun"),
        }
    }
}

/// How many nodes ended in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([usize; 6]);

impl Counts {
    /// Counts the final ones among some states.
    pub fn of(states: impl IntoIterator<Item = NodeState>) -> Counts {
        let mut counts = Counts::default();
        for state in states.into_iter().filter(|state| state.is_final()) {
            counts[state] += 1;
        }
        counts
    }

    fn slot(state: NodeState) -> usize {
        NodeState::FINAL
            .iter()
            .position(|&other| other == state)
            .expect("only final states are counted")
    }
}

impl Index<NodeState> for Counts {
    type Output = usize;

    fn index(&self, state: NodeState) -> &usize {
        &self.0[Counts::slot(state)]
    }
}

impl IndexMut<NodeState> for Counts {
    fn index_mut(&mut self, state: NodeState) -> &mut usize {
        &mut self.0[Counts::slot(state)]
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event: how many nodes the run is about, and how many of them need nothing.
    RunStarted {
        run_id: RunId,
        pipeline: String,
        nodes: usize,
        cached: usize,
    },
    /// Something about the run as a whole that the user should know.
    Note {
        message: String,
    },
    /// An attempt begins. `log` is relative to the run's folder.
    NodeStarted {
        id: NodeId,
        stage: String,
        kind: String,
        attempt: u32,
        reason: Reason,
        key: String,
        cpu: usize,
        gpus: Vec<String>,
        log: String,
    },
    /// Another process runs this very node; its result will be used.
    NodeWaiting {
        id: NodeId,
        holder: Option<Owner>,
    },
    NodeProgress {
        id: NodeId,
        done: f64,
        total: Option<f64>,
        unit: Option<String>,
        message: Option<String>,
    },
    NodeMetric {
        id: NodeId,
        name: String,
        value: f64,
        step: Option<f64>,
    },
    NodeLog {
        id: NodeId,
        level: String,
        message: String,
    },
    NodeWarning {
        id: NodeId,
        message: String,
    },
    /// An attempt failed and another one follows.
    NodeRetry {
        id: NodeId,
        attempt: u32,
        message: String,
    },
    /// A node reached its final state.
    NodeFinished {
        id: NodeId,
        stage: String,
        state: NodeState,
        /// The time that the worker took now; that of the record where nothing ran.
        seconds: f64,
        message: Option<String>,
        hint: Option<String>,
        /// The last lines that the worker wrote, where it failed.
        log_tail: Vec<String>,
    },
    /// Every node has ended, and results are still on their way to the remote.
    Pushing {
        address: String,
        /// How many results are left.
        left: u64,
        /// Bytes of content: done, and in all as far as it is known.
        done_bytes: u64,
        total_bytes: u64,
        /// What of it went over the wire.
        wire_bytes: u64,
        /// Since every node had ended.
        seconds: f64,
    },
    /// The last event.
    RunFinished {
        ok: bool,
        executed: usize,
        cached: usize,
        cut_off: usize,
        failed: usize,
        skipped: usize,
        cancelled: usize,
        interrupted: bool,
        run_id: RunId,
        seconds: f64,
    },
}

impl Event {
    /// Returns the event as one line of JSON with its time, without the line break.
    pub fn to_line(&self, at: Timestamp) -> String {
        let json = serde_json::to_string(self).expect("an event is plain data");
        format!("{{\"at\":\"{at}\",{}", &json[1..])
    }

    /// Reads a line that [`Event::to_line`] wrote; none for a torn or foreign one.
    pub fn from_line(line: &str) -> Option<Event> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_its_line() {
        let event = Event::NodeStarted {
            id: NodeId("sft[style=search]".into()),
            stage: "sft".into(),
            kind: "astro.sft".into(),
            attempt: 1,
            reason: Reason::BlobMissing {
                digest: Digest::of(b"x"),
            },
            key: "abc".into(),
            cpu: 2,
            gpus: vec!["0".into()],
            log: "logs/x.log".into(),
        };
        let line = event.to_line(Timestamp(0));
        assert!(
            line.starts_with(r#"{"at":"1970-01-01T00:00:00.000Z","event":"node_started","#),
            "{line}"
        );
        assert_eq!(Event::from_line(&line), Some(event));
    }

    #[test]
    fn only_final_states_are_counted() {
        let counts = Counts::of([
            NodeState::Cached,
            NodeState::Waiting,
            NodeState::Cached,
            NodeState::CutOff,
        ]);
        assert_eq!(
            (
                counts[NodeState::Cached],
                counts[NodeState::CutOff],
                counts[NodeState::Failed]
            ),
            (2, 1, 0)
        );
    }
}
