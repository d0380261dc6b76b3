//! Texts with `${...}` in them: cutting them up, filling them in, quoting for a shell.
//!
//! A reference is a dotted name, as `${params.seed}`, perhaps with a default, as `${params.seed:-7}`; `$${` stands for
//! the two characters `${`. It doesn't know what a name refers to: pipelines fill in parameters and axes, and the start
//! of a command its inputs and outputs.

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

    proptest! {
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
