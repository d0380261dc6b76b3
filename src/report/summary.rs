//! What is said at the end of a run.

use super::text::{Paint, duration};
use crate::exec::{Counts, NodeState, RunReport};
use crate::store::RunStatus;

/// How many results are listed before the rest is only counted.
const MAX_OUTPUTS: usize = 12;

/// Returns the counts that are not zero, in words: `3 executed, 9 cached`.
pub fn describe_counts(counts: &Counts, paint: Paint) -> String {
    let states = NodeState::FINAL.into_iter().filter(|&state| counts[state] > 0);
    let parts: Vec<String> = states
        .map(|state| paint.state(state, &format!("{} {state}", counts[state])))
        .collect();
    if parts.is_empty() {
        "no nodes".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Returns the summary of a run, with a line break at its end.
pub fn describe_run(report: &RunReport, paint: Paint) -> String {
    let (counts, seconds) = (&report.counts, duration(report.seconds));
    let cached = counts[NodeState::Cached] + counts[NodeState::CutOff];
    let mut out = match report.state.status {
        RunStatus::Succeeded if report.is_no_op() && counts[NodeState::CutOff] == 0 => {
            format!("nothing to do: {cached} nodes cached ({seconds})\n")
        }
        RunStatus::Succeeded => format!("done in {seconds}: {}\n", describe_counts(counts, paint)),
        RunStatus::Interrupted => format!("interrupted after {seconds}: {}\n", describe_counts(counts, paint)),
        _ => format!("failed after {seconds}: {}\n", describe_counts(counts, paint)),
    };
    for output in report.outputs.iter().take(MAX_OUTPUTS) {
        out.push_str(&format!(
            "  {}.{}  {}\n",
            output.node,
            output.output,
            output.path.display()
        ));
    }
    if let Some(more) = report.outputs.len().checked_sub(MAX_OUTPUTS).filter(|more| *more > 0) {
        out.push_str(&format!("  and {more} more\n"));
    }
    out
}
