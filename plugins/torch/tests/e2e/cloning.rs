//! From trees to conversations: votes on solutions, traces of several shards, and writing by a server or a small model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::endpoint::http::{Received, Reply, Server};
use crate::resume::stage::Stage;

/// A problem whose tree has two wrong answers, a right one, and one that is right by luck:
/// 0 -> 1 -> {2 wrong 11, 3 right 10}, 0 -> 4 wrong 7, 0 -> 5 right 10.
fn tree(id: &str) -> Value {
    let node = |id: usize, parent: Option<usize>, text: &str, answer: Option<&str>| {
        json!({
            "id": id, "parent": parent, "text": text, "prior": 1.0, "visit_count": 1, "q_value": 0.5, "rollout_value": 0.5,
            "terminal": answer.is_some(), "answer": answer, "correct": answer.map(|answer| answer == "10"),
        })
    };
    let problem = format!("Problem {id}: add 2 and 3 and double the sum.");
    json!({
        "version": 1, "problem": {"version": 1, "id": id, "problem": problem, "answer": "10", "verifier": "math"},
        "nodes": [
            node(0, None, "", None),
            node(1, Some(0), "## Step 1: Add\n2 + 3 = 5", None),
            node(2, Some(1), "5 * 2 = 11, so \\boxed{11}", Some("11")),
            node(3, Some(1), "5 * 2 = 10, so \\boxed{10}", Some("10")),
            node(4, Some(0), "Double 2 and add 3: \\boxed{7}", Some("7")),
            node(5, Some(0), "A lucky guess: \\boxed{10}", Some("10")),
        ],
        "num_simulations": 4, "num_tokens": 100,
    })
}

fn write_lines(path: &Path, lines: &[Value]) -> PathBuf {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).expect("a file");
    path.to_owned()
}

fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("an output");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("an output")).expect("JSON")
}

fn sum(counts: &Value) -> u64 {
    let counts = counts.as_object().expect("counts by name");
    counts.values().filter_map(Value::as_u64).sum()
}

fn endpoint(dir: &Path, server: &Server) -> PathBuf {
    let model = dir.join("served");
    std::fs::create_dir_all(&model).expect("a folder");
    let endpoint = json!({
        "version": 1, "model": "m", "api": "chat", "base_url": server.url(), "base_url_env": null,
        "api_key_env": null, "logprobs": false,
    });
    std::fs::write(model.join("endpoint.json"), endpoint.to_string()).expect("a file");
    model
}

/// What is asked of a server: the words behind the examples of a prompt.
fn question(request: &Received) -> String {
    let prompt = request.body["messages"][0]["content"].as_str().unwrap_or_default();
    prompt
        .split_once("Now yours.")
        .map_or(prompt, |(_, own)| own)
        .to_owned()
}

fn answer_all(request: &Received, answer: &dyn Fn(usize) -> String) -> Reply {
    let count = request.body["n"].as_u64().unwrap_or(1) as usize;
    let choice = |index| json!({"index": index, "message": {"content": answer(index)}, "finish_reason": "stop"});
    let choices: Vec<Value> = (0..count).map(choice).collect();
    Reply::Json(
        200,
        json!({"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 7 * count}}),
    )
}

/// Finds luck unjustified, and in one vote of a problem can't make up its mind.
fn judge(_: usize, request: &Received) -> Reply {
    let asked = question(request);
    answer_all(request, &|index| {
        let text = match (asked.contains("lucky guess"), index) {
            (true, 0 | 1) => "Who knows.\nVerdict: 0",
            (false, 3) if asked.contains("Problem b:") => "I can't tell.",
            _ => "All follows.\nVerdict: 1",
        };
        text.to_owned()
    })
}

/// Writes as asked, but that it can't write about problem b.
fn writer(request: &Received) -> Reply {
    let asked = question(request);
    answer_all(request, &|_| {
        let text = if asked.contains("Step to go back to:") {
            "Let's go back to where we found that the sum is 5."
        } else if asked.contains("which answers 11:") {
            "Doubling gives 5 * 2 = 11. So the answer would be 11."
        } else if asked.contains("which answers 7:") {
            "We double 2 and add 3. So the answer would be 7."
        } else if asked.contains("which answers 10:") {
            "Doubling gives $5 \\cdot 2 = 10$, so the answer is $\\boxed{10}$."
        } else if !asked.contains("Notes of the next step") {
            "Let's restart our solution from the beginning and read it again."
        } else if asked.contains("Problem b:") {
            "The sum is 6."
        } else {
            "First we add: $2 + 3 = 5$."
        };
        text.to_owned()
    })
}

/// Traces of problems `ids`, each with two backtracks.
fn traces(dir: &Path, ids: &[&str]) -> PathBuf {
    let trees = write_lines(
        &dir.join("trees.jsonl"),
        &ids.iter().map(|id| tree(id)).collect::<Vec<_>>(),
    );
    let params = json!({"num_backtracks": [2], "traces_per_problem": 1});
    let stage = Stage::new(
        "astro.linearize",
        params,
        &[("trees", trees)],
        &["traces", "card", "card_text"],
    );
    stage.run().assert_done();
    let path = dir.join("traces.jsonl");
    std::fs::copy(stage.output("traces"), &path).expect("a copy");
    path
}

#[test]
fn solutions_that_are_right_by_luck_are_voted_down_and_not_learned_from() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(judge);
    let trees = write_lines(&dir.path().join("trees.jsonl"), &[tree("a"), tree("b")]);
    let inputs = [("policy", endpoint(dir.path(), &server)), ("trees", trees)];
    let stage = Stage::new("astro.self_eval", json!({"votes": 4, "agree": 4}), &inputs, &["trees"]);
    stage
        .run()
        .assert_done()
        .assert_says("1 of 4 right solutions are good: at least 4 of 4 votes for them");
    let judged = read_lines(&stage.output("trees"));
    let votes = |tree: usize, node: usize| judged[tree]["nodes"][node]["self_eval"].clone();
    assert_eq!(votes(0, 3), json!({"votes": 4, "agree": 4, "good": true}));
    assert_eq!(votes(0, 5), json!({"votes": 4, "agree": 2, "good": false}));
    assert_eq!(
        votes(1, 3),
        json!({"votes": 4, "agree": 3, "good": false}),
        "a vote that can't be read is one against"
    );
    assert_eq!(votes(0, 2), Value::Null);

    let linearize = |params: Value| {
        let inputs = [("trees", stage.output("trees"))];
        let stage = Stage::new("astro.linearize", params, &inputs, &["traces", "card", "card_text"]);
        stage.run().assert_done();
        let ends = read_lines(&stage.output("traces"));
        let ends = ends.iter().map(|trace| {
            let nodes = trace["nodes"].as_array().expect("visits");
            (
                trace["problem"]["id"].as_str().expect("an id").to_owned(),
                nodes[nodes.len() - 1]["id"].as_u64(),
            )
        });
        (
            ends.collect::<std::collections::BTreeSet<_>>(),
            read_json(&stage.output("card")),
        )
    };
    let (ends, card) = linearize(json!({}));
    assert_eq!(ends, [("a".to_owned(), Some(3))].into());
    assert_eq!(
        (&card["num_voted_down"], &card["dropped"]["without_self_evaluated"]),
        (&json!(3), &json!(1))
    );
    let (ends, _) = linearize(json!({"min_agree": 3}));
    assert_eq!(ends, [("a".to_owned(), Some(3)), ("b".to_owned(), Some(3))].into());
    let (ends, _) = linearize(json!({"self_eval": "ignore", "traces_per_problem": 8}));
    assert!(ends.contains(&("a".to_owned(), Some(5))), "{ends:?}");
}

#[test]
fn without_votes_trees_stay_as_they_are_and_nobody_is_asked() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(judge);
    let trees = write_lines(&dir.path().join("trees.jsonl"), &[tree("a")]);
    let inputs = [("policy", endpoint(dir.path(), &server)), ("trees", trees)];
    let mut stage = Stage::new("astro.self_eval", json!({"votes": 0}), &inputs, &["trees"]);
    stage.run().assert_done();
    assert_eq!(server.received().len(), 0);
    let same = |node: &Value| node.get("self_eval").is_none();
    assert!(
        read_lines(&stage.output("trees"))[0]["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .all(same)
    );
    stage.set("/params/votes", json!(4));
    stage
        .run()
        .assert_says("agree is 8, but there are 4 votes; no solution could be good");
}

#[test]
fn shards_are_gathered_and_a_problem_that_is_in_two_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shard = |name: &str, ids: &[&str]| {
        write_lines(
            &dir.path().join(name),
            &ids.iter().map(|id| tree(id)).collect::<Vec<_>>(),
        )
    };
    let outputs = ["traces", "card", "card_text"];
    let mut stage = Stage::new(
        "astro.linearize",
        json!({}),
        &[("trees", shard("s0", &["a", "b"]))],
        &outputs,
    );
    let inputs = |second: &Path| {
        json!([
            {"path": dir.path().join("s0"), "axes": {"shard_index": 0}},
            {"path": second, "axes": {"shard_index": 1}},
        ])
    };
    stage.set("/inputs/trees", inputs(&shard("s1", &["c"])));
    stage.run().assert_done();
    let card = read_json(&stage.output("card"));
    assert_eq!(
        card["sources"],
        json!([
            {"name": "shard_index=0", "num_trees": 2, "num_used": 2, "num_traces": 8},
            {"name": "shard_index=1", "num_trees": 1, "num_used": 1, "num_traces": 4},
        ])
    );
    let text = std::fs::read_to_string(stage.output("card_text")).expect("the card");
    assert!(text.contains("| shard_index=1 | 1 | 1 | 100.0% | 4 |"), "{text}");

    stage.set("/inputs/trees", inputs(&shard("s2", &["c", "b"])));
    let ended = stage.run();
    assert!(!ended.status.success());
    ended
        .assert_says("problem \"b\" has two trees, in ")
        .assert_says("s0:2 (shard_index=0) and in ");
    ended.assert_says("s2:2 (shard_index=1)");
}

#[test]
fn lengths_are_tokens_where_there_is_a_tokenizer() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trees = write_lines(&dir.path().join("trees.jsonl"), &[tree("a")]);
    let inputs = [("trees", trees), ("tokenizer", fixture("smollm-tied"))];
    let stage = Stage::new("astro.linearize", json!({}), &inputs, &["traces", "card", "card_text"]);
    stage.run().assert_done();
    let length = read_json(&stage.output("card"))["length"].clone();
    // The shortest solution has 4 words, and more tokens.
    assert_eq!(length["unit"], "tokens");
    assert!(length["min"].as_u64().is_some_and(|min| min > 4), "{length}");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name)
}

#[test]
fn a_server_writes_traces_and_what_it_does_not_manage_is_the_templates() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(|_, request| writer(request));
    let inputs = [
        ("policy", endpoint(dir.path(), &server)),
        ("traces", traces(dir.path(), &["a", "b"])),
    ];
    let outputs = ["chats", "rejects", "card"];
    let stage = Stage::new("astro.rewrite", json!({}), &inputs, &outputs);
    stage
        .run()
        .assert_done()
        .assert_says("1 of 2 traces were written by the template");
    let chats = read_lines(&stage.output("chats"));
    let written = |idx: usize| {
        chats[idx]["messages"][1]["content"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    assert!(written(0).contains("First we add: $2 + 3 = 5$.\n\n"), "{}", written(0));
    assert!(
        written(0).contains("correctly so far. Let's go back to where we found that the sum is 5.\n\n")
            || written(0).contains("Let's restart our solution from the beginning and read it again.\n\n")
    );
    assert!(written(1).contains("## Step 1: Add\n2 + 3 = 5\n\n"), "{}", written(1));
    let rejects = read_lines(&stage.output("rejects"));
    assert_eq!(
        (rejects.len(), &rejects[0]["reason"], &rejects[0]["replaced_by"]),
        (1, &json!("numbers_lost"), &json!("template"))
    );

    let card = read_json(&stage.output("card"));
    assert_eq!(
        (&card["num_traces"], &card["num_chats"], &card["num_rejected"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(card["written"], json!({"template": 1, "model": 1}));
    assert_eq!(card["fallbacks"], json!({"numbers_lost": 1}));
    assert_eq!(card["asked"]["failed"], json!({"numbers_lost": 3}));
    let num_requests = server.received().len() as u64;
    let asked = &card["asked"];
    assert_eq!(asked["num_requests"], num_requests);
    assert_eq!(
        asked["num_accepted"].as_u64().expect("a count") + sum(&asked["failed"]),
        num_requests
    );
    assert_eq!(asked["prompt_tokens"], 100 * num_requests);
    assert_eq!(asked["completion_tokens"], 7 * num_requests);

    // Rejected instead: as many as are allowed.
    let mut strict = Stage::new(
        "astro.rewrite",
        json!({"fallback": "reject", "max_rejected": 0.5}),
        &inputs,
        &outputs,
    );
    strict
        .run()
        .assert_done()
        .assert_says("1 of 2 traces were rejected: 1 numbers_lost");
    let card = read_json(&strict.output("card"));
    assert_eq!(
        (&card["num_chats"], &card["rejected"]),
        (&json!(1), &json!({"numbers_lost": 1}))
    );
    assert_eq!(read_lines(&strict.output("rejects"))[0]["problem_id"], "b");
    strict.set("/params/max_rejected", json!(0.4));
    let ended = strict.run();
    assert!(!ended.status.success());
    ended.assert_says("error: 1 of 2 traces were rejected: 1 numbers_lost");
}

#[test]
fn what_a_server_wrote_is_not_asked_for_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let traces = traces(dir.path(), &["a", "c"]);
    // One part for each visit but the root's. The longer trace ends last, of two equal ones the second.
    let lengths: Vec<usize> = read_lines(&traces)
        .iter()
        .map(|trace| trace["nodes"].as_array().map_or(0, Vec::len) - 1)
        .collect();
    let (last, num_parts) = (
        if lengths[0] > lengths[1] {
            "Problem a:"
        } else {
            "Problem c:"
        },
        lengths[0] + lengths[1],
    );
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let closed = gate.clone();
    let server = Server::start(move |_, request| {
        let asked = question(request);
        if asked.contains(last) && asked.contains("which answers 10:") {
            let open = closed.0.lock().expect("no test panics while it holds this");
            drop(closed.1.wait_while(open, |open| !*open));
        }
        writer(request)
    });
    let inputs = [("policy", endpoint(dir.path(), &server)), ("traces", traces)];
    let outputs = ["chats", "rejects", "card"];
    let stage = Stage::new(
        "astro.rewrite",
        json!({"save_steps": 1, "max_concurrency": 1}),
        &inputs,
        &outputs,
    );
    stage.kill_after_lines(num_parts - 1);
    *gate.0.lock().expect("no test panics while it holds this") = true;
    gate.1.notify_all();
    stage
        .run()
        .assert_done()
        .assert_says(&format!("and {} generated items", num_parts - 1));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for request in server.received() {
        *counts.entry(question(&request)).or_default() += 1;
    }
    // The one that was in flight is asked for again.
    let repeated = counts.values().filter(|&&count| count > 1).count();
    assert!(counts.len() == num_parts && repeated <= 1, "{counts:?}");
    let untouched = stage.fresh();
    untouched.run().assert_done();
    let (again, whole) = (stage.digests(), untouched.digests());
    assert_eq!(
        (&again["chats"], &again["rejects"]),
        (&whole["chats"], &whole["rejects"])
    );
    // What the first attempt's prompts took only the server knew.
    let cost = |stage: &Stage| read_json(&stage.output("card"))["asked"]["prompt_tokens"].clone();
    assert_eq!((cost(&stage), cost(&untouched)), (Value::Null, json!(100 * num_parts)));
}

#[test]
fn a_small_model_that_can_not_write_leaves_all_to_the_template_however_often_it_is_stopped() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let prompts = "=== step ===\nSay: {step}\n=== go_back ===\nBack to: {step}\n";
    let prompt = dir.path().join("prompts.txt");
    std::fs::write(&prompt, prompts).expect("a file");
    let inputs = [
        ("policy", fixture("smollm-tied")),
        ("traces", traces(dir.path(), &["a", "b", "c"])),
    ];
    let params = json!({"prompt": prompt, "max_completion_length": 8, "num_attempts": 4, "save_steps": 1, "generation_batch_size": 1});
    let stage = Stage::new("astro.rewrite", params, &inputs, &["chats", "rejects", "card"]);
    stage.kill_after_lines(5);
    stage
        .run()
        .assert_done()
        .assert_says("3 of 3 traces were written by the template");
    let card = read_json(&stage.output("card"));
    assert_eq!(card["written"], json!({"template": 3}));
    assert_eq!(sum(&card["fallbacks"]), 3);
    assert_eq!(
        (&card["asked"]["num_requests"], sum(&card["asked"]["failed"])),
        (&json!(12), 12)
    );
    let tokens = |name: &str| card["asked"][name].as_u64().expect("a count");
    assert!(
        tokens("prompt_tokens") > 12 && (1..=96).contains(&tokens("completion_tokens")),
        "{card}"
    );
    let untouched = stage.fresh();
    untouched.run().assert_done();
    assert_eq!(stage.digests(), untouched.digests());

    // The same texts as without a model.
    let without = Stage::new(
        "astro.rewrite",
        json!({}),
        &[("traces", stage.input("traces"))],
        &["chats", "rejects", "card"],
    );
    without.run().assert_done();
    assert_eq!(without.digests()["chats"], stage.digests()["chats"]);
    let asked = read_json(&without.output("card"))["asked"].clone();
    assert_eq!(
        (&asked["num_requests"], &asked["completion_tokens"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn prompts_are_for_a_model() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let prompt = dir.path().join("prompts.txt");
    std::fs::write(&prompt, "=== step ===\n{step}\n").expect("a file");
    let run = |inputs: &[(&str, PathBuf)]| {
        let stage = Stage::new(
            "astro.rewrite",
            json!({"prompt": prompt}),
            inputs,
            &["chats", "rejects", "card"],
        );
        let ended = stage.run();
        assert!(!ended.status.success());
        ended
    };
    let traces = ("traces", traces(dir.path(), &["a"]));
    run(std::slice::from_ref(&traces)).assert_says("there is no model; connect the input policy");
    run(&[traces, ("policy", fixture("smollm-tied"))]).assert_says("prompts.txt: there is no part `=== go_back ===`");
}

#[test]
fn prompts_for_critiques_need_a_model_and_all_their_places() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let prompt = dir.path().join("critic.txt");
    std::fs::write(&prompt, "{problem} {solution}\nVerdict:\n").expect("a file");
    let problem = json!({"version": 1, "id": "a", "problem": "2 + 3?", "answer": "5", "verifier": "math"});
    let sample = json!({
        "version": 1, "problem_id": "a", "sample_idx": 0, "prompt": "2 + 3?", "completion": "\\boxed{5}", "num_tokens": 1,
        "answer": "5", "correct": true, "truncated": false, "num_backtracks": 0,
    });
    let problems = write_lines(&dir.path().join("problems.jsonl"), &[problem]);
    let samples = write_lines(&dir.path().join("samples.jsonl"), &[sample]);
    let run = |policy: &[(&str, PathBuf)]| {
        let mut inputs = vec![("problems", problems.clone()), ("samples", samples.clone())];
        inputs.extend_from_slice(policy);
        let ended = Stage::new("astro.spoc", json!({"prompt": prompt}), &inputs, &["chats", "card"]).run();
        assert!(!ended.status.success());
        ended
    };
    run(&[]).assert_says("there is no model; connect the input policy");
    run(&[("policy", fixture("smollm-tied"))]).assert_says("critic.txt: the prompt \"prompt\" lacks {reference}");
}
