//! Any bytes as a pipeline: read, checked and built with the demo plugin's kinds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    entry::pipeline(bytes);
});
