"""Each barrier of the kernels' text taken out: a test notices, or the kernel says that it hangs."""

import re
import shutil
from itertools import product

import keras
import pytest
from benchmarks.own_cells import CELLS

import ostinato
from ostinato import layers

if keras.config.backend() != "torch":
    pytest.skip("PyTorch's door", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import on_cpu
import torch
from keras import ops

from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from support import one_in


class TwiceAsWide(keras.layers.Layer):
    """Products and reductions whose left side is twice as wide as the state: two pieces each."""

    def __init__(self, units):
        super().__init__()
        self.units, self.state_size, self.output_size = units, units, units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.wide = self.add_weight(shape=(self.units, 2 * self.units), name="wide")
        self.back = self.add_weight(shape=(2 * self.units, self.units), name="back")

    def call(self, inputs, states):
        z = ops.softmax(ops.matmul(states[0], self.wide), axis=-1)
        h = ops.tanh(3.0 * ops.matmul(z, self.back) + ops.matmul(inputs, self.kernel))
        return h, [h]


GATED = (lambda: layers.GRU(11, return_sequences=True, reset_after=False), 11, 2)
NORMALIZED = (lambda: layers.RNN(CELLS["LayerNormLSTM"].make(11), return_sequences=True), 11, 11)
WIDE = (lambda: layers.RNN(TwiceAsWide(11), return_sequences=True), 11, 3)
# Three tiles for two warps: one fetches the next part while the other still reads.
WIDER = (lambda: layers.RNN(TwiceAsWide(40), return_sequences=True), 40, 3)

# In the order of the text: what each is for, which cell needs it, and how its blocks meet.
SITES = {
    "a block's meeting": (GATED, BLOCK),
    "a cluster's": (GATED, CLUSTER),
    "a block's before it's counted": (GATED, GRID),
    "the count": (GATED, GRID),
    "the wait": (GATED, GRID),
    "a block's after the wait": (GATED, GRID),
    "after fetching": (GATED, GRID),
    "between the parts of a product": (WIDER, GRID),
    "after a product": (GATED, BLOCK),
    "between the parts of a reduction": (WIDE, GRID),
    "after a reduction": (NORMALIZED, BLOCK),
    "at the beginning": (GATED, BLOCK),
}
BARRIER = re.compile(
    r"__syncthreads\(\);|\bcluster_barrier\(\);"
    r"|add_release\(counter\);|load_acquire\(counter\) < all"
)


def without(number):
    def edit(text):
        sites = list(BARRIER.finditer(text))
        assert len(sites) == len(SITES), "a barrier has come or gone: what needs it?"
        site = sites[number]
        rest = "false" if "all" in site.group() else ";"
        return text[: site.start()] + rest + text[site.end() :]

    return edit


def results(layer, x, states, engine):
    with ostinato.use_engine(engine):
        given = x.clone().requires_grad_()
        found = layer(given, initial_state=states)
        (gradient,) = torch.autograd.grad((found * torch.cos(found)).sum(), given)
    return found.detach(), gradient


def is_wrong(layer, x, states, wanted):
    try:
        found = results(layer, x, states, "cuda")
    except on_cpu.RefusedError:
        return True
    return not all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, wanted, strict=True))


def made(case):
    make, units, features = case
    keras.utils.set_random_seed(1)
    layer, x = make(), torch.randn(3, 5, features)
    layer.build(x.shape)
    count = 2 if case is NORMALIZED else 1
    return layer, x, [torch.ones(3, units)] * count


@pytest.mark.parametrize("site", one_in(3, SITES))
def test_a_barrier_that_is_gone_is_noticed(site, card, monkeypatch):
    case, barrier = SITES[site]
    layer, x, states = made(case)
    wanted = results(layer, x, states, "scan")
    units = 24 if case is WIDER else 16 if barrier == BLOCK else 8
    card(units, barrier, without(list(SITES).index(site)))
    noticed = []
    for order in ("SHIM_REVERSE", "SHIM_UNEVEN"):
        monkeypatch.setenv(order, "1")
        noticed.append(is_wrong(layer, x, states, wanted))
        monkeypatch.delenv(order)
    assert any(noticed)


@pytest.mark.parametrize(
    ("case", "barrier"), one_in(2, product([GATED, NORMALIZED, WIDE], [BLOCK, CLUSTER, GRID]))
)
def test_with_all_of_them_any_order_is_right(case, barrier, card, monkeypatch):
    layer, x, states = made(case)
    wanted = results(layer, x, states, "scan")
    card(16 if barrier == BLOCK else 8, barrier)
    for order in ("SHIM_REVERSE", "SHIM_UNEVEN"):
        monkeypatch.setenv(order, "1")
        assert not is_wrong(layer, x, states, wanted)
        monkeypatch.delenv(order)


def test_one_buffer_is_too_few(card, monkeypatch):
    layer, x, states = made(GATED)
    wanted = results(layer, x, states, "scan")

    def one(text):
        assert "number = (long long)(b.meetings & 1) *" in text
        return text.replace("(b.meetings & 1) *", "0 *")

    card(8, GRID, one)
    monkeypatch.setenv("SHIM_UNEVEN", "1")
    assert is_wrong(layer, x, states, wanted)


def test_a_block_that_never_comes_traps(card):
    """It isn't waited for without end, which would hang the card."""
    layer, x, states = made(GATED)
    begun = "  b.meetings = 0;"

    def leaves(text):
        assert text.count(begun) == 1
        return text.replace(begun, f"{begun} if (b.number == 1) return;")

    card(8, GRID, leaves)
    with pytest.raises(on_cpu.RefusedError, match="a thread trapped"):
        results(layer, x, states, "cuda")
