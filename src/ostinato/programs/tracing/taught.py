"""Functions and methods of Keras's that are others while a cell is traced, in its thread alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NOTHING = object()
_lock = threading.Lock()


class Taught:
    """One attribute of a module or class of Keras's, and what it is in a thread that traces.

    Args:
        owner: The module or class.
        name: The attribute.
        other: Made of the attribute as it is: what to have in its place. None for None, which every
            thread sees.
        is_property: Whether the method becomes a property there.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        other: Callable[..., Any] | None,
        is_property: bool = False,
    ) -> None:
        self._owner, self._name, self._other = owner, name, other
        self._is_property = is_property
        self._own: Any = None
        self._depth = 0
        self._local = threading.local()

    @contextmanager
    def used(self) -> Iterator[None]:
        """While inside, this thread sees the other one."""
        with _lock:
            if self._depth == 0:
                self._put()
            self._depth += 1
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1
            with _lock:
                self._depth -= 1
                if self._depth == 0:
                    self._take_back()

    def _put(self) -> None:
        self._own = vars(self._owner).get(self._name, _NOTHING)
        if self._other is None:
            setattr(self._owner, self._name, None)
            return
        own: Any = getattr(self._owner, self._name)
        is_property = isinstance(own, property) or self._is_property
        own = own.fget if isinstance(own, property) else own
        other = self._other(own)

        def either(*args: Any, **kwargs: Any) -> Any:
            is_tracing = getattr(self._local, "depth", 0) > 0
            if self._is_property and not is_tracing:
                return own.__get__(*args)
            return (other if is_tracing else own)(*args, **kwargs)

        setattr(self._owner, self._name, property(either) if is_property else either)

    def _take_back(self) -> None:
        if self._own is _NOTHING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)
