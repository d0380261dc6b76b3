//! What kills the workers when this process can't any more.
//!
//! A worker dies with its parent through Linux' parent-death signal, but the processes that it started do not. So a tiny
//! shell script reads from a pipe which process groups run; when the pipe ends, however this process ended, it
//! kills those that are left. Each worker writes its own group into the pipe before it becomes the worker's program,
//! so there is no moment at which it runs unknown.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -) left=
       for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
       groups=$left ;;
  esac
done
for group in $groups; do kill -KILL "-$group" 2>/dev/null; done
exit 0
"#;

/// The script and the pipe to it.
pub(crate) struct Guard {
    script: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts the script in a group of its own, so that Ctrl-C does not reach it.
    pub(crate) fn start() -> io::Result<Guard> {
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        let pipe = script.stdin.take();
        Ok(Guard { script, pipe })
    }

    /// Returns the pipe for the moment between fork and exec; it closes at exec.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Tells that a group has ended.
    pub(crate) fn forget(&mut self, group: u32) {
        // A script that was killed leaves the parent-death signal as the only guard; the run goes on.
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(format!("- {group}\n").as_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.script.wait();
    }
}

/// Writes the line for a new group without allocating, as is required between fork and exec.
pub(crate) fn line(group: u32, buffer: &mut [u8; 16]) -> &[u8] {
    let mut start = buffer.len() - 1;
    buffer[start] = b'\n';
    let mut rest = group;
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    buffer[start - 1] = b' ';
    buffer[start - 2] = b'+';
    &buffer[start - 2..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_group_is_what_the_script_reads() {
        let mut buffer = [0; 16];
        assert_eq!(line(4_294_967_295, &mut buffer), b"+ 4294967295\n");
        assert_eq!(line(0, &mut buffer), b"+ 0\n");
    }

    #[test]
    fn a_group_that_was_not_forgotten_is_killed_when_the_pipe_ends() -> io::Result<()> {
        let mut guard = Guard::start()?;
        let mut spare = Command::new("sleep").arg("30").process_group(0).spawn()?;
        let mut doomed = Command::new("sleep").arg("30").process_group(0).spawn()?;
        let mut buffer = [0; 16];
        for child in [&spare, &doomed] {
            guard
                .pipe
                .as_mut()
                .expect("just started")
                .write_all(line(child.id(), &mut buffer))?;
        }
        guard.forget(spare.id());
        drop(guard);
        assert!(!doomed.wait()?.success());
        assert!(spare.try_wait()?.is_none());
        spare.kill()?;
        spare.wait().map(|_| ())
    }
}
