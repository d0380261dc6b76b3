//! The baselines of the study on a small model: two rounds of Step-KTO on search trees, and SFT on SPOC's conversations.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use volvelle_torch::formats::{Chat, Feedback, Problem, Sample, read_jsonl, write_jsonl};
use volvelle_torch::verify;

use crate::endpoint::http::{Received, Reply, Server};
use crate::pipelines::engine;
use crate::resume::stage::Stage;

/// Both baselines from one model: two rounds of Step-KTO, and SFT on SPOC's conversations.
const BASELINES: &str = "
volvelle: 1
name: baselines
defaults: { resources: { cpu: 2 } }
stages:
  problems:
    uses: data.countdown
    with:
      { max_number: 4, max_target: 8, max_value: 16, num_train: 24, num_test: 8, num_playouts: 6000, num_drills: 3000, drills_per_line: 4 }
  base:
    uses: lm.pretrain
    needs: { data: problems.corpus }
    with:
      hidden_size: 48
      intermediate_size: 96
      num_hidden_layers: 2
      num_attention_heads: 2
      num_key_value_heads: 2
      max_position_embeddings: 96
      per_device_train_batch_size: 48
      max_steps: 600
      learning_rate: 0.01
      initializer_range: 0.05
  search:
    uses: astro.search
    needs: { policy: base.model, problems: problems.train }
    with: { num_simulations: 10, num_candidates: 4, num_rollouts: 4, max_step_length: 16, max_completion_length: 32 }
  feedback: { uses: astro.feedback, needs: { trees: search.trees } }
  m1: { uses: astro.kto, needs: { model: base.model, data: feedback.feedback }, with: { max_steps: 3 } }
  m1_search:
    uses: astro.search
    needs: { policy: m1.model, problems: problems.train }
    with: { num_simulations: 4, num_candidates: 4, num_rollouts: 4, max_step_length: 16, max_completion_length: 32 }
  m1_feedback: { uses: astro.feedback, needs: { trees: m1_search.trees } }
  m2: { uses: astro.kto, needs: { model: m1.model, data: m1_feedback.feedback }, with: { max_steps: 3 } }
  samples:
    uses: eval
    needs: { model: base.model, problems: problems.train }
    with: { num_samples: 16, temperature: 1.0, max_completion_length: 40 }
  pairs: { uses: astro.spoc, needs: { problems: problems.train, samples: samples.samples } }
  spoc:
    uses: astro.sft
    needs: { model: base.model, data: pairs.chats }
    with: { max_steps: 60, per_device_train_batch_size: 16, learning_rate: 0.003, completion_only_loss: true }
  eval_spoc:
    uses: eval
    needs: { model: spoc.model, problems: problems.train }
    with: { num_samples: 8, temperature: 0.7, max_completion_length: 80 }
";

/// What a run of the pipeline made, for all tests here.
struct Made {
    dir: tempfile::TempDir,
    events: Vec<Value>,
}

impl Made {
    fn get() -> &'static Self {
        static MADE: OnceLock<Made> = OnceLock::new();
        MADE.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary folder");
            std::fs::write(dir.path().join("p.yaml"), BASELINES).expect("a file");
            let events = run(dir.path());
            Made { dir, events }
        })
    }

    fn output(&self, name: &str) -> PathBuf {
        place(self.dir.path(), name)
    }

    fn problems(&self) -> Vec<Problem> {
        read_jsonl(&self.output("problems.train"), "problem").expect("problems")
    }

    /// A stage on outputs of the run.
    fn stage(&self, kind: &str, params: Value, inputs: &[(&str, &str)], outputs: &[&'static str]) -> Stage {
        let inputs: Vec<(&str, PathBuf)> = inputs.iter().map(|&(name, from)| (name, self.output(from))).collect();
        Stage::new(kind, params, &inputs, outputs)
    }

    fn kto(&self, params: Value) -> Stage {
        let inputs = [("model", "base.model"), ("data", "feedback.feedback")];
        self.stage("astro.kto", params, &inputs, &["model", "metrics"])
    }
}

fn column(stage: &Stage, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    rows.filter_map(|row| row[name].as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Runs a stage twice, which must make the same bytes.
fn run_twice(stage: &Stage) {
    let again = stage.fresh();
    for attempt in [stage, &again] {
        attempt.run().assert_done();
    }
    assert_eq!(stage.digests(), again.digests());
}

#[test]
fn both_baselines_run_as_a_pipeline_and_not_again() {
    let made = Made::get();
    let finished = |events: &[Value]| {
        let last = events
            .iter()
            .rfind(|event| event["event"] == "run_finished")
            .expect("an end")
            .clone();
        (last["executed"].as_u64(), last["cached"].as_u64())
    };
    assert_eq!(finished(&made.events), (Some(12), Some(0)));
    // What was learned from conversations is read as one: solutions that were told wrong, and the last one judged.
    let metric = |name| metric(&made.events, "eval_spoc", name);
    assert!(
        metric("backtracks").is_some_and(|count| count > 0.1),
        "{:?}",
        metric("backtracks")
    );
    assert!(
        metric("pass@1").is_some_and(|rate| rate > 0.1),
        "{:?}",
        metric("pass@1")
    );
    let samples: Vec<Sample> = read_jsonl(&made.output("eval_spoc.samples"), "sample").expect("samples");
    let corrected = |sample: &&Sample| sample.correct && sample.num_backtracks > 0;
    assert!(
        samples.iter().any(|sample| corrected(&sample)),
        "no sample corrects itself"
    );
    assert_eq!(finished(&run(made.dir.path())), (Some(0), Some(12)));
}

#[test]
fn feedback_of_trees_has_both_sorts_and_texts_that_the_verifier_knows() {
    let made = Made::get();
    let stage = made.stage("astro.feedback", json!({}), &[("trees", "search.trees")], &["feedback"]);
    run_twice(&stage);
    let path = stage.output("feedback");
    let (all, problems): (Vec<Feedback>, _) = (read_jsonl(&path, "feedback").expect("feedback"), made.problems());
    let num_right = all.iter().filter(|it| it.label).count();
    assert!(
        num_right > 4 && 2 * num_right == all.len(),
        "{num_right} of {}",
        all.len()
    );
    for it in &all {
        let problem = problems
            .iter()
            .find(|problem| problem.id == it.problem_id)
            .expect("its problem");
        assert_eq!(
            verify::verify(problem, &it.completion).correct,
            it.label,
            "{}",
            it.completion
        );
        let steps: Vec<&str> = it
            .steps
            .iter()
            .map(|step| &it.completion[step.range[0]..step.range[1]])
            .collect();
        assert_eq!(steps.join(" ; "), it.completion);
        assert_eq!(it.steps.last().and_then(|step| step.label), Some(it.label));
    }
    // What TRL's KTOTrainer reads.
    for row in read_jsonl::<Value>(&path, "row").expect("rows") {
        assert!(row["prompt"].is_string() && row["completion"].is_string() && row["label"].is_boolean());
    }
}

#[test]
fn kto_tells_right_from_wrong_step_by_step() {
    let params = json!({"max_steps": 60, "per_device_train_batch_size": 12, "learning_rate": 0.003, "beta": 0.3});
    let stage = Made::get().kto(params);
    run_twice(&stage);
    let (losses, margins) = (column(&stage, "loss"), column(&stage, "rewards/margins"));
    assert!((losses[0] - 1.0).abs() < 1e-5, "{losses:?}");
    assert!(mean(&losses[50..]) < 0.7, "{losses:?}");
    assert!(mean(&margins[50..]) > 2.0, "{margins:?}");
    let steps = column(&stage, "step_accuracy");
    assert!(mean(&steps[50..]) > 0.75, "{steps:?}");
    assert!(column(&stage, "kl").iter().all(|&kl| kl >= 0.0));
}

#[test]
fn without_step_weight_it_is_kto() {
    let params = json!({"max_steps": 3, "per_device_train_batch_size": 12, "learning_rate": 0.003, "step_weight": 0.0});
    let stage = Made::get().kto(params);
    stage.run().assert_done();
    assert_eq!(column(&stage, "loss"), column(&stage, "outcome_loss"));
}

/// The second round of a loop that is measured from where the first began.
#[test]
fn another_reference_is_measured_from() {
    let params = json!({"max_steps": 6, "per_device_train_batch_size": 12, "learning_rate": 0.003});
    let first = Made::get().kto(params.clone());
    first.run().assert_done();
    let inputs = [
        ("model", first.output("model")),
        ("data", Made::get().output("feedback.feedback")),
        ("reference", Made::get().output("base.model")),
    ];
    let second = Stage::new("astro.kto", params, &inputs, &["model", "metrics"]);
    second.run().assert_done();
    assert!((column(&first, "outcome_loss")[0] - 0.5).abs() < 1e-5);
    assert!(column(&first, "rewards/margins")[0].abs() < 1e-4);
    assert!(
        column(&second, "rewards/margins")[0] > 0.01,
        "{:?}",
        column(&second, "rewards/margins")
    );
}

#[test]
fn kto_trains_an_adapter_with_the_weights_as_reference() {
    let params = json!({
        "max_steps": 30, "per_device_train_batch_size": 12, "learning_rate": 0.01, "beta": 0.3, "use_peft": true,
        "lora_dropout": 0.1, "lora_target_modules": ["all-linear"], "bf16": true, "gradient_checkpointing": true,
    });
    let stage = Made::get().kto(params);
    stage.run().assert_done();
    let losses = column(&stage, "loss");
    assert!(
        (losses[0] - 1.0).abs() < 0.02 && mean(&losses[20..]) < 0.85,
        "{losses:?}"
    );
    assert!(
        stage
            .output("model")
            .join("adapter/adapter_model.safetensors")
            .is_file()
    );
}

fn spoc(params: Value) -> Stage {
    let inputs = [("problems", "problems.train"), ("samples", "samples.samples")];
    Made::get().stage("astro.spoc", params, &inputs, &["chats", "card"])
}

#[test]
fn conversations_of_samples_end_in_a_right_solution_and_mask_the_wrong_one() {
    let stage = spoc(json!({}));
    run_twice(&stage);
    let chats: Vec<Chat> = read_jsonl(&stage.output("chats"), "chat").expect("chats");
    let problems = Made::get().problems();
    let samples: Vec<Sample> = read_jsonl(&Made::get().output("samples.samples"), "sample").expect("samples");
    let num_corrected = chats.iter().filter(|chat| !chat.messages[1].masked.is_empty()).count();
    assert!(
        num_corrected > 4 && 2 * num_corrected == chats.len(),
        "{num_corrected} of {}",
        chats.len()
    );
    for chat in &chats {
        let problem = problems
            .iter()
            .find(|problem| problem.id == chat.problem_id)
            .expect("its problem");
        let verdict = verify::verify(problem, &chat.messages[1].content);
        assert!(verdict.correct, "{chat:?}");
        for &[from, to] in &chat.messages[1].masked {
            let wrong = &chat.messages[1].content[from..to];
            let of_sample = |sample: &&Sample| sample.problem_id == chat.problem_id && sample.completion == wrong;
            assert!(
                samples.iter().find(of_sample).is_some_and(|sample| !sample.correct),
                "{wrong}"
            );
            assert_eq!((verdict.num_backtracks, from), (1, 0));
        }
    }
    let card: Value = serde_json::from_slice(&std::fs::read(stage.output("card")).expect("the card")).expect("JSON");
    assert_eq!(card["num_chats"], chats.len());
}

#[test]
fn sft_leaves_the_wrong_solutions_out_and_learns_the_rest() {
    let stage = spoc(json!({"balance": "resample"}));
    stage.run().assert_done();
    let params = json!({
        "max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 0.003, "completion_only_loss": true,
    });
    let sft = |data: PathBuf| {
        let inputs = [("model", Made::get().output("base.model")), ("data", data)];
        let outputs = ["model", "metrics", "checkpoints"];
        let stage = Stage::new("astro.sft", params.clone(), &inputs, &outputs);
        stage.run().assert_done();
        stage
    };
    let masked = sft(stage.output("chats"));
    let mut chats: Vec<Chat> = read_jsonl(&stage.output("chats"), "chat").expect("chats");
    chats
        .iter_mut()
        .flat_map(|chat| &mut chat.messages)
        .for_each(|message| message.masked.clear());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("chats");
    write_jsonl(&path, &chats).expect("a file");
    let whole = sft(path);
    let total = |stage: &Stage| column(stage, "num_tokens").iter().sum::<f64>();
    assert!(
        total(&masked) < 0.9 * total(&whole),
        "{} of {}",
        total(&masked),
        total(&whole)
    );
    let losses = column(&masked, "loss");
    assert!(losses[39] < 0.5 * losses[0], "{losses:?}");
}

const MATH: &str = r#"
volvelle: 1
name: critics
stages:
  problems: { uses: data.jsonl, with: { path: problems.jsonl } }
  served: { uses: lm.endpoint, with: { model: critic, base_url: URL } }
  samples: { uses: eval, needs: { model: served.model, problems: problems.problems }, with: { num_samples: 4 } }
  spoc:
    uses: astro.spoc
    needs: { problems: problems.problems, samples: samples.samples, policy: served.model }
    with: { num_attempts: 2 }
"#;

/// Adds, every second time wrongly; asked for a verification it always says no.
fn critic(_: usize, request: &Received) -> Reply {
    let question = request.body["messages"][0]["content"].as_str().expect("a text");
    let text = |index: u64| match question.contains("Solution to check") {
        true => "The sum in the last line was not computed. **Verdict: No**".to_owned(),
        false => format!("It is \\boxed{{{}}}.", 5 + index % 2),
    };
    let choice = |index: u64| json!({"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text(index)}});
    let count = request.body["n"].as_u64().unwrap_or(1);
    let choices: Vec<Value> = (0..count).map(choice).collect();
    Reply::Json(
        200,
        json!({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": count}}),
    )
}

fn run(dir: &Path) -> Vec<Value> {
    let output = Command::new(engine())
        .args(["run", "p.yaml", "--json", "--cache"])
        .arg(dir.join("cache"))
        .arg("--plugins")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .current_dir(dir)
        .stdin(Stdio::null())
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

/// The last value of a metric of a node.
fn metric(events: &[Value], node: &str, name: &str) -> Option<f64> {
    let is_it = |event: &&Value| event["event"] == "node_metric" && event["id"] == node && event["name"] == name;
    events.iter().rfind(is_it)?["value"].as_f64()
}

#[test]
fn verifications_by_a_policy_count_where_their_verdict_is_true() {
    let (server, dir) = (Server::start(critic), tempfile::tempdir().expect("a temporary folder"));
    std::fs::write(dir.path().join("p.yaml"), MATH.replace("URL", &(server.url() + "/v1"))).expect("a file");
    let problem = json!({"problem": "What is 2 + 3?", "answer": "5"});
    std::fs::write(dir.path().join("problems.jsonl"), format!("{problem}\n")).expect("a file");
    let events = run(dir.path());
    assert_eq!(metric(&events, "spoc", "corrected"), Some(1.0));
    assert_eq!(metric(&events, "spoc", "confirmed"), Some(1.0));
    let asked: Vec<String> = (server.received().iter())
        .filter_map(|request| request.body["messages"][0]["content"].as_str().map(str::to_owned))
        .filter(|text| text.contains("Solution to check"))
        .collect();
    assert!(
        asked
            .iter()
            .all(|text| text.contains("What is 2 + 3?") && text.contains("\\boxed{5}")),
        "{asked:?}"
    );
    // The verdict on the wrong solution is true, and so its reason stands before the sentences; that on the right one is not.
    let chats = std::fs::read_to_string(place(dir.path(), "spoc.chats")).expect("the chats");
    assert_eq!(chats.matches("was not computed.\\n\\nBut wait").count(), 1, "{chats}");
    assert_eq!(chats.matches("Verdict").count(), 0, "{chats}");
    assert_eq!(chats.matches("\\\\boxed{5}.\\n\\nBut wait").count(), 2, "{chats}");
}

/// Where an output of a node lies.
fn place(dir: &Path, output: &str) -> PathBuf {
    let done = Command::new(engine())
        .args(["show", "p.yaml", output, "--path", "--cache"])
        .arg(dir.join("cache"))
        .arg("--plugins")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .current_dir(dir)
        .output()
        .expect("the engine starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    PathBuf::from(String::from_utf8_lossy(&done.stdout).trim())
}
