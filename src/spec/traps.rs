//! YAML's traps: from what a parser says to what was probably meant, and spellings that readers of YAML don't agree on.
//!
//! A parser reports where it could not go on, which is often far from the slip: a bracket that was never closed, a value
//! that needed quotes. Everything here looks at the text itself. It decides nothing about good YAML but which plain
//! scalars and keys are refused because someone would be misled.

use saphyr_parser::ScanError;

use super::mistake::{At, Mistake};

/// Turns the parser's error at a place into a mistake at the place where it was made.
pub(super) fn broken(error: &ScanError, at: &At) -> Mistake {
    let source = at.source_text();
    // At the end of a text there is nothing to show; what is wrong is on the last line that has anything.
    let pos = at.bytes().start.min(source.trim_end().len());
    let line = Line::around(source, pos);
    let info = error.info();
    let here = |start: usize, end: usize, message: String| Mistake::new(&at.part(start..end), message);
    let next = source[pos..].chars().next().unwrap_or(' ');
    let after = (pos + next.len_utf8()).min(source.len());

    if line.indent().contains('\t') {
        let start = line.start + line.indent().find('\t').unwrap_or(0);
        return here(start, start + 1, "a tab in the indentation".to_owned())
            .help("indent with spaces; YAML does not allow tabs");
    }
    if let Some(mistake) = unquoted_reference(at, &line, pos) {
        return mistake;
    }
    let state = State::at(source, pos);
    let quote = state.quote.or((next == '"' || next == '\'').then_some(pos));
    if let Some(quote) = quote.filter(|_| info.contains("quoted scalar") && !info.contains("trailing")) {
        if info.contains("escape") {
            let message = "a `\\` in a text in double quotes begins an escape, and this text has one that is none";
            return here(quote, line.end(), message.to_owned())
                .help("write `\\\\` for a backslash, or put the text in single quotes");
        }
        return here(quote, quote + 1, "the text that begins here is never closed".to_owned())
            .help(format!("add a `{}` at its end", &source[quote..quote + 1]));
    }
    let is_end = pos == source.trim_end().len();
    if let Some(&(bracket, open)) = state.open.iter().rev().find(|(_, open)| is_end || *open < line.start) {
        let mistake = here(
            open,
            open + 1,
            format!("the `{bracket}` that begins here is never closed"),
        );
        let noticed = source[..pos].matches('\n').count() + 1;
        return match is_end {
            true => mistake.help(format!("add a `{}`", closing(bracket))),
            false => mistake.help(format!("add a `{}` before line {noticed}", closing(bracket))),
        };
    }
    if matches!(next, ']' | '}') {
        return here(
            pos,
            after,
            format!("a `{next}` too many, or the one that it closes is of the other kind"),
        );
    }
    if info.contains("trailing content") {
        return here(pos, after, "there is text after the closing quote".to_owned())
            .help("put the whole value in quotes of the other kind, or write it as a block after `|`");
    }
    if info.contains("alias") || matches!(next, '@' | '`' | '%') {
        let start = source[..after]
            .rfind(['*', '&', '@', '`', '%'])
            .unwrap_or(pos)
            .max(line.start);
        let c = source[start..].chars().next().unwrap_or(next);
        let message = format!("a text can't begin with `{c}` without quotes");
        let mistake = here(start, start + c.len_utf8(), message);
        return match c {
            '*' => mistake.help("write `\"*\"`"),
            _ => mistake.help("put the whole text in quotes"),
        };
    }
    if let Some(mistake) = colon(at, &line, pos, info, state.open.is_empty()) {
        return mistake;
    }
    if !state.open.is_empty()
        && let Some(bracket) = source[..after].chars().rev().take(2).find(|c| matches!(c, '[' | '{'))
    {
        let is_edge = |c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}');
        let start = source[..pos]
            .trim_end_matches(bracket)
            .rfind(is_edge)
            .map_or(pos, |edge| {
                edge + source[edge..].chars().next().map_or(0, char::len_utf8)
            });
        let end = source[after..].find(is_edge).map_or(line.end(), |edge| after + edge);
        let mistake = here(
            start,
            end,
            format!("a text with `{bracket}` in it must be in quotes here"),
        );
        return match bracket {
            '[' => mistake.help(format!("write `\"{}\"`", &source[start..end])),
            _ => mistake.help("put the whole value in quotes"),
        };
    }
    if info.contains("simple key") || info.contains("expected key") {
        let lost = Line::around(source, source[..after].trim_end().len());
        let message = match info.contains("simple key") {
            true => "this line is neither `key: value` nor part of the text above it",
            false => "the indentation of this line matches no line above it",
        };
        return here(lost.first(), lost.end(), message.to_owned()).help("indent it like the line that it belongs to");
    }
    let mistake = here(pos, after, format!("broken YAML: {info}"));
    match info.contains("flow") {
        true => mistake.help("is a `,` missing before this?"),
        false => mistake,
    }
}

/// A `${...}` without quotes where braces mean a mapping.
fn unquoted_reference(at: &At, line: &Line<'_>, pos: usize) -> Option<Mistake> {
    let before = (pos + 1).min(line.start + line.text.len());
    let start = line.start + line.text.get(..before - line.start)?.rfind("${")?;
    let prefix = line.text.get(..start - line.start)?;
    if prefix.matches('"').count() % 2 == 1 || prefix.matches('\'').count() % 2 == 1 {
        return None;
    }
    let inside = &line.text[start - line.start..];
    let len = inside.find('}').map_or(inside.len(), |end| end + 1);
    let reference = &inside[..len];
    let mistake = Mistake::new(
        &at.part(start..start + len),
        format!("`{reference}` must be in quotes here"),
    );
    Some(mistake.help(format!("write `\"{reference}\"`, with all of the text around it")))
}

/// A `: ` in a value, a `:` without a space after it, or a key below a value.
fn colon(at: &At, line: &Line<'_>, pos: usize, info: &str, is_block: bool) -> Option<Mistake> {
    let is_colon = at.source_text()[pos..].starts_with(':');
    if !is_colon || !(info.contains("mapping values") || info.contains("flow")) {
        return None;
    }
    if !is_block {
        let mistake = Mistake::new(&at.part(pos..pos + 1), "a `: ` in the middle of a value");
        return Some(mistake.help("is a `,` missing before this key? a text with `: ` in it must be in quotes"));
    }
    let written = line.text[..pos - line.start].trim_start();
    if written.contains(": ") {
        let value = line.first() + written.find(": ").map_or(0, |idx| idx + 2);
        let mistake = Mistake::new(&at.part(value..line.end()), "a value with `: ` in it must be in quotes");
        let text = at.part(value..line.end());
        return Some(mistake.help(format!("write `\"{}\"`", text.text())));
    }
    let above = Line::above(at.source_text(), line.start)?;
    if let Some((key, value)) = glued(above.text.trim()) {
        let mistake = Mistake::new(&at.part(above.first()..above.end()), "a space is missing after the `:`");
        return Some(mistake.help(format!("write `{key}: {value}`")));
    }
    let message = "this line is indented like a part of the value above it";
    let mistake = Mistake::new(&at.part(line.first()..line.end()), message);
    let key = above.text.trim().split(':').next().unwrap_or_default();
    Some(mistake.help(format!("indent it like `{key}`, or take the value of `{key}` away")))
}

/// Returns key and value of `key:value`.
pub(super) fn glued(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let is_value = !value.is_empty() && !value.starts_with([' ', '/', ':', '\u{a0}']);
    (is_word(key) && is_value).then_some((key, value))
}

fn closing(bracket: char) -> char {
    if bracket == '[' { ']' } else { '}' }
}

/// A line of a text.
struct Line<'a> {
    /// Where it begins.
    start: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn around(source: &'a str, pos: usize) -> Line<'a> {
        let start = source[..pos].rfind('\n').map_or(0, |newline| newline + 1);
        let text = source[start..].lines().next().unwrap_or_default();
        Line { start, text }
    }

    /// Returns the nearest line above that has anything on it.
    fn above(source: &'a str, start: usize) -> Option<Line<'a>> {
        let end = source[..start].trim_end().len();
        (end > 0).then(|| Line::around(source, end))
    }

    fn indent(&self) -> &'a str {
        &self.text[..self.text.len() - self.text.trim_start().len()]
    }

    /// Returns where its text begins.
    fn first(&self) -> usize {
        self.start + self.indent().len()
    }

    /// Returns where its text ends.
    fn end(&self) -> usize {
        self.start + self.text.trim_end().len()
    }
}

/// What is open at a place: brackets, outermost first, and a quote.
#[derive(Default)]
struct State {
    open: Vec<(char, usize)>,
    quote: Option<usize>,
}

impl State {
    /// Reads a text up to a place as YAML does, as far as brackets and quotes matter.
    fn at(source: &str, pos: usize) -> State {
        let mut state = State::default();
        let mut is_token_start = true;
        // The indentation of the key whose block text is being skipped.
        let mut block: Option<usize> = None;
        let mut start = 0;
        for line in source[..pos].split_inclusive('\n') {
            let indent = line.len() - line.trim_start().len();
            let is_blank = line.trim().is_empty();
            if block.is_some_and(|outer| is_blank || indent > outer) {
                start += line.len();
                continue;
            }
            block = None;
            let mut previous = ' ';
            let mut is_comment = false;
            let mut is_escaped = false;
            for (idx, c) in line.char_indices() {
                let here = start + idx;
                if let Some(quote) = state.quote {
                    let mark = source[quote..].chars().next();
                    if !is_escaped && Some(c) == mark {
                        state.quote = None;
                        is_token_start = false;
                    }
                    is_escaped = c == '\\' && mark == Some('"') && !is_escaped;
                } else if !is_comment {
                    match c {
                        '#' if previous.is_whitespace() => is_comment = true,
                        '"' | '\'' if is_token_start => state.quote = Some(here),
                        '[' | '{' if is_token_start => state.open.push((c, here)),
                        ']' | '}' if !state.open.is_empty() => {
                            state.open.pop();
                            is_token_start = false;
                        }
                        ',' if !state.open.is_empty() => is_token_start = true,
                        '|' | '>' if is_token_start && state.open.is_empty() => block = Some(indent),
                        c if c.is_whitespace() => {
                            is_token_start |= matches!(previous, ':' | '-' | '\n');
                        }
                        _ => is_token_start = false,
                    }
                }
                previous = c;
            }
            if state.quote.is_none() {
                is_token_start = true;
            }
            start += line.len();
        }
        state
    }
}

/// Returns what is wrong with a plain scalar that other readers of YAML would take for something else, if anything, and
/// what was probably meant.
pub(super) fn misread(text: &str, at: &At) -> Option<(Mistake, String)> {
    let quoted = || format!("\"{text}\"");
    if let Some(boolean) = old_boolean(text) {
        let message = format!("`{text}` is a boolean to some readers of YAML and a string to others");
        let help = format!("write `{boolean}` for the boolean, `{}` for the string", quoted());
        return Some((Mistake::new(at, message).help(help), boolean.to_string()));
    }
    if let Some(number) = old_number(text) {
        let message = format!("`{text}` is a number to some readers of YAML and something else to others");
        let help = format!("write `{number}` for the number, `{}` for the string", quoted());
        return Some((Mistake::new(at, message).help(help), number));
    }
    if text.is_ascii() {
        return None;
    }
    let first = text.chars().next()?;
    if "“”„‘’«".contains(first) {
        let message = format!("`{first}` is no quote to YAML but a part of the text");
        let mistake = Mistake::new(&at.find(&first.to_string()), message);
        let meant = text.trim_matches(['“', '”', '„', '‘', '’', '«', '»']).to_owned();
        return Some((mistake.help("use the straight quotes `\"` or `'`"), meant));
    }
    let (_, odd) = text.char_indices().find(|(idx, c)| {
        is_odd_space(*c) && (*idx == 0 || idx + c.len_utf8() == text.len() || text[..*idx].ends_with(':'))
    })?;
    Some((odd_space(odd, at), text.trim_matches(is_odd_space).to_owned()))
}

/// Tells whether a text has a space in it that [`misread`] told about.
pub(super) fn has_odd_space(text: &str) -> bool {
    text.contains(is_odd_space)
}

/// Returns what is wrong with a key in which a space is no space, if anything, and what was probably meant.
pub(super) fn misread_key(text: &str, at: &At) -> Option<(Mistake, String)> {
    let odd = text.chars().find(|c| is_odd_space(*c))?;
    Some((odd_space(odd, at), text.replace(is_odd_space, " ").trim().to_owned()))
}

fn is_odd_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{2007}' | '\u{202f}' | '\u{200b}' | '\u{feff}' | '\u{3000}'
    )
}

fn odd_space(c: char, at: &At) -> Mistake {
    let name = match c {
        '\u{200b}' => "a space without width",
        '\u{feff}' => "a byte order mark",
        '\u{3000}' => "a wide space",
        _ => "a non-breaking space",
    };
    let message = format!("here is {name} (U+{:04X}), which YAML takes for a letter", u32::from(c));
    Mistake::new(&at.find(&c.to_string()), message).help("delete it, and type a plain space where one is needed")
}

/// Returns the boolean for which YAML 1.1 took a word.
fn old_boolean(text: &str) -> Option<bool> {
    let is_any = |words: [&str; 2]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match text {
        _ if is_any(["yes", "on"]) => Some(true),
        _ if is_any(["no", "off"]) => Some(false),
        _ => None,
    }
}

/// Returns the number that was meant by one that YAML 1.1 and 1.2 read differently: `1_000`, `017`, `0o17`, `1:30`.
fn old_number(text: &str) -> Option<String> {
    let (sign, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (&text[..1], rest),
        None => ("", text),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    for (prefix, radix) in [("0o", 8), ("0b", 2)] {
        if let Some(rest) = unsigned.strip_prefix(prefix) {
            return u64::from_str_radix(rest, radix)
                .ok()
                .map(|number| format!("{sign}{number}"));
        }
    }
    if digits(unsigned) && unsigned.len() > 1 && unsigned.starts_with('0') {
        let plain = unsigned.trim_start_matches('0');
        return Some(format!("{sign}{}", if plain.is_empty() { "0" } else { plain }));
    }
    if unsigned.contains('_') {
        let plain = unsigned.replace('_', "");
        return plain.parse::<f64>().is_ok().then(|| format!("{sign}{plain}"));
    }
    let parts: Vec<&str> = unsigned.split(':').collect();
    let is_time = parts.len() > 1
        && parts.iter().all(|part| digits(part))
        && parts[1..]
            .iter()
            .all(|part| part.len() <= 2 && part.parse::<u32>().is_ok_and(|n| n < 60));
    is_time.then(|| {
        let seconds = parts
            .iter()
            .try_fold(0u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?));
        format!("{sign}{}", seconds.unwrap_or_default())
    })
}
