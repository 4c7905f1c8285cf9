// A long call of few rows on two threads: one runs the first operations of each timestep, the other the rest
// of one some timesteps before. What the rest reads of them goes through a buffer.
#include <atomic>
#include <cstring>
#include <new>
#include <thread>

#include "program_parts.h"
#include "threads.h"

namespace ostinato {
namespace {

// Timesteps that are handed on at a time: some 50 us of work, if the buffer stays in a cache; and how many
// times the first part may be ahead.
constexpr double kWorthHanding = 3e6;
constexpr int64_t kBufferBytes = 256 << 10, kMostOfAChunk = 64, kAhead = 4;
constexpr double kLeastShare = 0.15;  // of the work, of either part

double work_of(const ProgramModel& model, const Step& step) {
  const StepOp& op = step.op;
  if (op.code == step_routine) return (*model.routines)[size_t(op.kind)]->plan.work;
  if (is_cell(op))
    return double(op.width) * double(layout_of(op.kind).gates) * double(step.D + op.width);
  if (is_dense(op)) return double(op.width) * double(step.D);
  return double(op.width);
}

}  // namespace

int64_t Pipeline::cut_of(const ProgramModel& model) {
  double all = 0, before = 0, best = kLeastShare;
  int64_t cut = 0;
  for (const Step& step : model.steps) all += work_of(model, step);
  for (size_t i = 0; i + 1 < model.steps.size(); ++i) {
    before += work_of(model, model.steps[i]);
    const double less = (before < all - before ? before : all - before) / all;
    if (less > best) best = less, cut = int64_t(i) + 1;
  }
  return cut;
}

Pipeline::Pipeline(const ProgramModel& model, ProgramTile& first, ProgramTile& second, int64_t cut)
    : model_(model), parts_{part(first), part(second)} {
  parts_[0].count = cut;
  parts_[1].steps += cut, parts_[1].count -= cut;
  const int64_t rows = first.rows, number = int64_t(dtype_size(model.dtype));
  const auto is_first = [&](int64_t value) { return value >= parts_[0].n_inputs && makes(value) < cut; };
  const auto hand = [&](void* from, void* to, int64_t bytes) {
    for (const Handed& known : handed_)
      if (known.from == from) return;
    handed_.push_back({from, to, size_t(bytes)});
    bytes_ += bytes;
  };
  const auto hand_value = [&](int64_t value) {
    if (value < 0 || !is_first(value)) return;
    const size_t step = size_t(makes(value));
    hand(first.steps[step].out, second.steps[step].out, rows * padded(model.steps[step].op.width) * number);
  };
  const auto hand_mask = [&](int64_t mask) {
    for (int64_t i = 0; i < cut && mask >= 0; ++i)
      if (model.steps[size_t(i)].op.mask_out == mask)
        hand(first.steps[size_t(i)].mask_out, second.steps[size_t(i)].mask_out, rows);
  };
  for (size_t i = size_t(cut); i < model.steps.size(); ++i) {
    const StepOp& op = model.steps[i].op;
    hand_mask(op.mask_in);
    if (op.code == step_either) {
      hand_mask(op.first);
    } else if (op.code != step_embed) {
      hand_value(op.first);
      if (op.code == step_combine || op.code == step_concatenate) hand_value(op.second);
    }
  }
  // Either gives the outputs that it makes; inputs are read by both.
  for (size_t i = 0; i < first.outputs.size(); ++i) {
    const bool by_first = is_made(first, first.outputs[i].value, cut);
    outputs_[by_first ? 0 : 1].push_back(i);
    ports_[by_first ? 0 : 1].push_back((by_first ? first : second).outputs[i]);
  }
  for (int i = 0; i < 2; ++i)
    parts_[i].outputs = ports_[i].data(), parts_[i].n_outputs = int64_t(ports_[i].size());
  const int64_t worth = int64_t(kWorthHanding / (double(model.work) * double(rows) + 1)) + 1;
  length_ = worth < kMostOfAChunk ? worth : kMostOfAChunk;
  if (length_ * bytes_ > kBufferBytes) length_ = kBufferBytes / bytes_ > 0 ? kBufferBytes / bytes_ : 1;
  buffer_ = std::make_unique<Buffer>(size_t(kAhead * length_ * bytes_ + 64));
  if (buffer_->data() == nullptr) throw std::bad_alloc();
}

StepMemory Pipeline::part(const ProgramTile& tile) {
  StepMemory made = tile.memory;
  made.alone = true, made.may_share = false;
  return made;
}

// Which step makes a value.
int64_t Pipeline::makes(int64_t value) const {
  for (size_t i = 0; i < model_.steps.size(); ++i)
    if (model_.steps[i].op.code != step_either && model_.steps[i].op.out == value) return int64_t(i);
  return -1;
}

bool Pipeline::is_made(const ProgramTile& tile, const void* value, int64_t before) {
  for (int64_t i = 0; i < before; ++i)
    if (tile.steps[size_t(i)].out == value) return true;
  return false;
}

// Chunks of timesteps. A thread takes the next chunk of either part, and sticks to that part as long as it can: so
// two threads take a part each, and one whose fellow hasn't come, or has lost its core, does what it can itself.
class Pipeline::Call {
 public:
  Call(Pipeline& line, const Work& work, int64_t first, int64_t last, int64_t length, uint8_t* buffer)
      : line_(line), work_(work), first_(first), last_(last), length_(length), buffer_(buffer) {
    chunks_ = (last - first + length - 1) / length;
    for (int i = 0; i < 2; ++i)
      for (size_t at : line.outputs_[i]) outputs_[i].push_back(work.outputs[at]);
  }

  static void run(void* context, int part) {
    Call& all = *static_cast<Call*>(context);
    int idle = 0;
    while (all.parts_[1].done.load(std::memory_order_acquire) < all.chunks_) {
      if (all.take(part)) {
        idle = 0;
      } else if (all.take(1 - part)) {
        part = 1 - part, idle = 0;
      } else if (++idle > 1000) {
        std::this_thread::yield();
      }
    }
  }

 private:
  struct alignas(64) Part {
    std::atomic<int64_t> done{0};
    std::atomic<bool> is_taken{false};
  };

  // Runs a part's next chunk, where there is one and nobody is at that part.
  bool take(int part) {
    Part &own = parts_[part], &other = parts_[1 - part];
    if (own.is_taken.load(std::memory_order_relaxed) || own.is_taken.exchange(true, std::memory_order_acquire))
      return false;
    const int64_t chunk = own.done.load(std::memory_order_relaxed);
    const int64_t ahead = chunk - other.done.load(std::memory_order_acquire);
    const bool can = chunk < chunks_ && (part == 0 ? ahead < kAhead : ahead < 0);
    if (can) {
      run_chunk(part, chunk);
      own.done.store(chunk + 1, std::memory_order_release);
    }
    own.is_taken.store(false, std::memory_order_release);
    return can;
  }

  void run_chunk(int part, int64_t chunk) {
    uint8_t* at = buffer_ + chunk % kAhead * length_ * line_.bytes_;
    const int64_t begin = first_ + chunk * length_, end = begin + length_ < last_ ? begin + length_ : last_;
    for (int64_t t = begin; t < end; ++t) {
      if (part == 1) at = line_.move(at, true);
      line_.model_.kernels->run(line_.parts_[part], work_.inputs, outputs_[part].data(), work_.T, t, t + 1,
                                work_.resets);
      if (part == 0) at = line_.move(at, false);
    }
  }

  Pipeline& line_;
  const Work& work_;
  const int64_t first_, last_, length_;
  uint8_t* const buffer_;
  int64_t chunks_;
  std::vector<void*> outputs_[2];
  Part parts_[2];
};

void Pipeline::run(const Work& work, int64_t first, int64_t last) {
  Call call(*this, work, first, last, length_, static_cast<uint8_t*>(buffer_->data()));
  for (StepMemory& part : parts_) model_.kernels->load_rows(part);
  parallel_for(2, Call::run, &call);
  for (StepMemory& part : parts_) model_.kernels->store_rows(part);
}

void Pace::report(bool two, double timestep, int64_t now) {
  if (!two) {
    alone_ = alone_ > 0 && alone_ * 1.05 < timestep ? alone_ * 1.05 : timestep;
  } else if (timestep < alone_) {
    length_ = length_ / 2 > kFirst ? length_ / 2 : kFirst;
  } else {
    again_ = now + length_;
    length_ = length_ * 4 < kLongest ? length_ * 4 : kLongest;
  }
}

// A timestep's values between a buffer and the tiles.
uint8_t* Pipeline::move(uint8_t* at, bool out) const {
  for (const Handed& each : handed_) {
    if (out) std::memcpy(each.to, at, each.bytes);
    else std::memcpy(at, each.from, each.bytes);
    at += each.bytes;
  }
  return at;
}

}  // namespace ostinato
