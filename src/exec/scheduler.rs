//! The scheduling loop: the only writer of node states.
//!
//! First every node that needs nothing is settled in one pass. Then ready nodes are started within the limits, the one
//! with the longest way behind it first, and each that ends settles what depends on it. Attempts run as tasks and
//! report here; nothing else decides. It knows neither folders nor processes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use petgraph::Direction;
use petgraph::graph::NodeIndex;
use tokio::sync::{mpsc, watch};

use super::RunError;
use super::attempt::{self, Attempt, AttemptError};
use super::decide::{self, Decision, Pending, Settled};
use super::event::{Counts, Event, NodeState, Reason};
use super::guard::Guard;
use super::interrupt::{self, Stop};
use super::journal::Journal;
use super::limits::{Capacity, Grant, Limits, Need, Pool};
use super::priority::{self, Rank};
use super::selection::Choice;
use crate::graph::Graph;
use crate::store::{Claim, KeyLock, Record, RunFolder, Store};

/// How often a node that another process runs is looked at.
const CONTENDED: Duration = Duration::from_millis(100);

/// The state of a run.
pub(crate) struct Scheduler {
    graph: Arc<Graph>,
    store: Arc<Store>,
    run: RunFolder,
    choices: Vec<Choice>,
    fail_fast: bool,
    states: Vec<NodeState>,
    settled: Vec<Option<Settled>>,
    /// How many of the edges into each node come from nodes that are not settled.
    unsettled: Vec<usize>,
    /// For each node that is `Ready`, what it would run as.
    pending: Vec<Option<Pending>>,
    /// `Ready` nodes, the next one first.
    ready: Vec<usize>,
    /// `Ready` nodes that another process runs.
    contended: Vec<usize>,
    ranks: Vec<Rank>,
    needs: Vec<Need>,
    pool: Option<Pool>,
    running: usize,
}

/// What a task tells the loop.
enum Message {
    Event(Event),
    Ended {
        idx: usize,
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
        fail_fast: bool,
    ) -> Scheduler {
        let count = graph.nodes.len();
        let num_inputs = |idx| {
            graph
                .dag
                .neighbors_directed(NodeIndex::new(idx), Direction::Incoming)
                .count()
        };
        let unsettled = (0..count).map(num_inputs).collect();
        Scheduler {
            graph,
            store,
            run,
            choices,
            fail_fast,
            states: vec![NodeState::Waiting; count],
            settled: vec![None; count],
            unsettled,
            pending: vec![None; count],
            ready: Vec::new(),
            contended: Vec::new(),
            ranks: Vec::new(),
            needs: Vec::new(),
            pool: None,
            running: 0,
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

    /// Returns whether something has to run.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Settles everything that can be settled without running anything, and begins the stream of events.
    pub(crate) fn settle_all(&mut self, journal: &mut Journal<'_>) {
        let mut events = Vec::new();
        // Nodes stand after what they depend on, so one pass sees every node after its inputs.
        for idx in 0..self.graph.nodes.len() {
            if self.choices[idx].wanted && self.unsettled[idx] == 0 && self.states[idx] == NodeState::Waiting {
                self.consider(idx, &mut events);
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
        let to_run: Vec<usize> = (0..graph.nodes.len()).filter(|&idx| open(idx)).collect();
        let wants_gpu = to_run.iter().any(|&idx| graph.nodes[idx].resources.gpu > 0);
        let capacity = Capacity::detect(limits, wants_gpu);
        let seconds = priority::expected_seconds(&graph, &self.store, open);
        // While nodes run, the index is free for whoever asks something meanwhile.
        self.store.close_index();
        self.ranks = priority::ranks(&graph, &seconds);
        for node in &graph.nodes {
            self.needs.push(capacity.fit(node).0);
        }
        for idx in to_run {
            let node = &graph.nodes[idx];
            if node.resources.gpu > capacity.num_gpus() {
                let (wanted, found) = (node.resources.gpu, capacity.num_gpus());
                return Err(RunError::TooFewGpus {
                    id: node.id.clone(),
                    wanted,
                    found,
                });
            }
            for message in capacity.fit(node).1 {
                journal.emit(&Event::Note { message });
            }
        }
        self.pool = Some(Pool::new(capacity));
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
            journal.flush();
            if self.running == 0 && self.ready.is_empty() && self.contended.is_empty() {
                break;
            }
            tokio::select! {
                Some(message) = messages.recv() => {
                    let failed = self.receive(message, journal);
                    if failed && self.fail_fast {
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
        Ok(*interrupted.borrow() != Stop::No)
    }

    /// Decides about a node whose inputs are all settled: it is done, or ready to run.
    fn consider(&mut self, idx: usize, events: &mut Vec<Event>) {
        let graph = Arc::clone(&self.graph);
        match decide::decide(&self.store, &graph.nodes[idx], &self.settled, self.choices[idx].forced) {
            Ok(Decision::Hit { record, cut_off, .. }) => {
                let state = if cut_off { NodeState::CutOff } else { NodeState::Cached };
                self.settle(idx, record, state, events);
            }
            Ok(Decision::Run(pending)) if self.choices[idx].may_run => {
                self.states[idx] = NodeState::Ready;
                self.pending[idx] = Some(pending);
                self.ready.push(idx);
            }
            Ok(Decision::Run(pending)) => {
                let error = format!("it would have to run ({}), and --only leaves it out", pending.reason);
                self.fail(idx, AttemptError::Parameter(error), Vec::new(), events);
            }
            Err(error) => self.fail(idx, error.into(), Vec::new(), events),
        }
    }

    /// Ends a node well.
    fn settle(&mut self, idx: usize, record: Arc<Record>, state: NodeState, events: &mut Vec<Event>) {
        events.push(self.finished(idx, state, record.seconds, None));
        self.states[idx] = state;
        self.settled[idx] = Some(Settled {
            record,
            fresh: state != NodeState::Cached,
        });
        // One edge, one count: parallel edges are in both numbers.
        for consumer in self.graph.dag.neighbors(NodeIndex::new(idx)) {
            self.unsettled[consumer.index()] -= 1;
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
        let node = &self.graph.nodes[idx];
        let (message, hint, log_tail) = match failure {
            None => (None, None, Vec::new()),
            Some((error, tail)) => (Some(error.to_string()), error.hint(), tail),
        };
        Event::NodeFinished {
            id: node.id.clone(),
            stage: node.stage.0.clone(),
            state,
            seconds,
            message,
            hint,
            log_tail,
        }
    }

    /// Returns the wanted nodes that read from a node, each once.
    fn consumers(&self, idx: usize) -> Vec<usize> {
        let neighbors = self.graph.dag.neighbors(NodeIndex::new(idx));
        let mut consumers: Vec<usize> = neighbors.map(|neighbor| neighbor.index()).collect();
        consumers.sort_unstable();
        consumers.dedup();
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
                    self.consider(consumer, events);
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
        self.ready.append(&mut self.contended);
        // A node that is settled here can make others ready, so this goes on until a pass changes nothing.
        loop {
            self.ready.sort_by(|&a, &b| self.ranks[a].compare(&self.ranks[b]));
            let mut changed = false;
            for idx in std::mem::take(&mut self.ready) {
                let pool = self.pool.as_mut().expect("the pool is filled before the loop begins");
                let Some(grant) = pool.take(self.needs[idx]) else {
                    self.ready.push(idx);
                    continue;
                };
                match self.claim(idx, journal) {
                    Some(lock) => self.start(idx, lock, grant, guard, sender, stop),
                    None => {
                        self.pool.as_mut().expect("as above").give(grant);
                        changed |= self.states[idx].is_final();
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }

    /// Locks a node's key and looks once more: another process may just have finished it.
    ///
    /// None if there is nothing to start: the node was settled, failed, or is run by somebody else.
    fn claim(&mut self, idx: usize, journal: &mut Journal<'_>) -> Option<KeyLock> {
        let pending = self.pending[idx]
            .clone()
            .expect("a ready node knows what it would run as");
        let mut events = Vec::new();
        let claimed = match self.store.claim(pending.content_key) {
            Ok(Claim::Held(lock)) if pending.reason == Reason::Forced => Some(lock),
            Ok(Claim::Held(lock)) => {
                let graph = Arc::clone(&self.graph);
                match decide::decide(&self.store, &graph.nodes[idx], &self.settled, false) {
                    Ok(Decision::Hit { record, .. }) => {
                        self.settle(idx, record, NodeState::Cached, &mut events);
                        self.consider_consumers(idx, &mut events);
                        None
                    }
                    Ok(Decision::Run(_)) => Some(lock),
                    Err(error) => {
                        self.fail(idx, error.into(), Vec::new(), &mut events);
                        None
                    }
                }
            }
            Ok(Claim::Taken(holder)) => {
                self.contended.push(idx);
                self.announce_wait(idx, holder, &mut events);
                None
            }
            Err(error) => {
                self.fail(idx, error.into(), Vec::new(), &mut events);
                None
            }
        };
        events.iter().for_each(|event| journal.emit(event));
        claimed
    }

    /// Says once that a node waits for another process.
    fn announce_wait(&mut self, idx: usize, holder: Option<crate::store::Owner>, events: &mut Vec<Event>) {
        let pending = self.pending[idx]
            .as_mut()
            .expect("a ready node knows what it would run as");
        if !std::mem::replace(&mut pending.announced, true) {
            events.push(Event::NodeWaiting {
                id: self.graph.nodes[idx].id.clone(),
                holder,
            });
        }
    }

    fn start(
        &mut self,
        idx: usize,
        lock: KeyLock,
        grant: Grant,
        guard: &Arc<Mutex<Guard>>,
        sender: &mpsc::UnboundedSender<Message>,
        stop: &watch::Sender<Stop>,
    ) {
        let pending = self.pending[idx]
            .take()
            .expect("a ready node knows what it would run as");
        let node = &self.graph.nodes[idx];
        let artifacts = node.inputs.iter().map(|input| {
            input
                .items
                .iter()
                .map(|item| decide::artifact_of(item, &self.settled).clone())
                .collect()
        });
        let attempt = Attempt {
            graph: Arc::clone(&self.graph),
            idx,
            store: Arc::clone(&self.store),
            run: self.run.clone(),
            number: 1,
            content_key: pending.content_key,
            content: pending.content,
            artifacts: artifacts.collect(),
            grant,
            guard: Arc::clone(guard),
        };
        self.states[idx] = NodeState::Running;
        self.running += 1;
        tokio::spawn(attempts(
            attempt,
            pending.reason,
            lock,
            sender.clone(),
            stop.subscribe(),
        ));
    }

    /// Takes what a task says; returns whether a node failed.
    fn receive(&mut self, message: Message, journal: &mut Journal<'_>) -> bool {
        let (idx, grant, outcome) = match message {
            Message::Event(event) => {
                journal.emit(&event);
                return false;
            }
            Message::Ended { idx, grant, outcome } => (idx, grant, outcome),
        };
        self.running -= 1;
        self.pool
            .as_mut()
            .expect("the pool is filled before the loop begins")
            .give(grant);
        let mut events = Vec::new();
        let failed = match outcome {
            Ok(record) => {
                self.settle(idx, Arc::from(record), NodeState::Executed, &mut events);
                self.consider_consumers(idx, &mut events);
                false
            }
            Err(failure) => {
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
