"""Run by test_jax_door.py in a process of four devices: a batch-sharded step gathers nothing."""

import re

import jax
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from native.routine_cases import RoutineCase
from native.runs import GATES, KINDS, Case
from ostinato import layers
from ostinato.doors import door

assert jax.device_count() == 4, jax.devices()
assert door.native_why_not(jax.numpy.zeros(1)) is None
BATCH_AXES = {"x": 0, "h": 0, "c": 0, "mask": 0, "input_masks": 1, "recurrent_masks": 1}
BATCH_AXES.update(dict.fromkeys(("input0", "input1", "state0", "constant0"), 0))


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
        results = door.native_run((case.spec,), operands)
        return sum((y * y).sum() for y in results), results

    places = tuple(i for i, name in enumerate(case.arrays) if name in case.differentiable)
    return jax.jit(jax.value_and_grad(loss, places, has_aux=True))


def count(compiled, collective):
    return len(re.findall(rf"\b{collective}(?:-start)?\(", compiled.as_text()))


def assert_gathers_nothing(compiled):
    assert "ostinato_backward" in compiled.as_text()
    assert count(compiled, "all-gather") == 0, compiled.as_text()
    assert count(compiled, "all-to-all") == 0, compiled.as_text()
    assert count(compiled, "all-reduce") >= 1, compiled.as_text()


def check(case, mesh, axes):
    operands = placed(case, mesh, axes)
    compiled = step(case).lower(*operands).compile()
    assert_gathers_nothing(compiled)
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


def check_two_wills(case, mesh, axes, wanted):
    """Operands split in one way, and a loss that wants another: the numbers stay right."""
    operands = placed(case, mesh, axes)
    split = NamedSharding(mesh, PartitionSpec(wanted))

    def loss(*operands):
        ys, h, c = door.native_run((case.spec,), operands)
        ys = jax.lax.with_sharding_constraint(ys, split)
        return (ys * ys).sum() + (h * h).sum() + (c * c).sum(), (ys, h, c)

    got = jax.jit(jax.value_and_grad(loss, tuple(range(len(operands))), has_aux=True))(*operands)
    on_one = [jax.device_put(np.asarray(o), jax.devices()[0]) for o in operands]
    agree(got, step(case)(*on_one))


def check_other_parts_are_refused(case, mesh):
    """What each device saved for its rows is of no use where all rows run together."""
    operands = placed(case, mesh, mesh.axis_names)
    results, pull = jax.jit(lambda *o: jax.vjp(lambda *p: door.native_run((case.spec,), p), *o))(
        *operands
    )
    jax.block_until_ready(pull(results))
    whole = NamedSharding(mesh, PartitionSpec())
    together = jax.tree.map(lambda array: jax.device_put(array, whole), pull)
    try:
        jax.block_until_ready(together(results))
    except jax.errors.JaxRuntimeError as error:
        assert "in the parts that forward ran on" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("a gradient from parts that don't fit")


def fitted():
    """A model after some training, its losses, and its data."""
    keras.utils.set_random_seed(0)
    both = layers.Bidirectional(layers.LSTM(6, return_sequences=True, dropout=0.2))
    model = keras.Sequential([keras.Input((5, 4)), both, layers.GRU(7), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=shape).astype("float32") for shape in ((32, 5, 4), (32, 2)))
    losses = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
    return model, losses, (x[:8], y[:8])


def check_data_parallel():
    """Keras's way to shard: the losses of one device, and nothing gathered in a training step."""
    _, wanted, _ = fitted()
    parallel = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices("cpu"), auto_shard_dataset=False
    )
    with parallel.scope():
        model, losses, data = fitted()
        np.testing.assert_allclose(losses, wanted, rtol=1e-5)
        groups = (model.trainable_variables, model.non_trainable_variables)
        groups += (model.optimizer.variables, model.metrics_variables)
        state = tuple([v.value for v in variables] for variables in groups)
        mesh = state[0][0].sharding.mesh
        split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        data = tuple(jax.device_put(array, split) for array in data)
        compiled = jax.jit(model.train_step).lower(state, data).compile()
    assert_gathers_nothing(compiled)


def main():
    line = Mesh(np.array(jax.devices()), ("batch",))
    square = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "more"))
    for kind in KINDS:
        everything = Case(
            kind, mask=True, sizes=(8, 5, 4, 7), input_masks=1, recurrent_masks=GATES[kind]
        )
        check(everything, line, "batch")
    check(Case("lstm", sizes=(8, 5, 4, 7)), square, ("data", "more"))
    check(RoutineCase(mask=True, sizes=(8, 5, 4, 7)), line, "batch")
    check(RoutineCase(sizes=(8, 5, 4, 7)), square, ("data", "more"))
    check_uneven(Case("lstm", sizes=(6, 5, 4, 7)), line)
    check_uneven(RoutineCase(sizes=(6, 5, 4, 7)), line)
    for wills in ((None, "data"), ("data", ("data", "more")), ("data", "more"), ("data", None)):
        check_two_wills(Case("lstm", sizes=(8, 5, 4, 7)), square, *wills)
    check_other_parts_are_refused(Case("lstm", sizes=(8, 5, 4, 7)), line)
    check_other_parts_are_refused(RoutineCase(sizes=(8, 5, 4, 7)), line)
    check_data_parallel()


if __name__ == "__main__":
    main()
