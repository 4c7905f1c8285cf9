#include "openmp.h"

#include <pthread.h>

#include <atomic>

namespace ostinato {
namespace {

std::atomic<const OpenMP*> lent{nullptr};
std::atomic<bool> forked{false};  // since they were lent

struct Work {
  const OpenMP* openmp;
  int n;
  void (*task)(void* context, int i, int n);
  void* context;
};

// What every thread of a team runs. All of a team see the same size.
void enter(void* data) {
  const Work& work = *static_cast<const Work*>(data);
  const int i = work.openmp->thread_num();
  const int n = work.openmp->num_threads() < work.n ? 1 : work.n;
  if (i < n) work.task(work.context, i, n);
}

}  // namespace

void lend_openmp(const OpenMP& functions) {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
  (void)registered;
  lent.store(new OpenMP(functions));  // once a process; a call under way may still read the last
}

int lent_threads(int otherwise) {
  const OpenMP* openmp = lent.load(std::memory_order_acquire);
  if (openmp == nullptr) return otherwise;
  const int count = openmp->max_threads();
  return count < 1 ? 1 : count;
}

bool run_on_openmp(int n, void (*task)(void* context, int i, int n), void* context) {
  const OpenMP* openmp = lent.load(std::memory_order_acquire);
  if (openmp == nullptr || forked.load() || openmp->max_threads() < n) return false;
  Work work{openmp, n, task, context};
  openmp->parallel(enter, &work, 0, 0);  // 0: as many threads as its other teams have
  return true;
}

}  // namespace ostinato
