//! A plan against the one before it: which nodes run now, which no longer do, and both plans' difference as text.
//!
//! What fits on a screen has a line for each node; what doesn't is told by stage.

use std::collections::{BTreeMap, HashMap};

use super::plan::{color_of, describe_cause, describe_plan_counts, row};
use super::text::{Paint, duration, table, truncate};
use crate::exec::{Plan, PlanState};
use crate::graph::{Graph, NodeId, StageView};

/// A plan with the graph that it is of.
#[derive(Debug, Clone, Copy)]
pub struct Planned<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The plan.
    pub plan: &'a Plan,
}

impl Planned<'_> {
    fn is_open(self, idx: usize) -> bool {
        self.plan.state(idx) != PlanState::Cached
    }
}

/// What became of the nodes between two plans.
///
/// Nodes are told by their indices in the later graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanChange {
    /// Nodes that run or may run now and did not before.
    pub starts: Vec<usize>,
    /// Nodes that would have run before as well, but with another key.
    pub changes: Vec<usize>,
    /// Nodes that would have run before, and are cached now.
    pub stops: Vec<usize>,
    /// Nodes that are not there any more.
    pub gone: Vec<NodeId>,
}

impl PlanChange {
    /// Compares two plans by the names of their nodes.
    pub fn between(before: Planned<'_>, now: Planned<'_>) -> PlanChange {
        let named = |stage: StageView<'_>| stage.name().clone();
        let mut known: HashMap<_, _> = before.graph.stages().map(|stage| (named(stage), stage)).collect();
        let mut change = PlanChange::default();
        let mut gone = Vec::new();
        for stage in now.graph.stages() {
            let earlier = known.remove(stage.name());
            let pairs = pairs(now.graph, stage, before.graph, earlier, &mut gone);
            for (idx, earlier) in stage.nodes().zip(pairs) {
                change.add(before, earlier, now, idx);
            }
        }
        gone.extend(known.into_values().flat_map(|stage| stage.nodes()));
        gone.sort_unstable();
        change.gone = gone.into_iter().map(|idx| before.graph.id(idx)).collect();
        change
    }

    fn add(&mut self, before: Planned<'_>, earlier: Option<usize>, now: Planned<'_>, idx: usize) {
        let ran = earlier.filter(|&earlier| before.is_open(earlier));
        let is_other = |earlier| before.graph.recipe_key(earlier) != now.graph.recipe_key(idx);
        match (ran, now.is_open(idx)) {
            (None, true) => self.starts.push(idx),
            (Some(_), false) => self.stops.push(idx),
            (Some(earlier), true) if is_other(earlier) => self.changes.push(idx),
            _ => {}
        }
    }

    /// Tells whether both plans do the same with the same nodes.
    pub fn is_empty(&self) -> bool {
        *self == PlanChange::default()
    }

    fn marks(&self) -> HashMap<usize, &'static str> {
        let lists = [(&self.starts, "+"), (&self.changes, "~"), (&self.stops, "-")];
        let marked = |(list, mark): (&Vec<usize>, &'static str)| list.iter().map(|&idx| (idx, mark)).collect();
        lists.into_iter().flat_map::<Vec<_>, _>(marked).collect()
    }
}

/// Returns for each node of a stage the one that had its name before, and adds to `gone` those that have none now.
///
/// Names are made only where points came or went: they would take longer than all the rest.
fn pairs(
    graph: &Graph,
    stage: StageView<'_>,
    earlier_graph: &Graph,
    earlier: Option<StageView<'_>>,
    gone: &mut Vec<usize>,
) -> Vec<Option<usize>> {
    let Some(earlier) = earlier else {
        return vec![None; stage.nodes().len()];
    };
    if stage.has_points_of(earlier) {
        return earlier.nodes().map(Some).collect();
    }
    let named = earlier.nodes().map(|idx| (earlier_graph.id(idx), idx));
    let mut left: HashMap<NodeId, usize> = named.collect();
    let pairs = stage.nodes().map(|idx| left.remove(&graph.id(idx))).collect();
    gone.extend(left.into_values());
    pairs
}

/// How much of a plan is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Cached nodes as well, and however many lines that takes.
    pub all: bool,
    /// More lines than this are told by stage.
    pub max_lines: usize,
    /// Lines of nodes are cut to so many columns, unless all is shown.
    pub columns: Option<usize>,
}

/// Returns a plan with what is new in it: `+` runs now, `~` runs otherwise than planned before, `-` no longer runs.
pub fn describe_plan_change(planned: Planned<'_>, change: Option<&PlanChange>, extent: Extent, paint: Paint) -> String {
    let marks = change.map(PlanChange::marks).unwrap_or_default();
    let mark = |idx: usize| marks.get(&idx).copied().unwrap_or("");
    let is_shown = |&idx: &usize| extent.all || planned.is_open(idx) || mark(idx) == "-";
    let shown: Vec<usize> = (0..planned.graph.len()).filter(is_shown).collect();
    let mut lines: Vec<(PlanState, Vec<String>)> = if extent.all || shown.len() <= extent.max_lines {
        let nodes = shown.iter().map(|&idx| (idx, planned.plan.node(planned.graph, idx)));
        nodes
            .map(|(idx, node)| (node.state, [vec![mark(idx).to_owned()], row(&node)].concat()))
            .collect()
    } else {
        let stages = shown.chunk_by(|&a, &b| planned.graph.stage(a) == planned.graph.stage(b));
        stages.map(|nodes| stage_line(planned, nodes, &mark)).collect()
    };
    if lines.iter().all(|(_, cells)| cells[0].is_empty()) {
        lines.iter_mut().for_each(|(_, cells)| drop(cells.remove(0)));
    }
    let (states, cells): (Vec<PlanState>, Vec<Vec<String>>) = lines.into_iter().unzip();
    let mut out = String::new();
    for (line, state) in table(&cells).lines().zip(states) {
        let columns = extent.columns.filter(|_| !extent.all);
        let line = columns.map_or_else(|| line.to_owned(), |columns| truncate(line, columns));
        out.push_str(&paint.state(color_of(state), &line));
        out.push('\n');
    }
    out.push_str(&describe_plan_counts(planned.plan, &planned.graph.pipeline));
    if let Some(change) = change {
        let counts = describe_counts(planned.plan, change);
        out.push_str(&format!("against the plan before: {counts}\n"));
    }
    out
}

/// Returns the line of a stage: what its nodes do, how long that takes, and the reason that most of them have.
fn stage_line(
    planned: Planned<'_>,
    nodes: &[usize],
    mark: &impl Fn(usize) -> &'static str,
) -> (PlanState, Vec<String>) {
    let plan = planned.plan;
    let count = |state: PlanState| nodes.iter().filter(|&&idx| plan.state(idx) == state).count();
    let states = [PlanState::Run, PlanState::Maybe, PlanState::Cached];
    let states = states.map(|state| (state, count(state)));
    let mut found = states.into_iter().filter(|(_, num)| *num > 0);
    let told: Vec<String> = found.clone().map(|(state, num)| format!("{num} {state}")).collect();
    let marked = ["+", "~", "-"].iter().filter_map(|sign| {
        let num = nodes.iter().filter(|&&idx| mark(idx) == *sign).count();
        (num > 0).then(|| format!("{sign}{num}"))
    });
    let seconds: f64 = nodes.iter().filter_map(|&idx| plan.estimate_of(idx)).sum();
    let time = match seconds > 0.0 {
        true => format!("about {}", duration(seconds)),
        false => String::new(),
    };
    let cells = vec![
        marked.collect::<Vec<_>>().join(" "),
        told.join(", "),
        planned.graph.stage(nodes[0]).0.clone(),
        time,
        main_reason(planned, nodes),
    ];
    (found.next().map_or(PlanState::Cached, |(state, _)| state), cells)
}

/// Returns the reason that most nodes have, and how many others there are.
fn main_reason(planned: Planned<'_>, nodes: &[usize]) -> String {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for &idx in nodes.iter().filter(|&&idx| planned.is_open(idx)) {
        let reason = describe_cause(&planned.plan.node(planned.graph, idx));
        *reasons.entry(reason).or_default() += 1;
    }
    let Some((main, num)) = reasons.iter().max_by_key(|(_, num)| **num) else {
        return String::new();
    };
    match reasons.len() - 1 {
        0 => main.clone(),
        others => format!(
            "{main} ({num} {}; {others} other {})",
            plural(*num, "node"),
            plural(others, "reason")
        ),
    }
}

fn describe_counts(plan: &Plan, change: &PlanChange) -> String {
    if change.is_empty() {
        return "nothing is different".to_owned();
    }
    let mut parts = Vec::new();
    let node = |num: usize| format!("{num} {}", plural(num, "node"));
    if !change.starts.is_empty() {
        let num = change.starts.len();
        let seconds: f64 = change.starts.iter().filter_map(|&idx| plan.estimate_of(idx)).sum();
        let time = match seconds > 0.0 {
            true => format!(" (about {})", duration(seconds)),
            false => String::new(),
        };
        parts.push(format!("{} now {}{time}", node(num), verb(num)));
    }
    if !change.changes.is_empty() {
        let num = change.changes.len();
        parts.push(format!("{} {} otherwise", node(num), verb(num)));
    }
    if !change.stops.is_empty() {
        let num = change.stops.len();
        parts.push(format!("{} no longer {}", node(num), verb(num)));
    }
    if !change.gone.is_empty() {
        parts.push(format!("{} gone", node(change.gone.len())));
    }
    parts.join(", ")
}

fn plural(num: usize, word: &str) -> String {
    if num == 1 { word.to_owned() } else { format!("{word}s") }
}

fn verb(num: usize) -> &'static str {
    if num == 1 { "runs" } else { "run" }
}

/// Returns how much of the work is there already, in words.
pub fn describe_reuse(plan: &Plan) -> String {
    match (plan.num_reused(), plan.reused_s) {
        (0, _) => "nothing is reused\n".to_owned(),
        (num, seconds) if seconds > 0.0 => {
            let nodes = plural(num, "node");
            format!("reused: {num} cached {nodes}, {} of recorded work\n", duration(seconds))
        }
        (num, _) => format!("reused: {num} cached {}\n", plural(num, "node")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Change;
    use crate::spec::{Options, load};

    const NO_PAINT: Paint = Paint { color: false };

    /// Returns a graph of stages with a name, a value that is in their keys, and an axis `n`.
    fn graph(stages: &[(&str, u32, &[usize])]) -> Graph {
        let mut text = String::from("volvelle: 1\nname: p\nstages:\n");
        for (name, value, points) in stages {
            text += &format!(
                "  {name}:\n    uses: command\n    matrix: {{ n: {points:?} }}\n    outputs: {{ out: text }}\n    \
                 with: {{ run: 'echo {value} ${{matrix.n}} > ${{outputs.out}}' }}\n"
            );
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("p.yaml");
        std::fs::write(&file, text).expect("a file");
        let pipeline = load(&file, &Options::default()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        crate::graph::build(&pipeline, None).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn plan(states: impl IntoIterator<Item = PlanState>) -> Plan {
        let change = |old: usize| Change {
            path: "with.x".into(),
            old: Some(json!(old)),
            new: Some(json!("k")),
        };
        let node = |(idx, state)| (state, change(idx));
        Plan::made_up(states.into_iter().enumerate().map(node))
    }

    fn two_plans() -> [(Graph, Plan); 2] {
        use PlanState::{Cached, Maybe, Run};
        let before = graph(&[("a", 1, &[1, 2, 3]), ("b", 1, &[4, 5]), ("c", 1, &[6])]);
        let now = graph(&[("a", 2, &[1, 2, 3]), ("b", 1, &[4])]);
        [
            (before, plan([Cached, Run, Run, Run, Cached, Run])),
            (now, plan([Maybe, Run, Cached, Run])),
        ]
    }

    fn view((graph, plan): &(Graph, Plan)) -> Planned<'_> {
        Planned { graph, plan }
    }

    #[test]
    fn nodes_that_start_change_stop_or_go_are_told_apart() {
        let [before, now] = two_plans();
        let change = PlanChange::between(view(&before), view(&now));
        let expected = PlanChange {
            starts: vec![0],
            changes: vec![1],
            stops: vec![2],
            gone: vec![NodeId("b[n=5]".into()), NodeId("c[n=6]".into())],
        };
        assert_eq!(change, expected);
        assert!(PlanChange::between(view(&now), view(&now)).is_empty());
    }

    #[test]
    fn nodes_are_known_by_their_names_in_whatever_order_they_come() {
        use PlanState::{Cached, Run};
        let before = (graph(&[("a", 1, &[1, 2]), ("b", 1, &[1])]), plan([Cached, Run, Run]));
        let turned = (graph(&[("b", 1, &[1]), ("a", 1, &[2, 1])]), plan([Run, Run, Cached]));
        assert_eq!(PlanChange::between(view(&before), view(&turned)), PlanChange::default());
    }

    #[test]
    fn a_plan_shows_what_is_new_in_it() {
        let [before, now] = two_plans();
        let change = PlanChange::between(view(&before), view(&now));
        let extent = Extent {
            all: false,
            max_lines: 9,
            columns: None,
        };
        insta::assert_snapshot!(describe_plan_change(view(&now), Some(&change), extent, NO_PAINT));
    }

    #[test]
    fn more_than_a_screen_is_told_by_stage() {
        let points: Vec<usize> = (0..4000).collect();
        let graph = graph(&[("sft", 1, &points), ("test", 1, &points[..1000])]);
        let now = (graph, plan(vec![PlanState::Run; 5000]));
        let extent = Extent {
            all: false,
            max_lines: 40,
            columns: None,
        };
        let text = describe_plan_change(view(&now), None, extent, NO_PAINT);
        assert_eq!(
            text,
            "4000 run  sft   about 100 h 00 min  with.x 999 -> \"k\" (1 node; 3999 other reasons)\n\
             1000 run  test  about 25 h 00 min   with.x 4999 -> \"k\" (1 node; 999 other reasons)\n\
             p: 5000 nodes: 5000 run, 0 cached; 125 h 00 min of work\n"
        );
        let all = Extent { all: true, ..extent };
        let text = describe_plan_change(view(&now), None, all, NO_PAINT);
        assert_eq!(text.lines().count(), 5001);
    }
}
