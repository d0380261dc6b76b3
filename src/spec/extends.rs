//! `extends`: stages that begin as what a template, or another stage, already says.
//!
//! It works on the tree, before a stage is read, so that what is inherited is checked like what is written, and shown
//! where it was written. After it there are no templates any more.

use std::collections::HashMap;

use super::merge::{self, Level};
use super::mistake::Mistake;
use super::overrides::section_mut;
use super::shape;
use super::yaml::{Item, Key, Tree};

/// The parts of a stage that are merged; all others are replaced.
const MERGED: [&str; 5] = ["with", "needs", "matrix", "resources", "outputs"];

/// Longer chains are refused, so that none can exhaust the stack.
const MAX_CHAIN: usize = 100;

/// Gives every stage what it extends.
pub(super) fn apply(root: &mut Tree, out: &mut Vec<Mistake>) {
    let entries = |name: &str| match root.get(name).map(|tree| &tree.item) {
        Some(Item::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let (templates, stages) = (entries("templates"), entries("stages"));
    if !stages
        .iter()
        .chain(templates)
        .any(|(_, tree)| tree.get("extends").is_some())
    {
        return;
    }
    let mut extender = Extender {
        written: HashMap::new(),
        done: HashMap::new(),
        chain: Vec::new(),
    };
    for (key, tree) in templates {
        extender.written.insert(&key.text, (key, tree));
    }
    for (key, tree) in stages {
        if let Some((template, _)) = extender.written.insert(&key.text, (key, tree)) {
            let message = format!("`{}` is both a template and a stage", key.text);
            let help = format!(
                "the template is on line {}; rename one of them",
                template.at.line_column().0
            );
            out.push(Mistake::new(&key.at, message).help(help));
        }
    }
    for (key, _) in templates {
        extender.extended(&key.text, out);
    }
    let extended: Vec<(Key, Tree)> = stages
        .iter()
        .map(|(key, tree)| {
            (
                key.clone(),
                extender.extended(&key.text, out).unwrap_or_else(|| tree.clone()),
            )
        })
        .collect();
    let stages = section_mut(root, "stages", &root.at.clone());
    stages.item = Item::Map(extended);
}

struct Extender<'a> {
    /// Templates and stages as they were written.
    written: HashMap<&'a str, (&'a Key, &'a Tree)>,
    /// What was found for them; `None` if something is wrong.
    done: HashMap<&'a str, Option<Tree>>,
    /// The names that are being extended, outermost first.
    chain: Vec<&'a str>,
}

impl<'a> Extender<'a> {
    /// Returns a stage or template with all that it extends; `None` after telling `out` what is wrong with that.
    fn extended(&mut self, name: &str, out: &mut Vec<Mistake>) -> Option<Tree> {
        let (key, tree) = *self.written.get(name)?;
        let Some(extends) = tree.get("extends").filter(|extends| !extends.is_null()) else {
            return Some(tree.clone());
        };
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        self.chain.push(&key.text);
        let before = out.len();
        let mut base: Option<Tree> = None;
        for parent in parents(extends, out) {
            if let Some(parent) = self.parent(&parent, out) {
                match &mut base {
                    Some(base) => lay(base, &parent, false),
                    None => base = Some(parent),
                }
            }
        }
        self.chain.pop();
        let extended = (out.len() == before).then(|| {
            let mut base = base.unwrap_or_else(|| Tree {
                item: Item::Map(Vec::new()),
                at: tree.at.clone(),
            });
            lay(&mut base, tree, true);
            base.at = tree.at.clone();
            // Where it stays, what a stage extends could not be found.
            if let Item::Map(entries) = &mut base.item {
                entries.retain(|(key, _)| key.text != "extends");
            }
            base
        });
        self.done.insert(&key.text, extended.clone());
        extended
    }

    fn parent(&mut self, parent: &Key, out: &mut Vec<Mistake>) -> Option<Tree> {
        let name = parent.text.as_str();
        if let Some(idx) = self.chain.iter().position(|open| *open == name) {
            let chain: Vec<&str> = self.chain[idx..].iter().copied().chain([name]).collect();
            let message = format!("stages extend each other in a circle: {}", chain.join(" -> "));
            out.push(Mistake::new(&parent.at, message));
            return None;
        }
        if self.chain.len() > MAX_CHAIN {
            let message = format!("more than {MAX_CHAIN} stages extend each other in a row");
            out.push(Mistake::new(&parent.at, message));
            return None;
        }
        if !self.written.contains_key(name) {
            let mut names: Vec<&str> = self.written.keys().copied().collect();
            names.sort_unstable();
            let message = format!("there is no template or stage `{name}` to extend");
            out.push(Mistake::unknown(&parent.at, message, name, names));
            return None;
        }
        self.extended(name, out)
    }
}

/// Returns the names that `extends` gives: one, or a list.
fn parents(tree: &Tree, out: &mut Vec<Mistake>) -> Vec<Key> {
    match &tree.item {
        Item::Text(text) => vec![Key {
            text: text.clone(),
            at: tree.at.clone(),
        }],
        _ => shape::names(tree, "`extends`", out),
    }
}

/// Lays a stage over what it extends. With `removes`, a null takes away what was inherited.
fn lay(base: &mut Tree, over: &Tree, removes: bool) {
    let (Item::Map(entries), Item::Map(changes)) = (&mut base.item, &over.item) else {
        *base = over.clone();
        return;
    };
    for (key, change) in changes {
        let Some(idx) = entries.iter().position(|(k, _)| k.text == key.text) else {
            entries.push((key.clone(), change.clone()));
            continue;
        };
        if removes && change.is_null() {
            entries.remove(idx);
            continue;
        }
        let inherited = &mut entries[idx].1;
        let name = key.text.as_str();
        if MERGED.contains(&name) {
            let level = if name == "matrix" { Level::Matrix } else { Level::Other };
            let rest = taken(inherited, change, removes);
            merge::lay(inherited, &rest, level);
        } else {
            *inherited = change.clone();
        }
        entries[idx].0 = key.clone();
    }
}

/// Takes away from what was inherited each part that the stage makes null, and returns the rest of what the stage says.
fn taken(inherited: &mut Tree, change: &Tree, removes: bool) -> Tree {
    let mut rest = change.clone();
    if let (true, Item::Map(parts), Item::Map(changes)) = (removes, &mut inherited.item, &mut rest.item) {
        changes.retain(|(key, tree)| {
            let before = parts.len();
            if tree.is_null() {
                parts.retain(|(part, _)| part.text != key.text);
            }
            parts.len() == before
        });
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::mistake::At;
    use crate::spec::yaml;

    fn extended(text: &str) -> Result<Value, Vec<String>> {
        let mut out = Vec::new();
        let mut root = yaml::parse(&At::whole("p", text), &mut out).expect("YAML");
        apply(&mut root, &mut out);
        match out.is_empty() {
            true => Ok(root.to_value()["stages"].clone()),
            false => Err(out.into_iter().map(|m| m.message).collect()),
        }
    }

    #[test]
    fn the_stage_wins_over_later_templates_and_those_over_earlier_ones() {
        let text = "
templates:
  a: { uses: k, with: { x: 1, y: 1, z: { p: 1, q: 1 } }, tags: [a], matrix: { s: [1], t: { range: [1, 3] } } }
  b: { with: { y: 2, z: { q: 2 } }, tags: [b] }
stages:
  c: { extends: [a, b], with: { z: { q: 3 }, x: null, n: null }, matrix: { t: { choice: { of: [u] } }, s: null } }
  d: { extends: c, with: { w: 4 }, tags: null }
";
        let c = json!({"uses": "k", "with": {"y": 2, "z": {"p": 1, "q": 3}, "n": null}, "tags": ["b"],
            "matrix": {"t": {"choice": {"of": ["u"]}}}});
        let mut d = c.clone();
        d["with"]["w"] = json!(4);
        d.as_object_mut().expect("a mapping").remove("tags");
        assert_eq!(extended(text), Ok(json!({"c": c, "d": d})));
    }

    #[test]
    fn circles_and_unknown_names_are_told() {
        for (text, message) in [
            (
                "stages: {a: {extends: b}, b: {extends: a}}",
                "stages extend each other in a circle: a -> b -> a",
            ),
            (
                "templates: {train: {}}\nstages: {a: {extends: trian}}",
                "there is no template or stage `trian` to extend",
            ),
            (
                "templates: {a: {}}\nstages: {a: {extends: a}}",
                "`a` is both a template and a stage",
            ),
        ] {
            let mistakes = extended(text).expect_err(text);
            assert!(mistakes.contains(&message.to_owned()), "{mistakes:?}");
        }
    }
}
