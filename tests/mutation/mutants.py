"""Every change that Cosmic Ray would make in a file, and its text with one of them.

Left out are those that say nothing by their kind:

- in annotations, which nothing reads;
- `is` for `==` of the same sense, and back; `<` and its like for `is`, which None doesn't have;
- of an arithmetic operator all but two others: the rest fail by their types wherever those do;
- `strict=False` of a zip, which is there to stop what doesn't happen.
"""

import collections
import functools
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "ostinato"
# What takes the place of an arithmetic operator: what's likeliest to be typed, and to pass.
OTHERS = {
    "Add": ("Sub", "Mul"),
    "Sub": ("Add", "Mul"),
    "Mul": ("Add", "FloorDiv"),
    "Div": ("Mul", "FloorDiv"),
    "FloorDiv": ("Mul", "Mod"),
    "Mod": ("FloorDiv", "Mul"),
    "Pow": ("Mul", "Add"),
    "BitOr": ("BitAnd", "BitXor"),
    "BitAnd": ("BitOr", "BitXor"),
    "BitXor": ("BitOr", "BitAnd"),
    "LShift": ("RShift", "Mul"),
    "RShift": ("LShift", "FloorDiv"),
}
SAME_SENSE = {("Is", "Eq"), ("IsNot", "NotEq"), ("Eq", "Is"), ("NotEq", "IsNot")}
OF_ORDER = ("Lt", "LtE", "Gt", "GtE")


@dataclass(frozen=True)
class Mutant:
    """A place of an operator's in one of a file's statements."""

    file: str  # within the package
    statement: int
    operator: str
    place: int
    line: int

    @property
    def key(self) -> str:
        return f"{self.file}:{self.statement}:{self.operator}:{self.place}"


@functools.cache
def statements(file: str) -> tuple[str, ...]:
    """The text of a file, a piece a statement: of one alone a tree is quickly made."""
    from cosmic_ray.ast import get_ast

    text = (PACKAGE / file).read_text(encoding="utf-8")
    pieces = tuple(node.get_code() for node in get_ast(text).children)
    assert "".join(pieces) == text
    return pieces


def mutated(mutant: Mutant) -> str | None:
    """The file's text with one change, or None: `except (a.b, c)` is more than Cosmic Ray knows."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    pieces = [*statements(mutant.file)]
    operator = plugins.get_operator(mutant.operator)()
    try:
        pieces[mutant.statement] = mutate_code(pieces[mutant.statement], operator, mutant.place)
    except AttributeError:
        return None
    return "".join(pieces)


@functools.cache
def _operators():
    from cosmic_ray import plugins

    every = ((name, plugins.get_operator(name)) for name in plugins.operator_names())
    return tuple((name, operator()) for name, operator in every if not operator.arguments())


def mutants_of(file: str, left_out: collections.Counter) -> list[Mutant]:
    """Every change of a file that says something; of the others how many, by why."""
    from cosmic_ray.ast import ast_nodes, get_ast

    found, first = [], 1
    for number, piece in enumerate(statements(file)):
        counts = collections.Counter()
        for node in ast_nodes(get_ast(piece)):
            for name, operator in _operators():
                for position in operator.mutation_positions(node):
                    place, counts[name] = counts[name], counts[name] + 1
                    if why := _why_not(node, name.rpartition("/")[2]):
                        left_out[why] += 1
                    else:
                        line = first + position[0][0] - 1
                        found.append(Mutant(file, number, name, place, line))
        first += piece.count("\n")
    return found


def _why_not(node, operator: str) -> str | None:
    """Why a change would say nothing."""
    if _in_annotation(node):
        return "in an annotation"
    if operator == "ReplaceTrueWithFalse" and node.parent.get_code().strip() == "strict=True":
        return "strict=False"
    kind, *sides = operator.split("_")
    if kind == "ReplaceBinaryOperator" and sides[1] not in OTHERS[sides[0]]:
        return "a third arithmetic operator"
    if kind == "ReplaceComparisonOperator":
        before, after = sides
        if (before, after) in SAME_SENSE:
            return "a comparison of the same sense"
        if before in ("Is", "IsNot") and after in OF_ORDER:
            return "an order of None"
    return None


def _in_annotation(node) -> bool:
    """Whether a node stands in the annotation of an argument, a result or a variable."""
    while (parent := node.parent) is not None:
        at = {"tfpdef": 2, "annassign": 1}.get(parent.type)
        if at is not None and node is parent.children[at]:
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        node = parent
    return False
