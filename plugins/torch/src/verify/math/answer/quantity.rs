//! Numbers and expressions with a unit, a currency or a percent sign, and ratios of them.

use super::super::expr::Expr;
use super::super::lex::{Tok, Token};
use super::super::parse::parse_prefix;
use super::super::units;
use super::{Answer, Quantity, is_word, spelled, split};

/// Reads an expression with its unit.
pub(super) fn read_quantity(tokens: &[Tok]) -> Option<Quantity> {
    let is_currency = |token: &Token| matches!(token, Token::Op('$' | '€' | '£' | '¥'));
    let mut unit = None;
    let mut tokens = tokens.to_vec();
    // The currency stands before the number, perhaps behind a sign, or at the end.
    if let Some(at) = tokens.iter().position(|tok| is_currency(&tok.token)) {
        let first = at == 0 || (at == 1 && tokens[0].token == Token::Op('-'));
        if !first && at + 1 != tokens.len() {
            return None;
        }
        unit = Some(spelled(&tokens[at].token));
        tokens.remove(at);
    }
    mark_short_unit(&mut tokens);
    // \frac{\text{km}}{\text{h}} is a unit, and no factor.
    let fraction = |group: &[Tok]| {
        group[0].token == Token::Command("frac".to_owned()) && matches!(group[2].token, Token::Word(_)) && group[2].text
    };
    let end = tokens.windows(3).position(fraction).unwrap_or(tokens.len());
    let (mut expr, used) = parse_prefix(&tokens[..end])?;
    let mut rest = &tokens[used..];
    // "a cylinder"
    if matches!(&expr, Expr::Symbol(name) if name == "a") && !rest.is_empty() {
        return None;
    }
    if let Some(Token::Word(word)) = rest.first().map(|tok| &tok.token)
        && let Some(power) = units::scale(word)
    {
        let ten = Expr::Power(Box::new(Expr::integer(10)), Box::new(Expr::integer(power.into())));
        expr = Expr::Product(vec![expr, ten]);
        rest = &rest[1..];
    }
    let (degrees, expr) = without_degrees(expr);
    if degrees {
        unit = Some("°".to_owned());
    }
    let percent = match rest.first().map(|tok| &tok.token) {
        Some(Token::Op('%')) => true,
        Some(word) => is_word(word, &["percent", "percentage"]),
        None => false,
    };
    if percent {
        rest = &rest[1..];
    }
    if !rest.is_empty() {
        let words = unit_words(rest)?;
        let found = units::canonical(&words)?;
        unit = match unit {
            None => Some(found),
            // 5 dollars, written \$5 dollars; 20^\circ C
            Some(sign) if sign == found => Some(sign),
            Some(sign) if sign == "°" && found.len() == 1 => Some(sign + &found),
            Some(_) => return None,
        };
    }
    if percent && unit.is_some() {
        return None;
    }
    Some(Quantity { expr, unit, percent })
}

/// 90^\circ is 90 with a unit; inside an expression it would be an angle.
fn without_degrees(expr: Expr) -> (bool, Expr) {
    match expr {
        Expr::Function("deg", mut inner) if inner.len() == 1 => (true, inner.swap_remove(0)),
        Expr::Negative(inner) => match *inner {
            Expr::Function("deg", mut inner) if inner.len() == 1 => {
                (true, Expr::Negative(Box::new(inner.swap_remove(0))))
            }
            inner => (false, Expr::Negative(Box::new(inner))),
        },
        other => (false, other),
    }
}

/// In `5 m`, and in `1.5m^2`, the letter is a unit.
fn mark_short_unit(tokens: &mut [Tok]) {
    let start = usize::from(matches!(tokens.first(), Some(tok) if tok.token == Token::Op('-')));
    let (Some(Token::Number(digits)), Some(tok)) =
        (tokens.get(start).map(|tok| tok.token.clone()), tokens.get(start + 1))
    else {
        return;
    };
    let power = match tokens.get(start + 2..) {
        Some([]) => false,
        Some(
            [
                mark,
                Tok {
                    token: Token::Number(power),
                    ..
                },
            ],
        ) if mark.token == Token::Op('^') => matches!(power.as_str(), "2" | "3"),
        _ => return,
    };
    if let Token::Symbol(name) = &tok.token
        && name.is_ascii()
        && units::is_short(name)
        && (tok.spaced || (power && digits.contains('.')))
    {
        let word = Token::Word(name.clone());
        tokens[start + 1].token = word;
    }
}

/// Returns the words and marks of a unit.
fn unit_words(tokens: &[Tok]) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(tok) = tokens.get(at) {
        at += 1;
        match &tok.token {
            Token::Word(word) => words.push(word.clone()),
            Token::Op('/') => words.push("/".to_owned()),
            Token::Command(name) if name == "frac" => {
                let (above, used) = braced_word(&tokens[at..])?;
                let (below, more) = braced_word(&tokens[at + used..])?;
                words.extend([above, "/".to_owned(), below]);
                at += used + more;
            }
            Token::Op('.') => {}
            Token::Op('^') => {
                let digits = match (tokens.get(at), tokens.get(at + 1), tokens.get(at + 2)) {
                    (
                        Some(Tok {
                            token: Token::Number(digits),
                            ..
                        }),
                        ..,
                    ) => {
                        at += 1;
                        digits
                    }
                    (
                        Some(open),
                        Some(Tok {
                            token: Token::Number(digits),
                            ..
                        }),
                        Some(close),
                    ) if open.token == Token::Open('{') && close.token == Token::Close('{') => {
                        at += 3;
                        digits
                    }
                    _ => return None,
                };
                words.push(format!("^{digits}"));
            }
            // The letter of a unit after a slash, as in m/s.
            Token::Symbol(name) if units::is_short(name) => words.push(name.clone()),
            _ => return None,
        }
    }
    Some(words)
}

/// Reads `{\text{km}}`; also returns how many tokens it takes.
fn braced_word(tokens: &[Tok]) -> Option<(String, usize)> {
    match tokens {
        [open, word, close, ..] if open.token == Token::Open('{') && close.token == Token::Close('{') => {
            match &word.token {
                Token::Word(name) => Some((name.clone(), 3)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Reads `3:4`, perhaps with "to", and times of the day.
pub(super) fn read_ratio(tokens: &[Tok]) -> Option<Answer> {
    let (parts, marks) = split(tokens, |token| *token == Token::Op(':') || is_word(token, &["to"]));
    if marks.is_empty() || parts.len() > 4 {
        return None;
    }
    let read = |part: &[Tok]| read_quantity(part);
    Some(Answer::Ratio(parts.into_iter().map(read).collect::<Option<_>>()?))
}
