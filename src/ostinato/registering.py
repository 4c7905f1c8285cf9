"""Makes our layers known to Keras as soon as there is Keras in the process, and no sooner.

A `.keras` file with our layers loads after `import ostinato` only if they're registered; but to
register them Keras has to be imported, with a backend that takes seconds, which a program that only
runs a saved stream (`ostinato.Stream.load`) has no use for, and maybe doesn't have.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def once_keras_is_imported(function: Callable[[], object]) -> None:
    """Calls a function when Keras has been imported: now, if it has been, or right after it is."""
    if sys.modules.get("keras") is not None:
        function()
    else:
        _Watch(function).wait()


class _Watch(MetaPathFinder):
    """Finds nothing by itself; puts the call behind the import of Keras."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Keras's spec, with a loader that makes the call."""
        if name != "keras":
            return None
        sys.meta_path.remove(self)  # the others look for it
        spec = importlib.util.find_spec(name)
        self.wait()  # this may be a look alone, or an import that fails
        if spec is not None and spec.loader is not None:
            spec.loader = _Calling(spec.loader, self)
        return spec

    def wait(self) -> None:
        """Waits for an import that succeeds."""
        sys.meta_path.insert(0, self)

    def done(self) -> None:
        """Makes the call, and waits no more."""
        sys.meta_path.remove(self)
        self._function()


class _Calling(Loader):
    """A loader that tells a watch of its work, and leaves no trace on the module."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does; then the call."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._watch.done()
