"""One configuration on the engine for a card, against the portable engine in float64."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ostinato import layers
from ostinato.doors import door
from ostinato.engines.table import OF_CARDS, PORTABLE
from ostinato.gpu_check.configurations import GRU, LSTM, OWN, SIMPLE, Configuration
from ostinato.settings import use_engine
from ostinato.structure import leaves
from ostinato.tensors import Tensor, Tensors

TIMESTEPS, FEATURES = 20, 16
# The norm of an error over that of what's right, after 20 timesteps and back.
TOLERANCES = {"float32": 3e-5, "tf32": 1e-2, "bfloat16": 1e-1}
TIMES = 3  # that results have to be the same, bit for bit


class Found(NamedTuple):
    """How far a configuration is off.

    Attributes:
        values: The largest error of a result, as a share of its norm.
        gradients: Likewise of a gradient.
        is_steady: Whether results are the same each time: where blocks don't wait for one another,
            they needn't be.
    """

    values: float
    gradients: float
    is_steady: bool

    def is_right(self, products: str) -> bool:
        """Whether that is rounding; a NaN isn't."""
        errors = (self.values, self.gradients)
        return self.is_steady and all(error < TOLERANCES[products] for error in errors)

    def __str__(self) -> str:
        said = f"values off by {self.values:.1e}, gradients by {self.gradients:.1e}"
        return said if self.is_steady else f"{said}; other values each time"


class GatedCell(keras.layers.Layer):
    """Two products in a row, a layer normalization across the units, and a state of one number."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 1], units

    def build(self, shape: Any) -> None:
        """Makes the weights, for inputs (B, D)."""
        u = self.units
        self.kernel = self.add_weight(shape=(shape[-1], 2 * u), name="kernel")
        self.recurrent = self.add_weight(shape=(u, u), name="recurrent")
        self.inner = self.add_weight(shape=(u, u), name="inner")
        self.score = self.add_weight(shape=(u, 1), name="score")
        self.scale = self.add_weight(shape=(u,), name="scale")

    def call(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One timestep of inputs (B, D)."""
        h, level = states
        gate, new = ops.split(ops.matmul(inputs, self.kernel), 2, axis=-1)
        gate = ops.sigmoid(gate + ops.matmul(h, self.recurrent) + level)
        new = ops.tanh(new + ops.matmul(gate * h, self.inner))
        new = new - ops.mean(new, axis=-1, keepdims=True)
        new = new / ops.sqrt(ops.mean(new * new, axis=-1, keepdims=True) + 1e-3)
        h = gate * h + (1.0 - gate) * ops.tanh(self.scale * new)
        return h, [h, 0.5 * level + ops.matmul(h, self.score)]


_MADE: dict[str, Callable[..., Any]] = {
    LSTM: layers.LSTM,
    GRU: layers.GRU,
    SIMPLE: layers.SimpleRNN,
    OWN: lambda units, dtype, **options: layers.RNN(
        GatedCell(units, dtype=dtype), dtype=dtype, **options
    ),
}


def compare(configuration: Configuration, engine: str | None = OF_CARDS) -> Found:
    """Runs a configuration there and back; see `Found`.

    Args:
        configuration: What is tried.
        engine: The engine that is; None: the plan's choice, for a trial without a card.

    Raises:
        EngineError: the engine can't run it; the error says why.
    """
    rng = np.random.default_rng(configuration.units)
    # Dropout's numbers depend on the dtype; the same are drawn of the same.
    exact = "float32" if configuration.draws else "float64"
    mine, right = (_Run(configuration, dtype) for dtype in ("float32", exact))
    arrays = [rng.normal(size=shape) for shape in mine.shapes]
    arrays += [_weight(rng, variable.shape) for variable in mine.layer.trainable_variables]
    flags = {
        name: rng.random((configuration.rows, TIMESTEPS)) < share
        for name, share in (("mask", 0.7), ("resets", 0.2))
    }
    flags["mask"][0] = False
    with use_engine(PORTABLE), door.computing_from("float32"):
        expected = right.pulled(arrays, flags)
    forced = nullcontext() if engine is None else use_engine(engine)
    with forced, door.computing_from(configuration.products):
        found = mine.pulled(arrays, flags)
        inferred = [mine.values(arrays, flags) for _ in range(TIMES)]
    values = _largest([_off(each, expected[0]) for each in (found[0], inferred[0])])
    steady = all(_same(inferred[0], each) for each in inferred[1:])
    return Found(values, _off(found[1], expected[1]), steady)


class _Run:
    """A layer of a dtype, as a function of what its results have gradients in."""

    def __init__(self, configuration: Configuration, dtype: str) -> None:
        options = {"return_sequences": True, "seed": 1, **dict(configuration.options)}
        if configuration.kind == OWN:
            del options["seed"]
        self.configuration, self.dtype = configuration, dtype
        self.layer = _MADE[configuration.kind](
            configuration.units, dtype=dtype, return_state=True, **options
        )
        self.layer.build((configuration.rows, TIMESTEPS, FEATURES))
        self._others = [variable.value for variable in self.layer.non_trainable_variables]

    @property
    def _states(self) -> list[tuple[int, ...]]:
        sizes = leaves(self.layer.cell.state_size)
        return [(self.configuration.rows, size) for size in sizes]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of inputs, initial states and fresh states, as far as they're given."""
        has_fresh = self.configuration.resets == "fresh states"
        kinds = int(self.configuration.has_states) + int(has_fresh)
        x = (self.configuration.rows, TIMESTEPS, FEATURES)
        return [x, *self._states * kinds]

    def _function(self, flags: dict[str, np.ndarray]) -> Callable[..., Tensors]:
        asked, count = self.configuration, len(self._states)
        call: dict[str, Any] = {"training": asked.draws}
        if asked.has_mask:
            call["mask"] = ops.convert_to_tensor(flags["mask"])
        if asked.resets:
            call["resets"] = ops.convert_to_tensor(flags["resets"])

        def results(*tensors: Tensor) -> Tensors:
            x, *rest = tensors
            if asked.has_states:
                call["initial_state"], rest = rest[:count], rest[count:]
            if asked.resets == "fresh states":
                call["fresh_state"], rest = rest[:count], rest[count:]
            given, _ = self.layer.stateless_call(rest, self._others, x, **call)
            return tuple(leaves(given))

        return results

    def _tensors(self, arrays: list[np.ndarray]) -> Tensors:
        return tuple(ops.convert_to_tensor(array, self.dtype) for array in arrays)

    def values(self, arrays: list[np.ndarray], flags: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The results, of which nothing is kept."""
        return _arrays(self._function(flags)(*self._tensors(arrays)))

    def pulled(
        self, arrays: list[np.ndarray], flags: dict[str, np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The results, and the gradients of all that is given and of the weights."""
        results, gradients = door.pulled(self._function(flags), self._tensors(arrays), _upstream)
        return _arrays(results), _arrays(gradients)


def _weight(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a size with which states neither die nor grow."""
    return rng.normal(size=shape) * (0.7 / np.sqrt(shape[0]) if len(shape) == 2 else 0.5)


def _upstream(result: Tensor) -> Tensor:
    waves = np.cos(np.arange(np.prod(result.shape))).reshape(tuple(result.shape))
    return ops.convert_to_tensor(waves, keras.backend.standardize_dtype(result.dtype))


def _arrays(tensors: Tensors) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(tensor), "float64") for tensor in tensors]


def _off(found: list[np.ndarray], right: list[np.ndarray]) -> float:
    pairs = zip(found, right, strict=True)
    norm = np.linalg.norm
    errors = [float(norm(one - other) / (norm(other) or 1.0)) for one, other in pairs]
    return _largest(errors)


def _largest(errors: list[float]) -> float:
    return float(np.max(errors))  # of a NaN a NaN


def _same(found: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, others, strict=True))
