"""Standing, walking, running or badminton? A watch's two sensors, in a cell that fuses them.

    python examples/basic_motions.py

The input is a dict, {"accelerometer": ..., "gyroscope": ...}, and so are the states of the cell: a
GRU for each sensor, and a gate that says how far to trust which. It's asked after each tenth of a
second: how soon does it know? So are the baselines: the nearest neighbour, which the data's archive
compares with, and the nearest mean of each sensor's level and swing. Data: BasicMotions, UEA.
"""

import _shared  # first: it chooses the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops

from ostinato.layers import RNN, GRUCell

SENSORS = ("accelerometer", "gyroscope")
UNITS, WINDOW, BATCH = 64, 40, 40  # the window: 4 seconds


class FusionCell(keras.layers.Layer):
    """A GRU for each sensor; the output is their outputs' mean, weighted by a gate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.cells = {sensor: GRUCell(units) for sensor in SENSORS}
        self.gate = layers.Dense(1, activation="sigmoid")
        self.state_size, self.output_size = dict.fromkeys(SENSORS, units), units

    def build(self, input_shape):
        for sensor, cell in self.cells.items():
            cell.build(input_shape[sensor])
        self.gate.build((None, 2 * self.output_size))

    def call(self, inputs, states):
        felt = {name: cell(inputs[name], [states[name]])[0] for name, cell in self.cells.items()}
        moved, turned = (felt[sensor] for sensor in SENSORS)
        trust = self.gate(ops.concatenate([moved, turned], axis=-1))
        return trust * moved + (1 - trust) * turned, felt


def build():
    """A model that gives the four motions' probabilities at each timestep."""
    keras.utils.set_random_seed(1)
    inputs = {sensor: keras.Input((None, 3), name=sensor) for sensor in SENSORS}
    fused = RNN(FusionCell(UNITS), return_sequences=True)(inputs)
    model = keras.Model(inputs, layers.Dense(4, "softmax")(layers.Dropout(0.3)(fused)))
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    return model


def read(split, step):
    """Windows (N, 40, 6), one each `step` tenths of a second of a recording, and their motions."""
    recordings, motions = _shared.read_archive("BasicMotions", split)
    recordings = np.arcsinh(np.stack(recordings))  # running swings twenty times as far as standing
    windows = [recordings[:, start : start + WINDOW] for start in range(0, 101 - WINDOW, step)]
    return np.concatenate(windows), np.tile(motions, len(windows))


def by_sensor(windows):
    return {"accelerometer": windows[..., :3], "gyroscope": windows[..., 3:]}


def baselines(known, labels, unknown):
    """The motions named by the nearest neighbour, and by the nearest mean of level and swing."""
    nearest = [np.square(known - one).sum(axis=(1, 2)).argmin() for one in unknown]
    both = [np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=-1) for x in (known, unknown)]
    return labels[nearest], _shared.nearest_mean(both[0], labels, both[1])


def draw(shares, windows, truth, beliefs, names, path):
    """How soon each knows; and a window of each motion, with what is felt and believed."""
    figure = plt.figure(figsize=(12, 4.6))
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    seconds = np.arange(1, WINDOW + 1) / 10
    axes = left.subplots()
    axes.plot(seconds, 100 * shares, label=["the cell", "nearest neighbour", "level and swing"])
    axes.set(title="Motions named right, %", xlabel="seconds seen")
    axes.legend(loc="lower right")
    grid = right.subplots(3, len(names), sharex=True, sharey="row")
    for column, name in zip(grid.T, names, strict=True):
        row = np.flatnonzero(truth == name)[0]
        for axes, felt in zip(column, by_sensor(np.sinh(windows[row])).values(), strict=False):
            axes.set_prop_cycle(color=(_shared.INK, _shared.MUTED, "#c9a26d"))
            axes.plot(seconds, felt, linewidth=1)
        column[0].set_title(name)
        bands = column[2].stackplot(seconds, beliefs[row].T)
    for axes, label in zip(grid[:, 0], [*SENSORS, "belief"], strict=True):
        axes.set_ylabel(label)
    right.legend(bands, names, loc="outside lower center", ncols=len(names))
    _shared.picture(figure, path)


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=20)
    (known, labels), (unseen, truth) = read("TRAIN", step=5), read("TEST", step=10)
    names, numbers = np.unique(labels, return_inverse=True)
    print(f"{len(known)} windows of 4 seconds to train on, {len(unseen)} unseen")
    model = build()
    each_step = np.repeat(numbers[:, None], WINDOW, axis=1)  # it's asked at each timestep
    model.fit(by_sensor(known), each_step, batch_size=BATCH, epochs=asked.epochs, verbose=2)
    beliefs = model.predict(by_sensor(unseen), verbose=0)
    first = [(known[:, :step], labels, unseen[:, :step]) for step in range(1, WINDOW + 1)]
    naive = np.stack([baselines(*windows) for windows in first], axis=-1)
    named = [names[beliefs.argmax(axis=-1)], *naive]  # three times (windows, timesteps)
    shares = np.mean(np.equal(named, truth[:, None]), axis=1).T
    print("Seconds seen   the cell   nearest neighbour   level and swing")
    for step in (5, 10, 15, 20, 40):
        print("{:12} {:10.1%} {:19.1%} {:17.1%}".format(step / 10, *shares[step - 1]))
    draw(shares, unseen, truth, beliefs, names, asked.output / "basic_motions.png")
    best = shares[9, 1:].max()
    print(f"Named right after one second: {shares[9, 0]:.1%}; by the better baseline {best:.1%}")
    return shares


if __name__ == "__main__":
    main()
