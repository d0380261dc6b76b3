//! Functions, and LaTeX's commands with arguments: fractions, roots, sums.

use super::super::expr::Expr;
use super::super::lex::Token;
use super::{Parser, times};

impl Parser<'_> {
    pub(super) fn function(&mut self, name: &'static str) -> Option<Expr> {
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
    pub(super) fn macro_argument(&mut self) -> Option<Expr> {
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

    pub(super) fn fraction(&mut self) -> Option<Expr> {
        let above = self.macro_argument()?;
        let below = self.macro_argument()?;
        Some(Expr::Quotient(Box::new(above), Box::new(below)))
    }

    pub(super) fn command(&mut self, name: &str) -> Option<Expr> {
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

pub(super) fn is_operand(command: &str) -> bool {
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
