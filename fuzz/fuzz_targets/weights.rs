//! Any bytes as the head of a file of model weights.
#![no_main]

#[path = "../weights.rs"]
mod weights;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    weights::weights(bytes);
});
