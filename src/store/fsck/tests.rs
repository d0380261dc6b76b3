//! Whatever is damaged is found, and nothing else; what can be repaired is, and a second look finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::store::Timestamp;
use crate::store::record::{Lookup, Record};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// Makes a store in memory where there is such a place: what is written here never has to survive the machine.
fn store() -> Result<(TempDir, Store), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let store = Store::open(&folder.path().join("cache"))?;
    Ok((folder, store))
}

/// A node whose output is a folder of these files.
fn put(store: &Store, name: &str, files: &[(&str, String)]) -> Result<Record, Box<dyn std::error::Error>> {
    let path = store.tmp().join(format!("output-{name}"));
    fs::create_dir(&path)?;
    for (file, text) in files {
        fs::write(path.join(file), text)?;
    }
    let artifacts = store.admit(&[("out".to_owned(), path)])?;
    let (recipe, content) = (json!({"name": name}), json!({"name": name, "inputs": {}}));
    let record = Record {
        format: Record::FORMAT,
        recipe_key: RecipeKey::of_preimage(&recipe)?,
        recipe,
        content_key: ContentKey::of_preimage(&content)?,
        content,
        node: name.to_owned(),
        stage: name.to_owned(),
        kind: "test".to_owned(),
        kind_version: 1,
        pipeline: "p".to_owned(),
        run: "r".to_owned(),
        attempt: 1,
        artifacts,
        metrics: BTreeMap::new(),
        started: Timestamp(1),
        ended: Timestamp(2),
        seconds: 10.0,
        host: "h".to_owned(),
        versions: BTreeMap::new(),
        log: None,
        same_as: None,
    };
    store.put_record(&record)?;
    fs::remove_dir(store.tmp().join(format!("output-{name}")))?;
    Ok(record)
}

fn check(store: &Store, repair: bool) -> Result<FsckReport, StoreError> {
    let options = FsckOptions { repair, sample: None };
    store.fsck(&options, None, &|_| ())
}

/// Flips a bit of a file, and gives it its former times back if it is to look untouched.
fn flip(path: &Path, bit: usize, silently: bool) -> std::io::Result<()> {
    let (mut bytes, metadata) = (fs::read(path)?, fs::metadata(path)?);
    let bit = bit % (8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    fs::write(path, &bytes)?;
    if silently {
        let times = fs::FileTimes::new().set_modified(metadata.modified()?);
        fs::File::options().write(true).open(path)?.set_times(times)?;
    }
    Ok(())
}

/// A pseudo-random sequence, told by its seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = Digest::of(&self.0.to_le_bytes()).0;
        u32::from_le_bytes([mixed[0], mixed[1], mixed[2], mixed[3]]) as usize
    }
}

fn names_of(report: &FsckReport) -> BTreeSet<Digest> {
    let name = |problem: &Problem| match &problem.fault {
        Fault::DamagedBlob { digest, .. } | Fault::MissingBlob { digest, .. } => *digest,
        Fault::DamagedRecord { key, .. } => *key,
        Fault::WrongSnapshot { key } => key.0,
    };
    report.problems.iter().map(name).collect()
}

#[test]
fn every_flipped_bit_of_a_thousand_files_is_found_and_none_is_used() -> Tested {
    let seed = std::env::var("VOLVELLE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("VOLVELLE_TEST_SEED={seed}");
    let mut numbers = Numbers(seed);
    let (_folder, store) = store()?;
    let mut records = Vec::new();
    for node in 0..110 {
        let files: Vec<(String, String)> = (0..10)
            .map(|i| (format!("f{i}"), format!("{node} {i} {seed}")))
            .collect();
        let files: Vec<(&str, String)> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        records.push(put(&store, &format!("n{node}"), &files)?);
    }
    assert!(names_of(&check(&store, false)?).is_empty());

    let mut flipped = BTreeSet::new();
    let mut flipped_files = Vec::new();
    for record in &records {
        let artifact = &record.artifacts["out"];
        let manifest = store.manifest(artifact)?.ok_or("a folder")?;
        // The two names of a record are one file.
        if numbers.next().is_multiple_of(4) {
            let path = store.sharded("records", record.recipe_key.0);
            flip(&path, numbers.next(), numbers.next().is_multiple_of(2))?;
            flipped.extend([record.recipe_key.0, record.content_key.0]);
        }
        for file in &manifest.files {
            let silently = numbers.next().is_multiple_of(2);
            flip(&store.blob_path(file.digest), numbers.next(), silently)?;
            flipped.insert(file.digest);
            flipped_files.push((record, file.clone(), silently));
        }
    }
    assert!(flipped.len() >= 1000, "{}", flipped.len());
    let report = check(&store, false)?;
    assert_eq!(names_of(&report), flipped, "seed {seed}");
    // A plain check changes nothing.
    assert_eq!(names_of(&check(&store, false)?), flipped);

    for record in &records {
        let is_flipped = flipped.contains(&record.recipe_key.0);
        assert_eq!(matches!(store.lookup(record.recipe_key), Lookup::Miss), is_flipped);
        assert_eq!(
            matches!(store.lookup_content(record.content_key), Lookup::Miss),
            is_flipped
        );
    }
    store.verify_touched();
    for (record, file, silently) in flipped_files {
        assert_eq!(
            store.has_blob(file.digest, file.size),
            silently,
            "what was touched is read before it counts"
        );
        let read = store.read_file(&record.artifacts["out"], Some(&file.path));
        assert!(
            matches!(read, Err(StoreError::MissingBlob { .. })),
            "what is read is checked"
        );
    }
    Ok(())
}

#[test]
fn repair_leaves_nothing_to_find_and_tells_what_runs_again() -> Tested {
    let (_folder, store) = store()?;
    let shared = |own: &str| [("shared", "the same".to_owned()), ("own", own.to_owned())];
    let (a, b) = (put(&store, "a", &shared("1"))?, put(&store, "b", &shared("2"))?);
    let c = put(&store, "c", &[("x", "3".to_owned())])?;
    let d = put(&store, "d", &[("x", "4".to_owned())])?;
    flip(&store.blob_path(Digest::of(b"the same")), 3, false)?;
    fs::remove_file(store.blob_path(c.artifacts["out"].manifest.ok_or("a folder")?))?;
    // Under one of its names alone: what a filesystem that lost a block leaves.
    let by_recipe = store.sharded("records", d.recipe_key.0);
    let bytes = fs::read(&by_recipe)?;
    fs::remove_file(&by_recipe)?;
    fs::write(&by_recipe, &bytes[..bytes.len() / 2])?;

    let report = check(&store, false)?;
    assert!(!report.is_clean());
    let damaged = report
        .problems
        .iter()
        .find(|problem| problem.needed_by.len() == 2)
        .ok_or("two nodes")?;
    let needs: Vec<(&str, &str, f64)> = damaged
        .needed_by
        .iter()
        .map(|need| (need.node.as_str(), need.outputs[0].as_str(), need.seconds))
        .collect();
    assert_eq!(needs, [("a", "out/shared", 10.0), ("b", "out/shared", 10.0)]);
    assert_eq!(report.seconds_to_rebuild(), 30.0);

    let repaired = check(&store, true)?;
    assert!(repaired.is_clean());
    let again: Vec<&str> = repaired.to_rebuild.iter().map(|need| need.node.as_str()).collect();
    assert_eq!(again, ["a", "b", "c"]);
    assert!(
        matches!(store.lookup(d.recipe_key), Lookup::Hit(_)),
        "its other name was whole"
    );
    for record in [&a, &b, &c] {
        assert!(matches!(store.lookup(record.recipe_key), Lookup::Miss));
        assert!(matches!(store.lookup_content(record.content_key), Lookup::Miss));
    }
    assert_eq!(fs::read_dir(store.root().join("quarantine"))?.count(), 8);
    let again = check(&store, false)?;
    assert!(again.problems.is_empty(), "{:?}", again.problems);
    put(&store, "a", &shared("1"))?;
    assert!(matches!(store.lookup(a.recipe_key), Lookup::Hit(_)));
    Ok(())
}

/// Keeps what was in a store.
#[derive(Debug)]
struct Remote(BTreeMap<Digest, Vec<u8>>, Store);

impl Remote {
    fn parts(&self, artifact: &Artifact) -> Vec<Digest> {
        match self.1.manifest(artifact) {
            Ok(Some(manifest)) => manifest.files.into_iter().map(|file| file.digest).collect(),
            _ => vec![artifact.digest],
        }
    }
}

impl Elsewhere for Remote {
    fn look_ahead(&self, _: &[Digest]) {}

    fn has(&self, _: RecipeKey, artifacts: &BTreeMap<String, Artifact>) -> bool {
        let mut parts = artifacts.values().flat_map(|artifact| self.parts(artifact));
        parts.all(|part| self.0.contains_key(&part))
    }

    fn fetch(&self, artifact: &Artifact, _: Option<&str>) -> bool {
        self.parts(artifact).into_iter().all(|part| {
            let path = self.1.blob_path(part);
            path.exists() || self.0.get(&part).is_some_and(|bytes| fs::write(path, bytes).is_ok())
        })
    }
}

#[test]
fn what_is_elsewhere_is_fetched_and_a_lie_is_not_admitted() -> Tested {
    let (_folder, store) = store()?;
    let record = put(
        &store,
        "a",
        &[
            ("true", "1".to_owned()),
            ("lie", "2".to_owned()),
            ("away", "3".to_owned()),
        ],
    )?;
    let whole = |text: &str| (Digest::of(text.as_bytes()), text.as_bytes().to_vec());
    let lie = (Digest::of(b"2"), b"7".to_vec());
    let remote = Remote([whole("1"), lie, whole("3")].into(), Store::open(store.root())?);
    flip(&store.blob_path(Digest::of(b"1")), 0, false)?;
    fs::remove_file(store.blob_path(Digest::of(b"3")))?;
    let options = FsckOptions {
        repair: true,
        sample: None,
    };
    let report = store.fsck(&options, Some(&remote), &|_| ())?;
    let fates: Vec<Fate> = report.problems.iter().map(|problem| problem.fate).collect();
    assert_eq!((fates, report.elsewhere), (vec![Fate::Fetched], 1));
    assert!(report.to_rebuild.is_empty());

    flip(&store.blob_path(Digest::of(b"2")), 0, false)?;
    let report = store.fsck(&options, Some(&remote), &|_| ())?;
    assert_eq!(report.problems[0].fate, Fate::SetAside);
    assert!(matches!(store.lookup(record.recipe_key), Lookup::Miss));
    Ok(())
}

#[test]
fn what_lies_about_a_record_is_found() -> Tested {
    let (_folder, store) = store()?;
    let record = put(&store, "a", &[("x", "1".to_owned())])?;
    let other = put(&store, "b", &[("x", "2".to_owned())])?;
    let restored = |record: &Record| -> Tested {
        store.put_record(record)?;
        assert!(check(&store, false)?.is_clean());
        Ok(())
    };
    // Right by its own check, and yet not what its name, its preimage or its folder say.
    let path = store.sharded("records", record.recipe_key.0);
    fs::copy(store.sharded("records", other.recipe_key.0), store.tmp().join("x"))?;
    fs::rename(store.tmp().join("x"), &path)?;
    assert_eq!(names_of(&check(&store, false)?), [record.recipe_key.0].into());
    restored(&record)?;
    let mut changed = record.clone();
    changed.recipe = json!({"name": "c"});
    store.put_record(&changed)?;
    assert_eq!(
        names_of(&check(&store, false)?),
        [record.recipe_key.0, record.content_key.0].into()
    );
    restored(&record)?;
    let mut swapped = record.clone();
    let artifact = swapped.artifacts.get_mut("out").ok_or("an output")?;
    artifact.manifest = other.artifacts["out"].manifest;
    store.put_record(&swapped)?;
    assert!(!check(&store, false)?.is_clean(), "another folder's manifest");
    Ok(())
}

#[test]
fn damage_beside_the_truth_is_noted_and_made_good() -> Tested {
    let (_folder, store) = store()?;
    for node in 0..70 {
        put(&store, &format!("n{node}"), &[("x", node.to_string())])?;
    }
    store.refresh();
    assert!(check(&store, false)?.notes.is_empty());
    let root = store.root().to_path_buf();
    flip(&root.join("records/snapshot"), 9999, false)?;
    fs::write(root.join("records/journal"), "half a l")?;
    fs::create_dir_all(root.join("code"))?;
    fs::write(root.join("code").join(format!("{}.json", Digest::of(b"x"))), "{}")?;
    fs::write(root.join("blobs/00/stranger"), "")?;
    let report = check(&store, true)?;
    assert!(report.problems.is_empty());
    assert_eq!(report.notes.len(), 5, "{:?}", report.notes);
    let left = check(&store, false)?.notes;
    assert_eq!(left.len(), 2, "the stranger, and what is in quarantine: {left:?}");
    let journal = fs::read_to_string(root.join("records/journal"))?;
    assert_eq!(
        journal.lines().filter(|line| line.parse::<RecipeKey>().is_ok()).count(),
        70
    );
    Ok(())
}

#[test]
fn a_snapshot_that_passes_for_good_and_lies_is_found() -> Tested {
    let (_folder, store) = store()?;
    let mut record = put(&store, "a", &[("x", "1".to_owned())])?;
    for node in 0..70 {
        put(&store, &format!("n{node}"), &[("x", node.to_string())])?;
    }
    store.refresh();
    // The same file, of the same length, with the same times.
    let path = store.sharded("records", record.recipe_key.0);
    let modified = fs::metadata(&path)?.modified()?;
    record.seconds = 20.0;
    let other = store.root().join("tmp/other");
    fs::create_dir(&other)?;
    let aside = Store::open(&other)?;
    aside.put_record(&record)?;
    let bytes = fs::read(aside.sharded("records", record.recipe_key.0))?;
    let file = fs::File::options().write(true).open(&path)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0)?;
    file.set_times(fs::FileTimes::new().set_modified(modified))?;
    let problem = |report: &FsckReport| {
        report
            .problems
            .iter()
            .map(|found| (found.fault.clone(), found.fate))
            .collect()
    };
    let found: Vec<(Fault, Fate)> = problem(&check(&store, true)?);
    let key = record.recipe_key;
    assert_eq!(found, [(Fault::WrongSnapshot { key }, Fate::Restored)]);
    assert!(check(&store, false)?.problems.is_empty());
    Ok(())
}

#[test]
fn one_process_repairs_at_a_time_and_anyone_may_look() -> Tested {
    let (_folder, store) = store()?;
    let lock = store.claim_named("fsck")?.ok_or("free")?;
    assert!(matches!(check(&store, true), Err(StoreError::Busy { .. })));
    assert!(check(&store, false)?.is_clean());
    drop(lock);
    assert!(check(&store, true)?.is_clean());
    Ok(())
}

#[test]
fn repair_seals_and_locks_what_is_right_again() -> Tested {
    let (_folder, store) = store()?;
    put(&store, "a", &[("x", "1".to_owned())])?;
    let blob = store.blob_path(Digest::of(b"1"));
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644))?;
    fs::write(&blob, "1")?;
    let is_guarded = || -> Result<bool, std::io::Error> {
        let metadata = fs::metadata(&blob)?;
        let is_sealed = crate::store::seal::is_sealed(&metadata, Digest::of(b"1"));
        Ok(is_sealed && metadata.permissions().mode() & 0o222 == 0)
    };
    assert!(check(&store, false)?.is_clean() && !is_guarded()?);
    assert!(check(&store, true)?.is_clean() && is_guarded()?);
    Ok(())
}
