//! Ctrl-C and SIGTERM: once means stop gracefully, twice means now.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How urgently a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    No,
    /// Start nothing more; ask the workers to save their work.
    Gracefully,
    /// Kill the workers.
    Now,
}

/// Raises `stop` with every signal, until the run ends and drops this future.
///
/// # Errors
/// The signals can't be listened to.
pub(crate) fn listen(stop: watch::Sender<Stop>) -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.send_modify(|stop| {
                *stop = if *stop == Stop::No { Stop::Gracefully } else { Stop::Now };
            });
        }
    })
}
