// Memory of one call, from the pool, given back at the end. Each block begins with the address of
// the one taken before it.
struct Arena {
  static constexpr size_t kChunk = size_t{1} << 19, kHeader = 64;
  void* last = nullptr;
  char* next = nullptr;
  size_t left = 0;
  bool failed = false;

  ~Arena() {
    while (last != nullptr) {
      void* before;
      __builtin_memcpy(&before, last, sizeof(before));
      give_buffer(last);
      last = before;
    }
  }

  // n values, aligned to 64 bytes; null, and `failed` set, where there's no memory.
  template <typename T>
  T* take(I n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 127) / 64 * 64;
    if (bytes > left) {
      const size_t size = (bytes > kChunk ? bytes : kChunk) + kHeader;
      char* block = static_cast<char*>(take_buffer(size));
      if (block == nullptr) {
        failed = true;
        return nullptr;
      }
      __builtin_memcpy(block, &last, sizeof(last));
      last = block;
      if (size - kHeader - bytes < left) return reinterpret_cast<T*>(block + kHeader);
      next = block + kHeader;
      left = size - kHeader;
    }
    T* result = reinterpret_cast<T*>(next);
    next += bytes;
    left -= bytes;
    return result;
  }
};
