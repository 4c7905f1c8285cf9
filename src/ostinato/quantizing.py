"""`ostinato.quantize`: weights in int8, for inference."""

from typing import Any

from ostinato.streaming.stream import Stream


def quantize(stream: Any) -> Any:
    """Puts the weights of recurrent cells and dense layers into int8, for inference.

    Each output of a kernel has a scale, its largest weight is 127 of that, and nothing has to be
    calibrated. What a product takes is rounded to 14 bits of its largest number, at every timestep
    anew; sums are whole numbers, exact, and gates and states stay float32.

    Args:
        stream: A stream of `ostinato.stream` or `Stream.load` on the native engine.

    Returns:
        A new stream, at the states of the given one, which stays as it is. Saved, it's about a
        quarter the size. `refresh` quantizes the model's weights anew.

    Raises:
        ValueError: if it's no such stream, or it has neither a built-in cell nor a Dense layer, or
            computes in float64.
    """
    if isinstance(stream, Stream):
        return stream._quantized()
    raise ValueError(f"quantize: expected a stream of ostinato.stream, got {stream!r}.")
