//! Tests of graphs as a whole: axes, gathering, and above all which edits change which keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::digest::{Digest, RecipeKey};
use crate::spec::{Mistakes, Options, load};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn options(sets: &[&str]) -> Options {
    let sets = sets.iter().map(|&set| set.to_owned()).collect();
    Options {
        sets,
        plugin_dirs: vec![fixtures().join("plugins")],
        ..Options::default()
    }
}

fn try_graph(text: &str, sets: &[&str]) -> Result<Graph, Mistakes> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("pipeline.yaml");
    std::fs::write(&file, text).expect("a file");
    build(&load(&file, &options(sets))?, None)
}

pub(super) fn graph(text: &str, sets: &[&str]) -> Graph {
    try_graph(text, sets).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Returns the graph of a pipeline whose stages were written in another order.
pub(super) fn graph_with_order(text: &str, seed: u64) -> Graph {
    let (head, stages) = text.split_once("stages:\n").expect("the pipeline has stages");
    let mut blocks: Vec<String> = Vec::new();
    for line in stages.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with("    ") => block.push_str(&format!("{line}\n")),
            _ => blocks.push(format!("{line}\n")),
        }
    }
    // Any order that depends on the seed will do.
    blocks.sort_by_key(|block| Digest::of(format!("{seed}{block}").as_bytes()));
    graph(&format!("{head}stages:\n{}", blocks.concat()), &[])
}

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = try_graph(text, &[]).expect_err("something is wrong");
    mistakes.iter().map(|mistake| mistake.message.clone()).collect()
}

#[test]
fn a_coordinate_that_ends_in_a_dollar_stays_apart_from_what_follows() {
    let command = r#"volvelle: 1
params: { e: "" }
stages:
  d: { uses: demo.data }
  c:
    uses: command
    needs: { a: d.train }
    matrix: { x: ["$", "{z}", a$$], y: ["$", "", "{q}", "$${z}"] }
    with: { run: "${matrix.x}${matrix.y}${inputs.a} ${matrix.y}${params.e}{HOME} ${matrix.x}${matrix.y}" }
"#;
    let graph = graph(command, &[]);
    for idx in graph.select_all("c").expect("a stage") {
        let node = graph.node(idx);
        let [x, y] = ["x", "y"].map(|axis| node.axes[axis].as_str().expect("a text"));
        let run = node.params["run"].as_str().expect("a text");
        let filled = crate::spec::template::substitute(run, |name| (name == "inputs.a").then(|| "A".to_owned()));
        assert_eq!(filled, Ok(format!("{x}{y}A {y}{{HOME}} {x}{y}")), "{run}");
    }
}

fn ids(graph: &Graph) -> Vec<String> {
    (0..graph.len()).map(|idx| graph.id(idx).0).collect()
}

fn keys(graph: &Graph) -> BTreeMap<String, RecipeKey> {
    (0..graph.len())
        .map(|idx| (graph.id(idx).0, graph.recipe_key(idx)))
        .collect()
}

/// Returns the stages whose keys differ.
fn changed(before: &Graph, after: &Graph) -> BTreeSet<String> {
    let (old, new) = (keys(before), keys(after));
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    let stage = |id: &String| id.split('[').next().unwrap_or_default().to_owned();
    old.iter()
        .filter(|(id, key)| new[*id] != **key)
        .map(|(id, _)| stage(id))
        .collect()
}

fn base() -> String {
    std::fs::read_to_string(fixtures().join("keys.yaml")).expect("the fixture")
}

const ALL_BELOW_SFT: [&str; 4] = ["copy", "eval", "sft", "table"];

#[test]
fn the_golden_keys_hold() {
    let golden = std::fs::read_to_string(fixtures().join("keys.json")).expect("the fixture");
    let golden: BTreeMap<String, RecipeKey> = serde_json::from_str(&golden).expect("keys by node");
    let found = keys(&graph(&base(), &[]));
    assert_eq!(
        found,
        golden,
        "{}",
        serde_json::to_string_pretty(&found).expect("keys are strings")
    );
}

#[test]
fn axes_are_inherited_and_gathered() {
    let graph = graph(&base(), &[]);
    let sft = [
        "sft[seed=1,style=search]",
        "sft[seed=1,style=direct]",
        "sft[seed=2,style=search]",
        "sft[seed=2,style=direct]",
    ];
    assert_eq!(ids(&graph)[..6], [&["data", "base"][..], &sft[..]].concat());
    let table = graph.node(graph.select("table").expect("one node"));
    let items: Vec<String> = table.inputs[0]
        .items
        .iter()
        .map(|item| format!("{} {}", item.label.as_deref().unwrap_or("-"), graph.id(item.node)))
        .collect();
    let expected = [
        "base base_eval",
        "sft eval[seed=1,style=search]",
        "sft eval[seed=1,style=direct]",
        "sft eval[seed=2,style=search]",
        "sft eval[seed=2,style=direct]",
    ];
    assert_eq!(items, expected);
    assert!(table.inputs[0].gathered && table.axes.is_empty());
    assert_eq!(graph.dag.edge_count(), 1 + 4 * 2 + 2 + 4 * 2 + 5 + 1);
    assert_eq!(
        table.inputs[0].items[1].axes,
        Axes::from([("seed".into(), json!(1)), ("style".into(), json!("search"))])
    );
}

#[test]
fn nodes_are_selected_by_enough_of_their_name() {
    let graph = graph(&base(), &[]);
    let select = |text: &str| graph.select(text).map(|idx| graph.id(idx).0);
    assert_eq!(
        select("sft[style=direct, seed=2]").as_deref(),
        Ok("sft[seed=2,style=direct]")
    );
    assert_eq!(select("table").as_deref(), Ok("table"));
    assert!(matches!(
        select("sft[style=direct]"),
        Err(SelectError::Several { num: 2, .. })
    ));
    assert!(matches!(select("tabel"), Err(SelectError::Unknown { nearest: Some(near), .. }) if near == "table"));
}

#[test]
fn what_does_not_change_the_result_does_not_change_a_key() {
    let before = graph(&base(), &[]);
    for (from, to) in [
        ("3.0e-4", "0.0003"),
        ("count: 1000,", "count: 1e3,"),
        (
            "with: { count: 1000, seed: \"${params.seed}\" }",
            "with: { seed: 7, file: null, count: 1000 }",
        ),
        ("num_workers: 5", "num_workers: 9, micro_batch: 1"),
        ("num_workers: 5", "num_workers: 5, num_train_epochs: 1"),
        ("uses: demo.table", "uses: demo.table # a comment"),
        ("name: keys", "name: other"),
        (
            "uses: command",
            "uses: command\n    resources: { cpu: 2, mem: 1GiB, timeout: 5m, retries: 2 }",
        ),
        (
            "{ sft: eval.scores, base: base_eval.scores }",
            "{ base: base_eval.scores, sft: eval.scores }",
        ),
        (
            "style: [search, direct], seed: [1, 2]",
            "seed: [1, 2], style: [search, direct]",
        ),
    ] {
        assert!(base().contains(from), "{from}");
        let after = graph(&base().replace(from, to), &[]);
        assert_eq!(changed(&before, &after), BTreeSet::new(), "{from} -> {to}");
    }
}

#[test]
fn a_renamed_stage_keeps_its_keys() {
    let renamed = base()
        .replace("sft.model", "tuned.model")
        .replace("  sft:\n", "  tuned:\n");
    let (before, after) = (graph(&base(), &[]), graph(&renamed, &[]));
    let set = |graph: &Graph| {
        (0..graph.len())
            .map(|idx| graph.recipe_key(idx))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(set(&before), set(&after));
    assert!(after.select("tuned[seed=1,style=direct]").is_ok());
}

#[test]
fn a_change_changes_exactly_what_is_below() {
    let before = graph(&base(), &[]);
    let everything = ["base", "base_eval", "copy", "data", "eval", "sft", "table"];
    for (from, to, expected) in [
        ("3.0e-4", "3.1e-4", &ALL_BELOW_SFT[..]),
        ("count: 1000", "count: 1001", &everything[..]),
        ("seed: 7,", "seed: 8,", &everything[..]),
        ("cp ${inputs.page}", "cat ${inputs.page} >", &["copy"][..]),
        ("page/index.html", "page/other.html", &["copy"][..]),
        ("{ sft: eval", "{ tuned: eval", &["copy", "table"][..]),
        (
            "model: sft.model, problems: data.test",
            "model: sft.model, problems: data.train",
            &["copy", "eval", "table"][..],
        ),
    ] {
        assert!(base().contains(from), "{from}");
        let after = graph(&base().replacen(from, to, 1), &[]);
        let expected: BTreeSet<String> = expected.iter().map(|&stage| stage.to_owned()).collect();
        assert_eq!(changed(&before, &after), expected, "{from} -> {to}");
    }
    let after = graph(&base(), &["lr=1e-4"]);
    assert_eq!(changed(&before, &after), ALL_BELOW_SFT.map(str::to_owned).into());
}

#[test]
fn extending_a_grid_leaves_the_old_points_alone() {
    let (before, after) = (graph(&base(), &[]), graph(&base(), &["stages.sft.matrix.seed=[1,2,3]"]));
    let (old, new) = (keys(&before), keys(&after));
    let kept = old.iter().filter(|(id, key)| new.get(*id) == Some(key)).count();
    assert_eq!((kept, old.len(), new.len()), (old.len() - 2, 13, 17));
}

#[test]
fn the_content_of_a_file_and_not_its_place_enters_the_key() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pipeline = |name: &str, bytes: &str| {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
        let text = format!("volvelle: 1\nstages: {{ data: {{ uses: demo.data, with: {{ file: {name} }} }} }}\n");
        let file = dir.path().join("pipeline.yaml");
        std::fs::write(&file, text).expect("a file");
        let pipeline = load(&file, &options(&[])).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        build(&pipeline, None)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .node(0)
    };
    let a = pipeline("a.jsonl", "1\n");
    assert_eq!(
        a.recipe["params"],
        json!({"file": {"content": Digest::of(b"1\n").to_string()}})
    );
    assert_eq!(a.params["file"], json!(dir.path().join("a.jsonl").to_str()));
    assert_eq!(a.recipe_key, pipeline("b.jsonl", "1\n").recipe_key);
    assert_ne!(a.recipe_key, pipeline("a.jsonl", "2\n").recipe_key);
}

#[test]
fn the_content_key_follows_the_digests_of_the_inputs_only() {
    let (a, b) = (graph(&base(), &[]), graph(&base(), &["lr=1e-4"]));
    let select = |graph: &Graph| graph.select("eval[seed=1,style=direct]").expect("one");
    let content = |graph: &Graph, digest: &dyn Fn(Item<'_>) -> Digest| graph.content(select(graph), digest);
    let digest = |item: Item<'_>| Digest::of(item.output.as_bytes());
    assert_ne!(a.recipe_key(select(&a)), b.recipe_key(select(&b)));
    assert_eq!(content(&a, &digest), content(&b, &digest));
    assert_ne!(content(&a, &digest).0, content(&a, &|_| Digest::of(b"other")).0);
    let value: Value = serde_json::from_str(&content(&a, &digest).1).expect("JSON");
    assert_eq!(
        value["inputs"]["model"],
        json!({"digest": Digest::of(b"model").to_string()})
    );
    assert_eq!(value["params"], a.recipe(select(&a))["params"]);
}

fn two_trainings(a: &str, b: &str, rest: &str) -> String {
    format!(
        "volvelle: 1\nstages:\n  data: {{ uses: demo.data }}\n  a: {{ uses: demo.train, needs: {{ data: data.train }}, matrix: {a} }}\n  b: {{ uses: demo.train, needs: {{ model: a.model, data: data.train }}, matrix: {b} }}\n{rest}"
    )
}

#[test]
fn axes_that_do_not_match_are_told() {
    let command = "  c: { uses: command, needs: { x: a.model, y: d.model }, with: { run: 'true' } }\n  d: { uses: demo.train, needs: { data: data.train }, matrix: { s: [2, 3] } }\n";
    assert_eq!(
        mistakes(&two_trainings("{ s: [1, 2] }", "{ t: [1] }", command)),
        ["axis `s` of `d.model` does not match the same axis of the other inputs: only it has `3`, and it lacks `1`"]
    );
    assert_eq!(
        mistakes(&two_trainings("{ s: [1, 2] }", "{ s: [1] }", "")),
        ["stage `b` has the axis `s` already, from its inputs"]
    );
    let gather = "  c: { uses: demo.score, with: { samples: 1 }, needs: { model: b.model, problems: data.test }, gather: [u] }\n";
    assert_eq!(
        mistakes(&two_trainings("{ s: [1, 2] }", "{ t: [1] }", gather)),
        ["no input of stage `c` has an axis `u` to gather"]
    );
    let several = gather.replace("[u]", "[s]");
    assert_eq!(
        mistakes(&two_trainings("{ s: [1, 2] }", "{ t: [1] }", &several)),
        ["input `model` of `demo.score` takes one artifact; `gather` makes it 2"]
    );
}

#[test]
fn more_inputs_than_memory_holds_are_a_mistake() {
    let range = "{ range: { from: 1, to: 10000 } }";
    let text = format!(
        "volvelle: 1\nstages:\n  a: {{ uses: command, matrix: {{ s: {range} }}, outputs: {{ o: text }}, with: {{ run: 'x ${{matrix.s}}' }} }}\n  b: {{ uses: command, needs: {{ i: a.o }}, gather: [s], matrix: {{ t: {range} }}, outputs: {{ o: text }}, with: {{ run: 'y ${{matrix.t}}' }} }}\n"
    );
    assert_eq!(
        mistakes(&text),
        ["the nodes of stage `b` have more than 20000000 inputs together"]
    );
}

#[test]
fn inputs_that_share_an_axis_are_matched_on_it() {
    let command = "  c: { uses: command, needs: { x: a.model, y: b.model, z: { one: a.model, two: b.model } }, with: { run: 'true' } }\n";
    let graph = graph(
        &two_trainings("{ s: [1, 2] }", "{ t: [x, y], exclude: [{ t: y }] }", command),
        &[],
    );
    assert_eq!(ids(&graph)[5..], ["c[s=1,t=x]", "c[s=2,t=x]"]);
    let c = graph.node(6);
    let names = |input: usize| {
        c.inputs[input]
            .items
            .iter()
            .map(|i| graph.id(i.node).0)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1), names(2)),
        (
            vec!["a[s=2]".into()],
            vec!["b[s=2,t=x]".into()],
            vec!["a[s=2]".into(), "b[s=2,t=x]".into()]
        )
    );
    assert!(!c.inputs[0].gathered && c.inputs[2].gathered);
}

#[test]
fn a_list_of_labels_chooses_an_order_and_a_mapping_does_not() {
    let labels = |scores: &str| {
        let text = base().replace("{ sft: eval.scores, base: base_eval.scores }", scores);
        let graph = graph(&text, &[]);
        let table = graph.node(graph.select("table").expect("one node"));
        let mut labels: Vec<String> = table.inputs[0]
            .items
            .iter()
            .filter_map(|item| item.label.clone())
            .collect();
        labels.dedup();
        (labels, table.recipe_key)
    };
    let (sorted, key) = labels("{ sft: eval.scores, base: base_eval.scores }");
    assert_eq!(sorted, ["base", "sft"]);
    let (chosen, other) = labels("[{ sft: eval.scores }, { base: base_eval.scores }]");
    assert_eq!(chosen, ["sft", "base"]);
    assert_ne!(key, other);
    assert_eq!(labels("[{ base: base_eval.scores }, { sft: eval.scores }]").1, key);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "volvelle: 1\nstages:\n  a: { uses: demo.score, needs: { model: b.model, problems: a.scores } }\n  b: { uses: demo.trian }\n  c: { uses: demo.train, needs: { data: d.model }, with: { lr: 1 } }\n  d: { uses: demo.train, needs: { model: c.modell, data: c.metrics }, with: { style: '${matrix.style}' } }\n";
    let mistakes = mistakes(text);
    for expected in [
        "stages need each other in a circle: a -> a",
        "stages need each other in a circle: c -> d -> c",
        "unknown kind `demo.trian`",
        "unknown parameter `lr` of `demo.train`",
        "stage `c` has no output `modell`",
        "input `data` must be of type `problems`, not `metrics`",
        "stage `a` lacks the parameter `samples` of `demo.score`",
    ] {
        assert!(
            mistakes.iter().any(|mistake| mistake == expected),
            "{expected}\n{mistakes:#?}"
        );
    }
}

#[test]
fn ten_thousand_nodes_resolve_in_a_blink() {
    let mut text = String::from("volvelle: 1\nstages:\n  data: { uses: demo.data }\n");
    for idx in 0..100 {
        writeln!(text, "  s{idx}: {{ uses: demo.train, needs: {{ data: data.train }}, matrix: {{ seed: [{}] }}, with: {{ seed: '${{matrix.seed}}' }} }}", (0..50).map(|n| n.to_string()).collect::<Vec<_>>().join(",")).expect("a string");
        writeln!(text, "  e{idx}: {{ uses: demo.score, needs: {{ model: s{idx}.model, problems: data.test }}, with: {{ samples: 1 }} }}").expect("a string");
    }
    let start = Instant::now();
    let graph = graph(&text, &[]);
    let took = start.elapsed();
    assert_eq!(graph.len(), 10_001);
    // Generous, as tests are not optimized and share the machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A pipeline of one stage whose parameters are written in any order and any spelling.
fn one_stage(entries: &[(String, String)], comment: &str) -> String {
    let with: String = entries
        .iter()
        .map(|(name, value)| format!("      {name}: {value}\n"))
        .collect();
    format!(
        "# {comment}\nvolvelle: 1\nstages:\n  data: {{ uses: demo.data }}\n  a:\n    needs: {{ data: data.train }}\n    uses: demo.train\n    with:\n{with}"
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn order_comments_spelling_and_explicit_defaults_change_nothing(
        mantissa in 1u32..10_000, epochs in 1i64..5, workers in 1i64..9, is_default_written in any::<bool>(),
        is_reversed in any::<bool>(), comment in "[a-z ]{0,12}",
    ) {
        let plain = [("learning_rate", format!("{mantissa}e-5")), ("num_train_epochs", epochs.to_string())];
        let mut other = vec![("learning_rate", format!("0.{mantissa:05}000")), ("num_train_epochs", format!("{epochs}.0"))];
        other.push(("num_workers", workers.to_string()));
        if is_default_written {
            other.push(("style", "search".to_owned()));
        }
        if is_reversed {
            other.reverse();
        }
        let owned = |entries: &[(&str, String)]| entries.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect::<Vec<_>>();
        let (a, b) = (graph(&one_stage(&owned(&plain), ""), &[]), graph(&one_stage(&owned(&other), &comment), &[]));
        prop_assert_eq!(keys(&a), keys(&b));
        prop_assert_eq!(a.node(1).seed, b.node(1).seed);
        prop_assert_eq!(&b.node(1).params["num_workers"], &Value::from(workers));
    }

    #[test]
    fn another_value_of_an_identity_parameter_is_another_key(a in 1i64..1000, b in 1i64..1000) {
        prop_assume!(a != b);
        let key = |epochs: i64| {
            let graph = graph(&one_stage(&[("num_train_epochs".into(), epochs.to_string())], ""), &[]);
            (graph.recipe_key(1), graph.node(1).seed, graph.recipe_key(0))
        };
        let (a, b) = (key(a), key(b));
        prop_assert!(a.0 != b.0 && a.1 != b.1 && a.2 == b.2);
    }
}
