//! Events as plain lines, for a pipe or a log: starts, ends, warnings, and progress now and then.

use std::collections::HashMap;

use super::text::{Paint, bytes, duration};
use crate::exec::{Event, NodeState};
use crate::graph::NodeId;
use crate::store::Timestamp;

/// How far two lines of progress of one node are apart, at least.
const PROGRESS_MS: u64 = 10_000;

/// Turns events into lines. It remembers when it last told of each node's progress.
#[derive(Debug)]
pub struct Lines {
    paint: Paint,
    last_progress: HashMap<NodeId, Timestamp>,
    last_push: Timestamp,
}

impl Lines {
    pub fn new(paint: Paint) -> Lines {
        Lines {
            paint,
            last_progress: HashMap::new(),
            last_push: Timestamp(0),
        }
    }

    /// Returns the lines that an event is worth; most are worth none.
    pub fn lines(&mut self, event: &Event, at: Timestamp) -> Vec<String> {
        match event {
            // A run without work is one line, which the summary says.
            Event::RunStarted { nodes, cached, .. } if nodes == cached => Vec::new(),
            Event::RunStarted {
                run_id,
                pipeline,
                nodes,
                cached,
            } => {
                vec![format!(
                    "{pipeline}: {nodes} nodes, {cached} of them cached (run {run_id})"
                )]
            }
            Event::Note { message } => vec![self.paint.warning(&format!("note: {message}"))],
            Event::NodeStarted {
                id,
                reason,
                attempt,
                gpus,
                ..
            } => {
                self.last_progress.insert(id.clone(), at);
                let again = if *attempt > 1 {
                    format!(", attempt {attempt}")
                } else {
                    String::new()
                };
                let gpus = if gpus.is_empty() {
                    String::new()
                } else {
                    format!(", GPU {}", gpus.join(","))
                };
                vec![format!("start     {id} ({reason}{again}{gpus})")]
            }
            Event::NodeWaiting { id, holder } => {
                let who = holder
                    .as_ref()
                    .map(|owner| format!("process {} on {}", owner.pid, owner.host));
                vec![format!(
                    "wait      {id}: {} runs it",
                    who.as_deref().unwrap_or("another process")
                )]
            }
            Event::NodeProgress {
                id,
                done,
                total,
                unit,
                message,
            } => {
                let last = self.last_progress.get(id).copied().unwrap_or(Timestamp(0));
                if at.0.saturating_sub(last.0) < PROGRESS_MS {
                    return Vec::new();
                }
                self.last_progress.insert(id.clone(), at);
                let text = progress(*done, *total, unit.as_deref(), message.as_deref());
                vec![self.paint.dim(&format!("progress  {id} {text}"))]
            }
            Event::NodeMetric { .. } => Vec::new(),
            Event::NodeLog { id, level, message } if level != "debug" => {
                vec![self.paint.dim(&format!("log       {id}: {message}"))]
            }
            Event::NodeLog { .. } => Vec::new(),
            Event::NodeWarning { id, message } => vec![self.paint.warning(&format!("warning   {id}: {message}"))],
            Event::NodeRetry { id, attempt, message } => {
                vec![
                    self.paint
                        .warning(&format!("retry     {id}: attempt {attempt} failed: {message}")),
                ]
            }
            Event::NodeFinished {
                state: NodeState::Cached,
                ..
            } => Vec::new(),
            Event::NodeFinished {
                id,
                state,
                seconds,
                message,
                hint,
                log_tail,
                ..
            } => self.finished(id, *state, *seconds, message.as_deref(), hint.as_deref(), log_tail),
            Event::Pushing { address, left, .. } => {
                if at.0.saturating_sub(self.last_push.0) < PROGRESS_MS {
                    return Vec::new();
                }
                self.last_push = at;
                let text = pushing(event).unwrap_or_default();
                vec![
                    self.paint
                        .dim(&format!("pushing   {left} results to {address}: {text}")),
                ]
            }
            Event::RunFinished { .. } => Vec::new(),
        }
    }

    fn finished(
        &self,
        id: &NodeId,
        state: NodeState,
        seconds: f64,
        message: Option<&str>,
        hint: Option<&str>,
        log_tail: &[String],
    ) -> Vec<String> {
        let word = self.paint.state(state, &format!("{state:<9}"));
        let mut lines = vec![match (state, message) {
            (NodeState::Executed, _) => format!("{word} {id} in {}", duration(seconds)),
            (_, Some(message)) => format!("{word} {id}: {message}"),
            (_, None) => format!("{word} {id}"),
        }];
        lines.extend(hint.map(|hint| format!("          hint: {hint}")));
        if !log_tail.is_empty() {
            lines.push(self.paint.dim("          the last lines of its log:"));
            lines.extend(log_tail.iter().map(|line| format!("          | {}", printable(line))));
        }
        lines
    }
}

/// Returns progress in words: `120/700 steps (17%) loss 0.412`.
fn progress(done: f64, total: Option<f64>, unit: Option<&str>, message: Option<&str>) -> String {
    let mut text = match total.filter(|total| *total > 0.0) {
        Some(total) => format!("{done}/{total} {} ({:.0}%)", unit.unwrap_or(""), 100.0 * done / total),
        None => format!("{done} {}", unit.unwrap_or("")),
    };
    if let Some(message) = message {
        text.push(' ');
        text.push_str(message);
    }
    text.replace("  ", " ")
}

/// Returns how far pushes are, how fast, and how long they will take: `120 MB of 500 MB, 40 MB/s, about 9.5 s left`.
pub fn pushing(event: &Event) -> Option<String> {
    let Event::Pushing {
        done_bytes,
        total_bytes,
        seconds,
        ..
    } = event
    else {
        return None;
    };
    let rate = *done_bytes as f64 / seconds.max(1e-3);
    let left = total_bytes.saturating_sub(*done_bytes) as f64 / rate.max(1.0);
    Some(format!(
        "{} of {}, {}/s, about {} left",
        bytes(*done_bytes),
        bytes(*total_bytes),
        bytes(rate as u64),
        duration(left)
    ))
}

/// A worker's log must not move the cursor or set the colours of the terminal that shows it.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress_at(lines: &mut Lines, millis: u64) -> Vec<String> {
        let id = NodeId("sft".into());
        let (total, unit) = (Some(700.0), Some("step".into()));
        let event = Event::NodeProgress {
            id,
            done: 120.0,
            total,
            unit,
            message: Some("loss 0.4".into()),
        };
        lines.lines(&event, Timestamp(millis))
    }

    #[test]
    fn progress_is_told_now_and_then() {
        let mut lines = Lines::new(Paint { color: false });
        assert_eq!(
            progress_at(&mut lines, 20_000),
            ["progress  sft 120/700 step (17%) loss 0.4"]
        );
        assert!(progress_at(&mut lines, 29_999).is_empty());
        assert_eq!(progress_at(&mut lines, 30_000).len(), 1);
    }

    #[test]
    fn a_failure_shows_its_hint_and_its_log() {
        let event = Event::NodeFinished {
            id: NodeId("a".into()),
            stage: "a".into(),
            state: NodeState::Failed,
            seconds: 0.0,
            message: Some("the worker ended with exit code 3".into()),
            hint: Some("sleep".into()),
            log_tail: vec!["\u{1b}[31mboom".into()],
        };
        let lines = Lines::new(Paint { color: false }).lines(&event, Timestamp(0));
        let expected = [
            "failed    a: the worker ended with exit code 3",
            "          hint: sleep",
            "          the last lines of its log:",
            "          | \u{fffd}[31mboom",
        ];
        assert_eq!(lines, expected);
    }
}
