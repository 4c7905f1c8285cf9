"""Runs for the native engine's doors: specs, operands, and what the reference makes of them."""

import math
from dataclasses import dataclass, field

import numpy as np

import reference
from ostinato import native
from ostinato.native import RunSpec

KINDS = ("simple_rnn", "lstm", "gru", "gru_reset_before")
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3, "gru_reset_before": 3}


@dataclass(frozen=True)
class Case:
    """What varies from run to run; a seed for its numbers."""

    kind: str = "lstm"
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    has_bias: bool = True
    mask: bool = False
    input_masks: int = 0
    recurrent_masks: int = 0
    go_backwards: bool = False
    flip_outputs: bool = False
    return_sequences: bool = True
    zero_output_for_mask: bool = False
    sizes: tuple = (3, 5, 4, 7)  # B T D U
    seed: int = 0

    @property
    def spec(self) -> RunSpec:
        names = native.activation_names()
        return RunSpec(
            kind=KINDS.index(self.kind),
            activation=names.index(self.activation),
            recurrent_activation=names.index(self.recurrent_activation),
            has_bias=self.has_bias,
            has_mask=self.mask,
            input_masks=self.input_masks,
            recurrent_masks=self.recurrent_masks,
            go_backwards=self.go_backwards,
            flip_outputs=self.flip_outputs,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
            training=False,
            wants_dx=False,
        )

    @property
    def arrays(self) -> dict:
        """The operands by name, in order, float64."""
        batch, time, features, units = self.sizes
        rng = np.random.default_rng(self.seed)
        gates = GATES[self.kind]

        def normal(*shape, scale=1.0):
            return scale * rng.normal(size=shape)

        def dropped(count, columns):
            return (rng.random((count, batch, columns)) < 0.7) / 0.7

        made = {"x": normal(batch, time, features), "h": normal(batch, units)}
        if self.kind == "lstm":
            made["c"] = normal(batch, units)
        made["kernel"] = normal(features, gates * units, scale=1 / math.sqrt(max(1, features)))
        made["recurrent_kernel"] = normal(units, gates * units, scale=1 / math.sqrt(units))
        if self.has_bias:
            rows = (2,) if self.kind == "gru" else ()
            made["bias"] = normal(*rows, gates * units, scale=0.3)
        if self.mask:
            made["mask"] = rng.random((batch, time)) < 0.6
            made["mask"][:1] = False  # a row without a valid timestep
        if self.input_masks:
            made["input_masks"] = dropped(self.input_masks, features)
        if self.recurrent_masks:
            made["recurrent_masks"] = dropped(self.recurrent_masks, units)
        return made

    @property
    def differentiable(self) -> tuple:
        """The names of the operands that have gradients."""
        return tuple(name for name in self.arrays if "mask" not in name)


@dataclass
class Expected:
    """The reference's results, the gradients for them, and what these pull back, by operand."""

    results: list
    d_results: list
    gradients: dict = field(default_factory=dict)


def expected(case: Case) -> Expected:
    """Values and gradients of the float64 reference."""
    arrays = case.arrays
    states = tuple(arrays[name] for name in ("h", "c") if name in arrays)
    run = reference.run(
        reference.Options(
            case.kind.removesuffix("_reset_before"),
            case.activation,
            case.recurrent_activation,
            reset_after=case.kind == "gru",
            go_backwards=case.go_backwards,
            zero_output_for_mask=case.zero_output_for_mask,
        ),
        reference.Weights(arrays["kernel"], arrays["recurrent_kernel"], arrays.get("bias")),
        arrays["x"],
        states,
        arrays.get("mask"),
        arrays.get("input_masks"),
        arrays.get("recurrent_masks"),
    )
    rng = np.random.default_rng(case.seed + 1)
    order = slice(None, None, -1 if case.flip_outputs else 1)
    ys = [run.outputs[:, order]] * case.return_sequences
    results = [*ys, *run.states]
    d_results = [rng.normal(size=result.shape) for result in results]
    d_outputs = d_results[0][:, order] if case.return_sequences else None
    pulled = run.backward(d_outputs, None, d_results[case.return_sequences :])
    gradients = {
        "x": pulled.inputs,
        **dict(zip(("h", "c"), pulled.states, strict=False)),
        "kernel": pulled.weights.kernel,
        "recurrent_kernel": pulled.weights.recurrent_kernel,
    }
    if case.has_bias:
        gradients["bias"] = pulled.weights.bias
    return Expected(results, d_results, gradients)


def assert_close(got, wanted, tolerance=1e-12):
    """Every array of two nests, to within `tolerance` of the largest number that's wanted in it."""
    import keras  # for tensors, which the doors give; what has no tensors needs no Keras

    got, wanted = (keras.tree.flatten(list(nest)) for nest in (got, wanted))
    for mine, theirs in zip(got, wanted, strict=True):
        mine, theirs = keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs)
        assert mine.shape == theirs.shape
        scale = max(1.0, abs(theirs).max(initial=0))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * scale)


# Every kind, and every option with each kind that it matters to.
CASES = [
    *(Case(kind) for kind in KINDS),
    *(Case(kind, mask=True, seed=1) for kind in KINDS),
    *(
        Case(kind, mask=True, zero_output_for_mask=True, go_backwards=True, seed=2)
        for kind in KINDS
    ),
    *(Case(kind, go_backwards=True, flip_outputs=True, mask=True, seed=3) for kind in KINDS),
    *(Case(kind, return_sequences=False, has_bias=False, seed=4) for kind in KINDS),
    *(
        Case(kind, input_masks=count, recurrent_masks=GATES[kind], seed=5)
        for kind in KINDS
        for count in {1, GATES[kind]}
    ),
    *(Case(kind, "gelu", "hard_sigmoid", mask=True, sizes=(5, 3, 2, 17), seed=6) for kind in KINDS),
    *(Case(kind, "softsign", "silu", sizes=(1, 1, 1, 1), seed=7) for kind in KINDS),
]
