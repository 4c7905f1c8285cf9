"""Numbers written out as words: an encoder reads the digits, a decoder writes the words.

    python examples/encoder_decoder.py

The encoder's last states are handed over as the decoder's first. In training the decoder is shown
the right words so far (teacher forcing). After each epoch it writes out numbers that it never saw,
greedily, each word from its own last one, through `ostinato.stream`, one stream a number; a number
is right if all its words are. The baseline says the words of the nearest number trained on.
"""

import _shared  # first: it chooses the backend
import keras
import numpy as np
from _pictures import draw_written
from keras import layers

import ostinato
from ostinato.layers import LSTM

ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
WORDS = ["", "<start>", "<end>", *ONES, *TENS, "hundred", "thousand"]  # the first is padding
START, END, DIGITS, LONGEST = 1, 2, 6, 10  # 777,777 has nine words; and <end>
UNITS, BATCH = 128, 128


def spell(number):
    """The words of a number below a million."""
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            return [*spell(number // size), name, *(spell(number % size) if number % size else [])]
    if number < len(ONES):
        return [ONES[number]]
    return [TENS[number // 10 - 2], *([ONES[number % 10]] if number % 10 else [])]


def encode(numbers):
    """Digits (N, 6), each plus one, and words (N, 11) from <start> to <end>; zeros fill up."""
    digits = np.zeros((len(numbers), DIGITS), "int32")
    words = np.zeros((len(numbers), 1 + LONGEST), "int32")
    for row, number in enumerate(numbers):
        read, said = str(number), ["<start>", *spell(int(number)), "<end>"]
        digits[row, : len(read)] = [1 + int(digit) for digit in read]
        words[row, : len(said)] = [WORDS.index(word) for word in said]
    return digits, words


def build():
    """The model to train, and its two halves, which share its weights."""
    digits, words = (keras.Input((None,), dtype="int32", name=name) for name in ("digits", "words"))
    embedded = layers.Embedding(1 + 10, 16, mask_zero=True)(digits)
    _, *states = LSTM(UNITS, return_state=True)(embedded)
    embed, score = layers.Embedding(len(WORDS), 32, mask_zero=True), layers.Dense(len(WORDS))
    decode = LSTM(UNITS, return_sequences=True, name="decoder")
    model = keras.Model([digits, words], score(decode(embed(words), initial_state=states)))
    return model, keras.Model(digits, states), keras.Sequential([words, embed, decode, score])


def write_out(encoder, decoder, digits):
    """Writes the words of many numbers at once, (N, LONGEST): greedily, zeros after <end>."""
    decoder.state = {"decoder": encoder.predict(digits, verbose=0)}
    word, written = np.full(len(digits), START), []
    for _ in range(LONGEST):
        word = decoder.step(word).argmax(-1)
        written.append(word)
    written = np.stack(written, axis=1)
    ended = np.cumsum(written == END, axis=1) - (written == END)
    return np.where(ended, 0, written)


class WriteOut(keras.callbacks.Callback):
    """After each epoch: which unseen numbers are right, and what one of them reads as."""

    def __init__(self, encoder, decoding, numbers):
        super().__init__()
        self.encoder, self.numbers = encoder, numbers
        self.digits, self.words = encode(numbers)
        self.decoder = ostinato.stream(decoding, streams=len(numbers))
        self.shown, self.written = np.count_nonzero(self.words, axis=1).argmax(), []

    def on_epoch_end(self, epoch, logs=None):
        self.decoder.refresh()
        self.written.append(write_out(self.encoder, self.decoder, self.digits))
        right = np.mean(np.all(self.written[-1] == self.words[:, 1:], axis=1))
        said = " ".join(WORDS[word] for word in self.written[-1][self.shown] if word > END)
        print(f"Epoch {epoch + 1:2}: {right:6.1%} right; {self.numbers[self.shown]:,}: {said}")


def main(argv=None):
    options = _shared.arguments(__doc__, argv, epochs=10, numbers=20_000, unseen=2_000)
    keras.utils.set_random_seed(0)
    random, count = np.random.default_rng(0), options.numbers + options.unseen
    digits = random.integers(1, DIGITS + 1, 3 * count)  # as often one as six; each number once
    numbers = random.permutation(np.unique(random.integers(0, 10**digits)))[:count]
    unseen, seen = np.split(numbers, [options.unseen])
    model, encoder, decoding = build()
    rate = keras.optimizers.schedules.CosineDecay(4e-3, options.epochs * len(seen) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    digits, words = encode(seen)
    watch = WriteOut(encoder, decoding, unseen)
    forced, wanted = words[:, :-1], words[:, 1:]  # each word after the right ones before it
    model.fit([digits, forced], wanted, BATCH, options.epochs, verbose=0, callbacks=[watch])
    nearest = encode([seen[np.abs(seen - number).argmin()] for number in unseen])[1][:, 1:]
    right, meant = {}, watch.words[:, 1:]
    print(f"{len(unseen):,} unseen numbers, after {len(seen):,} seen ones:")
    for name, written in (("nearest seen number", nearest), ("encoder-decoder", watch.written[-1])):
        right[name] = np.all(written == meant, axis=1).mean()
        by_word = np.mean((written == meant)[meant > 0])
        print(f"  {name:20}{right[name]:6.1%} right, {by_word:6.1%} of the words")
    draw_written(watch, WORDS, options.output / "encoder_decoder.png")
    return right


if __name__ == "__main__":
    main()
