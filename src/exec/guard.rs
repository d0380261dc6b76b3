//! What kills the workers when this process can't any more.
//!
//! A tiny shell script reads from a pipe which process groups run; when the pipe ends, however this process ended, it
//! kills those that are left. A worker that was started in the very moment of the end, and was not yet told of, is
//! known by a mark in its environment: the pipe doesn't end before such a worker has it, since until it becomes the
//! worker's program it holds the pipe open itself. Nothing has to run between fork and exec for that, so that workers are
//! started without a copy of this process's memory map, which costs milliseconds where the graph is large.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

/// The variable that marks the workers of a run.
pub(crate) const MARK: &str = "VOLVELLE_GUARD";

const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
groups= is_over=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -) left=
       for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
       groups=$left ;;
    .) is_over=1 ;;
  esac
done
for group in $groups; do kill -KILL "-$group" 2>/dev/null; done
[ "$is_over" ] && exit 0
for file in $(grep -laF "$1" /proc/[0-9]*/environ 2>/dev/null); do
  process=${file#/proc/}
  kill -KILL "${process%/environ}" 2>/dev/null
done
exit 0
"#;

/// The script and the pipe to it.
pub(crate) struct Guard {
    script: Child,
    pipe: Option<ChildStdin>,
    mark: String,
}

impl Guard {
    /// Starts the script in a group of its own, so that Ctrl-C does not reach it.
    pub(crate) fn start() -> io::Result<Guard> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mark = format!("{}-{:x}", std::process::id(), now.unwrap_or_default().as_nanos());
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "guard", &format!("{MARK}={mark}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Inside of another run's stage: that run's guard must not end this one before it has done its work.
            .env_remove(MARK)
            .process_group(0)
            .spawn()?;
        let pipe = script.stdin.take();
        Ok(Guard { script, pipe, mark })
    }

    /// Returns the value of [`MARK`] in the environment of the workers.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Tells that a group runs.
    pub(crate) fn watch(&mut self, group: u32) {
        self.tell(&format!("+ {group}\n"));
    }

    /// Tells that a group has ended.
    pub(crate) fn forget(&mut self, group: u32) {
        self.tell(&format!("- {group}\n"));
    }

    fn tell(&mut self, line: &str) {
        // A script that was killed guards nothing any more; the run goes on.
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // An end in order leaves nothing that would have to be searched for.
        self.tell(". .\n");
        drop(self.pipe.take());
        let _ = self.script.wait();
    }
}
