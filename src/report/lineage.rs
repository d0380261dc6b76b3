//! Where a result came from and what used it: as a tree for people, as JSON, and as a Mermaid graph.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::plan::value_text;
use super::text::{Paint, duration};
use crate::digest::{Digest, RecipeKey};
use crate::inspect::{Census, Entry, OutsideFile, Source, Step, User};
use crate::store::Record;

/// How many artifacts of one stage are listed below each other before the rest is only counted.
const MAX_ALIKE: usize = 3;

/// How many parameters of one node are told.
const MAX_PARAMS: usize = 12;

/// What is told of a result.
#[derive(Debug)]
pub struct Lineage {
    /// The record that made it.
    pub record: Record,
    /// The outputs in question.
    pub outputs: Vec<String>,
    /// The file inside the output that was asked for, with its digest.
    pub path: Option<(String, Digest)>,
    /// Other nodes that made the same bytes.
    pub twins: Vec<String>,
    /// The record and what is upstream of it; absent if that was not asked for.
    pub upstream: Option<Vec<Step>>,
    /// All records, and which of them depend on it; absent if that was not asked for.
    pub downstream: Option<(Census, Vec<User>)>,
}

/// Returns the lineage as two trees: from where, and to where.
pub fn describe_lineage(lineage: &Lineage, paint: Paint) -> String {
    let record = &lineage.record;
    let mut out = String::new();
    for output in &lineage.outputs {
        let folder = record.artifacts.get(output).map(|artifact| artifact.digest);
        let (path, digest) = match &lineage.path {
            Some((path, digest)) => (format!("/{path}"), Some(*digest)),
            None => (String::new(), folder),
        };
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        out.push_str(&format!("{}.{output}{path}  {digest}\n", record.node));
    }
    if !lineage.twins.is_empty() {
        out.push_str(&format!("the same bytes were made by {}\n", limited(&lineage.twins)));
    }
    if let Some(steps) = &lineage.upstream {
        out.push_str("\nmade by\n");
        let mut tree = Upstream {
            by_key: steps.iter().map(|step| (step.recipe_key, step)).collect(),
            told: HashSet::new(),
            paint,
            out: String::new(),
        };
        if let Some(first) = steps.first() {
            tree.out.push_str(&format!("{} of {}\n", record.node, record.pipeline));
            tree.step(first, "");
        }
        out.push_str(&tree.out);
    }
    if let Some((census, users)) = &lineage.downstream {
        if users.is_empty() {
            out.push_str("\nnothing in this cache has used it\n");
        } else {
            out.push_str(&format!("\nused by {}\n", counted(users.len(), "node")));
            let mut by_source: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
            for (idx, user) in users.iter().enumerate() {
                let sources: HashSet<Option<usize>> = user.links.iter().map(|link| link.from).collect();
                sources
                    .into_iter()
                    .for_each(|source| by_source.entry(source).or_default().push(idx));
            }
            let mut tree = Downstream {
                census,
                users,
                by_source,
                told: HashSet::new(),
                paint,
                out: String::new(),
            };
            tree.below(None, "");
            out.push_str(&tree.out);
        }
    }
    out
}

struct Upstream<'a> {
    by_key: HashMap<RecipeKey, &'a Step>,
    told: HashSet<RecipeKey>,
    paint: Paint,
    out: String,
}

impl<'a> Upstream<'a> {
    /// Adds the details of a step and all that it read, behind an indentation.
    fn step(&mut self, step: &'a Step, indent: &str) {
        self.told.insert(step.recipe_key);
        let bar = if step.sources.is_empty() { "  " } else { "│ " };
        for line in details(step) {
            self.out.push_str(&self.paint.dim(&format!("{indent}{bar} {line}")));
            self.out.push('\n');
        }
        let alike = alike(&step.sources, |source| {
            let producer = self
                .by_key
                .get(&source.recipe_key)
                .and_then(|step| step.record.as_ref());
            producer.map(|record| record.stage.clone()).unwrap_or_default()
        });
        for (idx, (source, num_more)) in alike.iter().enumerate() {
            let is_last = idx + 1 == alike.len();
            let (branch, below) = if is_last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            self.out
                .push_str(&format!("{indent}{branch}{}", self.source_line(source)));
            let next = self.by_key.get(&source.recipe_key).copied();
            let is_new = !self.told.contains(&source.recipe_key);
            match next {
                Some(next) if is_new => {
                    self.out.push('\n');
                    self.step(next, &format!("{indent}{below}"));
                }
                Some(next) if next.record.is_some() => self.out.push_str("  (see above)\n"),
                _ => self.out.push('\n'),
            }
            if *num_more > 0 {
                self.out
                    .push_str(&format!("{indent}{below}and {num_more} more of this stage\n"));
            }
        }
    }

    fn source_line(&self, source: &Source) -> String {
        let producer = self
            .by_key
            .get(&source.recipe_key)
            .and_then(|step| step.record.as_ref());
        let path = source.path.as_ref().map(|path| format!("/{path}")).unwrap_or_default();
        let digest = source.digest.map(|digest| digest.short()).unwrap_or_default();
        let replaced = match source.is_replaced {
            true => format!("  {}", self.paint.warning("(made again since, with other bytes)")),
            false => String::new(),
        };
        match producer {
            Some(record) => format!(
                "{}: {}.{}{path}  {digest}{replaced}",
                source.input, record.node, source.output
            ),
            None => format!(
                "{}: {}{path} of recipe {}, whose record is gone  {digest}",
                source.input,
                source.output,
                source.recipe_key.short()
            ),
        }
    }
}

/// Returns what is told of a node upstream: what it was, when and where, and with which values.
fn details(step: &Step) -> Vec<String> {
    let Some(record) = &step.record else { return Vec::new() };
    let mut lines = vec![format!(
        "{} version {}, {}, took {}, run {} on {}",
        record.kind,
        record.kind_version,
        record.started,
        duration(record.seconds),
        record.run,
        record.host
    )];
    if let Some(origin) = record.same_as {
        lines.push(format!(
            "not executed: its inputs were those of recipe {}",
            origin.short()
        ));
    }
    let is_file = |name: &str| {
        let mut files = step.files.iter();
        files.any(|file| file.param.split(['.', '[']).next() == Some(name))
    };
    let params = record.recipe["params"].as_object().into_iter().flatten();
    let params: Vec<String> = params
        .filter(|(name, _)| !is_file(name))
        .map(|(name, value)| format!("{name} {}", value_text(value)))
        .collect();
    if !params.is_empty() {
        let more = params.len().saturating_sub(MAX_PARAMS);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        lines.push(format!(
            "with {}{more}",
            params[..params.len().min(MAX_PARAMS)].join(", ")
        ));
    }
    lines.extend(step.files.iter().map(file_line));
    if let Some(code) = record.recipe["code"].as_str() {
        lines.push(format!("code {}", value_text(&code.into())));
    }
    if step.is_cut {
        lines.push("what it read is deeper than --depth".to_owned());
    }
    lines
}

fn file_line(file: &OutsideFile) -> String {
    let path = file
        .path
        .as_ref()
        .map(|path| format!(", now {path}"))
        .unwrap_or_default();
    format!("file {} with content {}{path}", file.param, file.digest.short())
}

struct Downstream<'a> {
    census: &'a Census,
    users: &'a [User],
    /// The users of each user; each is told once.
    by_source: HashMap<Option<usize>, Vec<usize>>,
    told: HashSet<usize>,
    paint: Paint,
    out: String,
}

impl Downstream<'_> {
    fn below(&mut self, from: Option<usize>, indent: &str) {
        let below = self.by_source.remove(&from).unwrap_or_default();
        let alike = alike(&below, |&idx| {
            let entry = self.entry(idx);
            (entry.pipeline.clone(), entry.stage.clone())
        });
        for (position, (idx, num_more)) in alike.iter().enumerate() {
            let idx = **idx;
            let is_last = position + 1 == alike.len();
            let (branch, deeper) = if is_last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            let entry = self.entry(idx);
            let links = self.users[idx].links.iter().filter(|link| link.from == from);
            let inputs: Vec<String> = links.map(|link| link.input.clone()).collect();
            let when = format!("{}, run {}", entry.started, entry.run);
            let line = format!("{} of {}, as {}", entry.node, entry.pipeline, limited(&inputs));
            self.out
                .push_str(&format!("{indent}{branch}{line}  {}", self.paint.dim(&when)));
            if self.told.insert(idx) {
                self.out.push('\n');
                self.below(Some(idx), &format!("{indent}{deeper}"));
            } else {
                self.out.push_str("  (see above)\n");
            }
            if *num_more > 0 {
                self.out
                    .push_str(&format!("{indent}{deeper}and {num_more} more of this stage\n"));
            }
        }
    }

    fn entry(&self, idx: usize) -> &Entry {
        &self.census.entries[self.users[idx].entry]
    }
}

/// Returns the items without most of those that are alike, the last that is kept with the number of those left out.
fn alike<T, K: std::hash::Hash + Eq>(items: &[T], like: impl Fn(&T) -> K) -> Vec<(&T, usize)> {
    let mut counts: HashMap<K, usize> = HashMap::new();
    for item in items {
        *counts.entry(like(item)).or_default() += 1;
    }
    let mut kept = Vec::new();
    let mut seen: HashMap<K, usize> = HashMap::new();
    for item in items {
        let (key, num) = (like(item), counts[&like(item)]);
        let position = seen.entry(key).or_default();
        *position += 1;
        // One more line says no less than "and 1 more".
        match (*position, num) {
            (_, num) if num <= MAX_ALIKE + 1 => kept.push((item, 0)),
            (position, _) if position < MAX_ALIKE => kept.push((item, 0)),
            (position, num) if position == MAX_ALIKE => kept.push((item, num - MAX_ALIKE)),
            _ => {}
        }
    }
    kept
}

fn limited(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_ALIKE);
    let listed = names[..names.len().min(MAX_ALIKE)].join(", ");
    if more > 0 {
        format!("{listed} and {more} more")
    } else {
        listed
    }
}

fn counted(num: usize, what: &str) -> String {
    if num == 1 {
        format!("1 {what}")
    } else {
        format!("{num} {what}s")
    }
}

/// Returns all of the lineage as JSON: nodes and edges in both directions.
pub fn lineage_as_json(lineage: &Lineage) -> Value {
    let record = &lineage.record;
    let artifacts: serde_json::Map<String, Value> = lineage
        .outputs
        .iter()
        .filter_map(|output| Some((output.clone(), json!(record.artifacts.get(output)?))))
        .collect();
    let upstream = lineage.upstream.as_ref().map(|steps| {
        let node = |step: &Step| {
            let record = step.record.as_ref();
            json!({
                "recipe_key": step.recipe_key, "depth": step.depth, "is_cut": step.is_cut,
                "node": record.map(|record| &record.node), "pipeline": record.map(|record| &record.pipeline),
                "kind": record.map(|record| &record.kind), "kind_version": record.map(|record| record.kind_version),
                "params": record.map(|record| &record.recipe["params"]),
                "code": record.map(|record| &record.recipe["code"]), "files": step.files,
                "run": record.map(|record| &record.run), "host": record.map(|record| &record.host),
                "started": record.map(|record| record.started), "ended": record.map(|record| record.ended),
                "seconds": record.map(|record| record.seconds), "versions": record.map(|record| &record.versions),
                "same_as": record.and_then(|record| record.same_as),
                "artifacts": record.map(|record| &record.artifacts), "inputs": step.sources,
            })
        };
        steps.iter().map(node).collect::<Vec<_>>()
    });
    let downstream = lineage.downstream.as_ref().map(|(census, users)| {
        let node = |user: &User| {
            let entry = &census.entries[user.entry];
            let links = user.links.iter().map(|link| {
                let from = link.from.map(|from| census.entries[users[from].entry].recipe_key);
                json!({"input": link.input, "recipe_key": from.unwrap_or(record.recipe_key)})
            });
            let mut value = json!(entry);
            value["depth"] = user.depth.into();
            value["uses"] = links.collect();
            value
        };
        users.iter().map(node).collect::<Vec<_>>()
    });
    json!({
        "node": record.node, "pipeline": record.pipeline, "recipe_key": record.recipe_key,
        "artifacts": artifacts, "path": lineage.path.as_ref().map(|(path, _)| path), "twins": lineage.twins,
        "upstream": upstream, "downstream": downstream,
    })
}

/// Returns the lineage as a Mermaid flowchart, from the data to what was made of it.
pub fn lineage_as_mermaid(lineage: &Lineage) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut ids: HashMap<RecipeKey, String> = HashMap::new();
    let mut node = |out: &mut String, key: RecipeKey, name: &str, kind: &str| {
        let next = format!("n{}", ids.len());
        let id = ids.entry(key).or_insert_with(|| {
            out.push_str(&format!("  {next}[\"{}<br/>{}\"]\n", escaped(name), escaped(kind)));
            next
        });
        id.clone()
    };
    let record = &lineage.record;
    let target = node(&mut out, record.recipe_key, &record.node, &record.kind);
    let mut edges = String::new();
    for step in lineage.upstream.iter().flatten() {
        let name = step
            .record
            .as_ref()
            .map_or_else(|| step.recipe_key.short(), |record| record.node.clone());
        let kind = step.record.as_ref().map_or("gone", |record| &record.kind);
        node(&mut out, step.recipe_key, &name, kind);
    }
    for step in lineage.upstream.iter().flatten() {
        let to = node(&mut out, step.recipe_key, "", "");
        for source in &step.sources {
            let from = node(&mut out, source.recipe_key, &source.recipe_key.short(), "deeper");
            edges.push_str(&format!("  {from} -->|\"{}\"| {to}\n", escaped(&source.output)));
        }
    }
    if let Some((census, users)) = &lineage.downstream {
        let keyed = |idx: usize| &census.entries[users[idx].entry];
        for (idx, user) in users.iter().enumerate() {
            let entry = keyed(idx);
            let to = node(&mut out, entry.recipe_key, &entry.node, &entry.kind);
            for link in &user.links {
                let from = match link.from {
                    Some(from) => node(&mut out, keyed(from).recipe_key, &keyed(from).node, &keyed(from).kind),
                    None => target.clone(),
                };
                edges.push_str(&format!("  {from} -->|\"{}\"| {to}\n", escaped(&link.input)));
            }
        }
    }
    out + &edges + &format!("  style {target} stroke-width:4px\n")
}

/// Mermaid has entities for what would end a label.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_counted_and_four_are_not_too_many() {
        let kept = |items: &[&'static str]| -> Vec<(String, usize)> {
            let first = |item: &&str| item.chars().next();
            alike(items, first)
                .into_iter()
                .map(|(item, more)| ((*item).to_owned(), more))
                .collect()
        };
        let pairs = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
            pairs.iter().map(|(item, more)| ((*item).to_owned(), *more)).collect()
        };
        assert_eq!(
            kept(&["a1", "a2", "a3", "a4"]),
            pairs(&[("a1", 0), ("a2", 0), ("a3", 0), ("a4", 0)])
        );
        assert_eq!(
            kept(&["a1", "b1", "a2", "a3", "a4", "a5"]),
            pairs(&[("a1", 0), ("b1", 0), ("a2", 0), ("a3", 2)])
        );
    }
}
