//! Any bytes as a text with `${...}`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::template(bytes));
