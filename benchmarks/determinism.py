"""Where the kernels give the same bits, and where not: `python -m benchmarks.determinism`.

One process for each number of threads and each instruction set, on PyTorch. Each repeats its call
six times, runs the first and the last row alone, and stops where the bits differ. Then the results
are compared with those of two threads and the best target.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZES = ("S", "M", "L")
KINDS = ("LSTM", "GRU", "SimpleRNN")
NAMES = ("outputs", "gradients of inputs", "of weights")
SETTINGS = {
    "2 threads": {},
    "2 threads, another process": {},
    "1 thread": {"OSTINATO_NUM_THREADS": "1"},
    "3 threads": {"OSTINATO_NUM_THREADS": "3"},
    "x86-64-v3": {"OSTINATO_TARGET": "x86-64-v3"},
    "baseline": {"OSTINATO_TARGET": "baseline"},
}


def compute(folder):
    """Writes one process's results; stops where they should be the same bits and aren't."""
    import torch

    from ostinato import layers
    from ostinato.bench import cases

    for kind in KINDS:
        for size in SIZES:
            b, t, d, u = cases.SIZES[size]
            random = np.random.default_rng(0)
            layer = getattr(layers, kind)(u, return_sequences=True)
            layer.build((b, t, d))
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([random.normal(0, shape[-1] ** -0.5, shape) for shape in shapes])
            x = torch.tensor(random.normal(size=(b, t, d)).astype("float32"), requires_grad=True)
            first = results(layer, x, torch)
            for _ in range(5):
                for one, other in zip(results(layer, x, torch), first, strict=True):
                    np.testing.assert_array_equal(one, other, err_msg=f"{kind} {size}")
            for row in (slice(1), slice(b - 1, b)):
                alone = layer(x[row]).detach().numpy()
                np.testing.assert_array_equal(alone, first[0][row], err_msg=f"{kind} {size} alone")
            np.savez(folder / f"{kind} {size}.npz", *first)


def results(layer, x, torch):
    y = layer(x)
    weights = [variable.value for variable in layer.trainable_variables]
    gradients = torch.autograd.grad((y * y).sum(), [x, *weights])
    return [tensor.detach().numpy() for tensor in (y, *gradients)]


def largest_differences(one, other):
    """Over a tensor's largest value: of the outputs, the inputs' gradients, the weights'."""
    worst = [0.0, 0.0, 0.0]
    for kind in KINDS:
        for size in SIZES:
            with (
                np.load(one / f"{kind} {size}.npz") as a,
                np.load(other / f"{kind} {size}.npz") as b,
            ):
                for i, name in enumerate(a.files):
                    difference = np.max(np.abs(a[name] - b[name])) / np.max(np.abs(a[name]))
                    worst[min(i, 2)] = max(worst[min(i, 2)], float(difference))
    return worst


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(i) for i in range(len(SETTINGS))]
        for folder, setting in zip(folders, SETTINGS.values(), strict=True):
            folder.mkdir()
            given = {"KERAS_BACKEND": "torch", "OSTINATO_NUM_THREADS": "2", **setting}
            command = [sys.executable, "-m", "benchmarks.determinism", str(folder)]
            subprocess.run(command, env={**os.environ, **given}, check=True)
        print(
            "| beside 2 threads, the best target | " + " | ".join(NAMES) + " |\n|---|---|---|---|"
        )
        for name, folder in list(zip(SETTINGS, folders, strict=True))[1:]:
            found = largest_differences(folders[0], folder)
            print(
                f"| {name} | "
                + " | ".join(f"{d:.0e}".replace("e-0", "e-") if d else "0" for d in found)
                + " |"
            )


if __name__ == "__main__":
    compute(Path(sys.argv[1])) if sys.argv[1:] else main()
