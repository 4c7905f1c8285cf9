"""What the example programs share: the backend, the arguments, the data files, the pictures' look.

Imported before Keras: where KERAS_BACKEND isn't set, it takes the first backend that's installed.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

BACKENDS = ("jax", "torch", "tensorflow")
INSTALLED = [name for name in BACKENDS if importlib.util.find_spec(name)]
if INSTALLED:
    os.environ.setdefault("KERAS_BACKEND", INSTALLED[0])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no greeting from TensorFlow

INK, MUTED = "#1f2430", "#8a909c"
TEAL, ORANGE, PURPLE, GREEN = "#0b7285", "#d9730d", "#7b4b94", "#5a8a2f"
plt.switch_backend("agg")  # into files: no display is needed
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": plt.cycler(color=[TEAL, ORANGE, PURPLE, GREEN, MUTED]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e9e5dc",
        "legend.frameon": False,
    }
)


def arguments(description, argv=None, **numbers):
    """Reads the command line: --output DIR, and an option for each of `numbers`, such as epochs=5.

    Args:
        description: The program's docstring; its first line is shown by --help.
        argv: The arguments; None takes the process's.
        **numbers: Options that take a whole number above zero, with their defaults.

    Returns:
        A namespace with `output`, a pathlib.Path to a folder that exists, and the numbers.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("ostinato-examples"),
        metavar="DIR",
        help="folder for the picture and other files (default: %(default)s)",
    )
    for name, default in numbers.items():
        option = "--" + name.replace("_", "-")
        about = f"default: {default}"
        parser.add_argument(option, type=_positive, default=default, metavar="N", help=about)
    asked = parser.parse_args(argv)
    asked.output.mkdir(parents=True, exist_ok=True)
    print(f"Backend: {os.environ.get('KERAS_BACKEND')}.", flush=True)
    return asked


def picture(figure, path):
    """Writes a figure as PNG, closes it, and says where it is."""
    figure.savefig(path)
    plt.close(figure)
    print(f"Picture: {path}")


def bars(axes, names, values, title, colours, form):
    """Draws lying bars, the first on top, with their values beside them."""
    axes.bar_label(axes.barh(names, values, color=colours), fmt=form, padding=4)
    axes.set(title=title, xlim=(0, 1.2 * max(values)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def nearest_mean(known, labels, unknown):
    """The naive baseline: for each of `unknown` the label whose members have the nearest mean.

    `known` and `unknown` are arrays (examples, ...) of the same size behind the first axis.
    """
    names = np.unique(labels)
    means = np.stack([known[labels == name].mean(axis=0).ravel() for name in names])
    gaps = unknown.reshape(len(unknown), 1, -1) - means
    return names[np.square(gaps).sum(axis=-1).argmin(axis=1)]


def read_archive(dataset, split):
    """Reads a data set of the UCR/UEA archive from the files inside the package aeon.

    Only the files are read: aeon itself, with all that it needs, is never imported.

    Args:
        dataset: A name such as "JapaneseVowels".
        split: "TRAIN" or "TEST".

    Returns:
        The sequences, a list of float32 arrays (timesteps, channels), each of its own length, and
        their labels, an array of strings.
    """
    found = importlib.util.find_spec("aeon")
    if found is None:
        sys.exit(
            f"{dataset} comes with the package aeon, which isn't installed. Its files are enough:\n"
            "    pip install --no-deps aeon"
        )
    file = Path(found.origin).parent / "datasets" / "data" / dataset / f"{dataset}_{split}.ts"
    sequences, labels = [], []
    for line in file.read_text().split("@data\n")[1].splitlines():
        *channels, label = line.split(":")
        rows = [[float(value) for value in channel.split(",")] for channel in channels]
        sequences.append(np.array(rows, "float32").T)
        labels.append(label)
    return sequences, np.array(labels)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text}")
    return number
