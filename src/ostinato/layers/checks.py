"""What a layer refuses, before any work is done; each error names the layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from ostinato.cells.checks import STACKED, name_of
from ostinato.cells.contract import parameters_of
from ostinato.layers.arguments import suggestion
from ostinato.nests import flatten, leaf_paths
from ostinato.structure import Structure, describe
from ostinato.tensors import Dimensions, agree, has_axes

STATES_BY_NAME = "States don't go beside the inputs, but by name: `initial_state=`."
RETURNS_STATES = (
    "A layer with return_state=True returns its states after its output. A Sequential can't take "
    "the two apart: use the functional API, or leave return_state at False."
)
NESTED = "a nested tensor of PyTorch's"
SPARSE = "a sparse tensor"
PAD = (
    "Pad the sequences to one length (`keras.utils.pad_sequences`), and mask the padding, by "
    "`Masking`, `Embedding(mask_zero=True)` or `mask=`."
)


def check_sequences(owner: str, shapes: Sequence[Dimensions], paths: Sequence[str]) -> None:
    """Refuses inputs without a batch and a time axis, or that disagree in these."""
    for shape, path in zip(shapes, paths, strict=True):
        if len(shape) < 2:
            raise ValueError(
                f"{owner}: expected inputs of shape (batch, timesteps, ...), got "
                f"input{path} of shape {shape}."
            )
    for axis, name in enumerate(("batch sizes", "numbers of timesteps")):
        if len({shape[axis] for shape in shapes} - {None}) > 1:
            hint = f" {STATES_BY_NAME}" if paths[0].startswith("[0]") else ""  # a tuple or list
            found = ", ".join(
                f"input{path} of shape {shape}" for path, shape in zip(paths, shapes, strict=True)
            )
            raise ValueError(
                f"{owner}: expected nested inputs with the same batch size and the same number of "
                f"timesteps, but the {name} disagree: {found}.{hint}"
            )


def check_features(
    owner: str, shapes: Sequence[Dimensions], built: Sequence[Dimensions], paths: Sequence[str]
) -> None:
    """Refuses inputs whose features are not those that the layer was built for."""
    if len(shapes) != len(built):
        raise ValueError(
            f"{owner}: built for {len(built)} input tensors, got {len(shapes)}: "
            f"{', '.join(map(str, shapes))}."
        )
    for shape, wanted, path in zip(shapes, built, paths, strict=True):
        if not agree(shape[2:], wanted[2:]):
            raise ValueError(
                f"{owner}: built for input{path} with features {wanted[2:]}, got features "
                f"{shape[2:]} (an input of shape {shape})."
            )


def check_unroll(owner: str, unroll: bool, timesteps: int | None) -> None:
    """Refuses to unroll a loop of unknown length."""
    if unroll and timesteps is None:
        raise ValueError(
            f"{owner}: Cannot unroll a RNN if the time dimension is undefined: `unroll=True` needs "
            "a known number of timesteps, got None. Give it in `Input(shape=(timesteps, ...))`, or "
            "leave unroll at False."
        )


def check_batch(owner: str, expected: int | None, received: int | None) -> None:
    """Refuses a batch of another size than the states that a stateful layer keeps."""
    if None not in (expected, received) and expected != received:
        raise ValueError(
            f"{owner}: If an RNN is stateful, the batch size of the inputs must be that of its "
            f"states.\n- Expected batch size: {expected}\n- Received batch size: {received}"
        )


def read_constants(owner: str, given: Structure, batch_size: int | None) -> list[Any] | None:
    """What was given as `constants`, in the list that a cell gets.

    Raises:
        ValueError: if one of them is no tensor, or has a single row, which would be spread over a
            larger batch.
    """
    if given is None:
        return None
    constants = list(given) if isinstance(given, (tuple, list)) else [given]
    for path, constant in zip(leaf_paths(constants), flatten(constants), strict=True):
        if not hasattr(constant, "shape"):
            raise ValueError(
                f"{owner}: expected constants{path} to be a tensor or an array, got {constant!r}."
            )
        shape = tuple(constant.shape)
        if batch_size not in (None, 1) and len(shape) > 1 and shape[0] == 1:
            raise ValueError(
                f"{owner}: expected constants{path} with the batch size of the inputs, "
                f"{batch_size}, got one of shape {shape}."
            )
    return constants


def check_keywords(layer: Any, keywords: Mapping[str, Any]) -> None:
    """Refuses what a layer's call doesn't take, as Keras would, which doesn't say whose call it is.

    Raises:
        TypeError: for such a keyword; it suggests one that is spelled alike.
    """
    taken = parameters_of(layer.call)
    # Keras leaves out whether it's training where a `call` doesn't ask.
    unknown = [name for name in keywords if name not in taken and name != "training"]
    if not unknown or any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    # By its letters `states` would be `constants`.
    is_state = unknown[0] in ("state", "states") and "initial_state" in taken
    hint = suggestion("initial_state" if is_state else unknown[0], taken)
    raise TypeError(f"{name_of(layer)}: its call takes no argument `{unknown[0]}`{hint}")


def check_given(layer: Any, given: Any) -> None:
    """Refuses sequences of different lengths, sparse ones, and several results of one layer.

    Args:
        layer: The layer; one with an `input_spec` takes a single tensor of so many axes.
        given: The first argument of its call.
    """
    owner = name_of(layer)
    for tensor in (given, *given) if isinstance(given, (list, tuple)) else (given,):
        kind = _of_different_lengths(tensor)
        if kind is None and hasattr(tensor, "shape") and not has_axes(tensor):
            raise ValueError(
                f"{owner}: expected inputs of a known number of axes, got a tensor of unknown "
                "shape. Say it by `tf.ensure_shape(x, (None, None, features))`."
            )
        if kind == SPARSE:
            raise ValueError(
                f"{owner}: expected inputs that are dense, got {SPARSE}. Make it dense first, by "
                "`tf.sparse.to_dense(x)` on TensorFlow, `x.to_dense()` on PyTorch or `x.todense()` "
                "on JAX."
            )
        if kind is not None:
            raise ValueError(
                f"{owner}: expected inputs whose sequences are of one length, got {kind}. {PAD}"
            )
    if isinstance(given, (list, tuple)) and given and not any(map(_holds_tensor, given)):
        raise ValueError(
            f"{owner}: expected a tensor or an array, got a {type(given).__name__} of numbers or "
            f"of lists. {PAD}"
        )
    if not isinstance(given, (list, tuple, dict)) and not hasattr(given, "shape"):
        raise ValueError(f"{owner}: expected a tensor or an array, got {describe(given)}.")
    if layer.input_spec is None:
        return
    if isinstance(given, (list, tuple, dict)):
        _refuse_several(owner, given)
        return
    axes, found = layer.input_spec.ndim, len(getattr(given, "shape", ()))
    if axes is not None and found == axes - 1:
        rest = "features" if axes == 3 else "..."
        raise ValueError(
            f"{owner}: expected ndim={axes}, found ndim={found}: expected inputs of shape (batch, "
            f"timesteps, {rest}), got {describe(given)}. {STACKED}"
        )


def _of_different_lengths(given: Any) -> str | None:
    """What holds sequences of different lengths, or is sparse, in words; None of all else."""
    if isinstance(given, np.ndarray):
        return "an array of objects" if given.dtype == object else None
    kind = _ragged_kind(type(given))
    if kind != NESTED or given.is_nested:
        return kind
    return SPARSE if "sparse" in str(given.layout) else None


def _ragged_kind(cls: type) -> str | None:
    if hasattr(cls, "row_lengths"):
        return "a RaggedTensor"
    if hasattr(cls, "batch_sizes") and hasattr(cls, "sorted_indices"):
        return "a PackedSequence"
    if hasattr(cls, "dense_shape") or hasattr(cls, "todense"):
        return SPARSE
    return NESTED if hasattr(cls, "is_nested") else None


def _holds_tensor(item: Any) -> bool:
    return any(hasattr(leaf, "shape") for leaf in tree.flatten(item))


def _refuse_several(owner: str, given: Any) -> None:
    """Refuses several tensors for one: other layers' states, or states as in Keras 2."""
    tensors = tree.flatten(given)
    if not all(hasattr(tensor, "shape") for tensor in tensors):
        return
    hint = ""
    if not isinstance(given, dict):
        ranks = [len(tensor.shape) for tensor in tensors]
        hint = f" {STATES_BY_NAME}" + (f" {RETURNS_STATES}" if 2 in ranks[1:] else "")
    raise ValueError(
        f"{owner}: expected one tensor (batch, timesteps, features), got {len(tensors)} in a "
        f"{type(given).__name__}: {describe(given)}.{hint}"
    )


def check_entry(owner: str, config: dict[str, Any], entry: str) -> None:
    """Refuses a config without an entry that it takes to build a layer."""
    if entry not in config:
        raise ValueError(
            f"{owner}: expected a config with an entry {entry!r}, got one with the entries "
            f"{sorted(config)}."
        )
