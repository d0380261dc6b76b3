//! When a long kind saves, where it goes on, and how it ends on SIGTERM.
//!
//! The state after a step is a checkpoint, and requests of a generation that were finished since are lines of a journal
//! (`partial`). A kind's random numbers depend on step and item alone and its learning rate on the step, so neither has a
//! state of its own; what a request gives does not depend on what is generated beside it. What an attempt that goes on makes is byte for byte what one that was never stopped makes, on the
//! CPU: so it computes with the number of threads of the attempt that began, whatever it is granted, because sums of
//! floats depend on how they are cut. Parameters that change a result by rounding only, and the device, may differ, with
//! a warning: whoever lowers `micro_batch_tokens` because memory ran out wants to go on with it.
//!
//! Nothing here can fail a stage: what can't be saved or used costs a warning and time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::lm::LmError;
use crate::lm::generate::{Completion, Follower};
use crate::partial::{self, Checkpoint, Failures, Journal, Owner, Setup, Unusable};
use crate::policy;
use crate::stop;
use crate::worker::Job;

/// Returns whether work ended because the worker was asked to stop.
pub fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LmError::Stopped))
}

/// How often to save; named as in transformers' `TrainingArguments` where it has them.
#[derive(Debug, Clone, Copy, Deserialize)]
struct SaveParams {
    /// Steps between checkpoints; 0: `save_seconds` alone decides.
    save_steps: usize,
    /// Seconds after which to save; 0: `save_steps` alone decides.
    save_seconds: f64,
}

/// Where the clock decides, a checkpoint is not saved before so many times what the last one took has passed: a large model
/// on a slow disk must not spend its time on saving.
const SHARE: u32 = 20;

/// What an attempt goes on from, and the way to save for the next one; generations give completions `C`.
pub struct Saver<'a, C = Completion> {
    job: &'a Job,
    /// The partial folder, ours while it is open; without it nothing is read or written.
    folder: Option<File>,
    params: SaveParams,
    owner: Owner,
    setup: Setup,
    /// Steps of the newest checkpoint, and its digest: 0 and empty before there is one.
    base: (usize, String),
    failures: Failures,
    /// Steps that are done.
    step: usize,
    saved_at: Instant,
    /// How long the last checkpoint took.
    cost: Duration,
    journal: Option<Journal>,
    /// The journal could not be added to: it is there, perhaps with half a line at its end.
    is_torn: bool,
    /// Requests that are in no journal yet.
    unsaved: Vec<Finished<C>>,
    recalled: HashMap<(u64, usize), Vec<C>>,
    /// Items whose final results are kept beyond checkpoints, and lines that are not in it yet.
    done: Option<Journal>,
    unsaved_done: Vec<String>,
    /// What earlier attempts left is not used: the stage failed too often after it.
    starts_over: bool,
    /// The last save failed; that is said once.
    is_broken: bool,
    /// `save_steps` counts finished requests: the kind has no steps.
    requests_are_steps: bool,
    is_over: bool,
}

/// Requests of a generation that were finished at the same time.
#[derive(Debug, Serialize, Deserialize)]
struct Finished<C> {
    /// Which generation of the kind they belong to, or the first part of their names.
    call: u64,
    /// Index of each request, and its completions.
    items: Vec<(usize, Vec<C>)>,
}

impl<'a> Saver<'a> {
    /// `settings` are the parameters that change the result by rounding only.
    pub fn new(job: &'a Job, device: Device, settings: &[(&str, usize)]) -> Result<Self> {
        Self::keeping(job, device, settings)
    }
}

impl<'a, C: Serialize + DeserializeOwned> Saver<'a, C> {
    /// As [`Saver::new`], for completions of any type.
    pub fn keeping(job: &'a Job, device: Device, settings: &[(&str, usize)]) -> Result<Self> {
        let params = job.params()?;
        let device = if device == Device::Cpu { "cpu" } else { "cuda" };
        // From here on there is something to save.
        stop::listen();
        let folder = match partial::take(job.partial()) {
            Ok(folder) => Some(folder),
            Err(error) => {
                job.warning(&format!("nothing is continued and nothing can be saved: {error}"));
                None
            }
        };
        Ok(Self {
            job,
            folder,
            params,
            owner: Owner {
                kind: job.kind().to_owned(),
                key: job.key().to_owned(),
            },
            setup: Setup {
                num_threads: job.resources().cpu,
                device: device.to_owned(),
                settings: settings
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), value.into()))
                    .collect(),
            },
            base: (0, String::new()),
            failures: Failures::read(job.partial()),
            step: 0,
            saved_at: Instant::now(),
            cost: Duration::ZERO,
            journal: None,
            is_torn: false,
            unsaved: Vec::new(),
            recalled: HashMap::new(),
            done: None,
            unsaved_done: Vec::new(),
            starts_over: false,
            is_broken: false,
            requests_are_steps: false,
            is_over: false,
        })
    }

    /// For a kind that only generates: `save_steps` counts requests.
    pub fn counting_requests(mut self) -> Self {
        self.requests_are_steps = true;
        self
    }

    /// Returns the folder for what a kind keeps by itself over all attempts; none where nothing can be saved. It may not exist
    /// yet, and it may have what an earlier attempt left.
    pub fn kept(&self) -> Option<PathBuf> {
        self.folder.is_some().then(|| self.job.partial().join(partial::KEPT))
    }

    /// Returns how many threads to compute with: those of the attempt that began.
    pub fn num_threads(&self) -> usize {
        self.setup.num_threads
    }

    /// Returns how many steps are done, by earlier attempts or this one.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Looks for what earlier attempts left and returns what `load` makes of the newest checkpoint that is whole.
    ///
    /// `load` gets its folder, its step and the number of threads; what it fails with makes the checkpoint unusable.
    pub fn resume<T>(&mut self, mut load: impl FnMut(&Path, usize, usize) -> Result<T>) -> Option<T> {
        self.folder.as_ref()?;
        let candidates = partial::candidates(self.job.partial()).unwrap_or_default();
        let mut found = None;
        for path in candidates {
            let ignored = |why: &dyn std::fmt::Display| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.job
                    .warning(&format!("{name} of an earlier attempt is ignored: {why}"));
            };
            let checkpoint = match partial::open(&path, &self.owner) {
                Ok(checkpoint) => checkpoint,
                Err(Unusable::Unfinished) => continue,
                Err(error) => {
                    ignored(&error);
                    continue;
                }
            };
            if let Some(count) = self.failures.against(&checkpoint.digest) {
                ignored(&format!("the stage failed {count} times after it, so it starts over"));
                self.starts_over = true;
                return None;
            }
            match load(&path, checkpoint.step, checkpoint.setup.num_threads) {
                Ok(state) => {
                    found = Some((checkpoint, state));
                    break;
                }
                Err(error) => ignored(&format!("{error:#}")),
            }
        }
        let (checkpoint, state) = found.unzip();
        if let Some(checkpoint) = checkpoint {
            self.go_on(checkpoint);
        }
        self.open_journal();
        if state.is_some() || !self.recalled.is_empty() {
            let more = match self.recalled.len() {
                0 => String::new(),
                count => format!(", and {count} generated items"),
            };
            self.job.info(&format!(
                "continues from step {}{more}, as an earlier attempt left it",
                self.step
            ));
        }
        state
    }

    fn go_on(&mut self, checkpoint: Checkpoint) {
        self.step = checkpoint.step;
        self.base = (checkpoint.step, checkpoint.digest);
        self.take_setup(checkpoint.setup);
    }

    /// Computes as the attempt that began did, as far as its bytes depend on it.
    fn take_setup(&mut self, began: Setup) {
        if began.num_threads != self.setup.num_threads {
            self.job.warning(&format!(
                "computes with {} threads, as the attempt that began, and not with the {} it is granted: the bytes of the \
                 result depend on it. To start over with {}, remove {}",
                began.num_threads,
                self.setup.num_threads,
                self.setup.num_threads,
                self.job.partial().display()
            ));
            self.setup.num_threads = began.num_threads;
        }
        let mut others: Vec<String> = began
            .settings
            .iter()
            .filter(|(name, value)| self.setup.settings.get(*name) != Some(value))
            .map(|(name, value)| format!("{name} was {value}"))
            .collect();
        if began.device != self.setup.device {
            others.push(format!("the device was {}", began.device));
        }
        if !others.is_empty() {
            self.job.warning(&format!(
                "{} in the attempt that began: the result is that of one attempt up to rounding only",
                others.join(" and ")
            ));
        }
    }

    /// Takes what the journal since the newest checkpoint holds.
    fn open_journal(&mut self) {
        let (step, digest) = &self.base;
        let (journal, content) = match Journal::open::<Finished<C>>(self.job.partial(), &self.owner, *step, digest) {
            Ok(Some(opened)) => opened,
            Ok(None) | Err(Unusable::Unfinished) => return,
            Err(error) => {
                self.job
                    .warning(&format!("what an earlier attempt generated is ignored: {error}"));
                return;
            }
        };
        if let Some(count) = self.failures.against(digest) {
            self.job.warning(&format!(
                "what an earlier attempt generated is ignored: the stage failed {count} times after it"
            ));
            self.starts_over = true;
            return;
        }
        if content.num_damaged > 0 {
            self.job.warning(&format!(
                "{} lines of an earlier attempt's journal are damaged; what they held is generated again",
                content.num_damaged
            ));
        }
        if digest.is_empty() {
            self.take_setup(content.setup);
        }
        self.journal = Some(journal);
        for finished in content.values {
            let items = (finished.items.into_iter()).map(|(idx, list)| ((finished.call, idx), list));
            self.recalled.extend(items);
        }
    }

    /// Returns the items that earlier attempts finished for good; to be called after [`Self::resume`].
    pub fn take_done<T: DeserializeOwned>(&mut self) -> Vec<T> {
        if self.folder.is_none() {
            return Vec::new();
        }
        if self.starts_over {
            Journal::remove_done(self.job.partial());
            return Vec::new();
        }
        let (journal, content) = match Journal::open_done::<T>(self.job.partial(), &self.owner) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Vec::new(),
            Err(error) => {
                self.job
                    .warning(&format!("what an earlier attempt finished is ignored: {error}"));
                return Vec::new();
            }
        };
        if content.num_damaged > 0 {
            self.job.warning(&format!(
                "{} finished items of an earlier attempt are damaged and are made again",
                content.num_damaged
            ));
        }
        if self.base.1.is_empty() && self.journal.is_none() {
            self.take_setup(content.setup);
        }
        self.done = Some(journal);
        if !content.values.is_empty() {
            self.job.info(&format!(
                "{} items that an earlier attempt finished are kept",
                content.values.len()
            ));
        }
        content.values
    }

    /// Keeps an item that is finished for good: its result needs no checkpoint, and it is written once, with the next save.
    /// Items must be such that one that is lost can be made again by itself.
    pub fn keep_done(&mut self, item: &impl Serialize) {
        self.unsaved_done.push(Journal::line(item));
    }

    /// Notes that a step is done, and saves where it is time.
    ///
    /// Nothing is saved by the clock after the `last` step: the outputs come next.
    ///
    /// # Errors
    /// The worker was asked to stop; the step is saved.
    pub fn step_done(&mut self, step: usize, last: usize, save: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.step = step;
        self.unsaved.clear();
        if stop::is_asked() {
            return Err(self.stopped(save));
        }
        let by_steps = self.params.save_steps > 0 && step.is_multiple_of(self.params.save_steps);
        if step < last && (by_steps || self.is_time(self.cost * SHARE)) {
            self.save(save);
        }
        Ok(())
    }

    /// Saves what there is because the worker was asked to stop, and returns the error to end with.
    ///
    /// `save` writes the state after the last whole step, the one that [`Self::step_done`] was told of.
    pub fn stopped(&mut self, save: impl FnOnce(&Path) -> Result<()>) -> anyhow::Error {
        self.is_over = true;
        if self.step > self.base.0 {
            self.save(save);
        }
        self.write_journal();
        self.job.info(&format!(
            "stopped; the next attempt continues from step {}",
            self.base.0
        ));
        LmError::Stopped.into()
    }

    /// Ends a kind that has no steps but generates, when all is generated.
    ///
    /// # Errors
    /// The worker was asked to stop; all is saved.
    pub fn generated(mut self) -> Result<()> {
        if stop::is_asked() {
            return Err(self.stopped(|_| Ok(())));
        }
        self.finish();
        Ok(())
    }

    /// The long part is over: what fails from here on does not speak against what was saved.
    pub fn finish(mut self) {
        self.is_over = true;
    }

    /// Follows the generation that has the number `call` within the kind.
    pub fn follow<F: FnMut(usize, usize)>(&mut self, call: u64, on_progress: F) -> Following<'_, 'a, F, C> {
        Following {
            saver: self,
            names: Names::Call(call),
            on_progress,
        }
    }

    /// Follows a generation whose requests have names of their own, in the requests' order: so that they are found again
    /// even if others are asked beside them.
    pub fn follow_named<F: FnMut(usize, usize)>(
        &mut self,
        names: Vec<(u64, usize)>,
        on_progress: F,
    ) -> Following<'_, 'a, F, C> {
        Following {
            saver: self,
            names: Names::Each(names),
            on_progress,
        }
    }

    fn is_time(&self, at_least: Duration) -> bool {
        let seconds = self.params.save_seconds;
        // A number of seconds that no duration can be is never.
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        seconds > 0.0 && self.saved_at.elapsed() >= pause.max(at_least)
    }

    fn save(&mut self, fill: impl FnOnce(&Path) -> Result<()>) {
        if self.folder.is_none() {
            return;
        }
        let started = Instant::now();
        let folder = self.job.partial();
        // First what the checkpoint does not have because it is finished.
        let written = self.write_done().map_err(anyhow::Error::from);
        let saved = written
            .and_then(|()| partial::write(folder, &self.owner, &self.setup, self.step, fill))
            .and_then(|new| {
                self.base = (new.step, new.digest);
                (self.journal, self.is_torn) = (None, false);
                self.failures.clear()?;
                partial::remove_others(folder, &new.path)?;
                Ok(())
            });
        (self.saved_at, self.cost) = (Instant::now(), started.elapsed());
        match saved {
            Ok(()) => {
                self.is_broken = false;
                self.job.debug(&format!(
                    "checkpoint saved: step {}, {:.2} s",
                    self.step,
                    self.cost.as_secs_f64()
                ));
            }
            Err(error) => self.cannot_save(&error),
        }
    }

    fn write_done(&mut self) -> Result<(), Unusable> {
        if self.unsaved_done.is_empty() {
            return Ok(());
        }
        let mut journal = match self.done.take() {
            Some(journal) => journal,
            // After a failure it is there, perhaps with a torn end, which opening it removes.
            None => match Journal::open_done::<IgnoredAny>(self.job.partial(), &self.owner) {
                Ok(Some((journal, _))) => journal,
                _ => Journal::create_done(self.job.partial(), &self.owner, &self.setup)?,
            },
        };
        journal.append_lines(&self.unsaved_done)?;
        self.unsaved_done.clear();
        self.done = Some(journal);
        Ok(())
    }

    /// Writes the requests that are in no journal yet, if they go on from the newest checkpoint. What can't be written is
    /// tried again with what comes next: a disk that is full now may have room later.
    fn write_journal(&mut self) {
        if self.folder.is_none() || self.unsaved.is_empty() || self.step != self.base.0 {
            return;
        }
        let written = self.add_to_journal();
        self.saved_at = Instant::now();
        match written {
            Ok(num_items) => {
                self.is_broken = false;
                self.job.debug(&format!("{num_items} generated items saved"));
            }
            Err(error) => self.cannot_save(&error.into()),
        }
    }

    /// Moves the requests that are in no journal yet to the journal, and returns how many they were.
    fn add_to_journal(&mut self) -> Result<usize, Unusable> {
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => self.begin_journal()?,
        };
        self.is_torn = true;
        journal.append(&self.unsaved)?;
        (self.journal, self.is_torn) = (Some(journal), false);
        let num_items = self.num_unsaved();
        self.unsaved.clear();
        self.failures.clear()?;
        Ok(num_items)
    }

    fn begin_journal(&self) -> Result<Journal, Unusable> {
        let (folder, (step, digest)) = (self.job.partial(), &self.base);
        // Opening it removes a torn end.
        if self.is_torn
            && let Some((journal, _)) = Journal::open::<IgnoredAny>(folder, &self.owner, *step, digest)?
        {
            return Ok(journal);
        }
        Journal::create(folder, &self.owner, &self.setup, *step, digest)
    }

    fn num_unsaved(&self) -> usize {
        self.unsaved.iter().map(|finished| finished.items.len()).sum()
    }

    fn cannot_save(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.is_broken, true) {
            self.job.warning(&format!(
                "the work so far could not be saved, so a stop would lose it: {error:#}"
            ));
        }
    }
}

impl<C> Drop for Saver<'_, C> {
    /// A kind that ends before its long part is over, and was not stopped, has failed or panicked.
    fn drop(&mut self) {
        let is_something_saved = !self.base.1.is_empty() || self.journal.is_some() || self.is_torn;
        if !self.is_over
            && is_something_saved
            && let Err(error) = self.failures.add(&self.base.1)
        {
            eprintln!("the failure could not be noted: {error}");
        }
    }
}

/// Under which names the requests of a generation are kept.
enum Names {
    /// All under the number of the generation, each with its index.
    Call(u64),
    Each(Vec<(u64, usize)>),
}

impl Names {
    fn of(&self, request_idx: usize) -> (u64, usize) {
        match self {
            Self::Call(call) => (*call, request_idx),
            Self::Each(names) => names[request_idx],
        }
    }
}

/// Keeps the finished requests of one generation.
pub struct Following<'s, 'a, F, C = Completion> {
    saver: &'s mut Saver<'a, C>,
    names: Names,
    on_progress: F,
}

impl<F: FnMut(usize, usize), C: Serialize + DeserializeOwned + Clone> Following<'_, '_, F, C> {
    /// Returns what an earlier attempt finished of a request.
    pub fn recall(&mut self, request_idx: usize) -> Option<Vec<C>> {
        self.saver.recalled.remove(&self.names.of(request_idx))
    }

    /// Notes finished requests, and saves them where it is time.
    pub fn keep(&mut self, requests: &[usize], completions: &[Vec<C>]) {
        let mut by_call: BTreeMap<u64, Vec<(usize, Vec<C>)>> = BTreeMap::new();
        for (&request_idx, list) in requests.iter().zip(completions) {
            let (call, idx) = self.names.of(request_idx);
            by_call.entry(call).or_default().push((idx, list.clone()));
        }
        let finished = by_call.into_iter().map(|(call, items)| Finished { call, items });
        self.saver.unsaved.extend(finished);
        let saver = &mut *self.saver;
        let by_steps = saver.requests_are_steps && saver.params.save_steps > 0;
        if saver.is_time(Duration::ZERO) || (by_steps && saver.num_unsaved() >= saver.params.save_steps) {
            saver.write_journal();
        }
    }
}

impl<F: FnMut(usize, usize)> Follower for Following<'_, '_, F> {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>> {
        Following::recall(self, request_idx)
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]) {
        self.keep(requests, completions);
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        (self.on_progress)(num_done, num_tokens);
    }
}

impl<F: FnMut(usize, usize)> policy::Follower for Following<'_, '_, F, policy::Completion> {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<policy::Completion>> {
        Following::recall(self, request_idx)
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<policy::Completion>]) {
        self.keep(requests, completions);
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        (self.on_progress)(num_done, num_tokens);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn job(folder: &Path) -> Job {
        let request = json!({
            "contract": 1, "kind": "eval", "node": "n", "key": "1f", "seed": 0,
            "params": {"save_steps": 1, "save_seconds": 0.0}, "inputs": {}, "outputs": {},
            "partial": folder.join("partial"), "events": folder.join("events.jsonl"), "resources": {"cpu": 1},
        });
        let path = folder.join("request.json");
        fs::write(&path, request.to_string()).expect("a request");
        Job::open(&path).expect("a job")
    }

    fn saver(job: &Job) -> Saver<'_, u32> {
        let mut saver = Saver::keeping(job, Device::Cpu, &[])
            .expect("a saver")
            .counting_requests();
        assert!(saver.folder.is_some());
        assert!(saver.resume(|_, _, _| Ok(())).is_none(), "there is no checkpoint");
        saver
    }

    #[test]
    fn a_journal_goes_on_when_there_is_room_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let job = job(folder.path());
        let journal = job.partial().join("journal-0.jsonl");
        let keep =
            |saver: &mut Saver<'_, u32>, idx: usize| saver.follow(0, |_, _| ()).keep(&[idx], &[vec![idx as u32]]);
        let mut first = saver(&job);
        // A folder is in the way of the journal, which can be written as little as on a full disk.
        fs::create_dir_all(journal.join("x")).expect("a folder");
        keep(&mut first, 0);
        assert!(first.is_broken && first.num_unsaved() == 1);
        fs::remove_dir_all(&journal).expect("it was there");
        keep(&mut first, 1);
        assert!(!first.is_broken && first.num_unsaved() == 0);
        // As after a line that was written by half.
        (first.journal, first.is_torn) = (None, true);
        let mut file = File::options().append(true).open(&journal).expect("a journal");
        file.write_all(b"{\"value\":{\"call\"").expect("it is written");
        keep(&mut first, 2);
        assert!(!first.is_broken && !first.is_torn);
        first.finish();
        let mut second = saver(&job);
        let mut following = second.follow(0, |_, _| ());
        let recalled: Vec<_> = (0..4).map(|idx| following.recall(idx)).collect();
        assert_eq!(recalled, [Some(vec![0]), Some(vec![1]), Some(vec![2]), None]);
        second.finish();
        let warnings = fs::read_to_string(folder.path().join("events.jsonl")).expect("events");
        assert_eq!(warnings.matches("could not be saved").count(), 1);
        assert!(!warnings.contains("damaged"));
    }
}
