"""The guide's code, with Ostinato's layers. The report shows these functions just as they run.

So they hold only what a reader of the guide would write: no docstrings, no annotations. What checks
them stands in the sections.
"""

import keras
from keras import ops

from ostinato import layers


def builtin_layers():
    model = keras.Sequential()
    # Each of 1,000 words becomes a vector of 64 numbers.
    model.add(keras.layers.Embedding(input_dim=1000, output_dim=64))
    # 128 units give what they hold after the last of them.
    model.add(layers.LSTM(128))
    model.add(keras.layers.Dense(10))

    model.build((None, None))  # any batch, any length
    model.summary()
    return model


def outputs():
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


def encoder_decoder():
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


def cells(sequences):
    layer = layers.LSTM(64)
    looped = layers.RNN(layers.LSTMCell(64))

    layer.build(sequences.shape)
    looped.build(sequences.shape)
    looped.set_weights(layer.get_weights())

    return layer(sequences), looped(sequences)


def across_batches(paragraphs):
    lstm_layer = layers.LSTM(64, stateful=True)
    outputs = [lstm_layer(paragraph) for paragraph in paragraphs]
    return lstm_layer, outputs


def forget(lstm_layer):
    lstm_layer.reset_states()


def reuse(lstm_layer, paragraph):
    existing_state = lstm_layer.states
    new_layer = layers.LSTM(64)
    new_output = new_layer(paragraph, initial_state=existing_state)
    return new_layer, new_output


def bidirectional():
    model = keras.Sequential()
    model.add(keras.Input((5, 10)))
    model.add(layers.Bidirectional(layers.LSTM(64, return_sequences=True)))
    model.add(layers.Bidirectional(layers.LSTM(32)))
    model.add(keras.layers.Dense(10))
    model.summary()
    return model


def build_model(recurrent):
    return keras.Sequential(
        [
            # Rows of 28 pixels, one at a timestep.
            keras.Input((None, 28)),
            recurrent,
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10),
        ]
    )


def twins():
    model = build_model(layers.LSTM(64))
    other = build_model(layers.RNN(layers.LSTMCell(64)))
    other.set_weights(model.get_weights())
    return model, other


def compile_model(model, optimizer="sgd"):
    loss = keras.losses.SparseCategoricalCrossentropy
    model.compile(
        loss=loss(from_logits=True),
        optimizer=optimizer,
        metrics=["accuracy"],
    )


def fit(model, digits, epochs=1, **more):
    return model.fit(
        digits.x_train,
        digits.y_train,
        validation_data=(digits.x_test, digits.y_test),
        batch_size=64,
        epochs=epochs,
        **more,
    )


def train_longer(digits, epochs, steps, rate):
    model = build_model(layers.LSTM(64))
    decay = keras.optimizers.schedules.CosineDecay
    adam = keras.optimizers.Adam(decay(rate, steps))
    compile_model(model, adam)
    history = fit(model, digits, epochs)
    return model, history


def predict_one(model, image):
    second = build_model(layers.LSTM(64))
    second.set_weights(model.get_weights())
    logits = second.predict_on_batch(image[None])
    answer = int(logits.argmax(axis=1)[0])
    return logits, answer


class NestedCell(keras.layers.Layer):
    def __init__(self, unit_1, unit_2, unit_3, **kwargs):
        super().__init__(**kwargs)
        self.unit_1 = unit_1
        self.unit_2 = unit_2
        self.unit_3 = unit_3
        sizes = [layers.Shape(unit_1), layers.Shape(unit_2, unit_3)]
        self.state_size = self.output_size = sizes

    def build(self, input_shapes):
        (_, i1), (_, i2, i3) = input_shapes
        self.kernel_1 = self.add_weight(
            shape=(i1, self.unit_1),
            initializer="uniform",
            name="kernel_1",
        )
        self.kernel_2_3 = self.add_weight(
            shape=(i2, i3, self.unit_2, self.unit_3),
            initializer="uniform",
            name="kernel_2_3",
        )

    def call(self, inputs, states):
        input_1, input_2 = keras.tree.flatten(inputs)
        s1, s2 = states

        output_1 = ops.matmul(input_1, self.kernel_1)
        kernel_2_3 = self.kernel_2_3
        output_2_3 = ops.einsum("bij,ijkl->bkl", input_2, kernel_2_3)
        state_1 = s1 + output_1
        state_2_3 = s2 + output_2_3
        return (output_1, output_2_3), (state_1, state_2_3)

    def get_config(self):
        config = super().get_config()
        config["unit_1"] = self.unit_1
        config["unit_2"] = self.unit_2  # the guide forgets the self
        config["unit_3"] = self.unit_3
        return config


def nested_model():
    cell = NestedCell(unit_1=10, unit_2=20, unit_3=30)
    rnn = layers.RNN(cell)

    # At each timestep a vector and a matrix; any number of timesteps.
    input_1 = keras.Input((None, 32))
    input_2 = keras.Input((None, 64, 32))
    outputs = rnn((input_1, input_2))

    model = keras.Model([input_1, input_2], outputs)
    accuracy = ["accuracy", "accuracy"]  # one for each output
    model.compile(optimizer="adam", loss="mse", metrics=accuracy)
    return model
