"""Shows mkdocstrings the constructors that our layers and cells declare by their `arguments`.

Griffe reads sources and imports nothing, so it doesn't see a signature that is made when the class
is. This extension makes it from the same declarations, by the same code of
src/ostinato/layers/arguments.py, with a stand-in for Keras: the site needs no backend.
"""

import ast
import importlib.util
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import griffe

# A section that docstring parsers don't know, and would run together into one paragraph.
CALL_ARGUMENTS = re.compile(r"^Call arguments:\n(?P<lines>(?:    .*\n)+)", re.MULTILINE)
SOURCE = Path(__file__).resolve().parents[1] / "src" / "ostinato" / "layers" / "arguments.py"


class DeclaredArguments(griffe.Extension):
    """Gives each class that lists `arguments` its real signature and docstring."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Replaces both; a class that declares nothing stays as it is."""
        declared = cls.members.get("arguments")
        if not isinstance(declared, griffe.Attribute) or str(declared.value) in ("None", "()"):
            return
        names = _names(cls.filepath)
        arguments = eval(str(declared.value), names)
        doc = declarations()._documented(cls.docstring.value, arguments)
        cls.docstring.value = CALL_ARGUMENTS.sub(_listed, doc)
        signature = declarations()._constructor(cls.name, arguments).__signature__
        cls.set_member("__init__", _constructor(cls, signature))
        cls.del_member("arguments")


@cache
def declarations() -> ModuleType:
    """The module `ostinato.layers.arguments`, without Keras."""
    spec = importlib.util.spec_from_file_location("declared_arguments", SOURCE)
    module = importlib.util.module_from_spec(spec)
    strangers = {name: mock.MagicMock() for name in ("keras", "ostinato", "ostinato.structure")}
    with mock.patch.dict(sys.modules, {**strangers, spec.name: module}):
        spec.loader.exec_module(module)
    return module


@cache
def _names(path: Path) -> dict[str, Any]:
    """What a module's `arguments` may name: those declared for all, and those in the module."""
    names = dict(vars(declarations()))
    exec("from dataclasses import replace", names)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and _declares(node.value):
            exec(ast.unparse(node), names)
    return names


def _declares(value: ast.expr) -> bool:
    return ast.unparse(value).startswith(("Argument(", "flag("))


def _listed(section: re.Match[str]) -> str:
    """A section's arguments as a Markdown list."""
    items = re.sub(r"^    (\w+): ", r"- **`\1`**: ", section["lines"], flags=re.MULTILINE)
    return f"**Call arguments:**\n\n{re.sub(r'^    +', '    ', items, flags=re.MULTILINE)}"


def _constructor(cls: griffe.Class, signature: inspect.Signature) -> griffe.Function:
    parameters = [
        griffe.Parameter(
            parameter.name,
            annotation=None if parameter.annotation is parameter.empty else parameter.annotation,
            kind=griffe.ParameterKind(parameter.kind.description),
            default=None if parameter.default is parameter.empty else repr(parameter.default),
        )
        for parameter in signature.parameters.values()
    ]
    return griffe.Function(
        "__init__", parameters=griffe.Parameters(*parameters), lineno=cls.lineno, parent=cls
    )
