//! The same through the engine: killed with its worker, and interrupted; nothing is left behind at the end.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::pipelines::engine;

const PIPELINE: &str = "
volvelle: 1
name: resume
defaults:
  resources: { cpu: 2 }
stages:
  problems:
    uses: data.countdown
    with: { count_numbers: 2, max_number: 6, num_train: 10, num_test: 2, num_playouts: 400, num_drills: 0 }
  base:
    uses: lm.pretrain
    needs: { data: problems.corpus }
    with:
      hidden_size: 32
      intermediate_size: 64
      num_hidden_layers: 1
      num_attention_heads: 2
      num_key_value_heads: 2
      per_device_train_batch_size: 16
      max_steps: 100
      save_steps: 1
";

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    /// `more` are lines of the stage that trains.
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("p.yaml"), format!("{PIPELINE}{more}")).expect("a file");
        Self { dir }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(engine());
        command
            .args(words)
            .arg("--cache")
            .arg(self.cache())
            .arg("--plugins")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Runs to the end, which must have this exit code; the events.
    fn run(&self, code: i32) -> Vec<Value> {
        let output = self
            .command(&["run", "p.yaml", "--json"])
            .output()
            .expect("the engine starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}\n{errors}");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    }

    /// The folders of what was saved: one for each key. A mark beside a folder is part of it, one without is not.
    fn partial(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache().join("partial")).into_iter().flatten();
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_mark = |path: &PathBuf| path.extension().is_some() && path.with_extension("").is_dir();
        paths.filter(|path| !is_mark(path)).collect()
    }

    fn num_steps_saved(&self) -> Option<usize> {
        let checkpoints = self
            .partial()
            .into_iter()
            .flat_map(|key| std::fs::read_dir(key).into_iter().flatten());
        let step = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            path.join("manifest.json").exists().then_some(step)
        };
        checkpoints.filter_map(step).max()
    }

    /// Starts a run and signals the engine when a step is saved; the run must not end before.
    fn signal_after(&self, step: usize, signal: i32) -> ExitStatus {
        let mut child: Child = self
            .command(&["run", "p.yaml"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the engine starts");
        let started = Instant::now();
        while self.num_steps_saved() < Some(step) {
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "step {step} is never saved"
            );
            assert!(
                child.try_wait().expect("a child of ours").is_none(),
                "the run ended before step {step} was saved"
            );
            std::thread::sleep(Duration::from_micros(300));
        }
        // SAFETY: a process that we started and have not waited for yet.
        unsafe { libc::kill(child.id() as i32, signal) };
        child.wait().expect("it ends")
    }

    /// What the record says of the outputs, their digests above all.
    fn artifacts(&self) -> Value {
        let output = self
            .command(&["show", "p.yaml", "base", "--json"])
            .output()
            .expect("the engine starts");
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let artifacts = &shown["artifacts"];
        assert!(artifacts["model"]["digest"].is_string(), "{shown:#}");
        artifacts.clone()
    }
}

/// How many events have a message with this text.
fn count(events: &[Value], text: &str) -> usize {
    let says = |event: &&Value| event["message"].as_str().is_some_and(|message| message.contains(text));
    events.iter().filter(says).count()
}

#[test]
fn a_run_continues_after_its_engine_was_killed_and_after_an_interrupt() {
    let untouched = Project::new("");
    assert_eq!(count(&untouched.run(0), "continues from step"), 0);

    let project = Project::new("");
    let status = project.signal_after(3, libc::SIGKILL);
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let status = project.signal_after(10, libc::SIGINT);
    assert_eq!(status.code(), Some(130), "interrupted");
    assert_eq!(project.partial().len(), 1, "an interrupted node keeps what it saved");
    assert_eq!(count(&project.run(0), "continues from step"), 1);
    assert_eq!(project.artifacts(), untouched.artifacts());
    assert_eq!(
        project.partial(),
        Vec::<PathBuf>::new(),
        "a node that is done needs it no more"
    );
}

#[test]
fn retries_continue_and_what_fails_again_and_again_starts_over() {
    // The gradient of a step after the first is no number. The attempt that starts over saves, and is continued again.
    let project = Project::new("      learning_rate: 1.0e+38\n    resources: { retries: 3 }\n");
    let events = project.run(1);
    let retries = events.iter().filter(|event| event["event"] == "node_retry").count();
    assert_eq!(retries, 3, "{events:#?}");
    assert_eq!(
        count(&events, "continues from step"),
        2,
        "the second attempt and the fourth"
    );
    assert_eq!(count(&events, "failed 2 times after it, so it starts over"), 1);
    assert_eq!(project.partial().len(), 1, "a failed node keeps what it saved");
}

#[test]
fn a_failed_node_that_saved_nothing_leaves_no_folder() {
    let project = Project::new("      max_position_embeddings: 2\n");
    assert!(count(&project.run(1), "max_position_embeddings is 2") > 0);
    assert_eq!(project.partial(), Vec::<PathBuf>::new());
}
