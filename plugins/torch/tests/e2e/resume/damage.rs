//! What was saved and is no longer what it was: noticed, said, and never continued.

use std::path::Path;

use serde_json::{Value, json};

use super::stage::{Base, Stage, copy_tree};
use super::{eval_params, sft_params, training, untouched_sft};

/// A killed stage whose only checkpoint is whole. Its next attempts save nothing.
fn killed() -> Stage {
    let mut stage = Base::get().sft(sft_params());
    stage.kill_after(4);
    stage.set("/params/save_steps", json!(0));
    let newest = stage.checkpoint().expect("a checkpoint");
    // The kill may have come while the one before was being removed, or the next one written.
    for entry in std::fs::read_dir(stage.partial()).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path != newest {
            std::fs::remove_dir_all(path).expect("it was there");
        }
    }
    stage
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("it was there");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("it is written");
}

/// Rewrites a manifest, with a digest that fits.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value)) {
    edit(path, |bytes| {
        let mut line: Value = serde_json::from_slice(bytes).expect("a line of JSON");
        change(&mut line["value"]);
        let digest = blake3::hash(line["value"].to_string().as_bytes()).to_hex().to_string();
        line["blake3"] = json!(digest);
        *bytes = format!("{line}\n").into_bytes();
    });
}

#[test]
fn a_damaged_checkpoint_is_ignored_and_the_stage_starts_over() {
    let (stage, expected) = (killed(), untouched_sft());
    let saved = tempfile::tempdir().expect("a temporary folder");
    copy_tree(&stage.partial(), saved.path());
    let newest = stage.checkpoint().expect("a checkpoint");
    let manifest = newest.join("manifest.json");
    let weights = newest.join("learner.safetensors");
    let cases: [(&str, &dyn Fn()); 8] = [
        ("manifest.json is damaged", &|| {
            edit(&manifest, |bytes| bytes.truncate(bytes.len() / 2))
        }),
        ("manifest.json is damaged", &|| edit(&manifest, Vec::clear)),
        ("learner.safetensors is damaged", &|| {
            edit(&weights, |bytes| bytes.truncate(1000))
        }),
        ("learner.safetensors is damaged", &|| {
            edit(&weights, |bytes| *bytes.last_mut().expect("bytes") ^= 1)
        }),
        ("cursor.json is damaged", &|| {
            std::fs::remove_file(newest.join("cursor.json")).expect("it was there")
        }),
        ("it is of format 7, and this program knows 1", &|| {
            rewrite(&manifest, |value| {
                (value["format"], value["owner"]) = (json!(7), json!("what it may be by then"))
            })
        }),
        ("it belongs to astro.sft with the key another", &|| {
            rewrite(&manifest, |value| value["owner"]["key"] = json!("another"))
        }),
        ("it was saved at Cursor", &|| {
            rewrite(&manifest, |value| value["step"] = json!(17))
        }),
    ];
    for (warning, damage) in cases {
        std::fs::remove_dir_all(stage.partial()).expect("it was there");
        copy_tree(saved.path(), &stage.partial());
        damage();
        let ended = stage.run();
        ended
            .assert_done()
            .assert_says("of an earlier attempt is ignored")
            .assert_says(warning);
        assert_eq!(ended.continued_from(), None, "{warning}");
        assert_eq!(stage.digests(), *expected, "{warning}");
    }
}

#[test]
fn the_checkpoint_before_a_damaged_one_is_continued() {
    let (stage, expected) = (killed(), untouched_sft());
    let whole = stage.checkpoint().expect("a checkpoint");
    let step = stage.saved_step().expect("a step");
    // As a machine that lost power leaves it: a newer one whose manifest came to the disk and whose weights did not.
    let newer = stage.partial().join(format!("checkpoint-{}", step + 1));
    copy_tree(&whole, &newer);
    edit(&newer.join("learner.safetensors"), |bytes| bytes.fill(0));
    // And one that was being written.
    std::fs::create_dir(stage.partial().join(format!("checkpoint-{}", step + 2))).expect("a folder");
    let ended = stage.run();
    ended.assert_done().assert_says("learner.safetensors is damaged");
    assert_eq!(ended.continued_from(), Some(step));
    assert_eq!(stage.digests(), *expected);
}

#[test]
fn a_journal_survives_a_torn_end_and_a_damaged_line() {
    let stage = Base::get().eval(eval_params());
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after_lines(3);
    let (journal, num_lines) = (stage.journal().expect("a journal"), stage.num_lines());
    edit(&journal, |bytes| {
        let second = bytes.iter().position(|&byte| byte == b'\n').expect("a header") + 100;
        bytes[second] ^= 1;
        bytes.extend(br#"{"blake3":"torn"#);
    });
    let ended = stage.run();
    ended
        .assert_done()
        .assert_says("1 lines of an earlier attempt's journal are damaged")
        .assert_says(&format!("and {} generated items", num_lines - 1));
    assert_eq!(stage.digests(), untouched.digests());

    // A header that can't be read makes the whole of it useless.
    let other = stage.fresh();
    other.kill_after_lines(2);
    edit(&other.journal().expect("a journal"), |bytes| bytes[20] ^= 1);
    let ended = other.run();
    ended
        .assert_done()
        .assert_says("what an earlier attempt generated is ignored");
    assert_eq!(ended.continued_from(), None);
    assert_eq!(other.digests(), untouched.digests());
}

#[test]
fn a_stage_that_fails_again_and_again_starts_over() {
    // A learning rate that makes the weights infinite, and the gradient of the next step no number.
    let stage = Base::get().pretrain(training(&[("learning_rate", json!(1e38)), ("save_steps", json!(1))]));
    let fails = || {
        let ended = stage.run();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.messages());
        ended.assert_says("as in the 4 steps before");
        ended
    };
    let first = fails();
    assert_eq!(first.continued_from(), None);
    assert_eq!(first.messages().matches("its update is skipped").count(), 4);
    let saved = stage.saved_step();
    assert!(saved.is_some());
    // The steps that were skipped are counted from attempt to attempt.
    assert_eq!(fails().continued_from(), saved, "once may be bad luck");
    let third = fails();
    assert_eq!(third.continued_from(), None, "{}", third.messages());
    third.assert_says("the stage failed 2 times after it, so it starts over");
    assert_eq!(fails().continued_from(), saved, "it was saved anew");
}

#[test]
fn a_folder_that_can_not_be_written_costs_a_warning() {
    let mut stage = Base::get().sft(sft_params());
    stage.set("/partial", json!("/proc/no/such/folder"));
    let ended = stage.run();
    ended
        .assert_done()
        .assert_says("warning: nothing is continued and nothing can be saved");
    assert_eq!(stage.digests(), *untouched_sft());
}

#[test]
fn a_disk_that_is_full_costs_a_warning_and_the_checkpoint() {
    let mut stage = Base::get().sft(sft_params());
    // Enough for the model, and not for the model with its optimizer.
    stage.limit_file_size(150_000);
    let ended = stage.run();
    ended
        .assert_done()
        .assert_says("warning: the work so far could not be saved, so a stop would lose it");
    assert_eq!(
        ended.messages().matches("could not be saved").count(),
        1,
        "it is said once"
    );
    assert_eq!(stage.saved_step(), None);
    assert_eq!(stage.digests(), *untouched_sft());
}
