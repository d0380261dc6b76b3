//! Threads that compute one step together.
//!
//! A step is a few hundred short phases, each of which needs what the one before it made. Handing every phase to a pool
//! costs more than many of them take; so all threads run the whole step side by side, take the tasks of a phase from a
//! common counter and wait for each other at its end. Which thread does a task changes nothing in its result.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::lm::LmError;

/// Looks at a barrier before the thread offers its core to others.
const SPINS: usize = 2_000;

/// A fixed number of threads.
#[derive(Debug)]
pub struct Team {
    /// Absent where the caller's own thread is enough.
    pool: Option<rayon::ThreadPool>,
    size: usize,
}

impl Team {
    /// # Errors
    /// The system gives no more threads.
    pub fn new(num_threads: usize) -> Result<Self, LmError> {
        let size = num_threads.max(1);
        let build = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(size)
                .thread_name(|idx| format!("native-{idx}"))
                .build()
        };
        let pool = (size > 1)
            .then(build)
            .transpose()
            .map_err(|error| LmError::Torch(format!("can't start {size} threads: {error}")))?;
        Ok(Self { pool, size })
    }

    /// The number of threads.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Runs `work` on every thread at once. All must go through the same calls of [`Member`] in the same order.
    pub fn run(&mut self, work: impl Fn(&Member<'_>) + Sync) {
        let meeting = Meeting {
            size: self.size,
            ..Meeting::default()
        };
        let member = |idx| Member { idx, meeting: &meeting };
        match &self.pool {
            None => work(&member(0)),
            Some(pool) => {
                pool.broadcast(|context| {
                    let _rescue = Rescue(&meeting);
                    work(&member(context.index()));
                });
            }
        }
    }
}

#[derive(Default)]
struct Meeting {
    size: usize,
    next_task: AtomicUsize,
    num_waiting: AtomicUsize,
    phase: AtomicUsize,
    /// A thread panicked: the others must not wait for it.
    broken: AtomicBool,
}

/// Lets the other threads go when this one panics.
struct Rescue<'a>(&'a Meeting);

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

/// One thread of a team at work.
pub struct Member<'a> {
    /// Below [`Team::size`].
    pub idx: usize,
    meeting: &'a Meeting,
}

impl Member<'_> {
    /// Does its share of the tasks `0..num_tasks`; returns when all are done, by whomever.
    pub fn each(&self, num_tasks: usize, mut task: impl FnMut(usize)) {
        if self.meeting.size == 1 {
            (0..num_tasks).for_each(task);
            return;
        }
        loop {
            let idx = self.meeting.next_task.fetch_add(1, Ordering::Relaxed);
            if idx >= num_tasks {
                break;
            }
            task(idx);
        }
        self.wait();
    }

    fn wait(&self) {
        let meeting = self.meeting;
        let phase = meeting.phase.load(Ordering::Acquire);
        if meeting.num_waiting.fetch_add(1, Ordering::AcqRel) + 1 == meeting.size {
            // Nobody takes a task between the last arrival and the next phase.
            meeting.next_task.store(0, Ordering::Relaxed);
            meeting.num_waiting.store(0, Ordering::Relaxed);
            meeting.phase.store(phase.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut num_looks = 0;
        while meeting.phase.load(Ordering::Acquire) == phase {
            assert!(
                !meeting.broken.load(Ordering::Acquire),
                "another thread of the team panicked"
            );
            num_looks += 1;
            if num_looks < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_and_before_the_next_phase() {
        for num_threads in 1..4 {
            let mut team = Team::new(num_threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..10).map(|_| AtomicUsize::new(0)).collect();
            team.run(|member| {
                for phase in 0..50 {
                    member.each(10, |idx| {
                        let seen: usize = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                        assert!((10 * phase..10 * (phase + 1)).contains(&seen));
                        counts[idx].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    #[should_panic]
    fn a_panic_of_one_thread_ends_all() {
        Team::new(2).unwrap().run(|member| {
            member.each(2, |idx| assert!(idx == 0, "as the test wants"));
            member.each(2, |_| {});
        });
    }
}
