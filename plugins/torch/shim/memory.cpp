// How much memory a GPU has left, which tch 0.24 cannot tell.
#include <ATen/DeviceAccelerator.h>
#include <cstdint>

extern "C" {

// Bytes that the device has free, with those that libtorch's allocator holds and does not use. Returns 0, or 1 where
// that cannot be told.
int volvelle_shim_free_memory(int device_index, uint64_t* free) {
  try {
    const auto index = static_cast<c10::DeviceIndex>(device_index);
    *free = at::accelerator::getMemoryInfo(index).first;
    const auto stats = at::accelerator::getDeviceStats(index);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const int64_t unused = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    if (unused > 0) *free += static_cast<uint64_t>(unused);
    return 0;
  } catch (...) {
    return 1;
  }
}
}
