"""Nested structures: what `state_size` and `output_size` may be, and how structures are matched.

A *size* describes one tensor of a timestep without its batch axis. An int is a vector of that many
units; a state of another rank is spelled as a shape. Tuples, lists, dicts and namedtuples nest.

Shape letters, used all over the package: B batch, T timesteps, D input features, U units, G gates.
"""

import numbers
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import tree

from ostinato.nests import is_namedtuple, leaf_paths

SHOWN_ITEMS = 8  # of one sequence, in an error
Structure = Any  # a tensor, or tuples, lists, dicts and namedtuples of them, as keras.tree nests


@keras.saving.register_keras_serializable(package="ostinato")
class Shape:
    """The shape of one state or output of a timestep, without the batch axis.

    `Shape(4, 5)` is one matrix of 4 rows and 5 columns, where the tuple `(4, 5)` means two
    vectors. Needs no framework, is immutable, and survives saving in a layer's config.

    Args:
        *dimensions: Positive ints, one per axis; none for a scalar per row of the batch.

    Raises:
        ValueError: if a dimension isn't a positive int.
    """

    __slots__ = ("_dimensions",)

    def __init__(self, *dimensions: int) -> None:
        for dimension in dimensions:
            if not is_count(dimension) or dimension <= 0:
                raise ValueError(
                    f"Shape: expected positive ints as dimensions, got Shape{dimensions!r}."
                )
        self._dimensions = tuple(int(dimension) for dimension in dimensions)

    def as_list(self) -> list[int]:
        """The dimensions as a list, as `tf.TensorShape.as_list()` gives them."""
        return list(self._dimensions)

    def __iter__(self) -> Iterator[int]:
        return iter(self._dimensions)

    def __len__(self) -> int:
        return len(self._dimensions)

    def __getitem__(self, axis: int) -> int:
        return self._dimensions[axis]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self._dimensions == other._dimensions

    def __hash__(self) -> int:
        return hash((Shape, self._dimensions))

    def __repr__(self) -> str:
        return f"Shape({', '.join(map(str, self._dimensions))})"

    def get_config(self) -> dict[str, Any]:
        """The config from which `from_config` builds the same shape."""
        return {"dimensions": list(self._dimensions)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Shape":
        """Builds a shape from `get_config()`'s dict."""
        return cls(*config["dimensions"])


class SharedShape(Shape):
    """The shape of a state without a batch axis, such as a count of the timesteps: always ()."""

    __slots__ = ()


def with_batch(size: Shape, batch_size: Any) -> tuple[Any, ...]:
    """The shape of a state of a size: (batch, ...), or () of one that all rows share."""
    return () if isinstance(size, SharedShape) else (batch_size, *size)


def is_count(value: object) -> bool:
    """Whether a value is an integer (NumPy's too), and not a bool."""
    # The first for speed: asking an abstract class takes 0.4 us, and a call asks a dozen times.
    return type(value) is int or (
        isinstance(value, numbers.Integral) and not isinstance(value, bool)
    )


def sizes(size: Any, owner: str) -> Structure:
    """Reads a `state_size` or `output_size` into a structure of `Shape`s.

    Args:
        size: An int, a shape (`Shape`, `tf.TensorShape`, `torch.Size`, anything with `as_list()`),
            or tuples, lists, dicts and namedtuples of them.
        owner: What to call it in an error, such as "state_size of cell MyCell".

    Returns:
        The same containers as plain tuples, lists, dicts and namedtuples, with `Shape` leaves.

    Raises:
        ValueError: if something in it is neither a size nor a container.
    """
    # Keras wraps containers that are set as attributes of a layer (TensorFlow even in tuple
    # proxies); rebuilding them by hand gives keras.tree types it knows.
    if hasattr(size, "as_list") or is_torch_size(size):
        return _shape_in(size, owner)
    if is_namedtuple(size):
        return type(size)(*(sizes(item, owner) for item in size))
    if isinstance(size, tuple):
        return tuple(sizes(item, owner) for item in size)
    if isinstance(size, list):
        return [sizes(item, owner) for item in size]
    if isinstance(size, Mapping):
        return {key: sizes(item, owner) for key, item in size.items()}
    if is_count(size) and size > 0:
        return Shape(size)
    raise ValueError(
        f"{owner}: expected positive ints or shapes, alone or nested in tuples, lists and dicts, "
        f"got {size!r}."
    )


def _shape_in(size: Any, owner: str) -> Shape:
    try:
        return Shape(*(size.as_list() if hasattr(size, "as_list") else size))
    except (TypeError, ValueError) as error:  # TensorFlow's shape of unknown rank has no list
        raise ValueError(f"{owner}: expected a shape of positive ints, got {size!r}.") from error


def is_torch_size(value: object) -> bool:
    """Whether a value is a `torch.Size`, told without importing torch."""
    return isinstance(value, tuple) and type(value).__module__.partition(".")[0] == "torch"


def is_tensorflow_shape(value: object) -> bool:
    """Whether a value is a `tf.TensorShape`, told without importing TensorFlow."""
    is_its_own = type(value).__module__.partition(".")[0] == "tensorflow"
    return is_its_own and hasattr(value, "as_list")


def is_shape(value: object) -> bool:
    """Whether a value is one tensor's shape (as Keras gives it to `build`), not a nest of them."""
    if is_tensorflow_shape(value):
        return True
    return isinstance(value, (tuple, list)) and all(
        dimension is None or is_count(dimension) for dimension in value
    )


def map_shapes(function: Callable[[tuple[int | None, ...]], Any], shapes: Structure) -> Structure:
    """Applies a function to each shape of a nest of shapes, as given to `build`."""
    if is_shape(shapes):
        return function(tuple(shapes))
    if isinstance(shapes, Mapping):
        return {key: map_shapes(function, shape) for key, shape in shapes.items()}
    if not isinstance(shapes, (tuple, list)):
        raise ValueError(
            f"expected a shape, such as (None, 10, 8), or a nest of shapes, got {shapes!r}."
        )
    mapped = [map_shapes(function, shape) for shape in shapes]
    if is_namedtuple(shapes):
        return type(shapes)(*mapped)
    return tuple(mapped) if isinstance(shapes, tuple) else mapped


def flat_shapes(shapes: Structure) -> tuple[list[tuple[int | None, ...]], list[str]]:
    """The shapes of a nest of shapes, and how to name each."""
    tensors = map_shapes(keras.KerasTensor, shapes)
    return [tuple(tensor.shape) for tensor in tree.flatten(tensors)], leaf_paths(tensors)


def without_time(shapes: Structure) -> Structure:
    """The shapes (B, ...) of one timestep, from those of sequences (B, T, ...)."""
    return map_shapes(lambda shape: (shape[0], *shape[2:]), shapes)


def first_known(dimensions: Iterable[int | None]) -> int | None:
    """The first dimension that's known; nested inputs may know it only in some of them."""
    return next((dimension for dimension in dimensions if dimension is not None), None)


def is_tensor_like(item: object) -> bool:
    """Whether something is a tensor, array or variable, and so no container, told in 0.1 us."""
    return hasattr(item, "shape") and not isinstance(item, (tuple, list, dict))


def leaves(structure: Structure) -> list[Any]:
    """The leaves of a structure in keras.tree's order.

    This and the two functions below are keras.tree's `flatten`, `pack_sequence_as` and
    `map_structure`, which take 5 to 15 us on PyTorch; most structures are one tensor, or a list.
    Containers of Keras's and TensorFlow's own, which keras.tree knows, may come here; not to
    `ostinato.nests`, which needs no Keras.
    """
    if is_tensor_like(structure):
        return [structure]
    if _is_flat(structure):
        return list(structure)
    flat: list[Any] = tree.flatten(structure)
    return flat


def pack_like(structure: Structure, flat: Sequence[Any]) -> Structure:
    """Leaves in the containers of a structure."""
    if is_tensor_like(structure) and len(flat) == 1:
        return flat[0]
    if _is_flat(structure) and len(flat) == len(structure):
        return type(structure)(flat)
    return tree.pack_sequence_as(structure, flat)


def map_leaves(function: Callable[[Any], Any], structure: Structure) -> Structure:
    """A structure with a function of each leaf in its place."""
    if is_tensor_like(structure):
        return function(structure)
    if _is_flat(structure):
        return type(structure)(function(item) for item in structure)
    return tree.map_structure(function, structure)


def _is_flat(structure: Structure) -> bool:
    return type(structure) in (list, tuple) and all(map(is_tensor_like, structure))


def repack(template: Structure, value: Structure) -> Structure | None:
    """Fits a structure of tensors into the containers of another.

    What has names on both sides (dicts, namedtuples) is matched by name, and sequences of the same
    length item by item. Other sequences are matched leaf by leaf, in their order, and a single
    leaf may stand in any container or in none. Names are never matched by position: a dict's
    entries have no order that both sides would agree on.

    Args:
        template: The containers wanted, with any leaves.
        value: The structure given.

    Returns:
        `value`'s leaves in `template`'s containers, or None where they can't be matched.
    """
    if value is None:
        return template if not tree.flatten(template) else None
    if not tree.is_nested(template) and not tree.is_nested(value):
        return value
    by_name, given = _as_mapping(template), _as_mapping(value)
    if by_name is not None and given is not None:
        return _repack_by_name(template, by_name, given)
    if _both_sequences(template, value) and len(template) == len(value):
        parts = [repack(*pair) for pair in zip(template, value, strict=True)]
        if not _unmatched(parts, template):
            return type(template)(*parts) if is_namedtuple(template) else type(template)(parts)
    if isinstance(value, (tuple, list)) and len(value) == 1:
        return repack(template, value[0])
    flat = tree.flatten(value)
    if len(flat) != len(tree.flatten(template)):
        return None
    if len(flat) > 1 and (_has_dict(template) or _has_dict(value)):
        return None
    return tree.pack_sequence_as(template, flat)


def _repack_by_name(
    template: Structure, by_name: Mapping[str, Any], given: Mapping[str, Any]
) -> Structure | None:
    if by_name.keys() != given.keys():
        return None
    items = {name: repack(by_name[name], given[name]) for name in by_name}
    return None if _unmatched(items.values(), by_name.values()) else _like(template, items)


def _has_dict(structure: Structure) -> bool:
    if isinstance(structure, Mapping):
        return True
    return isinstance(structure, (tuple, list)) and any(map(_has_dict, structure))


def _unmatched(parts: Any, templates: Any) -> bool:
    return any(
        part is None and bool(tree.flatten(template))
        for part, template in zip(parts, templates, strict=True)
    )


def _as_mapping(structure: Structure) -> Mapping[str, Any] | None:
    if is_namedtuple(structure):
        return dict(zip(structure._fields, structure, strict=True))
    return structure if isinstance(structure, Mapping) else None


def _like(template: Structure, items: dict[str, Any]) -> Structure:
    if is_namedtuple(template):
        return type(template)(**items)
    return {key: items[key] for key in template}


def _both_sequences(template: Structure, value: Structure) -> bool:
    return isinstance(template, (tuple, list)) and isinstance(value, (tuple, list))


def spread(states: Structure) -> tuple[Any, ...]:
    """A layer's states as separate results: a sequence's items; a dict or a bare tensor as one."""
    return tuple(states) if isinstance(states, (tuple, list)) else (states,)


def describe(structure: Structure) -> str:
    """A structure as text for an error: shapes of tensors, what else it holds, in its containers.

    Never a tensor's values, and of a long sequence its first items: it may be a batch as a list.
    """
    if isinstance(structure, Mapping):
        inner = ", ".join(f"{key!r}: {describe(item)}" for key, item in structure.items())
        return "{" + inner + "}"
    if is_namedtuple(structure):
        pairs = zip(structure._fields, structure, strict=True)
        inner = ", ".join(f"{field}={describe(item)}" for field, item in pairs)
        return f"{type(structure).__name__}({inner})"
    if isinstance(structure, (tuple, list)):
        items = [describe(item) for item in structure[:SHOWN_ITEMS]]
        if len(structure) > SHOWN_ITEMS:
            items.append(f"... {len(structure)} in all")
        return f"[{', '.join(items)}]" if isinstance(structure, list) else f"({', '.join(items)})"
    if isinstance(structure, Shape):
        return str(with_batch(structure, "batch")).replace("'", "")
    if hasattr(structure, "shape"):
        return str(tuple(structure.shape)) if len(structure.shape) else "a scalar"
    return reprlib.repr(structure)
