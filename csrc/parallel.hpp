// Threads of the compiled core.
//
// They are the threads of the OpenMP runtime that is already in the process, torch's if there is one: a second
// pool would fight with OpenMP's, which keep spinning for milliseconds after each of torch's operations. Without
// such a runtime it is one pool of our own per process, parked between calls.
//
// `team` runs fn(thread, threads, barrier) on `threads` threads at once (the caller is thread 0) and returns
// when all are done. All members really run side by side, so they may meet at the barrier. When the pool is
// in use by another caller, or in nested calls, the team has one member. No result may depend on `threads`.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

#include "simd.hpp"

namespace synbench {

// Threads to use for a request: `requested` if positive, else the machine's.
int resolve_threads(int requested);

// Sense-reversing barrier for the members of one team: spins briefly, then yields the core.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads), waiting_(0), phase_(0) {}
  void wait();
  // The size of the team, where it is known only inside it; every member says it before the first wait.
  void resize(int threads) { threads_.store(threads, std::memory_order_relaxed); }

 private:
  std::atomic<int> threads_;
  std::atomic<int> waiting_;
  std::atomic<unsigned> phase_;
};

void team(int threads, const std::function<void(int thread, int threads, Barrier& barrier)>& fn);

// Splits [0, n) into contiguous parts of at least `grain`, one per thread of `resolve_threads`.
void parallel_for(std::int64_t n, std::int64_t grain, int threads,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& fn);

}  // namespace synbench
