"""A mutant in the place of live functions: their code is swapped, and no module imported anew."""

import gc
import inspect
import types


class OutsideFunctionsError(Exception):
    """What differs runs at import: it would have to be imported anew."""


def _key(code):
    return code.co_filename, code.co_qualname, code.co_firstlineno


def live_functions(folder: str) -> dict:
    """Each function that there is of a folder's files, by where its code is from."""
    found = {}
    for each in gc.get_objects():
        if type(each) is types.FunctionType and each.__code__.co_filename.startswith(folder):
            found.setdefault(_key(each.__code__), []).append(each)
    return found


def _inner(code):
    return [const for const in code.co_consts if isinstance(const, types.CodeType)]


def _differing(old, new):
    """The pairs of functions' code, of two versions of a module, that aren't the same."""
    if old == new:
        return
    inner = _inner(old), _inner(new)
    if len(inner[0]) != len(inner[1]):
        raise OutsideFunctionsError
    at_import = not old.co_flags & inspect.CO_NEWLOCALS  # a module, or a class's body
    if at_import and _apart_from_inner(old) != _apart_from_inner(new):
        raise OutsideFunctionsError
    if not at_import:
        yield old, new
    for pair in zip(*inner, strict=True):
        yield from _differing(*pair)


def _apart_from_inner(code):
    consts = [const for const in code.co_consts if not isinstance(const, types.CodeType)]
    return code.co_code, code.co_names, [*map(repr, consts)]


def swap(live: dict, old, new) -> int:
    """Gives live functions the new version's code; how many.

    `old` and `new` are the code of a module.
    """
    count = 0
    for before, after in _differing(old, new):
        for function in live.get(_key(before), ()):
            if function.__code__ == before:
                if len(before.co_freevars) != len(after.co_freevars):
                    raise OutsideFunctionsError
                function.__code__ = after
                count += 1
    return count
