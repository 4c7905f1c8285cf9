"""Results and gradients of every layer against Keras's own, on the same backend and weights.

In float32: Keras computes parts of a float64 layer in float32 on JAX and PyTorch.
"""

from dataclasses import replace

import keras
import numpy as np

from engines import cases
from engines.cases import SINGLE, Case, assert_near, leave_out, tried
from engines.gradients import pull_back
from ostinato import layers

BACKEND = keras.config.backend()
MERGE_MODES = ["concat", "sum", "ave", "mul", None]


def keras_defect(case: Case, mask) -> str | None:
    """Why Keras isn't the truth here; the reference is, in test_against_reference.py."""
    per_gate = case.implementation == 1 and case.kind != "simple_rnn"
    if per_gate and case.dropout and not case.recurrent_dropout:
        return "dropout with implementation=1: Keras raises where it prepares cuDNN's inputs"
    if mask is not None and BACKEND == "torch" and case.unroll and case.go_backwards:
        return "unrolled backwards on PyTorch: a mask raises"
    if mask is None or mask.all():
        return None
    first_steps = mask[:, -1] if case.go_backwards else mask[:, 0]
    if BACKEND == "jax":
        if case.unroll and case.zero_output_for_mask:
            return "unrolled on JAX: zero_output_for_mask is ignored"
        holds = not case.unroll and not case.zero_output_for_mask
        if holds and case.initial_state and not first_steps.all():
            return "on JAX a row's output before its first valid step is its initial state"
    if BACKEND == "tensorflow" and case.unroll and case.go_backwards and case.zero_output_for_mask:
        return "unrolled backwards on TensorFlow: zeros stand where the unreversed mask says"
    return None


def has_defect(case: Case, form: str, mask) -> bool:
    if form != "bidirectional":
        return keras_defect(case, mask) is not None
    if case.kind == "simple_rnn" and (case.dropout or case.recurrent_dropout):
        return True  # it rebuilds the layer from its config, and SimpleRNN's has no seed
    # It sets zero_output_for_mask where it returns sequences, and runs both ways.
    there = replace(case, zero_output_for_mask=case.return_sequences)
    return any(keras_defect(way, mask) for way in (there, replace(there, go_backwards=True)))


def build(module, case: Case, form: str, merge_mode):
    if form == "layer":
        return case.layer(module)
    if form == "bidirectional":
        return module.Bidirectional(case.layer(module), merge_mode=merge_mode)
    cell = case.cell(module) if form == "cell" else [case.cell(module) for _ in range(2)]
    return module.RNN(cell, **case.loop_arguments())


def make_states(rng, case: Case, form: str):
    if form in ("layer", "cell") or not case.initial_state:
        return cases.make_states(rng, case)
    if form == "bidirectional":
        return cases.make_states(rng, case, 2 * cases.STATES[case.kind])
    return [cases.make_states(rng, case) for _ in range(2)]


@tried(
    50,
    dropout=True,
    form=["layer", "cell", "stack", "bidirectional"],
    merge_mode=MERGE_MODES,
    training=[False, True],
)
def test_results_and_gradients_are_those_of_keras(case, form, merge_mode, training):
    if form == "bidirectional":
        case = replace(case, go_backwards=False)  # Keras asks for it
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    states = make_states(rng, case, form)
    leave_out(has_defect(case, form, mask))
    theirs, ours = (build(m, case, form, merge_mode) for m in (keras.layers, layers))
    theirs.build(x.shape)
    ours.build(x.shape)
    shapes = [w.shape for w in theirs.get_weights()]
    weights = [0.5 * rng.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    x, states = keras.tree.map_structure(np.float32, (x, states or []))
    expected, got = (
        pull_back(layer, x, states or None, None, mask=mask, training=training)
        for layer in (theirs, ours)
    )
    # Where an unbounded gate makes states explode, their rounding explodes too.
    leave_out(max(np.abs(result).max() for result in expected.results) >= 1e3)
    for name in ("results", "inputs", "states", "weights"):
        assert_near(getattr(got, name), getattr(expected, name), SINGLE, name)
