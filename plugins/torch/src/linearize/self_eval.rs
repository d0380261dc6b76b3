//! Self-evaluation: a model votes on whether a right solution is right for good reasons.
//!
//! ASTRO, appendix A.1: a solution that reached its answer by luck is not to be learned from. The paper's prompt and
//! temperature were not published. A vote that can't be read is a vote against: doubt costs an example and no more.

use std::sync::LazyLock;

use regex::Regex;

use crate::formats::{SelfEval, Tree};
use crate::prompts::fill;
use crate::search::steps_to;
use crate::verify::join_steps;
use crate::verify::math::without_thought;

/// The built-in prompt.
pub const PROMPT: &str = include_str!("../../prompts/self_eval.txt");

/// The places that a prompt must have.
pub const PLACES: [&str; 2] = ["problem", "solution"];

/// Returns the right terminals of a tree: the solutions to vote on.
pub fn solutions(tree: &Tree) -> Vec<usize> {
    let is_right = |node: &&crate::formats::TreeNode| node.terminal && node.correct == Some(true);
    tree.nodes.iter().filter(is_right).map(|node| node.id).collect()
}

/// Returns the question about a solution.
pub fn question(prompt: &str, tree: &Tree, terminal: usize) -> String {
    let solution = join_steps(tree.problem.verifier, &steps_to(&tree.nodes, terminal));
    fill(prompt, &[("problem", &tree.problem.problem), ("solution", &solution)])
}

/// Reads a vote: what follows the last `Verdict:`, or a reply that is nothing but a verdict; `None` where there is neither.
/// A reply that was cut off has voted where it ends with its verdict: what it weighs on the way is not its last word.
pub fn vote(reply: &str, is_cut_off: bool) -> Option<bool> {
    static MARKED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\bverdict\W*(?:is\W+)?(\w+)"));
    static ALONE: LazyLock<Regex> = LazyLock::new(|| regex(r"^\W*(\w+)\W*$"));
    // What a model thinks before its answer is no vote, and one that never stops thinking has none.
    let reply = without_thought(reply)?;
    let word = (MARKED.captures_iter(&reply).last())
        .or_else(|| ALONE.captures(&reply))?
        .get(1)?;
    if is_cut_off && reply[word.end()..].contains(char::is_alphanumeric) {
        return None;
    }
    match word.as_str().to_lowercase().as_str() {
        "1" | "yes" | "true" | "correct" | "good" => Some(true),
        "0" | "no" | "false" | "incorrect" | "wrong" | "not" | "bad" => Some(false),
        _ => None,
    }
}

/// Counts votes; a solution is good where at least `agree` of them are for it.
pub fn count(votes: &[Option<bool>], agree: u32) -> SelfEval {
    let num_for = votes.iter().filter(|vote| **vote == Some(true)).count() as u32;
    SelfEval {
        votes: votes.len() as u32,
        agree: num_for,
        good: num_for >= agree,
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the built-in pattern is a regular expression")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearize::tests::small_tree;
    use crate::prompts::PromptFile;

    #[test]
    fn a_vote_is_the_last_verdict_or_the_whole_reply() {
        for (reply, expected) in [
            ("Step 2 is fine.\nVerdict: 1", Some(true)),
            ("**Verdict:** 0.", Some(false)),
            ("Verdict: 1? No, step 3 is a guess.\nVerdict: 0", Some(false)),
            ("verdict - Yes", Some(true)),
            ("Verdict: not justified", Some(false)),
            (" 1 ", Some(true)),
            ("\"No.\"", Some(false)),
            ("<think>Verdict: 1</think> 0", Some(false)),
            ("Verdict: 1, I think.</think>\nVerdict: 0", Some(false)),
            ("<think>Verdict: 1 would be hasty", None),
            ("<think>a</think> <think>Verdict: 1", None),
            ("1 of 3 steps is wrong", None),
            ("Verdict: maybe", None),
            ("The verdict", None),
            ("", None),
        ] {
            assert_eq!(vote(reply, false), expected, "{reply:?}");
        }
    }

    #[test]
    fn a_reply_that_was_cut_off_votes_where_it_ends_with_its_verdict() {
        for (reply, expected) in [
            ("Step 2 is fine.\nVerdict: 1", Some(true)),
            ("**Verdict: 0**", Some(false)),
            ("1", Some(true)),
            ("Verdict: 1 would need step 3 to follow, but", None),
            ("Step 2 is", None),
        ] {
            assert_eq!(vote(reply, true), expected, "{reply:?}");
        }
    }

    #[test]
    fn as_many_votes_as_asked_for_make_a_solution_good() {
        let votes = [Some(true), Some(true), None, Some(false)];
        assert_eq!(
            [2, 3].map(|agree| count(&votes, agree)),
            [true, false].map(|good| SelfEval {
                votes: 4,
                agree: 2,
                good
            })
        );
    }

    #[test]
    fn right_solutions_are_asked_about_whole() {
        let tree = small_tree();
        assert_eq!(solutions(&tree), [5, 8]);
        let prompt = PromptFile::open(None, PROMPT).unwrap().whole(&PLACES).unwrap();
        let question = question(&prompt, &tree, 5);
        assert!(question.contains("Problem:\nHow many?\n"), "{question}");
        let solution =
            "## Step 1: Think 1\nThought.\n\n## Step 3: Think 3\nThought.\n\n## Step 5: Conclude\nSo it is \\boxed{1}.";
        assert!(question.contains(solution), "{question}");
    }
}
