"""The guide's code, with Ostinato's layers. The report shows these functions' bodies as they run.

So they hold only what a reader of the guide would write; the checks stand in the sections.
"""

from collections.abc import Sequence
from typing import Any

import keras

from ostinato import layers


def builtin_layers() -> Any:
    """Reads sequences of whole numbers."""
    model = keras.Sequential()
    # Each of 1,000 words becomes a vector of 64 numbers.
    model.add(keras.layers.Embedding(input_dim=1000, output_dim=64))
    # 128 units give what they hold after the last of them.
    model.add(layers.LSTM(128))
    model.add(keras.layers.Dense(10))

    model.build((None, None))  # any batch, any length
    model.summary()
    return model


def outputs() -> Any:
    """Hands one layer's whole sequence to the next."""
    model = keras.Sequential()
    model.add(keras.layers.Embedding(input_dim=1000, output_dim=64))
    # A vector for every timestep: (batch, timesteps, 256)
    model.add(layers.GRU(256, return_sequences=True))
    # The vector of the last timestep: (batch, 128)
    model.add(layers.SimpleRNN(128))
    model.add(keras.layers.Dense(10))

    model.build((None, None))
    model.summary()
    return model


def encoder_decoder() -> Any:
    """Starts one layer from the states in which another ended."""
    encoder_input = keras.Input((None,))
    embedded = keras.layers.Embedding(1000, 64)(encoder_input)
    encoder = layers.LSTM(64, return_state=True, name="encoder")
    # The states come after the output: h and c.
    output, state_h, state_c = encoder(embedded)
    encoder_state = [state_h, state_c]

    decoder_input = keras.Input((None,))
    embedded = keras.layers.Embedding(2000, 64)(decoder_input)
    decoder = layers.LSTM(64, name="decoder")
    # It starts where the encoder ended.
    output = decoder(embedded, initial_state=encoder_state)
    output = keras.layers.Dense(10)(output)

    model = keras.Model([encoder_input, decoder_input], output)
    model.summary()
    return model


def cells(sequences: Any) -> tuple[Any, Any]:
    """Runs the same mathematics as a layer, and as a cell in RNN's loop."""
    layer = layers.LSTM(64)
    looped = layers.RNN(layers.LSTMCell(64))

    layer.build(sequences.shape)
    looped.build(sequences.shape)
    looped.set_weights(layer.get_weights())

    return layer(sequences), looped(sequences)


def across_batches(paragraphs: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Reads three paragraphs as one text."""
    lstm_layer = layers.LSTM(64, stateful=True)
    outputs = [lstm_layer(paragraph) for paragraph in paragraphs]
    return lstm_layer, outputs


def forget(lstm_layer: Any) -> None:
    """Sets the states back to where they started."""
    lstm_layer.reset_states()


def reuse(lstm_layer: Any, paragraph: Any) -> tuple[Any, Any]:
    """Starts a new layer from another's states."""
    existing_state = lstm_layer.states
    new_layer = layers.LSTM(64)
    new_output = new_layer(paragraph, initial_state=existing_state)
    return new_layer, new_output


def bidirectional() -> Any:
    """Reads each sequence in both directions."""
    model = keras.Sequential()
    model.add(keras.Input((5, 10)))
    model.add(layers.Bidirectional(layers.LSTM(64, return_sequences=True)))
    model.add(layers.Bidirectional(layers.LSTM(32)))
    model.add(keras.layers.Dense(10))
    model.summary()
    return model


def build_model(recurrent: Any) -> Any:
    """Names the digit whose rows it has read, from the top row to the bottom one."""
    return keras.Sequential(
        [
            # Rows of 28 pixels, one at a timestep.
            keras.Input((None, 28)),
            recurrent,
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10),
        ]
    )


def twins() -> tuple[Any, Any]:
    """Writes the same model in two ways."""
    model = build_model(layers.LSTM(64))
    other = build_model(layers.RNN(layers.LSTMCell(64)))
    other.set_weights(model.get_weights())
    return model, other


def compile_model(model: Any, optimizer: Any = "sgd") -> None:
    """Makes a model ready for training, as the guide does."""
    loss = keras.losses.SparseCategoricalCrossentropy
    model.compile(
        loss=loss(from_logits=True),
        optimizer=optimizer,
        metrics=["accuracy"],
    )


def fit(model: Any, digits: Any, epochs: int = 1, **more: Any) -> Any:
    """Trains in batches of 64, by default for the guide's one epoch."""
    return model.fit(
        digits.x_train,
        digits.y_train,
        validation_data=(digits.x_test, digits.y_test),
        batch_size=64,
        epochs=epochs,
        **more,
    )


def predict_one(model: Any, image: Any) -> tuple[Any, int]:
    """Asks a second model, given the first one's weights, for one digit."""
    second = build_model(layers.LSTM(64))
    second.set_weights(model.get_weights())
    logits = second.predict_on_batch(image[None])
    answer = int(logits.argmax(axis=1)[0])
    return logits, answer
