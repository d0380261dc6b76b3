//! A record in words.

use super::text::{bytes, duration, table};
use crate::store::{Artifact, Record};

/// Returns all that a record says, with a line break at its end.
pub fn describe_record(record: &Record) -> String {
    let mut rows = vec![
        row("node", &record.node),
        row("kind", &format!("{} v{}", record.kind, record.kind_version)),
        row("recipe key", &record.recipe_key.to_string()),
        row("content key", &record.content_key.to_string()),
        row(
            "made by",
            &format!("run {} on {}, attempt {}", record.run, record.host, record.attempt),
        ),
        row("started", &record.started.to_string()),
        row("took", &duration(record.seconds)),
    ];
    for (name, version) in &record.versions {
        rows.push(row(name, version));
    }
    if let Some(origin) = record.same_as {
        rows.push(row("same as", &format!("recipe {origin}")));
    }
    let mut out = table(&rows);
    let artifacts: Vec<Vec<String>> = record
        .artifacts
        .iter()
        .map(|(name, artifact)| {
            vec![
                format!("  {name}"),
                artifact_line(artifact),
                artifact.digest.to_string(),
            ]
        })
        .collect();
    out.push_str("outputs\n");
    out.push_str(&table(&artifacts));
    if !record.metrics.is_empty() {
        let metrics: Vec<Vec<String>> = record
            .metrics
            .iter()
            .map(|(name, value)| vec![format!("  {name}"), value.to_string()])
            .collect();
        out.push_str("metrics\n");
        out.push_str(&table(&metrics));
    }
    let recipe = serde_json::to_string_pretty(&record.recipe).unwrap_or_default();
    out.push_str(&format!("recipe\n{recipe}\n"));
    out
}

/// Returns what an artifact is: `12.0 MiB in 6 files` or `3.1 KiB`.
pub fn artifact_line(artifact: &Artifact) -> String {
    let size = bytes(artifact.size_bytes);
    match (artifact.manifest, artifact.files) {
        (None, _) => size,
        (Some(_), 1) => format!("{size} in 1 file"),
        (Some(_), files) => format!("{size} in {files} files"),
    }
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}
