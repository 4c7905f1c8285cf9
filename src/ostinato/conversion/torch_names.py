"""The weights of PyTorch's recurrent modules: their names, shapes and order of gates.

Plain NumPy, without PyTorch. A *part* is one direction of one layer, or a cell: its entries by
their names without layer and direction, "weight_ih" (G*U, D), "weight_hh" (G*U, U), "bias_ih" and
"bias_hh" (G*U,).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
Part = dict[str, Array]
Key = tuple[int | None, bool]  # layer, and whether it's the backward direction
_CELL: Key = (None, False)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

_NAME = re.compile(
    r"(?P<role>(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<layer>0|[1-9][0-9]{0,8})(?P<back>_reverse)?)?"
)
_FIRST = re.compile(r"(?P<prefix>(?:.*\.)?)weight_ih(?:_l0)?")
# By torch.nn.utils.parametrizations, or the older weight_norm and spectral_norm.
_PARAMETRIZED = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?P<new>parametrizations\.)?(?P<name>(?:weight|bias)_(?:ih|hh)(?:_l\d+)?"
    r"(?:_reverse)?)(?(new)\..*|_(?:g|v|orig))"
)
_ROLES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# Keras's gates of a GRU, z r h, by their places among PyTorch's r z n; it's its own inverse.
_GRU_ORDER = [1, 0, 2]


@dataclass(frozen=True)
class TorchWeights:
    """What a state dict holds of one recurrent module.

    Attributes:
        kind: "LSTM", "GRU" or "RNN".
        units: U.
        layers: Of each layer its parts: one, or the forward and the backward direction's.
        is_cell: Whether it's a cell's, such as nn.LSTMCell's.
        dtype: Of all entries, by its name: "float32".
    """

    kind: str
    units: int
    layers: tuple[tuple[Part, ...], ...]
    is_cell: bool
    dtype: str

    @property
    def features(self) -> int:
        """D, the size of the first layer's inputs."""
        return int(self.layers[0][0]["weight_ih"].shape[1])

    @property
    def bias(self) -> bool:
        """Whether there are biases; all parts have them, or none."""
        return "bias_ih" in self.layers[0][0]


def read_weights(state: Mapping[str, Any], prefix: str | None = None) -> TorchWeights:
    """Reads a state dict.

    Args:
        state: Tensors or arrays by name.
        prefix: What the names begin with, "encoder.lstm" or "encoder.lstm."; by default what they
            do begin with, where that's one recurrent module and nothing else. With a prefix all
            other entries are passed over.

    Raises:
        ValueError: if entries are missing, unknown or misshapen, or the prefix isn't clear.
    """
    prefix = _prefix_of(state, prefix)
    _check_not_parametrized(state, prefix)
    found, dtypes = _by_part(state, prefix)
    keys = _keys(found, prefix)
    has_bias = any("bias_ih" in part or "bias_hh" in part for part in found.values())
    _check_complete(found, keys, _ROLES if has_bias else _ROLES[:2], prefix)
    kind, units = _kind_and_units(found[keys[0]], prefix + _suffix(*keys[0]))
    directions = 2 if (0, True) in keys else 1
    first = found[keys[0]]["weight_ih"].shape
    if len(first) != 2:
        raise ValueError(
            f"from_torch: the entry {prefix + 'weight_ih' + _suffix(*keys[0])!r}: expected a shape "
            f"(gates * units, features), in this {kind} ({GATES[kind] * units}, features), got "
            f"{first}."
        )
    features = first[1]
    for key in keys:
        inputs = directions * units if key[0] else features
        _check_shapes(found[key], kind, units, inputs, prefix, _suffix(*key))
    if len(dtypes) > 1:
        raise ValueError(f"from_torch: expected entries of one dtype, got {sorted(dtypes)}.")
    parts = [found[key] for key in keys]
    layers = tuple(tuple(parts[at : at + directions]) for at in range(0, len(parts), directions))
    return TorchWeights(kind, units, layers, keys == [_CELL], dtypes.pop())


def has_recurrent_weights(state: Mapping[Any, Any]) -> bool:
    """Whether an entry is named as the first of a recurrent module's is."""
    return any(isinstance(name, str) and _FIRST.fullmatch(name) for name in state)


def _keys(found: Mapping[Key, Part], prefix: str) -> list[Key]:
    """The parts that there must be, given those that are there: by layer, forward first."""
    if _CELL not in found:
        back = any(key[1] for key in found)
        numbers = {layer or 0 for layer, _ in found}
        # Where some are missing, one is among the first that many; the last may be far off.
        numbers.update(range(len(numbers)))
        ways = (False, True) if back else (False,)
        return [(layer, way) for layer in sorted(numbers) for way in ways]
    if len(found) > 1:
        raise ValueError(
            f"from_torch: expected the entries of a cell, {prefix + 'weight_ih'!r}..., or of "
            f"layers, {prefix + 'weight_ih_l0'!r}..., got both."
        )
    return [_CELL]


def _prefix_of(state: Mapping[str, Any], given: str | None) -> str:
    for name in state:
        if not isinstance(name, str):
            raise ValueError(
                "from_torch: expected a state dict, whose entries have names, got one with the key "
                f"{name!r} ({type(name).__name__})."
            )
    matches = [p.fullmatch(name) for name in state for p in (_FIRST, _PARAMETRIZED)]
    found = sorted({match["prefix"] for match in matches if match})
    if given is not None:
        prefix = f"{given.removesuffix('.')}." if given else ""
        if prefix not in found:
            raise ValueError(
                f"from_torch: expected an entry {prefix + 'weight_ih_l0'!r}, got such entries with "
                f"{' or '.join(_shown(found))}."
                if found
                else _nothing_in(state)
            )
        return prefix
    if not found:
        raise ValueError(_nothing_in(state))
    if len(found) > 1:
        raise ValueError(
            f"from_torch: expected one recurrent module, got {len(found)}; choose one by `prefix`: "
            f"{some(name.removesuffix('.') for name in found)}."
        )
    others = [name for name in state if not name.startswith(found[0])]
    if others:
        shown = found[0].removesuffix(".")
        raise ValueError(
            "from_torch: the state dict has entries of other layers than the recurrent one, which "
            f"aren't converted: {some(others)}. Say prefix={shown!r} to have the {shown!r} alone."
        )
    return found[0]


def _shown(prefixes: list[str]) -> list[str]:
    shown = [f"the prefix {name.removesuffix('.')!r}" if name else "none" for name in prefixes]
    return [*shown[:6], "others"] if len(shown) > 6 else shown


def _nothing_in(state: Mapping[str, Any]) -> str:
    return (
        "from_torch: expected the entries of a recurrent module, such as 'weight_ih_l0' or "
        f"'encoder.weight_ih_l0', got {some(state)}."
    )


def _check_not_parametrized(state: Mapping[str, Any], prefix: str) -> None:
    for name in state:
        match = _PARAMETRIZED.fullmatch(name)
        if match and match["prefix"] == prefix:
            raise ValueError(
                f"from_torch: expected {prefix + match['name']!r} itself, got {name!r}, of which "
                "weight_norm or another parametrization computes it. Remove that first, by "
                "torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm."
            )


def some(names: Any) -> str:
    """A list of names for a message, the first six at most."""
    names = [str(name) for name in names]
    return f"{names[:6]}{' and more' if len(names) > 6 else ''}"


def _suffix(layer: int | None, back: bool) -> str:
    return "" if layer is None else f"_l{layer}{'_reverse' if back else ''}"


def _by_part(state: Mapping[str, Any], prefix: str) -> tuple[dict[Key, Part], set[str]]:
    """The entries by layer and direction, as arrays; and the names of their dtypes."""
    found: dict[Key, Part] = {}
    dtypes, unknown = set(), []
    for name, value in state.items():
        if not name.startswith(prefix):
            continue
        match = _NAME.fullmatch(name[len(prefix) :])
        if match is None:
            if "." not in name[len(prefix) :]:  # a module in it has entries of its own
                unknown.append(name)
        elif match["role"] == "weight_hr":
            raise ValueError(
                f"from_torch: the entry {name!r} is of an LSTM with `proj_size`, whose output is a "
                "projection of its state. Keras's LSTM has none, nor has ours."
            )
        else:
            layer = None if match["layer"] is None else int(match["layer"])
            array, dtype = as_array(name, value)
            dtypes.add(dtype)
            found.setdefault((layer, bool(match["back"])), {})[match["role"]] = array
    if unknown:
        raise ValueError(
            "from_torch: expected only entries of a recurrent module, such as "
            f"{prefix + 'weight_ih_l0'!r}, got also {some(unknown)}."
        )
    return found, dtypes


def as_array(name: str, value: Any) -> tuple[Array, str]:
    """An entry as an array, and its dtype's name; bfloat16 comes as float32."""
    array, dtype = _dense(name, value)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"from_torch: the entry {name!r}: expected a tensor or array of floats, got "
            f"{type(value).__name__} of {dtype}."
        )
    return array, dtype


def _dense(name: str, value: Any) -> tuple[Array, str]:
    try:
        if not hasattr(value, "detach"):
            array = np.asarray(value)
            return array, str(array.dtype)
        dtype = str(value.dtype).removeprefix("torch.")
        tensor = value.detach().cpu()
        return (tensor.float() if dtype == "bfloat16" else tensor).numpy(), dtype
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        about = [str(getattr(value, name, "")) for name in ("layout", "dtype", "device")]
        raise ValueError(
            f"from_torch: the entry {name!r}: expected a dense tensor or array with values, got "
            f"{type(value).__name__} {' '.join(filter(None, about))}: {error}"
        ) from error


def _check_complete(
    found: Mapping[Key, Part],
    keys: list[Key],
    roles: tuple[str, ...],
    prefix: str,
) -> None:
    missing = [
        f"{prefix}{role}{_suffix(*key)}"
        for key in keys
        for role in roles
        if role not in found.get(key, {})
    ]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise ValueError(f"from_torch: entries are missing: {', '.join(missing[:8])}{more}.")


def _kind_and_units(part: Part, where: str) -> tuple[str, int]:
    """What the shape (G*U, U) of the state's weight says."""
    shape = part["weight_hh"].shape
    if len(shape) == 2 and shape[1] > 0:
        gates, rest = divmod(shape[0], shape[1])
        for kind, count in GATES.items():
            if gates == count and not rest:
                return kind, int(shape[1])
    raise ValueError(
        f"from_torch: weight_hh of {where!r}: expected a shape (gates * units, units), with 4 "
        f"gates for an LSTM, 3 for a GRU, 1 for an RNN, got {shape}."
    )


def _check_shapes(
    part: Part, kind: str, units: int, features: int, prefix: str, suffix: str
) -> None:
    rows = GATES[kind] * units
    expected = {"weight_ih": (rows, features), "weight_hh": (rows, units)}
    for role, array in part.items():
        if array.shape != expected.get(role, (rows,)):
            raise ValueError(
                f"from_torch: the entry {prefix + role + suffix!r}: expected the shape "
                f"{expected.get(role, (rows,))} in this {kind} of {units} units, got {array.shape}."
            )


def keras_weights(kind: str, part: Part) -> list[Array]:
    """A part's weights in Keras's order: kernel, recurrent_kernel and, where there is one, bias.

    PyTorch's two biases are summed, but for a GRU's, which are the rows of Keras's one.
    """
    arrays = {role: _reordered(kind, array) for role, array in part.items()}
    weights = [arrays["weight_ih"].T, arrays["weight_hh"].T]
    if "bias_ih" in arrays:
        biases = arrays["bias_ih"], arrays["bias_hh"]
        weights.append(np.stack(biases) if kind == "GRU" else biases[0] + biases[1])
    return weights


def torch_weights(kind: str, weights: list[Array]) -> Part:
    """`keras_weights` the other way; where PyTorch has two biases for one, the second is zero."""
    kernel, recurrent, *bias = weights
    part = {"weight_ih": kernel.T, "weight_hh": recurrent.T}
    if bias:
        (one,) = bias
        pair = one if kind == "GRU" else (one, np.zeros_like(one))
        part["bias_ih"], part["bias_hh"] = pair
    return {role: _reordered(kind, array) for role, array in part.items()}


def _reordered(kind: str, array: Array) -> Array:
    """The rows (G*U, ...) in the other library's order of gates."""
    if kind != "GRU":
        return array
    gates = array.reshape(GATES[kind], -1, *array.shape[1:])
    return gates[_GRU_ORDER].reshape(array.shape)
