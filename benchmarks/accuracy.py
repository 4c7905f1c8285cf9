"""How exact the kernels are: `KERAS_BACKEND=torch python -m benchmarks.accuracy`.

On PyTorch, where one process has float32 and float64. The truth is the native engine in float64,
which native/tests/test_kernels.cpp holds to 1e-13 of plain loops. Errors are the largest ones, over
a tensor's largest value.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import ostinato
from ostinato import layers, native
from ostinato.bench.cases import SIZES

KINDS = ("LSTM", "GRU", "SimpleRNN")
# Who computes it: the layer's module, the engine, the dtype, what products are computed from.
CONTENDERS = {
    "native": (layers, "fused", "float32", "float32"),
    "portable": (layers, "scan", "float32", "float32"),
    "Keras": (keras.layers, None, "float32", "float32"),
    "native, products": (layers, "fused", "float32", "bfloat16"),
    "native, mixed": (layers, "fused", "mixed_bfloat16", "float32"),
    "Keras, mixed": (keras.layers, None, "mixed_bfloat16", "float32"),
}


def results(layer, x, engine, products="float32"):
    """The outputs of a layer, and the gradients of their sum of squares by x and the weights."""
    x = torch.tensor(x).to(getattr(torch, layer.compute_dtype)).requires_grad_()
    with ostinato.use_engine(engine or "scan"), ostinato.use_precision(products):
        y = layer(x)
    weights = [w.value for w in layer.trainable_variables]
    gradients = torch.autograd.grad((y.double() ** 2).sum() / 2, [x, *weights])
    return [tensor.detach().double().numpy() for tensor in (y, *gradients)]


def error(got, truth):
    return float(np.max(np.abs(got - truth)) / max(np.max(np.abs(truth)), 1e-300))


def short(number):
    """1.2e-7, not 1.2e-07."""
    return f"{number:.1e}".replace("e-0", "e-") if number else "0"


def made(module, kind, units, dtype, x, weights=None, **options):
    layer = getattr(module, kind)(units, dtype=dtype, return_sequences=True, **options)
    layer.build(x.shape)
    if weights is not None:
        layer.set_weights(weights)
    return layer


def of_layers(kind, size, timesteps=None):
    """A row: how far each contender's outputs, and gradients, are from the truth."""
    b, t, d, u = SIZES[size]
    t = timesteps or t
    x = np.random.default_rng(0).normal(size=(b, t, d)).astype("float32")
    weights = made(layers, kind, u, "float32", x).get_weights()
    truth = results(made(layers, kind, u, "float64", x, weights), x, "fused")
    cells = []
    for module, engine, dtype, products in CONTENDERS.values():
        got = results(made(module, kind, u, dtype, x, weights), x, engine, products)
        errors = [error(one, other) for one, other in zip(got, truth, strict=True)]
        cells.append(f"{short(errors[0])} / {short(max(errors[1:]))}")
    return [f"{kind} {size}" + (f" T{t}" if timesteps else ""), *cells]


def of_activation(name):
    """A row: an activation's own error and its slope's, over the value where that's beyond 1.

    A SimpleRNN of one timestep whose input's weights are the identity is its activation.
    """
    x = np.linspace(-20, 20, 160_000, dtype="float32").reshape(-1, 1, 16)
    weights = [np.eye(16, dtype="float32"), np.zeros((16, 16)), np.zeros(16)]
    cells = []
    truth = of_function(name, x, weights, layers, "fused", "float64")
    for module, engine, dtype, products in CONTENDERS.values():
        if dtype == products == "float32":
            got = of_function(name, x, weights, module, engine, dtype)
            for one, other in zip(got, truth, strict=True):
                errors = np.abs(one - other) / np.maximum(1, np.abs(other))
                cells.append(short(np.max(errors)))
    return [f"`{name}`", *cells]


def of_function(name, x, weights, module, engine, dtype):
    layer = made(module, "SimpleRNN", 16, dtype, x, weights, activation=name)
    inputs = torch.tensor(x).to(getattr(torch, dtype)).requires_grad_()
    with ostinato.use_engine(engine or "scan"):
        y = layer(inputs)
    (slope,) = torch.autograd.grad(y.sum(), inputs)
    return y.detach().double().numpy(), slope.double().numpy()


def table(headings, rows):
    print("\n| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main():
    keras.utils.set_random_seed(0)
    print(f"{native.target()}, {native.threads()} threads, Keras {keras.__version__} on PyTorch")
    rows = (of_layers(kind, size) for kind in KINDS for size in ("S", "M", "L"))
    table(["outputs / gradients", *CONTENDERS], rows)
    long = (of_layers(kind, "S", timesteps) for kind in KINDS for timesteps in (1, 100, 1000))
    table(["outputs / gradients", *CONTENDERS], long)
    by = ["native", "slope", "portable", "slope", "Keras", "slope"]
    table(["activation", *by], (of_activation(name) for name in native.activation_names()))


if __name__ == "__main__":
    main()
