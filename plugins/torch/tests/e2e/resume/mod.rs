//! Stages that are killed and started again: they continue, and end with the bytes of one that was never stopped.

mod answers;
mod damage;
mod runs;
pub mod stage;

use std::sync::OnceLock;

use serde_json::{Value, json};

use stage::{Base, Digests, Stage};

/// Steps that are enough for a kill to come in the middle.
const NUM_STEPS: usize = 30;

fn training(more: &[(&str, Value)]) -> Value {
    let mut params = json!({"max_steps": NUM_STEPS, "save_steps": 1});
    for (name, value) in more {
        params[*name] = value.clone();
    }
    params
}

fn sft_params() -> Value {
    training(&[
        ("per_device_train_batch_size", json!(16)),
        ("learning_rate", json!(0.003)),
        ("micro_batch_tokens", json!(128)),
    ])
}

/// What fine-tuning makes that is never stopped, and saves nothing.
fn untouched_sft() -> &'static Digests {
    static DIGESTS: OnceLock<Digests> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let mut stage = Base::get().sft(sft_params());
        stage.set("/params/save_steps", json!(0));
        stage.run().assert_done();
        stage.digests()
    })
}

fn grpo_params(num_steps: usize) -> Value {
    json!({
        "max_steps": num_steps, "save_steps": 1, "num_generations": 4, "prompts_per_step": 6, "learning_rate": 0.001,
        "max_completion_length": 40, "beta": 0.05, "micro_batch_tokens": 256, "generation_batch_size": 8,
    })
}

/// Kills the stage once at each of the steps, and then lets it end; it must make what an untouched one makes.
#[track_caller]
fn assert_continues(stage: &Stage, steps: &[usize]) {
    let untouched = stage.fresh();
    untouched.run().assert_done();
    for &step in steps {
        stage.kill_after(step);
    }
    let last = stage.run();
    let from = last.assert_done().continued_from();
    assert!(
        from >= steps.last().copied(),
        "continued from {from:?}: {}",
        last.messages()
    );
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn pretraining_continues() {
    assert_continues(&Base::get().pretrain(training(&[])), &[12]);
}

#[test]
fn fine_tuning_continues_after_each_of_two_kills() {
    assert_continues(&Base::get().sft(sft_params()), &[5, 16]);
}

/// The f32 masters are saved, not the bf16 weights that are computed with.
#[test]
fn fine_tuning_in_bf16_continues() {
    let mut params = sft_params();
    for (name, value) in [
        ("bf16", json!(true)),
        ("gradient_checkpointing", json!(true)),
        ("per_device_train_batch_size", json!(4)),
        ("gradient_accumulation_steps", json!(4)),
    ] {
        params[name] = value;
    }
    assert_continues(&Base::get().sft(params), &[5, 16]);
}

#[test]
fn fine_tuning_of_an_adapter_continues() {
    let mut params = sft_params();
    for (name, value) in [
        ("use_peft", json!(true)),
        ("lora_dropout", json!(0.1)),
        ("bf16", json!(true)),
    ] {
        params[name] = value;
    }
    assert_continues(&Base::get().sft(params), &[9]);
}

#[test]
fn grpo_continues() {
    let stage = Base::get().grpo(grpo_params(14));
    assert_continues(&stage, &[4]);
    let samples = std::fs::read_to_string(stage.output("samples")).expect("the samples");
    assert_eq!(samples.lines().count(), 24);
    let metrics = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    let learned = metrics.lines().any(|line| !line.contains("\"grad_norm\":0.0"));
    assert!(
        learned,
        "no rollout was better than another, so this shows nothing: {metrics}"
    );
}

/// Six steps learn from the rollouts of one generation, and the kill comes after four of the second one's.
#[test]
fn grpo_of_an_adapter_continues_in_the_middle_of_a_round() {
    let mut params = grpo_params(14);
    for (name, value) in [
        ("steps_per_generation", json!(2)),
        ("num_iterations", json!(3)),
        ("num_generations", json!(8)),
        ("use_bias_correction_kl", json!(true)),
        ("learning_rate", json!(0.01)),
        ("use_peft", json!(true)),
        ("lora_r", json!(4)),
        ("lora_dropout", json!(0.1)),
        ("lora_target_modules", json!(["all-linear"])),
    ] {
        params[name] = value;
    }
    let stage = Base::get().grpo(params);
    assert_continues(&stage, &[10]);
    let (model, adapter) = (stage.output("model"), stage.output("model").join("adapter"));
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(adapter.join(file).is_file(), "{file}");
    }
    assert!(model.join("model.safetensors").is_file());
    let metrics = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    let ratios: Vec<f64> = metrics
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["ratio"]
                .as_f64()
                .expect("a ratio")
        })
        .collect();
    assert_eq!(ratios.len(), 14);
    assert!(ratios[2..6].iter().any(|ratio| (ratio - 1.0).abs() > 1e-6), "{metrics}");
}

/// The draws of a round depend on what came of those before, and models are kept on the way.
#[test]
fn grpo_with_dynamic_sampling_and_kept_models_continues() {
    let mut params = grpo_params(14);
    for (name, value) in [
        ("dynamic_sampling", json!(true)),
        ("steps_per_generation", json!(2)),
        ("checkpoint_steps", json!(3)),
    ] {
        params[name] = value;
    }
    let stage = Base::easy().grpo(params);
    // The first kill comes in the middle of a round.
    assert_continues(&stage, &[5, 10]);
    let metrics = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    let draws: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["gen_batches"].clone())
        .collect();
    assert!(draws[0].as_f64() > Some(1.0) && draws[1].is_null(), "{draws:?}");
    for step in [3, 6, 9, 12] {
        let kept = stage.output("checkpoints").join(format!("step-{step:06}"));
        assert!(kept.join("model.safetensors").is_file(), "{step}");
    }
}

#[test]
fn rollouts_of_several_draws_are_not_generated_again() {
    let mut params = grpo_params(4);
    for (name, value) in [
        ("save_steps", json!(0)),
        ("save_seconds", json!(1e-9)),
        ("generation_batch_size", json!(4)),
        ("dynamic_sampling", json!(true)),
    ] {
        params[name] = value;
    }
    let stage = Base::easy().grpo(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    // A line for each prompt: the second draw has begun.
    stage.kill_after_lines(7);
    let last = stage.run();
    last.assert_done().assert_says("generated items");
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn fine_tuning_with_kept_models_continues_and_notices_a_damaged_one() {
    let mut params = sft_params();
    params["checkpoint_steps"] = json!(4);
    let stage = Base::get().sft(params);
    assert_continues(&stage, &[6, 17]);
    let expected = stage.digests();
    let kept: Vec<&String> = expected
        .keys()
        .filter(|path| path.starts_with("checkpoints/") && path.ends_with("/model.safetensors"))
        .collect();
    assert_eq!(kept.len(), 30 / 4, "{kept:?}");

    let damaged = stage.fresh();
    damaged.kill_after(9);
    let file = damaged.partial().join("kept/step-000004/model.safetensors");
    let mut bytes = std::fs::read(&file).expect("it is kept");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&file, bytes).expect("a file");
    let ended = damaged.run();
    ended
        .assert_done()
        .assert_says("the model that was kept of step 4 is damaged or gone");
    assert_eq!(ended.continued_from(), None);
    assert_eq!(damaged.digests(), expected);
}

fn kto_params() -> Value {
    training(&[
        ("per_device_train_batch_size", json!(16)),
        ("learning_rate", json!(0.003)),
        ("micro_batch_tokens", json!(128)),
    ])
}

#[test]
fn kto_continues_after_each_of_two_kills() {
    assert_continues(&Base::get().kto(kto_params()), &[5, 16]);
}

#[test]
fn kto_of_an_adapter_continues() {
    let mut params = kto_params();
    for (name, value) in [
        ("use_peft", json!(true)),
        ("lora_dropout", json!(0.1)),
        ("bf16", json!(true)),
    ] {
        params[name] = value;
    }
    assert_continues(&Base::get().kto(params), &[9]);
}

/// The clock saves every part of what the reference makes of the data; the kill comes before the first step.
#[test]
fn what_kto_knows_of_the_reference_is_not_computed_again() {
    let mut params = kto_params();
    (params["save_steps"], params["save_seconds"]) = (json!(0), json!(1e-9));
    let stage = Base::get().kto(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after_lines(1);
    let last = stage.run();
    last.assert_done();
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn rollouts_that_are_finished_are_not_generated_again() {
    // The clock saves every batch; one step has three of them for each of six prompts, and no checkpoint is due before.
    let mut params = grpo_params(3);
    for (name, value) in [
        ("save_steps", json!(0)),
        ("save_seconds", json!(1e-9)),
        ("generation_batch_size", json!(4)),
    ] {
        params[name] = value;
    }
    let stage = Base::get().grpo(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after_lines(2);
    let last = stage.run();
    last.assert_done().assert_says("generated items");
    assert_eq!(stage.digests(), untouched.digests());
}

fn search_params() -> Value {
    json!({
        "num_simulations": 10, "num_candidates": 4, "num_rollouts": 4, "max_step_length": 16,
        "max_completion_length": 32, "generation_batch_size": 16, "save_steps": 1,
    })
}

#[test]
fn a_search_continues_between_simulations() {
    assert_continues(&Base::get().search(search_params()), &[2, 4]);
}

#[test]
fn a_search_continues_within_a_simulation() {
    let mut params = search_params();
    (params["save_steps"], params["save_seconds"]) = (json!(0), json!(1e-9));
    let stage = Base::get().search(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after_lines(5);
    let last = stage.run();
    last.assert_done().assert_says("generated items");
    assert_eq!(stage.digests(), untouched.digests());
}

/// Trees that were done are not in the checkpoint, and not grown again.
#[test]
fn a_search_keeps_the_trees_that_were_done() {
    let mut params = search_params();
    params["max_active_problems"] = json!(4);
    params["num_simulations"] = json!(3);
    let stage = Base::get().search(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after(8);
    let newest = stage.checkpoint().expect("a checkpoint");
    let saved = std::fs::read_to_string(newest.join("trees.jsonl")).expect("the trees that grow");
    assert!(saved.lines().count() <= 4, "{saved}");
    let last = stage.run();
    last.assert_done()
        .assert_says("items that an earlier attempt finished are kept");
    assert!(last.continued_from() >= Some(8), "{}", last.messages());
    assert_eq!(stage.digests(), untouched.digests());

    // Without the checkpoint, the trees that were done are still there; one whose line is damaged is grown again.
    let stage = untouched.fresh();
    stage.kill_after(10);
    std::fs::remove_dir_all(stage.checkpoint().expect("a checkpoint")).expect("it was there");
    let path = stage.partial().join("done.lines");
    let text = std::fs::read_to_string(&path).expect("the finished trees");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.len() > 3, "{text}");
    lines[2] = lines[2].replacen("\"text\"", "\"test\"", 1);
    std::fs::write(&path, lines.join("\n") + "\n").expect("written");
    let last = stage.run();
    last.assert_done()
        .assert_says("1 finished items of an earlier attempt are damaged and are made again")
        .assert_says("items that an earlier attempt finished are kept");
    assert_eq!(stage.digests(), untouched.digests());
}

fn eval_params() -> Value {
    json!({"num_samples": 24, "max_completion_length": 40, "generation_batch_size": 24, "save_steps": 1})
}

#[test]
fn an_evaluation_samples_only_what_is_missing() {
    let stage = Base::get().eval(eval_params());
    let untouched = stage.fresh();
    untouched.run().assert_done();
    stage.kill_after_lines(2);
    stage.kill_after_lines(4);
    let num_saved = stage.num_lines();
    let last = stage.run();
    last.assert_done()
        .assert_says(&format!("and {num_saved} generated items"));
    let first = last
        .events
        .iter()
        .find(|event| event["event"] == "progress")
        .expect("a progress");
    assert_eq!(first["done"], 24 * num_saved, "the rate must come from new work");
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn sigterm_saves_and_ends() {
    let mut sft = sft_params();
    sft["save_steps"] = json!(0);
    let mut search = search_params();
    search["save_steps"] = json!(0);
    let mut eval = eval_params();
    eval["save_steps"] = json!(0);
    let mut grpo = grpo_params(14);
    grpo["save_steps"] = json!(0);
    let mut kto = kto_params();
    kto["save_steps"] = json!(0);
    let base = Base::get();
    for (stage, done) in [
        (base.sft(sft), 3),
        (base.grpo(grpo), 2),
        (base.kto(kto), 3),
        (base.search(search), 1),
        (base.eval(eval), 24),
    ] {
        let untouched = stage.fresh();
        untouched.run().assert_done();
        stage
            .terminate_after(done)
            .assert_says("stopped; the next attempt continues from step");
        let last = stage.run();
        last.assert_done().assert_says("continues from step");
        assert_eq!(stage.digests(), untouched.digests());
    }
}

/// Between the rollouts of a round and the end of its first update there is nothing new to save.
#[test]
fn grpo_continues_where_the_first_update_of_a_round_was_given_up() {
    let mut params = grpo_params(8);
    for (name, value) in [
        ("save_steps", json!(0)),
        ("steps_per_generation", json!(2)),
        ("num_generations", json!(8)),
        ("micro_batch_tokens", json!(1)),
    ] {
        params[name] = value;
    }
    let stage = Base::get().grpo(params);
    let untouched = stage.fresh();
    untouched.run().assert_done();
    let is_second_round = || stage.said().matches("learns from its rollouts").count() == 2;
    stage.terminate_when(&is_second_round);
    let last = stage.run();
    assert!(last.assert_done().continued_from() >= Some(2), "{}", last.messages());
    assert_eq!(stage.digests(), untouched.digests());
}

#[test]
fn a_stage_that_was_stopped_after_its_last_step_only_writes_its_outputs() {
    // A stage of one step more never saves its last: so its newest checkpoint is that of our last step.
    let mut sft = sft_params();
    sft["lr_scheduler_type"] = json!("constant");
    let base = Base::get();
    for mut stage in [base.sft(sft), base.grpo(grpo_params(0))] {
        stage.set("/params/max_steps", json!(5));
        let untouched = stage.fresh();
        untouched.run().assert_done();
        stage.set("/params/max_steps", json!(6));
        stage.kill_after(5);
        stage.set("/params/max_steps", json!(5));
        let last = stage.run();
        assert_eq!(last.assert_done().continued_from(), Some(5));
        let metric = last
            .events
            .iter()
            .rfind(|event| event["event"] == "metric")
            .expect("a metric");
        assert_eq!(metric["step"], 5, "the record keeps the last values");
        assert_eq!(stage.digests(), untouched.digests());
    }
}

#[test]
fn two_workers_never_save_into_one_folder() {
    let stage = Base::get().sft(sft_params());
    std::fs::create_dir_all(stage.partial()).expect("a folder");
    let folder = std::fs::File::open(stage.partial()).expect("a folder");
    folder.lock().expect("nobody else has it");
    let ended = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.run());
        // This is said right before the training begins, and the training begins with what was saved.
        while !stage.said().contains("tokens each") {
            assert!(!waiting.is_finished(), "it ended without a word");
            std::thread::yield_now();
        }
        let said = stage.said();
        assert!(!said.contains("\"progress\""), "it did not wait for the folder: {said}");
        drop(folder);
        waiting.join().expect("no panic")
    });
    ended.assert_done();
    assert_eq!(stage.digests(), *untouched_sft());
}

#[test]
fn a_short_stage_saves_nothing() {
    let stage = Base::get().sft(json!({"max_steps": 3}));
    stage.run().assert_done();
    assert_eq!(std::fs::read_dir(stage.partial()).expect("a folder").count(), 0);
}

/// Ends a stage that was killed with another number of threads.
#[track_caller]
fn assert_keeps_its_threads(mut stage: Stage, untouched: &Digests) {
    stage.set("/resources/cpu", json!(1));
    let last = stage.run();
    last.assert_done()
        .assert_says("continues from step")
        .assert_says("warning: computes with 2 threads, as the attempt that began, and not with the 1");
    assert_eq!(stage.digests(), *untouched);
}

#[test]
fn the_threads_are_those_of_the_attempt_that_began() {
    let sft = Base::get().sft(sft_params());
    sft.kill_after(3);
    assert_keeps_its_threads(sft, untouched_sft());
    let eval = Base::get().eval(eval_params());
    let untouched = eval.fresh();
    untouched.run().assert_done();
    eval.kill_after_lines(2);
    assert_keeps_its_threads(eval, &untouched.digests());
}

#[test]
fn what_changes_the_result_by_rounding_may_change_with_a_warning() {
    let mut stage = Base::get().sft(sft_params());
    stage.kill_after(3);
    stage.set("/params/micro_batch_tokens", json!(64));
    let last = stage.run();
    last.assert_done()
        .assert_says("warning: micro_batch_tokens was 128 in the attempt that began");
    assert!(last.continued_from() >= Some(3));
}
