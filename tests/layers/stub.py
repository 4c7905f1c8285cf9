"""The stub src/ostinato/layers/__init__.pyi: constructors as type checkers and editors see them.

Those of layers and cells are made from their declared arguments when the classes are, which nobody
sees who doesn't run the code. `make stub` writes the file anew.
"""

import inspect
from pathlib import Path

from ostinato import layers

PATH = Path(layers.__file__).with_suffix(".pyi")
HEAD = '''"""Constructors as they're declared; `make stub` writes this file from the classes."""

from typing import Any

from ostinato.layers.arguments import Activation, Constraint, Initializer, Regularizer
'''


def text() -> str:
    """What the file has to hold."""
    made, imports = [], []
    for name in sorted(layers.__all__):
        cls = getattr(layers, name)
        declared = "arguments" in vars(cls)
        imports.append(f"from {cls.__module__} import {name} as {'_' * declared}{name}")
        if declared:
            made.append(_class(name, cls))
    listed = ["__all__ = [", *(f'    "{name}",' for name in layers.__all__), "]"]
    return "\n".join([HEAD.rstrip(), *sorted(imports), "", *listed, "", *made])


def _class(name: str, cls: type) -> str:
    signature = inspect.signature(cls.__init__)
    lines = [f"class {name}(_{name}):", "    def __init__(", "        self,"]
    keyword_only = False
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("        *,")
        star = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = ""
        if parameter.default is not inspect.Parameter.empty:
            default = f" = {parameter.default!r}".replace("'", '"')
        lines.append(f"        {star}{parameter.name}: {parameter.annotation}{default},")
    return "\n".join([*lines, "    ) -> None: ...", ""])


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
