//! Which tree and which sample are worth drawing, where nobody says which: those that show the most and can be read.

use super::solution::Solution;
use crate::formats::Tree;

/// A tree of about this many tree nodes shows a search and can still be read.
const READABLE_NODES: usize = 24;

/// Returns the indices of trees, the most instructive first: with right and wrong terminals, then with any; of those
/// the one whose size is nearest to what can be read; the first of equals.
pub fn trees_by_worth(trees: &[Tree]) -> Vec<usize> {
    let has = |tree: &Tree, correct| {
        tree.nodes
            .iter()
            .any(|node| node.terminal && node.correct == Some(correct))
    };
    let rank = |tree: &Tree| {
        let verdicts = usize::from(has(tree, true)) * 2 + usize::from(has(tree, false));
        (std::cmp::Reverse(verdicts), tree.nodes.len().abs_diff(READABLE_NODES))
    };
    in_order(trees, rank)
}

/// Returns the indices of solutions, the most instructive first: correct, with the most returns that `max_steps` steps
/// have room for; then the one with the fewest steps; the first of equals.
pub fn solutions_by_worth(solutions: &[Solution], max_steps: usize) -> Vec<usize> {
    let rank = |solution: &Solution| {
        let fits = solution.steps.len() <= max_steps + 1;
        (
            !(solution.correct && fits),
            !fits,
            std::cmp::Reverse(solution.moves.len()),
            solution.steps.len(),
        )
    };
    in_order(solutions, rank)
}

fn in_order<T, K: Ord>(items: &[T], rank: impl Fn(&T) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_cached_key(|idx| rank(&items[*idx]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::draw_tree::fixtures::{countdown_tree, tree};
    use crate::report::solution::fixtures::{COUNTDOWN, read};

    #[test]
    fn a_tree_with_both_verdicts_is_best() {
        let bare = tree(&[(None, "", 1, 0.0, None)]);
        let right_only = tree(&[(None, "", 1, 0.0, None), (Some(0), "24 ? 24", 1, 1.0, Some(true))]);
        let trees = [bare.clone(), right_only, countdown_tree(), countdown_tree()];
        assert_eq!(trees_by_worth(&trees), [2, 3, 1, 0]);
        assert!(trees_by_worth(&[]).is_empty());
    }

    #[test]
    fn a_correct_solution_with_most_returns_is_best() {
        let direct = read("7 3 4 -> 24", "7 * 4 = 28 | 3 28 ; 28 - 4 = 24 , 24 ? 24", true);
        let search = read("7 3 4 -> 24", COUNTDOWN, true);
        let wrong = read("7 3 4 -> 24", COUNTDOWN, false);
        let all = [wrong, direct, search];
        assert_eq!(solutions_by_worth(&all, 20), [2, 1, 0]);
        assert_eq!(
            solutions_by_worth(&all, 3)[0],
            1,
            "the one with returns has too many steps"
        );
        assert!(solutions_by_worth(&[], 20).is_empty());
    }
}
