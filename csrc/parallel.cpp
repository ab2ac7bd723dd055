#include "parallel.hpp"

#include <unistd.h>
#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define SYNBENCH_PAUSE() _mm_pause()
#else
#define SYNBENCH_PAUSE() ((void)0)
#endif

namespace synbench {
namespace {

constexpr int kSpins = 4000;  // about 50 us: longer than the gaps inside one operation

// Entry points of an OpenMP runtime that is already loaded; libomp and libiomp5 offer GNU's names too.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_number)() = nullptr;
  int (*thread_count)() = nullptr;
  explicit operator bool() const { return parallel != nullptr && thread_number != nullptr && thread_count != nullptr; }
};

#if defined(__linux__)
// Several runtimes may be loaded, each package bringing its own: torch's is the one that works beside us.
OpenMp find_openmp() {
  std::string best;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        const std::string path = info->dlpi_name ? info->dlpi_name : "";
        const std::string file = path.substr(path.rfind('/') + 1);
        if (file.rfind("libgomp", 0) != 0 && file.rfind("libomp", 0) != 0 && file.rfind("libiomp", 0) != 0) return 0;
        auto& found = *static_cast<std::string*>(out);
        if (path.find("torch") != std::string::npos) {
          found = path;
          return 1;
        }
        if (found.empty()) found = path;
        return 0;
      },
      &best);
  OpenMp omp;
  void* handle = best.empty() ? nullptr : dlopen(best.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return omp;
  omp.parallel = reinterpret_cast<decltype(omp.parallel)>(dlsym(handle, "GOMP_parallel"));
  omp.thread_number = reinterpret_cast<decltype(omp.thread_number)>(dlsym(handle, "omp_get_thread_num"));
  omp.thread_count = reinterpret_cast<decltype(omp.thread_count)>(dlsym(handle, "omp_get_num_threads"));
  return omp;
}
#else
OpenMp find_openmp() { return {}; }
#endif

struct OpenMpTeam {
  const std::function<void(int, int, Barrier&)>& fn;
  Barrier barrier{1};
  const OpenMp& omp;
  static void member(void* data) {
    auto& team = *static_cast<OpenMpTeam*>(data);
    const int threads = team.omp.thread_count();
    team.barrier.resize(threads);
    team.fn(team.omp.thread_number(), threads, team.barrier);
  }
};

class Pool {
 public:
  // The threads are detached and the pool is never freed: joining them from a static destructor or after fork()
  // would deadlock.
  void run(int threads, const std::function<void(int, int, Barrier&)>& fn) {
    grow(threads - 1);
    Barrier barrier(threads);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      fn_ = &fn;
      barrier_ = &barrier;
      threads_ = threads;
      pending_.store(threads - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    fn(0, threads, barrier);
    for (int spin = 0; pending_.load(std::memory_order_acquire) > 0; ++spin) {
      if (spin < kSpins)
        SYNBENCH_PAUSE();
      else
        std::this_thread::yield();
    }
  }

 private:
  void grow(int workers) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (; workers_ < workers; ++workers_) {
      const int id = workers_ + 1;
      const unsigned seen = generation_.load(std::memory_order_relaxed);
      std::thread([this, id, seen] { work(id, seen); }).detach();
    }
  }

  void work(int id, unsigned seen) {
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) SYNBENCH_PAUSE();
      const std::function<void(int, int, Barrier&)>* fn = nullptr;
      Barrier* barrier = nullptr;
      int threads = 0;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        fn = fn_;
        barrier = barrier_;
        threads = threads_;
      }
      if (id >= threads) continue;
      (*fn)(id, threads, *barrier);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int, int, Barrier&)>* fn_ = nullptr;
  Barrier* barrier_ = nullptr;
  int threads_ = 0;
  int workers_ = 0;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> pending_{0};
};

std::mutex busy;       // held while a team runs: a nested or concurrent call works alone
Pool* pool = nullptr;  // guarded by `busy`
pid_t pool_owner = 0;  // threads do not survive fork(): a child makes its own pool

}  // namespace

// n * part / parts without overflow.
static std::int64_t share_of(std::int64_t n, int part, int parts) {
  return n / parts * part + n % parts * part / parts;
}

int resolve_threads(int requested) {
  if (requested > 0) return requested;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

void team(int wanted, const std::function<void(int, int, Barrier&)>& fn) {
  // A thread library that cannot make as many threads as it is asked for ends the process.
  static const int most = std::max(64, 4 * static_cast<int>(std::thread::hardware_concurrency()));
  const int threads = std::min(wanted, most);
  std::unique_lock<std::mutex> lock(busy, std::try_to_lock);
  if (threads <= 1 || !lock.owns_lock()) {
    Barrier alone(1);
    fn(0, 1, alone);
    return;
  }
  // Looked for once, at first use: by then whoever brings a runtime has loaded it. A forked child must not enter
  // the runtime of its parent, whose threads it does not have.
  static const OpenMp omp = find_openmp();
  static const pid_t omp_owner = getpid();
  if (omp && omp_owner == getpid()) {
    OpenMpTeam members{fn, Barrier(1), omp};
    omp.parallel(&OpenMpTeam::member, &members, static_cast<unsigned>(threads), 0);
    return;
  }
  if (pool == nullptr || pool_owner != getpid()) {
    pool = new Pool;
    pool_owner = getpid();
  }
  pool->run(threads, fn);
}

void parallel_for(std::int64_t n, std::int64_t grain, int threads,
                  const std::function<void(std::int64_t, std::int64_t)>& fn) {
  if (n <= 0) return;
  const std::int64_t parts =
      std::max<std::int64_t>(1, std::min<std::int64_t>(resolve_threads(threads), n / std::max<std::int64_t>(1, grain)));
  // What leaves a thread of the team, such as bad_alloc, would end the process: it goes to the caller instead.
  std::mutex mutex;
  std::exception_ptr failure;
  team(static_cast<int>(parts), [&](int thread, int members, Barrier&) {
    const std::int64_t begin = share_of(n, thread, members), end = share_of(n, thread + 1, members);
    try {
      if (begin < end) fn(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

void Barrier::wait() {
  const int threads = threads_.load(std::memory_order_relaxed);
  if (threads == 1) return;
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    waiting_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
    if (spin < kSpins)
      SYNBENCH_PAUSE();
    else
      std::this_thread::yield();
  }
}

}  // namespace synbench
