//! `compare` over sweeps that were really run: which rows there are, what is in them, and how mistakes are told.

use serde_json::{Value, json};

use crate::project::{Ended, Project};

/// Twelve points, two of which fail; the metrics are plain functions of the axes.
const PIPELINE: &str = r#"volvelle: 1
name: sweep
stages:
  data: { uses: command, outputs: { out: text }, with: { run: "echo data > ${outputs.out}" } }
  sft:
    uses: command
    needs: { data: data.out }
    matrix: { learning_rate: [1.0e-4, 3.0e-4], style: [search, direct], seed: [1, 2, 3] }
    outputs: { scores: scores, curve: metrics }
    with:
      run: |
        rate=${matrix.learning_rate} style=${matrix.style} seed=${matrix.seed}
        if [ $style.$seed = direct.3 ]; then exit 7; fi
        loss=$(awk "BEGIN { print 0.3 + $rate * 100 + $seed * $seed / 100 }")
        echo "{\"event\": \"metric\", \"name\": \"loss\", \"value\": $loss}" >> $VOLVELLE_EVENTS
        echo "{\"pass_at_1\": 0.$seed, \"pass_at_k\": {\"1\": 0.$seed, \"4\": 0.5}, \"ci\": [0.25, 0.75]}" > ${outputs.scores}
        printf '{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.%s}\n' $seed > ${outputs.curve}
  eval:
    uses: command
    needs: { scores: sft.scores }
    outputs: { out: json }
    with: { run: "cp ${inputs.scores} ${outputs.out}" }
"#;

fn swept() -> Project {
    let project = Project::new(PIPELINE);
    let ended = project.volvelle(&["run", "p.yaml"]);
    assert_eq!(ended.code, Some(1), "two points fail: {}", ended.stderr);
    project
}

fn compare(project: &Project, arguments: &[&str]) -> Ended {
    project.volvelle(&[&["compare", "p.yaml"], arguments].concat())
}

fn text(project: &Project, arguments: &[&str]) -> String {
    let ended = compare(project, arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn table(project: &Project, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(project, &[arguments, &["--json"]].concat())).expect("a table")
}

#[test]
fn seeds_are_collapsed_and_no_point_vanishes() {
    let project = swept();
    insta::assert_snapshot!("over_seeds", text(&project, &["sft", "--metric", "loss"]));
    let table = table(&project, &["sft"]);
    assert_eq!(table["over"], json!(["seed"]));
    assert_eq!(table["metrics"], json!(["loss", "seconds"]));
    assert_eq!(table["states"], json!({"done": 10, "failed": 2}));
    let direct = &table["rows"][1];
    assert_eq!(direct["axes"], json!({"learning_rate": 0.0001, "style": "direct"}));
    assert_eq!((&direct["n"], &direct["states"]["failed"]), (&json!(2), &json!(1)));
    assert_eq!(direct["message"], "the worker ended with exit code 7");
    // The mean of 0.32 and 0.35; t(0.975, 1) is 12.7062, the standard error 0.015.
    let ends: Vec<f64> = (0..2)
        .filter_map(|end| direct["values"]["loss"]["ci95"][end].as_f64())
        .collect();
    assert!(
        (ends[0] - (0.335 - 0.190593)).abs() < 1e-6 && (ends[1] - (0.335 + 0.190593)).abs() < 1e-6,
        "{ends:?}"
    );
}

#[test]
fn every_point_can_be_shown_sorted_and_filtered() {
    let project = swept();
    let shown = text(
        &project,
        &[
            "sft",
            "--no-over",
            "--metric",
            "loss",
            "--sort",
            "-loss",
            "--where",
            "style=direct",
        ],
    );
    insta::assert_snapshot!("no_over", shown);
    let table = table(
        &project,
        &[
            "sft",
            "--where",
            "learning_rate>1e-4",
            "--where",
            "seed!=2",
            "--over",
            "seed,style",
        ],
    );
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(table["rows"][0]["n"], 3);
    let csv = text(
        &project,
        &[
            "sft",
            "--no-over",
            "--columns",
            "node,loss",
            "--top",
            "2",
            "--format",
            "csv",
        ],
    );
    assert_eq!(
        csv,
        "node,loss\n\"sft[learning_rate=0.0001,seed=1,style=search]\",0.32\n\
         \"sft[learning_rate=0.0001,seed=1,style=direct]\",0.32\n"
    );
}

#[test]
fn numbers_come_from_records_outputs_and_parameters() {
    let project = swept();
    let metrics = "scores.pass_at_1,scores.pass_at_k.4,scores.ci.1,curve.reward,with.run,seconds";
    let table = table(
        &project,
        &["sft", "--no-over", "--metric", metrics, "--where", "seed=2"],
    );
    let values = &table["rows"][0]["values"];
    assert_eq!(values["scores.pass_at_1"], 0.2);
    assert_eq!(
        (&values["scores.pass_at_k.4"], &values["scores.ci.1"]),
        (&json!(0.5), &json!(0.75))
    );
    assert_eq!(values["curve.reward"], 0.2, "the last line counts");
    assert!(
        values["with.run"]
            .as_str()
            .is_some_and(|text| text.starts_with("rate=0.0001"))
    );
    assert_eq!(table["best"], json!({"metric": "scores.pass_at_1", "direction": "max"}));
    // A stage whose workers tell no metrics is compared by the numbers in its outputs.
    let eval = text(
        &project,
        &[
            "eval",
            "--columns",
            "learning_rate,style,n,state,out.pass_at_1",
            "--sort",
            "out.pass_at_1",
        ],
    );
    insta::assert_snapshot!("outputs", eval);
}

#[test]
fn an_earlier_run_is_compared_as_it_was() {
    let project = swept();
    project.edit("exit 7", "true");
    project.edit("learning_rate: [1.0e-4, 3.0e-4]", "learning_rate: [2.0e-4]");
    project.run(&[]);
    let rates = |arguments: &[&str]| {
        let table = table(&project, &[&["sft"], arguments].concat());
        let rows = table["rows"].as_array().expect("rows").clone();
        rows.iter()
            .map(|row| row["axes"]["learning_rate"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(rates(&[]), ["0.0002", "0.0002"]);
    assert_eq!(rates(&["--run", "@1"]), ["0.0002", "0.0002"]);
    assert_eq!(rates(&["--run", "@2"]), ["0.0001", "0.0001", "0.0003", "0.0003"]);
    project.run(&["--rerun", "sft"]);
    let again = text(&project, &["sft", "--run", "@2", "--metric", "loss"]);
    assert!(
        again.contains("made again after this run, so not what it had: 6 of the results"),
        "{again}"
    );
    assert_eq!(table(&project, &["sft", "--run", "@3"])["num_remade"], 0);
    // The pipeline itself may be broken by now.
    project.write("p.yaml", "volvelle: 1\nstages: [");
    assert_eq!(
        table(&project, &["sft", "--run", "@3"])["states"],
        json!({"done": 10, "failed": 2})
    );
}

#[test]
fn mistakes_name_what_was_probably_meant() {
    let project = Project::new(PIPELINE);
    let nothing = compare(&project, &["sft", "--where", "seed=1"]);
    assert_eq!(nothing.code, Some(1));
    insta::assert_snapshot!("nothing_run", nothing.stderr);
    project.volvelle(&["run", "p.yaml"]);
    let mut told = String::new();
    for arguments in [
        ["stf", "--no-over"].as_slice(),
        &["sft", "--metric", "scors.pass_at_1"],
        &["sft", "--metric", "learning-rate"],
        &["sft", "--sort", "-lss"],
        &["sft", "--columns", "style,nonsense"],
        &["sft", "--columns", "seed,loss"],
        &["sft", "--over", "sead"],
        &["sft", "--where", "styl=search"],
        &["sft", "--where", "style=serach"],
        &["sft", "--where", "style<3"],
        &["sft", "--where", "style"],
        &["sft", "--where", "seed<2", "--where", "seed>2"],
        &["sft", "--run", "@9"],
        &["sft", "--run", "yesterday"],
    ] {
        let ended = compare(&project, arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        told.push_str(ended.stderr.lines().next().unwrap_or_default());
        told.push('\n');
    }
    insta::assert_snapshot!("mistakes", told);
}
