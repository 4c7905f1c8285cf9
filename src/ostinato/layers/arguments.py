"""The arguments of cells and layers, each declared once.

A class lists the arguments it takes; from that list come its constructor's signature, the reading
and checking of values, its attributes, its config and the "Args" part of its docstring.
"""

import inspect
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ostinato.structure import is_count

REQUIRED = inspect.Parameter.empty


Reader = Callable[[Any], Any]  # given value -> attribute, or a ValueError

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

    def __init__(self, owner: str, detail: str) -> None:
        super().__init__(f"{owner}: {detail}")
        self.detail = detail


@dataclass(frozen=True)
class Argument:
    """One constructor argument.

    Attributes:
        name: Its name, the attribute's and the config key's.
        doc: What it is, for docstrings.
        hint: Its type, as an annotation.
        default: Its default; REQUIRED where there is none.
        read: Given value to attribute, or a ValueError.
        write: Attribute to config entry.
        keyword_only: Keras takes it through **kwargs, so it has no position.
        config_if_changed: Keras's config lacks it: it's written only where it isn't the default,
            so that an unchanged layer's config equals Keras's.
    """

    name: str
    doc: str
    hint: str
    default: Any = REQUIRED
    read: Reader = lambda value: value
    write: Callable[[Any], Any] = lambda value: value
    keyword_only: bool = False
    config_if_changed: bool = False

    def parameter(self) -> inspect.Parameter:
        """The argument as a parameter of a signature."""
        by_name, both = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = by_name if self.keyword_only else both
        return inspect.Parameter(self.name, kind, default=self.default, annotation=self.hint)


class Declared:
    """Gives a class the constructor that its `arguments` declare.

    A subclass that lists `arguments` gets an `__init__` with that signature, which binds the
    values by name and hands them to `_construct(values, rest)`.
    """

    arguments: tuple[Argument, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "arguments" in cls.__dict__:
            # setattr: a type checker rightly objects to assigning a method of a known class
            setattr(cls, "__init__", _constructor(cls.__name__, cls.arguments))  # noqa: B010
            cls.__doc__ = _documented(cls.__doc__ or "", cls.arguments)

    def _construct(self, values: dict[str, Any], rest: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} declares arguments but no _construct.")

    def _read(self, argument: Argument, value: Any) -> Any:
        try:
            return argument.read(value)
        except ValueError as error:
            detail = f"`{argument.name}`: {error}"
            raise RefusedArgument(type(self).__name__, detail) from error

    def _written(self, arguments: tuple[Argument, ...]) -> dict[str, Any]:
        """The config entries of some arguments, from the attributes of the same names."""
        values = {argument: getattr(self, argument.name) for argument in arguments}
        return {
            argument.name: argument.write(value)
            for argument, value in values.items()
            if not (argument.config_if_changed and value == argument.default)
        }


def _constructor(owner: str, arguments: tuple[Argument, ...]) -> Callable[..., None]:
    parameters = sorted(
        (argument.parameter() for argument in arguments), key=lambda parameter: parameter.kind
    )
    signature = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *parameters,
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD, annotation="Any"),
        ],
        return_annotation="None",
    )

    def construct(self: Declared, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{owner}: {error}.") from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        del values["self"]
        try:
            self._construct(values, values.pop("kwargs"))
        except RefusedArgument as error:
            raise RefusedArgument(type(self).__name__, error.detail) from error.__cause__

    construct.__name__ = "__init__"
    construct.__signature__ = signature  # type: ignore[attr-defined]
    construct.__qualname__ = f"{owner}.__init__"
    return construct


def _documented(doc: str, arguments: tuple[Argument, ...]) -> str:
    """The docstring with the arguments before its first section."""
    about, *sections = re.split(r"\n\n(?=Call arguments:|Raises:)", inspect.cleandoc(doc))
    lines = ["Args:"]
    for argument in arguments:
        default = "" if argument.default is REQUIRED else f" Default: `{argument.default!r}`."
        lines.append(f"    {argument.name}: {argument.doc}{default}")
    lines.append("    **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...")
    return "\n\n".join([about, "\n".join(lines), *sections])


def _units(value: Any) -> int:
    if not is_count(value) or value <= 0:
        raise ValueError(
            "received an invalid value for argument `units`, "
            f"expected a positive integer, got {value!r}."
        )
    return int(value)


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


def _rate(value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {value!r}.")
    return float(value)


def _seed(value: Any) -> int | None:
    if value is not None and not is_count(value):
        raise ValueError(f"expected an integer or None, got {value!r}.")
    return None if value is None else int(value)


def _known(get: Callable[[Any], Any], kind: str) -> Reader:
    """A reader by one of Keras's registries, whose errors don't say whose argument it was."""

    def read(value: Any) -> Any:
        try:
            return get(value)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"expected the name of {kind} that Keras knows, its config, a callable "
                f"or None, got {value!r}. {error}"
            ) from error

    return read


def _cudnn(value: Any) -> Any:
    if value not in ("auto", True, False):
        raise ValueError(f"expected 'auto', True or False, got {value!r}.")
    return value


def flag(name: str, doc: str, default: bool = False) -> Argument:
    """An argument that is True or False."""
    return Argument(name, doc, "bool", default, _flag)


def _activation(name: str, default: str, doc: str) -> Argument:
    read = _known(keras.activations.get, "an activation")
    about = f"{doc} None: linear."
    return Argument(name, about, "Activation", default, read, keras.activations.serialize)


def _family(kind: str, module: Any, defaults: tuple[str | None, ...]) -> tuple[Argument, ...]:
    """The arguments of one kind (initializer...) for kernel, recurrent kernel and bias."""
    weights = ("kernel", "recurrent_kernel", "bias")
    roles = ("kernel", "recurrent", "bias")
    article = "an" if kind[0] in "aeiou" else "a"
    read = _known(module.get, f"{article} {kind}")
    return tuple(
        Argument(
            f"{role}_{kind}",
            f"{kind.capitalize()} of `{weight}`.",
            kind.capitalize(),
            default,
            read,
            module.serialize,
        )
        for role, weight, default in zip(roles, weights, defaults, strict=True)
    )


UNITS = Argument(
    "units", "Positive int, the size of the output and of each state.", "int", read=_units
)
ACTIVATION = _activation("activation", "tanh", "Activation of the output or candidate.")
RECURRENT_ACTIVATION = _activation("recurrent_activation", "sigmoid", "Activation of the gates.")
USE_BIAS = flag("use_bias", "Whether there is a bias.", True)
INITIALIZERS = _family("initializer", keras.initializers, ("glorot_uniform", "orthogonal", "zeros"))
REGULARIZERS = _family("regularizer", keras.regularizers, (None, None, None))
CONSTRAINTS = _family("constraint", keras.constraints, (None, None, None))
RATES = (
    Argument("dropout", "Fraction of the inputs dropped in training.", "float", 0.0, _rate),
    Argument(
        "recurrent_dropout", "Fraction of the state dropped in training.", "float", 0.0, _rate
    ),
)
SEED = Argument(
    "seed", "Int, seed of the dropout masks; None draws one.", "int | None", None, _seed
)
IMPLEMENTATION = Argument(
    "implementation",
    "Accepted for Keras's sake: 1 draws one input dropout mask a gate, 2 one for all. It chooses "
    "no other mathematics.",
    "int",
    2,
    _implementation,
    keyword_only=True,
    config_if_changed=True,
)

ACTIVITY_REGULARIZER = Argument(
    "activity_regularizer",
    "Regularizer of the layer's output.",
    "Regularizer",
    None,
    _known(keras.regularizers.get, "a regularizer"),
    keras.regularizers.serialize,
)
CELL = Argument(
    "cell",
    "A cell: an object with `call(inputs, states) -> (output, new_states)` and a `state_size`, or "
    "a list of cells, stacked.",
    "Any",
)
LOOP = (
    flag("return_sequences", "Whether to return the output of every timestep."),
    flag("return_state", "Whether to return the final states after the output."),
    flag("go_backwards", "Whether to run from the last timestep to the first."),
    flag("stateful", "Whether a batch starts from the states the last one ended with."),
    flag("unroll", "Whether to unroll the loop over time; it changes no result."),
)
ZERO_OUTPUT_FOR_MASK = flag(
    "zero_output_for_mask",
    "Whether the output of a masked timestep is zero, not the previous output.",
)
USE_CUDNN = Argument(
    "use_cudnn",
    "Accepted for Keras's sake ('auto', True or False); it chooses no mathematics.",
    "bool | str",
    "auto",
    _cudnn,
    config_if_changed=True,
)
