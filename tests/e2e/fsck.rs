//! The check of the whole cache through the program: what it says, what it changes, and how it ends.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::project::{Killable, Numbers, Project, finish, flip, remove, states};

const PIPELINE: &str = r#"volvelle: 1
name: numbers
params: { count: 3 }
stages:
  list: { uses: command, outputs: { out: text }, with: { run: "seq ${params.count} > ${outputs.out}; echo counted" } }
  tree: { uses: command, needs: { l: list.out }, outputs: { out: folder }, with: { run: "mkdir ${outputs.out}; while read n; do echo $((n * n)) > ${outputs.out}/$n; done < ${inputs.l}" } }
  sum: { uses: command, needs: { t: tree.out }, outputs: { out: text }, with: { run: "cat ${inputs.t}/* | awk '{ s += $1 } END { print s }' > ${outputs.out}" } }
"#;

fn check(project: &Project, options: &[&str]) -> (Option<i32>, Value) {
    let ended = project.volvelle(&[&["fsck", "--json"], options].concat());
    let report = serde_json::from_str(&ended.stdout);
    (
        ended.code,
        report.unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr)),
    )
}

fn blob_of(project: &Project, output: &str) -> PathBuf {
    let shown = project.volvelle(&["show", "p.yaml", output, "--path"]);
    PathBuf::from(shown.stdout.trim())
}

#[test]
fn a_check_tells_who_needs_what_is_damaged_and_repair_makes_them_run_again() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let clean = project.volvelle(&["fsck"]);
    assert_eq!(clean.code, Some(0), "{}", clean.stdout);
    assert!(
        clean.stdout.starts_with("clean: read 6 records and 7 blobs"),
        "{}",
        clean.stdout
    );

    flip(&blob_of(&project, "list.out"), 3);
    remove(&blob_of(&project, "sum.out"));
    let told = project.volvelle(&["fsck"]);
    assert_eq!(told.code, Some(1));
    for part in [
        "its bytes are not what its name says\n  out of list (command, pipeline numbers)",
        "missing  blob",
        "  out of sum (command, pipeline numbers)",
        "2 damaged or missing; `volvelle fsck --repair`",
    ] {
        assert!(told.stdout.contains(part), "{part:?}:\n{}", told.stdout);
    }
    assert!(!project.exists("cache/quarantine"), "a check alone changes nothing");

    let (code, report) = check(&project, &["--repair"]);
    assert_eq!((code, &report["repaired"]), (Some(0), &Value::Bool(true)));
    let again: Vec<&str> = report["to_rebuild"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|need| need["node"].as_str())
        .collect();
    assert_eq!(again, ["list", "sum"]);
    let (code, report) = check(&project, &[]);
    assert_eq!((code, &report["clean"]), (Some(0), &Value::Bool(true)));
    let expected = [("list", "executed"), ("tree", "cut_off"), ("sum", "executed")];
    assert_eq!(project.run(&[]), states(&expected));
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "14\n");
}

#[test]
fn a_sample_rereads_a_share_and_says_so() {
    let project = Project::new(PIPELINE);
    project.run(&["--set", "count=200"]);
    let (code, report) = check(&project, &["--sample", "20%"]);
    let (blobs, reread) = (report["blobs"].as_u64(), report["reread"].as_u64());
    assert_eq!(code, Some(0));
    assert!(reread > Some(0) && reread < blobs, "{report}");
    assert_eq!(project.volvelle(&["fsck", "--sample", "half"]).code, Some(2));
}

#[test]
fn a_check_beside_a_run_finds_nothing() {
    let project = Project::new(
        "volvelle: 1\nstages:\n  many: { uses: command, matrix: { i: { range: [0, 60] } }, outputs: { out: folder }, with: { run: \"mkdir ${outputs.out}; for k in 1 2 3; do echo ${matrix.i} $k > ${outputs.out}/$k; done; echo log\" } }\n",
    );
    let run = project.start(&["run", "p.yaml", "--json"]);
    project.wait_until("something is done", || {
        fs::metadata(project.path("cache/records/journal")).is_ok_and(|journal| journal.len() > 0)
    });
    let mut rounds = 0;
    loop {
        let (code, report) = check(&project, &[]);
        assert_eq!(code, Some(0), "{report}");
        rounds += 1;
        if fs::read_to_string(project.path("cache/records/journal")).is_ok_and(|text| text.lines().count() == 62) {
            break;
        }
    }
    assert_eq!(finish(run).code, Some(0));
    assert!(rounds > 1, "the run was over too soon");
}

#[test]
fn a_blob_that_was_written_into_is_made_again_before_anything_uses_it() {
    let project = Project::new(PIPELINE);
    project.run(&["--until", "tree"]);
    flip(&blob_of(&project, "list.out"), 0);
    flip(&project.path("cache/blobs").join(blob_in(&project, "tree", "2")), 1);
    // What only shows how things stand does not read gigabytes for it, and changes nothing.
    assert_eq!(project.volvelle(&["plan", "p.yaml"]).code, Some(0));
    assert!(!project.exists("cache/quarantine"));
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = [("list", "executed"), ("tree", "executed"), ("sum", "executed")];
    assert_eq!(ended.states(), states(&expected));
    assert!(ended.stderr.contains("changed by something else"), "{}", ended.stderr);
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "14\n");
    assert_eq!(check(&project, &[]).0, Some(0));
}

#[test]
fn a_copy_of_a_cache_without_its_times_is_read_once_more_and_used() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let copied = std::process::Command::new("cp")
        .args(["-r", "cache", "copy"])
        .current_dir(project.path(""))
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    let states = project.run(&["--cache", "copy"]);
    assert!(states.values().all(|state| state == "cached"), "{states:?}");
    assert!(!project.exists("copy/quarantine"));
}

/// Returns the path under `blobs/` of a file of a folder.
fn blob_in(project: &Project, node: &str, file: &str) -> PathBuf {
    let copy = project.volvelle(&["show", "p.yaml", &format!("{node}.out/{file}"), "--path"]);
    let path = PathBuf::from(copy.stdout.trim());
    path.strip_prefix(project.path("cache/blobs").canonicalize().expect("the folder"))
        .expect("a file of a folder is a blob")
        .to_path_buf()
}

#[test]
fn a_repair_that_is_killed_is_finished_by_the_next() {
    let project = Project::in_memory(
        "volvelle: 1\nstages:\n  many: { uses: command, matrix: { i: { range: [1, 40] } }, outputs: { out: folder }, with: { run: \"mkdir ${outputs.out}; for k in 1 2 3; do echo ${matrix.i} $k > ${outputs.out}/$k; done\" } }\n  all: { uses: command, needs: { m: many.out }, gather: [i], outputs: { out: text }, with: { run: \"for d in ${inputs.m}; do cat $d/*; done > ${outputs.out}\" } }\n",
    );
    project.run(&[]);
    let before = project.digest("all", "out");
    let mut numbers = Numbers::new("kills of a repair");
    let mut files: Vec<PathBuf> = Vec::new();
    for area in ["cache/blobs", "cache/records"] {
        for shard in fs::read_dir(project.path(area)).expect("a folder").flatten() {
            let entries = fs::read_dir(shard.path()).into_iter().flatten().flatten();
            files.extend(entries.map(|entry| entry.path()));
        }
    }
    files.sort();
    for path in files {
        match numbers.below(4) {
            0 => flip(&path, numbers.below(1 << 20)),
            1 if path.starts_with(project.path("cache/blobs")) => remove(&path),
            _ => {}
        }
    }
    assert_eq!(check(&project, &[]).0, Some(1));
    for _ in 0..12 {
        let mut repair = Killable::start(project.command(&["fsck", "--repair"]));
        std::thread::sleep(Duration::from_micros(numbers.below(25_000) as u64));
        repair.kill();
    }
    assert_eq!(check(&project, &["--repair"]).0, Some(0));
    assert_eq!(check(&project, &[]).1["clean"], true);
    project.run(&[]);
    assert_eq!(project.digest("all", "out"), before);
}
