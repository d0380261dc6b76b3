//! Texts with `${...}` in them: cutting them up, filling them in, quoting for a shell.
//!
//! A reference is a dotted name, as `${params.seed}`, perhaps with a default, as `${params.seed:-7}`; `$${` stands for
//! the two characters `${`, and `${$}` for a dollar, which can stand before a reference. It doesn't know what a name refers to: pipelines fill in parameters and axes, and the start
//! of a command its inputs and outputs.

/// How a dollar is written before a reference.
const DOLLAR: &str = "${$}";

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text that stands for itself.
    Text(String),
    /// The dotted name of a `${...}`, without the braces.
    Reference(String),
    /// A `${name:-default}`.
    Default {
        /// The dotted name.
        name: String,
        /// What stands after `:-`.
        default: String,
    },
}

/// A text in which a `${...}` is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("`${{` without `}}`")]
    Unclosed,
    /// Something that is not a dotted name.
    #[error("`${{{name}}}` is not a dotted name such as `${{params.seed}}`")]
    Name {
        /// What is between the braces.
        name: String,
    },
    /// A default that has a reference in it.
    #[error("the default of `${{{name}}}` can't have a reference in it")]
    Nested {
        /// The name.
        name: String,
    },
    /// A name that can't be filled in.
    #[error("`${{{name}}}` does not exist here")]
    Unknown {
        /// The name.
        name: String,
    },
}

/// Cuts a text into its parts.
///
/// # Errors
/// A `${` isn't closed, or what is in it is not a dotted name.
pub fn parse(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(idx) = rest.find("${") {
        if rest[..idx].ends_with('$') {
            plain.push_str(&rest[..idx - 1]);
            plain.push_str("${");
            rest = &rest[idx + 2..];
            continue;
        }
        plain.push_str(&rest[..idx]);
        if let Some(behind) = rest[idx..].strip_prefix(DOLLAR) {
            plain.push('$');
            rest = behind;
            continue;
        }
        let inside = &rest[idx + 2..];
        let end = inside.find('}').ok_or(TemplateError::Unclosed)?;
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name.trim(), Some(default.trim())),
            None => (inside[..end].trim(), None),
        };
        if !is_dotted(name) {
            return Err(TemplateError::Name { name: name.to_owned() });
        }
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        let name = name.to_owned();
        parts.push(match default {
            Some(default) if default.contains("${") => return Err(TemplateError::Nested { name }),
            Some(default) => Part::Default {
                name,
                default: default.to_owned(),
            },
            None => Part::Reference(name),
        });
        rest = &inside[end + 1..];
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// Returns the text with every reference replaced by what `value_of` gives for its name.
///
/// # Errors
/// The text is malformed, or `value_of` knows no value.
pub fn substitute(text: &str, mut value_of: impl FnMut(&str) -> Option<String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    for part in parse(text)? {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Reference(name) => match value_of(&name) {
                Some(value) => out.push_str(&value),
                None => return Err(TemplateError::Unknown { name }),
            },
            Part::Default { name, .. } => return Err(TemplateError::Unknown { name }),
        }
    }
    Ok(out)
}

/// Appends to a text with references what stands for itself, however it looks.
pub fn push_text(out: &mut String, text: &str) {
    match text.contains("${") {
        true => push_template(out, &text.replace("${", "$${")),
        false => push_template(out, text),
    }
}

/// Appends to a text with references another one, so that what each is filled in with stays the same.
pub fn push_template(out: &mut String, template: &str) {
    let text_len = out.trim_end_matches('$').len();
    let num_dollars = out.len() - text_len;
    if template.starts_with("${") {
        out.truncate(text_len);
        out.push_str(&DOLLAR.repeat(num_dollars));
    } else if template.starts_with('{') && num_dollars > 0 {
        out.push('$');
    }
    out.push_str(template);
}

/// Returns the text as one word of a POSIX shell.
pub fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Tells whether a name is words of letters, digits, `_` and `-`, joined by dots.
fn is_dotted(name: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    name.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_cut_out_and_doubled_dollars_are_not() {
        let parts = parse("a ${params.x}${ matrix.y } $${z} $HOME").expect("a good text");
        let expected = [
            Part::Text("a ".into()),
            Part::Reference("params.x".into()),
            Part::Reference("matrix.y".into()),
            Part::Text(" ${z} $HOME".into()),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn malformed_references_are_refused() {
        assert_eq!(parse("${params.x"), Err(TemplateError::Unclosed));
        for text in ["${}", "${a..b}", "${a b}", "${a[0]}", "${1 + 2}"] {
            assert!(matches!(parse(text), Err(TemplateError::Name { .. })), "{text}");
        }
    }

    #[test]
    fn substitution_fails_on_a_name_without_value() {
        let value = |name: &str| (name == "inputs.a").then(|| shell_quote("/a b/it's"));
        assert_eq!(
            substitute("cat ${inputs.a}", value),
            Ok("cat '/a b/it'\\''s'".to_owned())
        );
        assert_eq!(
            substitute("${inputs.b}", value),
            Err(TemplateError::Unknown {
                name: "inputs.b".into()
            })
        );
    }

    #[test]
    fn a_dollar_can_stand_before_a_reference() {
        let parts = [Part::Text("5$".into()), Part::Reference("params.x".into())];
        assert_eq!(parse("5${$}${params.x}").as_deref(), Ok(&parts[..]));
        assert_eq!(parse("$${$} ${$}{a}"), Ok(vec![Part::Text("${$} ${a}".into())]));
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_filled_in_piece_by_piece(
            pieces in proptest::collection::vec(("[$a{}]{0,4}", proptest::bool::ANY), 0..6),
        ) {
            let mut text = String::new();
            let mut expected = String::new();
            for (piece, is_reference) in &pieces {
                if *is_reference {
                    push_template(&mut text, "${x}");
                    expected.push('X');
                } else {
                    push_text(&mut text, piece);
                    expected.push_str(piece);
                }
            }
            let filled = substitute(&text, |name| (name == "x").then(|| "X".to_owned()));
            prop_assert_eq!(filled, Ok(expected), "{}", text);
        }

        #[test]
        fn no_text_panics_and_texts_without_references_stay(text in "[$a{}. ]{0,12}") {
            if let Ok(parts) = parse(&text)
                && !text.contains("${")
            {
                prop_assert_eq!(parts, if text.is_empty() { vec![] } else { vec![Part::Text(text)] });
            }
        }
    }
}
