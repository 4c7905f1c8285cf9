// The kernel; what it's made of is in kernel.cuh, and what is the pass's own comes in between.

KERNEL ostinato_run(const Call p) {
  DYNAMIC_SHARED(memory);
  Block b;
  b.weights = memory;
  b.sums = memory + SUMS_AT;
  b.left = memory + LEFT_AT;
  b.number = blockIdx.x % BLOCKS;
  b.group = p.first_group + blockIdx.x / BLOCKS;
  b.meetings = 0;
  for (int i = threadIdx.x; i < LEFT; i += THREADS) b.left[i] = 0.f;
  load_all_weights(p, b);
  Lane lanes[PER_THREAD];
  {
    const int t = 0;
    FOR_EACH(begin(p, b, at, lanes[e]))
  }
  __syncthreads();
  for (int s = 0; s < p.T; ++s) timestep(p, b, lanes, REVERSE ? p.T - 1 - s : s);
  const int t = 0;
  FOR_EACH(finish(p, b, at, lanes[e]))
}
