"""Keras's recurrent layers and cells, whole, on every backend."""

# ruff: noqa: E402
from ostinato import backend

backend.require()  # before Keras is imported, which would fail somewhere inside

from ostinato.layers.bidirectional import Bidirectional
from ostinato.layers.conv_lstm import (
    ConvLSTM1D,
    ConvLSTM1DCell,
    ConvLSTM2D,
    ConvLSTM2DCell,
    ConvLSTM3D,
    ConvLSTM3DCell,
)
from ostinato.layers.gru import GRU, GRUCell
from ostinato.layers.lstm import LSTM, LSTMCell
from ostinato.layers.rnn import RNN
from ostinato.layers.simple_rnn import SimpleRNN, SimpleRNNCell
from ostinato.layers.stacked import StackedRNNCells
from ostinato.layers.time_distributed import TimeDistributed
from ostinato.structure import Shape

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM1DCell",
    "ConvLSTM2D",
    "ConvLSTM2DCell",
    "ConvLSTM3D",
    "ConvLSTM3DCell",
    "GRUCell",
    "LSTMCell",
    "Shape",
    "SimpleRNN",
    "SimpleRNNCell",
    "StackedRNNCells",
    "TimeDistributed",
]
