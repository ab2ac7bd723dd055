// Runs CUDA C++ kernels on the CPU, so that machines without a GPU test what a GPU executes.
//
// Each thread of a block is a fiber on its own stack; barriers and warp shuffles switch between them, blocks follow
// one another. Fibers run forwards, backwards or at random, some warps ahead of others: a missing barrier shows as a
// result that depends on the schedule. Threads that meet different barriers, or a warp that is split at a shuffle, are
// reported as an error.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

struct Position {
  unsigned x = 0, y = 0, z = 0;
};

struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool started = false, done = false;
  int site = 0;             // line of the barrier it waits at, 0 while it runs
  bool whole_block = true;  // of that barrier
  int phase = 0;            // of the warp's exchange buffer
  std::unique_ptr<char[]> stack;
};

constexpr int kWarpSize = 32;
constexpr std::size_t kStack = 1 << 17;

inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline ucontext_t scheduler_context;
inline int current = 0;
inline std::function<void()> body;
inline std::string failure;
inline std::vector<std::uint64_t> exchange;  // [2, threads]

inline Position thread_index, block_index, block_size, grid_size;

[[gnu::noinline]] inline void pause(int site, bool whole_block) {
  Fiber& self = fibers[current];
  self.site = site;
  self.whole_block = whole_block;
  if (_setjmp(self.place) == 0) _longjmp(scheduler, 1);
}

inline void enter() {
  body();
  fibers[current].done = true;
  _longjmp(scheduler, 1);
}

[[gnu::noinline]] inline void resume(int index) {
  current = index;
  thread_index.x = static_cast<unsigned>(index);
  Fiber& fiber = fibers[index];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

[[gnu::noinline]] inline void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

// Whether all live fibers of [begin, end) wait at one barrier of the kind; then they may go on.
inline bool release(int begin, int end, bool whole_block) {
  int site = 0;
  for (int i = begin; i < end; ++i) {
    if (fibers[i].done) continue;
    if (fibers[i].site == 0 || fibers[i].whole_block != whole_block) return false;
    if (site == 0) site = fibers[i].site;
    if (fibers[i].site != site)
      failure =
          "threads wait at the barriers of lines " + std::to_string(site) + " and " + std::to_string(fibers[i].site);
  }
  if (site == 0) return false;
  for (int i = begin; i < end; ++i) fibers[i].site = 0;
  return true;
}

inline void run_block(int threads, std::mt19937* shuffle, bool reverse) {
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (reverse) std::reverse(order.begin(), order.end());
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.started = fiber.done = false;
    fiber.site = fiber.phase = 0;
    prepare(fiber);
  }
  while (failure.empty()) {
    if (shuffle != nullptr) std::shuffle(order.begin(), order.end(), *shuffle);
    // A random schedule lets a few warps run ahead as far as they can.
    const unsigned chosen = shuffle != nullptr ? static_cast<unsigned>((*shuffle)() & (*shuffle)()) : ~0u;
    bool ran = false, live = false;
    for (int i : order) {
      live = live || !fibers[i].done;
      if (fibers[i].done || fibers[i].site != 0) continue;
      ran = true;
      if (chosen >> (i / kWarpSize) & 1) resume(i);
    }
    if (!live) return;
    bool released = release(0, threads, true);
    for (int warp = 0; warp < threads; warp += kWarpSize)
      released = release(warp, std::min(threads, warp + kWarpSize), false) || released;
    if (!ran && !released) failure = "threads wait for one another";
  }
}

template <typename... Arguments, std::size_t... I>
void call(void (*kernel)(Arguments...), const std::uint64_t* words, std::index_sequence<I...>) {
  static_assert(((sizeof(Arguments) == 8) && ...), "every kernel argument is one 64-bit word");
  std::tuple<Arguments...> values;
  ((std::memcpy(&std::get<I>(values), words + I, 8)), ...);
  std::apply(kernel, values);
}

// order: 0 forwards, 1 backwards, above that the seed of random orders.
template <typename... Arguments>
bool launch(void (*kernel)(Arguments...), const std::uint64_t* words, int count, const Position& grid, int threads,
            unsigned order) {
  if (count != sizeof...(Arguments)) {
    failure = "expected " + std::to_string(sizeof...(Arguments)) + " arguments, got " + std::to_string(count);
    return false;
  }
  failure.clear();
  while (static_cast<int>(fibers.size()) < threads) {
    fibers.emplace_back();
    fibers.back().stack = std::make_unique<char[]>(kStack);
  }
  exchange.assign(2 * threads, 0);
  block_size = {static_cast<unsigned>(threads), 1, 1};
  grid_size = grid;
  body = [=] { call(kernel, words, std::index_sequence_for<Arguments...>()); };
  std::mt19937 shuffle(order);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x && failure.empty(); ++x) {
        block_index = {x, y, z};
        run_block(threads, order > 1 ? &shuffle : nullptr, order == 1);
      }
  return failure.empty();
}

template <typename T>
T shuffle_xor(T value, int mask, int line) {
  static_assert(sizeof(T) == 8);
  const int threads = static_cast<int>(block_size.x), self = current;
  std::uint64_t* slots = exchange.data() + fibers[self].phase * threads;
  fibers[self].phase ^= 1;  // a lane that runs ahead writes to the other half
  std::memcpy(slots + self, &value, 8);
  pause(line, false);
  T other;
  std::memcpy(&other, slots + (self ^ mask), 8);
  return other;
}

}  // namespace emulator

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define __syncthreads() emulator::pause(__LINE__, true)
#define __syncwarp() emulator::pause(__LINE__, false)
#define __shfl_xor_sync(lanes, value, mask) emulator::shuffle_xor(value, mask, __LINE__)

inline int atomicMin(int* address, int value) {
  const int old = *address;
  *address = std::min(old, value);
  return old;
}
inline long long min(long long a, long long b) { return a < b ? a : b; }
