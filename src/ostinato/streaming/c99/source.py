"""A source file in the making: what operations ask for, each thing once."""

from collections.abc import Iterable, Sequence

import numpy as np

from ostinato.streaming.c99.functions import functions
from ostinato.streaming.c99.kernels import Kernel, product_of_floats, product_of_int8
from ostinato.streaming.c99.text import Dialect, comment, indented

# So many columns of a kernel lie side by side, row by row: their sums stay in registers. LSTM's at
# 128 units take 4.5 us so, and 8.1 where a whole row is and sums are in memory (GCC, AVX-512).
_PANEL = 32


class Source:
    """What a model's C is made of so far; all text is templates (`text.py`).

    Attributes:
        dialect: How it's spelled.
        reset: Statements that begin anew.
        step: Statements of a timestep.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._states: list[str] = []
        self._fields: list[str] = []
        self.reset: list[str] = []
        self.step: list[str] = []
        self._work = 0
        self._called: set[str] = set()
        self._arrays: dict[bytes, tuple[str, str]] = {}
        self._products: dict[str, str] = {}
        self._bodies: list[str] = []

    def call(self, name: str) -> str:
        """A function of `functions.py`, which is in the file from now on."""
        self._called.add(name)
        return f"@{name}"

    def weight(self, values: np.ndarray) -> str:
        """The name of a constant array with these values; layers that share them share it.

        Its numbers are the model's, or int8 if that's what is given.
        """
        dtype = "int8" if values.dtype == np.int8 else self.dialect.dtype
        array = np.ascontiguousarray(values, dtype)
        key = dtype.encode() + array.tobytes()
        if key not in self._arrays:
            name = f"@w{len(self._arrays)}"
            self._arrays[key] = name, self.dialect.array(self.dialect.spelled(name), array)
        return self._arrays[key][0]

    def field(self, name: str, size: int, what: str) -> str:
        """A member of the struct, an array; what it is called in a function that has `self`."""
        self._fields.append(_member(name, size, what))
        return f"self->{name}"

    @property
    def members(self) -> list[str]:
        """The declarations of the struct's members, states first."""
        room = [_member("z", self._work, "products")] if self._work else []
        return self._states + self._fields + room

    def work(self, size: int) -> str:
        """Room for a timestep's products, which all cells share."""
        self._work = max(self._work, size)
        return "self->z"

    def state(self, number: int, initial: np.ndarray, what: str) -> str:
        """A state, which `reset` sets to its initial value."""
        name = f"s{number}"
        if initial.dtype == bool:
            self._states.append(f"int {name}; /* {comment(what)} */")
            self.reset.append(f"self->{name} = 0;")
            return f"self->{name}"
        made = f"self->{name}"
        self._states.append(_member(name, initial.size, what))
        first = initial.reshape(-1)[0]
        is_one = (initial == first).all()
        values = self.dialect.number(float(first)) if is_one else f"{self.weight(initial)}[i]"
        self.reset.append(f"for (i = 0; i < {initial.size}; ++i) {made}[i] = {values};")
        return made

    def counter(self, number: int, what: str) -> str:
        """A whole number that begins with 0; its address in a function that has `self`."""
        self._states.append(f"int at{number}; /* {comment(what)} */")
        self.reset.append(f"self->at{number} = 0;")
        return f"&self->at{number}"

    def product(self, x: str, kernel: Kernel, z: str) -> str:
        """A statement that adds x (depth,) times a kernel (depth, columns) to z."""
        depth, columns = kernel.values.shape
        name = f"@product_{depth}x{columns}"
        if kernel.scales is not None:
            return self._int8_product(f"{name}_int8", x, kernel, z)
        if name not in self._products:
            lines = product_of_floats(depth, columns, _PANEL)
            self._products[name] = _function(name, ["const REAL *RESTRICT w"], lines)
        return f"{name}({x}, {self._panelled(kernel.values)}, {z});"

    def _int8_product(self, name: str, x: str, kernel: Kernel, z: str) -> str:
        if name not in self._products:
            self.call("digits")
            given = ["const int8_t *RESTRICT w", "const REAL *RESTRICT scales"]
            self._products[name] = _function(name, given, product_of_int8(*kernel.values.shape))
        weights = self.weight(kernel.values.T), self.weight(np.asarray(kernel.scales))
        return f"{name}({x}, {', '.join(weights)}, {z});"

    def _panelled(self, values: np.ndarray) -> str:
        edges = range(_PANEL, values.shape[1], _PANEL)
        panels = [panel.reshape(-1) for panel in np.split(values, edges, axis=1)]
        return self.weight(np.concatenate(panels))

    def function(self, name: str, arguments: Sequence[str], lines: Iterable[str]) -> str:
        """A function of the file's own; its name."""
        head = f"\nstatic void {name}({', '.join(arguments)})\n{{\n"
        self._bodies.append(head + indented(lines) + "}\n")
        return name

    def definitions(self) -> str:
        """All that stands before `reset` and `step`, as C."""
        used = functions(self._called, self.dialect.dtype)
        parts = [*used, *self._products.values(), *self._bodies]
        arrays = "".join(f"\n{array}" for _, array in self._arrays.values())
        return arrays + "".join(self.dialect.spelled(part) for part in parts)


def _member(name: str, size: int, what: str) -> str:
    return f"REAL {name}[{size}]; /* {comment(what)} */"


def _function(name: str, weights: Sequence[str], lines: Sequence[str]) -> str:
    """A function `(x, weights, z)`, which adds a product to z."""
    arguments = ("const REAL *RESTRICT x", *weights, "REAL *RESTRICT z")
    return f"\nstatic void {name}({', '.join(arguments)})\n{{\n{indented(lines)}}}\n"
