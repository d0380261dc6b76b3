//! Results that two projects share through a remote: what is run, what is downloaded, and what happens when it fails.
//!
//! The remote is a folder (`file://`), so nothing here needs a network; what is special to S3 or to `volvelle serve` is
//! tested elsewhere. Every stage appends to a file beside the pipeline, so that it shows how often it really ran.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::project::{Ended, Project, finish, states};

/// `big` stands for a checkpoint, `table` for what a colleague wants to see.
const PIPELINE: &str = r#"volvelle: 1
name: shared
params: { size: 300000, factor: 2 }
stages:
  big:
    uses: command
    with: { run: "echo x >> ran-big; mkdir ${outputs.out}; seq ${params.size} > ${outputs.out}/weights; echo 1 > ${outputs.out}/config" }
    outputs: { out: folder }
  sum:
    uses: command
    needs: { list: big.out/weights }
    with: { run: "echo x >> ran-sum; awk '{ s += $1 } END { printf \"%.0f\\n\", s }' ${inputs.list} > ${outputs.out}; echo summed" }
    outputs: { out: text }
  table:
    uses: command
    needs: { sum: sum.out }
    with: { run: "echo x >> ran-table; awk '{ printf \"%.0f\\n\", $1 * ${params.factor} }' ${inputs.sum} > ${outputs.out}" }
    outputs: { out: text }
"#;

const ANSWER: &str = "90000300000\n";

/// Two projects with the same pipeline and a folder that both use as their remote.
struct Team {
    folder: tempfile::TempDir,
    ada: Project,
    bob: Project,
}

impl Team {
    fn new() -> Team {
        let team = Team {
            folder: tempfile::tempdir().expect("a temporary folder"),
            ada: Project::new(PIPELINE),
            bob: Project::new(PIPELINE),
        };
        team.settings("");
        team
    }

    /// Writes the settings of both: the remote and whatever else.
    fn settings(&self, more: &str) {
        let text = format!("remote: {{ url: 'file://{}' }}\n{more}", self.remote().display());
        self.ada.write("volvelle.yaml", &text);
        self.bob.write("volvelle.yaml", &text);
    }

    fn remote(&self) -> PathBuf {
        self.folder.path().join("remote")
    }
}

fn all(state: &str) -> std::collections::BTreeMap<String, String> {
    states(&[("big", state), ("sum", state), ("table", state)])
}

/// Returns the sizes of all files below a folder.
fn sizes(folder: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.metadata().expect("a file that stays");
        if metadata.is_dir() {
            found.extend(sizes(&entry.path()));
        } else {
            found.push(metadata.len());
        }
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn notes(ended: &Ended) -> Vec<String> {
    let events = ended.events();
    let notes = events.iter().filter(|event| event["event"] == "note");
    notes
        .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_colleague_runs_nothing_and_downloads_what_is_asked_for() {
    let team = Team::new();
    assert_eq!(team.ada.run(&[]), all("executed"));
    assert_eq!(team.bob.run(&[]), all("cached"));
    assert!(!team.bob.exists("ran-big"), "nothing ran");
    let largest = sizes(&team.bob.path("cache/blobs")).into_iter().max();
    assert!(largest < Some(10_000), "the checkpoint was not downloaded: {largest:?}");

    let shown = team.bob.volvelle(&["show", "p.yaml", "table.out"]);
    assert_eq!(
        (shown.code, shown.stdout.as_str()),
        (Some(0), ANSWER),
        "{}",
        shown.stderr
    );
    assert_eq!(team.bob.read("cache/outputs/shared/table/out.txt"), ANSWER);
    assert_eq!(team.bob.volvelle(&["logs", "p.yaml", "sum"]).stdout, "summed\n");

    // What needs the checkpoint after an edit fetches it, and of the folder only the file that is read.
    team.bob.edit("s += $1", "s += 2 * $1");
    let expected = [("big", "cached"), ("sum", "executed"), ("table", "executed")];
    assert_eq!(team.bob.run(&[]), states(&expected));
    let largest = sizes(&team.bob.path("cache/blobs")).into_iter().max();
    assert!(largest > Some(1_000_000), "{largest:?}");
    assert!(!team.bob.exists("ran-big"));
}

#[test]
fn plan_status_and_show_know_what_the_remote_has() {
    let team = Team::new();
    team.ada.run(&[]);
    let plan = team.bob.volvelle(&["plan", "p.yaml", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).expect("a plan");
    assert_eq!(plan["counts"]["cached"], 3);
    let alone = team
        .bob
        .volvelle(&["plan", "p.yaml", "--json", "--set", "factor=3", "--no-remote"]);
    assert_eq!(alone.code, Some(0), "{}", alone.stderr);
    let fresh = Project::new(PIPELINE);
    let url = format!("file://{}", team.remote().display());
    let plan = fresh.volvelle(&["plan", "p.yaml", "--json", "--remote", &url]);
    let plan: Value = serde_json::from_str(&plan.stdout).expect("a plan");
    assert_eq!(plan["counts"]["cached"], 3, "a remote on the command line");
    let fresh = Project::new(PIPELINE);
    let plan = fresh.volvelle(&["plan", "p.yaml", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).expect("a plan");
    assert_eq!(plan["counts"]["cached"], 0, "and none without it");
}

#[test]
fn push_and_pull_move_what_is_asked_for() {
    let team = Team::new();
    assert_eq!(team.ada.run(&["--no-remote"]), all("executed"));
    assert!(!team.remote().exists(), "a run without a remote pushes nothing");
    let pushed = team.ada.volvelle(&["push", "p.yaml", "--json"]);
    let summary: Value = serde_json::from_str(&pushed.stdout).expect("a summary");
    assert_eq!(
        (&summary["pushed"], &summary["same"]),
        (&3.into(), &0.into()),
        "{summary}"
    );
    let again = team.ada.volvelle(&["push", "--all", "--json"]);
    let summary: Value = serde_json::from_str(&again.stdout).expect("a summary");
    assert_eq!(
        (&summary["pushed"], &summary["same"], &summary["wire_bytes"]),
        (&0.into(), &3.into(), &0.into())
    );

    let pulled = team.bob.volvelle(&["pull", "p.yaml", "sum"]);
    assert_eq!(pulled.code, Some(0), "{}{}", pulled.stdout, pulled.stderr);
    assert!(
        pulled.stdout.contains("1 of 1 results known, 1 artifacts pulled"),
        "{}",
        pulled.stdout
    );
    let pulled = team.bob.volvelle(&["pull", "p.yaml"]);
    assert!(
        pulled.stdout.contains("3 of 3 results known, 2 artifacts pulled"),
        "{}",
        pulled.stdout
    );
    assert_eq!(team.bob.run(&["--no-remote"]), all("cached"), "everything is here now");

    let status = team.bob.volvelle(&["remote", "status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).expect("a status");
    assert_eq!(
        (&status["records"], &status["writable"]),
        (&3.into(), &true.into()),
        "{status}"
    );
}

#[test]
fn a_remote_that_can_not_be_had_costs_one_note() {
    let team = Team::new();
    fs::write(team.remote(), "a file where a folder should be").expect("a file");
    let ended = team.ada.run_json(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.states(), all("executed"));
    let notes = notes(&ended);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("not used any more"), "{notes:?}");

    // What could not be pushed is pushed by the next run, which has nothing else to do.
    fs::remove_file(team.remote()).expect("the file");
    assert_eq!(team.ada.run(&[]), all("cached"));
    assert_eq!(team.bob.run(&[]), all("cached"));
}

#[test]
fn what_a_remote_lost_is_made_again() {
    let team = Team::new();
    team.ada.run(&[]);
    let pulled = team.bob.volvelle(&["pull", "p.yaml", "--records"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    // The records are here and in the remote; what they promise is gone.
    for folder in ["maps", "packs"] {
        let _ = fs::remove_dir_all(team.remote().join(folder));
    }
    team.bob.edit("s += $1", "s += 2 * $1");
    let ended = team.bob.run_json(&[]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.states()["sum"], "executed");
    assert_eq!(team.bob.read("ran-big"), "x\n", "the input had to be made");
    assert_eq!(
        team.bob.volvelle(&["show", "p.yaml", "table.out"]).stdout,
        "180000600000\n"
    );
}

#[test]
fn damage_in_the_remote_is_never_let_in() {
    let team = Team::new();
    team.ada.run(&[]);
    for file in files(&team.remote().join("records")) {
        let mut bytes = fs::read(&file).expect("a record");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&file).expect("the record");
        fs::write(&file, bytes).expect("a damaged record");
    }
    let ended = team.bob.run_json(&[]);
    assert_eq!(
        (ended.code, ended.states()),
        (Some(0), all("executed")),
        "{}",
        ended.stderr
    );
    assert!(
        notes(&ended).iter().any(|note| note.contains("damaged")),
        "{:?}",
        notes(&ended)
    );
    // Ours took their place.
    assert_eq!(
        Team {
            folder: team.folder,
            ada: team.bob,
            bob: team.ada
        }
        .ada
        .run(&[]),
        all("cached")
    );
}

#[test]
fn two_machines_at_once_run_each_node_once() {
    let team = Team::new();
    let slow = PIPELINE.replace("mkdir ", "sleep 1; mkdir ");
    team.ada.write("p.yaml", &slow);
    team.bob.write("p.yaml", &slow);
    let [ada, bob] = [&team.ada, &team.bob].map(|project| project.start(&["run", "p.yaml", "--json"]));
    let (ada, bob) = (finish(ada), finish(bob));
    assert_eq!((ada.code, bob.code), (Some(0), Some(0)), "{}{}", ada.stderr, bob.stderr);
    for stage in ["ran-big", "ran-sum", "ran-table"] {
        let ran = [&team.ada, &team.bob].map(|project| usize::from(project.exists(stage)));
        assert_eq!(ran.iter().sum::<usize>(), 1, "{stage}: {ran:?}");
    }
}

#[test]
fn another_result_under_the_same_key_stays_unless_it_is_replaced() {
    let team = Team::new();
    let random = PIPELINE.replace("echo summed", "date +%N >> ${outputs.out}");
    team.ada.write("p.yaml", &random);
    team.bob.write("p.yaml", &random);
    team.ada.run(&[]);
    team.bob.run(&["--no-remote"]);
    let pushed = team.bob.volvelle(&["push", "p.yaml"]);
    assert!(
        pushed.stdout.contains("other result"),
        "{}{}",
        pushed.stdout,
        pushed.stderr
    );
    let theirs = team.ada.digest("sum", "out");
    let fresh = Project::new(&random);
    fresh.write("volvelle.yaml", &team.ada.read("volvelle.yaml"));
    fresh.run(&[]);
    assert_eq!(fresh.digest("sum", "out"), theirs);
    let pushed = team.bob.volvelle(&["push", "p.yaml", "--replace"]);
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    let fresh = Project::new(&random);
    fresh.write("volvelle.yaml", &team.ada.read("volvelle.yaml"));
    fresh.run(&[]);
    assert_eq!(fresh.digest("sum", "out"), team.bob.digest("sum", "out"));
}

/// Runs a pipeline with a signing key of its own.
fn run_signed(project: &Project, key: &Path) -> Ended {
    let mut command = project.command(&["run", "p.yaml", "--json"]);
    command.env("VOLVELLE_SIGNING_KEY", key);
    let output = command.output().expect("the program runs");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Makes a key and returns its file and its public half.
fn new_key(project: &Project, name: &str) -> (PathBuf, String) {
    let file = project.path(name);
    let key = |what: &str| {
        let mut command = project.command(&["key", what]);
        let output = command
            .env("VOLVELLE_SIGNING_KEY", &file)
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    key("new");
    (file.clone(), key("show"))
}

#[test]
fn only_signed_records_count_where_the_project_says_so() {
    let team = Team::new();
    let (key, public) = new_key(&team.ada, "ada.key");
    let (stranger, _) = new_key(&team.ada, "eve.key");
    let trust = format!("trust: {{ require: signed, keys: {{ ada: '{public}' }} }}\n");

    // Nobody's record does not count, and why says so.
    team.ada.run(&[]);
    team.settings(&trust);
    let why = team.bob.volvelle(&["why", "p.yaml", "big"]);
    assert!(why.stdout.contains("not signed"), "{}{}", why.stdout, why.stderr);
    let plan = team.ada.volvelle(&["plan", "p.yaml"]);
    assert!(plan.stdout.contains("not signed by anyone"), "{}", plan.stdout);

    // A stranger's neither: who runs with that key is told, and its results are no hits for others.
    let ended = run_signed(&team.ada, &stranger);
    assert_eq!(ended.states(), all("executed"));
    assert!(ended.stderr.contains("will not count"), "{}", ended.stderr);
    let status = team.bob.volvelle(&["plan", "p.yaml", "--json"]);
    let plan: Value = serde_json::from_str(&status.stdout).expect("a plan");
    assert_eq!(plan["counts"]["cached"], 0, "{plan}");

    // Ada's does, wherever it lies.
    let ended = run_signed(&team.ada, &key);
    assert_eq!(ended.states(), all("executed"));
    assert_eq!(run_signed(&team.ada, &key).states(), all("cached"));
    let pushed = team.ada.volvelle(&["push", "p.yaml", "--replace"]);
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    assert_eq!(team.bob.run(&[]), all("cached"));
    assert!(!team.bob.exists("ran-big"));

    // A signature does not survive a changed record, even where the check line was made to fit.
    let fresh = Project::new(PIPELINE);
    fresh.write("volvelle.yaml", &team.ada.read("volvelle.yaml"));
    for file in files(&team.remote().join("records")) {
        let text = fs::read_to_string(&file).expect("a record");
        let (json, rest) = text.rsplit_once("\nblake3 ").expect("a check line");
        let signature = rest.split_once('\n').expect("signatures").1;
        let json = json.replace("\"attempt\":1", "\"attempt\":2");
        let check = blake3::hash(json.as_bytes()).to_hex();
        fs::remove_file(&file).expect("the record");
        fs::write(&file, format!("{json}\nblake3 {check}\n{signature}")).expect("a forged record");
    }
    let plan = fresh.volvelle(&["plan", "p.yaml", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).expect("a plan");
    assert_eq!(plan["counts"]["cached"], 0);
}

#[test]
fn wrong_settings_are_told_with_file_and_line() {
    let team = Team::new();
    team.ada.write("volvelle.yaml", "remote:\n  url: s3://b\n  ulr: x\n");
    let ended = team.ada.volvelle(&["run", "p.yaml"]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("volvelle.yaml") && ended.stderr.contains("ulr"),
        "{}",
        ended.stderr
    );
    team.ada.write("volvelle.yaml", "remote: { url: 'ftp://b' }\n");
    let ended = team.ada.volvelle(&["run", "p.yaml"]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("ftp") && ended.stderr.contains("s3://"),
        "{}",
        ended.stderr
    );
    team.ada
        .write("volvelle.yaml", "trust: { require: signed, keys: { ada: nonsense } }\n");
    let ended = team.ada.volvelle(&["run", "p.yaml"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("trust.keys.ada"), "{}", ended.stderr);
    let ended = Project::new(PIPELINE).volvelle(&["push", "p.yaml"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("there is no remote"), "{}", ended.stderr);
}

/// Two branches below one chain, so that inputs at two depths are needed at once.
const CHAIN: &str = r#"volvelle: 1
name: chain
params: { edit: 1 }
stages:
  q:
    uses: command
    with: { run: "echo x >> ran-q; seq 1000 > ${outputs.out}" }
    outputs: { out: text }
  p:
    uses: command
    needs: { q: q.out }
    with: { run: "echo x >> ran-p; sed 's/1/2/' ${inputs.q} > ${outputs.out}" }
    outputs: { out: text }
  c:
    uses: command
    needs: { p: p.out }
    with: { run: "wc -l ${inputs.p} > ${outputs.out}; echo ${params.edit} >> ${outputs.out}" }
    outputs: { out: text }
  d:
    uses: command
    needs: { q: q.out }
    with: { run: "wc -l ${inputs.q} > ${outputs.out}; echo ${params.edit} >> ${outputs.out}" }
    outputs: { out: text }
"#;

#[test]
fn inputs_that_are_gone_at_two_depths_are_made_again_in_order() {
    let team = Team::new();
    team.ada.write("p.yaml", CHAIN);
    team.bob.write("p.yaml", CHAIN);
    team.ada.run(&[]);
    let pulled = team.bob.volvelle(&["pull", "p.yaml", "--records"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    for folder in ["maps", "packs"] {
        let _ = fs::remove_dir_all(team.remote().join(folder));
    }
    for jobs in ["1", "4"] {
        let ended = team.bob.run_json(&["--set", &format!("edit={jobs}0"), "--jobs", jobs]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let states = ended.states();
        assert_eq!((&*states["c"], &*states["d"]), ("executed", "executed"), "{states:?}");
        assert_eq!(team.bob.read("ran-q") + &team.bob.read("ran-p"), "x\nx\n");
    }
}

#[test]
fn a_local_run_asks_the_remote_nothing() {
    let team = Team::new();
    team.ada.run(&[]);
    // Whoever asked would find out that it is gone, and tell.
    fs::rename(team.remote(), team.folder.path().join("away")).expect("the remote");
    fs::write(team.remote(), "a file where a folder should be").expect("a file");
    let ended = team.ada.run_json(&[]);
    assert_eq!((ended.code, ended.states()), (Some(0), all("cached")));
    assert_eq!(notes(&ended), Vec::<String>::new());
    let collected = team.ada.volvelle(&["gc", "--dry-run"]);
    assert_eq!((collected.code, collected.stderr.as_str()), (Some(0), ""));
}

#[test]
fn signatures_that_come_later_take_the_place_of_none() {
    let team = Team::new();
    let (key, public) = new_key(&team.ada, "ada.key");
    team.ada.run(&[]);
    team.settings(&format!("trust: {{ require: signed, keys: {{ ada: '{public}' }} }}\n"));
    assert_eq!(run_signed(&team.ada, &key).states(), all("executed"));
    assert_eq!(
        team.bob.run(&[]),
        all("cached"),
        "what was unsigned in the remote is signed now"
    );
    assert!(!team.bob.exists("ran-big"));
    // And nothing unsigned takes their place, here or there.
    let pushed = Project::new(PIPELINE);
    pushed.write(
        "volvelle.yaml",
        &format!("remote: {{ url: 'file://{}' }}\n", team.remote().display()),
    );
    assert_eq!(pushed.run(&["--no-remote"]), all("executed"));
    pushed.volvelle(&["push", "p.yaml"]);
    assert_eq!(team.bob.run(&[]), all("cached"));
}

#[test]
fn a_remote_that_can_only_be_read_is_read() {
    let team = Team::new();
    team.ada.run(&[]);
    let token = |scope: &str| {
        let made = team.ada.volvelle(&["token", "new", scope, "--scope", scope]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let text = made.stdout + &made.stderr;
        text.split_whitespace()
            .find(|word| word.starts_with("vlv_"))
            .expect("a token")
            .to_owned()
    };
    let reader = token("read");
    let mut child = team
        .ada
        .command(&["serve", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a server");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http"))
        .expect("an address");
    team.bob.write(
        "volvelle.yaml",
        &format!("remote: {{ url: '{}' }}\n", url.trim_end_matches(',')),
    );
    team.bob.edit("s += $1", "s += 2 * $1");
    let mut run = team.bob.command(&["run", "p.yaml", "--json"]);
    let output = run.env("VOLVELLE_TOKEN", reader).output().expect("the program runs");
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    let ended = Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let expected = [("big", "cached"), ("sum", "executed"), ("table", "executed")];
    assert_eq!(ended.states(), states(&expected), "{}", ended.stdout);
    assert!(
        !team.bob.exists("ran-big"),
        "the input was fetched although nothing may be written there"
    );
    assert_eq!(notes(&ended).len(), 1, "{:?}", notes(&ended));
}

#[test]
fn a_thousand_flipped_bits_of_remote_records_are_noticed() {
    let team = Team::new();
    let (key, _) = new_key(&team.ada, "ada.key");
    assert_eq!(run_signed(&team.ada, &key).states(), all("executed"));
    let records: Vec<Vec<u8>> = files(&team.remote().join("records"))
        .iter()
        .map(|file| fs::read(file).expect("a record"))
        .collect();
    let whole = |bytes: &[u8]| volvelle::store::RecordFile::parse(bytes);
    assert!(
        records
            .iter()
            .all(|bytes| whole(bytes).is_some_and(|file| file.signers.len() == 1))
    );
    // A generator of its own, so that a failure can be had again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..1000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = records[(state >> 33) as usize % records.len()].clone();
        let place = (state >> 11) as usize % (bytes.len() * 8);
        bytes[place / 8] ^= 1 << (place % 8);
        assert!(
            whole(&bytes).is_none(),
            "bit {place} of {}",
            String::from_utf8_lossy(&bytes)
        );
    }
}
