//! Finding the answer that a text states.
//!
//! In this order: the last box, `#### answer`, "answer is", and only then the last formula or number. Text inside
//! `<think>` is thought, not answer. Knows nothing of what the answer means.

use std::sync::LazyLock;

use regex::Regex;

use super::compare::is_answer;
use super::prose;

/// An answer without a box is looked for only in so many bytes at the end.
const MAX_LENGTH: usize = 200_000;

/// Boxes that can be one list.
const MAX_JOINED: usize = 200;

/// Commands that frame a final answer.
const BOXES: [&str; 2] = ["\\boxed", "\\fbox"];

pub(super) fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the built-in pattern is a regular expression")
}

/// Returns the answer that a text states; of several the last.
pub fn extract(text: &str) -> Option<String> {
    let text = without_thought(text)?;
    if BOXES.iter().any(|name| text.contains(name)) {
        return last_box(&text);
    }
    let text = tail(&text, MAX_LENGTH);
    let whole = text.trim();
    if is_answer(whole) && !is_prose_with_formulas(whole) && !SAYS.is_match(whole) {
        return Some(whole.to_owned());
    }
    marked(text)
        .or_else(|| spoken(text))
        .or_else(|| chosen(text))
        .or_else(|| last_price(text))
        .or_else(|| prose::last_value(text))
        .filter(|answer| !answer.is_empty())
}

/// Returns the answer that a text declares, by a box, `####` or "answer is"; the last value of prose is none.
pub(super) fn declared(text: &str) -> Option<String> {
    let text = without_thought(text)?;
    first_box(&text).or_else(|| {
        let text = tail(&text, MAX_LENGTH);
        marked(text)
            .or_else(|| spoken(text))
            .filter(|answer| !answer.is_empty())
    })
}

/// Returns the end of a text, from white space on, in at most so many bytes.
pub(super) fn tail(text: &str, max_length: usize) -> &str {
    let Some(mut start) = text.len().checked_sub(max_length).filter(|start| *start > 0) else {
        return text;
    };
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let rest = &text[start..];
    rest.find(char::is_whitespace).map_or("", |space| &rest[space..])
}

/// Returns whether there are words around formulas, other than those that join a list.
fn is_prose_with_formulas(text: &str) -> bool {
    static BETWEEN: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)^(?:and|or|[\s,;.:$\\()\[\]])*$"));
    let rest = FORMULA.replace_all(text, " ");
    rest.len() < text.len() && rest != text && !BETWEEN.is_match(&rest)
}

/// Returns a reference answer without the text around it, of which a data set may have some.
pub(super) fn reference_answer(text: &str) -> String {
    if BOXES.iter().any(|name| text.contains(name)) {
        return last_box(text).unwrap_or_default();
    }
    text.to_owned()
}

/// Returns the content of the first box.
pub(super) fn first_box(text: &str) -> Option<String> {
    boxes(text)
        .into_iter()
        .flatten()
        .next()
        .map(|found| found.content.to_owned())
}

/// Returns where the last box ends, unless it is never closed.
pub fn end_of_last_box(text: &str) -> Option<usize> {
    boxes(text).into_iter().flatten().last().map(|found| found.end)
}

/// Removes `<think>` parts; `None` if the text never stops thinking.
pub fn without_thought(text: &str) -> Option<String> {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, thought)) = rest.split_once("<think>") {
        kept.push_str(before);
        rest = thought.split_once("</think>")?.1;
    }
    // A chat template may have opened the thought.
    kept.push_str(rest.rsplit_once("</think>").map_or(rest, |(_, after)| after));
    Some(kept)
}

struct Framed<'a> {
    start: usize,
    end: usize,
    content: &'a str,
}

/// Returns the outermost boxes in order; the last is `None` where the text ends inside it.
fn boxes(text: &str) -> Vec<Option<Framed<'_>>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find('\\').map(|start| start + from) {
        let Some(name) = BOXES.iter().find(|name| text[start..].starts_with(**name)) else {
            from = start + 1;
            continue;
        };
        let after = start + name.len();
        let rest = &text[after..];
        let open = after + (rest.len() - rest.trim_start().len());
        let (content, end) = if text[open..].starts_with('{') {
            let Some(close) = matching_brace(&text[open..]) else {
                found.push(None);
                return found;
            };
            (&text[open + 1..open + close], open + close + 1)
        } else {
            // `\boxed 5`: one token.
            let len = text[open..]
                .find(|c: char| c.is_whitespace() || "$\\.,".contains(c))
                .unwrap_or(text.len() - open);
            (&text[open..open + len], open + len)
        };
        found.push(Some(Framed {
            start,
            end,
            content: content.trim(),
        }));
        from = end;
    }
    found
}

/// Returns the place of the brace that closes the one at the beginning.
fn matching_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the last box, with those before it that commas or short words join to it: they are one list.
fn last_box(text: &str) -> Option<String> {
    let found: Option<Vec<Framed>> = boxes(text).into_iter().collect();
    let found = found?;
    let last = found.len().checked_sub(1)?;
    let mut first = last;
    while first > 0 && last - first < MAX_JOINED && joins(&text[found[first - 1].end..found[first].start]) {
        first -= 1;
    }
    let mut contents: Vec<&str> = Vec::new();
    for framed in &found[first..] {
        if !contents.contains(&framed.content) {
            contents.push(framed.content);
        }
    }
    Some(contents.join(", ")).filter(|answer| !answer.is_empty())
}

/// Returns whether what stands between two boxes makes a list of them: commas, plus signs, or a few words with "and".
fn joins(between: &str) -> bool {
    static LOOKS: LazyLock<Regex> =
        LazyLock::new(|| regex(r"\\(?:text|textbf|mbox|mathrm)\s*\{([^{}]*)\}|\\q?quad\b|\\[,;:! ()\[\]]|\$|\*\*"));
    static LIST: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"^(?i)(?:[\s,;&+]+|[\s,;&]*(?:[a-z]+[\s,;&]+){0,2}(?:and|or)(?:[\s,;&]+[a-z]+)?[\s,;&]*)(?:[a-z](?:_\{?\w\}?)?\s*=\s*)?$",
        )
    });
    static LINES: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s*\n\s*$"));
    static TURN: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(?i)\b(?:not|no|but|so|wait|wrong|then|thus|hence|instead|check)\b"));
    let plain = LOOKS.replace_all(between, " $1 ");
    LIST.is_match(&plain) && !LINES.is_match(&plain) && !TURN.is_match(&plain)
}

/// Returns what follows the last `####` in its line.
fn marked(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once("####")?;
    rest.lines().next().map(|line| line.trim().to_owned())
}

static SAYS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?i)\b(?:answer|option|choice)\s*(?:\\?[*_]*)?(?:is|:|=)[\s:*]*"));

/// Returns what follows the last "answer is" or "answer:" in its sentence.
fn spoken(text: &str) -> Option<String> {
    static END: LazyLock<Regex> = LazyLock::new(|| regex(r"\n|[.!?](?:\s|\*|$)"));
    let says = SAYS.find_iter(text).last()?;
    let rest = &text[says.end()..];
    // `\!` is a small space.
    let end = END.find_iter(rest).find(|end| !rest[..end.start()].ends_with('\\'));
    let sentence = end
        .map_or(rest, |end| &rest[..end.start()])
        .trim()
        .trim_matches('*')
        .trim();
    if is_answer(sentence) || sentence.split_whitespace().count() <= 1 {
        return Some(sentence.to_owned());
    }
    let denied = sentence
        .split(|c: char| !c.is_alphabetic())
        .any(|word| matches!(word, "not" | "no" | "or" | "never"));
    let formulas: Vec<&str> = formulas(sentence);
    match (denied, formulas.as_slice()) {
        (true, _) => Some(sentence.to_owned()),
        (false, [_]) => prose::last_value(sentence).or_else(|| Some(sentence.to_owned())),
        (false, []) if prose::numbers(sentence).count() == 1 => {
            prose::last_value(sentence).or_else(|| Some(sentence.to_owned()))
        }
        _ => Some(sentence.to_owned()),
    }
}

static FORMULA: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?s)\$\$(.+?)\$\$|\$([^$]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"));

/// Returns the contents of `$...$`, `\(...\)` and `\[...\]`.
pub(super) fn formulas(text: &str) -> Vec<&str> {
    let content = |found: regex::Captures<'_>| {
        let range = (1..=4).find_map(|group| found.get(group))?.range();
        Some(text[range].trim())
    };
    FORMULA.captures_iter(text).filter_map(content).collect()
}

/// Returns the letter of the last "option C" or "choice (C)", unless it is denied.
fn chosen(text: &str) -> Option<String> {
    static CHOICE: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(\bnot\s+)?\b(?i:option|choice)\s+[*$]*(?:\\text\w*\{)?\(?([A-J])\b"));
    let found = CHOICE.captures_iter(text).last()?;
    found.get(1).is_none().then(|| found[2].to_owned())
}

/// Returns an amount of money that the text ends with and that has a decimal comma, as in `2,74 $`.
fn last_price(text: &str) -> Option<String> {
    const MAX_PRICE_LENGTH: usize = 300;
    static PRICE: LazyLock<Regex> = LazyLock::new(|| regex(r"(\d+),(\d\d)\s?\\?[$€][^\d]*$"));
    let found = PRICE.captures(tail(text, MAX_PRICE_LENGTH))?;
    Some(format!("{}.{}", &found[1], &found[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<String> {
        extract(text)
    }

    #[test]
    fn the_last_box_counts() {
        assert_eq!(
            answer("\\boxed{4} no: \\boxed{\\frac{1}{2}}.").as_deref(),
            Some("\\frac{1}{2}")
        );
        assert_eq!(answer("$\\boxed{1}$ and $\\boxed{2}$").as_deref(), Some("1, 2"));
        assert_eq!(answer("\\boxed 5 ").as_deref(), Some("5"));
        assert_eq!(answer("so 3 \\boxed{4"), None, "a box that is never closed");
        assert_eq!(answer("the answer is 3, in a box: \\boxed{}"), None, "an empty box");
    }

    #[test]
    fn without_a_box_the_marks_and_words_of_the_sets_count() {
        assert_eq!(answer("3 + 4 = 7\n#### 1,234").as_deref(), Some("1,234"));
        assert_eq!(
            answer("So the answer is 18 dollars. Good.").as_deref(),
            Some("18 dollars")
        );
        assert_eq!(answer("**Final answer: 3.5**").as_deref(), Some("3.5"));
        assert_eq!(answer("The answer is that she has 7 eggs").as_deref(), Some("7"));
        assert_eq!(answer("The answer is not 7").as_deref(), Some("not 7"));
        assert_eq!(answer("He pays $5 and then 12 more.").as_deref(), Some("12"));
        assert_eq!(answer("Hence $x = 4$.").as_deref(), Some("x = 4"));
        assert_eq!(answer("Thus option (C) is right").as_deref(), Some("C"));
        assert_eq!(answer("It is not option C"), None);
        assert_eq!(answer("nothing"), None);
    }

    #[test]
    fn thought_is_not_an_answer() {
        assert_eq!(answer("<think>\\boxed{1}</think> \\boxed{2}").as_deref(), Some("2"));
        assert_eq!(answer("<think>\\boxed{1}"), None);
        assert_eq!(answer("thought 1 </think> 2").as_deref(), Some("2"));
    }
}
