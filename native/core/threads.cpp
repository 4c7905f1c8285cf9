// A pool of workers that live as long as the process. One job at a time: the caller that has the
// pool opens it, workers join it and take indices, the caller closes it and waits for those who
// joined.
#include "threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "openmp.h"

namespace ostinato {
namespace {

constexpr int kMostThreads = 256;

// How long an idle worker looks for the next job before it sleeps. A step of training calls forward
// and backward some tens of microseconds apart, and waking a sleeper costs 5 to 50; longer would
// take a core from whatever runs between the calls.
constexpr auto kIdleSpin = std::chrono::microseconds(50);

// Turns of a spinning wait before it starts to yield the core: 8 to 20 microseconds. The others are
// running, unless there are more threads than cores.
constexpr int kTurnsBeforeYield = 500;

int64_t now() {  // ns
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether it was done before the core was yielded.
template <class Done>
bool spin_shortly(Done done) {
  for (int turn = 0; turn < kTurnsBeforeYield; ++turn) {
    if (done()) return true;
    relax();
  }
  return false;
}

template <class Done>
void spin_until(Done done) {
  if (spin_shortly(done)) return;
  while (!done()) std::this_thread::yield();
}

int affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return int(std::thread::hardware_concurrency());
}

// What a container's share of the processors amounts to, in whole cores; 0 without one. Threads
// beyond it would be stopped in the middle of a barrier.
int quota() {
#if defined(__linux__)
  FILE* file = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (file == nullptr) return 0;
  long long share = 0, period = 0;
  int read = fscanf(file, "%lld %lld", &share, &period);  // "max 100000" where there is none
  fclose(file);
  if (read == 2 && share > 0 && period > 0) return int((share + period - 1) / period);
#endif
  return 0;
}

// OSTINATO_NUM_THREADS, or 0.
int asked_threads() {
  static const int asked = [] {
    const char* text = getenv("OSTINATO_NUM_THREADS");
    const int number = text == nullptr ? 0 : atoi(text);
    return number < 1 ? 0 : number < kMostThreads ? number : kMostThreads;
  }();
  return asked;
}

int decide_threads() {
  if (asked_threads() > 0) return asked_threads();
  int cores = affinity();
  if (int share = quota(); share > 0 && share < cores) cores = share;
  return cores < 1 ? 1 : cores < kMostThreads ? cores : kMostThreads;
}

struct Job {
  int n;
  void (*each)(void* context, int i);         // of parallel_for
  void (*member)(void* context, int i, int n, Barrier* barrier);  // or of parallel_team
  void* context;
  Barrier* barrier;

  void run(int i) const {
    if (each != nullptr) each(context, i);
    else member(context, i, n, barrier);
  }
};

// Set on workers, and on a caller while it takes part: what these call runs serially.
thread_local bool inside_job = false;

class Pool {
 public:
  // The caller's thread is one of them.
  int size() const { return workers_ + 1; }
  bool acquire() { return owner_.try_lock(); }
  void release() { owner_.unlock(); }

  // Starts the workers that are missing; fewer where the system gives no more.
  void grow(int workers) {
    sigset_t all, before;
    sigfillset(&all);  // a worker must not take the signals that Python waits for
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; workers_ < workers; ++workers_) std::thread(&Pool::work, this).detach();
    } catch (const std::system_error&) {
      // no more threads to be had: those that there are do the work
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // Only by who acquired the pool. In a team the caller takes one index, like everybody else.
  void run(const Job& job) {
    open(job);
    inside_job = true;
    bool team = job.member != nullptr;
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job.n;) {
      job.run(i);
      if (team) break;
    }
    if (team) spin_until([&] { return next_.load(std::memory_order_relaxed) >= job.n; });
    inside_job = false;
    gate_.fetch_or(kClosed, std::memory_order_relaxed);
    spin_until([&] { return gate_.load(std::memory_order_acquire) == kClosed; });
  }

 private:
  static constexpr unsigned kClosed = 1u << 31;

  void open(const Job& job) {
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(0, std::memory_order_release);
    std::lock_guard<std::mutex> lock(sleep_);
    call_.fetch_add(1, std::memory_order_release);
    if (sleepers_ > 0) wake_.notify_all();
  }

  // Between a successful `join` and `leave` the caller is waiting, and the job stays as it is.
  bool join() {
    unsigned seen = gate_.load(std::memory_order_relaxed);
    while (!(seen & kClosed))
      if (gate_.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) return true;
    return false;
  }
  void leave() { gate_.fetch_sub(1, std::memory_order_release); }

  void work() {
    inside_job = true;
    unsigned answered = 0;
    for (;;) {
      answered = wait_for_call(answered);
      if (!join()) continue;
      const Job job = job_;
      for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < job.n;) job.run(i);
      leave();
    }
  }

  unsigned wait_for_call(unsigned answered) {
    auto end = std::chrono::steady_clock::now() + kIdleSpin;
    do {
      for (int turn = 0; turn < 32; ++turn) {
        unsigned call = call_.load(std::memory_order_acquire);
        if (call != answered) return call;
        relax();
      }
      std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < end);
    std::unique_lock<std::mutex> lock(sleep_);
    ++sleepers_;
    wake_.wait(lock, [&] { return call_.load(std::memory_order_relaxed) != answered; });
    --sleepers_;
    return call_.load(std::memory_order_relaxed);
  }

  std::mutex owner_;
  int workers_ = 0;
  Job job_{};
  alignas(64) std::atomic<unsigned> gate_{kClosed};  // how many joined, and whether it's closed
  alignas(64) std::atomic<int> next_{0};             // the next index to take
  alignas(64) std::atomic<unsigned> call_{0};        // how many jobs there have been
  std::mutex sleep_;
  std::condition_variable wake_;
  int sleepers_ = 0;
};

std::atomic<Pool*> current{nullptr};

// A child of fork has no workers, and maybe locked mutexes: it starts anew.
void forget_pool() {
  current.store(nullptr);
  inside_job = false;
}

Pool& pool() {
  Pool* found = current.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  Pool* made = new Pool;  // never destroyed: workers use it until the process ends
  if (current.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *found;
}

// The pool where the caller may have several threads, else null; to be released. One caller at a
// time has them, on whose threads ever the work is done.
Pool* acquired_pool() {
  if (inside_job || thread_count() == 1) return nullptr;
  Pool& all = pool();
  return all.acquire() ? &all : nullptr;
}

// For how long something isn't tried that went badly: shortly at first, longer each time that it does
// again, and shorter when it goes well. What was chance is soon forgotten, and a loaded machine is asked
// once a second.
class Backoff {
 public:
  bool is_over(int64_t now) const { return now >= again_.load(std::memory_order_relaxed); }

  void report(bool went_well, int64_t now) {
    const int64_t length = length_.load(std::memory_order_relaxed);
    if (went_well) {
      if (length > kFirst) length_.store(std::max(length / 2, kFirst), std::memory_order_relaxed);
      return;
    }
    again_.store(now + length, std::memory_order_relaxed);
    length_.store(std::min(length * 4, kLongest), std::memory_order_relaxed);
  }

 private:
  static constexpr int64_t kFirst = 2'000'000, kLongest = 1'000'000'000;  // ns
  std::atomic<int64_t> again_{0}, length_{kFirst};
};

// A job on OpenMP's threads.
struct Lent {
  Job job;
  std::atomic<int> next{0};
  int64_t done = 0;  // when the caller had nothing more to do

  static void work(void* context, int i, int n) {
    Lent& lent = *static_cast<Lent*>(context);
    Job& job = lent.job;
    inside_job = true;
    if (job.member != nullptr) job.member(job.context, i, n, n > 1 ? job.barrier : nullptr);
    else
      for (int each; (each = lent.next.fetch_add(1, std::memory_order_relaxed)) < job.n;)
        job.run(each);
    inside_job = false;
    if (i == 0) lent.done = now();
  }
};

// A team of OpenMP's ends when all its threads have been there, with or without work, and waits for
// them without giving up its core. Where other programs keep one off its own, that takes a slice of
// the scheduler's time, again and again (a small model's step beside three busy programs: 50 ms, of
// which 40 were such waits); the pool's callers wait for nobody who hasn't begun. So after one long
// wait it's the pool's turn for a while. The pool has a cost of its own: where the process's other
// operations use OpenMP, its threads spin on after each of them, on the cores of the pool's. And one
// long wait is no load yet: see Backoff.
constexpr int64_t kLongWait = 500'000;  // ns
Backoff lent_backoff;

// Runs the job on `threads` threads of OpenMP, where they're lent and come when they're called.
bool run_lent(int threads, const Job& job) {
  if (lent_threads(0) == 0) return false;  // and no look at the clock, three times 20 ns
  const int64_t begin = now();
  if (!lent_backoff.is_over(begin)) return false;
  Lent lent{job};
  if (!run_on_openmp(threads, Lent::work, &lent)) return false;
  const int64_t end = now(), waited = end - lent.done;
  lent_backoff.report(waited <= kLongWait || waited <= (end - begin) / 4, end);
  return true;
}

Backoff team_backoff;

// A team that lost a quarter of its time to members without a core.
void report_meeting(const Barrier& barrier, int64_t begin) {
  const int64_t end = now();
  team_backoff.report(barrier.waited() <= (end - begin) / 4, end);
}

}  // namespace

bool teams_meet() { return team_backoff.is_over(now()); }

int most_threads() {
  static const int count = decide_threads();
  return count;
}

int thread_count() {
  const int most = most_threads();
  const int lent = asked_threads() > 0 ? most : lent_threads(most);
  return lent < most ? lent : most;
}

void parallel_for(int n, void (*task)(void* context, int i), void* context) {
  Pool* all = n > 1 ? acquired_pool() : nullptr;
  if (all == nullptr) {
    for (int i = 0; i < n; ++i) task(context, i);
    return;
  }
  const Job job = {n, task, nullptr, context, nullptr};
  const int count = thread_count();
  if (!run_lent(n < count ? n : count, job)) {
    all->grow(most_threads() - 1);
    all->run(job);
  }
  all->release();
}

void parallel_team(int wanted, void (*task)(void* context, int i, int n, Barrier* barrier),
                   void* context) {
  Pool* all = wanted > 1 ? acquired_pool() : nullptr;
  if (all == nullptr) return task(context, 0, 1, nullptr);
  const int count = thread_count();
  int n = wanted < count ? wanted : count;
  const int64_t begin = now();
  Barrier lent_barrier(n);
  if (run_lent(n, {n, nullptr, task, context, &lent_barrier})) {
    report_meeting(lent_barrier, begin);
  } else {
    all->grow(most_threads() - 1);
    if (all->size() < n) n = all->size();
    Barrier barrier(n);
    all->run({n, nullptr, task, context, n > 1 ? &barrier : nullptr});
    report_meeting(barrier, begin);
  }
  all->release();
}

void Barrier::wait() {
  unsigned phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  const auto passed = [&] { return phase_.load(std::memory_order_acquire) != phase; };
  if (spin_shortly(passed)) return;
  const int64_t begin = now();
  while (!passed()) std::this_thread::yield();
  waited_.fetch_add(now() - begin, std::memory_order_relaxed);
}

}  // namespace ostinato
