//! Lines that check themselves: JSON objects with a value and the digest of its text.
//!
//! The digest is of the text as it stands, so that reading needs no canonical form.

use serde::Serialize;

/// What comes before the digest, between digest and value, and after the value.
const PARTS: [&str; 3] = [r#"{"blake3":""#, r#"","value":"#, "}\n"];

/// Returns a value as a line that checks itself, with its end.
pub(super) fn encode(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("the values of this module are JSON");
    let [before, between, after] = PARTS;
    format!("{before}{}{between}{text}{after}", digest(&text))
}

/// Returns the text of a line's value; nothing where the line is not as it was written.
pub(super) fn decode(line: &str) -> Option<&str> {
    let [before, between, after] = PARTS;
    let (stated, rest) = line.strip_prefix(before)?.split_once(between)?;
    let text = rest.strip_suffix(after)?;
    (digest(text) == stated).then_some(text)
}

/// Returns the digest of a text, in hexadecimal.
pub(super) fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        /// A line reads back, and no longer does when it is cut or one of its bytes is another.
        #[test]
        fn a_change_is_noticed(text in ".{0,40}", at in any::<prop::sample::Index>(), flip in 1u8..128) {
            let value = json!({"text": text, "number": 0.1});
            let line = encode(&value);
            prop_assert_eq!(decode(&line).map(str::to_owned), Some(value.to_string()));
            let at = at.index(line.len());
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= flip;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(decode(&changed), None);
            }
            prop_assert_eq!(line.get(..at).and_then(decode), None);
        }
    }
}
