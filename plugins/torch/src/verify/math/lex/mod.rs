//! Cutting an answer, in LaTeX or plain text, into tokens.
//!
//! What only concerns looks is gone afterwards: sizes of brackets, small spaces, fonts, dollar signs, separators of
//! thousands. Knows which letters are a word and which are variables, and nothing of what the tokens mean together.

mod clean;
mod command;
mod lexer;
mod names;

use clean::cleaned;
use lexer::Lexer;

/// Longer answers are compared as text alone.
const MAX_LENGTH: usize = 4000;

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

/// Cuts a text into tokens; `None` if it is too long.
pub(super) fn lex(text: &str) -> Option<Vec<Tok>> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let mut lexer = Lexer::new(cleaned(text));
    lexer.run(false);
    let mut tokens = lexer.into_tokens();
    mark_sets(&mut tokens);
    Some(tokens)
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
