//! Cutting an answer, in LaTeX or plain text, into tokens.
//!
//! What only concerns looks is gone afterwards: sizes of brackets, small spaces, fonts, dollar signs, separators of
//! thousands. Knows which letters are a word and which are variables, and nothing of what the tokens mean together.

use super::units;

/// Longer answers are compared as text alone.
pub(super) const MAX_LENGTH: usize = 4000;

const MAX_TEXTS: usize = 10;

/// Stands for a comma that can only separate thousands (`{,}` or `,\!`).
const THOUSANDS: char = '\u{1}';

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Token {
    /// Digits with at most one point, without separators of thousands.
    Number(String),
    /// `0.1\overline{6}`: the digits before the period, and the period.
    Repeating(String, String),
    /// A variable: one letter, a Greek one, or several capitals (`AB`).
    Symbol(String),
    /// Letters that are read as text.
    Word(String),
    /// The name of a function that takes its argument without brackets.
    Function(&'static str),
    /// A LaTeX command that has arguments, or that nothing is known of.
    Command(String),
    /// An operator, a relation or a mark; LaTeX's names for them are single characters here.
    Op(char),
    /// `(`, `[`, `{` (a LaTeX group), `S` (a brace that is seen), `<` (angle), `f` (floor), `c` (ceiling), `e`
    /// (the cells of an environment).
    Open(char),
    Close(char),
    /// The end of a row.
    Row,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tok {
    pub(super) token: Token,
    /// White space stands before it.
    pub(super) spaced: bool,
    /// It is inside `\text{...}` or the like.
    pub(super) text: bool,
}

/// Functions, by the name under which the parser knows them.
const FUNCTIONS: &[(&str, &str)] = &[
    ("sin", "sin"),
    ("cos", "cos"),
    ("tan", "tan"),
    ("cot", "cot"),
    ("sec", "sec"),
    ("csc", "csc"),
    ("tg", "tan"),
    ("ctg", "cot"),
    ("cosec", "csc"),
    ("arcsin", "asin"),
    ("arccos", "acos"),
    ("arctan", "atan"),
    ("asin", "asin"),
    ("acos", "acos"),
    ("atan", "atan"),
    ("arctg", "atan"),
    ("arccot", "acot"),
    ("sinh", "sinh"),
    ("cosh", "cosh"),
    ("tanh", "tanh"),
    ("ln", "ln"),
    ("log", "log"),
    ("lg", "lg"),
    ("exp", "exp"),
    ("cis", "cis"),
    ("max", "max"),
    ("min", "min"),
    ("gcd", "gcd"),
    ("lcm", "lcm"),
];

const GREEK: &[(&str, char)] = &[
    ("alpha", 'α'),
    ("beta", 'β'),
    ("gamma", 'γ'),
    ("delta", 'δ'),
    ("epsilon", 'ε'),
    ("zeta", 'ζ'),
    ("eta", 'η'),
    ("theta", 'θ'),
    ("iota", 'ι'),
    ("kappa", 'κ'),
    ("lambda", 'λ'),
    ("mu", 'μ'),
    ("nu", 'ν'),
    ("xi", 'ξ'),
    ("pi", 'π'),
    ("rho", 'ρ'),
    ("sigma", 'σ'),
    ("tau", 'τ'),
    ("phi", 'φ'),
    ("chi", 'χ'),
    ("psi", 'ψ'),
    ("omega", 'ω'),
    ("Gamma", 'Γ'),
    ("Delta", 'Δ'),
    ("Theta", 'Θ'),
    ("Lambda", 'Λ'),
    ("Sigma", 'Σ'),
    ("Phi", 'Φ'),
    ("Psi", 'Ψ'),
    ("Omega", 'Ω'),
];

/// Commands that are one operator.
const OPERATORS: &[(&str, char)] = &[
    ("cdot", '*'),
    ("times", '*'),
    ("ast", '*'),
    ("bullet", '*'),
    ("div", '/'),
    ("pm", '±'),
    ("mp", '∓'),
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("leqq", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("geqq", '≥'),
    ("lt", '<'),
    ("gt", '>'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("approx", '≈'),
    ("simeq", '≈'),
    ("thickapprox", '≈'),
    ("equiv", '≡'),
    ("in", '∈'),
    ("cup", '∪'),
    ("bigcup", '∪'),
    ("cap", '∩'),
    ("bigcap", '∩'),
    ("setminus", '∖'),
    ("smallsetminus", '∖'),
    ("backslash", '∖'),
    ("infty", '∞'),
    ("infin", '∞'),
    ("emptyset", '∅'),
    ("varnothing", '∅'),
    ("circ", '°'),
    ("degree", '°'),
    ("prime", '′'),
    ("mid", '|'),
    ("vert", '|'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("ldots", '…'),
    ("dots", '…'),
    ("cdots", '…'),
    ("colon", ':'),
    ("to", '→'),
    ("rightarrow", '→'),
    ("mapsto", '→'),
];

/// Commands that say how something looks, and no more.
const LOOKS: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "middle",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "nolimits",
    "boxed",
    "fbox",
    "mathbf",
    "mathit",
    "boldsymbol",
    "bm",
    "mathcal",
    "bold",
    "bf",
    "rm",
    "it",
    "hline",
    "nonumber",
    "noindent",
    "centering",
    "large",
    "Large",
    "LARGE",
    "huge",
    "Huge",
    "small",
    "framebox",
    "ensuremath",
];

/// Commands whose argument is text.
const TEXTS: &[&str] = &[
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "textnormal",
    "mbox",
    "hbox",
    "emph",
    "mathrm",
    "mathsf",
    "operatorname",
];

/// Cuts a text into tokens; `None` if it is too long.
pub(super) fn lex(text: &str) -> Option<Vec<Tok>> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let mut lexer = Lexer {
        chars: cleaned(text),
        at: 0,
        out: Vec::new(),
        depth: 0,
        texts: 0,
        spaced: false,
    };
    lexer.run(false);
    mark_sets(&mut lexer.out);
    Some(lexer.out)
}

/// Between intervals a capital U is a union, and before a set's brace a minus sign a difference.
fn mark_sets(tokens: &mut [Tok]) {
    for at in 1..tokens.len().saturating_sub(1) {
        let (before, after) = (&tokens[at - 1].token, &tokens[at + 1].token);
        let set = match &tokens[at].token {
            Token::Symbol(name) if name == "U" => {
                matches!(before, Token::Close('(' | '[')) && matches!(after, Token::Open('(' | '['))
            }
            Token::Op('-') => *after == Token::Open('S') && matches!(before, Token::Symbol(name) if name == "ℝ"),
            _ => false,
        };
        if set {
            let sign = if tokens[at].token == Token::Op('-') {
                '∖'
            } else {
                '∪'
            };
            tokens[at].token = Token::Op(sign);
        }
    }
}

/// Brings marks that look alike to one character, and marks commas that only separate thousands.
fn cleaned(text: &str) -> Vec<char> {
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

struct Lexer {
    chars: Vec<char>,
    at: usize,
    out: Vec<Tok>,
    /// Brackets that are open, not counting groups: inside them a comma separates.
    depth: usize,
    /// `\\text` inside of which the lexer is.
    texts: usize,
    spaced: bool,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, token: Token, text: bool) {
        let spaced = std::mem::take(&mut self.spaced);
        self.out.push(Tok { token, spaced, text });
    }

    /// Reads up to the end, or in text to the brace that closes it.
    fn run(&mut self, text: bool) {
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
    fn name(&mut self, run: String) {
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

    fn command(&mut self, text: bool) {
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
