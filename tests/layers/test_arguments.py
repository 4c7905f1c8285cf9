"""The constructors' arguments: what each of them takes, and in which words it's refused."""

import inspect
import re

import keras
import numpy as np
import pytest
from refusals import refuses

from ostinato import layers
from ostinato.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    SimpleRNN,
    StackedRNNCells,
)
from support import IS_OLDEST_KERAS, elsewhere_in_long

pytestmark = elsewhere_in_long


CLASSES = [getattr(layers, name) for name in layers.__all__ if name != "Shape"]


def needed(cls):
    """What a class can't be made without."""
    if "ConvLSTM" in cls.__name__:
        return 4, 3
    own = {RNN: GRUCell(2), StackedRNNCells: [GRUCell(2)]}
    own |= {Bidirectional: GRU(2), layers.TimeDistributed: keras.layers.Dense(2)}
    return (own.get(cls, 4),)


@pytest.mark.parametrize("units", [0, -3, 2.5, "4", None, True])
@pytest.mark.parametrize("cls", [LSTM, GRU, SimpleRNN, LSTMCell, GRUCell])
def test_units_that_are_no_positive_int(cls, units):
    refuses([cls.__name__.removesuffix("Cell"), "positive integer", repr(units)], cls, units)


def test_numpy_ints_are_ints():
    assert LSTM(np.int64(4)).units == 4


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.5, "half", None, float("nan")])
def test_a_rate_outside_0_to_1(name, rate):
    refuses(["LSTM", f"`{name}`", "between 0 and 1", repr(rate)], LSTM, 4, **{name: rate})


@pytest.mark.parametrize("name", ["activation", "recurrent_activation"])
def test_an_unknown_activation(name):
    refuses(["GRU", f"`{name}`", "'sigmoidal'"], GRU, 4, **{name: "sigmoidal"})


def test_other_unknown_arguments():
    refuses(["LSTM", "`kernel_initializer`", "'nice'"], LSTM, 4, kernel_initializer="nice")
    refuses(["GRU", "`use_cudnn`", "'maybe'"], GRU, 4, use_cudnn="maybe")
    for cls in (GRU, SimpleRNN):
        refuses([cls.__name__, "`seed`", "'x'"], cls, 4, seed="x")
    refuses(["SimpleRNN", "colour"], SimpleRNN, 4, colour="red")
    refuses(["GRU: Unknown argument `cell`"], GRU, 4, cell=LSTMCell(4))
    refuses(["LSTM", "units"], LSTM)


FLAGS = ["return_sequences", "return_state", "go_backwards", "stateful", "unroll"]


@pytest.mark.parametrize("name", [*FLAGS, "use_bias", "unit_forget_bias", "zero_output_for_mask"])
@pytest.mark.parametrize("value", ["no", b"", [True], {}])
def test_a_flag_that_is_neither_true_nor_false(name, value):
    refuses(["LSTM", f"`{name}`", "True or False", repr(value)], LSTM, 4, **{name: value})


def test_flags_elsewhere():
    refuses(["RNN", "`unroll`", "'no'"], RNN, LSTMCell(4), unroll="no")
    refuses(["RNN", "`zero_output_for_mask`", "'x'"], RNN, LSTMCell(4), zero_output_for_mask="x")
    refuses(["GRU", "`reset_after`", "'no'"], GRU, 4, reset_after="no")
    refuses(["GRUCell", "`use_bias`", "'no'"], GRUCell, 4, use_bias="no")


@pytest.mark.parametrize("given", [True, 1, np.bool_(True), np.int64(1), np.array(True), 2, 1.0])
def test_a_flag_as_a_config_may_hold_it(given):
    layer = LSTM(4, return_sequences=given, use_bias=given, zero_output_for_mask=given)
    assert layer.return_sequences is layer.use_bias is layer.zero_output_for_mask is True
    assert layer.get_config()["return_sequences"] is True


def test_none_is_false_as_to_keras():
    layer = LSTM(4, return_sequences=None, unroll=None, use_bias=None, implementation=None)
    assert layer.return_sequences is layer.unroll is layer.use_bias is False
    assert layer.cell.implementation == 2


@pytest.mark.parametrize("value", [7, -1, "2", 1.0, True])
@pytest.mark.parametrize("cls", [LSTM, GRUCell])
def test_an_unknown_implementation(cls, value):
    words = [cls.__name__, "`implementation`", "1 or 2", repr(value)]
    refuses(words, cls, 4, implementation=value)


def test_implementations_that_configs_hold():
    assert [LSTM(4, implementation=i).get_config().get("implementation") for i in (0, 1)] == [0, 1]


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_a_dtype_without_fractions(dtype):
    for cls in (LSTM, GRUCell):
        refuses([cls.__name__, "`dtype`", "floats", repr(dtype)], cls, 4, dtype=dtype)


REFUSED_BY_KERAS = [{"dtype": "flot32"}, {"name": "a/b"}]
REFUSED_BY_KERAS += [] if IS_OLDEST_KERAS else [{"trainable": 1}]


@pytest.mark.parametrize("given", REFUSED_BY_KERAS)
@pytest.mark.parametrize("cls", CLASSES)
def test_what_keras_refuses_names_the_class(cls, given):
    (value,) = given.values()
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: .*{value}"):
        cls(*needed(cls), **given)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_docstring_describes_each_argument_in_order(cls):
    parameters = inspect.signature(cls).parameters.values()
    names = [f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name for p in parameters]
    # the layers of one constructor, ConvLSTM's, share its description
    described = next(base for base in cls.__mro__ if "__init__" in vars(base))
    section = inspect.getdoc(described).partition("\nArgs:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^    ([*\w]+): ", section, re.MULTILINE) == names
    assert all(p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_mistyped_argument_gets_a_suggestion(cls):
    first = needed(cls)
    for parameter in list(inspect.signature(cls).parameters.values())[len(first) : -1]:
        typed = parameter.name[:-2] + parameter.name[-1]
        words = [f"{cls.__name__}: ", f"`{typed}`", f"did you mean `{parameter.name}`?"]
        refuses(words, cls, *first, **{typed: None})
    for typed, meant in {"nme": "name", "dtpye": "dtype", "trainabel": "trainable"}.items():
        refuses([cls.__name__, f"`{typed}`: did you mean `{meant}`?"], cls, *first, **{typed: 1})


def test_suggestions_know_a_subclass_s_arguments_and_none_of_a_base_s():
    class Scaled(LSTM):
        def __init__(self, units, scaling=1.0, **kwargs):
            super().__init__(units, **kwargs)
            self.scaling = scaling

    words = ["Scaled: Unknown argument `scalling`: did you mean `scaling`?", "`unrol`: did"]
    refuses(words, Scaled, 4, scalling=2.0, unrol=True)
    refuses(["LSTM: Unknown argument `cel`."], LSTM, 4, cel=LSTMCell(4))
    refuses(["LSTM: Unknown argument `arguments`."], LSTM, 4, arguments={})
