#include "cuda.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace ostinato {
namespace {

// The driver's ABI (cuda.h of CUDA 12); the same in ostinato/cuda/driver.py.
struct LaunchAttribute {
  int id, pad;
  unsigned value[3];
  char rest[52];
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  void* stream;
  LaunchAttribute* attributes;
  unsigned count;
};
constexpr int LAUNCH_COOPERATIVE = 2, LAUNCH_CLUSTER = 4, MOST_DYNAMIC_SHARED = 8;
constexpr int CLUSTER_BARRIER = 1, GRID_BARRIER = 2;  // as in kernel.cuh
constexpr int64_t MOST_BLOCKS = 0x7fffffff;

struct Driver {
  std::string missing;
  int (*module_load)(void**, const void*);
  int (*get_function)(void**, void*, const char*);
  int (*set_attribute)(void*, int, int);
  int (*launch)(const LaunchConfig*, void*, void**, void**);
  int (*error_string)(int, const char**);
  int (*stream_context)(void*, void**);
  int (*push_context)(void*);
  int (*pop_context)(void**);
  int (*memory_set)(uintptr_t, unsigned char, size_t, void*);
};

template <class F>
void find(void* library, const char* name, F& function, std::string& missing) {
#ifdef __linux__
  function = reinterpret_cast<F>(dlsym(library, name));
#endif
  if (function == nullptr) missing = std::string("NVIDIA's driver has no ") + name;
}

Driver opened() {
  Driver d{};
#ifdef __linux__
  const char* asked = std::getenv("OSTINATO_LIBCUDA");
  void* library = dlopen(asked != nullptr ? asked : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    d.missing = std::string("NVIDIA's driver can't be opened: ") + (why == nullptr ? "" : why);
    return d;
  }
  find(library, "cuModuleLoadData", d.module_load, d.missing);
  find(library, "cuModuleGetFunction", d.get_function, d.missing);
  find(library, "cuFuncSetAttribute", d.set_attribute, d.missing);
  find(library, "cuLaunchKernelEx", d.launch, d.missing);
  find(library, "cuGetErrorString", d.error_string, d.missing);
  find(library, "cuStreamGetCtx", d.stream_context, d.missing);
  find(library, "cuCtxPushCurrent_v2", d.push_context, d.missing);
  find(library, "cuCtxPopCurrent_v2", d.pop_context, d.missing);
  find(library, "cuMemsetD8Async", d.memory_set, d.missing);
#else
  d.missing = "NVIDIA's driver is opened on Linux alone";
#endif
  return d;
}

const Driver& driver() {
  static const Driver found = opened();
  return found;
}

std::string wrong(const char* function, int code) {
  const char* text = nullptr;
  driver().error_string(code, &text);
  return std::string(function) + ": " + (text == nullptr ? "error " + std::to_string(code) : text);
}

#define TRY(name, call) \
  if (const int code = (call)) return wrong(name, code)

// An image is loaded once into each context that runs it, and stays.
std::string loaded(const CudaLaunch& launch, void* context, void** function) {
  static std::mutex mutex;
  static std::map<std::tuple<void*, uint64_t, uint64_t>, void*> known;
  const std::lock_guard<std::mutex> lock(mutex);
  void*& kept = known[{context, launch.key[0], launch.key[1]}];
  if (kept == nullptr) {
    void *module = nullptr, *found = nullptr;
    TRY("cuModuleLoadData", driver().module_load(&module, launch.image));
    TRY("cuModuleGetFunction", driver().get_function(&found, module, "ostinato_run"));
    const int shared = static_cast<int>(launch.shared);
    TRY("cuFuncSetAttribute", driver().set_attribute(found, MOST_DYNAMIC_SHARED, shared));
    kept = found;
  }
  *function = kept;
  return "";
}

// `Call` in kernel.cuh: pointers, then five numbers.
std::vector<char> call_of(const CudaLaunch& launch, int64_t first) {
  const int32_t numbers[] = {
      static_cast<int32_t>(launch.timesteps), static_cast<int32_t>(launch.rows),
      static_cast<int32_t>(first), static_cast<int32_t>(launch.groups),
      static_cast<int32_t>(launch.every)};
  const size_t pointers = launch.pointers.size() * sizeof(void*);
  std::vector<char> call((pointers + sizeof numbers + 7) / 8 * 8);
  std::memcpy(call.data(), launch.pointers.data(), pointers);
  std::memcpy(call.data() + pointers, numbers, sizeof numbers);
  return call;
}

std::string launched(const CudaLaunch& launch, void* stream, void* function) {
  LaunchAttribute attribute{};
  if (launch.barrier == GRID_BARRIER) {  // refused where not all of its blocks can run at once
    attribute.id = LAUNCH_COOPERATIVE;
    attribute.value[0] = 1;
  } else if (launch.barrier == CLUSTER_BARRIER) {
    attribute.id = LAUNCH_CLUSTER;
    attribute.value[0] = static_cast<unsigned>(launch.blocks);
    attribute.value[1] = attribute.value[2] = 1;
  }
  for (int64_t first = 0; first < launch.groups; first += launch.at_once) {
    const int64_t groups = std::min(launch.at_once, launch.groups - first);
    if (groups * launch.blocks > MOST_BLOCKS) return "more blocks than a launch can have";
    LaunchConfig config{};
    config.grid[0] = static_cast<unsigned>(groups * launch.blocks);
    config.block[0] = static_cast<unsigned>(launch.threads);
    config.grid[1] = config.grid[2] = config.block[1] = config.block[2] = 1;
    config.shared = static_cast<unsigned>(launch.shared);
    config.stream = stream;
    config.attributes = &attribute;
    config.count = attribute.id != 0 ? 1 : 0;
    std::vector<char> call = call_of(launch, first);
    void* arguments[] = {call.data()};
    TRY("cuLaunchKernelEx", driver().launch(&config, function, arguments, nullptr));
  }
  return "";
}

std::string run_in(const CudaLaunch& launch, void* stream, void* context) {
  void* function = nullptr;
  std::string error = loaded(launch, context, &function);
  if (!error.empty()) return error;
  const auto workspace = reinterpret_cast<uintptr_t>(launch.workspace);
  if (launch.workspace_bytes != 0) {
    TRY("cuMemsetD8Async", driver().memory_set(workspace, 0, launch.workspace_bytes, stream));
  }
  return launched(launch, stream, function);
}

}  // namespace

std::string cuda_launch(const CudaLaunch& launch, void* stream) {
  if (!driver().missing.empty()) return driver().missing;
  if (launch.at_once < 1) return "a launch of no blocks";
  void *context = nullptr, *popped = nullptr;
  TRY("cuStreamGetCtx", driver().stream_context(stream, &context));
  TRY("cuCtxPushCurrent", driver().push_context(context));
  const std::string error = run_in(launch, stream, context);
  TRY("cuCtxPopCurrent", driver().pop_context(&popped));
  return error;
}

}  // namespace ostinato
