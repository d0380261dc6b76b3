//! What becomes of a search while it runs: trees written and saved as they are done, the rest saved between rounds,
//! progress told, and the end when its time is over.

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::in_order::InOrder;
use super::meter::Meter;
use super::{Params, Saver};
use crate::formats::{Problem, Tree, read_json, read_jsonl, write_json, write_jsonl};
use crate::kinds::saver::is_stop;
use crate::search::{Earlier, Flow, Observer, Progress, SavedSearch, SavedTree, Tally};
use crate::worker::Job;

/// What the trees don't say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    num_rounds: usize,
    /// Time that the search took so far.
    seconds: f64,
}

/// A tree that is done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    problem_idx: usize,
    tree: Tree,
}

/// Follows a search.
pub(super) struct Keeper<'a, 'j> {
    job: &'j Job,
    saver: &'a RefCell<Saver<'j>>,
    out: InOrder,
    num_problems: usize,
    num_simulations: u32,
    /// 0: no limit.
    max_seconds: f64,
    began: Instant,
    /// What earlier attempts took.
    seconds_before: f64,
    /// The trees that are done.
    finished: Tally,
    meter: &'a Meter<'j>,
}

impl<'a, 'j> Keeper<'a, 'j> {
    pub(super) fn new(
        job: &'j Job,
        saver: &'a RefCell<Saver<'j>>,
        meter: &'a Meter<'j>,
        num_problems: usize,
        params: &Params,
    ) -> Result<Self> {
        Ok(Self {
            job,
            saver,
            out: InOrder::create(job.output("trees")?)?,
            num_problems,
            num_simulations: params.num_simulations,
            max_seconds: params.max_seconds,
            began: Instant::now(),
            seconds_before: 0.0,
            finished: Tally::default(),
            meter,
        })
    }

    /// Takes in what earlier attempts left, and returns it as the search wants it.
    pub(super) fn begin(&mut self, saved: SavedSearch, done: Vec<Done>, seconds: f64) -> Result<Earlier> {
        self.seconds_before = seconds;
        let mut earlier = Earlier {
            search: saved,
            ..Earlier::default()
        };
        for Done { problem_idx, tree } in done {
            if earlier.done.insert(problem_idx) {
                self.finished = self.finished.plus(Tally::of(&tree));
                self.out.add(problem_idx, tree)?;
            }
        }
        let is_growing = |tree: &SavedTree| !earlier.done.contains(&tree.problem_idx);
        let growing: Vec<SavedTree> = earlier.search.trees.into_iter().filter(is_growing).collect();
        earlier.search.trees = growing;
        self.tell(Tally::of_saved(&earlier.search.trees));
        self.meter.begin();
        Ok(earlier)
    }

    /// Ends the output and returns what all trees amount to.
    pub(super) fn end(self) -> Result<Tally> {
        self.out.end()?;
        Ok(self.finished)
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    fn tell(&self, active: Tally) {
        let all = self.finished.plus(active);
        // A tree that is done early has no other simulations to wait for.
        let done = self.finished.num_trees * self.num_simulations as usize + active.num_simulations as usize;
        let standing = format!(
            "{} of {} problems solved, {} done, {} nodes",
            all.num_solved, self.num_problems, self.finished.num_trees, all.num_nodes
        );
        self.meter.stand(done, all.num_tokens, standing);
    }
}

impl Observer for Keeper<'_, '_> {
    fn finished(&mut self, problem_idx: usize, tree: Tree) -> Result<()> {
        self.finished = self.finished.plus(Tally::of(&tree));
        let done = Done { problem_idx, tree };
        self.saver.borrow_mut().keep_done(&done);
        self.out.add(problem_idx, done.tree)
    }

    fn advanced(&mut self, progress: Progress, save: &dyn Fn() -> SavedSearch) -> Result<Flow> {
        self.tell(progress.active);
        let is_last = progress.active.num_trees + progress.num_waiting == 0;
        let last = if is_last { progress.num_rounds } else { usize::MAX };
        let seconds = self.seconds();
        self.saver
            .borrow_mut()
            .step_done(progress.num_rounds, last, |folder| write(folder, save(), seconds))?;
        if is_last || self.max_seconds <= 0.0 || seconds < self.max_seconds {
            return Ok(Flow::GoOn);
        }
        self.job.warning(&format!(
            "max_seconds is {}, and {seconds:.0} s have passed: {} trees stay as they are, and {} problems were not begun. \
             How far a search comes in a time depends on the machine, so these trees can't be made again elsewhere",
            self.max_seconds, progress.active.num_trees, progress.num_waiting
        ));
        Ok(Flow::End)
    }

    fn interrupted(&mut self, error: anyhow::Error, save: &dyn Fn() -> SavedSearch) -> anyhow::Error {
        if !is_stop(&error) {
            return error;
        }
        let seconds = self.seconds();
        self.saver.borrow_mut().stopped(|folder| write(folder, save(), seconds))
    }
}

fn write(folder: &Path, search: SavedSearch, seconds: f64) -> Result<()> {
    let counts = Counts {
        num_rounds: search.num_rounds,
        seconds,
    };
    write_json(&folder.join("counts.json"), &counts)?;
    Ok(write_jsonl(&folder.join("trees.jsonl"), search.trees)?)
}

/// Returns the search that was saved in a folder, and the seconds that it had taken.
pub(super) fn read(folder: &Path, step: usize, problems: &[Problem]) -> Result<(SavedSearch, f64)> {
    let counts: Counts = read_json(&folder.join("counts.json"), "counts")?;
    let trees: Vec<SavedTree> = read_jsonl(&folder.join("trees.jsonl"), "saved tree")?;
    let is_of_these = trees.iter().all(|tree| tree.problem_idx < problems.len());
    ensure!(
        counts.num_rounds == step && is_of_these,
        "it was saved after {} rounds, expected {step}, of the search of {} problems",
        counts.num_rounds,
        problems.len()
    );
    let search = SavedSearch {
        num_rounds: counts.num_rounds,
        trees,
    };
    Ok((search, counts.seconds))
}

/// Returns the trees that earlier attempts finished.
pub(super) fn done(saver: &mut Saver<'_>, problems: &[Problem], job: &Job) -> Vec<Done> {
    let mut done: Vec<Done> = saver.take_done();
    let is_of_these = |done: &Done| {
        problems
            .get(done.problem_idx)
            .is_some_and(|it| *it == done.tree.problem)
    };
    let num_found = done.len();
    done.retain(is_of_these);
    if done.len() < num_found {
        job.warning(&format!(
            "{} trees of an earlier attempt are of other problems and are ignored",
            num_found - done.len()
        ));
    }
    done
}
