//! What the store promises, tested from outside its files: nothing is lost, nothing wrong is found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::digest::{DigestCache, FileStat, RecipeKey};

pub(super) type Tested = Result<(), Box<dyn std::error::Error>>;

pub(super) fn store() -> Result<(TempDir, Store), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("cache"))?;
    Ok((folder, store))
}

/// Adds a file as the only output of a made-up node.
pub(super) fn put(store: &Store, name: &str, bytes: &[u8]) -> Result<Record, Box<dyn std::error::Error>> {
    let path = store.tmp().join(format!("output-{name}"));
    fs::write(&path, bytes)?;
    put_path(store, name, path)
}

pub(super) fn put_path(store: &Store, name: &str, path: PathBuf) -> Result<Record, Box<dyn std::error::Error>> {
    let artifacts = store.admit(&[("out".to_owned(), path)])?;
    let record = Record {
        format: Record::FORMAT,
        recipe_key: RecipeKey(Digest::of(format!("recipe {name}").as_bytes())),
        recipe: json!({"name": name}),
        content_key: ContentKey(Digest::of(format!("content {name}").as_bytes())),
        content: json!({"name": name, "inputs": {}}),
        node: name.to_owned(),
        stage: name.to_owned(),
        kind: "test".to_owned(),
        kind_version: 1,
        pipeline: "p".to_owned(),
        run: "r".to_owned(),
        attempt: 1,
        artifacts,
        metrics: BTreeMap::from([("loss".to_owned(), 0.1)]),
        started: Timestamp(1),
        ended: Timestamp(2),
        seconds: 0.1,
        host: host_name(),
        versions: BTreeMap::new(),
        log: None,
        same_as: None,
    };
    store.put_record(&record)?;
    Ok(record)
}

fn is_hit(lookup: &Lookup) -> bool {
    matches!(lookup, Lookup::Hit(_))
}

fn write_tree(root: &Path, files: &BTreeMap<String, (Vec<u8>, bool)>) -> std::io::Result<()> {
    fs::create_dir(root)?;
    for (path, (bytes, executable)) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, bytes)?;
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 }),
        )?;
    }
    Ok(())
}

fn read_tree(root: &Path) -> std::io::Result<BTreeMap<String, (Vec<u8>, bool)>> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                stack.push(path);
                continue;
            }
            let executable = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
            let name = path
                .strip_prefix(root)
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default();
            found.insert(name, (fs::read(&path)?, executable));
        }
    }
    Ok(found)
}

fn trees() -> impl Strategy<Value = BTreeMap<String, (Vec<u8>, bool)>> {
    let name = prop_oneof!["d/[a-c]{1,2}", "e/f/[a-c]", "[g-k]{1,3}", "e\u{301}\\PC"];
    let name = name.prop_filter("a file name", |name| !name.contains('\0') && !name.ends_with('/'));
    let bytes = proptest::collection::vec(any::<u8>(), 0..64);
    proptest::collection::btree_map(name, (bytes, any::<bool>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_put_is_found_after_opening_again_and_laid_out_as_it_was(files in trees()) {
        let check = || -> Result<bool, Box<dyn std::error::Error>> {
            let (folder, store) = store()?;
            let tree = folder.path().join("tree");
            write_tree(&tree, &files)?;
            let record = put_path(&store, "a", tree)?;
            drop(store);
            let store = Store::open(&folder.path().join("cache"))?;
            let Lookup::Hit(found) = store.lookup(record.recipe_key) else { return Ok(false) };
            let Lookup::Hit(by_content) = store.lookup_content(record.content_key) else { return Ok(false) };
            let placed = store.place(&found.artifacts["out"], None, &folder.path().join("placed"))?;
            let same = read_tree(&folder.path().join("placed"))? == files;
            store.export(&found.artifacts["out"], None, &folder.path().join("exported"))?;
            let exported = read_tree(&folder.path().join("exported"))? == files;
            Ok(*found == record && *by_content == record && same && exported && store.changes(&placed).is_empty())
        };
        prop_assert!(check().map_err(|error| TestCaseError::fail(error.to_string()))?);
    }

    #[test]
    fn a_damaged_record_is_a_miss_and_never_another_record(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let check = || -> Result<bool, Box<dyn std::error::Error>> {
            let (_folder, store) = store()?;
            let record = put(&store, "a", b"bytes")?;
            let path = store.sharded("records", record.recipe_key.0);
            let mut bytes = fs::read(&path)?;
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            fs::remove_file(&path)?;
            fs::write(&path, &bytes)?;
            let flipped = matches!(store.lookup(record.recipe_key), Lookup::Miss);
            fs::write(&path, &bytes[..at])?;
            Ok(flipped && matches!(store.lookup(record.recipe_key), Lookup::Miss))
        };
        prop_assert!(check().map_err(|error| TestCaseError::fail(error.to_string()))?);
    }
}

#[test]
fn a_missing_or_cut_blob_makes_the_record_incomplete() -> Tested {
    let (folder, store) = store()?;
    let record = put(&store, "file", b"bytes")?;
    let digest = record.artifacts["out"].digest;
    let blob = store.blob_path(digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644))?;
    fs::write(&blob, b"byte")?;
    assert!(matches!(store.lookup(record.recipe_key), Lookup::Incomplete { missing, .. } if missing == digest));
    // The same bytes again heal it.
    assert!(is_hit(&store.lookup(put(&store, "file", b"bytes")?.recipe_key)));

    let tree = folder.path().join("tree");
    write_tree(&tree, &BTreeMap::from([("x".to_owned(), (b"1".to_vec(), false))]))?;
    let record = put_path(&store, "tree", tree)?;
    fs::remove_file(store.blob_path(Digest::of(b"1")))?;
    assert!(matches!(store.lookup(record.recipe_key), Lookup::Incomplete { .. }));
    Ok(())
}

#[test]
fn a_blob_that_does_not_read_as_its_name_is_moved_aside() -> Tested {
    let (_folder, store) = store()?;
    let record = put(&store, "a", b"bytes")?;
    let artifact = &record.artifacts["out"];
    let blob = store.blob_path(artifact.digest);
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644))?;
    fs::write(&blob, b"bytez")?;
    assert!(matches!(
        store.read_file(artifact, None),
        Err(StoreError::MissingBlob { .. })
    ));
    assert!(matches!(store.lookup(record.recipe_key), Lookup::Incomplete { .. }));
    Ok(())
}

#[test]
fn a_file_and_a_folder_never_have_the_same_digest() -> Tested {
    let (folder, store) = store()?;
    let tree = folder.path().join("tree");
    write_tree(&tree, &BTreeMap::from([("x".to_owned(), (b"1".to_vec(), false))]))?;
    let tree = put_path(&store, "tree", tree)?;
    let artifact = &tree.artifacts["out"];
    let manifest = artifact.manifest.ok_or("a folder has a manifest")?;
    let file = put(&store, "file", &store.read_blob(manifest)?)?;
    assert_ne!(file.artifacts["out"].digest, artifact.digest);
    assert_eq!(file.artifacts["out"].digest, manifest);
    // Inside a folder the parts have the digests that they would have alone.
    assert_eq!(store.digest_at(artifact, Some("x"))?, Digest::of(b"1"));
    assert!(matches!(
        store.digest_at(artifact, Some("y")),
        Err(StoreError::NoSubpath { .. })
    ));
    Ok(())
}

#[test]
fn links_that_leave_an_artifact_are_refused_and_hard_links_are_cut() -> Tested {
    let (folder, store) = store()?;
    let tree = folder.path().join("tree");
    fs::create_dir(&tree)?;
    symlink("/etc/passwd", tree.join("link"))?;
    let refused = store.admit(&[("out".to_owned(), tree)]);
    assert!(
        matches!(
            refused,
            Err(StoreError::BadLink {
                fault: LinkFault::Absolute,
                ..
            })
        ),
        "{refused:?}"
    );

    let (mine, output) = (folder.path().join("mine"), folder.path().join("output"));
    fs::write(&mine, b"before")?;
    fs::hard_link(&mine, &output)?;
    let record = put_path(&store, "linked", output)?;
    fs::write(&mine, b"after!")?;
    assert_eq!(
        store.read_file(&record.artifacts["out"], None)?,
        Some(b"before".to_vec())
    );
    Ok(())
}

#[test]
fn what_a_worker_does_to_its_inputs_is_found_and_never_served() -> Tested {
    let (folder, store) = store()?;
    let record = put(&store, "a", b"bytes")?;
    let artifact = &record.artifacts["out"];
    let input = folder.path().join("input");
    let placed = store.place(artifact, None, &input)?;
    fs::set_permissions(&input, fs::Permissions::from_mode(0o644))?;
    fs::write(&input, b"BYTES")?;
    assert_eq!(store.changes(&placed).len(), 1);
    // A hard link wrote through to the blob, which must be gone; a reflink or copy left it as it was.
    match store.lookup(record.recipe_key) {
        Lookup::Hit(_) => assert_eq!(store.read_file(artifact, None)?, Some(b"bytes".to_vec())),
        Lookup::Incomplete { .. } => {}
        Lookup::Miss | Lookup::Untrusted { .. } => panic!("the record itself was not touched"),
    }

    let tree = folder.path().join("tree");
    write_tree(&tree, &BTreeMap::from([("d/x".to_owned(), (b"1".to_vec(), false))]))?;
    let record = put_path(&store, "tree", tree)?;
    let input = folder.path().join("input-tree");
    let placed = store.place(&record.artifacts["out"], None, &input)?;
    fs::set_permissions(&input, fs::Permissions::from_mode(0o755))?;
    fs::write(input.join("new"), b"")?;
    assert_eq!(store.changes(&placed), [PathBuf::from("new")]);
    assert!(is_hit(&store.lookup(record.recipe_key)));
    Ok(())
}

#[test]
fn another_recipe_with_the_same_content_shares_the_result() -> Tested {
    let (_folder, store) = store()?;
    let first = put(&store, "a", b"bytes")?;
    let key = RecipeKey(Digest::of(b"another recipe"));
    let second = store.put_same(&first, key, &json!({"other": 1}), "b")?;
    assert_eq!(second.same_as, Some(first.recipe_key));
    assert_eq!(store.record(key), Some(second));
    assert_eq!(store.record(first.recipe_key), Some(first.clone()));
    // What the first recipe gives later does not take the content's record away.
    let changed = Record {
        content_key: ContentKey(Digest::of(b"other content")),
        ..first.clone()
    };
    store.put_record(&changed)?;
    assert!(is_hit(&store.lookup_content(first.content_key)));
    Ok(())
}

#[test]
fn the_index_can_be_deleted_damaged_or_taken() -> Tested {
    let (folder, store) = store()?;
    let names = |store: &Store| -> Vec<String> {
        let records = store.history().of_kind("test", 9);
        let mut names: Vec<String> = records
            .into_iter()
            .filter_map(|earlier| Some(store.record(earlier.recipe_key)?.node))
            .collect();
        names.sort();
        names
    };
    put(&store, "a", b"1")?;
    assert_eq!(names(&store), ["a"]);
    put(&store, "b", b"2")?;
    assert_eq!(names(&store), ["a", "b"], "the journal tells what is new");
    assert!(store.history().of_kind("tes", 9).is_empty());

    // Taken: another process (here: another store) has it open, so this one reads the files.
    let other = Store::open(store.root())?;
    assert_eq!(names(&other), ["a", "b"]);
    store.close_index();
    other.close_index();

    fs::remove_dir_all(store.root().join("index"))?;
    assert_eq!(names(&store), ["a", "b"]);
    store.close_index();

    for entry in fs::read_dir(store.root().join("index"))? {
        let path = entry?.path();
        if path.is_file() {
            fs::write(
                &path,
                b"garbage that is no database, and long enough to be read as a header of one",
            )?;
        }
    }
    let reopened = Store::open(&folder.path().join("cache"))?;
    assert_eq!(names(&reopened), ["a", "b"]);
    reopened.close_index();
    fs::remove_file(store.root().join("records/journal"))?;
    assert_eq!(names(&reopened), ["a", "b"]);
    Ok(())
}

#[test]
fn history_tells_of_a_node_its_neighbours_and_its_kind() -> Tested {
    let (_folder, store) = store()?;
    let record = put(&store, "x", b"1")?;
    let add = |node: &str, started: u64| -> Result<RecipeKey, StoreError> {
        let key = RecipeKey(Digest::of(format!("recipe {node} {started}").as_bytes()));
        let record = Record {
            recipe_key: key,
            content_key: ContentKey(Digest::of(format!("content {node} {started}").as_bytes())),
            node: node.to_owned(),
            stage: "sft".to_owned(),
            started: Timestamp(started),
            ..record.clone()
        };
        store.put_record(&record).map(|()| key)
    };
    let (old, new, other, third) = (
        add("sft[1]", 5)?,
        add("sft[1]", 9)?,
        add("sft[2]", 7)?,
        add("sft[3]", 3)?,
    );
    let keys = |earlier: Vec<Earlier>| {
        earlier
            .into_iter()
            .map(|earlier| earlier.recipe_key)
            .collect::<Vec<_>>()
    };
    let check = |history: RecordHistory<'_>| {
        assert_eq!(
            keys(history.of_node("test", "p", "sft", "sft[1]", 9)),
            [new, old],
            "the latest first"
        );
        assert_eq!(keys(history.near("test", "p", "sft", "sft[2]", 2)), [other, old]);
        assert_eq!(keys(history.near("test", "p", "sft", "sft[9]", 2)), [third]);
        assert_eq!(keys(history.of_kind("test", 2)), [new, other]);
        assert!(history.of_node("test", "q", "sft", "sft[1]", 9).is_empty());
    };
    check(store.history());
    // Without the index the files tell the same.
    check(Store::open(store.root())?.history());
    Ok(())
}

#[test]
fn the_snapshot_says_what_the_records_say() -> Tested {
    let (_folder, store) = store()?;
    let key = |name: &str| RecipeKey(Digest::of(format!("recipe {name}").as_bytes()));
    let found = |name: &str| {
        let snapshot = store.snapshot();
        let found = store.find(&snapshot, key(name), false)?;
        let is_entry = matches!(found, Found::Entry(_));
        assert_eq!(snapshot.recipe_key(&found), key(name));
        assert!(store.missing(&snapshot, &found).is_none());
        snapshot.artifact(&found, "out").map(|artifact| (artifact, is_entry))
    };
    for round in 0..200 {
        put(&store, &format!("n{round}"), format!("bytes {round}").as_bytes())?;
    }
    let expected = |name: &str| store.record(key(name)).map(|record| record.artifacts["out"].clone());
    assert_eq!(
        found("n7").map(|(artifact, is_entry)| (Some(artifact), is_entry)),
        Some((expected("n7"), false))
    );
    store.refresh();
    for round in 0..200 {
        let name = format!("n{round}");
        assert_eq!(
            found(&name).map(|(artifact, is_entry)| (Some(artifact), is_entry)),
            Some((expected(&name), true))
        );
    }
    // What was replaced after the snapshot was read is seen by whoever asks for what is there now.
    let early = store.snapshot();
    put(&store, "n9", b"bytes of a later run")?;
    let now = store.find(&early, key("n9"), true).ok_or("a record")?;
    assert_eq!(early.artifact(&now, "out"), expected("n9"));
    // Replaced, removed and added since: the records have the last word.
    put(&store, "n3", b"other bytes")?;
    assert_eq!(
        found("n3").map(|(artifact, is_entry)| (Some(artifact), is_entry)),
        Some((expected("n3"), false))
    );
    fs::remove_file(store.sharded("records", key("n4").0))?;
    assert_eq!(found("n4"), None);
    put(&store, "new", b"1")?;
    assert_eq!(found("new").map(|(artifact, _)| Some(artifact)), Some(expected("new")));
    for round in 0..70 {
        put(&store, &format!("m{round}"), b"m")?;
    }
    store.refresh();
    for name in ["n3", "n5", "new", "m69"] {
        assert_eq!(
            found(name).map(|(artifact, is_entry)| (Some(artifact), is_entry)),
            Some((expected(name), true)),
            "{name}"
        );
    }
    assert_eq!(found("n4"), None);
    // Torn or gone, it is as if it had never been there.
    let path = store.root().join("records/snapshot");
    let bytes = fs::read(&path)?;
    for cut in [0, 7, 40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut])?;
        assert_eq!(
            found("n5").map(|(artifact, is_entry)| (Some(artifact), is_entry)),
            Some((expected("n5"), false))
        );
    }
    Ok(())
}

#[test]
fn digests_of_large_outside_files_are_remembered() -> Tested {
    let (_folder, store) = store()?;
    let stat = |size_bytes| FileStat {
        size_bytes,
        mtime_ns: 1,
        ctime_ns: 2,
        inode: 3,
        device: 4,
    };
    let (path, digest) = (Path::new("/some/weights"), Digest::of(b"weights"));
    store.put(path, &stat(100 << 20), digest);
    assert_eq!(DigestCache::get(&store, path, &stat(100 << 20)), Some(digest));
    assert_eq!(DigestCache::get(&store, path, &stat(101 << 20)), None);
    store.put(path, &stat(10), digest);
    assert_eq!(
        DigestCache::get(&store, path, &stat(10)),
        None,
        "small files are read again"
    );
    Ok(())
}

#[test]
fn putters_at_the_same_time_do_not_disturb_each_other() -> Tested {
    let (_folder, store) = store()?;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..6 {
                    // All write the same blob and the same record, each under a temporary name of its own.
                    let path = store.tmp().join(format!("output-{thread}-{round}"));
                    fs::write(&path, b"the same").expect("the temporary folder is writable");
                    put_path(store, &format!("node {round}"), path).expect("a put succeeds");
                }
            });
        }
    });
    for round in 0..6 {
        let key = RecipeKey(Digest::of(format!("recipe node {round}").as_bytes()));
        assert!(is_hit(&store.lookup(key)));
    }
    assert_eq!(store.history().of_kind("test", 99).len(), 6);
    let left: Vec<_> = fs::read_dir(store.tmp())?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn one_key_is_locked_by_one_at_a_time() -> Tested {
    let (_folder, store) = store()?;
    let key = ContentKey(Digest::of(b"key"));
    let Claim::Held(lock) = store.claim(key)? else {
        panic!("nobody else is here")
    };
    let Claim::Taken(holder) = store.claim(key)? else {
        panic!("the key is locked")
    };
    assert_eq!(holder, Some(Owner::current()));
    drop(lock);
    assert!(matches!(store.claim(key)?, Claim::Held(_)));
    let other = ContentKey(Digest::of(b"other"));
    let Claim::Held(_lock) = store.claim(other)? else {
        panic!("another key is another lock")
    };

    // Many threads that lock and unlock: never are two inside.
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut rounds = 0;
                while rounds < 50 {
                    if let Ok(Claim::Held(_lock)) = store.claim(key) {
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        rounds += 1;
                    }
                }
            });
        }
    });
    Ok(())
}

#[test]
fn a_newer_or_foreign_folder_is_refused() -> Tested {
    let (folder, store) = store()?;
    fs::write(store.root().join("format"), "volvelle cache 3\n")?;
    let root = folder.path().join("cache");
    assert!(matches!(
        Store::open(&root),
        Err(StoreError::NewerFormat {
            found: 3,
            supported: 2,
            ..
        })
    ));
    fs::write(store.root().join("format"), "something else\n")?;
    assert!(matches!(Store::open(&root), Err(StoreError::NotACache { .. })));
    Ok(())
}

#[test]
fn only_what_dead_runs_left_is_removed() -> Tested {
    let (_folder, store) = store()?;
    let (run, mut state) = store.start_run("p", PathBuf::from("p.yaml"), |_| {})?;
    let attempt = store.attempt_folder(&run.id, "abc.1")?;
    fs::create_dir(attempt.join("in"))?;
    fs::set_permissions(attempt.join("in"), fs::Permissions::from_mode(0o555))?;
    let Claim::Held(_lock) = store.claim(ContentKey(Digest::of(b"key")))? else {
        panic!("nobody else is here")
    };
    store.remove_stale();
    assert!(attempt.exists(), "this process lives");
    assert!(
        matches!(store.claim(ContentKey(Digest::of(b"key")))?, Claim::Taken(_)),
        "a held lock stays"
    );
    state.owner.start += 1;
    store.write_run(&state)?;
    assert_eq!(
        store.run_state(&run.id.0).map(|state| state.status),
        Some(RunStatus::Killed)
    );
    store.remove_stale();
    assert!(!attempt.exists());
    assert!(store.run_folder("../runs").is_none());
    Ok(())
}

const PUTTER: &str = "VOLVELLE_TEST_PUTTER";

/// Not a test by itself: what the next one starts and kills.
#[test]
fn putter() -> Tested {
    let Some(root) = std::env::var_os(PUTTER) else {
        return Ok(());
    };
    let store = Store::open(Path::new(&root))?;
    for number in 0.. {
        let name = format!("{}-{number}", std::process::id());
        put(&store, &name, name.as_bytes())?;
        println!("\nput {name}");
    }
    Ok(())
}

#[test]
fn nothing_that_was_put_is_lost_by_kill_9() -> Tested {
    let (_folder, store) = store()?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "store::tests::putter", "--nocapture"])
            .env(PUTTER, store.root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().ok_or("the output is piped")?;
        let mut lines = BufReader::new(output).lines();
        // Another number of puts each time, so that the kill falls into another step.
        let mut wanted = 1 + round;
        for line in lines.by_ref() {
            if let Some(name) = line?.strip_prefix("put ") {
                acknowledged.insert(name.to_owned());
                wanted -= 1;
            }
            if wanted == 0 {
                break;
            }
        }
        child.kill()?;
        child.wait()?;
        for line in lines {
            acknowledged.extend(line?.strip_prefix("put ").map(str::to_owned));
        }
    }
    assert!(acknowledged.len() >= 6 * 7 / 2);
    for name in &acknowledged {
        let key = RecipeKey(Digest::of(format!("recipe {name}").as_bytes()));
        assert!(is_hit(&store.lookup(key)), "{name} was acknowledged");
    }
    // Whatever else there is is whole.
    for earlier in store.history().of_kind("test", 9999) {
        assert!(is_hit(&store.lookup(earlier.recipe_key)), "{}", earlier.recipe_key);
    }
    let stale: Vec<PathBuf> = fs::read_dir(store.tmp())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    assert!(stale.iter().all(|path| path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('w') || name.starts_with("output-")
    })));
    Ok(())
}
