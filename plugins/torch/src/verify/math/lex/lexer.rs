//! Characters to tokens, all but LaTeX's commands.

use super::super::units;
use super::clean::THOUSANDS;
use super::names::{FUNCTIONS, GREEK};
use super::{Tok, Token};

pub(super) struct Lexer {
    pub(super) chars: Vec<char>,
    pub(super) at: usize,
    pub(super) out: Vec<Tok>,
    /// Brackets that are open, not counting groups: inside them a comma separates.
    pub(super) depth: usize,
    /// `\\text` inside of which the lexer is.
    pub(super) texts: usize,
    pub(super) spaced: bool,
}

impl Lexer {
    pub(super) fn new(chars: Vec<char>) -> Self {
        Self {
            chars,
            at: 0,
            out: Vec::new(),
            depth: 0,
            texts: 0,
            spaced: false,
        }
    }

    pub(super) fn into_tokens(self) -> Vec<Tok> {
        self.out
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    pub(super) fn push(&mut self, token: Token, text: bool) {
        let spaced = std::mem::take(&mut self.spaced);
        self.out.push(Tok { token, spaced, text });
    }

    /// Reads up to the end, or in text to the brace that closes it.
    pub(super) fn run(&mut self, text: bool) {
        let mut groups = 0usize;
        while let Some(c) = self.peek(0) {
            match c {
                _ if c.is_whitespace() || c == '~' => {
                    self.spaced = true;
                    self.at += 1;
                }
                '}' if text && groups == 0 => {
                    self.at += 1;
                    return;
                }
                '{' | '}' => {
                    if c == '{' {
                        groups += 1;
                        self.push(Token::Open('{'), text);
                    } else {
                        groups = groups.saturating_sub(1);
                        self.push(Token::Close('{'), text);
                    }
                    self.at += 1;
                }
                '\\' => self.command(text),
                _ if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) => {
                    self.number(text);
                }
                _ if c.is_ascii_alphabetic() => self.letters(text),
                _ => {
                    self.at += 1;
                    self.mark(c, text);
                }
            }
        }
    }

    fn mark(&mut self, c: char, text: bool) {
        let two = |next: char| self.peek(0) == Some(next);
        let token = match c {
            '<' if two('=') => Token::Op('≤'),
            '>' if two('=') => Token::Op('≥'),
            '!' if two('=') => Token::Op('≠'),
            '=' if two('=') => Token::Op('='),
            '*' if two('*') => Token::Op('^'),
            '.' if two('.') => {
                while self.peek(0) == Some('.') {
                    self.at += 1;
                }
                return self.push(Token::Op('…'), text);
            }
            '(' | '[' => {
                self.depth += 1;
                return self.push(Token::Open(c), text);
            }
            ')' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.push(Token::Close(if c == ')' { '(' } else { '[' }), text);
            }
            '⟨' => return self.push(Token::Open('<'), text),
            '⟩' => return self.push(Token::Close('<'), text),
            '⌊' => return self.push(Token::Open('f'), text),
            '⌋' => return self.push(Token::Close('f'), text),
            '⌈' => return self.push(Token::Open('c'), text),
            '⌉' => return self.push(Token::Close('c'), text),
            '√' => return self.push(Token::Command("sqrt".to_owned()), text),
            '∛' => return self.push(Token::Command("cbrt".to_owned()), text),
            'ℝ' => return self.push(Token::Symbol("ℝ".to_owned()), text),
            '"' | '`' => return,
            THOUSANDS => return self.push(Token::Op(','), text),
            _ if GREEK.iter().any(|(_, letter)| *letter == c) => return self.push(Token::Symbol(c.to_string()), text),
            _ if c.is_alphabetic() => {
                self.at -= 1;
                return self.letters(true);
            }
            _ => return self.push(Token::Op(c), text),
        };
        self.at += 1;
        self.push(token, text);
    }

    /// Reads an unsigned number with its separators of thousands, decimals and period.
    fn number(&mut self, text: bool) {
        let digits = |lexer: &Self, from: usize| (from..).take_while(|at| lexer.digit(*at)).count();
        let first = digits(self, 0);
        let mut found: String = self.chars[self.at..self.at + first].iter().collect();
        self.at += first;
        // Inside brackets a plain comma may separate the members of a pair.
        let separator = self
            .peek(0)
            .filter(|mark| *mark == THOUSANDS || (self.depth == 0 && matches!(mark, ',' | ' ')));
        let groupable = (1..=3).contains(&first) && !found.starts_with('0');
        if let Some(mark) = separator.filter(|_| groupable) {
            while self.peek(0).is_some_and(|c| c == mark || c == THOUSANDS)
                && digits(self, 1) == 3
                && (mark == THOUSANDS || self.peek(4) != Some('/'))
            {
                found.extend(&self.chars[self.at + 1..self.at + 4]);
                self.at += 4;
            }
        }
        if self.peek(0) == Some('.') && self.peek(1) != Some('.') {
            let places = digits(self, 1);
            if places > 0 || !self.peek(1).is_some_and(char::is_alphanumeric) {
                let period = self.period(places + 1);
                if places > 0 || period.is_some() {
                    found.push('.');
                    found.extend(&self.chars[self.at + 1..self.at + 1 + places]);
                    self.at += places + 1;
                }
                if let Some((period, len)) = period {
                    self.at += len;
                    return self.push(Token::Repeating(found, period), text);
                }
            }
        }
        // `1.2e5`
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        let exponent = digits(self, 1 + sign);
        if matches!(self.peek(0), Some('e' | 'E')) && exponent > 0 && (sign > 0 || found.contains('.') || exponent < 4)
        {
            let power: String = self.chars[self.at + 1..self.at + 1 + sign + exponent].iter().collect();
            self.push(Token::Number(found), text);
            self.at += 1 + sign + exponent;
            for token in [
                Token::Op('*'),
                Token::Number("10".to_owned()),
                Token::Op('^'),
                Token::Open('{'),
            ] {
                self.push(token, text);
            }
            if power.starts_with('-') {
                self.push(Token::Op('-'), text);
            }
            self.push(Token::Number(power.trim_start_matches(['+', '-']).to_owned()), text);
            return self.push(Token::Close('{'), text);
        }
        self.push(Token::Number(found), text);
    }

    fn digit(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(|c| c.is_ascii_digit())
    }

    /// Reads `\overline{3}` and its like behind decimals: the period and the length of its text.
    fn period(&self, ahead: usize) -> Option<(String, usize)> {
        let rest = &self.chars[self.at + ahead..];
        let name = ["\\overline{", "\\bar{", "\\dot{"]
            .into_iter()
            .find(|name| name.chars().eq(rest.iter().copied().take(name.len())))?;
        let digits: String = rest[name.len()..].iter().take_while(|c| c.is_ascii_digit()).collect();
        let closed = rest.get(name.len() + digits.len()) == Some(&'}');
        (closed && !digits.is_empty()).then(|| (digits.clone(), name.len() + digits.len() + 1))
    }

    fn letters(&mut self, text: bool) {
        let start = self.at;
        while self
            .peek(0)
            .is_some_and(|c| c.is_alphabetic() && (text || c.is_ascii()))
        {
            self.at += 1;
        }
        let mut run: String = self.chars[start..self.at].iter().collect();
        // p.m.
        if matches!(run.as_str(), "a" | "p") && self.peek(0) == Some('.') && self.peek(1) == Some('m') {
            self.at += if self.peek(2) == Some('.') { 3 } else { 2 };
            run.push('m');
            return self.push(Token::Word(run), text);
        }
        if text {
            return self.push(Token::Word(run), true);
        }
        self.name(run);
    }

    /// Decides what a run of letters outside of text is: function, word, or variables.
    pub(super) fn name(&mut self, run: String) {
        if run.len() == 1 {
            return self.push(Token::Symbol(run), false);
        }
        if let Some((_, name)) = FUNCTIONS.iter().find(|(spelled, _)| *spelled == run) {
            return self.push(Token::Function(name), false);
        }
        match run.as_str() {
            "sqrt" | "cbrt" => return self.push(Token::Command(run), false),
            "infinity" | "inf" | "oo" => return self.push(Token::Op('∞'), false),
            _ => {}
        }
        if let Some((_, letter)) = GREEK.iter().find(|(spelled, _)| *spelled == run) {
            return self.push(Token::Symbol(letter.to_string()), false);
        }
        let letters: Vec<char> = run.chars().collect();
        let ascending = letters.windows(2).all(|pair| pair[0] < pair[1]) && letters[0].is_ascii_lowercase();
        let after_number = matches!(
            self.out.last().map(|tok| &tok.token),
            Some(Token::Number(_) | Token::Close(_) | Token::Op('°' | '/'))
        );
        if run.chars().all(|c| c.is_ascii_uppercase()) && !(after_number && units::is_short(&run)) {
            return self.push(Token::Symbol(run), false);
        }
        let word = match run.len() {
            2 | 3 => units::is_word(&run) || (after_number && units::is_short(&run)),
            _ => !(ascending && letters.len() == 4),
        };
        if word {
            return self.push(Token::Word(run), false);
        }
        // `2sinx`: a function that the next letter was written against.
        for (spelled, name) in FUNCTIONS {
            if spelled.len() == 3 && run.len() == 4 && run.starts_with(spelled) {
                self.push(Token::Function(name), false);
                return self.push(Token::Symbol(run[3..].to_owned()), false);
            }
        }
        for letter in letters {
            self.push(Token::Symbol(letter.to_string()), false);
        }
    }
}
