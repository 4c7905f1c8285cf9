"""Nests of dicts, lists and tuples, in keras.tree's order (dicts by key), without Keras."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Nest = Any


def is_namedtuple(value: object) -> bool:
    """Whether a value is an instance of a namedtuple class."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def flatten(nest: Nest) -> list[Any]:
    """The leaves of a nest: whatever isn't a dict, list or tuple."""
    if isinstance(nest, dict):
        return [leaf for key in sorted(nest) for leaf in flatten(nest[key])]
    if isinstance(nest, (list, tuple)):
        return [leaf for item in nest for leaf in flatten(item)]
    return [nest]


def fill(nest: Nest, leaves: Sequence[Any]) -> Nest:
    """A nest like another with these leaves."""
    return _filled(nest, iter(leaves))


def _filled(nest: Nest, leaves: Iterator[Any]) -> Nest:
    if isinstance(nest, dict):
        made = {key: _filled(nest[key], leaves) for key in sorted(nest)}
        return {key: made[key] for key in nest}
    if isinstance(nest, (list, tuple)):
        items = [_filled(item, leaves) for item in nest]
        return type(nest)(*items) if is_namedtuple(nest) else type(nest)(items)
    return next(leaves)


def map_leaves(function: Callable[[Any], Any], nest: Nest) -> Nest:
    """A nest with a function of each leaf in its place."""
    return fill(nest, [function(leaf) for leaf in flatten(nest)])


def match(template: Nest, value: Nest) -> list[Any] | None:
    """The leaves of a value in the order of a template's, or None where it's nested otherwise.

    A list may stand for a tuple and the other way round; the leaves of the value may be anything,
    also lists of numbers.
    """
    if isinstance(template, dict):
        if not isinstance(value, dict) or sorted(value) != sorted(template):
            return None
        pairs = [(template[key], value[key]) for key in sorted(template)]
    elif isinstance(template, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(template):
            return None
        pairs = list(zip(template, value, strict=True))
    else:
        return [value]
    found = [match(*pair) for pair in pairs]
    return None if None in found else [leaf for leaves in found if leaves for leaf in leaves]


def encode(nest: Nest) -> Any:
    """A nest as JSON can hold it; leaves are as they are, and no dicts, lists or tuples."""
    if isinstance(nest, dict):
        return {"dict": {key: encode(value) for key, value in nest.items()}}
    if isinstance(nest, (list, tuple)):
        return {"list" if isinstance(nest, list) else "tuple": [encode(item) for item in nest]}
    return nest


def decode(coded: Any) -> Nest:
    """The nest that `encode` was given; a namedtuple comes back as a tuple."""
    if not isinstance(coded, dict):
        return coded
    ((kind, items),) = coded.items()
    if kind == "dict":
        return {key: decode(value) for key, value in items.items()}
    return (list if kind == "list" else tuple)(decode(item) for item in items)


def leaf_paths(nest: Nest) -> list[str]:
    """Names each leaf as Python would spell it after the nest: "[0]", "['pen'].x", or ""."""

    def walk(item: Nest, path: str) -> list[tuple[str, Any]]:
        if isinstance(item, Mapping):
            pairs = [(f"{path}[{key!r}]", item[key]) for key in sorted(item)]
        elif is_namedtuple(item):
            pairs = [(f"{path}.{field}", getattr(item, field)) for field in item._fields]
        elif isinstance(item, (tuple, list)):
            pairs = [(f"{path}[{index}]", child) for index, child in enumerate(item)]
        else:
            return [(path, item)]
        return [found for child_path, child in pairs for found in walk(child, child_path)]

    return [path for path, _ in walk(nest, "")]
