// Which target's kernels run: the best that this CPU has, or the one that OSTINATO_TARGET names.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(OSTINATO_HAS_V3)
#include <cpuid.h>
#endif
#if defined(OSTINATO_HAS_V4_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ostinato {
namespace {

struct Target {
  const Kernels* (*kernels)();
  bool (*runs_here)();
};

bool always() { return true; }

// OSTINATO_TARGET, or "".
const char* wanted() {
  const char* name = std::getenv("OSTINATO_TARGET");
  return name == nullptr ? "" : name;
}

#if defined(OSTINATO_HAS_V3)
// The compiler may use any instruction of the level; not all have a name for __builtin_cpu_supports
// in every compiler.
bool has_others_of_v3() {
  unsigned a, b, basic = 0, extended = 0, d;
  constexpr unsigned kMovbe = 1u << 22, kF16c = 1u << 29, kLzcnt = 1u << 5;
  if (__get_cpuid(1, &a, &b, &basic, &d) == 0) return false;
  if (__get_cpuid(0x80000001, &a, &b, &extended, &d) == 0) return false;
  return (basic & kMovbe) != 0 && (basic & kF16c) != 0 && (extended & kLzcnt) != 0;
}

bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_others_of_v3();
}
#endif

#if defined(OSTINATO_HAS_V4)
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(OSTINATO_HAS_V4_VNNI)
bool has_v4_vnni() { return has_v4() && __builtin_cpu_supports("avx512vnni"); }
#endif

#if defined(OSTINATO_HAS_V4_BF16) || defined(OSTINATO_HAS_V4_AMX)
// AVX512_BF16: leaf 7, subleaf 1, EAX bit 5.
bool has_v4_bf16() {
  unsigned a = 0, b, c, d;
  return has_v4_vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;
}
#endif

#if defined(OSTINATO_HAS_V4_AMX) && defined(OSTINATO_EMULATES_TILES)
bool has_v4_amx() { return has_v4_bf16(); }
#elif defined(OSTINATO_HAS_V4_AMX)
// AMX_TILE and AMX_BF16, leaf 7, EDX bits 24 and 22; and the system must let this process have the tiles,
// which it asks for here (8 kB more a thread to be saved), and no sooner than they're wanted.
bool has_v4_amx() {
  constexpr unsigned kBoth = 1u << 24 | 1u << 22;
  constexpr int kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d = 0;
  if (std::strcmp(wanted(), "x86-64-v4-amx") != 0 || !has_v4_bf16()) return false;
  const bool is_known = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBoth) == kBoth;
  return is_known && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
}
#endif

// Best first. One more target is one more line here, and in CMakeLists.txt.
const Target kTargets[] = {
#if defined(OSTINATO_HAS_V4_BF16)
    {kernels_x86_64_v4_bf16, has_v4_bf16},
#endif
#if defined(OSTINATO_HAS_V4_VNNI)
    {kernels_x86_64_v4_vnni, has_v4_vnni},
#endif
#if defined(OSTINATO_HAS_V4)
    {kernels_x86_64_v4, has_v4},
#endif
#if defined(OSTINATO_HAS_V3)
    {kernels_x86_64_v3, has_v3},
#endif
    {kernels_baseline, always},
#if defined(OSTINATO_HAS_V4_AMX)
    // Only where OSTINATO_TARGET names it: nobody has run it on a processor with AMX yet.
    {kernels_x86_64_v4_amx, has_v4_amx},
#endif
};
constexpr size_t kTargetCount = sizeof(kTargets) / sizeof(kTargets[0]);

struct Runnable {
  const Kernels* tables[kTargetCount];
  const char* names[kTargetCount];
  size_t count = 0;

  Runnable() {
    for (const Target& target : kTargets) {
      if (!target.runs_here()) continue;
      tables[count] = target.kernels();
      names[count] = tables[count]->name;
      ++count;
    }
  }
};

const Runnable& runnable() {
  static const Runnable found;
  return found;
}

const Kernels* select() {
  if (*wanted() == '\0') return runnable().tables[0];
  for (size_t i = 0; i < runnable().count; ++i)
    if (std::strcmp(runnable().names[i], wanted()) == 0) return runnable().tables[i];
  return nullptr;
}

}  // namespace

const Kernels* selected_kernels() {
  static const Kernels* const selected = select();
  return selected;
}

std::string target() {
  const Kernels* kernels = selected_kernels();
  return kernels == nullptr ? "" : kernels->name;
}

bool computes_bfloat16() {
  const Kernels* kernels = selected_kernels();
  return kernels != nullptr && kernels->forward_bf16 != nullptr;
}

const char* const* runnable_targets(size_t* count) {
  *count = runnable().count;
  return runnable().names;
}

}  // namespace ostinato
