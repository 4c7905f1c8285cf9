"""Which models are a chain of layers, as PyTorch's modules are: for `to_torch`."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from ostinato import layers
from ostinato.cells.checks import name_of
from ostinato.models.graphs import is_graph, replay


def chain_in(model: Any) -> list[Any]:
    """The layers of a model, each of which runs over what the one before gives.

    Raises:
        ValueError: if the model computes anything else, or hands states over in another way than
            PyTorch's modules do; it names the layer.
    """
    if not is_graph(model):
        raise ValueError(
            f"to_torch: {_named(model)}: expected a layer, a Sequential or a functional model, got "
            "a model with a `call` of its own, which may do anything."
        )
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"to_torch: {_named(model)}: expected a built model, with weights, got one that "
                "isn't built: give it a keras.Input, or call it."
            )
        return list(model.layers)
    reader = _Reader(_named(model))
    outputs = reader.follow(model)
    reader.check_starts()
    reader.check_outputs(outputs)
    return reader.chain


def _named(model: Any) -> str:
    return f"model {model.name!r}"


@dataclass(frozen=True)
class _Tensor:
    """What a tensor of a graph is.

    Attributes:
        what: "input"; "row" of an input, `x[:, index]`; "output" or "state" of a layer; "stack" of
            others along axis 1; or "other".
        of: The place of the input among the inputs, or of the layer in the chain.
        index: The place of the row among the rows, or of the state among the layer's.
        parts: What is stacked.
    """

    what: str
    of: int = 0
    index: int = 0
    parts: tuple["_Tensor", ...] = ()


_OTHER = _Tensor("other")


class _Reader:
    """Follows a functional model's calls, in order, and refuses those that leave the chain."""

    def __init__(self, model: str) -> None:
        self.chain: list[Any] = []
        self._model = model
        self._sequences = _OTHER  # the input that the first layer runs over
        # By the place in the chain of each layer that may have some:
        self._starts: dict[int, list[_Tensor]] = {}  # the initial states that it's called with
        self._finals: dict[int, list[_Tensor]] = {}  # the final states that it gives
        self._known: dict[int, _Tensor] = {}  # by the id of the tensor

    def follow(self, model: Any) -> list[_Tensor]:
        """Follows the model's calls; gives its outputs."""
        graph = replay(model)
        for place, tensor in enumerate(tree.flatten(graph.inputs)):
            self._known[id(tensor)] = _Tensor("input", place)
        for called, args, kwargs, output in graph.calls:
            flat = tree.flatten(output)
            if isinstance(called, keras.layers.Layer):
                made = self._called(called, args, kwargs, len(flat))
            else:
                made = [self._computed(called, args)] * len(flat)
            self._known.update(zip(map(id, flat), made, strict=True))
        return self._read(graph.outputs)

    def _read(self, value: Any) -> list[_Tensor]:
        leaves = [leaf for leaf in tree.flatten(value) if isinstance(leaf, keras.KerasTensor)]
        return [self._known.get(id(leaf), _OTHER) for leaf in leaves]

    def _called(self, layer: Any, args: Any, kwargs: Any, count: int) -> list[_Tensor]:
        """What a layer gives, in `count` tensors."""
        where = f"{name_of(layer)} of {self._model}"
        given = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        over = self._read(next(iter(given.values()), None))
        self._check_input(over, where)
        if any(layer is each for each in self.chain):
            raise ValueError(
                f"to_torch: expected layers that are called once, but {where} is called again: a "
                "PyTorch module has other weights for each of its layers."
            )
        start = self._read(given.get("initial_state"))
        if given.get("training") or len(self._read(dict(given))) > 1 + len(start):
            raise ValueError(
                "to_torch: expected layers that are called with their inputs, and at most with "
                f"initial states, but {where} is called with a mask, constants or training=True."
            )
        self.chain.append(layer)
        place = len(self.chain)
        finals = [_Tensor("state", place, index) for index in range(count - 1)]
        if not isinstance(layer, keras.layers.Dropout):
            self._starts[place], self._finals[place] = start, finals
        return [_Tensor("output", place), *finals]

    def _check_input(self, over: list[_Tensor], where: str) -> None:
        if not self.chain and len(over) == 1 and over[0].what == "input":
            self._sequences = over[0]
        elif not self.chain or over != [_Tensor("output", len(self.chain))]:
            raise ValueError(
                f"to_torch: expected layers that run one over the other, but {where} runs over "
                "something else than the output of the one before."
            )

    def _computed(self, operation: Any, args: Sequence[Any]) -> _Tensor:
        """What an operation gives: a row of an input, or a stack; all else is no module's."""
        name, of = type(operation).__name__, self._read(args[:1])
        if name == "GetItem" and [each.what for each in of] == ["input"]:
            key = args[1]
            is_pair = isinstance(key, (list, tuple)) and len(key) == 2  # a list: from a file
            if is_pair and key[0] == slice(None) and isinstance(key[1], int):
                return _Tensor("row", of[0].of, key[1])
        if name == "Stack" and operation.axis in (1, -2):
            return _Tensor("stack", parts=tuple(of))
        return _OTHER

    def _columns(self, states: dict[int, list[_Tensor]]) -> list[list[_Tensor]]:
        """The states as PyTorch has them: all h, by layer and direction, and of an LSTM all c."""
        ways = [
            2 if isinstance(self.chain[place - 1], layers.Bidirectional) else 1 for place in states
        ]
        counts = {len(own) // way for own, way in zip(states.values(), ways, strict=True)}
        if len(counts) != 1:
            return []
        (count,) = counts
        return [
            [state for own in states.values() for state in own[index::count]]
            for index in range(count)
        ]

    def check_starts(self) -> None:
        """Refuses initial states but those that PyTorch's module takes: from outside, and all."""
        given = [state for own in self._starts.values() for state in own]
        if not given:
            return
        columns = self._columns(self._starts)
        if (
            not columns
            or len(set(given)) < len(given)
            or any(state.of == self._sequences.of for state in given)
            or not all(map(_is_from_outside, columns))
        ):
            raise ValueError(
                f"to_torch: {self._model}: expected all its recurrent layers without initial "
                "states, or each with its own that are inputs of the model, as of "
                "`from_torch(..., initial_state=True)`, got others. A PyTorch module hands no "
                "state from layer to layer."
            )

    def check_outputs(self, outputs: list[_Tensor]) -> None:
        """Refuses outputs but those of PyTorch's module: the last layer's, then final states."""
        columns = self._columns(self._finals)
        fine = [outputs[0] == _Tensor("output", len(self.chain))] + [
            each.what == "state" or (each.what == "stack" and list(each.parts) in columns)
            for each in outputs[1:]
        ]
        if not all(fine):
            raise ValueError(
                f"to_torch: {self._model}: expected it to give what its last layer gives, and "
                "after that at most final states, as of `from_torch(..., return_state=True)`, but "
                f"its output {fine.index(False)} is something else."
            )


def _is_from_outside(column: list[_Tensor]) -> bool:
    """Whether states are inputs, or the rows of one input, in order."""
    if all(state.what == "input" for state in column):
        return True
    return column == [_Tensor("row", column[0].of, index) for index in range(len(column))]
