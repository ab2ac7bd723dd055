// Threads of the compiled core: one pool per process, parked between calls.
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

 private:
  const int threads_;
  std::atomic<int> waiting_;
  std::atomic<unsigned> phase_;
};

void team(int threads, const std::function<void(int thread, int threads, Barrier& barrier)>& fn);

// Splits [0, n) into contiguous parts of at least `grain`, one per thread.
void parallel_for(std::int64_t n, std::int64_t grain, int threads,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& fn);

}  // namespace synbench
