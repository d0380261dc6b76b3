//! A cache that can't be written is read like any other, and a clock that lies never makes a wrong hit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::mounts::Mounted;
use crate::project::{Project, states};
use crate::upgrade::copy;

const PIPELINE: &str = r#"volvelle: 1
name: numbers
stages:
  list: { uses: command, outputs: { out: text }, with: { run: "cat extra 2>/dev/null || seq 3 > ${outputs.out}; echo logged" } }
  tree: { uses: command, needs: { l: list.out }, outputs: { out: folder }, with: { run: "mkdir ${outputs.out}; cp ${inputs.l} ${outputs.out}/l" } }
  times: { uses: command, needs: { t: tree.out }, matrix: { i: { range: [1, 70] } }, outputs: { out: text }, with: { run: "echo ${matrix.i} > ${outputs.out}" } }
"#;

/// A cache where nothing can be written: on a read-only filesystem for root, else by its modes.
struct Locked {
    cache: PathBuf,
    /// Whichever it lies in; both are removed with the value.
    _mounted: Option<Mounted>,
    folder: Option<tempfile::TempDir>,
}

impl Locked {
    fn copy_of(from: &Path) -> Result<Locked, String> {
        if rustix::process::geteuid().is_root() {
            let mounted = Mounted::tmpfs("64m")?;
            let cache = mounted.path().join("cache");
            copy(from, &cache);
            mounted.remount("ro")?;
            return Ok(Locked {
                cache,
                _mounted: Some(mounted),
                folder: None,
            });
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let cache = folder.path().join("cache");
        copy(from, &cache);
        set_modes(&cache, 0o555);
        Ok(Locked {
            cache,
            _mounted: None,
            folder: Some(folder),
        })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.folder.is_some() {
            set_modes(&self.cache, 0o755);
        }
    }
}

fn set_modes(folder: &Path, mode: u32) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            set_modes(&entry.path(), mode);
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("a folder of ours");
}

fn read_everything(project: &Project, from: &Path) {
    let locked = match Locked::copy_of(from) {
        Ok(locked) => locked,
        Err(reason) => return eprintln!("skipped: nothing read-only to be had: {reason}"),
    };
    let cache_name = locked.cache.to_string_lossy().into_owned();
    for command in [
        &["status", "p.yaml"][..],
        &["plan", "p.yaml"],
        &["plan", "p.yaml", "--rerun", "list"],
        &["why", "p.yaml", "tree"],
        &["show", "p.yaml", "tree"],
        &["show", "p.yaml", "list.out"],
        &["runs"],
        &["logs", "p.yaml", "list"],
        &["compare", "p.yaml", "times"],
        &["lineage", "p.yaml", "list"],
        &["graph", "p.yaml"],
        &["diff", "p.yaml", "p.yaml"],
        &["fsck"],
    ] {
        let ended = project.volvelle(&[command, &["--cache", &cache_name]].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command:?}");
    }
    let ended = project.volvelle(&["run", "p.yaml", "--cache", &cache_name]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("can't be written"), "{}", ended.stderr);
    let ended = project.volvelle(&["fsck", "--repair", "--cache", &cache_name]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("can't be written"), "{}", ended.stderr);
}

#[test]
fn what_only_reads_works_on_a_cache_that_cannot_be_written() {
    let project = Project::in_memory(PIPELINE);
    project.run(&[]);
    read_everything(&project, &project.path("cache"));
}

#[test]
fn an_older_cache_that_cannot_be_written_is_read_as_it_is() {
    let project = Project::in_memory(PIPELINE);
    project.run(&[]);
    project.write("cache/format", "volvelle cache 1\n");
    read_everything(&project, &project.path("cache"));
}

fn set_time(path: &Path, time: SystemTime) {
    let folder = fs::File::open(path).expect("it is there");
    folder
        .set_times(fs::FileTimes::new().set_modified(time))
        .expect("it is ours");
}

fn shards(project: &Project) -> Vec<PathBuf> {
    let entries = fs::read_dir(project.path("cache/records")).expect("a folder").flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn a_clock_that_jumps_never_makes_a_wrong_hit() {
    let project = Project::in_memory(PIPELINE);
    project.run(&[]);
    assert!(project.exists("cache/records/snapshot"));
    let (past, now) = (SystemTime::UNIX_EPOCH + Duration::from_secs(86_400), SystemTime::now());
    let future = now + Duration::from_secs(86_400 * 3650);
    let snapshot_time = |time| set_time(&project.path("cache/records/snapshot"), time);
    let all_cached = || project.run(&[]).values().all(|state| state == "cached");
    for time in [past, now, future] {
        shards(&project).iter().for_each(|shard| set_time(shard, time));
        for time in [past, future] {
            snapshot_time(time);
            assert!(all_cached());
        }
    }

    // Other bytes under the same recipes, and folders that claim that nothing happened since the snapshot was written.
    let before: Vec<(PathBuf, SystemTime)> = shards(&project)
        .into_iter()
        .map(|shard| {
            let time = fs::metadata(&shard)
                .and_then(|metadata| metadata.modified())
                .expect("a time");
            (shard, time)
        })
        .collect();
    project.write("extra", "");
    project.edit(
        "cat extra 2>/dev/null || seq 3 >",
        "test -e extra && seq 9 > ${outputs.out} || seq 3 >",
    );
    project.run(&["--until", "list"]);
    let expected = [("list", "cached"), ("tree", "executed")];
    before.iter().for_each(|(shard, time)| set_time(shard, *time));
    assert_eq!(project.run(&["--until", "tree"]), states(&expected));
    before.iter().for_each(|(shard, time)| set_time(shard, *time));
    project.run(&[]);
    before.iter().for_each(|(shard, time)| set_time(shard, *time));
    assert!(all_cached());
    for (file, text) in [
        ("list.out", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
        ("tree.out/l", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
    ] {
        assert_eq!(project.volvelle(&["show", "p.yaml", file]).stdout, text, "{file}");
    }
    // A record that is gone is gone, whatever the time of its folder says.
    let shown = project.volvelle(&["show", "p.yaml", "times[i=7]", "--json"]).stdout;
    let record: serde_json::Value = serde_json::from_str(&shown).expect("a record");
    for key in ["recipe_key", "content_key"] {
        let key = record[key].as_str().expect("a key");
        let path = project.path("cache/records").join(&key[..2]).join(&key[2..]);
        fs::remove_file(&path).expect("a record");
        set_time(path.parent().expect("a folder"), future);
    }
    assert_eq!(project.run(&[])["times[i=7]"], "executed");
    assert_eq!(project.volvelle(&["fsck"]).code, Some(0));
}
