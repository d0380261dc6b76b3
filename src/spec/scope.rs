//! What `${...}` refers to: parameters, axes, the profile and declared environment variables.
//!
//! It doesn't know stages or kinds, and leaves what depends on an axis for later where the axes are not known.

use std::collections::{BTreeMap, BTreeSet};

use super::fill::{Names, Outcome, fill};
use super::mistake::{At, Mistake, nearest};
use super::params::{self, Resolver, dotted, find, or_default, unknown_param};
use super::yaml::{Item, Key, Tree};

/// The values that a pipeline gives to names, apart from axes.
#[derive(Debug)]
pub struct Scope {
    /// With references filled in.
    params: Tree,
    /// As they were written.
    raw: Tree,
    env: Vec<Variable>,
    profile: String,
    swept: Vec<Swept>,
}

/// An environment variable that a pipeline may use.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    /// The name.
    pub name: Key,
    /// What it is where it's not set.
    pub default: Option<String>,
}

/// A parameter that has the value of an axis where there is that axis.
#[derive(Debug, Clone)]
pub(super) struct Swept {
    /// The dotted path of the parameter.
    pub path: String,
    /// The axis.
    pub axis: String,
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

impl Scope {
    /// Returns the scope of a pipeline, with parameters that refer to each other filled in.
    pub(super) fn new(
        params: &Tree,
        env: Vec<Variable>,
        profile: &str,
        swept: Vec<Swept>,
        out: &mut Vec<Mistake>,
    ) -> Scope {
        let mut scope = Scope {
            params: Tree {
                item: Item::Map(Vec::new()),
                at: params.at.clone(),
            },
            raw: params.clone(),
            env,
            profile: profile.to_owned(),
            swept,
        };
        let resolved = match Resolver::new(params, &scope, Vec::new()).resolve("", &params.at, out) {
            Outcome::Value(tree) => tree,
            // What is wrong was told; the raw values still tell which names there are.
            _ => params.clone(),
        };
        scope.params = resolved;
        scope
    }

    /// Returns the dotted names of all parameters, of mappings as well as of what is in them, in order.
    pub fn param_names(&self) -> Vec<String> {
        let mut names = dotted(&self.params);
        names.sort_unstable();
        names
    }

    /// Returns a value with its references filled in.
    ///
    /// With `deferred`, references to what is known only when a worker starts stay as they are.
    pub fn fill(&self, tree: &Tree, point: Point<'_>, deferred: bool, out: &mut Vec<Mistake>) -> Outcome {
        let mut names = Placed {
            scope: self,
            point,
            deferred,
        };
        fill(tree, &mut names, out)
    }

    /// Adds the axes that a value refers to, be it through swept parameters.
    pub fn axes_in(&self, tree: &Tree, names: &mut BTreeSet<String>) {
        for name in params::names(tree) {
            if let Some(axis) = name.strip_prefix("matrix.") {
                names.insert(axis.to_owned());
            } else if let Some(path) = name.strip_prefix("params.") {
                let used = self.swept_by(path);
                names.extend(used.map(|swept| swept.axis.clone()));
            }
        }
    }

    /// Returns the sweeps that a parameter depends on.
    fn swept_by<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Swept> {
        let raw = &self.raw;
        self.swept
            .iter()
            .filter(move |swept| params::depends(raw, path, &swept.path))
    }

    /// Tells whether a value depends on the parameter `on`, directly or through other parameters.
    pub(super) fn depends(&self, tree: &Tree, on: &str) -> bool {
        params::references(tree)
            .iter()
            .any(|path| params::depends(&self.raw, path, on))
    }

    /// Returns a parameter by its dotted path.
    pub(super) fn param(&self, path: &str) -> Option<&Tree> {
        find(&self.params, path)
    }

    fn swept_param(&self, path: &str, point: Point<'_>, at: &At, out: &mut Vec<Mistake>) -> Option<Outcome> {
        let used: Vec<&Swept> = self.swept_by(path).collect();
        let first = used.first()?;
        Some(match point {
            Point::Unknown => Outcome::Pending,
            Point::Nowhere(place) => {
                let message = format!("`params.{path}` is used in {place}, so it can't be swept");
                let help = format!("`--sweep` varies `params.{}` from node to node of a stage", first.path);
                out.push(Mistake::new(at, message).help(help));
                Outcome::Wrong
            }
            Point::At(axes) => {
                let over = used
                    .iter()
                    .filter_map(|swept| Some((swept.path.as_str(), axes.get(&swept.axis)?)));
                Resolver::new(&self.raw, self, over.collect()).resolve(path, at, out)
            }
        })
    }

    fn env(&self, name: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        let text = |text: &str| {
            Outcome::Value(Tree {
                item: Item::Text(text.to_owned()),
                at: at.clone(),
            })
        };
        let Some(variable) = self.env.iter().find(|variable| variable.name.text == name) else {
            let message = format!("the environment variable `{name}` is not listed under `env`");
            let help = format!("add it at the top level, `env: [{name}]`; its value will then enter the key");
            let names = self.env.iter().map(|variable| variable.name.text.as_str());
            out.push(match nearest(name, names) {
                Some(near) => Mistake::new(at, message).help(format!("did you mean `${{env.{near}}}`?")),
                None => Mistake::new(at, message).help(help),
            });
            return Outcome::Wrong;
        };
        // As in a shell, `:-` stands in for a variable that is empty as well as for one that is not set.
        let default = default.or(variable.default.as_deref());
        match (std::env::var(name), default) {
            (Ok(value), Some(default)) if value.is_empty() => text(default),
            (Ok(value), _) => text(&value),
            (Err(_), Some(default)) => text(default),
            (Err(std::env::VarError::NotUnicode(_)), None) => {
                let message = format!("the environment variable `{name}` is not UTF-8");
                out.push(Mistake::new(at, message));
                Outcome::Wrong
            }
            (Err(std::env::VarError::NotPresent), None) => {
                let message = format!("the environment variable `{name}` is not set");
                let help = format!("set it, or give it a default: `${{env.{name}:-VALUE}}`");
                out.push(Mistake::new(at, message).help(help));
                Outcome::Wrong
            }
        }
    }

    /// Returns what is neither a parameter nor an axis.
    pub(super) fn other(
        &self,
        name: &str,
        default: Option<&str>,
        deferred: bool,
        at: &At,
        out: &mut Vec<Mistake>,
    ) -> Outcome {
        let (head, rest) = name.split_once('.').unwrap_or((name, ""));
        let is_late = matches!(head, "inputs" | "outputs" | "resources" | "seed");
        match (head, rest) {
            ("env", variable) if !variable.is_empty() => return self.env(variable, default, at, out),
            ("profile", "") => {
                let profile = match default {
                    Some(default) if self.profile.is_empty() => default,
                    _ => &self.profile,
                };
                return Outcome::Value(Tree {
                    item: Item::Text(profile.to_owned()),
                    at: at.clone(),
                });
            }
            _ if is_late && deferred && default.is_none() => return Outcome::Kept,
            _ if is_late && deferred => {
                let message = format!("`${{{name}}}` always has a value, so it can't have a default");
                out.push(Mistake::new(at, message));
                return Outcome::Wrong;
            }
            _ => {}
        }
        let mistake = Mistake::new(at, format!("unknown reference `${{{name}}}`"));
        let mut valid = vec!["params", "matrix", "env", "profile"];
        if deferred {
            valid.extend(["inputs", "outputs", "resources", "seed"]);
        }
        let names = dotted(&self.params);
        let suffix = format!(".{name}");
        let param = names.iter().find(|param| *param == name || param.ends_with(&suffix));
        let default = default.map(|default| format!(":-{default}")).unwrap_or_default();
        out.push(if is_late {
            mistake.help("this is known only when a command starts: use it in `run` or `env` of the kind `command`")
        } else if let Some(param) = param {
            mistake.help(format!("did you mean `${{params.{param}}}`?"))
        } else if let Some(near) = nearest(head, valid) {
            let dot = if rest.is_empty() { "" } else { "." };
            mistake.help(format!("did you mean `${{{near}{dot}{rest}}}`?"))
        } else if deferred {
            mistake.help(format!("for a variable of the shell write `$${{{name}{default}}}`"))
        } else {
            mistake.help("a reference is `${params.NAME}`, `${matrix.AXIS}`, `${env.NAME}` or `${profile}`")
        });
        Outcome::Wrong
    }
}

/// The names that can be used in a stage.
struct Placed<'a> {
    scope: &'a Scope,
    point: Point<'a>,
    deferred: bool,
}

impl Names for Placed<'_> {
    fn value(&mut self, name: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if let Some(path) = name.strip_prefix("params.") {
            let params = &self.scope.params;
            let found = match self.scope.swept_param(path, self.point, at, out) {
                Some(Outcome::Pending) => return Outcome::Pending,
                Some(swept) => Some(swept),
                None => find(params, path).map(|tree| Outcome::Value(tree.clone())),
            };
            return match (found, default) {
                (None, None) => unknown_param(params, path, at, out),
                (found, default) => or_default(found, default, at, out),
            };
        }
        match name.strip_prefix("matrix.") {
            Some(axis) => self.axis(axis, default, at, out),
            None => self.scope.other(name, default, self.deferred, at, out),
        }
    }

    fn deferred(&self) -> bool {
        self.deferred
    }
}

impl Placed<'_> {
    fn axis(&self, axis: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        let axes = match self.point {
            Point::Unknown => return Outcome::Pending,
            Point::Nowhere(place) => {
                let message = format!("`${{matrix.{axis}}}` can't be used in {place}: there are no axes yet");
                out.push(Mistake::new(at, message));
                return Outcome::Wrong;
            }
            Point::At(axes) => axes,
        };
        match (axes.get(axis), default) {
            (Some(tree), _) => Outcome::Value(tree.clone()),
            (None, Some(_)) => or_default(None, default, at, out),
            (None, None) => {
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
        let scope = Scope::new(&tree(params), Vec::new(), "quick", Vec::new(), &mut out);
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
    fn a_dollar_before_what_the_worker_fills_in_stays_a_dollar() {
        let params = "{d: $, two: $$, e: '', b: '{b}'}";
        for (text, expected) in [
            ("${params.d}${inputs.a}", "$A"),
            ("${params.two}${params.e}${inputs.a}", "$$A"),
            ("${$}${inputs.a}${$}", "$A$"),
            ("${params.d}{HOME}", "${HOME}"),
            ("${params.two}${params.b} ${$}{HOME}", "$${b} ${HOME}"),
            ("${params.d}$${HOME}", "$${HOME}"),
            ("$${$} ${params.d}x", "${$} $x"),
        ] {
            let filled = filled(params, &format!("'{text}'"), true).expect(text);
            let filled = filled.as_str().expect("a text");
            let name = |name: &str| (name == "inputs.a").then(|| "A".to_owned());
            assert_eq!(
                crate::spec::template::substitute(filled, name).as_deref(),
                Ok(expected),
                "{text} as {filled}"
            );
        }
        assert_eq!(filled(params, "'${$}{params.d}'", false), Ok(json!("${params.d}")));
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
    fn parameters_that_double_each_other_are_refused_before_they_fill_the_memory() {
        for (first, next) in [
            ("x", "'${params.P}${params.P}'"),
            ("[1]", "['${params.P}', '${params.P}']"),
        ] {
            let double = |i: usize| format!("p{}: {}", i + 1, next.replace('P', &format!("p{i}")));
            let params: Vec<String> = (0..60).map(double).collect();
            let messages = filled(&format!("p0: {first}\n{}", params.join("\n")), "x", false).expect_err("too large");
            assert!(
                messages[0].ends_with("filled in, this is larger than 4 MiB"),
                "{messages:?}"
            );
            assert_eq!(messages.len(), 1, "told once");
        }
        let text = format!("'{}'", "${params.a}".repeat(3000));
        let messages = filled(&format!("a: {}", "x".repeat(2000)), &text, true).expect_err("too large");
        assert_eq!(messages.len(), 1, "{messages:?}");
    }

    #[test]
    fn a_long_chain_is_refused_and_not_a_crash() {
        let chain: Vec<String> = (0..5000).map(|i| format!("p{i}: '${{params.p{}}}'", i + 1)).collect();
        let messages = filled(&format!("{}\np5000: 1", chain.join("\n")), "x", false).expect_err("too long");
        assert!(messages[0].contains("in a row"));
    }
}
