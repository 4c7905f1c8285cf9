// What the streams of a program share: made of a spec and weights, and lent to their tiles.
#include "program_parts.h"

namespace ostinato {
namespace {

const StepKernels& step_kernels_of(Dtype dtype) {
  const Kernels* all = selected_kernels();
  if (all == nullptr) fail_program("OSTINATO_TARGET: expected a target that can run here");
  return dtype == Dtype::f64 ? all->steps_f64 : all->steps_f32;
}

}  // namespace

std::shared_ptr<ProgramModel> ProgramModel::make(Dtype dtype, const std::vector<int64_t>& spec,
                                                 const Tensor* weights, size_t n_weights) {
  if (dtype != Dtype::f32 && dtype != Dtype::f64) fail_program("expected float32 or float64");
  const auto model = std::make_shared<ProgramModel>();
  model->dtype = dtype;
  model->spec = spec;
  model->kernels = &step_kernels_of(dtype);
  ProgramTile draft;
  draft.rows = 1;
  ProgramLayout(draft, *model, spec, true).build();
  model->steps = std::move(draft.steps);
  model->inputs = std::move(draft.inputs);
  model->outputs = std::move(draft.outputs);
  const std::vector<StepWeights> all = ProgramWeights::read(*model, weights, n_weights);
  ProgramWeights::make_room(*model, all);
  ProgramWeights::pack(*model, all);
  return model;
}

void ProgramModel::lend(ProgramTile& tile) const {
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& from = steps[i];
    Step& to = tile.steps[i];
    to.D = from.D;  // of an embedding the rows of its table
    to.kernel = from.kernel, to.recurrent = from.recurrent, to.late = from.late, to.bias = from.bias;
    to.int8.kernel_scales = from.int8.kernel_scales, to.int8.kernel_starts = from.int8.kernel_starts;
    to.int8.recurrent_scales = from.int8.recurrent_scales;
    to.int8.recurrent_starts = from.int8.recurrent_starts;
    to.int8.late_scales = from.int8.late_scales, to.int8.late_starts = from.int8.late_starts;
    if (from.routine != nullptr) kernels->share_routine_weights(to.routine, from.routine);
  }
  for (size_t i = 0; i < inputs.size(); ++i) tile.inputs[i].vocabulary = inputs[i].vocabulary;
  tile.memory.initial = initial.data();
}

}  // namespace ostinato
