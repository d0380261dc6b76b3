//! How `watch` says what it knows: as JSON, as lines, or on a terminal with the keys below.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Planned, Watch};
use crate::cli::CliError;
use crate::cli::output::{Each, terminal_size};
use crate::exec::PlanCounts;
use crate::graph::NodeId;
use crate::report::{Extent, PlanChange, describe_plan_change, describe_reuse};
use crate::spec::{Mistake, shown};
use crate::store::Timestamp;

/// What is written where no screen has an end.
const MAX_LINES: usize = 60;
/// What a screen needs besides the nodes.
const OTHER_LINES: usize = 8;

const KEYS: &str = "r run   a all nodes   ? help   q quit";
const HELP: &str = "\
r  run the plan that is shown, then go on watching; Ctrl-C stops the run
a  show all nodes, cached ones as well, or only what runs
?  this help
q  quit, as Ctrl-C does while nothing runs
+  runs now, and did not in the plan before; ~ runs with another key than planned before; - no longer runs
";

impl Watch<'_> {
    pub(super) fn show(
        &mut self,
        planned: &Planned,
        change: Option<&PlanChange>,
        changed: &[PathBuf],
        at: Option<Instant>,
    ) -> Result<(), CliError> {
        if self.args.json {
            return self.print_json(&plan_json(planned, change, changed, at));
        }
        let paint = self.output.paint();
        let text = describe_plan_change(planned.view(), change, self.extent(), paint);
        self.print_heading(changed)?;
        self.output.text(&text)?;
        self.output.text(&describe_reuse(&planned.plan))?;
        self.print_end(changed, at)
    }

    /// Shows the last plan once more, after what is shown of it was changed.
    pub(super) fn show_again(&mut self) -> Result<(), CliError> {
        match self.shown.take() {
            Some(planned) => {
                let shown = self.show(&planned, None, &[], None);
                self.shown = Some(planned);
                shown
            }
            None => Ok(()),
        }
    }

    pub(super) fn show_mistakes(
        &mut self,
        error: &CliError,
        changed: &[PathBuf],
        at: Option<Instant>,
    ) -> Result<(), CliError> {
        let mistakes = match error {
            CliError::Mistakes(mistakes) => Some(mistakes),
            _ => None,
        };
        if self.args.json {
            let all = match mistakes {
                Some(mistakes) => mistakes.iter().map(mistake_json).collect(),
                None => vec![json!({"message": error.to_string()})],
            };
            return self.print_json(&json!({
                "at": Timestamp::now().to_string(), "changed_files": names(changed), "ok": false, "mistakes": all,
                "latency_ms": Latency { changed, at },
            }));
        }
        let paint = self.output.paint();
        let text = match mistakes {
            Some(mistakes) => mistakes.render(paint.color, self.output.width()),
            None => format!("{} {error}\n", paint.error("error:")),
        };
        self.print_heading(changed)?;
        self.output.text(&text)?;
        self.print_end(changed, at)
    }

    pub(super) fn show_help(&mut self) -> Result<(), CliError> {
        self.output.text(HELP)?;
        self.output.flush()
    }

    /// Prints a line at once.
    pub(super) fn say(&mut self, line: &str) -> Result<(), CliError> {
        self.output.line(line)?;
        self.output.flush()
    }

    fn extent(&self) -> Extent {
        let screen = terminal_size().filter(|_| self.is_live);
        Extent {
            all: self.all,
            max_lines: screen.map_or(MAX_LINES, |(_, rows)| rows.saturating_sub(OTHER_LINES).max(1)),
            columns: screen.map(|(columns, _)| columns),
        }
    }

    fn print_json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.output.json_line(value)?;
        self.output.flush()
    }

    /// Says what changed, except before the first plan.
    fn print_heading(&mut self, changed: &[PathBuf]) -> Result<(), CliError> {
        if changed.is_empty() {
            return Ok(());
        }
        let heading = format!("{}  {}", Timestamp::now(), names(changed).join(", "));
        self.output.line("")?;
        self.output.line(&self.output.paint().dim(&heading))
    }

    fn print_end(&mut self, changed: &[PathBuf], at: Option<Instant>) -> Result<(), CliError> {
        // The clock is stopped when the plan is on the screen.
        self.output.flush()?;
        let paint = self.output.paint();
        if let Some(latency) = latency(changed, at) {
            let line = format!("shown {} ms after the save", milliseconds(latency).ceil());
            self.output.line(&paint.dim(&line))?;
        }
        if self.is_live {
            self.output.line(&paint.dim(KEYS))?;
        }
        self.output.flush()
    }
}

/// A plan as `--json` prints it, in a line.
#[derive(Serialize)]
struct PlanJson<'a, C, N> {
    at: String,
    changed_files: Vec<String>,
    ok: bool,
    pipeline: &'a str,
    counts: PlanCounts,
    estimate_s: f64,
    reused: Reused,
    change: Option<C>,
    /// Those that run or may.
    nodes: N,
    /// Written last, so that it counts what it took to write the rest.
    latency_ms: Latency<'a>,
}

#[derive(Serialize)]
struct Reused {
    nodes: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct ChangeJson<'a, I> {
    starts: I,
    changes: I,
    stops: I,
    gone: &'a [NodeId],
}

fn plan_json<'a>(
    Planned { graph, plan }: &'a Planned,
    change: Option<&'a PlanChange>,
    changed: &'a [PathBuf],
    at: Option<Instant>,
) -> impl Serialize + 'a {
    let ids = move |nodes: &'a [usize]| Each(move || nodes.iter().map(|&idx| graph.id(idx)));
    PlanJson {
        at: Timestamp::now().to_string(),
        changed_files: names(changed),
        ok: true,
        pipeline: &graph.pipeline,
        counts: plan.counts,
        estimate_s: plan.estimate_s,
        reused: Reused {
            nodes: plan.num_reused(),
            seconds: plan.reused_s,
        },
        change: change.map(|change| ChangeJson {
            starts: ids(&change.starts),
            changes: ids(&change.changes),
            stops: ids(&change.stops),
            gone: &change.gone,
        }),
        nodes: Each(|| plan.open().map(|idx| plan.node(graph, idx))),
        latency_ms: Latency { changed, at },
    }
}

/// The time from a save to when this is written.
struct Latency<'a> {
    changed: &'a [PathBuf],
    at: Option<Instant>,
}

impl Serialize for Latency<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        latency(self.changed, self.at).map(milliseconds).serialize(serializer)
    }
}

/// Returns how long ago the save was: since the event, or since the time of a file if that is shortly before it.
fn latency(changed: &[PathBuf], at: Option<Instant>) -> Option<Duration> {
    let since_event = at?.elapsed();
    let since_write = |path: &PathBuf| {
        let modified = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
        SystemTime::now().duration_since(modified).ok()
    };
    // A file that was moved here may be old.
    let is_this_save = |since: &Duration| *since < since_event + Duration::from_secs(1);
    let since_writes = changed.iter().filter_map(since_write).filter(is_this_save);
    since_writes
        .max()
        .map(|since| since.max(since_event))
        .or(Some(since_event))
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| shown(path)).collect()
}

fn mistake_json(mistake: &Mistake) -> Value {
    let place = mistake.at.as_ref().map(|at| (at.source_name(), at.line_column()));
    json!({
        "message": mistake.message, "help": mistake.help, "file": place.map(|(file, _)| file),
        "line": place.map(|(_, (line, _))| line), "column": place.map(|(_, (_, column))| column),
    })
}
