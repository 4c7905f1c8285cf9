"""Keras 2's layers beside recurrent ones, where its rule of masks isn't Keras 3's.

A layer here is Keras 3's own with Keras 2's rule. A file's config names one instead of Keras's
where masks may reach it (keras2_configs.py), so that what follows reads what it read in Keras 2.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ostinato.cells.contract import parameters_of
from ostinato.models.attributes import functional_class


class _Agreeing:
    """Merging layers: a timestep counts where each mask that there is says so."""

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Of masks (batch, ...), where not all are None."""
        masks = [mask for mask in previous_mask or () if mask is not None]
        return functools.reduce(ops.logical_and, masks) if masks else None

    def call(self, inputs: Any) -> Any:
        """On the numbers alone: Keras 3 leaves out of products and extrema what a mask hides."""
        return super().call([ops.copy(each) for each in inputs])  # type: ignore[misc]


class _AgreeingInEach:
    """Concatenate: the same, with masks laid side by side as the inputs are."""

    axis: int

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Of masks of the inputs' leading axes, for the outputs' axes but the last."""
        if all(mask is None for mask in previous_mask or ()):
            return None
        whole = [_spread(mask, each) for mask, each in zip(previous_mask, inputs, strict=True)]
        return ops.all(ops.concatenate(whole, axis=self.axis), axis=-1)


def _spread(mask: Any, inputs: Any) -> Any:
    everywhere = ops.ones_like(inputs, dtype="bool")
    if mask is None:
        return everywhere
    if len(mask.shape) < len(inputs.shape):
        mask = ops.expand_dims(mask, axis=-1)
    return ops.logical_and(mask, everywhere)


class _Stopping:
    """Layers and models after which there's no mask but one made inside."""

    supports_masking = True  # to have its say: none

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """None."""
        return None


class _StoppingLayer(_Stopping):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Another tensor than came, which carries its mask along."""
        outputs = super().call(inputs)  # type: ignore[misc]
        return ops.copy(outputs) if outputs is inputs else outputs


class _StoppingFunction(_StoppingLayer):
    def call(self, inputs: Any, mask: Any = None, training: Any = None) -> Any:
        """Another tensor than came, which carries its mask along."""
        outputs = keras.layers.Lambda.call(self, inputs, mask=mask, training=training)
        return ops.copy(outputs) if outputs is inputs else outputs


class _AsTheQuery:
    """Attention: the mask of the first input goes on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The first of (batch, timesteps)."""
        masks = mask if isinstance(mask, (list, tuple)) else [mask]
        return masks[0]


class _AttendingAnyway:
    """MultiHeadAttention: a query that may look at nothing looks at everything alike."""

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: Any = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """As Keras's, which of such a query gives zeros, or this, by which kernel it takes."""
        # Copies, since Keras 3 takes the masks off the tensors, which others may read as well.
        query, value = ops.copy(query), ops.copy(value)
        key = None if key is None else ops.copy(key)
        own = functools.partial(super().call, return_attention_scores=return_attention_scores)  # type: ignore[misc]
        masks = {"query_mask": query_mask, "value_mask": value_mask, "key_mask": key_mask}
        masks["attention_mask"] = attention_mask
        found = own(query, value, key, **masks, use_causal_mask=use_causal_mask, training=training)
        if all(mask is None for mask in masks.values()) or len(query.shape) != 3:
            return found
        # Keys that are all the same have the same weight.
        alike = ops.zeros_like(value if key is None else key)
        anyway = own(query, value, alike, training=False)
        sees = _sees(query, value, list(masks.values()), use_causal_mask)
        if not return_attention_scores:
            return ops.where(sees, found, anyway)
        return ops.where(sees, found[0], anyway[0]), ops.where(sees[:, None], found[1], anyway[1])


def _sees(query: Any, value: Any, masks: Sequence[Any], causal: bool) -> Any:
    """Whether each query has a key to look at, (batch, queries, 1)."""
    of_query, of_value, of_key, attention = masks
    queries, keys = (ops.shape(each)[1] for each in (query, value))
    axes = [(of_query, (..., None)), (of_value, (slice(None), None)), (of_key, (slice(None), None))]
    parts = [ops.cast(mask, "bool")[where] for mask, where in axes if mask is not None]
    if attention is not None:
        parts.append(ops.cast(attention, "bool"))
    if causal:
        parts.append(ops.arange(queries)[:, None] >= ops.arange(keys)[None])
    sees = functools.reduce(ops.logical_and, parts)
    return ops.any(ops.logical_and(sees, ops.ones((1, queries, keys), "bool")), -1, keepdims=True)


class _ByTimestep:
    """TimeDistributed: each timestep is a row of a larger batch, for the mask's rule too."""

    layer: Any

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Of (batch, timesteps, ...) and, where there is one, a mask of its leading axes."""
        takes_mask = mask is not None and "mask" in parameters_of(self.layer.call)
        options = {"mask": _rows(mask)} if takes_mask else {}
        outputs = self.layer(_rows(inputs), **options)
        return keras.tree.map_structure(lambda each: _steps(each, inputs), outputs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The layer's own for each timestep; else which timesteps have anything that counts."""
        mask = previous_mask
        inner = self.layer.compute_mask(_rows(inputs), None if mask is None else _rows(mask))
        if inner is not None:
            return _steps(inner, inputs)
        if mask is not None and len(mask.shape) > 2:
            return ops.any(mask, axis=tuple(range(2, len(mask.shape))))
        return mask


def _rows(tensor: Any) -> Any:
    """(batch, timesteps, ...) as (batch * timesteps, ...)."""
    return ops.reshape(tensor, (-1, *ops.shape(tensor)[2:]))


def _steps(tensor: Any, like: Any) -> Any:
    """(batch * timesteps, ...) as (batch, timesteps, ...), with the timesteps of another."""
    return ops.reshape(tensor, (-1, ops.shape(like)[1], *ops.shape(tensor)[1:]))


_RULES: tuple[tuple[type, Sequence[type]], ...] = (
    (
        _Agreeing,
        (
            keras.layers.Add,
            keras.layers.Subtract,
            keras.layers.Multiply,
            keras.layers.Average,
            keras.layers.Maximum,
            keras.layers.Minimum,
        ),
    ),
    (_AgreeingInEach, (keras.layers.Concatenate,)),
    (_AsTheQuery, (keras.layers.Attention, keras.layers.AdditiveAttention)),
    (_AttendingAnyway, (keras.layers.MultiHeadAttention,)),
    (_ByTimestep, (keras.layers.TimeDistributed,)),
    # In Keras 3 these pass a mask on, or give back the tensor that came, and its mask on it.
    (
        _StoppingLayer,
        (
            keras.layers.Identity,
            keras.layers.Rescaling,
            keras.layers.Normalization,
            keras.layers.Reshape,
            keras.layers.Permute,
            keras.layers.Flatten,
        ),
    ),
    (
        _StoppingLayer,
        (keras.layers.Cropping1D, keras.layers.ZeroPadding1D, keras.layers.UpSampling1D),
    ),
    (_StoppingFunction, (keras.layers.Lambda,)),
)


def _with_rule(rule: type, base: type, name: str) -> type:
    doc = f"Keras 3's {base.__name__} with Keras 2's rule of masks."
    # By Keras's name: under it a .keras file has the weights.
    made = type(name, (rule, base), {"__doc__": doc, "__module__": __name__})
    register = keras.saving.register_keras_serializable("ostinato", f"Keras2{name}")
    registered: type = register(made)
    return registered


CLASSES = {
    base.__name__: _with_rule(rule, base, base.__name__) for rule, bases in _RULES for base in bases
}
CLASSES["Sequential"] = _with_rule(_Stopping, keras.Sequential, "Sequential")
CLASSES["Functional"] = _with_rule(_Stopping, functional_class(), "Functional")
globals().update(CLASSES)  # where pickle looks for them
