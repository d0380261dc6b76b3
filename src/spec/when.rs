//! `when`: whether a stage exists at all, by parameters, environment variables and the profile.
//!
//! It is decided before there are any axes, so that a pipeline has the same stages at every point.

use super::StageName;
use super::fill::Outcome;
use super::mistake::{At, Mistake};
use super::schema::text_of;
use super::scope::{Point, Scope};
use super::yaml::{Item, Key, Tree, same};

/// A stage that does not exist, because its `when` does not hold.
#[derive(Debug, Clone)]
pub struct Off {
    /// The name that it would have.
    pub name: StageName,
    /// Its `when`.
    pub at: At,
    /// Why, as in "its `when` needs `params.arm` to be `search`, not `direct`".
    pub reason: String,
}

/// Returns why a condition does not hold, if it doesn't; mistakes go to `out`, and count as if it held.
pub(super) fn unmet(
    when: &Tree,
    stage: &str,
    scope: &Scope,
    profiles: &[&str],
    out: &mut Vec<Mistake>,
) -> Option<String> {
    let Item::Map(entries) = &when.item else {
        return match boolean(when, stage, scope, out) {
            Some(false) => Some(match when.as_text() {
                Some(text) => format!("its `when`, `{text}`, is false"),
                None => "its `when` is false".to_owned(),
            }),
            _ => None,
        };
    };
    let unmet: Vec<String> = entries
        .iter()
        .filter_map(|(key, allowed)| unmet_entry(key, allowed, scope, profiles, out))
        .collect();
    unmet.into_iter().next()
}

fn boolean(when: &Tree, stage: &str, scope: &Scope, out: &mut Vec<Mistake>) -> Option<bool> {
    let Outcome::Value(value) = scope.fill(when, Point::Nowhere("`when`"), false, out) else {
        return None;
    };
    if let Item::Plain(serde_json::Value::Bool(value)) = value.item {
        return Some(value);
    }
    let message = format!("`when` of stage `{stage}` must be a boolean, not {}", value.described());
    let help = match value.as_text() {
        Some("true" | "false") => "write it without quotes",
        _ => "write a parameter that is `true` or `false`, or a mapping such as `{ params.arm: search }`",
    };
    out.push(Mistake::new(&value.at, message).help(help));
    None
}

fn unmet_entry(key: &Key, allowed: &Tree, scope: &Scope, profiles: &[&str], out: &mut Vec<Mistake>) -> Option<String> {
    let name = key.text.as_str();
    if !(name == "profile" || name.starts_with("params.") || name.starts_with("env.")) {
        out.push(wrong_name(key, scope));
        return None;
    }
    let reference = Tree {
        item: Item::Text(format!("${{{name}}}")),
        at: key.at.clone(),
    };
    let point = Point::Nowhere("`when`");
    let (Outcome::Value(value), Outcome::Value(allowed)) = (
        scope.fill(&reference, point, false, out),
        scope.fill(allowed, point, false, out),
    ) else {
        return None;
    };
    let allowed = match &allowed.item {
        Item::List(items) => items.as_slice(),
        _ => std::slice::from_ref(&allowed),
    };
    for tree in allowed {
        check_allowed(key, tree, profiles, out);
    }
    if allowed.iter().any(|tree| same(&tree.to_value(), &value.to_value())) {
        return None;
    }
    let wanted: Vec<String> = allowed.iter().map(|tree| text_of(&tree.to_value())).collect();
    let wanted = match &wanted[..] {
        [] => "something".to_owned(),
        [one] => format!("`{one}`"),
        several => format!("`{}`", several.join("` or `")),
    };
    let is = match value.as_text() {
        Some("") => "nothing".to_owned(),
        _ => format!("`{}`", text_of(&value.to_value())),
    };
    Some(format!("its `when` needs `{name}` to be {wanted}, and it is {is}"))
}

fn check_allowed(key: &Key, tree: &Tree, profiles: &[&str], out: &mut Vec<Mistake>) {
    match &tree.item {
        Item::List(_) | Item::Map(_) => {
            let message = format!(
                "`{}` is compared with a value or a list of values, not {}",
                key.text,
                tree.described()
            );
            out.push(Mistake::new(&tree.at, message));
        }
        Item::Text(name) if key.text == "profile" && !name.is_empty() && !profiles.contains(&name.as_str()) => {
            let message = format!("there is no profile `{name}`");
            out.push(Mistake::unknown(&tree.at, message, name, profiles.iter().copied()));
        }
        _ => {}
    }
}

fn wrong_name(key: &Key, scope: &Scope) -> Mistake {
    let name = &key.text;
    if name.starts_with("matrix") {
        let message = "whether a stage exists can't depend on an axis";
        return Mistake::new(&key.at, message).help("leave single points out with `exclude` in `matrix`");
    }
    let mistake = Mistake::new(&key.at, format!("`when` can't look at `{name}`"));
    match scope.param(name) {
        Some(_) => mistake.help(format!("did you mean `params.{name}`?")),
        None => mistake.help("it can look at `params.NAME`, `env.NAME` and `profile`"),
    }
}
