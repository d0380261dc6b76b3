//! The pipelines that ship, through both programs: planned, run, run again, edited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The engine's program: built into the same folder as ours.
pub fn engine() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_volvelle-torch")).with_file_name("volvelle");
    assert!(program.exists(), "{} is missing: run `cargo build`", program.display());
    program
}

fn pipeline(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines").join(name)
}

fn volvelle(arguments: &[&str], pipeline: &Path, cache: &Path) -> Output {
    Command::new(engine())
        .arg("--cache")
        .arg(cache)
        .arg(arguments[0])
        .arg(pipeline)
        .args(&arguments[1..])
        .env_remove("VOLVELLE_PLUGINS")
        .output()
        .expect("the engine starts")
}

fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs the quick profile of the Countdown pipeline; what became of each node, by state.
fn run_quick(cache: &Path, options: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut arguments = vec!["run", "--json", "--profile", "quick"];
    arguments.extend(options);
    let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in stdout(&volvelle(&arguments, &pipeline("countdown.yaml"), cache)).lines() {
        let event: Value = serde_json::from_str(line).expect("an event a line");
        if event["event"] == "node_finished" {
            let text = |name: &str| event[name].as_str().expect("text").to_owned();
            states.entry(text("state")).or_default().push(text("id"));
        }
    }
    states.values_mut().for_each(|ids| ids.sort());
    states
}

fn count(states: &BTreeMap<String, Vec<String>>, state: &str) -> usize {
    states.get(state).map_or(0, Vec::len)
}

#[test]
fn every_pipeline_resolves() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Stand-ins for what a user fetches: a plan digests them, and never looks inside. Nothing else is asked for: no
    // network, no server, no Python library.
    let (model, data) = (dir.path().join("model"), dir.path().join("data"));
    for folder in [&model, &data] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::write(model.join("config.json"), "{}").expect("a file");
    for name in [
        "gsm8k_train.jsonl.gz",
        "gsm8k_test.jsonl",
        "math500.jsonl",
        "amc23.jsonl",
        "aime24.jsonl",
    ] {
        std::fs::write(data.join(name), "{}").expect("a file");
    }
    let set = |name: &str, path: &Path| format!("{name}={}", path.display());
    let (model, data) = (set("model", &model), set("data", &data));
    let fetched = ["--set", &model, "--set", &data];
    let writer = model.replacen("model", "writer", 1);
    let by_model = [&fetched[..], &["--set", "rewrite_by_model=true", "--set", &writer]].concat();
    let without_baselines = [&fetched[..], &["--set", "baselines=false"]].concat();
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("astro-llama3-70b.yaml", &[], &fetched),
        ("countdown.yaml", &["quick"], &[]),
        ("smollm2-gsm8k.yaml", &["smoke", "cpu", "h200", "full"], &fetched),
        ("smollm2-gsm8k.yaml", &["smoke"], &by_model),
        ("smollm2-gsm8k.yaml", &["smoke"], &without_baselines),
    ];
    let mut planned = Vec::new();
    for (name, profiles, options) in cases {
        planned.push(name.to_owned());
        for profile in profiles.iter().map(Some).chain([None]) {
            let mut arguments = vec!["plan", "--json"];
            arguments.extend(options);
            arguments.extend(profile.iter().flat_map(|profile| ["--profile", profile]));
            let plan: Value = serde_json::from_str(&stdout(&volvelle(&arguments, &pipeline(name), dir.path())))
                .expect("the plan is JSON");
            assert_eq!(
                plan["counts"]["run"].as_u64(),
                Some(plan["nodes"].as_array().expect("a list").len() as u64)
            );
        }
    }
    let mut there: Vec<String> = std::fs::read_dir(pipeline(""))
        .expect("the folder of pipelines")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    // The page about the language is tested with the engine.
    there.retain(|name| name.ends_with(".yaml"));
    there.sort();
    planned.dedup();
    assert_eq!(planned, there, "a pipeline has no case here");
}

#[test]
fn countdown_runs_once_and_then_only_what_changed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cache = dir.path();
    let first = run_quick(cache, &[]);
    assert_eq!(count(&first, "executed"), 21, "{first:?}");

    let again = run_quick(cache, &[]);
    assert_eq!(
        (count(&again, "executed"), count(&again, "cached")),
        (0, 21),
        "{again:?}"
    );

    // Another learning rate: the fine-tuned models, and what is below them.
    let edited = run_quick(cache, &["--set", "sft_learning_rate=5e-4"]);
    let arms = |stage: &str| ["direct", "search"].map(|style| format!("{stage}[seed=7,style={style}]"));
    let mut expected = vec!["report".to_owned()];
    for stage in ["sft", "grpo", "eval_sft", "eval_grpo", "solution"] {
        expected.extend(arms(stage));
    }
    expected.sort();
    assert_eq!(edited["executed"], expected);

    // The data again: the same bytes, so that nothing below runs.
    let forced = run_quick(cache, &["--rerun", "problems"]);
    assert_eq!(forced["executed"], ["problems"], "{forced:?}");

    let table = stdout(&volvelle(
        &["show", "report.table", "--profile", "quick"],
        &pipeline("countdown.yaml"),
        cache,
    ));
    for row in [
        "base",
        "direct SFT",
        "search SFT",
        "direct SFT + GRPO",
        "search SFT + GRPO",
    ] {
        assert!(
            table.lines().any(|line| line.starts_with(&format!("{row}  "))),
            "no row {row:?} in\n{table}"
        );
    }
}
