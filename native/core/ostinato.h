// What the core offers: fused recurrent layers, forward and backward, on the CPU.
//
// No framework's type appears here. A call runs one or more *runs*: independent layers over
// sequences, such as the two directions of Bidirectional. They go on at the same time, each on its
// share of the threads; but runs too large for one core's cache, where there are more than two
// threads a run, go one after the other, each on all threads.
//
// Shape letters: B batch, T timesteps, D input features, U units, G gates (simple_rnn 1, lstm 4,
// gru 3); P = U rounded up to a multiple of 16, S states (lstm 2, the others 1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ostinato {

enum class Dtype : int32_t { f32 = 0, f64 = 1, boolean = 2, bf16 = 3, i8 = 4 };

// A dense, row-major array that the caller owns. `shape` has `rank` entries. `data` may be null only
// where the array has no elements. The core keeps neither pointer beyond the call.
struct Tensor {
  void* data;
  Dtype dtype;
  int32_t rank;
  const int64_t* shape;
};

// The kinds of cells; gru is the one with reset_after.
enum Kind : int64_t {
#define KIND(name) name,
#include "kinds/kinds.def"
#undef KIND
};

// What products are computed from. Their sums, states, gates and all else are float32 or float64.
enum Precision : int64_t {
  of_tensors = 0,          // float32 or float64, as the tensors are
  bfloat16_products = 1,   // the tensors are float32; what products take is rounded to bfloat16
  bfloat16_tensors = 2,    // the tensors are bfloat16
  int8_weights = 3,        // float32, but for the kernels: int8, times a scale for each column (int8.h); of
                           // `forward` alone, without training and dropout
};

// What a row's states become before a timestep that resets them.
enum Resets : int64_t { no_resets = 0, to_zeros = 1, to_fresh_states = 2 };

// One run, as `kSpecFields` integers in this order; a call's spec is its runs' one after another.
struct RunSpec {
  int64_t kind;                  // a Kind
  int64_t activation;            // index into activation_names()
  int64_t recurrent_activation;  // likewise; ignored where the kind has no gates
  int64_t has_bias;
  int64_t has_mask;
  int64_t input_masks;           // number of input dropout masks: 0, 1, or G
  int64_t recurrent_masks;       // number of recurrent dropout masks: 0 or G
  int64_t go_backwards;          // whether x and mask are read from the last timestep to the first
  int64_t flip_outputs;          // whether ys is written from its last timestep to its first
  int64_t return_sequences;      // whether the output of every timestep is wanted
  int64_t zero_output_for_mask;  // whether a masked timestep's output is zero, and not the one before
  int64_t training;              // whether `forward` gives what `backward` needs
  int64_t wants_dx;              // whether `backward` computes dx
  int64_t ys_before;             // units of the run before, whose ys holds this run's: see below
  int64_t ys_after;              // units of the run after, whose outputs lie in this run's ys
  int64_t precision;             // a Precision, the same of all runs of a call
  int64_t resets;                // a Resets
  int64_t checkpoint;            // timesteps between the states that `saved` holds, see below; 0: it holds all
  int64_t truncate;              // timesteps: no gradient of a state crosses a multiple of them; 0: all do
};
constexpr size_t kSpecFields = 19;

// Runs layers over sequences.
//
// For each run the inputs are, in this order:
//   x (B, T, D); the S initial states, each (B, U): h, and for lstm c;
//   kernel (D, G*U); recurrent_kernel (U, G*U); gates in Keras's order (lstm i f g o; gru z r h); each
//     followed by its scales (G*U,) where the spec says int8_weights;
//   bias if has_bias: (G*U,), or (2, 3U) for gru (of the inputs, of the state);
//   the S fresh states, each (B, U), if the spec says to_fresh_states;
//   mask (B, T) booleans if has_mask;
//   resets (B, T) booleans unless the spec says no_resets: where one is true, masked or not, the row's
//     states are fresh before that timestep of the run, and what is held of its outputs is gone;
//   input dropout masks (input_masks, B, D) if any; recurrent ones (recurrent_masks, B, U) if any.
// and the outputs, in this order:
//   ys (B, T, U) if return_sequences: zeros before a row's first valid timestep. Two runs of the same
//     B and T may share one, side by side: the first, of U units, has ys_after = V and is given ys
//     (B, T, U + V); the next, of V units, has ys_before = U and is given none;
//   the S final states, each (B, U);
//   saved (saved_times(spec, T), B, saved_columns(spec) * P) if training: what `backward` needs, of no other
//     meaning. With a `checkpoint` of k, a power of two from kLeastCheckpoint on, those are the states before
//     every k-th timestep; `backward` computes the timesteps between once more, k at a time. Its results
//     are the same to the bit.
// All floats have one dtype: f32 or f64; or bf16, where the spec says so and `computes_bfloat16`, and
// `saved` then has twice the columns, as it holds float32s. Inputs are only read; outputs are written whole, and none
// overlaps another array.
//
// A spec that begins with -1 names a routine instead, of a cell that isn't built in: routine/routine.h
// says what it takes and gives, in either function.
//
// Returns "" or what is wrong, before anything is written. Bitwise the same on every call with the
// same number of threads. May be called from any number of threads at once.
std::string forward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                    const Tensor* outputs, size_t n_outputs);

// Pulls gradients back through the runs of a `forward` call with training set.
//
// For each run the inputs are: x, kernel, recurrent_kernel (with `checkpoint` those of `forward` up to
// the fresh states); mask, resets, input dropout masks, recurrent ones as given to `forward`; saved as it came
// (it is only read: a second call may follow); then
// the gradients of ys if return_sequences (shared as ys is), and of the S final states.
// and the outputs: dx (B, T, D) if wants_dx; gradients of the S initial states, of kernel, of
// recurrent_kernel, of bias if has_bias, and of the S fresh states if there are any.
std::string backward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                     const Tensor* outputs, size_t n_outputs);

// Columns of P values a timestep and row that `saved` holds: activated gates and states, in two columns
// each of bfloat16_tensors; with `checkpoint` the states alone.
int64_t saved_columns(const RunSpec& run);
// Of how many timesteps that is: all and one more; with a `checkpoint` of k those before every k-th.
int64_t saved_times(const RunSpec& run, int64_t T);
constexpr int64_t kLeastCheckpoint = 32;

// The activations by their names in keras.activations, in the order of their numbers.
const char* const* activation_names(size_t* count);

// The instruction set in use: the best that this CPU has, or what OSTINATO_TARGET names. If that
// one can't run here, "" (and every call returns an error that says so).
std::string target();

// The targets that were compiled and can run on this CPU, best first.
const char* const* runnable_targets(size_t* count);

// Whether that set multiplies bfloat16s, so that a spec's precision may be other than of_tensors.
bool computes_bfloat16();

}  // namespace ostinato
