// The pool of buffers: alignment, reuse, its bound, many threads, fork.
#include "../core/memory.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"

using namespace ostinato;

namespace {

constexpr size_t kMegabyte = size_t{1} << 20;

void test_alignment() {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, 3 * kMegabyte, 4 * kMegabyte,
                       9 * kMegabyte + 1}) {
    Buffer buffer(bytes);
    size_t alignment = bytes >= 4 * kMegabyte ? 2 * kMegabyte : 64;
    CHECK(buffer.data() != nullptr, "no memory for %zu bytes", bytes);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % alignment == 0, "%zu bytes at %p", bytes,
          buffer.data());
    std::memset(buffer.data(), 1, bytes);
  }
}

void test_reuse() {
  void* first = take_buffer(100000);
  give_buffer(first);
  size_t held = pooled_bytes();
  for (int i = 0; i < 1000; ++i) {
    void* again = take_buffer(100000 - size_t(i));  // nearly one size: the same block
    CHECK(again == first, "%p, not %p", again, first);
    give_buffer(again);
  }
  CHECK(pooled_bytes() == held, "%zu bytes, before %zu", pooled_bytes(), held);
}

void test_bound() {  // OSTINATO_POOL_MB is 16 (CMakeLists.txt)
  for (int i = 1; i < 200; ++i) give_buffer(take_buffer(size_t(i) * 77777));
  CHECK(pooled_bytes() <= 16 * kMegabyte, "%zu bytes are kept", pooled_bytes());
  {
    Buffer large(100 * kMegabyte);
    CHECK(large.data() != nullptr, "no memory");
    CHECK(pooled_bytes() >= 100 * kMegabyte, "%zu bytes", pooled_bytes());
  }
  CHECK(pooled_bytes() <= 16 * kMegabyte, "%zu bytes are kept", pooled_bytes());
}

void test_no_memory() {
  CHECK(take_buffer(SIZE_MAX) == nullptr, "memory without end");
  CHECK(take_buffer(SIZE_MAX / 8) == nullptr, "memory without end");
}

void test_many_threads() {
  std::vector<std::thread> threads;
  for (int number = 0; number < 8; ++number)
    threads.emplace_back([number] {
      tests::Random random{uint64_t(number)};
      for (int i = 0; i < 2000; ++i) {
        size_t bytes = size_t(random.below(50000)) + 1;
        Buffer buffer(bytes);
        auto* data = static_cast<unsigned char*>(buffer.data());
        std::memset(data, number, bytes);
        CHECK(data[bytes / 2] == number && data[bytes - 1] == number, "two have one block");
      }
    });
  for (std::thread& thread : threads) thread.join();
}

void test_huge_pages_keep_contents() {
  std::vector<unsigned char> data(9 * kMegabyte, 7);
  prefer_huge_pages(data.data() + 1, data.size() - 1);
  for (unsigned char byte : data) CHECK(byte == 7, "changed");
}

void test_fork() {
  Buffer before(5000);
  pid_t child = fork();
  if (child == 0) {
    alarm(20);
    Buffer mine(5000);
    _exit(mine.data() != nullptr && mine.data() != before.data() ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child, "no child");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %d", status);
}

}  // namespace

int main() {
  test_alignment();
  test_reuse();
  test_bound();
  test_no_memory();
  test_many_threads();
  test_huge_pages_keep_contents();
  test_fork();
}
