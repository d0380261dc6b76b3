//! LaTeX's commands to tokens, with the arguments that are text.

use super::super::units;
use super::Token;
use super::lexer::Lexer;
use super::names::{FUNCTIONS, GREEK, LOOKS, OPERATORS, TEXTS};

const MAX_TEXTS: usize = 10;

impl Lexer {
    pub(super) fn command(&mut self, text: bool) {
        self.at += 1;
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        if start == self.at {
            let Some(c) = self.peek(0) else { return };
            self.at += 1;
            return self.escaped(c, text);
        }
        let name: String = self.chars[start..self.at].iter().collect();
        let mut name = name.as_str();
        // `\quadx`, a space that was lost.
        if let Some(rest) = name.strip_prefix("quad").filter(|rest| rest.len() == 1) {
            self.at -= rest.len();
            name = "quad";
        }
        if let Some((_, op)) = OPERATORS.iter().find(|(spelled, _)| *spelled == name) {
            return self.push(Token::Op(*op), text);
        }
        if LOOKS.contains(&name) {
            // `\left.` has a point that is not seen.
            if matches!(name, "left" | "right") && self.peek(0) == Some('.') {
                self.at += 1;
            }
            return;
        }
        if TEXTS.contains(&name) {
            return self.text(name);
        }
        let greek = name.strip_prefix("var").unwrap_or(name);
        if let Some((_, letter)) = GREEK.iter().find(|(spelled, _)| *spelled == greek) {
            return self.push(Token::Symbol(letter.to_string()), text);
        }
        if let Some((_, function)) = FUNCTIONS.iter().find(|(spelled, _)| *spelled == name) {
            return self.push(Token::Function(function), text);
        }
        let token = match name {
            "quad" | "qquad" | "enspace" | "thinspace" | "newline" => {
                self.spaced = true;
                return;
            }
            "hspace" | "vspace" | "label" | "tag" | "color" | "phantom" | "hphantom" | "vphantom" => {
                self.argument();
                self.spaced = true;
                return;
            }
            "not" => {
                self.skip_spaces();
                if self.peek(0) != Some('=') {
                    return self.push(Token::Command(name.to_owned()), text);
                }
                self.at += 1;
                Token::Op('≠')
            }
            "lbrace" => Token::Open('S'),
            "rbrace" => Token::Close('S'),
            "lbrack" => Token::Open('['),
            "rbrack" => Token::Close('['),
            "langle" => Token::Open('<'),
            "rangle" => Token::Close('<'),
            "lfloor" => Token::Open('f'),
            "rfloor" => Token::Close('f'),
            "lceil" => Token::Open('c'),
            "rceil" => Token::Close('c'),
            "dfrac" | "tfrac" | "cfrac" | "nicefrac" | "sfrac" | "flatfrac" => Token::Command("frac".to_owned()),
            "dbinom" | "tbinom" => Token::Command("binom".to_owned()),
            "mathbb" | "Bbb" => match self.argument().as_str() {
                "R" => Token::Symbol("ℝ".to_owned()),
                other => Token::Symbol(format!("mathbb {other}")),
            },
            "R" | "Reals" | "reals" => Token::Symbol("ℝ".to_owned()),
            "land" | "wedge" => Token::Word("and".to_owned()),
            "lor" | "vee" => Token::Word("or".to_owned()),
            "bmod" | "mod" | "pmod" => Token::Word("mod".to_owned()),
            "dollar" | "textdollar" => Token::Word("dollar".to_owned()),
            "mathdollar" => Token::Op('$'),
            "euro" => Token::Word("euro".to_owned()),
            "pounds" => Token::Word("pound".to_owned()),
            "begin" => {
                let env = self.argument();
                if env == "array" {
                    self.skip_spaces();
                    self.argument();
                }
                self.depth += 1;
                self.push(Token::Command(format!("begin {}", env.trim_end_matches('*'))), text);
                Token::Open('e')
            }
            "end" => {
                self.argument();
                self.depth = self.depth.saturating_sub(1);
                Token::Close('e')
            }
            "triangle" | "angle" | "measuredangle" | "perp" | "parallel" => Token::Symbol(name.to_owned()),
            _ => Token::Command(name.to_owned()),
        };
        match token {
            Token::Open(_) => self.depth += 1,
            Token::Close(_) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.push(token, text);
    }

    /// `\%`, `\{`, `\,`: a backslash and a character that is no letter.
    fn escaped(&mut self, c: char, text: bool) {
        match c {
            '{' => {
                self.depth += 1;
                self.push(Token::Open('S'), text);
            }
            '}' => {
                self.depth = self.depth.saturating_sub(1);
                self.push(Token::Close('S'), text);
            }
            '%' | '&' | '#' => self.push(Token::Op(c), text),
            '$' => self.push(Token::Op('$'), text),
            '|' => self.push(Token::Op('‖'), text),
            '\\' => {
                self.push(Token::Row, text);
                self.row_gap();
            }
            '!' => {}
            // Delimiters of formulas, and spaces.
            _ => self.spaced = true,
        }
    }

    /// Skips the `[4pt]` behind the end of a row.
    fn row_gap(&mut self) {
        let rest = &self.chars[self.at..];
        let Some(close) = rest.iter().take(12).position(|c| *c == ']') else {
            return;
        };
        let gap: String = rest[..close].iter().collect();
        let size = gap.strip_prefix('[').unwrap_or_default().trim_start_matches('-');
        let unit = size.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if unit.len() < size.len() && matches!(unit, "pt" | "mm" | "cm" | "ex" | "em") {
            self.at += close + 1;
        }
    }

    fn skip_spaces(&mut self) {
        while self.peek(0).is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// Takes the text of a command's argument in braces.
    fn argument(&mut self) -> String {
        self.skip_spaces();
        if self.peek(0) != Some('{') {
            let taken = self.peek(0).filter(|c| c.is_ascii_alphanumeric());
            self.at += usize::from(taken.is_some());
            return taken.into_iter().collect();
        }
        let close = self.chars[self.at..].iter().position(|c| *c == '}');
        let end = close.map_or(self.chars.len(), |close| self.at + close);
        let found: String = self.chars[self.at + 1..end.max(self.at + 1)].iter().collect();
        self.at = (end + 1).min(self.chars.len());
        found.trim().to_owned()
    }

    /// Reads `\text{...}`. One letter in an upright font is a variable unless it stands as a unit behind a number.
    fn text(&mut self, name: &str) {
        self.skip_spaces();
        if self.peek(0) != Some('{') {
            return;
        }
        let close = self.chars[self.at..].iter().position(|c| *c == '}');
        let content: String = close.map_or_else(String::new, |close| {
            self.chars[self.at + 1..self.at + close].iter().collect()
        });
        let content = content.trim();
        if self.texts >= MAX_TEXTS {
            return;
        }
        let after_number = matches!(
            self.out.last().map(|tok| &tok.token),
            Some(Token::Number(_) | Token::Close(_))
        );
        let unit = after_number && units::is_short(content);
        if !unit && FUNCTIONS.iter().any(|(spelled, _)| *spelled == content) {
            self.at += close.unwrap_or(0) + 1;
            return self.name(content.to_owned());
        }
        if matches!(name, "mathrm" | "operatorname" | "mathsf") {
            let letter = content.len() == 1 && content.starts_with(|c: char| c.is_ascii_alphabetic());
            let variable = letter && !(unit && content != "e");
            if variable {
                self.at += close.unwrap_or(0) + 1;
                return self.name(content.to_owned());
            }
        }
        if content.len() == 1 && content.starts_with(|c: char| c.is_ascii_digit()) {
            return;
        }
        self.at += 1;
        // A word against a number is apart from it all the same.
        self.spaced = true;
        self.texts += 1;
        self.run(true);
        self.texts -= 1;
        self.spaced = true;
    }
}
