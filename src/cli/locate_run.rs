//! Which run a command means: an id, the beginning of one, or `@N` counted from the latest.

use std::path::Path;

use super::CliError;
use crate::inspect::{Listing, runs_of};
use crate::spec::nearest;
use crate::store::{RunState, Store};

/// Returns the run that a text names; `@N` counts among the runs of a pipeline file, or among all without one.
pub(super) fn run_named(store: &Store, text: &str, file: Option<&Path>) -> Result<RunState, CliError> {
    let runs = || file.map_or_else(|| store.runs(), |file| runs_of(store, file));
    if let Some(age) = text.strip_prefix('@') {
        let age: usize = age.parse().ok().filter(|age| *age > 0).ok_or_else(|| {
            CliError::Usage(format!(
                "`{text}` names no run; `@1` is the latest, `@2` the one before"
            ))
        })?;
        let mut runs = runs();
        if age > runs.len() {
            let of = file
                .map(|file| format!(" of {}", crate::spec::shown(file)))
                .unwrap_or_default();
            return Err(CliError::Usage(match runs.len() {
                0 => format!("there is no run{of} yet"),
                1 => format!("there is no run `{text}`; there is one run{of}"),
                num => format!("there is no run `{text}`; there are {num} runs{of}"),
            }));
        }
        return Ok(runs.swap_remove(age - 1));
    }
    if let Some(run) = store.run_state(text) {
        return Ok(run);
    }
    let runs = store.runs();
    let mut begun = runs.iter().filter(|run| !text.is_empty() && run.id.0.starts_with(text));
    match (begun.next(), begun.next()) {
        (Some(run), None) => Ok(run.clone()),
        (Some(a), Some(b)) => Err(CliError::Usage(format!(
            "`{text}` is the beginning of several runs, such as {} and {}",
            a.id, b.id
        ))),
        (None, _) => {
            let near = nearest(text, runs.iter().map(|run| run.id.0.as_str()));
            let hint = near.map_or_else(
                || "`volvelle runs` lists them".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            Err(CliError::Usage(format!("there is no run `{text}`; {hint}")))
        }
    }
}

/// Returns the nodes that a run was about.
pub(super) fn listing_of(store: &Store, run: &RunState) -> Result<Listing, CliError> {
    let folder = store.run_folder(&run.id.0);
    let folder = folder.ok_or_else(|| CliError::Absent(format!("the folder of run {} is gone", run.id)))?;
    Listing::of_run(store, &folder).map_err(CliError::Absent)
}
