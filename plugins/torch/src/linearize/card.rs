//! What was made of the trees, for the report and for who wonders where examples went: as numbers, and to read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::dropped;
use crate::card::{Histogram, write_counts};
use crate::formats::{Problem, Relation, Style, Trace};
use crate::verify::squeezed;

/// Characters of a step in the example.
const MAX_SHOWN: usize = 100;

/// The counts. `num_trees` is `num_used` and all of `dropped`; `num_asked` is `num_traces` and all of `dropped_traces`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub version: u32,
    pub style: Option<Style>,
    pub num_trees: usize,
    /// Trees that gave traces.
    pub num_used: usize,
    /// Trees left out, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Traces that were to be drawn.
    pub num_asked: usize,
    pub num_traces: usize,
    /// Traces left out, by reason. Of the control: those of the searching traces whose number it has.
    pub dropped_traces: BTreeMap<String, usize>,
    /// The numbers of backtracks that were asked for, in turn.
    pub num_backtracks_wanted: Vec<usize>,
    /// k -> traces with k backtracks.
    pub num_backtracks: BTreeMap<usize, usize>,
    /// Traces -> problems that have so many.
    pub traces_per_problem: BTreeMap<usize, usize>,
    /// Returns that lead to the root, in all traces.
    pub num_restarts: usize,
    /// Traces with fewer backtracks than asked for, because the tree has no more different wrong answers.
    pub num_capped: usize,
    /// Traces that lost attempts because they were too long.
    pub num_shortened: usize,
    /// Direct traces that repeat a solution, because the tree has no more.
    pub num_resampled: usize,
    /// Wrong terminals that were no honest attempts, in all trees.
    pub num_unsound_terminals: usize,
    /// Right terminals that the votes of `astro.self_eval` left out, in all trees.
    pub num_voted_down: usize,
    /// Right terminals that nobody voted on, where votes are required, in all trees.
    #[serde(default)]
    pub num_without_votes: usize,
    /// Right terminals whose solution alone is too long, in all trees.
    pub num_too_long_terminals: usize,
    /// Means over the used trees.
    pub mean_correct_terminals: f64,
    pub mean_distinct_wrong: f64,
    /// Mean visits per trace, root and returns included.
    pub mean_nodes: f64,
    /// Lengths of the steps of each trace.
    pub length: Histogram,
    pub sources: Vec<SourceCounts>,
    /// Field of the problems (`source`, `subject`, `level`) -> its value -> counts.
    pub groups: BTreeMap<String, BTreeMap<String, Group>>,
}

/// What came of one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    pub name: String,
    pub num_trees: usize,
    pub num_used: usize,
    pub num_traces: usize,
}

/// What came of problems with something in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub num_trees: usize,
    pub num_used: usize,
    pub num_traces: usize,
}

impl Card {
    /// The card as a page of Markdown, with one of the `traces` that it counts as an example.
    pub fn text(&self, traces: &[Trace]) -> String {
        let style = match self.style {
            Some(Style::Direct) => "direct",
            _ => "search",
        };
        let mut out = format!("# Data card: {style} traces\n\n");
        let _ = writeln!(
            out,
            "{} traces of {} problems, out of {} trees. A used tree has on average {:.1} usable right terminals and {:.1} \
             different wrong attempts; a trace has {:.1} visits.\n",
            self.num_traces,
            self.num_used,
            self.num_trees,
            self.mean_correct_terminals,
            self.mean_distinct_wrong,
            self.mean_nodes
        );
        self.write_notes(&mut out);
        out.push_str("## Trees\n\n");
        let mut rows = vec![("used".to_owned(), self.num_used)];
        rows.extend(
            self.dropped
                .iter()
                .map(|(reason, count)| (explain_tree(reason), *count)),
        );
        write_counts(&mut out, "what became of a tree", &rows);
        out.push_str("## Traces\n\n");
        let mut rows = vec![("written".to_owned(), self.num_traces)];
        let reasons = self.dropped_traces.iter();
        rows.extend(reasons.map(|(reason, count)| (explain_trace(reason), *count)));
        write_counts(&mut out, "what became of a trace", &rows);
        let _ = writeln!(
            out,
            "Backtracks, asked for in turn: {:?}.\n",
            self.num_backtracks_wanted
        );
        write_tally(&mut out, "backtracks", &self.num_backtracks);
        write_tally(&mut out, "traces of a problem", &self.traces_per_problem);
        out.push_str("## Length of the steps\n\n");
        if self.length.count > 0 {
            self.length.write(&mut out);
        }
        self.write_origins(&mut out);
        if let Some(trace) = example(traces) {
            write_example(&mut out, trace);
        }
        out
    }

    /// What to do about the reason that took most trees, or, where that is their traces, most traces; none: nothing was left
    /// out.
    pub fn advice(&self) -> Option<&'static str> {
        fn main(counts: &BTreeMap<String, usize>) -> Option<&str> {
            let most = counts.iter().max_by_key(|(_, count)| **count)?;
            Some(most.0)
        }
        let reason = match main(&self.dropped)? {
            "without_traces" => main(&self.dropped_traces)?,
            reason => reason,
        };
        Some(match reason {
            "solutions_too_long" => "raise max_length: no right solution fits into it",
            "without_self_evaluated" => {
                "the votes leave no right solution: lower min_agree, or look at the votes with self_eval: ignore"
            }
            "without_votes" => {
                "self_eval is require, but nobody voted: put astro.self_eval before this stage, with votes above 0, or set \
                 self_eval: if_present"
            }
            "without_wrong_terminal" => {
                "a tree needs a usable wrong terminal beside its right one: search with more candidates or at a higher \
                 temperature, or take harder problems"
            }
            dropped::TOO_LONG => "raise max_length, or set too_long: shorten",
            dropped::TOO_FEW => "lower min_traces_per_problem, or search longer",
            dropped::EVEN_BACKTRACKS => "set even_backtracks: false, or ask for numbers of backtracks that occur",
            dropped::DUPLICATE => "search longer: the trees have too few different terminals",
            _ => "each tree needs a right terminal: search longer, with more candidates, or with a better policy",
        })
    }

    /// What a reader may want to act on.
    fn write_notes(&self, out: &mut String) {
        let notes = [
            (
                self.num_capped,
                "traces have fewer backtracks than asked for: their trees have no more different wrong answers. Search longer, or ask for fewer.",
            ),
            (self.num_shortened, "traces lost attempts to fit into max_length."),
            (
                self.num_resampled,
                "traces repeat a solution of their problem: its tree has no more different ones.",
            ),
            (
                self.num_voted_down,
                "right terminals were voted down by self-evaluation and are not used.",
            ),
            (
                self.num_without_votes,
                "right terminals have no votes and are not used, because self_eval is require.",
            ),
            (
                self.num_too_long_terminals,
                "right terminals are too long for max_length by themselves.",
            ),
            (
                self.num_unsound_terminals,
                "wrong terminals are no honest attempts (false steps, false claims, or no answer) and are not used.",
            ),
            (
                self.num_restarts,
                "returns lead to the problem itself rather than to a later step.",
            ),
        ];
        for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(out, "- {count} {note}");
        }
        if notes.iter().any(|(count, _)| *count > 0) {
            out.push('\n');
        }
    }

    fn write_origins(&self, out: &mut String) {
        if self.sources.len() > 1 {
            out.push_str("## Inputs\n\n");
            let rows = self.sources.iter().map(|source| {
                (
                    source.name.as_str(),
                    source.num_trees,
                    source.num_used,
                    source.num_traces,
                )
            });
            write_origin(out, "input", rows);
        }
        for (field, groups) in &self.groups {
            let _ = writeln!(out, "## By {field}\n");
            let rows = groups
                .iter()
                .map(|(name, group)| (name.as_str(), group.num_trees, group.num_used, group.num_traces));
            write_origin(out, field, rows);
        }
    }
}

fn write_tally(out: &mut String, heading: &str, counts: &BTreeMap<usize, usize>) {
    let rows: Vec<(String, usize)> = counts
        .iter()
        .map(|(value, count)| (value.to_string(), *count))
        .collect();
    write_counts(out, heading, &rows);
}

fn write_origin<'a>(out: &mut String, heading: &str, rows: impl Iterator<Item = (&'a str, usize, usize, usize)>) {
    let _ = writeln!(
        out,
        "| {heading} | trees | used | share | traces |\n| --- | ---: | ---: | ---: | ---: |"
    );
    for (name, num_trees, num_used, num_traces) in rows {
        let share = 100.0 * num_used as f64 / num_trees.max(1) as f64;
        let name = name.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| {name} | {num_trees} | {num_used} | {share:.1}% | {num_traces} |"
        );
    }
    out.push('\n');
}

/// The first trace that has backtracks, or of all.
fn example(traces: &[Trace]) -> Option<&Trace> {
    traces.iter().find(|trace| trace.k > 0).or_else(|| traces.first())
}

fn write_example(out: &mut String, trace: &Trace) {
    let Problem { id, problem, .. } = &trace.problem;
    let _ = writeln!(out, "## An example: problem {id}\n\n```text\n{}\n", shown(problem));
    for node in &trace.nodes {
        let verdict = match (node.terminal, node.correct) {
            (false, _) => "",
            (true, Some(true)) => "  <- right",
            (true, _) => "  <- wrong",
        };
        let _ = match node.relation {
            Relation::Root => Ok(()),
            Relation::Child => writeln!(out, "{:>4}  {}{verdict}", node.id, shown(&node.text)),
            Relation::Backtrack => writeln!(out, "      back to {}", node.id),
            Relation::Restart => writeln!(out, "      back to the problem"),
        };
    }
    out.push_str("```\n");
}

/// A text in one line that is short enough to look at, and does not end the block that it is in.
fn shown(text: &str) -> String {
    let text = squeezed(text).replace("```", "` ` `");
    match text.char_indices().nth(MAX_SHOWN) {
        None => text,
        Some((end, _)) => format!("{} ...", &text[..end]),
    }
}

/// A reason in words; one that is not known here stays as it is.
fn explain_tree(reason: &str) -> String {
    match reason {
        "repeated_problem" => "another problem has the same words",
        "solutions_too_long" => "all its right solutions are too long",
        "without_self_evaluated" => "self-evaluation left no right terminal",
        "without_votes" => "no right terminal has votes, and self_eval is require",
        "without_usable_terminals" => "neither a right nor a usable wrong terminal",
        "without_correct_terminal" => "no right terminal",
        "without_wrong_terminal" => "no usable wrong terminal",
        "without_traces" => "all its traces were left out",
        other => other,
    }
    .to_owned()
}

fn explain_trace(reason: &str) -> String {
    match reason {
        dropped::DUPLICATE => "repeats another of its problem in every draw",
        dropped::TOO_LONG => "too long in every draw",
        dropped::EVEN_BACKTRACKS => "more than there are with other numbers of backtracks",
        dropped::TOO_FEW => "its problem has too few",
        other => other,
    }
    .to_owned()
}
