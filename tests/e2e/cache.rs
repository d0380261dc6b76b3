//! What runs, and what does not, after each kind of change.

use std::time::{Duration, Instant};

use crate::project::{Project, finish, remove, states};

/// Every stage appends to a file of its own beside the pipeline, so that it shows how often it really ran.
const PIPELINE: &str = r#"volvelle: 1
name: numbers
params: { count: 3 }
stages:
  list:
    uses: command
    with: { run: "echo x >> ran-list; seq ${params.count} > ${outputs.out}" }
    outputs: { out: text }
  times:
    uses: command
    needs: { list: list.out }
    matrix: { factor: [2, 3] }
    with: { run: "echo x >> ran-times; awk '{ print $1 * ${matrix.factor} }' ${inputs.list} > ${outputs.out}" }
    outputs: { out: text }
  sum:
    uses: command
    needs: { lists: times.out }
    gather: [factor]
    with: { run: "echo x >> ran-sum; awk '{ s += $1 } END { print s }' ${inputs.lists} > ${outputs.out}; echo summed up" }
    outputs: { out: text }
"#;

fn all(state: &str) -> std::collections::BTreeMap<String, String> {
    states(&[
        ("list", state),
        ("sum", state),
        ("times[factor=2]", state),
        ("times[factor=3]", state),
    ])
}

#[test]
fn the_second_run_has_nothing_to_do_and_takes_no_time() {
    let project = Project::new(PIPELINE);
    assert_eq!(project.run(&[]), all("executed"));
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "30\n");
    assert_eq!(project.run(&[]), all("cached"));

    let timed = || {
        let start = Instant::now();
        let ended = project.volvelle(&["run", "p.yaml"]);
        assert!(
            ended.stdout.starts_with("nothing to do: 4 nodes cached"),
            "{}",
            ended.stdout
        );
        start.elapsed()
    };
    // The best of a few, because other tests run at the same time.
    let best = (0..10).map(|_| timed()).min().expect("several runs");
    assert!(best < Duration::from_millis(150), "{best:?}");
    assert_eq!(project.read("ran-sum"), "x\n");
}

#[test]
fn an_edit_runs_what_depends_on_it_and_no_more() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.edit("factor: [2, 3]", "factor: [3, 5, 2]");
    let expected = [
        ("list", "cached"),
        ("sum", "executed"),
        ("times[factor=2]", "cached"),
        ("times[factor=3]", "cached"),
        ("times[factor=5]", "executed"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
    project.edit("factor: [3, 5, 2]", "factor: [2, 3]");
    assert_eq!(project.run(&[]), all("cached"), "the former results are still there");
    assert_eq!(project.run(&["--set", "count=4"]), all("executed"));
    assert_eq!(project.run(&["--set", "count=3"]), all("cached"));
}

#[test]
fn an_edit_that_makes_the_same_bytes_is_cut_off() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    project.edit("seq ${params.count}", "true; seq ${params.count}");
    let expected = [
        ("list", "executed"),
        ("sum", "cut_off"),
        ("times[factor=2]", "cut_off"),
        ("times[factor=3]", "cut_off"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
    assert_eq!(project.read("ran-times"), "x\nx\n", "once for each factor");
    assert_eq!(
        project.run(&[]),
        all("cached"),
        "the result is known under its new recipe"
    );
}

#[test]
fn a_forced_rerun_with_the_same_bytes_stops_there() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let ended = project.run_json(&["--rerun", "times"]);
    let expected = [
        ("list", "cached"),
        ("sum", "cut_off"),
        ("times[factor=2]", "executed"),
        ("times[factor=3]", "executed"),
    ];
    assert_eq!(ended.states(), states(&expected));
    assert_eq!(ended.last()["cut_off"], 1);
    assert_eq!(ended.last()["ok"], true);
}

#[test]
fn a_forced_rerun_with_other_bytes_is_followed_even_if_it_was_interrupted() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    // An undeclared input, which is what forced reruns are for: the recipe does not change.
    project.edit(
        "seq ${params.count} >",
        "{ cat extra 2>/dev/null || true; seq ${params.count}; } >",
    );
    project.run(&[]);
    project.write("extra", "10\n");
    let only_list = project.run(&["--rerun", "list", "--until", "list"]);
    assert_eq!(only_list, states(&[("list", "executed")]));
    // The recipes below are all known, but were made from other bytes.
    let expected = [
        ("list", "cached"),
        ("sum", "executed"),
        ("times[factor=2]", "executed"),
        ("times[factor=3]", "executed"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "80\n");
}

#[test]
fn a_deleted_blob_is_made_again_by_its_own_node_alone() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let path = project
        .volvelle(&["show", "p.yaml", "times[factor=3].out", "--path"])
        .stdout;
    remove(std::path::Path::new(path.trim()));
    let ended = project.run_json(&[]);
    let expected = [
        ("list", "cached"),
        ("sum", "cut_off"),
        ("times[factor=2]", "cached"),
        ("times[factor=3]", "executed"),
    ];
    assert_eq!(ended.states(), states(&expected));
    let started = ended
        .events()
        .into_iter()
        .find(|event| event["event"] == "node_started");
    assert_eq!(
        started.map(|event| event["reason"]["why"].clone()),
        Some("blob_missing".into())
    );
    assert_eq!(project.run(&[]), all("cached"));
}

#[test]
fn a_deleted_index_and_a_deleted_record_cost_little() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    std::fs::remove_dir_all(project.path("cache/index")).expect("the index was made");
    assert_eq!(project.run(&[]), all("cached"));
    project.write("cache/index/db", "garbage");
    project.write("cache/index/conf", "garbage");
    assert_eq!(project.run(&[]), all("cached"));
    assert_eq!(project.run(&["--rerun", "sum"])["sum"], "executed");

    // A process that dies between the two names of a record leaves it under its content key only.
    let shown = project.volvelle(&["show", "p.yaml", "sum", "--json"]).stdout;
    let record: serde_json::Value = serde_json::from_str(&shown).expect("a record");
    let key = record["recipe_key"].as_str().expect("a key");
    let path = project.path("cache/records").join(&key[..2]).join(&key[2..]);
    remove(&path);
    assert_eq!(project.run(&[]), all("cached"));
    assert!(path.exists(), "it has both of its names again");
}

#[test]
fn until_and_only_choose_what_may_run() {
    let project = Project::new(PIPELINE);
    let alone = project.run_json(&["--only", "sum"]);
    assert_eq!(alone.code, Some(1));
    assert_eq!(alone.states()["list"], "failed");
    assert!(
        alone.end_of("list")["message"]
            .as_str()
            .is_some_and(|text| text.contains("--only"))
    );
    let until = project.run(&["--until", "times[factor=3]"]);
    assert_eq!(until, states(&[("list", "executed"), ("times[factor=3]", "executed")]));
    let only = project.run(&["--only", "times"]);
    let expected = [
        ("list", "cached"),
        ("times[factor=2]", "executed"),
        ("times[factor=3]", "cached"),
    ];
    assert_eq!(only, states(&expected));
    let unknown = project.volvelle(&["run", "p.yaml", "--until", "tims"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("did you mean `times`"), "{}", unknown.stderr);
}

#[test]
fn two_processes_at_once_run_each_node_once() {
    let project = Project::new(PIPELINE);
    project.edit(
        "echo x >> ran-list;",
        "echo x >> ran-list; while ! test -e go; do sleep 0.02; done;",
    );
    let first = project.start(&["run", "p.yaml", "--json"]);
    project.wait_for("ran-list");
    let second = project.start(&["run", "p.yaml", "--json"]);
    let events = || {
        let runs = std::fs::read_dir(project.path("cache/runs"))
            .into_iter()
            .flatten()
            .flatten();
        let texts = runs.filter_map(|run| std::fs::read_to_string(run.path().join("events.jsonl")).ok());
        texts.collect::<String>()
    };
    project.wait_until("the second process waits", || events().contains("node_waiting"));
    project.write("go", "");
    let (first, second) = (finish(first), finish(second));
    assert_eq!(
        (first.code, second.code),
        (Some(0), Some(0)),
        "{}{}",
        first.stderr,
        second.stderr
    );
    assert_eq!(second.states()["list"], "cached");
    for (file, times) in [("ran-list", 1), ("ran-times", 2), ("ran-sum", 1)] {
        assert_eq!(project.read(file).lines().count(), times, "{file}");
    }
    let executed = |ended: &crate::project::Ended| ended.last()["executed"].as_u64().unwrap_or(0);
    assert_eq!(executed(&first) + executed(&second), 4);
}

#[test]
fn stages_that_are_the_same_computation_run_once() {
    let stage =
        r#"{ uses: command, with: { run: "echo x >> ran; echo same > ${outputs.out}" }, outputs: { out: text } }"#;
    let project = Project::new(&format!(
        "volvelle: 1\nname: twins\nstages:\n  one: {stage}\n  two: {stage}\n"
    ));
    let mut ended: Vec<String> = project.run(&["--cpus", "2"]).into_values().collect();
    ended.sort();
    assert_eq!(ended, ["cached", "executed"]);
    assert_eq!(project.read("ran"), "x\n");
}

#[test]
fn what_was_run_can_be_looked_at() {
    let project = Project::new(PIPELINE);
    let run = project.volvelle(&["run", "p.yaml"]);
    assert!(
        run.stdout.contains("done in") && run.stdout.contains("4 executed"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("cache/outputs/numbers/sum/out.txt"),
        "{}",
        run.stdout
    );
    assert_eq!(project.read("cache/outputs/numbers/sum/out.txt"), "30\n");

    assert_eq!(project.volvelle(&["logs", "p.yaml", "sum"]).stdout, "summed up\n");
    assert_eq!(
        project.volvelle(&["logs", "p.yaml", "sum", "--follow"]).stdout,
        "summed up\n"
    );
    let status = project.volvelle(&["status", "p.yaml"]).stdout;
    assert!(
        status.contains("sum") && status.contains("cached") && status.contains("succeeded"),
        "{status}"
    );
    let runs: serde_json::Value = serde_json::from_str(&project.volvelle(&["runs", "--json"]).stdout).expect("JSON");
    assert_eq!(runs[0]["status"], "succeeded");
    assert_eq!(runs[0]["counts"]["executed"], 4);
    let id = runs[0]["id"].as_str().expect("an id");
    assert!(project.volvelle(&["show", id]).stdout.contains("times[factor=2]"));
    assert_eq!(project.volvelle(&["show", id, "sum.out"]).stdout, "30\n");

    assert_eq!(
        project
            .volvelle(&["show", "p.yaml", "sum.out", "--to", "copy.txt"])
            .code,
        Some(0)
    );
    assert_eq!(project.read("copy.txt"), "30\n");
    assert_eq!(
        project
            .volvelle(&["show", "p.yaml", "sum.out", "--to", "copy.txt"])
            .code,
        Some(1)
    );
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.nothing"]).code, Some(2));
    assert_eq!(project.volvelle(&["show", "p.yaml", "nothing"]).code, Some(2));
    project.edit("count: 3", "count: 9");
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum"]).code, Some(1));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let project = Project::new(PIPELINE);
    project.edit("count: 3", "count: 200000");
    project.run(&["--until", "list"]);
    let mut child = project.start(&["show", "p.yaml", "list.out"]);
    drop(child.stdout.take());
    let ended = finish(child);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// Returns the nodes that a run with some options executed, in the order of names.
fn executed(project: &Project, options: &[&str]) -> Vec<String> {
    let states = project.run(options).into_iter();
    states
        .filter(|(_, state)| state == "executed")
        .map(|(id, _)| id)
        .collect()
}

#[test]
fn selections_know_axes_patterns_and_both_directions() {
    let pipeline = |edit: &str| {
        format!(
            "volvelle: 1\nstages:\n  data: {{ uses: command, outputs: {{ out: text }}, with: {{ run: \"echo {edit} > ${{outputs.out}}\" }} }}\n  sft: {{ uses: command, needs: {{ x: data.out }}, matrix: {{ seed: [1, 2, 3], style: [a, b] }}, outputs: {{ out: text }}, with: {{ run: \"echo ${{matrix.seed}} ${{matrix.style}} | cat ${{inputs.x}} - > ${{outputs.out}}\" }} }}\n  eval: {{ uses: command, needs: {{ x: sft.out }}, outputs: {{ out: text }}, with: {{ run: \"cp ${{inputs.x}} ${{outputs.out}}\" }} }}\n  table: {{ uses: command, needs: {{ x: eval.out }}, gather: [\"*\"], outputs: {{ out: text }}, with: {{ run: \"cat ${{inputs.x}} > ${{outputs.out}}\" }} }}\n"
        )
    };
    let project = Project::new(&pipeline("1"));
    assert_eq!(
        executed(&project, &["--until", "sft[seed=1|2,style=b]"]),
        ["data", "sft[seed=1,style=b]", "sft[seed=2,style=b]"]
    );
    assert_eq!(
        executed(&project, &["--only", "[style=b,seed=1]"]),
        ["eval[seed=1,style=b]"]
    );
    // From here on only what is named and below may run, and here the table's other inputs are not there.
    let ended = project.run_json(&["--from", "e*[style=b,seed=2]"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.states()["eval[seed=2,style=b]"], "executed");
    assert_eq!(ended.states()["sft[seed=3,style=a]"], "failed");
    assert_eq!(ended.states()["table"], "skipped");
    let plan = project.volvelle(&["plan", "p.yaml", "--from", "eval[seed=2]", "--until", "eval"]);
    assert!(
        plan.stdout.contains("run     sft[seed=2,style=a]   about") || plan.stdout.contains("leaves it out"),
        "{}",
        plan.stdout
    );
    assert_eq!(project.run(&[])["table"], "executed");
    assert_eq!(
        executed(&project, &["--rerun", "sft[seed=3]"]),
        ["sft[seed=3,style=a]", "sft[seed=3,style=b]"]
    );
    let unknown = project.volvelle(&["plan", "p.yaml", "--only", "sft[seed=7]"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""));
    project.write("p.yaml", &pipeline("2"));
    assert_eq!(
        executed(&project, &["--from", "data", "--until", "sft[seed=1]"]),
        ["data", "sft[seed=1,style=a]", "sft[seed=1,style=b]"]
    );
}

#[test]
fn an_input_of_any_size_can_be_read_from_its_list() {
    let seeds: Vec<String> = (0..1500).map(|seed| seed.to_string()).collect();
    let pipeline = |run: &str| {
        format!(
            "volvelle: 1\nstages:\n  word: {{ uses: command, outputs: {{ out: text }}, with: {{ run: \"echo x > ${{outputs.out}}\" }} }}\n  all: {{ uses: command, needs: {{ many: [{}] }}, outputs: {{ out: text }}, with: {{ run: \"{run}\" }} }}\n",
            seeds
                .iter()
                .map(|seed| format!("s{seed}: word.out"))
                .collect::<Vec<_>>()
                .iter()
                .map(|item| format!("{{ {item} }}"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let project = Project::new(&pipeline("xargs cat < ${inputs.many.list} | wc -l > ${outputs.out}"));
    assert_eq!(project.run(&[])["all"], "executed");
    let shown = project.volvelle(&["show", "p.yaml", "all.out"]);
    assert_eq!(shown.stdout.trim(), "1500");
    // On the command line they are too many, and the message says what to write.
    project.write(
        "p.yaml",
        &pipeline("cat ${inputs.many} ${inputs.many} ${inputs.many} > ${outputs.out}"),
    );
    let ended = project.volvelle(&["run", "p.yaml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("${inputs.NAME.list}"), "{}", ended.stdout);
}
