#include "drawing.h"

#include <algorithm>

#include "kernels.h"
#include "signature.h"
#include "threads.h"

namespace ostinato {
namespace {

// Numbers of a task: some 10 us, which is what another thread costs.
constexpr int64_t kPart = 1 << 14;

struct Drawing {
  const Kernels& kernels;
  const uint32_t* keys;
  int64_t count, parts;  // numbers of a mask, tasks of a mask
  MaskToDraw like;

  static void draw(void* context, int task) {
    const Drawing& all = *static_cast<Drawing*>(context);
    const int64_t number = task / all.parts, part = task % all.parts;
    MaskToDraw mask = all.like;
    mask.key = all.keys + 2 * number;
    mask.out = static_cast<char*>(mask.out) + number * all.count * mask.size;
    all.kernels.draw_mask(mask, part * kPart, std::min(all.count, (part + 1) * kPart));
  }
};

}  // namespace

std::string draw_masks(const uint32_t* keys, int64_t n, int64_t count, int64_t bound, int64_t size,
                       uint64_t kept, void* out) {
  if (size != 2 && size != 4 && size != 8)
    return "draw: size: expected 2, 4 or 8, got " + std::to_string(size);
  if (bound < 0 || bound > 1 << 23)
    return "draw: bound: expected 0 to 8388608, got " + std::to_string(bound);
  if (n <= 0 || count <= 0) return "";
  try {
    Drawing all = {runnable_kernels(), keys, count, (count + kPart - 1) / kPart,
                   {nullptr, static_cast<uint32_t>(bound), size, kept, out}};
    parallel_for(static_cast<int>(n * all.parts), Drawing::draw, &all);
  } catch (const Refusal& refusal) {
    return refusal.what;
  }
  return "";
}

}  // namespace ostinato
