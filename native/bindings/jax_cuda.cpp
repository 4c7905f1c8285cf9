// JAX's door to the kernels of ostinato.cuda: one XLA FFI handler that launches any of them. All that
// it has to know is in its attributes, the machine code too, so that a compiled program which JAX
// keeps on disk needs nothing of the process that made it:
//
//   image     a cubin, as int64s
//   launch    a key of it (2), blocks, threads, shared, barrier, groups, at_once, timesteps, rows, every
//   pointers  of each pointer of `Call` in kernel.cuh: which array it's of, those that are given
//             counted first (-1: null), and how many bytes into it
//
// The last array that it gives is the call's workspace.
#include <exception>
#include <string>

#include "cuda.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace ostinato {
namespace {

using Numbers = ffi::Span<const int64_t>;

ffi::Error wrong(const std::string& what) {
  return ffi::Error::Internal("[ostinato] the engine 'cuda': " + what);
}

ffi::Error run(void* stream, Numbers image, Numbers numbers, Numbers places, ffi::RemainingArgs args,
               ffi::RemainingRets rets) {
  std::vector<char*> arrays;
  for (size_t i = 0; i < args.size(); ++i) {
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return wrong("an operand can't be read");
    arrays.push_back(static_cast<char*>(buffer->untyped_data()));
  }
  CudaLaunch launch{};
  for (size_t i = 0; i < rets.size(); ++i) {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return wrong("a result can't be read");
    arrays.push_back(static_cast<char*>((*buffer)->untyped_data()));
    launch.workspace = arrays.back();
    launch.workspace_bytes = (*buffer)->size_bytes();
  }
  const size_t wanted = 11;
  if (numbers.size() != wanted || places.size() % 2 != 0 || arrays.empty()) {
    return wrong("its attributes aren't those of this version of Ostinato");
  }
  const int64_t* n = numbers.begin();
  launch.image = image.begin();
  launch.key[0] = static_cast<uint64_t>(n[0]), launch.key[1] = static_cast<uint64_t>(n[1]);
  launch.blocks = n[2], launch.threads = n[3], launch.shared = n[4], launch.barrier = n[5];
  launch.groups = n[6], launch.at_once = n[7];
  launch.timesteps = n[8], launch.rows = n[9], launch.every = n[10];
  for (const int64_t* place = places.begin(); place != places.end(); place += 2) {
    if (place[0] >= static_cast<int64_t>(arrays.size())) return wrong("an array is missing");
    launch.pointers.push_back(place[0] < 0 ? nullptr : arrays[place[0]] + place[1]);
  }
  const std::string error = cuda_launch(launch, stream);
  return error.empty() ? ffi::Error::Success() : wrong(error);
}

// XLA is built without exceptions: none may leave a handler.
ffi::Error on_card(void* stream, Numbers image, Numbers launch, Numbers pointers,
                   ffi::RemainingArgs args, ffi::RemainingRets rets) {
  try {
    return run(stream, image, launch, pointers, args, rets);
  } catch (const std::exception& error) {
    return wrong(error.what());
  }
}

// Without a stream, which XLA has on a GPU alone: with a driver that is none, on the CPU (tests/cuda).
ffi::Error on_host(Numbers image, Numbers launch, Numbers pointers, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  return on_card(nullptr, image, launch, pointers, args, rets);
}

template <class Binding>
auto with_the_rest(Binding binding) {
  return std::move(binding)
      .template Attr<Numbers>("image")
      .template Attr<Numbers>("launch")
      .template Attr<Numbers>("pointers")
      .RemainingArgs()
      .RemainingRets();
}

XLA_FFI_DEFINE_HANDLER(card_handler, on_card,
                       with_the_rest(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>()));
XLA_FFI_DEFINE_HANDLER(host_handler, on_host, with_the_rest(ffi::Ffi::Bind()));

}  // namespace

void* cuda_handler(bool on_card) {
  return on_card ? reinterpret_cast<void*>(card_handler) : reinterpret_cast<void*>(host_handler);
}

}  // namespace ostinato
