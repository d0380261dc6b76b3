//! Workers that misbehave, and the end of the engine at a bad moment: what fails, what is lost, what is said.

use crate::project::{Project, finish, signal, states};

/// A pipeline with one stage `bad` of this command, one below it, and one that has nothing to do with it.
fn with_bad(run: &str, more: &str) -> Project {
    Project::new(&format!(
        r#"volvelle: 1
name: faults
stages:
  source: {{ uses: command, with: {{ run: "echo data > ${{outputs.out}}" }}, outputs: {{ out: text }} }}
  bad:
    uses: command
    needs: {{ data: source.out }}
    outputs: {{ out: text }}
    with:
      run: |
        {run}
    {more}
  below: {{ uses: command, needs: {{ bad: bad.out }}, with: {{ run: "cat ${{inputs.bad}} > ${{outputs.out}}" }}, outputs: {{ out: text }} }}
  beside: {{ uses: command, needs: {{ data: source.out }}, with: {{ run: "cat ${{inputs.data}} > ${{outputs.out}}" }}, outputs: {{ out: text }} }}
"#
    ))
}

/// Runs a pipeline whose `bad` fails, and returns what is said about it.
fn failure(project: &Project) -> serde_json::Value {
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    let expected = [
        ("source", "executed"),
        ("bad", "failed"),
        ("below", "skipped"),
        ("beside", "executed"),
    ];
    assert_eq!(ended.states(), states(&expected), "{}", ended.stdout);
    assert_eq!(ended.last()["ok"], false);
    ended.end_of("bad")
}

fn message(end: &serde_json::Value) -> &str {
    end["message"].as_str().expect("a failure has a message")
}

#[test]
fn a_failure_stops_what_depends_on_it_and_no_more() {
    let project = with_bad("echo one; echo two >&2; exit 3", "");
    let end = failure(&project);
    assert_eq!(message(&end), "the worker ended with exit code 3");
    assert_eq!(end["log_tail"], serde_json::json!(["one", "two"]));
    let lines = project.volvelle(&["run", "p.yaml"]).stdout;
    assert!(lines.contains("| two"), "{lines}");
    assert!(lines.contains("1 failed, 1 skipped"), "{lines}");
    assert_eq!(project.volvelle(&["logs", "p.yaml", "bad"]).stdout, "one\ntwo\n");
    assert!(project.volvelle(&["status", "p.yaml"]).stdout.contains("failed"));

    project.edit("exit 3", "cp ${inputs.data} ${outputs.out}");
    let expected = [
        ("source", "cached"),
        ("bad", "executed"),
        ("below", "executed"),
        ("beside", "cached"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
}

#[test]
fn the_first_line_that_fails_fails_the_node() {
    let end = failure(&with_bad("false\n        echo data > ${outputs.out}", ""));
    assert_eq!(message(&end), "the worker ended with exit code 1");
}

#[test]
fn a_signal_is_named() {
    let end = failure(&with_bad("kill -SEGV $$", ""));
    assert_eq!(message(&end), "the worker ended with signal 11 (SIGSEGV)");
}

#[test]
fn a_missing_output_is_named() {
    let end = failure(&with_bad("echo forgot it", ""));
    assert_eq!(message(&end), "the worker ended well but did not make its output `out`");
    assert_eq!(end["log_tail"], serde_json::json!(["forgot it"]));
}

#[test]
fn a_link_as_an_output_is_refused() {
    let end = failure(&with_bad("ln -s /etc/passwd ${outputs.out}", ""));
    assert!(message(&end).contains("symbolic link"), "{end}");
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let project = with_bad("true", "");
    project.edit(
        "      run: |\n        true",
        "      run: [no-such-program, \"${outputs.out}\"]",
    );
    assert!(message(&failure(&project)).contains("`no-such-program` was not found"));
}

#[test]
fn what_a_worker_reports_is_the_message() {
    let report = r#"printf '%s\n' '{"event": "error", "message": "no chat fits", "hint": "raise max_length"}' >> $VOLVELLE_EVENTS; exit 1"#;
    let end = failure(&with_bad(report, ""));
    assert_eq!(
        (message(&end), end["hint"].as_str()),
        ("no chat fits", Some("raise max_length"))
    );
}

#[test]
fn garbage_among_the_events_is_only_warned_about() {
    let garbage = r#"head -c 300000 /dev/urandom >> $VOLVELLE_EVENTS; printf '\n{"event": "metric", "name": "loss", "value": 0.5, "step": 1}\n{"event": "metric", "name": "loss", "value": NaN}\n' >> $VOLVELLE_EVENTS; cp ${inputs.data} ${outputs.out}"#;
    let project = with_bad(garbage, "");
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let warnings = ended
        .events()
        .iter()
        .filter(|event| event["event"] == "node_warning")
        .count();
    assert!((1..10).contains(&warnings), "{warnings}");
    let shown = project.volvelle(&["show", "p.yaml", "bad", "--json"]).stdout;
    let record: serde_json::Value = serde_json::from_str(&shown).expect("a record");
    assert_eq!(record["metrics"]["loss"], 0.5);
}

#[test]
fn a_changed_input_fails_the_node_and_poisons_nothing() {
    let project = with_bad(
        "chmod u+w ${inputs.data}; echo poison > ${inputs.data}; cp ${inputs.data} ${outputs.out}",
        "",
    );
    // Alone, so that the other reader of the same blob does not see the change either way.
    project.run(&["--until", "source"]);
    let ended = project.run_json(&["--only", "bad"]);
    assert_eq!(ended.states()["bad"], "failed");
    assert!(
        message(&ended.end_of("bad")).starts_with("the worker changed its input `data`"),
        "{}",
        ended.stdout
    );
    project.edit("chmod u+w ${inputs.data}; echo poison > ${inputs.data}; ", "");
    project.run(&[]);
    for node in ["source", "bad", "below", "beside"] {
        assert_eq!(
            project.volvelle(&["show", "p.yaml", &format!("{node}.out")]).stdout,
            "data\n",
            "{node}"
        );
    }
}

#[test]
fn a_time_limit_ends_a_worker_and_what_it_started() {
    let project = with_bad("sleep 600 & echo $! > grandchild; wait", "resources: { timeout: 1s }");
    let end = failure(&project);
    assert!(message(&end).contains("time limit of 1 s"), "{end}");
    project.wait_until_dead("grandchild");
}

#[test]
fn a_node_is_tried_again_as_often_as_it_says() {
    let project = with_bad(
        "echo x >> tries; test $(wc -l < tries) -ge 3; cp ${inputs.data} ${outputs.out}",
        "resources: { retries: 2 }",
    );
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let retries = ended
        .events()
        .iter()
        .filter(|event| event["event"] == "node_retry")
        .count();
    assert_eq!((retries, project.read("tries").lines().count()), (2, 3));
}

#[test]
fn fail_fast_stops_everything() {
    let project = with_bad("while ! test -e started; do sleep 0.02; done; exit 1", "");
    project.edit(
        "run: \"cat ${inputs.data} > ${outputs.out}\"",
        "run: \"echo $$ > beside-pid; touch started; sleep 600; cat ${inputs.data} > ${outputs.out}\"",
    );
    let ended = project.run_json(&["--fail-fast", "--cpus", "2"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    let expected = [
        ("source", "executed"),
        ("bad", "failed"),
        ("below", "skipped"),
        ("beside", "cancelled"),
    ];
    assert_eq!(ended.states(), states(&expected));
    project.wait_until_dead("beside-pid");
}

#[test]
fn too_many_gpus_are_told_before_anything_starts() {
    let project = with_bad("cp ${inputs.data} ${outputs.out}", "resources: { gpu: 2 }");
    let ended = project.volvelle(&["run", "p.yaml", "--gpus", "1"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stdout);
    assert!(
        ended.stderr.contains("bad asks for 2 GPUs, and there are 1"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stdout.contains("start "), "{}", ended.stdout);

    project.edit("cp ${inputs.data}", "echo GPU $CUDA_VISIBLE_DEVICES; cp ${inputs.data}");
    project.run(&["--gpus", "3"]);
    assert_eq!(project.volvelle(&["logs", "p.yaml", "bad"]).stdout, "GPU 0,1\n");
}

#[test]
fn more_processors_than_there_are_is_a_note() {
    let project = with_bad("echo ${resources.cpu} > ${outputs.out}", "resources: { cpu: 1000 }");
    let ended = project.run_json(&["--cpus", "2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let note = ended
        .events()
        .into_iter()
        .find(|event| event["event"] == "note")
        .expect("a note");
    assert!(
        note["message"]
            .as_str()
            .is_some_and(|text| text.contains("bad asks for 1000 processors")),
        "{note}"
    );
    assert_eq!(project.volvelle(&["show", "p.yaml", "bad.out"]).stdout, "2\n");
}

/// A stage that says that it runs, then waits to be let go; with a process of its own below it.
const WAITING: &str = "trap 'echo saved > saved; exit 1' TERM; sleep 600 & echo $! > grandchild; \
                       echo $$ > worker; while ! test -e go; do sleep 0.02; done; kill $!; cp ${inputs.data} ${outputs.out}";

#[test]
fn ctrl_c_lets_workers_save_and_the_next_run_finishes() {
    let project = with_bad(WAITING, "");
    let child = project.start(&["run", "p.yaml", "--json"]);
    project.wait_for("worker");
    project.wait_until("beside is done", || {
        project.volvelle(&["show", "p.yaml", "beside"]).code == Some(0)
    });
    signal(&child, "INT");
    let ended = finish(child);
    assert_eq!(ended.code, Some(130), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.last()["interrupted"], true);
    assert_eq!(
        (ended.states()["bad"].as_str(), ended.states()["below"].as_str()),
        ("cancelled", "cancelled")
    );
    assert_eq!(project.read("saved"), "saved\n");
    project.wait_until_dead("worker");
    project.wait_until_dead("grandchild");
    assert!(project.volvelle(&["runs"]).stdout.contains("interrupted"));
    project.write("go", "");
    let expected = [
        ("source", "cached"),
        ("bad", "executed"),
        ("below", "executed"),
        ("beside", "cached"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
}

#[test]
fn ctrl_c_twice_ends_at_once() {
    let project = with_bad(
        "trap '' TERM; echo $$ > worker; while ! test -e go; do sleep 0.02; done",
        "",
    );
    let child = project.start(&["run", "p.yaml", "--json"]);
    project.wait_for("worker");
    signal(&child, "INT");
    let said = || {
        let runs = std::fs::read_dir(project.path("cache/runs"))
            .into_iter()
            .flatten()
            .flatten();
        runs.filter_map(|run| std::fs::read_to_string(run.path().join("events.jsonl")).ok())
            .collect::<String>()
    };
    project.wait_until("the first signal was seen", || said().contains("interrupted: "));
    let start = std::time::Instant::now();
    signal(&child, "INT");
    assert_eq!(finish(child).code, Some(130));
    assert!(
        start.elapsed() < std::time::Duration::from_secs(8),
        "the ten seconds of grace were not waited for"
    );
    project.wait_until_dead("worker");
}

#[test]
fn kill_9_of_the_engine_kills_the_workers_and_loses_nothing() {
    let undisturbed = with_bad("cp ${inputs.data} ${outputs.out}", "");
    undisturbed.run(&[]);

    let project = with_bad(WAITING, "");
    let mut child = project.start(&["run", "p.yaml", "--json"]);
    project.wait_for("worker");
    project.wait_until("beside is done", || {
        project.volvelle(&["show", "p.yaml", "beside"]).code == Some(0)
    });
    child.kill().expect("the engine is there");
    child.wait().expect("the engine ends");
    project.wait_until_dead("worker");
    project.wait_until_dead("grandchild");
    assert!(project.volvelle(&["runs"]).stdout.contains("killed"));
    project.write("go", "");
    let expected = [
        ("source", "cached"),
        ("bad", "executed"),
        ("below", "executed"),
        ("beside", "cached"),
    ];
    assert_eq!(project.run(&[]), states(&expected));
    for node in ["source", "bad", "below", "beside"] {
        assert_eq!(project.digest(node, "out"), undisturbed.digest(node, "out"), "{node}");
    }
    let left = std::fs::read_dir(project.path("cache/tmp"))
        .expect("the folder is there")
        .count();
    assert_eq!(left, 0, "what the dead run left is removed");
}

#[test]
fn kill_9_of_a_worker_fails_its_node_alone() {
    let project = with_bad(WAITING, "");
    let child = project.start(&["run", "p.yaml", "--json"]);
    project.wait_for("worker");
    let worker = project.read("worker");
    let killed = std::process::Command::new("kill")
        .args(["-KILL", worker.trim()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let ended = finish(child);
    let expected = [
        ("source", "executed"),
        ("bad", "failed"),
        ("below", "skipped"),
        ("beside", "executed"),
    ];
    assert_eq!(ended.states(), states(&expected));
    assert_eq!(
        message(&ended.end_of("bad")),
        "the worker ended with signal 9 (SIGKILL)"
    );
    project.wait_until_dead("grandchild");
}

#[test]
fn what_a_command_does_to_its_folders_harms_nothing() {
    let command = |name: &str, run: &str| {
        format!(
            "  {name}: {{ uses: command, outputs: {{ out: text }}, with: {{ run: '{run}' }}, resources: {{ cpu: 64 }} }}\n"
        )
    };
    // One after the other, since each wants the whole machine: the later ones get the folders of the earlier.
    let stages = [
        command(
            "a",
            "d=$(dirname ${outputs.out}); rmdir $d; ln -s $PWD/mine $d; echo a > ${outputs.out}",
        ),
        command(
            "b",
            "d=$(dirname $(dirname ${outputs.out})); rm -rf $d/in; touch $d/in; echo b > ${outputs.out}",
        ),
        command("c", "ln $VOLVELLE_REQUEST $PWD/kept.json; echo c > ${outputs.out}"),
        command(
            "d",
            "d=$(dirname ${outputs.out}); echo d > ${outputs.out}; chmod 555 $d $d/../in",
        ),
        command(
            "e",
            "touch $(dirname ${outputs.out})/extra; mkdir -p $(dirname ${outputs.out})/x/y; echo e > ${outputs.out}",
        ),
        command("f", "ls $(dirname ${outputs.out}) > ${outputs.out}"),
    ];
    let project = Project::new(&format!("volvelle: 1\nstages:\n{}", stages.concat()));
    project.write("mine/precious", "kept");
    let states = project.run(&["--cpus", "1"]);
    assert!(states.values().all(|state| state == "executed"), "{states:?}");
    assert_eq!(project.read("mine/precious"), "kept");
    let request: serde_json::Value = serde_json::from_str(&project.read("kept.json")).expect("the request of c");
    assert_eq!(request["node"], "c");
    // The folder of the last one held nothing of those before it.
    assert_eq!(project.volvelle(&["show", "p.yaml", "f.out"]).stdout, "out\n");
}

#[test]
fn two_stages_that_are_the_same_fail_for_the_same_reason() {
    let stage = "{ uses: command, outputs: { out: text }, with: { run: 'exit 3' } }";
    let project = Project::new(&format!("volvelle: 1\nstages: {{ a: {stage}, b: {stage} }}\n"));
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(1));
    let messages = ended.stdout.matches("the worker ended with exit code 3").count();
    assert_eq!(messages, 2, "{}", ended.stdout);
}
