//! The order of visits: from terminal to terminal, and back between them.

use serde::Deserialize;

use crate::formats::{Relation, TraceNode, Tree, TreeNode};

/// Where a trace goes after a wrong terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnTo {
    /// The last common ancestor with what comes next, as in the paper.
    Ancestor,
    /// The problem itself: each attempt is written from its beginning.
    Root,
}

/// Returns the visits that lead from the root to each terminal in turn.
///
/// Between two of them the last common ancestor, or the root, is visited again; that visit is the backtrack. Where it is
/// the root, it is a restart.
pub fn merge_sequences(tree: &Tree, terminals: &[usize], return_to: ReturnTo) -> Vec<TraceNode> {
    let mut sequence = vec![visit(&tree.nodes[0], Relation::Root)];
    let mut last_path = vec![0];
    for &terminal in terminals {
        let path = path_to(tree, terminal);
        let shared = match return_to {
            ReturnTo::Ancestor => path.iter().zip(&last_path).take_while(|(a, b)| a == b).count(),
            ReturnTo::Root => 1,
        };
        let ancestor = path[shared - 1];
        if last_path.last() != Some(&ancestor) {
            let relation = if ancestor == 0 {
                Relation::Restart
            } else {
                Relation::Backtrack
            };
            sequence.push(visit(&tree.nodes[ancestor], relation));
        }
        sequence.extend(path[shared..].iter().map(|&id| visit(&tree.nodes[id], Relation::Child)));
        last_path = path;
    }
    sequence
}

/// Returns the nodes from the root to `node`.
pub fn path_to(tree: &Tree, node: usize) -> Vec<usize> {
    let mut path: Vec<usize> = std::iter::successors(Some(node), |&id| tree.nodes[id].parent).collect();
    path.reverse();
    path
}

fn visit(node: &TreeNode, relation: Relation) -> TraceNode {
    TraceNode {
        id: node.id,
        parent: node.parent,
        relation,
        text: node.text.clone(),
        q_value: node.q_value,
        terminal: node.terminal,
        answer: node.answer.clone(),
        correct: node.correct,
    }
}
