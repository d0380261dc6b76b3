//! The last value that prose states, where nothing marks an answer.
//!
//! A number counts only where it stands alone. One that is part of more (`x + 14`, `\sqrt{14}`, `13 and 14`, `at least
//! 14`) is taken with all that belongs to it, or not at all: a part of an answer is another answer.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::compare::is_answer;
use super::extract::{formulas, regex, tail};
use super::units;

/// A value is looked for only in so many bytes at the end.
const MAX_LENGTH: usize = 2_000;

/// Returns the last formula or number of a text; where either is part of more, that.
pub(super) fn last_value(text: &str) -> Option<String> {
    let text = tail(text, MAX_LENGTH);
    let place = |part: &str| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.len()
    };
    let formula = formulas(text).into_iter().last().map(place);
    let number = numbers(text)
        .map(place)
        .filter(|number| !is_list_mark(text, number))
        .last();
    let found = match (formula, number) {
        (Some(formula), Some(number)) if number.end <= formula.end => formula,
        (formula, number) => number.or(formula)?,
    };
    let (before, after) = (&text[..found.start], &text[found.end..]);
    static NEXT_WORD: LazyLock<Regex> =
        LazyLock::new(|| regex(r"^(?:[\s})\]$*]|\\[,; )\]])*(?:\\text\s*\{\s*)?([A-Za-z]+)(-)?"));
    // 12 three-digit numbers are 12.
    let is_multiple = NEXT_WORD
        .captures(after)
        .is_some_and(|next| next.get(2).is_none() && units::is_multiple(&next[1]));
    if DENIED.is_match(before) || CHANGED.is_match(after) || is_multiple {
        return None;
    }
    if !joins_earlier(before, &text[found.clone()], after) && stands_alone(before, after) {
        return Some(text[found].to_owned());
    }
    let whole = whole_of(text, &found);
    is_answer(whole).then(|| whole.to_owned())
}

/// Returns whether a number counts the items of a list: `3. Then`.
fn is_list_mark(text: &str, number: &Range<usize>) -> bool {
    static MARK: LazyLock<Regex> = LazyLock::new(|| regex(r"^[.)]\s+[\w$\\*]"));
    let line = text[..number.start].rsplit('\n').next().unwrap_or_default();
    line.trim_matches([' ', '\t', '*', '#']).is_empty() && MARK.is_match(&text[number.end..])
}

/// Returns the numbers of a text, with what multiplies them.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        regex(concat!(
            r"(?:-?(?:\d{1,3}(?:,\d{3})+\b|\d{1,3}(?: \d{3})+\b|\d+)(?:\.\d+)?(?:/\d+)?|-?\.\d+)",
            r"(?:\s?\\?%|\s(?:percent|dozen|hundred|thousand|million|billion|trillion)\b)?",
        ))
    });
    NUMBER.find_iter(text).map(|found| found.as_str())
}

/// What before a value makes it another one, or none.
static DENIED: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"(?i)(?:\b(?:not|never|isn't|at least|at most|than|negative|minus|plus|times|over|modulo|mod|nearly|almost|twice",
        r"|(?:powers?|root|half|third|quarter|multiples?|factors?|instead) of|divisible by|step|case|part|equation|problem",
        r"|between \S+ and)|\d)[\s}]+[$\\(\[]*$",
    ))
});

/// What behind a value makes it another one.
static CHANGED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)^[\s})\]$\\]*(?:[+^_]|text\s*\{\s*(?:more|less|dozen|squared|cubed|hundred|thousand|million|billion|or|to)\b|(?:(?:more|less|fewer) than|squared|cubed|mod|modulo|or more|or less)\b)",
    )
});

/// Returns whether a value between these two texts is all of what is stated there.
fn stands_alone(before: &str, after: &str) -> bool {
    // Delimiters of formulas, bold type and signs of money belong to no expression; a bracket around the value neither.
    static BEFORE: LazyLock<Regex> = LazyLock::new(|| {
        regex(concat!(
            r"(?:^|\s|>>|[^<>!=]=|[^\d\s]:|\\approx|\\quad|\\,|\\ |≈|\*\*|\*|\x22|')",
            r"(?:\b[A-Z]{2})?(?:\\?[$€£]|\$\$|\\\(|\\\[|\*\*|\\text\{|[\s(\[~]){0,6}$",
        ))
    });
    static OPERATOR: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(?:[+\-*/^_<>≤≥≠×·÷{|]|[<>!]=|\d\s*:|\\(?:[a-zA-Z]+))\s*(?:\\?\$|\\\(|\()?\s*$"));
    static HARMLESS: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"(?:>>|\*\*|\\approx|\\quad|\\text\s*\{|(?:^|\n)\s*-|(?:^|\s)\*|[A-Za-z]{2}\s+-+\s)\s*(?:\\?\$|\\\()?\s*$",
        )
    });
    static AFTER: LazyLock<Regex> = LazyLock::new(|| {
        regex(concat!(
            r"^(?:[$*\x22'’)\]}°]|\\[)\],; !]|\\quad)*",
            r"(?:$|[.,;:!?]+(?:[\s$*\x22')\]\\<]|$)|</|\\(?:text|mathrm|mbox|textrm|circ|%)\b",
            r"|\s+(?:$|[^\s+*/^_=<>≤≥≠×·÷({|\\\-]|\\(?:text|mathrm|mbox|textrm)\b|-+\s*[A-Za-z]{2}|\([A-Za-z]))",
        ))
    });
    static VARIABLE: LazyLock<Regex> = LazyLock::new(|| regex(r"^\s+[b-zB-HJ-Z](?:[\s.,;^+*/=()\-]|$)"));
    BEFORE.is_match(before)
        && (!OPERATOR.is_match(before) || HARMLESS.is_match(before))
        && AFTER.is_match(after)
        && !VARIABLE.is_match(after)
}

/// Returns whether the value is the last of several: `13 and 14`, `13 to 14`, `12, 13, 14`, `x = 1, x = 2`.
fn joins_earlier(before: &str, value: &str, after: &str) -> bool {
    static JOINT: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"(?i)(\S*[\d$)\]}])(?:\s*(,)\s*|\s*,?\s*(?:\b(?:and|or|to)|&|\\text\s*\{\s*(?:and|or)\s*\})\s*)(?:\\?[$€£]|\\\(|\()*$",
        )
    });
    let Some(found) = JOINT.captures(before) else {
        return false;
    };
    if found.get(2).is_none() {
        return true;
    }
    // A comma may also be one between clauses: "if x = 3, y = 4", "in 2024, 5 people".
    let name = |text: &str| {
        text.split_once('=')
            .map(|(name, _)| name.trim_matches(['$', ' ']).to_owned())
    };
    let ends = !after.chars().any(char::is_alphabetic);
    let last = before.trim_end_matches(['$', ' ', ',', '(', '\\']);
    let earlier = last.rsplit(['$', ',', '.', '\n']).next().unwrap_or(last);
    ends && name(earlier) == name(value)
}

/// Returns the longest stretch around a place that has no words in it but "and" and "or".
fn whole_of<'a>(text: &'a str, place: &Range<usize>) -> &'a str {
    let is_joint = |word: &str| matches!(word, "and" | "or" | "to");
    let is_prose = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let letters = !word.contains('\\') && !bare.is_empty() && bare.chars().all(char::is_alphabetic);
        letters && !word.ends_with('}') && !is_joint(bare) && (bare.len() > 1 || matches!(bare, "a" | "I"))
    };
    let ends_sentence = |word: &str| word.len() > 1 && word.ends_with(['.', '?', '!', ':']);
    let mut start = place.start;
    for word in text[..place.start].split_inclusive(char::is_whitespace).rev() {
        let bare = word.trim();
        let newline = word.ends_with('\n');
        let attached = start == place.start && !word.ends_with(char::is_whitespace);
        if newline || is_prose(bare) || (ends_sentence(bare) && !attached) {
            break;
        }
        start -= word.len();
    }
    let mut end = place.end;
    for word in text[place.end..].split_inclusive(char::is_whitespace) {
        let bare = word.trim();
        if is_prose(bare) {
            break;
        }
        end += word.len();
        if word.ends_with('\n') || ends_sentence(bare) {
            break;
        }
    }
    let whole = text[start..end].trim();
    let whole = whole
        .strip_prefix("and ")
        .or(whole.strip_prefix("or "))
        .unwrap_or(whole);
    let whole = whole
        .strip_suffix(" and")
        .or(whole.strip_suffix(" or"))
        .unwrap_or(whole);
    whole.trim_end_matches(['.', '!', '?', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_stands_alone_is_the_value() {
        for (text, value) in [
            ("She has 12 apples.", "12"),
            ("He pays $5 and she pays 12 more or so: $17!", "17"),
            ("48+24=72", "72"),
            ("a total of 2*7=<<2*7=14>>14 eggs", "14"),
            ("- the total: **14**", "14"),
            ("It costs \\$14.50 in all", "14.50"),
            ("That makes 1,234 (rounded).", "1,234"),
            ("In 2024, 5 people came", "5"),
            ("It is 14 - as we said", "14"),
            ("14 eggs\n2. Then we stop", "14"),
            ("so 3 million people", "3 million"),
            ("Hence $x = 4$.", "x = 4"),
            ("There are 12 three-digit numbers.", "12"),
        ] {
            assert_eq!(last_value(text).as_deref(), Some(value), "{text}");
        }
    }

    #[test]
    fn a_number_that_is_part_of_more_is_taken_with_it() {
        for (text, value) in [
            ("I got x + 14", "x + 14"),
            ("I got 14 - x", "14 - x"),
            ("the ratio is 3 : 14", "3 : 14"),
            ("the ratio is 3 to 14.", "3 to 14"),
            ("so the total is 14x.", "14x"),
            ("the length is 2\\sqrt{14}.", "2\\sqrt{14}"),
            ("The probability is \\frac{3}{4}.", "\\frac{3}{4}"),
            ("The numbers are 13 and 14", "13 and 14"),
            ("The numbers are 12, 13, and 14.", "12, 13, and 14"),
            ("The point is (1,2).", "(1,2)"),
            ("The roots are $13$ and $14$", "$13$ and $14$"),
            ("We get $x=13$, $x=14$.", "$x=13$, $x=14$"),
        ] {
            assert_eq!(last_value(text).as_deref(), Some(value), "{text}");
        }
    }

    #[test]
    fn what_words_change_is_no_value() {
        for text in [
            "negative 14",
            "at least 14",
            "It is less than 14",
            "14 more than before",
            "5 \\text{ tenths}",
            "It is 6 tens",
            "They made $2$ lakh",
            "7 mod 10",
            "the square root of 14",
            "See equation (14)",
            "not 14",
            "nothing",
        ] {
            assert_eq!(last_value(text), None, "{text}");
        }
        // A number that is cut at the bound would be another one.
        assert_eq!(last_value(&"7".repeat(3_000)), None);
        assert_eq!(last_value(&format!("{} 7", "eggs ".repeat(900))).as_deref(), Some("7"));
    }
}
