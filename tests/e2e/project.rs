//! A temporary project and the real program run in it, for the tests of runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a busy machine: reaching it means that something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with pipelines and a cache of its own; it is removed with the value.
pub struct Project {
    dir: tempfile::TempDir,
}

/// How the program ended and what it said.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    /// Makes a project whose pipeline is `p.yaml`.
    pub fn new(pipeline: &str) -> Project {
        let project = Project {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        project.write("p.yaml", pipeline);
        project
    }

    /// Makes a project in memory, where there is such a place: for what is killed, and never has to survive the machine.
    pub fn in_memory(pipeline: &str) -> Project {
        let project = Project {
            dir: tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .expect("a temporary folder"),
        };
        project.write("p.yaml", pipeline);
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the project")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Changes the pipeline; what is replaced must occur.
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.read("p.yaml");
        assert!(text.contains(from), "{from:?} is not in the pipeline");
        self.write("p.yaml", &text.replacen(from, to, 1));
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file of text")
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Returns the program, to be run in the project in a clean environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volvelle"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        for name in [
            "VOLVELLE_CACHE",
            "VOLVELLE_PLUGINS",
            "VOLVELLE_LOG",
            "VOLVELLE_REMOTE",
            "VOLVELLE_SIGNING_KEY",
            "VOLVELLE_TOKEN",
            "CUDA_VISIBLE_DEVICES",
            "COLUMNS",
        ] {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1");
        // Whoever runs the tests may have a signing key.
        command.env("XDG_CONFIG_HOME", self.dir.path());
        command
    }

    /// Runs the program to its end.
    pub fn volvelle(&self, arguments: &[&str]) -> Ended {
        finish(self.start(arguments))
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }

    /// Runs `p.yaml`, which must go well, and returns the state of each node.
    pub fn run(&self, options: &[&str]) -> BTreeMap<String, String> {
        let ended = self.run_json(options);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        ended.states()
    }

    /// Runs `p.yaml` with `--json`.
    pub fn run_json(&self, options: &[&str]) -> Ended {
        self.volvelle(&[&["run", "p.yaml", "--json"], options].concat())
    }

    /// Returns the digest of an output of a node.
    pub fn digest(&self, node: &str, output: &str) -> String {
        let shown = self.volvelle(&["show", "p.yaml", node, "--json"]);
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        let record: Value = serde_json::from_str(&shown.stdout).expect("a record");
        record["artifacts"][output]["digest"]
            .as_str()
            .expect("an output has a digest")
            .to_owned()
    }

    /// Waits until something is so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a worker has made a file in the project.
    pub fn wait_for(&self, name: &str) {
        self.wait_until(&format!("{name} exists"), || self.exists(name));
    }

    /// Waits until the process whose id a worker wrote into a file is gone, or is a zombie.
    pub fn wait_until_dead(&self, pid_file: &str) {
        let pid = self.read(pid_file);
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let dead = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        self.wait_until(&format!("the process of {pid_file} is gone"), dead);
    }
}

/// Waits for a started program.
pub fn finish(child: Child) -> Ended {
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Sends a signal by name to a started program.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()));
}

/// Removes a file of the cache, which is read-only.
pub fn remove(path: &Path) {
    fs::remove_file(path).expect("the file is there");
}

impl Ended {
    /// Returns the events that `--json` printed.
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is an event"))
            .collect()
    }

    /// Returns the state in which each node ended.
    pub fn states(&self) -> BTreeMap<String, String> {
        let events = self.events();
        let finished = events.iter().filter(|event| event["event"] == "node_finished");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        finished
            .map(|event| (text(&event["id"]), text(&event["state"])))
            .collect()
    }

    /// Returns the end of a node.
    pub fn end_of(&self, node: &str) -> Value {
        let events = self.events();
        let end = events
            .into_iter()
            .find(|event| event["event"] == "node_finished" && event["id"] == node);
        end.unwrap_or_else(|| panic!("{node} ended:\n{}{}", self.stdout, self.stderr))
    }

    /// Returns the last event.
    pub fn last(&self) -> Value {
        self.events().pop().expect("a run has events")
    }
}

/// Returns expected states, for a comparison in one line.
pub fn states(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected
        .iter()
        .map(|(node, state)| ((*node).to_owned(), (*state).to_owned()))
        .collect()
}

/// Flips a bit of a file of the cache, as a program does that writes into it.
pub fn flip(path: &Path, bit: usize) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(path).expect("the file is there");
    let bit = bit % (8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("a file of ours");
    fs::write(path, bytes).expect("a file that can be written");
}

/// A pseudo-random sequence. Its seed is told, and can be given as VOLVELLE_TEST_SEED, so that a failure can be had again.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(test: &str) -> Numbers {
        let given = std::env::var("VOLVELLE_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = given.unwrap_or_else(|| now.unwrap_or_default().as_nanos() as u64 % 1_000_000_007);
        eprintln!("{test}: VOLVELLE_TEST_SEED={seed}");
        Numbers(seed)
    }

    /// Returns a sequence of its own for one of several threads.
    pub fn of_thread(&self, thread: usize) -> Numbers {
        Numbers(self.0 ^ (thread as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns a number below `bound` (splitmix64).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// A run whose whole process group can be killed, and whose events are read as it tells them.
pub struct Killable {
    child: Child,
    said: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Killable {
    /// Starts a command in a group of its own.
    pub fn start(mut command: Command) -> Killable {
        use std::io::Read;
        use std::os::unix::process::CommandExt;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the program starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        let said = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let kept = std::sync::Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                kept.lock().expect("no reader panics").push_str(&text);
            }
        });
        let reader = Some(reader);
        Killable { child, said, reader }
    }

    /// Returns the events that were read so far, without one that is not whole.
    pub fn said(&self) -> Vec<Value> {
        let said = self.said.lock().expect("no reader panics");
        said.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).expect("each line is an event"))
            .collect()
    }

    /// Returns the exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// Kills the whole group; returns whether it had not ended by itself.
    pub fn kill(&mut self) -> bool {
        if self.ended().is_some() {
            return false;
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended in between.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let status = self.child.wait().expect("the child can be waited for");
        status.code().is_none()
    }

    /// Waits for the end, and returns what the program said.
    pub fn finish(mut self) -> (Option<i32>, Vec<Value>) {
        let status = self.child.wait().expect("the child can be waited for");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading does not panic");
        }
        (status.code(), self.said())
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the nodes that a run said it has executed.
pub fn acknowledged(events: &[Value]) -> Vec<String> {
    let executed = |event: &&Value| event["event"] == "node_finished" && event["state"] == "executed";
    let id = |event: &Value| event["id"].as_str().expect("a node has a name").to_owned();
    events.iter().filter(executed).map(id).collect()
}
