"""Runs exported files in a process without Keras and without Ostinato.

    python exported.py FOLDER

Reads inputs.npz, "name/call/input" of each file FOLDER/name (a SavedModel) or FOLDER/name.onnx, and
writes outputs.npz, "name/call/output".
"""

import os
import sys
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for name in ("keras", "tf_keras", "ostinato"):
    sys.modules[name] = None  # can't be imported


def saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # kept, as its variables live with it

    def run(inputs):
        nested = inputs if len(inputs) > 1 else next(iter(inputs.values()))
        return tf.nest.flatten(loaded.serve(nested))

    return run


def onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [one.name for one in session.get_inputs()]

    def run(inputs):
        # A graph's inputs have the layers' names; of a Sequential, one made up.
        given = inputs if len(inputs) > 1 else dict(zip(names, inputs.values(), strict=True))
        return session.run(None, given)

    return run


def main(folder):
    with np.load(folder / "inputs.npz") as arrays:
        inputs = dict(arrays)
    outputs = {}
    for name in sorted({key.partition("/")[0] for key in inputs}):
        path = folder / name
        run = onnx(path) if path.suffix == ".onnx" else saved_model(path)
        calls = sorted({key.split("/")[1] for key in inputs if key.startswith(f"{name}/")})
        for call in calls:
            prefix = f"{name}/{call}/"
            given = {k.removeprefix(prefix): v for k, v in inputs.items() if k.startswith(prefix)}
            for index, output in enumerate(run(given)):
                outputs[f"{prefix}{index}"] = np.asarray(output)
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
