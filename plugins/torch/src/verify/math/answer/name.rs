//! Which tokens are nothing but the name of a value.

use super::super::expr::Expr;
use super::super::lex::{Tok, Token};
use super::super::parse::parse;
use super::{closes_at, spelled};

/// Returns what tokens name that can be nothing but the name of a value.
pub(super) fn name_of(tokens: &[Tok]) -> Option<String> {
    let first = &tokens.first()?.token;
    let text = || -> String { tokens.iter().map(|tok| spelled(&tok.token)).collect() };
    let all = |allowed: fn(&Token) -> bool| tokens.iter().all(|tok| allowed(&tok.token));
    if all(|token| matches!(token, Token::Word(_) | Token::Symbol(_) | Token::Op('′')))
        && tokens.iter().any(|tok| matches!(tok.token, Token::Word(_)))
    {
        return Some(format!("text {}", text()));
    }
    let expr = parse(tokens);
    match (&expr, first) {
        (Some(Expr::Symbol(name)), _) => return Some(name.clone()),
        (Some(Expr::Named(..)), _) => return Some(text()),
        // |AB|, [ABC]
        (Some(Expr::Function("abs", inner)), _) if matches!(inner.as_slice(), [Expr::Symbol(_)]) => return Some(text()),
        // \cos A
        (Some(Expr::Function(name, inner)), Token::Function(_))
            if *name != "log" && matches!(inner.as_slice(), [Expr::Symbol(_)]) =>
        {
            return Some(text());
        }
        // \angle ABC
        (Some(Expr::Product(parts)), Token::Symbol(name))
            if matches!(name.as_str(), "angle" | "triangle" | "measuredangle" | "m")
                && parts
                    .iter()
                    .any(|part| matches!(part, Expr::Symbol(name) if name.ends_with("angle")))
                && parts.iter().all(|part| matches!(part, Expr::Symbol(_))) =>
        {
            return Some(text());
        }
        // m + n, where the letters are no coordinates
        (Some(Expr::Sum(parts)), _) => {
            let plain = |part: &Expr| matches!(part, Expr::Symbol(name) if name.len() == 1 && !matches!(name.as_str(), "x" | "y" | "z"));
            return parts.iter().all(plain).then(text);
        }
        _ => {}
    }
    // f^{-1}(x)
    if let [
        Tok {
            token: Token::Symbol(_),
            ..
        },
        power,
        open,
        minus,
        one,
        close,
        bracket,
        ..,
    ] = tokens
        && [&power.token, &open.token, &minus.token] == [&Token::Op('^'), &Token::Open('{'), &Token::Op('-')]
        && [&one.token, &close.token, &bracket.token]
            == [&Token::Number("1".to_owned()), &Token::Close('{'), &Token::Open('(')]
        && closes_at(tokens, 6) == Some(tokens.len() - 1)
    {
        return Some(text());
    }
    // P(A), and the unknowns of a tuple
    let whole_bracket = |from: usize| closes_at(tokens, from) == Some(tokens.len() - 1);
    match tokens {
        [
            Tok {
                token: Token::Symbol(_),
                ..
            },
            Tok {
                token: Token::Open('('),
                ..
            },
            ..,
        ] if whole_bracket(1) && all(|token| !matches!(token, Token::Op('+' | '-' | '*' | '/' | '^'))) => Some(text()),
        [
            Tok {
                token: Token::Open('('),
                ..
            },
            inner @ ..,
            _,
        ] if whole_bracket(0) => {
            let letters = inner.iter().all(|tok| {
                matches!(
                    tok.token,
                    Token::Symbol(_) | Token::Op(',' | '_') | Token::Number(_) | Token::Open('{') | Token::Close('{')
                )
            });
            let starts = matches!(inner.first(), Some(tok) if matches!(tok.token, Token::Symbol(_)));
            (letters && starts).then(text)
        }
        _ => None,
    }
}
