"""Python's own documentation, learned a character at a time, and then written on as a stream.

    python examples/characters.py

The text is `pydoc_data.topics`, which comes with CPython: what `help("if")` prints. An LSTM learns
to say the next character; it reads 32 places of the text at once, its state going on from chunk to
chunk. It is measured in bits per character on the last tenth of the text, read as one stream, and
so are the baselines: n-gram models, which count what follows a character, or up to four. Then it
writes: each character is drawn and fed back, by `step` and, to compare, by `predict`.
"""

import time

import _shared  # first: it chooses the backend
import keras
import numpy as np
from _pictures import draw_read
from _topics import bits_by_ngrams, read
from keras import layers

import ostinato
from ostinato.layers import LSTM

ROWS, CHUNK = 32, 64
PROMPT, TEMPERATURE = "The Python interpreter", 0.6


def build(kinds, rows):
    lstm = LSTM(256, return_sequences=True, stateful=True, name="lstm")
    ids = keras.Input((None,), batch_size=rows, dtype="int32")
    embed, drop, score = layers.Embedding(kinds, 64), layers.Dropout(0.2), layers.Dense(kinds)
    return keras.Sequential([ids, embed, lstm, drop, score])


def surprise(stream, text):
    """Bits that each character but the first costs, the text read as one stream."""
    stream.reset()
    scores = stream.run(text[:-1]).astype("float64")
    right = scores[np.arange(len(scores)), text[1:]]
    return (np.logaddexp.reduce(scores, axis=1) - right) / np.log(2)


class ReadAnew(keras.callbacks.Callback):
    """Starts each epoch without state, and measures the held-out text after it."""

    def __init__(self, held_out, stream):
        super().__init__()
        self.held_out, self.stream, self.epochs = held_out, stream, []

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("lstm").reset_state()

    def on_epoch_end(self, epoch, logs=None):
        self.stream.refresh()  # the weights as trained since
        self.bits = surprise(self.stream, self.held_out)
        self.epochs.append(self.bits.mean())
        print(f"Epoch {epoch + 1:2}: {self.epochs[-1]:.2f} bits per held-out character", flush=True)


def train(model, text, epochs, watch):
    """Trains on chunks of the text; each row of a batch goes on where its last chunk ended."""
    length = (len(text) - 1) // (ROWS * CHUNK) * ROWS * CHUNK
    x, y = (
        part.reshape(ROWS, -1, CHUNK).swapaxes(0, 1).reshape(-1, CHUNK)
        for part in (text[:length], text[1 : length + 1])
    )
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(x) // ROWS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, ROWS, epochs, shuffle=False, verbose=0, callbacks=[watch])


def write(say, scores, count):
    """Draws characters from the scores after each; returns them, and how many a second."""
    random, written, began = np.random.default_rng(0), [], time.perf_counter()
    for _ in range(count):
        noise = random.gumbel(size=len(scores))  # the largest sum is a draw by softmax
        written.append(int(np.argmax(scores / TEMPERATURE + noise)))
        scores = say(written[-1])
    return written, count / (time.perf_counter() - began)


def main(argv=None):
    options = _shared.arguments(__doc__, argv, epochs=12, characters=1000, by_predict=100)
    keras.utils.set_random_seed(0)
    text, held_out, alphabet = read()
    print(f"{len(text):,} characters to train on, {len(held_out):,} held out")
    single, double, *_, five = bits_by_ngrams(text, held_out, 5)
    place = {character: index for index, character in enumerate(alphabet)}
    prompt, seen, unseen = (np.array([place[c] for c in part]) for part in (PROMPT, text, held_out))
    model = build(len(alphabet), ROWS)
    watch = ReadAnew(unseen, ostinato.stream(model))
    train(model, seen, options.epochs, watch)
    bits = {"single characters": single, "pairs": double, "1- to 5-grams": five}
    bits["LSTM"] = watch.epochs[-1]
    print("Bits per held-out character:", ", ".join(f"{name} {b:.2f}" for name, b in bits.items()))

    watch.stream.reset()
    scores = watch.stream.run(prompt)[-1]
    written, rate = write(watch.stream.step, scores, options.characters)
    one = build(len(alphabet), 1)
    one.set_weights(model.get_weights())

    def predict(ids):
        return one.predict(np.reshape(ids, (1, -1)), verbose=0)[0, -1]

    predict(0)  # compiles
    one.get_layer("lstm").reset_state()
    again, slow_rate = write(predict, predict(prompt), options.by_predict)
    same = "the same" if again == written[: len(again)] else "another"
    print(f"\n{PROMPT}{''.join(alphabet[index] for index in written)}\n")
    print(f"{rate:,.0f} characters a second by step, {slow_rate:,.0f} by predict, {same} text.")
    draw_read(watch, bits, held_out, options.output / "characters.png")
    return bits, rate / slow_rate, same


if __name__ == "__main__":
    main()
