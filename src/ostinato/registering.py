"""Makes our layers known to Keras as soon as there is Keras in the process, and no sooner.

A `.keras` file with our layers loads after `import ostinato` only if they're registered; but to
register them Keras has to be imported, with a backend that takes seconds, which a program that only
runs a saved stream (`ostinato.Stream.load`) has no use for, and maybe doesn't have. Keras itself
imports no module that a file names, unless it's one of Keras's own.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ostinato import backend


def once_keras_is_imported(function: Callable[[], object]) -> None:
    """Calls a function when Keras has been imported: now, if it has been, or right after it is."""
    if sys.modules.get("keras") is not None:
        function()
    else:
        sys.meta_path.insert(0, _Watch(function))


class _Watch(MetaPathFinder):
    """Finds nothing by itself; puts a call behind the import of Keras."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Keras's spec, whose loader makes the call when it has done its work."""
        if name != "keras":
            return None
        sys.meta_path.remove(self)  # the others look for it
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # this may be a look alone, or an import that fails
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's own is back
            try:
                loader.exec_module(module)
            except ImportError:
                backend.require()  # for want of a backend: says what to do
                raise
            sys.meta_path.remove(self)
            self._function()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
