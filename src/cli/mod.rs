//! The command line: arguments, one file per command, and the only place that prints.
//!
//! It decides nothing: what a command shows comes from the layers below, and how a failure ends the program is told
//! in `error` alone.

mod compare;
mod completions;
mod diff;
mod error;
mod fsck;
mod gc;
mod graph;
mod init;
mod key;
mod kinds;
mod lineage;
mod link;
mod locate;
mod locate_run;
mod logs;
mod meter;
mod output;
mod pin;
mod plan;
mod progress;
mod pull;
mod push;
mod remote;
mod revision;
mod run;
mod runs;
mod schema;
mod serve;
mod show;
mod signing_key;
mod status;
mod token;
mod transfer;
mod watch;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::exec::RunOptions;
use crate::graph::{self as pipeline_graph, Graph};
use crate::remote::link::Link;
use crate::settings::Settings;
use crate::spec;
use crate::store::Store;

pub use error::CliError;
pub use output::Output;

/// A declarative, content-addressed experiment engine for LLM post-training.
#[derive(Debug, Parser)]
#[command(name = "volvelle", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The folder of the cache [default: `cache/` of the project that the pipeline is in; env: VOLVELLE_CACHE]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// A folder of plugins, looked at before all others; may be given several times [env: VOLVELLE_PLUGINS]
    #[arg(long, global = true, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Share results through this remote [default: that of volvelle.yaml; env: VOLVELLE_REMOTE]
    #[arg(long, global = true, value_name = "URL")]
    remote: Option<String>,
    /// Use no remote
    #[arg(long, global = true, conflicts_with = "remote")]
    no_remote: bool,
    /// The link to the remote, once there is one.
    #[arg(skip)]
    link: OnceLock<Arc<Link>>,
    /// Print no colours [env: NO_COLOR]
    #[arg(long, global = true)]
    no_color: bool,
    /// Say more about what goes on inside; twice for everything [env: VOLVELLE_LOG]
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// A pipeline and what the command line changes in it.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// The pipeline file
    pub file: PathBuf,
    /// Change a value: `--set learning_rate=1e-4` means `params.learning_rate`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Add an axis: `--sweep learning_rate=1e-5,3e-5` varies `params.learning_rate`
    #[arg(long = "sweep", value_name = "PATH=VALUES")]
    pub sweeps: Vec<String>,
    /// Apply a profile of the pipeline
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

/// Which nodes a command is about. A name is a stage, a node, or a pattern: `sft`, `sft[seed=1]`, `eval*[seed=1|2]`.
#[derive(Debug, Default, Args)]
pub struct SelectionArgs {
    /// Run a stage or node again, although its result is there
    #[arg(long, value_name = "NODES")]
    pub rerun: Vec<String>,
    /// Run a stage or node and what it depends on, and nothing else
    #[arg(long, value_name = "NODES")]
    pub until: Vec<String>,
    /// Run a stage or node and what depends on it; what else they need has to be cached
    #[arg(long, value_name = "NODES")]
    pub from: Vec<String>,
    /// Run a stage or node alone; what it depends on has to be cached
    #[arg(long, value_name = "NODES")]
    pub only: Vec<String>,
}

impl SelectionArgs {
    /// Returns the options of a run or a plan of these nodes.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            rerun: self.rerun.clone(),
            until: self.until.clone(),
            from: self.from.clone(),
            only: self.only.clone(),
            ..RunOptions::default()
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what changed
    Run(run::RunArgs),
    /// Show what a run would do, and why
    Plan(plan::PlanArgs),
    /// Explain a node's key, part by part, against the nearest earlier record
    Why(why::WhyArgs),
    /// Show how each node of a pipeline stands
    Status(status::StatusArgs),
    /// Compare the points of a sweep in a table
    Compare(compare::CompareArgs),
    /// Show how two runs, pipelines or revisions differ, node by node
    Diff(diff::DiffArgs),
    /// Show where a result came from, and what used it
    Lineage(lineage::LineageArgs),
    /// List the runs
    Runs(runs::RunsArgs),
    /// Show records, outputs, or a run
    Show(show::ShowArgs),
    /// Show what a node's worker wrote
    Logs(logs::LogsArgs),
    /// Check the whole cache: every record and every blob
    Fsck(fsck::FsckArgs),
    /// Draw the graph of a pipeline
    Graph(graph::GraphArgs),
    /// Show what a run would do, again at every save; runs nothing unless told to
    Watch(watch::WatchArgs),
    /// Bring results to the remote
    Push(push::PushArgs),
    /// Bring results of a pipeline from the remote
    Pull(pull::PullArgs),
    /// Show what the remote has, or remove what nobody needs
    Remote(remote::RemoteArgs),
    /// Make or show the key that signs records
    Key(key::KeyArgs),
    /// Remove what is of no use, and nodes by size, age and what they cost
    Gc(gc::GcArgs),
    /// Keep nodes, whatever gc is told
    Pin(pin::PinArgs),
    /// Let pinned nodes go again
    Unpin(pin::UnpinArgs),
    /// List the pins
    Pins(pin::PinsArgs),
    /// List the kinds of stages that the plugins provide
    Kinds(kinds::KindsArgs),
    /// Share the cache with other machines over HTTP
    Serve(serve::ServeArgs),
    /// Make, list and revoke the tokens that `serve` accepts
    Token(token::TokenArgs),
    /// Write a commented pipeline to begin with
    Init(init::InitArgs),
    /// Print a JSON Schema of pipelines, for editors
    Schema(schema::SchemaArgs),
    /// Print a script that makes a shell complete commands, options and names of the pipeline
    Completions(completions::CompletionsArgs),
    #[command(name = "__complete", hide = true)]
    Complete(completions::CompleteArgs),
}

impl Global {
    /// Returns the settings of the project that a pipeline, or the current folder, is in.
    pub fn settings(&self, file: Option<&std::path::Path>) -> Result<Settings, CliError> {
        locate::settings(file)
    }

    /// Returns the folders of plugins that were given.
    pub fn plugin_dirs(&self) -> Vec<PathBuf> {
        self.plugins.clone()
    }
}

impl PipelineArgs {
    /// Reads the pipeline.
    pub fn load(&self, global: &Global) -> Result<spec::Pipeline, CliError> {
        let options = spec::Options {
            sets: self.sets.clone(),
            profile: self.profile.clone(),
            sweeps: self.sweeps.clone(),
            plugin_dirs: global.plugin_dirs(),
        };
        Ok(spec::load(&self.file, &options)?)
    }

    /// Reads the pipeline and resolves it into its nodes.
    pub fn graph(&self, global: &Global, store: &Store) -> Result<Graph, CliError> {
        Ok(pipeline_graph::build(&self.load(global)?, Some(store))?)
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come here as well, each with its own exit code.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    // Nothing may be written into the prompt where a shell asks for completions.
    if !matches!(cli.command, Command::Complete(_)) {
        start_tracing(cli.global.verbose);
    }
    error::install_panic_message();
    let mut output = Output::new(cli.global.no_color);
    let result = dispatch(&cli.command, &cli.global, &mut output);
    let result = result.and_then(|()| output.flush());
    // A run has told them as they came; what is left are those of the other commands.
    for note in cli.global.link.get().into_iter().flat_map(|link| link.notes()) {
        output.error_text(&format!("{} {note}\n", output.error_paint().warning("warning:")));
    }
    error::exit(result, &output)
}

fn dispatch(command: &Command, global: &Global, output: &mut Output) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(args, global, output),
        Command::Plan(args) => plan::run(args, global, output),
        Command::Why(args) => why::run(args, global, output),
        Command::Status(args) => status::run(args, global, output),
        Command::Compare(args) => compare::run(args, global, output),
        Command::Diff(args) => diff::run(args, global, output),
        Command::Lineage(args) => lineage::run(args, global, output),
        Command::Runs(args) => runs::run(args, global, output),
        Command::Show(args) => show::run(args, global, output),
        Command::Logs(args) => logs::run(args, global, output),
        Command::Fsck(args) => fsck::run(args, global, output),
        Command::Graph(args) => graph::run(args, global, output),
        Command::Watch(args) => watch::run(args, global, output),
        Command::Push(args) => push::run(args, global, output),
        Command::Pull(args) => pull::run(args, global, output),
        Command::Remote(args) => remote::run(args, global, output),
        Command::Key(args) => key::run(args, output),
        Command::Gc(args) => gc::run(args, global, output),
        Command::Pin(args) => pin::run(args, global, output),
        Command::Unpin(args) => pin::unpin(args, global, output),
        Command::Pins(args) => pin::list(args, global, output),
        Command::Kinds(args) => kinds::run(args, global, output),
        Command::Serve(args) => serve::run(args, global, output),
        Command::Token(args) => token::run(args, global, output),
        Command::Init(args) => init::run(args, global, output),
        Command::Schema(args) => schema::run(args, global, output),
        Command::Completions(args) => completions::run(args, output),
        Command::Complete(args) => completions::answer(args, Cli::command(), output),
    }
}

fn start_tracing(verbose: u8) {
    let default = match verbose {
        0 => "volvelle=warn",
        1 => "volvelle=info",
        _ => "volvelle=trace",
    };
    let filter = std::env::var("VOLVELLE_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
}
