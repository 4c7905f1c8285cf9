"""Results and gradients of every layer against the NumPy reference, options crossed at random."""

import contextlib
from dataclasses import replace
from functools import partial

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ostinato
import reference
from engines import cases
from engines.cases import (
    DOUBLE,
    SINGLE,
    Case,
    Expected,
    ExpectedBidirectional,
    ExpectedStack,
    assert_pulled,
    examples,
    tried,
)
from engines.gradients import (
    double_precision,
    pull_back,
    pull_back_in_graph,
    pull_back_outside_jit,
    random_like,
)
from ostinato import layers
from reference_activations import ACTIVATIONS

BACKEND = keras.config.backend()


@pytest.fixture(autouse=True, params=["the fastest engine", "scan"])
def _engine(request):
    """Every test runs on the engine that the plan chooses, and on the portable one."""
    forced = contextlib.nullcontext() if request.param != "scan" else ostinato.use_engine("scan")
    with forced:
        yield


def check(layer, expected, x, states, weights, tolerance, dtype="float64", pull=pull_back, **call):
    """The layer's results and every gradient are the reference's."""
    layer.build(x.shape)
    layer.set_weights(weights)
    d_results = random_like(expected.results)
    cast = lambda arrays: [a.astype(dtype) for a in arrays]  # noqa: E731
    pulled = pull(layer, x.astype(dtype), states and cast(states), cast(d_results), **call)
    assert_pulled(pulled, expected, d_results, tolerance, states is not None)


def expect(case: Case, weights, x, states, mask, drop=None, recurrent_drop=None) -> Expected:
    run = reference.run(
        case.options, weights, x, states and tuple(states), mask, drop, recurrent_drop
    )
    return Expected(run, case.return_sequences, case.return_state)


def tolerance_of(*all_cases: Case) -> float:
    return DOUBLE if all(case.is_exact for case in all_cases) else SINGLE


def check_case(case: Case, dtype="float64", training=None, wrap=None, **call):
    if training is not None:
        call["training"] = training
    rng = cases.rng_of(case)
    x, states, mask = (
        cases.make_inputs(rng, case),
        cases.make_states(rng, case),
        cases.make_mask(rng, case),
    )
    weights = cases.make_weights(rng, case)
    drops = cases.draw_dropout(case, dtype) if training else ()
    layer = wrap(case, dtype) if wrap else case.layer(layers, dtype=dtype)
    check(
        layer,
        expect(case, weights, x, states, mask, *drops),
        x,
        states,
        cases.weight_list(weights),
        SINGLE if dtype == "float32" else tolerance_of(case),
        dtype,
        mask=mask,
        **call,
    )


@tried(50)
def test_layers_agree_with_the_reference(case):
    with double_precision():
        check_case(case)


@pytest.mark.skipif(BACKEND != "jax", reason="the other backends run eagerly everywhere else")
@given(cases.cases_with_dropout())
@examples(8)
def test_layers_agree_outside_jit(case):
    with double_precision():
        check_case(case, training=True, pull=pull_back_outside_jit)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends have no such graph")
@given(cases.cases(unroll=False))
@examples(4)
def test_layers_agree_in_a_graph_that_knows_neither_batch_nor_time(case):
    check_case(case, pull=pull_back_in_graph)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX is always compiled by XLA")
@pytest.mark.parametrize("kind", sorted(cases.KINDS))
@pytest.mark.parametrize("unroll", [False, True])
def test_layers_agree_when_xla_compiles_tensorflow(kind, unroll):
    case = Case(kind, mask="holes", initial_state=True, unroll=unroll)
    check_case(case, pull=partial(pull_back_in_graph, xla=True))


@given(cases.cases(activation="tanh", recurrent_activation="sigmoid"))
@examples(12)
def test_float32_layers_agree_within_rounding(case):
    check_case(case, dtype="float32")


@given(cases.cases_with_dropout())
@examples(20)
def test_dropout_masks_are_drawn_in_keras_order_and_applied_at_every_step(case):
    with double_precision():
        check_case(case, training=True)


@given(cases.cases_with_dropout())
@examples(6)
def test_dropout_does_nothing_outside_training(case):
    with double_precision():
        check_case(case, training=False)


@given(cases.cases())
@examples(20)
def test_rnn_around_a_builtin_cell_agrees_with_the_reference(case):
    def wrap(case, dtype):
        return layers.RNN(case.cell(layers, dtype=dtype), **case.loop_arguments(), dtype=dtype)

    with double_precision():
        check_case(case, wrap=wrap)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_each_activation_in_both_places(name):
    case = Case("lstm", name, name, time=2, mask="left padded", initial_state=True)
    with double_precision():
        check_case(case)


@given(cases.cases(), st.lists(st.builds(Case, **cases.CELL_OPTIONS), min_size=1, max_size=3))
@examples(20)
def test_stacked_cells_agree_with_stacked_references(case, cells):
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    runs, weights, below, width = [], [], x, case.features
    cells = [replace(c, batch=case.batch, initial_state=case.initial_state) for c in cells]
    states = [cases.make_states(rng, cell) for cell in cells]
    for index, cell in enumerate(cells):
        # Only the lowest cell sees the sequence in its own order, and the mask with it.
        first = index == 0
        turned = mask if first or mask is None or not case.go_backwards else mask[:, ::-1]
        options = replace(
            cell.options,
            go_backwards=case.go_backwards and first,
            zero_output_for_mask=case.zero_output_for_mask,
        )
        own = cases.make_weights(rng, cell, width)
        runs.append(reference.run(options, own, below, states[index], turned))
        weights += cases.weight_list(own)
        below, width = runs[-1].outputs, cell.units
    with double_precision():
        stack = [cell.cell(layers, dtype="float64") for cell in cells]
        layer = layers.RNN(stack, **case.loop_arguments(), dtype="float64")
        expected = ExpectedStack(runs, case.return_sequences, case.return_state)
        flat = [s for own in states for s in own] if case.initial_state else None
        check(layer, expected, x, flat, weights, tolerance_of(*cells), mask=mask)


@given(
    cases.cases(go_backwards=False, zero_output_for_mask=False),
    st.sampled_from(["concat", "sum", "ave", "mul", None]),
)
@examples(20)
def test_bidirectional_agrees_with_two_references(case, merge_mode):
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    weights = [cases.make_weights(rng, case) for _ in range(2)]
    # Bidirectional turns zero_output_for_mask on where it returns sequences.
    there = replace(case, zero_output_for_mask=case.return_sequences)
    ways = [there, replace(there, go_backwards=True)]
    states = [cases.make_states(rng, case) for _ in ways]
    expected = ExpectedBidirectional(
        *(
            expect(way, own, x, start, mask)
            for way, own, start in zip(ways, weights, states, strict=True)
        ),
        merge_mode,
    )
    with double_precision():
        layer = layers.Bidirectional(
            case.layer(layers, dtype="float64"), merge_mode=merge_mode, dtype="float64"
        )
        flat_states = states[0] and states[0] + states[1]
        flat_weights = [a for own in weights for a in cases.weight_list(own)]
        check(layer, expected, x, flat_states, flat_weights, tolerance_of(case), mask=mask)
