// Threads that work on the parts of one step together.
//
// A step takes a tenth of a millisecond and its parts wait for each other a few times, so threads
// wait awake within a step. Between steps they do for a moment and then sleep: their cores belong
// to others.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <immintrin.h>

class Team {
 public:
  // What one thread knows of the work: its number, and how many there are.
  struct Member {
    int64_t number, count;
    Team* team;

    // Waits for all others to come here.
    void meet() const {
      if (count > 1) team->gather();
    }
  };
  // Parts of a piece of work, each taken by whoever is free first.
  class Parts {
   public:
    template <class Part>
    void each(int64_t count, const Part& part) {
      for (int64_t n; (n = taken_.fetch_add(1, std::memory_order_relaxed)) < count;) part(n);
    }

   private:
    std::atomic<int64_t> taken_{0};
  };
  using Work = std::function<void(const Member&)>;

  explicit Team(int64_t size) : size_(size), process_(getpid()) {
    try {
      for (int64_t number = 1; number < size; ++number)
        threads_.emplace_back([this, number] { serve(number); });
    } catch (...) {  // the system gives no more of them
      end();
      throw;
    }
  }

  ~Team() { end(); }

  // Whether this is the process that has the threads.
  bool is_here() const { return getpid() == process_; }

  // Lets every thread do the work; returns when all have. A caller who finds the team at work does
  // all of his alone.
  void run(const Work& work) {
    std::unique_lock<std::mutex> mine(in_use_, std::try_to_lock);
    if (size_ == 1 || !mine || !is_here()) return work({0, 1, this});
    begin(&work);
    const Member first{0, size_, this};
    work(first);
    first.meet();
  }

 private:
  // Longer than the search takes from step to step, with a beam of 3 for one photograph.
  static constexpr std::chrono::microseconds AWAKE{100};
  static constexpr int TRIES = 64;  // between two looks at the clock, or before a core is given up

  void end() {
    begin(nullptr);
    for (auto& thread : threads_) thread.join();
  }

  void begin(const Work* work) {
    {
      std::lock_guard<std::mutex> lock(changing_);
      work_ = work;
      round_.fetch_add(1, std::memory_order_release);
    }
    has_begun_.notify_all();
  }

  void serve(int64_t number) {
    for (uint64_t seen = 0;;) {
      wait_for_work(seen++);
      if (work_ == nullptr) return;
      const Member member{number, size_, this};
      (*work_)(member);
      member.meet();
    }
  }

  void wait_for_work(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + AWAKE;
    do {
      for (int tries = 0; tries < TRIES; ++tries) {
        if (round_.load(std::memory_order_acquire) != seen) return;
        _mm_pause();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(changing_);
    has_begun_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
  }

  void gather() {
    const uint64_t current = gathering_.load(std::memory_order_acquire);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      here_.store(0, std::memory_order_relaxed);
      gathering_.store(current + 1, std::memory_order_release);
      return;
    }
    // Whoever is missing may wait for this core.
    for (int tries = 0; gathering_.load(std::memory_order_acquire) == current; ++tries) {
      if (tries < 16 * TRIES)
        _mm_pause();
      else
        std::this_thread::yield();
    }
  }

  const int64_t size_;
  const pid_t process_;
  std::mutex in_use_, changing_;
  std::condition_variable has_begun_;
  const Work* work_ = nullptr;
  std::atomic<uint64_t> round_{0}, gathering_{0};
  std::atomic<int64_t> here_{0};
  std::vector<std::thread> threads_;
};
