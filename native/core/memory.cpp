#include "memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace ostinato {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLarge = size_t{4} << 20;  // from here on 2 MB pages pay
constexpr size_t kPage = 4096;
constexpr size_t kDefaultBound = size_t{512} << 20;

// Sizes are rounded up to 1, 1.25, 1.5 or 1.75 times a power of two, so that calls of nearly one
// size (another number of timesteps) share blocks; at most a quarter is wasted. Zero: too large.
size_t rounded(size_t bytes) {
  if (bytes <= 256) return 256;
  if (bytes > SIZE_MAX / 4) return 0;
  size_t step = 64;
  while (step * 8 <= bytes) step *= 2;
  if (bytes >= kLarge && step < kHugePage) step = kHugePage;
  return (bytes + step - 1) / step * step;
}

size_t bound() {
  const char* text = getenv("OSTINATO_POOL_MB");
  char* end = nullptr;
  unsigned long long megabytes = text == nullptr ? 0 : strtoull(text, &end, 10);
  bool number = text != nullptr && end != text && *end == '\0' && megabytes < (1ull << 30);
  return number ? size_t(megabytes) << 20 : kDefaultBound;
}

void* allocate(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, bytes >= kLarge ? kHugePage : 64, bytes) != 0) return nullptr;
  prefer_huge_pages(block, bytes);
  return block;
}

class Pool {
 public:
  void* take(size_t bytes) {
    size_t size = rounded(bytes);
    if (size == 0) return nullptr;
    std::lock_guard<std::mutex> lock(mutex_);
    used_.reserve(used_.size() + 1);
    void* block = take_kept(size);
    if (block == nullptr) block = allocate(size);
    if (block == nullptr && !kept_.empty()) {
      release_oldest(kept_.size());
      block = allocate(size);
    }
    if (block == nullptr) return nullptr;
    try {
      used_.emplace(block, size);
    } catch (const std::bad_alloc&) {
      free(block);
      return nullptr;
    }
    used_bytes_ += size;
    return block;
  }

  void give(void* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = used_.find(block);
    size_t size = found->second;
    used_.erase(found);
    used_bytes_ -= size;
    if (size > bound_) return free(block);
    size_t count = 0, kept = kept_bytes_;
    while (kept + size > bound_) kept -= kept_[count++].size;
    release_oldest(count);
    kept_.push_back({block, size});
    kept_bytes_ += size;
  }

  size_t bytes() {
    std::lock_guard<std::mutex> lock(mutex_);
    return used_bytes_ + kept_bytes_;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  struct Kept {
    void* block;
    size_t size;
  };

  // The block of this size that was given back last: the warmest. Null where there is none.
  void* take_kept(size_t size) {
    for (size_t i = kept_.size(); i-- > 0;) {
      if (kept_[i].size != size) continue;
      void* block = kept_[i].block;
      kept_.erase(kept_.begin() + std::ptrdiff_t(i));
      kept_bytes_ -= size;
      return block;
    }
    return nullptr;
  }

  void release_oldest(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      kept_bytes_ -= kept_[i].size;
      free(kept_[i].block);
    }
    kept_.erase(kept_.begin(), kept_.begin() + std::ptrdiff_t(count));
  }

  std::mutex mutex_;
  const size_t bound_ = bound();
  std::unordered_map<void*, size_t> used_;
  std::vector<Kept> kept_;  // oldest first
  size_t used_bytes_ = 0, kept_bytes_ = 0;
};

Pool& pool();

// A child of fork must not find the mutex held by a thread that it doesn't have.
void before_fork() { pool().mutex().lock(); }
void after_fork() { pool().mutex().unlock(); }

Pool& make_pool() {
  static Pool& made = *new Pool;  // never destroyed: buffers may outlive static objects
  pthread_atfork(before_fork, after_fork, after_fork);
  return made;
}

Pool& pool() {
  static Pool& one = make_pool();
  return one;
}

bool poisoned() {
  static const bool wanted = getenv("OSTINATO_POISON") != nullptr;
  return wanted;
}

}  // namespace

void* take_buffer(size_t bytes) {
  void* block = nullptr;
  try {
    block = pool().take(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  if (block != nullptr && poisoned()) std::memset(block, 0xff, bytes);
  return block;
}

void give_buffer(void* block) {
  try {
    pool().give(block);
  } catch (const std::bad_alloc&) {
    free(block);  // there was no memory to remember it by
  }
}

size_t pooled_bytes() { return pool().bytes(); }

void prefer_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  if (bytes < kLarge) return;
  uintptr_t start = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes, (void)kPage;
#endif
}

}  // namespace ostinato
