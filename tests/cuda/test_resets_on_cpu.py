"""The engine `cuda` where rows begin anew and where gradients are truncated: against `scan`."""

import shutil

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers

if keras.config.backend() != "torch":
    pytest.skip("PyTorch's door", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import torch
from minimal_cell import MinimalCell

from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from ostinato.structure import leaves

ROWS, TIMESTEPS, FEATURES, UNITS = 4, 7, 3, 9
RNG = np.random.default_rng(0)
X = torch.tensor(RNG.normal(size=(ROWS, TIMESTEPS, FEATURES)), dtype=torch.float32)
MASK = torch.tensor(RNG.random((ROWS, TIMESTEPS)) < 0.6)
RESETS = torch.tensor(RNG.random((ROWS, TIMESTEPS)) < 0.3)
RESETS[0, 0], RESETS[1, -1], RESETS[2] = True, True, False

OUTPUTS = {"return_sequences": True, "return_state": True}
CASES = {
    "lstm, mask, fresh states": (
        lambda: layers.LSTM(UNITS, **OUTPUTS),
        {"mask": MASK, "resets": RESETS},
        "given",
        GRID,
    ),
    "lstm backwards, zeroed outputs": (
        lambda: layers.LSTM(UNITS, go_backwards=True, zero_output_for_mask=True, **OUTPUTS),
        {"mask": MASK, "resets": RESETS},
        "given",
        CLUSTER,
    ),
    "gru, the last output": (
        lambda: layers.GRU(UNITS, reset_after=False, return_state=True),
        {"mask": MASK, "resets": RESETS},
        "zeros",
        BLOCK,
    ),
    "truncated": (lambda: layers.GRU(UNITS, truncate=3, **OUTPUTS), {"mask": MASK}, None, GRID),
    "truncated backwards, fresh states": (
        lambda: layers.LSTM(UNITS, truncate=2, go_backwards=True, **OUTPUTS),
        {"mask": MASK, "resets": RESETS},
        "given",
        BLOCK,
    ),
    "own, truncated": (
        lambda: layers.RNN(MinimalCell(UNITS), truncate=3, **OUTPUTS),
        {"resets": RESETS},
        "given",
        CLUSTER,
    ),
}


def results(layer, engine, call, fresh):
    """Outputs, and the gradients of inputs, both kinds of states and weights."""
    counts = len(leaves(layer.cell.state_size))
    rng = np.random.default_rng(1)
    states, anew = (
        [
            torch.tensor(rng.normal(size=(ROWS, UNITS)), dtype=torch.float32).requires_grad_()
            for _ in range(counts)
        ]
        for _ in range(2)
    )
    x = X.clone().requires_grad_()
    given = {"initial_state": states, **call}
    if fresh == "given":
        given["fresh_state"] = anew
    with ostinato.use_engine(engine):
        found = leaves(layer(x, **given))
    upstream = [torch.cos(torch.arange(each.numel())).reshape(each.shape) for each in found]
    loss = sum((each * weight).sum() for each, weight in zip(found, upstream, strict=True))
    sources = [x, *states, *(anew if fresh == "given" else [])]
    sources += [variable.value for variable in layer.trainable_variables]
    return [*found, *torch.autograd.grad(loss, sources)]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_scan(case, card):
    make, call, fresh, barrier = CASES[case]
    card(16 if barrier == BLOCK else 8, barrier)
    keras.utils.set_random_seed(1)
    layer = make()
    layer.build(X.shape)
    wanted, found = (results(layer, engine, call, fresh) for engine in ("scan", "cuda"))
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.detach().abs().max())
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=0, atol=3e-6 * scale)
        assert scale > 0


def test_what_is_truncated_and_reset_is_what_makes_the_difference(card):
    card(16, BLOCK)
    keras.utils.set_random_seed(1)
    plain, truncated = layers.LSTM(UNITS), layers.LSTM(UNITS, truncate=3)
    truncated.build(X.shape)
    plain.build(X.shape)
    plain.set_weights(truncated.get_weights())
    x = X.clone().requires_grad_()
    with ostinato.use_engine("cuda"):
        found = [layer(x) for layer in (plain, truncated)]
        anew = plain(x, resets=RESETS)
    assert torch.equal(*found)
    assert not torch.allclose(found[0][0], anew[0])
    assert torch.equal(found[0][2], anew[2])  # nothing is reset there
    gradients = [torch.autograd.grad(ys.sum(), x)[0] for ys in found]
    assert gradients[0].abs().amin() > 0
    assert torch.equal(gradients[0][:, 6:], gradients[1][:, 6:])
    assert not gradients[1][:, :6].any()


def test_torch_compile_has_it_in_one_graph(card):
    card(16, BLOCK)
    layer = layers.GRU(UNITS, truncate=3, return_sequences=True)
    layer.build(X.shape)
    with ostinato.use_engine("cuda"), torch.no_grad():
        wanted = layer(X, resets=RESETS)
        whole = torch.compile(layer, backend="aot_eager", fullgraph=True)
        np.testing.assert_allclose(whole(X, resets=RESETS), wanted, atol=1e-6)
