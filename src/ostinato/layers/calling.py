"""How a cell is called in the loop: the built-in ones lean, any other one through its contract."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops, tree

from ostinato.engines.scan import Recurrence, Tensors
from ostinato.layers.cell import Cell
from ostinato.layers.checks import agree, name_of, read_states, shape_of
from ostinato.structure import (
    Shape,
    Structure,
    describe,
    leaf_paths,
    leaves,
    map_leaves,
    map_shapes,
    repack,
    sizes,
)

Tensor = Any


def state_sizes(cell: Any) -> Structure:
    """A cell's states as a structure of `Shape`s; a single state becomes a list of one."""
    read = sizes(cell.state_size, f"state_size of {name_of(cell)}")
    return [read] if isinstance(read, Shape) else read


def output_sizes(cell: Any) -> Structure | None:
    """A cell's outputs as a structure of `Shape`s, or None where it has no `output_size`."""
    declared = getattr(cell, "output_size", None)
    return None if declared is None else sizes(declared, f"output_size of {name_of(cell)}")


def call_method(cell: Any) -> Callable[..., Any]:
    """The method that holds a cell's mathematics: `call`, or `__call__` of a plain object."""
    method: Callable[..., Any] = getattr(cell, "call", None) or cell.__call__
    return method


def takes(cell: Any, argument: str) -> bool:
    """Whether a cell's `call` takes a keyword argument, by name or through **kwargs."""
    parameters = parameters_of(call_method(cell))
    return argument in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def takes_states(cell: Any) -> bool:
    """Whether a cell's `call` takes inputs and states by position."""
    method = call_method(cell)
    parameters = list(parameters_of(method).values())[1 if hasattr(method, "__func__") else 0 :]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = ("training", "mask", "constants")
    count = sum(p.kind in by_position and p.name not in others for p in parameters)
    return count >= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def parameters_of(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a method or function; remembered, as a look costs 40 us."""
    return _parameters(getattr(method, "__func__", method))


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def initial_states(cell: Any, batch_size: Any, dtype: str) -> Structure:
    """The states that a cell starts from: its own `get_initial_state`, or zeros.

    Args:
        cell: The cell.
        batch_size: B, an int or a scalar tensor.
        dtype: The dtype of the zeros, where the cell has no compute dtype of its own.

    Returns:
        Tensors (B, ...) in the containers of the cell's `state_size`, a single one in a list.
    """
    if getattr(type(cell), "get_initial_state", None) is Cell.get_initial_state:
        return cell.get_initial_state(batch_size)  # zeros that need no check
    expected = state_sizes(cell)
    own = getattr(cell, "get_initial_state", None)
    if own is None:
        dtype = getattr(cell, "compute_dtype", dtype)
        return tree.map_structure(
            lambda size: ops.zeros((batch_size, *size), dtype=dtype), expected
        )
    # Keras 2 called it with inputs, batch_size and dtype; cells written for it may insist.
    parameters = parameters_of(own)
    keywords = {"batch_size": batch_size, "inputs": None, "dtype": dtype}
    given = {name: value for name, value in keywords.items() if name in parameters}
    known = batch_size if isinstance(batch_size, int) else None
    return read_states(name_of(cell), "get_initial_state", own(**given), expected, known)


def build_cell(cell: Any, input_shape: Structure, dtype: str) -> None:
    """Builds a cell, if it's a layer and not built yet, for one timestep's inputs (B, ...)."""
    if not isinstance(cell, keras.layers.Layer) or cell.built:
        return
    if type(cell).build is keras.layers.Layer.build and _has_unbuilt_layers(cell):
        if _needs_constants(cell):
            raise ValueError(
                f"{name_of(cell)}: expected a `build` that builds its layers; they can't be built "
                "by a symbolic run, since its `call` needs constants."
            )
        # No build of its own: a symbolic run builds the layers that its call uses. In the loop
        # it would be too late, since JAX can't create variables inside a scan.
        traced_output(cell, input_shape)
    cell.build(input_shape)
    cell.built = True


def _has_unbuilt_layers(cell: Any) -> bool:
    held = [
        item
        for value in vars(cell).values()
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return any(isinstance(item, keras.layers.Layer) and not item.built for item in held)


def traced_output(cell: Any, input_shape: Structure) -> Structure:
    """A cell's output of one symbolic timestep, from a symbolic run."""
    dtype = cell.compute_dtype
    batch_size = _leaves(input_shape)[0][0]
    inputs = map_shapes(lambda shape: keras.KerasTensor(shape, dtype=dtype), input_shape)
    states = tree.map_structure(
        lambda size: keras.KerasTensor((batch_size, *size), dtype=dtype), state_sizes(cell)
    )
    result = keras.layers.Layer.compute_output_spec(cell, inputs, states)
    output, _ = output_and_states(name_of(cell), cell, result)
    for path, leaf in zip(leaf_paths(output), tree.flatten(output), strict=True):
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                f"{name_of(cell)}: expected `call` to return output{path} of shape (batch, ...), "
                f"got {describe(leaf)}."
            )
    return output


def output_and_states(owner: str, cell: Any, result: Any) -> tuple[Any, Any]:
    """What a cell's `call` returned, as the two that it has to be."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ValueError(
            f"{owner}: `call` of {name_of(cell)} must return (output, new_states), got "
            f"{describe(result)}."
        )
    return result[0], result[1]


def output_shapes(cell: Any, input_shape: Structure) -> Structure:
    """The shapes (B, ...) of a cell's outputs of one timestep, in their containers.

    A cell without an `output_size` puts out what a symbolic run shows, if it's a layer, and else
    something like its first state.
    """
    batch_size = _leaves(input_shape)[0][0]
    declared = output_sizes(cell)
    is_built = isinstance(cell, keras.layers.Layer) and cell.built
    if declared is None and is_built and not _needs_constants(cell):
        return tree.map_structure(shape_of, traced_output(cell, input_shape))
    if declared is None:
        declared = first_state_size(cell)
    return tree.map_structure(lambda size: (batch_size, *size), declared)


def first_state_size(cell: Any) -> Shape:
    """What a cell without an `output_size` puts out, by Keras's rule."""
    states: list[Shape] = tree.flatten(state_sizes(cell))
    if not states:
        raise ValueError(
            f"{name_of(cell)}: expected an `output_size`, since it has no state that its output "
            "could be like."
        )
    return states[0]


def _needs_constants(cell: Any) -> bool:
    parameter = parameters_of(call_method(cell)).get("constants")
    return parameter is not None and parameter.default is parameter.empty


def _leaves(shapes: Structure) -> list[Any]:
    return [tensor.shape for tensor in tree.flatten(map_shapes(keras.KerasTensor, shapes))]


@dataclass(frozen=True)
class Call:
    """What a call of a layer gives to each of its cells.

    Attributes:
        training: Whether to apply dropout.
        constants: The list passed to the cell's `call` by keyword, or None.
        owner: The layer, for errors.
        dtype: What outputs are cast to.
    """

    training: bool
    constants: list[Any] | None
    owner: str
    dtype: str


def make_ready(
    cell: Any, xs: Structure, states: Structure, call: Call
) -> tuple[Recurrence, Structure]:
    """Makes a cell ready to run over a sequence.

    Args:
        cell: The cell, built.
        xs: Its inputs, time-major (T, B, ...), in the order of the run.
        states: Its initial states, in the containers of its `state_size`.
        call: What the call gives.

    Returns:
        The recurrence, and the containers in which to return its outputs.
    """
    check_constants(cell, call)
    if isinstance(cell, Cell) and is_ours(call_method(cell)):
        return _lean(cell, xs, states, call.training), 0
    contract = _Contract(cell, states, call)
    draw_foreign_masks(cell, xs, states)
    outputs = contract.outputs_like(xs)
    is_layer = isinstance(cell, keras.layers.Layer)
    recurrence = Recurrence(
        contract.flat_step(xs, outputs),
        tuple(tree.flatten(xs)),
        tuple(tree.flatten(states)),
        tuple(tree.flatten(outputs)),
        variables=tuple(cell.non_trainable_variables) if is_layer else (),
    )
    return recurrence, outputs


def check_constants(cell: Any, call: Call) -> None:
    """Refuses constants for a cell that has no place for them."""
    if call.constants is not None and not takes(cell, "constants"):
        raise ValueError(
            f"{call.owner}: constants were given, but `call` of {name_of(cell)} takes no "
            "`constants` argument."
        )


def draw_foreign_masks(cell: Any, xs: Structure, states: Structure) -> None:
    """Lets a cell that mixes in Keras's dropout draw its masks afresh, outside the loop."""
    if forget_foreign_masks(cell):
        cell.get_dropout_mask(tree.map_structure(lambda x: x[0], xs))
        cell.get_recurrent_dropout_mask(tree.flatten(states)[0])


def forget_foreign_masks(cell: Any) -> bool:
    """Makes such a cell drop the masks that it keeps; says whether it is one."""
    keeps = hasattr(cell, "get_dropout_mask") and hasattr(cell, "reset_dropout_mask")
    if keeps:
        cell.reset_dropout_mask()
        cell.reset_recurrent_dropout_mask()
    return keeps


def float_or_own(tensor: Tensor, dtype: str) -> str:
    """A dtype for tensors of floats, and a tensor's own for one of ints or booleans."""
    own: str = keras.backend.standardize_dtype(tensor.dtype)
    return dtype if "float" in own else own


def to_dtype(tensor: Tensor, dtype: str) -> Tensor:
    """A tensor in a dtype; in no time where it has it (ops.cast takes 5 us on PyTorch)."""
    if not ops.is_tensor(tensor):
        tensor = ops.convert_to_tensor(tensor)
    own: str = keras.backend.standardize_dtype(tensor.dtype)
    return tensor if own == dtype else ops.cast(tensor, dtype)


def cast_floats(structure: Structure, dtype: str) -> Structure:
    """A structure of tensors with those of floats in a dtype."""

    def cast(tensor: Tensor) -> Tensor:
        tensor = tensor if ops.is_tensor(tensor) else ops.convert_to_tensor(tensor)
        return to_dtype(tensor, float_or_own(tensor, dtype))

    return map_leaves(cast, structure)


def size_of(tensor: Tensor, axis: int) -> Any:
    """The size of an axis, an int where it's known."""
    known = tensor.shape[axis]
    return ops.shape(tensor)[axis] if known is None else known


def is_ours(method: Any) -> bool:
    """Whether a built-in cell's method is the one it came with, and not a subclass's own."""
    module: str = method.__module__
    return module.partition(".")[0] == __package__.partition(".")[0]


def _lean(cell: Cell, xs: Tensor, states: Structure, training: bool) -> Recurrence:
    """A built-in cell: its masks drawn and its weights read once, before the loop."""
    masks = cell.draw_masks(ops.shape(xs)[1], xs.shape[-1], training)
    recurrence = cell.recurrence(masks)
    xs = ops.cast(xs, cell.compute_dtype)

    def step(x: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        output, new = recurrence(x[0], states)
        return (output,), new

    flat = tuple(leaves(states))
    return Recurrence(step, (xs,), flat, flat[:1], cell.projection(masks))


class _Contract:
    """The contract of any cell: `call(inputs, states) -> (output, new_states)`, and its checks."""

    def __init__(self, cell: Any, states: Structure, call: Call) -> None:
        self._cell, self._states = cell, states
        self._owner, self._dtype = call.owner, call.dtype
        self._keywords: dict[str, Any] = {}
        if takes(cell, "training"):
            self._keywords["training"] = call.training
        if call.constants is not None:
            self._keywords["constants"] = call.constants
        self._call = cell if isinstance(cell, keras.layers.Layer) else call_method(cell)

    def outputs_like(self, xs: Structure) -> Structure:
        """Zeros like one timestep's outputs; a cell that doesn't declare its size is run once."""
        declared = output_sizes(self._cell)
        if declared is None:
            first = tree.map_structure(lambda x: x[0], xs)
            output, _ = self._pair(self._call(first, self._states, **self._keywords))
            self._check_tensors("output", output)
            return tree.map_structure(ops.zeros_like, cast_floats(output, self._dtype))
        batch_size = ops.shape(tree.flatten(xs)[0])[1]
        return tree.map_structure(
            lambda size: ops.zeros((batch_size, *size), dtype=self._dtype), declared
        )

    def flat_step(self, xs: Structure, outputs: Structure) -> Any:
        """The cell as a step on flat tuples. Its first run checks what the cell returns."""
        checked, like = False, tree.flatten(outputs)

        def step(x: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
            nonlocal checked
            packed = tree.pack_sequence_as(xs, x), tree.pack_sequence_as(self._states, states)
            output, new = self._pair(self._call(*packed, **self._keywords))
            flat_output = self._fit("output", "output_size", outputs, output, checked)
            flat_new = self._fit("new state", "state_size", self._states, new, checked)
            checked = True
            return _cast_like(flat_output, like), _cast_like(flat_new, states)

        return step

    def _pair(self, result: Any) -> tuple[Any, Any]:
        return output_and_states(self._owner, self._cell, result)

    def _fit(
        self, what: str, attribute: str, like: Structure, value: Structure, checked: bool
    ) -> list[Any]:
        """The leaves of what the cell returned, in the order of the declared structure."""
        fitted = repack(like, value)
        if fitted is None:
            raise ValueError(
                f"{self._owner}: {name_of(self._cell)} returned {what}s {describe(value)}, which "
                f"don't match its {attribute} {describe(like)}."
            )
        flat: list[Any] = tree.flatten(fitted)
        if not checked:
            self._check_tensors(what, fitted)
            for path, leaf, wanted in zip(leaf_paths(like), flat, tree.flatten(like), strict=True):
                if not agree(shape_of(leaf), shape_of(wanted)):
                    raise ValueError(
                        f"{self._owner}: {name_of(self._cell)} returned {what}{path} of shape "
                        f"{tuple(leaf.shape)}, but its {attribute} says {tuple(wanted.shape)}."
                    )
        return flat

    def _check_tensors(self, what: str, value: Structure) -> None:
        for path, leaf in zip(leaf_paths(value), tree.flatten(value), strict=True):
            if not hasattr(leaf, "shape"):
                raise ValueError(
                    f"{self._owner}: expected {name_of(self._cell)} to return {what}{path} as a "
                    f"tensor, got {describe(leaf)}."
                )


def _cast_like(values: Iterable[Tensor], like: Iterable[Tensor]) -> Tensors:
    return tuple(ops.cast(value, old.dtype) for value, old in zip(values, like, strict=True))
