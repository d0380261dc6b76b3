//! `watch`: a plan at every save, whatever way it is written, and no run without a key.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};

use crate::project::{Project, signal};

const PIPELINE: &str = r#"volvelle: 1
name: words
params: { first: 1 }
stages:
  words:
    uses: command
    outputs: { text: text }
    with: { run: "seq ${params.first} 9 > ${outputs.text}" }
  count:
    uses: command
    needs: { text: words.text }
    matrix: { modulo: [3, 5] }
    outputs: { number: text }
    with: { run: "awk '$1 % ${matrix.modulo} == 0' ${inputs.text} > ${outputs.number}" }
"#;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A started `watch --json` and what it prints.
struct Watching {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Watching {
    fn start(project: &Project, options: &[&str]) -> Watching {
        let mut command = project.command(&[&["watch", "p.yaml"], options].concat());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watching { child, stdin, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    fn next(&self) -> Value {
        serde_json::from_str(&self.line()).expect("a line is JSON")
    }

    /// Ends the input; returns what else was printed and the exit code.
    fn end(mut self) -> (Vec<String>, Option<i32>) {
        drop(self.stdin.take());
        let code = wait(&mut self.child);
        (self.lines.iter().collect(), code)
    }
}

impl Drop for Watching {
    /// A test that fails leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Waits for the end of a program that is told to end.
fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it was started here") {
            return status.code();
        }
        assert!(start.elapsed() < PATIENCE, "the program doesn't end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ids(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn num_runs(project: &Project) -> usize {
    let folders = fs::read_dir(project.path("cache/runs")).into_iter().flatten().flatten();
    folders.filter(|entry| entry.path().join("run.json").is_file()).count()
}

/// Saves as many editors do: into another file, which then takes the place of the old one.
fn save_by_rename(project: &Project, from: &str, to: &str) {
    let text = project.read("p.yaml");
    assert!(text.contains(from));
    project.write(".p.yaml.new", &text.replacen(from, to, 1));
    fs::rename(project.path(".p.yaml.new"), project.path("p.yaml")).expect("a rename");
}

#[test]
fn each_save_is_answered_with_what_it_changes_and_nothing_runs() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let watching = Watching::start(&project, &["--json"]);
    let first = watching.next();
    assert_eq!(first["counts"], json!({"cached": 3, "run": 0, "maybe": 0}));
    assert_eq!((&first["changed_files"], &first["change"]), (&json!([]), &Value::Null));

    project.edit("[3, 5]", "[3, 5, 7]");
    let added = watching.next();
    assert_eq!(added["changed_files"], json!(["p.yaml"]));
    assert_eq!(ids(&added["change"]["starts"]), ["count[modulo=7]"]);
    assert_eq!(added["nodes"][0]["reasons"][0]["path"], "with.run");
    assert_eq!(added["reused"]["nodes"], 3);
    assert!(added["reused"]["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(added["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0));

    save_by_rename(&project, "first: 1", "first: 2");
    let changed = watching.next();
    assert_eq!(
        ids(&changed["change"]["starts"]),
        ["words", "count[modulo=3]", "count[modulo=5]"]
    );
    assert_eq!(ids(&changed["change"]["changes"]), ["count[modulo=7]"]);

    project.edit("first: 2", "first: 1");
    let back = watching.next();
    assert_eq!(
        ids(&back["change"]["stops"]),
        ["words", "count[modulo=3]", "count[modulo=5]"]
    );

    save_by_rename(&project, "[3, 5, 7]", "[3]");
    let fewer = watching.next();
    assert_eq!(ids(&fewer["change"]["gone"]), ["count[modulo=5]", "count[modulo=7]"]);
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
    assert_eq!(num_runs(&project), 1);
}

#[test]
fn a_broken_file_is_told_and_its_repair_compared_with_the_last_plan() {
    let project = Project::new(PIPELINE);
    let watching = Watching::start(&project, &["--json"]);
    assert_eq!(watching.next()["ok"], true);
    project.edit("uses: command", "usse: command");
    let broken = watching.next();
    assert_eq!(broken["ok"], false);
    let is_ours = |mistake: &&Value| mistake["help"] == "did you mean `uses`?";
    let mistake = broken["mistakes"].as_array().and_then(|all| all.iter().find(is_ours));
    assert!(
        mistake.is_some_and(|mistake| mistake["file"] == "p.yaml" && mistake["line"] == 6),
        "{broken:#}"
    );
    project.edit("usse: command", "uses: command");
    let repaired = watching.next();
    assert_eq!(repaired["ok"], true);
    assert_eq!(
        repaired["change"],
        json!({"starts": [], "changes": [], "stops": [], "gone": []})
    );
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
}

#[test]
fn a_file_that_is_deleted_and_made_again_was_saved_once() {
    let project = Project::new(PIPELINE);
    let watching = Watching::start(&project, &["--json"]);
    watching.next();
    let text = project.read("p.yaml");
    fs::remove_file(project.path("p.yaml")).expect("it is there");
    project.write("p.yaml", &text.replace("first: 1", "first: 4"));
    let saved = watching.next();
    assert_eq!(
        (&saved["ok"], &saved["changed_files"]),
        (&json!(true), &json!(["p.yaml"]))
    );
    // A file that stays away is another matter, and no end either.
    fs::remove_file(project.path("p.yaml")).expect("it is there");
    assert_eq!(watching.next()["ok"], false);
    project.write("p.yaml", &text);
    assert_eq!(watching.next()["ok"], true);
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
}

#[test]
fn a_save_of_the_same_bytes_is_none() {
    let project = Project::new(PIPELINE);
    let watching = Watching::start(&project, &["--json"]);
    watching.next();
    project.write("p.yaml", PIPELINE);
    project.write("unrelated.yaml", "x");
    project.edit("first: 1", "first: 3");
    assert_eq!(ids(&watching.next()["change"]["changes"]).len(), 3);
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
}

#[test]
fn included_files_are_followed_even_while_they_are_broken() {
    let project = Project::new(&PIPELINE.replace("params: { first: 1 }", "include: [common.yaml]"));
    project.write("common.yaml", "params: { first: 1 }\n");
    let watching = Watching::start(&project, &["--json"]);
    assert_eq!(watching.next()["counts"]["run"], 3);
    project.write("common.yaml", "params: { first: 2 }\n");
    let changed = watching.next();
    assert_eq!(changed["changed_files"], json!(["common.yaml"]));
    assert_eq!(ids(&changed["change"]["changes"]).len(), 3);
    project.write("common.yaml", "params: [\n");
    assert_eq!(watching.next()["ok"], false);
    project.write("common.yaml", "params: { first: 2 }\n");
    assert_eq!(watching.next()["ok"], true);
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
}

#[test]
fn plugins_and_their_code_are_followed() {
    let plugin = "plugin: 1\nname: demo\ncommand: [sh, work.sh]\ncode: ['*.sh']\nkinds:\n  demo.kind:\n    version: 1\n    \
                  outputs: { out: { type: json } }\n";
    let project = Project::new("volvelle: 1\nname: p\nstages: { a: { uses: demo.kind } }\n");
    project.write("plugins/demo/plugin.yaml", plugin);
    project.write("plugins/demo/work.sh", "true\n");
    let watching = Watching::start(&project, &["--json"]);
    assert_eq!(watching.next()["counts"]["run"], 1);

    project.write("plugins/demo/work.sh", "false\n");
    let code = watching.next();
    assert_eq!(code["changed_files"], json!(["plugins/demo/work.sh"]));
    assert_eq!(ids(&code["change"]["changes"]), ["a"]);

    project.write("plugins/demo/more.sh", "true\n");
    let more = watching.next();
    assert_eq!(more["changed_files"], json!(["plugins/demo/more.sh"]));
    assert_eq!(ids(&more["change"]["changes"]), ["a"]);

    project.write("plugins/demo/plugin.yaml", "plugin: 1\n");
    assert_eq!(watching.next()["ok"], false);
    project.write("plugins/demo/plugin.yaml", &plugin.replace("version: 1", "version: 2"));
    let version = watching.next();
    assert_eq!(version["changed_files"], json!(["plugins/demo/plugin.yaml"]));
    assert_eq!(ids(&version["change"]["changes"]), ["a"]);

    // A whole plugin moves in: the kind is there before the pipeline uses it.
    project.write("elsewhere/plugin.yaml", &plugin.replace("demo", "other"));
    project.write("elsewhere/work.sh", "true\n");
    fs::rename(project.path("elsewhere"), project.path("plugins/other")).expect("a rename");
    assert_eq!(watching.next()["changed_files"], json!(["plugins/other/plugin.yaml"]));
    project.edit("demo.kind", "other.kind");
    assert_eq!(watching.next()["nodes"][0]["kind"], "other.kind");
    assert_eq!(watching.end(), (Vec::new(), Some(0)));
}

#[test]
fn a_pipe_gets_lines_and_a_signal_ends_it() {
    let project = Project::new(PIPELINE);
    let mut watching = Watching::start(&project, &["--only", "count"]);
    let read = |watching: &Watching, last: &str| {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.starts_with(last)) {
            lines.push(watching.line());
        }
        lines
    };
    let first = "run  words              not cached, and the selection leaves it out: a run fails here\n\
                 run  count[modulo=3]    never run\n\
                 run  count[modulo=5]    never run\n\
                 words: 3 nodes: 3 run, 0 cached\n\
                 nothing is reused";
    assert_eq!(read(&watching, "nothing is reused").join("\n"), first);
    project.edit("[3, 5]", "[3, 5, 7]");
    let second = read(&watching, "shown ");
    assert_eq!((second[0].as_str(), second[1].ends_with("  p.yaml")), ("", true));
    assert!(
        second.contains(&"+  run  count[modulo=7]    never run".to_owned()),
        "{second:#?}"
    );
    assert!(
        second.contains(&"against the plan before: 1 node now runs".to_owned()),
        "{second:#?}"
    );
    signal(&watching.child, "INT");
    assert_eq!(wait(&mut watching.child), Some(130));
}

#[test]
fn what_is_wrong_with_the_command_line_ends_it() {
    let project = Project::new(PIPELINE);
    for arguments in [["watch", "q.yaml", "--json"], ["watch", "p.yaml", "--only=cuont"]] {
        let ended = project.volvelle(&arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    }
}

/// The program in a terminal of its own.
struct Terminal {
    keys: File,
    /// Kept open, so that its modes can be read after the program.
    own_side: OwnedFd,
    screen: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    fn start(project: &Project, arguments: &[&str]) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("it is text"))
            .expect("the other side opens");
        let side = || Stdio::from(theirs.try_clone().expect("a second handle"));
        let mut command = project.command(arguments);
        let child = command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("the program starts");
        let keys = File::from(ours);
        let mut shown = keys.try_clone().expect("a second handle");
        let screen = Arc::new(Mutex::new(String::new()));
        let writer = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(num @ 1..) = shown.read(&mut buffer) {
                writer
                    .lock()
                    .expect("no reader panics")
                    .push_str(&String::from_utf8_lossy(&buffer[..num]));
            }
        });
        Terminal {
            keys,
            own_side: theirs.into(),
            screen,
            child,
        }
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("no writer panics").clone()
    }

    /// Waits until a text was shown a number of times.
    fn wait_for(&self, project: &Project, text: &str, times: usize) {
        let what = format!("{text:?} is on the screen {times} times");
        project.wait_until(&what, || self.screen().matches(text).count() >= times);
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("the terminal takes keys");
    }

    fn reads_lines(&self) -> bool {
        let modes = tcgetattr(&self.own_side).expect("it is a terminal").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn only_a_key_runs_what_is_shown() {
    let project = Project::new(PIPELINE);
    let mut terminal = Terminal::start(&project, &["watch", "p.yaml"]);
    terminal.wait_for(&project, "q quit", 1);
    project.edit("[3, 5]", "[3, 7]");
    terminal.wait_for(&project, "q quit", 2);
    assert!(
        terminal.screen().contains("+  run  count[modulo=7]"),
        "{}",
        terminal.screen()
    );
    project.wait_until("keys are read one by one", || !terminal.reads_lines());
    // Arrows, pasted words and unknown keys are no commands.
    terminal.press("\x1b[A");
    terminal.press("?");
    terminal.wait_for(&project, "this help", 1);
    assert_eq!(num_runs(&project), 0);

    terminal.press("r");
    terminal.wait_for(&project, "q quit", 3);
    let screen = terminal.screen();
    assert!(
        screen.contains("done in") && screen.contains("3 nodes no longer run"),
        "{screen}"
    );
    assert_eq!(num_runs(&project), 1);
    terminal.press("a");
    terminal.wait_for(&project, "\ncached  words", 1);
    terminal.press("q");
    assert_eq!(wait(&mut terminal.child), Some(0));
    assert!(terminal.reads_lines());
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal() {
    let project = Project::new(PIPELINE);
    let mut terminal = Terminal::start(&project, &["watch", "p.yaml"]);
    project.wait_until("keys are read one by one", || !terminal.reads_lines());
    signal(&terminal.child, "TERM");
    assert_eq!(wait(&mut terminal.child), Some(130));
    assert!(terminal.reads_lines());
}
