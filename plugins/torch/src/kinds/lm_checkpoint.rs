//! `lm.checkpoint`: takes the model of one step out of what a training stage kept.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::checkpoints::{INDEX, copy_folder};
use crate::formats::{CheckpointIndex, VERSION, read_json};
use crate::worker::Job;

/// Parameters of `lm.checkpoint`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    step: usize,
}

/// Reads `checkpoints`, writes `model`.
///
/// # Errors
/// Nothing was kept of that step.
pub fn run(job: &Job) -> Result<()> {
    let Params { step } = job.params()?;
    let folder = job.input("checkpoints")?;
    let index: CheckpointIndex = read_json(&folder.join(INDEX), "list of checkpoints")?;
    ensure!(
        index.version == VERSION,
        "{}: version {} of a list of checkpoints, but only {VERSION} is known",
        folder.join(INDEX).display(),
        index.version
    );
    let Some(found) = index.checkpoints.iter().find(|kept| kept.step == step) else {
        bail!("{}", nothing_of(step, &index));
    };
    // The name comes from a file that another plugin may have written.
    ensure!(
        !found.folder.contains(['/', '\\']) && found.folder != "..",
        "{}: {:?} is not the name of a folder beside it",
        folder.join(INDEX).display(),
        found.folder
    );
    copy_folder(&folder.join(&found.folder), &job.output("model")?)
}

fn nothing_of(step: usize, index: &CheckpointIndex) -> String {
    if index.checkpoints.is_empty() {
        return format!(
            "there is no model of step {step}, as none was kept: set checkpoint_steps in the stage that trained"
        );
    }
    let steps: Vec<String> = index.checkpoints.iter().map(|kept| kept.step.to_string()).collect();
    format!(
        "there is no model of step {step}; there are those of {}",
        steps.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::KeptStep;

    #[test]
    fn the_message_lists_the_steps_that_there_are() {
        let index = |steps: &[usize]| CheckpointIndex {
            version: VERSION,
            checkpoints: steps
                .iter()
                .map(|&step| KeptStep {
                    step,
                    folder: String::new(),
                    metrics: Default::default(),
                })
                .collect(),
        };
        let message = nothing_of(25, &index(&[20, 40]));
        assert_eq!(message, "there is no model of step 25; there are those of 20, 40");
        assert!(nothing_of(25, &index(&[])).contains("set checkpoint_steps"));
    }
}
