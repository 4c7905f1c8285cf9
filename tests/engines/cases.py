"""Random configurations of the built-in layers, for hypothesis, and what the reference expects.

A Case says everything about one layer and one call. OSTINATO_FUZZ=1000 asks for that many random
examples a test instead of the fixed few; OSTINATO_EXAMPLES=0.25 for a quarter of these.
"""

import os
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import reference
import reference_activations
from reference import Options, Weights
from support import LONG, WHOLE, pairwise

FUZZ = int(os.environ.get("OSTINATO_FUZZ") or 0)
SHARE = float(os.environ.get("OSTINATO_EXAMPLES") or 1)


def examples(count):
    """Hypothesis's settings: the same examples every time, or OSTINATO_FUZZ new ones.

    `count` is for JAX, which compiles each for 0.2 s, and for TensorFlow, where each operation
    takes a while; PyTorch runs more in less time. `make test` has half of it.
    """
    eager = {"jax": 1, "torch": 4, "tensorflow": 2 if LONG else 1}[keras.config.backend()]
    eager *= 1 if LONG else 0.5
    return settings(
        max_examples=FUZZ or max(1, round(count * eager * SHARE)),
        derandomize=not FUZZ,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


KINDS = {"simple_rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}
STATES = {"simple_rnn": 1, "gru": 1, "lstm": 2}
# Left out, and tested on their own: under these two states grow without bounds in a few steps, and
# rounding with them.
ACTIVATIONS = sorted(set(reference_activations.ACTIVATIONS) - {"exponential", "log_softmax"})
MASKS = ["none", "right padded", "left padded", "holes", "a row without a valid step", "all valid"]
# Activations that aren't exact in float64. The framework keeps a constant in float32: the slope of
# tf.nn.leaky_relu, sqrt(2) of Keras's gelu there, the sixth of torch's hardsigmoid. And torch's
# softplus is the identity beyond 20.
INEXACT = {
    "jax": set(),
    "torch": {"hard_sigmoid", "hard_silu", "softplus"},
    "tensorflow": {"gelu", "leaky_relu"},
}[keras.config.backend()]
SIZES = [1, 2, 3, 5]
FLAG = [False, True]


@dataclass(frozen=True)
class Case:
    kind: str
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    use_bias: bool = True
    reset_after: bool = True
    go_backwards: bool = False
    unroll: bool = False
    return_sequences: bool = True
    return_state: bool = True
    zero_output_for_mask: bool = False
    mask: str = "none"
    initial_state: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    implementation: int = 2
    batch: int = 2
    time: int = 3
    features: int = 3
    units: int = 3
    seed: int = 0

    @property
    def options(self) -> Options:
        return Options(
            self.kind,
            self.activation,
            self.recurrent_activation,
            self.reset_after,
            self.go_backwards,
            self.zero_output_for_mask,
        )

    @property
    def gates(self) -> int:
        return reference.cell_class(self.options).gates

    @property
    def is_exact(self) -> bool:
        """Whether the framework computes its activations in float64 when asked to."""
        return not INEXACT & {self.activation, self.recurrent_activation}

    def cell_arguments(self) -> dict:
        """Zero initializers: the tests set the weights, and JAX compiles a random one a shape."""
        arguments = {
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": "zeros",
            "recurrent_initializer": "zeros",
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
        }
        if self.kind != "simple_rnn":
            arguments["recurrent_activation"] = self.recurrent_activation
            arguments["implementation"] = self.implementation
        if self.kind == "gru":
            arguments["reset_after"] = self.reset_after
        return arguments

    def loop_arguments(self) -> dict:
        names = ("return_sequences", "return_state", "go_backwards", "unroll")
        return {name: getattr(self, name) for name in (*names, "zero_output_for_mask")}

    def layer(self, layers, **kwargs):
        """The layer, from Keras's `layers` module or from ours."""
        cls = getattr(layers, KINDS[self.kind])
        return cls(**self.cell_arguments(), **self.loop_arguments(), **kwargs)

    def cell(self, layers, **kwargs):
        return getattr(layers, KINDS[self.kind] + "Cell")(**self.cell_arguments(), **kwargs)


CELL_VALUES = {"kind": sorted(KINDS), "use_bias": FLAG, "reset_after": FLAG}
CALL_VALUES = {
    "go_backwards": FLAG,
    "unroll": FLAG,
    "return_sequences": FLAG,
    "return_state": FLAG,
    "zero_output_for_mask": FLAG,
    "mask": MASKS,
    "initial_state": FLAG,
}
DROPOUT_VALUES = {"dropout": [0.0, 0.4], "recurrent_dropout": [0.0, 0.3], "implementation": [1, 2]}
# Of these there are too many for any two to meet.
CELL_MANY = {"activation": ACTIVATIONS, "recurrent_activation": ACTIVATIONS, "units": SIZES}
CALL_MANY = {"batch": SIZES, "time": SIZES, "features": SIZES}


def _strategies(*options):
    return {name: st.sampled_from(values) for each in options for name, values in each.items()}


CELL_OPTIONS = _strategies(CELL_VALUES, CELL_MANY)
CALL_OPTIONS = _strategies(CALL_VALUES, CALL_MANY) | {"seed": st.integers(0, 2**16)}
DROPOUT_OPTIONS = _strategies(DROPOUT_VALUES)


def cases(**fixed):
    """Strategy: any case without dropout, with some options fixed."""
    fixed = {name: st.just(value) for name, value in fixed.items()}
    return st.builds(Case, **{**CELL_OPTIONS, **CALL_OPTIONS, **fixed})


def cases_with_dropout():
    return st.builds(Case, **{**CELL_OPTIONS, **CALL_OPTIONS, **DROPOUT_OPTIONS})


def tried(count, *, dropout=False, **more):
    """Decorates a test of a case, and of a value of each list in `more`.

    At random, as `examples(count)` says. Where it isn't the whole, fewer: any two values of two
    options meet in one of them.
    """
    if WHOLE or FUZZ:
        case = cases_with_dropout() if dropout else cases()
        return lambda test: examples(count)(given(case=case, **_strategies(more))(test))
    return pytest.mark.parametrize(("case", *more), [*_covering(dropout, more)], ids=str)


def _covering(dropout, more):
    few = CELL_VALUES | CALL_VALUES | (DROPOUT_VALUES if dropout else {})
    rng = np.random.default_rng(0)
    many = {name: rng.permutation(values) for name, values in (CELL_MANY | CALL_MANY).items()}
    for number, row in enumerate(pairwise([*few.values(), *more.values()])):
        options = dict(zip(few, row, strict=False))
        options |= {n: values[number % len(values)].item() for n, values in many.items()}
        yield Case(**options, seed=number), *row[len(few) :]


def leave_out(is_left_out):
    """Of `tried`: another case is drawn, or this one skipped."""
    if WHOLE or FUZZ:
        assume(not is_left_out)
    elif is_left_out:
        pytest.skip("left out")


# The numbers of a case.


def rng_of(case: Case) -> np.random.Generator:
    return np.random.default_rng(case.seed)


def make_inputs(rng, case: Case) -> np.ndarray:
    return 0.7 * rng.normal(size=(case.batch, case.time, case.features))


def make_states(rng, case: Case, count=None) -> list | None:
    if not case.initial_state:
        return None
    count = STATES[case.kind] if count is None else count
    return [0.7 * rng.normal(size=(case.batch, case.units)) for _ in range(count)]


def make_weights(rng, case: Case, features=None) -> Weights:
    """Small: an unbounded gate squares large numbers at every step."""
    features = features or case.features
    columns = case.gates * case.units
    two_biases = case.kind == "gru" and case.reset_after
    bias = 0.3 * rng.normal(size=(2, columns) if two_biases else columns)
    return Weights(
        0.7 * rng.normal(size=(features, columns)) / np.sqrt(features),
        0.5 * rng.normal(size=(case.units, columns)) / np.sqrt(case.units),
        bias if case.use_bias else None,
    )


def weight_list(weights: Weights) -> list:
    """As Keras orders them."""
    arrays = [weights.kernel, weights.recurrent_kernel, weights.bias]
    return [a for a in arrays if a is not None]


def make_mask(rng, case: Case) -> np.ndarray | None:
    if case.mask == "none":
        return None
    steps = np.arange(case.time)[None]
    lengths = rng.integers(1, case.time + 1, size=(case.batch, 1))
    mask = {
        "right padded": steps < lengths,
        "left padded": steps >= case.time - lengths,
        "all valid": np.ones((case.batch, case.time), bool),
    }.get(case.mask)
    if mask is None:
        mask = rng.random((case.batch, case.time)) < 0.6
    if case.mask == "a row without a valid step":
        mask[rng.integers(case.batch)] = False
    return mask


def draw_dropout(case: Case, dtype) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The masks that a layer with this seed must draw in a call: Keras's number, Keras's order.

    First the inputs' (one; one a gate where implementation is 1, which recurrent dropout makes
    it), then the recurrent ones (one a gate).
    """
    seeds = keras.random.SeedGenerator(case.seed)

    def draw(rate, count, width):
        if rate == 0:
            return None
        ones = keras.ops.ones((case.batch, width), dtype=dtype)
        masks = [keras.random.dropout(ones, rate, seed=seeds) for _ in range(count)]
        return np.stack([keras.ops.convert_to_numpy(m) for m in masks])

    a_mask_a_gate = case.implementation == 1 or case.recurrent_dropout > 0
    drop = draw(case.dropout, case.gates if a_mask_a_gate else 1, case.features)
    return drop, draw(case.recurrent_dropout, case.gates, case.units)


# What the reference expects of a layer: its results, and the gradients pulled back through it.


@dataclass(frozen=True)
class Expected:
    """Of one layer. `pull_back(d_results)` gives gradients of inputs, states and weights."""

    run: reference.Run
    return_sequences: bool
    return_state: bool

    @property
    def results(self) -> list:
        output = self.run.outputs if self.return_sequences else self.run.last
        return [output, *(self.run.states if self.return_state else ())]

    def pull_back(self, d_results):
        d_output, *d_states = d_results
        key = "d_outputs" if self.return_sequences else "d_last"
        gradients = self.run.backward(**{key: d_output}, d_states=d_states)
        return gradients.inputs, list(gradients.states), weight_list(gradients.weights)


@dataclass(frozen=True)
class ExpectedStack:
    """Of RNN([cells]): the cells run one over the other's outputs."""

    runs: list
    return_sequences: bool
    return_state: bool

    @property
    def results(self) -> list:
        top = self.runs[-1]
        output = top.outputs if self.return_sequences else top.last
        states = [state for run in self.runs for state in run.states]
        return [output, *(states if self.return_state else ())]

    def pull_back(self, d_results):
        d_output, *d_states = d_results
        d_all = {"d_outputs" if self.return_sequences else "d_last": d_output}
        states, weights = [], []
        for run in reversed(self.runs):
            own = len(run.states)
            mine, d_states = (d_states[-own:], d_states[:-own]) if d_states else (None, [])
            gradients = run.backward(**d_all, d_states=mine)
            d_all = {"d_outputs": gradients.inputs}
            states = [*gradients.states, *states]
            weights = [*weight_list(gradients.weights), *weights]
        return gradients.inputs, states, weights


@dataclass(frozen=True)
class ExpectedBidirectional:
    """Of Bidirectional: both directions in the order of time, merged."""

    forward: Expected
    backward: Expected
    merge_mode: str | None

    def _outputs(self):
        there, back = self.forward.results[0], self.backward.results[0]
        return there, (back[:, ::-1] if self.backward.return_sequences else back)

    @property
    def results(self) -> list:
        there, back = self._outputs()
        merged = {
            "concat": lambda: [np.concatenate([there, back], axis=-1)],
            "sum": lambda: [there + back],
            "ave": lambda: [(there + back) / 2],
            "mul": lambda: [there * back],
            None: lambda: [there, back],
        }[self.merge_mode]()
        return merged + self.forward.results[1:] + self.backward.results[1:]

    def _unmerge(self, d_results):
        d = d_results[0]
        there, back = self._outputs()
        return {
            "concat": lambda: np.split(d, [there.shape[-1]], axis=-1),
            "sum": lambda: (d, d),
            "ave": lambda: (d / 2, d / 2),
            "mul": lambda: (d * back, d * there),
            None: lambda: d_results[:2],
        }[self.merge_mode]()

    def pull_back(self, d_results):
        d_there, d_back = self._unmerge(d_results)
        if self.backward.return_sequences:
            d_back = d_back[:, ::-1]
        d_states = d_results[2 if self.merge_mode is None else 1 :]
        half = len(d_states) // 2
        there = self.forward.pull_back([d_there, *d_states[:half]])
        back = self.backward.pull_back([d_back, *d_states[half:]])
        return there[0] + back[0], there[1] + back[1], there[2] + back[2]


# Comparison.

# Relative to the largest entry. The largest difference in some thousand examples was 1e-13 in
# float64, and 1e-6 in float32 (rounding of 6e-8 an operation, through five steps and back).
DOUBLE = 1e-11
SINGLE = 1e-5


def assert_near(got, expected, tolerance, what):
    """Equal within `tolerance` of the larger of 1 and the expected array's largest entry."""
    assert len(got) == len(expected), f"{what}: {len(got)} arrays, expected {len(expected)}"
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.shape == other.shape, f"{what}[{index}]: {one.shape}, expected {other.shape}"
        assert np.isfinite(other).all(), f"{what}[{index}]: the case overflows and compares nothing"
        size = max(1.0, np.abs(other).max(initial=0))
        np.testing.assert_allclose(
            one, other, rtol=0, atol=tolerance * size, err_msg=f"{what}[{index}]"
        )


def assert_pulled(pulled, expected, d_results, tolerance, has_states):
    """Results and every gradient of `gradients.pull_back` are the reference's."""
    d_inputs, d_states, d_weights = expected.pull_back(d_results)
    assert_near(pulled.results, expected.results, tolerance, "results")
    assert_near(pulled.inputs, [d_inputs], tolerance, "gradient of inputs")
    assert_near(pulled.weights, d_weights, tolerance, "gradient of weights")
    if has_states:
        assert_near(pulled.states, d_states, tolerance, "gradient of initial states")
