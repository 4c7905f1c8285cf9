"""cuDNN's recurrent layers as NVIDIA's manual states them, in TensorFlow."""

from types import SimpleNamespace

import tensorflow as tf

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def step_of(mode, units, recurrent, bias):
    """x W^T + b_W of a timestep, h, c -> h, c."""
    if mode in ("rnn_tanh", "rnn_relu"):
        function = tf.tanh if mode == "rnn_tanh" else tf.nn.relu
        return lambda z, h, c: (function(z + h @ tf.transpose(recurrent) + bias), c)

    def lstm(z, h, c):
        i, f, g, o = tf.split(z + h @ tf.transpose(recurrent) + bias, 4, axis=-1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(c), c

    def gru(z, h, c):
        (r, u, n), (h_r, h_u, h_n) = (
            tf.split(part, 3, axis=-1) for part in (z, h @ tf.transpose(recurrent) + bias)
        )
        u = tf.sigmoid(u + h_u)
        return (1 - u) * tf.tanh(n + tf.sigmoid(r + h_r) * h_n) + u * h, c

    return lstm if mode == "lstm" else gru


def run(*, input, input_h, input_c, params, sequence_lengths, rnn_mode, direction, is_training):  # noqa: A002
    """tf.raw_ops.CudnnRNNV3: input (T, B, D), states (directions, B, U), one tensor of parameters.

    All rows have all timesteps: with others cuDNN takes another way, which isn't here.
    """
    assert sequence_lengths.dtype == tf.int32
    tf.debugging.assert_equal(sequence_lengths, tf.fill(input.shape[1:2], input.shape[0]))
    count = {"unidirectional": 1, "bidirectional": 2}[direction]
    features, units = input.shape[-1], input_h.shape[-1]
    columns = GATES[rnn_mode] * units
    shapes = [(columns, features), (columns, units)] * count + [(columns,)] * (2 * count)
    sizes = [columns * (shape[1] if len(shape) == 2 else 1) for shape in shapes]
    parts = tf.split(params, sizes)
    parts = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    outputs, hs, cs = [], [], []
    for place in range(count):
        kernel, recurrent = parts[2 * place : 2 * place + 2]
        biases = parts[2 * (count + place) : 2 * (count + place) + 2]
        step = step_of(rnn_mode, units, recurrent, biases[1])
        h, c = input_h[place], input_c[place] if rnn_mode == "lstm" else None
        xs = tf.unstack(input)
        ys = []
        for x in xs[::-1] if place else xs:
            h, c = step(x @ tf.transpose(kernel) + biases[0], h, c)
            ys.append(h)
        outputs.append(tf.stack(ys[::-1] if place else ys))
        hs.append(h)
        cs.append(c)
    return SimpleNamespace(
        output=tf.concat(outputs, axis=-1),
        output_h=tf.stack(hs),
        output_c=tf.stack(cs) if rnn_mode == "lstm" else None,
    )
