//! Whether the worker was asked to end: the flag that SIGTERM sets.
//!
//! Long work looks at it between steps, micro-batches and tokens, and ends with an error that says so; who started the
//! work then saves what there is. Until [`listen`] is called SIGTERM ends the process at once, as it always does: a
//! stage that has nothing to save yet should not linger.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on SIGTERM only sets the flag. The engine's patience after it is ten seconds.
pub fn listen() {
    extern "C" fn ask(_signal: libc::c_int) {
        ASKED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = ask;
    // SAFETY: the handler only stores into an atomic, which is allowed in a signal handler; `action` is zeroed, which is
    // an empty mask and no flags, before its fields are set.
    let status = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut())
    };
    if status != 0 {
        // Work goes on; a SIGTERM then costs what was done since the last save.
        eprintln!("SIGTERM can't be listened to: {}", std::io::Error::last_os_error());
    }
}

/// Returns whether SIGTERM came.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
