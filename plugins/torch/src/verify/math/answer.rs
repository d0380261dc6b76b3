//! What an answer is as a whole: a number with a unit, a tuple, a set, an interval, a matrix, a relation, words.
//!
//! Reads tokens into that shape. Knows nothing of when two answers are equal.

use super::expr::{Expr, parse, parse_prefix};
use super::lex::{Tok, Token};
use super::reals::{self, Reals};
use super::units;
use super::words;

const MAX_DEPTH: usize = 8;
const MAX_MEMBERS: usize = 200;

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Quantity(Quantity),
    /// With its brackets.
    Tuple(char, char, Vec<Answer>),
    Set(Vec<Answer>),
    /// Members joined by commas or words.
    List(Vec<Answer>),
    Reals(Reals),
    Matrix(Vec<Vec<Answer>>),
    /// `3:4`, or a time of the day.
    Ratio(Vec<Quantity>),
    Relation(Relation),
    /// The letter of a choice, and what stands behind it.
    Choice(char, Option<Box<Answer>>),
    /// Lower-case words.
    Text(Vec<String>),
    Unparsed,
}

#[derive(Debug, Clone)]
pub(super) struct Quantity {
    pub(super) expr: Expr,
    pub(super) unit: Option<String>,
    pub(super) percent: bool,
}

/// `a = b`, `a < b < c`, `x \in S`: one more member than signs.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) members: Vec<Member>,
    pub(super) signs: Vec<char>,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) answer: Answer,
    /// What it names, if it can be nothing but the name of a value (`x`, `f(x)`, `AB`).
    pub(super) name: Option<String>,
}

/// Reads an answer.
pub(super) fn read(tokens: &[Tok]) -> Answer {
    read_list(tokens, 0)
}

/// Takes away what frames an answer: punctuation around it, and a group that holds all of it.
pub(super) fn trimmed(mut tokens: &[Tok]) -> &[Tok] {
    loop {
        let ends = |token: &Token| matches!(token, Token::Op('.' | ',' | ';' | ':') | Token::Row);
        match tokens {
            [inner @ .., last] if ends(&last.token) => tokens = inner,
            [first, inner @ ..] if ends(&first.token) || matches!(first.token, Token::Op('≈' | '=' | '→')) => {
                tokens = inner
            }
            // Bold type of Markdown, which otherwise is a power.
            [first, inner @ .., last] if first.token == Token::Op('^') && last.token == Token::Op('^') => {
                tokens = inner;
            }
            [first, inner @ .., _]
                if first.token == Token::Open('{') && closes_at(tokens, 0) == Some(tokens.len() - 1) =>
            {
                tokens = inner;
            }
            _ => return tokens,
        }
    }
}

/// Returns where the bracket that opens at `start` closes, whatever its kind.
fn closes_at(tokens: &[Tok], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, tok) in tokens.iter().enumerate().skip(start) {
        match tok.token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at the tokens outside of brackets that `is_separator` takes; also returns those.
fn split(tokens: &[Tok], is_separator: impl Fn(&Token) -> bool) -> (Vec<&[Tok]>, Vec<&Token>) {
    let (mut parts, mut separators) = (Vec::new(), Vec::new());
    let (mut start, mut depth) = (0, 0usize);
    for (at, tok) in tokens.iter().enumerate() {
        match tok.token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => depth = depth.saturating_sub(1),
            _ if depth == 0 && is_separator(&tok.token) => {
                parts.push(&tokens[start..at]);
                separators.push(&tok.token);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    (parts, separators)
}

fn is_word(token: &Token, words: &[&str]) -> bool {
    matches!(token, Token::Word(word) if words.contains(&word.to_ascii_lowercase().as_str()))
}

fn read_list(tokens: &[Tok], depth: usize) -> Answer {
    let tokens = trimmed(tokens);
    if tokens.is_empty() || depth > MAX_DEPTH {
        return Answer::Unparsed;
    }
    if let Some(found) = read_choice(tokens, depth).or_else(|| read_turned_brackets(tokens, depth)) {
        return found;
    }
    // x < 1 \cup x > 2 is said of the values, not of sets.
    let (united, unions) = split(tokens, |token| *token == Token::Op('∪'));
    let of_values = !unions.is_empty()
        && united
            .iter()
            .all(|part| split(part, is_relation).1.len() == 1 && part.iter().all(|tok| tok.token != Token::Op('∈')));
    if of_values && united.len() <= MAX_MEMBERS {
        let members = united.into_iter().map(|part| read_statement(part, depth)).collect();
        return joined(members, Joint::Or);
    }
    let joins = |token: &Token| matches!(token, Token::Op(',' | ';')) || is_word(token, &["and", "or"]);
    let (parts, joints) = split(tokens, joins);
    let parts: Vec<&[Tok]> = parts.into_iter().map(trimmed).filter(|part| !part.is_empty()).collect();
    if parts.len() > MAX_MEMBERS {
        return Answer::Unparsed;
    }
    let members: Vec<Answer> = parts.iter().flat_map(|part| read_signs(part, depth)).collect();
    if let [_] = members.as_slice() {
        return members.into_iter().next().unwrap_or(Answer::Unparsed);
    }
    let any = |words: &[&str]| joints.iter().any(|joint| is_word(joint, words));
    let joint = match (any(&["or"]), any(&["and"])) {
        (true, _) => Joint::Or,
        (false, true) => Joint::And,
        (false, false) => Joint::Comma,
    };
    match joined(members, joint) {
        // The values of both signs have no order.
        Answer::List(values)
            if tokens.iter().any(|tok| is_sign(&tok.token))
                && !values.iter().any(|value| matches!(value, Answer::Relation(_))) =>
        {
            Answer::Set(values)
        }
        other => other,
    }
}

fn is_sign(token: &Token) -> bool {
    matches!(token, Token::Op('±' | '∓'))
}

enum Joint {
    Or,
    And,
    Comma,
}

fn joined(members: Vec<Answer>, joint: Joint) -> Answer {
    if let Some(reals) = joined_inequalities(&members, joint) {
        return reals;
    }
    // x = 1, 2 and x = 1, x = 2 name the same values; x = 1, y = 2 do not.
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (idx, member) in members.iter().enumerate() {
        match member {
            Answer::Relation(relation) => match relation.assignment() {
                Some((name, value)) => {
                    names.push(name.to_owned());
                    values.push(value.clone());
                }
                None => return Answer::List(members),
            },
            _ if idx == 0 => return Answer::List(members),
            other => values.push(other.clone()),
        }
    }
    // x_1 and x_2 are two values of x.
    let stem = |name: &String| name.split('_').next().unwrap_or_default().to_owned();
    let one_name = names.iter().all(|name| stem(name) == stem(&names[0]));
    let bare = values.len() - names.len();
    if one_name && (bare == 0 || names.len() == 1) && !names.is_empty() {
        return Answer::List(values);
    }
    Answer::List(members)
}

/// Inequalities for one variable: together they are a set of numbers.
fn joined_inequalities(members: &[Answer], joint: Joint) -> Option<Answer> {
    let mut found = Vec::new();
    let mut name = None;
    // Sets and exceptions restrict what else is said.
    let (mut excludes, mut only_sets) = (false, true);
    for member in members {
        let Answer::Relation(relation) = member else {
            return None;
        };
        if relation.is_equation() {
            return None;
        }
        only_sets &= relation.signs == ['∈'];
        excludes |= relation.signs.contains(&'≠') || relation.signs == ['∈'];
        let (variable, reals) = reals::of_relation(relation)?;
        if *name.get_or_insert_with(|| variable.clone()) != variable {
            return None;
        }
        found.push(reals);
    }
    if only_sets {
        return None;
    }
    let mut found = found.into_iter();
    let first = found.next()?;
    let both = found
        .clone()
        .try_fold(first.clone(), |all, next| all.intersection(&next))?;
    let either = found.try_fold(first, |all, next| all.union(&next))?;
    let reals = match joint {
        _ if excludes => both,
        Joint::Or => either,
        // "x < 1 and x > 2" is said of both parts of a union.
        Joint::And | Joint::Comma if both.is_empty() => either,
        Joint::And => both,
        Joint::Comma => return None,
    };
    Some(Answer::Relation(Relation::membership(name?, Answer::Reals(reals))))
}

/// Reads what may have a `\pm` in it: one answer for each sign.
fn read_signs(tokens: &[Tok], depth: usize) -> Vec<Answer> {
    let has_sign = tokens.iter().any(|tok| is_sign(&tok.token));
    // Within a set or tuple the members have their own signs.
    let whole = matches!(tokens.first(), Some(tok) if matches!(tok.token, Token::Open('S' | '(' | '[')))
        && closes_at(tokens, 0) == Some(tokens.len() - 1)
        && split(&tokens[1..tokens.len() - 1], |token| *token == Token::Op(','))
            .0
            .len()
            > 1;
    if !has_sign || whole {
        return vec![read_statement(tokens, depth)];
    }
    let with = |plus: char, minus: char| {
        let tokens: Vec<Tok> = tokens
            .iter()
            .map(|tok| {
                let token = match tok.token {
                    Token::Op('±') => Token::Op(plus),
                    Token::Op('∓') => Token::Op(minus),
                    ref other => other.clone(),
                };
                Tok { token, ..tok.clone() }
            })
            .collect();
        read_statement(&tokens, depth)
    };
    vec![with('+', '-'), with('-', '+')]
}

fn is_relation(token: &Token) -> bool {
    matches!(token, Token::Op('=' | '<' | '>' | '≤' | '≥' | '≠' | '≈' | '∈'))
}

fn read_statement(tokens: &[Tok], depth: usize) -> Answer {
    let (parts, signs) = split(tokens, is_relation);
    if signs.is_empty() {
        return read_item(tokens, depth);
    }
    if parts.len() > 12 {
        return Answer::Unparsed;
    }
    let signs = signs
        .into_iter()
        .filter_map(|token| match token {
            Token::Op(sign) => Some(*sign),
            _ => None,
        })
        .collect();
    let members = parts
        .into_iter()
        .map(|part| {
            let part = trimmed(part);
            Member {
                answer: read_item(part, depth),
                name: name_of(part),
            }
        })
        .collect();
    Answer::Relation(Relation { members, signs })
}

impl Relation {
    /// `name \in set`
    fn membership(name: String, set: Answer) -> Self {
        let named = Member {
            answer: Answer::Unparsed,
            name: Some(name),
        };
        let set = Member {
            answer: set,
            name: None,
        };
        Self {
            members: vec![named, set],
            signs: vec!['∈'],
        }
    }

    /// Returns the name and the value of `name = value`, in either order.
    pub(super) fn assignment(&self) -> Option<(&str, &Answer)> {
        if !matches!(self.signs.as_slice(), ['=' | '≈' | '∈']) {
            return None;
        }
        match self.members.as_slice() {
            [Member { name: Some(name), .. }, Member { answer, name: None }] => Some((name, answer)),
            [Member { answer, name: None }, Member { name: Some(name), .. }] if self.signs[0] != '∈' => {
                Some((name, answer))
            }
            // x = a: both could be names.
            [Member { name: Some(name), .. }, Member { answer, .. }] => Some((name, answer)),
            _ => None,
        }
    }
}

/// Returns what tokens name that can be nothing but the name of a value.
fn name_of(tokens: &[Tok]) -> Option<String> {
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

/// Writes a token so that different ones differ.
pub(super) fn spelled(token: &Token) -> String {
    match token {
        Token::Number(text) | Token::Symbol(text) => text.clone(),
        Token::Word(text) => text.to_lowercase(),
        Token::Repeating(text, period) => format!("{text}[{period}]"),
        Token::Function(name) => (*name).to_owned(),
        Token::Command(name) => format!("\\{name}"),
        Token::Op(c) | Token::Open(c) => c.to_string(),
        Token::Close(c) => format!("{c}."),
        Token::Row => "\\\\".to_owned(),
    }
}

/// Reads `(B)`, `B.`, `(B) 12` and `\text{B}`.
fn read_choice(tokens: &[Tok], depth: usize) -> Option<Answer> {
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

fn read_item(tokens: &[Tok], depth: usize) -> Answer {
    let tokens = trimmed(tokens);
    if tokens.is_empty() || depth > MAX_DEPTH {
        return Answer::Unparsed;
    }
    if let [first, rest @ ..] = tokens
        && is_word(&first.token, &["negative", "minus"])
        && let Answer::Quantity(quantity) = read_item(rest, depth + 1)
    {
        return Answer::Quantity(Quantity {
            expr: Expr::Negative(Box::new(quantity.expr)),
            ..quantity
        });
    }
    read_number_set(tokens, depth)
        .or_else(|| read_bracket(tokens, depth))
        .or_else(|| read_matrix(tokens, depth))
        .or_else(|| read_quantity(tokens).map(Answer::Quantity))
        .or_else(|| read_ratio(tokens))
        .unwrap_or_else(|| read_text(tokens))
}

/// Reads the names of sets, and what unions, intersections and differences make of intervals.
fn read_number_set(tokens: &[Tok], depth: usize) -> Option<Answer> {
    match tokens {
        [
            Tok {
                token: Token::Op('∅'),
            ..
            },
        ] => return Some(Answer::Set(Vec::new())),
        [
            Tok {
                token: Token::Symbol(name),
                ..
            },
        ] if name == "ℝ" => return Some(Answer::Reals(Reals::all())),
        _ => {}
    }
    let (parts, operators) = split(tokens, |token| matches!(token, Token::Op('∪' | '∩' | '∖')));
    if operators.is_empty() {
        return None;
    }
    if parts.len() > 40 {
        return Some(Answer::Unparsed);
    }
    let mut parts = parts
        .into_iter()
        .map(|part| reals::of_answer(&read_item(part, depth + 1)));
    let mut all = parts.next()??;
    for (operator, part) in operators.into_iter().zip(parts) {
        let part = part?;
        all = match operator {
            Token::Op('∪') => all.union(&part)?,
            Token::Op('∩') => all.intersection(&part)?,
            _ => all.intersection(&part.complement())?,
        };
    }
    Some(Answer::Reals(all))
}

/// Reads intervals with brackets that turn away from an open end: `]1, 2[`.
fn read_turned_brackets(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let [first, inner @ .., last] = tokens else { return None };
    let open = match first.token {
        Token::Close('[') => '(',
        Token::Open('[') => '[',
        _ => return None,
    };
    let close = match last.token {
        Token::Open('[') => ')',
        Token::Close('[') => ']',
        _ => return None,
    };
    let turned = open == '(' || close == ')';
    if !turned
        || inner
            .iter()
            .any(|tok| matches!(tok.token, Token::Open('[') | Token::Close('[')))
    {
        return None;
    }
    let ends = members(inner, depth)?;
    (ends.len() == 2).then_some(Answer::Tuple(open, close, ends))
}

/// Reads tuples, intervals and sets.
fn read_bracket(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    let Token::Open(open @ ('(' | '[' | 'S' | '<')) = first.token else {
        return None;
    };
    if closes_at(tokens, 0) != Some(tokens.len() - 1) {
        return None;
    }
    let Token::Close(close) = last.token else { return None };
    let inner = &tokens[1..tokens.len() - 1];
    if open == 'S' {
        if inner.iter().any(|tok| matches!(tok.token, Token::Op('|' | ':' | '…'))) {
            return read_set_builder(inner, depth);
        }
        return Some(Answer::Set(if inner.is_empty() {
            Vec::new()
        } else {
            members(inner, depth)?
        }));
    }
    if open == '<' {
        return Some(Answer::Tuple('(', ')', members(inner, depth)?));
    }
    let found = members(inner, depth)?;
    let end = if close == '[' { ']' } else { ')' };
    (found.len() > 1).then_some(Answer::Tuple(open, end, found))
}

/// Reads `x | x > 2` inside of a set's braces.
fn read_set_builder(inner: &[Tok], depth: usize) -> Option<Answer> {
    let (parts, _) = split(inner, |token| matches!(token, Token::Op('|' | ':')));
    let [names, condition] = parts.as_slice() else {
        return Some(Answer::Unparsed);
    };
    let (names, _) = split(names, |token| *token == Token::Op('∈'));
    let name = name_of(names.first()?)?;
    let condition = read_list(condition, depth + 1);
    match &condition {
        Answer::Relation(relation) => match reals::of_relation(relation) {
            Some((variable, reals)) if variable == name => Some(Answer::Reals(reals)),
            _ => Some(Answer::Unparsed),
        },
        _ => Some(Answer::Unparsed),
    }
}

fn members(tokens: &[Tok], depth: usize) -> Option<Vec<Answer>> {
    let (parts, _) = split(tokens, |token| matches!(token, Token::Op(',' | ';')));
    if parts.len() > MAX_MEMBERS {
        return None;
    }
    let mut found = Vec::new();
    for part in parts {
        let part = trimmed(part);
        if part.is_empty() {
            return None;
        }
        for answer in read_signs(part, depth + 1) {
            if matches!(answer, Answer::Unparsed) {
                return None;
            }
            found.push(answer);
        }
    }
    Some(found)
}

/// Reads an environment, perhaps with a factor before it; systems of equations are lists.
fn read_matrix(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let start = tokens.iter().position(|tok| tok.token == Token::Open('e'))?;
    let Token::Command(name) = &tokens[start.checked_sub(1)?].token else {
        return None;
    };
    let mut env = name.strip_prefix("begin ")?;
    // An array may stand in its own brackets.
    let before = &tokens[..start - 1];
    let close = closes_at(tokens, start)?;
    let (before, after) = match (before, &tokens[close + 1..]) {
        ([before @ .., open], [_, after @ ..])
            if matches!(env, "array" | "matrix" | "smallmatrix") && matches!(open.token, Token::Open('(' | '[')) =>
        {
            (before, after)
        }
        (before, after) => (before, after),
    };
    if !trimmed(after).is_empty() {
        return None;
    }
    // A brace on the left alone makes cases of an array.
    let mut before = before;
    if env == "array" && matches!(before, [open] if open.token == Token::Open('S')) {
        (env, before) = ("cases", &[]);
    }
    let (rows, _) = split(&tokens[start + 1..close], |token| *token == Token::Row);
    let rows: Vec<&[Tok]> = rows.into_iter().filter(|row| !row.is_empty()).collect();
    if matches!(env, "cases" | "aligned" | "align" | "gathered" | "gather") {
        if !before.is_empty() {
            return None;
        }
        let mut joined: Vec<Tok> = Vec::new();
        for row in rows {
            // Aligned equations have their alignment mark before the sign.
            joined.extend(row.iter().filter(|tok| tok.token != Token::Op('&')).cloned());
            joined.push(Tok {
                token: Token::Op(','),
                spaced: false,
                text: false,
            });
        }
        return Some(read_list(&joined, depth + 1));
    }
    if !matches!(
        env,
        "pmatrix" | "bmatrix" | "matrix" | "array" | "Bmatrix" | "smallmatrix"
    ) {
        return None;
    }
    let factor = if before.is_empty() { None } else { Some(parse(before)?) };
    let cells = |row: &&[Tok]| -> Option<Vec<Answer>> {
        let (cells, _) = split(row, |token| *token == Token::Op('&'));
        let read = |cell: &[Tok]| match (read_item(cell, depth + 1), &factor) {
            (Answer::Unparsed, _) => None,
            (Answer::Quantity(quantity), Some(factor)) => Some(Answer::Quantity(Quantity {
                expr: Expr::Product(vec![factor.clone(), quantity.expr]),
                ..quantity
            })),
            (_, Some(_)) => None,
            (answer, None) => Some(answer),
        };
        cells.into_iter().map(read).collect()
    };
    let rows: Vec<Vec<Answer>> = rows.iter().map(cells).collect::<Option<_>>()?;
    let width = rows.first()?.len();
    rows.iter()
        .all(|row| row.len() == width)
        .then_some(Answer::Matrix(rows))
}

/// Reads an expression with its unit.
fn read_quantity(tokens: &[Tok]) -> Option<Quantity> {
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
    let (mut expr, used) = parse_prefix(&tokens)?;
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

/// Reads `3:4`, perhaps with "to", and times of the day.
fn read_ratio(tokens: &[Tok]) -> Option<Answer> {
    let (parts, marks) = split(tokens, |token| *token == Token::Op(':') || is_word(token, &["to"]));
    if marks.is_empty() || parts.len() > 4 {
        return None;
    }
    let read = |part: &[Tok]| read_quantity(part);
    Some(Answer::Ratio(parts.into_iter().map(read).collect::<Option<_>>()?))
}

/// Reads words; `Unparsed` if there is more than words, numbers and punctuation.
fn read_text(tokens: &[Tok]) -> Answer {
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
