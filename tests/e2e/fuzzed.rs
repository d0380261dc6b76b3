//! The corpus that fuzzing has kept, replayed through the same entry points: what once broke stays mended.

use std::path::PathBuf;

use serde_json::Value;

#[path = "../../fuzz/entry.rs"]
mod entry;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder)
        .expect("the corpus")
        .map(|entry| entry.expect("readable").path());
    let inputs: Vec<_> = files
        .map(|path| (path.clone(), std::fs::read(&path).expect("an input")))
        .collect();
    assert!(inputs.len() > 1, "{} has inputs", folder.display());
    inputs
}

/// Calls `check` with every input; names those that make it panic.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let breaks_it = |input: &[u8]| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(input))).is_err();
    let broken: Vec<PathBuf> = corpus(target)
        .into_iter()
        .filter(|(_, input)| breaks_it(input))
        .map(|(path, _)| path)
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn no_pipeline_of_the_corpus_breaks_the_reader() {
    replay("pipeline", |input| {
        entry::pipeline(input);
    });
}

#[test]
fn no_text_of_the_corpus_breaks_templates() {
    replay("template", entry::template);
}

/// Takes away where the schema is stricter than the program: what no stage takes over, no one has chosen, or is off.
fn forget_what_is_not_used(document: &mut Value) {
    let Value::Object(document) = document else { return };
    for section in ["templates", "profiles", "defaults"] {
        document.remove(section);
    }
    if let Some(Value::Object(stages)) = document.get_mut("stages") {
        stages.retain(|_, stage| stage.get("when").is_none());
    }
}

#[test]
fn what_the_program_takes_the_schema_takes() {
    let validator = jsonschema::draft202012::new(&entry::schema()).expect("a schema");
    replay("pipeline", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        // What comes from the command line is not in the document, and another reader of YAML may read another one.
        let Ok(mut document) = serde_yaml::from_str::<Value>(text) else {
            return;
        };
        forget_what_is_not_used(&mut document);
        if !text.starts_with('#') && entry::pipeline(input) {
            let told: Vec<String> = validator
                .iter_errors(&document)
                .map(|error| error.to_string())
                .collect();
            assert!(told.is_empty(), "{told:#?}\n{text}");
        }
    });
}
