//! `astro.linearize`: search trees become traces, searching ones or the direct control.
//!
//! Both styles use the same trees - those that can show a wrong attempt and a right one - so that both arms see the
//! same problems, and give the same number of examples.

use anyhow::{Result, bail};

use super::measure::Measure;
use crate::formats::{Style, Tree, read_jsonl_numbered, write_json, write_jsonl};
use crate::linearize::{Card, LinearizeConfig, Source, Sourced, linearize_all};
use crate::report::names::{make_unique, row_name};
use crate::worker::Job;

/// Reads `trees` and perhaps `tokenizer`, writes `traces`, `card` and `card_text`.
///
/// # Errors
/// A tree is broken, a problem has two, or none can be used.
pub fn run(job: &Job) -> Result<()> {
    let config: LinearizeConfig = job.params()?;
    let measure = Measure::open(job)?;
    let (sources, trees) = read(job)?;
    let (traces, card) = linearize_all(&sources, &trees, &config, measure.unit(), &mut |text| {
        measure.length(text)
    })?;
    job.info(&format!(
        "{} traces of {} of {} trees",
        card.num_traces, card.num_used, card.num_trees
    ));
    if card.num_capped > 0 && config.style == Style::Search {
        job.info(&format!(
            "{} traces have fewer backtracks than asked for",
            card.num_capped
        ));
    }
    job.metric("traces", card.num_traces as f64, None);
    write_jsonl(&job.output("traces")?, &traces)?;
    write_json(&job.output("card")?, &card)?;
    std::fs::write(job.output("card_text")?, card.text(&traces))?;
    if traces.is_empty() {
        bail!("{}", no_traces(&card));
    }
    Ok(())
}

fn read(job: &Job) -> Result<(Vec<Source>, Vec<Sourced>)> {
    let inputs = job.inputs("trees")?;
    let mut names: Vec<String> = match inputs.as_slice() {
        [only] if only.label.is_none() => vec!["trees".to_owned()],
        all => (all.iter())
            .map(|input| row_name(input.label.as_deref(), &input.axes))
            .collect(),
    };
    make_unique(&mut names);
    let mut sources = Vec::new();
    let mut trees = Vec::new();
    for (source_idx, (input, name)) in inputs.into_iter().zip(names).enumerate() {
        for (line, tree) in read_jsonl_numbered::<Tree>(&input.path, "tree")? {
            trees.push(Sourced { tree, source_idx, line });
        }
        sources.push(Source { name, path: input.path });
    }
    Ok((sources, trees))
}

fn no_traces(card: &Card) -> String {
    let reasons = |counts: &std::collections::BTreeMap<String, usize>| {
        let listed = counts.iter().map(|(reason, count)| format!("{count} {reason}"));
        listed.collect::<Vec<_>>().join(", ")
    };
    let mut message = format!(
        "none of {} trees gives traces ({})",
        card.num_trees,
        reasons(&card.dropped)
    );
    if !card.dropped_traces.is_empty() {
        message += &format!("; of {} traces {}", card.num_asked, reasons(&card.dropped_traces));
    }
    if let Some(advice) = card.advice() {
        message += &format!(": {advice}");
    }
    message
}
