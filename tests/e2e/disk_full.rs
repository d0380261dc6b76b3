//! No room in the middle of every write: the run says so and ends, nothing half is left, and with room it goes on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::mounts::Mounted;
use crate::project::{Ended, Project};

/// Outputs of several sizes, a folder, a log, and what depends on them.
const PIPELINE: &str = r#"volvelle: 1
stages:
  small: { uses: command, outputs: { out: text }, with: { run: "echo small > ${outputs.out}; echo logged" } }
  large: { uses: command, needs: { s: small.out }, outputs: { out: text }, with: { run: "seq 20000 > ${outputs.out}" } }
  tree: { uses: command, needs: { l: large.out }, outputs: { out: folder }, with: { run: "mkdir ${outputs.out}; for k in $(seq 30); do echo $k > ${outputs.out}/$k; done" } }
  part: { uses: command, needs: { t: tree.out }, matrix: { i: { range: [1, 5] } }, outputs: { out: text }, with: { run: "cat ${inputs.t}/${matrix.i} > ${outputs.out}; seq 3000" } }
  sum: { uses: command, needs: { p: part.out }, gather: [i], outputs: { out: text }, with: { run: "cat ${inputs.p} > ${outputs.out}" } }
"#;

/// A run that has no room ends with an error, or did not need more room; it never breaks.
fn refused(ended: &Ended, what: &str) -> bool {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(!said.contains("this is a bug"), "{what}: {said}");
    match ended.code {
        Some(0) => false,
        Some(1) => {
            let is_told = ["No space left", "File too large", "exit code"]
                .iter()
                .any(|part| said.contains(part));
            assert!(is_told, "{what}: {said}");
            true
        }
        other => panic!("{what}: {other:?}: {said}"),
    }
}

/// Fills a filesystem until so many bytes are left.
fn fill(path: &Path, left: u64) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("room for a name");
    let mut written = 0;
    // What a filesystem says to have left is not what it gives, so the end has to be met.
    while let Ok(len @ 1..) = file.write(&[0; 4096]) {
        written += len as u64;
    }
    file.set_len(written.saturating_sub(left)).expect("a file can be cut");
    file.sync_all().expect("what was cut off is free");
}

fn fill_and_free(mounted: &Mounted, levels: &[u64]) {
    let project = Project::in_memory(PIPELINE);
    let mut num_refused = 0;
    for &level in levels {
        let what = format!("{level} bytes left");
        let cache = mounted
            .path()
            .join(format!("cache-{level}"))
            .to_string_lossy()
            .into_owned();
        let run = || project.volvelle(&["run", "p.yaml", "--cache", &cache]);
        // The folders of a new cache are there, or not even they.
        if level > 0 {
            project.volvelle(&["plan", "p.yaml", "--cache", &cache]);
        }
        let ballast = mounted.path().join("ballast");
        fill(&ballast, level);
        num_refused += usize::from(refused(&run(), &what));
        // What can't be written can be read, checked and planned.
        if level > 0 {
            assert_eq!(
                project.volvelle(&["plan", "p.yaml", "--cache", &cache]).code,
                Some(0),
                "{what}"
            );
            let checked = project.volvelle(&["fsck", "--cache", &cache]);
            assert_eq!(checked.code, Some(0), "{what}: {}{}", checked.stdout, checked.stderr);
        }
        let before = done(&project, &cache);
        fs::remove_file(&ballast).expect("the ballast");
        let after = run();
        assert_eq!(after.code, Some(0), "{what}: {}{}", after.stdout, after.stderr);
        assert!(
            after.stdout.contains(&format!("{} of them cached", before)) || before == 9 || before == 0,
            "{what}: {before}: {}",
            after.stdout
        );
        let checked = project.volvelle(&["fsck", "--cache", &cache]);
        assert_eq!(checked.code, Some(0), "{what}: {}", checked.stdout);
        let shown = project.volvelle(&["show", "p.yaml", "sum.out", "--cache", &cache]);
        assert_eq!(shown.stdout, "1\n2\n3\n4\n5\n", "{what}");
        remove_all(&cache);
    }
    assert!(
        num_refused >= levels.len() / 2,
        "{num_refused} of {} had no room",
        levels.len()
    );
}

/// Returns how many nodes a plan finds cached.
fn done(project: &Project, cache: &str) -> usize {
    let status = project.volvelle(&["status", "p.yaml", "--cache", cache]);
    status.stdout.lines().filter(|line| line.contains(" cached ")).count()
}

fn remove_all(cache: &str) {
    let removed = Command::new("rm").args(["-rf", cache]).status();
    assert!(removed.is_ok_and(|status| status.success()));
}

/// Levels that end in the middle of each kind of write: a record, a blob, a folder, the log, the journal, the index.
fn levels(step: u64, up_to: u64) -> Vec<u64> {
    let mut levels = vec![0];
    let mut level = step;
    while level < up_to {
        levels.push(level);
        level += if level < 24 * step { step } else { 6 * step };
    }
    levels
}

#[test]
fn a_full_filesystem_in_memory_stops_a_run_and_harms_nothing() {
    match Mounted::tmpfs("6m") {
        Ok(mounted) => fill_and_free(&mounted, &levels(4096, 400 << 10)),
        Err(reason) => eprintln!("skipped: no small filesystem: {reason}"),
    }
}

#[test]
fn a_full_ext4_stops_a_run_and_harms_nothing() {
    match Mounted::image("ext4", 24 << 20) {
        Ok(mounted) => fill_and_free(&mounted, &[0, 16 << 10, 64 << 10, 160 << 10, 300 << 10, 500 << 10]),
        Err(reason) => eprintln!("skipped: no small filesystem: {reason}"),
    }
}

/// Runs with some system calls failing, each from a certain time on; none where that can't be done.
fn run_with_faults(project: &Project, calls: &str, error: &str, when: usize) -> Option<Ended> {
    let real = project.command(&["run", "p.yaml"]);
    let mut command = Command::new("strace");
    let inject = format!("inject={calls}:error={error}:when={when}+");
    // Into the engine's threads, not into the workers: their `write` is their own business.
    command.args(["-f", "-qq", "-o", "/dev/null", "-b", "execve", "-e"]);
    command.arg(format!("trace={calls}")).args(["-e", &inject]);
    command
        .arg(real.get_program())
        .args(real.get_args())
        .current_dir(project.path(""));
    let output = command.env("NO_COLOR", "1").output().ok()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some(Ended {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

#[test]
fn a_disk_that_fails_at_any_call_stops_a_run_and_harms_nothing() {
    let mut numbers = crate::project::Numbers::new("failing calls");
    let faults = [
        ("fdatasync", "EIO"),
        ("fsync", "EIO"),
        ("rename,renameat,renameat2", "ENOSPC"),
        ("mkdir,mkdirat", "ENOSPC"),
        ("link,linkat", "EMLINK"),
        ("copy_file_range,sendfile", "ENOSPC"),
        ("pwrite64", "ENOSPC"),
        ("unlink,unlinkat,rmdir", "EIO"),
        ("utimensat", "EPERM"),
        ("chmod,fchmod,fchmodat", "EIO"),
        ("ftruncate,fallocate", "ENOSPC"),
    ];
    let mut num_failed = 0;
    for (calls, error) in faults {
        for _ in 0..2 {
            let project = Project::in_memory(PIPELINE);
            project.volvelle(&["plan", "p.yaml"]);
            let when = 1 + numbers.below(6);
            let what = format!("{calls} {error} from {when} on");
            let Some(ended) = run_with_faults(&project, calls, error, when) else {
                return eprintln!("skipped: no strace to make calls fail with");
            };
            if ended.stderr.contains("ptrace") {
                return eprintln!("skipped: strace may not trace here: {}", ended.stderr);
            }
            let said = format!("{what}: {}{}", ended.stdout, ended.stderr);
            assert!(!said.contains("this is a bug"), "{said}");
            assert!(matches!(ended.code, Some(0 | 1)), "{said}");
            num_failed += usize::from(ended.code == Some(1));
            let checked = project.volvelle(&["fsck"]);
            assert_eq!(checked.code, Some(0), "{what}: {}{}", checked.stdout, checked.stderr);
            let after = project.volvelle(&["run", "p.yaml"]);
            assert_eq!(after.code, Some(0), "{what}: {}{}", after.stdout, after.stderr);
            assert_eq!(
                project.volvelle(&["show", "p.yaml", "sum.out"]).stdout,
                "1\n2\n3\n4\n5\n"
            );
            assert_eq!(project.volvelle(&["fsck"]).code, Some(0), "{what}");
        }
    }
    assert!(num_failed >= 6, "{num_failed} runs were disturbed");
}

#[test]
fn a_limit_on_the_size_of_files_stops_a_run_and_harms_nothing() {
    // In blocks of 512 bytes. The signal is ignored as by a service manager, so that the write fails instead.
    for blocks in [0, 1, 2, 3, 4, 8, 20, 60, 150, 1500] {
        let project = Project::in_memory(PIPELINE);
        project.volvelle(&["plan", "p.yaml"]);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]);
        let real = project.command(&["run", "p.yaml"]);
        command
            .arg(real.get_program())
            .args(real.get_args())
            .current_dir(project.path(""));
        let output = command.output().expect("sh is there");
        let ended = Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let what = format!("{blocks} blocks");
        assert_eq!(refused(&ended, &what), blocks < 1500, "{what}: {}", ended.stdout);
        let checked = project.volvelle(&["fsck"]);
        assert_eq!(checked.code, Some(0), "{what}: {}{}", checked.stdout, checked.stderr);
        let after = project.volvelle(&["run", "p.yaml"]);
        assert_eq!(after.code, Some(0), "{what}: {}", after.stdout);
        assert_eq!(
            project.volvelle(&["show", "p.yaml", "sum.out"]).stdout,
            "1\n2\n3\n4\n5\n"
        );
    }
}
