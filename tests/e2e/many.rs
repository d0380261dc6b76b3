//! Eight processes, one cache, two hundred nodes that they all want: each runs once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::project::{Killable, Numbers, Project, acknowledged};

const PROCESSES: usize = 8;
const NODES: usize = 200;

/// Each execution leaves a line in a file of its node.
fn project() -> Project {
    let project = Project::in_memory(&format!(
        "volvelle: 1\nstages:\n  node: {{ uses: command, matrix: {{ i: {{ range: [1, {NODES}] }} }}, outputs: {{ out: text }}, with: {{ run: \"echo x >> ran/${{matrix.i}}; echo ${{matrix.i}} > ${{outputs.out}}\" }} }}\n"
    ));
    std::fs::create_dir(project.path("ran")).expect("a folder");
    project
}

fn start(project: &Project) -> Killable {
    Killable::start(project.command(&["run", "p.yaml", "--json"]))
}

/// Returns how often each node was executed, by what the workers did.
fn executions(project: &Project) -> Vec<usize> {
    let lines = |node: usize| project.read(&format!("ran/{node}")).lines().count();
    (1..=NODES).map(lines).collect()
}

#[test]
fn eight_processes_run_each_of_two_hundred_nodes_once() {
    let project = project();
    let started: Vec<Killable> = (0..PROCESSES).map(|_| start(&project)).collect();
    let mut told = 0;
    for process in started {
        let (code, events) = process.finish();
        assert_eq!(code, Some(0));
        told += acknowledged(&events).len();
    }
    assert_eq!(executions(&project), vec![1; NODES]);
    assert_eq!(told, NODES);
    assert_eq!(project.volvelle(&["fsck"]).code, Some(0));
}

#[test]
fn processes_that_are_killed_leave_their_nodes_to_the_others() {
    let project = project();
    let mut numbers = Numbers::new("kills among eight");
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let mut processes: Vec<Killable> = (0..PROCESSES).map(|_| start(&project)).collect();
    let (mut kills, mut done) = (0, 0);
    let begin = Instant::now();
    while done < PROCESSES {
        assert!(
            begin.elapsed() < Duration::from_secs(120),
            "{done} of {PROCESSES} came to their end"
        );
        std::thread::sleep(Duration::from_millis(numbers.below(40) as u64));
        let mut process = processes.swap_remove(numbers.below(processes.len()));
        if kills < 40 && process.kill() {
            kills += 1;
        }
        if process.ended().is_none() {
            processes.push(process);
            continue;
        }
        let (code, events) = process.finish();
        for node in acknowledged(&events) {
            *told.entry(node).or_default() += 1;
        }
        match code {
            None => processes.push(start(&project)),
            code => {
                assert_eq!(code, Some(0));
                done += 1;
            }
        }
    }
    assert!(kills >= 10, "{kills}");
    assert!(
        told.values().all(|&times| times == 1),
        "what was told once is never executed again: {told:?}"
    );
    // A worker that was killed with its engine runs again: at most as many as the killed engines had at a time.
    let executed = executions(&project);
    assert!(executed.iter().all(|&times| times >= 1));
    let again: usize = executed.iter().map(|times| times - 1).sum();
    assert!(
        again <= kills * 2 * std::thread::available_parallelism().map_or(1, usize::from),
        "{again}"
    );
    let states = project.run(&[]);
    assert!(states.values().all(|state| state == "cached"));
    assert_eq!(project.volvelle(&["fsck"]).code, Some(0));
}
