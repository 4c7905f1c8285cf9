"""What a class's methods read from outside of its objects: attributes of the class, and names.

`SCALE = 0.5` beside a class of cells, or `decay = 0.9` in it, is in the program of a cell, too.
Which names there are is found once for each class; their values are read for every run.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

_FRAMEWORKS = ("ostinato", "builtins", "keras", "numpy", "jax", "jaxlib", "torch", "tensorflow")
_MISSING = object()

Read = Callable[[], Any]


def _is_of_users(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] not in _FRAMEWORKS


@cache
def read_by_class(cls: Any) -> tuple[Read, ...]:
    """What reads each value around a class that isn't a framework's."""
    reads: list[Read] = []
    seen: set[int] = set()
    for base in filter(_is_of_users, cls.__mro__):
        for name, value in list(vars(base).items()):
            for function in _functions_in(value):
                reads += _read_by(function, seen)
            if not name.startswith("__") and _is_told(value):
                reads.append(partial(_attribute, base, name))
    return tuple(reads)


def _attribute(owner: Any, name: str) -> Any:
    return vars(owner).get(name, None)


def _functions_in(value: Any) -> Iterator[FunctionType]:
    wrapped = (value, *(getattr(value, name, None) for name in ("fget", "__func__", "func")))
    yield from (each for each in wrapped if isinstance(each, FunctionType))


def _is_told(value: Any) -> bool:
    """Whether a value is no code: functions and classes have their own, which is looked into."""
    is_code = isinstance(value, (FunctionType, ModuleType, type, property, staticmethod))
    return not is_code and not isinstance(value, classmethod) and not hasattr(value, "__get__")


def _read_by(function: FunctionType, seen: set[int]) -> Iterator[Read]:
    """What reads the names that a function and those that it calls take from around them."""
    if id(function) in seen or not _is_of_users(function):
        return
    seen.add(id(function))
    for name in _names(function.__code__):
        value = function.__globals__.get(name, _MISSING)
        if value is not _MISSING:
            yield from _read_name(partial(function.__globals__.get, name), value, seen)
    for cell in function.__closure__ or ():
        read = partial(getattr, cell, "cell_contents", None)
        yield from _read_name(read, read(), seen)


def _read_name(read: Read, value: Any, seen: set[int]) -> Iterator[Read]:
    if isinstance(value, FunctionType):
        yield from _read_by(value, seen)
        if _is_of_users(value):
            yield read
    elif _is_told(value) and not isinstance(value, type):
        yield read


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
