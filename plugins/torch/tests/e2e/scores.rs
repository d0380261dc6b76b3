//! Scores: of stored samples beside lm-evaluation-harness's formulas, of samples judged again, of benchmarks under their
//! prompts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::endpoint::http::{Reply, Server};
use crate::resume::stage::Stage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_volvelle-torch");

/// A file of `../fixtures/scores`; `make_reference.py` there made them, and says by which formulas.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/scores")
        .join(name)
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file is there");
    serde_json::from_str(&text).expect("JSON")
}

fn judge(problems: &Path, samples: &Path, options: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .arg("judge")
        .arg("--problems")
        .arg(problems)
        .arg("--samples")
        .arg(samples)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that refuses a file ends without reading on; that is not this side's failure.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn scores_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn assert_same(got: &Value, expected: &Value, what: &str) {
    let (got, expected) = (number(got), number(expected));
    assert!((got - expected).abs() < 1e-12, "{what}: {got}, expected {expected}");
}

#[test]
fn stored_samples_score_as_by_the_formulas_of_lm_evaluation_harness() {
    let scores = scores_of(&judge(&fixture("problems.jsonl"), &fixture("samples.jsonl"), &[], ""));
    let expected = read_json(&fixture("expected.json"));
    assert_eq!(
        (&scores["num_problems"], &scores["num_samples"]),
        (&json!(200), &json!(16))
    );
    for metric in ["pass_at_k", "maj_at_k"] {
        let expected = expected[metric].as_object().expect("by k");
        assert_eq!(expected.len(), 16);
        for (k, value) in expected {
            assert_same(&scores[metric][k], value, &format!("{metric} at {k}"));
        }
    }
    assert_same(&scores["pass_at_1"], &expected["pass_at_k"]["1"], "pass@1");
    assert_same(&scores["pass_at_1_stderr"], &expected["mean_stderr"], "standard error");
    for level in ["1", "2", "3", "4", "5"] {
        assert_same(
            &scores["by_meta"]["level"][level]["pass_at_1"],
            &expected["by_level"][level],
            level,
        );
    }
    // What votes here and not there: a sample without an answer.
    assert!(number(&scores["maj_at_k"]["16"]) > number(&expected["maj_at_k_with_invalid"]["16"]) + 0.1);
    // An interval of 95% is 2 x 1.96 standard errors wide; the resamples of both are drawn at random.
    let errors = &expected["bootstrap_stderr"];
    for (interval, error) in [
        (&scores["pass_at_1_ci95"], &errors["pass_at_1"]),
        (&scores["pass_at_k_ci95"]["16"], &errors["pass_at_16"]),
        (&scores["maj_at_k_ci95"]["16"], &errors["maj_at_16"]),
    ] {
        let ratio = (number(&interval[1]) - number(&interval[0])) / (2.0 * 1.96 * number(error));
        assert!(
            (0.9..1.1).contains(&ratio),
            "{interval} for a standard error of {error}: {ratio}"
        );
    }
}

#[test]
fn samples_from_anywhere_need_an_id_and_a_text() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let problems = dir.path().join("problems.jsonl");
    let lines = "{\"id\": \"a\", \"problem\": \"1 + 1?\", \"answer\": \"2\"}\n{\"id\": \"b\", \"problem\": \"2 + 2?\", \"answer\": \"4\"}\n";
    std::fs::write(&problems, lines).expect("a file");
    let (stdin, good) = (
        Path::new("-"),
        "{\"problem_id\": \"a\", \"completion\": \"The answer is 2.\", \"model\": \"x\"}\n",
    );

    let output = judge(&problems, stdin, &["--allow-missing"], good);
    let scores = scores_of(&output);
    assert_eq!(
        (&scores["num_problems"], &scores["pass_at_1"]),
        (&json!(1), &json!(1.0))
    );
    assert_eq!(
        (&scores["temperature"], &scores["changed"]),
        (&Value::Null, &Value::Null)
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 2 problems have no sample and are left out"));

    let fails = |samples: &str| {
        let output = judge(&problems, stdin, &[], samples);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(fails(good).contains("1 of 2 problems have no sample, the first of them \"b\""));
    let strange = fails(&format!("{good}\n{{\"problem_id\": \"c\", \"completion\": \"\"}}\n"));
    assert!(strange.contains("-: line 3: there is no problem \"c\""), "{strange}");
    let bare = fails("{\"problem_id\": \"a\"}\n");
    assert!(bare.contains(":1: ") && bare.contains("completion"), "{bare}");
}

#[test]
fn samples_judged_again_tell_which_verdicts_changed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let samples = dir.path().join("samples.jsonl");
    // Every fourth sample comes with a verdict, of someone who takes all for correct.
    let text = std::fs::read_to_string(fixture("samples.jsonl")).expect("the fixture is there");
    let mut turned = String::new();
    for (idx, line) in text.lines().enumerate() {
        let mut sample: Value = serde_json::from_str(line).expect("a sample");
        if idx % 4 == 0 {
            sample["correct"] = json!(true);
        }
        turned += &format!("{sample}\n");
    }
    std::fs::write(&samples, turned).expect("a file");
    let inputs = [("problems", fixture("problems.jsonl")), ("samples", samples)];
    let stage = Stage::new(
        "eval.samples",
        json!({"temperature": 0.7}),
        &inputs,
        &["scores", "samples"],
    );
    let ended = stage.run();
    ended.assert_done();
    let scores = read_json(&stage.output("scores"));
    let mut direct = scores_of(&judge(&inputs[0].1, &inputs[1].1, &[], ""));
    direct["temperature"] = json!(0.7);
    assert_eq!(scores, direct);

    let judged = std::fs::read_to_string(stage.output("samples")).expect("an output");
    let verdicts: Vec<bool> = judged
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a sample")["correct"] == true)
        .collect();
    // Problem by problem: sample s of problem i was line s * 200 + i.
    let line_of = |place: usize| place % 16 * 200 + place / 16;
    let to_wrong = verdicts
        .iter()
        .enumerate()
        .filter(|(place, v)| line_of(*place) % 4 == 0 && !**v)
        .count();
    let expected = json!({"num_judged_before": 800, "num_to_correct": 0, "num_to_wrong": to_wrong});
    assert_eq!(scores["changed"], expected);
    ended.assert_says(&format!(
        "of 800 verdicts, 0 changed to correct and {to_wrong} to wrong"
    ));
}

#[test]
fn greedy_evaluation_asks_once_with_the_prompt_of_a_file() {
    let server = Server::start(|_, _| {
        let message = json!({"content": "## Step 1: Add\nSo it is $\\boxed{2}$."});
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 9});
        Reply::Json(
            200,
            json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}),
        )
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    let endpoint = json!({
        "version": 1, "model": "m", "api": "chat", "base_url": server.url(), "base_url_env": null, "api_key_env": null,
        "logprobs": false,
    });
    std::fs::write(model.join("endpoint.json"), endpoint.to_string()).expect("a file");
    let (problems, prompt) = (dir.path().join("problems.jsonl"), dir.path().join("prompt.txt"));
    let lines: String = [("a", "2", 1), ("b", "3", 5), ("c", "2", 1), ("d", "3", 5)]
        .map(|(id, answer, level)| {
            format!(
                "{}\n",
                json!({"id": id, "problem": "1 + 1 = {meta.level}?", "answer": answer, "meta": {"level": level}})
            )
        })
        .concat();
    std::fs::write(&problems, lines).expect("a file");
    std::fs::write(&prompt, "Level {meta.level}: {problem} Box it: $\\boxed{}$.\n").expect("a file");
    let params = json!({"num_samples": 16, "temperature": 0.0, "prompt": prompt});
    let stage = Stage::new(
        "eval",
        params,
        &[("model", model), ("problems", problems)],
        &["scores", "samples"],
    );
    let ended = stage.run();
    ended.assert_done().assert_says("one is drawn instead of 16");
    let mut asked: Vec<String> = server
        .received()
        .iter()
        .map(|request| {
            request.body["messages"][0]["content"]
                .as_str()
                .expect("a text")
                .to_owned()
        })
        .collect();
    asked.sort();
    let shown = |level: u32| format!("Level {level}: 1 + 1 = {{meta.level}}? Box it: $\\boxed{{}}$.");
    assert_eq!(asked, [shown(1), shown(1), shown(5), shown(5)]);
    let scores = read_json(&stage.output("scores"));
    assert_eq!((&scores["num_samples"], &scores["pass_at_1"]), (&json!(1), &json!(0.5)));
    assert_eq!(scores["by_meta"]["level"]["5"]["pass_at_1"], json!(0.0));
    assert_eq!(scores["by_verdict"]["correct"]["num_samples"], json!(2));
    assert_eq!(scores["recovery"], json!({"num_first_wrong": 2, "num_recovered": 0}));
    let samples = std::fs::read_to_string(stage.output("samples")).expect("an output");
    let first: Value = serde_json::from_str(samples.lines().next().expect("a sample")).expect("JSON");
    assert_eq!(first["prompt"], json!(shown(1)));
}

/// A file of the problem sets beside the repository; `None`, with the reason, where it is absent.
fn problem_set(name: &str) -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = ["../shared/data", "shared/data", "data"]
        .into_iter()
        .map(|folder| repository.join(folder).join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no ../shared/data/{name}, and no data/{name} (scripts/fetch-benchmarks.py)");
    }
    found
}

#[test]
fn the_published_sets_are_read_whole_and_without_a_warning() {
    let sets = [
        ("math500", "math500.jsonl", 500),
        ("aime24", "aime24.jsonl", 30),
        ("aime25", "aime25.jsonl", 30),
        ("amc23", "amc23.jsonl", 40),
        ("gsm8k", "gsm8k_test.jsonl", 1319),
        ("gsm8k", "gsm8k_train.jsonl.gz", 7473),
    ];
    for (name, file, count) in sets {
        let Some(path) = problem_set(file) else { continue };
        let stage = Stage::new(
            "data.benchmark",
            json!({"name": name, "path": path}),
            &[],
            &["problems"],
        );
        let ended = stage.run();
        ended.assert_done().assert_says(&format!("{count} problems of "));
        assert!(!ended.messages().contains("warning"), "{file}: {}", ended.messages());
        let text = std::fs::read_to_string(stage.output("problems")).expect("an output");
        let problems: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(problems.len(), count, "{file}");
        for problem in &problems {
            let (shown, statement) = (&problem["problem"], &problem["meta"]["statement"]);
            let (shown, statement) = (shown.as_str().expect("text"), statement.as_str().expect("text"));
            assert!(shown.ends_with(statement) && shown.contains("## Step N") && !shown.contains("{problem}"));
        }
    }
}

#[test]
fn a_cut_of_a_benchmark_has_a_prompt_of_its_own() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (path, prompt) = (dir.path().join("set.jsonl"), dir.path().join("prompt.txt"));
    let lines: String = (0..3)
        .map(|i| format!("{}\n", json!({"question": format!("q{i}"), "answer": i})))
        .collect();
    std::fs::write(&path, lines).expect("a file");
    std::fs::write(&prompt, "{meta.source}: {problem}\n").expect("a file");
    let params = json!({"name": "amc23", "path": path, "prompt": prompt, "num_problems": 2});
    let stage = Stage::new("data.benchmark", params, &[], &["problems"]);
    stage
        .run()
        .assert_done()
        .assert_says("has 3 problems, but AMC 2023 has 40");
    let text = std::fs::read_to_string(stage.output("problems")).expect("an output");
    let shown: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["problem"].clone())
        .collect();
    assert_eq!(shown, ["AMC 2023: q0", "AMC 2023: q1"]);
}
