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
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("p.yaml"), PIPELINE).expect("a file");
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

    /// Runs to the end; the events.
    fn run(&self) -> Vec<Value> {
        let output = self
            .command(&["run", "p.yaml", "--json"])
            .output()
            .expect("the engine starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text.lines()
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    }

    /// The folders of what was saved: one for each key.
    fn partial(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache().join("partial")).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
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

fn continued(events: &[Value]) -> bool {
    let says = |event: &Value| {
        event["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("continues from step"))
    };
    events.iter().any(says)
}

#[test]
fn a_run_continues_after_its_engine_was_killed_and_after_an_interrupt() {
    let untouched = Project::new();
    assert!(!continued(&untouched.run()));

    let project = Project::new();
    let status = project.signal_after(3, libc::SIGKILL);
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let status = project.signal_after(10, libc::SIGINT);
    assert_eq!(status.code(), Some(130), "interrupted");
    assert_eq!(project.partial().len(), 1, "an interrupted node keeps what it saved");
    assert!(continued(&project.run()));
    assert_eq!(project.artifacts(), untouched.artifacts());
    assert_eq!(
        project.partial(),
        Vec::<PathBuf>::new(),
        "a node that is done needs it no more"
    );
}
