//! What the machine has, what a node may take of it, and what is free.
//!
//! GPUs are assigned by name, so that two nodes never share one; processors and memory are only counted.

use std::fs;
use std::process::{Command, Stdio};

use crate::graph::Resources;

/// What the user allows; what is not said is taken from the machine.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// How many nodes run at once, at most.
    pub jobs: Option<usize>,
    /// How many processors they use together, at most.
    pub cpus: Option<usize>,
    /// How many GPUs they use together, at most.
    pub gpus: Option<usize>,
}

/// What a run may use.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    jobs: usize,
    cpus: usize,
    gpus: Vec<String>,
    mem_bytes: u64,
}

/// What one node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) cpu: usize,
    pub(crate) gpus: Vec<String>,
    pub(crate) mem_bytes: u64,
}

impl Capacity {
    /// Finds out what there is. GPUs are looked for only if a node wants one: asking the driver takes a while.
    pub(crate) fn detect(limits: &Limits, wants_gpu: bool) -> Capacity {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let gpus = if wants_gpu { gpus(limits.gpus) } else { Vec::new() };
        Capacity {
            jobs: limits.jobs.unwrap_or(usize::MAX).max(1),
            cpus: limits.cpus.unwrap_or(cores).max(1),
            gpus,
            mem_bytes: memory_bytes().unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn num_gpus(&self) -> usize {
        self.gpus.len()
    }

    /// Returns what a node takes of this machine, and what has to be said about a request that is larger than it.
    pub(crate) fn fit(&self, wanted: &Resources) -> (Need, Vec<String>) {
        let mut notes = Vec::new();
        let cpu = wanted.cpu.max(1);
        if cpu > self.cpus {
            notes.push(clamped(&format!("{cpu} processors"), &self.cpus.to_string()));
        }
        let mem_bytes = wanted.mem_bytes.unwrap_or(0);
        if mem_bytes > self.mem_bytes {
            let (wanted, has) = (mem_bytes >> 20, self.mem_bytes >> 20);
            notes.push(clamped(&format!("{wanted} MiB of memory"), &format!("{has} MiB")));
        }
        (
            Need {
                cpu: cpu.min(self.cpus),
                gpu: wanted.gpu,
                mem_bytes: mem_bytes.min(self.mem_bytes),
            },
            notes,
        )
    }
}

fn clamped(wanted: &str, has: &str) -> String {
    format!("asks for {wanted}; there are {has}, which it gets")
}

/// How much a node takes, before it is known which GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) cpu: usize,
    pub(crate) gpu: usize,
    pub(crate) mem_bytes: u64,
}

/// What is free.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    free: Capacity,
}

impl Pool {
    pub(crate) fn new(capacity: Capacity) -> Pool {
        Pool { free: capacity }
    }

    /// Tells whether any node could be started now.
    pub(crate) fn has_room(&self) -> bool {
        self.free.jobs >= 1 && self.free.cpus >= 1
    }

    /// Takes what a node needs; none if that is not free now.
    pub(crate) fn take(&mut self, need: Need) -> Option<Grant> {
        let free = &mut self.free;
        let fits =
            free.jobs >= 1 && free.cpus >= need.cpu && free.gpus.len() >= need.gpu && free.mem_bytes >= need.mem_bytes;
        if !fits {
            return None;
        }
        free.jobs -= 1;
        free.cpus -= need.cpu;
        free.mem_bytes -= need.mem_bytes;
        Some(Grant {
            cpu: need.cpu,
            gpus: free.gpus.drain(..need.gpu).collect(),
            mem_bytes: need.mem_bytes,
        })
    }

    /// Gives back what a node had.
    pub(crate) fn give(&mut self, grant: Grant) {
        self.free.jobs += 1;
        self.free.cpus += grant.cpu;
        self.free.mem_bytes += grant.mem_bytes;
        self.free.gpus.extend(grant.gpus);
        // The lowest are handed out first, so that runs on an idle machine look alike.
        self.free.gpus.sort_by_key(|name| (name.len(), name.clone()));
    }
}

/// Returns the names of the GPUs as CUDA_VISIBLE_DEVICES knows them.
fn gpus(limit: Option<usize>) -> Vec<String> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let found = match (visible, limit) {
        (Some(list), _) => visible_gpus(&list),
        // Told how many there are, nothing has to be asked.
        (None, Some(limit)) => (0..limit).map(|idx| idx.to_string()).collect(),
        (None, None) => (0..count_gpus()).map(|idx| idx.to_string()).collect(),
    };
    found.into_iter().take(limit.unwrap_or(usize::MAX)).collect()
}

/// CUDA ignores what follows the first invalid entry, of which -1 is the usual one.
fn visible_gpus(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim);
    names
        .take_while(|name| !name.is_empty() && !name.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

fn count_gpus() -> usize {
    let listed = Command::new("nvidia-smi")
        .arg("-L")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.starts_with("GPU "))
            .count(),
        _ => 0,
    }
}

fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(jobs: usize, cpus: usize, gpus: &[&str]) -> Pool {
        let gpus = gpus.iter().map(|&name| name.to_owned()).collect();
        Pool::new(Capacity {
            jobs,
            cpus,
            gpus,
            mem_bytes: 100,
        })
    }

    #[test]
    fn gpus_are_assigned_by_name_and_come_back() {
        let mut pool = pool(9, 9, &["0", "1", "10"]);
        let need = |gpu| Need {
            cpu: 1,
            gpu,
            mem_bytes: 0,
        };
        let first = pool.take(need(2)).expect("two of three are free");
        assert_eq!(first.gpus, ["0", "1"]);
        assert_eq!(pool.take(need(2)), None);
        let second = pool.take(need(1)).expect("one is free");
        pool.give(first);
        pool.give(second);
        assert_eq!(
            pool.take(need(3)).map(|grant| grant.gpus),
            Some(vec!["0".into(), "1".into(), "10".into()])
        );
    }

    #[test]
    fn jobs_processors_and_memory_are_each_a_limit() {
        let need = |cpu, mem_bytes| Need { cpu, gpu: 0, mem_bytes };
        assert!(pool(1, 2, &[]).take(need(3, 0)).is_none());
        assert!(pool(1, 2, &[]).take(need(2, 101)).is_none());
        let mut one_job = pool(1, 2, &[]);
        assert!(one_job.take(need(1, 1)).is_some());
        assert!(one_job.take(need(1, 1)).is_none());
    }

    #[test]
    fn an_invalid_entry_ends_the_list_of_visible_gpus() {
        assert_eq!(visible_gpus("3, GPU-8f,-1,2"), ["3", "GPU-8f"]);
        assert!(visible_gpus("").is_empty());
    }
}
