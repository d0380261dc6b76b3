//! Which argument the cursor is at: the words before it against what clap knows of the command line.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use super::pipeline::{self, Named};
use super::{Candidate, files};
use crate::spec::{Options, plugin};

/// The words before the cursor, understood.
pub(super) struct Arguments {
    /// The innermost command.
    command: Command,
    /// The values of positional arguments, in order.
    positionals: Vec<String>,
    /// The long name and value of each option that has one.
    options: Vec<(String, String)>,
    /// The option whose value comes next.
    pending: Option<Arg>,
    /// Whether `--` was met.
    only_positionals: bool,
}

impl Arguments {
    /// Reads the words behind the program's name.
    pub(super) fn read(words: &[String], mut command: Command) -> Arguments {
        command.build();
        let mut read = Arguments {
            command,
            positionals: Vec::new(),
            options: Vec::new(),
            pending: None,
            only_positionals: false,
        };
        words.iter().for_each(|word| read.word(word));
        read
    }

    fn word(&mut self, word: &str) {
        if let Some(option) = self.pending.take() {
            self.options.push((name(&option), word.to_owned()));
        } else if self.only_positionals {
            self.positionals.push(word.to_owned());
        } else if word == "--" {
            self.only_positionals = true;
        } else if let Some((option, value)) = self.option(word) {
            match value {
                Some(value) => self.options.push((name(&option), value.to_owned())),
                None if takes_value(&option) => self.pending = Some(option),
                None => {}
            }
        } else if word.starts_with('-') && word.len() > 1 {
            // An option that there is not.
        } else if let Some(inner) = self
            .command
            .find_subcommand(word)
            .filter(|_| self.positionals.is_empty())
        {
            self.command = inner.clone();
        } else {
            self.positionals.push(word.to_owned());
        }
    }

    /// Returns the option that a word names, and the value that it has behind `=`.
    fn option<'a>(&self, word: &'a str) -> Option<(Arg, Option<&'a str>)> {
        let (named, value) = match word.split_once('=') {
            Some((named, value)) => (named, Some(value)),
            None => (word, None),
        };
        let is_it = |arg: &&Arg| match (named.strip_prefix("--"), named.strip_prefix('-')) {
            (Some(long), _) => arg.get_long() == Some(long),
            (None, Some(short)) => arg.get_short().is_some_and(|c| short.chars().eq([c])),
            (None, None) => false,
        };
        Some((self.command.get_arguments().find(is_it)?.clone(), value))
    }

    /// Returns what the word at the cursor may become.
    pub(super) fn candidates(&self, current: &str) -> Vec<Candidate> {
        if let Some(option) = &self.pending {
            return self.values(option, current);
        }
        if !self.only_positionals && current.starts_with('-') {
            let Some((named, value)) = current.split_once('=') else {
                return self.option_names();
            };
            let Some((option, _)) = self.option(named) else {
                return Vec::new();
            };
            let whole = |candidate: Candidate| Candidate {
                text: format!("{named}={}", candidate.text),
                ..candidate
            };
            return self.values(&option, value).into_iter().map(whole).collect();
        }
        if self.command.has_subcommands() {
            let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
            let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
            return shown
                .map(|command| Candidate::whole(command.get_name(), about(command)))
                .collect();
        }
        let mut positionals = self.command.get_positionals();
        match positionals.nth(self.positionals.len()) {
            Some(positional) => self.values(positional, current),
            None => Vec::new(),
        }
    }

    fn option_names(&self) -> Vec<Candidate> {
        let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
        let option = |arg: &Arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some(Candidate::whole(format!("--{}", arg.get_long()?), help))
        };
        shown.filter_map(option).collect()
    }

    fn values(&self, arg: &Arg, current: &str) -> Vec<Candidate> {
        if !takes_value(arg) && !arg.is_positional() {
            return Vec::new();
        }
        match name(arg).as_str() {
            "file" | "what" | "old" | "new" => files::candidates(current, &[".yaml", ".yml"]),
            "cache" | "plugins" | "dir" | "to" => files::candidates(current, &[]),
            "output" => files::candidates(current, &[""]),
            "node" if self.command.get_name() == "lineage" => {
                self.of_pipeline(|pipeline| pipeline::nodes(pipeline, current, Named::Output))
            }
            "node" => self.of_pipeline(|pipeline| pipeline::nodes(pipeline, current, Named::One)),
            "target" => self.of_pipeline(|pipeline| pipeline::nodes(pipeline, current, Named::Output)),
            "only" | "until" | "rerun" | "from" => {
                self.of_pipeline(|pipeline| pipeline::nodes(pipeline, current, Named::Several))
            }
            "stage" => self.of_pipeline(pipeline::stages),
            "profile" => self.of_pipeline(pipeline::profiles),
            "set" | "set-a" | "set-b" | "sweep" => self.of_pipeline(|pipeline| pipeline::params(pipeline, current)),
            "name" if self.command.get_name() == "kinds" => self.kinds(),
            _ => {
                let valid = arg.get_possible_values();
                let about = |value: &clap::builder::PossibleValue| {
                    value.get_help().map(ToString::to_string).unwrap_or_default()
                };
                valid
                    .iter()
                    .map(|value| Candidate::whole(value.get_name(), about(value)))
                    .collect()
            }
        }
    }

    /// Asks the pipeline that the words before the cursor name, if it can be read.
    fn of_pipeline(&self, ask: impl FnOnce(&crate::spec::Pipeline) -> Vec<Candidate>) -> Vec<Candidate> {
        let Some(file) = self.positionals.first() else {
            return Vec::new();
        };
        let options = Options {
            sets: self.given("set").map(str::to_owned).collect(),
            sweeps: self.given("sweep").map(str::to_owned).collect(),
            profile: self.given("profile").last().map(str::to_owned),
            plugin_dirs: self.plugin_dirs(),
        };
        pipeline::read(&files::expanded(file), &options)
            .map(|pipeline| ask(&pipeline))
            .unwrap_or_default()
    }

    fn kinds(&self) -> Vec<Candidate> {
        let catalog = plugin::catalog(&self.plugin_dirs(), Path::new("."), &mut Vec::new());
        catalog
            .iter()
            .map(|kind| Candidate::whole(&kind.name, &kind.summary))
            .collect()
    }

    fn plugin_dirs(&self) -> Vec<PathBuf> {
        self.given("plugins").map(files::expanded).collect()
    }

    fn given<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.options.iter().filter(move |(name, _)| name == option);
        values.map(|(_, value)| value.as_str())
    }
}

/// Returns the long name of an option, or the name of a positional argument.
fn name(arg: &Arg) -> String {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str()).to_owned()
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}
