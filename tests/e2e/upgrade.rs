//! A cache of format 1, as an earlier program left it, is brought up to date by whoever opens it, whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::project::{Killable, Numbers, Project, finish};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cache-format-1");

/// Copies the cache that an earlier program made of a small pipeline.
fn project() -> Project {
    let pipeline = fs::read_to_string(Path::new(FIXTURE).join("p.yaml")).expect("the pipeline");
    let project = Project::in_memory(&pipeline);
    copy(&Path::new(FIXTURE).join("cache"), &project.path("cache"));
    project
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path() {
            folder if folder.is_dir() => copy(&folder, &to),
            file => drop(fs::copy(file, to).expect("a file")),
        }
    }
}

/// Returns the bytes of all that must never change, by path.
fn truth(cache: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = ["blobs", "records", "partial"].map(|area| cache.join(area)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                folder if folder.is_dir() => folders.push(folder),
                file if file.ends_with("journal") || file.ends_with("snapshot") => {}
                file => {
                    let bytes = fs::read(&file).expect("a file");
                    found.insert(file.strip_prefix(cache).expect("inside").to_path_buf(), bytes);
                }
            }
        }
    }
    found
}

fn check_up_to_date(project: &Project) {
    let cache = project.path("cache");
    assert_eq!(project.read("cache/format"), "volvelle cache 2\n");
    assert_eq!(
        truth(&cache),
        truth(&Path::new(FIXTURE).join("cache")),
        "everything is kept"
    );
    assert!(cache.join("records/ff").is_dir() && cache.join("blobs/00").is_dir());
    let locks = fs::read_dir(cache.join("locks")).expect("a folder").flatten();
    let of_keys = locks.filter(|lock| lock.file_name().len() == 64).count();
    assert_eq!(of_keys, 0, "no key has a lock file of its own");
    let checked = project.volvelle(&["fsck"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    let states = project.run(&[]);
    assert!(
        states.len() == 3 && states.values().all(|state| state == "cached"),
        "{states:?}"
    );
    assert_eq!(project.volvelle(&["show", "p.yaml", "sum.out"]).stdout, "14\n");
}

#[test]
fn an_older_cache_is_brought_up_to_date_and_keeps_everything() {
    let project = project();
    let status = project.volvelle(&["status", "p.yaml"]);
    assert_eq!((status.code, status.stderr.as_str()), (Some(0), ""));
    assert_eq!(status.stdout.matches("cached").count(), 3, "{}", status.stdout);
    check_up_to_date(&project);
}

#[test]
fn several_processes_bring_it_up_to_date_at_once() {
    for _ in 0..4 {
        let project = project();
        let started: Vec<_> = (0..6).map(|_| project.start(&["status", "p.yaml"])).collect();
        for child in started {
            let ended = finish(child);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
            assert_eq!(ended.stdout.matches("cached").count(), 3, "{}", ended.stdout);
        }
        check_up_to_date(&project);
    }
}

#[test]
fn kills_while_it_is_brought_up_to_date_lose_nothing() {
    let mut numbers = Numbers::new("kills of a migration");
    let mut halfway = 0;
    for _ in 0..40 {
        let project = project();
        for _ in 0..2 {
            let mut process = Killable::start(project.command(&["status", "p.yaml"]));
            std::thread::sleep(Duration::from_micros(numbers.below(12_000) as u64));
            process.kill();
        }
        let is_halfway = project.read("cache/format").ends_with("1\n") && project.exists("cache/blobs/01");
        halfway += usize::from(is_halfway);
        assert_eq!(project.volvelle(&["status", "p.yaml"]).code, Some(0));
        check_up_to_date(&project);
    }
    eprintln!("{halfway} of 40 were killed in the middle");
}

#[test]
fn a_newer_cache_is_refused_with_what_to_do() {
    let project = project();
    for (format, told) in [
        (
            "volvelle cache 3\n",
            "has cache format 3, and this volvelle reads up to 2; use a newer volvelle",
        ),
        (
            "volvelle cache 2\nneeds packs\n",
            "needs `packs`, which this volvelle does not know; use a newer volvelle",
        ),
        ("restic repository\n", "is not that of a volvelle cache"),
    ] {
        project.write("cache/format", format);
        for command in [&["run", "p.yaml"][..], &["plan", "p.yaml"], &["fsck", "--repair"]] {
            let ended = project.volvelle(command);
            assert_eq!(ended.code, Some(1), "{format}");
            assert!(ended.stderr.contains(told), "{}", ended.stderr);
        }
        assert_eq!(project.read("cache/format"), format);
    }
}
