//! `diff` of runs, pipelines and git revisions: what is told as changed, as below it, and as the same.

use std::process::Command;

use serde_json::{Value, json};

use crate::project::{Ended, Project};

const PIPELINE: &str = r#"volvelle: 1
name: tuning
params: { rate: 0.1 }
profiles: { fast: { params: { rate: 0.5 } } }
stages:
  data: { uses: command, outputs: { out: text }, with: { run: "cat ${inputs.words} > ${outputs.out}" }, needs: { words: words.out } }
  words: { uses: command, outputs: { out: text }, with: { run: "echo words > ${outputs.out}" } }
  train:
    uses: command
    needs: { data: data.out }
    matrix: { seed: [1, 2] }
    outputs: { out: text }
    with:
      run: |
        echo "{\"event\": \"metric\", \"name\": \"loss\", \"value\": 0.${matrix.seed}5}" >> $VOLVELLE_EVENTS
        echo ${params.rate} ${matrix.seed} > ${outputs.out}
  eval:
    uses: command
    needs: { model: train.out }
    outputs: { out: text }
    with:
      run: |
        read rate seed < ${inputs.model}
        echo "{\"event\": \"metric\", \"name\": \"score\", \"value\": $rate}" >> $VOLVELLE_EVENTS
        cp ${inputs.model} ${outputs.out}
  table: { uses: command, needs: { scores: eval.out }, gather: [seed], outputs: { out: text }, with: { run: "cat ${inputs.scores} > ${outputs.out}" } }
"#;

fn diff(project: &Project, arguments: &[&str]) -> Ended {
    project.volvelle(&[&["diff"], arguments].concat())
}

fn text(project: &Project, arguments: &[&str]) -> String {
    let ended = diff(project, arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn value(project: &Project, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(project, &[arguments, &["--json"]].concat())).expect("JSON")
}

/// Takes out what differs from run to run.
fn steady(text: &str) -> String {
    let is_id = |word: &str| {
        let digits = |text: &str, num| text.len() == num && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut parts = word.split('-');
        digits(parts.next().unwrap_or_default(), 8) && digits(parts.next().unwrap_or_default(), 6)
    };
    let line = |line: &str| {
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| if is_id(word) { "ID" } else { word })
            .collect();
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn git(project: &Project, arguments: &[&str]) {
    let ended = Command::new("git")
        .current_dir(project.path(""))
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(arguments)
        .output()
        .expect("git starts");
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn two_pipelines_differ_in_a_root_and_what_is_below() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.run(&["--set", "rate=0.2"]);
    let shown = text(&project, &["p.yaml", "p.yaml", "--set-b", "rate=0.2"]);
    insta::assert_snapshot!("root_and_below", shown);
    let told = value(&project, &["p.yaml", "p.yaml", "--set-b", "rate=0.2"]);
    let changed = told["difference"]["changed"].as_array().expect("a list");
    assert_eq!(told["difference"]["num_same"], 2);
    assert_eq!(changed.len(), 5);
    let eval = changed.iter().find(|node| node["id"] == "eval[seed=2]").expect("eval");
    assert_eq!(
        (&eval["changes"], &eval["roots"]),
        (&json!([]), &json!(["train[seed=2]"]))
    );
    assert_eq!(
        eval["metrics"],
        json!([{"name": "score", "old": 0.1, "new": 0.2, "difference": 0.1}])
    );
    let only = value(
        &project,
        &["p.yaml", "p.yaml", "--set-b", "rate=0.2", "--only", "table"],
    );
    let ids: Vec<&Value> = only["difference"]["changed"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| &node["id"])
        .collect();
    assert_eq!(ids, ["train[seed=1]", "train[seed=2]", "table"]);
    assert_eq!(
        value(&project, &["p.yaml", "p.yaml", "--profile", "fast"])["difference"]["num_same"],
        7
    );
    let same = text(&project, &["p.yaml", "p.yaml"]);
    assert_eq!(same, "p.yaml -> p.yaml\nno difference: 7 the same\n");
}

#[test]
fn stages_are_added_gone_renamed_and_rewired() {
    let project = Project::new(PIPELINE);
    let edited = PIPELINE
        .replace("seed: [1, 2]", "seed: [1, 3]")
        .replace("  words:", "  vocabulary:")
        .replace("words.out", "vocabulary.out");
    project.write("q.yaml", &edited);
    insta::assert_snapshot!("added_and_gone", text(&project, &["p.yaml", "q.yaml"]));
}

#[test]
fn runs_are_named_by_age_or_id() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.edit("cp ${inputs.model}", "cp -v ${inputs.model}");
    project.run(&["--set", "rate=0.2"]);
    let shown = steady(&text(&project, &["@2", "@1"]));
    let summary = shown.lines().nth(1).expect("a summary");
    assert_eq!(summary, "4 changed, 1 below them, 2 the same", "{shown}");
    assert!(shown.contains("score 0.1000 -> 0.2000 (+0.1000)"), "{shown}");
    let by_age = value(&project, &["@2", "@1"]);
    let id = by_age["old"]["run"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(value(&project, &[&id, "@1"]), by_age);
    let with_file = value(&project, &["p.yaml@1", "p.yaml"]);
    assert_eq!(with_file["old"]["run"], by_age["new"]["run"]);
    assert_eq!(with_file["difference"]["num_same"], 2);
}

#[test]
fn a_revision_is_read_with_all_that_it_was_made_of() {
    let project = Project::new(&PIPELINE.replace("echo words", "cat words.txt; echo words"));
    project.write(".gitignore", "cache\nkept\n");
    project.write("kept/data.txt", "outside of git");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "-m", "first"]);
    project.edit("rate: 0.1", "rate: 0.3");
    let shown = text(&project, &["HEAD:p.yaml", "p.yaml"]);
    assert!(
        shown.starts_with("HEAD:p.yaml -> p.yaml\n2 changed, 3 below them, 2 the same\n"),
        "{shown}"
    );
    assert!(shown.contains("echo 0.1 1 >"), "{shown}");
    assert_eq!(
        value(&project, &["HEAD:./p.yaml", "HEAD:p.yaml"])["difference"]["num_same"],
        7
    );
    let mut told = String::new();
    for side in ["HEAD:q.yaml", "nothing:p.yaml", "HEAD~7:p.yaml"] {
        let ended = diff(&project, &[side, "p.yaml"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{side}");
        told.push_str(&ended.stderr);
    }
    insta::assert_snapshot!("revisions", told);
    let ended = project
        .command(&["diff", "HEAD:p.yaml", "p.yaml"])
        .env("PATH", "/nowhere")
        .output();
    let stderr = String::from_utf8(ended.expect("the program starts").stderr).expect("text");
    assert!(
        stderr.contains("the program `git`, which reads revisions, was not found"),
        "{stderr}"
    );
}

#[test]
fn mistakes_are_told() {
    let project = Project::new(PIPELINE);
    let mut told = String::new();
    for arguments in [
        ["p.yaml", "q.yaml"].as_slice(),
        &["p.yaml", "@1"],
        &["@1", "@2"],
        &["p.yaml", "@x"],
        &["p.yaml", "yesterday"],
        &["p.yaml", "p.yaml", "--only", "tabel"],
        &["p.yaml", "p.yaml", "--profile", "fats"],
    ] {
        let ended = diff(&project, arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        told.push_str(&ended.stderr);
    }
    insta::assert_snapshot!("mistakes", told);
}
