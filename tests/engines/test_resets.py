"""Rows that begin anew inside a sequence give what the reference gives for their pieces apart."""

import contextlib
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ostinato
from engines import cases
from engines.cases import (
    DOUBLE,
    SINGLE,
    Case,
    ExpectedBidirectional,
    assert_pulled,
    examples,
    tried,
)
from engines.gradients import double_precision, pull_back, random_like
from engines.pieces import HOW_OFTEN, RATES, ExpectedPieces, Given, given_states, make_resets
from ostinato import layers
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, LSTMCell, SimpleRNN
from support import array, assert_close, numpy

BACKEND = keras.config.backend()


@pytest.fixture(params=["the fastest engine", "scan"])
def _engine(request):
    forced = contextlib.nullcontext() if request.param != "scan" else ostinato.use_engine("scan")
    with forced:
        yield


class PlainCell(keras.layers.Layer):
    """A cell of one's own: the LSTM that the reference has, in plain operations."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units], units

    def build(self, input_shape):
        columns = 4 * self.units
        self.kernel = self.add_weight(shape=(input_shape[-1], columns), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, columns), name="recurrent")
        self.bias = self.add_weight(shape=(columns,), name="bias")

    def call(self, inputs, states):
        ops, (h, c) = keras.ops, states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent) + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


def check(case: Case, rate, has_fresh, layer, dtype="float64", tolerance=None, training=None):
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    states = cases.make_states(rng, case)
    fresh = cases.make_states(rng, replace(case, initial_state=has_fresh))
    weights, resets = cases.make_weights(rng, case), make_resets(rng, case, rate)
    drops = cases.draw_dropout(case, dtype) if training else ()
    pieces = ExpectedPieces(case, weights, x, states, fresh, mask, resets, *drops)
    expected = given_states(pieces, case.initial_state, has_fresh)
    outer = Given(layer, case.initial_state, has_fresh, dtype=dtype)
    outer.build(x.shape)
    layer.set_weights(cases.weight_list(weights))
    flat = [state.astype(dtype) for state in [*(states or []), *(fresh or [])]]
    d_results = random_like(expected.results)
    call = {"mask": mask, "resets": resets}
    if training is not None:
        call["training"] = training
    cast = [d.astype(dtype) for d in d_results]
    pulled = pull_back(outer, x.astype(dtype), flat or None, cast, **call)
    if tolerance is None:
        tolerance = DOUBLE if case.is_exact else SINGLE
    assert_pulled(pulled, expected, d_results, tolerance, bool(flat))


@pytest.mark.usefixtures("_engine")
@tried(30, rate=HOW_OFTEN, has_fresh=[False, True])
def test_layers_give_what_pieces_give_alone(case, rate, has_fresh):
    with double_precision():
        check(case, rate, has_fresh, case.layer(layers, dtype="float64"))


@given(cases.cases(activation="tanh", recurrent_activation="sigmoid"), RATES, st.booleans())
@examples(6)
def test_float32_layers_do_within_rounding(case, rate, has_fresh):
    check(case, rate, has_fresh, case.layer(layers, dtype="float32"), "float32", SINGLE)


@given(cases.cases_with_dropout(), RATES)
@examples(6)
def test_pieces_of_a_row_share_its_dropout_masks(case, rate):
    with double_precision():
        check(case, rate, False, case.layer(layers, dtype="float64"), training=True)


@pytest.mark.parametrize("engine", ["compiled", "scan"])
@given(
    cases.cases(kind="lstm", use_bias=True, activation="tanh", recurrent_activation="sigmoid"),
    RATES,
    st.booleans(),
)
@examples(12)
def test_cells_of_ones_own_do(engine, case, rate, has_fresh):
    # (Some of Keras's operations compute float64 in float32.)
    with double_precision(), ostinato.use_engine(engine):
        layer = RNN(
            PlainCell(case.units, dtype="float64"), **case.loop_arguments(), dtype="float64"
        )
        check(case, rate, has_fresh, layer, tolerance=DOUBLE if engine == "compiled" else SINGLE)


@pytest.mark.usefixtures("_engine")
@given(
    cases.cases(go_backwards=False, zero_output_for_mask=False, unroll=False),
    RATES,
    st.sampled_from(["concat", "sum", None]),
)
@examples(10)
def test_the_backward_direction_begins_anew_at_the_other_side(case, rate, merge_mode):
    rng = cases.rng_of(case)
    x, mask = cases.make_inputs(rng, case), cases.make_mask(rng, case)
    resets = make_resets(rng, case, rate)
    weights = [cases.make_weights(rng, case) for _ in range(2)]
    there = replace(case, zero_output_for_mask=case.return_sequences)
    pairs = zip((there, replace(there, go_backwards=True)), weights, strict=True)
    ways = [ExpectedPieces(way, own, x, None, None, mask, resets) for way, own in pairs]
    for way in ways:
        way.return_sequences = case.return_sequences
    expected = ExpectedBidirectional(*ways, merge_mode)
    with double_precision():
        layer = Bidirectional(
            case.layer(layers, dtype="float64"), merge_mode=merge_mode, dtype="float64"
        )
        layer.build(x.shape)
        layer.set_weights([a for own in weights for a in cases.weight_list(own)])
        d_results = random_like(expected.results)
        pulled = pull_back(layer, x, None, d_results, mask=mask, resets=resets)
        tolerance = DOUBLE if case.is_exact else SINGLE
        assert_pulled(pulled, expected, d_results, tolerance, has_states=False)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_a_last_output_is_of_a_valid_timestep_since_the_row_began(go_backwards, zero):
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]] * 2) > 0
    resets = np.array([[0, 0, 0, 1, 0]] * 3 + [[0, 1, 0, 0, 0]] + [[0] * 5] * 3 + [[1] * 5]) > 0
    layer = GRU(3, go_backwards=go_backwards, zero_output_for_mask=zero, unroll=False)
    given, x = {"mask": mask, "resets": resets, "fresh_state": array(1, 8, 3)}, array(0, 8, 5, 2)
    for start in (None, array(2, 8, 3)):
        got = numpy(layer(x, initial_state=start, **given))
        with ostinato.use_engine("scan"):
            assert_close(got, layer(x, initial_state=start, **given))
        assert len({*map(bool, got.any(1))}) == 2  # in some rows there's none, in others one


# By themselves: what pieces give is what the same layer gives for each alone.


def alone(layer, x, resets, **states):
    """A layer's outputs (B, T, ...), piece by piece."""
    rows = []
    for row, flags in enumerate(resets):
        cuts = [0, *(1 + np.flatnonzero(flags[1:])), len(flags)]
        pieces = [numpy(layer(x[row : row + 1, a:b], **states)) for a, b in pairwise(cuts)]
        rows.append(np.concatenate(pieces, axis=1))
    return np.concatenate(rows)


RESETS = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]) > 0
X = array(3, 3, 6, 4)


class LearntStart(LSTMCell):
    """Begins with states that aren't zeros."""

    def get_initial_state(self, batch_size=None):
        rows = keras.ops.ones((batch_size, self.units))
        return [0.5 * rows, -0.25 * rows]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RNN([LSTMCell(5), LearntStart(3)], return_sequences=True),
        lambda: RNN(LearntStart(5), return_sequences=True),
        lambda: layers.ConvLSTM1D(2, 2, return_sequences=True),
    ],
)
def test_fresh_states_are_the_cells_own(make):
    layer = make()
    x = array(4, 3, 6, 4, 2) if isinstance(layer, layers.ConvLSTM1D) else X
    layer.build(x.shape)
    assert_close(layer(x, resets=RESETS), alone(layer, x, RESETS), 1e-5)


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("go_backwards", [False, True])
def test_fresh_states_are_those_of_a_subclass(go_backwards):
    class FromHalf(GRU):
        def get_initial_state(self, batch_size):
            return [keras.ops.full((batch_size, 3), 0.5)]

    options = {"return_sequences": True, "go_backwards": go_backwards}
    layer, plain = FromHalf(3, **options), GRU(3, **options)
    x, resets = array(1, 2, 5, 4), np.zeros((2, 5), bool)
    resets[:, 2] = True
    layer.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    half = np.full((2, 3), 0.5, "float32")
    parts = [numpy(plain(part, initial_state=[half])) for part in (x[:, :2], x[:, 2:])]
    parts = parts[::-1] if go_backwards else parts
    assert_close(layer(x, resets=resets), np.concatenate(parts, axis=1))


@pytest.mark.parametrize("cls", [LSTM, GRU, SimpleRNN])
def test_a_stateful_layer_carries_states_over_batches_but_not_over_resets(cls):
    layer = cls(5, stateful=True, return_sequences=True)
    halves = [layer(X[:, :3], resets=RESETS[:, :3]), layer(X[:, 3:], resets=RESETS[:, 3:])]
    whole = cls(5, return_sequences=True)
    whole.build(X.shape)
    whole.set_weights(layer.get_weights())
    found = np.concatenate([numpy(half) for half in halves], axis=1)
    assert_close(found, whole(X, resets=RESETS))


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("has_fresh", [False, True], ids=["zeros", "fresh_state"])
@pytest.mark.parametrize("make", [LSTM, lambda units, **o: RNN(PlainCell(units), **o)])
def test_going_back_a_stateful_layer_carries_states_over_no_beginning(make, has_fresh):
    """Pieces of time come from the last to the first: what's before a beginning is another's."""
    options = {"return_sequences": True, "go_backwards": True}
    layer, whole = make(5, stateful=True, **options), make(5, **options)
    resets = RESETS.copy()
    resets[:, 3] = [True, False, True]
    resets[1, 4] = True  # one later than where the second piece begins
    call = {"fresh_state": [array(seed, 3, 5) for seed in (8, 9)]} if has_fresh else {}
    layer.build((3, 3, 4)), whole.build(X.shape)
    whole.set_weights(layer.get_weights())
    halves = [layer(X[:, at], resets=resets[:, at], **call) for at in (slice(3, 6), slice(3))]
    found = np.concatenate([numpy(half) for half in halves], axis=1)
    assert_close(found, whole(X, resets=resets, **call))


def test_a_stateful_stack_in_both_directions_keeps_fresh_states_where_a_row_begins():
    cells = [LSTMCell(3), layers.GRUCell(2)]
    layer = Bidirectional(RNN(cells, stateful=True, return_state=True))
    resets = np.zeros((3, 6), bool)
    resets[1, 0] = True
    results = [numpy(x) for x in keras.tree.flatten(layer(X, resets=resets))[1:]]
    kept = keras.tree.flatten((layer.forward_layer.states, layer.backward_layer.states))
    for number, (state, final) in enumerate(zip(kept, results, strict=True)):
        expected = final.copy()
        if number >= len(kept) // 2:  # those that went back to the beginning
            assert np.abs(final[1]).max() > 0
            expected[1] = 0
        assert_close(state, expected, 0)


def test_numbers_and_a_last_axis_are_read_as_booleans():
    layer = GRU(4, return_sequences=True)
    expected = layer(X, resets=RESETS)
    assert_close(layer(X, resets=RESETS.astype("float32")), expected, 0)
    assert_close(layer(X, resets=RESETS[..., None].astype("int32")), expected, 0)


def test_a_functional_model_trains_with_resets_and_is_saved(tmp_path):
    x, resets = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    h = Bidirectional(LSTM(3, return_sequences=True))(x, resets=resets)
    model = keras.Model([x, resets], GRU(2)(h, resets=resets))
    model.compile("sgd", "mse")
    model.fit([X, RESETS], array(5, 3, 2), verbose=0)
    expected = model.predict([X, RESETS], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded.predict([X, RESETS], verbose=0), expected)
    assert np.abs(expected - model.predict([X, ~RESETS], verbose=0)).max() > 1e-3


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_layers_with_weights_in_int8_begin_anew(kind):
    model = keras.Sequential(
        [keras.Input((6, 4)), getattr(layers, kind)(40, return_sequences=True)]
    )
    ostinato.quantize(model)
    (layer,) = model.layers
    mask = np.array([[1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]]) > 0
    found = layer(X, resets=RESETS, mask=mask)
    with ostinato.use_engine("scan"):
        expected = layer(X, resets=RESETS, mask=mask)
    assert_close(found, expected, 2e-2)


def test_truncated_gradients_of_fresh_states_are_whole():
    x, flags = np.ones((1, 6, 3), "float32"), np.zeros((1, 6), bool)
    flags[0, 3] = True
    fresh = [np.full((1, 4), 0.5, "float32")] * 2
    found = []
    for truncate in (3, None):
        layer = RNN(PlainCell(4), truncate=truncate)
        outer = Given(layer, has_initial=False, has_fresh=True)
        outer.build(x.shape)
        layer.set_weights([array(7, *w.shape) for w in layer.weights])
        found.append(pull_back(outer, x, fresh, None, resets=flags).states)
    assert np.abs(found[1][0]).max() > 1e-5  # from the reset on nothing is truncated
    assert_close(found[0], found[1], 1e-5)


@pytest.mark.parametrize("go_backwards", [False, True])
def test_without_a_timestep_there_is_nothing_to_reset(go_backwards):
    layer = RNN(PlainCell(4), return_state=True, go_backwards=go_backwards)
    layer.build((2, None, 3))
    _, h, _ = layer(np.ones((2, 0, 3), "float32"), resets=np.ones((2, 0), bool))
    assert_close(h, np.zeros((2, 4)))


def test_a_stack_takes_flat_states_every_time():
    layer = RNN([LSTMCell(3), LSTMCell(3)])
    flat = [array(seed, 3, 3) for seed in range(4)]
    assert_close(layer(X, initial_state=flat), layer(X, initial_state=flat), 0)


@pytest.mark.skipif(BACKEND != "torch", reason="torch.compile")
def test_torch_compiles_a_whole_layer_with_resets():
    import torch

    layer = LSTM(4, return_sequences=True)
    x, resets = torch.from_numpy(X), torch.from_numpy(RESETS)
    expected = layer(x, resets=resets)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, resets=resets), expected)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's transformations")
def test_jax_maps_and_differentiates_forward_with_resets():
    import jax

    layer = GRU(4, return_sequences=True)
    layer.build(X.shape)
    many = np.stack([X, 2 * X])
    flags = np.stack([RESETS, ~RESETS])
    mapped = jax.vmap(lambda x, resets: layer(x, resets=resets))(many, flags)
    alone_each = [layer(x, resets=resets) for x, resets in zip(many, flags, strict=True)]
    assert_close(mapped, np.stack(alone_each))

    def run(x):
        return layer(x, resets=RESETS)

    _, tangent = jax.jvp(run, (X,), (np.ones_like(X),))
    _, pull = jax.vjp(run, X)
    d_results = random_like([np.asarray(tangent)])[0].astype("float32")
    (back,) = pull(d_results)
    assert_close(float((back * np.ones_like(X)).sum()), float((tangent * d_results).sum()), 1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="graphs that know neither batch nor time")
def test_sizes_unknown_while_tracing_are_checked_while_running():
    import tensorflow as tf

    layer = Bidirectional(LSTM(4, return_sequences=True))
    expected = layer(X, resets=RESETS)
    spec = [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.bool)]
    run = tf.function(lambda x, resets: layer(x, resets=resets), input_signature=spec)
    assert_close(run(X, RESETS), expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected resets of shape"):
        run(X, RESETS[:1])


class TestErrors:
    @pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 6), (3, 6, 2)])
    def test_resets_of_another_shape(self, shape):
        with pytest.raises(ValueError, match=r"LSTM.*expected resets of shape \(batch, time"):
            LSTM(4)(X, resets=np.zeros(shape, bool))

    def test_resets_that_are_no_array(self):
        with pytest.raises(ValueError, match="expected resets that are a tensor or array"):
            LSTM(4)(X, resets=RESETS.tolist())

    def test_fresh_states_without_resets(self):
        with pytest.raises(ValueError, match="fresh_state was given without `resets`"):
            GRU(4)(X, fresh_state=np.zeros((3, 4), "float32"))

    def test_fresh_states_that_do_not_fit(self):
        with pytest.raises(ValueError, match="expected fresh_state"):
            GRU(4)(X, resets=RESETS, fresh_state=np.zeros((3, 5), "float32"))

    def test_while_a_model_is_made(self):
        x, resets = keras.Input((6, 4)), keras.Input((5,), dtype="bool")
        with pytest.raises(ValueError, match="expected resets of shape"):
            LSTM(4)(x, resets=resets)

    def test_a_layer_of_kerass_in_bidirectional(self):
        layer = Bidirectional(keras.layers.LSTM(4))
        with pytest.raises(ValueError, match="resets was given, but its `call` takes no `resets`"):
            layer(X, resets=RESETS)

    def test_a_model_that_keras_has_no_layer_for_is_not_restored(self):
        x, resets = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
        model = keras.Model([x, resets], GRU(2)(x, resets=resets))
        with pytest.raises(ValueError, match="the model calls it with `resets`"):
            ostinato.restore(model)
        with pytest.raises(ValueError, match=r"takes in each step: .* `stream.step\(x, resets"):
            ostinato.stream(model)
