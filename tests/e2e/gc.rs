//! `gc` and pins through the program: what goes, what stays, and that nobody beside it is harmed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use volvelle::digest::{ContentKey, Digest, RecipeKey};
use volvelle::store::{Lookup, Record, Store, Timestamp};

use crate::project::{Project, finish, states};

/// Each node writes some thousand bytes that say what it is, and leaves a line in `ran`.
const PIPELINE: &str = r#"volvelle: 1
name: sizes
params: { version: 1 }
stages:
  data:
    uses: command
    with: { run: "echo data ${params.version} >> ran; yes data ${params.version} | head -n 1000 > ${outputs.out}" }
    outputs: { out: text }
  train:
    uses: command
    needs: { data: data.out }
    matrix: { seed: [1, 2, 3] }
    with: { run: "echo train ${params.version} ${matrix.seed} >> ran; yes ${matrix.seed} ${params.version} | head -n 1000 > ${outputs.out}; sleep 0.05" }
    outputs: { out: text }
  table:
    uses: command
    needs: { all: train.out }
    gather: [seed]
    with: { run: "echo table ${params.version} >> ran; cat ${inputs.data-or-all} > ${outputs.out}" }
    outputs: { out: text }
"#;

fn project() -> Project {
    Project::new(&PIPELINE.replace("inputs.data-or-all", "inputs.all"))
}

fn gc(project: &Project, options: &[&str]) -> Value {
    let ended = project.volvelle(&[&["gc", "--json"], options].concat());
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// Every record has all its blobs, and they are what their names say.
fn assert_whole(project: &Project) {
    let store = Store::open(&project.path("cache")).expect("a cache");
    store.each_record(|record| {
        let found = store.lookup(record.recipe_key);
        assert!(matches!(found, Lookup::Hit(_)), "{}: {found:?}", record.node);
        for artifact in record.artifacts.values().filter(|artifact| artifact.manifest.is_none()) {
            store.read_blob(artifact.digest).expect("the blob of a record");
        }
    });
}

#[test]
fn what_is_told_is_done_and_runs_make_it_again() {
    let project = project();
    project.run(&[]);
    project.edit("version: 1", "version: 2");
    project.run(&[]);
    let told = gc(&project, &["--keep-runs", "1", "--dry-run"]);
    assert_eq!(told["result"]["removed"]["runs"]["nodes"], 5);
    let done = gc(&project, &["--keep-runs", "1"]);
    assert_eq!(told["result"], done["result"]);
    assert_whole(&project);
    assert!(project.run(&[]).values().all(|state| state == "cached"));
    project.edit("version: 2", "version: 1");
    assert!(project.run(&[]).values().all(|state| state == "executed"));
    let text = project.volvelle(&["gc", "--max-size", "1kB"]).stdout;
    // The last run of the pipeline stays; the one before it does not.
    assert!(
        text.contains("more than it may have, because nodes have to stay: 0 pinned"),
        "{text}"
    );
    assert!(text.starts_with("removed 5 nodes"), "{text}");
    assert!(project.run(&[]).values().all(|state| state == "cached"));
}

#[test]
fn pins_outlive_edits_and_are_shown() {
    let project = project();
    project.run(&[]);
    let pinned = project.volvelle(&["pin", "p.yaml", "table", "--name", "paper", "--note", "as submitted"]);
    assert_eq!(
        (pinned.code, pinned.stdout.as_str()),
        (Some(0), "pinned 1 of 1 as paper\n")
    );
    let by_run = project.volvelle(&["pin", "@1", "train[seed=2]"]);
    assert_eq!(by_run.code, Some(0), "{}", by_run.stderr);
    let by_digest = project.volvelle(&["pin", &project.digest("data", "out")[..16]]);
    assert_eq!(by_digest.code, Some(0), "{}", by_digest.stderr);
    assert!(
        project
            .volvelle(&["show", "p.yaml", "table"])
            .stdout
            .starts_with("pinned as paper\n")
    );
    let pins: Value = serde_json::from_str(&project.volvelle(&["pins", "--json"]).stdout).expect("JSON");
    assert_eq!(pins.as_array().map(Vec::len), Some(3));
    let listed = project.volvelle(&["pins"]).stdout;
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with("paper ") && line.ends_with(" as submitted")),
        "{listed}"
    );

    project.edit("version: 1", "version: 2");
    let kept = gc(&project, &["--keep-runs", "0"]);
    assert_eq!(kept["result"]["kept"]["pinned"]["nodes"], 3);
    assert_eq!(kept["result"]["removed"]["runs"]["nodes"], 2);
    project.edit("version: 2", "version: 1");
    let expected = [
        ("data", "cached"),
        ("table", "cut_off"),
        ("train[seed=1]", "executed"),
        ("train[seed=2]", "cached"),
        ("train[seed=3]", "executed"),
    ];
    assert_eq!(project.run(&[]), states(&expected));

    assert_eq!(project.volvelle(&["unpin", "paper"]).stdout, "unpinned paper\n");
    let wrong = project.volvelle(&["unpin", "paper"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("there is no pin `paper`"), "{}", wrong.stderr);
    let wrong = project.volvelle(&["pin", "p.yaml", "table", "--name", "../x"]);
    assert!(wrong.stderr.contains("can't be the name of a pin"), "{}", wrong.stderr);
    project.edit("version: 1", "version: 3");
    let nothing = project.volvelle(&["pin", "p.yaml", "table"]);
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("has no result yet"), "{}", nothing.stderr);
}

#[test]
fn the_size_in_the_settings_is_kept_after_each_run() {
    let project = project();
    project.write("volvelle.yaml", "cache: { max_size: 60kB }\n");
    let runs: Vec<String> = (1..6)
        .map(|version| {
            let ended = project.volvelle(&["run", "p.yaml", "--set", &format!("version={version}")]);
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
            ended.stdout
        })
        .collect();
    let lines = runs.iter().flat_map(|run| run.lines());
    let freed: Vec<&str> = lines.filter(|line| line.starts_with("cache: freed ")).collect();
    assert!(!freed.is_empty(), "{runs:?}");
    let left = gc(&project, &["--dry-run"])["result"]["bytes_before"].as_u64();
    assert!(left.is_some_and(|bytes| bytes <= 60_000), "{left:?}");
    assert_whole(&project);
    // What the pipeline is now is there, whatever went for it.
    let last = project.run(&["--set", "version=5"]);
    assert!(last.values().all(|state| state == "cached"), "{last:?}");

    // A limit that can't be kept is said once.
    project.write("volvelle.yaml", "cache: { max_size: 1kB }\n");
    let run = |version: &str| {
        project
            .volvelle(&["run", "p.yaml", "--set", version, "--until", "data"])
            .stdout
    };
    assert!(run("version=6").contains("more than it may have"));
    assert!(!run("version=7").contains("more than it may have"));
    let ended = project.volvelle(&["run", "p.yaml", "--json", "--set", "version=8"]);
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.last()["event"], "run_finished");
}

/// Eight processes run again and again what ninth removes again and again.
#[test]
fn runs_beside_gc_never_fail_and_never_miss_what_they_decided_to_use() {
    let project = project();
    let (is_over, mut removed) = (AtomicBool::new(false), 0);
    let mut executed = 0;
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut removed = 0;
            while !is_over.load(Ordering::SeqCst) {
                let result = gc(&project, &["--keep-runs", "0", "--max-size", "1B"]);
                let by_reason = result["result"]["removed"].as_object().expect("reasons");
                removed += by_reason.values().filter_map(|sum| sum["nodes"].as_u64()).sum::<u64>();
            }
            removed
        });
        let runners: Vec<_> = (0..8)
            .map(|number| {
                let project = &project;
                scope.spawn(move || {
                    let mut executed = 0;
                    for round in 0..3 {
                        let version = format!("version={}", (number + round) % 3);
                        let ended = project.run_json(&["--set", &version, "--cpus", "2"]);
                        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
                        executed += ended.last()["executed"].as_u64().expect("a number");
                    }
                    executed
                })
            })
            .collect();
        executed = runners.into_iter().map(|runner| runner.join().expect("a runner")).sum();
        is_over.store(true, Ordering::SeqCst);
        removed = collector.join().expect("the collector");
    });
    assert_whole(&project);
    let mut ran: BTreeMap<String, u64> = BTreeMap::new();
    for line in project.read("ran").lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(ran.len(), 15);
    assert_eq!(ran.values().sum::<u64>(), executed);
    // Each once, and once more for each time that it was collected.
    assert!(executed <= 15 + removed, "{executed} executed, {removed} removed");
    // While runs follow each other closely all may be in use all the time; nothing is once they are over.
    let result = gc(&project, &["--keep-runs", "0", "--max-size", "1B"]);
    let by_reason = result["result"]["removed"].as_object().expect("reasons");
    let rest: u64 = by_reason.values().filter_map(|sum| sum["nodes"].as_u64()).sum();
    assert_eq!(
        executed,
        removed + rest,
        "everything that was made was collected in the end"
    );
}

/// Adds made-up nodes to a cache without running anything; some share their bytes.
fn fill(store: &Store, num: usize, round: usize) {
    for idx in 0..num {
        let path = store.root().join(format!("tmp/made-{idx}"));
        fs::write(&path, format!("{round} {}", idx / 2).repeat(100)).expect("a file");
        let artifacts = store.admit(&[("out".to_owned(), path)]).expect("blobs");
        let name = format!("n{round}-{idx}");
        let record = Record {
            format: Record::FORMAT,
            recipe_key: RecipeKey(Digest::of(format!("recipe {name}").as_bytes())),
            recipe: json!({}),
            content_key: ContentKey(Digest::of(format!("content {name}").as_bytes())),
            content: json!({"inputs": {}}),
            node: name.clone(),
            stage: name,
            kind: "k".to_owned(),
            kind_version: 1,
            pipeline: "p".to_owned(),
            run: "r".to_owned(),
            attempt: 1,
            artifacts,
            metrics: BTreeMap::new(),
            started: Timestamp(1),
            ended: Timestamp(2),
            seconds: 1.0,
            host: "h".to_owned(),
            versions: BTreeMap::new(),
            log: None,
            same_as: None,
        };
        store.put_record(&record).expect("a record");
    }
}

#[test]
fn a_gc_that_is_killed_leaves_orphans_and_nothing_else() {
    let project = project();
    let store = Store::open(&project.path("cache")).expect("a cache");
    let arguments = ["gc", "--keep-runs", "0", "--older-than", "0s"];
    let mut num_killed = 0;
    for round in 0..12u32 {
        fill(&store, 40, round as usize);
        let start = Instant::now();
        let mut child = project.start(&arguments);
        // Later and later, over all of the time that it takes.
        thread::sleep(Duration::from_millis(u64::from(round) * 3));
        let _ = child.kill();
        let ended = finish(child);
        num_killed += usize::from(ended.code.is_none());
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_whole(&project);
    }
    assert!(num_killed > 0);
    let last = project.volvelle(&arguments);
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    let left = gc(&project, &["--dry-run"]);
    assert_eq!(left["result"]["bytes_before"], 0, "{left}");
    let tmp = fs::read_dir(project.path("cache/tmp")).expect("a folder");
    let left: Vec<_> = tmp.flatten().map(|entry| entry.file_name()).collect();
    assert!(left.len() <= 1, "{left:?}");
}

#[test]
fn on_a_read_only_cache_gc_tells_and_fails_cleanly() {
    let project = project();
    project.run(&[]);
    // Root may write whatever the mode says; a read-only mount holds for everybody.
    let script = "mount --bind cache cache && mount -o remount,ro,bind cache || exit 99; \
                  \"$0\" gc --dry-run --keep-runs 0 && \"$0\" plan p.yaml && \"$0\" gc --keep-runs 0";
    let ended = Command::new("unshare")
        .args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_volvelle")])
        .current_dir(project.path("."))
        .output();
    let ended = match ended {
        Ok(ended) if ended.status.code() != Some(99) && !ended.stderr.starts_with(b"unshare:") => ended,
        _ => {
            eprintln!("skipped: no read-only mount can be made here");
            return;
        }
    };
    let (stdout, stderr) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(stdout.contains("would remove 5 nodes"), "{stdout}{stderr}");
    assert!(stdout.contains("nothing to do"), "{stdout}{stderr}");
    assert_eq!(ended.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    assert!(project.run(&[]).values().all(|state| state == "cached"));
}
