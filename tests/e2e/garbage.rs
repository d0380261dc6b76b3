//! Random damage to everything that can be made again: the index, the snapshot, the journal, locks, runs. It is made
//! again or done without; nothing breaks, no node runs again, and what was known is known.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use volvelle::store::Store;

use crate::project::{Numbers, Project, finish};
use crate::upgrade::copy;

const PIPELINE: &str = r#"volvelle: 1
name: numbers
stages:
  list: { uses: command, outputs: { out: text }, with: { run: "seq 3 > ${outputs.out}; echo logged" } }
  times: { uses: command, needs: { l: list.out }, matrix: { i: { range: [1, 70] } }, outputs: { out: text }, with: { run: "cat ${inputs.l} > ${outputs.out}; echo ${matrix.i} >> ${outputs.out}" } }
"#;

/// What is not the truth. `format` is among them: one that lost its bytes is written again.
fn targets(cache: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["index", "runs", "locks", "outputs"]
        .map(|folder| cache.join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                folder if folder.is_dir() => folders.push(folder),
                file => found.push(file),
            }
        }
    }
    found.extend(["records/snapshot", "records/journal"].map(|file| cache.join(file)));
    found.sort();
    found
}

/// Damages a file in one of the ways in which disks and programs do.
fn damage(path: &Path, numbers: &mut Numbers) -> String {
    let mut bytes = fs::read(path).expect("a file");
    let len = bytes.len();
    let (from, to) = (numbers.below(len + 1), numbers.below(len + 1));
    let (from, to) = (from.min(to), from.max(to));
    let how = match numbers.below(7) {
        0 => {
            bytes.truncate(from);
            "cut"
        }
        1 => {
            bytes[from..to].fill(0);
            "zeroed in part"
        }
        2 => {
            bytes.fill(0);
            "zeroed"
        }
        3 => {
            for _ in 0..=numbers.below(40) {
                let bit = numbers.below(8 * len);
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            "flipped"
        }
        4 => {
            bytes[from..to].fill_with(|| numbers.below(256) as u8);
            "overwritten"
        }
        5 => {
            bytes.extend((0..numbers.below(5000)).map(|_| numbers.below(256) as u8));
            "extended"
        }
        _ => {
            bytes.clear();
            "emptied"
        }
    };
    fs::write(path, bytes).expect("a file");
    format!("{} {how}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Damages a few files. The index is the likeliest: it has the most to get wrong.
fn damage_some(cache: &Path, numbers: &mut Numbers) -> Vec<String> {
    let targets = targets(cache);
    let index: Vec<&PathBuf> = targets
        .iter()
        .filter(|path| path.starts_with(cache.join("index")))
        .collect();
    let mut done = Vec::new();
    for _ in 0..=numbers.below(3) {
        let path = match numbers.below(2) {
            0 if !index.is_empty() => index[numbers.below(index.len())],
            _ => &targets[numbers.below(targets.len())],
        };
        done.push(damage(path, numbers));
    }
    if numbers.below(8) == 0 {
        fs::write(cache.join("format"), ["", "\0\0\0"][numbers.below(2)]).expect("a file");
        done.push("format emptied".to_owned());
    }
    done
}

/// A project whose nodes were run twice, so that there are an index, a snapshot and history.
fn pristine() -> Project {
    let project = Project::in_memory(PIPELINE);
    project.run(&[]);
    project.run(&["--rerun", "list"]);
    assert_eq!(project.volvelle(&["why", "p.yaml", "list"]).code, Some(0));
    project
}

#[test]
fn garbage_in_what_can_be_made_again_is_never_noticed_by_more_than_a_warning() {
    let pristine = pristine();
    let mut numbers = Numbers::new("garbage");
    for round in 0..40 {
        let project = Project::in_memory(PIPELINE);
        copy(&pristine.path("cache"), &project.path("cache"));
        let done = damage_some(&project.path("cache"), &mut numbers);
        for command in [
            &["plan", "p.yaml", "--rerun", "times"][..],
            &["status", "p.yaml"],
            &["runs"],
            &["why", "p.yaml", "list"],
            &["logs", "p.yaml", "list"],
            &["compare", "p.yaml", "times"],
            &["fsck"],
        ] {
            let start = Instant::now();
            let ended = finish(project.start(command));
            let said = format!("round {round}, {done:?}, {command:?}: {}{}", ended.stdout, ended.stderr);
            assert_eq!(ended.code, Some(0), "{said}");
            assert!(!ended.stderr.contains("this is a bug"), "{said}");
            assert!(start.elapsed() < Duration::from_secs(20), "{said}");
        }
        let ended = project.run_json(&[]);
        assert_eq!(ended.code, Some(0), "{done:?}: {}", ended.stderr);
        assert!(
            ended.states().values().all(|state| state == "cached"),
            "{done:?}: {}",
            ended.stdout
        );
        let shown = project.volvelle(&["show", "p.yaml", "times[i=70].out"]);
        assert_eq!(shown.stdout, "1\n2\n3\n70\n", "{done:?}");
    }
}

#[test]
fn an_index_of_garbage_is_built_again_and_nothing_is_lost() {
    let pristine = pristine();
    let numbers = Numbers::new("index of garbage");
    let kept = |store: &Store| {
        let history = store.history();
        let all = history.of_kind("command", 100).len();
        (all, history.of_node("command", "numbers", "list", "list", 9).len())
    };
    let expected = kept(&Store::open(&pristine.path("cache")).expect("a cache"));
    assert_eq!(expected, (64, 1));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= 120 {
                        break;
                    }
                    let mut numbers = numbers.of_thread(round);
                    let project = Project::in_memory(PIPELINE);
                    let cache = project.path("cache");
                    copy(&pristine.path("cache"), &cache);
                    let files: Vec<PathBuf> = targets(&cache)
                        .into_iter()
                        .filter(|path| path.starts_with(cache.join("index")))
                        .collect();
                    let done = damage(&files[numbers.below(files.len())], &mut numbers);
                    // Damage that shows when something is read is noticed then; the next one to ask has it right.
                    let store = Store::open(&cache).expect("a cache");
                    let first = kept(&store);
                    store.close_index();
                    let second = kept(&Store::open(&cache).expect("a cache"));
                    assert!(
                        [first, second].contains(&expected),
                        "round {round}, {done}: {first:?}, {second:?}"
                    );
                    assert_eq!(second, expected, "round {round}, {done}");
                }
            });
        }
    });
}
