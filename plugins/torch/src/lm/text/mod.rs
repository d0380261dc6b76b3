//! What a tokenizer's files ask for besides `tokenizer.json`, and text that comes token by token.

pub(super) mod added_tokens;
pub(super) mod metaspace;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::TextStream;
