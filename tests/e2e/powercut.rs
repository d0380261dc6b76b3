//! The power fails while a run writes: what was not flushed is gone, and everything that was told is there.
//!
//! The filesystem lies in a file and is shut down as it stands, without flushing its log; what a disk with its caches
//! on would have lost is lost then. Needs root, loop devices and the tools of the filesystem.

use std::time::Duration;

use crate::mounts::Mounted;
use crate::project::{Killable, Numbers, Project, acknowledged};

const PIPELINE: &str = r#"volvelle: 1
params: { salt: 0 }
stages:
  seed: { uses: command, outputs: { out: text }, with: { run: "echo ${params.salt} > ${outputs.out}" } }
  few: { uses: command, needs: { s: seed.out }, matrix: { i: { range: [1, 4] } }, outputs: { out: folder }, with: { run: "mkdir -p ${outputs.out}/d; for k in 1 2 3; do cat ${inputs.s} > ${outputs.out}/d/$k; echo ${matrix.i} $k >> ${outputs.out}/d/$k; done; echo log" } }
  # From 48 files on, one flush of the filesystem does for all.
  bulk: { uses: command, needs: { s: seed.out }, matrix: { i: { range: [1, 2] } }, outputs: { out: folder }, with: { run: "mkdir ${outputs.out}; for k in $(seq 60); do echo ${params.salt} ${matrix.i} $k > ${outputs.out}/$k; done" } }
  # Each makes what another one makes as well.
  same: { uses: command, needs: { f: few.out }, outputs: { out: text }, with: { run: "cat ${inputs.f}/d/1 | head -1 > ${outputs.out}" } }
"#;

fn cut(kind: &str, size_bytes: u64, rounds: usize) {
    let mut mounted = match Mounted::image(kind, size_bytes) {
        Ok(mounted) => mounted,
        Err(reason) => return eprintln!("skipped: no {kind} to cut the power of: {reason}"),
    };
    let mut numbers = Numbers::new(kind);
    let project = Project::new(PIPELINE);
    let cache = mounted.path().join("cache").to_string_lossy().into_owned();
    let mut survived = 0;
    for round in 0..rounds {
        let salt = format!("salt={round}");
        let options = ["--json", "--cache", &cache, "--set", &salt];
        let mut engine = Killable::start(project.command(&[&["run", "p.yaml"], options.as_slice()].concat()));
        // Some cuts come when a number of nodes is done, some at any moment.
        let wanted = numbers.below(9);
        let mut patience = numbers.below(600);
        while acknowledged(&engine.said()).len() < wanted && engine.ended().is_none() && patience > 0 {
            std::thread::sleep(Duration::from_millis(1));
            patience -= 1;
        }
        std::thread::sleep(Duration::from_micros(numbers.below(8000) as u64));
        let told = acknowledged(&engine.said());
        mounted.shut_down();
        engine.kill();
        drop(engine);
        mounted.unmount();
        mounted.mount_image().expect("it is mounted again");

        let checked = project.volvelle(&["fsck", "--cache", &cache]);
        assert_eq!(
            checked.code,
            Some(0),
            "round {round}: {}{}",
            checked.stdout,
            checked.stderr
        );
        let after = project.volvelle(&[&["run", "p.yaml"], options.as_slice()].concat());
        assert_eq!(after.code, Some(0), "{}{}", after.stdout, after.stderr);
        let states = after.states();
        for node in &told {
            assert_eq!(states[node], "cached", "round {round}: {node} was told as executed");
        }
        survived += told.len();
    }
    assert!(survived > rounds, "{survived} nodes were told before a cut");
    let checked = project.volvelle(&["fsck", "--cache", &cache]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    mounted.unmount();
}

#[test]
fn what_was_told_survives_a_power_cut_on_ext4() {
    cut("ext4", 64 << 20, 16);
}

#[test]
fn what_was_told_survives_a_power_cut_on_xfs() {
    cut("xfs", 320 << 20, 10);
}
