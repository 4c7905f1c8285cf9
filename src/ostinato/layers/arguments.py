"""The arguments of layers and cells: how each is read, and written into a config, by its name.

A constructor's signature says which arguments a class takes; what an argument is, is the same
wherever it stands.
"""

import difflib
import functools
import inspect
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ostinato.doors import opaque
from ostinato.structure import is_count

# What Keras's registries take: a name, a config, or what it stands for.
Activation = str | dict[str, Any] | Callable[..., Any] | None
Initializer = str | dict[str, Any] | Callable[..., Any] | None
Regularizer = str | dict[str, Any] | Callable[..., Any] | None
Constraint = str | dict[str, Any] | Callable[..., Any] | None


class RefusedArgument(ValueError):  # noqa: N818 - to a user it's a ValueError
    """A constructor argument was refused.

    Attributes:
        detail: Which argument and why, without who refused it: a layer that makes its cell refuses
            in its own name.
    """

    ag_pass_through = True  # AutoGraph makes another error of it otherwise: see EngineError

    def __init__(self, owner: str, detail: str) -> None:
        super().__init__(f"{owner}: {detail}")
        self.detail = detail


def start_layer(layer: Any, kwargs: dict[str, Any]) -> None:
    """Calls the constructor of `keras.layers.Layer`.

    Args:
        layer: A layer or cell at the beginning of its own constructor.
        kwargs: What that has been given beside its own arguments.

    Raises:
        RefusedArgument: for an argument that nobody takes (it suggests one that is spelled alike),
            or that Keras refuses.
    """
    try:
        keras.layers.Layer.__init__(layer, **kwargs)
    except ValueError as error:
        known = _known_arguments(type(layer))
        unknown = [name for name in kwargs if name not in known]
        # Of one that it takes but can't read, Keras says what's wrong, but not whose it is.
        detail = " ".join(_unknown(name, known) for name in unknown) or str(error)
        raise RefusedArgument(type(layer).__name__, detail) from error


def _known_arguments(cls: Any) -> set[str]:
    """What a layer's class takes: that of ours, those that a user derived, and Keras's Layer."""
    of_user = cls.__mro__[: cls.__mro__.index(_class_of_ours(cls))]
    constructors = [c.__init__ for c in (*of_user, keras.layers.Layer)]
    names = {name for function in constructors for name in inspect.signature(function).parameters}
    return {*names, *argument_names(cls)}


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"Unknown argument `{name}`{suggestion(name, known)}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: one that is spelled alike, or a full stop."""
    alike = difflib.get_close_matches(name, known, n=1)
    return f": did you mean `{alike[0]}`?" if alike else "."


def own_arguments(variables: dict[str, Any]) -> dict[str, Any]:
    """A constructor's arguments by name, out of its `locals()`, without those for Keras's Layer."""
    return {name: value for name, value in variables.items() if name in _ARGUMENTS}


def argument_names(cls: Any) -> tuple[str, ...]:
    """The arguments of a class of ours, without those for Keras's Layer and a subclass's own."""
    return _argument_names(cls)


@opaque
@functools.lru_cache(maxsize=256)
def _argument_names(cls: Any) -> tuple[str, ...]:
    parameters = list(inspect.signature(_class_of_ours(cls).__init__).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)


def _class_of_ours(cls: Any) -> Any:
    package = __package__.partition(".")[0]
    return next(c for c in cls.__mro__ if c.__module__.partition(".")[0] == package)


def read(owner: str, name: str, value: Any) -> Any:
    """What becomes of a given argument, as the attribute of its name.

    Raises:
        RefusedArgument: if it can't be.
    """
    try:
        return _ARGUMENTS[name].read(value)
    except ValueError as error:
        raise RefusedArgument(owner, f"`{name}`: {error}") from error


def attribute(name: str) -> str:
    """The attribute that holds an argument; a plain name is a subclass's where Keras has none."""
    return f"_rnn_{name}" if name in _OURS_ALONE else name


class Shown:
    """A property in whose place a subclass may set an attribute of its own, as Keras's may."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else self._read(layer)


def set_arguments(layer: Any, given: dict[str, Any]) -> None:
    """Reads given arguments and sets them as attributes of a layer or cell."""
    for name, value in given.items():
        setattr(layer, attribute(name), read(type(layer).__name__, name, value))


def written(layer: Any, names: Iterable[str]) -> dict[str, Any]:
    """The config entries of some arguments, from their attributes."""
    values = {name: getattr(layer, attribute(name)) for name in names}
    return {
        name: _ARGUMENTS[name].write(value)
        for name, value in values.items()
        if not (name in _NOT_IN_KERAS and value == _NOT_IN_KERAS[name])
    }


def _count(name: str) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not is_count(value) or value <= 0:
            raise ValueError(
                f"received an invalid value for argument `{name}`, "
                f"expected a positive integer, got {value!r}."
            )
        return int(value)

    return read


def _by_axis(value: Any) -> int | tuple[int, ...]:
    """One positive int for all axes, or one for each; how many axes there are the cell knows."""
    axes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not axes or not all(is_count(size) and size > 0 for size in axes):
        raise ValueError(f"expected a positive integer or a tuple of them, got {value!r}.")
    return tuple(map(int, axes)) if isinstance(value, (tuple, list)) else int(value)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        found = value.lower() if isinstance(value, str) else value
        if found not in allowed:
            raise ValueError(f"expected one of {allowed}, got {value!r}.")
        return str(found)

    return read


def _data_format(value: Any) -> str:
    given = keras.config.image_data_format() if value is None else value
    return _one_of("channels_last", "channels_first")(given)


def _flag(value: Any) -> bool:
    # What has a truth value of its own, as to Keras; in configs there are also None, 0 and 1.
    is_scalar = isinstance(value, np.ndarray) and value.ndim == 0
    if not (value is None or is_scalar or isinstance(value, (bool, np.bool_, numbers.Real))):
        raise ValueError(f"expected True or False, got {value!r}.")
    return bool(value)


def _implementation(value: Any) -> int:
    # Old configs may hold a 0; to Keras 3 it's what 2 is, as None is.
    if value is None:
        return 2
    if not is_count(value) or value not in (0, 1, 2):
        raise ValueError(f"expected 1 or 2, got {value!r}.")
    return int(value)


def _timesteps(value: Any) -> int | None:
    # The kernels hold it in 56 bits.
    if value is not None and not (is_count(value) and 0 < value < 1 << 56):
        raise ValueError(
            f"expected a positive number of timesteps, less than 2^56, or None, got {value!r}."
        )
    return None if value is None else int(value)


def _rate(value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {value!r}.")
    return float(value)


def _seed(value: Any) -> int | None:
    if value is not None and not is_count(value):
        raise ValueError(f"expected an integer or None, got {value!r}.")
    return None if value is None else int(value)


def _use_cudnn(value: Any) -> Any:
    if value not in ("auto", True, False):
        raise ValueError(f"expected 'auto', True or False, got {value!r}.")
    return value


@dataclass(frozen=True)
class _Argument:
    """How one argument is read (to its attribute, or a ValueError), and written to a config."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value


def _registered(module: Any, what: str) -> _Argument:
    """An argument that one of Keras's registries reads; its errors don't say whose it was."""

    def read(value: Any) -> Any:
        try:
            return module.get(value)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"expected the name of {what} that Keras knows, its config, a callable "
                f"or None, got {value!r}. {error}"
            ) from error

    return _Argument(read, module.serialize)


_ACTIVATION = _registered(keras.activations, "an activation")
_INITIALIZER = _registered(keras.initializers, "an initializer")
_REGULARIZER = _registered(keras.regularizers, "a regularizer")
_CONSTRAINT = _registered(keras.constraints, "a constraint")
_FLAG = _Argument(_flag)
_RATE = _Argument(_rate)

_ARGUMENTS = {
    "units": _Argument(_count("units")),
    "filters": _Argument(_count("filters")),
    "kernel_size": _Argument(_by_axis),
    "strides": _Argument(_by_axis),
    "padding": _Argument(_one_of("valid", "same")),
    "data_format": _Argument(_data_format),
    "dilation_rate": _Argument(_by_axis),
    "activation": _ACTIVATION,
    "recurrent_activation": _ACTIVATION,
    "use_bias": _FLAG,
    "kernel_initializer": _INITIALIZER,
    "recurrent_initializer": _INITIALIZER,
    "bias_initializer": _INITIALIZER,
    "unit_forget_bias": _FLAG,
    "kernel_regularizer": _REGULARIZER,
    "recurrent_regularizer": _REGULARIZER,
    "bias_regularizer": _REGULARIZER,
    "activity_regularizer": _REGULARIZER,
    "kernel_constraint": _CONSTRAINT,
    "recurrent_constraint": _CONSTRAINT,
    "bias_constraint": _CONSTRAINT,
    "dropout": _RATE,
    "recurrent_dropout": _RATE,
    "reset_after": _FLAG,
    "seed": _Argument(_seed),
    "return_sequences": _FLAG,
    "return_state": _FLAG,
    "go_backwards": _FLAG,
    "stateful": _FLAG,
    "unroll": _FLAG,
    "zero_output_for_mask": _FLAG,
    "truncate": _Argument(_timesteps),
    "use_cudnn": _Argument(_use_cudnn),
    "implementation": _Argument(_implementation),
}
# Those of RNN, beside its cell.
LOOP = (
    *("return_sequences", "return_state", "go_backwards", "stateful", "unroll"),
    *("zero_output_for_mask", "truncate"),
)
# No class of Keras's has an argument or attribute of this name.
_OURS_ALONE = ("truncate",)
# Keras's configs lack these, so ours hold them only where they aren't the defaults.
_NOT_IN_KERAS = {"use_cudnn": "auto", "implementation": 2, "truncate": None}
