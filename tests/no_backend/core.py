"""Calls of the native core from NumPy; as a script, in a process of its own, without Keras."""

import os
import pickle
import sys
import types

import numpy as np

if __name__ == "__main__":
    # ostinato.native needs no Keras: with a bare package around it a process starts in no time.
    package = types.ModuleType("ostinato")
    package.__path__ = sys.argv[1].split(os.pathsep)
    sys.modules["ostinato"] = package

from ostinato import native
from ostinato.signatures import signature

_DTYPES = {"float32": native.FLOAT32, "float64": native.FLOAT64, "bool": native.BOOLEAN}


def views(arrays) -> tuple:
    """What the core is told of each array."""
    return tuple((a.ctypes.data, _DTYPES[a.dtype.name], a.shape) for a in arrays)


def forward(spec, operands: dict, dtype="float32") -> list:
    """The results of one run, `saved` among them; operands in the header's order."""
    return _run("forward", spec, list(operands.values()), dtype)


def backward(spec, operands: dict, saved, d_results: list, dtype="float32") -> list:
    """The gradients of one run."""
    (names,) = signature("backward", (spec,)).operands
    known = {**operands, "saved": saved}
    gradients = [name for name in names if name.startswith("d_")]
    known.update(zip(gradients, d_results, strict=True))
    return _run("backward", spec, [known[name] for name in names], dtype)


def _run(operation, spec, inputs, dtype) -> list:
    (shapes,) = signature(operation, (spec,)).shapes(inputs)
    inputs = [np.ascontiguousarray(a, bool if a.dtype == bool else dtype) for a in inputs]
    outputs = [np.full(shape, np.nan, dtype) for shape in shapes]
    getattr(native, operation)(native.encode([spec]), views(inputs), views(outputs))
    return outputs


def _forked(task):
    """What `task` returns in a child, which must not hang."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(task(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pickle.load(pipe)


def main() -> None:
    """Reads runs from standard input; writes what they give, here and in a forked child."""
    runs = pickle.load(sys.stdin.buffer)

    def results():
        return [forward(spec, operands) for spec, operands in runs]

    answer = {"target": native.target(), "why_not": native.why_not(), "threads": native.threads()}
    try:
        answer["results"] = results()
        answer["forked"] = _forked(results)
    except ValueError as error:
        answer["error"] = str(error)
    pickle.dump(answer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
