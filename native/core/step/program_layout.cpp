// Reads a program's spec and lays out its memory.
#include <cstring>
#include <new>

#include "program_parts.h"
#include "spec.h"
#include "threads.h"

namespace ostinato {

void fail_program(const std::string& text) { throw ProgramFailure{"program: " + text}; }

void expect(bool holds, const char* what, int64_t got) {
  if (!holds) fail_program(std::string("expected ") + what + ", got " + std::to_string(got));
}

bool within(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

int64_t ProgramLayout::integer() {
  if (next_ == spec_.size()) fail_program("the spec ends too soon");
  return spec_[next_++];
}

void* Blocks::take(int64_t bytes) {
  if (bytes > kMostValues * 8) fail_program("expected sizes that fit in memory");
  const size_t whole = (size_t(bytes) + 63) / 64 * 64;
  if (whole > left_) {
    const size_t block = whole > kBlock / 4 ? whole : kBlock;
    blocks_.push_back(std::make_unique<Buffer>(block));
    uint8_t* data = static_cast<uint8_t*>(blocks_.back()->data());
    if (data == nullptr) throw std::bad_alloc();
    std::memset(data, 0, block);
    if (block == whole) return data;
    next_ = data, left_ = block;
  }
  uint8_t* data = next_;
  next_ += whole, left_ -= whole;
  return data;
}

void* ProgramLayout::take(int64_t elements, size_t size) {
  if (elements > kMostValues) fail_program("expected sizes that fit in memory");
  return is_draft_ ? nullptr : tile_.blocks.take(elements * int64_t(size));
}

void* ProgramLayout::floats(int64_t elements) { return take(elements, number()); }

void* ProgramLayout::matrix(int64_t width) { return floats(rows() * padded(width)); }

const ProgramLayout::Value& ProgramLayout::value(int64_t number) const {
  expect(within(number, 0, int64_t(values_.size()) - 1), "the number of a value made before",
         number);
  if (values_[size_t(number)].width == 0) fail_program("expected a value, got ids");
  return values_[size_t(number)];
}

const uint8_t* ProgramLayout::mask(int64_t number) const {
  expect(within(number, 0, int64_t(masks_.size()) - 1), "the number of a mask made before", number);
  return masks_[size_t(number)];
}

void ProgramLayout::build() {
  const int64_t streams = integer();
  expect(within(streams, 1, kMostStreams), "1 to 2^24 streams", streams);
  read_inputs();
  const std::vector<int64_t> outputs = read_outputs();
  read_routines();
  if ((spec_.size() - next_) % kStepFields != 0) fail_program("expected whole operations");
  const int64_t count = int64_t((spec_.size() - next_) / kStepFields);
  expect(within(count, 0, kMostSteps), "at most 65536 operations", count);
  while (next_ < spec_.size()) add_step();
  finish(outputs);
}

void ProgramLayout::read_inputs() {
  const int64_t count = integer();
  expect(within(count, 1, kMostSteps), "at least one input", count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t width = integer();
    expect(within(width, 0, kMostWidth), "an input's width", width);
    Value made = {width, nullptr, nullptr};
    if (width == 0) made.ids = static_cast<int32_t*>(take(rows(), sizeof(int32_t)));
    else made.data = matrix(width);
    values_.push_back(made);
    tile_.inputs.push_back({width, made.data, INT32_MAX});
    tile_.ids.push_back(made.ids);
  }
}

std::vector<int64_t> ProgramLayout::read_outputs() {
  const int64_t count = integer();
  expect(within(count, 1, kMostSteps), "at least one output", count);
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(integer());
  return numbers;
}

void ProgramLayout::add_step() {
  Step step{};
  step.record = record_ = (record_ + 7) / 8 * 8;
  std::memcpy(&step.op, &spec_[next_], sizeof(StepOp));
  next_ += kStepFields;
  const StepOp& op = step.op;
  expect(within(op.code, step_embed, step_pool), "a code of step.h", op.code);
  const int64_t last = activation_count() - 1;
  expect(within(op.activation, 0, last), "an activation", op.activation);
  expect(within(op.recurrent_activation, 0, last), "an activation", op.recurrent_activation);
  expect(within(op.has_bias, 0, 1), "has_bias of 0 or 1", op.has_bias);
  expect(within(op.zero_output_for_mask, 0, 1), "zero_output_for_mask of 0 or 1",
         op.zero_output_for_mask);
  if (op.code == step_either) {
    step.mask_in = mask(op.mask_in);
    step.mask_second = mask(op.first);
  } else {
    make_value(step);
  }
  make_mask(step);
  step.record_bytes = record_ - step.record;
  tile_.steps.push_back(step);
}

void ProgramLayout::make_value(Step& step) {
  const StepOp& op = step.op;
  expect(within(op.width, 1, kMostWidth), "a width of at least 1", op.width);
  expect(op.out == int64_t(values_.size()), "the next value's number", op.out);
  read_operands(step);
  step.out = matrix(op.width);
  if (is_cell(op)) make_cell(step);
  if (has_int8(op)) make_int8(step);
  if (op.code == step_routine) make_routine(step);
  if (op.code == step_window) make_window(step);
  if (op.code == step_pool) make_pool(step);
  values_.push_back({op.width, step.out, nullptr});
}

void ProgramLayout::read_operands(Step& step) {
  const StepOp& op = step.op;
  if (op.code == step_embed) {
    expect(within(op.first, 0, int64_t(tile_.ids.size()) - 1), "an input of ids", op.first);
    step.ids = values_[size_t(op.first)].ids;
    expect(values_[size_t(op.first)].width == 0, "an input of ids", op.first);
    return;
  }
  step.first = value(op.first).data;
  step.D = value(op.first).width;
  if (op.code == step_combine || op.code == step_concatenate) return read_second(step);
  if (!is_cell(op) && !is_dense(op) && op.code != step_routine && op.code != step_window)
    expect(op.width == step.D, "the width of what is read", op.width);
}

void ProgramLayout::read_second(Step& step) {
  const StepOp& op = step.op;
  step.second = value(op.second).data;
  const int64_t other = value(op.second).width;
  if (op.code == step_concatenate)
    return expect(step.D + other == op.width, "the sum of two widths", op.width);
  expect(step.D == op.width && other == op.width, "two values of one width", other);
  expect(within(op.kind, 0, 4), "a way to combine", op.kind);
}

void ProgramLayout::make_cell(Step& step) {
  const StepOp& op = step.op;
  expect(within(op.kind, 0, kind_count() - 1), "a kind of cell", op.kind);
  const CellLayout& layout = layout_of(op.kind);
  for (int64_t s = 0; s < layout.states; ++s) {
    step.state[s] = matrix(op.width);
    step.next[s] = matrix(op.width);
    add_state(op.width);
  }
  // All tiles, and what takes the state's place in the late product: step/cells.inl.
  const int64_t tiles = (layout.cols + 1) * rows() * padded(op.width);
  if (layout.has_late() && scratch_ < tiles) scratch_ = tiles;
  if (op.mask_in < 0) return;
  step.mask_in = mask(op.mask_in);
  step.started = static_cast<uint8_t*>(take(rows(), 1));
  add_flags();
}

void ProgramLayout::make_int8(Step& step) {
  if (model_.dtype != Dtype::f32) fail_program("expected float32 around weights of int8, got float64");
  const int64_t N = rows(), widest = step.D > step.op.width ? step.D : step.op.width;
  expect(within(widest, 1, kMostInt8Depth), "at most 131072 numbers before weights of int8", widest);
  StepInt8& int8 = step.int8;
  int8.multiply = runnable_kernels().multiply_digits;
  int8.x_digits = static_cast<uint8_t*>(take(2 * N * padded(step.D), 1));
  int8.x_steps = static_cast<float*>(floats(N));
  if (!is_cell(step.op)) return;
  int8.h_digits = static_cast<uint8_t*>(take(2 * N * padded(step.op.width), 1));
  int8.h_steps = static_cast<float*>(floats(N));
}

void ProgramLayout::add_state(int64_t elements, int64_t span) {
  const int64_t head = span > 0 ? int64_t(sizeof(int64_t)) : 0, bytes = elements * int64_t(number());
  if (is_draft_) model_.states.push_back({record_, bytes, span, false});
  record_ += head + bytes;
  expect(record_ <= kMostValues, "states that fit in memory", record_);
}

void ProgramLayout::add_flags() {
  if (is_draft_) model_.states.push_back({record_, 1, 0, true});
  record_ += 1;
}

void ProgramLayout::make_window(Step& step) {
  const StepOp& op = step.op;
  expect(within(op.kind, window_all, window_weighted), "a kind of window", op.kind);
  expect(within(op.taps, 1, kMostWidth), "at least one tap", op.taps);
  expect(within(op.dilation, 1, kMostWidth), "a dilation of at least 1", op.dilation);
  const int64_t held = op.taps * step.D, kept = span_of(op) * step.D;
  expect(op.width == (op.kind == window_all ? held : step.D), "the window's width", op.width);
  expect(within(held, 1, kMostWidth) && within(kept, 0, kMostWidth), "a window that fits in memory", kept);
  step.taps = floats(held + 16);  // and a vector
  if (kept == 0) return;
  add_state(kept, span_of(op));
}

void ProgramLayout::make_pool(Step& step) {
  const StepOp& op = step.op;
  expect(within(op.kind, pool_mean, pool_largest), "a kind of pool", op.kind);
  if (op.mask_in >= 0) step.mask_in = mask(op.mask_in);
  add_state(op.width);
  if (op.kind == pool_mean) add_state(op.width), add_state(2);
}

void ProgramLayout::make_mask(Step& step) {
  const StepOp& op = step.op;
  const bool must = op.code == step_mask || op.code == step_either;
  if (op.mask_out < 0 && !must) return;
  expect((must || op.code == step_embed) && op.mask_out == int64_t(masks_.size()),
         "the next mask's number", op.mask_out);
  masks_.push_back(static_cast<uint8_t*>(take(rows(), 1)));
  step.mask_out = masks_.back();
}

void ProgramLayout::finish(const std::vector<int64_t>& outputs) {
  for (int64_t number : outputs) {
    const Value& shown = value(number);
    tile_.outputs.push_back({shown.width, shown.data, 0});
  }
  if (is_draft_) model_.initial.assign(size_t((record_ + 63) / 64 * 64), 0);
  StepMemory& m = tile_.memory;
  // For each thread that there may be, work and four columns of at most 64 rows: step/cells.inl.
  const int64_t block = rows() < 64 ? rows() : 64, tiles = 5 * block * 16 * most_threads();
  m.scratch = floats(scratch_ > tiles ? scratch_ : tiles);
  m.N = rows();
  m.records = static_cast<uint8_t**>(take(rows(), sizeof(uint8_t*)));
  m.steps = tile_.steps.data();
  m.count = int64_t(tile_.steps.size());
  m.inputs = tile_.inputs.data();
  m.outputs = tile_.outputs.data();
  m.n_inputs = int64_t(tile_.inputs.size());
  m.n_outputs = int64_t(tile_.outputs.size());
  m.ids = tile_.ids.data();
}

}  // namespace ostinato
