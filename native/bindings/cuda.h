// Launching a kernel that is already machine code, through NVIDIA's driver: opened at run time, its
// few declarations written out here. Nothing of CUDA is needed to build this or to load it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ostinato {

// What ostinato.cuda.kernels.Prepared says of a call, with the addresses of its tensors.
struct CudaLaunch {
  const void* image;          // a cubin
  uint64_t key[2];            // of which images with the same key are the same
  int64_t blocks, threads;    // of a group of blocks; of a block
  int64_t shared;             // bytes of a block
  int64_t barrier;            // what has to meet: see kernel.cuh
  int64_t groups, at_once;    // of blocks, of the call and of one launch
  int64_t timesteps, rows;
  int64_t every;              // whether outputs are of every timestep
  std::vector<void*> pointers;  // as `Call` in kernel.cuh has them
  void* workspace;
  size_t workspace_bytes;     // which are made zero first
};

// Puts a call on a stream; what's wrong, or nothing.
std::string cuda_launch(const CudaLaunch& launch, void* stream);

}  // namespace ostinato
