"""A call to which Keras's `Layer.__call__` would add nothing, without it.

It looks at arguments and contexts, for 105 us on PyTorch, where a call is run as it's made: more
than all of Ostinato's own Python. With it torch.nn.LSTM's inference at S took 0.93 of ours.
Elsewhere calls are compiled, and pay it once.
"""

import functools
from typing import Any

import keras

from ostinato.cells.builtin import is_int8, is_ours, why_not_builtin
from ostinato.doors import door, remembered
from ostinato.tensors import dtype_name

# Of a tensor's attributes the mask, as Keras's guide on masking shows it.
_MASK = "_keras_mask"
_CALLED_BY_KERAS = ("call", "compute_mask")  # as functions of one layer's own


def is_direct(layer: Any, given: Any, keywords: dict[str, Any]) -> bool:
    """Whether all that Keras would do before and after the `call` of a layer comes to nothing.

    That is to convert the inputs, to build, to set the dtype that variables are read in, to lay out
    the outputs over devices, to record losses, and to tell whatever else is called whether it's
    training: hooks, layers in a user's function, those after this one. Masks are fetched and passed
    on by `call_directly`.

    Args:
        layer: A layer whose `input_spec` its class has as `_rnn_input_spec`.
        given: The only positional argument of the call.
        keywords: The others.
    """
    if not (door.is_bare(given) and layer.built and _is_ours_alone(type(layer))):
        return False
    spec = layer.input_spec
    return (
        spec is type(layer)._rnn_input_spec
        and (spec is None or len(given.shape) == spec.ndim)
        and layer.activity_regularizer is None
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and vars(layer).keys().isdisjoint(_CALLED_BY_KERAS)
        and _trains_as_it_infers(layer.cell)
        and bool(layer.autocast)
        # Where variables are read in another dtype here, this is that dtype.
        and dtype_name(given.dtype) == layer.compute_dtype == layer.cell.kernel.dtype
        and keras.distribution.distribution() is None
        and _are_plain(layer, given, keywords)
    )


def call_directly(layer: Any, given: Any, keywords: dict[str, Any]) -> Any:
    """Calls what `Layer.__call__` does: what PyTorch does around a module, then `call`."""
    call = super(keras.layers.Layer, layer).__call__
    mask = _mask_of(given, keywords)
    if mask is None:
        return call(given, **keywords)
    results = call(given, **{**keywords, "mask": mask})
    of_output = mask if _a_given_mask_goes_on() else getattr(given, _MASK, None)
    if layer.return_sequences and of_output is not None:
        masks = layer.compute_mask(given, of_output)
        output, mask = (results[0], masks[0]) if layer.return_state else (results, masks)
        setattr(output, _MASK, mask)
    return results


def _mask_of(given: Any, keywords: dict[str, Any]) -> Any:
    """The mask of a call: the one given, or else the one that came with the inputs, or None."""
    mask = keywords.get("mask")
    return getattr(given, _MASK, None) if mask is None else mask


@functools.cache
def _a_given_mask_goes_on() -> bool:
    """Whether Keras passes on a mask that came by keyword; 3.10 only passes on the inputs' own."""
    mask = keras.ops.ones((1, 2), dtype="bool")
    # By name and dtype: it counts among no user's layers, and follows no policy set for these.
    layer = keras.layers.Softmax(name="softmax", dtype="float32")
    return hasattr(layer(keras.ops.ones((1, 2)), mask=mask), _MASK)


@remembered
def _is_ours_alone(cls: type) -> bool:
    """Whether no user's class is between a class and Keras's Layer."""
    classes = cls.__mro__[: cls.__mro__.index(keras.layers.Layer)]
    return all(map(is_ours, classes))


def _trains_as_it_infers(cell: Any) -> bool:
    """Whether a cell is a built-in one to which it makes no difference if it's training."""
    return (
        why_not_builtin(cell) is None
        and _is_ours_alone(type(cell))
        and not (cell.dropout or cell.recurrent_dropout)
        and not is_int8(cell)
        # A layer within a user's function asks Keras whether it's training.
        and _is_keras_s(cell.activation)
        and _is_keras_s(getattr(cell, "recurrent_activation", cell.activation))
    )


def _is_keras_s(function: Any) -> bool:
    module: str = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] == "keras" and not isinstance(function, keras.layers.Layer)


def _are_plain(layer: Any, given: Any, keywords: dict[str, Any]) -> bool:
    """Whether nothing among a call's keywords, nor its mask, has to be converted or dropped."""
    if not keywords.keys() <= {"training", "initial_state", "mask"}:
        return False
    # One that is given goes to all that's called after it within the same layer.
    if keywords.get("training") is not None:
        return False
    for mask in (keywords.get("mask"), getattr(given, _MASK, None)):
        if mask is not None and not (
            layer.supports_masking and door.is_bare(mask) and dtype_name(mask.dtype) == "bool"
        ):
            return False
    states = keywords.get("initial_state")
    if states is None:
        return True
    return type(states) in (list, tuple) and all(
        door.is_bare(state) and state.dtype == given.dtype for state in states
    )
