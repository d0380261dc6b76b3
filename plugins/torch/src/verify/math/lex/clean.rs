//! One character for marks that look alike.

/// Stands for a comma that can only separate thousands (`{,}` or `,\!`).
pub(super) const THOUSANDS: char = '\u{1}';

/// Brings marks that look alike to one character, and marks commas that only separate thousands.
pub(super) fn cleaned(text: &str) -> Vec<char> {
    let dollars = text.matches('$').count() - text.matches("\\$").count();
    let money_marks = dollars % 2 == 1;
    let source: Vec<char> = text.chars().collect();
    let mut chars = Vec::with_capacity(source.len());
    let three_digits = |at: usize| {
        let digit = |at: usize| source.get(at).is_some_and(char::is_ascii_digit);
        digit(at) && digit(at + 1) && digit(at + 2) && !digit(at + 3)
    };
    let after_spaces = |mut at: usize| {
        while source.get(at).is_some_and(|c| c.is_whitespace()) {
            at += 1;
        }
        at
    };
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| source.get(at + i) == Some(&c));
    let mut at = 0;
    while at < source.len() {
        let after_digit = chars.last().is_some_and(char::is_ascii_digit);
        let separator = [("{,}", 3), (",\\!", 3), ("\\,", 2), ("\\!", 2)]
            .into_iter()
            .find(|(mark, _)| after_digit && starts(at, mark))
            .map(|(_, len)| at + len)
            .or_else(|| {
                let mark = after_spaces(at + 1);
                (after_digit && source[at] == ',' && starts(mark, "\\!")).then_some(mark + 2)
            });
        if let Some(next) = separator.map(after_spaces).filter(|next| three_digits(*next)) {
            chars.push(THOUSANDS);
            at = next;
            continue;
        }
        // `{-}3`, `+/- 3`, `3.2 x 10^5`
        let written = [
            ("{-}", '-'),
            ("{+}", '+'),
            ("+/-", '±'),
            ("x10^", '*'),
            ("x 10^", '*'),
            (" x 10^", '*'),
        ]
        .into_iter()
        .find(|(text, sign)| starts(at, text) && (*sign != '*' || after_digit));
        if let Some((text, sign)) = written {
            chars.push(sign);
            at += text.find("10^").unwrap_or(text.len());
            continue;
        }
        match source[at] {
            '−' | '–' | '—' | '﹣' | '－' => chars.push('-'),
            '×' | '·' | '⋅' | '∙' | '∗' | '•' => chars.push('*'),
            '÷' => chars.push('/'),
            '²' => chars.extend(['^', '2']),
            '³' => chars.extend(['^', '3']),
            '½' => chars.extend("\\frac12".chars()),
            '¼' => chars.extend("\\frac14".chars()),
            '¾' => chars.extend("\\frac34".chars()),
            'º' => chars.push('°'),
            '⩽' => chars.push('≤'),
            '⩾' => chars.push('≥'),
            '’' | '\'' => chars.push('′'),
            '\u{200b}' | '\u{feff}' => {}
            // A dollar sign without a partner before a number is money.
            '$' if chars.last() != Some(&'\\') => {
                if money_marks
                    && source.get(at + 1).is_some_and(|c| c.is_ascii_digit() || *c == ' ')
                    && chars.is_empty()
                {
                    chars.extend(['\\', '$']);
                } else {
                    chars.push(' ');
                }
            }
            c => chars.push(c),
        }
        at += 1;
    }
    chars
}
