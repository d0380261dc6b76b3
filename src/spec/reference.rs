//! What a stage needs: `stage.output`, a file inside of one, one point of its axes, or an output of another pipeline.
//!
//! Only how it is written is known here; whether there is such a stage, output or point is found by others.

use super::mistake::{At, Mistake};
use super::shape::{is_name, text};
use super::yaml::{self, Item, Key, Tree};

/// An input that a stage is given.
#[derive(Debug)]
pub struct Need {
    /// The name of the input.
    pub name: Key,
    /// Whether it was written as a list or a mapping of references.
    pub is_list: bool,
    /// The references; in the order of their labels if a mapping gives them.
    pub refs: Vec<Reference>,
}

/// A `pipeline.yaml#stage[axis=value].output/path`, of which all but stage and output may be left out.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The label that a mapping gives it.
    pub label: Option<String>,
    /// The other pipeline file, as it was written.
    pub file: Option<String>,
    /// The stage; once the pipeline is loaded, the name that it has in [`crate::spec::Pipeline::stages`].
    pub stage: String,
    /// The values of axes that choose among the points of the stage, in the order they were written.
    pub point: Vec<(Key, Tree)>,
    /// The output.
    pub output: String,
    /// A file or folder inside the artifact.
    pub subpath: Option<String>,
    /// Where it was written.
    pub at: At,
}

/// Reads an input of a stage.
pub(super) fn read_need(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Need {
    let mut refs = Vec::new();
    match &tree.item {
        Item::List(items) => refs.extend(items.iter().filter_map(|item| read_list_item(item, out))),
        Item::Map(entries) => {
            refs.extend(
                entries
                    .iter()
                    .filter_map(|(label, tree)| reference(Some(label.text.clone()), tree, out)),
            );
            // The order of keys means nothing in this language; a list of `- label: reference` chooses an order.
            refs.sort_by(|a, b| a.label.cmp(&b.label));
        }
        _ => refs.extend(reference(None, tree, out)),
    }
    let is_list = matches!(tree.item, Item::List(_) | Item::Map(_));
    if is_list && refs.is_empty() && matches!(&tree.item, Item::List(items) if items.is_empty()) {
        out.push(Mistake::new(&key.at, format!("input `{}` is an empty list", key.text)));
    }
    Need {
        name: key.clone(),
        is_list,
        refs,
    }
}

/// Reads `stage.output` or `label: stage.output`.
fn read_list_item(item: &Tree, out: &mut Vec<Mistake>) -> Option<Reference> {
    match &item.item {
        Item::Map(entries) => match &entries[..] {
            [(label, tree)] => reference(Some(label.text.clone()), tree, out),
            _ => {
                let message = "an item of a list of inputs is `stage.output` or one `LABEL: stage.output`";
                out.push(Mistake::new(&item.at, message));
                None
            }
        },
        _ => reference(None, item, out),
    }
}

fn reference(label: Option<String>, tree: &Tree, out: &mut Vec<Mistake>) -> Option<Reference> {
    let text = text(tree, "an input", out)?;
    let before = out.len();
    let reference = parse(label, &text, &tree.at, out);
    if reference.is_none() && out.len() == before {
        let message = format!("`{text}` does not name an output");
        out.push(Mistake::new(&tree.at, message).help("write `stage.output`, or `stage.output/path/inside`"));
    }
    reference
}

/// Reads a reference; `None`, perhaps after telling `out` what is wrong with a part of it.
fn parse(label: Option<String>, text: &str, at: &At, out: &mut Vec<Mistake>) -> Option<Reference> {
    let mut wrong = |at: &At, message: String, help: &str| {
        out.push(Mistake::new(at, message).help(help));
        None
    };
    if text.contains("${") {
        let message = format!("`{text}`: an input can't have `${{...}}` in it");
        return wrong(at, message, "name the stage and its output");
    }
    let (file, rest) = match text.split_once('#') {
        Some((file, rest)) if file.ends_with(".yaml") || file.ends_with(".yml") => (Some(file.to_owned()), rest),
        _ => (None, text),
    };
    let end = rest.find(['.', '[', '/']).unwrap_or(rest.len());
    let (stage, rest) = rest.split_at(end);
    let (point, rest) = match rest.strip_prefix('[') {
        None => (Vec::new(), rest),
        Some(inside) => {
            let Some(end) = outside_quotes(inside, ']').first().copied() else {
                return wrong(
                    &at.find("["),
                    "`[` without `]`".to_owned(),
                    "write `stage[axis=value].output`",
                );
            };
            (read_point(&inside[..end], at, out)?, &inside[end + 1..])
        }
    };
    let mut wrong = |at: &At, message: String, help: &str| {
        out.push(Mistake::new(at, message).help(help));
        None
    };
    let (output, subpath) = match rest.strip_prefix('.')?.split_once('/') {
        Some((output, path)) => (output, Some(path)),
        None => (&rest[1..], None),
    };
    if stage.is_empty() || output.is_empty() {
        return None;
    }
    if let Some(path) = subpath
        && path.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        let message = format!("`{path}` is not a path inside an artifact");
        return wrong(at, message, "write `stage.output/path/inside`, without `..`");
    }
    Some(Reference {
        label,
        file,
        stage: stage.to_owned(),
        point,
        output: output.to_owned(),
        subpath: subpath.map(str::to_owned),
        at: at.clone(),
    })
}

/// Reads `axis=value,axis=value`.
fn read_point(text: &str, at: &At, out: &mut Vec<Mistake>) -> Option<Vec<(Key, Tree)>> {
    let before = out.len();
    let mut point: Vec<(Key, Tree)> = Vec::new();
    let inside = at.find(text);
    let place = |start: usize, part: &str| {
        let start = inside.bytes().start + start;
        // A text with escapes in it is not found as it stands.
        match inside.text() == text && !part.is_empty() {
            true => at.part(start..start + part.len()),
            false => at.clone(),
        }
    };
    for (start, item) in split(text, ',') {
        let mut wrong = |message: String, help: &str| {
            out.push(Mistake::new(&place(start, item), message).help(help));
        };
        let Some((name, value)) = item.split_once('=') else {
            let message = match item {
                "" => "a point without coordinates".to_owned(),
                item => format!("`{item}` is not a coordinate"),
            };
            wrong(message, "write `stage[axis=value].output`");
            continue;
        };
        let axis = name.trim();
        if !is_name(axis) {
            wrong(
                format!("`{axis}` can't be the name of an axis"),
                "write `stage[axis=value].output`",
            );
        } else if point.iter().any(|(key, _)| key.text == axis) {
            wrong(
                format!("the point names the axis `{axis}` twice"),
                "leave one of them out",
            );
        } else if value.trim().is_empty() {
            let message = format!("axis `{axis}` has no value here");
            wrong(message, "write `axis=value`; an empty string is `\"\"`");
        } else {
            let start_of_value = start + name.len() + 1 + (value.len() - value.trim_start().len());
            let value = value.trim();
            let Some(value) = yaml::scalar(value, &place(start_of_value, value), out) else {
                continue;
            };
            let key = Key {
                text: axis.to_owned(),
                at: place(start, axis),
            };
            point.push((key, value));
        }
    }
    (out.len() == before).then_some(point)
}

/// Cuts a text at a character where it stands outside of quotes: each part, trimmed, and where it begins.
pub(super) fn split(text: &str, at: char) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let mut start = 0;
    for end in outside_quotes(text, at).into_iter().chain([text.len()]) {
        let part = &text[start..end];
        parts.push((start + part.len() - part.trim_start().len(), part.trim()));
        start = end + at.len_utf8();
    }
    parts
}

/// Returns where a character stands outside of quotes.
fn outside_quotes(text: &str, wanted: char) -> Vec<usize> {
    let mut found = Vec::new();
    let mut quote: Option<char> = None;
    for (idx, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == wanted => found.push(idx),
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, Vec<String>> {
        let mut out = Vec::new();
        let tree = Tree {
            item: Item::Text(text.to_owned()),
            at: At::whole("p", text),
        };
        match reference(None, &tree, &mut out) {
            Some(found) => {
                let point = found
                    .point
                    .iter()
                    .map(|(key, tree)| format!("{}={}", key.text, tree.to_value()));
                let point: Vec<String> = point.collect();
                Ok(format!(
                    "{} {} {} {} {}",
                    found.file.unwrap_or_default(),
                    found.stage,
                    point.join(";"),
                    found.output,
                    found.subpath.unwrap_or_default()
                ))
            }
            None => Err(out.into_iter().map(|m| m.message).collect()),
        }
    }

    #[test]
    fn references_are_taken_apart() {
        for (text, expected) in [
            ("a.b", " a  b "),
            ("a.b/c/d.json", " a  b c/d.json"),
            ("a.b/c#1", " a  b c#1"),
            ("a[x=1, y = z].b", " a x=1;y=\"z\" b "),
            ("a[x='1,]',lr=1e-4].b/c", " a x=\"1,]\";lr=0.0001 b c"),
            ("../o.yaml#a.b", "../o.yaml a  b "),
            ("o.yml#a[x=true].b/c", "o.yml a x=true b c"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_told() {
        for (text, message) in [
            ("a", "`a` does not name an output"),
            ("a.", "`a.` does not name an output"),
            ("a/b.c", "`a/b.c` does not name an output"),
            ("a[x=1]", "`a[x=1]` does not name an output"),
            ("a[x=1.b", "`[` without `]`"),
            ("a[].b", "a point without coordinates"),
            ("a[x].b", "`x` is not a coordinate"),
            ("a[x=].b", "axis `x` has no value here"),
            ("a[x=1,x=2].b", "the point names the axis `x` twice"),
            (
                "a[x=no].b",
                "`no` is a boolean to some readers of YAML and a string to others",
            ),
            ("a.b/../c", "`../c` is not a path inside an artifact"),
        ] {
            assert_eq!(read(text), Err(vec![message.to_owned()]), "{text}");
        }
    }
}
