"""Run by test_jax.py in a process of two devices: each launches kernels for its rows of a batch."""

import re
import sys
from pathlib import Path

import jax
import jax_card
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ostinato
from ostinato import layers
from ostinato.cuda.layout import CLUSTER

assert jax.device_count() == 2, jax.devices()
directory = Path(sys.argv[1])
jax_card.built_driver(directory)
for where, name, value in (*jax_card.replaced(directory), *jax_card.laid_out(8, CLUSTER)):
    setattr(where, name, value)

X = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
layer = layers.LSTM(11, return_sequences=True)
layer.build(X.shape)
weights = [v.value for v in layer.trainable_variables]
others = [np.asarray(v.value) for v in layer.non_trainable_variables]
mesh = Mesh(np.array(jax.devices()), ("rows",))
rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), ()))


@jax.jit
def step(weights, x):
    def loss(weights, x):
        ys, _ = layer.stateless_call(weights, others, x)
        return (ys**2).sum(), ys

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(weights, x)


with ostinato.use_engine("cuda"):
    placed = jax.device_put(weights, whole), jax.device_put(X, rows)
    compiled = step.lower(*placed).compile()
    got = jax.device_get(compiled(*placed))
assert not re.findall(r"\ball-(?:gather|to-all)(?:-start)?\(", compiled.as_text())
assert len(re.findall(r"ostinato_cuda", compiled.as_text())) >= 2
with ostinato.use_engine("scan"):
    wanted = jax.device_get(jax.jit(lambda *a: step.__wrapped__(*a))(weights, X))
for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
