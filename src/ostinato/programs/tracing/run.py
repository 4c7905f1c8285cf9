"""One timestep of a cell, run on symbols; and what shows that it does more than mathematics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from ostinato.cells.contract import call_method, output_and_states, takes
from ostinato.doors import door
from ostinato.programs.tracing.drawing import Draws
from ostinato.programs.tracing.gradients import CustomGradients
from ostinato.programs.tracing.members import Members, replaced, shown
from ostinato.programs.tracing.refusal import Untraceable, because_of
from ostinato.programs.tracing.symbols import WeightSymbol, as_tensors
from ostinato.structure import Structure, map_leaves

FRAMEWORKS = ("ostinato", "keras", "jax", "jaxlib", "torch", "tensorflow", "numpy", "contextlib")


@dataclass(frozen=True)
class Like:
    """What a tensor is like, without its batch.

    Attributes:
        shape: Its shape without the batch.
        dtype: Its dtype.
    """

    shape: tuple[int, ...]
    dtype: str


class Signature(NamedTuple):
    """What a cell is called with, in a timestep.

    Attributes:
        xs: Inputs: a nest of `Like`.
        states: States likewise.
        constants: Likewise a list of constants, or None.
        training: Whether dropout is applied.
    """

    xs: Structure
    states: Structure
    constants: Any
    training: bool


class Run(NamedTuple):
    """What a cell's call gave on symbols.

    Attributes:
        batch: The size that the batch had.
        weights: The symbol of each variable and tensor, by the id of what it stands for.
        xs: The symbols of the inputs, in their containers.
        states: Likewise of the states.
        constants: Likewise of the constants, or None.
        output: What it returned for an output.
        new_states: What it returned for new states.
        histories: Where symbols came from, by their ids, in front of what they say themselves.
        draws: The random tensors that it asks for.
        upstreams: The symbols that stand for the gradients of values which bring their own along.
    """

    batch: int
    weights: dict[int, Any]
    xs: Structure
    states: Structure
    constants: Any
    output: Structure
    new_states: Structure
    histories: dict[int, Any]
    draws: Draws
    upstreams: list[Any]


def run_on_symbols(cell: Any, members: Members, signature: Signature, batch: int) -> Run:
    """Calls a cell on symbols of a batch size.

    Raises:
        Untraceable: It can't be called so, or does what isn't mathematics of its arguments.
    """

    def symbols(nest: Structure) -> Structure:
        return map_leaves(lambda at: keras.KerasTensor((batch, *at.shape), dtype=at.dtype), nest)

    weights = {
        key: WeightSymbol(tuple(member.thing.shape), dtype=member.dtype)
        for key, member in members.values.items()
    }
    xs, states = symbols(signature.xs), symbols(signature.states)
    constants = None if signature.constants is None else symbols(signature.constants)
    keywords: dict[str, Any] = {} if constants is None else {"constants": constants}
    if takes(cell, "training"):
        keywords["training"] = signature.training
    histories: dict[int, Any] = {}
    custom = CustomGradients()
    draws = Draws(members, batch)
    call = cell if isinstance(cell, keras.layers.Layer) else call_method(cell)
    with ExitStack() as stack:
        stack.enter_context(door.at_once())
        stack.enter_context(as_tensors())
        stack.enter_context(custom.used())
        stack.enter_context(draws.used())
        stack.enter_context(replaced(members, weights))
        stack.enter_context(_opened(members.layers, histories, draws))
        stack.enter_context(_unchanged(members))
        scope = stack.enter_context(_Watching())
        try:
            result = _Timestep(call, histories, draws)(
                xs, states, training=signature.training, keywords=keywords
            )
        except Untraceable:
            raise
        except Exception as error:  # whatever a cell's own code may raise on symbols
            raise because_of(error, FRAMEWORKS) from error
    scope.refuse(members)
    output, new_states = output_and_states("its call", cell, result)
    results = (output, new_states, histories, draws, custom.upstreams)
    return Run(batch, weights, xs, states, constants, *results)


class _Timestep(keras.layers.Layer):
    """What the cell is called from, as from an RNN layer, so that layers in it know `training`."""

    def __init__(
        self, function: Callable[..., Any], histories: dict[int, Any], draws: Draws
    ) -> None:
        super().__init__(name="timestep", autocast=False)
        self.built = True
        # Past Keras, which would track a cell.
        self.__dict__.update(_function=function, symbolic_call=_opening(self, histories, draws))

    def call(self, inputs: Any, states: Any, training: Any = None, keywords: Any = None) -> Any:
        """The timestep."""
        return self._function(inputs, states, **keywords)


@contextmanager
def _opened(
    layers: Sequence[keras.layers.Layer], histories: dict[int, Any], draws: Draws
) -> Iterator[None]:
    """While inside, layers that are called on symbols show what they do within, not one node."""
    others = [(layer, {"symbolic_call": _opening(layer, histories, draws)}) for layer in layers]
    others += [(layer, {"call": call}) for layer in layers if (call := draws.on_tensors(layer))]
    before = [(layer, name, vars(layer).get(name)) for layer, methods in others for name in methods]
    try:
        for layer, methods in others:
            vars(layer).update(methods)
        yield
    finally:
        for layer, name, own in before:
            vars(layer).pop(name, None)
            if own is not None:
                vars(layer)[name] = own


def _opening(
    layer: keras.layers.Layer, histories: dict[int, Any], draws: Draws
) -> Callable[..., Any]:
    def symbolic_call(*args: Any, **kwargs: Any) -> Any:
        if layer.activity_regularizer is not None:
            raise Untraceable(f"{type(layer).__name__} in it has an activity_regularizer")
        result = draws.through(layer, args, kwargs)
        if result is None:
            result = layer.call(*args, **kwargs)
        # Keras notes the layer as a symbol's origin next: what's there before counts.
        for symbol in keras.tree.flatten(result):
            if isinstance(symbol, keras.KerasTensor):
                histories.setdefault(id(symbol), getattr(symbol, "_keras_history", None))
        return result

    return symbolic_call


class _Watching(keras.StatelessScope):
    """Notes what is done with variables, other than by symbols, and undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self.collect_losses = True
        self._read: list[Any] = []
        self._assigned: list[Any] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        self._read.append(variable)
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        self._assigned.append(update[0])
        super().add_update(update)

    def refuse(self, members: Members) -> None:
        """Refuses a cell that did something else than mathematics."""
        if self.losses:
            raise Untraceable("its call adds a loss")
        for variable in self._assigned:
            if "seed_generator_state" in variable.path:
                raise Untraceable("its call draws random numbers by itself")
            raise Untraceable(f"its call assigns to the variable {variable.path!r}")
        for variable in self._read:
            way = members.values[id(variable)].ways[0] if id(variable) in members.values else None
            where = f"{variable.path!r}" if way is None else f"`{shown(way)}`"
            raise Untraceable(
                f"its call takes the value of the variable {where} where no symbol can stand for it"
            )


@contextmanager
def _unchanged(members: Members) -> Iterator[None]:
    """Undoes what a call has set on the cell or its layers, and refuses it."""
    before = [dict(holder.attributes) for holder in members.holders]
    contents = [
        (item, list(item))
        for attributes in before
        for item in attributes.values()
        if isinstance(item, list)
    ]
    changed: list[str] = []
    try:
        yield
    finally:
        for holder, old in zip(members.holders, before, strict=True):
            kind = type(holder.thing).__name__
            changed += (f"{name!r} of {kind}" for name in _restored(holder.attributes, old))
        for item, old_items in contents:
            if len(item) != len(old_items):
                item[:] = old_items
    if changed:
        raise Untraceable(f"its call sets the attribute {changed[0]}")


def _restored(attributes: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The names of attributes that have changed, which are put back."""
    changed = [name for name, value in old.items() if attributes.get(name, _NOTHING) is not value]
    added = [name for name in attributes if name not in old]
    for name in changed:
        attributes[name] = old[name]
    for name in added:
        del attributes[name]
    return [name for name in (*changed, *added) if name not in _KERAS_SETS]


_NOTHING = object()
_KERAS_SETS = frozenset(
    {"built", "_called", "_build_shapes_dict", "_call_context_args", "_parent_path"}
)
