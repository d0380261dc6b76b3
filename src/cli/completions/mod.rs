//! `volvelle completions SHELL` and what its scripts ask on every Tab: `volvelle __complete`.
//!
//! The scripts are short and know nothing: they hand over the line, and this program, which knows its own arguments
//! and can read the pipeline at hand, answers. `clap_complete`'s dynamic engine is unstable and shows a completer
//! neither the other words nor the open quote of the current one, which `'sft[style=` needs both.
//!
//! An answer is a line that says whether a space follows, then a candidate a line. Whatever goes wrong, there is just
//! no candidate: nothing may write into somebody's prompt.

mod arguments;
mod files;
mod line;
mod pipeline;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::{Args, ValueEnum};

use super::{CliError, Output};
use crate::spec::template::shell_quote;

/// How often the only candidate is completed further before it is shown.
const MAX_STEPS: usize = 8;

/// What `--help` says about each shell.
const HINT: &str = "\
To have them in every session, add a line to the start-up file of the shell:

  bash  ~/.bashrc                    source <(volvelle completions bash)
  zsh   ~/.zshrc, after compinit     source <(volvelle completions zsh)
  fish  ~/.config/fish/config.fish   volvelle completions fish | source

They complete commands and options, and from the pipeline at hand its stages, axes and values, parameters and profiles:

  volvelle why pipeline.yaml 'fit[<TAB>";

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = HINT, after_long_help = HINT)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `__complete`.
#[derive(Debug, Args)]
pub struct CompleteArgs {
    shell: Shell,
    /// For bash the line up to the cursor and COMP_WORDBREAKS, for the others the words behind the program's name.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// A shell that has a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What a word may become.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    text: String,
    /// What it is, for shells that show this.
    about: String,
    /// Whether the word is then finished.
    is_whole: bool,
}

impl Candidate {
    fn whole(text: impl Into<String>, about: impl Into<String>) -> Candidate {
        Candidate {
            text: text.into(),
            about: about.into(),
            is_whole: true,
        }
    }

    /// Returns a candidate that goes on, as a folder does, or an axis without its value.
    fn part(text: impl Into<String>, about: impl Into<String>) -> Candidate {
        Candidate {
            is_whole: false,
            ..Candidate::whole(text, about)
        }
    }
}

pub(super) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<(), CliError> {
    let script = match args.shell {
        Shell::Bash => include_str!("volvelle.bash"),
        Shell::Zsh => include_str!("volvelle.zsh"),
        Shell::Fish => include_str!("volvelle.fish"),
    };
    // The very program that wrote the script: an alias or another one on PATH may not know `__complete`.
    let program = std::env::current_exe()
        .ok()
        .and_then(|path| path.to_str().map(shell_quote));
    output.text(&script.replace("@PROGRAM@", program.as_deref().unwrap_or("volvelle")))
}

/// Answers a shell. It never fails: a completion that can't be had is none.
pub(super) fn answer(args: &CompleteArgs, command: clap::Command, output: &mut Output) -> Result<(), CliError> {
    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<String> = args
        .words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let lines = catch_unwind(AssertUnwindSafe(|| match args.shell {
        Shell::Bash => for_bash(&words, command),
        Shell::Zsh | Shell::Fish => for_words(words, command),
    }));
    lines.unwrap_or_default().iter().try_for_each(|line| output.line(line))
}

fn for_bash(words: &[String], command: clap::Command) -> Vec<String> {
    let [typed, breaks] = words else { return Vec::new() };
    let line = line::split(typed);
    let Some((_, before)) = line.words.split_first() else {
        return Vec::new();
    };
    let candidates = candidates(before, &line.current, command);
    let texts = candidates
        .iter()
        .map(|candidate| line.inserted(&candidate.text, breaks));
    std::iter::once(spacing(&candidates).to_owned()).chain(texts).collect()
}

fn for_words(mut words: Vec<String>, command: clap::Command) -> Vec<String> {
    let current = words.pop().unwrap_or_default();
    // fish hands the word over as it was typed, with its quote.
    let current = line::split(&current).current;
    let candidates = candidates(&words, &current, command);
    let text = |candidate: &Candidate| match candidate.about.is_empty() {
        true => candidate.text.clone(),
        false => format!("{}\t{}", candidate.text, candidate.about),
    };
    std::iter::once(spacing(&candidates).to_owned())
        .chain(candidates.iter().map(text))
        .collect()
}

fn spacing(candidates: &[Candidate]) -> &'static str {
    let is_open = candidates.iter().any(|candidate| !candidate.is_whole);
    if is_open { "nospace" } else { "space" }
}

/// Returns what the word `current` may become behind the words `before`, the program's name not among them.
fn candidates(before: &[String], current: &str, command: clap::Command) -> Vec<Candidate> {
    let arguments = arguments::Arguments::read(before, command);
    let mut current = current.to_owned();
    let mut found = Vec::new();
    for _ in 0..MAX_STEPS {
        let mut next = arguments.candidates(&current);
        next.retain(|candidate| candidate.text.starts_with(&current));
        if next.is_empty() {
            break;
        }
        found = next;
        // A shell would close the quote behind the only candidate, so it is followed to where there is a choice.
        match &found[..] {
            [only] if !only.is_whole && only.text != current => current = only.text.clone(),
            _ => break,
        }
    }
    found
}
