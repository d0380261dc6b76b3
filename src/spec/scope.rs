//! What `${...}` refers to: parameters, axes, the profile and declared environment variables, and filling them in.
//!
//! Types survive where a scalar is one reference. What is filled in keeps the place where it was written, so that a
//! wrong value is shown where its author can change it. It doesn't know stages or kinds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::mistake::{At, Mistake, listed, nearest};
use super::schema::text_of;
use super::template::{self, Part};
use super::yaml::{Item, Key, Tree};

/// References that lead on to others further than this are refused, so that no chain can exhaust the stack.
const MAX_CHAIN: usize = 100;

/// The values that a pipeline gives to names, apart from axes.
#[derive(Debug)]
pub struct Scope {
    params: Tree,
    env: Vec<Key>,
    profile: String,
}

/// What is known of the axes where a text is filled in.
#[derive(Debug, Clone, Copy)]
pub enum Point<'a> {
    /// Nothing yet: what depends on an axis is left for later.
    Unknown,
    /// There are no axes here; the text says where.
    Nowhere(&'a str),
    /// The values of all axes.
    At(&'a BTreeMap<String, Tree>),
}

/// What became of a value with references in it.
#[derive(Debug)]
pub enum Outcome {
    /// All is filled in.
    Value(Tree),
    /// It depends on an axis that is not known.
    Pending,
    /// Something is wrong and was told.
    Wrong,
    /// A reference that stays as it is until a worker starts.
    Kept,
}

impl Scope {
    /// Returns the scope of a pipeline, with parameters that refer to each other filled in.
    pub fn new(params: &Tree, env: Vec<Key>, profile: &str, out: &mut Vec<Mistake>) -> Scope {
        let empty = Scope {
            params: Tree {
                item: Item::Map(Vec::new()),
                at: params.at.clone(),
            },
            env,
            profile: profile.to_owned(),
        };
        let mut resolver = Resolver {
            raw: params,
            rest: &empty,
            done: HashMap::new(),
            stack: Vec::new(),
        };
        let resolved = match resolver.resolve("", &params.at, out) {
            Outcome::Value(tree) => tree,
            // What is wrong was told; the raw values still tell which names there are.
            _ => params.clone(),
        };
        Scope {
            params: resolved,
            ..empty
        }
    }

    /// Returns a value with its references filled in.
    ///
    /// With `deferred`, references to what is known only when a worker starts stay as they are.
    pub fn fill(&self, tree: &Tree, point: Point<'_>, deferred: bool, out: &mut Vec<Mistake>) -> Outcome {
        fill(
            tree,
            &mut Placed {
                scope: self,
                point,
                deferred,
            },
            out,
        )
    }

    /// Adds the axes that a value refers to, be it through parameters.
    pub fn axes_in(&self, tree: &Tree, names: &mut BTreeSet<String>) {
        match &tree.item {
            Item::Plain(_) => {}
            Item::List(items) => items.iter().for_each(|item| self.axes_in(item, names)),
            Item::Map(entries) => entries.iter().for_each(|(_, value)| self.axes_in(value, names)),
            Item::Text(text) => {
                for part in template::parse(text).unwrap_or_default() {
                    let Part::Reference(name) = part else { continue };
                    if let Some(axis) = name.strip_prefix("matrix.") {
                        names.insert(axis.to_owned());
                    }
                }
            }
        }
    }

    fn env(&self, name: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if !self.env.iter().any(|key| key.text == name) {
            let message = format!("the environment variable `{name}` is not listed under `env`");
            let help = format!("add it at the top level, `env: [{name}]`; its value will then enter the key");
            out.push(Mistake::new(at, message).help(help));
            return Outcome::Wrong;
        }
        match std::env::var(name) {
            Ok(value) => Outcome::Value(Tree {
                item: Item::Text(value),
                at: at.clone(),
            }),
            Err(_) => {
                out.push(Mistake::new(
                    at,
                    format!("the environment variable `{name}` is not set"),
                ));
                Outcome::Wrong
            }
        }
    }

    /// Returns what is neither a parameter nor an axis.
    fn other(&self, name: &str, deferred: bool, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        let (head, rest) = name.split_once('.').unwrap_or((name, ""));
        match (head, rest) {
            ("env", variable) if !variable.is_empty() => return self.env(variable, at, out),
            ("profile", "") => {
                return Outcome::Value(Tree {
                    item: Item::Text(self.profile.clone()),
                    at: at.clone(),
                });
            }
            ("inputs" | "outputs" | "resources" | "seed", _) if deferred => return Outcome::Kept,
            _ => {}
        }
        let mistake = Mistake::new(at, format!("unknown reference `${{{name}}}`"));
        let valid = ["params", "matrix", "env", "profile"];
        let names = dotted(&self.params);
        let suffix = format!(".{name}");
        let param = names.iter().find(|param| *param == name || param.ends_with(&suffix));
        out.push(if matches!(head, "inputs" | "outputs" | "resources" | "seed") {
            mistake.help("this is known only when a command starts: use it in `run` or `env` of the kind `command`")
        } else if let Some(param) = param {
            mistake.help(format!("did you mean `${{params.{param}}}`?"))
        } else if let Some(near) = nearest(head, valid) {
            let dot = if rest.is_empty() { "" } else { "." };
            mistake.help(format!("did you mean `${{{near}{dot}{rest}}}`?"))
        } else if deferred {
            mistake.help(format!("for a variable of the shell write `$${{{name}}}`"))
        } else {
            mistake.help("a reference is `${params.NAME}`, `${matrix.AXIS}`, `${env.NAME}` or `${profile}`")
        });
        Outcome::Wrong
    }
}

/// Looks up the names in a text.
trait Names {
    fn value(&mut self, name: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome;

    /// Tells whether a second filling in follows, so that `$${` must stay.
    fn deferred(&self) -> bool;
}

/// The names that can be used in a stage.
struct Placed<'a> {
    scope: &'a Scope,
    point: Point<'a>,
    deferred: bool,
}

impl Names for Placed<'_> {
    fn value(&mut self, name: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some(path) = name.strip_prefix("params.") {
            return match find(&self.scope.params, path) {
                Some(tree) => Outcome::Value(tree.clone()),
                None => unknown_param(&self.scope.params, path, at, out),
            };
        }
        let Some(axis) = name.strip_prefix("matrix.") else {
            return self.scope.other(name, self.deferred, at, out);
        };
        let axes = match self.point {
            Point::Unknown => return Outcome::Pending,
            Point::Nowhere(place) => {
                out.push(Mistake::new(
                    at,
                    format!("`${{{name}}}` can't be used in {place}: there are no axes yet"),
                ));
                return Outcome::Wrong;
            }
            Point::At(axes) => axes,
        };
        match axes.get(axis) {
            Some(tree) => Outcome::Value(tree.clone()),
            None => {
                let message = format!("there is no axis `{axis}` here");
                let mistake = Mistake::unknown(at, message, axis, axes.keys().map(String::as_str));
                out.push(if axes.is_empty() {
                    mistake.help("the stage has no axes; add `matrix`")
                } else {
                    mistake
                });
                Outcome::Wrong
            }
        }
    }

    fn deferred(&self) -> bool {
        self.deferred
    }
}

/// Resolves parameters that refer to parameters.
struct Resolver<'a> {
    raw: &'a Tree,
    rest: &'a Scope,
    /// By dotted path; `None` if something is wrong with it.
    done: HashMap<String, Option<Tree>>,
    /// The paths that are being resolved, outermost first.
    stack: Vec<String>,
}

impl Resolver<'_> {
    /// Resolves the parameter, or the mapping of parameters, at a dotted path; the empty path is all of them.
    fn resolve(&mut self, path: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some(done) = self.done.get(path) {
            return done.clone().map_or(Outcome::Wrong, Outcome::Value);
        }
        if let Some(idx) = self.stack.iter().position(|open| open == path) {
            let names = self.stack[idx..].iter().map(String::as_str).chain([path]);
            let cycle: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            out.push(Mistake::new(
                at,
                format!("parameters refer to each other in a circle: {}", cycle.join(" -> ")),
            ));
            return Outcome::Wrong;
        }
        if self.stack.len() > MAX_CHAIN {
            out.push(Mistake::new(
                at,
                format!("more than {MAX_CHAIN} parameters refer to each other in a row"),
            ));
            return Outcome::Wrong;
        }
        let raw = self.raw;
        let Some(tree) = find(raw, path) else {
            return unknown_param(raw, path, at, out);
        };
        self.stack.push(path.to_owned());
        let outcome = match &tree.item {
            Item::Map(entries) => self.resolve_map(path, tree, entries, out),
            _ => fill(tree, self, out),
        };
        self.stack.pop();
        let done = if let Outcome::Value(tree) = &outcome {
            Some(tree.clone())
        } else {
            None
        };
        self.done.insert(path.to_owned(), done);
        outcome
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
    fn value(&mut self, name: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some(path) = name.strip_prefix("params.") {
            return self.resolve(path, at, out);
        }
        if name.starts_with("matrix.") {
            out.push(Mistake::new(
                at,
                format!("`${{{name}}}` can't be used in `params`: there are no axes yet"),
            ));
            return Outcome::Wrong;
        }
        self.rest.other(name, false, at, out)
    }

    fn deferred(&self) -> bool {
        false
    }
}

fn fill(tree: &Tree, names: &mut dyn Names, out: &mut Vec<Mistake>) -> Outcome {
    let item = match &tree.item {
        Item::Plain(_) => return Outcome::Value(tree.clone()),
        Item::Text(text) if !text.contains("${") => return Outcome::Value(tree.clone()),
        Item::Text(text) => return fill_text(text, &tree.at, names, out),
        Item::List(items) => {
            let filled: Vec<Outcome> = items.iter().map(|item| fill(item, names, out)).collect();
            collect(filled).map(Item::List)
        }
        Item::Map(entries) => {
            let filled: Vec<Outcome> = entries.iter().map(|(_, value)| fill(value, names, out)).collect();
            collect(filled).map(|values| Item::Map(entries.iter().map(|(key, _)| key.clone()).zip(values).collect()))
        }
    };
    match item {
        Ok(item) => Outcome::Value(Tree {
            item,
            at: tree.at.clone(),
        }),
        Err(outcome) => outcome,
    }
}

/// Returns all values, or why there are none: what is wrong goes before what is pending.
fn collect(outcomes: Vec<Outcome>) -> Result<Vec<Tree>, Outcome> {
    let mut values = Vec::with_capacity(outcomes.len());
    let mut is_pending = false;
    for outcome in outcomes {
        match outcome {
            Outcome::Value(value) => values.push(value),
            Outcome::Pending => is_pending = true,
            Outcome::Wrong | Outcome::Kept => return Err(Outcome::Wrong),
        }
    }
    if is_pending { Err(Outcome::Pending) } else { Ok(values) }
}

fn fill_text(text: &str, at: &At, names: &mut dyn Names, out: &mut Vec<Mistake>) -> Outcome {
    let parts = match template::parse(text) {
        Ok(parts) => parts,
        Err(error) => {
            let help = "a reference is `${params.NAME}`; write `$${` for the characters `${`";
            out.push(Mistake::new(&at.find("${"), error.to_string()).help(help));
            return Outcome::Wrong;
        }
    };
    let kept = |name: &str| format!("${{{name}}}");
    if let [Part::Reference(name)] = &parts[..] {
        return match names.value(name, &at.find(&kept(name)), out) {
            Outcome::Kept => Outcome::Value(Tree {
                item: Item::Text(kept(name)),
                at: at.clone(),
            }),
            outcome => outcome,
        };
    }
    let mut filled = String::new();
    let (mut is_pending, mut is_wrong) = (false, false);
    for part in parts {
        match part {
            Part::Text(text) if names.deferred() => filled.push_str(&text.replace("${", "$${")),
            Part::Text(text) => filled.push_str(&text),
            Part::Reference(name) => {
                let place = at.find(&kept(&name));
                match names.value(&name, &place, out) {
                    Outcome::Value(tree) => {
                        is_wrong |= !append(&mut filled, &tree, &name, &place, names.deferred(), out)
                    }
                    Outcome::Pending => is_pending = true,
                    Outcome::Wrong => is_wrong = true,
                    Outcome::Kept => filled.push_str(&kept(&name)),
                }
            }
        }
    }
    match (is_wrong, is_pending) {
        (true, _) => Outcome::Wrong,
        (false, true) => Outcome::Pending,
        (false, false) => Outcome::Value(Tree {
            item: Item::Text(filled),
            at: at.clone(),
        }),
    }
}

/// Appends a value to a text; false if it has no place in one.
fn append(filled: &mut String, tree: &Tree, name: &str, at: &At, deferred: bool, out: &mut Vec<Mistake>) -> bool {
    match &tree.item {
        Item::Text(text) if deferred => filled.push_str(&text.replace("${", "$${")),
        Item::Plain(value) if !value.is_null() => filled.push_str(&text_of(value)),
        Item::Text(text) => filled.push_str(text),
        _ => {
            out.push(Mistake::new(
                at,
                format!("`${{{name}}}` is {}, which can't be put into a text", tree.described()),
            ));
            return false;
        }
    }
    true
}

fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Tree> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .try_fold(tree, |tree, part| tree.get(part))
}

fn unknown_param(params: &Tree, path: &str, at: &At, out: &mut Vec<Mistake>) -> Outcome {
    let names = dotted(params);
    let mistake = Mistake::new(at, format!("there is no parameter `params.{path}`"));
    out.push(match nearest(path, names.iter().map(String::as_str)) {
        Some(near) => mistake.help(format!("did you mean `${{params.{near}}}`?")),
        None if names.is_empty() => mistake.help("the pipeline has no `params`"),
        None => mistake.help(format!("`params` has {}", listed(&names[..names.len().min(12)]))),
    });
    Outcome::Wrong
}

/// Returns the dotted names of all parameters, of mappings as well as of what is in them.
fn dotted(params: &Tree) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::yaml;

    fn tree(text: &str) -> Tree {
        yaml::parse(&At::whole("p", text), &mut Vec::new()).expect("YAML")
    }

    fn filled(params: &str, text: &str, deferred: bool) -> Result<Value, Vec<String>> {
        let mut out = Vec::new();
        let scope = Scope::new(&tree(params), Vec::new(), "quick", &mut out);
        let axes = BTreeMap::from([("style".to_owned(), tree("search"))]);
        let outcome = scope.fill(&tree(text), Point::At(&axes), deferred, &mut out);
        match outcome {
            Outcome::Value(tree) if out.is_empty() => Ok(tree.to_value()),
            _ => Err(out.into_iter().map(|m| m.message).collect()),
        }
    }

    #[test]
    fn types_survive_a_scalar_that_is_one_reference() {
        let params = "{n: 7, lr: 1e-4, m: {a: [1, 2]}, t: 'x${params.n}'}";
        assert_eq!(filled(params, "'${params.n}'", false), Ok(json!(7)));
        assert_eq!(
            filled(params, "['${params.m.a}', '${params.t}']", false),
            Ok(json!([[1, 2], "x7"]))
        );
        assert_eq!(
            filled(params, "'a ${params.lr} ${matrix.style} ${profile} $${x}'", false),
            Ok(json!("a 0.0001 search quick ${x}"))
        );
    }

    #[test]
    fn what_is_known_at_the_start_only_stays_for_the_worker() {
        let text = "'${params.n} ${inputs.a} $${HOME} ${seed}'";
        assert_eq!(
            filled("{n: 7}", text, true),
            Ok(json!("7 ${inputs.a} $${HOME} ${seed}"))
        );
        assert_eq!(
            filled("{n: 7}", "'${inputs.a}'", false),
            Err(vec!["unknown reference `${inputs.a}`".into()])
        );
    }

    #[test]
    fn circles_and_unknown_names_are_told() {
        for (params, text, message) in [
            (
                "{a: '${params.b}', b: '${params.a}'}",
                "x",
                "parameters refer to each other in a circle: a -> b -> a",
            ),
            (
                "{a: {b: '${params.a}'}}",
                "x",
                "parameters refer to each other in a circle: a -> a.b -> a",
            ),
            ("{a: 1}", "'${params.c}'", "there is no parameter `params.c`"),
            ("{a: 1}", "'${matrix.c}'", "there is no axis `c` here"),
            (
                "{a: 1}",
                "'${env.HOME}'",
                "the environment variable `HOME` is not listed under `env`",
            ),
            (
                "{a: [1]}",
                "'x${params.a}'",
                "`${params.a}` is a list, which can't be put into a text",
            ),
            (
                "{a: '${matrix.x}'}",
                "x",
                "`${matrix.x}` can't be used in `params`: there are no axes yet",
            ),
            ("{a: 1}", "'${params.a'", "`${` without `}`"),
        ] {
            assert_eq!(
                filled(params, text, false),
                Err(vec![message.to_owned()]),
                "{params} {text}"
            );
        }
    }

    #[test]
    fn a_long_chain_is_refused_and_not_a_crash() {
        let chain: Vec<String> = (0..5000).map(|i| format!("p{i}: '${{params.p{}}}'", i + 1)).collect();
        let messages = filled(&format!("{}\np5000: 1", chain.join("\n")), "x", false).expect_err("too long");
        assert!(messages[0].contains("in a row"));
    }
}
