"""What an optimizer holds about each variable that it trains, given to the optimizer of a copy.

No config has it: what is excluded from weight decay, say, or a table in an optimizer of the user's.
It is recognised by what it holds, a variable or the key by which Keras's optimizers know one, and
not by an attribute's name. Moments aren't meant here: they are variables of the optimizer's own.
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from ostinato.conversion.values import Variables
from ostinato.models.lookups import by_config
from ostinato.nests import is_namedtuple

_PLAIN = (type(None), bool, int, float, complex, str, bytes, re.Pattern, types.FunctionType, type)
_SIZED = (list, tuple, set, frozenset, Mapping)
_MISSING = object()


def carry_knowledge(source: Any, target: Any, variables: Variables) -> None:
    """Gives an optimizer what another one holds about variables, and what else its config lacks.

    Args:
        source: An optimizer; the optimizers inside of it are carried, too.
        target: One made from its config, and built if the source is.
        variables: Which variable of the target's model stands for which of the source's.
    """
    keys = _keys(variables)
    for old, new in _with_inner(source, target, set()):
        fresh = _fresh(old)
        for name, value in vars(old).items():
            if not _is_made_again(name, fresh, new):
                shares = isinstance(vars(new).get(name), _PLAIN)  # no object of the target's own
                known = _translated(value, keys, variables, shares)
                if known is not _MISSING:
                    setattr(new, name, known)


def trained_by(optimizer: Any, variables: Variables) -> list[Any]:
    """The variables of an original model that an optimizer was built for, in its order.

    Keras has no public list of them: it's the longest of the lists of such variables in it.
    """
    lists = [value for value in vars(optimizer).values() if isinstance(value, list)]
    ours = [found for found in lists if all(variables.known(one) is not None for one in found)]
    return max(ours, key=lambda found: len(found), default=[])


def _keys(variables: Variables) -> dict[Any, Any]:
    """Of each variable's key in an optimizer's sets and dicts, the key of what stands for it.

    Which key that is differs among backends, so an optimizer is asked: it excludes one variable.
    """
    probe = keras.optimizers.SGD()
    stays = (
        keras.config.backend() != "jax"
    )  # a variable's tensor, which TensorFlow's update_step gets

    def keys(variable: Any) -> list[Any]:
        probe.exclude_from_weight_decay(var_list=[variable])
        (key,) = next(value for value in vars(probe).values() if isinstance(value, set) and value)
        return [id(variable), key, *([id(variable.value)] if stays else [])]

    return {
        old: new for pair in variables.pairs() for old, new in zip(*map(keys, pair), strict=True)
    }


def _with_inner(source: Any, target: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Two optimizers, and those inside of them, pairwise."""
    if id(source) in seen:
        return
    seen.add(id(source))
    yield source, target
    for name, value in vars(source).items():
        pairs = zip(_optimizers(value), _optimizers(vars(target).get(name)), strict=False)
        for old, new in pairs:
            yield from _with_inner(old, new, seen)


def _optimizers(value: Any) -> list[Any]:
    if isinstance(value, keras.optimizers.Optimizer):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    return [one for item in value for one in _optimizers(item)]


def _fresh(optimizer: Any) -> dict[str, Any]:
    """What such an optimizer holds before it's built; nothing where no config makes another."""
    try:
        fresh: dict[str, Any] = vars(by_config(optimizer))
    except (NotImplementedError, TypeError, ValueError):
        return {}
    return fresh


def _is_made_again(name: str, fresh: Mapping[str, Any], new: Any) -> bool:
    """Whether an attribute is what an optimizer's own `build` has set or filled."""
    if name not in vars(new):
        return False
    before, after = fresh.get(name, _MISSING), vars(new)[name]
    if isinstance(before, _SIZED) and isinstance(after, _SIZED):
        return len(before) != len(after)
    return before is _MISSING or (isinstance(before, _PLAIN) and before != after)


def _translated(value: Any, keys: Mapping[Any, Any], variables: Variables, shares: bool) -> Any:
    """A value that speaks of the target's variables; _MISSING where it holds what can't be shared.

    Args:
        value: What an attribute of the source holds.
        keys: As of `_keys`.
        variables: As of `carry_knowledge`.
        shares: Whether other objects are given on as they are.
    """

    def again(item: Any) -> Any:
        return _translated(item, keys, variables, shares)

    if isinstance(value, keras.Variable):
        known = variables.known(value)
        return _MISSING if known is None else known
    if isinstance(value, (int, str)):
        return keys.get(value, value)
    if isinstance(value, Mapping):
        table = {again(key): again(item) for key, item in value.items()}
        return table if _all_known([*table, *table.values()]) else _MISSING
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [again(item) for item in value]
        if not _all_known(items):
            return _MISSING
        kind = next(k for k in (list, tuple, frozenset, set) if isinstance(value, k))
        return type(value)(*items) if is_namedtuple(value) else kind(items)
    is_optimizer = isinstance(value, keras.optimizers.Optimizer)
    return value if isinstance(value, _PLAIN) or (shares and not is_optimizer) else _MISSING


def _all_known(items: Iterable[Any]) -> bool:
    return all(item is not _MISSING for item in items)
