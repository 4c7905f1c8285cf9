"""Which of nine speakers says "ae"? Utterances of 7 to 29 timesteps, of 12 features each.

    python examples/japanese_vowels.py

Sequences of many lengths don't fit into one array. The ways round that, tried from the same first
weights: cut all to the shortest; pad all, without a mask or with one; make batches of like length.
The baseline averages an utterance over time and names the speaker whose mean is nearest.
Data: Kudo, Toyama and Shimbo, 1999, at UCI.
"""

import time

import _shared  # first: it chooses the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from ostinato.layers import GRU

UNITS, BATCH = 128, 30
WAYS = {  # name: the layer, whether padding is masked, and timesteps; None: batches of like length
    "cut to 7": (GRU, False, 7),
    "padded to 100, no mask": (GRU, False, 100),
    "padded to 100, masked": (GRU, True, 100),
    "the same, Keras's GRU": (layers.GRU, True, 100),
    "padded to 29, masked": (GRU, True, 29),
    "like lengths, masked": (GRU, True, None),
}


class Batches(keras.utils.PyDataset):
    """Batches (30, timesteps, 12); without `timesteps` those of like length, to a multiple of 4."""

    def __init__(self, sequences, speakers, timesteps):
        super().__init__()
        order = np.random.default_rng(3).permutation(len(sequences))
        if timesteps is None:
            order = sorted(order, key=lambda row: len(sequences[row]))
        self.batches = []
        for rows in np.split(order, range(BATCH, len(order), BATCH)):
            longest = timesteps or -(-len(sequences[rows[-1]]) // 4) * 4
            self.batches.append((pad([sequences[row] for row in rows], longest), speakers[rows]))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def pad(sequences, timesteps):
    """One array (utterances, timesteps, 12): cut, or filled up with zeros, at the end."""
    ends = {"padding": "post", "truncating": "post", "dtype": "float32"}
    return keras.utils.pad_sequences(sequences, timesteps, **ends)


def read():
    """Utterances, their features scaled as in training, and speakers 0 to 8: training, unseen."""
    parts = [_shared.read_archive("JapaneseVowels", split) for split in ("TRAIN", "TEST")]
    frames = np.concatenate(parts[0][0])
    mean, spread = frames.mean(axis=0), frames.std(axis=0)
    return [([(one - mean) / spread for one in x], y.astype("int32") - 1) for x, y in parts]


def train(name, training, unseen, epochs):
    """Returns the model, the share of unseen speakers that it names right, and ms an epoch."""
    layer, masked, timesteps = WAYS[name]
    keras.utils.set_random_seed(2)
    masking = [layers.Masking()] if masked else []  # masks the timesteps that are all zeros
    recurrent = [layer(UNITS, dropout=0.2), layers.Dropout(0.3), layers.Dense(9)]
    model = keras.Sequential([keras.Input((None, 12)), *masking, *recurrent])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    print(f"{name:24}", end="", flush=True)
    model.fit(Batches(*training, timesteps), epochs=epochs, verbose=0, callbacks=[clock])
    _, accuracy = model.evaluate(Batches(*unseen, timesteps), verbose=0)
    milliseconds = 1000 * float(np.median(np.diff(ends)))  # the median: the first ones compile
    print(f"{accuracy:6.1%} right, {milliseconds:6.1f} ms an epoch")
    return model, accuracy, milliseconds


def draw(results, baseline, utterances, path):
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.2), width_ratios=(3, 3, 2))
    names, (shares, times) = list(results), np.transpose(list(results.values()))
    colours = [_shared.ORANGE if "Keras" in name else _shared.TEAL for name in names]
    _shared.bars(left, names, 100 * shares, "Named right, % (baseline dashed)", colours, "%.1f")
    left.axvline(100 * baseline, color=_shared.INK, linestyle="--")
    _shared.bars(middle, names, times, "An epoch of training, ms", colours, "%.0f")
    middle.set_yticklabels([])
    right.hist([len(one) for one in utterances], bins=range(7, 31), color=_shared.TEAL)
    right.set(title="Utterances by length", xlabel="timesteps")
    _shared.picture(figure, path)


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=45)
    training, unseen = read()
    print(f"{len(training[0])} utterances to train on, {len(unseen[0])} unseen")
    results = {}
    for name in WAYS:
        model, *results[name] = train(name, training, unseen, asked.epochs)
    # The last model, without any padding and with much:
    bare = np.concatenate([model.predict_on_batch(one[None]) for one in unseen[0]])
    for timesteps in (29, 100, 1000):
        apart = np.abs(model.predict(pad(unseen[0], timesteps), verbose=0) - bare).max()
        print(f"Padded to {timesteps} and masked, its scores differ from bare ones by {apart:.0e}")
    means, others = (np.stack([one.mean(axis=0) for one in part[0]]) for part in (training, unseen))
    baseline = float(np.mean(_shared.nearest_mean(means, training[1], others) == unseen[1]))
    draw(results, baseline, training[0] + unseen[0], asked.output / "japanese_vowels.png")
    masked, _ = results["padded to 29, masked"]
    print(f"Speakers named right: {masked:.1%} with masks, {baseline:.1%} by the nearest mean")
    return {"results": results, "baseline": baseline, "apart": apart}


if __name__ == "__main__":
    main()
