//! The scheduling loop: the only writer of node states.
//!
//! First every node that needs nothing is settled in one pass. Then ready nodes are started within the limits, the one
//! with the longest way behind it first, and each that ends settles what depends on it. Attempts run as tasks and
//! report here; nothing else decides. It knows neither folders nor processes.

mod again;
mod claim;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::RunError;
use super::attempt::{self, Attempt, AttemptError};
use super::decide::{Decider, Decision, Pending, Settled, Stored};
use super::event::{Counts, Event, NodeState, Reason};
use super::guard::Guard;
use super::interrupt::{self, Stop};
use super::journal::Journal;
use super::limits::{Capacity, Grant, Limits, Pool};
use super::priority::{self, Rank};
use super::selection::Choice;
use super::spare::Spare;
use super::transfer;
use crate::digest::ContentKey;
use crate::graph::{Graph, Item};
use crate::remote::link::Link;
use crate::store::{Found, KeyLock, Record, RunFolder, Snapshot, Store};
use claim::Claimed;

/// How often a node that another process runs is looked at.
const CONTENDED: Duration = Duration::from_millis(100);

/// The state of a run.
pub(crate) struct Scheduler {
    graph: Arc<Graph>,
    store: Arc<Store>,
    snapshot: Arc<Snapshot>,
    run: RunFolder,
    choices: Vec<Choice>,
    how: How,
    states: Vec<NodeState>,
    settled: Vec<Option<Settled>>,
    /// How many of the edges into each node come from nodes that are not settled.
    unsettled: Vec<u32>,
    /// For each node that is `Ready`, what it would run as.
    pending: HashMap<usize, Pending>,
    /// `Ready` nodes, the next one first.
    ready: BTreeSet<Rank>,
    /// `Ready` nodes that another process runs.
    contended: Vec<usize>,
    ranks: Vec<Rank>,
    capacity: Option<Capacity>,
    pool: Option<Pool>,
    running: usize,
    spare: Arc<Spare>,
    link: Option<Arc<Link>>,
    /// How often each node had to wait for an input again that was gone.
    put_back: HashMap<usize, u32>,
}

/// How a run goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// The first failure stops everything.
    pub(crate) fail_fast: bool,
    /// Every node that is cached is an event. They come by the ten thousand, so they are told only to who wants them.
    pub(crate) tell_cached: bool,
}

/// What a task tells the loop.
enum Message {
    Event(Event),
    Ended {
        idx: usize,
        content_key: ContentKey,
        grant: Grant,
        outcome: Result<Box<Record>, Failure>,
    },
}

/// A node that failed, ready to be shown.
struct Failure {
    error: AttemptError,
    log_tail: Vec<String>,
}

impl Scheduler {
    pub(crate) fn new(
        graph: Arc<Graph>,
        store: Arc<Store>,
        run: RunFolder,
        choices: Vec<Choice>,
        how: How,
        link: Option<Arc<Link>>,
    ) -> Scheduler {
        let count = graph.len();
        Scheduler {
            snapshot: Arc::new(store.snapshot()),
            unsettled: (0..count).map(|idx| graph.producers(idx).count() as u32).collect(),
            graph,
            store,
            run,
            choices,
            how,
            states: vec![NodeState::Waiting; count],
            settled: vec![None; count],
            pending: HashMap::new(),
            ready: BTreeSet::new(),
            contended: Vec::new(),
            ranks: Vec::new(),
            capacity: None,
            pool: None,
            running: 0,
            spare: Arc::default(),
            link,
            put_back: HashMap::new(),
        }
    }

    /// Returns how many nodes ended in which state.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(self.states.iter().copied())
    }

    /// Returns the nodes that have their outputs.
    pub(crate) fn settled(&self) -> &[Option<Settled>] {
        &self.settled
    }

    /// Returns what decisions are made from.
    pub(crate) fn decider(&self) -> Decider<'_> {
        Decider {
            graph: &self.graph,
            store: &self.store,
            snapshot: &self.snapshot,
        }
    }

    /// Returns whether something has to run.
    pub(crate) fn has_work(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Settles everything that can be settled without running anything, and begins the stream of events.
    pub(crate) fn settle_all(&mut self, journal: &mut Journal<'_>) {
        let mut events = Vec::new();
        let stored = self.decider().stored(|idx| self.choices[idx].wanted);
        self.decider().look_ahead(&stored);
        // Nodes stand after what they depend on, so one pass sees every node after its inputs.
        for (idx, stored) in stored.into_iter().enumerate() {
            if self.choices[idx].wanted && self.unsettled[idx] == 0 && self.states[idx] == NodeState::Waiting {
                self.consider(idx, stored, &mut events);
            }
        }
        journal.emit(&Event::RunStarted {
            run_id: self.run.id.clone(),
            pipeline: self.graph.pipeline.clone(),
            nodes: self.choices.iter().filter(|choice| choice.wanted).count(),
            cached: self.states.iter().filter(|state| state.is_done()).count(),
        });
        events.iter().for_each(|event| journal.emit(event));
        journal.flush();
    }

    /// Finds out what the machine has and in which order to go.
    ///
    /// # Errors
    /// A node asks for more GPUs than there are.
    pub(crate) fn prepare(&mut self, limits: &Limits, journal: &mut Journal<'_>) -> Result<(), RunError> {
        self.store.remove_stale();
        let graph = Arc::clone(&self.graph);
        let open = |idx: usize| self.choices[idx].wanted && !self.states[idx].is_final();
        let to_run: Vec<usize> = (0..graph.len()).filter(|&idx| open(idx)).collect();
        let wants_gpu = to_run.iter().any(|&idx| graph.resources(idx).gpu > 0);
        let capacity = Capacity::detect(limits, wants_gpu);
        let seconds = priority::expected_seconds(&graph, &self.store, open);
        // While nodes run, the index is free for whoever asks something meanwhile.
        self.store.close_index();
        self.ranks = priority::ranks(&graph, &seconds);
        self.ready = self.pending.keys().map(|&idx| self.ranks[idx]).collect();
        let mut told: BTreeSet<(String, String)> = BTreeSet::new();
        for idx in to_run {
            let wanted = graph.resources(idx);
            if wanted.gpu > capacity.num_gpus() {
                return Err(RunError::TooFewGpus {
                    id: graph.id(idx),
                    wanted: wanted.gpu,
                    found: capacity.num_gpus(),
                });
            }
            // Once for a stage: its nodes mostly ask for the same.
            for note in capacity.fit(wanted).1 {
                if told.insert((graph.stage(idx).0.clone(), note.clone())) {
                    let message = format!("{} {note}", graph.id(idx));
                    journal.emit(&Event::Note { message });
                }
            }
        }
        self.pool = Some(Pool::new(capacity.clone()));
        self.capacity = Some(capacity);
        Ok(())
    }

    /// Runs until nothing is left to do; returns whether the user interrupted it.
    ///
    /// # Errors
    /// Signals can't be listened to, or the guard of the workers can't be started.
    pub(crate) async fn run(&mut self, journal: &mut Journal<'_>) -> std::io::Result<bool> {
        let (stop, mut stopped) = watch::channel(Stop::No);
        let (interrupts, mut interrupted) = watch::channel(Stop::No);
        let signals = tokio::spawn(interrupt::listen(interrupts)?);
        let guard = Arc::new(Mutex::new(Guard::start()?));
        let (sender, mut messages) = mpsc::unbounded_channel();
        loop {
            if *stopped.borrow_and_update() == Stop::No {
                self.dispatch(&guard, &sender, &stop, journal);
            } else {
                self.cancel_waiting(journal);
            }
            transfer::tell_notes(self.link.as_ref(), journal);
            journal.flush();
            if self.running == 0 && self.ready.is_empty() && self.contended.is_empty() {
                break;
            }
            tokio::select! {
                Some(message) = messages.recv() => {
                    let failed = self.receive(message, journal);
                    if failed && self.how.fail_fast {
                        stop.send_if_modified(|stop| std::mem::replace(stop, Stop::Gracefully) == Stop::No);
                    }
                }
                Ok(()) = interrupted.changed() => {
                    let how = *interrupted.borrow_and_update();
                    let message = match how {
                        Stop::Now => "interrupted again: killing the workers",
                        _ => "interrupted: waiting for the workers to save their work; once more kills them",
                    };
                    journal.emit(&Event::Note { message: message.to_owned() });
                    stop.send_replace(how);
                }
                () = tokio::time::sleep(CONTENDED), if !self.contended.is_empty() => {}
            }
        }
        // What tasks said before they ended is all in the channel by now.
        while let Ok(message) = messages.try_recv() {
            self.receive(message, journal);
        }
        signals.abort();
        self.spare.clear(&self.store);
        Ok(*interrupted.borrow() != Stop::No)
    }

    /// Decides about a node whose inputs are all settled: it is done, or ready to run.
    fn consider(&mut self, idx: usize, stored: Stored, events: &mut Vec<Event>) {
        let forced = self.choices[idx].forced;
        match self.decider().decide(idx, &self.settled, stored, forced) {
            Ok(Decision::Hit { found, cut_off, .. }) => {
                let state = if cut_off { NodeState::CutOff } else { NodeState::Cached };
                self.settle(idx, found, state, events);
            }
            Ok(Decision::Run(pending)) if self.choices[idx].may_run => {
                self.states[idx] = NodeState::Ready;
                self.pending.insert(idx, pending);
                // Before the order is known, what is pending is all that is ready.
                self.ready.extend(self.ranks.get(idx));
            }
            Ok(Decision::Run(pending)) => {
                let error = format!(
                    "it would have to run ({}), and the selection (--only, --from) leaves it out",
                    pending.reason
                );
                self.fail(idx, AttemptError::Parameter(error), Vec::new(), events);
            }
            Err(error) => self.undecided(idx, error, events),
        }
    }

    /// Ends a node well.
    fn settle(&mut self, idx: usize, found: Found, state: NodeState, events: &mut Vec<Event>) {
        if state == NodeState::CutOff
            && let Some(link) = &self.link
        {
            // Under its new recipe others find it without having to know its inputs.
            link.offer(self.graph.recipe_key(idx), self.snapshot.known(&found).content_key);
        }
        if state != NodeState::Cached || self.how.tell_cached {
            events.push(self.finished(idx, state, self.snapshot.seconds(&found), None));
        }
        self.states[idx] = state;
        self.settled[idx] = Some(Settled {
            found,
            fresh: state != NodeState::Cached,
        });
        for consumer in self.graph.consumers(idx) {
            self.unsettled[consumer] -= 1;
        }
    }

    /// Ends a node badly, and with it everything that depends on it.
    fn fail(&mut self, idx: usize, error: AttemptError, log_tail: Vec<String>, events: &mut Vec<Event>) {
        let cancelled = matches!(error, AttemptError::Cancelled);
        let state = if cancelled {
            NodeState::Cancelled
        } else {
            NodeState::Failed
        };
        events.push(self.finished(idx, state, 0.0, Some((error, log_tail))));
        self.states[idx] = state;
        let below = if cancelled {
            NodeState::Cancelled
        } else {
            NodeState::Skipped
        };
        let mut stack = self.consumers(idx);
        while let Some(consumer) = stack.pop() {
            if self.states[consumer] == NodeState::Waiting && self.choices[consumer].wanted {
                self.states[consumer] = below;
                events.push(self.finished(consumer, below, 0.0, None));
                stack.extend(self.consumers(consumer));
            }
        }
    }

    fn finished(
        &self,
        idx: usize,
        state: NodeState,
        seconds: f64,
        failure: Option<(AttemptError, Vec<String>)>,
    ) -> Event {
        let (message, hint, log_tail) = match failure {
            None => (None, None, Vec::new()),
            Some((error, tail)) => (Some(error.to_string()), error.hint(), tail),
        };
        Event::NodeFinished {
            id: self.graph.id(idx),
            stage: self.graph.stage(idx).0.clone(),
            state,
            seconds,
            message,
            hint,
            log_tail,
        }
    }

    /// Returns the nodes that read from a node, in order.
    fn consumers(&self, idx: usize) -> Vec<usize> {
        let mut consumers: Vec<usize> = self.graph.consumers(idx).collect();
        consumers.sort_unstable();
        consumers
    }

    /// Considers all nodes whose last input was just settled, until none is left.
    fn consider_consumers(&mut self, idx: usize, events: &mut Vec<Event>) {
        let mut stack = vec![idx];
        while let Some(done) = stack.pop() {
            if !self.states[done].is_done() {
                continue;
            }
            for consumer in self.consumers(done) {
                let open = self.states[consumer] == NodeState::Waiting && self.choices[consumer].wanted;
                if open && self.unsettled[consumer] == 0 {
                    let stored = self.decider().stored_at(consumer);
                    self.consider(consumer, stored, events);
                    stack.push(consumer);
                }
            }
        }
    }

    /// Starts every ready node that fits.
    fn dispatch(
        &mut self,
        guard: &Arc<Mutex<Guard>>,
        sender: &mpsc::UnboundedSender<Message>,
        stop: &watch::Sender<Stop>,
        journal: &mut Journal<'_>,
    ) {
        let contended = std::mem::take(&mut self.contended);
        self.ready.extend(contended.into_iter().map(|idx| self.ranks[idx]));
        // What does not fit now waits aside, so that smaller nodes behind it have their turn.
        let mut waiting = Vec::new();
        while self.pool.as_ref().is_some_and(Pool::has_room)
            && let Some(rank) = self.ready.pop_first()
        {
            let idx = rank.idx();
            let need = self
                .capacity
                .as_ref()
                .map(|capacity| capacity.fit(self.graph.resources(idx)).0);
            let grant = need.and_then(|need| self.pool.as_mut()?.take(need));
            let Some(grant) = grant else {
                waiting.push(rank);
                continue;
            };
            match self.claim(idx, journal) {
                Some(claimed) => self.start(idx, claimed, grant, guard, sender, stop),
                None => self.give(grant),
            }
        }
        // Meanwhile an input of one may have turned out to be gone.
        self.ready.extend(
            waiting
                .into_iter()
                .filter(|rank| self.pending.contains_key(&rank.idx())),
        );
    }

    fn give(&mut self, grant: Grant) {
        let pool = self.pool.as_mut();
        pool.expect("the pool is filled before anything starts").give(grant);
    }

    fn start(
        &mut self,
        idx: usize,
        claimed: Claimed,
        grant: Grant,
        guard: &Arc<Mutex<Guard>>,
        sender: &mpsc::UnboundedSender<Message>,
        stop: &watch::Sender<Stop>,
    ) {
        let pending = self.pending.remove(&idx);
        let pending = pending.expect("a ready node knows what it would run as");
        let node = Arc::new(self.graph.node(idx));
        let decider = self.decider();
        let artifacts = node.inputs.iter().map(|input| {
            let item = |item: &crate::graph::InputItem| {
                let item = Item {
                    node: item.node,
                    output: &item.output,
                    subpath: None,
                };
                decider.artifact_of(item, &self.settled)
            };
            input.items.iter().map(item).collect()
        });
        let attempt = Attempt {
            pipeline: self.graph.pipeline.clone(),
            idx,
            artifacts: artifacts.collect(),
            node,
            store: Arc::clone(&self.store),
            run: self.run.clone(),
            number: 1,
            content_key: claimed.content_key,
            content: claimed.content,
            grant,
            guard: Arc::clone(guard),
            spare: Arc::clone(&self.spare),
            link: self.link.clone(),
        };
        self.states[idx] = NodeState::Running;
        self.running += 1;
        tokio::spawn(attempts(
            attempt,
            pending.reason,
            claimed.lock,
            sender.clone(),
            stop.subscribe(),
        ));
    }

    /// Takes what a task says; returns whether a node failed.
    fn receive(&mut self, message: Message, journal: &mut Journal<'_>) -> bool {
        let (idx, content_key, grant, outcome) = match message {
            Message::Event(event) => {
                journal.emit(&event);
                return false;
            }
            Message::Ended {
                idx,
                content_key,
                grant,
                outcome,
            } => (idx, content_key, grant, outcome),
        };
        self.running -= 1;
        self.give(grant);
        let mut events = Vec::new();
        let failed = match outcome {
            Ok(record) => {
                if let Some(link) = &self.link {
                    link.offer(record.recipe_key, record.content_key);
                }
                let found = self.decider().found(&record);
                self.settle(idx, found, NodeState::Executed, &mut events);
                self.consider_consumers(idx, &mut events);
                false
            }
            Err(Failure {
                error: AttemptError::InputGone { producer, digest },
                ..
            }) if self.may_put_back(idx, producer) => {
                self.release(content_key);
                self.states[idx] = NodeState::Waiting;
                self.make_again(producer, digest, &mut events);
                false
            }
            Err(failure) => {
                self.release(content_key);
                let failed = !matches!(failure.error, AttemptError::Cancelled);
                self.fail(idx, failure.error, failure.log_tail, &mut events);
                failed
            }
        };
        events.iter().for_each(|event| journal.emit(event));
        failed
    }

    /// Ends everything that has not started.
    fn cancel_waiting(&mut self, journal: &mut Journal<'_>) {
        self.ready.clear();
        self.pending.clear();
        self.contended.clear();
        let mut events = Vec::new();
        for idx in 0..self.states.len() {
            let open = matches!(self.states[idx], NodeState::Ready | NodeState::Waiting);
            if open && self.choices[idx].wanted {
                self.states[idx] = NodeState::Cancelled;
                events.push(self.finished(idx, NodeState::Cancelled, 0.0, None));
            }
        }
        events.iter().for_each(|event| journal.emit(event));
    }
}

/// Tries a node until it succeeds or has no tries left. The lock is held all the while.
async fn attempts(
    mut attempt: Attempt,
    reason: Reason,
    lock: KeyLock,
    sender: mpsc::UnboundedSender<Message>,
    mut stop: watch::Receiver<Stop>,
) {
    // The receiver is gone only when the run is over, and then nobody wants to know.
    let report = |event| drop(sender.send(Message::Event(event)));
    let tries = attempt.node().resources.retries.saturating_add(1);
    let outcome = loop {
        report(started(&attempt, &reason));
        let error = match attempt::execute(attempt.clone(), &report, &mut stop).await {
            Ok(record) => break Ok(Box::new(record)),
            Err(error) => error,
        };
        if attempt.number >= tries || !error.is_worth_retrying() {
            let log_tail = attempt.log_tail();
            break Err(Failure { error, log_tail });
        }
        let id = attempt.node().id.clone();
        report(Event::NodeRetry {
            id,
            attempt: attempt.number,
            message: error.to_string(),
        });
        attempt.number += 1;
    };
    // The key is free before anyone hears of the end.
    drop(lock);
    let _ = sender.send(Message::Ended {
        idx: attempt.idx,
        content_key: attempt.content_key,
        grant: attempt.grant,
        outcome,
    });
}

fn started(attempt: &Attempt, reason: &Reason) -> Event {
    let node = attempt.node();
    Event::NodeStarted {
        id: node.id.clone(),
        stage: node.stage.0.clone(),
        kind: node.kind.clone(),
        attempt: attempt.number,
        reason: reason.clone(),
        key: attempt.content_key.to_string(),
        cpu: attempt.grant.cpu,
        gpus: attempt.grant.gpus.clone(),
        log: attempt.log_name(),
    }
}
