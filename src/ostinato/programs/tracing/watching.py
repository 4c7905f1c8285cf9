"""What a cell's call does beside mathematics, which a program would leave out: it's refused."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from operator import is_
from typing import Any

import keras

from ostinato.programs.tracing.members import BOOKKEEPING, Members, shown
from ostinato.programs.tracing.refusal import Untraceable, named


class Watching(keras.StatelessScope):
    """Notes what is done with variables, other than by symbols, and undoes it."""

    def __init__(self) -> None:
        super().__init__()
        self.collect_losses = True
        self._read: list[Any] = []
        self._assigned: list[Any] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        """None: a variable has its own value; it's noted that it was asked for."""
        self._read.append(variable)
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Notes what's assigned to a variable, which keeps its value."""
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


# What Keras sets on a layer when it's called first; and its switch for arguments that aren't
# tensors, which code around Keras sets (the package ncps does, in a call).
_KERAS_SETS = frozenset(
    {
        "built",
        "_called",
        "_build_shapes_dict",
        "_call_context_args",
        "_parent_path",
        "_path",
        "_allow_non_tensor_positional_args",
    }
)
_NOTHING = object()


@contextmanager
def unchanged(members: Members) -> Iterator[None]:
    """Undoes what a call has set on the cell or on what it holds, and refuses it."""
    before = [dict(holder.attributes) for holder in members.holders]
    contents = [
        (holder.thing, name, container, container.copy(), attributes.get("built", True))
        for holder, attributes in zip(members.holders, before, strict=True)
        for name, item in attributes.items()
        if name not in BOOKKEEPING
        for container in _containers(item)
    ]
    changed: list[str] = []
    try:
        yield
    finally:
        for holder, old in zip(members.holders, before, strict=True):
            was_built = old.get("built", True)  # else it's Keras that sets them, in building it
            names = [name for name in _restored(holder.attributes, old) if was_built]
            changed += (f"sets the attribute {name!r} of {named(holder.thing)}" for name in names)
        for thing, name, container, old_content, was_built in contents:
            if not _holds(container, old_content):
                _fill(container, old_content)
                if was_built:
                    changed.append(f"changes what's in the attribute {name!r} of {named(thing)}")
    if changed:
        raise Untraceable(f"its call {changed[0]}")


# Containers that a call may change, and what fills one again past a class of Keras's that tracks.
_FILLS: dict[type, Any] = {
    list: list.extend,
    dict: dict.update,
    set: set.update,
    deque: deque.extend,
}


def _kind(container: Any) -> type | None:
    return next((kind for kind in _FILLS if isinstance(container, kind)), None)


def _containers(item: Any) -> Iterator[Any]:
    """The containers that may be changed, in an attribute."""
    if _kind(item) is not None:
        yield item
    if isinstance(item, (list, tuple, dict)):
        for inner in item.values() if isinstance(item, dict) else item:
            yield from _containers(inner)


def _holds(container: Any, content: Any) -> bool:
    """Whether the very things are in it that were."""
    if isinstance(container, set):
        return bool(container == content)
    if isinstance(container, dict):
        container, content = ([*each.items()] for each in (container, content))
        container, content = ([*chain.from_iterable(each)] for each in (container, content))
    return len(container) == len(content) and all(map(is_, container, content))


def _fill(container: Any, content: Any) -> None:
    kind: Any = _kind(container)
    kind.clear(container)
    _FILLS[kind](container, content)


def _restored(attributes: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The names of attributes that have changed, which are put back."""
    changed = [name for name, value in old.items() if attributes.get(name, _NOTHING) is not value]
    added = [name for name in attributes if name not in old]
    set_to_none = [name for name in added if attributes[name] is None]
    for name in changed:
        attributes[name] = old[name]
    for name in added:
        del attributes[name]
    harmless = {*_KERAS_SETS, *set_to_none}
    return [name for name in (*changed, *added) if name not in harmless]
