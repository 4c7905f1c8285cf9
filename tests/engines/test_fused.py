"""The native engine under the layers: what reaches it, and that it changes no result."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ostinato
from engines import cases
from engines.cases import SINGLE, Case, assert_near, examples
from engines.gradients import double_precision, pull_back
from ostinato import layers, native
from ostinato.engines import fused, scan
from ostinato.settings import forced_engine
from support import crossed

WHY_NOT = native.why_not() or (forced_engine() == "scan" and "OSTINATO_ENGINE is set")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=str(WHY_NOT))

BACKEND = keras.config.backend()


@pytest.fixture
def calls(monkeypatch):
    """The specs of each call of the native engine."""
    seen = []
    native_run = fused.door.native_run

    def spy(specs, operands, twin):
        seen.append(specs)
        return native_run(specs, operands, twin)

    monkeypatch.setattr(fused.door, "native_run", spy)
    return seen


@pytest.fixture
def no_scan(monkeypatch):
    """Fails where anything is run on the portable engine."""

    def refuse(*args):
        raise AssertionError("the portable engine ran")

    monkeypatch.setattr(scan, "_run", refuse)


def inputs(*shape):
    return np.random.default_rng(0).normal(size=shape or (3, 5, 4)).astype("float32")


MASK = np.array([[1, 1, 0, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
OPTIONS = [
    {},
    {"activation": "gelu"},
    {"recurrent_activation": "hard_sigmoid"},
    {"use_bias": False},
    {"dropout": 0.3},
    {"dropout": 0.3, "implementation": 1},
    {"recurrent_dropout": 0.3},
    {"go_backwards": True},
    {"unroll": True},
    {"stateful": True},
    {"return_sequences": True, "return_state": True},
    {"zero_output_for_mask": True},
    {"dtype": "float64"},
    # No backend has the orthogonal initializer in half precision.
    {"dtype": "float16", "recurrent_initializer": "glorot_uniform"},
    {"dtype": "bfloat16", "recurrent_initializer": "glorot_uniform"},
    {"dtype": "mixed_float16"},
    {"dtype": "mixed_bfloat16"},
]


@pytest.mark.parametrize(
    ("kind", "options", "mask"),
    crossed(["SimpleRNN", "GRU", "LSTM"], OPTIONS, [None, MASK]),
    ids=str,
)
def test_no_option_leaves_the_kernel(kind, options, mask, no_scan, calls):
    if kind == "SimpleRNN":
        options = {k: v for k, v in options.items() if k in ("activation", "use_bias", "dropout")}
    layer = getattr(layers, kind)(4, **options)
    layer(inputs(), mask=mask, training=True)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_inputs_without_features(kind, calls):
    layer = getattr(layers, kind)(4, return_sequences=True)
    states = [inputs(3, 4)] * (2 if kind == "LSTM" else 1)
    run = [layer(inputs(3, 5, 0), initial_state=states)]
    assert len(calls) == 1
    with ostinato.use_engine("scan"):
        expected = [layer(inputs(3, 5, 0), initial_state=states)]
    arrays = ([keras.ops.convert_to_numpy(y) for y in each] for each in (run, expected))
    assert_near(*arrays, 1e-6, kind)


def test_reset_before_and_initial_states_stay_on_the_kernel(no_scan, calls):
    states = [inputs(3, 4)]
    layers.GRU(4, reset_after=False)(inputs(), initial_state=states)
    assert calls[0][0].cell.name == "gru_reset_before"


def test_an_option_of_the_layer_is_an_option_of_the_kernel(calls):
    layer = layers.LSTM(4, go_backwards=True, use_bias=False, dropout=0.5, implementation=1)
    layer(inputs(), mask=MASK, training=True)
    (spec,) = calls[0]
    assert (spec.has_bias, spec.has_mask, spec.go_backwards) == (False, True, True)
    assert (spec.return_sequences, spec.flip_outputs) == (False, False)
    assert (spec.input_masks, spec.recurrent_masks) == (4, 0)


def test_rnn_of_cells_runs_each_on_the_kernel(no_scan, calls):
    layers.RNN(layers.LSTMCell(3))(inputs())
    layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True)(inputs())
    assert [spec.cell.name for (spec,) in calls] == ["lstm", "lstm", "gru"]


def test_a_stack_of_both_engines_is_what_it_is_on_one(calls):
    def own(x):
        return keras.ops.tanh(x)

    cells = [layers.LSTMCell(3), layers.GRUCell(2, activation=own), layers.SimpleRNNCell(4)]
    layer = layers.RNN(cells, return_sequences=True, return_state=True, go_backwards=True)
    got = layer(inputs(), mask=MASK)
    # the GRU is a program, which has no kind
    kinds = [spec.cell.name for (spec,) in calls if hasattr(spec, "cell")]
    assert kinds == ["lstm", "simple_rnn"]
    with ostinato.use_engine("scan"):
        expected = layer(inputs(), mask=MASK)
    assert_same(got, expected)


@pytest.mark.parametrize("wrapped", ["layer", "cell", "stack"])
def test_bidirectional_runs_both_directions_in_one_call(wrapped, no_scan, calls):
    layer = {
        "layer": lambda: layers.GRU(3, return_sequences=True),
        "cell": lambda: layers.RNN(layers.GRUCell(3), return_sequences=True),
        "stack": lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(3)], return_sequences=True),
    }[wrapped]()
    layers.Bidirectional(layer)(inputs())
    assert [len(specs) for specs in calls] == [2] * (2 if wrapped == "stack" else 1)
    for forward, backward in calls:
        assert (forward.go_backwards, backward.go_backwards) == (False, True)
        assert (forward.flip_outputs, backward.flip_outputs) == (False, True)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "masked"])
def test_bidirectional_gives_the_same_on_both_engines(go_backwards, return_sequences, mask):
    inner = layers.LSTM(
        3, return_sequences=return_sequences, return_state=True, go_backwards=go_backwards
    )
    layer = layers.Bidirectional(inner, merge_mode=None)
    got = layer(inputs(), mask=mask)
    with ostinato.use_engine("scan"):
        expected = layer(inputs(), mask=mask)
    assert_same(got, expected)


def test_directions_of_unlike_sizes_lie_side_by_side(calls):
    there = layers.LSTM(3, return_sequences=True)
    back = layers.GRU(5, return_sequences=True, go_backwards=True)
    layer = layers.Bidirectional(there, backward_layer=back)
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    layer.build(x.shape)
    mask = np.ones((2, 6), bool)
    mask[1, 4:] = False
    got = pull_back(layer, x, None, None, mask=mask)
    assert [len(specs) for specs in calls] == [2]
    with ostinato.use_engine("scan"):
        expected = pull_back(layer, x, None, None, mask=mask)
    for name in ("results", "inputs", "weights"):
        assert_near(getattr(got, name), getattr(expected, name), SINGLE, name)


class Doubling(layers.GRU):
    def call(self, *args, **kwargs):
        return 2.0 * super().call(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "options"), [(Doubling, {}), (layers.GRU, {"activity_regularizer": "l2"})]
)
def test_bidirectional_calls_layers_that_do_more_than_run_a_cell(kind, options, calls):
    layer = layers.Bidirectional(
        kind(3, **options), backward_layer=kind(3, go_backwards=True, **options)
    )
    layer(inputs())
    assert [len(specs) for specs in calls] == [1, 1]
    assert len(layer.losses) == 2 * len(options)


@given(cases.cases(mask="holes"), st.sampled_from(["float32", "float64"]))
@examples(12)
def test_values_and_gradients_are_those_of_the_portable_engine(case: Case, dtype):
    rng = cases.rng_of(case)
    x, mask, states = (
        cases.make_inputs(rng, case).astype(dtype),
        cases.make_mask(rng, case),
        [a.astype(dtype) for a in cases.make_states(rng, case) or []] or None,
    )
    with double_precision():
        layer = replace(case, return_state=True).layer(layers, dtype=dtype)
        layer.build(x.shape)
        layer.set_weights(cases.weight_list(cases.make_weights(rng, case)))
        got = pull_back(layer, x, states, None, mask=mask)
        with ostinato.use_engine("scan"):
            expected = pull_back(layer, x, states, None, mask=mask)
    for name in ("results", "inputs", "states", "weights"):
        assert_near(getattr(got, name), getattr(expected, name), SINGLE, name)


@pytest.mark.parametrize("shape", [(0, 5, 4), (3, 0, 4), (3, 1, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_empty_batches_and_sequences(shape, masked):
    layer = layers.LSTM(3, return_sequences=True, return_state=True)
    mask = np.ones(shape[:2], bool) if masked else None
    sequences, h, c = layer(inputs(*shape), mask=mask)
    assert tuple(sequences.shape) == (*shape[:2], 3)
    assert tuple(h.shape) == tuple(c.shape) == (shape[0], 3)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras exports no SavedModel from PyTorch's wheel")
def test_what_is_exported_needs_no_native_operation(calls, tmp_path):
    tf = pytest.importorskip("tensorflow")
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.LSTM(3, return_sequences=True),
            layers.Bidirectional(layers.GRU(2)),
        ]
    )
    expected = keras.ops.convert_to_numpy(model(inputs()))
    assert len(calls) == 2
    model.export(tmp_path / "model", verbose=False)
    assert len(calls) == 2
    exported = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(exported.serve(inputs()).numpy(), expected, atol=1e-6)


def assert_same(got, expected):
    for one, other in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other), atol=1e-6
        )
