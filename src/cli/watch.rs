//! `volvelle watch FILE`: what a run would do, again at every save of a file that it depends on.
//!
//! It runs nothing unless a key says so. Between changes it waits for the kernel and holds nothing that another command
//! would wait for. Each plan is made from the files anew.

mod keys;
mod settle;
mod show;
mod sources;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Instant, SystemTime};

use clap::Args;

use super::{CliError, Global, Output, PipelineArgs, SelectionArgs};
use crate::exec::{self, Plan, RunOptions};
use crate::graph::{self, Graph};
use crate::remote::link::Link;
use crate::report::{self, PlanChange};
use crate::spec::{Mistakes, Pipeline};
use crate::store::Store;
use keys::KeyMode;
use settle::Batch;
use sources::{Happened, Sources, Targets};

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print each plan as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is waited for.
#[derive(Debug)]
enum Input {
    /// Something happened to a file.
    File { path: PathBuf, what: Happened, at: Instant },
    /// Something happened, and it is not known to which file.
    Lost,
    /// A key was pressed.
    Key(u8),
    /// Nothing more will be typed.
    End,
    /// Ctrl-C.
    Interrupt,
    /// The program is to end.
    Terminate,
}

/// A plan and what it was made of.
struct Planned {
    graph: Arc<Graph>,
    plan: Plan,
}

impl Planned {
    fn view(&self) -> report::Planned<'_> {
        report::Planned {
            graph: &self.graph,
            plan: &self.plan,
        }
    }
}

struct Watch<'a> {
    args: &'a WatchArgs,
    global: &'a Global,
    output: &'a mut Output,
    store: Arc<Store>,
    link: Option<Arc<Link>>,
    inputs: Receiver<Input>,
    /// What came while something else was waited for.
    later: VecDeque<Input>,
    sources: Sources,
    /// Whether keys are read and answered.
    is_live: bool,
    all: bool,
    /// The last plan that could be made.
    shown: Option<Planned>,
    /// Whether the files have changed since, and can't be planned.
    is_broken: bool,
}

pub(super) fn run(args: &WatchArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let is_live = !args.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let (sender, inputs) = mpsc::channel();
    let no_signals = |error| CliError::Usage(format!("signals can't be listened to: {error}"));
    keys::read_signals(sender.clone()).map_err(no_signals)?;
    let sources = Sources::new(sender.clone()).map_err(|error| cannot_watch(&error))?;
    let (store, link) = global.signing(Some(&args.pipeline.file))?;
    let mut watch = Watch {
        args,
        global,
        output,
        store: Arc::new(store),
        link,
        inputs,
        later: VecDeque::new(),
        sources,
        is_live,
        all: false,
        shown: None,
        is_broken: false,
    };
    watch.first()?;
    // From here on until the end, however that comes.
    let no_keys = |error| CliError::Usage(format!("keys can't be read from this terminal: {error}"));
    let _keys = is_live.then(KeyMode::enter).transpose().map_err(no_keys)?;
    keys::read_keys(sender);
    watch.listen()
}

fn cannot_watch(error: &notify::Error) -> CliError {
    CliError::Usage(format!("files can't be watched: {error}"))
}

impl Watch<'_> {
    /// Shows the first plan. What is wrong with the command line ends the program; a mistake in a file does not.
    fn first(&mut self) -> Result<(), CliError> {
        let file = &self.args.pipeline.file;
        if !file.is_file() {
            return self.args.pipeline.load(self.global).map(|_| ());
        }
        // Watched before it is read, so that no change is missed in between.
        let targets = Targets::new(file, None, &self.global.plugin_dirs());
        self.sources
            .follow(targets, Some(SystemTime::now()))
            .map_err(|error| cannot_watch(&error))?;
        self.replan(Vec::new(), None)
    }

    fn listen(&mut self) -> Result<(), CliError> {
        loop {
            let input = match self.later.pop_front() {
                Some(input) => input,
                None => self.inputs.recv().unwrap_or(Input::End),
            };
            match input {
                Input::End => return Ok(()),
                Input::Interrupt | Input::Terminate => return Err(CliError::Interrupted),
                // Ctrl-D ends the input.
                Input::Key(b'q' | 4) if self.is_live => return Ok(()),
                Input::Key(key) => self.key(key)?,
                Input::File { path, what, at } => self.change(Batch::file(path, what, at))?,
                Input::Lost => self.change(Batch::unknown(self.sources.files()))?,
            }
        }
    }

    fn key(&mut self, key: u8) -> Result<(), CliError> {
        match key {
            _ if !self.is_live => Ok(()),
            b'r' => self.run(),
            b'a' => {
                self.all = !self.all;
                self.show_again()
            }
            b'?' => self.show_help(),
            _ => Ok(()),
        }
    }

    /// Waits until what was saved is whole, and plans again if it is another content.
    fn change(&mut self, batch: Batch) -> Result<(), CliError> {
        let Some((paths, at)) = self.settled(batch) else {
            return Ok(());
        };
        let mut changed = self.sources.changed(paths);
        if changed.is_empty() {
            // A folder of plugins may have come or gone.
            let targets = Targets::new(&self.args.pipeline.file, None, &self.global.plugin_dirs());
            let suspects = self.sources.follow_also(targets, SystemTime::UNIX_EPOCH);
            changed = self.sources.changed(suspects.map_err(|error| cannot_watch(&error))?);
        }
        match changed.is_empty() {
            true => Ok(()),
            false => self.replan(changed, Some(at)),
        }
    }

    /// Plans, shows the plan, and follows the files that it was made from.
    fn replan(&mut self, mut changed: Vec<PathBuf>, mut at: Option<Instant>) -> Result<(), CliError> {
        loop {
            let loaded = SystemTime::now();
            let (pipeline, planned) = match self.args.pipeline.load(self.global) {
                Ok(pipeline) => {
                    let planned = self.plan(&pipeline);
                    (Some(pipeline), planned)
                }
                Err(error) => (None, Err(error)),
            };
            let mut targets = Targets::new(&self.args.pipeline.file, pipeline.as_ref(), &self.global.plugin_dirs());
            if let Err(CliError::Mistakes(mistakes)) = &planned {
                add_places(&mut targets, mistakes);
            }
            match planned {
                Ok(planned) => {
                    let before = self.shown.as_ref();
                    let change = before.map(|before| PlanChange::between(before.view(), planned.view()));
                    self.show(&planned, change.as_ref(), &changed, at)?;
                    self.shown = Some(planned);
                    self.is_broken = false;
                }
                // While the first plan is made, a wrong name is a mistake in the command line.
                Err(error @ (CliError::Mistakes(_) | CliError::Select(_)))
                    if matches!(error, CliError::Mistakes(_)) || self.shown.is_some() =>
                {
                    self.show_mistakes(&error, &changed, at)?;
                    self.is_broken = true;
                }
                Err(error) => return Err(error),
            }
            // The plan is on the screen; from here on other commands have the index to themselves.
            self.store.close_index();
            let suspects = match pipeline {
                Some(_) => self.sources.follow(targets, Some(loaded)),
                None => self.sources.follow_also(targets, loaded),
            };
            changed = self.sources.changed(suspects.map_err(|error| cannot_watch(&error))?);
            if changed.is_empty() {
                return Ok(());
            }
            at = Some(Instant::now());
        }
    }

    fn plan(&self, pipeline: &Pipeline) -> Result<Planned, CliError> {
        let graph = Arc::new(graph::build(pipeline, Some(&*self.store))?);
        let plan = exec::plan(&graph, &self.store, &self.args.selection.options())?;
        Ok(Planned { graph, plan })
    }

    /// Runs the plan that is shown, and shows what is left of it.
    fn run(&mut self) -> Result<(), CliError> {
        let Some(planned) = self.shown.as_ref().filter(|_| !self.is_broken) else {
            return self.say("nothing was run: mend the mistakes first");
        };
        let options = RunOptions {
            link: self.link.clone(),
            ..self.args.selection.options()
        };
        let graph = Arc::clone(&planned.graph);
        let settings = self.global.settings(Some(&self.args.pipeline.file))?;
        match super::run::execute(graph, Arc::clone(&self.store), &options, &settings, false, self.output) {
            Ok(_) => {}
            Err(error @ CliError::Output(_)) => return Err(error),
            Err(error) => self.say(&format!("error: {error}"))?,
        }
        // What was typed meanwhile was for the run; it has answered Ctrl-C itself.
        let meant_for_us = |input: &Input| !matches!(input, Input::Key(_) | Input::Interrupt);
        self.later.extend(self.inputs.try_iter().filter(meant_for_us));
        self.replan(Vec::new(), None)
    }
}

/// Adds the files that mistakes are in: what can't be read yet may be an included file.
fn add_places(targets: &mut Targets, mistakes: &Mistakes) {
    for at in mistakes.iter().filter_map(|mistake| mistake.at.as_ref()) {
        let place = PathBuf::from(at.source_name());
        if place.is_file() {
            targets.add(&place);
        }
    }
}
