"""A Keras model as a list of layer calls, read through Keras's public API."""

import re
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from ostinato.cells.checks import name_of
from ostinato.layers import RNN
from ostinato.models.graphs import is_graph, replay
from ostinato.nests import Nest, flatten, leaf_paths, map_leaves
from ostinato.streaming.causal import only_input, refuse
from ostinato.streaming.masks import EVERY, Origin, origin_of, output_mask
from ostinato.streaming.windows import GLOBAL_POOLS, WINDOWS, zeros_before
from ostinato.structure import map_shapes

# What Keras calls a tensor of an Input that was given no name.
_UNNAMED = re.compile(r"keras_tensor(_\d+)?")


@dataclass(frozen=True, eq=False)
class Ref:
    """A tensor of the model.

    Attributes:
        shape: Of one timestep's features.
        dtype: Its dtype.
        has_time: Whether it's (batch, timesteps, *shape), and not the last timestep's (batch,
            *shape), which a recurrent layer without `return_sequences` gives.
        zeros: How many timesteps of zeros come before the first, for the next layer's window.
    """

    shape: tuple[int, ...]
    dtype: str
    has_time: bool = True
    zeros: int = 0

    @property
    def batch_shape(self) -> tuple[int | None, ...]:
        """The shape, with the axes of batch and time."""
        return (None, None, *self.shape) if self.has_time else (None, *self.shape)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Attributes:
        layer: The layer, which isn't a model.
        path: The names of the models in the model that it is in, and its own: "inner/lstm".
        inputs: A nest of `Ref`s.
        output: The nest of what it gives, without the states of a layer with `return_state`.
        is_masked: Whether its inputs have a mask.
    """

    layer: Any
    path: str
    inputs: Nest
    output: Nest
    is_masked: bool


@dataclass(frozen=True)
class Graph:
    """A model's inputs, its calls in order, and its outputs; `Ref`s are told apart by identity.

    Attributes:
        name: The model's name.
        inputs: A nest of `Ref`s.
        names: What to call each input, in keras.tree's order.
        calls: The calls.
        outputs: A nest of `Ref`s.
    """

    name: str
    inputs: Nest
    names: tuple[str, ...]
    calls: tuple[LayerCall, ...]
    outputs: Nest

    @property
    def ids(self) -> set[int]:
        """The `id` of each `Ref` that an Embedding reads: these hold integers."""
        embeddings = [c for c in self.calls if isinstance(c.layer, keras.layers.Embedding)]
        return {id(ref) for call in embeddings for ref in flatten(call.inputs)}

    def owner_of_states(self, call: LayerCall) -> str:
        """How a stream calls a layer with states: by its name, or its path where others have that.

        A layer that is called twice in one place is one owner, of both calls' states.
        """
        name = call.layer.name
        kinds = (RNN, *WINDOWS, *GLOBAL_POOLS)
        paths = {c.path for c in self.calls if isinstance(c.layer, kinds) and c.layer.name == name}
        return name if len(paths) == 1 else call.path


def read(model: Any) -> Graph:
    """Reads a layer, a Sequential or a functional model.

    Raises:
        ValueError: if it's neither, isn't built, or can't run timestep by timestep; it names the
            layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"stream: expected a Keras model or layer, got {model!r}.")
    if hasattr(model, "state_size") and not hasattr(model, "cell"):
        raise ValueError(
            f"stream: expected a layer or a model, got {name_of(model)}, which is a cell: wrap it "
            "in RNN."
        )
    if not model.built:
        raise ValueError(
            f"stream: {name_of(model)} isn't built, so that its sizes aren't known: call it on "
            "some data first."
        )
    inputs, names = _inputs_of(model)
    reader = _Reader()
    outputs = reader.follow(model, inputs, ())
    if any(ref.zeros for ref in flatten(outputs)):
        raise ValueError(
            f"stream: {name_of(model)} gives a sequence with timesteps of zeros before it "
            "(ZeroPadding1D), and a stream gives one timestep for each that comes."
        )
    return Graph(model.name, inputs, names, tuple(reader.calls), outputs)


def _inputs_of(model: Any) -> tuple[Nest, tuple[str, ...]]:
    if not isinstance(model, keras.Model):
        dtype = "int32" if isinstance(model, keras.layers.Embedding) else model.compute_dtype
        inputs = _refs(_build_shapes(model), dtype, True, model)
        return inputs, tuple(f"x{path}" for path in leaf_paths(_symbolic(inputs)))
    if not is_graph(model):
        raise ValueError(
            f"stream: {name_of(model)} is a model with a `call` of its own, which may do anything; "
            "expected a layer, a Sequential or a functional model."
        )
    given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    for tensor in tree.flatten(given):
        if len(tensor.shape) < 2:
            raise ValueError(
                f"stream: input {tensor.name} of {name_of(model)} has no axis of timesteps, so "
                "that it can't come timestep by timestep."
            )
    names = tuple(
        f"x{path}" if _UNNAMED.fullmatch(tensor.name) else tensor.name
        for path, tensor in zip(leaf_paths(given), tree.flatten(given), strict=True)
    )
    refs = tree.map_structure(
        lambda tensor: _refs(
            tensor.shape, keras.backend.standardize_dtype(tensor.dtype), True, model
        ),
        given,
    )
    return refs, names


def _build_shapes(layer: Any) -> Nest:
    """The shapes (batch, timesteps, ...) of inputs that a layer was built for."""
    config = layer.get_build_config() or {}
    shapes = next(iter(config.get("shapes_dict", {}).values()), config.get("input_shape"))
    if shapes is None:
        raise ValueError(
            f"stream: {name_of(layer)} doesn't say for which shape it was built: expected a "
            "recurrent layer, or a model that begins with an Input."
        )
    return shapes


def _refs(shapes: Nest, dtype: str, has_time: bool, owner: Any, zeros: int = 0) -> Nest:
    """A `Ref` for each shape in a nest, (batch, ...) or (batch, timesteps, ...)."""

    def ref(shape: tuple[int | None, ...]) -> Ref:
        features = shape[2 if has_time else 1 :]
        sizes = tuple(size for size in features if size is not None)
        if len(sizes) < len(features):
            raise ValueError(
                f"stream: {name_of(owner)}: expected known sizes after batch and timesteps, got "
                f"shape {shape}."
            )
        return Ref(sizes, dtype, has_time, zeros)

    return map_shapes(ref, shapes)


def _symbolic(refs: Nest) -> Nest:
    return map_leaves(lambda ref: keras.KerasTensor((1, 1, *ref.shape), dtype=ref.dtype), refs)


class _Reader:
    """Follows a model's calls, in order."""

    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self._masks: dict[int, Origin | None] = {}  # by a ref's id

    def follow(self, layer: Any, inputs: Nest, path: tuple[str, ...]) -> Nest:
        """What a layer, or a model in a model, makes of its inputs.

        Args:
            layer: The layer.
            inputs: A nest of `Ref`s.
            path: Where it is in the outermost model, that one's name left out.
        """
        if isinstance(layer, keras.Sequential) and is_graph(layer):
            for each in layer.layers:
                inputs = self.follow(each, inputs, (*path, each.name))
            return inputs
        if is_graph(layer):
            return self._functional(layer, inputs, path)
        refs = flatten(inputs)
        refuse(layer, refs)
        result = layer.compute_output_shape(map_leaves(lambda ref: ref.batch_shape, inputs))
        if isinstance(layer, RNN) and layer.return_state:
            result = result[0]  # the states follow; they're the stream's own
        has_time = layer.return_sequences if isinstance(layer, RNN) else refs[0].has_time
        has_time = has_time and not isinstance(layer, GLOBAL_POOLS)
        output = _refs(result, layer.compute_dtype, has_time, layer, zeros_before(layer))
        masks = self._masks_of(refs)
        made = output_mask(layer, [id(ref) for ref in refs], masks)
        self._masks.update((id(ref), made) for ref in flatten(output))
        is_masked = any(mask is not None for mask in masks)
        where = "/".join(path) or layer.name
        self.calls.append(LayerCall(layer, where, inputs, output, is_masked))
        return output

    def _masks_of(self, refs: list[Ref]) -> list[Origin | None]:
        return [self._masks.get(id(ref)) for ref in refs]

    def _functional(self, model: Any, inputs: Nest, path: tuple[str, ...]) -> Nest:
        """A model of a graph: the calls of its layers and operations."""
        graph = replay(model)
        known: dict[int, Any] = dict(
            zip(map(id, tree.flatten(graph.inputs)), flatten(inputs), strict=True)
        )
        for called, args, kwargs, output in graph.calls:
            flat = tree.flatten(output)
            if isinstance(called, keras.layers.Layer):
                given, masks = only_input(called, args, kwargs)
                read = tree.map_structure(lambda tensor, by=called: _ref(known, tensor, by), given)
                self._check_masks(called, flatten(read), masks, known)
                made: list[Any] = flatten(self.follow(called, read, (*path, called.name)))
                made += [_STATE] * (len(flat) - len(made))
            else:
                origin = origin_of(called, args, lambda tensor: _found(known, tensor))
                made = [called if origin is None else origin] * len(flat)
            known.update(zip(map(id, flat), made, strict=True))
        return tree.map_structure(lambda tensor: _ref(known, tensor, model), graph.outputs)

    def _check_masks(
        self, layer: Any, inputs: list[Ref], masks: list[Any], known: dict[int, Any]
    ) -> None:
        """Refuses masks that a layer is called with and that aren't those of its inputs."""
        own = self._masks_of(inputs)
        for mask in masks:
            origin = known.get(id(mask))
            is_own = origin in own or (origin == EVERY and None in own)
            if not is_own or not isinstance(mask, keras.KerasTensor):
                raise ValueError(
                    f"stream: {name_of(layer)} is called with a mask of its own; a stream has "
                    "those of Embedding and Masking."
                )


_STATE = "a state"


def _found(known: dict[int, Any], tensor: Any) -> Any:
    """What `origin_of` wants to know of a tensor."""
    value = known.get(id(tensor))
    return id(value) if isinstance(value, Ref) else value


def _ref(known: dict[int, Any], tensor: Any, reader: Any) -> Ref:
    value = known[id(tensor)]
    if isinstance(value, Ref):
        return value
    if value is _STATE:
        raise ValueError(
            f"stream: {name_of(reader)} uses a state that a layer with return_state gives; in a "
            "stream the state is `stream.state`."
        )
    operation = f"operation {value.name!r}" if hasattr(value, "name") else "operations on a mask"
    raise ValueError(
        f"stream: {name_of(reader)} reads what {operation} makes; a stream may have layers alone "
        "(keras.layers.Add and its kind for sums)."
    )
