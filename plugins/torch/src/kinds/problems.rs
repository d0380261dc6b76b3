//! Files of problems, as the kinds read them that have solutions judged.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::formats::{Problem, read_jsonl_numbered};
use crate::verify;

/// Reads problems that their verifiers can judge: `count` from the front, or all where it is 0.
///
/// # Errors
/// The file can't be read, or a verifier can't read a problem.
pub fn read(path: &Path, count: usize) -> Result<Vec<Problem>> {
    let numbered = read_numbered(path, count)?;
    Ok(numbered.into_iter().map(|(_, problem)| problem).collect())
}

/// As [`read`], for kinds that tell problems apart by their ids.
///
/// # Errors
/// As [`read`], or two problems have one id.
pub fn read_distinct(path: &Path, count: usize) -> Result<Vec<Problem>> {
    let numbered = read_numbered(path, count)?;
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (line, problem) in &numbered {
        if let Some(first) = lines.insert(&problem.id, *line) {
            bail!(
                "{}: the problems of lines {first} and {line} have one id, {:?}; give each problem its own",
                path.display(),
                problem.id
            );
        }
    }
    Ok(numbered.into_iter().map(|(_, problem)| problem).collect())
}

fn read_numbered(path: &Path, count: usize) -> Result<Vec<(usize, Problem)>> {
    let mut numbered: Vec<(usize, Problem)> = read_jsonl_numbered(path, "problem")?;
    if count > 0 {
        numbered.truncate(count);
    }
    for (line, problem) in &numbered {
        verify::check_problem(problem).with_context(|| format!("{}:{line}", path.display()))?;
    }
    Ok(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with empty lines between its problems, as the formats allow.
    fn file(problems: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let line = |(id, text): &(&str, &str)| {
            serde_json::json!({"version": 1, "id": id, "problem": text, "answer": "24", "verifier": "countdown", "meta": {}})
                .to_string()
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        let lines: Vec<String> = problems.iter().map(line).collect();
        std::fs::write(file.path(), lines.join("\n\n")).expect("it is written");
        file
    }

    #[test]
    fn problems_of_one_id_are_told_with_their_lines() {
        let file = file(&[("a", "7 3 4 -> 24"), ("b", "7 3 4 -> 24"), ("a", "8 3 -> 24")]);
        let error = format!("{:#}", read_distinct(file.path(), 0).expect_err("an id is there twice"));
        assert!(error.contains("lines 1 and 5 have one id, \"a\""), "{error}");
        assert_eq!(read(file.path(), 0).expect("ids don't matter").len(), 3);
        assert_eq!(read_distinct(file.path(), 2).expect("the third is not read").len(), 2);
    }

    #[test]
    fn a_problem_that_no_verifier_can_judge_is_told_with_its_line() {
        let file = file(&[("a", "7 3 4 -> 24"), ("b", "seven")]);
        for error in [read(file.path(), 0), read_distinct(file.path(), 0)] {
            let error = format!("{:#}", error.expect_err("it is no game"));
            assert!(
                error.contains(":3: problem \"b\": \"seven\" is not of the form"),
                "{error}"
            );
        }
        assert_eq!(read(file.path(), 1).expect("the second is not used").len(), 1);
    }
}
