//! Where tensors live, and how many threads compute.

use std::ffi::CStr;
use std::path::Path;

use tch::{Cuda, Device};

use super::shim;

/// Where a driver for NVIDIA's GPUs shows itself: on Linux, and on Linux under Windows.
const DRIVERS: [&str; 2] = ["/dev/nvidiactl", "/dev/dxg"];

/// Loads the CUDA half of libtorch if it is installed, and sets the number of CPU threads.
///
/// Must run before any other call into libtorch: the first one that asks for CUDA caches the answer for the life of
/// the process. A CPU-only libtorch simply has no such library.
pub fn init(num_threads: usize) {
    const CUDA: &CStr = c"libtorch_cuda.so";
    // Loading it takes a second, which a machine without a GPU need not spend.
    if DRIVERS.iter().any(|driver| Path::new(driver).exists()) {
        // SAFETY: a NUL-terminated name; the library's initializers are libtorch's own.
        unsafe { libc::dlopen(CUDA.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    }
    keep_freed_memory();
    set_num_threads(num_threads);
}

/// Tells malloc to keep large blocks instead of giving each back to the system: activations of the same sizes come and
/// go at every step, and fresh pages cost a tenth of the time of training a small model.
fn keep_freed_memory() {
    // SAFETY: mallopt only changes the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Free memory that malloc keeps, at most: more than the activations of a model whose time fresh pages would show in.
const MAX_KEPT_BYTES: usize = 1 << 30;

/// Gives memory that malloc keeps and nothing uses back to the system, where that is much. Micro-batches of other lengths
/// leave holes that the blocks of the next ones don't fit, so the memory of a process would otherwise be up to twice what
/// is in use at any time.
pub fn trim_memory() {
    // SAFETY: both only look at the allocator's own lists, under its locks.
    unsafe {
        if libc::mallinfo2().fordblks > MAX_KEPT_BYTES {
            libc::malloc_trim(0);
        }
    }
}

/// Sets how many threads an operation of the calling thread may use.
pub fn set_num_threads(num_threads: usize) {
    tch::set_num_threads(i32::try_from(num_threads.max(1)).unwrap_or(i32::MAX));
}

/// Gives memory that no tensor uses back, so that larger blocks can be had. Without a GPU there is none to give.
pub fn empty_cache() {
    if Cuda::device_count() > 0 {
        // What can't be freed shows itself at the next allocation.
        let _ = shim::cuda_empty_cache();
    }
}

/// Lets the next [`peak_memory`] be that of what follows, where that can be told: on a GPU.
pub fn reset_peak_memory(device: Device) {
    if let Device::Cuda(index) = device {
        // A figure for the user; nothing depends on it.
        let _ = shim::cuda_reset_peak(index);
    }
}

/// Returns the most bytes that were in use at once: of tensors on a GPU, else of this process since it began.
pub fn peak_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cuda(index) => shim::cuda_memory(index).ok().map(|(_, peak)| peak),
        _ => peak_resident_set(),
    }
}

/// `VmHWM` of the process, in bytes.
fn peak_resident_set() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Says whether products of f32 matrices on a GPU may round their inputs to TF32, ten bits instead of 23. They may not
/// unless this is asked for, as in PyTorch: f32 is what agrees with a CPU. Products of bf16 don't depend on it.
pub fn allow_tf32(allowed: bool) {
    // Only stored; it concerns GPUs alone.
    let _ = shim::allow_tf32(allowed);
}

/// Returns the device that a `device` parameter names: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// The word is not one of these, or asks for a GPU that is not there.
pub fn parse(name: &str) -> Result<Device, String> {
    let index = match name {
        "auto" if Cuda::device_count() > 0 => 0,
        "auto" | "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        other => other
            .strip_prefix("cuda:")
            .and_then(|index| index.parse::<usize>().ok())
            .ok_or_else(|| format!("unknown device {other:?}; expected auto, cpu, cuda or cuda:N"))?,
    };
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if index >= count {
        return Err(format!(
            "device {name:?} was asked for, but {count} CUDA devices are visible"
        ));
    }
    Ok(Device::Cuda(index))
}
