//! The part of a search tree that a drawing has room for: what was visited most, and always the paths to it.

use crate::formats::{Tree, TreeNode};

/// A part of a tree that is shown: the tree nodes in order of their ids, and what was left out below each.
pub struct Shown<'a> {
    pub nodes: Vec<&'a TreeNode>,
    /// Index into `nodes`.
    pub parents: Vec<Option<usize>>,
    /// Children that are not shown.
    pub num_hidden: Vec<usize>,
}

/// Chooses what to show: the best right terminal, the most visited wrong one, then what was visited most; always with
/// the whole path to it.
pub fn prune(tree: &Tree, max_nodes: usize) -> Shown<'_> {
    let mut order: Vec<&TreeNode> = tree.nodes.iter().collect();
    order.sort_by_key(|node| (std::cmp::Reverse(node.visit_count), node.id));
    let first_terminal = |correct| {
        order
            .iter()
            .find(|node| node.terminal && node.correct == Some(correct))
            .copied()
    };
    let first: Vec<&TreeNode> = [first_terminal(true), first_terminal(false)]
        .into_iter()
        .flatten()
        .collect();
    let mut keep = vec![false; tree.nodes.len()];
    let mut num_kept = 0;
    for node in first.into_iter().chain(order) {
        let path = missing_path(tree, node.id, &keep);
        if num_kept + path.len() <= max_nodes {
            num_kept += path.len();
            path.into_iter().for_each(|id| keep[id] = true);
        }
    }
    // Where each kept node stands among the kept ones.
    let mut places = vec![0; tree.nodes.len()];
    let mut num_hidden_below = vec![0; tree.nodes.len()];
    let mut nodes: Vec<&TreeNode> = Vec::with_capacity(num_kept);
    for node in &tree.nodes {
        places[node.id] = nodes.len();
        if keep[node.id] {
            nodes.push(node);
        } else if let Some(parent) = node.parent {
            num_hidden_below[parent] += 1;
        }
    }
    Shown {
        parents: nodes
            .iter()
            .map(|node| node.parent.map(|parent| places[parent]))
            .collect(),
        num_hidden: nodes.iter().map(|node| num_hidden_below[node.id]).collect(),
        nodes,
    }
}

/// Returns the ids from a node up to the first one that is already kept.
fn missing_path(tree: &Tree, id: usize, keep: &[bool]) -> Vec<usize> {
    let mut path = Vec::new();
    let mut next = Some(id);
    while let Some(id) = next.filter(|id| !keep[*id]) {
        path.push(id);
        next = tree.nodes[id].parent;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::draw_tree::fixtures::countdown_tree;

    #[test]
    fn a_part_keeps_both_verdicts_and_knows_what_is_hidden() {
        let tree = countdown_tree();
        let shown = prune(&tree, 6);
        let ids: Vec<usize> = shown.nodes.iter().map(|node| node.id).collect();
        assert_eq!(ids, [0, 1, 2, 4, 5, 11]);
        assert_eq!(shown.parents, [None, Some(0), Some(0), Some(0), Some(2), Some(3)]);
        assert_eq!(shown.num_hidden, [1, 1, 1, 2, 0, 0]);
    }
}
