"""What a cell holds: its variables, tensors and layers, wherever they hang, with the way to each.

While a cell is traced, symbols stand in the place of its variables and tensors: operations on these
alone would else run at once, and come out as numbers without a gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from ostinato.nests import is_namedtuple

# A way from a cell to what it holds: ("attribute", name) or ("item", index or key), step by step.
Way = tuple[tuple[str, Any], ...]

# Attributes in which Keras and the frameworks keep their own account of a layer.
BOOKKEEPING = frozenset(
    {
        "_tracker",
        "_trainable_variables",
        "_non_trainable_variables",
        "_seed_generators",
        "_metrics",
        "_losses",
        "_loss_ids",
        "_losses_override",
        "_inbound_nodes",
        "_outbound_nodes",
        "_dtype_policy",
        "_torch_params",
        "_parameters",
        "_buffers",
        "_call_signature",
        "_self_setattr_tracking",
        "_self_unconditional_checkpoint_dependencies",
        "_self_unconditional_dependency_names",
        "_self_saveable_object_factories",
        "_auto_config",
        "_path",
        "_build_shapes_dict",
    }
)
_FOREIGN = ("builtins", "keras", "numpy", "jax", "jaxlib", "torch", "tensorflow", "functools")


class Member(NamedTuple):
    """A variable or tensor that a cell holds.

    Attributes:
        thing: It.
        ways: All ways to it.
        dtype: The dtype in which the cell's mathematics reads it.
    """

    thing: Any
    ways: list[Way]
    dtype: str


class Holder(NamedTuple):
    """An object with attributes that is part of a cell, itself included."""

    thing: Any
    attributes: dict[str, Any]


class Members:
    """All that a cell holds.

    Attributes:
        holders: The cell, its layers, and other objects of the user's.
        layers: Those of the holders that are layers.
        values: The variables and tensors, by their ids.
        ways: A way to each holder and seed generator, by its id.
        masks: The ids of those values that are masks of a sequence, with the batch in front.
    """

    def __init__(self, cell: Any, masks: frozenset[int] = frozenset()) -> None:
        self.masks = masks
        self.holders: list[Holder] = []
        self.layers: list[keras.layers.Layer] = []
        self.values: dict[int, Member] = {}
        self.ways: dict[int, Way] = {}
        self._seen: set[int] = set()
        self._visit(cell, (), None)

    def shape_of(self, key: int, batch: int) -> tuple[int, ...]:
        """The shape of a value, of a mask with a batch of this size."""
        shape = tuple(self.values[key].thing.shape)
        return (batch, *shape[1:]) if key in self.masks else shape

    def holds_masks(self, thing: Any) -> bool:
        """Whether a holder, or what it holds, has masks of a sequence."""
        way = self.ways[id(thing)]
        ways = [way for key in self.masks for way in self.values[key].ways]
        return any(each[: len(way)] == way for each in ways)

    def _visit(self, thing: Any, way: Way, owner: keras.layers.Layer | None) -> None:
        if is_value(thing):
            dtype = _dtype_read(thing, owner)
            self.values.setdefault(id(thing), Member(thing, [], dtype)).ways.append(way)
            return
        if isinstance(thing, keras.random.SeedGenerator):
            self.ways.setdefault(id(thing), way)
            return
        items = _items(thing)
        if (items is None and not is_holder(thing)) or id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if items is not None:
            for key, item in items:
                self._visit(item, (*way, ("item", key)), owner)
            return
        if isinstance(thing, keras.layers.Layer):
            owner = thing
            self.layers.append(thing)
        self.holders.append(Holder(thing, vars(thing)))
        self.ways[id(thing)] = way
        for name, item in _attributes(thing):
            self._visit(item, (*way, ("attribute", name)), owner)


def is_value(thing: Any) -> bool:
    """Whether a thing is a variable or a tensor of the backend, NumPy's arrays not among these."""
    if isinstance(thing, keras.Variable):
        return True
    # TensorFlow asks a thing itself whether it's like a tensor, and not everything may be asked.
    may_be = hasattr(type(thing), "shape") and not isinstance(thing, np.ndarray)
    return may_be and keras.ops.is_tensor(thing)


def _dtype_read(thing: Any, owner: keras.layers.Layer | None) -> str:
    """A variable of floats is read in its layer's compute dtype, unless it's made not to be."""
    own: str = keras.backend.standardize_dtype(thing.dtype)
    casts = isinstance(thing, keras.Variable) and getattr(thing, "_autocast", True)
    if owner is None or not casts or "float" not in own or not owner.autocast:
        return own
    wanted: str = owner.compute_dtype
    return wanted if "float" in wanted else own


def _items(thing: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(thing, dict):
        return list(thing.items())
    if isinstance(thing, (list, tuple)):
        return list(enumerate(thing))
    return None


def is_holder(thing: Any) -> bool:
    """Whether a thing has attributes that may be part of a cell."""
    if isinstance(thing, (type, keras.Variable)) or not hasattr(thing, "__dict__"):
        return False
    if isinstance(thing, keras.layers.Layer):
        return True
    module = type(thing).__module__  # of some types made in C it's what their instances' is read by
    return isinstance(module, str) and module.partition(".")[0] not in _FOREIGN


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    for name, item in list(vars(thing).items()):
        if name == "_modules" and isinstance(thing, keras.layers.Layer):
            yield from list(item.items())  # PyTorch keeps a layer's layers here
        elif name not in BOOKKEEPING:
            yield name, item


@contextmanager
def replaced(members: Members, symbols: dict[int, Any]) -> Iterator[None]:
    """While inside, other things stand wherever a cell holds some.

    Args:
        members: What the cell holds.
        symbols: What to put in the place of a member, by the member's id.
    """
    before = []
    try:
        for holder in members.holders:
            for name, item in _attributes(holder.thing):
                other = _with_symbols(item, symbols)
                if other is not item:
                    before.append((holder.attributes, name, item))
                    holder.attributes[name] = other
        yield
    finally:
        for attributes, name, item in before:
            attributes[name] = item


def _with_symbols(item: Any, symbols: dict[int, Any]) -> Any:
    if id(item) in symbols:
        return symbols[id(item)]
    items = _items(item)
    if items is None:
        return item
    found = [(key, _with_symbols(inner, symbols)) for key, inner in items]
    if all(new is old for (_, new), (_, old) in zip(found, items, strict=True)):
        return item
    if isinstance(item, dict):
        return dict(found)
    values = [value for _, value in found]
    if is_namedtuple(item):
        return type(item)(*values)
    return tuple(values) if isinstance(item, tuple) else values


def follow(cell: Any, way: Way) -> Any:
    """What a cell holds at the end of a way."""
    thing = cell
    for kind, name in way:
        thing = getattr(thing, name) if kind == "attribute" else thing[name]
    return thing


def shown(way: Way) -> str:
    """A way as one writes it in the cell's own code."""
    steps = (f".{name}" if kind == "attribute" else f"[{name!r}]" for kind, name in way)
    return "self" + "".join(steps)
