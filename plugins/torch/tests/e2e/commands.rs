//! `volvelle-torch score` and `generate` as a user starts them: references, standard input, and bad input.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::fixtures::{Golden, assert_close, from_json, masked, model_dir, vec_i64};
use crate::reference::VARIANTS;

/// Each folder, and the folder whose golden values it must reproduce.
const FOLDERS: [(&str, &str); 5] = [
    ("llama3-gqa", "llama3-gqa"),
    ("llama3-gqa-sharded", "llama3-gqa"),
    ("smollm-tied", "smollm-tied"),
    ("qwen2-bias-tied", "qwen2-bias-tied"),
    ("qwen3-qknorm", "qwen3-qknorm"),
];

/// Runs the program with `lines` on standard input.
pub fn volvelle_torch(command: &str, model: &Path, options: &[&str], lines: &[Value]) -> Output {
    let mut child = command_on(command, model, &["--input", "-"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    // A program that refuses its model ends without reading; that is not this side's failure.
    let _ = child.stdin.take().expect("piped").write_all(text.as_bytes());
    child.wait_with_output().expect("the program ends")
}

pub fn command_on(command: &str, model: &Path, options: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_volvelle-torch"));
    program
        .args([command, "--device", "cpu", "--model"])
        .arg(model)
        .args(options);
    program
}

/// The JSON lines that a run printed, which must have succeeded.
pub fn lines_of(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

/// What a run that must have failed printed as its error.
pub fn error_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{text}");
    text
}

fn id_lines(rows: &[Vec<i64>]) -> Vec<Value> {
    rows.iter().map(|ids| json!({"input_ids": ids})).collect()
}

#[test]
fn score_gives_the_logprobs_of_transformers() {
    for (name, golden) in FOLDERS {
        let golden = Golden::of_model(golden);
        let rows: Vec<Vec<i64>> = from_json(&golden.json["inputs"]["ids"]);
        let scored = lines_of(&volvelle_torch("score", &model_dir(name), &[], &id_lines(&rows)));
        assert_eq!(scored.len(), rows.len());
        for (row, (ids, line)) in rows.iter().zip(&scored).enumerate() {
            let got: Vec<f64> = from_json(&line["logprobs"]);
            assert_eq!(got.len(), ids.len() - 1, "{name} row {row}");
            for (at, got) in got.into_iter().enumerate() {
                let expected = golden.tensor("logprobs.right").double_value(&[row as i64, at as i64]);
                assert!(
                    (got - expected).abs() <= 1e-4,
                    "{name} row {row} token {at}: {got}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn score_reads_bf16_weights() {
    let golden = Golden::of_model("llama3-gqa-bf16");
    let (ids, mask) = (
        golden.tensor("inputs.right.input_ids"),
        golden.tensor("inputs.right.attention_mask"),
    );
    let len = mask.get(0).sum(Kind::Int64).int64_value(&[]);
    let row = vec_i64(&ids.get(0).narrow(0, 0, len));
    let scored = lines_of(&volvelle_torch(
        "score",
        &model_dir("llama3-gqa-bf16"),
        &[],
        &id_lines(&[row]),
    ));
    let got: Vec<f64> = from_json(&scored[0]["logprobs"]);
    for (at, got) in got.into_iter().enumerate() {
        let expected = golden
            .tensor("logprobs.float32_compute.right")
            .double_value(&[0, at as i64]);
        assert!((got - expected).abs() <= 1e-4, "token {at}: {got}, expected {expected}");
    }
}

#[test]
fn score_computes_in_the_kind_that_is_asked_for() {
    let golden = Golden::of_model("llama3-gqa-bf16");
    let (ids, mask) = (
        golden.tensor("inputs.right.input_ids"),
        golden.tensor("inputs.right.attention_mask"),
    );
    let len = mask.get(0).sum(Kind::Int64).int64_value(&[]);
    let lines = id_lines(&[vec_i64(&ids.get(0).narrow(0, 0, len))]);
    let logprobs = |dtype: &str| -> Tensor {
        let scored = lines_of(&volvelle_torch(
            "score",
            &model_dir("llama3-gqa-bf16"),
            &["--dtype", dtype],
            &lines,
        ));
        Tensor::from_slice(&from_json::<Vec<f64>>(&scored[0]["logprobs"]))
    };
    let mean_off = |a: &Tensor, b: &Tensor| (a - b).abs().mean(Kind::Double).double_value(&[]);
    let expected = |name: &str| golden.tensor(name).get(0).narrow(0, 0, len - 1).to_kind(Kind::Double);
    let in_bf16 = logprobs("bfloat16");
    assert!(mean_off(&in_bf16, &expected("logprobs.bfloat16_compute.right")) <= 0.06);
    assert_eq!(in_bf16, logprobs("auto"), "the folder says bfloat16");
    let in_f32 = logprobs("float32");
    assert_ne!(in_bf16, in_f32);
    assert!(mean_off(&logprobs("float16"), &in_f32) <= 0.02);
    let unknown = volvelle_torch("score", &model_dir("llama3-gqa-bf16"), &["--dtype", "int8"], &[]);
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("bfloat16"),
        "the choices are listed"
    );
}

#[test]
fn score_takes_an_adapter_and_keeps_the_order_of_lines() {
    let (base, dir) = (Golden::of_model("llama3-gqa"), model_dir("llama3-gqa"));
    let golden = Golden::read(&dir.join("lora"), "golden");
    let rows: Vec<Vec<i64>> = from_json(&base.json["inputs"]["ids"]);
    let adapter = dir.join("lora").into_os_string().into_string().expect("UTF-8");
    // Twice, with a line of one token between, so that lengths are out of order.
    let rows: Vec<Vec<i64>> = [rows.clone(), vec![vec![7]], rows].concat();
    let num_rows = rows.len() / 2;
    for micro_batch_tokens in ["1", "100", "100000"] {
        let options = ["--adapter", &adapter, "--micro-batch-tokens", micro_batch_tokens];
        let scored = lines_of(&volvelle_torch("score", &dir, &options, &id_lines(&rows)));
        assert_eq!(scored.len(), rows.len());
        assert_eq!(scored[num_rows]["logprobs"], json!([]));
        for (at, ids) in rows.iter().enumerate().filter(|(_, ids)| ids.len() > 1) {
            let row = if at > num_rows { at - num_rows - 1 } else { at };
            let logits = golden.tensor("logits.adapter.right").get(row as i64);
            let len = ids.len() as i64 - 1;
            let expected = logits.narrow(0, 0, len).log_softmax(-1, Kind::Float).gather(
                -1,
                &Tensor::from_slice(&ids[1..]).unsqueeze(-1),
                false,
            );
            let got = Tensor::from_slice(&from_json::<Vec<f64>>(&scored[at]["logprobs"]));
            assert_close(&format!("line {at}"), &got, &expected.squeeze_dim(-1), 2e-4);
        }
    }
}

#[test]
fn generate_gives_the_greedy_tokens_of_transformers() {
    for (name, golden) in FOLDERS {
        let generate = &Golden::of_model(golden).json["generate"];
        let prompts: Vec<Vec<i64>> = from_json(&generate["prompt_ids"]);
        let expected: Vec<Vec<i64>> = from_json(&generate["eos_ignored"]);
        let options = ["--max-new-tokens", "32", "--greedy", "--ignore-eos"];
        let together = lines_of(&volvelle_torch(
            "generate",
            &model_dir(name),
            &options,
            &id_lines(&prompts),
        ));
        for (row, line) in together.iter().enumerate() {
            assert_eq!(
                from_json::<Vec<i64>>(&line["output_ids"]),
                expected[row],
                "{name} row {row} in a batch"
            );
            assert_eq!(line["text"], generate["texts_skip_special"][row], "{name} row {row}");
        }
        let texts: Vec<String> = from_json(&generate["prompts"]);
        for (row, text) in texts.iter().enumerate() {
            let lines = [json!({"prompt": text})];
            let alone = lines_of(&volvelle_torch("generate", &model_dir(name), &options, &lines));
            assert_eq!(alone, [together[row].clone()], "{name} row {row} alone, from its text");
        }
    }
}

#[test]
fn generate_stops_at_the_end_tokens_of_generation_config() {
    for (name, golden) in FOLDERS {
        let generate = &Golden::of_model(golden).json["generate"];
        let stop = &generate["with_stop"];
        let ends: Vec<i64> = from_json(&stop["eos_token_ids"]);
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy_model(name, dir.path());
        let config = json!({"eos_token_id": ends, "pad_token_id": stop["pad"]});
        std::fs::write(dir.path().join("generation_config.json"), config.to_string()).expect("it is written");

        let prompts: Vec<Vec<i64>> = from_json(&generate["prompt_ids"]);
        let options = ["--max-new-tokens", "32", "--greedy"];
        let got = lines_of(&volvelle_torch("generate", dir.path(), &options, &id_lines(&prompts)));
        let expected: Vec<Vec<i64>> = from_json(&stop["sequences"]);
        for (row, (line, mut wanted)) in got.iter().zip(expected).enumerate() {
            if let Some(end) = wanted.iter().position(|id| ends.contains(id)) {
                wanted.truncate(end + 1);
            }
            assert_eq!(from_json::<Vec<i64>>(&line["output_ids"]), wanted, "{name} row {row}");
        }
    }
}

/// Ids in, numbers out: none of it needs a tokenizer.
#[test]
fn token_ids_need_no_tokenizer() {
    for name in VARIANTS {
        let golden = Golden::of_model(name);
        let (ids, mask) = (
            golden.tensor("inputs.right.input_ids"),
            golden.tensor("inputs.right.attention_mask"),
        );
        let rows: Vec<Vec<i64>> = (0..ids.size()[0])
            .map(|row| vec_i64(&masked(&ids.narrow(0, row, 1), &mask.narrow(0, row, 1))))
            .collect();
        let scored = lines_of(&volvelle_torch("score", &model_dir(name), &[], &id_lines(&rows)));
        for (row, line) in scored.iter().enumerate() {
            let got: Vec<f32> = from_json(&line["logprobs"]);
            let expected = golden.tensor("logprobs.right").get(row as i64);
            let expected = expected.narrow(0, 0, got.len() as i64);
            assert_close(&format!("{name} row {row}"), &Tensor::from_slice(&got), &expected, 1e-4);
        }
        // The first new token is the likeliest by transformers' logits.
        let options = ["--greedy", "--max-new-tokens", "1", "--logprobs"];
        let generated = lines_of(&volvelle_torch(
            "generate",
            &model_dir(name),
            &options,
            &id_lines(&rows),
        ));
        for (row, line) in generated.iter().enumerate() {
            let logits = golden
                .tensor("logits.right")
                .get(row as i64)
                .get(rows[row].len() as i64 - 1);
            let likeliest = logits.argmax(0, false).int64_value(&[]);
            assert_eq!(
                from_json::<Vec<i64>>(&line["output_ids"]),
                [likeliest],
                "{name} row {row}"
            );
            assert_eq!(line.get("text"), None, "{name}");
        }
    }
}

#[test]
fn end_tokens_are_known_without_a_tokenizer_and_text_is_asked_for_in_vain() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_model("smollm-tied", dir.path());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::remove_file(dir.path().join(name)).expect("it was there");
    }
    let generate = &Golden::of_model("smollm-tied").json["generate"];
    let prompts: Vec<Vec<i64>> = from_json(&generate["prompt_ids"]);
    let alone: Vec<Vec<i64>> = from_json(&generate["eos_ignored"]);
    let greedy = ["--greedy", "--max-new-tokens", "32"];
    let generated = || lines_of(&volvelle_torch("generate", dir.path(), &greedy, &id_lines(&prompts)));
    // In the generation config, and where there is none in the model's own.
    let end = alone[0][5];
    let position = alone[0].iter().position(|&id| id == end).expect("it is there");
    let config = json!({"eos_token_id": [end]}).to_string();
    std::fs::write(dir.path().join("generation_config.json"), config).expect("it is written");
    let line = &generated()[0];
    assert_eq!(from_json::<Vec<i64>>(&line["output_ids"]), alone[0][..=position]);
    assert_eq!((line.get("text"), line["finish_reason"].as_str()), (None, Some("stop")));
    std::fs::remove_file(dir.path().join("generation_config.json")).expect("it was there");
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("it was there")).expect("JSON");
    config["eos_token_id"] = end.into();
    std::fs::write(&path, config.to_string()).expect("it is written");
    assert_eq!(
        from_json::<Vec<i64>>(&generated()[0]["output_ids"]),
        alone[0][..=position]
    );

    let prompt = [json!({"input_ids": [5]}), json!({"prompt": "a"})];
    for command in ["score", "generate"] {
        let error = error_of(&volvelle_torch(command, dir.path(), &[], &prompt));
        assert!(error.contains("line 2") && error.contains("tokenizer.json"), "{error}");
    }
    let error = error_of(&volvelle_torch("generate", dir.path(), &["--stop", "x"], &prompt[..1]));
    assert!(error.contains("--stop") && error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_model_is_trained_in_its_own_folder() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_model("llama3-gqa-sharded", dir.path());
    let tokenizer = std::fs::read(dir.path().join("tokenizer.json")).expect("it is there");
    let lines = id_lines(&[vec![5, 6, 7, 8]]);
    let options = ["--learning-rate", "0.01", "--save", dir.path().to_str().expect("UTF-8")];
    let losses = |options: &[&str]| -> Vec<f64> {
        let lines = lines_of(&volvelle_torch("train-step", dir.path(), options, &lines));
        lines.iter().filter_map(|line| line["loss"].as_f64()).collect()
    };
    let (first, second) = (losses(&options), losses(&options));
    assert!(
        first[1] < first[0] && (second[0] - first[1]).abs() < 1e-6,
        "{first:?} {second:?}"
    );
    assert_eq!(
        std::fs::read(dir.path().join("tokenizer.json")).expect("it is there"),
        tokenizer
    );
    assert!(
        !dir.path().join("model.safetensors.index.json").exists(),
        "it is one file now"
    );
}

#[test]
fn sampling_depends_on_the_seed_alone() {
    let prompts: Vec<Vec<i64>> = from_json(&Golden::of_model("smollm-tied").json["generate"]["prompt_ids"]);
    let sample = |seed: &str, batch: &str| {
        let options = [
            "--max-new-tokens",
            "16",
            "--seed",
            seed,
            "--batch-size",
            batch,
            "--ignore-eos",
        ];
        lines_of(&volvelle_torch(
            "generate",
            &model_dir("smollm-tied"),
            &options,
            &id_lines(&prompts),
        ))
    };
    assert_eq!(sample("7", "64"), sample("7", "1"), "the batch does not matter");
    assert_ne!(sample("7", "64"), sample("8", "64"));
}

#[test]
fn samples_of_a_line_have_seeds_of_their_own() {
    let model = model_dir("smollm-tied");
    let prompts: Vec<Vec<i64>> = from_json(&Golden::of_model("smollm-tied").json["generate"]["prompt_ids"]);
    let options = |more: &[&'static str]| [&["--max-new-tokens", "12", "--ignore-eos", "--seed", "7"], more].concat();
    let samples = lines_of(&volvelle_torch(
        "generate",
        &model,
        &options(&["--num-samples", "3"]),
        &id_lines(&prompts),
    ));
    assert_eq!(samples.len(), 3 * prompts.len());
    assert_ne!(samples[0], samples[1]);
    assert_ne!(samples[1], samples[2]);
    let single = lines_of(&volvelle_torch("generate", &model, &options(&[]), &id_lines(&prompts)));
    for (row, line) in single.iter().enumerate() {
        assert_eq!(
            *line,
            samples[3 * row],
            "the first sample does not depend on how many there are"
        );
    }
    // Line 1 draws from seed + 1, unless it says otherwise; it may also have another limit.
    let own = [
        json!({"input_ids": prompts[1], "seed": 8}),
        json!({"input_ids": prompts[1], "max_new_tokens": 5}),
    ];
    let got = lines_of(&volvelle_torch("generate", &model, &options(&[]), &own));
    assert_eq!(got[0], single[1]);
    let expected: Vec<i64> = from_json(&single[1]["output_ids"]);
    assert_eq!(from_json::<Vec<i64>>(&got[1]["output_ids"]), expected[..5]);
}

#[test]
fn logprobs_of_drawn_tokens_are_those_of_the_model() {
    let model = model_dir("llama3-gqa");
    let prompts: Vec<Vec<i64>> = from_json(&Golden::of_model("llama3-gqa").json["generate"]["prompt_ids"]);
    for sampling in [&["--greedy"][..], &[]] {
        let options = [&["--max-new-tokens", "20", "--logprobs", "--ignore-eos"], sampling].concat();
        let got = lines_of(&volvelle_torch("generate", &model, &options, &id_lines(&prompts)));
        let whole = prompts.iter().zip(&got).map(|(prompt, line)| {
            let output: Vec<i64> = from_json(&line["output_ids"]);
            [prompt.clone(), output].concat()
        });
        let scored = lines_of(&volvelle_torch(
            "score",
            &model,
            &[],
            &id_lines(&whole.collect::<Vec<_>>()),
        ));
        for ((prompt, line), scored) in prompts.iter().zip(&got).zip(&scored) {
            let logprobs: Vec<f64> = from_json(&line["logprobs"]);
            let expected: Vec<f64> = from_json(&scored["logprobs"]);
            assert_eq!(logprobs.len(), 20);
            for (got, expected) in logprobs.iter().zip(&expected[prompt.len() - 1..]) {
                assert!((got - expected).abs() <= 1e-4, "{got} instead of {expected}");
            }
        }
    }
}

#[test]
fn generate_stops_at_a_text_and_says_why() {
    let model = model_dir("smollm-tied");
    let generate = &Golden::of_model("smollm-tied").json["generate"];
    let prompts: Vec<Vec<i64>> = from_json(&generate["prompt_ids"]);
    let text = generate["texts_skip_special"][0].as_str().expect("a text");
    // Four characters that the text of the first row holds, wherever its tokens begin.
    let stop: String = text.chars().skip(10).take(4).collect();
    let options = [
        "--max-new-tokens",
        "32",
        "--greedy",
        "--ignore-eos",
        "--stop",
        "\u{1}never",
        "--stop",
        &stop,
    ];
    let got = lines_of(&volvelle_torch("generate", &model, &options, &id_lines(&prompts)));
    assert_eq!(got[0]["finish_reason"], "stop");
    let (output, whole): (Vec<i64>, Vec<Vec<i64>>) =
        (from_json(&got[0]["output_ids"]), from_json(&generate["eos_ignored"]));
    assert!(output.len() < 32 && whole[0].starts_with(&output));
    assert!(got[0]["text"].as_str().expect("a text").contains(&stop));
    let one_less = json!({"input_ids": prompts[0], "max_new_tokens": output.len() - 1});
    let shorter = lines_of(&volvelle_torch("generate", &model, &options, &[one_less]));
    assert_eq!(shorter[0]["finish_reason"], "length");
    assert!(!shorter[0]["text"].as_str().expect("a text").contains(&stop));
}

#[test]
fn settings_out_of_range_are_named() {
    let model = model_dir("smollm-tied");
    for (flag, value) in [
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--top-k", "-1"),
        ("--min-p", "2"),
        ("--repetition-penalty", "0"),
        ("--num-samples", "0"),
        ("--batch-size", "0"),
        ("--temperature", "nan"),
        ("--stop", ""),
    ] {
        let options = [format!("{flag}={value}")];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let error = error_of(&volvelle_torch(
            "generate",
            &model,
            &options,
            &[json!({"input_ids": [5]})],
        ));
        assert!(error.contains(flag), "{flag}: {error}");
    }
}

#[test]
fn short_and_empty_input() {
    let model = model_dir("smollm-tied");
    assert_eq!(
        lines_of(&volvelle_torch("score", &model, &[], &[json!({"input_ids": [5]})])),
        [json!({"logprobs": []})]
    );
    assert_eq!(lines_of(&volvelle_torch("score", &model, &[], &[])), [] as [Value; 0]);
    assert_eq!(
        lines_of(&volvelle_torch("generate", &model, &["--greedy"], &[])),
        [] as [Value; 0]
    );
    let nothing = ["--greedy", "--max-new-tokens", "0"];
    let got = lines_of(&volvelle_torch(
        "generate",
        &model,
        &nothing,
        &[json!({"input_ids": [5]})],
    ));
    assert_eq!(got, [json!({"output_ids": [], "text": "", "finish_reason": "length"})]);
}

#[test]
fn mistakes_in_the_input_are_named_with_their_line() {
    let model = model_dir("smollm-tied");
    let score = |line: Value| {
        error_of(&volvelle_torch(
            "score",
            &model,
            &[],
            &[json!({"input_ids": [5, 6]}), line],
        ))
    };
    let both = score(json!({"input_ids": [1], "prompt": "a"}));
    assert!(both.contains("line 2") && both.contains("either"), "{both}");
    let outside = score(json!({"input_ids": [1, 512]}));
    assert!(outside.contains("line 2") && outside.contains("512"), "{outside}");
    let negative = score(json!({"input_ids": [-1, 3]}));
    assert!(negative.contains("-1"), "{negative}");
    let long = score(json!({"input_ids": vec![1; 600]}));
    assert!(
        long.contains("line 2") && long.contains("600") && long.contains("512"),
        "{long}"
    );
    // Blank lines count as lines.
    let blank = format!("{}\n\n{}\n", json!({"input_ids": [5, 6]}), json!({"input_ids": [512]}));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("input.jsonl");
    std::fs::write(&path, blank).expect("it is written");
    for command in ["score", "generate", "train-step"] {
        let input = path.to_str().expect("UTF-8");
        let error = error_of(
            &command_on(command, &model, &["--input", input])
                .output()
                .expect("it runs"),
        );
        assert!(error.contains(&format!("{input}: line 3: ")), "{error}");
    }
    let shape = score(json!({"input_ids": "abc"}));
    assert!(shape.contains(":2:"), "{shape}");
    let no_tokens = error_of(&volvelle_torch(
        "generate",
        &model,
        &["--greedy"],
        &[json!({"input_ids": []})],
    ));
    assert!(no_tokens.contains("line 1"), "{no_tokens}");
    let cold = error_of(&volvelle_torch(
        "generate",
        &model,
        &["--temperature", "0"],
        &[json!({"input_ids": [5]})],
    ));
    assert!(cold.contains("--greedy"), "{cold}");
}

#[test]
fn broken_model_folders_are_errors_that_name_the_file() {
    let score = |dir: &Path| error_of(&volvelle_torch("score", dir, &[], &[json!({"input_ids": [5, 6]})]));
    let missing = score(Path::new("no/such/folder"));
    assert!(missing.contains("no/such/folder"), "{missing}");

    let broken = |file: &str, change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy_model("llama3-gqa-sharded", dir.path());
        change(&dir.path().join(file));
        let message = score(dir.path());
        assert!(message.contains(file), "{file}: {message}");
    };
    let second = "model-00002-of-00002.safetensors";
    broken(second, &|path| std::fs::remove_file(path).expect("it was there"));
    broken(second, &|path| cut(path, 1000));
    broken(second, &|path| std::fs::write(path, b"").expect("it is written"));
    broken("config.json", &|path| cut(path, 100));
    broken("tokenizer.json", &|path| cut(path, 100));
    broken("model.safetensors.index.json", &|path| {
        std::fs::write(path, "{}").expect("it is written")
    });
    broken("model.safetensors.index.json", &|path| {
        replace(path, second, "../../shadow.safetensors")
    });
    broken(second, &|path| {
        std::fs::write(path, "version https://git-lfs.github.com/spec/v1\n").expect("it is written");
    });
    broken("config.json", &|path| replace(path, "512", "5.12e300"));
    broken("config.json", &|path| {
        replace(path, "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"")
    });

    // A tensor of another shape than the config says; one that no shard has.
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_model("llama3-gqa", dir.path());
    replace(
        &dir.path().join("config.json"),
        "\"intermediate_size\": 112",
        "\"intermediate_size\": 128",
    );
    let shape = score(dir.path());
    assert!(
        shape.contains("mlp") && shape.contains("112") && shape.contains("128"),
        "{shape}"
    );
    replace(
        &dir.path().join("config.json"),
        "\"intermediate_size\": 128",
        "\"intermediate_size\": 112",
    );
    replace(
        &dir.path().join("config.json"),
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 3",
    );
    let lacking = score(dir.path());
    assert!(lacking.contains("model.layers.2"), "{lacking}");
}

pub fn copy_model(name: &str, to: &Path) {
    for entry in std::fs::read_dir(model_dir(name)).expect("the fixture is there") {
        let entry = entry.expect("the fixture can be listed");
        if entry.path().is_file() && !entry.file_name().to_string_lossy().starts_with("golden") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("it is copied");
        }
    }
}

/// Keeps the first `len` bytes of a file.
fn cut(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it was there");
    file.set_len(len).expect("it is cut");
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).expect("it was there");
    assert!(text.contains(from), "{} has no {from}", path.display());
    std::fs::write(path, text.replace(from, to)).expect("it is written");
}

/// Runs `chat` with these lines on standard input.
fn chat(model: &Path, options: &[&str], lines: &str) -> Output {
    let mut child = command_on("chat", model, options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that refuses its options ends without reading.
    let _ = child.stdin.take().expect("piped").write_all(lines.as_bytes());
    child.wait_with_output().expect("the program ends")
}

#[test]
fn chat_answers_each_line_with_the_ones_before_in_mind() {
    let options = ["--temperature", "0", "--max-new-tokens", "6", "--system", "Be brief."];
    let model = model_dir("qwen3-qknorm");
    let text = |lines: &str| {
        let output = chat(&model, &options, lines);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (one, two) = (text("Hello\n"), text("Hello\n\n  What is 2?  \n"));
    assert!(
        one.ends_with('\n') && two.starts_with(&one) && two.len() > one.len(),
        "{one:?} {two:?}"
    );
    assert_eq!(text(""), "");
    // The same as the conversation written out.
    let tokenizer = volvelle_torch::lm::Tokenizer::load(&model).expect("a tokenizer");
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "Hello"}),
    ];
    let chat_options = volvelle_torch::lm::chat::ChatOptions::generation_prompt(true);
    let prompt = tokenizer
        .render_conversation(&messages, &chat_options)
        .expect("it renders");
    let ids = tokenizer.encode(&prompt, false).expect("it encodes");
    let generated = lines_of(&volvelle_torch(
        "generate",
        &model,
        &["--greedy", "--max-new-tokens", "6"],
        &[json!({"input_ids": ids})],
    ));
    assert_eq!(generated[0]["text"].as_str().map(|text| format!("{text}\n")), Some(one));
}

#[test]
fn chat_takes_an_adapter_and_a_kind_of_number() {
    let model = model_dir("llama3-gqa-sharded");
    let adapter = model_dir("llama3-gqa").join("lora");
    let adapter = adapter.to_str().expect("UTF-8");
    let greedy = ["--temperature", "0", "--max-new-tokens", "8"];
    let text = |options: &[&str]| {
        let output = chat(&model, &[&greedy, options].concat(), "Hello\n");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let plain = text(&[]);
    assert_ne!(text(&["--adapter", adapter]), plain);
    assert!(!text(&["--dtype", "bfloat16"]).is_empty());
    let error = error_of(&chat(&model, &["--adapter", "no/such/adapter"], "Hello\n"));
    assert!(error.contains("no/such/adapter"), "{error}");
}

#[test]
fn chat_says_what_is_wrong() {
    let model = model_dir("qwen3-qknorm");
    let error = error_of(&chat(&model, &["--top-p", "2"], "Hello\n"));
    assert!(error.contains("--top-p is 2"), "{error}");
    let long = format!("{}\n", "word ".repeat(3000));
    let error = error_of(&chat(&model, &[], &long));
    assert!(error.contains("the model's context is"), "{error}");
}
