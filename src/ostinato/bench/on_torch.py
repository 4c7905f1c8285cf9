"""On PyTorch, eagerly, under inference_mode or autograd: Keras's layers, torch.nn's, bare products.

torch.nn keeps kernels transposed, with two biases, and orders LSTM's gates as Keras does (i, f, g,
o), but GRU's as r, z, n where Keras has z, r, h. `ostinato.conversion` knows that, too, but would
bring Keras into this process, which a user of torch.nn doesn't have.
"""

from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared

_CLASSES = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "SimpleRNN": torch.nn.RNN}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def prepare(layer: Any, case: Case, options: dict[str, Any], cotangent: np.ndarray) -> Prepared:
    """Inference, or a training step; the arguments are those of `on_jax.prepare`."""
    tensors = {name: _tensors(value) for name, value in options.items()}
    states = tensors.get("initial_state", [])
    wanted = [*(v.value for v in layer.trainable_variables), *states]
    for state in states:
        state.requires_grad_(case.mode == "train")
    dtype = getattr(torch, layer.compute_dtype)
    return running(
        lambda x, training: layer(x, training=training, **tensors), wanted, case, cotangent, dtype
    )


def running(
    call: Any, wanted: list[Any], case: Case, cotangent: np.ndarray, dtype: Any
) -> Prepared:
    """A case as runs of `call(x, training)`, with gradients to x and to what's `wanted`."""
    x, gradient = _tensors(case.inputs(), dtype), _tensors(cotangent, dtype)
    for part in _flat(x):
        part.requires_grad_(case.mode == "train")

    def infer() -> tuple[Any, ...]:
        with torch.inference_mode():
            return (call(x, False),)

    def train() -> tuple[Any, ...]:
        ys = _flat(call(x, True))
        return *ys, *torch.autograd.grad(ys, [*_flat(x), *wanted], _flat(gradient))

    def values(results: Any) -> list[np.ndarray]:
        ys, *gradients = (r.detach().float().numpy() for result in results for r in _flat(result))
        return [case.comparable(ys), *gradients]

    return Prepared(infer if case.mode == "infer" else train, values)


def torch_nn(case: Case, dtype: str) -> Prepared:
    """torch.nn's layer; padded rows as packed sequences, which skip the padding."""
    _, T, D, U = case.shape
    module = _CLASSES[case.kind](D, U, batch_first=True)
    module.load_state_dict(_to_torch(case))
    module.to(getattr(torch, dtype))
    lengths = case.lengths()
    packed_lengths = None if lengths is None else torch.from_numpy(lengths)

    def call(x: Any, training: bool) -> Any:
        if packed_lengths is None:
            return module(x)[0]
        packed = rnn.pack_padded_sequence(x, packed_lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(module(packed)[0], batch_first=True, total_length=T)[0]

    weights = [getattr(module, name) for name in _WEIGHTS]
    plain = running(call, weights, case, case.cotangent(), getattr(torch, dtype))

    def values(results: Any) -> list[np.ndarray]:
        found = plain.values(results)
        return found if case.mode == "infer" else [*found[:2], *_gradients(case, *found[2:])]

    return Prepared(plain.run, values)


def products(case: Case) -> Prepared:
    """The case's matrix products alone; there are no values to compare."""
    left, right, times = case.products()
    operands, weights = [torch.from_numpy(piece) for piece in left], torch.from_numpy(right)
    out = torch.empty(left.shape[1], right.shape[1])

    def run() -> None:
        with torch.inference_mode():
            for index in range(times):
                torch.mm(operands[index % len(operands)], weights, out=out)

    return Prepared(run, lambda results: [], f"{times} products")


def _tensors(value: Any, dtype: Any = None) -> Any:
    """Tensors of arrays, in a dtype or in their own."""
    if isinstance(value, dict):
        return {name: _tensors(part, dtype) for name, part in value.items()}
    if isinstance(value, list):
        return [_tensors(part, dtype) for part in value]
    return torch.tensor(value, dtype=dtype)


def _flat(value: Any) -> list[Any]:
    return [value[name] for name in sorted(value)] if isinstance(value, dict) else [value]


def _to_torch(case: Case) -> dict[str, Any]:
    kernel, recurrent, bias = case.weights()
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    arrays = [_reordered(case, a).T for a in (kernel, recurrent)]
    arrays += [_reordered(case, b) for b in both]
    return {name: torch.tensor(array.copy()) for name, array in zip(_WEIGHTS, arrays, strict=True)}


def _gradients(case: Case, *found: np.ndarray) -> list[np.ndarray]:
    """Gradients to torch's four weights, in Keras's layout."""
    kernel, recurrent, input_bias, recurrent_bias = found
    bias = np.stack([input_bias, recurrent_bias]) if case.kind == "GRU" else input_bias
    return [_reordered(case, array) for array in (kernel.T, recurrent.T, bias)]


def _reordered(case: Case, columns: np.ndarray) -> np.ndarray:
    """Swaps GRU's first two gates: from Keras's order to torch's, and back."""
    if case.kind != "GRU":
        return columns
    first, second, third = np.split(columns, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)
