//! Standard output and the colours of both streams. A reader that goes away is an error value, never a panic.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde::{Serialize, Serializer};

use super::CliError;
use crate::report::Paint;

/// Where commands print.
pub struct Output {
    stdout: BufWriter<io::Stdout>,
    paint: Paint,
    error_paint: Paint,
}

impl Output {
    pub(super) fn new(no_color: bool) -> Output {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Output {
            stdout: BufWriter::new(io::stdout()),
            paint: Paint {
                color: wanted && io::stdout().is_terminal(),
            },
            error_paint: Paint {
                color: wanted && io::stderr().is_terminal(),
            },
        }
    }

    /// Returns how to colour what is printed.
    pub fn paint(&self) -> Paint {
        self.paint
    }

    /// Returns how to colour what goes to standard error.
    pub fn error_paint(&self) -> Paint {
        self.error_paint
    }

    /// Prints a text as it is.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Prints a line.
    pub fn line(&mut self, line: &str) -> Result<(), CliError> {
        writeln!(self.stdout, "{line}").map_err(CliError::Output)
    }

    /// Prints bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.write_all(bytes).map_err(CliError::Output)
    }

    /// Prints a value as indented JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        // Only the writer can fail: what is printed has no maps with keys that are no strings.
        serde_json::to_writer_pretty(&mut self.stdout, value).map_err(|error| CliError::Output(error.into()))?;
        self.line("")
    }

    /// Prints a value as a line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.stdout, value).map_err(|error| CliError::Output(error.into()))?;
        self.line("")
    }

    /// Hands everything to the reader.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }

    /// Returns how many columns the terminal has that is printed to; none for a file or a pipe.
    pub fn columns(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }

    /// Returns how many columns to write messages in.
    pub(super) fn width(&self) -> usize {
        let wished = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || terminal_size().map(|(columns, _)| columns);
        wished.or_else(terminal).unwrap_or(110).clamp(60, 160)
    }

    /// Writes to standard error. Nothing can be done if that fails.
    pub(super) fn error_text(&self, text: &str) {
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// A list in JSON whose members are made one by one, so that a long one is never whole in memory.
pub(super) struct Each<F>(pub(super) F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: IntoIterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Returns columns and rows of the terminal that standard output is, if it is one that knows them.
pub(super) fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}
