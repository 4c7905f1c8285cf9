// The pool: every index once, teams at the same time, nested and concurrent calls, fork after use.
#include "../core/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

using namespace ostinato;

namespace {

struct Counts {
  std::vector<std::atomic<int>> of;
  explicit Counts(int n) : of(size_t(n)) {}
  void check(int times) const {
    for (size_t i = 0; i < of.size(); ++i)
      CHECK(of[i] == times, "index %zu ran %d times, not %d", i, int(of[i]), times);
  }
};

void count(void* context, int i) { ++static_cast<Counts*>(context)->of[size_t(i)]; }

void test_every_index_runs_once() {
  for (int n : {0, 1, 2, 3, 7, 100, 1000}) {
    Counts counts(n);
    for (int times = 1; times <= 50; ++times) {
      parallel_for(n, count, &counts);
      counts.check(times);
    }
  }
}

// Members of a team write, wait, and read what their neighbours wrote.
struct Team {
  int written[256] = {};
  int size = 0;
};

void member(void* context, int i, int n, Barrier* barrier) {
  Team& team = *static_cast<Team*>(context);
  CHECK((barrier == nullptr) == (n == 1), "a team of %d with barrier %p", n,
        static_cast<void*>(barrier));
  if (i == 0) team.size = n;
  for (int round = 0; round < 20; ++round) {
    if (barrier != nullptr) barrier->wait();
    team.written[i] = round * 1000 + i;
    if (barrier != nullptr) barrier->wait();
    int next = (i + 1) % n;
    CHECK(team.written[next] == round * 1000 + next, "member %d of %d saw %d in round %d", i, n,
          team.written[next], round);
  }
}

void test_teams() {
  for (int wanted : {1, 2, 3, 4, 300}) {
    int n = wanted < thread_count() ? wanted : thread_count();
    for (int times = 0; times < 10; ++times) {
      Team team;
      parallel_team(wanted, member, &team);
      CHECK(team.size == n, "wanted %d, expected a team of %d, got %d", wanted, n, team.size);
    }
  }
}

void alone(void* context, int i, int n, Barrier*) {
  CHECK(i == 0 && n == 1, "a team inside a job has %d members", n);
  parallel_for(10, count, context);
}

void nested(void* context, int) {
  parallel_for(10, count, context);
  parallel_team(8, alone, context);
}

void test_nested_calls_run_serially() {
  Counts counts(10);
  parallel_for(20, nested, &counts);
  counts.check(40);
}

void test_concurrent_callers() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller)
    callers.emplace_back([] {
      Counts counts(17);
      for (int times = 1; times <= 500; ++times) {
        parallel_for(17, count, &counts);
        counts.check(times);
      }
    });
  for (std::thread& caller : callers) caller.join();
}

// Callers of teams at the same time: some get the pool, and the others a team of one.
void whole_or_alone(void* context, int i, int n, Barrier*) {
  static_cast<int*>(context)[i] = n;
}

void test_concurrent_teams() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller)
    callers.emplace_back([] {
      for (int times = 0; times < 500; ++times) {
        int sizes[256] = {};
        parallel_team(2, whole_or_alone, sizes);
        CHECK(sizes[0] == 1 || (sizes[0] == 2 && sizes[1] == 2), "%d and %d", sizes[0], sizes[1]);
      }
    });
  for (std::thread& caller : callers) caller.join();
}

void test_sleepers_wake() {
  Counts counts(4);
  for (int times = 1; times <= 20; ++times) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    parallel_for(4, count, &counts);
    counts.check(times);
  }
}

void test_fork_after_use() {
  Counts counts(10);
  parallel_for(10, count, &counts);
  pid_t child = fork();
  if (child == 0) {
    Counts mine(10);
    for (int times = 1; times <= 20; ++times) parallel_for(10, count, &mine);
    mine.check(20);
    _exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child, "no child");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %d", status);
  parallel_for(10, count, &counts);
  counts.check(2);
}

// Forked while other threads are inside the pool, which are not in the child.
void test_fork_during_use() {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    Counts counts(3);
    while (!stop) parallel_for(3, count, &counts);
  });
  for (int times = 0; times < 20; ++times) {
    pid_t child = fork();
    if (child == 0) {
      alarm(20);  // a child that hangs fails
      Counts mine(10);
      parallel_for(10, count, &mine);
      mine.check(1);
      _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child, "no child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %d", status);
  }
  stop = true;
  busy.join();
}

}  // namespace

int main() {
  alarm(120);  // a deadlock fails
  test_every_index_runs_once();
  test_teams();
  test_nested_calls_run_serially();
  test_concurrent_callers();
  test_concurrent_teams();
  test_sleepers_wake();
#if !defined(OSTINATO_NO_FORK)  // the thread sanitizer doesn't follow a fork of several threads
  test_fork_after_use();
  test_fork_during_use();
#endif
  std::printf("%d threads\n", thread_count());
}
