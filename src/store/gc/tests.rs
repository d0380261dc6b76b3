//! What `gc` promises: what is kept is whole, what is said is what is done, and nobody's results vanish in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::digest::ContentKey;
use crate::store::{Artifact, Lookup, Pin, Record, RunFolder, RunState, RunStatus};

type Tested = Result<(), Box<dyn std::error::Error>>;
type Failed = Box<dyn std::error::Error>;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// A made-up node: each output is a file of some bytes, or a folder of several.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    outputs: Vec<Vec<(u8, usize)>>,
    inputs: Vec<String>,
    seconds: f64,
    days_old: u64,
    /// Nodes with one content are one unit.
    content: String,
}

fn made(name: &str, byte: u8, len: usize, seconds: f64) -> Made {
    Made {
        name: name.to_owned(),
        outputs: vec![vec![(byte, len)]],
        inputs: Vec::new(),
        seconds,
        days_old: 0,
        content: name.to_owned(),
    }
}

fn recipe(name: &str) -> RecipeKey {
    RecipeKey(Digest::of(format!("recipe {name}").as_bytes()))
}

fn store() -> Result<(TempDir, Store), Failed> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("cache"))?;
    Ok((folder, store))
}

/// A store in memory where there is such a place: nothing here is about flushes, which a disk takes its time for.
fn store_in_memory() -> Result<(TempDir, Store), Failed> {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let store = Store::open(&folder.path().join("cache"))?;
    Ok((folder, store))
}

fn put(store: &Store, made: &Made) -> Result<Record, Failed> {
    let mut outputs = Vec::new();
    for (idx, files) in made.outputs.iter().enumerate() {
        let path = store.tmp().join(format!("out-{}-{idx}", made.name));
        match files[..] {
            [(byte, len)] => fs::write(&path, vec![byte; len])?,
            _ => {
                fs::create_dir(&path)?;
                for (number, (byte, len)) in files.iter().enumerate() {
                    fs::write(path.join(number.to_string()), vec![*byte; *len])?;
                }
            }
        }
        outputs.push((idx.to_string(), path));
    }
    let artifacts: BTreeMap<String, Artifact> = store.admit(&outputs)?;
    let ended = Timestamp(Timestamp::now().0 - made.days_old * DAY_MS);
    let inputs: Vec<_> = made
        .inputs
        .iter()
        .map(|name| json!({"recipe": recipe(name), "output": "0"}))
        .collect();
    let record = Record {
        format: Record::FORMAT,
        recipe_key: recipe(&made.name),
        recipe: json!({"kind": "k", "inputs": {"in": inputs}}),
        content_key: ContentKey(Digest::of(format!("content {}", made.content).as_bytes())),
        content: json!({"inputs": {}}),
        node: made.name.clone(),
        stage: made.name.clone(),
        kind: "k".to_owned(),
        kind_version: 1,
        pipeline: "p".to_owned(),
        run: "r".to_owned(),
        attempt: 1,
        artifacts,
        metrics: BTreeMap::new(),
        started: ended,
        ended,
        seconds: made.seconds,
        host: "h".to_owned(),
        versions: BTreeMap::new(),
        log: None,
        same_as: None,
    };
    store.put_record(&record)?;
    Ok(record)
}

/// Starts a run about some nodes, as `exec` does.
fn start(store: &Store, file: &str, nodes: &[&str]) -> Result<(RunFolder, RunState), Failed> {
    let lines: String = nodes
        .iter()
        .map(|name| format!("{}\n", json!({"recipe_key": recipe(name)})))
        .collect();
    let list = Digest::of(lines.as_bytes());
    let mut written = Ok(());
    let run = store.start_run("p", PathBuf::from(file), |folder| {
        written = fs::create_dir_all(store.lists_folder())
            .and_then(|()| fs::write(store.list_path(list), &lines))
            .and_then(|()| {
                let resolved = json!({"stages": [{"nodes": list}]}).to_string();
                fs::write(folder.path.join("pipeline.json"), resolved)
            });
    })?;
    written?;
    Ok(run)
}

fn end(store: &Store, mut state: RunState, at: Timestamp) -> Tested {
    state.status = RunStatus::Succeeded;
    state.started = at;
    state.ended = Some(at);
    store.write_run(&state)?;
    Ok(())
}

fn pin(store: &Store, nodes: &[&str]) -> Tested {
    store.put_pin(&Pin {
        format: Pin::FORMAT,
        name: "pin".to_owned(),
        target: "t".to_owned(),
        note: None,
        created: Timestamp(0),
        keys: nodes.iter().map(|name| recipe(name)).collect(),
    })?;
    Ok(())
}

fn collect(store: &Store, policy: &Policy) -> Result<Collected, Failed> {
    Ok(store.collect(policy, false, &|_| {})?.ok_or("nobody else collects")?)
}

fn there(store: &Store) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    store.each_record(|record| {
        names.insert(record.node.clone());
    });
    names
}

/// Every record that is there has all its blobs.
fn assert_whole(store: &Store) {
    store.each_record(|record| {
        assert!(
            matches!(store.lookup(record.recipe_key), Lookup::Hit(_)),
            "{}",
            record.node
        );
        assert!(
            matches!(store.lookup_content(record.content_key), Lookup::Hit(_)),
            "{}",
            record.node
        );
    });
}

fn max_bytes(max_bytes: u64) -> Policy {
    Policy {
        max_bytes: Some(max_bytes),
        ..Policy::default()
    }
}

#[test]
fn without_a_policy_only_garbage_goes() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("a", 1, 1000, 1.0))?;
    let orphan = store.tmp().join("orphan");
    fs::write(&orphan, "nobody needs me")?;
    let orphan = store.add_copy(&orphan)?;
    assert_eq!(collect(&store, &Policy::default())?.removed, BTreeMap::new());
    assert!(
        store.has_blob(orphan, 15),
        "it may belong to a record that is yet to come"
    );
    // Whoever asks for what is older than nothing means that as well; the node was used by nobody since.
    pin(&store, &["a"])?;
    let policy = Policy {
        older_than: Some(Duration::ZERO),
        ..Policy::default()
    };
    let collected = collect(&store, &policy)?;
    assert_eq!(collected.removed[&Why::Orphan].files, 1);
    assert!(!store.has_blob(orphan, 15));
    assert_eq!(there(&store), BTreeSet::from(["a".to_owned()]));
    Ok(())
}

#[test]
fn the_least_seconds_per_byte_go_first() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("dear", 1, 4000, 4000.0))?;
    put(&store, &made("cheap", 2, 4000, 4.0))?;
    put(&store, &made("small", 3, 10, 1.0))?;
    let collected = collect(&store, &max_bytes(5000))?;
    assert_eq!(there(&store), BTreeSet::from(["dear".to_owned(), "small".to_owned()]));
    assert_eq!((collected.bytes_after, collected.excess_bytes()), (4010, 0));
    assert_eq!(collected.largest[0].node, "cheap");
    Ok(())
}

#[test]
fn what_is_above_counts_once_it_is_gone() -> Tested {
    let (_folder, store) = store()?;
    // Of its own `below` would be the cheapest but one; with `above` gone it would cost both.
    put(&store, &made("above", 1, 4000, 100.0))?;
    let below = Made {
        inputs: vec!["above".to_owned()],
        ..made("below", 2, 4000, 110.0)
    };
    put(&store, &below)?;
    put(&store, &made("beside", 3, 4000, 150.0))?;
    collect(&store, &max_bytes(4000))?;
    assert_eq!(there(&store), BTreeSet::from(["below".to_owned()]));
    Ok(())
}

#[test]
fn a_shared_blob_goes_with_the_last_that_needs_it() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("one", 1, 4000, 1.0))?;
    put(&store, &made("two", 1, 4000, 2.0))?;
    pin(&store, &["two"])?;
    // Removing `one` would free nothing, so it stays as well.
    let collected = collect(&store, &max_bytes(100))?;
    assert_eq!(there(&store).len(), 2);
    assert_eq!(collected.excess_bytes(), 3900);
    store.remove_pin("pin")?;
    let collected = collect(&store, &max_bytes(100))?;
    assert_eq!((there(&store).len(), collected.bytes_after), (0, 0));
    assert_eq!(collected.removed[&Why::Size].bytes, 4000);
    Ok(())
}

#[test]
fn pins_live_runs_and_last_runs_are_kept() -> Tested {
    let (_folder, store) = store()?;
    for name in ["pinned", "live", "last", "before", "other"] {
        put(&store, &made(name, name.as_bytes()[0], 1000, 1.0))?;
    }
    pin(&store, &["pinned"])?;
    let now = Timestamp::now();
    end(
        &store,
        start(&store, "p.yaml", &["before"])?.1,
        Timestamp(now.0 - 9 * DAY_MS),
    )?;
    // The same list again and again is one run to keep.
    for days in 1..4 {
        end(
            &store,
            start(&store, "p.yaml", &["last"])?.1,
            Timestamp(now.0 - days * DAY_MS),
        )?;
    }
    let (_, live) = start(&store, "q.yaml", &["live"])?;
    let keep = |keep_runs| Policy {
        keep_runs: Some(keep_runs),
        ..Policy::default()
    };
    let collected = collect(&store, &keep(2))?;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(there(&store), names(&["before", "last", "live", "pinned"]));
    assert_eq!(collected.kept[&Kept::LastRuns].nodes, 2);
    collect(&store, &keep(1))?;
    assert_eq!(there(&store), names(&["last", "live", "pinned"]));
    end(&store, live, now)?;
    collect(&store, &keep(0))?;
    assert_eq!(there(&store), names(&["pinned"]));
    assert_whole(&store);
    Ok(())
}

#[test]
fn a_use_counts_also_when_its_run_is_gone() -> Tested {
    let (_folder, store) = store()?;
    for name in ["used", "unused"] {
        let old = Made {
            days_old: 90,
            ..made(name, name.as_bytes()[0], 1000, 1.0)
        };
        put(&store, &old)?;
    }
    let now = Timestamp::now();
    end(
        &store,
        start(&store, "p.yaml", &["used"])?.1,
        Timestamp(now.0 - 10 * DAY_MS),
    )?;
    end(&store, start(&store, "p.yaml", &[])?.1, now)?;
    // The run says that nothing had to be done and is old enough to go; what it used does not.
    let collected = collect(&store, &Policy::default())?;
    assert_eq!(collected.removed[&Why::Run].files, 1);
    assert_eq!(collected.removed[&Why::List].files, 1);
    assert_eq!(store.runs().len(), 1);
    let policy = Policy {
        older_than: Some(Duration::from_secs(30 * 24 * 3600)),
        ..Policy::default()
    };
    let collected = collect(&store, &policy)?;
    assert_eq!(there(&store), BTreeSet::from(["used".to_owned()]));
    assert_eq!(collected.kept[&Kept::Recent].nodes, 1);
    Ok(())
}

#[test]
fn a_run_without_a_list_keeps_everything() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("a", 1, 1000, 1.0))?;
    let (folder, _) = store.start_run("p", PathBuf::from("p.yaml"), |_| {})?;
    let collected = collect(&store, &max_bytes(0))?;
    assert_eq!(collected.blind_run, Some(folder.id));
    assert_eq!(there(&store).len(), 1);
    Ok(())
}

#[test]
fn what_happens_between_the_count_and_the_sweep_is_seen() -> Tested {
    let (_folder, store) = store()?;
    for name in ["run", "pinned", "twin", "free"] {
        put(&store, &made(name, name.as_bytes()[0], 1000, 1.0))?;
    }
    // `tell` is called while records are counted, after runs and pins were.
    let once = std::sync::Once::new();
    let meanwhile = |_| {
        once.call_once(|| {
            let done = start(&store, "p.yaml", &["run"])
                .map(|_| ())
                .and_then(|()| pin(&store, &["pinned"]))
                // Its blob is there already and is not written again.
                .and_then(|()| put(&store, &made("new", b't', 1000, 1.0)).map(|_| ()));
            assert!(done.is_ok());
        });
    };
    let collected = store.collect(&max_bytes(0), false, &meanwhile)?.ok_or("collected")?;
    let there = there(&store);
    for name in ["run", "pinned", "new"] {
        assert!(there.contains(name), "{name} in {there:?}");
    }
    assert!(!there.contains("free"));
    assert!(collected.num_spared > 0);
    assert_whole(&store);
    Ok(())
}

#[test]
fn a_journal_that_can_not_be_trusted_means_counting_again() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("a", 1, 1000, 1.0))?;
    let once = std::sync::Once::new();
    let meanwhile = |_| {
        once.call_once(|| {
            let end = store.journal().end();
            assert!(store.shorten_journal(end).is_ok());
            assert!(fs::write(store.root().join("records/journal"), "base 99999                \n").is_ok());
        });
    };
    store.collect(&max_bytes(0), false, &meanwhile)?.ok_or("collected")?;
    assert_eq!(there(&store).len(), 0);
    assert!(
        !store
            .root()
            .join("blobs")
            .read_dir()?
            .flatten()
            .any(|shard| { fs::read_dir(shard.path()).is_ok_and(|mut entries| entries.next().is_some()) })
    );
    Ok(())
}

#[test]
fn a_live_run_keeps_the_results_that_were_replaced_since() -> Tested {
    let (_folder, store) = store()?;
    let old = put(&store, &made("a", 1, 1000, 1.0))?;
    let (_, live) = start(&store, "p.yaml", &["a"])?;
    put(&store, &made("a", 2, 1000, 1.0))?;
    let old_blob = old.artifacts["0"].digest;
    collect(&store, &max_bytes(0))?;
    assert!(store.has_blob(old_blob, 1000));
    end(&store, live, Timestamp::now())?;
    let collected = collect(&store, &Policy::default())?;
    assert_eq!(collected.removed[&Why::Replaced].bytes, 1000);
    assert!(!store.has_blob(old_blob, 1000));
    assert_whole(&store);
    assert_eq!(there(&store).len(), 1);
    Ok(())
}

#[test]
fn what_was_replaced_does_not_hold_what_has_to_go() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("a", 1, 1000, 1.0))?;
    put(&store, &made("twin", 1, 1000, 1.0))?;
    put(&store, &made("a", 2, 1000, 100.0))?;
    let collected = collect(&store, &max_bytes(1000))?;
    assert_eq!(collected.bytes_after, 1000);
    assert_eq!(there(&store), BTreeSet::from(["a".to_owned()]));
    Ok(())
}

#[test]
fn a_record_that_can_not_be_read_keeps_what_nobody_knows() -> Tested {
    let (_folder, store) = store()?;
    let record = put(&store, &made("a", 1, 1000, 1.0))?;
    for key in [record.recipe_key.0, record.content_key.0] {
        let path = store.sharded("records", key);
        let mut bytes = fs::read(&path)?;
        bytes[9] ^= 1;
        fs::remove_file(&path)?;
        fs::write(&path, bytes)?;
    }
    let policy = Policy {
        older_than: Some(Duration::ZERO),
        ..Policy::default()
    };
    let collected = collect(&store, &policy)?;
    assert_eq!(collected.num_unreadable, 2);
    assert!(store.has_blob(record.artifacts["0"].digest, 1000));
    Ok(())
}

#[test]
fn partial_state_goes_when_its_node_is_done_or_nobody_can_want_it() -> Tested {
    let (_folder, store) = store()?;
    let done = put(&store, &made("done", 1, 10, 1.0))?.content_key;
    let (locked, open) = (ContentKey(Digest([7; 32])), ContentKey(Digest([8; 32])));
    for key in [done, locked, open] {
        fs::create_dir_all(store.partial_path(key))?;
        fs::write(store.partial_path(key).join("state"), [0; 100])?;
    }
    let _lock = store.claim(locked)?;
    let collected = collect(&store, &Policy::default())?;
    assert_eq!(collected.removed[&Why::Partial].files, 1);
    assert!(!store.partial_path(done).exists());
    let at_once = Policy {
        older_than: Some(Duration::ZERO),
        keep_runs: Some(9),
        ..Policy::default()
    };
    let (_, live) = start(&store, "p.yaml", &["wanted"])?;
    collect(&store, &at_once)?;
    assert!(store.partial_path(open).exists(), "the run may be about to continue it");
    store.mark_partial(open, recipe("wanted"));
    collect(&store, &at_once)?;
    assert!(store.partial_path(open).exists(), "the run is about it");
    store.mark_partial(open, recipe("unwanted"));
    collect(&store, &at_once)?;
    assert!(!store.partial_path(open).exists());
    end(&store, live, Timestamp::now())?;
    collect(&store, &at_once)?;
    assert!(store.partial_path(locked).exists());
    Ok(())
}

#[test]
fn partial_state_beyond_its_share_of_the_limit_goes_the_oldest_first() -> Tested {
    let (_folder, store) = store()?;
    let keys: Vec<ContentKey> = (1..4u8).map(|number| ContentKey(Digest([number; 32]))).collect();
    for key in &keys {
        fs::create_dir_all(store.partial_path(*key))?;
        fs::write(store.partial_path(*key).join("state"), [0; 100])?;
        // Stamps of files have a resolution.
        std::thread::sleep(Duration::from_millis(15));
    }
    collect(&store, &max_bytes(1000))?;
    let is_there: Vec<bool> = keys.iter().map(|key| store.partial_path(*key).exists()).collect();
    assert_eq!(is_there, [false, true, true]);
    Ok(())
}

#[test]
fn the_limit_is_kept_by_the_number_alone_until_it_is_reached() -> Tested {
    let (_folder, store) = store()?;
    put(&store, &made("a", 1, 1000, 1.0))?;
    let policy = max_bytes(1500);
    assert_eq!(store.keep_size(&policy)?, None);
    assert_eq!(store.size().map(|size| size.bytes), Some(1000));
    put(&store, &made("b", 2, 1000, 2.0))?;
    assert_eq!(store.size().map(|size| size.bytes), Some(2000));
    let collected = store.keep_size(&policy)?.ok_or("it was over the limit")?;
    assert_eq!((collected.bytes_after, collected.max_bytes), (1000, Some(1500)));
    assert_eq!(there(&store), BTreeSet::from(["b".to_owned()]));
    // What can't be kept is said once.
    pin(&store, &["b"])?;
    let tight = max_bytes(500);
    assert_eq!(
        store.keep_size(&tight)?.map(|collected| collected.excess_bytes()),
        Some(500)
    );
    assert_eq!(store.keep_size(&tight)?, None);
    put(&store, &made("c", 3, 100, 1.0))?;
    let again = store.keep_size(&tight)?.ok_or("it has grown")?;
    assert_eq!(again.bytes_after, 1000);
    Ok(())
}

#[test]
fn two_at_once_are_one() -> Tested {
    let (_folder, store) = store()?;
    let _other = store.claim_named("collect")?.ok_or("free")?;
    assert_eq!(store.collect(&Policy::default(), false, &|_| {})?, None);
    assert!(store.collect(&Policy::default(), true, &|_| {})?.is_some());
    Ok(())
}

/// A random store: nodes that share bytes, inputs and contents; some pinned, some of runs.
#[derive(Clone, Debug)]
struct Random {
    nodes: Vec<Made>,
    pinned: Vec<usize>,
    runs: Vec<(u8, Vec<usize>, u64)>,
    live: Vec<usize>,
    policy: Policy,
}

fn random() -> impl Strategy<Value = Random> {
    let file = (0..6u8, prop_oneof![Just(10usize), Just(700), Just(3000)]);
    let node = (
        proptest::collection::vec(proptest::collection::vec(file, 1..4), 1..3),
        proptest::collection::vec(0..10usize, 0..3),
        0..500u32,
        0..100u64,
        0..14usize,
    );
    let policy = (
        proptest::option::of(0..20_000u64),
        proptest::option::of(prop_oneof![Just(0u64), Just(30), Just(60)]),
        proptest::option::of(0..4u32),
    );
    let nodes = proptest::collection::vec(node, 1..12);
    let some = || proptest::collection::vec(0..12usize, 0..4);
    let runs = proptest::collection::vec((0..2u8, some(), 0..100u64), 0..4);
    (nodes, some(), runs, some(), policy).prop_map(|(nodes, pinned, runs, live, policy)| {
        let num = nodes.len();
        let make =
            |(idx, (outputs, inputs, seconds, days_old, content)): (usize, (_, Vec<usize>, u32, u64, usize))| Made {
                name: format!("n{idx}"),
                outputs,
                inputs: inputs
                    .into_iter()
                    .filter(|input| *input < idx)
                    .map(|input| format!("n{input}"))
                    .collect(),
                seconds: f64::from(seconds),
                days_old,
                // Most have a content of their own.
                content: if content < 3 {
                    content.to_string()
                } else {
                    format!("own {idx}")
                },
            };
        let mut nodes: Vec<Made> = nodes.into_iter().enumerate().map(make).collect();
        // What has one content has the same outputs.
        for idx in 0..num {
            let twin = nodes[..idx].iter().find(|other| other.content == nodes[idx].content);
            nodes[idx].outputs = twin.map_or_else(|| nodes[idx].outputs.clone(), |twin| twin.outputs.clone());
        }
        let within = |list: Vec<usize>| list.into_iter().filter(|idx| *idx < num).collect::<Vec<_>>();
        Random {
            nodes,
            pinned: within(pinned),
            runs: runs
                .into_iter()
                .map(|(file, list, days)| (file, within(list), days))
                .collect(),
            live: within(live),
            policy: Policy {
                max_bytes: policy.0,
                older_than: policy.1.map(|days| Duration::from_secs(days * 24 * 3600)),
                keep_runs: policy.2,
                keep: Vec::new(),
            },
        }
    })
}

fn bytes_on_disk(store: &Store) -> u64 {
    Census::blob_bytes(store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_stays_is_whole_and_what_is_said_is_done(random in random()) {
        let check = || -> Tested {
            let (_folder, store) = store_in_memory()?;
            for node in &random.nodes {
                put(&store, node)?;
            }
            let names = |list: &[usize]| list.iter().map(|idx| random.nodes[*idx].name.as_str()).collect::<Vec<_>>();
            pin(&store, &names(&random.pinned))?;
            let now = Timestamp::now();
            for (file, list, days) in &random.runs {
                let (_, state) = start(&store, &format!("{file}.yaml"), &names(list))?;
                end(&store, state, Timestamp(now.0 - days * DAY_MS))?;
            }
            let _live = match random.live.is_empty() {
                true => None,
                false => Some(start(&store, "live.yaml", &names(&random.live))?),
            };
            let told = store.collect(&random.policy, true, &|_| {})?.ok_or("told")?;
            assert_eq!(told.bytes_before, bytes_on_disk(&store));
            let done = collect(&store, &random.policy)?;
            assert_eq!(&told, &done);
            assert_eq!(done.bytes_after, bytes_on_disk(&store));
            assert_whole(&store);
            let there = there(&store);
            for name in names(&random.pinned).into_iter().chain(names(&random.live)) {
                assert!(there.contains(name), "{name} is protected");
            }
            if done.excess_bytes() > 0 {
                // Then all that is left is needed by something that must stay.
                let kept: u64 = done.kept.iter().filter(|(kept, _)| **kept != Kept::Room).map(|(_, sum)| sum.bytes).sum();
                assert_eq!(kept, done.bytes_after, "{done:?}");
            }
            // Nothing is left to do.
            let again = collect(&store, &random.policy)?;
            assert_eq!(again.total().nodes, 0);
            Ok(())
        };
        check().map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
}
