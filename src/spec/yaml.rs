//! YAML text to a tree in which everything has its place: the one parser of pipeline files and of `--set` values.
//!
//! It reads YAML 1.2 with the core schema (`1e-4` is a number) and refuses what makes a pipeline mean something else than
//! it seems to: duplicate keys, anchors, aliases, merge keys, tags, several documents, and what other readers of YAML take
//! for something else (`traps.rs`). It doesn't know what a pipeline is.

use std::collections::HashSet;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Number, Value};

use super::mistake::{At, Mistake};
use super::traps;

/// Deeper nesting is refused, so that no recursion over a tree can exhaust the stack.
pub(super) const MAX_DEPTH: usize = 64;

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The value.
    pub item: Item,
    /// Where it was written.
    pub at: At,
}

/// A value of YAML.
#[derive(Debug, Clone)]
pub enum Item {
    /// Null, a boolean or a number.
    Plain(Value),
    /// A string.
    Text(String),
    /// A sequence.
    List(Vec<Tree>),
    /// A mapping in the order it was written; keys are unique.
    Map(Vec<(Key, Tree)>),
}

/// A key of a mapping and its place.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key as text.
    pub text: String,
    /// Where it was written.
    pub at: At,
}

impl Tree {
    /// Returns the value without places.
    pub fn to_value(&self) -> Value {
        match &self.item {
            Item::Plain(value) => value.clone(),
            Item::Text(text) => Value::String(text.clone()),
            Item::List(items) => items.iter().map(Tree::to_value).collect(),
            Item::Map(entries) => {
                let members: Map<_, _> = entries
                    .iter()
                    .map(|(key, tree)| (key.text.clone(), tree.to_value()))
                    .collect();
                Value::Object(members)
            }
        }
    }

    /// Returns a value as a tree, all of it at one place.
    pub fn from_value(value: &Value, at: &At) -> Tree {
        let item = match value {
            Value::String(text) => Item::Text(text.clone()),
            Value::Array(items) => Item::List(items.iter().map(|item| Tree::from_value(item, at)).collect()),
            Value::Object(members) => {
                let entry = |(name, member): (&String, &Value)| {
                    (
                        Key {
                            text: name.clone(),
                            at: at.clone(),
                        },
                        Tree::from_value(member, at),
                    )
                };
                Item::Map(members.iter().map(entry).collect())
            }
            plain => Item::Plain(plain.clone()),
        };
        Tree { item, at: at.clone() }
    }

    /// Returns the value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        match &self.item {
            Item::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, tree)| tree),
            _ => None,
        }
    }

    /// Returns the string, if this is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.item {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Tells whether lists and mappings are nested more than `levels` deep in it.
    pub(super) fn is_deeper_than(&self, levels: usize) -> bool {
        let inner = levels.checked_sub(1);
        let is_deep = |tree: &Tree| inner.is_none_or(|inner| tree.is_deeper_than(inner));
        match &self.item {
            Item::Plain(_) | Item::Text(_) => false,
            Item::List(items) => inner.is_none() || items.iter().any(is_deep),
            Item::Map(entries) => inner.is_none() || entries.iter().any(|(_, tree)| is_deep(tree)),
        }
    }

    /// Tells whether nothing was written here.
    pub fn is_null(&self) -> bool {
        matches!(self.item, Item::Plain(Value::Null))
    }

    /// Returns what this is, for a message: "the number `1`", "a list".
    pub fn described(&self) -> String {
        match &self.item {
            Item::Plain(Value::Null) => "nothing".to_owned(),
            Item::Plain(Value::Bool(value)) => format!("the boolean `{value}`"),
            Item::Plain(value) => format!("the number `{value}`"),
            Item::Text(text) if text.chars().count() > 60 => {
                format!("the string `{}...`", text.chars().take(60).collect::<String>())
            }
            Item::Text(text) => format!("the string `{text}`"),
            Item::List(_) => "a list".to_owned(),
            Item::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Tells whether two values are equal, whichever way their numbers are written.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}

/// Reads a whole text; `None` if it is not YAML at all. Mistakes go to `out`.
pub fn parse(whole: &At, out: &mut Vec<Mistake>) -> Option<Tree> {
    let text = &whole.source_text()[whole.bytes()];
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        offsets: Offsets::new(text),
        whole,
        out,
    };
    match reader.document() {
        Ok(tree) => Some(tree),
        Err(error) => {
            let at = reader
                .offsets
                .to_bytes(error.marker().index()..error.marker().index() + 1);
            let at = whole.part(whole.bytes().start + at.start..whole.bytes().start + at.end);
            out.push(traps::broken(&error, &at));
            None
        }
    }
}

/// Turns positions in characters, as the parser counts, into bytes.
struct Offsets(Option<Vec<usize>>);

impl Offsets {
    fn new(text: &str) -> Offsets {
        let starts = || text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
        Offsets((!text.is_ascii()).then(starts))
    }

    fn to_bytes(&self, chars: Range<usize>) -> Range<usize> {
        let Some(starts) = &self.0 else { return chars };
        let byte = |idx: usize| starts.get(idx).or(starts.last()).copied().unwrap_or(idx);
        byte(chars.start)..byte(chars.end)
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    offsets: Offsets,
    whole: &'a At,
    out: &'a mut Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Tree, ScanError> {
        let mut root = None;
        while let Some((event, at)) = self.next()? {
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    self.out
                        .push(Mistake::new(&at, "a second document in one file").help("remove the line `---`"));
                    break;
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.tree(event, at, 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Tree {
            item: Item::Plain(Value::Null),
            at: self.whole.clone(),
        }))
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, At)>, ScanError> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, self.at(span)))),
            Some(Err(error)) => Err(error),
        }
    }

    fn at(&self, span: Span) -> At {
        let base = self.whole.bytes().start;
        let bytes = self.offsets.to_bytes(span.start.index()..span.end.index());
        let at = self.whole.part(base + bytes.start..base + bytes.end);
        // Block scalars and empty values end where the next token begins.
        let trimmed = at.text().trim_end().len();
        at.part(at.bytes().start..at.bytes().start + trimmed)
    }

    fn tree(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Tree, ScanError> {
        if depth > MAX_DEPTH {
            let info = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(ScanError::new(
                saphyr_parser::Marker::new(self.chars_before(&at), 0, 0),
                info,
            ));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &at);
                let item = self.scalar(&text, style, &at);
                Ok(Tree { item, at })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &at);
                self.list(at, depth)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(anchor, tag.is_some(), &at);
                self.map(at, depth)
            }
            _ => {
                let message = "aliases (`*name`) are not part of the language";
                self.out
                    .push(Mistake::new(&at, message).help("use `${params.name}` to say something once"));
                Ok(Tree {
                    item: Item::Plain(Value::Null),
                    at,
                })
            }
        }
    }

    fn chars_before(&self, at: &At) -> usize {
        at.source_text()[self.whole.bytes().start..at.bytes().start]
            .chars()
            .count()
    }

    fn refuse_extras(&mut self, anchor: usize, tag: bool, at: &At) {
        if anchor > 0 {
            let message = "anchors (`&name`) are not part of the language";
            self.out
                .push(Mistake::new(at, message).help("use `${params.name}` to say something once"));
        }
        if tag {
            let message = "tags (`!name`) are not part of the language";
            self.out
                .push(Mistake::new(at, message).help("remove the tag; put a string in quotes"));
        }
    }

    fn list(&mut self, start: At, depth: usize) -> Result<Tree, ScanError> {
        let mut items: Vec<Tree> = Vec::new();
        let mut end = start.clone();
        while let Some((event, at)) = self.next()? {
            if event == Event::SequenceEnd {
                end = at;
                break;
            }
            items.push(self.tree(event, at, depth + 1)?);
        }
        let at = extent(&start, items.last().map(|item| &item.at), &end);
        Ok(Tree {
            item: Item::List(items),
            at,
        })
    }

    fn map(&mut self, start: At, depth: usize) -> Result<Tree, ScanError> {
        let mut entries: Vec<(Key, Tree)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        let mut end = start.clone();
        while let Some((event, at)) = self.next()? {
            if event == Event::MappingEnd {
                end = at;
                break;
            }
            let key = self.key(event, at, depth)?;
            let Some((event, at)) = self.next()? else { break };
            let value = self.tree(event, at, depth + 1)?;
            let Some(mut key) = key else { continue };
            let mut value = value;
            if let Some((mistake, name, rest)) = lone_key(&key, &value) {
                self.out.push(mistake);
                value = Tree {
                    item: plain(&rest).unwrap_or(Item::Text(rest)),
                    at: key.at.clone(),
                };
                key.text = name;
            }
            if seen.insert(key.text.clone()) {
                entries.push((key, value));
            } else {
                let first = entries
                    .iter()
                    .find(|(k, _)| k.text == key.text)
                    .map_or(0, |(k, _)| k.at.line_column().0);
                let message = format!("duplicate key `{}`", key.text);
                self.out
                    .push(Mistake::new(&key.at, message).help(format!("it is already on line {first}")));
            }
        }
        let at = extent(&start, entries.last().map(|(_, value)| &value.at), &end);
        Ok(Tree {
            item: Item::Map(entries),
            at,
        })
    }

    fn key(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Option<Key>, ScanError> {
        let Event::Scalar(text, style, anchor, tag) = event else {
            // What was meant as a text with braces is read as a mapping that is a key.
            let tree = self.tree(event, at, depth + 1)?;
            let mistake = Mistake::new(&tree.at, "a key must be a plain name");
            self.out
                .push(mistake.help("put a text that begins with `{` or `[` in quotes"));
            return Ok(None);
        };
        self.refuse_extras(anchor, tag.is_some(), &at);
        if text == "<<" && style == ScalarStyle::Plain {
            let message = "merge keys (`<<`) are not part of the language";
            self.out
                .push(Mistake::new(&at, message).help("use `defaults`, `profiles` or `${params.name}`"));
            return Ok(None);
        }
        let mut text = text.into_owned();
        if style == ScalarStyle::Plain
            && let Some((mistake, meant)) = traps::misread_key(&text, &at)
        {
            self.out.push(mistake);
            text = meant;
        }
        Ok(Some(Key { text, at }))
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: &At) -> Item {
        if style != ScalarStyle::Plain {
            return Item::Text(text.to_owned());
        }
        plain_scalar(text, at, self.out)
    }
}

/// Returns the mistake that what looks like a key without a value was meant to have one, as in `{ count:3 }`, and the
/// key and the value that were meant.
fn lone_key(key: &Key, value: &Tree) -> Option<(Mistake, String, String)> {
    let is_written = matches!(value.at.text(), "null" | "Null" | "NULL" | "~");
    if !value.is_null() || is_written || key.at.text().starts_with(['"', '\'']) {
        return None;
    }
    let ((name, rest), message) = match traps::glued(&key.text) {
        Some(parts) => (parts, "a space is missing after the `:`"),
        None => (key.text.split_once('=')?, "a value follows after `: `, not after `=`"),
    };
    let (name, rest) = (name.trim().to_owned(), rest.trim().to_owned());
    let mistake = Mistake::new(&key.at, message).help(format!("write `{name}: {rest}`"));
    Some((mistake, name, rest))
}

/// Reads one scalar that is part of a larger text, at which it is told; what is no scalar is the text that it is.
///
/// `None` after telling `out` what is wrong with it.
pub(super) fn scalar(text: &str, at: &At, out: &mut Vec<Mistake>) -> Option<Tree> {
    let before = out.len();
    let item = match text.chars().next() {
        None => Item::Text(String::new()),
        Some('"' | '\'') => match parse(&At::whole(at.source_name(), text), &mut Vec::new()) {
            Some(Tree {
                item: Item::Text(text), ..
            }) => Item::Text(text),
            _ => {
                out.push(Mistake::new(at, format!("`{text}` is not a text in quotes")));
                return None;
            }
        },
        Some(_) => plain_scalar(text, at, out),
    };
    (out.len() == before).then(|| Tree { item, at: at.clone() })
}

fn plain_scalar(text: &str, at: &At, out: &mut Vec<Mistake>) -> Item {
    let mut text = text;
    let meant;
    if let Some((mistake, instead)) = traps::misread(text, at) {
        out.push(mistake);
        // Going on with what was meant keeps one slip one mistake.
        meant = instead;
        text = &meant;
    }
    match plain(text) {
        Ok(item) => item,
        Err(message) => {
            out.push(Mistake::new(at, message));
            Item::Plain(Value::Null)
        }
    }
}

/// Returns the place from the start of a collection to its end; block collections end with their last item.
fn extent(start: &At, last: Option<&At>, end: &At) -> At {
    match last {
        Some(last) if end.text().is_empty() => start.to(last),
        _ => start.to(end),
    }
}

/// Reads a plain scalar by the core schema of YAML 1.2.
fn plain(text: &str) -> Result<Item, String> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match number(text)? {
            Some(number) => Value::Number(number),
            None => return Ok(Item::Text(text.to_owned())),
        },
    };
    Ok(Item::Plain(value))
}

fn number(text: &str) -> Result<Option<Number>, String> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let too_large = || format!("the number `{text}` does not fit into 64 bits");
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("`{text}` is not a finite number"));
    }
    if let Some(digits) = text.strip_prefix("0x")
        && !digits.is_empty()
        && digits.chars().all(|c| c.is_ascii_hexdigit())
    {
        return u64::from_str_radix(digits, 16)
            .map(|n| Some(n.into()))
            .map_err(|_| too_large());
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !unsigned.is_empty() && digits(unsigned) {
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Some(number.into()));
        }
        return text.parse::<u64>().map(|n| Some(n.into())).map_err(|_| too_large());
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good_mantissa = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    if !good_mantissa || exponent.is_some_and(|e| e.is_empty() || !digits(e)) {
        return Ok(None);
    }
    let float = text.parse::<f64>().ok().and_then(Number::from_f64);
    float
        .map(Some)
        .ok_or_else(|| format!("the number `{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Option<Value>, Vec<String>) {
        let mut out = Vec::new();
        let tree = parse(&At::whole("p", text), &mut out);
        let line = |m: &Mistake| {
            format!(
                "{}: {}",
                m.at.as_ref().map(At::to_string).unwrap_or_default(),
                m.message
            )
        };
        (tree.map(|tree| tree.to_value()), out.iter().map(line).collect())
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let text = "[1, -2, 0x1f, 1e-4, 1.5, .5, 2., true, ~, null, \"1\", 'yes', 1.2.3, 1e, a: b]";
        let expected = json!([1, -2, 31, 1e-4, 1.5, 0.5, 2.0, true, null, null, "1", "yes", "1.2.3", "1e", {"a": "b"}]);
        assert_eq!(read(text), (Some(expected), vec![]));
        assert_eq!(read(""), (Some(Value::Null), vec![]));
        assert_eq!(read("a: 18446744073709551615").0, Some(json!({"a": u64::MAX})));
    }

    #[test]
    fn what_would_mislead_is_refused_where_it_stands() {
        for (text, message) in [
            ("a: 1\nb: 2\na: 3", "p:3:1: duplicate key `a`"),
            (
                "a: no",
                "p:1:4: `no` is a boolean to some readers of YAML and a string to others",
            ),
            (
                "a: 1_000",
                "p:1:4: `1_000` is a number to some readers of YAML and something else to others",
            ),
            ("{a:3}", "p:1:2: a space is missing after the `:`"),
            (
                "a:\u{a0}1: 2",
                "p:1:3: here is a non-breaking space (U+00A0), which YAML takes for a letter",
            ),
            ("a: &x 1", "p:1:7: anchors (`&name`) are not part of the language"),
            ("a: !!str 1", "p:1:10: tags (`!name`) are not part of the language"),
            ("<<: {a: 1}", "p:1:1: merge keys (`<<`) are not part of the language"),
            ("a: .nan", "p:1:4: `.nan` is not a finite number"),
            ("a: 1\n---\nb: 2", "p:2:1: a second document in one file"),
            (
                "a: 99999999999999999999",
                "p:1:4: the number `99999999999999999999` does not fit into 64 bits",
            ),
        ] {
            assert_eq!(read(text).1, [message], "{text}");
        }
        assert_eq!(read("a: &x 1\nb: *x").1.len(), 2);
    }

    #[test]
    fn broken_yaml_is_one_mistake_with_its_place() {
        for text in [
            "a: [1, 2",
            "a:\n\tb: 1",
            "a: \"x",
            "{ a: ${params.x} }",
            "a: b: c",
            "- a\nb: 1",
        ] {
            let (tree, mistakes) = read(text);
            assert!(tree.is_none() || !mistakes.is_empty(), "{text}: {mistakes:?}");
        }
        let mut out = Vec::new();
        assert!(parse(&At::whole("p", &"[".repeat(5000)), &mut out).is_none());
    }

    #[test]
    fn places_cover_what_was_written_also_after_other_alphabets() {
        let mut out = Vec::new();
        let whole = At::whole(
            "p",
            "ключ: значение # comment\nlist:\n  - a\n  - {b: c}\nlast: |\n  x\n  y\n",
        );
        let tree = parse(&whole, &mut out).expect("good YAML");
        let text = |key: &str| tree.get(key).map(|t| t.at.text().to_owned());
        assert_eq!(text("ключ").as_deref(), Some("значение"));
        assert_eq!(text("list").as_deref(), Some("- a\n  - {b: c}"));
    }

    #[test]
    fn depth_is_that_of_lists_and_mappings() {
        let tree = parse(&At::whole("p", "[a, {b: [1]}]"), &mut Vec::new()).expect("YAML");
        assert_eq!(
            [0, 1, 2, 3, 9].map(|levels| tree.is_deeper_than(levels)),
            [true, true, true, false, false]
        );
    }

    #[test]
    fn a_place_after_a_wide_space_is_told_and_no_panic() {
        assert!(!read("{\\1.\u{e9}\u{a0}'*$_[_{88`").1.is_empty());
        assert!(!read("a: {b: \u{2003}c[1}").1.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a:\\-\\[\\]{}&*!|>'\"#%@,? \n\t\r\u{e9}\u{a0}\u{201c}0-9.$_=\\\\`]{0,60}") {
            read(&text);
        }
    }
}
