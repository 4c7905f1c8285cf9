"""One timestep of a cell, run on symbols; and what shows that it does more than mathematics."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from ostinato.cells.contract import call_method, takes
from ostinato.doors import door
from ostinato.programs.tracing.drawing import Draws
from ostinato.programs.tracing.gradients import CustomGradients
from ostinato.programs.tracing.members import Members, replaced
from ostinato.programs.tracing.opening import opened
from ostinato.programs.tracing.refusal import Untraceable, because_of
from ostinato.programs.tracing.rows import FRAMEWORKS
from ostinato.programs.tracing.symbolic_door import in_keras_ops
from ostinato.programs.tracing.symbols import FUNCTIONS, WeightSymbol, as_tensors
from ostinato.programs.tracing.timestep import Timestep
from ostinato.programs.tracing.watching import Watching, unchanged
from ostinato.structure import Structure, describe, map_leaves


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
        key: WeightSymbol(members.shape_of(key, batch), dtype=member.dtype)
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
        stack.enter_context(in_keras_ops())
        stack.enter_context(custom.used())
        stack.enter_context(draws.used())
        stack.enter_context(replaced(members, {**weights, **FUNCTIONS}))
        stack.enter_context(opened(members, histories, draws))
        stack.enter_context(unchanged(members))
        scope = stack.enter_context(Watching())
        try:
            result = Timestep(call)(xs, states, training=signature.training, keywords=keywords)
        except Exception as error:  # whatever a cell's own code may raise on symbols
            raise because_of(error, FRAMEWORKS) from error
    scope.refuse(members)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Untraceable(f"its call returns {describe(result)}, and no pair of output and states")
    output, new_states = result
    results = (output, new_states, histories, draws, custom.upstreams)
    return Run(batch, weights, xs, states, constants, *results)
