//! Search trees, traces and solutions as the one kind of graph that the page of `graph_page` draws.
//!
//! A graph is a tree of nodes, the first of them the root, each parent before its children, and the returns between
//! them. Numbers are rounded to what is shown; texts are cut where a page would become too heavy.

use serde::Serialize;

use super::prune::Shown;
use super::solution::Solution;
use crate::formats::{Relation, SelfEval, Trace, Tree};

/// One entry of the page's picker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graph {
    pub name: String,
    /// The text of the root.
    pub problem: String,
    /// The reference answer, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What it is, in one line.
    pub summary: String,
    pub nodes: Vec<GraphNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<GraphMove>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GraphNode {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_eval: Option<String>,
    /// Reflections that approve of the step, and that doubt it.
    #[serde(skip_serializing_if = "is_zero")]
    pub positive: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub negative: usize,
    /// When a trace is here, counted from 1 at the root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub visit: Vec<usize>,
}

/// A return to an earlier step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GraphMove {
    /// From 1, in order.
    pub number: usize,
    pub from: usize,
    pub to: usize,
    pub restart: bool,
    pub uncertain: bool,
    pub text: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Returns a search tree, or the part of it that is shown.
pub fn of_tree(tree: &Tree, shown: &Shown) -> Graph {
    let nodes: Vec<GraphNode> = shown
        .nodes
        .iter()
        .zip(&shown.parents)
        .map(|(node, parent)| GraphNode {
            parent: *parent,
            text: node.text.clone(),
            visits: Some(node.visit_count),
            q: Some(rounded(node.q_value)),
            rollout: Some(rounded(node.rollout_value)),
            prior: parent.map(|_| rounded(node.prior)),
            terminal: node.terminal,
            right: node.correct.filter(|_| node.terminal),
            answer: node.answer.clone(),
            self_eval: node.self_eval.map(votes),
            ..GraphNode::default()
        })
        .collect();
    let num_right = nodes.iter().filter(|node| node.right == Some(true)).count();
    let num_wrong = nodes.iter().filter(|node| node.right == Some(false)).count();
    let part = if nodes.len() < tree.nodes.len() {
        format!("the {} most visited of {} nodes", nodes.len(), tree.nodes.len())
    } else {
        format!("{} nodes", nodes.len())
    };
    Graph {
        name: format!("search tree of {}", tree.problem.id),
        problem: tree.problem.problem.clone(),
        answer: Some(tree.problem.answer.clone()),
        summary: format!(
            "{part}, {} simulations, {num_right} right and {num_wrong} wrong answers",
            tree.num_simulations
        ),
        nodes,
        moves: Vec::new(),
    }
}

/// Returns a trace over the tree that it was made from, or by itself where `tree` is not that one.
pub fn of_trace(trace: &Trace, tree: Option<(&Tree, &Shown)>) -> Graph {
    let whole = tree.filter(|(tree, shown)| shown.nodes.len() == tree.nodes.len() && is_over(trace, tree));
    let mut graph = match whole {
        Some((tree, shown)) => of_tree(tree, shown),
        None => Graph {
            name: String::new(),
            problem: trace.problem.problem.clone(),
            answer: Some(trace.problem.answer.clone()),
            summary: String::new(),
            nodes: Vec::new(),
            moves: Vec::new(),
        },
    };
    // By itself a trace has a node for each tree node that it visits, in the order of the first visits.
    let mut own_ids: Vec<usize> = Vec::new();
    let mut last: Option<usize> = None;
    for (idx, visit) in trace.nodes.iter().enumerate() {
        let known = own_ids.iter().position(|id| *id == visit.id);
        let at = match (whole.is_some(), known) {
            (true, _) => visit.id,
            (false, Some(at)) => at,
            (false, None) => {
                own_ids.push(visit.id);
                let parent = visit
                    .parent
                    .and_then(|parent| own_ids.iter().position(|id| *id == parent));
                graph.nodes.push(GraphNode {
                    // A visit whose parent was never visited follows from the one before it.
                    parent: parent.or(last),
                    text: visit.text.clone(),
                    q: Some(rounded(visit.q_value)),
                    terminal: visit.terminal,
                    right: visit.correct.filter(|_| visit.terminal),
                    answer: visit.answer.clone(),
                    ..GraphNode::default()
                });
                graph.nodes.len() - 1
            }
        };
        graph.nodes[at].visit.push(idx + 1);
        if let (Relation::Backtrack | Relation::Restart, Some(from)) = (visit.relation, last) {
            graph.moves.push(GraphMove {
                number: graph.moves.len() + 1,
                from,
                to: at,
                restart: visit.relation == Relation::Restart,
                uncertain: false,
                text: format!("after visit {idx}, back to this step"),
            });
        }
        last = Some(at);
    }
    graph.name = format!("trace of {}, {}", trace.problem.id, plural(trace.k, "backtrack"));
    graph.summary = format!(
        "{} of {}, {}",
        plural(trace.nodes.len(), "visit"),
        plural(graph.nodes.len(), "node"),
        plural(graph.moves.len(), "return")
    );
    graph
}

/// Tells whether a trace visits nodes of this tree: the same ids with the same texts.
fn is_over(trace: &Trace, tree: &Tree) -> bool {
    let fits = |visit: &crate::formats::TraceNode| {
        tree.nodes
            .get(visit.id)
            .is_some_and(|node| visit.parent.is_none() || node.text == visit.text || visit.text.is_empty())
    };
    trace.problem.id == tree.problem.id && trace.nodes.iter().all(fits)
}

/// Returns a solution, with its number among those of its problem where there are several.
pub fn of_solution(solution: &Solution) -> Graph {
    let nodes = solution.steps.iter().map(|step| GraphNode {
        parent: step.parent,
        text: step.text.clone(),
        terminal: step.terminal,
        right: step.right,
        positive: step.num_positive,
        negative: step.num_negative,
        ..GraphNode::default()
    });
    let moves = solution.moves.iter().map(|m| GraphMove {
        number: m.number,
        from: m.from,
        to: m.to,
        restart: m.restart,
        uncertain: m.uncertain,
        text: m.text.clone(),
    });
    let outcome = match (solution.correct, solution.truncated) {
        (true, _) => "right",
        (false, true) => "cut off by the token limit",
        (false, false) => "wrong",
    };
    Graph {
        name: format!("solution of {}, {outcome}", solution.problem_id),
        problem: solution.steps.first().map(|step| step.text.clone()).unwrap_or_default(),
        answer: None,
        summary: format!(
            "{}, {}, {outcome}",
            plural(solution.steps.len().saturating_sub(1), "step"),
            plural(solution.moves.len(), "return")
        ),
        nodes: nodes.collect(),
        moves: moves.collect(),
    }
}

/// Cuts the texts of all graphs so that they come to about `budget` bytes at most, and says so in the texts.
pub fn cut_texts(graphs: &mut [Graph], budget: usize) {
    let total: usize = graphs
        .iter()
        .flat_map(|graph| &graph.nodes)
        .map(|node| node.text.len())
        .sum();
    if total <= budget {
        return;
    }
    let num_nodes: usize = graphs.iter().map(|graph| graph.nodes.len()).sum();
    let room = (budget / num_nodes.max(1)).max(80);
    for node in graphs.iter_mut().flat_map(|graph| &mut graph.nodes) {
        if node.text.len() > room {
            let end = (0..=room).rev().find(|at| node.text.is_char_boundary(*at)).unwrap_or(0);
            let rest = node.text[end..].chars().count();
            node.text.truncate(end);
            node.text += &format!("… [{rest} more characters]");
        }
    }
}

fn votes(votes: SelfEval) -> String {
    let verdict = if votes.good { "good" } else { "not good" };
    format!("{} of {} votes, {verdict}", votes.agree, votes.votes)
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Four decimals: one more than is shown.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Style, TraceNode};
    use crate::report::draw_tree::fixtures::countdown_tree;
    use crate::report::prune::prune;
    use crate::report::solution::fixtures::{COUNTDOWN, read};

    fn trace(tree: &Tree, visits: &[(usize, Relation)]) -> Trace {
        let node = |(id, relation): &(usize, Relation)| TraceNode {
            id: *id,
            parent: tree.nodes[*id].parent,
            relation: *relation,
            text: tree.nodes[*id].text.clone(),
            q_value: tree.nodes[*id].q_value,
            terminal: tree.nodes[*id].terminal,
            answer: tree.nodes[*id].answer.clone(),
            correct: tree.nodes[*id].correct,
        };
        Trace {
            version: 1,
            problem: tree.problem.clone(),
            style: Style::Search,
            k: 2,
            nodes: visits.iter().map(node).collect(),
            answer: "24".into(),
        }
    }

    const VISITS: [(usize, Relation); 8] = [
        (0, Relation::Root),
        (2, Relation::Child),
        (5, Relation::Child),
        (0, Relation::Restart),
        (4, Relation::Child),
        (7, Relation::Child),
        (4, Relation::Backtrack),
        (11, Relation::Child),
    ];

    #[test]
    fn a_tree_keeps_its_figures() {
        let tree = countdown_tree();
        let graph = of_tree(&tree, &prune(&tree, 100));
        assert_eq!(graph.nodes.len(), 12);
        assert_eq!(graph.nodes[11].right, Some(true));
        assert_eq!(
            (graph.nodes[4].visits, graph.nodes[4].q, graph.nodes[4].parent),
            (Some(4), Some(0.4), Some(0))
        );
        assert!(
            graph
                .summary
                .starts_with("12 nodes, 8 simulations, 1 right and 6 wrong"),
            "{}",
            graph.summary
        );
        let part = of_tree(&tree, &prune(&tree, 6));
        assert!(
            part.summary.starts_with("the 6 most visited of 12 nodes"),
            "{}",
            part.summary
        );
    }

    #[test]
    fn a_trace_numbers_its_visits_over_its_tree() {
        let tree = countdown_tree();
        let graph = of_trace(&trace(&tree, &VISITS), Some((&tree, &prune(&tree, 100))));
        assert_eq!(graph.nodes.len(), 12);
        assert_eq!(
            (graph.nodes[0].visit.as_slice(), graph.nodes[4].visit.as_slice()),
            ([1, 4].as_slice(), [5, 7].as_slice())
        );
        let moves: Vec<_> = graph.moves.iter().map(|m| (m.from, m.to, m.restart)).collect();
        assert_eq!(moves, [(5, 0, true), (7, 4, false)]);
    }

    #[test]
    fn a_trace_without_its_tree_stands_alone() {
        let tree = countdown_tree();
        let trace = trace(&tree, &VISITS);
        let mut other = tree.clone();
        other.nodes[2].text = "another step".into();
        for given in [None, Some((&other, &prune(&other, 100)))] {
            let graph = of_trace(&trace, given);
            let parents: Vec<_> = graph.nodes.iter().map(|node| node.parent).collect();
            assert_eq!(parents, [None, Some(0), Some(1), Some(0), Some(3), Some(3)]);
            assert_eq!(graph.moves.len(), 2);
        }
    }

    #[test]
    fn a_solution_keeps_its_returns() {
        let graph = of_solution(&read("7 3 4 -> 24", COUNTDOWN, true));
        assert_eq!((graph.nodes.len(), graph.moves.len()), (7, 3));
        assert_eq!(graph.summary, "6 steps, 3 returns, right");
    }

    #[test]
    fn long_texts_are_cut_to_a_budget_and_say_so() {
        let tree = countdown_tree();
        let mut graphs = vec![of_tree(&tree, &prune(&tree, 100))];
        graphs[0].nodes[3].text = "é".repeat(5000);
        cut_texts(&mut graphs, 2400);
        let text = &graphs[0].nodes[3].text;
        assert!(text.ends_with("more characters]") && text.len() < 260, "{text}");
        assert_eq!(graphs[0].nodes[4].text, tree.nodes[4].text);
    }
}
