"""What weights in int8 cost on the examples' tasks: each trained in float32, then quantized.

`python -m benchmarks.quantized_tasks`: some minutes; prints the score of both on unseen data.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import characters
import encoder_decoder
import japanese_vowels
import keras
import mnist_rows
import numpy as np

import ostinato
from ostinato.guide import digits

Scores = tuple[float, float]  # of float32, of int8


def _digits() -> Scores:
    shipped = digits.shipped("10,000 digits of MNIST").part(8500, 1500)
    x, y = shipped.x_train, shipped.y_train
    model = mnist_rows.build(12 * -(-len(x) // mnist_rows.BATCH))
    model.fit(x, y, mnist_rows.BATCH, 12, verbose=0)
    right = [
        np.mean(each.predict(shipped.x_test, verbose=0).argmax(axis=1) == shipped.y_test)
        for each in (model, ostinato.quantize(model))
    ]
    return right[0], right[1]


def _speakers() -> Scores:
    training, unseen = japanese_vowels.read()
    model, _, _ = japanese_vowels.train("padded to 29, masked", training, unseen, 45)
    x = japanese_vowels.pad(unseen[0], 29)
    right = [
        np.mean(each.predict(x, verbose=0).argmax(axis=1) == unseen[1])
        for each in (model, ostinato.quantize(model))
    ]
    return right[0], right[1]


def _text() -> Scores:
    keras.utils.set_random_seed(0)
    text, held_out, alphabet = characters.read()
    place = {character: index for index, character in enumerate(alphabet)}
    seen, unseen = (np.array([place[c] for c in part]) for part in (text, held_out))
    model = characters.build(len(alphabet), characters.ROWS)
    stream = ostinato.stream(model)
    characters.train(model, seen, 12, characters.ReadAnew(unseen, stream))
    bits = [
        characters.surprise(each, unseen).mean() for each in (stream, ostinato.quantize(stream))
    ]
    return bits[0], bits[1]


def _numbers() -> Scores:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    lengths = random.integers(1, encoder_decoder.DIGITS + 1, 66_000)
    chosen = random.permutation(np.unique(random.integers(0, 10**lengths)))[:22_000]
    unseen, seen = np.split(chosen, [2_000])
    model, encoder, decoding = encoder_decoder.build()
    rate = keras.optimizers.schedules.CosineDecay(4e-3, 10 * len(seen) // encoder_decoder.BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    given, words = encoder_decoder.encode(seen)
    model.fit([given, words[:, :-1]], words[:, 1:], encoder_decoder.BATCH, 10, verbose=0)
    given, words = encoder_decoder.encode(unseen)
    stream = ostinato.stream(decoding, streams=len(unseen))
    right = []
    for first, then in ((encoder, stream), (ostinato.quantize(encoder), ostinato.quantize(stream))):
        written = encoder_decoder.write_out(first, then, given)
        right.append(np.all(written == words[:, 1:], axis=1).mean())
    return right[0], right[1]


TASKS: dict[str, Callable[[], Scores]] = {
    "speakers named right (japanese_vowels.py)": _speakers,
    "digits named right (mnist_rows.py)": _digits,
    "numbers spelled right (encoder_decoder.py)": _numbers,
    "bits a character (characters.py)": _text,
}

if __name__ == "__main__":
    print("| | float32 | int8 |\n|---|---|---|")
    for task, measure in TASKS.items():
        plain, int8 = measure()
        print(f"| {task} | {plain:.4f} | {int8:.4f} |", flush=True)
