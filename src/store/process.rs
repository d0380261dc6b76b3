//! Which process owns something in the cache, and whether it still lives.
//!
//! A process id alone can be reused, so it is kept with the start time that Linux gives it.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process, told apart from a later one that got the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The process id.
    pub pid: u32,
    /// Clock ticks after the machine's start, from `/proc/PID/stat`; 0 where that can't be read.
    pub start: u64,
    /// The machine's name.
    pub host: String,
}

impl Owner {
    /// Returns this very process.
    pub fn current() -> Owner {
        let pid = std::process::id();
        Owner {
            pid,
            start: start_of(pid).unwrap_or(0),
            host: host_name(),
        }
    }

    /// Returns whether the process lives. One on another host is taken to live: nothing here can tell.
    pub fn is_alive(&self) -> bool {
        self.host != host_name() || start_of(self.pid) == Some(self.start)
    }
}

/// Returns the machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the start time of a process; none for one that is gone or is a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    // The start time is field 22 of the line, and the state was field 3.
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives() {
        assert!(Owner::current().is_alive());
    }

    #[test]
    fn a_reused_id_is_another_process() {
        let mut owner = Owner::current();
        owner.start += 1;
        assert!(!owner.is_alive());
    }

    #[test]
    fn a_zombie_counts_as_dead() -> std::io::Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let owner = Owner {
            pid: child.id(),
            start: start_of(child.id()).unwrap_or(0),
            host: host_name(),
        };
        assert!(owner.is_alive());
        child.kill()?;
        // Not reaped yet: until `wait` it stays in the table as a zombie. Waiting without reaping avoids a race.
        rustix::process::waitid(
            rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )?;
        assert!(!owner.is_alive());
        child.wait()?;
        assert!(!owner.is_alive());
        Ok(())
    }
}
