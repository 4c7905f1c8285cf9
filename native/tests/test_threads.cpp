// The pool: every index once, teams at the same time, nested and concurrent calls, fork after use;
// and the same on the threads of an OpenMP runtime.
#include "../core/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../core/openmp.h"
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

// An OpenMP runtime as far as we see it: a team of `most` threads, or of what it has just now.
namespace runtime {
std::atomic<int> most{0}, given{0}, teams{0};
thread_local int number = 0, size = 1;
pid_t process = 0;

void member(void (*task)(void*), void* data, int i, int n) {
  number = i, size = n;
  task(data);
  number = 0, size = 1;
}

void parallel(void (*task)(void*), void* data, unsigned threads, unsigned) {
  CHECK(getpid() == process, "a child of fork used the parent's runtime");
  CHECK(threads == 0, "asked for %u threads, not for the usual team", threads);
  ++teams;
  const int n = given;
  std::vector<std::thread> others;
  for (int i = 1; i < n; ++i) others.emplace_back(member, task, data, i, n);
  member(task, data, 0, n);
  for (std::thread& other : others) other.join();
}

// A thread that comes late.
void parallel_late(void (*task)(void*), void* data, unsigned, unsigned) {
  ++teams;
  member(task, data, 0, 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  member(task, data, 1, 2);
}

// Threads that are there at once, whatever else the machine does.
void parallel_at_once(void (*task)(void*), void* data, unsigned, unsigned) {
  ++teams;
  for (int i = 0; i < 2; ++i) member(task, data, i, 2);
}

void have(int threads, int at_the_moment) { most = threads, given = at_the_moment; }
}  // namespace runtime

void count_members(void* context, int, int n, Barrier*) {
  static_cast<std::atomic<int>*>(context)->store(n);
}

void check_lent(int threads, int at_the_moment, int expected_size, bool expected_use) {
  runtime::have(threads, at_the_moment);
  const int before = runtime::teams;
  std::atomic<int> size{0};
  parallel_team(2, count_members, &size);
  // After a long wait for a thread, as on a busy machine, it's the pool's turn for a while.
  for (int again = 0; expected_use && runtime::teams == before && again < 20; ++again) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    parallel_team(2, count_members, &size);
  }
  CHECK(size == expected_size, "a team of %d, not of %d", int(size), expected_size);
  CHECK((runtime::teams > before) == expected_use, "the runtime's threads: %d calls before, %d after",
        before, int(runtime::teams));
}

void lend(decltype(OpenMP::parallel) parallel) {
  lend_openmp({parallel, [] { return runtime::number; }, [] { return runtime::size; },
               [] { return int(runtime::most); }});
}

void meet_late(void* context, int i, int, Barrier* barrier) {
  const int milliseconds = *static_cast<int*>(context);
  if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  if (barrier != nullptr) barrier->wait();
}

// A team that waits for a member that has no core says so, for a while.
void test_teams_that_wait() {
  if (thread_count() < 2) return;
  int late = 20;
  parallel_team(2, meet_late, &late);
  CHECK(!teams_meet(), "a wait of 20 ms wasn't noticed");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(teams_meet(), "it's remembered for too long");
}

// Who has waited long for the runtime's threads does without them for a while.
void test_late_threads() {
  runtime::have(2, 2);
  lend(runtime::parallel_late);
  const int before = runtime::teams;
  Counts counts(4);
  for (int times = 1; times <= 20; ++times) {
    parallel_for(4, count, &counts);
    counts.check(times);
  }
  CHECK(runtime::teams <= before + 2, "%d teams of late threads", runtime::teams - before);
}

// How many of the runtime's teams work while calls go on.
int teams_within(int milliseconds) {
  const int before = runtime::teams;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  std::atomic<int> size{0};
  while (std::chrono::steady_clock::now() < end) {
    parallel_team(2, count_members, &size);
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return runtime::teams - before;
}

// One long wait, and they're back within some milliseconds; where each wait is long, less and less
// often; and soon again when they come.
void test_a_while_grows_and_shrinks() {
  runtime::have(2, 2);
  lend(runtime::parallel_at_once);
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  teams_within(50);
  lend(runtime::parallel_late);
  CHECK(teams_within(2) <= 2, "no long wait");
  lend(runtime::parallel_at_once);
  CHECK(teams_within(400) >= 20, "one long wait, and the runtime's threads don't come back");
  lend(runtime::parallel_late);
  const int late = teams_within(1500);
  CHECK(late >= 3 && late <= 12, "%d teams of late threads in 1500 ms", late);
  lend(runtime::parallel_at_once);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  CHECK(teams_within(400) >= 20, "the runtime's threads don't come back");
}

void test_lent_threads() {
  if (most_threads() < 2) return;
  runtime::process = getpid();
  lend(runtime::parallel);
  const bool asked = getenv("OSTINATO_NUM_THREADS") != nullptr;
  check_lent(1, 1, asked ? 2 : 1, false);  // its teams are too small: ours, if they were asked for
  CHECK(thread_count() == (asked ? most_threads() : 1), "%d threads", thread_count());
  check_lent(4, 1, 1, true);   // it has no more at the moment
  check_lent(4, 4, 2, true);   // its team is larger: two of them
  runtime::have(most_threads(), most_threads());
  test_every_index_runs_once();
  test_teams();
  test_nested_calls_run_serially();
  test_concurrent_callers();
  test_concurrent_teams();
#if !defined(OSTINATO_NO_FORK)
  test_fork_after_use();
#endif
  test_late_threads();
  test_a_while_grows_and_shrinks();
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
  test_teams_that_wait();
#if !defined(OSTINATO_NO_FORK)  // the thread sanitizer doesn't follow a fork of several threads
  test_fork_after_use();
  test_fork_during_use();
#endif
  test_lent_threads();
  std::printf("%d threads\n", thread_count());
}
