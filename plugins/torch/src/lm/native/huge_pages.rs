//! Larger pages of memory for the weights.
//!
//! A step reads all weights once, and with pages of 4 KiB the processor spends a tenth to a fifth of that time on looking
//! up where the next one is. Linux gathers memory in pages of 2 MiB when it is asked to; where it does not, nothing
//! changes but speed.

/// Asks for large pages under these arrays of f32, given by address and length.
///
/// Neighbours are joined: tensors are allocated one behind the other, and a large page may lie under several.
#[cfg(target_os = "linux")]
pub fn ask_for(arrays: impl Iterator<Item = (*const f32, usize)>) {
    let ranges = arrays.map(|(start, len)| (start.addr(), start.addr() + len * size_of::<f32>()));
    for (start, end) in joined(ranges.collect()) {
        let start = start.next_multiple_of(LARGE);
        let len = (end / LARGE * LARGE).saturating_sub(start);
        if len == 0 {
            continue;
        }
        let address = std::ptr::without_provenance_mut(start);
        // SAFETY: neither changes what is in memory, nor who may read or write it. Refusals are of no consequence.
        unsafe {
            libc::madvise(address, len, libc::MADV_HUGEPAGE);
            libc::madvise(address, len, libc::MADV_COLLAPSE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn ask_for(_arrays: impl Iterator<Item = (*const f32, usize)>) {}

/// Bytes of a large page.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

/// What an allocator leaves between neighbours, at most.
#[cfg(target_os = "linux")]
const GAP: usize = 8 << 10;

/// Joins ranges that overlap or nearly touch; returns them in order.
#[cfg(target_os = "linux")]
fn joined(mut ranges: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    ranges.sort_unstable();
    let mut list: Vec<(usize, usize)> = Vec::new();
    for (start, end) in ranges {
        match list.last_mut() {
            Some(last) if start <= last.1 + GAP => last.1 = last.1.max(end),
            _ => list.push((start, end)),
        }
    }
    list
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        let ranges = vec![(100_000, 200_000), (0, 90_000), (50_000, 60_000), (202_000, 300_000)];
        assert_eq!(joined(ranges), [(0, 90_000), (100_000, 300_000)]);
    }

    #[test]
    fn what_is_in_memory_stays() {
        let values: Vec<f32> = (0..2_000_000).map(|i| i as f32).collect();
        ask_for([(values.as_ptr(), values.len())].into_iter());
        assert!(values.iter().enumerate().all(|(i, &value)| value == i as f32));
    }
}
