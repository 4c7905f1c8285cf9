"""`ostinato.stream`: reads a model, and chooses what runs its timesteps."""

from functools import partial
from typing import Any

from keras.layers import Layer

from ostinato.streaming.checks import number_of_streams
from ostinato.streaming.compiled import Compiled
from ostinato.streaming.graph import read
from ostinato.streaming.lowering import lower, why_not
from ostinato.streaming.quantizing import quantized
from ostinato.streaming.stepwise import Stepwise
from ostinato.streaming.stream import Stream


def stream(model: Any, streams: int | None = None) -> Stream:
    """Runs a model one timestep at a time, its state kept between.

    Whatever a sequence is cut into, `step` and `run` give what the model gives on the whole of it.
    Built-in cells, cells of one's own that can be traced, and the usual layers around them run in
    the native engine, their weights packed once, with no framework in the step. Where that can't
    be, Keras runs them; `stream.why_not_native` says why.

    Args:
        model: A built layer of `ostinato.layers`, or a Sequential or functional model of such
            layers and of ones that act on each timestep by itself: Embedding, Masking, Dense,
            Activation, normalizations, Dropout, Rescaling, merging layers, TimeDistributed; causal
            Conv1D and its kind; GlobalAveragePooling1D and GlobalMaxPooling1D.
        streams: How many sequences go side by side; by default one, whose arrays have no axis of
            streams.

    Returns:
        The stream, at the layers' initial states, with the model's weights as they are now,
        whichever runs it; call its `refresh` after training.

    Raises:
        ValueError: if the model needs more than the timesteps so far (Bidirectional, go_backwards,
            windows that look ahead...), isn't built, or `streams` isn't a positive int, or more
            than 2^24; it names the layer.
        RuntimeError: if Keras has taken the weights out of the model, as on JAX during `fit`.
    """
    streams = number_of_streams("stream", streams)
    _check_weights(model, "stream")
    graph = read(model)
    reason = why_not(graph)
    runner = (
        Stepwise(graph, streams or 1, reason) if reason else Compiled(lower(graph), streams or 1)
    )
    return Stream(graph.name, runner, streams, partial(_reread, model))


def _reread(model: Any, runner: Compiled | Stepwise) -> None:
    """Gives a runner the weights that its model has now."""
    owner = f"stream of {model.name}: refresh"
    _check_weights(model, owner)
    graph = read(model)
    changed = "the model's layers have changed since"
    if isinstance(runner, Stepwise):
        done = runner.refresh(graph)
    else:
        # What is forced here and now doesn't matter: the stream has its engine.
        if reason := why_not(graph, heeds_forced=False):
            raise ValueError(f"{owner}: {changed}: {reason}. Make a new stream.")
        program = lower(graph)
        if runner.program.has_int8 and program != runner.program:
            program = quantized(program)
        done = program == runner.program
        if done:
            runner.refresh(program)
    if not done:
        raise ValueError(f"{owner}: {changed}. Make a new stream.")


def _check_weights(model: Any, owner: str) -> None:
    """Refuses weights that aren't there: on JAX Keras takes them out of a model while it trains.

    Raises:
        RuntimeError: if one isn't.
    """
    for variable in model.variables if isinstance(model, Layer) else []:
        try:
            found = variable.value is not None
        except TypeError:  # Keras 3 calls the initializer, which is gone
            found = False
        if not found:
            raise RuntimeError(
                f"{owner}: expected a value of the weight {variable.path}, got none: on JAX Keras "
                "takes the weights out of a model during `fit`; do this in `on_epoch_end`, or "
                "after it."
            )
