//! Expressions: the tree, and the recursive-descent parser from tokens to it.
//!
//! Reads what people write and refuses what has two readings (`\sin x/2`). All recursion is bounded.

use super::lex::{Tok, Token};

const MAX_DEPTH: usize = 40;
/// Divisions, or signs behind an operand, one after the other.
const MAX_CHAIN: usize = 20;

/// A mathematical expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// Digits with at most one point.
    Number(String),
    Pi,
    E,
    I,
    Infinity,
    /// A variable, or a name that nothing is known of.
    Symbol(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// The root of the given degree.
    Root(u32, Box<Expr>),
    Function(&'static str, Vec<Expr>),
    /// A function that only has a name: `f(x)`.
    Named(String, Vec<Expr>),
    /// A sum or product over an integer variable.
    Series {
        product: bool,
        variable: String,
        from: Box<Expr>,
        to: Box<Expr>,
        body: Box<Expr>,
    },
}

impl Expr {
    pub(super) fn integer(value: u64) -> Self {
        Self::Number(value.to_string())
    }

    /// Calls `visit` on this expression and all inside it.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Expr)) {
        visit(self);
        match self {
            Self::Sum(parts) | Self::Product(parts) | Self::Function(_, parts) | Self::Named(_, parts) => {
                parts.iter().for_each(|part| part.walk(visit));
            }
            Self::Quotient(a, b) | Self::Power(a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
            Self::Negative(a) | Self::Root(_, a) => a.walk(visit),
            Self::Series { from, to, body, .. } => [from, to, body].into_iter().for_each(|part| part.walk(visit)),
            _ => {}
        }
    }

    /// Returns whether it has no variables and no functions that only have a name.
    pub(super) fn is_constant(&self) -> bool {
        let mut constant = true;
        let mut bound: Vec<String> = Vec::new();
        self.walk(&mut |part| {
            if let Self::Series { variable, .. } = part {
                bound.push(variable.clone());
            }
        });
        self.walk(&mut |part| match part {
            Self::Symbol(name) => constant &= bound.contains(name),
            Self::Named(..) => constant = false,
            _ => {}
        });
        constant
    }

    /// Returns the names of its variables, sorted.
    pub(super) fn variables(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.walk(&mut |part| {
            if let Self::Symbol(name) = part {
                found.push(name.clone());
            }
        });
        found.sort();
        found.dedup();
        found
    }

    pub(super) fn has_function(&self, names: &[&str]) -> bool {
        let mut found = false;
        self.walk(&mut |part| found |= matches!(part, Self::Function(name, _) if names.contains(name)));
        found
    }
}

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

    fn function(&mut self, name: &'static str) -> Option<Expr> {
        if matches!(name, "max" | "min" | "gcd" | "lcm") {
            let arguments = match self.peek() {
                Some(Token::Open('(')) => self.arguments()?,
                _ => return None,
            };
            return Some(Expr::Function(name, arguments));
        }
        let mut base = None;
        let mut power = None;
        loop {
            if self.eat_op('_') {
                base = Some(self.macro_argument()?);
            } else if self.eat_op('^') {
                power = Some(self.exponent()?);
            } else {
                break;
            }
        }
        let argument = if matches!(self.peek(), Some(Token::Open('(' | '{'))) {
            self.operand()?
        } else {
            self.argument()?
        };
        let inverse = |power: &Expr| matches!(power, Expr::Negative(one) if **one == Expr::integer(1));
        let value = match (name, base) {
            ("log", Some(base)) => Expr::Function("log", vec![base, argument]),
            ("log" | "lg", None) => Expr::Function("log", vec![Expr::integer(10), argument]),
            ("exp", None) => Expr::Power(Box::new(Expr::E), Box::new(argument)),
            (_, None) => match (name, power.as_ref().is_some_and(inverse)) {
                ("sin", true) => return Some(Expr::Function("asin", vec![argument])),
                ("cos", true) => return Some(Expr::Function("acos", vec![argument])),
                ("tan", true) => return Some(Expr::Function("atan", vec![argument])),
                (_, true) => return None,
                _ => Expr::Function(name, vec![argument]),
            },
            _ => return None,
        };
        Some(match power {
            Some(power) => Expr::Power(Box::new(value), Box::new(power)),
            None => value,
        })
    }

    /// Reads the argument of a function without brackets: factors up to a sign or another function.
    fn argument(&mut self) -> Option<Expr> {
        let negative = self.eat_op('-');
        let mut value = self.factor()?;
        while self.starts_factor() && !matches!(self.peek(), Some(Token::Function(_) | Token::Open('('))) {
            value = times(value, self.factor()?);
        }
        // `\sin x/2`
        if self.peek() == Some(&Token::Op('/')) {
            return None;
        }
        Some(if negative {
            Expr::Negative(Box::new(value))
        } else {
            value
        })
    }

    /// Reads what a macro takes: a group, or one character or macro.
    fn macro_argument(&mut self) -> Option<Expr> {
        if let Some(rest) = self.rest_of_number.take() {
            return self.first_digit(&rest);
        }
        match self.peek()? {
            Token::Number(digits) => {
                self.at += 1;
                self.first_digit(digits)
            }
            Token::Op('-') => None,
            Token::Symbol(_) => {
                let Token::Symbol(name) = self.peek()? else { return None };
                self.at += 1;
                Some(match name.as_str() {
                    index if self.indices.iter().any(|known| known == index) => Expr::Symbol(name.clone()),
                    "π" => Expr::Pi,
                    "e" => Expr::E,
                    "i" => Expr::I,
                    _ => Expr::Symbol(name.clone()),
                })
            }
            _ => self.nested(Self::operand),
        }
    }

    fn first_digit(&mut self, digits: &str) -> Option<Expr> {
        if digits.starts_with('.') {
            return None;
        }
        let (first, rest) = digits.split_at(1);
        if rest.starts_with('.') {
            return None;
        }
        self.rest_of_number = Some(rest.to_owned()).filter(|rest| !rest.is_empty());
        Some(Expr::Number(first.to_owned()))
    }

    fn fraction(&mut self) -> Option<Expr> {
        let above = self.macro_argument()?;
        let below = self.macro_argument()?;
        Some(Expr::Quotient(Box::new(above), Box::new(below)))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "frac" => {
                if self.peek() == Some(&Token::Op('-')) {
                    return None;
                }
                self.fraction()
            }
            "sqrt" => {
                let degree = if self.eat(&Token::Open('[')) {
                    let Token::Number(digits) = self.peek()? else {
                        return self.symbolic_root();
                    };
                    self.at += 1;
                    if !self.eat(&Token::Close('[')) {
                        return None;
                    }
                    digits.parse().ok().filter(|degree| (2..=100).contains(degree))?
                } else {
                    2
                };
                let inner = match self.peek()? {
                    // `\sqrt12` is meant to be the root of twelve.
                    Token::Number(_) => self.operand()?,
                    _ => self.macro_argument()?,
                };
                Some(Expr::Root(degree, Box::new(inner)))
            }
            "cbrt" => Some(Expr::Root(3, Box::new(self.operand()?))),
            "binom" => {
                let above = self.macro_argument()?;
                let below = self.macro_argument()?;
                Some(Expr::Function("binom", vec![above, below]))
            }
            "overline" | "vec" | "hat" | "overrightarrow" | "bar" | "widehat" | "tilde" | "underline" => {
                let inner = self.macro_argument()?;
                Some(match inner {
                    Expr::Symbol(name) if name.len() > 1 => Expr::Symbol(name),
                    inner => Expr::Named(name.to_owned(), vec![inner]),
                })
            }
            "sum" | "prod" => self.series(name == "prod"),
            _ => None,
        }
    }

    /// Reads `n]{x}`: x to the power of 1/n.
    fn symbolic_root(&mut self) -> Option<Expr> {
        let degree = self.nested(Self::sum)?;
        if !self.eat(&Token::Close('[')) {
            return None;
        }
        let inner = self.macro_argument()?;
        let exponent = Expr::Quotient(Box::new(Expr::integer(1)), Box::new(degree));
        Some(Expr::Power(Box::new(inner), Box::new(exponent)))
    }

    /// Reads `_{k=1}^{10} body`.
    fn series(&mut self, product: bool) -> Option<Expr> {
        if !self.eat_op('_') || !self.eat(&Token::Open('{')) {
            return None;
        }
        let Token::Symbol(variable) = self.peek()? else {
            return None;
        };
        self.at += 1;
        if !self.eat_op('=') {
            return None;
        }
        let from = self.nested(Self::sum)?;
        if !self.eat(&Token::Close('{')) || !self.eat_op('^') {
            return None;
        }
        let to = self.macro_argument()?;
        if self.rest_of_number.is_some() {
            return None;
        }
        self.indices.push(variable.clone());
        let body = self.nested(Self::product);
        self.indices.pop();
        let body = body?;
        Some(Expr::Series {
            product,
            variable: variable.clone(),
            from: Box::new(from),
            to: Box::new(to),
            body: Box::new(body),
        })
    }
}

fn is_operand(command: &str) -> bool {
    matches!(
        command,
        "frac"
            | "sqrt"
            | "cbrt"
            | "binom"
            | "sum"
            | "prod"
            | "overline"
            | "vec"
            | "hat"
            | "overrightarrow"
            | "bar"
            | "widehat"
            | "tilde"
            | "underline"
    )
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
