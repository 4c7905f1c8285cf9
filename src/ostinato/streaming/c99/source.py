"""A source file in the making: what operations ask for, each thing once."""

from collections.abc import Iterable, Sequence

import numpy as np

from ostinato.streaming.c99.functions import functions
from ostinato.streaming.c99.text import Dialect, comment, indented

# So many rows of a kernel are taken at once: z is read and written once for them.
_TOGETHER = 8


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
        self._arrays: list[str] = []
        self._products: dict[str, str] = {}
        self._bodies: list[str] = []

    def call(self, name: str) -> str:
        """A function of `functions.py`, which is in the file from now on."""
        self._called.add(name)
        return f"@{name}"

    def weight(self, values: np.ndarray) -> str:
        """The name of a constant array with these values."""
        name = f"@w{len(self._arrays)}"
        self._arrays.append(self.dialect.array(self.dialect.spelled(name), values))
        return name

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
        values = f"{self.weight(initial)}[i]" if initial.any() else "0.0f"
        self.reset.append(f"for (i = 0; i < {initial.size}; ++i) {made}[i] = {values};")
        return made

    def product(self, depth: int, columns: int) -> str:
        """The function `(x, w, z)` that adds x (depth,) times w (depth, columns) to z."""
        name = f"@product_{depth}x{columns}"
        if name not in self._products:
            self._products[name] = _product(name, depth, columns)
        return name

    def function(self, name: str, arguments: Sequence[str], lines: Iterable[str]) -> str:
        """A function of the file's own; its name."""
        head = f"\nstatic void {name}({', '.join(arguments)})\n{{\n"
        self._bodies.append(head + indented(lines) + "}\n")
        return name

    def definitions(self) -> str:
        """All that stands before `reset` and `step`, as C."""
        used = functions(self._called, self.dialect.dtype)
        parts = [*used, *self._products.values(), *self._bodies]
        arrays = "".join(f"\n{array}" for array in self._arrays)
        return arrays + "".join(self.dialect.spelled(part) for part in parts)


def _member(name: str, size: int, what: str) -> str:
    return f"REAL {name}[{size}]; /* {comment(what)} */"


def _product(name: str, depth: int, columns: int) -> str:
    """Rows of w in order, so that sums are those of a plain loop, whatever the compiler does."""
    head = (
        f"\nstatic void {name}(const REAL *RESTRICT x, const REAL *RESTRICT w, REAL *RESTRICT z)\n"
    )
    whole, rest = divmod(depth, _TOGETHER)
    lines = ["int i;"]
    if whole:
        lines = ["int k, i;", f"for (k = 0; k < {whole * _TOGETHER}; k += {_TOGETHER}) {{"]
        lines += [
            f"  {line}" for line in _rows(_TOGETHER, columns, "x[k + {}]", f"w + k * {columns}")
        ]
        lines.append("}")
    if rest:
        at = whole * _TOGETHER
        lines += [
            "{",
            *(
                f"  {line}"
                for line in _rows(rest, columns, f"x[{at} + {{}}]", f"w + {at * columns}")
            ),
            "}",
        ]
    return head + "{\n" + indented(lines) + "}\n"


def _rows(count: int, columns: int, element: str, first: str) -> list[str]:
    lines = [f"const REAL *RESTRICT v = {first};"]
    lines += [f"const REAL x{j} = {element.format(j)};" for j in range(count)]
    terms = " + ".join(f"x{j} * v[{j * columns} + i]" for j in range(count))
    return [*lines, f"for (i = 0; i < {columns}; ++i)", f"  z[i] = z[i] + {terms};"]
