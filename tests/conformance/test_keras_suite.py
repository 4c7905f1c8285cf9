"""Keras's own tests of its recurrent layers pass on ours.

Each of them is one test here: `test_keras_suite.py::lstm_LSTMTest::test_masking`. EXCEPTIONS lists
those that can't hold; one that starts to pass fails the run.
"""

import keras
import pytest

from conformance import keras_suite
from support import elsewhere_in_long

# (class as named here, test) -> why it can't hold on ours. Older versions of Keras lack some.
FUSED = "it asks Bidirectional's private methods whether Keras may call cuDNN for both ways at once"
EXCEPTIONS = {
    ("bidirectional_SimpleRNNTest", "test_fused_lstm_eligibility"): FUSED,
    ("bidirectional_SimpleRNNTest", "test_fused_gru_eligibility"): FUSED,
}
# Steps of training that take seconds to compile; ConvLSTM1D's are the same in another rank.
LONG = [(f"conv_lstm{rank}d_ConvLSTM{rank}DTest", "test_basics") for rank in (2, 3)]


def classes_with_exceptions():
    classes = {
        f"{stem}_{name}": cls
        for stem in keras_suite.FILES
        for name, cls in keras_suite.test_classes(stem).items()
    }
    for (name, test), reason in EXCEPTIONS.items():
        method = getattr(classes[name], test, None)
        if method is not None:
            failing = pytest.mark.xfail(strict=True, reason=reason)
            setattr(classes[name], test, failing(method))
    for name, test in LONG:
        setattr(classes[name], test, elsewhere_in_long(getattr(classes[name], test)))
    return classes


if not keras_suite.SHIPPED:
    pytest.skip(f"Keras {keras.__version__} comes without its tests", allow_module_level=True)
CLASSES = classes_with_exceptions()
globals().update(CLASSES)  # where pytest finds them


@pytest.fixture(autouse=True)
def _traceback_filtering():
    """Keras's TestCase turns it off, for good."""
    was_on = keras.config.is_traceback_filtering_enabled()
    yield
    if was_on:
        keras.config.enable_traceback_filtering()


def test_every_file_of_keras_has_tests():
    found = {name.rpartition("_")[0] for name in CLASSES}
    assert found == set(keras_suite.FILES)


@pytest.mark.parametrize("name", keras_suite.RECURRENT)
def test_the_substituted_layers_are_ours(name):
    assert getattr(keras_suite.LAYERS, name).__module__.startswith("ostinato.")
    assert getattr(keras_suite.LAYERS, name) is not getattr(keras.layers, name)
