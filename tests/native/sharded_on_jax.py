"""Run by test_jax_door.py in a process of four devices: a batch-sharded step gathers nothing."""

import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from native.runs import GATES, KINDS, Case
from ostinato.doors import door

assert jax.device_count() == 4, jax.devices()
assert door.native_why_not(jax.numpy.zeros(1)) is None
BATCH_AXES = {"x": 0, "h": 0, "c": 0, "mask": 0, "input_masks": 1, "recurrent_masks": 1}


def placed(case, mesh, axes):
    """The operands on the mesh: the batch split over `axes`, the weights whole."""
    operands = []
    for name, array in case.arrays.items():
        batch = BATCH_AXES.get(name)
        split = [axes if i == batch else None for i in range(array.ndim)]
        array = array if array.dtype == bool else array.astype("float32")
        operands.append(jax.device_put(array, NamedSharding(mesh, PartitionSpec(*split))))
    return operands


def step(case):
    def loss(*operands):
        results = door.fused((case.spec,), operands)
        return sum((y * y).sum() for y in results), results

    places = tuple(i for i, name in enumerate(case.arrays) if "mask" not in name)
    return jax.jit(jax.value_and_grad(loss, places, has_aux=True))


def count(compiled, collective):
    return len(re.findall(rf"\b{collective}(?:-start)?\(", compiled.as_text()))


def check(case, mesh, axes):
    operands = placed(case, mesh, axes)
    compiled = step(case).lower(*operands).compile()
    assert count(compiled, "all-gather") == 0, compiled.as_text()
    assert count(compiled, "all-to-all") == 0, compiled.as_text()
    assert count(compiled, "all-reduce") >= 1, compiled.as_text()
    assert "ostinato_backward" in compiled.as_text()
    got = compiled(*operands)
    ys = got[0][1][0]
    assert ys.sharding.shard_shape(ys.shape)[0] == ys.shape[0] // 4, ys.sharding
    on_one = [jax.device_put(np.asarray(o), jax.devices()[0]) for o in operands]
    agree(got, step(case)(*on_one))


def agree(got, wanted):
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        scale = max(1.0, float(abs(theirs).max()))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * scale)


def check_uneven(case, mesh):
    """Where the batch can't be split evenly inside the program, the numbers stay right."""
    operands = [
        jax.device_put(o, NamedSharding(mesh, PartitionSpec())) for o in placed(case, mesh, None)
    ]
    run = step(case)

    def split_inside(x, *rest):
        return run(
            jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("batch"))), *rest
        )

    on_one = [jax.device_put(np.asarray(o), jax.devices()[0]) for o in operands]
    agree(jax.jit(split_inside)(*operands), run(*on_one))


def main():
    line = Mesh(np.array(jax.devices()), ("batch",))
    square = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "more"))
    for kind in KINDS:
        everything = Case(
            kind, mask=True, sizes=(8, 5, 4, 7), input_masks=1, recurrent_masks=GATES[kind]
        )
        check(everything, line, "batch")
    check(Case("lstm", sizes=(8, 5, 4, 7)), square, ("data", "more"))
    check_uneven(Case("lstm", sizes=(6, 5, 4, 7)), line)


if __name__ == "__main__":
    main()
