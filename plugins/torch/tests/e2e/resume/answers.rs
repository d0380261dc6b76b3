//! A stage that asks a server: what was answered is not asked again, and a stop does not wait for an answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::json;

use super::stage::Stage;
use crate::endpoint::http::{Received, Reply, Server};

const NUM_PROBLEMS: usize = 8;

/// A server that answers everything, or lets the question about problem 5 wait.
struct Slow {
    server: Server,
    gate: Arc<(Mutex<bool>, Condvar)>,
    has_waited: Arc<AtomicBool>,
}

impl Slow {
    fn start() -> Self {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let has_waited = Arc::new(AtomicBool::new(false));
        let (closed, waits) = (gate.clone(), has_waited.clone());
        let server = Server::start(move |_, request| {
            let question = question(request).unwrap_or_default();
            if question.ends_with(" 5?") {
                waits.store(true, Ordering::SeqCst);
                let open = closed.0.lock().expect("no test panics while it holds this");
                drop(closed.1.wait_while(open, |open| !*open));
            }
            let message = json!({"content": format!("The answer is {}.", question.len())});
            Reply::Json(200, json!({"choices": [{"message": message, "finish_reason": "stop"}]}))
        });
        Self {
            server,
            gate,
            has_waited,
        }
    }

    fn open(&self) {
        *self.gate.0.lock().expect("no test panics while it holds this") = true;
        self.gate.1.notify_all();
    }

    /// An evaluation that asks one question at a time.
    fn eval(&self, dir: &tempfile::TempDir) -> Stage {
        let model = dir.path().join("model");
        std::fs::create_dir_all(&model).expect("a folder");
        let endpoint = json!({
            "version": 1, "model": "m", "api": "chat", "base_url": self.server.url(), "base_url_env": null,
            "api_key_env": null, "logprobs": false,
        });
        std::fs::write(model.join("endpoint.json"), endpoint.to_string()).expect("a file");
        let problems: PathBuf = dir.path().join("problems.jsonl");
        let lines: String = (0..NUM_PROBLEMS)
            .map(|idx| {
                format!(
                    "{}\n",
                    json!({"id": idx.to_string(), "problem": format!("How long is {idx}?"), "answer": "14"})
                )
            })
            .collect();
        std::fs::write(&problems, lines).expect("a file");
        let params = json!({"num_samples": 1, "save_steps": 1, "max_concurrency": 1});
        Stage::new(
            "eval",
            params,
            &[("model", model), ("problems", problems)],
            &["scores", "samples"],
        )
    }

    /// How often each question was asked.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.server.received() {
            if let Some(question) = question(&request) {
                *counts.entry(question).or_default() += 1;
            }
        }
        counts
    }
}

/// What was asked; nothing where the stage was killed in the middle of asking.
fn question(request: &Received) -> Option<String> {
    request.body["messages"][0]["content"].as_str().map(str::to_owned)
}

#[test]
fn what_a_server_answered_is_not_asked_again() {
    let (slow, dir) = (Slow::start(), tempfile::tempdir().expect("a temporary folder"));
    let stage = slow.eval(&dir);
    stage.kill_after_lines(5);
    slow.open();
    stage.run().assert_done().assert_says("and 5 generated items");
    let counts = slow.counts();
    assert_eq!(counts.len(), NUM_PROBLEMS);
    for (question, count) in counts {
        // The one that was in flight may have been asked, and is asked again.
        assert!(
            count == 1 || question.ends_with(" 5?"),
            "{question} was asked {count} times"
        );
    }
    let untouched = stage.fresh();
    untouched.run().assert_done();
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn a_stop_does_not_wait_for_a_server() {
    let (slow, dir) = (Slow::start(), tempfile::tempdir().expect("a temporary folder"));
    let stage = slow.eval(&dir);
    // The answer that it waits for never comes.
    stage
        .terminate_when(&|| slow.has_waited.load(Ordering::SeqCst))
        .assert_says("stopped; the next attempt continues from step");
    slow.open();
    stage.run().assert_done().assert_says("and 5 generated items");
}
