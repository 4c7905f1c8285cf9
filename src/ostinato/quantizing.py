"""`ostinato.quantize`: weights in int8, for inference."""

import sys
from typing import Any

from ostinato.streaming.stream import Stream


def quantize(model: Any) -> Any:
    """Puts the weights of recurrent cells into int8, for inference.

    Each output of a kernel has a scale, its largest weight is 127 of that, and nothing has to be
    calibrated. What a product takes is rounded to 14 bits of its largest number, at every timestep
    anew; sums are whole numbers, exact, and gates and states stay float32. On the engine `scan` the
    weights are made floats again.

    Args:
        model: A Keras model with our layers in it, or one of them; or a stream of
            `ostinato.stream` or `Stream.load` on the native engine.

    Returns:
        A copy of the model, not compiled, whose LSTM, GRU and SimpleRNN layers and their cells have
        weights in int8; other layers are copied as they are, and recurrent ones that can't be so
        are listed in a warning. It can be saved, and can't be trained. Of a stream a new one, at
        the same states, whose Dense layers are in int8 too; `refresh` quantizes the model's weights
        anew. What was given stays as it is.

    Raises:
        ValueError: if it's neither, or nothing in it could be in int8, or a weight is no number.
    """
    if isinstance(model, Stream):
        return model._quantized()
    keras = sys.modules.get("keras")  # who has a model has imported it
    if keras is None or not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "quantize: expected a Keras model or layer, or a stream of ostinato.stream, got "
            f"{model!r}."
        )
    from ostinato.conversion.quantizing import quantized

    return quantized(model)
