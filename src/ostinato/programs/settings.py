"""What a cell is set to: all that may be in its program beside tensors that are read anew.

A cell is traced once, but what it is may change: `cell.decay = 0.8`, `SCALE = 2.0` beside its
class, a layer in it that's frozen or quantized, a method that a notebook has edited. All of that is
told here, in some microseconds, as a value that's equal where it is the same.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache, partial
from operator import attrgetter
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np

from ostinato.programs.around import code_of, is_of_users
from ostinato.programs.node import ProgramError
from ostinato.programs.serials import serial
from ostinato.programs.tracing.members import BOOKKEEPING, is_holder, is_value

# What a cell's code may ask a layer of Keras's, beside the attributes that are its own.
_plain_of_layer = attrgetter("trainable", "name", "supports_masking", "autocast")
_objects_of_layer = attrgetter("activity_regularizer", "dtype_policy")
_OF_PYTORCH = ("_modules", "_parameters", "_buffers")
_OF_KERAS_BY_IDENTITY = (
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)


def settings(cell: Any) -> Any:
    """All that a cell is set to, as a value that's equal where that is the same."""
    try:
        return keras.config.floatx(), keras.config.epsilon(), Telling().told(cell)
    except RecursionError:
        raise TooMuchError(f"what hangs on it is nested too deeply: {_ANY}") from None


def changed(before: Any, after: Any) -> str:
    """What has changed between two settings, by the name nearest to it."""
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
    inner = ""
    if pairs and all(isinstance(each, tuple) for each in pairs[0]):
        inner = changed(*pairs[0])
    is_named = len(before) == 2 and isinstance(before[0], str) and before[0] == after[0]
    if inner and inner != _SOMETHING:
        return inner
    return repr(before[0]) if is_named else _SOMETHING


_SOMETHING = "something of what it reads"
# Of things that a cell is set to, an object's attributes count as they are met. Telling takes some
# 2 us a thing at every call; a cell that holds its trainer, or a logger, may reach all there is.
_MOST_THINGS = 2000
# Items of lists and dicts take up to 0.5 us each, and NumPy's numbers 1.2 ns a byte.
_MOST_ITEMS = 10_000
_MOST_BYTES = 1 << 26
_ANY = "a program may have any of it in it"


class TooMuchError(ProgramError):
    """More hangs on a cell than can be told at every call."""


class Telling:
    """One telling of what hangs on a cell.

    Attributes:
        is_held: Whether tensors here are found by `Members`, and so read anew for every run.
    """

    def __init__(self) -> None:
        self.is_held = True
        # What was told, by its id, which is its own while it's kept here; and how many before it.
        self._met: dict[int, tuple[int, Any]] = {}
        self._items = self._bytes = 0

    def told(self, value: Any) -> Any:
        """A value, as something that's equal where it is the same."""
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        teller = _TELLERS.get(kind)
        if teller is None:
            teller = _TELLERS[kind] = _teller_of(value)
        return teller(self, value)

    def met(self, thing: Any) -> int | None:
        """When a thing was told before, or None: one thing of two names isn't two things."""
        found = self._met.get(id(thing))
        if found is None:
            if len(self._met) >= _MOST_THINGS:
                raise TooMuchError(
                    f"more than {_MOST_THINGS:,} things hang on it, of which a "
                    f"{type(thing).__name__}, and a program may have any of them in it"
                )
            self._met[id(thing)] = len(self._met), thing
            return None
        return found[0]

    def count(self, thing: Any, items: int = 0, size: int = 0) -> None:
        """Counts items, or bytes, that are to be read.

        Raises:
            TooMuchError: if there are too many of them.
        """
        self._items += items
        self._bytes += size
        if self._items > _MOST_ITEMS or self._bytes > _MOST_BYTES:
            held = f"{items:,} items" if items else f"{size:,} bytes"
            raise TooMuchError(f"it holds {held} in one {type(thing).__name__}, and {_ANY}")

    def apart(self, values: Iterable[Any]) -> tuple[Any, ...]:
        """Values that `Members` doesn't look at: their tensors are in a program as they are."""
        is_held, self.is_held = self.is_held, False
        try:
            return tuple([self.told(value) for value in values])
        finally:
            self.is_held = is_held


Teller = Callable[[Telling, Any], Any]
_AS_THEY_ARE = frozenset({int, str, bytes, type(None)})


def _number(telling: Telling, value: Any) -> Any:
    """A number that may equal one of another type: 1, 1.0 and True; or 0.0, which equals -0.0."""
    return type(value), value or str(value)


def _identity(telling: Telling, value: Any) -> Any:
    return serial(value)


def _value(telling: Telling, value: Any) -> Any:
    try:
        hash(value)
    except TypeError:  # its class has a hash, which raises: h5py's property lists
        return serial(value)
    return value


def _array(telling: Telling, value: Any) -> Any:
    if value.dtype.hasobject:
        telling.count(value, items=value.size)
        return telling.apart(value.reshape(-1).tolist())
    telling.count(value, size=value.nbytes)
    return value.shape, value.dtype.str, hash(value.tobytes())


def _buffer(telling: Telling, value: Any) -> Any:
    view = memoryview(value)
    telling.count(value, size=view.nbytes)
    return type(value), view.shape, view.format, hash(view.tobytes())


def _tensor(telling: Telling, value: Any) -> Any:
    if not telling.is_held:
        return serial(value), getattr(value, "_version", None)  # PyTorch's, of changes in place
    return telling.met(value), value.shape, value.dtype


def _list(telling: Telling, value: Any) -> Any:
    number = telling.met(value)
    if number is not None:
        return number
    telling.count(value, items=len(value))
    return list, *map(telling.told, value)


def _tuple(telling: Telling, value: Any) -> Any:
    telling.count(value, items=len(value))
    return type(value), *map(telling.told, value)


def _dict(telling: Telling, value: Any) -> Any:
    number = telling.met(value)
    if number is not None:
        return number
    telling.count(value, items=len(value))
    return dict, *[(telling.told(key), telling.told(item)) for key, item in value.items()]


def _collection(telling: Telling, value: Any) -> Any:
    number = telling.met(value)
    if number is not None:
        return number
    telling.count(value, items=len(value))
    items = value.items() if isinstance(value, Mapping) else value
    return type(value), *telling.apart(items)


def _code(telling: Telling, value: Any) -> Any:
    """A class or a function: its code, and what that reads around it."""
    code = None if telling.met(value) is not None else code_of(value)
    if code is None:
        return serial(value)
    return serial(value), code.told, *zip(code.names, telling.apart(code.reads()), strict=True)


def _method(telling: Telling, value: Any) -> Any:
    return telling.apart((value.__func__, value.__self__))


def _partial(telling: Telling, value: Any) -> Any:
    return telling.apart((value.func, value.args, value.keywords))


def _object(telling: Telling, value: Any) -> Any:
    number = telling.met(value)
    if number is not None:
        return number
    cls, attributes = telling.told(type(value)), dict(_attributes(value))
    if is_holder(value):
        return cls, *[(name, telling.told(item)) for name, item in attributes.items()]
    return cls, *zip(attributes, telling.apart(attributes.values()), strict=True)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """The names and values of an object's attributes, in its dict and in slots."""
    yield from getattr(thing, "__dict__", {}).items()
    for name in _slots_of(thing):
        yield name, getattr(thing, name, None)


def _policy(telling: Telling, value: Any) -> Any:
    return value.name


def _layer(telling: Telling, layer: Any) -> Any:
    number = telling.met(layer)
    if number is not None:
        return number
    told, (of_keras, apart) = telling.told, _of_every_layer()
    attributes = vars(layer)
    found = [told(type(layer)), attributes.get("training"), *_plain_of_layer(layer)]
    found += [told(value) for value in _objects_of_layer(layer)]
    for name, value in attributes.items():
        if name not in of_keras and value is not None:  # Keras's cells get some that are None
            found.append((name, value if type(value) in _AS_THEY_ARE else told(value)))
    for kept in apart:
        for name, value in attributes.get(kept, {}).items():
            if name not in BOOKKEEPING:
                found.append((name, told(value)))
    found += [(name, told(getattr(layer, name, None))) for name in _slots_of(layer)]
    return tuple(found)


@cache
def _of_every_layer() -> tuple[frozenset[str], list[str]]:
    """The attributes that Keras keeps for itself, and those where PyTorch keeps a layer's own."""
    every = frozenset(vars(keras.layers.Layer(name="any")))
    return BOOKKEEPING | every, [name for name in _OF_PYTORCH if name in every]


def _slots_of(thing: Any) -> tuple[str, ...]:
    """The attributes that an object has beside its dict."""
    cls: Any = type(thing)
    return _slots(cls)


@cache
def _slots(cls: Any) -> tuple[str, ...]:
    found: list[str] = []
    for base in filter(is_of_users, cls.__mro__):
        names = base.__dict__.get("__slots__", ())
        names = (names,) if isinstance(names, str) else names
        found += [name for name in names if not name.startswith("__")]
    return tuple(found)


# What tells things of a class; the first that fits.
_BY_CLASS: tuple[tuple[Any, Teller], ...] = (
    ((int, float, complex), _number),
    ((str, bytes, range), _value),
    ((bytearray, memoryview), _buffer),
    (keras.Variable, _identity),
    ((np.ndarray, np.generic), _array),
    (MethodType, _method),
    ((FunctionType, type), _code),
    ((BuiltinFunctionType, ModuleType, CodeType), _identity),
    (partial, _partial),
    (keras.layers.Layer, _layer),
    (_OF_KERAS_BY_IDENTITY, _identity),
    (keras.dtype_policies.DTypePolicyMap, _object),
    (keras.dtype_policies.DTypePolicy, _policy),
    (dict, _dict),
    (list, _list),
    (tuple, _tuple),
    ((Mapping, Set, Sequence, deque), _collection),
)
_TELLERS: dict[type, Teller] = {}


# Locks, events and queues change while threads wait, which says nothing of what a cell computes.
_OF_THREADS = ("threading", "_thread", "queue", "_queue", "multiprocessing.synchronize")


def _teller_of(value: Any) -> Teller:
    for classes, teller in _BY_CLASS:
        if isinstance(value, classes):
            return teller
    if is_value(value):
        return _tensor
    if type(value).__module__ in _OF_THREADS:
        return _identity
    if hasattr(value, "__dict__") or _slots_of(value):
        return _object
    is_by_value = isinstance(value, Hashable) and type(value).__hash__ is not object.__hash__
    return _value if is_by_value else _identity
