"""Calls of kernels with their shardings: the batch stays split over a mesh.

A call is an ffi_call inside custom_partitioning, or a sharded batch would be gathered. Those of the
native core's two functions are here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from ostinato.doors.jax_operation import fold as fold_one
from ostinato.signatures import Signature, Spec, batch_axis, folds, signature

Tensors = tuple[Any, ...]
Axes = list[int | None]
Operation = Callable[..., Tensors]


class Call(Protocol):
    """What can be split among devices; equal where it is, and hashable."""

    @property
    def operand_axes(self) -> Axes:
        """Of each operand which axis is the batch; None of what has none."""

    @property
    def result_axes(self) -> Axes:
        """Likewise of each result; what has none is summed over the devices."""

    @property
    def leader(self) -> int:
        """Which of operands and results is split as all are."""

    def run(self, *operands: Any) -> Tensors:
        """The results on one device."""


@dataclass(frozen=True)
class CoreCall:
    """A function of the core and its runs.

    Attributes:
        function: "forward" or "backward".
        specs: The runs.
    """

    function: str
    specs: tuple[Spec, ...]

    @property
    def _signature(self) -> Signature:
        return signature(self.function, self.specs)

    @property
    def operands(self) -> tuple[tuple[str, ...], ...]:
        """The names of each run's operands; then, for backward, `rows` as forward gave it."""
        runs = self._signature.operands
        return runs if self.function == "forward" else (*runs, ("rows",))

    @property
    def results(self) -> tuple[tuple[str, ...], ...]:
        """The names of each run's results; then, where forward trains, `rows`.

        `rows` (B,) holds how many rows the call ran on: fewer than B on a mesh that splits the
        batch. What is saved can't be split or joined, so backward has to run on as many.
        """
        runs = self._signature.results
        return (*runs, ("rows",)) if self.function == "forward" and self.trains else runs

    @property
    def operand_axes(self) -> Axes:
        """See `Call`."""
        return _batch_axes(self.operands)

    @property
    def result_axes(self) -> Axes:
        """See `Call`."""
        return _batch_axes(self.results)

    @property
    def leader(self) -> int:
        """Forward and backward are split as what one saves for the other; inference, as results."""
        names = [name for run in (*self.operands, *self.results) for name in run]
        return names.index("saved") if self.trains else len(self.operand_axes)

    def run(self, *operands: Any) -> Tensors:
        """See `Call`."""
        return _ffi_call(self, *operands)

    @property
    def trains(self) -> bool:
        """Whether the call belongs to a step with gradients."""
        return any(spec.training for spec in self.specs)

    def result_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the results, without `rows`."""
        of_core = self._signature
        runs = of_core.shapes(operands[: of_core.n_operands])
        xs = [operands[places[0]] for places in of_core.anchors]
        batches = {x.shape[0] for x in xs}
        if len(batches) != 1:
            raise ValueError(
                f"[ostinato::{self.function}] expected runs of one batch size, got {batches}."
            )
        pairs = zip(xs, runs, strict=True)
        return [jax.ShapeDtypeStruct(shape, x.dtype) for x, shapes in pairs for shape in shapes]


def _batch_axes(names: tuple[tuple[str, ...], ...]) -> Axes:
    return [0 if name == "rows" else batch_axis(name) for run in names for name in run]


def target(function: str) -> str:
    """The name that a function of the core has in XLA."""
    return f"ostinato_{function}"


def _ffi_call(call: CoreCall, *operands: Any) -> Tensors:
    run = jax.ffi.ffi_call(target(call.function), call.result_types(operands))
    results = run(*operands, spec=np.array(signature(call.function, call.specs).flat, np.int64))
    if call.function == "forward" and call.trains:
        rows = operands[0].shape[0]
        return (*results, jax.numpy.full(rows, rows, "int32"))
    return tuple(results)


# Meshes: the batch stays sharded, the weights are whole on each device, and so are the sums of
# their gradients.


@functools.cache
def partitioned(call: Call) -> Operation:
    """The call as an operation under jit and meshes, without derivatives and vmap."""
    operand_axes, result_axes, leader = call.operand_axes, call.result_axes, call.leader
    axes = (*operand_axes, *result_axes)

    def rule(mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> tuple[str, Any]:
        whole: list[str] = []
        sides = [_factors(operand_axes, operands, whole), _factors(result_axes, results, whole)]
        return " -> ".join(sides), {"need_replication_factors": tuple(whole)}

    def infer(mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> Tensors:
        first = next(i for i, axis in enumerate(operand_axes) if axis is not None)
        split = _mesh_axes(operands[first], operand_axes[first])
        return _shardings(mesh, split, result_axes, results)

    def partition(mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> tuple[Any, ...]:
        split = _mesh_axes((*operands, *results)[leader], axes[leader])

        def shard(*local: Any) -> Tensors:
            values = zip(call.run(*local), result_axes, strict=True)
            if split is None:
                return tuple(value for value, _ in values)
            return tuple(lax.psum(v, split) if batch is None else v for v, batch in values)

        wanted = _shardings(mesh, split, operand_axes, operands)
        return mesh, shard, _shardings(mesh, split, result_axes, results), wanted

    run: Any = custom_partitioning(call.run)
    run.def_partition(partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    operation: Operation = run
    return operation


def _factors(axes: Sequence[int | None], arrays: Sequence[Any], whole: list[str]) -> str:
    """One side of a sharding rule; adds the factors that must stay whole to `whole`."""
    described = []
    for batch, array in zip(axes, arrays, strict=True):
        factors = []
        for axis in range(len(array.shape)):
            if axis != batch:
                whole.append(f"w{len(whole)}")
            factors.append("b" if axis == batch else whole[-1])
        described.append(" ".join(factors))
    return ", ".join(described)


def _mesh_axes(array: Any, batch: int | None) -> Any:
    """The mesh axes that split the batch of an array, or None.

    Uneven parts aren't split: the rows that XLA pads them with would count in the weights'
    gradients.
    """
    assert batch is not None
    if not isinstance(array.sharding, NamedSharding) or len(array.sharding.spec) <= batch:
        return None
    axes = array.sharding.spec[batch]
    if axes is None:
        return None
    names = axes if isinstance(axes, tuple) else (axes,)
    parts = math.prod(array.sharding.mesh.shape[name] for name in names)
    return axes if array.shape[batch] % parts == 0 else None


def _shardings(mesh: Any, split: Any, axes: Sequence[int | None], arrays: Sequence[Any]) -> Tensors:
    """The shardings of arrays whose batch is split over the mesh axes `split`."""
    return tuple(
        NamedSharding(
            mesh,
            PartitionSpec(*(split if axis == batch else None for axis in range(len(array.shape)))),
        )
        for batch, array in zip(axes, arrays, strict=True)
    )


# vmap: the mapped axis becomes a part of the batch.


def fold(call: CoreCall, size: int, is_mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
    """Operands with the axis that vmap maps, in front, made a part of the batch.

    None where it can't be, as `folds` says.
    """
    if not folds(call.specs, call.operands, is_mapped):
        return None
    triples = zip(operands, is_mapped, call.operand_axes, strict=True)
    return tuple(fold_one(size, *triple) for triple in triples)
