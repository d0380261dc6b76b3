//! `astro.search` as the engine would start it: shards, strategies, budgets, and what does not change a tree.

use serde_json::{Value, json};

use crate::resume::stage::{Base, Ended, Stage};

fn params(more: Value) -> Value {
    let mut all = json!({
        "num_problems": 7, "num_simulations": 6, "num_candidates": 4, "num_rollouts": 3, "max_step_length": 16,
        "max_completion_length": 32, "stop_when": {"num_correct": 3, "num_wrong": 3},
    });
    for (name, value) in more.as_object().expect("parameters by name") {
        all[name] = value.clone();
    }
    all
}

fn trees(stage: &Stage) -> Vec<String> {
    let text = std::fs::read_to_string(stage.output("trees")).expect("the trees");
    text.lines().map(str::to_owned).collect()
}

/// The trees of a search, which may have solved nothing: that is a failure after they are written.
fn searched(more: Value) -> Vec<String> {
    let stage = Base::get().search(params(more));
    let ended = stage.run();
    if !ended.status.success() {
        ended.assert_says("no search reached a correct answer");
    }
    trees(&stage)
}

fn metric(ended: &Ended, name: &str) -> f64 {
    let is_it = |event: &&Value| event["event"] == "metric" && event["name"] == name;
    let event = ended.events.iter().rfind(is_it);
    event
        .and_then(|event| event["value"].as_f64())
        .unwrap_or_else(|| panic!("no metric {name}"))
}

#[test]
fn a_tree_depends_on_its_problem_and_not_on_what_is_searched_beside_it() {
    let all = searched(json!({}));
    assert_eq!(all.len(), 7);
    assert_eq!(searched(json!({"num_problems": 3})), all[..3]);
    let alone = json!({"max_active_problems": 2, "generation_batch_size": 5});
    assert_eq!(searched(alone), all);
    let shards = [0, 1, 2].map(|shard_index| searched(json!({"num_shards": 3, "shard_index": shard_index})));
    for (idx, tree) in all.iter().enumerate() {
        assert_eq!(&shards[idx % 3][idx / 3], tree, "problem {idx}");
    }
    assert_ne!(searched(json!({"seed": 1})), all);
}

#[test]
fn a_tree_does_not_depend_on_problems_of_another_verifier_beside_it() {
    let stage = |ids: &[&str]| {
        let mut stage = Base::get().search(params(json!({"max_step_length": 32})));
        let line = |id: &&str| {
            let meta = json!({});
            json!({"version": 1, "id": id, "problem": "7 3 4 -> 24", "answer": "24", "verifier": id, "meta": meta})
                .to_string()
        };
        let lines: Vec<String> = ids.iter().map(line).collect();
        let path = stage.partial().with_file_name("mixed.jsonl");
        std::fs::write(&path, lines.join("\n")).expect("it is written");
        stage.set("/inputs/problems/path", json!(path));
        stage
    };
    let searched = |ids: &[&str]| {
        let stage = stage(ids);
        let _ = stage.run();
        trees(&stage)
    };
    let both = searched(&["math", "countdown"]);
    assert_eq!([searched(&["math"]), searched(&["countdown"])].concat(), both);
    let ended = stage(&["math", "countdown", "math"]).run();
    ended.assert_says("the problems of lines 1 and 3 have one id, \"math\"");
}

#[test]
fn a_shard_that_is_not_there_is_an_error() {
    let ended = Base::get()
        .search(params(json!({"num_shards": 2, "shard_index": 2})))
        .run();
    assert!(!ended.status.success());
    ended.assert_says("shard_index is 2, but num_shards is 2: shards are counted from 0");
}

#[test]
fn the_trees_of_every_strategy_can_be_linearized() {
    let strategies: [(&str, Value); 5] = [
        ("mcts", json!({})),
        ("mcts", json!({"leaves_per_round": 3})),
        ("best_of_n", json!({"num_candidates": 8})),
        ("beam", json!({"beam_width": 2, "num_simulations": 12})),
        (
            "dfs",
            json!({"num_simulations": 12, "stop_when": {"num_correct": 1, "num_wrong": 1}}),
        ),
    ];
    for (strategy, mut more) in strategies {
        more["strategy"] = json!(strategy);
        more["num_problems"] = json!(24);
        let stage = Base::get().search(params(more));
        let ended = stage.run();
        ended.assert_done();
        assert!(metric(&ended, "solved") > 0.0, "{strategy}");
        assert_eq!(trees(&stage).len(), 24);
        let inputs = [("trees", stage.output("trees"))];
        let traces = Stage::new("astro.linearize", json!({}), &inputs, &["traces", "card", "card_text"]);
        traces.run().assert_done();
        let text = std::fs::read_to_string(traces.output("traces")).expect("the traces");
        assert!(
            text.contains("\"backtrack\"") || text.contains("\"restart\""),
            "{strategy} has no wrong attempt"
        );
    }
}

#[test]
fn time_that_is_over_ends_a_search_with_a_warning() {
    let stage = Base::get().search(params(json!({"max_seconds": 1e-9, "max_active_problems": 5})));
    let ended = stage.run();
    // Whether a problem is solved by then is another question.
    ended.assert_says("5 trees stay as they are, and 2 problems were not begun");
    assert!(!ended.messages().contains("panicked"));
    let text = trees(&stage);
    assert!(text[..5].iter().all(|tree| tree.contains("\"num_simulations\":1,")));
    assert!(text[5..].iter().all(|tree| tree.contains("\"num_simulations\":0,")));
}

#[test]
fn what_completions_begin_with_is_computed_once() {
    let ended = Base::get()
        .search(params(json!({"num_candidates": 4, "num_rollouts": 4})))
        .run();
    ended.assert_done();
    // Four completions of each prompt share it, so that three quarters need no computing whatever the tree is.
    let reused = metric(&ended, "reused_prompt_tokens");
    assert!(reused >= 0.75, "{reused}");
}

#[test]
fn a_step_that_was_cut_is_left_out_or_gone_on_from() {
    let num_nodes = |truncated_steps: &str| -> usize {
        let trees = searched(json!({"max_step_length": 2, "truncated_steps": truncated_steps}));
        let nodes = |tree: &String| serde_json::from_str::<Value>(tree).expect("a tree")["nodes"].clone();
        trees
            .iter()
            .map(|tree| nodes(tree).as_array().map_or(0, Vec::len))
            .sum()
    };
    let (dropped, kept) = (num_nodes("drop"), num_nodes("keep"));
    assert!(dropped >= 7 && kept > 2 * dropped, "{dropped} nodes and {kept}");
}
