"""The sections on layers, cells and states. Each runs the guide's code and checks what it gives."""

import statistics
import time
from typing import Any

import keras
import numpy as np

from ostinato import layers
from ostinato.explanation import explain
from ostinato.guide import examples, pictures
from ostinato.guide.examples import NestedCell
from ostinato.guide.section import (
    SEED,
    Fact,
    Findings,
    Run,
    agree,
    array,
    body,
    differ,
    equal,
    section,
    shape,
    summarise,
    whole,
)


@section(
    "Built-in layers",
    "SimpleRNN, GRU and LSTM stand in a model like any other layer. Here an LSTM reads "
    "sequences of whole numbers, each turned into a vector, and its last output goes on to a "
    "Dense layer.",
    body(examples.builtin_layers),
)
def builtin_layers(run: Run) -> Findings:
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


@section(
    "Outputs and states",
    "A recurrent layer gives one vector for each sequence, or with return_sequences one for "
    "each timestep, which another recurrent layer can read. With return_state its states come "
    "too.",
    body(examples.outputs),
)
def outputs(run: Run) -> Findings:
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


@section(
    "Encoder and decoder",
    "The states in which one layer ends can be those from which another starts. So a decoder "
    "knows what the encoder has read, though it never sees a word of it.",
    body(examples.encoder_decoder),
)
def encoder_decoder(run: Run) -> Findings:
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


@section(
    "Layers and cells",
    "A cell is the inside of a layer's loop over time: it takes one timestep. RNN puts the "
    "loop around any cell. RNN(LSTMCell(64)) is LSTM(64), written out.",
    body(examples.cells),
)
def cells(run: Run) -> Findings:
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


@section(
    "State across batches",
    "A long text can be read in parts. With stateful=True, a layer goes into each batch with "
    "the states that the batch before left behind, until they are reset.",
    body(examples.across_batches),
    body(examples.forget),
)
def across_batches(run: Run) -> Findings:
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


@section(
    "State reused",
    "States are no weights. They stand in layer.states, and can start another layer.",
    body(examples.reuse),
)
def reuse(run: Run) -> Findings:
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


@section(
    "Bidirectional",
    "Where the whole sequence is there at once, a second copy of a layer can read it from its "
    "end. Bidirectional joins the two readings.",
    body(examples.bidirectional),
)
def bidirectional(run: Run) -> Findings:
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


@section(
    "Nested input",
    "At one timestep there can be several things at once: a frame and its sound, a pen's place "
    "and its pressure. This cell takes a vector and a matrix, and its states and outputs have "
    "the same two parts. Keras 3's own RNN can't run it any more. The data are random, as in "
    "the guide.",
    whole(examples.NestedCell),
    body(examples.nested_model),
)
def nested(run: Run) -> Findings:
    """Trains the nested model on random data, as the guide does, and checks its arithmetic."""
    keras.utils.set_random_seed(SEED)
    model = examples.nested_model()
    batches, timesteps = (2, 8) if run.quick else (10, 50)
    inputs, targets = _random_data(64 * batches, timesteps)
    before = model.evaluate(inputs, targets, batch_size=64, verbose=0)[0]
    model.fit(inputs, targets, batch_size=64)
    after = model.evaluate(inputs, targets, batch_size=64, verbose=0)[0]

    runs = _how_it_runs(model, [part[:64] for part in inputs], [part[:64] for part in targets])
    short = [part[:4, :5] for part in inputs]
    outputs, states, cell = _with_states(model, short)
    rebuilt = NestedCell.from_config(cell.get_config())
    facts = [
        equal(
            "The model's outputs are",
            shape(*model.outputs),
            "(None, 10), (None, 20, 30)",
        ),
        Fact("fit lowers the loss", f"{before:.2f} to {after:.2f}", after < before),
        *runs,
        agree("The outputs are those of the last timestep", outputs, _sums(cell, short, last=True)),
        agree("The states are NumPy's sums over all timesteps", states, _sums(cell, short)),
        equal("The cell's config makes the same cell", _units(rebuilt), _units(cell)),
    ]
    parts = {"input": [part[0, -1] for part in short]}
    parts |= {"output": [array(part)[0] for part in outputs]}
    parts |= {"state": [array(part)[0] for part in states]}
    picture = pictures.nested(parts)
    showed = "A vector and a matrix at each timestep, trained with fit"
    return Findings(showed, facts, (picture,), summarise(model))


def _how_it_runs(model: Any, inputs: list[Any], targets: list[Any]) -> list[Fact]:
    """Which engine runs the cell, and how long a step takes: they hold whatever they are."""
    (row,) = explain(model)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        model.train_on_batch(inputs, targets)  # returns the loss as a number: the step is done
        spent.append(1000 * (time.perf_counter() - start))
    return [
        Fact("The engine that runs the cell", f"{row.engine}, on {row.target}", True),
        Fact("A training step on 64 of them", f"{statistics.median(spent):.1f} ms", True),
    ]


def _units(cell: NestedCell) -> str:
    config = cell.get_config()
    return ", ".join(f"{name}={config[name]}" for name in ("unit_1", "unit_2", "unit_3"))


def _random_data(samples: int, timesteps: int) -> tuple[list[Any], list[Any]]:
    shapes = {"inputs": [(timesteps, 32), (timesteps, 64, 32)], "targets": [(10,), (20, 30)]}
    random = np.random.default_rng(SEED)
    inputs, targets = (
        [random.random((samples, *size), "float32") for size in sizes] for sizes in shapes.values()
    )
    return inputs, targets


def _with_states(model: Any, inputs: list[Any]) -> tuple[Any, Any, Any]:
    """Runs the model's cell in an RNN that returns its states."""
    cell = next(layer.cell for layer in model.layers if isinstance(layer, layers.RNN))
    outputs, *states = layers.RNN(cell, return_state=True)(tuple(inputs))
    return list(outputs), states, cell


def _sums(cell: NestedCell, inputs: list[Any], last: bool = False) -> list[Any]:
    vectors, matrices = (part[:, -1:] if last else part for part in inputs)
    return [
        np.einsum("bti,ij->bj", vectors, array(cell.kernel_1)),
        np.einsum("btij,ijkl->bkl", matrices, array(cell.kernel_2_3), optimize=True),
    ]
