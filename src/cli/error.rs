//! How a failure is told and how it ends the program: the one place that knows the exit codes.
//!
//! 0: done. 1: a node failed, or the machine did. 2: the pipeline or the command line is wrong. 130: interrupted.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Output;
use crate::exec::RunError;
use crate::graph::SelectError;
use crate::remote::RemoteError;
use crate::server::{ServeError, TokenError};
use crate::settings::SettingsError;
use crate::spec::Mistakes;
use crate::store::StoreError;

/// Everything that can end a command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The pipeline is wrong.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// A name on the command line names nothing, or too much.
    #[error("{0}")]
    Select(#[from] SelectError),
    /// Something else on the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A run could not take place.
    #[error("{0}")]
    Run(#[from] RunError),
    /// The project's settings are wrong.
    #[error("{0}")]
    Settings(#[from] SettingsError),
    /// The remote failed, and the command is about it.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A server could not start, or failed.
    #[error("{0}")]
    Serve(#[from] ServeError),
    /// The tokens of a server can't be used or changed.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// Nodes failed; the run has told which and why.
    #[error("a node failed")]
    NodesFailed,
    /// The cache is damaged; the check has told where.
    #[error("the cache is damaged")]
    Damaged,
    /// The user interrupted the run, which has told so.
    #[error("interrupted")]
    Interrupted,
    /// What was asked for does not exist yet.
    #[error("{0}")]
    Absent(String),
    /// A file that was asked for can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Standard output can't be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl CliError {
    /// Returns what makes an error of one that came while writing a file.
    pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> CliError {
        move |source| CliError::Write {
            path: path.to_path_buf(),
            source,
        }
    }

    fn code(&self) -> u8 {
        match self {
            CliError::Mistakes(_)
            | CliError::Select(_)
            | CliError::Usage(_)
            | CliError::Settings(_)
            | CliError::Remote(RemoteError::Settings(_))
            | CliError::Serve(ServeError::NoTokens { .. } | ServeError::OpenToAll(_))
            | CliError::Token(TokenError::BadName(_) | TokenError::Exists(_) | TokenError::Unknown(_))
            | CliError::Run(RunError::Select(_) | RunError::TooFewGpus { .. }) => 2,
            CliError::Run(_)
            | CliError::Remote(_)
            | CliError::Store(_)
            | CliError::Serve(_)
            | CliError::Token(_)
            | CliError::NodesFailed
            | CliError::Damaged
            | CliError::Absent(_)
            | CliError::Write { .. } => 1,
            CliError::Interrupted => 130,
            // Whoever read our output has seen enough, as `head` does.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::Output(_) => 1,
        }
    }
}

/// Tells what went wrong on standard error and returns the exit code.
pub(super) fn exit(result: Result<(), CliError>, output: &Output) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    match &error {
        CliError::NodesFailed | CliError::Damaged | CliError::Interrupted => {}
        CliError::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => {}
        CliError::Mistakes(mistakes) => output.error_text(&mistakes.render(output.error_paint().color, output.width())),
        other => output.error_text(&format!("{} {other}\n", output.error_paint().error("error:"))),
    }
    ExitCode::from(error.code())
}

/// Makes a panic, which is a bug of ours, say what to do about it. Those that are caught say it only when asked.
pub(super) fn install_panic_message() {
    std::panic::set_hook(Box::new(|panic| {
        // The index turns panics of its library into a rebuild; see `store/index.rs`.
        let inside_index = panic.location().is_some_and(|place| place.file().contains("sled"));
        if inside_index {
            tracing::debug!(%panic, "caught");
        } else {
            let version = env!("CARGO_PKG_VERSION");
            // Nothing is left to do about an error stream that can't be written.
            let text =
                format!("error: this is a bug in volvelle {version}; please report it with this line: {panic}\n");
            let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
        }
    }));
}
