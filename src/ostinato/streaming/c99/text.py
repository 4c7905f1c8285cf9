"""What C text is made of: names, numbers, comments; and the templates that the rest is written in.

A template is C in which `@name` is a symbol of the model (its prefix comes in front), REAL its
type, RESTRICT C99's keyword where the compiler has it, and numbers and libm's functions are
float's: `0.5f`, `expf`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_LIBM = (
    *("exp", "expm1", "log", "log1p", "sqrt", "erf", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "floor", "ceil", "rint", "trunc"),
    *("pow", "fmod", "atan2", "hypot", "fabs"),
)
_FLOAT_CALL = re.compile(rf"\b({'|'.join(_LIBM)})f\(")
_FLOAT_NUMBER = re.compile(r"\b(\d+\.\d*(?:e[+-]?\d+)?)f\b")
_REALS = {"float32": "float", "float64": "double"}
# Digits after the point by which a number comes back as it was.
_DIGITS = {"float32": 8, "float64": 16}
_NUMBERS_A_LINE = {"float32": 5, "float64": 4}
_INT8_A_LINE = 18


@dataclass(frozen=True)
class Dialect:
    """How one model's C is spelled.

    Attributes:
        prefix: What all its symbols begin with.
        dtype: "float32" or "float64".
    """

    prefix: str
    dtype: str

    @property
    def real(self) -> str:
        """The type of its numbers."""
        return _REALS[self.dtype]

    def spelled(self, template: str) -> str:
        """A template as C."""
        if self.dtype == "float64":
            template = _FLOAT_CALL.sub(r"\1(", template)
            template = _FLOAT_NUMBER.sub(r"\1", template)
        text = re.sub(r"\bREAL\b", self.real, template)
        text = re.sub(r"\bRESTRICT\b", f"{self.prefix}_restrict", text)
        return text.replace("@", f"{self.prefix}_")

    def number(self, value: float) -> str:
        """One number, to the bit."""
        if np.isnan(value):
            return "NAN"
        if np.isinf(value):
            return "-INFINITY" if value < 0 else "INFINITY"
        suffix = "f" if self.dtype == "float32" else ""
        return f"{value:.{_DIGITS[self.dtype]}e}{suffix}"

    def array(self, name: str, values: np.ndarray) -> str:
        """The definition of a constant array, of this type, or int8."""
        is_int8 = values.dtype == np.int8
        number = str if is_int8 else self.number
        numbers = [number(value) for value in values.reshape(-1).tolist()]
        many = _INT8_A_LINE if is_int8 else _NUMBERS_A_LINE[self.dtype]
        lines = [", ".join(numbers[i : i + many]) for i in range(0, len(numbers), many)]
        body = ",\n  ".join(lines)
        real = "int8_t" if is_int8 else self.real
        return f"static const {real} {name}[{len(numbers)}] = {{\n  {body}\n}};\n"


def comment(text: object) -> str:
    """Text that may stand in a comment: nothing in it ends one, a line, or the ASCII characters."""
    return re.sub(r"[^A-Za-z0-9 _.,:()+-]", "_", str(text))


def indented(lines: Iterable[str], by: int = 1) -> str:
    """Lines of a block."""
    return "".join(f"{'  ' * by}{line}\n" for line in lines)


# --- the name of a model in C ---------------------------------------------------------------------

# C's, to C23, and C++'s: the header is for both.
_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr
operator or or_eq private protected public register reinterpret_cast requires restrict return
short signed sizeof static static_assert static_cast struct switch template this thread_local
throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual void
volatile wchar_t while xor xor_eq
"""
# A file `math.h` beside the source would stand in the way of <math.h>.
_HEADERS = """
assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar
wchar wctype
"""


def why_no_prefix(name: str) -> str:
    """Why the symbols of a model can't begin with this; "" where they can."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is None:
        return "a C identifier begins with a letter and has letters, digits and underscores alone"
    if name in _KEYWORDS.split():
        return f"{name!r} is a keyword of C or C++"
    if name in _HEADERS.split():
        return f"<{name}.h> is a header of C's own, whose place a file of that name would take"
    if "__" in name or name.endswith("_"):
        return "names with two underscores side by side are the compiler's"
    return ""
