// Programs of steps: made, run, and their states read and written.
#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

#include "program_parts.h"
#include "spec.h"
#include "threads.h"

namespace ostinato {
namespace {

// How many rows go through the timestep together: so many that weights are read for all of them at once, and
// so few that their values stay in L2.
constexpr int64_t kTileRows = 128;
// Of a call, in multiplications and additions, for each thread: some 20 us; for a pipeline; and what is run before
// it's asked again whether that is quicker than one thread: some 600 us.
constexpr double kWorthATile = 2e6, kWorthAPipeline = 1e7, kWorthAStretch = 4e7;

template <class F>
std::string text_of_failure(F f) {
  try {
    f();
    return "";
  } catch (const ProgramFailure& failure) {
    return failure.text;
  } catch (const Refusal& refusal) {
    return "program: " + refusal.what;
  } catch (const std::bad_alloc&) {
    return "program: out of memory";
  }
}

int64_t nanoseconds() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

// A row's state between its record and how users have it: a window's ring (windows.inl) in order.
struct StateOfRow {
  const StatePlace& place;
  uint8_t* record;

  uint8_t* slot(int64_t i) const {
    int64_t oldest;
    uint8_t* const ring = record + place.offset;
    std::memcpy(&oldest, ring, sizeof(oldest));
    return ring + sizeof(oldest) + size_t((oldest + i) % place.span * row());
  }
  int64_t row() const { return place.bytes / place.span; }
  void read(uint8_t* to) const {
    if (place.span == 0) std::memcpy(to, record + place.offset, size_t(place.bytes));
    for (int64_t i = 0; i < place.span; ++i) std::memcpy(to + i * row(), slot(i), size_t(row()));
  }
  void write(const uint8_t* from) const {
    if (place.span == 0) std::memcpy(record + place.offset, from, size_t(place.bytes));
    for (int64_t i = 0; i < place.span; ++i) std::memcpy(slot(i), from + i * row(), size_t(row()));
  }
};

}  // namespace

// One call at a time: another one is refused, and changes nothing.
class Program::Turn {
 public:
  explicit Turn(Program& program) : busy_(program.busy_), mine_(!busy_.test_and_set()) {}
  ~Turn() {
    if (mine_) busy_.clear();
  }
  bool mine() const { return mine_; }

 private:
  std::atomic_flag& busy_;
  const bool mine_;
};

const char* const Program::kBusy =
    "a stream takes one call at a time; this one is in use in another thread";

Program::~Program() = default;

// --- made ---

std::unique_ptr<Program> Program::make(Dtype dtype, const std::vector<int64_t>& spec,
                                       const Tensor* weights, size_t n_weights,
                                       std::string* error) {
  std::unique_ptr<Program> program(new Program);
  *error = text_of_failure([&] {
    program->model_ = ProgramModel::make(dtype, spec, weights, n_weights);
    program->dtype_ = dtype;
    program->describe();
    program->grow(spec[0]);
    program->make_tiles(program->streams_);
  });
  if (!error->empty()) program.reset();
  return program;
}

std::unique_ptr<Program> Program::another(int64_t streams, std::string* error) {
  Turn turn(*this);
  std::unique_ptr<Program> program(new Program);
  *error = !turn.mine() ? kBusy : text_of_failure([&] {
    expect(within(streams, 1, kMostStreams), "1 to 2^24 streams", streams);
    program->model_ = model_;
    program->dtype_ = dtype_;
    program->describe();
    program->grow(streams);
    program->make_tiles(program->streams_);
  });
  if (!error->empty()) program.reset();
  return program;
}

void Program::describe() {
  kernels_ = model_->kernels;
  const int64_t size = int64_t(dtype_size(dtype_));
  for (const StepPort& port : model_->inputs) {
    reads_ids_.push_back(port.width == 0);
    input_bytes_.push_back(port.width == 0 ? int64_t(sizeof(int32_t)) : port.width * size);
  }
  for (const StepPort& port : model_->outputs) output_bytes_.push_back(port.width * size);
  for (const StatePlace& place : model_->states) {
    state_bytes_.push_back(place.bytes);
    state_is_flags_.push_back(place.is_flags);
  }
  work_ = model_->work;
}

// Of few rows one tile, in which threads may share the work of a row; of more, one for each thread.
void Program::make_tiles(int64_t streams) {
  pipeline_.reset(), second_.reset(), pace_.reset();
  const bool alone = streams > kTileRows;
  std::vector<std::unique_ptr<ProgramTile>> made;
  for (int i = 0; i < (alone ? most_threads() : 1); ++i) {
    made.push_back(std::make_unique<ProgramTile>());
    ProgramTile& tile = *made.back();
    tile.rows = std::min(streams, kTileRows);
    tile.memory.alone = alone;
    ProgramLayout(tile, *model_, model_->spec, false).build();
    model_->lend(tile);
    tile.memory.may_share = !alone && kernels_->may_share(tile.memory);
  }
  tiles_ = std::move(made);
}

uint8_t* Program::record(int64_t row) const {
  return static_cast<uint8_t*>(records_->data()) + size_t(row) * model_->initial.size();
}

// Room for so many rows, and twice as much as before, if more; new rows as they begin.
void Program::grow(int64_t streams) {
  const int64_t bytes = int64_t(model_->initial.size());
  if (streams > capacity_) {
    int64_t capacity = std::max(streams, std::min(2 * capacity_, kMostStreams));
    if (bytes > 0) expect(capacity <= kMostValues / bytes, "states that fit in memory", capacity);
    auto records = std::make_unique<Buffer>(size_t(std::max<int64_t>(capacity * bytes, 64)));
    if (records->data() == nullptr) throw std::bad_alloc();
    seen_.resize(size_t(capacity), 0);
    if (streams_ > 0) std::memcpy(records->data(), records_->data(), size_t(streams_ * bytes));
    records_ = std::move(records);
    capacity_ = capacity;
  }
  for (int64_t row = streams_; row < streams && bytes > 0; ++row)
    std::memcpy(record(row), model_->initial.data(), size_t(bytes));
  streams_ = streams;
}

std::string Program::resize(int64_t streams) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  return text_of_failure([&] {
    expect(within(streams, 1, kMostStreams), "1 to 2^24 streams", streams);
    rest();
    if (std::min(streams_, kTileRows + 1) != std::min(streams, kTileRows + 1)) make_tiles(streams);
    grow(streams);
  });
}

// --- weights ---

std::string Program::set_weights(const Tensor* weights, size_t n_weights) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  return text_of_failure([&] {
    const auto model = ProgramModel::make(dtype_, model_->spec, weights, n_weights);
    for (size_t i = 0; i < model->steps.size(); ++i)
      if (model->steps[i].op.code == step_embed && model->steps[i].D != model_->steps[i].D)
        fail_program("table: expected as many rows as before");
    model->initial = model_->initial;
    adopt(model);
  });
}

std::string Program::share_weights(Program& other) {
  Turn turn(*this), others(other);
  if (!turn.mine() || !others.mine()) return kBusy;
  const bool same = dtype_ == other.dtype_ && model_->spec.size() == other.model_->spec.size() &&
                    std::equal(model_->spec.begin() + 1, model_->spec.end(), other.model_->spec.begin() + 1);
  if (!same) return "program: expected another of the same spec";
  adopt(other.model_);
  return "";
}

void Program::adopt(std::shared_ptr<ProgramModel> model) {
  pipeline_.reset(), second_.reset(), pace_.reset();
  model_ = std::move(model);
  for (const auto& tile : tiles_) model_->lend(*tile);
}

std::string Program::set_initial(const void* const* from) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  if (model_.use_count() > 1) return "program: expected weights that no other stream has";
  for (const StatePlace& place : model_->states)
    StateOfRow{place, model_->initial.data()}.write(static_cast<const uint8_t*>(*from++));
  return "";
}

// --- run ---

// The states of all rows into their records.
void Program::rest() {
  if (is_resident_) kernels_->store_rows(tiles_[0]->memory);
  is_resident_ = false;
}

// Counts the rows of a call, and says what is wrong with them; `once` where none may be there twice.
std::string Program::choose(Chosen& chosen, bool once) {
  if (chosen.rows == nullptr) {
    if (chosen.count >= 0 && chosen.count != streams_) return kBusy;
    chosen.count = streams_;
    return "";
  }
  if (once && ++calls_ == 0) std::fill(seen_.begin(), seen_.end(), 0), calls_ = 1;
  for (int64_t i = 0; i < chosen.count; ++i) {
    const int64_t row = chosen.rows[i];
    if (!within(row, 0, streams_ - 1))
      return "expected numbers of streams, 0 to " + std::to_string(streams_ - 1) + ", got " +
             std::to_string(row);
    if (!once) continue;
    if (seen_[size_t(row)] == calls_)
      return "expected each stream at most once, got " + std::to_string(row) + " twice";
    seen_[size_t(row)] = calls_;
  }
  return "";
}

std::string Program::why_not_ids(const void* const* inputs, int64_t count) const {
  for (size_t i = 0; i < reads_ids_.size(); ++i) {
    if (!reads_ids_[i]) continue;
    const int32_t* ids = static_cast<const int32_t*>(inputs[i]);
    const int64_t most = model_->inputs[i].vocabulary - 1;
    for (int64_t k = 0; k < count; ++k)
      if (ids[k] < 0 || ids[k] > most)
        return "expected ids of 0 to " + std::to_string(most) + ", got " + std::to_string(ids[k]);
  }
  return "";
}

std::string Program::run(const void* const* inputs, void* const* outputs, int64_t T, Chosen chosen,
                         const uint8_t* resets) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  std::string error = choose(chosen);
  if (error.empty()) error = why_not_ids(inputs, chosen.count * T);
  if (!error.empty()) return error;
  return text_of_failure([&] {
    if (chosen.rows != nullptr || streams_ > kTileRows) run_tiles(inputs, outputs, T, chosen, resets);
    else run_few(inputs, outputs, T, resets);
  });
}

// Whether so many timesteps may be worth two threads. Where a timestep's products are, they share those.
bool Program::make_pipeline(int64_t T) {
  ProgramTile& first = *tiles_[0];
  const double work = double(work_) * double(streams_) * double(T);
  if (work < kWorthAPipeline || T < 64 || first.memory.may_share || thread_count() < 2) return false;
  if (pipeline_ != nullptr) return true;
  const int64_t cut = Pipeline::cut_of(*model_);
  if (cut == 0) return false;
  auto second = std::make_unique<ProgramTile>();
  second->rows = first.rows;
  second->memory.alone = true;
  ProgramLayout(*second, *model_, model_->spec, false).build();
  model_->lend(*second);
  pipeline_ = std::make_unique<Pipeline>(*model_, first, *second, cut);
  pace_ = std::make_unique<Pace>();
  second_ = std::move(second);
  return true;
}

// All rows' records to a tile.
void Program::gather(StepMemory& tile) {
  tile.N = streams_;
  for (int64_t r = 0; r < streams_; ++r) tile.records[r] = record(r);
}

void Program::run_few(const void* const* inputs, void* const* outputs, int64_t T, const uint8_t* resets) {
  StepMemory& m = tiles_[0]->memory;
  const bool may_be_two = make_pipeline(T);
  const int64_t stretch =
      may_be_two ? int64_t(kWorthAStretch / (double(work_) * double(streams_))) + 64 : T;
  for (int64_t t = 0, last; t < T; t = last) {
    last = T - t < 2 * stretch ? T : t + stretch;
    const int64_t begin = may_be_two ? nanoseconds() : 0;
    const bool two = may_be_two && pace_->two_are_quicker(begin);
    if (two) {
      rest();
      for (int i = 0; i < 2; ++i) gather(pipeline_->parts()[i]);
      pipeline_->run({inputs, outputs, T, resets}, t, last);
    } else {
      if (!is_resident_) gather(m), kernels_->load_rows(m);
      is_resident_ = true;
      kernels_->run(m, inputs, outputs, T, t, last, resets);
    }
    if (!may_be_two) continue;
    const int64_t end = nanoseconds();
    pace_->report(two, double(end - begin) / double(last - t), end);
  }
}

namespace {

// Chunks of rows, which threads take in turns, each with its own tile.
template <class F>
struct Chunks {
  const F& f;
  int64_t count;
  std::atomic<int64_t> next{0};

  static void work(void* context, int part) {
    Chunks& all = *static_cast<Chunks*>(context);
    for (int64_t i; (i = all.next.fetch_add(1)) < all.count;) all.f(i, size_t(part));
  }
};

}  // namespace

void Program::run_tiles(const void* const* inputs, void* const* outputs, int64_t T, Chosen chosen,
                        const uint8_t* resets) {
  rest();
  const int64_t most = tiles_[0]->rows, count = (chosen.count + most - 1) / most;
  const auto run_chunk = [&](int64_t chunk, size_t part) {
    StepMemory& m = tiles_[part]->memory;
    const int64_t first = chunk * most;
    m.N = std::min(most, chosen.count - first);
    for (int64_t r = 0; r < m.N; ++r)
      m.records[r] = record(chosen.rows == nullptr ? first + r : chosen.rows[first + r]);
    std::vector<const void*> in;
    std::vector<void*> out;
    for (size_t i = 0; i < input_bytes_.size(); ++i)
      in.push_back(static_cast<const uint8_t*>(inputs[i]) + first * T * input_bytes_[i]);
    for (size_t i = 0; i < output_bytes_.size(); ++i)
      out.push_back(static_cast<uint8_t*>(outputs[i]) + first * T * output_bytes_[i]);
    kernels_->load_rows(m);
    kernels_->run(m, in.data(), out.data(), T, 0, T, resets == nullptr ? nullptr : resets + first * T);
    kernels_->store_rows(m);
  };
  const double work = double(work_) * double(chosen.count) * double(T);
  const int64_t worth = int64_t(std::min(work / kWorthATile, 64.0)) + 1;
  const int64_t parts = std::min({worth, count, int64_t(tiles_.size()), int64_t(thread_count())});
  Chunks<decltype(run_chunk)> chunks{run_chunk, count};
  if (parts <= 1) chunks.work(&chunks, 0);
  else parallel_for(int(parts), chunks.work, &chunks);
}

// --- states ---

std::string Program::reset(Chosen chosen) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  const std::string error = choose(chosen, false);
  if (!error.empty()) return error;
  for (int64_t i = 0; i < chosen.count; ++i) {
    const int64_t row = chosen.rows == nullptr ? i : chosen.rows[i];
    if (is_resident_) kernels_->reset_row(tiles_[0]->memory, row);
    else std::memcpy(record(row), model_->initial.data(), model_->initial.size());
  }
  return "";
}

std::string Program::read_states(void* const* to, Chosen chosen) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  const std::string error = choose(chosen);
  if (!error.empty()) return error;
  rest();
  for (const StatePlace& place : model_->states) {
    uint8_t* out = static_cast<uint8_t*>(*to++);
    for (int64_t i = 0; i < chosen.count; ++i, out += place.bytes)
      StateOfRow{place, record(chosen.rows == nullptr ? i : chosen.rows[i])}.read(out);
  }
  return "";
}

std::string Program::write_states(const void* const* from, Chosen chosen) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  const std::string error = choose(chosen);
  if (!error.empty()) return error;
  rest();
  for (const StatePlace& place : model_->states) {
    const uint8_t* in = static_cast<const uint8_t*>(*from++);
    for (int64_t i = 0; i < chosen.count; ++i, in += place.bytes)
      StateOfRow{place, record(chosen.rows == nullptr ? i : chosen.rows[i])}.write(in);
  }
  return "";
}

}  // namespace ostinato
