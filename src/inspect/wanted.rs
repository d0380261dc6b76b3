//! Which points are wanted and in which order: `learning_rate>=1e-4`, `style=search,direct`, `-loss`.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::Value;

use crate::spec::text_of;

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The operators as they are written; a longer one before one that it begins with.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// A condition on an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The axis, or a parameter as `with.NAME`.
    pub name: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; alternatives of `=` and `!=` are separated by commas.
    pub text: String,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let malformed = || format!("`{text}` is no condition; write `axis=value`, `axis!=value` or `axis<value`");
        let at = text.find(['!', '<', '>', '=']).ok_or_else(malformed)?;
        let (name, rest) = text.split_at(at);
        let found = OPERATORS.iter().find(|(written, _)| rest.starts_with(written));
        let (written, operator) = found.ok_or_else(malformed)?;
        let (name, wanted) = (name.trim(), rest[written.len()..].trim());
        if name.is_empty() || wanted.is_empty() {
            return Err(malformed());
        }
        if operator.is_order() && wanted.parse::<f64>().is_err() {
            return Err(format!("`{wanted}` in `{text}` is no number"));
        }
        Ok(Wanted {
            name: name.to_owned(),
            operator: *operator,
            text: wanted.to_owned(),
        })
    }
}

impl Operator {
    /// Returns whether it compares by size, which only numbers have.
    pub fn is_order(self) -> bool {
        !matches!(self, Operator::Equal | Operator::NotEqual)
    }
}

impl Wanted {
    /// Returns whether a value is wanted.
    pub fn accepts(&self, value: &Value) -> bool {
        let order = || {
            value
                .as_f64()
                .and_then(|value| value.partial_cmp(&self.text.parse().ok()?))
        };
        match self.operator {
            Operator::Equal => self.names(value),
            Operator::NotEqual => !self.names(value),
            Operator::Less => order() == Some(Ordering::Less),
            Operator::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
            Operator::Greater => order() == Some(Ordering::Greater),
            Operator::GreaterOrEqual => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    /// Returns the single values that are named; a text with a comma may also be one value.
    pub fn alternatives(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim)
    }

    fn names(&self, value: &Value) -> bool {
        is_written(value, &self.text) || self.alternatives().any(|text| is_written(value, text))
    }
}

/// Tells whether a text is how a value is written: `1e-4` is 0.0001.
pub(super) fn is_written(value: &Value, text: &str) -> bool {
    let as_number = || Some(value.as_f64()? == text.parse::<f64>().ok()?);
    text_of(value) == text || value.as_str() == Some(text) || as_number().unwrap_or(false)
}

/// The order of the rows: by an axis or a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// The axis or metric.
    pub name: String,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Sort, String> {
        let name = text.strip_prefix('-');
        let descending = name.is_some();
        let name = name.unwrap_or(text).to_owned();
        if name.is_empty() {
            return Err("name a metric or an axis: `loss`, or `-loss` for the largest first".to_owned());
        }
        Ok(Sort { name, descending })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepted(condition: &str, values: &[Value]) -> Vec<Value> {
        let wanted: Wanted = condition.parse().expect("a condition");
        values.iter().filter(|value| wanted.accepts(value)).cloned().collect()
    }

    #[test]
    fn conditions_compare_numbers_as_numbers_and_texts_as_texts() {
        let rates = [json!(1e-4), json!(3e-4), json!(1), json!("fast")];
        assert_eq!(accepted("lr=1e-4", &rates), [json!(1e-4)]);
        assert_eq!(accepted("lr = 0.0003, 1.0", &rates), [json!(3e-4), json!(1)]);
        assert_eq!(accepted("lr!=1e-4,fast", &rates), [json!(3e-4), json!(1)]);
        assert_eq!(accepted("lr<=3e-4", &rates), [json!(1e-4), json!(3e-4)]);
        assert_eq!(accepted("lr>3e-4", &rates), [json!(1)]);
        assert_eq!(
            accepted("x=a,b", &[json!("a,b"), json!("a"), json!(true)]),
            [json!("a,b"), json!("a")]
        );
        assert_eq!(accepted("x=true", &[json!(true), json!(false)]), [json!(true)]);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for wrong in ["style", "=search", "style=", "style!search", "lr<small"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_minus_means_the_largest_first() {
        let sort: Sort = "-loss".parse().expect("an order");
        assert_eq!((sort.name.as_str(), sort.descending), ("loss", true));
        assert!("-".parse::<Sort>().is_err());
    }
}
