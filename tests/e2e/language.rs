//! The pipeline language through the real program: which nodes a pipeline has, and that how it is written down changes
//! no key. Every example of `pipelines/LANGUAGE.md` is planned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::project::Project;

/// The keys of all nodes by name.
type Keys = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Plans a pipeline of a project with the kinds in a folder of plugins.
fn try_plan(project: &Project, file: &str, plugins: &str, options: &[&str]) -> Result<Keys, String> {
    let plugins = root().join(plugins);
    let plugins = plugins.to_str().expect("the path of the sources is UTF-8");
    let fixed = ["plan", file, "--json", "--plugins", plugins, "--cache", "cache"];
    let ended = project.volvelle(&[&fixed[..], options].concat());
    if ended.code != Some(0) {
        return Err(ended.stderr);
    }
    let plan: Value = serde_json::from_str(&ended.stdout).expect("a plan");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let nodes = plan["nodes"].as_array().expect("a list of nodes").iter();
    Ok(nodes
        .map(|node| (text(&node["id"]), text(&node["recipe_key"])))
        .collect())
}

fn plan(project: &Project, options: &[&str]) -> Keys {
    try_plan(project, "p.yaml", "tests/fixtures/plugins", options).unwrap_or_else(|told| panic!("{told}"))
}

fn keys(pipeline: &str) -> Keys {
    plan(&Project::new(pipeline), &[])
}

/// Returns the names of the nodes of some stages.
fn ids(keys: &Keys, stages: &[&str]) -> Vec<String> {
    let stage = |id: &&String| stages.contains(&id.split('[').next().unwrap_or_default());
    keys.keys().filter(stage).cloned().collect()
}

const BASE: &str = r#"volvelle: 1
params: { seed: 7, rate: 1e-3, count: 10 }
profiles: { fast: { params: { rate: 5e-3 } } }
stages:
  data: { uses: demo.data, with: { count: "${params.count}", seed: "${params.seed}" } }
  sft:
    uses: demo.train
    needs: { data: data.train }
    with: { learning_rate: "${params.rate}" }
  eval: { uses: demo.score, needs: { model: sft.model, problems: data.test }, with: { samples: 2 } }
  table: { uses: demo.table, needs: { scores: [eval.scores] } }
"#;

#[test]
fn a_pipeline_in_several_files_has_the_same_keys() {
    let project =
        Project::new("volvelle: 1\ninclude: [a/one.yaml, two.yaml]\nstages: { table: { uses: demo.table } }\n");
    project.write("a/one.yaml", "include: [b/deep.yaml]\nparams: { rate: 9, count: 10 }\nstages:\n  sft: { with: { learning_rate: \"${params.rate}\" } }\n");
    project.write("a/b/deep.yaml", "include: [../../two.yaml]\nparams: { seed: 7, rate: 8, count: 8 }\nstages: { data: { uses: demo.data, with: { count: \"${params.count}\", seed: \"${params.seed}\" } } }\n");
    project.write("two.yaml", "params: { rate: 1e-3 }\nstages:\n  sft: { uses: demo.train, needs: { data: data.train } }\n  eval: { uses: demo.score, needs: { model: sft.model, problems: data.test }, with: { samples: 2 } }\n  table: { needs: { scores: [eval.scores] } }\n");
    assert_eq!(plan(&project, &[]), keys(BASE));
}

#[test]
fn the_command_line_wins_over_a_profile_and_that_over_files() {
    let project = Project::new(&BASE.replace("volvelle: 1", "volvelle: 1\ninclude: [weak.yaml]"));
    project.write(
        "weak.yaml",
        "params: { rate: 7e-3 }\nprofiles: { fast: { params: { rate: 6e-3 } } }\n",
    );
    let with_rate = |rate: &str| keys(&BASE.replace("rate: 1e-3", &format!("rate: {rate}")));
    assert_eq!(plan(&project, &[]), with_rate("1e-3"));
    assert_eq!(plan(&project, &["--profile", "fast"]), with_rate("5e-3"));
    let options = ["--profile", "fast", "--set", "rate=3e-3", "--set", "rate=4e-3"];
    assert_eq!(plan(&project, &options), with_rate("4e-3"));
}

#[test]
fn a_path_is_relative_to_the_file_that_it_is_written_in() {
    let project = Project::new("volvelle: 1\ninclude: [a/data.yaml]\n");
    project.write(
        "a/data.yaml",
        "params: { file: x.jsonl }\nstages: { data: { uses: demo.data, with: { file: \"${params.file}\" } } }\n",
    );
    project.write("a/x.jsonl", "1\n");
    project.write("x.jsonl", "2\n");
    let included = plan(&project, &[]);
    assert_ne!(included, plan(&project, &["--set", "file=x.jsonl"]));
    assert_eq!(included, plan(&project, &["--set", "file=a/x.jsonl"]));
}

#[test]
fn what_is_extended_is_as_if_it_were_written_out() {
    let written = BASE.replace(
        "    uses: demo.train\n    needs: { data: data.train }\n    with: {",
        "    extends: [train, odd]\n    with: { seed: null, ",
    );
    let templates = "templates:\n  train: { uses: demo.train, needs: { data: data.train }, with: { seed: 3 } }\n  odd: { extends: train, tags: [x] }\n";
    assert_ne!(written, BASE);
    assert_eq!(keys(&format!("{written}{templates}")), keys(BASE));
}

#[test]
fn a_stage_that_is_off_does_not_exist() {
    let text = BASE.replace("[eval.scores]", "[eval.scores, more.scores]")
        + "  more: { uses: demo.score, needs: { model: extra.model, problems: data.test }, with: { samples: 2 }, when: { params.count: [11, 12], profile: \"\" } }
  extra: { uses: demo.train, needs: { data: data.train, model: absent.model }, when: true }
  absent: { uses: demo.train, needs: { data: data.train }, when: false }\n";
    let project = Project::new(&text);
    let (off, on) = (plan(&project, &[]), plan(&project, &["--set", "count=11"]));
    assert_eq!(ids(&off, &["more", "extra", "absent"]), ["extra"]);
    assert_eq!(ids(&on, &["more"]), ["more"]);
    // The optional input that is left out leaves the key of a stage that never had it.
    assert_eq!(
        off["extra"],
        keys(&BASE.replace("    with: { learning_rate: \"${params.rate}\" }\n", ""))["sft"]
    );
    let table = keys(BASE)["table"].clone();
    assert_eq!(off["table"], table);
    assert_ne!(on["table"], table);
}

#[test]
fn a_stage_of_another_pipeline_keeps_its_key() {
    let project = Project::new(
        "volvelle: 1\nparams: { seed: 1 }\nstages:\n  more: { uses: demo.train, needs: { model: \"lib/base.yaml#sft.model\", data: lib/base.yaml#data.train } }\n",
    );
    project.write(
        "lib/base.yaml",
        &BASE.replace("{ data: data.train }", "{ data: ../deep.yaml#data.train }"),
    );
    project.write("deep.yaml", "volvelle: 1\nstages: { data: { uses: demo.data } }\n");
    let found = plan(&project, &["--set", "seed=2"]);
    let own = try_plan(&project, "lib/base.yaml", "tests/fixtures/plugins", &[]).expect("a good pipeline");
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(
        names,
        ["deep.yaml#data", "lib/base.yaml#data", "lib/base.yaml#sft", "more"]
    );
    assert_eq!(found["lib/base.yaml#sft"], own["sft"]);
    assert_eq!(found["deep.yaml#data"], own["../deep.yaml#data"]);
}

#[test]
fn a_command_runs_in_the_folder_of_its_pipeline() {
    let text = "volvelle: 1\nstages:\n  read: { uses: command, outputs: { text: text }, with: { run: \"cat here.txt > ${outputs.text}\", files: [here.txt] } }\n";
    let project = Project::new(&format!(
        "{text}  both: {{ uses: command, needs: {{ a: read.text, b: lib/other.yaml#read.text }}, outputs: {{ text: text }}, with: {{ run: \"cat ${{inputs.a}} ${{inputs.b}} > ${{outputs.text}}\" }} }}\n"
    ));
    project.write("lib/other.yaml", text);
    project.write("here.txt", "one\n");
    project.write("lib/here.txt", "two\n");
    project.run(&[]);
    let shown = project.volvelle(&["show", "p.yaml", "both.text"]);
    assert_eq!(shown.stdout, "one\ntwo\n", "{}", shown.stderr);
    let shown = project.volvelle(&["show", "p.yaml", "lib/other.yaml#read.text"]);
    assert_eq!(shown.stdout, "two\n", "{}", shown.stderr);
}

#[test]
fn a_swept_point_has_the_key_of_the_value_that_was_set() {
    let project = Project::new(&BASE.replace("rate: 1e-3", "rate: \"${params.base}\", base: 1e-3"));
    let swept = plan(&project, &["--sweep", "base=1e-3,2e-3"]);
    assert_eq!(
        ids(&swept, &["data", "sft", "eval"]),
        [
            "data",
            "eval[base=0.001]",
            "eval[base=0.002]",
            "sft[base=0.001]",
            "sft[base=0.002]"
        ]
    );
    for (value, id) in [("1e-3", "0.001"), ("2e-3", "0.002")] {
        let set = plan(&project, &["--set", &format!("base={value}")]);
        for stage in ["sft", "eval"] {
            assert_eq!(swept[&format!("{stage}[base={id}]")], set[stage]);
        }
    }
    let product = [
        "--sweep",
        "base=[1e-3, 2e-3]",
        "--sweep",
        "stages.eval.with.samples={range: [1, 3]}",
    ];
    let product = plan(&project, &product);
    assert_eq!((ids(&product, &["sft"]).len(), ids(&product, &["eval"]).len()), (2, 6));
    let text = project.read("p.yaml").replace("samples: 2", "samples: 3");
    assert_eq!(
        product["eval[base=0.002,samples=3]"],
        keys(&text.replace("base: 1e-3", "base: 2e-3"))["eval"]
    );
}

#[test]
fn a_default_stands_in_for_what_is_missing() {
    let text = |count: &str| BASE.replace("count: \"${params.count}\"", &format!("count: \"{count}\""));
    assert_eq!(keys(&text("${params.absent:-10}")), keys(BASE));
    assert_eq!(
        keys(&text("${params.list.1}").replace("count: 10", "list: [9, 10]")),
        keys(BASE)
    );
    assert_eq!(keys(&text("${params.count:-9}")), keys(BASE));
    let command = |run: &str, env: &str| {
        keys(&format!(
            "volvelle: 1\n{env}\nstages: {{ a: {{ uses: command, with: {{ run: \"{run}\" }} }} }}\n"
        ))
    };
    let plain = command("echo one", "");
    assert_eq!(
        command("echo ${env.VOLVELLE_NOT_SET:-one}", "env: [VOLVELLE_NOT_SET]"),
        plain
    );
    assert_eq!(
        command("echo ${env.VOLVELLE_NOT_SET}", "env: { VOLVELLE_NOT_SET: one }"),
        plain
    );
}

/// A fenced block of the page: its language and its text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Cuts a command line into words; a word may be in single quotes.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    let words = quoted.flat_map(|(idx, part)| match idx % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn every_example_of_the_page_is_planned() {
    let page = std::fs::read_to_string(root().join("pipelines/LANGUAGE.md")).expect("the page");
    let blocks = blocks(&page);
    let project = Project::new("");
    let mut num_planned = 0;
    for (idx, (_, text)) in blocks
        .iter()
        .enumerate()
        .filter(|(_, (language, _))| language == "yaml")
    {
        let first = text.lines().next().unwrap_or_default();
        let named = first.strip_prefix("# ").filter(|name| name.ends_with(".yaml"));
        let file = named.unwrap_or("page.yaml");
        let include = if text.starts_with("include:") {
            ""
        } else {
            "include: [base.yaml]\n"
        };
        match named {
            Some(_) => project.write(file, text),
            None => project.write(file, &format!("volvelle: 1\n{include}{text}")),
        }
        if named.is_some() && !text.contains("\nstages:") {
            continue;
        }
        let listed = blocks.get(idx + 1).filter(|(language, _)| language == "text");
        let listed: Vec<&str> = listed.map(|(_, text)| text.lines().collect()).unwrap_or_default();
        let options = listed
            .iter()
            .find_map(|line| line.strip_prefix("$ volvelle plan page.yaml "));
        let options = words(options.unwrap_or_default());
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let keys = try_plan(&project, file, "plugins", &options).unwrap_or_else(|told| panic!("{text}\n{told}"));
        let expected: BTreeSet<&str> = listed.into_iter().filter(|line| !line.starts_with('$')).collect();
        let stages: Vec<&str> = expected
            .iter()
            .map(|id| id.split('[').next().unwrap_or_default())
            .collect();
        let found = ids(&keys, &stages);
        assert_eq!(
            found.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            expected,
            "{text}"
        );
        num_planned += 1;
    }
    assert!(num_planned > 10, "{num_planned}");
}

/// A pipeline as data, chosen by numbers.
fn generated(choices: &[u8]) -> Value {
    let mut choices = choices.iter().copied().cycle();
    let mut choose = |num: u8| choices.next().unwrap_or_default() % num;
    let mut params = Map::new();
    for idx in 0..3 {
        let value = match (idx, choose(3)) {
            (0, _) | (_, 0) => json!(1 + choose(5)),
            (_, 1) => json!(format!("${{params.p{}}}", idx - 1)),
            _ => json!(f64::from(1 + choose(9)) / 8.0),
        };
        params.insert(format!("p{idx}"), value);
    }
    let mut stages = Map::new();
    stages.insert(
        "data".into(),
        json!({"uses": "demo.data", "with": {"seed": "${params.p0}", "count": 3}}),
    );
    let axes = [
        json!([1, 2]),
        json!({"range": {"to": 3, "from": 1}}),
        json!({"int_uniform": {"high": 9, "low": 1, "seed": 4, "num": 2}}),
    ];
    for idx in 0..3 + choose(4) {
        let mut stage = json!({"extends": "train", "with": {"learning_rate": format!("${{params.p{}}}", choose(3))}});
        if idx > 0 && choose(2) == 0 {
            stage["needs"] = json!({"model": format!("s{}.model", choose(idx))});
        }
        match choose(3) {
            0 => stage["matrix"] = json!({ (format!("a{idx}")): axes[usize::from(choose(3))].clone() }),
            1 => {
                stage["matrix"] =
                    json!({"zip": {(format!("b{idx}")): ["x", "y"], (format!("a{idx}")): {"range": [1, 2]}}})
            }
            _ => {}
        }
        if choose(4) == 0 {
            stage["when"] = json!({"params.p0": [1, 2, 3, 4, 5]});
        }
        stages.insert(format!("s{idx}"), stage);
    }
    json!({
        "volvelle": 1,
        "params": params,
        "templates": {"train": {"uses": "demo.train", "needs": {"data": "data.train"}, "with": {"num_workers": 3, "seed": "${params.p0}"}}},
        "defaults": {"resources": {"cpu": 2, "mem": "1GiB"}},
        "stages": stages,
    })
}

/// Returns a value with the keys of all mappings in another order.
fn shuffled(value: &Value, choices: &mut impl Iterator<Item = u8>) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(u8, &String, &Value)> = members
                .iter()
                .map(|(name, member)| (choices.next().unwrap_or_default(), name, member))
                .collect();
            members.sort_by_key(|(choice, ..)| *choice);
            let members = members
                .into_iter()
                .map(|(_, name, member)| (name.clone(), shuffled(member, choices)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

/// Moves entries of the sections of a pipeline into files that it includes.
fn split(pipeline: &Value, choices: &mut impl Iterator<Item = u8>) -> Vec<(String, Value)> {
    let mut files = vec![json!({"include": ["b.yaml", "sub/c.yaml"]}), json!({}), json!({})];
    for (section, value) in pipeline.as_object().expect("a mapping") {
        let Value::Object(entries) = value else {
            files[0][section] = value.clone();
            continue;
        };
        for (name, entry) in entries {
            match entry {
                // A stage may be split, too.
                Value::Object(parts) => {
                    for (part, value) in parts {
                        files[usize::from(choices.next().unwrap_or_default() % 3)][section][name][part] = value.clone();
                    }
                }
                entry => files[usize::from(choices.next().unwrap_or_default() % 3)][section][name] = entry.clone(),
            }
        }
    }
    let names = ["p.yaml", "b.yaml", "sub/c.yaml"].map(str::to_owned);
    names.into_iter().zip(files).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neither_the_order_of_keys_nor_the_files_change_anything(
        choices in prop::collection::vec(any::<u8>(), 12..40), others in prop::collection::vec(any::<u8>(), 8..40),
    ) {
        let pipeline = generated(&choices);
        let expected = keys(&pipeline.to_string());
        let mut others = others.into_iter().cycle();
        prop_assert_eq!(&keys(&shuffled(&pipeline, &mut others).to_string()), &expected);
        let project = Project::new("");
        for (name, value) in split(&shuffled(&pipeline, &mut others), &mut others) {
            project.write(&name, &value.to_string());
        }
        prop_assert_eq!(&plan(&project, &[]), &expected);
    }
}

#[test]
fn a_selection_of_a_stage_that_is_off_is_told_why() {
    let project = Project::new(
        "volvelle: 1\nparams: { with_grpo: false }\nstages:\n  sft: { uses: command, outputs: { out: text }, with: { run: \"echo x > ${outputs.out}\" } }\n  grpo: { when: \"${params.with_grpo}\", uses: command, needs: { x: sft.out }, outputs: { out: text }, with: { run: \"cp ${inputs.x} ${outputs.out}\" } }\n",
    );
    let ended = project.volvelle(&["run", "p.yaml", "--only", "grpo[seed=1]"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr.trim(),
        "error: stage `grpo` does not exist now: its `when`, `${params.with_grpo}`, is false"
    );
    assert_eq!(project.run(&["--set", "with_grpo=true", "--until", "grpo"]).len(), 2);
}
