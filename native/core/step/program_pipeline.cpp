// A long call of few rows on two threads: one runs the first operations of each timestep, the other the rest
// of one some timesteps before. What the rest reads of them goes through a buffer.
#include <cstring>
#include <new>

#include "program_parts.h"
#include "threads.h"

namespace ostinato {
namespace {

// Timesteps between two meetings of the threads: some 50 us of work, if the buffer stays in a cache.
constexpr double kWorthAMeeting = 3e6;
constexpr int64_t kBufferBytes = 256 << 10, kMostOfAChunk = 64;
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

void Pipeline::run(const void* const* inputs, void* const* outputs, int64_t T, const uint8_t* resets) {
  const int64_t rows = parts_[0].N;
  int64_t length = int64_t(kWorthAMeeting / (double(model_.work) * double(rows) + 1)) + 1;
  length = length < kMostOfAChunk ? length : kMostOfAChunk;
  if (length * bytes_ > kBufferBytes) length = kBufferBytes / bytes_ > 0 ? kBufferBytes / bytes_ : 1;
  const Buffer buffer(size_t(2 * length * bytes_ + 64));
  if (buffer.data() == nullptr) throw std::bad_alloc();
  Call call{*this, inputs, {{}, {}}, T, length, resets, static_cast<uint8_t*>(buffer.data())};
  for (int i = 0; i < 2; ++i)
    for (size_t at : outputs_[i]) call.outputs[i].push_back(outputs[at]);
  for (StepMemory& part : parts_) model_.kernels->load_rows(part);
  parallel_team(2, Call::work, &call);
  for (StepMemory& part : parts_) model_.kernels->store_rows(part);
}

void Pipeline::Call::work(void* context, int member, int members, Barrier* barrier) {
  Call& all = *static_cast<Call*>(context);
  const int64_t chunks = (all.T + all.length - 1) / all.length;
  for (int64_t chunk = 0; chunk <= chunks; ++chunk) {
    if ((member == 0 || members == 1) && chunk < chunks) all.run_chunk(0, chunk);
    if ((member == 1 || members == 1) && chunk > 0) all.run_chunk(1, chunk - 1);
    if (barrier != nullptr) barrier->wait();
  }
}

void Pipeline::Call::run_chunk(int part, int64_t chunk) {
  uint8_t* at = buffer + chunk % 2 * length * line.bytes_;
  const int64_t last = (chunk + 1) * length < T ? (chunk + 1) * length : T;
  for (int64_t t = chunk * length; t < last; ++t) {
    if (part == 1) at = line.move(at, true);
    line.model_.kernels->run(line.parts_[part], inputs, outputs[part].data(), T, t, t + 1, resets);
    if (part == 0) at = line.move(at, false);
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
