"""The reference's hand-written backward against central finite differences of its forward."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import reference
from reference import Options, Weights
from reference_activations import ACTIVATIONS

STEP = 1e-5  # about eps ** (1 / 3), where rounding and truncation balance
# A central difference in float64 is good to about eps ** (2 / 3) of the size of the function.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}

CELLS = {
    "simple_rnn": Options("simple_rnn"),
    "gru_reset_after": Options("gru"),
    "gru_reset_before": Options("gru", reset_after=False),
    "lstm": Options("lstm"),
}
B, T, D, U = 3, 4, 2, 3


def make_weights(rng, options, use_bias=True):
    gates = reference.cell_class(options).gates
    after = options.kind == "gru" and options.reset_after
    bias = rng.normal(size=(2, gates * U) if after else (gates * U,)) if use_bias else None
    return Weights(rng.normal(size=(D, gates * U)), rng.normal(size=(U, gates * U)), bias)


def make_states(rng, options):
    return tuple(rng.normal(size=(B, U)) for _ in range(reference.cell_class(options).states))


def make_mask(rng):
    """A row without a valid step, one that starts late, one with a hole."""
    mask = rng.random((B, T)) < 0.5
    mask[0] = False
    mask[1] = [False, True, False, True]
    return mask


def make_drop(rng, masks, features):
    return None if masks == 0 else (rng.random((masks, B, features)) < 0.7) / 0.7


def numeric_gradient(f, array):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        up = f()
        array[index] = kept - STEP
        down = f()
        array[index] = kept
        gradient[index] = (up - down) / (2 * STEP)
    return gradient


def check_backward(options, weights, x, states, mask=None, drop=None, recurrent_drop=None, seed=0):
    rng = np.random.default_rng(seed)
    d_outputs, d_last = rng.normal(size=(B, T, U)), rng.normal(size=(B, U))
    d_states = tuple(rng.normal(size=(B, U)) for _ in states)

    def call():
        return reference.run(options, weights, x, states, mask, drop, recurrent_drop)

    def loss():
        run = call()
        of_states = sum((d * s).sum() for d, s in zip(d_states, run.states, strict=True))
        return (d_outputs * run.outputs).sum() + (d_last * run.last).sum() + of_states

    exact = call().backward(d_outputs, d_last, d_states)
    pairs = [(x, exact.inputs), *zip(states, exact.states, strict=True)]
    pairs += [
        (weights.kernel, exact.weights.kernel),
        (weights.recurrent_kernel, exact.weights.recurrent_kernel),
    ]
    if weights.bias is None:
        assert exact.weights.bias is None
    else:
        pairs.append((weights.bias, exact.weights.bias))
    for array, gradient in pairs:
        np.testing.assert_allclose(gradient, numeric_gradient(loss, array), **TOLERANCE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_slope_is_the_derivative(name):
    activation = ACTIVATIONS[name]
    rng = np.random.default_rng(0)
    z, dy = rng.normal(size=(20, 5)) * 3, rng.normal(size=(20, 5))
    numeric = numeric_gradient(lambda: (dy * activation.value(z)).sum(), z)
    np.testing.assert_allclose(activation.vjp(z, dy), numeric, **TOLERANCE)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dropout_masks", ["no dropout", "one mask", "a mask a gate"])
def test_backward_is_the_derivative(cell, dropout_masks):
    flags = itertools.product([False, True], repeat=4)
    for seed, (use_bias, masked, go_backwards, zero_output) in enumerate(flags):
        rng = np.random.default_rng(seed)
        options = replace(CELLS[cell], go_backwards=go_backwards, zero_output_for_mask=zero_output)
        gates = reference.cell_class(options).gates
        masks = {"no dropout": 0, "one mask": 1, "a mask a gate": gates}[dropout_masks]
        check_backward(
            options,
            make_weights(rng, options, use_bias),
            rng.normal(size=(B, T, D)),
            make_states(rng, options),
            make_mask(rng) if masked else None,
            make_drop(rng, masks, D),
            make_drop(rng, masks, U),
        )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("activation", ["softmax", "elu", "gelu", "softsign"])
def test_backward_holds_for_other_activations(cell, activation):
    rng = np.random.default_rng(1)
    options = replace(CELLS[cell], activation=activation, recurrent_activation="softmax")
    weights, states = make_weights(rng, options), make_states(rng, options)
    check_backward(options, weights, rng.normal(size=(B, T, D)), states)


@pytest.mark.parametrize("cell", CELLS)
def test_masked_step_keeps_states_and_repeats_the_output(cell):
    rng = np.random.default_rng(2)
    options = CELLS[cell]
    weights, states = make_weights(rng, options), make_states(rng, options)
    x, mask = rng.normal(size=(B, T, D)), make_mask(rng)
    run = reference.run(options, weights, x, states, mask)
    row = 1  # valid at steps 1 and 3
    alone = reference.run(
        options, weights, x[row : row + 1, [1, 3]], tuple(s[row : row + 1] for s in states)
    )
    np.testing.assert_array_equal(run.outputs[0], 0)
    np.testing.assert_array_equal(run.outputs[row, 0], 0)
    np.testing.assert_allclose(run.outputs[row, [1, 2, 3]], alone.outputs[0, [0, 0, 1]])
    for final, start, alone_final in zip(run.states, states, alone.states, strict=True):
        np.testing.assert_array_equal(final[0], start[0])
        np.testing.assert_allclose(final[row], alone_final[0])


def test_a_masked_steps_input_has_no_gradient():
    rng = np.random.default_rng(3)
    options, mask = Options("lstm"), make_mask(rng)
    run = reference.run(options, make_weights(rng, options), rng.normal(size=(B, T, D)), None, mask)
    gradients = run.backward(d_outputs=np.ones((B, T, U)))
    np.testing.assert_array_equal(gradients.inputs[~mask], 0)
    assert (gradients.inputs[mask] != 0).all()


def test_go_backwards_returns_the_reversed_sequence():
    rng = np.random.default_rng(4)
    options, x = Options("gru"), rng.normal(size=(B, T, D))
    weights = make_weights(rng, options)
    backwards = reference.run(replace(options, go_backwards=True), weights, x)
    forwards = reference.run(options, weights, x[:, ::-1])
    np.testing.assert_array_equal(backwards.outputs, forwards.outputs)


def test_lstm_step_is_the_textbook_formula():
    """One unit, one feature, numbers worked out here: nothing of the reference's own pieces."""
    kernel, recurrent = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[0.5, -0.6, 0.7, -0.8]])
    bias = np.array([0.0, 1.0, -0.1, 0.2])
    x, h, c = 2.0, 0.5, -1.5
    z = x * kernel[0] + h * recurrent[0] + bias
    i, f, o = (1 / (1 + np.exp(-z[k])) for k in (0, 1, 3))
    new_c = f * c + i * np.tanh(z[2])
    states = (np.array([[h]]), np.array([[c]]))
    run = reference.run(
        Options("lstm"), Weights(kernel, recurrent, bias), np.array([[[x]]]), states
    )
    np.testing.assert_allclose(run.states[1], [[new_c]], rtol=1e-14)
    np.testing.assert_allclose(run.last, [[o * np.tanh(new_c)]], rtol=1e-14)
