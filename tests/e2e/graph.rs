//! `graph`: the drawings of a pipeline whose cache holds some of its nodes.

use serde_json::{Value, json};

use crate::project::{Ended, Project};

const PIPELINE: &str = r#"volvelle: 1
name: words
stages:
  words:
    uses: command
    outputs: { text: text }
    with: { run: "seq 1 100 > ${outputs.text}" }
  count:
    uses: command
    needs: { text: words.text }
    matrix: { modulo: [3, 5], seed: [1, 2] }
    outputs: { number: text, log: text }
    with:
      run: "awk '$1 % ${matrix.modulo} == 0' ${inputs.text} > ${outputs.number}; echo ${matrix.seed} > ${outputs.log}"
  mean:
    uses: command
    needs: { numbers: count.number, text: words.text }
    gather: [seed]
    outputs: { mean: text }
    with: { run: "cat ${inputs.numbers} > ${outputs.mean}" }
  total:
    uses: command
    needs: { numbers: mean.mean, logs: count.log }
    gather: [modulo, seed]
    outputs: { sum: text }
    with: { run: "cat ${inputs.numbers} > ${outputs.sum}" }
"#;

/// Returns a project in which everything ran, and then another value was added to an axis.
fn partly_cached() -> Project {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.edit("modulo: [3, 5]", "modulo: [3, 5, 7]");
    project
}

fn drawn(project: &Project, options: &[&str]) -> String {
    let ended = graph(project, options);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // How long the nodes took is no part of the drawing that is compared.
    let lines = ended.stdout.lines().map(|line| match line.find("; at most ") {
        Some(at) => line[..at].to_owned(),
        None => line.to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

fn graph(project: &Project, options: &[&str]) -> Ended {
    project.volvelle(&[&["graph", "p.yaml"], options].concat())
}

#[test]
fn a_text_says_how_stages_hang_together_and_how_they_stand() {
    insta::assert_snapshot!(drawn(&partly_cached(), &[]));
}

#[test]
fn a_text_is_no_wider_than_the_terminal() {
    let project = partly_cached();
    let command = project
        .command(&["graph", "p.yaml", "--nodes"])
        .env("COLUMNS", "64")
        .output();
    let text = String::from_utf8(command.expect("the program starts").stdout).expect("the output is text");
    assert!(text.lines().skip(1).all(|line| line.chars().count() <= 64), "{text}");
    assert!(text.contains("count[modulo=7,seed=2]"), "{text}");
}

#[test]
fn mermaid_has_boxes_links_and_classes_of_states() {
    insta::assert_snapshot!(drawn(&partly_cached(), &["--format", "mermaid"]));
}

#[test]
fn dot_has_boxes_links_and_classes_of_states() {
    insta::assert_snapshot!(drawn(&partly_cached(), &["--format", "dot"]));
}

#[test]
fn svg_is_whole_always_the_same_and_says_what_a_box_is() {
    let project = partly_cached();
    let svg = drawn(&project, &["--format", "svg"]);
    assert_eq!(svg, drawn(&project, &["--format", "svg"]));
    assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
    for part in [
        "<title>count\ncommand\nmodulo × seed: 3 × 2 = 6 nodes\n2 run, 4 cached",
        "<g class=\"maybe\"><title>total",
        "gather modulo, seed",
        "prefers-color-scheme:dark",
    ] {
        assert!(svg.contains(part), "{part:?} in {svg}");
    }
    let ended = graph(&project, &["-o", "drawn.svg"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    assert!(project.read("drawn.svg").starts_with("<svg "));
}

#[test]
fn json_tells_boxes_and_links() {
    let ended = graph(&partly_cached(), &["--json"]);
    let value: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(value["counts"], json!({"cached": 7, "run": 2, "maybe": 2}));
    let count = &value["boxes"][1];
    assert_eq!((&count["name"], &count["nodes"]), (&json!("count"), &json!(6)));
    assert_eq!(
        count["axes"],
        json!([{"axis": "modulo", "values": 3}, {"axis": "seed", "values": 2}])
    );
    let gathered = json!({
        "from": 1, "to": 3, "uses": [{"output": "log", "input": "logs"}], "gather": ["modulo", "seed"],
    });
    assert!(
        value["links"].as_array().is_some_and(|links| links.contains(&gathered)),
        "{value:#}"
    );
}

#[test]
fn without_states_no_cache_is_needed_or_made() {
    let project = Project::new(PIPELINE);
    let text = drawn(&project, &["--no-state", "--only", "mean", "--only", "total"]);
    let expected = "words: 2 stages, 3 nodes\n\n\
        mean      modulo: 2 nodes  command\n\
        └─ total                   command  numbers: mean.mean, gather modulo\n";
    assert_eq!(text, expected);
    assert!(!project.exists("cache"));
}

#[test]
fn too_many_boxes_and_unknown_stages_are_told() {
    let values: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let project = Project::new(&PIPELINE.replace("modulo: [3, 5]", &format!("modulo: [{}]", values.join(","))));
    let ended = graph(&project, &["--nodes", "--no-state", "--format", "svg"]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("1202 boxes") && ended.stderr.contains("--only STAGE"),
        "{}",
        ended.stderr
    );
    assert!(
        drawn(&project, &["--nodes", "--no-state", "--format", "dot"])
            .lines()
            .count()
            > 2000
    );
    let ended = graph(&project, &["--only", "cuont"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("did you mean `count`?"), "{}", ended.stderr);
}
