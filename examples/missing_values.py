"""Japanese vowels with holes: GRU-D, a cell that knows what is missing, written from its paper.

    python examples/missing_values.py

Three of four values are dropped. GRU-D (Che et al., 2018) is told which are there; what's missing
fades from its last value to the mean, and what the cell remembers fades too. Baselines: an LSTM on
the same, holes filled by the last value, and the speaker whose mean is nearest. Its time stands
beside the LSTM's and the backend's loop's; at the end it runs as a stream. Data: Kudo et al., UCI.
"""

import time

import _shared  # first: it chooses the backend
import keras
import numpy as np
from _pictures import draw_missing_values
from keras import layers, ops

import ostinato
from ostinato.layers import LSTM, RNN

UNITS, FEATURES, TIMESTEPS, BATCH, KEPT = 64, 12, 29, 30, 0.25  # KEPT: of the values


class GRUDCell(keras.layers.Layer):
    """GRU-D: a timestep is [values, which of them are there]; the states are h, last, gap."""

    def __init__(self, units, features, **kwargs):
        super().__init__(**kwargs)
        self.units, self.features = units, features
        self.state_size, self.output_size = [units, features, features], units

    def build(self, input_shape):
        units, features = self.units, self.features
        self.gates = layers.Dense(3 * units)  # of the values, and of which are there
        self.gates.build((None, 2 * features))
        self.recurrent = self.add_weight(shape=(units, 3 * units), initializer="orthogonal")
        self.fade_x = self.add_weight(shape=(features,), initializer="ones", name="fade_x")
        self.fade_h = layers.Dense(units)
        self.fade_h.build((None, features))

    def call(self, inputs, states):
        (h, last, gap), units = states, self.units
        (values, there), gap = ops.split(inputs, 2, axis=-1), gap + 1.0  # timesteps without a value
        last = ops.where(there > 0.5, values, last)
        faded = ops.exp(-ops.relu(self.fade_x * gap)) * last  # to 0, the mean
        x = ops.where(there > 0.5, values, faded)
        h = ops.exp(-ops.relu(self.fade_h(gap))) * h
        from_x = self.gates(ops.concatenate([x, there], axis=-1))
        from_h = ops.matmul(h, self.recurrent[:, : 2 * units])
        update, reset = ops.split(ops.sigmoid(from_x[:, : 2 * units] + from_h), 2, axis=-1)
        new = ops.matmul(reset * h, self.recurrent[:, 2 * units :])
        h = update * h + (1.0 - update) * ops.tanh(from_x[:, 2 * units :] + new)
        return h, [h, last, gap * (1.0 - there)]


def read(split, scale, rng):
    """Utterances with holes, as [values, there], and with holes filled; their speakers."""
    sequences, speakers = _shared.read_archive("JapaneseVowels", split)
    mean, spread = scale or (f(np.concatenate(sequences), axis=0) for f in (np.mean, np.std))
    holes, filled = (np.zeros((len(sequences), TIMESTEPS, 2 * FEATURES), "float32") for _ in "12")
    for row, frames in enumerate(sequences):
        there = rng.random(frames.shape) < KEPT
        values = (frames - mean) / spread * there
        at = np.maximum.accumulate(np.where(there, np.arange(len(frames))[:, None], 0), axis=0)
        start = TIMESTEPS - len(frames)  # padding comes first
        holes[row, start:] = np.concatenate([values, there], axis=1)
        filled[row, start:] = np.concatenate([np.take_along_axis(values, at, 0), there], axis=1)
    return holes, filled, speakers.astype("int32") - 1, (mean, spread)


def train(name, layer, x, y, unseen, epochs):
    """Returns the model, the share of unseen speakers that it names, and ms a step of training."""
    keras.utils.set_random_seed(2)
    noise = [keras.Input((None, 2 * FEATURES)), layers.GaussianNoise(0.3)]
    model = keras.Sequential([*noise, layer(), layers.Dropout(0.5), layers.Dense(9)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[clock])
    _, right = model.evaluate(*unseen, verbose=0)
    milliseconds = 1000 * float(np.median(np.diff(ends))) / -(-len(x) // BATCH)
    print(f"{name:32} {right:6.1%} right, {milliseconds:7.2f} ms a step", flush=True)
    return model, right, milliseconds


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=40)
    rng = np.random.default_rng(4)
    holes, filled, speakers, scale = read("TRAIN", None, rng)
    unseen, unseen_filled, truth, _ = read("TEST", scale, rng)
    means = [x.sum(axis=1) / np.maximum(1, (x != 0).sum(axis=1)) for x in (holes, unseen)]
    baseline = np.mean(_shared.nearest_mean(means[0], speakers, means[1]) == truth)
    print(f"{1 - KEPT:.0%} of the values are missing; the nearest mean names {baseline:.1%} right")

    def own():
        return RNN(GRUDCell(UNITS, FEATURES))

    known, strange = (holes, speakers), (unseen, truth)
    model, *of_ours = train("GRU-D", own, *known, strange, asked.epochs)
    print(ostinato.explain(model))
    given = (filled, speakers, (unseen_filled, truth), asked.epochs)
    _, *of_lstm = train("LSTM, holes filled", lambda: LSTM(UNITS), *given)
    with ostinato.use_engine("scan"):
        _, _, portable = train("the same in 4 epochs, by a loop", own, *known, strange, 4)
    print(f"On the loop a step takes {portable / of_ours[1]:.1f} times as long")
    row = int(np.argmax((unseen != 0).sum(axis=(1, 2))))  # the fullest
    stream = ostinato.stream(model)
    scores = np.stack([stream.step(frame) for frame in unseen[row]])
    gap = np.abs(scores[-1] - model.predict(unseen[row : row + 1], verbose=0)[0]).max()
    print(f"Streamed, a timestep at a time, it says the same in the end, to {gap:.0e}")
    results = {"GRU-D": of_ours, "LSTM, holes filled": of_lstm}
    draw_missing_values(results, baseline, unseen[row], scores, asked.output / "missing_values.png")
    return {"GRU-D": of_ours[0], "LSTM": of_lstm[0], "baseline": baseline, "gap": gap}


if __name__ == "__main__":
    main()
