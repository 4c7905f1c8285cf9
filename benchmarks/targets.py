"""What the benchmark must show on a quiet 2-core AVX-512 machine; ratios of minima."""

# (training step, inference): times faster than the best of all peers, through our layer on JAX
_PEERS = {
    "LSTM": {"S": (2.2, 1.9), "M": (1.5, 1.5), "L": (1.35, 1.05), "others": (1.1, 1.1)},
    "GRU": {"S": (3.5, 3.5), "M": (3.0, 3.0), "L": (1.7, 1.6), "others": (1.3, 1.3)},
    "SimpleRNN": {"S": (3.0, 3.5), "M": (2.5, 3.0), "L": (1.4, 1.3), "others": (1.2, 1.2)},
}
_SIZES = {"S": "S", "M": "M", "L": "L", "XL": "others", "B8": "others", "odd": "others"}
PEERS = {
    (kind, size, mode): pair[place]
    for kind, of_kind in _PEERS.items()
    for size, row in _SIZES.items()
    for place, mode in enumerate(("train", "infer"))
    for pair in [of_kind[row]]
}
# A few rows, in inference, beside runtimes of ONNX graphs too
PEERS |= {(kind, size, "infer"): 1.1 for kind in _PEERS for size in ("B1", "B1-long", "B2", "B4")}

# Times faster than Keras's layer on the same backend: a training step at S and M; a step of `fit`
# on the guide's model, which has an LSTM.
SAME_BACKEND = {"jax": 2.8, "tensorflow": 3.5, "torch": 6.0}
SAME_BACKEND_SIZES = ("S", "M")
FIT = {"jax": 1.8, "tensorflow": 2.5, "torch": 4.0}

# Bare sgemm's time over ours, in training
SGEMM = {"S": 0.60, "M": 0.75, "L": 0.75}

# The portable engine (`--engine scan`) against Keras's layer on the same backend: at S and M
PORTABLE = {"jax": 1 / 1.05, "tensorflow": 1 / 1.05, "torch": 1.3}

# Time with an option over time with the defaults, at most; the options are those of cliff.py
CLIFF = {
    "recurrent_dropout": 1.25,
    "reset_after=False": 1.4,
    "right padding": 0.62,
    "left padding": 0.62,
    "Bidirectional": 2.05,
}
CLIFF_OTHERS = 1.12

# `ostinato.stream`, LSTM, batch 1: microseconds a timestep at most, by units; and at 64 units times
# faster than each peer
STREAM = {64: 4.0, 128: 8.0, 256: 15.0}
STREAM_PEERS = (64, 20.0)

# Peak memory of a training step at L over torch.nn's, at most
MEMORY = 1.0

# Cells of one's own (`python -m benchmarks cells`), at S and M. A cell's time over the built-in
# LSTM's of the same size, at most, by backend.
_PLAIN = {"jax": 1.25, "tensorflow": 1.3, "torch": 1.3}
CELLS_OVER_LSTM = {
    "PlainLSTM": _PLAIN,
    "PeepholeLSTM": dict.fromkeys(_PLAIN, 1.4),
    "LayerNormLSTM": dict.fromkeys(_PLAIN, 2.0),
}
# Times faster than the portable loop: the median of the gated cells; cells with a solver or a
# convolution inside; the slowest of all
CELLS_GATED = {
    "jax": {"infer": 2.0, "train": 2.3},
    "tensorflow": {"infer": 2.0, "train": 2.3},
    "torch": {"infer": 8.0, "train": 8.0},
}
CELLS_VAST_NAMES = ("LTC", "ConvGRU")
CELLS_VAST = {
    "jax": {"infer": 20.0, "train": 40.0},
    "tensorflow": {"infer": 10.0, "train": 10.0},
    "torch": {"infer": 20.0, "train": 20.0},
}
CELLS_SLOWEST = 0.95
# How many of them are compiled, at least; and microseconds of a stream's step at most
CELLS_COMPILED, CELLS_STREAM = 20.0, 2.5
