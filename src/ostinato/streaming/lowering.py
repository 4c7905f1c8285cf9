"""Makes a program of the native engine from a model's graph, or says why it can't."""

from typing import Any

from keras import layers

from ostinato import native
from ostinato.cells.checks import name_of
from ostinato.layers import RNN
from ostinato.nests import Nest, fill, flatten
from ostinato.streaming.causal import SEES_MASKS
from ostinato.streaming.graph import Graph, LayerCall, Ref
from ostinato.streaming.own_cells import read_cells
from ostinato.streaming.program import Builder, Port, Program, Value
from ostinato.streaming.rules import RECURRENT, RULES, Rule


def why_not(graph: Graph, heeds_forced: bool = True) -> str:
    """Why the native engine can't run a model's timesteps; "" where it can.

    Args:
        graph: The model's.
        heeds_forced: Whether the engine that is forced here and now matters.
    """
    reason = native.why_not()
    if reason is not None:
        return reason
    for call in graph.calls:
        reason = _why_not_call(call, graph, heeds_forced)
        if reason is not None:
            return f"{name_of(call.layer)}: {reason}"
    # Those that layers read have been looked at; but a model may have inputs that none reads.
    for ref, name in zip(flatten(graph.inputs), graph.names, strict=True):
        if len(ref.shape) != 1 and id(ref) not in graph.ids:
            return f"input {name}: the kernel takes timesteps of one axis of features"
    return ""


def _why_not_call(call: LayerCall, graph: Graph, heeds_forced: bool) -> str | None:
    inputs = flatten(call.inputs)
    refs = [*inputs, *flatten(call.output)]
    if not isinstance(call.layer, layers.Embedding) and any(len(ref.shape) != 1 for ref in refs):
        return "the kernel takes timesteps of one axis of features"
    if isinstance(call.layer, RNN):
        if isinstance(call.output, Ref) and len(inputs) == 1 and isinstance(call.inputs, Ref):
            cells = read_cells(call.layer, call.inputs.shape[0], heeds_forced)
            return cells if isinstance(cells, str) else None
        return "the kernel takes one tensor, and gives one"
    if type(call.layer) not in RULES:
        return f"the kernel has no {type(call.layer).__name__}"
    if isinstance(call.layer, layers.Embedding) and (reason := _why_not_ids(inputs[0], graph)):
        return reason
    if call.is_masked and isinstance(call.layer, SEES_MASKS):
        return "its inputs are masked, which changes what it gives"
    if len({ref.shape for ref in inputs}) > 1 and not isinstance(call.layer, layers.Concatenate):
        return "its inputs are broadcast"
    if len(flatten(call.output)) != 1:
        return "the kernel gives one tensor"
    return RULES[type(call.layer)].why_not(call.layer)


def _why_not_ids(ids: Ref, graph: Graph) -> str | None:
    if ids not in flatten(graph.inputs) or ids in flatten(graph.outputs):
        return "its ids are computed, or an output of the model"
    return "its ids are several a timestep" if ids.shape else None


def lower(graph: Graph) -> Program:
    """The program of a graph for which `why_not` has nothing."""
    builder = Builder(dtype_of(graph))
    ids = graph.ids
    values: dict[int, Value] = {}
    for ref in flatten(graph.inputs):
        values[id(ref)] = builder.input(0 if id(ref) in ids else ref.shape[0])
    for call in graph.calls:
        # A copy of each, as a value's mask is its reader's to change.
        read = [Value(**vars(values[id(ref)])) for ref in flatten(call.inputs)]
        (made,) = flatten(call.output)
        builder.owner = graph.owner_of_states(call)
        value = _rule(call.layer).lower(builder, call.layer, read)
        if not call.layer.supports_masking:
            value.mask = -1  # Keras drops the mask there
        values[id(made)] = value
    numbers = [values[id(ref)].number for ref in flatten(graph.outputs)]
    return Program(
        graph.name,
        builder.dtype,
        *ports_of(graph),
        tuple(numbers),
        tuple(builder.operations),
        tuple(builder.states),
        tuple(builder.weights),
        tuple(builder.routines),
    )


def _rule(layer: Any) -> Rule:
    return RECURRENT if isinstance(layer, RNN) else RULES[type(layer)]


def dtype_of(graph: Graph) -> str:
    """What a stream computes in: double where a layer does; half precision is run in single."""
    dtypes = {call.layer.compute_dtype for call in graph.calls}
    return "float64" if "float64" in dtypes else "float32"


def ports_of(graph: Graph) -> tuple[Nest, Nest]:
    """The inputs and the outputs of a graph, as nests of ports."""
    dtype, ids, outputs = dtype_of(graph), graph.ids, flatten(graph.outputs)
    inputs = [
        Port(name, ref.shape, "int32" if id(ref) in ids else dtype)
        for ref, name in zip(flatten(graph.inputs), graph.names, strict=True)
    ]
    results = [
        Port(f"y{i}", ref.shape, "int32" if id(ref) in ids else dtype)
        for i, ref in enumerate(outputs)
    ]
    return fill(graph.inputs, inputs), fill(graph.outputs, results)
