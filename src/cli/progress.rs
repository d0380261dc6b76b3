//! The live view on a terminal: a line with the counts, and a bar for each node that runs.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::exec::{Counts, Event, NodeState};
use crate::graph::NodeId;
use crate::report::{Lines, Paint, describe_counts, pushing};
use crate::store::Timestamp;

/// The view; it draws on standard error and leaves only plain lines behind.
pub(super) struct Live {
    paint: Paint,
    lines: Lines,
    bars: MultiProgress,
    header: Option<ProgressBar>,
    running: HashMap<NodeId, ProgressBar>,
    counts: Counts,
    nodes: usize,
}

impl Live {
    pub(super) fn new(paint: Paint) -> Live {
        Live {
            paint,
            lines: Lines::new(paint),
            bars: MultiProgress::new(),
            header: None,
            running: HashMap::new(),
            counts: Counts::default(),
            nodes: 0,
        }
    }

    pub(super) fn show(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::RunStarted { nodes, cached, .. } => {
                self.nodes = *nodes;
                if nodes > cached {
                    let header = self.bars.add(ProgressBar::new_spinner());
                    header.set_style(style("{spinner} {elapsed_precise} {msg}"));
                    header.enable_steady_tick(Duration::from_millis(200));
                    self.header = Some(header);
                }
            }
            Event::NodeStarted { id, .. } => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(style("  {spinner} {prefix} {elapsed} {wide_msg}"));
                bar.set_prefix(id.0.clone());
                bar.enable_steady_tick(Duration::from_millis(200));
                if let Some(former) = self.running.insert(id.clone(), bar) {
                    former.finish_and_clear();
                }
            }
            Event::NodeProgress {
                id,
                done,
                total,
                unit,
                message,
            } => {
                if let Some(bar) = self.running.get(id) {
                    advance(bar, *done, *total, unit.as_deref(), message.as_deref());
                }
                return;
            }
            Event::NodeFinished { id, state, .. } => {
                self.counts[*state] += 1;
                if let Some(bar) = self.running.remove(id) {
                    bar.finish_and_clear();
                }
            }
            Event::Pushing { left, address, .. } => {
                if let Some(header) = &self.header {
                    let text = pushing(event).unwrap_or_default();
                    header.set_message(format!("pushing {left} results to {address}: {text}"));
                    return;
                }
            }
            Event::RunFinished { .. } => {
                for (_, bar) in self.running.drain() {
                    bar.finish_and_clear();
                }
                if let Some(header) = self.header.take() {
                    header.finish_and_clear();
                }
                return;
            }
            _ => {}
        }
        // A start is seen as a bar; everything else that a pipe would be told stays above the bars.
        if !matches!(event, Event::NodeStarted { .. }) {
            for line in self.lines.lines(event, at) {
                // A terminal that is gone is noticed when the summary is printed.
                let _ = self.bars.println(line);
            }
        }
        self.update_header();
    }

    fn update_header(&self) {
        let Some(header) = &self.header else { return };
        let done: usize = NodeState::FINAL.iter().map(|&state| self.counts[state]).sum();
        let (running, nodes) = (self.running.len(), self.nodes);
        let counts = if done > 0 {
            describe_counts(&self.counts, self.paint)
        } else {
            "starting".to_owned()
        };
        header.set_message(format!("{done}/{nodes} nodes, {running} running; {counts}"));
    }
}

fn advance(bar: &ProgressBar, done: f64, total: Option<f64>, unit: Option<&str>, message: Option<&str>) {
    let unit = unit.unwrap_or("").replace(['{', '}'], "");
    match total.filter(|total| *total > 0.0) {
        Some(total) if bar.length() != Some(total as u64) => {
            // What is done at the first progress may be an earlier attempt's work: the rate counts from here. The length
            // comes after the position, because it is what makes the bar look at its position at once.
            bar.update(|state| state.set_pos(done.max(0.0) as u64));
            bar.set_length(total as u64);
            bar.reset_eta();
            let rate = "{pos}/{len}";
            bar.set_style(style(&format!(
                "  {{prefix}} [{{bar:24}}] {rate} {unit} {{per_sec}}, {{eta}} left {{wide_msg}}"
            )));
        }
        Some(_) => {}
        None => bar.set_style(style(&format!(
            "  {{spinner}} {{prefix}} {{pos}} {unit} {{per_sec}} {{wide_msg}}"
        ))),
    }
    bar.set_position(done.max(0.0) as u64);
    if let Some(message) = message {
        bar.set_message(message.replace(|c: char| c.is_control(), " "));
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_node_that_continues_comes_from_its_new_work() {
        let bar = ProgressBar::hidden();
        advance(&bar, 900.0, Some(1000.0), Some("step"), None);
        assert_eq!((bar.position(), bar.length()), (900, Some(1000)));
        assert_eq!(bar.per_sec(), 0.0, "nothing was done yet, as far as the bar knows");
    }
}
