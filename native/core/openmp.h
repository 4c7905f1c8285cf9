// The threads of an OpenMP runtime that the process uses anyway.
//
// PyTorch's operations run on libgomp's threads, which go on looking for work for milliseconds after
// each: on two cores our own worker then shares its core with one of those, and a training step of
// Keras's `fit` took 1.2 ms in our kernels instead of 0.6. So there we work on the same threads.
#pragma once

namespace ostinato {

// Functions of that runtime, by libgomp's names; LLVM's has them too.
struct OpenMP {
  void (*parallel)(void (*task)(void* data), void* data, unsigned threads, unsigned flags);
  int (*thread_num)();
  int (*num_threads)();
  int (*max_threads)();
};

// Lends the runtime's threads from now on to every caller in the process. In a child after fork they
// are gone, and the runtime would wait for them: there only their number counts. The library stays
// loaded.
void lend_openmp(const OpenMP& functions);

// How many threads its teams have; `otherwise` where none are lent. At least 1.
int lent_threads(int otherwise);

// Runs task(context, i, n) at the same time for i in [0, n), on the runtime's threads, or once with
// (context, 0, 1) where it has fewer at this moment. False, and nothing is done, where none are
// lent, or where the runtime's own teams are smaller than n: it would start and end threads at
// every change of size.
bool run_on_openmp(int n, void (*task)(void* context, int i, int n), void* context);

}  // namespace ostinato
