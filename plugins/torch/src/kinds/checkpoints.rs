//! The output `checkpoints`: the model as it was after some steps, so that an evaluation can be a sweep over steps.
//!
//! ```text
//! index.json       the steps, in order, each with its row of metrics
//! step-000020/     a model folder, as the output `model` is one
//! ```
//!
//! Not the checkpoints of `saver`, which are for an attempt that goes on and are gone at the end. The output of an attempt
//! that fails is lost, so models are kept in the partial folder until all is done. A state of training that is saved notes
//! the digests of the models up to then: if one of them is damaged or gone, training starts over.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::training::save_trained;
use crate::formats::{CheckpointIndex, KeptStep, MetricsLine, VERSION, read_json, write_json};
use crate::lm::CausalLm;
use crate::lm::lora::AdapterConfig;
use crate::worker::Job;

/// The list of what is there.
pub const INDEX: &str = "index.json";

/// What a state of training knows of the models that were kept before it.
const NOTES: &str = "checkpoints.json";

#[derive(Debug, Deserialize)]
struct Params {
    /// Steps between two models that are kept; 0: none is.
    checkpoint_steps: usize,
}

/// Keeps models on the way.
pub struct Checkpoints {
    /// Steps between two of them; 0: there are none.
    every: usize,
    adapter: Option<AdapterConfig>,
    /// The model that training began with, for its tokenizer and the like.
    model_dir: PathBuf,
    /// Where they are to be at the end; without it there is no such output.
    output: Option<PathBuf>,
    /// Where they are until then.
    staging: PathBuf,
    /// Step -> digest of its folder.
    digests: BTreeMap<usize, String>,
}

impl Checkpoints {
    /// For training that has no such output.
    pub fn none() -> Self {
        Self {
            every: 0,
            adapter: None,
            model_dir: PathBuf::new(),
            output: None,
            staging: PathBuf::new(),
            digests: BTreeMap::new(),
        }
    }

    /// As the parameters of a job ask; a model with an adapter is kept as [`save_trained`] writes it.
    ///
    /// # Errors
    /// The job has no such parameter or output.
    pub fn of_job(job: &Job, adapter: Option<AdapterConfig>, model_dir: &Path) -> Result<Self> {
        let Params { checkpoint_steps } = job.params()?;
        let output = job.output("checkpoints")?;
        Ok(Self {
            every: checkpoint_steps,
            adapter,
            model_dir: model_dir.to_owned(),
            staging: output.clone(),
            output: Some(output),
            digests: BTreeMap::new(),
        })
    }

    /// Uses a folder that outlives a failed attempt, where there is one.
    pub fn stage_in(&mut self, folder: Option<PathBuf>) {
        if let Some(folder) = folder {
            self.staging = folder;
        }
    }

    /// Keeps the model if its step is one to keep.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn keep(&mut self, step: usize, model: &CausalLm) -> Result<()> {
        if self.every == 0 || !step.is_multiple_of(self.every) {
            return Ok(());
        }
        let folder = self.staging.join(folder_name(step));
        // An attempt that went on from before this step may have left one.
        remove(&folder)?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        save_trained(model, self.adapter.as_ref(), &folder, &self.model_dir)?;
        self.digests.insert(step, digest(&folder)?);
        Ok(())
    }

    /// Notes in the folder of a saved state which models were kept before it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn note(&self, folder: &Path) -> Result<()> {
        if self.every > 0 {
            write_json(&folder.join(NOTES), &self.digests)?;
        }
        Ok(())
    }

    /// Goes on from a state that was saved after `step`: all models up to then must be there, as they were.
    ///
    /// # Errors
    /// One is not.
    pub fn recall(&mut self, folder: &Path, step: usize) -> Result<()> {
        if self.every == 0 {
            return Ok(());
        }
        let noted: BTreeMap<usize, String> = read_json(&folder.join(NOTES), "list of checkpoints")?;
        let expected: Vec<usize> = (1..=step / self.every).map(|idx| idx * self.every).collect();
        ensure!(
            noted.keys().eq(&expected),
            "it notes models of the steps {:?}, expected {expected:?}",
            noted.keys().collect::<Vec<_>>()
        );
        for (&step, noted) in &noted {
            let folder = self.staging.join(folder_name(step));
            let is_same = folder.is_dir() && digest(&folder)? == *noted;
            ensure!(is_same, "the model that was kept of step {step} is damaged or gone");
        }
        self.digests = noted;
        Ok(())
    }

    /// Puts the models where they belong, with the rows of metrics of their steps. Last of all: then nothing is left to
    /// go on with.
    ///
    /// # Errors
    /// A file can't be moved or written.
    pub fn finish(self, metrics: &[MetricsLine]) -> Result<()> {
        let Some(output) = &self.output else {
            return Ok(());
        };
        fs::create_dir_all(output).with_context(|| output.display().to_string())?;
        let mut checkpoints = Vec::new();
        for &step in self.digests.keys() {
            let folder = folder_name(step);
            if self.staging != *output {
                move_folder(&self.staging.join(&folder), &output.join(&folder))?;
            }
            let row = metrics.iter().find(|line| line.step == step);
            checkpoints.push(KeptStep {
                step,
                folder,
                metrics: row.map(|line| line.values.clone()).unwrap_or_default(),
            });
        }
        let index = CheckpointIndex {
            version: VERSION,
            checkpoints,
        };
        Ok(write_json(&output.join(INDEX), &index)?)
    }
}

fn folder_name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Moves a folder, to another filesystem by a copy.
fn move_folder(from: &Path, to: &Path) -> Result<()> {
    if fs::rename(from, to).is_err() {
        copy_folder(from, to)?;
    }
    Ok(())
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// A file can't be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for path in entries(from)? {
        let target = to.join(path.strip_prefix(from)?);
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Returns the digest of the names and bytes of all files in a folder, when they are on the disk.
fn digest(folder: &Path) -> Result<String> {
    fn add(hasher: &mut blake3::Hasher, folder: &Path) -> Result<()> {
        for path in entries(folder)? {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
            if path.is_dir() {
                hasher.update(b"folder");
                add(hasher, &path)?;
                hasher.update(b"end");
                continue;
            }
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            file.sync_all().with_context(|| path.display().to_string())?;
            let mut content = blake3::Hasher::new();
            content
                .update_reader(file)
                .with_context(|| path.display().to_string())?;
            hasher.update(content.finalize().as_bytes());
        }
        Ok(())
    }
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, folder)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The paths in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut list: Vec<PathBuf> = list.with_context(|| folder.display().to_string())?;
    list.sort();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_another_digest_after_any_change() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("x"), "1").unwrap();
        fs::write(folder.join("inner/y"), "2").unwrap();
        let before = digest(&folder).unwrap();
        let moved = dir.path().join("b");
        copy_folder(&folder, &moved).unwrap();
        assert_eq!(digest(&moved).unwrap(), before);
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(moved.join("inner/y"), "3").unwrap(),
            &|| fs::remove_file(moved.join("inner/y")).unwrap(),
            &|| fs::remove_dir(moved.join("inner")).unwrap(),
            &|| fs::rename(moved.join("x"), moved.join("z")).unwrap(),
        ];
        let mut seen = vec![before];
        for change in changes {
            change();
            let after = digest(&moved).unwrap();
            assert!(!seen.contains(&after));
            seen.push(after);
        }
    }
}
