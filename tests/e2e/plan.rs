//! `plan`, `why` and `kinds` over a cache that real runs filled: what is predicted, and which reasons are given.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

const PIPELINE: &str = r#"volvelle: 1
name: tiny
stages:
  data: { uses: tiny.data, with: { count: 3 } }
  train:
    uses: tiny.train
    needs: { data: data.out }
    matrix: { style: [search, direct] }
    with: { style: "${matrix.style}" }
  eval: { uses: tiny.eval, needs: { model: train.out } }
  table: { uses: tiny.table, needs: { scores: eval.out }, gather: [style] }
"#;

const PLUGIN: &str = r#"plugin: 1
name: tiny
command: [sh, work.sh]
code: [work.sh]
kinds:
  tiny.data: { version: 1, params: { count: { type: integer } }, outputs: { out: { type: problems } } }
  tiny.train:
    version: 1
    params:
      num_train_epochs: { type: integer, default: 1 }
      style: { type: string, default: search }
      num_workers: { type: integer, default: 2, class: runtime }
    inputs: { data: { type: problems } }
    outputs: { out: { type: model } }
  tiny.eval: { version: 1, inputs: { model: { type: model } }, outputs: { out: { type: scores } } }
  tiny.table: { version: 1, inputs: { scores: { type: scores, gathered: true } }, outputs: { out: { type: html } } }
"#;

/// A worker that writes its own parameters and the bytes of its inputs.
const WORK: &str = r#"set -e
request=$(tr -d '\n' < "$1" | sed 's/": */":/g')
field() { printf '%s' "$request" | grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
{ printf '%s' "$request" | grep -o '"params":{[^}]*}'
  printf '%s' "$request" | grep -o '"path":"[^"]*"' | cut -d '"' -f 4 | while read -r path; do cat "$path"; done
} > "$(field out)"
"#;

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Project {
        let project = Project {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        project.write("tiny.yaml", PIPELINE);
        project.write("plugins/tiny/plugin.yaml", PLUGIN);
        project.write("plugins/tiny/work.sh", WORK);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("inside the project")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn volvelle(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volvelle"));
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .args(args)
            .arg("--cache")
            .arg("cache")
            .output()
            .expect("the program starts")
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.volvelle(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[args, &["--json"]].concat())).expect("output is JSON")
    }

    fn plan(&self, args: &[&str]) -> Plan {
        Plan(self.json(&[&["plan", "tiny.yaml"], args].concat()))
    }

    fn run(&self) {
        self.text(&["run", "tiny.yaml"]);
    }
}

struct Plan(Value);

impl Plan {
    fn node(&self, id: &str) -> &Value {
        let nodes = self.0["nodes"].as_array().expect("a list of nodes");
        nodes
            .iter()
            .find(|node| node["id"] == id)
            .unwrap_or_else(|| panic!("no node {id}"))
    }

    fn states(&self) -> Vec<String> {
        let nodes = self.0["nodes"].as_array().expect("a list of nodes");
        nodes
            .iter()
            .map(|node| format!("{} {}", node["id"], node["state"]).replace('"', ""))
            .collect()
    }
}

#[test]
fn a_first_plan_runs_everything_and_a_second_nothing() {
    let project = Project::new();
    let plan = project.plan(&[]);
    assert_eq!(plan.0["counts"], json!({"cached": 0, "run": 6, "maybe": 0}));
    assert_eq!(plan.node("table")["cause"], "new");
    assert_eq!(plan.node("table")["estimate_s"], Value::Null);
    project.run();
    let plan = project.plan(&[]);
    assert_eq!(plan.0["counts"], json!({"cached": 6, "run": 0, "maybe": 0}));
    assert_eq!(plan.node("eval[style=direct]")["axes"], json!({"style": "direct"}));
    assert_eq!(
        project.text(&["plan", "tiny.yaml"]),
        "tiny: nothing to do: 6 nodes cached\n"
    );
}

#[test]
fn a_changed_parameter_is_the_reason_and_what_follows_is_told_apart() {
    let project = Project::new();
    project.run();
    let plan = project.plan(&["--set", "stages.train.with.num_train_epochs=2"]);
    let expected = [
        "data cached",
        "train[style=search] run",
        "train[style=direct] run",
        "eval[style=search] maybe",
        "eval[style=direct] maybe",
        "table maybe",
    ];
    assert_eq!(plan.states(), expected);
    // The earlier value was the default, which no key holds; it is told all the same.
    let reasons = json!([{"path": "with.num_train_epochs", "old": 1, "new": 2}]);
    assert_eq!(plan.node("train[style=direct]")["reasons"], reasons);
    assert_eq!(plan.node("train[style=direct]")["root"], Value::Null);
    let below = plan.node("eval[style=direct]");
    assert_eq!(
        (&below["cause"], &below["root"]),
        (&json!("upstream"), &json!("train[style=direct]"))
    );
    assert_eq!(below["reasons"][0]["path"], "needs.model.recipe");
    assert!(below["estimate_s"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let text = project.text(&["plan", "tiny.yaml", "--set", "stages.train.with.num_train_epochs=2"]);
    assert!(
        text.contains("with.num_train_epochs 1 -> 2") && text.contains("after train[style=direct]"),
        "{text}"
    );
}

#[test]
fn what_does_not_change_the_result_runs_nothing() {
    let project = Project::new();
    project.run();
    let renamed = PIPELINE
        .replace("  train:", "  # a comment\n  tuned:")
        .replace("train.out", "tuned.out");
    project.write(
        "tiny.yaml",
        &renamed.replace(
            "style: \"${matrix.style}\"",
            "num_workers: 7, style: \"${matrix.style}\"",
        ),
    );
    assert_eq!(
        project.plan(&[]).0["counts"],
        json!({"cached": 6, "run": 0, "maybe": 0})
    );
}

#[test]
fn new_points_are_compared_with_their_neighbours() {
    let project = Project::new();
    project.run();
    let plan = project.plan(&["--set", "stages.train.matrix.style=[search, direct, mixed]"]);
    assert_eq!(plan.0["counts"], json!({"cached": 5, "run": 1, "maybe": 2}));
    let new = plan.node("train[style=mixed]");
    assert_eq!(
        (&new["reasons"][0]["path"], &new["reasons"][0]["new"]),
        (&json!("with.style"), &json!("mixed"))
    );
    assert_eq!(plan.node("table")["root"], "train[style=mixed]");
}

#[test]
fn edited_code_forced_stages_and_lost_blobs_have_their_own_causes() {
    let project = Project::new();
    project.run();
    let plan = project.plan(&["--rerun", "data"]);
    assert_eq!(
        (&plan.node("data")["cause"], &plan.node("data")["state"]),
        (&json!("rerun"), &json!("run"))
    );
    assert_eq!(
        (&plan.node("table")["state"], &plan.node("table")["root"]),
        (&json!("maybe"), &json!("data"))
    );

    let show = project.json(&["show", "tiny.yaml", "data"]);
    let digest = show["artifacts"]["out"]["digest"]
        .as_str()
        .or(show["record"]["artifacts"]["out"]["digest"].as_str());
    let digest = digest.unwrap_or_else(|| panic!("a digest in {show}"));
    std::fs::remove_file(project.path("cache/blobs").join(&digest[..2]).join(&digest[2..])).expect("the blob");
    let plan = project.plan(&[]);
    assert_eq!(
        (&plan.node("data")["cause"], &plan.node("data")["state"]),
        (&json!("blob_missing"), &json!("run"))
    );

    project.write("plugins/tiny/work.sh", &format!("# another comment\n{WORK}"));
    let plan = project.plan(&[]);
    assert_eq!(plan.0["counts"]["cached"], 0);
    // The file that changed, by its digest before and after.
    assert_eq!(plan.node("data")["reasons"][0]["path"], "code.work.sh");
    assert_eq!(plan.node("data")["reasons"].as_array().map(Vec::len), Some(1));
}

#[test]
fn why_gives_the_whole_key_part_by_part() {
    let project = Project::new();
    project.run();
    let set = ["--set", "stages.train.with.num_train_epochs=2"];
    let why = project.json(&[&["why", "tiny.yaml", "train[style=direct]"], &set[..]].concat());
    assert_eq!(why["nearest"]["node"], "train[style=direct]");
    assert_eq!(
        why["nearest"]["changes"],
        json!([{"path": "with.num_train_epochs", "old": 1, "new": 2}])
    );
    let changed: Vec<&Value> = why["parts"]
        .as_array()
        .expect("parts")
        .iter()
        .filter(|part| part["changed"] == true)
        .collect();
    assert_eq!(
        changed,
        [&json!({"path": "with.num_train_epochs", "old": 1, "new": 2, "changed": true})]
    );
    assert_eq!(
        why["outside"],
        json!([{"name": "num_workers", "value": 2, "class": "runtime"}])
    );

    let text = project.text(&[&["why", "tiny.yaml", "table"], &set[..]].concat());
    for expected in [
        "table: maybe",
        "after train[style=search]",
        "with.num_train_epochs 1 -> 2",
        "eval[style=direct].out",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let text = project.text(&["why", "tiny.yaml", "table"]);
    assert!(
        text.starts_with("table: cached") && text.contains("there is no earlier record"),
        "{text}"
    );
}

#[test]
fn kinds_are_listed_and_described() {
    let project = Project::new();
    let kinds = project.json(&["kinds"]);
    let names: Vec<&str> = kinds
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|kind| kind["name"].as_str())
        .collect();
    assert_eq!(names[..3], ["command", "tiny.data", "tiny.train"]);
    let train = project.json(&["kinds", "tiny.train"]);
    assert_eq!(train["params"]["num_workers"]["class"], "runtime");
    assert_eq!(train["inputs"]["data"]["type"], "problems");
    let text = project.text(&["kinds", "tiny.train"]);
    assert!(text.contains("num_train_epochs  an integer  default 1"), "{text}");
}
