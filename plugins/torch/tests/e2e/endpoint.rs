//! A model behind a server, through the engine: asked by search and eval, cached, refused for training; and its key, which
//! is written nowhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::pipelines::engine;

#[path = "../support/http.rs"]
mod http;
use http::{Received, Reply, Server};

const KEY: &str = "sk-0123456789-secret";

const PIPELINE: &str = r#"
volvelle: 1
name: endpoint
stages:
  problems:
    uses: data.jsonl
    with: { path: problems.jsonl }
  served:
    uses: lm.endpoint
    with: { model: adder, base_url_env: ADDER_URL, api_key_env: ADDER_KEY }
  trees:
    uses: astro.search
    needs: { policy: served.model, problems: problems.problems }
    with: { num_simulations: 4, num_candidates: 2, num_rollouts: 2, max_retries: 2 }
  scores:
    uses: eval
    needs: { model: served.model, problems: problems.problems }
    with: { num_samples: 3, max_retries: 2 }
"#;

const TRAINING: &str = r#"
  tuned:
    uses: astro.grpo
    needs: { model: served.model, problems: problems.problems }
    with: { max_steps: 1 }
"#;

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("p.yaml"), format!("{PIPELINE}{more}")).expect("a file");
        let problems = ["What is 2 + 3?,5", "What is 10 + 4?,14"]
            .iter()
            .filter_map(|line| line.split_once(','))
            .map(|(problem, answer)| format!("{}\n", json!({"problem": problem, "answer": answer})))
            .collect::<String>();
        std::fs::write(dir.path().join("problems.jsonl"), problems).expect("a file");
        Self { dir }
    }

    fn run(&self, server: &Server) -> Output {
        Command::new(engine())
            .args(["run", "p.yaml", "--json", "--cache"])
            .arg(self.dir.path().join("cache"))
            .arg("--plugins")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .current_dir(self.dir.path())
            .env("ADDER_URL", server.url() + "/v1")
            .env("ADDER_KEY", KEY)
            .stdin(Stdio::null())
            .output()
            .expect("the engine starts")
    }

    /// All files below the project that have the key in them.
    fn files_with_key(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        let mut num_files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                let kind = entry.file_type().expect("a type");
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    num_files += 1;
                    let bytes = std::fs::read(&path).expect("a file");
                    if bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()) {
                        found.push(path);
                    }
                }
            }
        }
        assert!(num_files > 10, "only {num_files} files were looked into");
        found
    }
}

fn events(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event a line"))
        .collect()
}

fn finished(events: &[Value], state: &str) -> Vec<String> {
    let mut ids: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "node_finished" && event["state"] == state)
        .map(|event| event["id"].as_str().expect("an id").to_owned())
        .collect();
    ids.sort();
    ids
}

/// A server that adds: asked for a step it takes one, and then answers.
fn adder(number: usize, request: &Received) -> Reply {
    // Now and then it is busy, and now and then its answer breaks off.
    if number % 7 == 3 {
        return Reply::Raw(
            429,
            "Retry-After: 0\r\n".to_owned(),
            json!({"error": {"message": "busy"}}).to_string(),
        );
    }
    if number % 11 == 5 {
        return Reply::CutOff("{\"choices\": [".to_owned());
    }
    assert_eq!(request.path, "/v1/chat/completions");
    assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    let messages = request.body["messages"].as_array().expect("messages");
    let question = messages[0]["content"].as_str().expect("a text");
    let sum: i64 = question
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse::<i64>().ok())
        .sum();
    let is_first_step = request.body.get("stop").is_some() && messages.len() == 1;
    let count = request.body["n"].as_u64().expect("a number");
    let choice = |index: u64| {
        // The last of several is wrong.
        let answer = format!(
            "The answer is \\boxed{{{}}}.",
            if index + 1 == count { sum + 1 } else { sum }
        );
        let (text, stop_reason) = match is_first_step && index == 0 {
            true => ("We add the numbers.".to_owned(), json!("\n\n")),
            false => (answer, Value::Null),
        };
        json!({
            "index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop",
            "stop_reason": stop_reason, "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
        })
    };
    let choices: Vec<Value> = (0..count).map(choice).collect();
    Reply::Json(
        200,
        json!({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 2 * count}}),
    )
}

#[test]
fn a_served_model_is_searched_with_and_evaluated_and_its_key_stays_out_of_everything() {
    let (server, project) = (Server::start(adder), Project::new(""));
    let output = project.run(&server);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(
        finished(&events(&output), "executed"),
        ["problems", "scores", "served", "trees"]
    );
    let metric = |name: &str| {
        let all = events(&output);
        let found = all
            .iter()
            .rfind(|event| event["event"] == "node_metric" && event["name"] == name);
        found.and_then(|event| event["value"].as_f64())
    };
    // Two of three samples are right.
    assert!(
        metric("pass@1").is_some_and(|value| (value - 2.0 / 3.0).abs() < 1e-9),
        "{text}"
    );
    assert_eq!(metric("solved"), Some(1.0), "{text}");
    assert!(metric("completion_tokens").is_some_and(|count| count > 0.0), "{text}");
    // The answers that were begun were continued.
    let continued = |request: &Received| request.body["messages"][1]["content"] == "We add the numbers.\n\n";
    assert!(server.received().iter().any(continued));
    assert!(!text.contains(KEY), "{text}");
    assert_eq!(project.files_with_key(), Vec::<PathBuf>::new());

    // At another place it is still the same model: nothing is asked.
    let elsewhere = Server::start(|_, _| Reply::Hangup);
    let again = project.run(&elsewhere);
    assert_eq!(
        finished(&events(&again), "cached"),
        ["problems", "scores", "served", "trees"]
    );
    assert_eq!(elsewhere.received().len(), 0);
}

#[test]
fn a_server_that_repeats_the_key_does_not_get_it_written() {
    let server = Server::start(|_, request| {
        let sent = request.header("authorization").unwrap_or_default();
        Reply::Json(401, json!({"error": {"message": format!("bad header: {sent}")}}))
    });
    let project = Project::new(TRAINING);
    let output = project.run(&server);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("answered 401: bad header: Bearer [redacted]"), "{text}");
    // What trains is told why it can't.
    assert!(text.contains("the model is served elsewhere (lm.endpoint)"), "{text}");
    assert_eq!(
        finished(&events(&output), "failed"),
        ["scores", "trees", "tuned"],
        "{text}"
    );
    assert!(!text.contains(KEY), "{text}");
    assert_eq!(project.files_with_key(), Vec::<PathBuf>::new());
}
