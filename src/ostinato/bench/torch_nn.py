"""PyTorch's own layers, torch.nn.LSTM, GRU and RNN, with a case's weights.

torch.nn keeps kernels transposed, with two biases, and orders LSTM's gates as Keras does (i, f, g,
o), but GRU's as r, z, n where Keras has z, r, h. `ostinato.conversion.torch_names` knows that, too,
but would bring Keras into this process, which a user of torch.nn doesn't have.
"""

from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

from ostinato.bench import on_torch
from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared

_CLASSES = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "SimpleRNN": torch.nn.RNN}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def prepare(case: Case) -> Prepared:
    """Inference, or a training step; padded rows as packed sequences, which skip the padding."""
    _, T, D, U = case.shape
    module = _CLASSES[case.kind](D, U, batch_first=True)
    module.load_state_dict(_to_torch(case))
    lengths = case.lengths()
    packed_lengths = None if lengths is None else torch.from_numpy(lengths)

    def call(x: Any, training: bool) -> Any:
        if packed_lengths is None:
            return module(x)[0]
        packed = rnn.pack_padded_sequence(x, packed_lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(module(packed)[0], batch_first=True, total_length=T)[0]

    weights = [getattr(module, name) for name in _WEIGHTS]
    plain = on_torch.running(call, weights, case, case.cotangent())

    def values(results: Any) -> list[np.ndarray]:
        found = plain.values(results)
        return found if case.mode == "infer" else [*found[:2], *_gradients(case, *found[2:])]

    return Prepared(plain.run, values)


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
