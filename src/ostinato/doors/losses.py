"""Losses that a cell adds in a compiled loop, where they have to leave it with its results.

`add_loss` and activity regularizers put a loss where the model finds it after the call. Inside a
loop that is compiled, that would be a tensor of one timestep of the loop, which nothing outside may
touch. So the losses of a timestep are taken there, and their sum over all timesteps is added after.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
from keras import ops

Tensor = Any

# Keras knows a layer's losses by their ids, so none may be reused before the scope around is gone.
_alive: WeakKeyDictionary[Any, list[Tensor]] = WeakKeyDictionary()


class LossesTaken(keras.StatelessScope):
    """A scope that takes the losses which layers add in it; all else is as if it weren't there.

    Attributes:
        losses: What was added, in order.
    """

    def __init__(self) -> None:
        super().__init__(initialize_variables=False)
        self._updates: dict[int, tuple[keras.Variable, Tensor]] = {}

    def __enter__(self) -> "LossesTaken":
        super().__enter__()
        around = self.original_scope
        self.collect_losses = around is None or around.collect_losses
        return self

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        """A variable's value here: an update's, or the one that it has around this scope."""
        if id(variable) in self._updates:
            return self._updates[id(variable)][1]
        around = self.original_scope
        return None if around is None else around.get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        """Notes what's assigned to a variable, for the scope around."""
        self._updates[id(update[0])] = update

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self.original_scope is not None and self.losses:
            _alive.setdefault(self.original_scope, []).extend(self.losses)
        for variable, value in self._updates.values():
            variable.assign(value)


class NothingKept(LossesTaken):
    """Around a timestep that only shows what comes out: it isn't one of the sequence.

    Its losses are forgotten, and what it assigns to variables, an average's or a counter's. Seeds
    move, as they do with Keras's loop, which runs a cell once more, too.
    """

    def __exit__(self, *exception: Any) -> None:
        kept = {k: v for k, v in self._updates.items() if "seed_generator_state" in v[0].path}
        self._updates = kept
        super().__exit__(*exception)


@contextlib.contextmanager
def kept_of_each(
    step: Callable[..., Any], add_loss: Callable[[Tensor], None] | None
) -> Iterator[Callable[..., Any]]:
    """A step for a loop of Python's, whose losses are all there after the `with` block.

    In a stateless scope a cell that is called from no layer, since a layer's `stateless_call` calls
    its `call`, forgets at each timestep what it added at the last. Elsewhere it's the step itself.

    Args:
        step: The step.
        add_loss: Takes the losses' sum; None where there are none.
    """
    if add_loss is None or not _collects():
        yield step
        return
    losses: list[Tensor] = []

    def taking(*args: Any) -> Any:
        with LossesTaken() as taken:
            found = step(*args)
        losses.extend(taken.losses)
        return found

    yield taking
    if losses:
        add_loss(summed(losses, dtype_of_sum(losses)))


def _collects() -> bool:
    """Whether losses that layers add now go to a stateless scope."""
    with LossesTaken() as here:
        return here.original_scope is not None and here.collect_losses


def dtype_of_sum(tensors: Iterable[Tensor]) -> str:
    """What losses are summed in, where such tensors are computed with: float32, or float64."""
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors}
    return "float64" if "float64" in dtypes else "float32"


def summed(losses: Sequence[Tensor], dtype: str) -> Tensor:
    """The sum of losses of any shapes, in a dtype."""
    return sum((ops.sum(ops.cast(loss, dtype)) for loss in losses), ops.zeros((), dtype))
