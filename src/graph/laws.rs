//! Laws of axes and keys, on pipelines that are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::Value;

use super::tests::{graph, graph_with_order};
use super::*;
use crate::digest::{Digest, canonical};

/// A stage to make up: the axes it adds, and which earlier stages it needs.
#[derive(Debug, Clone)]
struct Made {
    axes: BTreeMap<String, Vec<String>>,
    needs: BTreeSet<usize>,
    gather: bool,
}

/// Stages of commands in which no axis is added twice; every axis has a stage that may add it.
fn stages() -> impl Strategy<Value = Vec<Made>> {
    let values = || proptest::collection::btree_set("[a-z]{1,2}|[1-9]|0\\.[1-9]5|x y|é", 1..4);
    let stage = (
        values(),
        values(),
        0..4usize,
        proptest::collection::vec(any::<bool>(), 6),
        any::<bool>(),
    );
    proptest::collection::vec(stage, 1..6).prop_map(|made| {
        let stage = |(idx, (first, second, num_axes, needs, gather)): (usize, (_, _, usize, Vec<bool>, bool))| {
            let list = |values: BTreeSet<String>| values.into_iter().collect::<Vec<_>>();
            let axes = [(format!("a{idx}"), list(first)), (format!("b{idx}"), list(second))];
            Made {
                axes: axes.into_iter().take(num_axes.min(2)).collect(),
                needs: (0..idx).filter(|&earlier| needs[earlier]).collect(),
                gather: gather && idx > 0,
            }
        };
        made.into_iter().enumerate().map(stage).collect()
    })
}

fn quoted(value: &str) -> String {
    if value.parse::<f64>().is_ok() {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

/// Writes the pipeline; a command names all axes that its stage adds, and a number that tells it from others.
fn text(stages: &[Made]) -> String {
    let mut text = String::from("volvelle: 1\nname: laws\nstages:\n");
    for (idx, stage) in stages.iter().enumerate() {
        let _ = writeln!(text, "  s{idx}:\n    uses: command\n    outputs: {{ out: text }}");
        if !stage.needs.is_empty() {
            let needs: Vec<String> = stage.needs.iter().map(|need| format!("i{need}: s{need}.out")).collect();
            let _ = writeln!(text, "    needs: {{ {} }}", needs.join(", "));
        }
        if !stage.axes.is_empty() {
            let axis = |(name, values): (&String, &Vec<String>)| {
                format!(
                    "{name}: [{}]",
                    values.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(", ")
                )
            };
            let _ = writeln!(
                text,
                "    matrix: {{ {} }}",
                stage.axes.iter().map(axis).collect::<Vec<_>>().join(", ")
            );
        }
        if stage.gather && stage.needs.iter().any(|&need| has_axes(stages, need)) {
            text.push_str("    gather: [\"*\"]\n");
        }
        let names: Vec<String> = stage.axes.keys().map(|axis| format!("${{matrix.{axis}}}")).collect();
        let _ = writeln!(
            text,
            "    with: {{ run: \"work {idx} {} ${{outputs.out}}\" }}",
            names.join(" ")
        );
    }
    text
}

/// Tells whether a stage has axes, its own or inherited ones.
fn has_axes(stages: &[Made], idx: usize) -> bool {
    let stage = &stages[idx];
    !stage.axes.is_empty() || (!stage.gather && stage.needs.iter().any(|&need| has_axes(stages, need)))
}

fn points(graph: &Graph, stage: &str) -> BTreeSet<String> {
    let nodes = graph
        .stages()
        .find(|view| view.name().0 == stage)
        .map(|view| view.nodes());
    nodes
        .into_iter()
        .flatten()
        .map(|idx| format!("{:?}", graph.axes(idx)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_shown_is_what_is_hashed(stages in stages()) {
        let graph = graph(&text(&stages), &[]);
        for idx in 0..graph.len() {
            let recipe = graph.recipe(idx);
            prop_assert_eq!(key_of(&recipe), graph.recipe_key(idx));
            let (key, content) = graph.content(idx, |item| Digest::of(item.output.as_bytes()));
            let value: Value = serde_json::from_str(&content).expect("JSON");
            prop_assert_eq!(canonical::to_string(&value).expect("canonical"), content);
            prop_assert_eq!(Digest::of_value("volvelle content v1", &value).expect("canonical"), key.0);
            // What the worker gets is what the key was made of.
            prop_assert_eq!(&graph.node(idx).params["run"], &recipe["params"]["run"]);
        }
    }

    #[test]
    fn two_nodes_have_one_key_only_if_they_do_the_same(stages in stages()) {
        let graph = graph(&text(&stages), &[]);
        let mut seen = BTreeMap::new();
        for node in graph.nodes() {
            // Commands name their stage's number and own axes, so only inherited axes can be without effect.
            let own: BTreeMap<_, _> = node.axes.iter().filter(|(axis, _)| axis[1..] == node.stage.0[1..]).collect();
            let inputs: Vec<_> = node.inputs.iter().map(|input| {
                let item = |item: &InputItem| (graph.recipe_key(item.node), input.gathered.then(|| item.axes.clone()));
                (input.name.clone(), input.items.iter().map(item).collect::<Vec<_>>())
            }).collect();
            let does = format!("{} {own:?} {inputs:?}", node.stage);
            let earlier = seen.insert(node.recipe_key, does.clone());
            prop_assert!(earlier.as_ref().is_none_or(|earlier| *earlier == does), "{earlier:?} and {does}");
        }
        let distinct: BTreeSet<&String> = seen.values().collect();
        prop_assert_eq!(distinct.len(), seen.len());
    }

    #[test]
    fn the_union_of_axes_does_not_depend_on_order_or_grouping(stages in stages()) {
        let base = text(&stages);
        let needs = |names: &[usize]| names.iter().map(|n| format!("i{n}: s{n}.out")).collect::<Vec<_>>().join(", ");
        let all: Vec<usize> = (0..stages.len()).collect();
        let (first, rest) = all.split_at(all.len() / 2);
        let command = |name: &str, needs: String| {
            format!("  {name}: {{ uses: command, needs: {{ {needs} }}, outputs: {{ out: text }}, with: {{ run: \"x\" }} }}\n")
        };
        let mut grouped = base.clone();
        grouped.push_str(&command("at_once", needs(&all)));
        grouped.push_str(&command("right", needs(rest)));
        if first.is_empty() {
            grouped.push_str(&command("left", "i: right.out".to_owned()));
        } else {
            grouped.push_str(&command("left", needs(first)));
        }
        grouped.push_str(&command("joined", "l: left.out, r: right.out".to_owned()));
        let graph = graph(&grouped, &[]);
        prop_assert_eq!(points(&graph, "at_once"), points(&graph, "joined"));
    }

    #[test]
    fn to_gather_what_a_matrix_spread_gives_back_its_points_in_order(stages in stages()) {
        let last = stages.len() - 1;
        let gather = if has_axes(&stages, last) { "gather: [\"*\"], " } else { "" };
        let more = format!(
            "{}  all: {{ uses: command, needs: {{ x: [s{last}.out] }}, {gather}outputs: {{ out: text }}, with: {{ run: \"x\" }} }}\n",
            text(&stages)
        );
        let graph = graph(&more, &[]);
        let all = graph.node(graph.select("all").expect("one node"));
        let items: Vec<(usize, Axes)> = all.inputs[0].items.iter().map(|item| (item.node, item.axes.clone())).collect();
        let spread = graph.stages().find(|view| view.name().0 == format!("s{last}")).expect("it has nodes");
        prop_assert_eq!(items, spread.nodes().map(|idx| (idx, graph.axes(idx))).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_of_stages_in_the_file_means_nothing(stages in stages(), seed in any::<u64>()) {
        let keys = |graph: &Graph| (0..graph.len()).map(|idx| (graph.id(idx), graph.recipe_key(idx))).collect::<BTreeMap<_, _>>();
        let base = text(&stages);
        prop_assert_eq!(keys(&graph(&base, &[])), keys(&graph_with_order(&base, seed)));
    }
}

/// Returns the recipe key of a preimage that was read back.
fn key_of(recipe: &Value) -> crate::digest::RecipeKey {
    crate::digest::RecipeKey(Digest::of_value("volvelle recipe v1", recipe).expect("canonical"))
}
