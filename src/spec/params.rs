//! Parameters that refer to parameters: resolving them, and which of them a name depends on.
//!
//! A parameter that `--sweep` varies has another value at each point, and so has every parameter that refers to it: those
//! are resolved anew where a point is known. It doesn't know stages, nor what else than a parameter a name may be.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::fill::{Names, Outcome, fill};
use super::mistake::{At, Mistake, listed, nearest};
use super::scope::Scope;
use super::template::{self, Part};
use super::yaml::{self, Item, Key, Tree};

/// References that lead on to others further than this are refused, so that no chain can exhaust the stack.
const MAX_CHAIN: usize = 100;

/// Resolves parameters that refer to parameters.
pub(super) struct Resolver<'a> {
    raw: &'a Tree,
    rest: &'a Scope,
    /// Values that take the place of parameters, by dotted path.
    over: Vec<(&'a str, &'a Tree)>,
    /// By dotted path; `None` if something is wrong with it.
    done: HashMap<String, Option<Tree>>,
    /// The paths that are being resolved, outermost first.
    stack: Vec<String>,
}

impl<'a> Resolver<'a> {
    /// Returns a resolver of `raw` parameters, of which some are replaced; `rest` knows everything else.
    pub fn new(raw: &'a Tree, rest: &'a Scope, over: Vec<(&'a str, &'a Tree)>) -> Resolver<'a> {
        Resolver {
            raw,
            rest,
            over,
            done: HashMap::new(),
            stack: Vec::new(),
        }
    }

    /// Resolves the parameter, or the mapping of parameters, at a dotted path; the empty path is all of them.
    pub fn resolve(&mut self, path: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some((_, tree)) = self.over.iter().find(|(over, _)| *over == path) {
            return Outcome::Value((*tree).clone());
        }
        if let Some(done) = self.done.get(path) {
            return done.clone().map_or(Outcome::Wrong, Outcome::Value);
        }
        if let Some(idx) = self.stack.iter().position(|open| open == path) {
            let names = self.stack[idx..].iter().map(String::as_str).chain([path]);
            let cycle: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            let message = format!("parameters refer to each other in a circle: {}", cycle.join(" -> "));
            out.push(Mistake::new(at, message));
            return Outcome::Wrong;
        }
        if self.stack.len() > MAX_CHAIN {
            let message = format!("more than {MAX_CHAIN} parameters refer to each other in a row");
            out.push(Mistake::new(at, message));
            return Outcome::Wrong;
        }
        let raw = self.raw;
        let Some(tree) = find(raw, path) else {
            return self.resolve_inside(path, at, out);
        };
        self.stack.push(path.to_owned());
        let outcome = match &tree.item {
            Item::Map(entries) => self.resolve_map(path, tree, entries, out),
            _ => fill(tree, self, out),
        };
        self.stack.pop();
        let done = match &outcome {
            Outcome::Value(tree) => Some(tree.clone()),
            _ => None,
        };
        self.done.insert(path.to_owned(), done);
        outcome
    }

    /// Resolves a path that leads on inside of what another reference stands for.
    fn resolve_inside(&mut self, path: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        let raw = self.raw;
        let Some((outer, inner)) = split_at_reference(raw, path) else {
            return unknown_param(raw, path, at, out);
        };
        match self.resolve(outer, at, out) {
            Outcome::Value(tree) => match find(&tree, inner) {
                Some(tree) => Outcome::Value(tree.clone()),
                None => unknown_param(raw, path, at, out),
            },
            other => other,
        }
    }

    fn resolve_map(&mut self, path: &str, tree: &Tree, entries: &[(Key, Tree)], out: &mut Vec<Mistake>) -> Outcome {
        let mut resolved = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let inner = if path.is_empty() {
                key.text.clone()
            } else {
                format!("{path}.{}", key.text)
            };
            if let Outcome::Value(value) = self.resolve(&inner, &value.at, out) {
                resolved.push((key.clone(), value));
            }
        }
        if resolved.len() < entries.len() {
            return Outcome::Wrong;
        }
        Outcome::Value(Tree {
            item: Item::Map(resolved),
            at: tree.at.clone(),
        })
    }
}

impl Names for Resolver<'_> {
    fn value(&mut self, name: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some(path) = name.strip_prefix("params.") {
            let is_there = find(self.raw, path).is_some() || split_at_reference(self.raw, path).is_some();
            let outcome = match default {
                Some(_) if !is_there => None,
                _ => Some(self.resolve(path, at, out)),
            };
            return or_default(outcome, default, at, out);
        }
        if name.starts_with("matrix.") {
            let message = format!("`${{{name}}}` can't be used in `params`: there are no axes yet");
            out.push(Mistake::new(at, message));
            return Outcome::Wrong;
        }
        self.rest.other(name, default, false, at, out)
    }

    fn deferred(&self) -> bool {
        false
    }
}

/// Returns what was found, or the default where there is nothing or null.
pub(super) fn or_default(found: Option<Outcome>, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
    match (found, default) {
        (Some(Outcome::Value(tree)), Some(default)) if tree.is_null() => yaml::scalar(default, at, out).into(),
        (Some(found), _) => found,
        (None, Some(default)) => yaml::scalar(default, at, out).into(),
        (None, None) => Outcome::Wrong,
    }
}

impl From<Option<Tree>> for Outcome {
    fn from(tree: Option<Tree>) -> Outcome {
        tree.map_or(Outcome::Wrong, Outcome::Value)
    }
}

/// Returns what a dotted path leads to, through mappings by name and through lists by position from 0.
pub(super) fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Tree> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .try_fold(tree, |tree, part| match &tree.item {
            Item::List(items) => items.get(part.parse::<usize>().ok()?),
            _ => tree.get(part),
        })
}

/// Cuts a path where what it leads to is itself a reference, if there is such a place.
fn split_at_reference<'p>(raw: &Tree, path: &'p str) -> Option<(&'p str, &'p str)> {
    let dots = path.match_indices('.').map(|(idx, _)| idx);
    dots.map(|idx| (&path[..idx], &path[idx + 1..])).find(
        |(outer, _)| matches!(find(raw, outer).map(|tree| &tree.item), Some(Item::Text(text)) if text.contains("${")),
    )
}

/// Tells that there is no such parameter.
pub(super) fn unknown_param(params: &Tree, path: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
    let names = dotted(params);
    let mistake = Mistake::new(at, format!("there is no parameter `params.{path}`"));
    let list = path
        .rsplit_once('.')
        .and_then(|(list, _)| Some((list, find(params, list)?)));
    out.push(match (list, nearest(path, names.iter().map(String::as_str))) {
        (
            Some((
                list,
                Tree {
                    item: Item::List(items),
                    ..
                },
            )),
            _,
        ) => {
            let last = items.len().saturating_sub(1);
            mistake.help(format!(
                "`params.{list}` is a list; its items are `${{params.{list}.0}}` to `.{last}`"
            ))
        }
        (_, Some(near)) => mistake.help(format!("did you mean `${{params.{near}}}`?")),
        _ if names.is_empty() => mistake.help("the pipeline has no `params`"),
        _ => mistake.help(format!("`params` has {}", listed(&names[..names.len().min(12)]))),
    });
    Outcome::Wrong
}

/// Returns the dotted names of all parameters, of mappings as well as of what is in them.
pub(super) fn dotted(params: &Tree) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![(String::new(), params)];
    while let Some((prefix, tree)) = open.pop() {
        let Item::Map(entries) = &tree.item else { continue };
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.text);
            open.push((format!("{name}."), value));
            names.push(name);
        }
    }
    names
}

/// Returns the dotted paths of all parameters that a value refers to.
pub(super) fn references(tree: &Tree) -> BTreeSet<String> {
    let params = names(tree).into_iter();
    params
        .filter_map(|name| name.strip_prefix("params.").map(str::to_owned))
        .collect()
}

/// Returns all names that a value refers to.
pub(super) fn names(tree: &Tree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![tree];
    while let Some(tree) = open.pop() {
        match &tree.item {
            Item::Plain(_) => {}
            Item::List(items) => open.extend(items),
            Item::Map(entries) => open.extend(entries.iter().map(|(_, tree)| tree)),
            Item::Text(text) if !text.contains("${") => {}
            Item::Text(text) => {
                for part in template::parse(text).unwrap_or_default() {
                    if let Part::Reference(name) | Part::Default { name, .. } = part {
                        found.insert(name);
                    }
                }
            }
        }
    }
    found
}

/// Tells whether the parameter `path` depends on the parameter `on`, directly or through others.
pub(super) fn depends(raw: &Tree, path: &str, on: &str) -> bool {
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
    let mut seen: HashSet<String> = HashSet::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if path == on || within(on, &path) || within(&path, on) {
            return true;
        }
        if !seen.insert(path.clone()) {
            continue;
        }
        match (find(raw, &path), split_at_reference(raw, &path)) {
            (Some(tree), _) => open.extend(references(tree)),
            (None, Some((outer, _))) => open.push(outer.to_owned()),
            (None, None) => {}
        }
    }
    false
}
