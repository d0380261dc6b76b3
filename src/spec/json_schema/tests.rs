//! The schema, judged by a validator that is not ours: right documents pass, wrong ones are refused for the reason.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json_schema;
use crate::spec::kind::{Catalog, Kind};
use crate::spec::plugin;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn catalog(folder: &str) -> Catalog {
    let mut mistakes = Vec::new();
    let catalog = plugin::catalog(&[repository().join(folder)], Path::new("/nowhere"), &mut mistakes);
    assert!(
        mistakes.is_empty() && catalog.flawed.is_empty(),
        "{mistakes:?} {:?}",
        catalog.flawed
    );
    catalog
}

/// Returns the engine's kind and those of the demo plugin, whatever else lies beside the test.
fn demo() -> Catalog {
    let mut demo = Catalog::new();
    for kind in catalog("tests/fixtures/plugins")
        .iter()
        .filter(|kind| kind.name.starts_with("demo."))
    {
        assert!(demo.add(Kind::clone(kind)));
    }
    demo
}

fn parsed(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// Returns what the validator says, one line each.
fn told(schema: &Value, document: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::new(schema).expect("a schema");
    let line = |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(line).collect()
}

#[test]
fn it_is_a_schema() {
    for folder in ["plugins", "tests/fixtures/plugins"] {
        let schema = json_schema(&catalog(folder));
        jsonschema::draft202012::meta::validate(&schema).expect("valid against the metaschema");
    }
}

#[test]
fn the_pipelines_of_the_repository_are_right() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(repository().join("pipelines"))
        .expect("a folder")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    files.push(repository().join("tests/fixtures/keys.yaml"));
    let shipped = json_schema(&catalog("plugins"));
    let demo = json_schema(&demo());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let schema = if file.ends_with("keys.yaml") { &demo } else { &shipped };
        assert_eq!(told(schema, &parsed(&text)), Vec::<String>::new(), "{}", file.display());
    }
}

/// Returns the pipelines among the YAML examples of a page; those without a version are parts of one.
fn examples(page: &str) -> Vec<Value> {
    let blocks = page.split("```yaml\n").skip(1);
    let texts = blocks.filter_map(|block| block.split("```").next());
    let mut documents: Vec<Value> = texts.map(parsed).collect();
    documents.retain(|document| document.get("volvelle").is_some() || document.get("stages").is_some());
    for document in &mut documents {
        document["volvelle"] = 1.into();
        // A stage without a kind goes on with one that the page showed before.
        if let Some(stages) = document.get_mut("stages").and_then(Value::as_object_mut) {
            stages.retain(|_, stage| stage.get("uses").is_some() || stage.get("extends").is_some());
        }
    }
    documents
}

#[test]
fn the_examples_of_the_pages_are_right() {
    let schema = json_schema(&catalog("plugins"));
    let mut pages = vec![repository().join("README.md")];
    let folder = std::fs::read_dir(repository().join("pipelines")).expect("a folder");
    pages.extend(folder.map(|entry| entry.expect("readable").path()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut num_examples = 0;
    for page in pages {
        for document in examples(&std::fs::read_to_string(&page).expect("text")) {
            num_examples += 1;
            let wrong = told(&schema, &document);
            assert_eq!(wrong, Vec::<String>::new(), "{}: {document}", page.display());
        }
    }
    assert!(num_examples > 0);
}

/// A pipeline with one stage of the demo plugin, of which `stage` is the rest.
fn one_stage(stage: &str) -> String {
    format!("{{volvelle: 1, stages: {{data: {{uses: demo.data}}, x: {{{stage}}}}}}}")
}

#[test]
fn every_form_of_the_language_is_right() {
    let schema = json_schema(&demo());
    let train = "uses: demo.train, needs: {data: data.train}";
    for text in [
        one_stage(&format!("{train}, with: {{learning_rate: '${{params.lr}}', seed: '${{matrix.seed}}'}}")),
        one_stage(&format!("{train}, with: {{learning_rate: 1, num_train_epochs: 2.0, num_workers: 1e1}}")),
        one_stage(&format!("{train}, with: null, matrix: null, resources: null, gather: null, outputs: null")),
        one_stage(&format!("{train}, resources: {{cpu: 2, gpu: '${{params.g}}', mem: 8GiB, timeout: 1.5h, priority: -1}}")),
        one_stage(&format!("{train}, resources: {{mem: 500 MB, timeout: 90}}")),
        one_stage("uses: demo.train, needs: {data: [data.train], model: {a: x.model}}"),
        one_stage("uses: demo.table, needs: {scores: [a.scores, {SFT + GRPO: 'b[seed=1,style=x].scores/part.json'}]}, gather: '*'"),
        one_stage("uses: demo.table, needs: {scores: {a: other/p.yaml#a.scores}}, gather: [style]"),
        one_stage("uses: command, needs: {any: data.train}, outputs: {out: text}, with: {run: [ls, '${inputs.any}'], env: {A: b}, files: [x]}"),
        one_stage("uses: command, with: {run: ls}"),
        one_stage("extends: base"),
        one_stage("extends: [base, more], uses: demo.score, with: {samples: 1}, tags: [big], when: '${params.big}'"),
        one_stage(&format!("{train}, matrix: {{lr: [0.1, 1e-4], style: '${{params.styles}}', exclude: [{{lr: 0.1}}], include: [{{lr: 1, style: x}}]}}")),
        one_stage(&format!("{train}, matrix: {{zip: {{a: [1, 1], b: {{range: [0, 1]}}}}, r: {{range: [0, 10, 2.5]}}, l: {{log_range: {{from: 1, to: 10, num: 3}}}}}}")),
        one_stage(&format!("{train}, matrix: {{zip: [{{a: [1]}}, {{b: '${{params.b}}'}}], r: {{range: {{from: 1, to: 2, num: '${{params.n}}'}}}}, s: {{range: '${{params.r}}'}}}}")),
        one_stage(&format!("{train}, matrix: '${{params.matrix}}'")),
        one_stage("extends: data, with: {count: null}, needs: {data: null}, matrix: {a: null}, tags: null, outputs: {o: null}, resources: {gpu: null}"),
        one_stage(&format!("{train}, when: true, tags: [a, b]")),
        one_stage(&format!("{train}, matrix: {{a: [1, 2], b: [x], exclude: [{{a: [1, 2], b: x}}, {{a: '${{params.all}}'}}]}}")),
        one_stage("extends: base, matrix: {zip: null, include: null, exclude: null}"),
        one_stage(&format!("extends: data, {train}, with: {{count: null, seed: 1}}, outputs: {{o: null}}")),
        one_stage("extends: data, uses: demo.train, needs: {model: null, problems: null}"),
        one_stage(r#"uses: demo.train, needs: {data: 'other.yaml#data[a="x]y",b=1].train/part'}"#),
        "{volvelle: 1, templates: {t: {uses: null, description: null}}}".to_owned(),
        one_stage(&format!("{train}, when: {{params.arm: [search, 1], profile: quick, env.CI: 'true'}}")),
        one_stage(&format!("{train}, matrix: {{a: {{uniform: {{low: 0, high: 1, num: 3, seed: 1}}}}, b: {{log_uniform: {{low: 1.0e-5, high: 1, num: 3}}}}, c: {{int_uniform: {{low: 1, high: 9, num: 2}}}}, d: {{choice: {{of: [a, b], num: 2}}}}}}")),
        "{volvelle: 1, include: [a.yaml], env: {HOME: /root}, templates: {base: {uses: demo.score}, t: null}}".to_owned(),
        "{volvelle: 1, env: [HOME], params: {a: {b: [1]}}, profiles: {p: {params: {a: 2}, defaults: {resources: {gpu: 1}}}, q: null}, stages: null}".to_owned(),
    ] {
        assert_eq!(told(&schema, &parsed(&text)), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn wrong_documents_are_refused() {
    let schema = json_schema(&demo());
    let train = |rest: &str| one_stage(&format!("uses: demo.train, needs: {{data: data.train}}, {rest}"));
    let documents = [
        "{stages: {a: {uses: demo.data}}}".to_owned(),
        "{volvelle: 2, stages: {a: {uses: demo.data}}}".to_owned(),
        "{volvelle: 1, stagse: {}}".to_owned(),
        "{volvelle: 1, include: a.yaml}".to_owned(),
        "{volvelle: 1, params: [1]}".to_owned(),
        "{volvelle: 1, env: {A: [1]}}".to_owned(),
        "{volvelle: 1, profiles: {p: {param: {}}}}".to_owned(),
        "{volvelle: 1, profiles: {p: {description: x}}}".to_owned(),
        "{volvelle: 1, templates: {a: {uses: demo.data, with: {conut: 1}}}}".to_owned(),
        "{volvelle: 1, stages: {1a: {uses: demo.data}}}".to_owned(),
        one_stage("with: {run: ls}"),
        one_stage("uses: demo.trian"),
        one_stage("uses: demo.data, wiht: {}"),
        one_stage("uses: demo.data, with: {conut: 1}"),
        one_stage("uses: demo.data, with: {count: many}"),
        one_stage("uses: demo.data, with: {count: 0}"),
        one_stage("uses: demo.data, with: {count: 1.5}"),
        one_stage("uses: demo.data, outputs: {o: text}"),
        one_stage("extends: x, uses: demo.data, with: {count: many}"),
        one_stage("uses: demo.train"),
        one_stage("uses: demo.train, needs: {model: a.model}"),
        one_stage("uses: demo.train, needs: {data: data}"),
        one_stage("uses: demo.train, needs: {data: [a.b, c.d]}"),
        one_stage("uses: demo.train, needs: {data: a.b, dota: a.b}"),
        one_stage("uses: demo.score, needs: {model: a.b, problems: a.b}"),
        one_stage("uses: demo.score, needs: {model: a.b, problems: a.b}, with: {}"),
        one_stage("uses: command, outputs: {out: text}"),
        one_stage("uses: command, outputs: {out: 1}, with: {run: ls}"),
        train("with: {learning_rate: 0}"),
        train("with: {style: sideways}"),
        train("resources: {cpus: 1}"),
        train("resources: {cpu: 0}"),
        train("resources: {mem: 8GBit}"),
        train("resources: {timeout: soon}"),
        train("gather: style"),
        train("tags: a"),
        train("when: {matrix.a: 1}"),
        train("matrix: {a: 1}"),
        train("matrix: {a: []}"),
        train("matrix: {a: [1, 2], exclude: [{a: {x: 1}}]}"),
        train("matrix: {a: [1, 2], include: [{a: [1]}]}"),
        train("matrix: {a: {rnage: [0, 1]}}"),
        train("matrix: {a: {range: [0]}}"),
        train("matrix: {a: {range: {from: 0}}}"),
        train("matrix: {a: {log_range: {from: 0, to: 1, num: 3}}}"),
        train("matrix: {a: {uniform: {low: 0, high: 1}}}"),
        train("matrix: {a: {choice: {of: [], num: 1}}}"),
        train("matrix: {a: {int_uniform: {low: 0.5, high: 1, num: 1}}}"),
        train("matrix: {a: {range: [0, 1], choice: {of: [1], num: 1}}}"),
    ];
    let refused = documents.iter().map(|text| {
        let told = told(&schema, &parsed(text));
        assert!(!told.is_empty(), "{text}");
        format!("{text}\n  {}\n", told.join("\n  "))
    });
    insta::assert_snapshot!(refused.collect::<String>());
}
