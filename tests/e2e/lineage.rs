//! `lineage`: from a result up to the data and down to what used it, across pipelines.

use serde_json::{Value, json};

use crate::project::{Ended, Project};

const PIPELINE: &str = r#"volvelle: 1
name: first
stages:
  data:
    uses: command
    outputs: { out: text, model: model }
    with:
      run: "cat words.txt > ${outputs.out}; mkdir ${outputs.model}; echo x > ${outputs.model}/config.json"
      files: [words.txt]
  train:
    uses: command
    needs: { data: data.out, config: data.model/config.json }
    matrix: { seed: [1, 2, 3, 4, 5, 6] }
    outputs: { out: text }
    with: { run: "echo ${matrix.seed} > ${outputs.out}" }
  table:
    uses: command
    needs: { scores: train.out, base: data.out }
    gather: [seed]
    outputs: { out: text }
    with: { run: "cat ${inputs.scores} > ${outputs.out}" }
"#;

const SECOND: &str = r#"volvelle: 1
name: second
stages:
  corpus: { uses: command, outputs: { out: text }, with: { run: "cat words.txt > ${outputs.out}", files: [words.txt] } }
  copy: { uses: command, needs: { in: corpus.out }, outputs: { out: text }, with: { run: "cp ${inputs.in} ${outputs.out}" } }
"#;

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("second.yaml", SECOND);
    project.write("words.txt", "some words\n");
    project.run(&[]);
    let second = project.volvelle(&["run", "second.yaml"]);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    project
}

fn lineage(project: &Project, arguments: &[&str]) -> Ended {
    project.volvelle(&[&["lineage"], arguments].concat())
}

fn text(project: &Project, arguments: &[&str]) -> String {
    let ended = lineage(project, arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn value(project: &Project, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(project, &[arguments, &["--json"]].concat())).expect("JSON")
}

fn names(nodes: &Value) -> Vec<&str> {
    nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["node"].as_str())
        .collect()
}

/// Takes out times, runs and hosts.
fn steady(text: &str) -> String {
    let line = |line: &str| {
        let line = line.find(", 20").map_or(line, |at| &line[..at]);
        line.find("  20").map_or(line, |at| &line[..at]).to_owned()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_table_leads_back_to_the_file_outside() {
    let project = project();
    let root = project.path("").display().to_string();
    let shown = text(&project, &["p.yaml", "table", "--upstream"]).replace(root.trim_end_matches('/'), "PROJECT");
    insta::assert_snapshot!("upstream", steady(&shown));
    let all = value(&project, &["p.yaml", "table"]);
    assert_eq!(
        all["upstream"].as_array().map(Vec::len),
        Some(8),
        "JSON leaves nothing out"
    );
    let data = all["upstream"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|node| node["node"] == "data")
        .expect("data");
    assert_eq!(data["files"][0]["param"], "files[0]");
    assert!(
        data["files"][0]["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("/words.txt"))
    );
    let near = value(&project, &["p.yaml", "table", "--depth", "0"]);
    assert_eq!(
        (names(&near["upstream"]), &near["upstream"][0]["is_cut"]),
        (vec!["table"], &json!(true))
    );
}

#[test]
fn what_used_an_artifact_is_found_in_all_pipelines() {
    let project = project();
    let shown = text(&project, &["p.yaml", "data.out", "--downstream"]);
    assert!(
        shown.contains("used by 8 nodes") && shown.contains("and 3 more of this stage"),
        "{shown}"
    );
    let found = value(&project, &["p.yaml", "data.out", "--downstream"]);
    let nodes = names(&found["downstream"]);
    assert_eq!(nodes.iter().filter(|node| node.starts_with("train")).count(), 6);
    // Another pipeline made the same bytes, and its node read them.
    assert!(nodes.contains(&"copy") && nodes.contains(&"table"), "{nodes:?}");
    // A part of a folder is read under a digest of its own.
    let model = value(&project, &["p.yaml", "data.model", "--downstream"]);
    assert_eq!(model["downstream"].as_array().map(Vec::len), Some(7));
    assert_eq!(model["downstream"][0]["uses"][0]["input"], "config");
    // A node that copies its input is no user of what it made.
    let copy = value(&project, &["second.yaml", "copy", "--downstream"]);
    assert!(!names(&copy["downstream"]).contains(&"copy"));
}

#[test]
fn digests_and_files_are_recognized() {
    let project = project();
    let digest = project.digest("table", "out");
    for what in [&digest[..10], &digest, "cache/outputs/first/table/out.txt"] {
        let found = value(&project, &[what]);
        assert_eq!(
            (&found["node"], &found["downstream"]),
            (&json!("table"), &json!([])),
            "{what}"
        );
    }
    let twins = value(&project, &[&project.digest("data", "out")]);
    assert_eq!(twins["twins"].as_array().map(Vec::len), Some(2), "{twins}");
    // A file of a folder, wherever it was copied to.
    let copied = project.volvelle(&["show", "p.yaml", "data.model", "--to", "copied"]);
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    let inside = value(&project, &["copied/config.json"]);
    assert_eq!(
        (&inside["node"], &inside["path"]),
        (&json!("data"), &json!("config.json"))
    );
    assert_eq!(
        value(&project, &["p.yaml", "data.model/config.json"])["path"],
        "config.json"
    );
    let graph = text(&project, &["p.yaml", "train[seed=1]", "--format", "mermaid"]);
    insta::assert_snapshot!("mermaid", graph);
}

#[test]
fn bytes_that_were_replaced_since_are_told() {
    let project = project();
    project.edit("echo x >", "date +%N >");
    project.run(&[]);
    project.run(&["--rerun", "data", "--until", "data"]);
    let shown = text(&project, &["p.yaml", "train[seed=1]", "--upstream"]);
    assert!(
        shown.contains("config: data.model/config.json") && shown.contains("made again since"),
        "{shown}"
    );
    let found = value(&project, &["p.yaml", "train[seed=1]", "--upstream"]);
    let inputs = found["upstream"][0]["inputs"].as_array().expect("inputs");
    let replaced: Vec<(&Value, &Value)> = inputs
        .iter()
        .map(|read| (&read["input"], &read["is_replaced"]))
        .collect();
    assert_eq!(
        replaced,
        [(&json!("config"), &json!(true)), (&json!("data"), &json!(false))]
    );
}

#[test]
fn mistakes_are_told() {
    let project = project();
    project.write("cache/outputs/first/table/out.txt", "edited\n");
    project.write("foreign.txt", "not from here");
    let mut told = String::new();
    for (arguments, code) in [
        (["p.yaml"].as_slice(), 2),
        (&["p.yaml", "tabel"], 2),
        (&["p.yaml", "table.outt"], 2),
        (&["p.yaml", "train"], 2),
        (&["p.yaml", "data", "--set", "stages.data.with.run=x"], 1),
        (&["words"], 2),
        (&["0000000"], 2),
        (&["foreign.txt"], 2),
        (&["cache"], 2),
        (&["cache/outputs/first/table/out.txt"], 2),
    ] {
        let ended = lineage(&project, arguments);
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?}: {}",
            ended.stderr
        );
        told.push_str(&ended.stderr);
    }
    insta::assert_snapshot!("mistakes", told);
}
