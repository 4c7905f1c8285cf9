"""The engine `cudnn` without a GPU: something else takes cuDNN's place, behind the same call.

On PyTorch its own loop for the CPU, in float64; on JAX its own reference of the LSTM, in float32;
on TensorFlow our plain loop in place of its operation. What can't be seen so: cuDNN's rounding, its
speed, and that the framework reaches it.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import ostinato
from engines import cases
from engines.cases import (
    DOUBLE,
    SINGLE,
    Case,
    ExpectedBidirectional,
    assert_near,
    assert_pulled,
    examples,
)
from engines.gradients import Pulled, pull_back, random_like
from engines.test_against_reference import expect
from ostinato import layers
from ostinato.doors import door
from ostinato.engines.compaction import Compaction

BACKEND = keras.config.backend()
KINDS = cases.KINDS if BACKEND != "jax" else {"lstm": "LSTM"}  # JAX calls no other
DTYPE = "float32" if BACKEND == "jax" else "float64"
TOLERANCE = SINGLE if BACKEND == "jax" else DOUBLE

every_kind = pytest.mark.skipif(BACKEND == "jax", reason="JAX calls cuDNN's LSTM alone")
each_class = pytest.mark.parametrize("cls", sorted(KINDS.values()))


@pytest.fixture(autouse=True, scope="module")
def _in_cudnn_s_place():
    """On TensorFlow the plain loop, as its operation has no kernel for the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            from engines import plain_cudnn

            patch.setattr(tf.raw_ops, "CudnnRNNV3", plain_cudnn.run)
            patch.setattr(door, "cudnn_why_not", lambda x: None)
        yield


@pytest.fixture(autouse=True)
def _forced():
    with ostinato.use_engine("cudnn"):
        yield


@st.composite
def cudnn_cases(draw, **fixed):
    """Cases that cuDNN can run, with input dropout."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    activation = draw(st.sampled_from(["tanh", "relu"])) if kind == "simple_rnn" else "tanh"
    dropout = {"dropout": draw(st.sampled_from([0.0, 0.4])), "recurrent_dropout": 0.0}
    own = {"kind": kind, "activation": activation, "recurrent_activation": "sigmoid", **dropout}
    own |= {"reset_after": True, "implementation": draw(st.sampled_from([1, 2]))}
    return replace(draw(cases.cases(**{"reset_after": True, **fixed})), **own)


def in_dtype(arrays):
    """Arrays, one or several or None, in the dtype of these tests."""
    if arrays is None or isinstance(arrays, np.ndarray):
        return arrays if arrays is None else arrays.astype(DTYPE)
    return [array.astype(DTYPE) for array in arrays]


def start_over(*seeded):
    """Dropout draws what it drew first."""
    for layer in seeded:
        layer.cell.seed_generator.state.assign(np.array([7, 3], "uint32"))


def check_case(case: Case, layer, tolerance=TOLERANCE):
    rng = cases.rng_of(case)
    x, states = in_dtype(cases.make_inputs(rng, case)), in_dtype(cases.make_states(rng, case))
    mask, weights = cases.make_mask(rng, case), cases.make_weights(rng, case)
    drop, _ = cases.draw_dropout(case, DTYPE)
    expected = expect(case, weights, x, states, mask, drop)
    layer.build(x.shape)
    layer.set_weights(cases.weight_list(weights))
    d_results = in_dtype(random_like(expected.results))
    pulled = pull_back(layer, x, states, d_results, mask=mask, training=True)
    assert_pulled(pulled, expected, d_results, tolerance, states is not None)


@given(cudnn_cases())
@examples(10)
def test_layers_agree_with_the_reference(case):
    check_case(case, case.layer(layers, dtype=DTYPE))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("mask", cases.MASKS)
def test_the_smallest_sizes(kind, mask):
    case = Case(kind, mask=mask, initial_state=True, batch=1, time=1, features=1, units=1)
    check_case(case, case.layer(layers, dtype=DTYPE))


@pytest.fixture
def calls(monkeypatch):
    """The specs of the calls of cuDNN, as they're made."""
    seen, run = [], door.cudnn
    monkeypatch.setattr(door, "cudnn", lambda spec, *rest: seen.append(spec) or run(spec, *rest))
    return seen


def pulled_by(engine, layer, x, states, **call) -> Pulled:
    with ostinato.use_engine(engine):
        return pull_back(layer, x, states, None, **call)


def assert_as_scan(layer, seeded, x, states, tolerance=TOLERANCE, **call):
    """The layer's results and gradients are those of the portable engine, dropout's too."""
    both = []
    for engine in ("scan", "cudnn"):
        start_over(*seeded)
        both.append(pulled_by(engine, layer, x, states, **call))
    for name in ("results", "inputs", "states", "weights"):
        assert_near(getattr(both[1], name), getattr(both[0], name), tolerance, name)


@given(cudnn_cases(), st.sampled_from(["concat", "sum", None]), st.booleans())
@examples(6)
def test_bidirectional_agrees_with_scan(case, merge_mode, training):
    rng = cases.rng_of(case)
    x, mask = in_dtype(cases.make_inputs(rng, case)), cases.make_mask(rng, case)
    inner = case.layer(layers, dtype=DTYPE)
    layer = layers.Bidirectional(inner, merge_mode=merge_mode, dtype=DTYPE)
    layer.build(x.shape)
    weights = [cases.weight_list(cases.make_weights(rng, case)) for _ in range(2)]
    layer.set_weights(weights[0] + weights[1])
    states = cases.make_states(rng, case)
    states = states and in_dtype(states + cases.make_states(rng, case))
    directions = (layer.forward_layer, layer.backward_layer)
    assert_as_scan(layer, directions, x, states, mask=mask, training=training)


@given(cudnn_cases(go_backwards=False, zero_output_for_mask=False))
@examples(3)
def test_bidirectional_agrees_with_two_references(case):
    case = replace(case, dropout=0.0)
    rng = cases.rng_of(case)
    x, mask = in_dtype(cases.make_inputs(rng, case)), cases.make_mask(rng, case)
    weights = [cases.make_weights(rng, case) for _ in range(2)]
    there = replace(case, zero_output_for_mask=case.return_sequences)
    ways = [there, replace(there, go_backwards=True)]
    states = [in_dtype(cases.make_states(rng, case)) for _ in ways]
    runs = zip(ways, weights, states, strict=True)
    expected = ExpectedBidirectional(
        *(expect(way, own, x, start, mask) for way, own, start in runs), "concat"
    )
    layer = layers.Bidirectional(case.layer(layers, dtype=DTYPE), dtype=DTYPE)
    layer.build(x.shape)
    layer.set_weights([array for own in weights for array in cases.weight_list(own)])
    d_results = in_dtype(random_like(expected.results))
    flat = states[0] and states[0] + states[1]
    pulled = pull_back(layer, x, flat, d_results, mask=mask)
    assert_pulled(pulled, expected, d_results, TOLERANCE, flat is not None)


@pytest.mark.parametrize(
    ("kind", "mask", "initial_state", "dropout", "count"),
    [
        ("lstm", "none", True, 0.0, 1),
        ("lstm", "none", True, 0.4, 1),
        ("lstm", "holes", False, 0.4, 1),
        ("lstm", "holes", True, 0.0, 2),  # an output can't be held, only a carry
        ("gru", "a row without a valid step", True, 0.4, 1),
        ("simple_rnn", "none", True, 0.0, 1),
        ("simple_rnn", "holes", False, 0.0, 2),
    ],
)
def test_both_directions_are_one_call_where_the_states_can_be_kept(
    calls, kind, mask, initial_state, dropout, count
):
    if kind not in KINDS:
        pytest.skip("JAX calls cuDNN's LSTM alone")
    case = Case(kind, mask=mask, initial_state=initial_state, dropout=dropout, batch=3, time=4)
    rng = cases.rng_of(case)
    x = in_dtype(cases.make_inputs(rng, case))
    states = [np.ones((3, 3), DTYPE)] * (2 * cases.STATES[kind]) if initial_state else None
    layer = layers.Bidirectional(case.layer(layers, dtype=DTYPE), dtype=DTYPE)
    layer(x, initial_state=states, mask=cases.make_mask(rng, case), training=True)
    assert [spec.directions for spec in calls] == ([2] if count == 1 else [1, 1])


@every_kind
@pytest.mark.parametrize(
    "back", [layers.LSTM(4, go_backwards=True), layers.GRU(3, go_backwards=True)]
)
def test_directions_that_differ_are_calls_of_their_own(calls, back):
    back = type(back).from_config({**back.get_config(), "dtype": DTYPE})
    layer = layers.Bidirectional(layers.LSTM(3, dtype=DTYPE), backward_layer=back, dtype=DTYPE)
    x = in_dtype(np.random.default_rng(0).normal(size=(2, 4, 5)))
    got = numbers(layer(x))
    assert [spec.directions for spec in calls] == [1, 1]
    with ostinato.use_engine("scan"):
        np.testing.assert_allclose(got, numbers(layer(x)), atol=TOLERANCE)


@pytest.mark.parametrize("kind", sorted({*KINDS} & {"lstm", "gru"}))
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_both_directions_put_out_for_masked_timesteps_what_scan_does(
    calls, kind, return_sequences, zero
):
    mask = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]], bool)
    inner = getattr(layers, KINDS[kind])(3, return_sequences=return_sequences, dtype=DTYPE)
    layer = layers.Bidirectional(inner, dtype=DTYPE)
    layer.forward_layer.zero_output_for_mask = zero
    layer.backward_layer.zero_output_for_mask = zero
    x = in_dtype(np.random.default_rng(0).normal(size=(5, 4, 2)))
    # (GRU's are one call whatever it starts from.)
    states = [np.ones((5, 3), DTYPE)] * 2 if kind == "gru" else None
    got = numbers(layer(x, mask=mask, initial_state=states))
    assert [spec.directions for spec in calls] == [2]
    with ostinato.use_engine("scan"):
        expected = numbers(layer(x, mask=mask, initial_state=states))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_of_lstm_alone_a_feature_more_and_only_where_its_carry_is_asked_for(calls):
    x, mask = np.zeros((2, 3, 4)), np.array([[True, False, True]] * 2)
    for cls, arguments, features in [
        ("LSTM", {"return_state": True}, 5),
        ("LSTM", {"stateful": True}, 5),
        ("LSTM", {}, 4),
        ("GRU", {"return_state": True}, 4),
        ("SimpleRNN", {"return_state": True}, 4),
    ]:
        if cls not in KINDS.values():
            continue
        getattr(layers, cls)(3, **arguments)(x, mask=mask)
        assert calls.pop().features == features, (cls, arguments)
    assert not calls


@every_kind
@pytest.mark.parametrize("mask", [None, np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)])
@pytest.mark.parametrize("wrap", [False, True])
def test_stacks_agree_with_scan(mask, wrap):
    rng = np.random.default_rng(0)
    options = {
        "dtype": DTYPE,
        "dropout": 0.3,
        "bias_initializer": "random_normal",
        "seed": 1,
    }
    cells = [
        layers.GRUCell(4, **options, implementation=1),
        layers.LSTMCell(3, **options),
        layers.SimpleRNNCell(2, **options),
    ]
    layer = layers.RNN(cells, return_sequences=True, return_state=True, dtype=DTYPE)
    layer = layers.Bidirectional(layer, dtype=DTYPE) if wrap else layer
    x = in_dtype(rng.normal(size=(3, 4, 5)))
    layer.build(x.shape)
    stacks = [layer.forward_layer, layer.backward_layer] if wrap else [layer]

    class Holder:
        def __init__(self, cell):
            self.cell = cell

    seeded = [Holder(cell) for stack in stacks for cell in stack.cell.cells]
    assert_as_scan(layer, seeded, x, None, mask=mask, training=True)


@each_class
def test_stateful_layers_go_on_where_they_ended(cls):
    x, mask = np.random.default_rng(0).normal(size=(2, 6, 3)), np.ones((2, 6), bool)
    mask[:, 2] = mask[0, 4:] = False
    whole = getattr(layers, cls)(4, return_sequences=True, dtype=DTYPE, seed=0)
    pieces = getattr(layers, cls)(
        4, return_sequences=True, dtype=DTYPE, seed=0, stateful=True, zero_output_for_mask=True
    )
    whole.build(x.shape)
    pieces.build((2, 3, 3))
    pieces.set_weights(whole.get_weights())
    whole.zero_output_for_mask = True
    expected = whole(x, mask=mask)
    got = [pieces(x[:, :3], mask=mask[:, :3]), pieces(x[:, 3:], mask=mask[:, 3:])]
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.concatenate(got, axis=1)),
        ops.convert_to_numpy(expected),
        atol=TOLERANCE,
    )


@each_class
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_bfloat16"])
def test_half_precision(cls, dtype):
    """Timesteps to be passed over leave the carry as it is, in few bits, too."""
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 40, 5)).astype("float32"), rng.random((3, 40)) < 0.3
    layer = getattr(layers, cls)(6, return_sequences=True, return_state=True, dtype=dtype)
    exact = getattr(layers, cls)(6, return_sequences=True, return_state=True, dtype="float32")
    layer.build(x.shape)
    exact.build(x.shape)
    exact.set_weights([np.asarray(w, "float32") for w in map(numbers, layer.weights)])
    expected = exact(x, mask=mask)
    for one, other in zip(layer(x, mask=mask), expected, strict=True):
        assert keras.backend.standardize_dtype(one.dtype) == dtype.removeprefix("mixed_")
        np.testing.assert_allclose(numbers(one), numbers(other), atol=3e-2)


def numbers(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


@pytest.mark.skipif(BACKEND != "torch", reason="autocast is PyTorch's")
def test_the_operation_gives_the_inputs_dtype_under_autocast_too(monkeypatch):
    import torch

    run = torch._VF.gru  # on a GPU autocast casts for cuDNN, as it doesn't for the CPU's loop
    halves = lambda *given: [result.half() for result in run(*given)]  # noqa: E731
    monkeypatch.setattr(torch._VF, "gru", halves, raising=False)
    x, h, parameters = torch.ones(2, 4, 3), torch.ones(1, 2, 3), torch.ones(3 * 3 * 8)
    results = torch.ops.ostinato.cudnn(x, [h], parameters, 1, 1, 3, 3)
    assert [result.dtype for result in results] == [torch.float32] * 2


@each_class
def test_masked_inputs_may_be_anything(cls):
    layer = getattr(layers, cls)(4, return_sequences=True, return_state=True, dtype=DTYPE)
    x = in_dtype(np.random.default_rng(0).normal(size=(2, 5, 3)))
    mask = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 1, 0]], bool)
    layer.build(x.shape)
    plain = pull_back(layer, np.where(mask[..., None], x, 0), None, None, mask=mask)
    wild = pull_back(
        layer, np.where(mask[..., None], x, np.asarray(np.nan, DTYPE)), None, None, mask=mask
    )
    for name in ("results", "inputs", "weights"):
        assert_near(getattr(wild, name), getattr(plain, name), 0, name)


def test_int8_weights_are_floats_there():
    model = keras.Sequential([keras.Input((None, 5)), layers.LSTM(4)])
    small, x = ostinato.quantize(model), np.random.default_rng(0).normal(size=(2, 6, 5))
    got = numbers(small(x))
    with ostinato.use_engine("scan"):
        np.testing.assert_allclose(got, numbers(small(x)), atol=1e-6)
    assert "weights from int8" in str(ostinato.explain(small))


# What it refuses.


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.LSTM(3, activation="relu"), "activation is relu, and cuDNN has tanh"),
        (
            lambda: layers.GRU(3, recurrent_activation="hard_sigmoid"),
            "recurrent_activation is hard_sigmoid, and cuDNN has sigmoid",
        ),
        (
            lambda: layers.SimpleRNN(3, activation="gelu"),
            "activation is gelu, and cuDNN has tanh or relu",
        ),
        (lambda: layers.LSTM(3, activation=lambda x: x), "activation is <lambda>"),
        (lambda: layers.GRU(3, reset_after=False), "cuDNN has no GRU with reset_after=False"),
        (lambda: layers.LSTM(3, recurrent_dropout=0.1), "no dropout of the state"),
        (lambda: layers.RNN(OwnCell(3)), "OwnCell has its own"),
    ],
)
def test_what_it_cant_do_is_refused_with_the_reason(layer, reason):
    layer, x = layer(), np.zeros((2, 3, 4), "float32")
    layer.build(x.shape)
    with pytest.raises(ValueError, match="the engine 'cudnn' is asked for") as error:
        layer(x, training=True)
    assert reason in str(error.value)
    (row,) = ostinato.explain(layer)
    assert reason in row.why_not_faster or "recurrent_dropout" in reason


class OwnCell(layers.LSTMCell):
    def call(self, inputs, states, training=False):
        return super().call(inputs, states, training)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="asked on a GPU alone")
def test_without_numbers_the_plan_goes_on():
    for shape in ((0, 3, 4), (2, 0, 4)):
        assert door.cudnn_why_not(ops.zeros(shape)) == "cuDNN takes no tensor without numbers"


# On a GPU.


@pytest.fixture
def on_gpu(monkeypatch):
    """The plan is told that tensors are on a GPU, whatever they are."""
    monkeypatch.setattr(door, "device_of", lambda x: "cuda")
    monkeypatch.setattr(door, "cudnn_why_not", lambda x: None)
    monkeypatch.setattr(door, "native_why_not", lambda x: "the tensors are on cuda:0")
    monkeypatch.setattr(door, "cudnn_precision", lambda dtype: dtype.replace("float32", "tf32"))
    # no engine is asked for
    monkeypatch.setattr("ostinato.layers.planning._forced", lambda: None)


@every_kind
def test_it_is_chosen_on_a_gpu_and_explain_says_so(on_gpu, calls):
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
            layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(3)], return_sequences=True),
            layers.LSTM(3, activation="gelu", return_sequences=True),
            layers.GRU(3, recurrent_dropout=0.2, dtype=DTYPE),
        ]
    )
    rows = list(ostinato.explain(model))
    assert [row.engine for row in rows] == ["cudnn"] * 4 + ["scan", "cudnn"]
    assert {row.device for row in rows} == {"cuda"}
    assert [row.precision for row in rows] == ["tf32"] * 4 + ["", ""]
    assert rows[4].why_not_faster.startswith("activation is gelu, and cuDNN has tanh; ")
    assert rows[0].why_not_faster == ""
    assert rows[5].why_not_faster == (
        "in training scan: cuDNN has no dropout of the state (recurrent_dropout)"
    )
    model(np.zeros((2, 3, 4)))
    assert [(spec.mode, spec.directions) for spec in calls] == [
        *(("lstm", 2), ("gru", 1), ("rnn_tanh", 1), ("gru", 1))
    ]
    model(np.zeros((2, 3, 4)), training=True)
    assert len(calls) == 4 + 3


def test_bidirectional_with_recurrent_dropout_trains_on_scan(on_gpu, calls):
    layer = layers.Bidirectional(layers.LSTM(3, recurrent_dropout=0.2, return_sequences=True))
    assert layer(np.zeros((2, 3, 4)), training=True).shape == (2, 3, 6)
    assert not calls


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
@examples(4)
def test_compaction(batch, time, seed):
    rng = np.random.default_rng(seed)
    mask, ys = rng.random((batch, time)) < 0.5, in_dtype(rng.normal(size=(batch, time, 2)))
    moves = Compaction(ops.convert_to_tensor(mask))
    moved = ops.convert_to_numpy(moves.moved(ops.convert_to_tensor(ys)))
    for row in range(batch):
        valid = ys[row][mask[row]]
        np.testing.assert_array_equal(moved[row, : len(valid)], valid)
        assert not moved[row, len(valid) :].any()
        outputs = moved.copy()  # of a run: of the timesteps passed over they may be anything
        outputs[row, len(valid) :] = 7
        outputs = ops.convert_to_tensor(outputs)
        for backwards in (False, True):
            run = range(time)[::-1] if backwards else range(time)
            held, expected = np.zeros(2), np.zeros((time, 2))
            for step in run:
                held = ys[row, step] if mask[row, step] else held
                expected[step] = held
            back = moves.put_back(outputs, False, backwards)
            np.testing.assert_array_equal(ops.convert_to_numpy(back)[row], expected)
            zeroed = moves.put_back(outputs, True, backwards)
            expected[~mask[row]] = 0
            np.testing.assert_array_equal(ops.convert_to_numpy(zeroed)[row], expected)
