//! Any two texts, apart at the first zero byte, as a reference answer and a response: judged twice alike, and equal to themselves.
#![no_main]

// The verifier of the torch plugin by itself: the plugin as a whole would link libtorch.
#[allow(dead_code)]
#[path = "../../plugins/torch/src/formats.rs"]
mod formats;
#[allow(dead_code)]
#[path = "../../plugins/torch/src/verify/mod.rs"]
mod verify;

use verify::math::{compare_texts, equal, extract};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (reference, response) = text.split_once('\0').unwrap_or((text, text));
    assert_eq!(compare_texts(reference, response), compare_texts(reference, response));
    assert_eq!(equal(reference, response), equal(response, reference), "{reference:?} {response:?}");
    if let Some(answer) = extract(response) {
        // What equals anything at all equals itself.
        assert!(equal(&answer, &answer) || !equal(&answer, reference), "{answer:?}");
    }
});
