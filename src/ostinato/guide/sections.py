"""The sections of the guide on layers, cells and states. Each runs its example and checks it."""

from typing import Any

import keras
import numpy as np

from ostinato import layers
from ostinato.guide import examples, pictures
from ostinato.guide.course import (
    SEED,
    Course,
    Fact,
    Findings,
    agree,
    array,
    differ,
    equal,
    shape,
    summarise,
)


def builtin_layers(course: Course) -> Findings:
    """Runs the guide's first model: Embedding, LSTM, Dense."""
    model = examples.builtin_layers()
    words = _random().integers(1000, size=(4, 12))
    # Each unit of each gate has a weight for every feature and every unit, and a bias.
    gates = 4 * 128 * (64 + 128 + 1)
    facts = [
        equal("The numbers in LSTM(128) on 64 features", model.layers[1].count_params(), gates),
        equal("4 sequences of 12 words give", shape(model.predict_on_batch(words)), "(4, 10)"),
        equal("4 sequences of 7 do too", shape(model.predict_on_batch(words[:, :7])), "(4, 10)"),
    ]
    return Findings("Sequences of any length in, one vector each out", facts, (), summarise(model))


def outputs(course: Course) -> Findings:
    """Runs a GRU that returns its sequence, under a SimpleRNN that doesn't; then the states."""
    model = examples.outputs()
    rows = summarise(model)
    x = _random().random((3, 5, 8), "float32")
    sequence = layers.GRU(64, return_sequences=True)
    last = layers.GRU(64)
    last.build(x.shape)
    sequence.build(x.shape)
    last.set_weights(sequence.get_weights())
    lstm = layers.LSTM(64, return_state=True)(x)
    gru = layers.GRU(64, return_state=True)(x)
    facts = [
        equal("GRU(256, return_sequences=True) gives", rows[1].shape, "(None, None, 256)"),
        equal("SimpleRNN(128) gives", rows[2].shape, "(None, 128)"),
        agree("Without sequences, it's the last vector", last(x), sequence(x)[:, -1]),
        equal("LSTM with return_state gives output, h and c", shape(*lstm), _joined("(3, 64)", 3)),
        equal("GRU gives output and h", shape(*gru), _joined("(3, 64)", 2)),
        agree("h is the output itself", [lstm[1], gru[1]], [lstm[0], gru[0]], 0.0),
    ]
    return Findings("One vector a sequence or one a timestep; the states too", facts, (), rows)


def encoder_decoder(course: Course) -> Findings:
    """Runs the encoder-decoder, and once more by hand, handing the states over."""
    model = examples.encoder_decoder()
    source, other = _random().integers(1000, size=(2, 4, 9))
    target = _random().integers(2000, size=(4, 6))
    answer = model.predict_on_batch([source, target])

    first, second = (layer for layer in model.layers if isinstance(layer, keras.layers.Embedding))
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    output, h, c = encoder(first(source))
    by_hand = model.layers[-1](decoder(second(target), initial_state=[h, c]))
    facts = [
        equal("The encoder gives output, h and c", shape(output, h, c), _joined("(4, 64)", 3)),
        agree("The model does what handing h and c over by hand does", answer, by_hand),
        differ(
            "Other words for the encoder alone change the decoder's answer",
            answer,
            model.predict_on_batch([other, target]),
        ),
    ]
    return Findings("The decoder starts from the encoder's h and c", facts, (), summarise(model))


def cells(course: Course) -> Findings:
    """Runs each built-in layer beside its cell in RNN, from the same weights."""
    x = _random().random((32, 28, 28), "float32")
    facts = [agree("LSTM(64) is RNN(LSTMCell(64))", *examples.cells(x))]
    others = {
        "GRU": (layers.GRU(64), layers.GRUCell(64)),
        "SimpleRNN": (layers.SimpleRNN(64), layers.SimpleRNNCell(64)),
    }
    for name, (layer, cell) in others.items():
        looped = layers.RNN(cell)
        layer.build(x.shape)
        looped.build(x.shape)
        looped.set_weights(layer.get_weights())
        facts.append(agree(f"{name}(64) is RNN({name}Cell(64))", layer(x), looped(x)))
    facts.append(_step_by_step(x))
    return Findings("A layer is its cell in a loop, to the last digits", facts)


def _step_by_step(x: Any) -> Fact:
    cell = layers.LSTMCell(64)
    layer = layers.RNN(cell, return_sequences=True)
    expected = layer(x)
    states, seen = cell.get_initial_state(batch_size=len(x)), []
    for step in range(x.shape[1]):
        output, states = cell(x[:, step], states)
        seen.append(output)
    return agree("So is a plain Python loop over LSTMCell", keras.ops.stack(seen, 1), expected)


def across_batches(course: Course) -> Findings:
    """Reads three paragraphs with a stateful layer, and as one text with one that isn't."""
    paragraphs = _paragraphs()
    layer, seen = examples.across_batches(paragraphs)
    text = np.concatenate(paragraphs, axis=1)
    whole = layers.LSTM(64, return_sequences=True)
    whole.build(text.shape)
    whole.set_weights(layer.get_weights())
    expected = whole(text)
    after = [array(state) for state in layer.states]
    examples.forget(layer)
    zero = [np.zeros_like(state) for state in after]
    facts = [
        agree("Three paragraphs of 10 steps end as one text of 30 does", seen[2], expected[:, -1]),
        agree("The states are what the text left behind", after[0], expected[:, -1]),
        agree("reset_states() makes them zero", [array(s) for s in layer.states], zero, 0.0),
        agree(
            "Then the first paragraph reads as it did first", layer(paragraphs[0]), seen[0], 1e-6
        ),
    ]
    apart = np.concatenate([array(whole(paragraph)) for paragraph in paragraphs], axis=1)
    picture = pictures.memory(array(expected)[0], apart[0])
    return Findings("State carries from one batch to the next, until it's reset", facts, (picture,))


def reuse(course: Course) -> Findings:
    """Starts a new layer from the states of another."""
    paragraphs = _paragraphs()
    layer, _ = examples.across_batches(paragraphs[:2])
    left = [array(state) for state in layer.states]
    new, output = examples.reuse(layer, paragraphs[2])
    fresh = new(paragraphs[2])
    new.set_weights(layer.get_weights())
    resumed = new(paragraphs[2], initial_state=left)
    facts = [
        equal("layer.states holds h and c", shape(*left), _joined("(20, 64)", 2)),
        equal(
            "They aren't among the layer's weights", _names(layer), "kernel, recurrent_kernel, bias"
        ),
        differ("A new layer started from them differs from one started at zero", output, fresh),
        agree(
            "With the old layer's weights it goes on as the old one does",
            resumed,
            layer(paragraphs[2]),
        ),
    ]
    return Findings("layer.states starts another layer where this one stopped", facts)


def bidirectional(course: Course) -> Findings:
    """Runs two Bidirectional layers, and one of them as two layers by hand."""
    model = examples.bidirectional()
    rows = summarise(model)
    x = _random().random((6, 5, 10), "float32")
    both = layers.Bidirectional(layers.LSTM(32))
    output = array(both(x))
    weights, directions = both.get_weights(), []
    for part, sequence in ((weights[:3], x), (weights[3:], x[:, ::-1])):
        layer = layers.LSTM(32)
        layer.build(x.shape)
        layer.set_weights(part)
        directions.append(layer(np.ascontiguousarray(sequence)))
    total = layers.Bidirectional(layers.LSTM(32), merge_mode="sum")
    total.build(x.shape)
    total.set_weights(weights)
    facts = [
        equal("The first layer gives 2 x 64 for each timestep", rows[0].shape, "(None, 5, 128)"),
        equal("The second gives 2 x 32", rows[1].shape, "(None, 64)"),
        agree("The first half is LSTM(32) on the sequence", output[:, :32], directions[0]),
        agree(
            "The second half is LSTM(32) on the sequence reversed", output[:, 32:], directions[1]
        ),
        agree('merge_mode="sum" adds the halves', total(x), output[:, :32] + output[:, 32:]),
    ]
    return Findings("Two readings, forwards and backwards, side by side", facts, (), rows)


def _paragraphs() -> list[Any]:
    return [_random(n).random((20, 10, 50), "float32") for n in range(3)]


def _random(stream: int = 0) -> np.random.Generator:
    return np.random.default_rng((SEED, stream))


def _names(layer: Any) -> str:
    return ", ".join(weight.name for weight in layer.weights)


def _joined(text: str, times: int) -> str:
    return ", ".join(times * [text])
