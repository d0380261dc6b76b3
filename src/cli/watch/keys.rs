//! Keys from the terminal one by one, without waiting for a line, and the end of the input; signals that end it all.
//!
//! The terminal is as it was again when the value is dropped, on every way out that unwinds. What is typed is not
//! shown meanwhile; Ctrl-C stays a signal, and output is written as ever.

use std::io::{self, Read};
use std::sync::mpsc::Sender;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::Input;

/// A terminal whose keys are read one by one, until this is dropped.
pub(super) struct KeyMode {
    before: Termios,
}

impl KeyMode {
    /// Sets the terminal that standard input is.
    pub(super) fn enter() -> io::Result<KeyMode> {
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        Ok(KeyMode { before })
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Sends every key, and at last the end of the input.
pub(super) fn read_keys(inputs: Sender<Input>) {
    std::thread::spawn(move || {
        let mut buffer = [0u8; 256];
        loop {
            let typed = match io::stdin().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return drop(inputs.send(Input::End)),
                Ok(num) => keys(&buffer[..num]),
            };
            for key in typed {
                if inputs.send(Input::Key(key)).is_err() {
                    return;
                }
            }
        }
    });
}

/// Returns the keys in what was read at once. Arrows are none, and a text that was pasted is not meant as commands.
fn keys(read: &[u8]) -> Vec<u8> {
    const ESCAPE: u8 = 0x1b;
    let mut keys = Vec::new();
    let mut rest = read;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (&ESCAPE, [b'[' | b'O', sequence @ ..]) => {
                let end = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte));
                rest = end.map_or(&[], |end| &sequence[end + 1..]);
            }
            (&ESCAPE, _) => {}
            (&key, _) => keys.push(key),
        }
    }
    // Nobody types faster than this is read.
    const MOST_TYPED: usize = 3;
    if keys.len() <= MOST_TYPED { keys } else { Vec::new() }
}

/// Sends every signal that asks the program to end.
///
/// # Errors
/// The signals can't be listened to.
pub(super) fn read_signals(inputs: Sender<Input>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let input = tokio::select! {
                    _ = interrupt.recv() => Input::Interrupt,
                    _ = terminate.recv() => Input::Terminate,
                    _ = hangup.recv() => Input::Terminate,
                };
                if inputs.send(input).is_err() {
                    return;
                }
            }
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn arrows_and_pasted_texts_are_no_keys() {
        for (read, typed) in [("r", "r"), ("aq", "aq"), ("\x1b[A?", "?"), ("\x1b[1;5Dq", "q")] {
            assert_eq!(keys(read.as_bytes()), typed.as_bytes(), "{read:?}");
        }
        for nothing in ["\x1b[A", "\x1bOP", "\x1b", "rerun", "\x1b[", ""] {
            assert!(keys(nothing.as_bytes()).is_empty(), "{nothing:?}");
        }
    }
}
