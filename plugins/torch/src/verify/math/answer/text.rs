//! Answers in words, and choices by letter.

use super::super::expr::Expr;
use super::super::lex::{Tok, Token};
use super::super::reals::Reals;
use super::super::words;
use super::list::read_list;
use super::{Answer, Quantity, is_word};

/// Reads `(B)`, `B.`, `(B) 12` and `\text{B}`.
pub(super) fn read_choice(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let letter = |token: &Token| match token {
        Token::Word(name) | Token::Symbol(name) if name.len() == 1 => {
            name.chars().next().filter(|c| matches!(c, 'A'..='J' | 'a'..='j'))
        }
        _ => None,
    };
    let (tokens, said) = match tokens {
        [first, rest @ ..] if !rest.is_empty() && is_word(&first.token, &["option", "choice"]) => (rest, true),
        all => (all, false),
    };
    let (found, rest) = match tokens {
        [open, name, close, rest @ ..] if open.token == Token::Open('(') && close.token == Token::Close('(') => {
            (letter(&name.token)?, rest)
        }
        [name, mark, rest @ ..]
            if matches!(mark.token, Token::Close('(') | Token::Op(':'))
                || (mark.token == Token::Op('.') && rest.first().is_none_or(|tok| tok.spaced || tok.text)) =>
        {
            (letter(&name.token)?, rest)
        }
        // A bare letter may be a variable; it is compared with choices all the same.
        [name] if name.text || said => (letter(&name.token)?, &tokens[1..]),
        _ => return None,
    };
    // (A) or (B) is no choice.
    if rest.iter().any(|tok| is_word(&tok.token, &["or", "and", "not"])) {
        return None;
    }
    // (a)(b + c) is a product, and (a)-(b) a difference.
    if let Some(next) = rest.first()
        && (!(next.spaced || next.text || found.is_ascii_uppercase())
            || matches!(next.token, Token::Op(_)) && !matches!(next.token, Token::Op('-' | '$' | '∅' | '|'))
            || found.is_ascii_lowercase())
    {
        return None;
    }
    let content = (!rest.is_empty()).then(|| Box::new(read_list(rest, depth + 1)));
    Some(Answer::Choice(found.to_ascii_uppercase(), content))
}

/// Reads words; `Unparsed` if there is more than words, numbers and punctuation.
pub(super) fn read_text(tokens: &[Tok]) -> Answer {
    let mut words = Vec::new();
    let mut has_word = false;
    for tok in tokens {
        match &tok.token {
            Token::Word(word) => {
                has_word = true;
                words.push(word.to_lowercase());
            }
            Token::Symbol(word) if word.chars().all(|c| c.is_ascii_alphabetic()) => words.push(word.to_lowercase()),
            Token::Number(digits) => words.push(digits.clone()),
            Token::Op('.' | '′' | ',' | '"') => {}
            Token::Op(mark @ ('-' | ':')) => words.push(mark.to_string()),
            _ => return Answer::Unparsed,
        }
    }
    words.retain(|word| !matches!(word.as_str(), "a" | "an" | "the") || tokens.len() == 1);
    if !has_word || words.is_empty() {
        return Answer::Unparsed;
    }
    let phrase = words.join(" ");
    match phrase.as_str() {
        "all real numbers" | "all reals" | "all real" | "real numbers" => return Answer::Reals(Reals::all()),
        "empty set"
        | "there is no solution"
        | "there are no solutions"
        | "no solution"
        | "no solutions"
        | "no real solution"
        | "no real solutions" => {
            return Answer::Set(Vec::new());
        }
        _ => {}
    }
    if let Some(value) = words::number(&words) {
        return Answer::Quantity(Quantity {
            expr: Expr::integer(value),
            unit: None,
            percent: false,
        });
    }
    Answer::Text(words)
}
