// Buffers that are kept for the next call: fresh pages cost as much as the kernel itself (0.4 ms at
// 2 MB, 27 ms at 80 MB).
#pragma once

#include <cstddef>

namespace ostinato {

// A block of at least `bytes`, aligned to 64 (to 2 MB, and on huge pages where there are, from 4 MB
// on); contents undefined, and NaN where OSTINATO_POISON is set. Null where there is no memory. From
// any thread.
void* take_buffer(size_t bytes);

// Gives a block back; it's kept for later calls up to a bound (OSTINATO_POOL_MB, 512 by default).
void give_buffer(void* block);

// Bytes held by the pool, in use or kept.
size_t pooled_bytes();

// Asks for huge pages in memory that somebody else allocated and nobody has touched; no effect on
// contents. Fewer page faults: for XLA's fresh buffers.
void prefer_huge_pages(void* data, size_t bytes);

// A block for one scope.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : data_(take_buffer(bytes)) {}
  ~Buffer() {
    if (data_ != nullptr) give_buffer(data_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

}  // namespace ostinato
