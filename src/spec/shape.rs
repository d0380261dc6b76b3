//! The shapes of values: mappings, strings, lists of names, and which keys and names there may be.
//!
//! What has another shape is told and read as if it were empty. It doesn't know what a value means.

use super::mistake::Mistake;
use super::traps;
use super::yaml::{Item, Key, Tree};

/// Returns the entries of a mapping; null has none.
pub(super) fn mapping<'a>(tree: &'a Tree, what: &str, out: &mut Vec<Mistake>) -> &'a [(Key, Tree)] {
    match &tree.item {
        Item::Map(entries) => entries,
        _ if tree.is_null() => &[],
        _ => {
            if tree.as_text().is_some_and(traps::has_odd_space) {
                return &[];
            }
            let mistake = Mistake::new(&tree.at, format!("{what} must be a mapping, not {}", tree.described()));
            out.push(match &tree.item {
                Item::Text(text) if traps::glued(text).is_some() => mistake.help("is a space missing after the `:`?"),
                Item::List(_) if !tree.at.text().starts_with('[') => {
                    mistake.help("write `key: value` on each line, without `-`")
                }
                _ => mistake,
            });
            &[]
        }
    }
}

/// Returns a string.
pub(super) fn text(tree: &Tree, what: &str, out: &mut Vec<Mistake>) -> Option<String> {
    let text = tree.as_text().map(str::to_owned);
    if text.is_none() {
        out.push(Mistake::new(
            &tree.at,
            format!("{what} must be a string, not {}", tree.described()),
        ));
    }
    text
}

/// Returns a list of names, each once.
pub(super) fn names(tree: &Tree, what: &str, out: &mut Vec<Mistake>) -> Vec<Key> {
    let Item::List(items) = &tree.item else {
        if !tree.is_null() {
            let message = format!("{what} must be a list of names, not {}", tree.described());
            let mistake = Mistake::new(&tree.at, message);
            out.push(match &tree.item {
                Item::Map(_) => mistake,
                _ => mistake.help(format!("write `[{}]`", tree.at.text().trim())),
            });
        }
        return Vec::new();
    };
    let mut names: Vec<Key> = Vec::new();
    for item in items {
        let Some(name) = text(item, &format!("an item of {what}"), out) else {
            continue;
        };
        if names.iter().any(|key| key.text == name) {
            out.push(Mistake::new(&item.at, format!("{what} names `{name}` twice")));
        } else {
            names.push(Key {
                text: name,
                at: item.at.clone(),
            });
        }
    }
    names
}

/// Tells about every key that is not among `valid`.
pub(super) fn check_keys(entries: &[(Key, Tree)], what: &str, valid: &[&str], out: &mut Vec<Mistake>) {
    for (key, _) in entries.iter().filter(|(key, _)| !valid.contains(&key.text.as_str())) {
        out.push(Mistake::unknown(
            &key.at,
            format!("{what} has no key `{}`", key.text),
            &key.text,
            valid.iter().copied(),
        ));
    }
}

/// Tells whether a text is a name: letters, digits, `_` and `-`, beginning with a letter or `_`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Tells about every key that can't be a name.
pub(super) fn check_names(entries: &[(Key, Tree)], what: &str, out: &mut Vec<Mistake>) {
    for (key, _) in entries.iter().filter(|(key, _)| !is_name(&key.text)) {
        let message = format!("`{}` can't be the name of {what}", key.text);
        out.push(
            Mistake::new(&key.at, message).help("a name has letters, digits, `_` and `-`, and begins with a letter"),
        );
    }
}
