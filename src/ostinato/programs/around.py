"""What code is, and what it reads from outside of its objects: the names around it.

`SCALE = 0.5` beside a class of cells, or `config.SCALE` of a module, is in a cell's program, too.
Which names a function reads is found once; their values are read for every run.
"""

import dis
import sys
from collections.abc import Iterator
from itertools import pairwise
from operator import is_
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ostinato.programs.serials import serial

# `__main__` is of Python's too, and is the users'.
_OF_OTHERS = sys.stdlib_module_names - {"__main__"} | {"ostinato", "builtins", "keras", "numpy"}
_OF_OTHERS |= {"jax", "jaxlib", "torch", "tensorflow"}
_MISSING = object()
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_WRAPPED = ("fget", "__func__", "func")


def is_of_users(thing: Any) -> bool:
    """Whether a function or class is neither a framework's nor Python's."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] not in _OF_OTHERS


class Code:
    """The code of a class or function, and what it reads.

    Attributes:
        names: The names of what it reads.
        told: What it is, as a value that's equal where it's the same code.
    """

    def __init__(self, thing: Any) -> None:
        is_class = isinstance(thing, type)
        bases = [base for base in thing.__mro__ if is_of_users(base)] if is_class else []
        places = [(vars(base), name) for base in bases for name in vars(base)]
        self._sizes = [(vars(base), len(vars(base))) for base in bases]
        self._own = [place for place in places if _is_value(*place)]
        self._fixed = [place for place in places if not _is_value(*place)]
        self._values = [names[name] for names, name in self._fixed]
        within = [function for value in self._values for function in _functions_in(value)]
        self._functions = within if is_class else [thing]
        self._codes = [function.__code__ for function in self._functions]
        self._read = [read for f in self._functions for read in _read_by(f, f.__code__)]
        self._cells = [cell for f in self._functions for cell in f.__closure__ or ()]
        self._defaults = [f for f in self._functions if f.__defaults__ or f.__kwdefaults__]
        self.names = [name for _, name in self._own]
        self.names += [after or name for _, name, after in self._read]
        self.names += [name for code in self._codes for name in code.co_freevars]
        self.names += [f.__name__ for f in self._defaults]
        self.told = (*map(serial, self._codes), *self.names)

    def is_current(self) -> bool:
        """Whether it's surely what it was; Python itself gives a class `__annotations__` late."""
        return (
            all(len(names) == count for names, count in self._sizes)
            and all(map(is_, [names.get(name) for names, name in self._fixed], self._values))
            and all(map(is_, [function.__code__ for function in self._functions], self._codes))
        )

    def reads(self) -> list[Any]:
        """What is read now: a class's own values, names around the code, closures, defaults."""
        found = [names.get(name) for names, name in self._own]
        for namespace, name, of_module in self._read:
            value = namespace.get(name)
            found.append(value if of_module is None else getattr(value, of_module, None))
        for cell in self._cells:
            try:
                found.append(cell.cell_contents)
            except ValueError:  # nothing is in it yet
                found.append(None)
        found += [(function.__defaults__, function.__kwdefaults__) for function in self._defaults]
        return found


_CODES: dict[int, Code] = {}


def code_of(thing: Any) -> Code | None:
    """The code of a class or function as it is now; None of a framework's or of Python's."""
    key = serial(thing)
    found = _CODES.get(key)
    if found is not None and found.is_current():
        return found
    if not is_of_users(thing):
        return None
    found = _CODES[key] = Code(thing)
    return found


def _functions_in(value: Any) -> Iterator[FunctionType]:
    wrapped = (value, *(getattr(value, name, None) for name in _WRAPPED))
    yield from (each for each in wrapped if isinstance(each, FunctionType))


def _is_value(names: Any, name: str) -> bool:
    """Whether a class's attribute is a value: no code, no descriptor, nothing of Python's."""
    return not name.startswith("__") and not hasattr(names[name], "__get__")


def _read_by(function: FunctionType, code: CodeType) -> Iterator[tuple[Any, str, str | None]]:
    """The names that code reads, each with its namespace; of a module what's read of it."""
    namespace = function.__globals__
    for one, after in pairwise([*dis.get_instructions(code), None]):
        if one is None or one.opname not in _GLOBAL:
            continue
        if not one.argval.isidentifier():  # `@pytest_ar`, which pytest writes into asserts: from
            continue  # there all of a session is reached
        value = namespace.get(one.argval, _MISSING)
        if isinstance(value, ModuleType):
            if after is not None and after.opname in _ATTRIBUTE and _is_users_module(value):
                yield namespace, one.argval, after.argval
        elif value is not _MISSING:
            yield namespace, one.argval, None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _read_by(function, constant)


def _is_users_module(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] not in _OF_OTHERS
