// A training step asks for the same hundreds of megabytes as the one before. Fresh from the system,
// each page of them is cleared and mapped at its first touch, which can take as long as a third of
// the arithmetic. So blocks are kept, within two bounds: together with those in use they never
// exceed the most that was ever in use at once, and a block that 64 requests passed by goes back.
#include "buffers.h"

#include <sys/mman.h>

#include <map>
#include <mutex>
#include <new>

namespace {

constexpr size_t PAGE = 2 << 20;  // a huge page: 512 times fewer entries to look up and to map
constexpr long PATIENCE = 64;     // requests

struct Pool {
  std::mutex mutex;
  std::map<void*, size_t> used;
  struct Idle {
    void* address;
    long since;
  };
  std::multimap<size_t, Idle> idle;
  size_t used_bytes = 0, idle_bytes = 0, most_used_bytes = 0;
  long requests = 0;

  void unmap(std::multimap<size_t, Idle>::iterator block) {
    munmap(block->second.address, block->first);
    idle_bytes -= block->first;
    idle.erase(block);
  }

  void unmap_oldest() {
    auto oldest = idle.begin();
    for (auto block = idle.begin(); block != idle.end(); ++block)
      if (block->second.since < oldest->second.since) oldest = block;
    unmap(oldest);
  }

  void* take(size_t size) {
    size = (size + PAGE - 1) / PAGE * PAGE;
    if (!size) size = PAGE;
    ++requests;
    for (auto block = idle.begin(); block != idle.end();) {
      auto here = block++;
      if (requests - here->second.since > PATIENCE) unmap(here);
    }
    void* address;
    auto block = idle.lower_bound(size);
    if (block != idle.end() && block->first <= size + size / 4 + PAGE) {
      address = block->second.address;
      size = block->first;
      idle_bytes -= size;
      idle.erase(block);
    } else {
      while (!idle.empty() && used_bytes + idle_bytes + size > most_used_bytes) unmap_oldest();
      address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (address == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
      madvise(address, size, MADV_HUGEPAGE);
#endif
    }
    used.emplace(address, size);
    used_bytes += size;
    if (used_bytes > most_used_bytes) most_used_bytes = used_bytes;
    return address;
  }

  void give(void* address) {
    const auto block = used.find(address);
    if (block == used.end()) return;
    idle.emplace(block->second, Idle{address, requests});
    used_bytes -= block->second;
    idle_bytes += block->second;
    used.erase(block);
  }
};

// Never destroyed: tensors may outlive everything else in the process.
Pool& pool() {
  static Pool* const one = new Pool;
  return *one;
}

}  // namespace

void* hdetach_take(size_t size) {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  try {
    return pool().take(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void hdetach_give(void* address) {
  if (!address) return;
  const std::lock_guard<std::mutex> lock(pool().mutex);
  try {
    pool().give(address);
  } catch (const std::bad_alloc&) {  // it stays in use for ever, which is safe
  }
}

void hdetach_release() {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  while (!pool().idle.empty()) pool().unmap_oldest();
}

size_t hdetach_idle() {
  const std::lock_guard<std::mutex> lock(pool().mutex);
  return pool().idle_bytes;
}
