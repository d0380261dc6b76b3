//! `astro.grpo` and what goes with it, as the engine starts them: it learns, repeats itself, and says what it did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixtures::model_dir;
use crate::resume::stage::{Base, Ended, Stage};

/// A stage of four steps, with changes.
fn grpo(more: Value) -> Stage {
    grpo_with(more, &[])
}

fn grpo_with(more: Value, inputs: &[(&str, PathBuf)]) -> Stage {
    let mut params = json!({
        "max_steps": 4, "num_generations": 4, "prompts_per_step": 6, "learning_rate": 0.001, "max_completion_length": 24,
        "micro_batch_tokens": 256,
    });
    for (name, value) in more.as_object().expect("an object") {
        params[name] = value.clone();
    }
    let plain = Base::easy().grpo(params.clone());
    let mut all = vec![("model", plain.input("model")), ("problems", plain.input("problems"))];
    all.extend(inputs.iter().cloned());
    Stage::new(
        "astro.grpo",
        params,
        &all,
        &["model", "metrics", "samples", "checkpoints"],
    )
}

fn run(stage: &Stage) -> Ended {
    let ended = stage.run();
    ended.assert_done();
    ended
}

#[track_caller]
fn fails(stage: &Stage, words: &[&str]) {
    let ended = stage.run();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.messages());
    for words in words {
        ended.assert_says(words);
    }
}

fn rows(stage: &Stage) -> Vec<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row of numbers"))
        .collect()
}

fn column(stage: &Stage, name: &str) -> Vec<f64> {
    rows(stage).iter().map(|row| row[name]).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("JSON")
}

/// The whole way: sampling, verdicts, advantages, gradients. It rises by about 0.5; the mean of five steps of 96 rollouts has a
/// standard error below 0.05.
#[test]
fn the_reward_rises_and_a_seed_gives_one_run() {
    let params = |seed: usize| {
        json!({
            "max_steps": 30, "num_generations": 8, "prompts_per_step": 12, "learning_rate": 0.002, "seed": seed,
        })
    };
    let stage = grpo(params(1));
    run(&stage);
    let rewards = column(&stage, "reward");
    let (first, last) = (mean(&rewards[..5]), mean(&rewards[25..]));
    assert!(last >= first + 0.3, "from {first:.3} to {last:.3}: {rewards:?}");
    let entropies = column(&stage, "entropy");
    assert!(
        entropies.iter().all(|&entropy| entropy > 0.0 && entropy < 4.0),
        "{entropies:?}"
    );

    let again = stage.fresh();
    run(&again);
    assert_eq!(stage.digests(), again.digests());
}

#[test]
fn another_seed_gives_another_run() {
    let stages = [1, 2].map(|seed| grpo(json!({"seed": seed})));
    for stage in &stages {
        run(stage);
    }
    assert_ne!(stages[0].digests()["samples"], stages[1].digests()["samples"]);
}

#[test]
fn a_row_has_the_terms_that_are_on_and_the_reward_is_their_sum() {
    let plain = grpo(json!({}));
    run(&plain);
    let names: Vec<String> = rows(&plain)[0].keys().cloned().collect();
    let expected = [
        "backtracks",
        "clip_high",
        "clip_low",
        "completion_length",
        "completion_length_p95",
        "entropy",
        "grad_norm",
        "learning_rate",
        "loss",
        "pass_rate",
        "ratio",
        "reward",
        "reward_std",
        "step",
        "truncated",
        "zero_variance_groups",
    ];
    assert_eq!(names, expected);
    for row in rows(&plain) {
        assert!(
            (row["reward"] - (2.0 * row["pass_rate"] - 1.0)).abs() < 1e-12,
            "{row:?}"
        );
        assert!(
            (1.0..=24.0).contains(&row["completion_length_p95"]) && row["completion_length"] <= 24.0,
            "{row:?}"
        );
        // Of 24 rewards of 1 and -1, p of them right: 2 sqrt(p (1 - p) 24 / 23).
        let p = row["pass_rate"];
        let expected = 2.0 * (p * (1.0 - p) * 24.0 / 23.0).sqrt();
        assert!((row["reward_std"] - expected).abs() < 1e-9, "{row:?}");
    }
    let stage = grpo(json!({
        "reward": {"correct": 1.0, "wrong": 0.0, "format": 0.25, "repetition": -0.5, "backtrack": 0.125},
        "overlong": {"buffer": 20, "penalty": 0.5}, "delta": 4.0, "log_kl": true,
    }));
    run(&stage);
    for row in rows(&stage) {
        let terms =
            ["answer", "format", "backtrack", "repetition", "overlong"].map(|name| row[&format!("reward_{name}")]);
        assert!((terms.iter().sum::<f64>() - row["reward"]).abs() < 1e-9, "{row:?}");
        assert!(
            (0.0..=0.25).contains(&terms[1]) && terms[3] <= 0.0 && terms[4] <= 0.0,
            "{row:?}"
        );
        assert!((terms[0] - row["pass_rate"]).abs() < 1e-12, "{row:?}");
        assert!(row.contains_key("kl") && row.contains_key("clip_delta"), "{row:?}");
    }
    let terms = column(&stage, "reward_format");
    assert!(terms.iter().any(|&term| term > 0.0), "{terms:?}");
    fails(
        &grpo(json!({"overlong": {"buffer": 50, "penalty": 1.0}})),
        &["the buffer of overlong is 50 tokens", "max_completion_length, 24"],
    );
}

#[test]
fn dynamic_sampling_learns_from_mixed_groups_alone() {
    let stage = grpo(json!({"dynamic_sampling": true, "max_num_gen_batches": 50}));
    run(&stage);
    for row in rows(&stage) {
        assert_eq!(row["zero_variance_groups"], 0.0, "{row:?}");
        let num_kept = row["drawn_prompts"] - row["discarded_groups"] - row["surplus_groups"];
        assert_eq!(num_kept, 6.0, "{row:?}");
    }
    let discarded = column(&stage, "discarded_groups");
    assert!(
        discarded.iter().sum::<f64>() > 0.0,
        "nothing was discarded, so this shows nothing"
    );
    // The last rollouts: of each prompt some are right and some are wrong.
    let mut verdicts: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    let samples = std::fs::read_to_string(stage.output("samples")).expect("the samples");
    for line in samples.lines() {
        let sample: Value = serde_json::from_str(line).expect("a sample");
        let id = sample["problem_id"].as_str().expect("an id").to_owned();
        verdicts.entry(id).or_default().push(sample["correct"] == true);
    }
    for (id, verdicts) in verdicts {
        assert!(
            verdicts.contains(&true) && verdicts.contains(&false),
            "{id}: {verdicts:?}"
        );
    }

    // Where one draw is all there may be, it is the draw of a stage without dynamic sampling, in another order at most.
    let (one, plain) = (
        grpo(json!({"dynamic_sampling": true, "max_num_gen_batches": 1, "max_steps": 1})),
        grpo(json!({"max_steps": 1})),
    );
    run(&one).assert_says("rollouts that are all right or all wrong; no others were found in 1 draws");
    run(&plain);
    assert_eq!(column(&one, "pass_rate"), column(&plain, "pass_rate"));
    assert_eq!(column(&one, "drawn_pass_rate"), column(&plain, "pass_rate"));
    assert_eq!(column(&one, "discarded_groups"), [0.0]);
}

#[test]
fn models_on_the_way_are_kept_and_taken_out() {
    for more in [
        json!({"checkpoint_steps": 2}),
        json!({"checkpoint_steps": 2, "use_peft": true, "lora_r": 4}),
    ] {
        let stage = grpo(more.clone());
        run(&stage);
        let folder = stage.output("checkpoints");
        let index = read(&folder.join("index.json"));
        let kept: Vec<Value> = serde_json::from_value(index["checkpoints"].clone()).expect("a list");
        let steps: Vec<(&Value, &Value)> = kept.iter().map(|kept| (&kept["step"], &kept["folder"])).collect();
        assert_eq!(
            steps,
            [(&json!(2), &json!("step-000002")), (&json!(4), &json!("step-000004"))]
        );
        assert_eq!(kept[1]["metrics"]["reward"], rows(&stage)[3]["reward"]);
        // The last of them is the model, to the byte; the first is what a shorter stage makes.
        let digests = stage.digests();
        let of = |prefix: &str| -> Vec<(String, String)> {
            let inside = digests
                .iter()
                .filter_map(|(path, digest)| Some((path.strip_prefix(prefix)?.to_owned(), digest.clone())));
            inside.collect()
        };
        assert_eq!(of("checkpoints/step-000004/"), of("model/"));
        let mut shorter = more;
        (shorter["max_steps"], shorter["checkpoint_steps"]) = (json!(2), json!(0));
        let shorter = grpo(shorter);
        run(&shorter);
        let take = |checkpoints: PathBuf, step: usize| {
            Stage::new(
                "lm.checkpoint",
                json!({"step": step}),
                &[("checkpoints", checkpoints)],
                &["model"],
            )
        };
        let taken = take(folder.clone(), 2);
        run(&taken);
        let models = shorter
            .digests()
            .into_iter()
            .filter(|(path, _)| path.starts_with("model/"));
        assert_eq!(taken.digests(), models.collect());

        fails(
            &take(folder, 3),
            &["there is no model of step 3; there are those of 2, 4"],
        );
        let none = shorter.output("checkpoints");
        assert_eq!(read(&none.join("index.json"))["checkpoints"], json!([]));
        fails(&take(none, 2), &["as none was kept: set checkpoint_steps"]);
    }
}

#[test]
fn the_reference_may_be_another_model() {
    let other = Base::easy().pretrain(json!({"max_steps": 20}));
    run(&other);
    let base = grpo(json!({})).input("model");
    let kl = |inputs: &[(&str, PathBuf)]| {
        let stage = grpo_with(json!({"log_kl": true}), inputs);
        run(&stage);
        (column(&stage, "kl"), stage.digests())
    };
    let (own, with_own) = kl(&[]);
    let (copy, with_copy) = kl(&[("reference", base)]);
    let (far, with_far) = kl(&[("reference", other.output("model"))]);
    assert!(
        own[0].abs() < 1e-6 && own[3] > 1e-5,
        "the policy leaves its start: {own:?}"
    );
    assert_eq!((copy, &with_copy), (own, &with_own));
    assert!(far[0] > 0.05, "{far:?}");
    let model = "model/model.safetensors";
    assert_eq!(
        with_far[model], with_own[model],
        "without beta it is looked at and not learned from"
    );
    let learned = grpo_with(json!({"beta": 0.1}), &[("reference", other.output("model"))]);
    run(&learned);
    assert_ne!(learned.digests()[model], with_own[model]);

    let unused = grpo_with(json!({"max_steps": 1}), &[("reference", other.output("model"))]);
    run(&unused).assert_says("the input reference is not used");
    fails(
        &grpo_with(json!({"beta": 0.1}), &[("reference", model_dir("smollm-tied"))]),
        &["the reference has a vocabulary of"],
    );
}

#[test]
fn problems_are_filtered_by_the_pass_rate_of_an_evaluation() {
    let base = Base::get();
    let eval = base.eval(json!({"num_samples": 4, "max_completion_length": 40}));
    run(&eval);
    let problems = eval.input("problems");
    let filter = |params: Value, more: &[(&str, PathBuf)]| {
        let mut inputs = vec![("problems", problems.clone())];
        inputs.extend(more.iter().cloned());
        Stage::new("data.filter", params, &inputs, &["problems", "card"])
    };
    let scores = [("scores", eval.output("scores"))];
    let stage = filter(json!({"min_pass_rate": 0.0, "max_pass_rate": 1.0}), &scores);
    run(&stage);
    let same = std::fs::read_to_string(stage.output("problems")).expect("the problems");
    assert_eq!(same, std::fs::read_to_string(&problems).expect("the problems"));
    let card = read(&stage.output("card"));
    let pass_at_1 = read(&eval.output("scores"))["pass_at_1"].as_f64().expect("a number");
    assert!(
        (card["mean_pass_rate"].as_f64().expect("a number") - pass_at_1).abs() < 1e-12,
        "{card:#}"
    );
    let bars = card["histogram"].as_array().expect("bars").iter();
    let counts: Vec<u64> = bars.map(|bar| bar["num_problems"].as_u64().expect("a count")).collect();
    assert_eq!(counts.iter().sum::<u64>(), same.lines().count() as u64);

    fails(&filter(json!({}), &[]), &["there is nothing to filter by"]);
    fails(
        &filter(json!({}), &[("against", problems.clone())]),
        &["none of 8 problems is left (8 in_against)"],
    );
    let train = grpo(json!({})).input("problems");
    let lacking = Stage::new(
        "data.filter",
        json!({}),
        &[("problems", train), ("scores", eval.output("scores"))],
        &["problems", "card"],
    );
    fails(&lacking, &["of 24 problems have no score, the first is"]);
}
