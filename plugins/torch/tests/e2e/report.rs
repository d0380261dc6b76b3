//! `report.analysis` and `report.graph` as the engine starts them: a request with gathered inputs in, files out.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Runs the worker on a request in `folder`; the error event's message where it fails.
fn work(folder: &Path, kind: &str, params: Value, inputs: Value, outputs: &[&str]) -> Result<(), String> {
    let at = |name: &str| folder.join(name);
    let outputs: serde_json::Map<String, Value> = outputs
        .iter()
        .map(|name| ((*name).to_owned(), json!(at(name))))
        .collect();
    let request = json!({
        "contract": 1, "kind": kind, "node": "n", "key": "k", "seed": 11, "params": params, "inputs": inputs,
        "outputs": outputs, "partial": at("partial"), "events": at("events"), "resources": {"cpu": 1, "gpu": []},
    });
    std::fs::write(at("request.json"), request.to_string()).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_volvelle-torch"))
        .arg("worker")
        .arg(at("request.json"))
        .output()
        .expect("the program starts");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What eval would have found: `rate` of 40 samples correct.
fn scores(rate: f64, tokens: f64, backtracks: f64) -> Value {
    let num_correct = (rate * 4.0).round() as u64;
    let problems: Vec<Value> = (0..10)
        .map(|i| json!({"id": format!("p{i}"), "num_samples": 4, "num_correct": num_correct, "num_tokens": 40}))
        .collect();
    json!({
        "version": 1, "num_problems": 10, "num_samples": 4, "temperature": 0.7, "max_completion_length": 256,
        "pass_at_1": rate, "pass_at_1_ci95": [rate - 0.05, rate + 0.05], "pass_at_k": {"1": rate}, "maj_at_k": {"1": rate},
        "mean_tokens": tokens, "mean_backtracks": backtracks, "truncated": 0.01, "failures": {},
        "by_backtracks": {"0": {"num_samples": 30, "num_correct": 12}, "3+": {"num_samples": 10, "num_correct": 2}},
        "problems": problems,
    })
}

#[test]
fn an_analysis_is_made_of_gathered_scores() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Backtracks, accuracy and tokens of five checkpoints; r and its interval as scipy.stats.pearsonr gives them, the
    // partial r from residuals of numpy.linalg.lstsq.
    let run = [
        (0.2, 0.25, 90.0),
        (0.8, 0.30, 130.0),
        (0.9, 0.45, 120.0),
        (1.7, 0.50, 190.0),
        (2.0, 0.70, 180.0),
    ];
    let mut inputs = Vec::new();
    for benchmark in ["math500", "aime24"] {
        for (idx, (backtracks, rate, tokens)) in run.into_iter().enumerate() {
            let path = dir.path().join(format!("{benchmark}{idx}"));
            let rate = if benchmark == "aime24" { 0.1 } else { rate };
            std::fs::write(&path, scores(rate, tokens, backtracks).to_string()).expect("a file");
            let axes = json!({"benchmark": benchmark, "step": (idx + 1) * 20, "style": "search"});
            inputs.push(json!({"path": path, "axes": axes, "label": null}));
        }
    }
    let params = json!({
        "title": "Run", "step_axis": "step", "benchmark_axis": "benchmark", "arm_axis": "style", "seed_axis": "seed",
        "bootstrap_samples": 2000,
    });
    let outputs = ["page", "table", "csv", "json"];
    let run = || {
        work(
            dir.path(),
            "report.analysis",
            params.clone(),
            json!({"scores": inputs}),
            &outputs,
        )
    };
    run().expect("good inputs");
    let analysis: Value = serde_json::from_str(&read(&dir.path().join("json"))).expect("JSON");
    let related = &analysis["benchmarks"][0]["correlations"][0];
    let close = |value: &Value, want: f64| {
        let got = value.as_f64().unwrap_or(f64::NAN);
        assert!((got - want).abs() < 1e-9, "{got}, expected {want}");
    };
    close(&related["backtracks_accuracy"]["pearson"], 0.9296252528622286);
    close(&related["backtracks_accuracy"]["fisher_ci95"][0], 0.2633637877947518);
    close(&related["backtracks_accuracy"]["fisher_ci95"][1], 0.9954479867391458);
    close(&related["backtracks_accuracy"]["spearman"], 1.0);
    close(&related["given_tokens"]["r"], 0.9808628590829412);
    assert!(analysis["benchmarks"][1]["correlations"][0]["backtracks_accuracy"]["pearson"].is_null());

    let page = read(&dir.path().join("page/index.html"));
    assert!(page.contains("no proof of cause") && page.contains("n = 5") && page.contains("r undefined"));
    let csv = read(&dir.path().join("csv"));
    assert_eq!(csv.lines().count(), 11);
    std::fs::remove_dir_all(dir.path().join("page")).expect("the page's folder");
    run().expect("good inputs");
    assert_eq!(page, read(&dir.path().join("page/index.html")), "the same bytes again");

    let error = work(dir.path(), "report.analysis", params.clone(), json!({}), &outputs).expect_err("no scores");
    assert!(error.contains("no scores to analyse"), "{error}");
}

/// A tree of 2,000 nodes, each with a hostile step.
fn large_tree() -> Value {
    let node = |id: usize| {
        let terminal = id * 4 + 1 >= 2000 && id.is_multiple_of(3);
        json!({
            "id": id, "parent": (id > 0).then(|| (id - 1) / 4), "text": format!("Step {id}: </script><img src=x onerror=alert({id})>"),
            "prior": 0.25, "visit_count": 2000 / (id + 1) + 1, "q_value": 0.5, "rollout_value": 0.5, "terminal": terminal,
            "answer": terminal.then_some("24"), "correct": terminal.then_some(id.is_multiple_of(2)),
        })
    };
    json!({
        "version": 1, "problem": {"id": "big", "problem": "7 3 4 -> 24", "answer": "24", "verifier": "countdown"},
        "nodes": (0..2000).map(node).collect::<Vec<_>>(), "num_simulations": 500, "num_tokens": 9000,
    })
}

#[test]
fn a_tree_of_two_thousand_nodes_is_on_the_page_whole() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trees = dir.path().join("trees");
    std::fs::write(&trees, format!("{}\n", large_tree())).expect("a file");
    let params = json!({
        "problem_id": null, "num_problems": 8, "max_nodes": 60, "separator": null, "reflection": [], "negative": [],
        "positive": [], "go_back": [], "restart": [], "terminal": [],
    });
    let outputs = ["tree", "solution", "html", "dot", "json"];
    work(
        dir.path(),
        "report.graph",
        params,
        json!({"trees": {"path": trees, "axes": {}, "label": null}}),
        &outputs,
    )
    .expect("a good tree");
    let page = read(&dir.path().join("html"));
    assert!(page.len() < 3_000_000, "{}", page.len());
    assert!(!page.contains("<img") && page.matches("</script").count() == 2);
    let start = page.find("id=\"graphs\">").expect("the data") + "id=\"graphs\">".len();
    let end = start + page[start..].find("</script>").expect("the data's end");
    let graphs: Value = serde_json::from_str(&page[start..end]).expect("JSON");
    let nodes = graphs[0]["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2000);
    assert!(
        nodes[1234]["text"]
            .as_str()
            .is_some_and(|text| text.contains("onerror=alert(1234)"))
    );
    assert!(
        read(&dir.path().join("tree")).contains("60 of 2000 nodes"),
        "the file says what it left out"
    );
}
