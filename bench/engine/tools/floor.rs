//! floor JOBS COMMANDS.txt
//!
//! Starts command lines with `sh -c`, at most JOBS at once, and does nothing else: what the same commands cost without
//! an engine. An empty line is a barrier: what comes after it waits for all that came before.
use std::io::{Error, Result};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, jobs, file] = words.as_slice() else {
        return Err(Error::other("floor JOBS COMMANDS.txt"));
    };
    let jobs: usize = jobs.parse().map_err(Error::other)?;
    let text = std::fs::read_to_string(file)?;
    for wave in text.split("\n\n") {
        let commands: Vec<&str> = wave.lines().filter(|line| !line.is_empty()).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(command) = commands.get(next.fetch_add(1, Relaxed)) {
                    let mut shell = Command::new("/bin/sh");
                    let status = shell.args(["-c", command]).stdin(Stdio::null()).status()?;
                    if !status.success() {
                        return Err(Error::other(format!("{status}: {command}")));
                    }
                }
                Ok(())
            };
            let workers: Vec<_> = (0..jobs.min(commands.len())).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })?;
    }
    Ok(())
}
