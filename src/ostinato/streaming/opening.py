"""`ostinato.stream`: reads a model, and chooses what runs its timesteps."""

from collections.abc import Callable
from typing import Any

from ostinato.streaming.compiled import Compiled
from ostinato.streaming.graph import read
from ostinato.streaming.lowering import lower, why_not
from ostinato.streaming.stepwise import Stepwise
from ostinato.streaming.stream import Stream, check_streams


def stream(model: Any, streams: int | None = None) -> Stream:
    """Runs a model one timestep at a time, its state kept between.

    Whatever a sequence is cut into, `step` and `run` give what the model gives on the whole of it.
    Built-in cells and the usual layers around them run in the native engine, their weights packed
    once, with no framework in the step. Where that can't be, such as for a cell of one's own, Keras
    runs them; `stream.why_not_native` says why.

    Args:
        model: A built layer of `ostinato.layers`, or a Sequential or functional model of such
            layers and of ones that act on each timestep by itself: Embedding, Masking, Dense,
            Activation, normalizations, Dropout, Rescaling, merging layers, TimeDistributed.
        streams: How many sequences go side by side; by default one, whose arrays have no axis of
            streams.

    Returns:
        The stream, at the layers' initial states, with the model's weights as they are now; call
        its `refresh` after training.

    Raises:
        ValueError: if the model needs more than the timesteps so far (Bidirectional, go_backwards,
            pooling over time...), isn't built, or `streams` isn't a positive int; it names the
            layer.
    """
    check_streams(streams)
    graph = read(model)
    reason = why_not(graph)
    if reason:
        stepwise = Stepwise(graph, streams or 1, reason)
        return Stream(graph.name, stepwise, streams, stepwise.refresh)
    compiled = Compiled(lower(graph), streams or 1)
    return Stream(graph.name, compiled, streams, _rereading(model, compiled))


def _rereading(model: Any, compiled: Compiled) -> Callable[[], None]:
    def reread() -> None:
        graph = read(model)
        reason = why_not(graph)
        program = None if reason else lower(graph)
        if program != compiled.program or program is None:
            raise ValueError(
                f"stream of {graph.name}: refresh: the model's layers have changed since; make "
                "a new stream."
            )
        compiled.refresh(program)

    return reread
