//! The corpus that fuzzing the readers of model files has kept, replayed: what once broke stays mended.

use std::path::{Path, PathBuf};

#[path = "../../../../fuzz/weights.rs"]
mod weights;

#[test]
fn the_corpus_of_model_files_breaks_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/weights");
    let entries = std::fs::read_dir(folder).expect("the corpus");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    let is_valid = |path: &&PathBuf| weights::weights(&std::fs::read(path).expect("an input"));
    let num_valid = paths.iter().filter(is_valid).count();
    assert!(
        num_valid > 3 && num_valid < paths.len(),
        "{num_valid} of {}",
        paths.len()
    );
}
