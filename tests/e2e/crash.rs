//! Runs that are killed at random moments, hundreds of times: nothing that was told is lost, nothing half is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use volvelle::digest::{ContentKey, Digest, RecipeKey};
use volvelle::store::{FsckOptions, Lookup, Store};

use crate::project::{Killable, Numbers, Project, acknowledged};

/// Kills of runs in all caches together; each counts only if the run had not ended by itself.
const KILLS: usize = 504;

/// Caches that are worked on at the same time: half of them on the disk, half in memory, where the moments lie closer.
const CACHES: usize = 6;

const PIPELINE: &str = r#"volvelle: 1
params: { salt: 0 }
stages:
  seed: { uses: command, outputs: { out: text }, with: { run: "echo ${params.salt} > ${outputs.out}" } }
  part:
    uses: command
    needs: { s: seed.out }
    matrix: { i: { range: [1, 6] } }
    outputs: { out: folder }
    with: { run: "mkdir -p ${outputs.out}/d; for k in 1 2 3; do cat ${inputs.s} > ${outputs.out}/d/$k; echo ${matrix.i} $k >> ${outputs.out}/d/$k; done; echo done ${matrix.i}" }
  large: { uses: command, needs: { s: seed.out }, outputs: { out: text }, with: { run: "cat ${inputs.s} > ${outputs.out}; seq 60000 >> ${outputs.out}" } }
  all: { uses: command, needs: { p: part.out }, gather: [i], outputs: { out: text }, with: { run: "for d in ${inputs.p}; do cat $d/d/*; done > ${outputs.out}" } }
"#;

/// What each recipe made.
type Made = BTreeMap<RecipeKey, BTreeMap<String, Digest>>;

fn run(project: &Project, salt: usize) -> Killable {
    let salt = format!("salt={salt}");
    Killable::start(project.command(&["run", "p.yaml", "--json", "--set", &salt]))
}

/// Kills runs in one cache until enough were killed; returns what the cache has then, and for how many salts.
fn torment(project: &Project, kills: usize, mut numbers: Numbers) -> (Made, usize) {
    let (mut killed, mut salt) = (0, 0);
    // How long a run takes here, as far as it is known: the moments should lie in all of it.
    let mut longest = Duration::from_millis(60);
    while killed < kills {
        let start = Instant::now();
        let mut engine = run(project, salt);
        std::thread::sleep(longest.mul_f64(numbers.below(1000) as f64 / 1000.0));
        let was_killed = engine.kill();
        let took = start.elapsed();
        let (code, events) = engine.finish();
        check_acknowledged(project, &events);
        if was_killed {
            killed += 1;
        } else {
            assert_eq!(code, Some(0), "a run that nobody killed: {events:?}");
            longest = took.mul_f64(1.2);
            salt += 1;
        }
        // Each time: what is half there is made good by the next run.
        check_store(project);
        // Slower machines get longer, until runs come to their end now and then.
        longest = longest.mul_f64(1.02).min(Duration::from_secs(5));
    }
    for salt in 0..=salt {
        assert_eq!(run(project, salt).finish().0, Some(0));
    }
    check_store(project);
    (made(project), salt)
}

/// Every node that was told as executed has its record and all of its blobs.
fn check_acknowledged(project: &Project, events: &[serde_json::Value]) {
    let store = Store::open(&project.path("cache")).expect("the cache opens");
    for id in acknowledged(events) {
        let started = events
            .iter()
            .find(|event| event["event"] == "node_started" && event["id"] == id.as_str());
        let key: Option<ContentKey> = started.and_then(|event| event["key"].as_str()?.parse().ok());
        let found = store.lookup_content(key.expect("a start tells the key"));
        let Lookup::Hit(record) = found else {
            panic!("{id} was told as executed, and is not there: {found:?}")
        };
        assert!(matches!(store.lookup(record.recipe_key), Lookup::Hit(_)), "{id}");
    }
}

fn check_store(project: &Project) {
    let store = Store::open(&project.path("cache")).expect("the cache opens");
    let report = store
        .fsck(&FsckOptions::default(), None, &|_| ())
        .expect("the cache can be checked");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn made(project: &Project) -> Made {
    let store = Store::open(&project.path("cache")).expect("the cache opens");
    let mut made = Made::new();
    store.each_record(|record| {
        let artifacts = record.artifacts.iter();
        let digests = artifacts
            .map(|(name, artifact)| (name.clone(), artifact.digest))
            .collect();
        made.insert(record.recipe_key, digests);
    });
    made
}

#[test]
fn five_hundred_kills_lose_nothing_that_was_told_and_leave_nothing_half() {
    let numbers = Numbers::new("kills");
    let outcomes: Vec<(Made, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CACHES)
            .map(|thread| {
                let numbers = numbers.of_thread(thread);
                scope.spawn(move || {
                    let project = match thread % 2 {
                        0 => Project::new(PIPELINE),
                        _ => Project::in_memory(PIPELINE),
                    };
                    torment(&project, KILLS / CACHES, numbers)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a cache survives"))
            .collect()
    });
    let undisturbed = Project::in_memory(PIPELINE);
    let most = outcomes.iter().map(|(_, salts)| *salts).max().unwrap_or(0);
    for salt in 0..=most {
        assert_eq!(run(&undisturbed, salt).finish().0, Some(0));
    }
    let expected = made(&undisturbed);
    for (made, salts) in outcomes {
        assert_eq!(made.len(), 9 * (salts + 1));
        for (key, digests) in made {
            assert_eq!(
                expected.get(&key),
                Some(&digests),
                "{key} is as in a cache that nobody disturbed"
            );
        }
    }
}
