//! `volvelle graph FILE`: the stages of a pipeline, or its nodes, as a drawing.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{CliError, Global, Output, PipelineArgs};
use crate::exec::{self, RunOptions};
use crate::graph;
use crate::report::Paint;
use crate::report::graph::{Diagram, draw_dot, draw_mermaid, draw_svg, draw_tree};

/// More boxes than this can't be read in a drawing, and take long to lay out.
const MAX_BOXES: usize = 300;

/// Arguments of `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// How to draw it [default: by the name of the output file, else text]
    #[arg(long, value_name = "FORMAT", value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Draw every node, not every stage
    #[arg(long)]
    nodes: bool,
    /// Don't look at what is cached
    #[arg(long)]
    no_state: bool,
    /// Draw only this stage or node; may be given several times
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Write into a file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A way to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A tree for the terminal
    Text,
    /// Mermaid, which GitHub draws
    Mermaid,
    /// Graphviz
    Dot,
    /// A drawing for a page or a paper
    Svg,
}

pub(super) fn run(args: &GraphArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let diagram = diagram(args, global)?;
    let text = if args.json {
        let value = serde_json::to_value(&diagram).map_err(|error| CliError::Usage(error.to_string()))?;
        format!("{value:#}\n")
    } else {
        draw(&diagram, format(args)?, args, output)?
    };
    match &args.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| CliError::Usage(format!("can't write {}: {error}", path.display()))),
        None => output.text(&text),
    }
}

fn diagram(args: &GraphArgs, global: &Global) -> Result<Diagram, CliError> {
    // Without states nothing of the cache is needed, so none is made where there is none.
    let store = match args.no_state {
        true => None,
        false => Some(global.store(Some(&args.pipeline.file))?),
    };
    let graph = match &store {
        Some(store) => args.pipeline.graph(global, store)?,
        None => graph::build(&args.pipeline.load(global)?, None)?,
    };
    let plan = store
        .map(|store| exec::plan(&graph, &store, &RunOptions::default()))
        .transpose()?;
    let mut only = BTreeSet::new();
    for name in &args.only {
        only.extend(graph.select_all(name)?);
    }
    let only = (!args.only.is_empty()).then_some(&only);
    Ok(Diagram::new(&graph, plan.as_ref(), only, args.nodes))
}

fn draw(diagram: &Diagram, format: Format, args: &GraphArgs, output: &Output) -> Result<String, CliError> {
    let num = diagram.boxes.len();
    if num > MAX_BOXES && matches!(format, Format::Text | Format::Svg) {
        let hint = match args.nodes {
            true => "leave out --nodes, or choose some of them with --only STAGE",
            false => "choose some of them with --only STAGE",
        };
        return Err(CliError::Usage(format!(
            "{num} boxes are too many to be read ({MAX_BOXES} at most); {hint}, or use --format dot"
        )));
    }
    Ok(match format {
        Format::Text => {
            let color = output.paint().color && args.output.is_none();
            draw_tree(diagram, text_width(args, output), Paint { color })
        }
        Format::Mermaid => draw_mermaid(diagram),
        Format::Dot => draw_dot(diagram),
        Format::Svg => draw_svg(diagram),
    })
}

/// Returns how wide a text may be: what is read on no terminal has no width but the one that is asked for.
fn text_width(args: &GraphArgs, output: &Output) -> usize {
    let is_on_terminal = args.output.is_none() && std::io::stdout().is_terminal();
    if is_on_terminal || std::env::var_os("COLUMNS").is_some() {
        output.width()
    } else {
        usize::MAX / 2
    }
}

/// Returns the format that was asked for, or that the name of the output file promises.
fn format(args: &GraphArgs) -> Result<Format, CliError> {
    let extension = args
        .output
        .as_deref()
        .and_then(Path::extension)
        .map(|extension| extension.to_string_lossy());
    match (args.format, extension.as_deref()) {
        (Some(format), _) => Ok(format),
        (None, Some("svg")) => Ok(Format::Svg),
        (None, Some("dot" | "gv")) => Ok(Format::Dot),
        (None, Some("mmd" | "mermaid")) => Ok(Format::Mermaid),
        (None, None | Some("txt")) => Ok(Format::Text),
        (None, Some(other)) => Err(CliError::Usage(format!(
            "`.{other}` promises no format that is known: .svg, .dot, .gv, .mmd and .txt do, or give --format"
        ))),
    }
}
