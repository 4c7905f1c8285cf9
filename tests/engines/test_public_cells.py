"""Cells of a package from PyPI, as they are, compiled: ncps's, of their authors."""

import keras
import numpy as np
import pytest

import ostinato
from engines.gradients import pull_back
from ostinato.layers import RNN
from support import in_turn

ncps = pytest.importorskip("ncps.keras", reason="ncps isn't installed: pip install ncps")
wirings = pytest.importorskip("ncps.wirings")
B, T, D, UNITS = 3, 5, 4, 12


def wiring():
    return wirings.AutoNCP(UNITS, 3, seed=1)


CELLS = {
    "LTC": lambda: ncps.LTCCell(wiring()),
    "CfC": lambda: ncps.CfCCell(UNITS),  # it has Dropout inside
    "CfC, pure": lambda: ncps.CfCCell(UNITS, mode="pure", backbone_layers=0),
    "CfC, no gate": lambda: ncps.CfCCell(UNITS, mode="no_gate", backbone_dropout=0.0),
    "CfC, wired": lambda: ncps.WiredCfCCell(wiring()),
}


@pytest.mark.parametrize(("name", "training"), in_turn([*CELLS], [False, True]))
def test_it_gives_the_values_and_gradients_of_the_portable_loop(name, training):
    x = np.random.default_rng(1).standard_normal((B, T, D), "float32")
    found = []
    for engine in ("compiled", "scan"):
        keras.utils.set_random_seed(3)  # of weights and dropout
        layer = RNN(CELLS[name](), return_sequences=True)
        layer.build(x.shape)
        for weight in layer.weights:
            if "erev" in weight.path:  # ncps's initializer gives ints on JAX
                weight._value = keras.ops.cast(weight._value, "float32")
        if engine == "compiled":
            layer(x, training=training)  # its program is made now, and draws numbers to be proven
        keras.utils.set_random_seed(4)  # of dropout on PyTorch
        for at, seed in enumerate(v for v in layer.variables if "seed" in v.path):
            seed.assign([at, 1])
        with ostinato.use_engine(engine):
            found.append(pull_back(layer, x, None, None, training=training))
    for part in ("results", "inputs", "weights"):
        ours, expected = getattr(found[0], part), getattr(found[1], part)
        assert ours
        for mine, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5 * max(1, np.abs(other).max()))
