//! Filling in the references of a value: types survive where a scalar is one reference, texts are put together.
//!
//! What is filled in keeps the place where it was written, so that a wrong value is shown where its author can change it.
//! It doesn't know what a name refers to; `scope.rs` and `params.rs` do.

use super::mistake::{At, Mistake};
use super::schema::text_of;
use super::template::{self, Part};
use super::yaml::{Item, Tree};

/// What references may bring into one value: characters, and 16 for each value of a list or mapping. A few parameters
/// that hold each other twice would else fill the memory.
const MAX_FILLED: usize = 4 << 20;

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

/// Looks up the names in a text.
pub(super) trait Names {
    /// Returns what a name stands for; `default` is what stands after `:-`.
    fn value(&mut self, name: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome;

    /// Tells whether a second filling in follows, so that what looks like a reference must not become one.
    fn deferred(&self) -> bool;
}

/// Returns a value with the references in it filled in.
pub(super) fn fill(tree: &Tree, names: &mut dyn Names, out: &mut Vec<Mistake>) -> Outcome {
    let mut limited = Limited {
        names,
        left: MAX_FILLED,
        is_told: false,
    };
    fill_parts(tree, &mut limited, out)
}

/// Names whose values may not be larger together than [`MAX_FILLED`].
struct Limited<'a> {
    names: &'a mut dyn Names,
    left: usize,
    is_told: bool,
}

impl Names for Limited<'_> {
    fn value(&mut self, name: &str, default: Option<&str>, at: &At, out: &mut Vec<Mistake>) -> Outcome {
        if self.is_told {
            return Outcome::Wrong;
        }
        let outcome = self.names.value(name, default, at, out);
        let Outcome::Value(tree) = &outcome else { return outcome };
        let left = self.left.checked_sub(weight(tree));
        if left.is_none() {
            self.is_told = true;
            let message = format!(
                "with `${{{name}}}` filled in, this is larger than {} MiB",
                MAX_FILLED >> 20
            );
            out.push(Mistake::new(at, message).help("put it into a file, and give its path to the stage"));
            return Outcome::Wrong;
        }
        self.left = left.unwrap_or_default();
        outcome
    }

    fn deferred(&self) -> bool {
        self.names.deferred()
    }
}

fn weight(tree: &Tree) -> usize {
    16 + match &tree.item {
        Item::Plain(_) => 0,
        Item::Text(text) => text.len(),
        Item::List(items) => items.iter().map(weight).sum(),
        Item::Map(entries) => entries.iter().map(|(key, tree)| key.text.len() + weight(tree)).sum(),
    }
}

fn fill_parts(tree: &Tree, names: &mut dyn Names, out: &mut Vec<Mistake>) -> Outcome {
    let item = match &tree.item {
        Item::Plain(_) => return Outcome::Value(tree.clone()),
        Item::Text(text) if !text.contains("${") => return Outcome::Value(tree.clone()),
        Item::Text(text) => return fill_text(text, &tree.at, names, out),
        Item::List(items) => {
            let filled: Vec<Outcome> = items.iter().map(|item| fill_parts(item, names, out)).collect();
            collect(filled).map(Item::List)
        }
        Item::Map(entries) => {
            let filled: Vec<Outcome> = entries.iter().map(|(_, value)| fill_parts(value, names, out)).collect();
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
    match &parts[..] {
        [Part::Reference(name)] => {
            return match names.value(name, None, &at.find(&kept(name)), out) {
                Outcome::Kept => Outcome::Value(Tree {
                    item: Item::Text(kept(name)),
                    at: at.clone(),
                }),
                outcome => outcome,
            };
        }
        [Part::Default { name, default }] => {
            return names.value(name, Some(default), &at.find(&format!("${{{name}")), out);
        }
        _ => {}
    }
    let mut filled = String::new();
    let (mut is_pending, mut is_wrong) = (false, false);
    for part in parts {
        match part {
            Part::Text(text) => push_text(&mut filled, &text, names.deferred()),
            Part::Reference(name) => {
                let place = at.find(&kept(&name));
                match names.value(&name, None, &place, out) {
                    Outcome::Value(tree) => {
                        is_wrong |= !append(&mut filled, &tree, &name, &place, names.deferred(), out)
                    }
                    Outcome::Pending => is_pending = true,
                    Outcome::Wrong => is_wrong = true,
                    Outcome::Kept => template::push_template(&mut filled, &kept(&name)),
                }
            }
            // In the middle of a text a default is the text that it is, whatever YAML would make of it.
            Part::Default { name, default } => {
                let place = at.find(&format!("${{{name}"));
                match names.value(&name, Some(&default), &place, out) {
                    Outcome::Value(tree) => {
                        is_wrong |= !append(&mut filled, &tree, &name, &place, names.deferred(), out)
                    }
                    Outcome::Pending => is_pending = true,
                    Outcome::Wrong | Outcome::Kept => is_wrong = true,
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

/// Appends what stands for itself, also in a second filling in if one follows.
fn push_text(filled: &mut String, text: &str, deferred: bool) {
    match deferred {
        true => template::push_text(filled, text),
        false => filled.push_str(text),
    }
}

/// Appends a value to a text; false if it has no place in one.
fn append(filled: &mut String, tree: &Tree, name: &str, at: &At, deferred: bool, out: &mut Vec<Mistake>) -> bool {
    match &tree.item {
        Item::Text(text) => push_text(filled, text, deferred),
        Item::Plain(value) if !value.is_null() => filled.push_str(&text_of(value)),
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
