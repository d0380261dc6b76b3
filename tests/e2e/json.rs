//! Every command that reads, with `--json`: one document, or a line each where something grows.

use serde_json::{Value, json};

use crate::project::Project;

const PIPELINE: &str = r#"volvelle: 1
name: numbers
stages:
  list:
    uses: command
    outputs: { numbers: text, folder: any }
    with:
      run: |
        seq 3 > ${outputs.numbers}; echo made; printf 'no \377 end'
        mkdir -p ${outputs.folder}/a/b && echo 1 > ${outputs.folder}/a/b/one && echo 22 > ${outputs.folder}/a/two && echo 3 > ${outputs.folder}/ab
  sum: { uses: command, needs: { numbers: list.numbers }, outputs: { sum: text }, with: { run: "wc -l < ${inputs.numbers} > ${outputs.sum}" } }
"#;

fn ran() -> Project {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project
}

/// Runs a command with `--json`, which must go well, and returns the lines that it printed.
fn printed(project: &Project, arguments: &[&str]) -> String {
    let ended = project.volvelle(&[arguments, &["--json"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    ended.stdout
}

fn document(project: &Project, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(project, arguments)).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn plan_why_and_kinds_are_documents() {
    let project = ran();
    let plan = document(&project, &["plan", "p.yaml"]);
    assert_eq!(
        (&plan["pipeline"], &plan["counts"]["cached"]),
        (&json!("numbers"), &json!(2))
    );
    let why = document(&project, &["why", "p.yaml", "sum"]);
    assert_eq!(
        (&why["node"]["id"], &why["node"]["state"]),
        (&json!("sum"), &json!("cached"))
    );
    assert_eq!(document(&project, &["kinds"])[0]["name"], "command");
    assert_eq!(
        document(&project, &["kinds", "command"])["params"]["run"]["required"],
        true
    );
}

#[test]
fn status_and_runs_are_documents() {
    let project = ran();
    let status = document(&project, &["status", "p.yaml"]);
    assert_eq!(
        (&status["nodes"][1]["id"], &status["nodes"][1]["state"]),
        (&json!("sum"), &json!("cached"))
    );
    assert_eq!(status["last_run"]["status"], "succeeded");
    let runs = document(&project, &["runs"]);
    assert_eq!(
        (runs.as_array().map(Vec::len), &runs[0]["pipeline"]),
        (Some(1), &json!("numbers"))
    );
    assert_eq!(document(&project, &["runs", "-n", "0"]), json!([]));
}

#[test]
fn what_show_shows_is_a_document() {
    let project = ran();
    let all = document(&project, &["show", "p.yaml"]);
    assert_eq!(all["nodes"][0]["record"]["node"], "list");
    let run = all["run"]["id"].as_str().expect("the run").to_owned();
    assert_eq!(document(&project, &["show", &run])["nodes"], all["nodes"]);
    let record = document(&project, &["show", "p.yaml", "list"]);

    let file = document(&project, &["show", "p.yaml", "list.numbers"]);
    assert_eq!(
        file,
        json!({"digest": record["artifacts"]["numbers"]["digest"], "size_bytes": 6})
    );
    let paths = |value: &Value| {
        let files = value["files"].as_array().expect("a folder has files").iter();
        files
            .map(|file| file["path"].as_str().expect("a path").to_owned())
            .collect::<Vec<_>>()
    };
    let folder = document(&project, &["show", "p.yaml", "list.folder"]);
    assert_eq!(folder["digest"], record["artifacts"]["folder"]["digest"]);
    assert_eq!(
        (paths(&folder), &folder["size_bytes"]),
        (vec!["a/b/one".into(), "a/two".into(), "ab".into()], &json!(7))
    );
    let part = document(&project, &["show", "p.yaml", "list.folder/a"]);
    assert_eq!(
        (paths(&part), &part["size_bytes"]),
        (vec!["a/b/one".into(), "a/two".into()], &json!(5))
    );
    let inner = document(&project, &["show", "p.yaml", "list.folder/a/two"]);
    assert_eq!((inner.get("files"), &inner["size_bytes"]), (None, &json!(3)));
    assert_ne!(inner["digest"], part["digest"]);
    let shown = project.volvelle(&["show", "p.yaml", "list.folder/a"]).stdout;
    assert!(shown.contains("a/two") && !shown.contains("ab"), "{shown}");
}

#[test]
fn logs_are_a_document_a_line() {
    let project = ran();
    let lines = |project: &Project, arguments: &[&str]| -> Vec<Value> {
        let printed = printed(project, arguments);
        printed
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let run = document(&project, &["runs"])[0]["id"].clone();
    let expected = ["made", "no \u{fffd} end"].map(|line| json!({"node": "list", "run": run, "line": line}));
    assert_eq!(lines(&project, &["logs", "p.yaml", "list"]), expected);
    assert_eq!(lines(&project, &["logs", "p.yaml", "list", "--follow"]), expected);
    assert_eq!(lines(&project, &["logs", "p.yaml", "sum"]), Vec::<Value>::new());
    std::fs::remove_dir_all(project.path("cache/runs")).expect("runs");
    assert_eq!(
        lines(&project, &["logs", "p.yaml", "list"]),
        expected,
        "from the record alone"
    );
    assert_eq!(document(&project, &["runs"]), json!([]));
}
