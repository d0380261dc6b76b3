//! Answers: the program's verdicts on the pairs of `../fixtures/answers`, and the answers of real problem sets.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use volvelle_torch::verify::math::{compare, equal};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/answers")
        .join(name)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

fn verify(input: &Path, stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_volvelle-torch"))
        .args(["verify", "--input"])
        .arg(input)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that refuses a line ends without reading on; that is not this side's failure.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the program ends")
}

#[test]
fn every_pair_of_the_set_is_judged_right() {
    let path = fixture("public.jsonl");
    let text = std::fs::read_to_string(&path).expect("the fixture is there");
    let output = verify(&path, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdicts = json_lines(std::str::from_utf8(&output.stdout).expect("UTF-8"));
    let pairs = json_lines(&text);
    assert_eq!((pairs.len(), verdicts.len()), (150, 150));
    for (pair, verdict) in pairs.iter().zip(&verdicts) {
        assert_eq!(pair["equal"], verdict["equal"], "{pair}\n{verdict}");
        assert!(verdict["how"].as_str().is_some_and(|how| !how.is_empty()));
    }
}

#[test]
fn standard_input_is_read_and_a_bad_line_is_named() {
    let lines =
        "{\"gold\": \"1/2\", \"pred\": \"0.5\"}\n\n{\"gold\": \"B\", \"pred\": \"The answer is (C).\", \"id\": 3}\n";
    let output = verify(Path::new("-"), lines);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"equal\":true,\"how\":\"number\"}\n{\"equal\":false,\"how\":\"choice\"}\n"
    );
    let output = verify(Path::new("-"), "{\"gold\": \"1\"}\n");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("line 1") && message.contains("pred"), "{message}");
}

/// The distinct answers of a problem set beside the repository; `None`, with the reason, where it is absent.
fn answers(name: &str) -> Option<BTreeSet<String>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = ["../shared/data", "shared/data"]
        .into_iter()
        .map(|folder| repository.join(folder).join(name))
        .find(|path| path.is_file());
    let Some(path) = found else {
        eprintln!("skipped: there is no ../shared/data/{name}");
        return None;
    };
    let file = std::fs::File::open(path).expect("the problem set can be read");
    let mut text = String::new();
    let mut reader: Box<dyn std::io::Read> = Box::new(file);
    if name.ends_with(".gz") {
        reader = Box::new(flate2::read::GzDecoder::new(reader));
    }
    reader.read_to_string(&mut text).expect("the problem set is UTF-8");
    let answer = |line: Value| line["answer"].as_str().expect("an answer").to_owned();
    Some(json_lines(&text).into_iter().map(answer).collect())
}

const SETS: [&str; 6] = [
    "math500.jsonl",
    "aime24.jsonl",
    "aime25.jsonl",
    "amc23.jsonl",
    "gsm8k_test.jsonl",
    "math_test_rest.jsonl.gz",
];

#[test]
fn answers_of_real_sets_equal_themselves_however_they_look() {
    for answer in SETS.into_iter().filter_map(answers).flatten() {
        let rewritings = [
            answer.clone(),
            format!("  {answer} . "),
            format!("${answer}$"),
            answer.replace("\\frac", "\\dfrac"),
            answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"),
            answer.replace("\\left", "").replace("\\right", ""),
            answer
                .replace(" + ", "+")
                .replace(" - ", "-")
                .replace("\\cup", " \\cup "),
            answer.replace(", ", ",  "),
            format!("\\displaystyle {answer}"),
            format!("{{{answer}}}"),
        ];
        for other in rewritings {
            assert!(equal(&answer, &other), "{answer} is {other}");
            assert!(equal(&other, &answer), "{other} is {answer}");
        }
    }
}

#[test]
fn different_answers_of_a_real_set_are_not_equal() {
    /// Answers of MATH-500 that are the same: lists in another order, a separator of thousands, a unit or a name that
    /// one of the two lacks, the same number in other braces or spaces.
    const SAME: [(&str, &str); 11] = [
        ("-2,1", "1,-2"),
        ("10,\\!080", "10080"),
        ("120", "120^\\circ"),
        ("15", "15\\mbox{ cm}^2"),
        ("2 \\sqrt{5}", "2\\sqrt{5}"),
        ("30", "30^\\circ"),
        ("36", "36^\\circ"),
        ("36", "\\$36"),
        ("5", "x=5"),
        ("90", "90^\\circ"),
        ("\\frac14", "\\frac{1}{4}"),
    ];
    let Some(answers) = answers("math500.jsonl") else {
        return;
    };
    let answers: Vec<String> = answers.into_iter().collect();
    for (idx, a) in answers.iter().enumerate() {
        for b in &answers[idx + 1..] {
            let known = SAME.contains(&(a.as_str(), b.as_str()));
            assert_eq!(equal(a, b), known, "{a} and {b}: {:?}", compare(a, b));
        }
    }
}
