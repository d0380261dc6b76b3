//! launch TIMEOUT_S RESULT.json OUTPUT.txt ARGV...
//!
//! Runs ARGV in its own process group with stdout and stderr in OUTPUT, and reports wall time, CPU time with children,
//! and peak memory from wait4(2). A small native parent, because Linux carries the peak memory of the image that forks
//! into the child's: measured from Python, everything would show Python's.
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[repr(C)]
#[derive(Default)]
struct Time {
    seconds: i64,
    micros: i64,
}

#[repr(C)]
#[derive(Default)]
struct Usage {
    user: Time,
    system: Time,
    max_rss_kib: i64,
    rest: [i64; 13],
}

const TERM: i32 = 15;
const KILL: i32 = 9;
const PR_SET_PDEATHSIG: i32 = 1;

unsafe extern "C" {
    fn wait4(pid: i32, status: *mut i32, options: i32, usage: *mut Usage) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn prctl(option: i32, value: usize) -> i32;
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, limit, result, output, program, arguments @ ..] = words.as_slice() else {
        eprintln!("launch TIMEOUT_S RESULT.json OUTPUT.txt ARGV...");
        std::process::exit(2);
    };
    let limit: f64 = limit.parse().expect("a number of seconds");
    let log = std::fs::File::create(output)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A Ctrl-C ends the benchmark and us; the child, in a group of its own, would go on without this.
    // SAFETY: between fork and exec one system call is made.
    unsafe {
        command.pre_exec(|| {
            prctl(PR_SET_PDEATHSIG, TERM as usize);
            Ok(())
        })
    };
    let start = Instant::now();
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).expect("a process id");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs_f64(limit));
        told.store(true, SeqCst);
        // SAFETY: plain system calls; the group is the child's own and the child is not reaped while we run.
        unsafe { kill(-pid, TERM) };
        std::thread::sleep(Duration::from_secs(5));
        unsafe { kill(-pid, KILL) };
    });
    let (mut status, mut usage) = (0, Usage::default());
    // SAFETY: both pointers are to live values of the layout that Linux has on 64-bit machines.
    unsafe { wait4(pid, &mut status, 0, &mut usage) };
    let wall = start.elapsed().as_secs_f64();
    let exit = if status & 0x7f == 0 {
        (status >> 8) & 0xff
    } else {
        -(status & 0x7f)
    };
    let seconds = (usage.user.seconds + usage.system.seconds) as f64;
    let micros = (usage.user.micros + usage.system.micros) as f64;
    std::fs::write(
        result,
        format!(
            "{{\"wall\":{wall:.6},\"cpu\":{:.6},\"rss_kib\":{},\"exit\":{exit},\"timeout\":{}}}",
            seconds + micros / 1e6,
            usage.max_rss_kib,
            over.load(SeqCst)
        ),
    )
}
