//! Which words are units, and when two units are the same.

use super::words;

/// Words after a number that change it or say that it is one of several, and so are no units.
const NOT_UNITS: &[&str] = &[
    "half",
    "halves",
    "third",
    "thirds",
    "quarter",
    "quarters",
    "pi",
    "or",
    "and",
    "not",
    "plus",
    "minus",
    "times",
    "divided",
    "over",
    "factorial",
    "squared",
    "cubed",
    "choose",
    "mod",
    "modulo",
    "base",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "exp",
    "more",
    "less",
    "least",
    "most",
    "to",
    "by",
    "if",
    "when",
    "than",
    "approximately",
    "about",
    "percent",
    "alpha",
    "beta",
    "theta",
    "infty",
    "infinity",
    "but",
    "except",
    "is",
    "are",
    "no",
    "never",
    "solutions",
    "where",
    "for",
    "with",
    "integer",
    "all",
    "any",
    "th",
    "st",
    "nd",
    "rd",
    "between",
    "x",
    "y",
    "z",
    "n",
    "i",
    "the",
    "nth",
    "pair",
    "couple",
    "twice",
    "thrice",
    "fewer",
    "below",
    "above",
    "under",
    "negative",
    "remainder",
    "basis",
    "permille",
    "pct",
    "binary",
    "octal",
    "hex",
    "hexadecimal",
];

/// Words, without the plural's "s", that multiply the number before them wherever they stand.
const MULTIPLES: &[&str] = &[
    "dozen",
    "score",
    "gross",
    "lakh",
    "crore",
    "fold",
    "doubled",
    "tripled",
    "quadrupled",
    "halved",
    "recurring",
    "repeating",
];

/// Letters that multiply the number before them, `5K`. Kelvin and molar are lost with them: a doubt.
const SCALE_LETTERS: &[&str] = &["k", "K", "M", "B"];

/// Words that multiply the number before them.
const SCALES: &[(&str, u32)] = &[
    ("hundred", 2),
    ("thousand", 3),
    ("million", 6),
    ("billion", 9),
    ("trillion", 12),
];

/// Short words that are no products of variables.
const SHORT_WORDS: &[&str] = &[
    "and", "or", "an", "is", "to", "of", "if", "no", "yes", "not", "the", "odd", "day", "red", "by", "at", "for",
    "are", "all", "any", "one", "two", "six", "ten", "mod", "way", "men", "cat", "dog", "cup", "bag", "box", "pen",
    "car", "sq", "the", "as", "on", "sum", "sun", "mon", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "jan",
    "feb", "May", "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "No", "Yes", "Odd", "The", "True", "tie", "Tie",
    "Red", "And", "Or", "so", "So", "We", "It", "He", "She", "she", "has", "was", "Now", "now", "Let", "get", "our",
];

/// Units of few letters, which are units only behind a number.
const SHORT_UNITS: &[&str] = &[
    "m", "g", "s", "h", "l", "L", "V", "W", "N", "J", "A", "C", "F", "cm", "mm", "km", "dm", "nm", "ft", "in", "yd",
    "mi", "kg", "mg", "gm", "lb", "lbs", "oz", "ml", "mL", "hr", "hrs", "min", "sec", "ms", "mph", "kph", "am", "pm",
    "AM", "PM", "Hz", "kW", "Pa", "rad", "deg", "pts", "pt", "gal", "qt", "USD", "EUR", "GBP", "kmh", "mol", "cc",
];

/// Spellings of units, all after the plural's "s" is gone.
const SPELLINGS: &[(&str, &str)] = &[
    ("centimeter", "cm"),
    ("centimetre", "cm"),
    ("millimeter", "mm"),
    ("millimetre", "mm"),
    ("kilometer", "km"),
    ("kilometre", "km"),
    ("meter", "m"),
    ("metre", "m"),
    ("foot", "ft"),
    ("feet", "ft"),
    ("inch", "in"),
    ("inche", "in"),
    ("yard", "yd"),
    ("mile", "mi"),
    ("gram", "g"),
    ("gm", "g"),
    ("kilogram", "kg"),
    ("milligram", "mg"),
    ("pound", "lb"),
    ("ounce", "oz"),
    ("liter", "l"),
    ("litre", "l"),
    ("milliliter", "ml"),
    ("millilitre", "ml"),
    ("gallon", "gal"),
    ("hour", "h"),
    ("hr", "h"),
    ("minute", "min"),
    ("second", "s"),
    ("sec", "s"),
    ("dollar", "$"),
    ("usd", "$"),
    ("euro", "€"),
    ("eur", "€"),
    ("gbp", "£"),
    ("cent", "¢"),
    ("degree", "°"),
    ("deg", "°"),
    ("rad", "radian"),
    ("sq", "square"),
    ("cu", "cubic"),
    ("people", "person"),
    ("children", "child"),
];

/// Returns whether these two or three letters are a word and not a product.
pub(super) fn is_word(letters: &str) -> bool {
    SHORT_WORDS.contains(&letters)
}

/// Returns whether these letters are a unit behind a number.
pub(super) fn is_short(letters: &str) -> bool {
    SHORT_UNITS.contains(&letters)
}

/// Returns the power of ten that a word multiplies with.
pub(super) fn scale(word: &str) -> Option<u32> {
    let lower = word.to_ascii_lowercase();
    SCALES.iter().find(|(name, _)| *name == lower).map(|(_, power)| *power)
}

/// Returns one spelling of a unit given as words and marks (`/`, `^2`); `None` if they are more, or less, than that.
pub(super) fn canonical(parts: &[String]) -> Option<String> {
    if parts.is_empty() || parts.len() > 8 {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    let mut power = String::new();
    for part in parts {
        let lower = part.to_ascii_lowercase();
        let single = singular(&lower);
        // Ordered pairs are things that are counted; a pair of shoes is two.
        let counted = single == "pair"
            && parts
                .iter()
                .any(|part| matches!(part.as_str(), "ordered" | "unordered"));
        let no_unit = [lower.as_str(), single].iter().any(|word| NOT_UNITS.contains(word));
        if (no_unit && !counted) || is_multiple(part) {
            return None;
        }
        match lower.as_str() {
            "square" | "sq" => power = "^2".to_owned(),
            "cubic" | "cu" => power = "^3".to_owned(),
            "per" => names.push("/".to_owned()),
            "^2" | "^3" => {
                if !power.is_empty() && power != lower {
                    return None;
                }
                power = lower;
            }
            "mph" => names.extend(["mi", "/", "h"].map(str::to_owned)),
            "kph" | "kmh" => names.extend(["km", "/", "h"].map(str::to_owned)),
            "of" | "a" | "an" => {}
            _ => {
                let name = SPELLINGS.iter().find(|(spelled, _)| *spelled == single);
                names.push(name.map_or(single, |(_, short)| short).to_owned());
            }
        }
    }
    Some(names.join(" ") + &power)
}

fn singular(word: &str) -> &str {
    if word.len() > 2 {
        word.strip_suffix('s').unwrap_or(word)
    } else {
        word
    }
}

/// Returns whether a word behind a number makes it another number: 3 fifths, 6 tens, 2 score, 5K.
pub(super) fn is_multiple(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let is_scale = |word: &str| scale(word.strip_suffix("th").unwrap_or(word)).is_some();
    [lower.as_str(), singular(&lower)]
        .into_iter()
        .any(|word| MULTIPLES.contains(&word) || is_scale(word) || words::is_number_or_part(word))
        || SCALE_LETTERS.contains(&word)
}

/// Units that measure the same thing: what is measured, and how many of the smallest unit it is.
const SIZES: &[(&str, &str, u64)] = &[
    ("mm", "length", 1),
    ("cm", "length", 10),
    ("dm", "length", 100),
    ("m", "length", 1_000),
    ("km", "length", 1_000_000),
    ("in", "foot", 1),
    ("ft", "foot", 12),
    ("yd", "foot", 36),
    ("mi", "foot", 63_360),
    ("mg", "mass", 1),
    ("g", "mass", 1_000),
    ("kg", "mass", 1_000_000),
    ("oz", "weight", 1),
    ("lb", "weight", 16),
    ("ms", "time", 1),
    ("s", "time", 1_000),
    ("min", "time", 60_000),
    ("h", "time", 3_600_000),
    ("day", "time", 86_400_000),
    ("week", "time", 604_800_000),
    ("ml", "volume", 1),
    ("l", "volume", 1_000),
    ("¢", "money", 1),
    ("$", "money", 100),
];

/// Returns factors of two units that measure the same thing: a times the first is b times the second where values agree.
pub(super) fn ratio(a: &str, b: &str) -> Option<(u64, u64)> {
    fn size(unit: &str) -> Option<(&'static str, &str, u64)> {
        let (name, power) = unit.split_at(unit.find('^').unwrap_or(unit.len()));
        let (_, what, size) = SIZES.iter().find(|(known, ..)| *known == name)?;
        let times = match power {
            "" => 1,
            "^2" => 2,
            "^3" => 3,
            _ => return None,
        };
        Some((*what, power, size.checked_pow(times)?))
    }
    let ((a_what, a_power, a_size), (b_what, b_power, b_size)) = (size(a)?, size(b)?);
    (a_what == b_what && a_power == b_power).then_some((a_size, b_size))
}

/// Returns whether two units are the same, as far as they say something: "units" may be any, "square units" any square.
pub(super) fn are_same(a: &str, b: &str) -> bool {
    let says_less = |a: &str, b: &str| match a.strip_prefix("unit") {
        Some("") => true,
        Some(power) => b.ends_with(power),
        None => false,
    };
    // The word for the currency is the one for the weight.
    let pounds = |a: &str, b: &str| a == "£" && b == "lb";
    a == b || pounds(a, b) || pounds(b, a) || says_less(a, b) || says_less(b, a)
}
