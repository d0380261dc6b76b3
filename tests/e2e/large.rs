//! What artifacts keep and what they refuse, and inputs and cached results that somebody tampered with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::project::{Project, states};

/// A stage that makes a folder by a script, and one that tells what it finds in it.
fn with_folder(script: &str) -> Project {
    let project = Project::new(
        r#"volvelle: 1
name: folders
stages:
  make:
    uses: command
    with: { run: "mkdir ${outputs.out}; cd ${outputs.out}; OUT=${outputs.out} sh -e PROJECT/make.sh" }
    outputs: { out: folder }
  tell:
    uses: command
    needs: { tree: make.out }
    with: { run: "cd ${inputs.tree}; { find . | LC_ALL=C sort; cat last/x; ./run; } > ${outputs.out}" }
    outputs: { out: text }
"#,
    );
    let root = project.path("").to_string_lossy().into_owned();
    project.edit("PROJECT", root.trim_end_matches('/'));
    project.write("make.sh", script);
    project
}

fn message(project: &Project) -> (String, String) {
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    let end = ended.end_of("make");
    let text = |field: &str| end[field].as_str().unwrap_or_default().to_owned();
    (text("message"), text("hint"))
}

/// Returns the paths of the files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path().is_dir() {
            true => files_below(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}

/// Changes a byte of the blob that has these bytes, and puts its time back.
fn damage(project: &Project, bytes: &str) {
    let blobs = files_below(&project.path("cache/blobs"));
    let is_it = |path: &&PathBuf| fs::read(path).is_ok_and(|found| found == bytes.as_bytes());
    let blob = blobs.iter().find(is_it).expect("a blob with these bytes");
    let modified = fs::metadata(blob)
        .and_then(|metadata| metadata.modified())
        .expect("a time");
    fs::set_permissions(blob, fs::Permissions::from_mode(0o644)).expect("unlocked");
    fs::write(blob, bytes.to_uppercase()).expect("written");
    let file = fs::File::options().write(true).open(blob).expect("it opens");
    file.set_times(fs::FileTimes::new().set_modified(modified))
        .expect("times");
}

#[test]
fn links_empty_folders_and_odd_names_reach_the_next_stage() {
    let project = with_folder(
        r#"mkdir -p empty "a b/c" checkpoint
echo x > checkpoint/x
ln -s checkpoint last
ln -s "$OUT/checkpoint/x" "a b/c/absolute"
ln -s nowhere dangling
printf '#!/bin/sh\necho ran\n' > run; chmod +x run
echo y > "$(printf 'new\nline')"
"#,
    );
    assert_eq!(project.run(&[]), states(&[("make", "executed"), ("tell", "executed")]));
    let told = project.volvelle(&["show", "p.yaml", "tell.out"]).stdout;
    for line in [
        "./empty",
        "./a b/c/absolute",
        "./last",
        "./dangling",
        "./checkpoint/x",
        "x",
        "ran",
    ] {
        assert!(told.lines().any(|found| found == line), "{line:?} is not in\n{told}");
    }
    assert_eq!(project.run(&[]), states(&[("make", "cached"), ("tell", "cached")]));
    let shown = project.volvelle(&["show", "p.yaml", "make.out"]).stdout;
    assert!(
        shown.contains("last -> checkpoint") && shown.contains("empty/"),
        "{shown}"
    );
    let shown = project.volvelle(&["show", "p.yaml", "make.out", "--json"]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["links"][0]["target"], "../../checkpoint/x");
    assert_eq!(shown["empty_folders"], serde_json::json!(["empty"]));
    assert_eq!(project.volvelle(&["show", "p.yaml", "make.out/last/x"]).stdout, "x\n");
    let copy = project.path("copy");
    let to = copy.to_string_lossy();
    assert_eq!(
        project.volvelle(&["show", "p.yaml", "make.out", "--to", &to]).code,
        Some(0)
    );
    assert_eq!(
        fs::read_link(copy.join("last")).expect("a link"),
        Path::new("checkpoint")
    );
    assert!(copy.join("empty").is_dir());
}

#[test]
fn links_that_leave_and_names_that_are_no_text_are_refused_with_what_to_do() {
    let (message, hint) = message(&with_folder("mkdir d; ln -s ../../in d/inputs"));
    assert!(
        message.contains("d/inputs to ../../in leads out of the folder"),
        "{message}"
    );
    assert!(hint.contains("copy what the link leads to"), "{hint}");
    let (message, _) = self::message(&with_folder("ln -s /etc/passwd secret"));
    assert!(
        message.contains("secret to /etc/passwd has an absolute target"),
        "{message}"
    );
    let (message, hint) = self::message(&with_folder("touch \"$(printf 'caf\\351')\""));
    assert!(message.contains("not valid UTF-8"), "{message}");
    assert!(hint.contains("rename"), "{hint}");
    let (message, _) = self::message(&with_folder("mkfifo pipe"));
    assert!(message.contains("a named pipe"), "{message}");
}

#[test]
fn an_input_that_was_changed_and_made_to_look_as_before_fails_the_node() {
    let project = Project::new(
        r#"volvelle: 1
name: tampered
stages:
  source: { uses: command, with: { run: "echo data > ${outputs.out}" }, outputs: { out: text } }
  bad:
    uses: command
    needs: { data: source.out }
    outputs: { out: text }
    with:
      run: |
        touch -r ${inputs.data} stamp
        chmod u+w ${inputs.data}
        printf DATA | dd of=${inputs.data} conv=notrunc status=none
        touch -r stamp ${inputs.data}
        echo done > ${outputs.out}
"#,
    );
    let ended = project.run_json(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    let message = ended.end_of("bad")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("changed its input `data`"), "{message}");
    project.edit("printf DATA", "true");
    let again = project.run(&[]);
    assert_eq!(again["bad"], "executed");
    assert_eq!(project.volvelle(&["show", "p.yaml", "source.out"]).stdout, "data\n");
}

#[test]
fn paranoid_finds_a_flipped_byte_and_makes_it_again() {
    let project = Project::new(
        r#"volvelle: 1
name: paranoid
stages:
  one: { uses: command, with: { run: "echo first > ${outputs.out}" }, outputs: { out: text } }
  two: { uses: command, needs: { in: one.out }, with: { run: "echo second > ${outputs.out}" }, outputs: { out: text } }
"#,
    );
    project.run(&[]);
    assert_eq!(
        project.run(&["--paranoid"]),
        states(&[("one", "cached"), ("two", "cached")])
    );
    damage(&project, "first\n");
    assert_eq!(
        project.run(&[]),
        states(&[("one", "cached"), ("two", "cached")]),
        "nobody looks"
    );
    let plan = project.volvelle(&["plan", "p.yaml", "--paranoid"]);
    assert!(plan.stderr.contains("damaged"), "{}", plan.stderr);
    assert!(plan.stdout.contains("one"), "{}", plan.stdout);
    assert_eq!(project.run(&["--paranoid"])["one"], "executed");
    assert_eq!(project.volvelle(&["show", "p.yaml", "one.out"]).stdout, "first\n");
    assert_eq!(files_below(&project.path("cache/quarantine")).len(), 1);
}

#[test]
fn a_full_disk_fails_the_node_with_what_to_do_and_leaves_nothing_half() {
    let project = Project::new(
        r#"volvelle: 1
name: full
stages:
  make:
    uses: command
    with: { run: "head -c 3000000 /dev/zero > ${outputs.out}; head -c 6000000 /dev/zero" }
    outputs: { out: text }
"#,
    );
    // A small disk of its own, which is gone with the process: room for the output and the log, not for a copy of that.
    let script = format!(
        "mkdir -p cache && mount -t tmpfs -o size=12m tmpfs cache || exit 77
         {} run p.yaml --json; code=$?
         find cache/tmp -maxdepth 1 -type f -printf 'left %s\\n'
         find cache/blobs -type f -printf 'left %s\\n'; exit $code",
        env!("CARGO_BIN_EXE_volvelle")
    );
    let arguments = ["--mount", "sh", "-c", script.as_str()];
    let command = std::process::Command::new("unshare")
        .args(arguments)
        .current_dir(project.path(""))
        .output();
    let ended = match command {
        Ok(ended) if ended.status.code() != Some(77) && !ended.stdout.is_empty() => ended,
        _ => return eprintln!("skipped: a disk of its own takes `unshare --mount`, mostly as root"),
    };
    let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{printed}");
    assert!(printed.contains("No space left on device"), "{printed}");
    assert!(printed.contains("the disk of the cache is full"), "{printed}");
    // The folder of the attempt stays for whoever wants to look into it, until the next run.
    let left: Vec<&str> = printed.lines().filter(|line| line.starts_with("left ")).collect();
    assert_eq!(left, ["left 3000000"], "only the whole blob");
}
