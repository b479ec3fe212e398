// Large blocks of memory, kept for the next call instead of given back to the system.
#pragma once

#include <cstddef>

extern "C" {
// A block of at least `size` bytes that starts at a cache line, or null. Its content is arbitrary.
void* hdetach_take(size_t size);
// Give a block back, from any thread.
void hdetach_give(void* address);
// Return all idle blocks to the system.
void hdetach_release();
// Bytes that idle blocks hold.
size_t hdetach_idle();
}

// A block for as long as this object lives.
struct Block {
  explicit Block(size_t size) : address(hdetach_take(size)) {}
  ~Block() { hdetach_give(address); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  void* const address;
};
