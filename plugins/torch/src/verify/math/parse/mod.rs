//! The recursive-descent parser from tokens to expressions.
//!
//! Reads what people write and refuses what has two readings (`\sin x/2`). All recursion is bounded.

mod command;

use super::expr::Expr;
use super::lex::{Tok, Token};
use command::is_operand;

const MAX_DEPTH: usize = 40;
/// Divisions, or signs behind an operand, one after the other.
const MAX_CHAIN: usize = 20;

/// Reads all tokens as one expression.
pub(super) fn parse(tokens: &[Tok]) -> Option<Expr> {
    let (expr, used) = parse_prefix(tokens)?;
    (used == tokens.len()).then_some(expr)
}

/// Reads an expression at the beginning of the tokens; also returns how many it takes.
pub(super) fn parse_prefix(tokens: &[Tok]) -> Option<(Expr, usize)> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        in_bars: false,
        rest_of_number: None,
        indices: Vec::new(),
    };
    let expr = parser.fraction_or_sum()?;
    parser.rest_of_number.is_none().then_some((expr, parser.at))
}

struct Parser<'a> {
    tokens: &'a [Tok],
    at: usize,
    depth: usize,
    /// Inside `|...|` a bar closes.
    in_bars: bool,
    /// What is left of a number whose first digit was a macro's argument.
    rest_of_number: Option<String>,
    /// Variables of the sums around, of which i is no imaginary unit.
    indices: Vec<String>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        // Text is no part of an expression, except as a subscript.
        self.tokens.get(self.at + ahead).map(|tok| &tok.token)
    }

    fn eat(&mut self, token: &Token) -> bool {
        let found = self.rest_of_number.is_none() && self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn eat_op(&mut self, op: char) -> bool {
        self.eat(&Token::Op(op))
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let found = read(self);
        self.depth -= 1;
        found
    }

    /// A sum, or `a \over b` and `n \choose k`.
    fn fraction_or_sum(&mut self) -> Option<Expr> {
        let above = self.nested(Self::sum)?;
        if self.eat(&Token::Command("over".to_owned())) {
            let below = self.nested(Self::sum)?;
            return Some(Expr::Quotient(Box::new(above), Box::new(below)));
        }
        if self.eat(&Token::Command("choose".to_owned())) {
            let below = self.nested(Self::sum)?;
            return Some(Expr::Function("binom", vec![above, below]));
        }
        Some(above)
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut terms = vec![self.product()?];
        loop {
            if self.eat_op('+') {
                terms.push(self.product()?);
            } else if self.eat_op('-') {
                terms.push(Expr::Negative(Box::new(self.product()?)));
            } else if terms.len() == 1 {
                return terms.pop();
            } else {
                return Some(Expr::Sum(terms));
            }
        }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut value = self.signed()?;
        let mut divisions = 0;
        loop {
            if self.eat_op('*') {
                value = times(value, self.signed()?);
            } else if self.eat_op('/') {
                divisions += 1;
                if divisions > MAX_CHAIN {
                    return None;
                }
                let below = self.signed()?;
                value = Expr::Quotient(Box::new(value), Box::new(below));
            } else if self.starts_factor() {
                value = times(value, self.factor()?);
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<Expr> {
        let mut negative = false;
        for _ in 0..8 {
            if self.eat_op('-') {
                negative = !negative;
            } else if !self.eat_op('+') {
                let value = self.factor()?;
                return Some(if negative {
                    Expr::Negative(Box::new(value))
                } else {
                    value
                });
            }
        }
        None
    }

    /// Returns whether what follows can be multiplied without a sign.
    fn starts_factor(&self) -> bool {
        if self.rest_of_number.is_some() {
            return true;
        }
        match self.peek() {
            Some(Token::Symbol(_) | Token::Function(_)) => true,
            Some(Token::Open(kind)) => matches!(kind, '(' | '[' | '{' | 'f' | 'c'),
            Some(Token::Command(name)) => is_operand(name),
            // `2 3` is not 6; behind a bracket or a macro a number is a factor.
            Some(Token::Number(_)) => matches!(
                self.at.checked_sub(1).map(|at| &self.tokens[at].token),
                Some(Token::Close(_) | Token::Op('!'))
            ),
            Some(Token::Op('|')) => !self.in_bars,
            Some(Token::Op('∞')) => false,
            _ => false,
        }
    }

    /// An operand with its factorials, powers, degree sign and primes.
    fn factor(&mut self) -> Option<Expr> {
        let mut value = self.operand()?;
        if let Expr::Number(digits) = &value
            && !digits.contains('.')
            && let Some(part) = self.mixed_part()
        {
            return Some(Expr::Sum(vec![value, part]));
        }
        for _ in 0..MAX_CHAIN {
            if self.eat_op('!') {
                // The double factorial is another thing.
                if self.peek() == Some(&Token::Op('!')) {
                    return None;
                }
                value = Expr::Function("fact", vec![value]);
            } else if self.eat_op('°') {
                value = Expr::Function("deg", vec![value]);
            } else if self.peek() == Some(&Token::Op('^')) {
                self.at += 1;
                if self.eat_degree() {
                    value = Expr::Function("deg", vec![value]);
                } else {
                    let exponent = self.nested(Self::exponent)?;
                    value = Expr::Power(Box::new(value), Box::new(exponent));
                }
            } else {
                return Some(value);
            }
        }
        None
    }

    /// Behind `^`: a degree sign, bare or in braces.
    fn eat_degree(&mut self) -> bool {
        if self.eat_op('°') {
            return true;
        }
        // A small letter o is often meant for the sign.
        let letter = Token::Symbol("o".to_owned());
        if self.eat(&letter) {
            return true;
        }
        let group = self.peek() == Some(&Token::Open('{'))
            && [Some(&Token::Op('°')), Some(&letter)].contains(&self.peek_at(1))
            && self.peek_at(2) == Some(&Token::Close('{'));
        self.at += if group { 3 } else { 0 };
        group
    }

    /// Reads the fraction of a mixed number (`2\frac{1}{2}`, `2 1/2`), if just that follows.
    fn mixed_part(&mut self) -> Option<Expr> {
        if self.rest_of_number.is_some() {
            return None;
        }
        let start = self.at;
        let integer = |expr: &Expr| matches!(expr, Expr::Number(digits) if !digits.contains('.'));
        if self.eat(&Token::Command("frac".to_owned())) {
            if let Some(Expr::Quotient(above, below)) = self.fraction()
                && integer(&above)
                && integer(&below)
                && self.peek() != Some(&Token::Op('^'))
            {
                return Some(Expr::Quotient(above, below));
            }
            self.rest_of_number = None;
            self.at = start;
            return None;
        }
        let number = |ahead: usize| match self.peek_at(ahead) {
            Some(Token::Number(digits)) if !digits.contains('.') => Some(Expr::Number(digits.clone())),
            _ => None,
        };
        let (above, below) = (number(0)?, number(2)?);
        if self.peek_at(1) != Some(&Token::Op('/')) {
            return None;
        }
        self.at += 3;
        Some(Expr::Quotient(Box::new(above), Box::new(below)))
    }

    fn exponent(&mut self) -> Option<Expr> {
        match self.peek()? {
            Token::Open('{' | '(') => self.operand(),
            Token::Op('-') => {
                self.at += 1;
                let value = self.exponent()?;
                Some(Expr::Negative(Box::new(value)))
            }
            Token::Number(_) | Token::Symbol(_) | Token::Op('∞') => {
                let base = self.operand()?;
                // 2^3^2 without braces.
                if self.eat_op('^') {
                    let exponent = self.nested(Self::exponent)?;
                    return Some(Expr::Power(Box::new(base), Box::new(exponent)));
                }
                Some(base)
            }
            Token::Command(name) if is_operand(name) => self.operand(),
            _ => None,
        }
    }

    fn operand(&mut self) -> Option<Expr> {
        if let Some(rest) = self.rest_of_number.take() {
            return Some(Expr::Number(rest));
        }
        let token = self.peek()?;
        self.at += 1;
        match token {
            Token::Number(digits) => {
                if self.peek() == Some(&Token::Op('_')) {
                    let base = self.base()?;
                    return Some(Expr::Symbol(format!("{digits} base {base}")));
                }
                Some(Expr::Number(digits.clone()))
            }
            Token::Repeating(digits, period) => Some(repeating(digits, period)),
            Token::Symbol(name) => self.symbol(name),
            Token::Function(name) => self.nested(|parser| parser.function(name)),
            Token::Op('∞') => Some(Expr::Infinity),
            Token::Op('|') => {
                let outer = std::mem::replace(&mut self.in_bars, true);
                let inner = self.nested(Self::fraction_or_sum);
                self.in_bars = outer;
                let inner = inner?;
                self.eat_op('|').then(|| Expr::Function("abs", vec![inner]))
            }
            Token::Open(kind @ ('(' | '[' | '{')) => {
                let inner = self.enclosed(*kind)?;
                if *kind == '('
                    && self.peek() == Some(&Token::Op('_'))
                    && let Expr::Number(digits) = &inner
                {
                    let base = self.base()?;
                    return Some(Expr::Symbol(format!("{digits} base {base}")));
                }
                Some(inner)
            }
            Token::Open(kind @ ('f' | 'c')) => {
                let inner = self.enclosed(*kind)?;
                Some(Expr::Function(if *kind == 'f' { "floor" } else { "ceil" }, vec![inner]))
            }
            Token::Command(name) => self.nested(|parser| parser.command(name)),
            _ => None,
        }
    }

    /// Reads up to the bracket that closes.
    fn enclosed(&mut self, kind: char) -> Option<Expr> {
        let outer = std::mem::replace(&mut self.in_bars, false);
        let inner = self.nested(Self::fraction_or_sum);
        self.in_bars = outer;
        let inner = inner?;
        self.eat(&Token::Close(kind)).then_some(inner)
    }

    /// Reads `_{5}` behind digits: the base that they are written in.
    fn base(&mut self) -> Option<String> {
        self.at += 1;
        let text = self.subscript()?;
        Some(match text.as_str() {
            "two" => "2".to_owned(),
            "three" => "3".to_owned(),
            "four" => "4".to_owned(),
            "five" => "5".to_owned(),
            "six" => "6".to_owned(),
            "seven" => "7".to_owned(),
            "eight" => "8".to_owned(),
            "nine" => "9".to_owned(),
            "ten" => "10".to_owned(),
            _ => text.trim_matches(['(', ' ']).to_owned(),
        })
    }

    /// Reads a subscript as text.
    fn subscript(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut depth = 0usize;
        loop {
            let tok = self.tokens.get(self.at)?;
            self.at += 1;
            match &tok.token {
                Token::Open('{') => depth += 1,
                Token::Close('{') => depth = depth.checked_sub(1)?,
                Token::Number(found) | Token::Symbol(found) | Token::Word(found) | Token::Command(found) => {
                    if !text.is_empty() && found != "base" {
                        text.push(' ');
                    }
                    if found != "base" {
                        text.push_str(found);
                    }
                }
                Token::Op(op) => text.push(*op),
                Token::Open(kind) | Token::Close(kind) => text.push(*kind),
                Token::Function(name) => text.push_str(name),
                Token::Repeating(..) | Token::Row => return None,
            }
            if depth == 0 {
                return Some(text);
            }
        }
    }

    fn symbol(&mut self, name: &str) -> Option<Expr> {
        let mut full = name.to_owned();
        if self.peek() == Some(&Token::Op('_')) {
            self.at += 1;
            full = format!("{name}_{}", self.subscript()?);
        }
        while self.eat_op('′') {
            full.push('′');
        }
        if self.peek() == Some(&Token::Op('^')) && self.peek_at(1) == Some(&Token::Op('′')) {
            self.at += 2;
            full.push('′');
        }
        match full.as_str() {
            index if self.indices.iter().any(|known| known == index) => {}
            "π" => return Some(Expr::Pi),
            "e" => return Some(Expr::E),
            "i" => return Some(Expr::I),
            _ => {}
        }
        if matches!(full.trim_end_matches('′'), "f" | "g" | "h") && self.peek() == Some(&Token::Open('(')) {
            let arguments = self.arguments()?;
            return Some(Expr::Named(full, arguments));
        }
        Some(Expr::Symbol(full))
    }

    /// Reads `(a, b)`.
    fn arguments(&mut self) -> Option<Vec<Expr>> {
        self.at += 1;
        let mut found = vec![self.nested(Self::sum)?];
        while self.eat_op(',') {
            found.push(self.nested(Self::sum)?);
        }
        self.eat(&Token::Close('(')).then_some(found)
    }
}

fn times(a: Expr, b: Expr) -> Expr {
    match a {
        Expr::Product(mut factors) => {
            factors.push(b);
            Expr::Product(factors)
        }
        a => Expr::Product(vec![a, b]),
    }
}

/// 0.1\overline{6} is 1/10 + 6/90.
fn repeating(digits: &str, period: &str) -> Expr {
    let places = digits.split_once('.').map_or(0, |(_, after)| after.len());
    let below = "9".repeat(period.len()) + &"0".repeat(places);
    let start = if digits.ends_with('.') {
        digits.trim_end_matches('.')
    } else {
        digits
    };
    let start = if start.is_empty() { "0" } else { start };
    Expr::Sum(vec![
        Expr::Number(start.to_owned()),
        Expr::Quotient(Box::new(Expr::Number(period.to_owned())), Box::new(Expr::Number(below))),
    ])
}
