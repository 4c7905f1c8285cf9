"""Random numbers that a cell draws in each timestep: drawn outside of the loop, the very same.

Keras's loop has a Dropout in a cell draw from its seed at every timestep. A program gets these
numbers as further inputs, drawn by the same functions, in the same order, in a loop of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from ostinato.cells.contract import output_sizes
from ostinato.doors import door
from ostinato.programs.tracing.members import Members, Way, follow
from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.taught import Taught
from ostinato.tensors import Tensor, Tensors

# Layers of noise: the tensor that one is given to give its noise alone, and what puts it into
# another.
_NOISE = {
    keras.layers.Dropout: (ops.ones, ops.multiply),
    keras.layers.SpatialDropout1D: (ops.ones, ops.multiply),
    keras.layers.SpatialDropout2D: (ops.ones, ops.multiply),
    keras.layers.SpatialDropout3D: (ops.ones, ops.multiply),
    keras.layers.GaussianDropout: (ops.ones, ops.multiply),
    keras.layers.GaussianNoise: (ops.zeros, ops.add),
}
# Functions of keras.random that take a shape first; and others.
_FUNCTIONS = ("normal", "truncated_normal", "uniform", "beta", "binomial", "gamma")
_OTHERS = ("categorical", "randint", "shuffle")


@dataclass(frozen=True)
class Draw:
    """One random tensor of a timestep.

    Attributes:
        way: The way in a cell to the layer or seed generator that draws it; None for another seed.
        shape: Its shape without the batch.
        dtype: Its dtype.
        function: `(what is at the way, shape with the batch) -> tensor`.
        told: What else makes it what it is, for comparing.
    """

    way: Way | None
    shape: tuple[int, ...]
    dtype: str
    function: Callable[[Any, tuple[Any, ...]], Tensor]
    told: tuple[Any, ...]

    def now(self, cell: Any, batch_size: Any) -> Tensor:
        """Draws it."""
        thing = None if self.way is None else follow(cell, self.way)
        return self.function(thing, (batch_size, *self.shape))


class Draws:
    """The random tensors that one run asks for.

    Attributes:
        draws: Them, in the order in which they're drawn.
        symbols: The symbol of each.
    """

    def __init__(self, members: Members, batch: int) -> None:
        self._members, self._batch = members, batch
        self.draws: list[Draw] = []
        self.symbols: list[Any] = []

    def on_tensors(self, layer: Any) -> Callable[..., Any] | None:
        """What a layer of noise does to what is no symbol: nothing random; None of another one."""
        if not any(type(layer).call is cls.call for cls in _NOISE):
            return None

        def call(*args: Any, training: bool = False, **kwargs: Any) -> Any:
            if training and _strength(layer):
                raise Untraceable(f"{named(layer)} draws random numbers that aren't one row's each")
            return type(layer).call(layer, *args, **kwargs)

        return call

    def through(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a layer of noise makes of a symbol; None of another layer, or where it adds none."""
        made = next((m for cls, m in _NOISE.items() if type(layer).call is cls.call), None)
        if made is None or not kwargs.get("training"):
            return None
        strength = _strength(layer)
        if not strength:
            return None
        blank, put = made
        (x,) = args
        dtype = x.dtype

        def function(layer: Any, shape: tuple[Any, ...]) -> Tensor:
            return layer.call(blank(shape, dtype=dtype), training=True)

        way = self._members.ways.get(id(layer))
        if way is None:
            raise Untraceable(f"{named(layer)}, which draws random numbers, is made in its call")
        told = (named(layer), strength)
        return put(x, self._symbol(Draw(way, x.shape[1:], dtype, function, told), x.shape))

    def _symbol(self, draw: Draw, shape: Sequence[int]) -> Any:
        if not shape or shape[0] != self._batch:
            raise Untraceable(f"{draw.told[0]} draws random numbers that aren't one row's each")
        symbol = keras.KerasTensor(shape, dtype=draw.dtype)
        self.draws.append(draw)
        self.symbols.append(symbol)
        return symbol

    @contextmanager
    def used(self) -> Iterator[None]:
        """While inside, functions of keras.random give symbols of what they'd draw."""
        with ExitStack() as stack:
            for name in _FUNCTIONS:
                stack.enter_context(Taught(keras.random, name, self._drawing(name)).used())
            stack.enter_context(Taught(keras.random, "dropout", self._dropping).used())
            for name in _OTHERS:
                stack.enter_context(Taught(keras.random, name, _refusing(name)).used())
            yield

    def _drawing(self, name: str) -> Callable[..., Any]:
        def drawing(own: Callable[..., Any]) -> Callable[..., Any]:
            def drawn(
                shape: Any, *args: Any, dtype: Any = None, seed: Any = None, **kwargs: Any
            ) -> Any:
                if not all(isinstance(each, (int, float)) for each in (*args, *kwargs.values())):
                    raise Untraceable(f"keras.random.{name} is given a tensor beside its shape")

                def function(seed: Any, shape: tuple[Any, ...]) -> Tensor:
                    return own(shape, *args, dtype=dtype, seed=seed, **kwargs)

                told = (f"keras.random.{name}", args, tuple(sorted(kwargs.items())))
                return self._seeded(function, shape, dtype or keras.config.floatx(), seed, told)

            return drawn

        return drawing

    def _dropping(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
            if not rate:
                return inputs
            dtype = inputs.dtype
            if noise_shape is not None and noise_shape[0] == self._batch:
                noise_shape = (None, *noise_shape[1:])

            def function(seed: Any, shape: tuple[Any, ...]) -> Tensor:
                return own(ops.ones(shape, dtype=dtype), rate, noise_shape, seed)

            told = ("keras.random.dropout", rate, noise_shape)
            return ops.multiply(inputs, self._seeded(function, inputs.shape, dtype, seed, told))

        return dropout

    def _seeded(
        self, function: Callable[..., Tensor], shape: Any, dtype: str, seed: Any, told: Any
    ) -> Any:
        """The symbol of what is drawn from a seed: one of the cell's generators, or a number."""
        way = self._members.ways.get(id(seed))
        if isinstance(seed, keras.random.SeedGenerator) and way is None:
            raise Untraceable(f"the seed of {told[0]} is no attribute of the cell")

        def drawn(found: Any, shape: tuple[Any, ...]) -> Tensor:
            return function(seed if way is None else found, shape)

        shape = tuple(shape)
        return self._symbol(Draw(way, shape[1:], dtype, drawn, told), shape)


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Untraceable(f"its call draws by keras.random.{name}, which can't be traced")

    return lambda own: refuse


def _strength(layer: Any) -> Any:
    """How much noise a layer adds; nothing or 0 where it adds none."""
    return getattr(layer, "rate", None) or getattr(layer, "stddev", None)


def draw_over_time(
    draws: Sequence[Draw], cell: Any, batch_size: Any, timesteps: Any, go_backwards: bool
) -> Tensors:
    """What a loop over a cell would draw, each (B, T, ...), in the order of the inputs' time.

    The cell's seeds are left as the loop would leave them.
    """
    if not draws:
        return ()

    def step(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        return (), tuple(draw.now(cell, batch_size) for draw in draws)

    if output_sizes(cell) is None:
        step((), ())  # the loop runs such a cell once, to see what comes out
    like = tuple(ops.zeros((batch_size, *draw.shape), dtype=draw.dtype) for draw in draws)
    is_layer = isinstance(cell, keras.layers.Layer)
    variables = tuple(cell.non_trainable_variables) if is_layer else ()
    clock = (ops.zeros((timesteps, 1)),)
    _, drawn = door.loop(step, (), clock, like, unroll=False, variables=variables)
    drawn = tuple(ops.swapaxes(tensor, 0, 1) for tensor in drawn)
    return tuple(ops.flip(tensor, axis=1) for tensor in drawn) if go_backwards else drawn
