//! How much memory the cache of keys and values takes where nobody says how much.

use std::path::Path;

use tch::Device;

/// Where not even the system says what is free.
const UNKNOWN: usize = 1 << 30;

/// Returns half of what the device has left: weights are loaded already, activations come beside it.
pub fn default_for_cache(device: Device) -> usize {
    let free = match device {
        Device::Cuda(index) => free_on_gpu(index),
        _ => free_on_host(),
    };
    free.map_or(UNKNOWN, |free| free / 2)
}

unsafe extern "C" {
    fn volvelle_shim_free_memory(device_idx: libc::c_int, free: *mut u64) -> libc::c_int;
}

fn free_on_gpu(index: usize) -> Option<usize> {
    let mut free = 0;
    // SAFETY: `free` outlives the call, which catches every exception.
    let status = unsafe { volvelle_shim_free_memory(libc::c_int::try_from(index).ok()?, &raw mut free) };
    (status == 0).then(|| usize::try_from(free).ok()).flatten()
}

/// What Linux can give without swapping, and what the control group (a container, a batch job) leaves of it.
fn free_on_host() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = available(&meminfo)?;
    Some(free_in_group(Path::new("/sys/fs/cgroup")).map_or(available, |free| free.min(available)))
}

/// Reads `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<usize> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What is left below the limit of a control group of version 2; nothing where there is no limit.
fn free_in_group(dir: &Path) -> Option<usize> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name))
            .ok()?
            .trim()
            .parse::<usize>()
            .ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_free() {
        assert_eq!(
            available("MemTotal: 9 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n"),
            Some(2048 * 1024)
        );
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert!(default_for_cache(Device::Cpu) > 0);
    }

    #[test]
    fn what_a_control_group_leaves() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(free_in_group(dir.path()), None);
        std::fs::write(dir.path().join("memory.current"), "300\n").expect("it is written");
        std::fs::write(dir.path().join("memory.max"), "max\n").expect("it is written");
        assert_eq!(free_in_group(dir.path()), None, "no limit");
        std::fs::write(dir.path().join("memory.max"), "1000\n").expect("it is written");
        assert_eq!(free_in_group(dir.path()), Some(700));
    }
}
