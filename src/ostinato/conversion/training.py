"""What a compiled model trains with, given to its copy."""

import warnings
from typing import Any

import keras

from ostinato.cells.checks import name_of
from ostinato.conversion.optimizers import carry_knowledge, trained_by
from ostinato.conversion.values import Variables
from ostinato.models.lookups import names_used_by


def carry_compilation(operation: str, old: Any, new: Any, variables: Variables) -> None:
    """Compiles a copy as its original is compiled, with the state of the optimizer.

    Args:
        operation: Who asks, for warnings.
        old: A model, compiled or not.
        new: Its copy.
        variables: Which variable of the copy stands for which of the original.
    """
    if not old.compiled:
        return
    if _compiles_its_own_way(old):
        _warn(
            f"{operation}: {name_of(old)} has a `compile` of its own and no `compile_from_config`, "
            "so the copy isn't compiled: compile it."
        )
        return
    optimizer = getattr(old, "optimizer", None)
    config = dict(old.get_compile_config())
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        config["auto_scale_loss"] = False  # or compile would wrap it in mixed_float16
    with keras.saving.custom_object_scope(names_used_by([old.loss, old.metrics, optimizer])):
        new.compile_from_config(config)
    if optimizer is None:
        return
    if optimizer.built:
        _carry_moments(operation, old, new, variables)
    carry_knowledge(optimizer, new.optimizer, variables)


def carry_held_optimizer(old: Any, new: Any, variables: Variables) -> None:
    """Gives all that an optimizer in an attribute of a model knows to the one in the copy's.

    Args:
        old: The optimizer, built or not.
        new: One made from its config.
        variables: Which variable of the copy stands for which of the original.
    """
    if old.built:
        new.build([variables.known(variable) for variable in trained_by(old, variables)])
        for a, b in zip(old.variables, new.variables, strict=True):
            b.assign(keras.ops.copy(a.value))
    carry_knowledge(old, new, variables)


def _compiles_its_own_way(model: Any) -> bool:
    cls = type(model)
    return (
        cls.compile is not keras.Model.compile
        and cls.compile_from_config is keras.Model.compile_from_config
    )


def _carry_moments(operation: str, old: Any, new: Any, variables: Variables) -> None:
    source, target = old.optimizer, new.optimizer
    if not target.built:
        target.build(new.trainable_variables)
    state = _matched(source, target, old, new, variables)
    if state is None:
        _warn(
            f"{operation}: the optimizer of {name_of(old)} was built for other variables than it "
            "trains now, so its state isn't carried over: its moments start anew."
        )
        return
    for a, b in state:
        b.assign(keras.ops.copy(a.value))


def _matched(
    source: Any, target: Any, old: Any, new: Any, variables: Variables
) -> list[tuple[Any, Any]] | None:
    """The variables of two optimizers pairwise, or None where they don't match."""
    expected = [variables.known(variable) for variable in old.trainable_variables]
    in_order = [*map(id, expected)] == [*map(id, new.trainable_variables)]
    pairs = [*zip(source.variables, target.variables, strict=False)]
    if not in_order:
        # Keras names the state of a variable after the variable's path.
        by_path = {variable.path: variable for variable in target.variables}
        pairs = [(v, by_path[v.path]) for v in source.variables if v.path in by_path]
    counts = {len(pairs), len(source.variables), len(target.variables)}
    same_shapes = all(tuple(a.shape) == tuple(b.shape) for a, b in pairs)
    return pairs if len(counts) == 1 and same_shapes else None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)
