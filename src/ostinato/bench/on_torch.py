"""A layer on PyTorch: called eagerly, under inference_mode or autograd."""

from typing import Any

import numpy as np
import torch

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared


def prepare(layer: Any, case: Case, options: dict[str, Any], cotangent: np.ndarray) -> Prepared:
    """Inference, or a training step; the arguments are those of `on_jax.prepare`."""
    tensors = {name: _tensors(value) for name, value in options.items()}
    states = tensors.get("initial_state", [])
    wanted = [*(v.value for v in layer.trainable_variables), *states]
    for state in states:
        state.requires_grad_(case.mode == "train")
    return running(
        lambda x, training: layer(x, training=training, **tensors), wanted, case, cotangent
    )


def running(call: Any, wanted: list[Any], case: Case, cotangent: np.ndarray) -> Prepared:
    """A case as runs of `call(x, training)`, with gradients to x and to what's `wanted`."""
    x = torch.from_numpy(case.inputs()).requires_grad_(case.mode == "train")
    gradient = torch.from_numpy(cotangent)

    def infer() -> tuple[Any, ...]:
        with torch.inference_mode():
            return (call(x, False),)

    def train() -> tuple[Any, ...]:
        ys = call(x, True)
        return ys, *torch.autograd.grad(ys, [x, *wanted], gradient)

    def values(results: Any) -> list[np.ndarray]:
        ys, *gradients = (result.detach().numpy() for result in results)
        return [case.comparable(ys), *gradients]

    return Prepared(infer if case.mode == "infer" else train, values)


def _tensors(value: Any) -> Any:
    return (
        [torch.from_numpy(v) for v in value] if isinstance(value, list) else torch.from_numpy(value)
    )
