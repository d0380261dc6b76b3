//! What a row is called: one readable name from an input's label and axes.
//!
//! The rule, which users meet in the parameter `order`: the values of the axes in the order of the axes' names (a
//! word stands alone, a number or a boolean as `name=value`), then the label. Abbreviations that are written in
//! capitals everywhere (`sft`, `grpo` ...) are capitalized, `_` becomes a space, `+` is spaced. So `sft` at
//! `style: search` is "search SFT", and `sft+grpo` at `style: direct, seed: 2` is "seed=2 direct SFT + GRPO".

use std::collections::BTreeMap;

use serde_json::Value;

const ABBREVIATIONS: [&str; 10] = ["sft", "grpo", "rl", "ppo", "dpo", "mcts", "lm", "lora", "cot", "kl"];

/// Returns the name of the input with this label at these axes.
pub fn row_name(label: Option<&str>, axes: &BTreeMap<String, Value>) -> String {
    let mut words: Vec<String> = axes
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => text.clone(),
            other => format!("{name}={other}"),
        })
        .collect();
    if let Some(label) = label {
        words.push(nice_label(label));
    }
    if words.is_empty() {
        "model".to_owned()
    } else {
        words.join(" ")
    }
}

/// Appends a number to each repeated name, so that a row can be told from another.
pub fn make_unique(names: &mut [String]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let count = seen.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            *name = format!("{name} #{count}");
        }
    }
}

/// Returns a label as a person would write it.
pub fn nice_label(label: &str) -> String {
    let spaced = label.replace('_', " ").replace('+', " + ");
    let words = spaced.split_whitespace().map(|word| {
        if ABBREVIATIONS.contains(&word) {
            word.to_uppercase()
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    #[test]
    fn axis_values_come_before_the_label() {
        assert_eq!(
            row_name(Some("sft"), &axes(&[("style", "search".into())])),
            "search SFT"
        );
        assert_eq!(row_name(Some("base"), &axes(&[])), "base");
        assert_eq!(
            row_name(None, &axes(&[("learning_rate", 0.001.into())])),
            "learning_rate=0.001"
        );
        assert_eq!(
            row_name(
                Some("sft+grpo"),
                &axes(&[("style", "direct".into()), ("seed", 2.into())])
            ),
            "seed=2 direct SFT + GRPO"
        );
        assert_eq!(row_name(None, &axes(&[])), "model");
    }

    #[test]
    fn repeated_names_are_numbered() {
        let mut names = vec!["model".to_owned(), "base".to_owned(), "model".to_owned()];
        make_unique(&mut names);
        assert_eq!(names, ["model", "base", "model #2"]);
    }
}
