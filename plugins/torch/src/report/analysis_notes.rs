//! An analysis in words.

use super::analysis::{Benchmark, Related, checkpoints};
use super::correlate::MIN_POINTS;

/// Stands under every correlation.
pub const CAUTION: &str = "A correlation over checkpoints is no proof of cause. Backtracks and accuracy both grow with \
    training and with the length of solutions, and the data of the search arm teach a model to be wrong first. The \
    partial r, which holds length (or the step) constant, answers a part of this: where it is near 0, backtracks say \
    nothing about accuracy that length (or time) does not say as well.";

/// States how many checkpoints the figures of each benchmark rest on, and what its correlations are.
pub fn benchmark_notes(benchmarks: &[Benchmark]) -> Vec<String> {
    let mut notes = Vec::new();
    for benchmark in benchmarks {
        let num = checkpoints(&benchmark.points).len();
        let left_out = benchmark.points.len() - num;
        let mut note = format!("{}: {num} checkpoints", benchmark.name);
        if left_out > 0 {
            note += &format!("; {left_out} models without a step are listed, but not correlated");
        }
        if num < MIN_POINTS {
            note += "; a correlation needs at least 3";
        }
        notes.push(note + ".");
        for related in &benchmark.correlations {
            notes.extend(relation_note(&benchmark.name, related));
        }
    }
    notes
}

fn relation_note(benchmark: &str, related: &Related) -> Option<String> {
    let of = related.series.as_deref().unwrap_or("all series together");
    let c = &related.backtracks_accuracy;
    if c.num_points < MIN_POINTS {
        return None;
    }
    let Some(r) = c.pearson else {
        return Some(format!(
            "{benchmark}, {of}: r is undefined, because backtracks or accuracy do not vary over the {} checkpoints.",
            c.num_points
        ));
    };
    let interval = c.fisher_ci95.map_or_else(String::new, |[low, high]| {
        format!(" (95% interval {low:.2} to {high:.2})")
    });
    let held = related
        .given_tokens
        .map_or_else(String::new, |p| format!("; with length held constant {:.2}", p.r));
    Some(format!(
        "{benchmark}, {of}: backtracks against accuracy r = {r:.3}{interval} over {} checkpoints{held}.",
        c.num_points
    ))
}
