//! Tokens that `tokenizer_config.json` adds to those of `tokenizer.json`.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::lm::chat::token_text;

/// Adds the entries of `added_tokens_decoder`, in the order of their ids, and the special tokens that are no tokens yet.
///
/// # Errors
/// What is wrong with an entry: its id must be the one that the tokenizer gives to the token, because the model's
/// embeddings are in that order.
pub fn add(
    tokenizer: &mut tokenizers::Tokenizer,
    settings: &Value,
    special_tokens: &Map<String, Value>,
) -> Result<(), String> {
    let mut entries = Vec::new();
    for (id, entry) in settings
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let number: u32 = id
            .parse()
            .map_err(|_| format!("added_tokens_decoder: expected a token id, found {id:?}"))?;
        let text = token_text(entry).ok_or_else(|| format!("added_tokens_decoder: token {id} has no content"))?;
        entries.push((number, text, entry));
    }
    entries.sort_by_key(|(id, ..)| *id);
    let is_special = |text: &str| special_tokens.values().any(|special| special.as_str() == Some(text));
    for (id, text, entry) in entries {
        let flag = |name: &str| entry.get(name).and_then(Value::as_bool).unwrap_or(false);
        if tokenizer.token_to_id(text).is_none() {
            let special = flag("special") || is_special(text);
            let token = AddedToken::from(text, special)
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            tokenizer.add_tokens([token]).map_err(|error| error.to_string())?;
        }
        let got = tokenizer.token_to_id(text);
        if got != Some(id) {
            return Err(format!(
                "added_tokens_decoder gives {text:?} the id {id}, tokenizer.json gives it {}",
                got.map_or("none".to_owned(), |got| got.to_string())
            ));
        }
    }
    for text in special_tokens.values().filter_map(Value::as_str) {
        if tokenizer.token_to_id(text).is_none() {
            let token = AddedToken::from(text, true);
            tokenizer
                .add_special_tokens([token])
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
