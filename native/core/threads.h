// A small pool of threads, in which the caller takes part.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ostinato {

// How many threads a call may ever use, the caller's among them; at least 1. Read once:
// OSTINATO_NUM_THREADS, else the cores that this process may run on, or its share of them where a
// container has less.
int most_threads();

// How many it may use now: no more than OpenMP's teams have where its threads are lent (openmp.h),
// as torch.set_num_threads sets it, but for OSTINATO_NUM_THREADS, which prevails.
int thread_count();

// Runs task(context, i) for every i in [0, n), in any order and on any threads; returns when all
// are done. n may be larger than the pool. A call from inside a task, or while another caller holds
// the pool, runs serially on the caller's thread. Works in a child after fork.
void parallel_for(int n, void (*task)(void* context, int i), void* context);

// Where n threads of a team wait for one another; spins, since the others are a few microseconds
// away. Reusable. Memory written before `wait` is seen by all after it.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}
  void wait();
  // Nanoseconds that its threads have waited longer than the others can have been busy: those had no core.
  int64_t waited() const { return waited_.load(std::memory_order_relaxed); }

 private:
  const int n_;
  std::atomic<int64_t> waited_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

// Runs task(context, i, n, barrier) for i in [0, n) all at the same time, each on a thread of its
// own, for tasks that wait for one another. `n` is at most `wanted` and may be less, down to 1 with
// a null barrier: what could be had. Same rules as above.
void parallel_team(int wanted, void (*task)(void* context, int i, int n, Barrier* barrier),
                   void* context);

// Whether teams have met all their members in time lately. Where other programs take the cores, a team
// whose members meet after each microsecond takes many times as long as one thread.
bool teams_meet();

}  // namespace ostinato
