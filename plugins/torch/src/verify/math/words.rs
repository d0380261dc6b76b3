//! Small whole numbers in words: `four`, `twenty-one`, `two hundred thousand`.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];

const TENS: [&str; 8] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];

/// Reads lower-case words, of which a hyphen is one as well; `None` if they are more, or less, than a number.
pub(super) fn number(words: &[String]) -> Option<u64> {
    let (last, front) = words.split_last()?;
    let scale = match last.as_str() {
        "hundred" => 100,
        "thousand" => 1_000,
        "million" => 1_000_000,
        "billion" => 1_000_000_000,
        _ => 1,
    };
    if scale > 1 {
        return below_thousand(front)?.checked_mul(scale);
    }
    below_thousand(words)
}

fn below_thousand(words: &[String]) -> Option<u64> {
    match words {
        [first, hundred] if hundred == "hundred" => Some(100 * small(first)?),
        [first, hundred, rest @ ..] if hundred == "hundred" => {
            let rest = if rest[0] == "and" { &rest[1..] } else { rest };
            Some(100 * small(first)? + below_hundred(rest)?)
        }
        words => below_hundred(words),
    }
}

fn below_hundred(words: &[String]) -> Option<u64> {
    match words {
        [one] => small(one).or_else(|| tens(one)),
        [first, second] => Some(tens(first)? + small(second).filter(|unit| (1..10).contains(unit))?),
        [first, hyphen, second] if hyphen == "-" => {
            Some(tens(first)? + small(second).filter(|unit| (1..10).contains(unit))?)
        }
        _ => None,
    }
}

/// Ordinals that are more than a number's name and "th"; a second is a unit of time.
const ORDINALS: [&str; 5] = ["third", "fifth", "eighth", "ninth", "twelfth"];

/// Returns whether a lower-case word is a number below a hundred, or a part of a whole: `fifth`, `twentieth`.
pub(super) fn is_number_or_part(word: &str) -> bool {
    let is_number = |word: &str| small(word).is_some() || tens(word).is_some();
    let is_part = || {
        let name = word.strip_suffix("th")?;
        Some(is_number(name) || is_number(&format!("{}y", name.strip_suffix("ie")?)))
    };
    is_number(word) || ORDINALS.contains(&word) || is_part() == Some(true)
}

fn small(word: &str) -> Option<u64> {
    SMALL.iter().position(|name| *name == word).map(|value| value as u64)
}

fn tens(word: &str) -> Option<u64> {
    let place = TENS.iter().position(|name| *name == word)?;
    Some(10 * (place as u64 + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbers() {
        let value = |text: &str| number(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(value("zero"), Some(0));
        assert_eq!(value("nineteen"), Some(19));
        assert_eq!(value("twenty - one"), Some(21));
        assert_eq!(value("forty two"), Some(42));
        assert_eq!(value("two hundred"), Some(200));
        assert_eq!(value("two hundred and five"), Some(205));
        assert_eq!(value("three hundred thousand"), Some(300_000));
        assert_eq!(value("one million"), Some(1_000_000));
        for text in [
            "",
            "hundred",
            "one two",
            "twenty zero",
            "one two hundred",
            "lines",
            "hundred and",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
