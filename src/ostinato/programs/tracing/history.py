"""What was done to get from some symbols to others, out of what Keras notes on each symbol."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras

from ostinato import nests


class Event(NamedTuple):
    """One operation as it was called.

    Attributes:
        operation: The Keras operation.
        args: What it was called with by position; symbols among it.
        kwargs: Likewise by name.
        outputs: The symbols that came out.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]


def symbols_in(nest: Any) -> list[Any]:
    """The symbols in a nest."""
    return [leaf for leaf in nests.flatten(nest) if isinstance(leaf, keras.KerasTensor)]


def held_by(operation: Any) -> list[Any]:
    """The symbols that an operation was made with, rather than called with."""
    if isinstance(operation, keras.layers.Layer):
        return []
    return symbols_in(
        [value for name, value in vars(operation).items() if not name.startswith("_")]
    )


def events(results: Iterable[Any], leaves: Sequence[Any], histories: dict[int, Any]) -> list[Event]:
    """The operations that results are made by, each after those that it needs.

    Args:
        results: Symbols.
        leaves: The symbols that all began with.
        histories: Where symbols came from, in front of what they say themselves.
    """
    known = {id(leaf) for leaf in leaves}
    done: set[int] = set()
    order: list[Event] = []
    waiting: list[tuple[Any, bool]] = [(result, False) for result in reversed(list(results))]
    while waiting:
        item, is_ready = waiting.pop()
        if is_ready:
            order.append(item)
            continue
        if id(item) in known:
            continue
        node = _node(item, histories)
        if node is None or id(node) in done:
            continue
        done.add(id(node))
        arguments = node.arguments
        event = Event(node.operation, arguments.args, arguments.kwargs, list(node.outputs))
        waiting.append((event, True))
        given = [*arguments.keras_tensors, *held_by(node.operation)]
        waiting += [(symbol, False) for symbol in reversed(given)]
    return order


def _node(symbol: Any, histories: dict[int, Any]) -> Any:
    history = histories.get(id(symbol)) or getattr(symbol, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    return history.operation._inbound_nodes[history.node_index]


def forget(operations: Iterable[Any]) -> None:
    """Lets go of all symbols that operations have noted, which would keep one another alive."""
    for operation in operations:
        operation._inbound_nodes.clear()
        operation._outbound_nodes.clear()
