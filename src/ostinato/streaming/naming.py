"""How a stream speaks of itself: what it's shown as, and what the native engine's errors say."""

from collections.abc import Sequence

from ostinato.streaming.program import Port


def described(
    name: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    streams: int | None,
    why_not_native: str,
) -> str:
    """What `repr` shows of a stream."""
    sizes = ", ".join(f"{port.name} {port.shape}" for port in inputs)
    results = ", ".join(str(port.shape) for port in outputs)
    why = why_not_native
    engine = f"on Keras, timestep by timestep: {why}" if why else "on the native engine"
    many = "" if streams is None else f", {streams} streams"
    return f"<Stream of {name}: {sizes} -> {results}{many}; {engine}>"


def named(
    owner: str, error: RuntimeError | ValueError, inputs: Sequence[Port]
) -> RuntimeError | ValueError:
    """The native engine's error with names to it; a ValueError is about ids."""
    if isinstance(error, RuntimeError):
        return RuntimeError(f"{owner}: {error}.")
    ids = " or ".join(port.name for port in inputs if not port.shape)
    return ValueError(f"{owner}: input {ids}: {error}.")
