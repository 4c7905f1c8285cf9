"""The text that characters.py reads, and its baseline."""

from collections import Counter
from pydoc_data.topics import topics

import numpy as np


def read():
    """The text to train on, the text held out, and the characters of both."""
    # Topics share whole paragraphs. Each counts once, or the held-out text would be known by heart.
    paragraphs = dict.fromkeys(part for topic in topics.values() for part in topic.split("\n\n"))
    text = "\n\n".join(paragraphs)
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:], "".join(sorted(set(text)))


def bits_by_ngrams(text, held_out, order):
    """Bits per held-out character by n-gram models of the text, for each n up to `order`.

    Each is mixed with the one that looks back one character less, by the rule of Witten and Bell:
    the more kinds of characters came after a context, the more is left for those that never did.
    """
    given = np.full(len(held_out), 1 / len(set(text + held_out)))
    bits = []
    for before in range(order):
        seen = Counter(text[start : start + before + 1] for start in range(len(text) - before))
        contexts, kinds = Counter(), Counter()
        for window, times in seen.items():
            contexts[window[:-1]] += times
            kinds[window[:-1]] += 1
        for place in range(before, len(held_out)):
            window = held_out[place - before : place + 1]
            context = window[:-1]
            if context in contexts:
                new = kinds[context] * given[place]
                given[place] = (seen[window] + new) / (contexts[context] + kinds[context])
        bits.append(float(-np.mean(np.log2(given))))
    return bits
