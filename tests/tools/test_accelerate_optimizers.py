"""What an optimizer holds about single variables goes along: exclusions, tables, what is inside."""

import keras
import numpy as np
import pytest
from converted import EAGERLY, assert_same_training
from keras import layers, ops, optimizers
from zoo import D, T, U, X

from ostinato import accelerate, restore
from support import IS_OLDEST_KERAS, sample

DECAY = 0.5  # a step takes away so much that nothing else explains it


def model_and(optimizer, by=None):
    """A small model, not yet trained, compiled with an optimizer that may exclude its variables."""
    model = keras.Sequential(
        [
            keras.Input((T, D)),
            layers.Bidirectional(layers.GRU(U, return_sequences=True), name="both"),
            layers.RNN(layers.LSTMCell(U, name="cell"), name="rnn"),
            layers.Dense(1, name="head"),
        ]
    )
    if by == "names":
        optimizer.exclude_from_weight_decay(var_names=["recurrent", "bias"])
    elif by == "variables":
        optimizer.exclude_from_weight_decay(var_list=model.trainable_variables[::2])
    return model


def compiled(model, optimizer):
    model.compile(optimizer, "mse", run_eagerly=EAGERLY)
    return model


def steps_of(model, optimizer, count):
    """Applies the same gradients to every model: quicker than to train it, and as telling."""
    random = np.random.default_rng(3)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the outer needs jit on JAX
    for _ in range(count):
        gradients = [random.normal(size=v.shape) for v in model.trainable_variables]
        tensors = [ops.convert_to_tensor(g.astype("float32")) for g in gradients]
        optimizer.apply(tensors, model.trainable_variables)


def assert_steps_alike(model, convert, steps):
    steps_of(model, model.optimizer, steps)
    other = convert(model)
    before = [v.copy() for v in model.get_weights()]
    for one in (model, other):
        steps_of(one, one.optimizer, 2)
    for theirs, ours in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize(
    ("by", "steps"), sample([("names", 2), ("variables", 0), ("variables", 2)], ("variables", 2))
)
@pytest.mark.parametrize(
    "make", sample(["Adam", "Lion", "Lamb", "Ftrl", "Muon", "Adafactor"], "Adam", "Muon")
)
def test_exclusions_from_weight_decay(make, by, steps):
    if make == "Muon" and not hasattr(optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    if make == "Muon" and IS_OLDEST_KERAS and keras.config.backend() == "tensorflow":
        pytest.skip("Keras 3.10's Muon takes no step on TensorFlow")
    optimizer = getattr(optimizers, make)(0.02, weight_decay=DECAY)
    model = compiled(model_and(optimizer, by), optimizer)
    assert_steps_alike(model, accelerate, steps)


@pytest.mark.parametrize("by", ["names", "variables"])
def test_exclusions_survive_both_ways(by):
    optimizer = optimizers.AdamW(0.02, weight_decay=DECAY)
    model = compiled(model_and(optimizer, by), optimizer)
    assert_steps_alike(model, lambda model: restore(accelerate(model)), 1)


def test_exclusions_in_training():
    optimizer = optimizers.AdamW(0.02, weight_decay=DECAY, epsilon=1e-3)
    model = compiled(model_and(optimizer, "names"), optimizer)
    y = np.full((len(X), 1), 0.3, "float32")
    model.fit(X, y, verbose=0)
    assert_same_training(model, accelerate(model), X, y)


@pytest.mark.parametrize("by", ["names", "variables"])
def test_an_optimizer_inside_of_another(by):
    inner = optimizers.SGD(0.02, momentum=0.9, weight_decay=DECAY)
    model = model_and(inner, by)
    scaled = optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    assert_steps_alike(compiled(model, scaled), accelerate, 1)


@pytest.mark.skipif(not hasattr(optimizers, "MultiOptimizer"), reason="of Keras 3.15")
@pytest.mark.parametrize("by", ["names", "variables"])
def test_several_optimizers(by):
    inner = optimizers.SGD(0.02, weight_decay=DECAY)
    model = model_and(inner, by)
    several = optimizers.OptimizerMap(
        inner, {"both/.*": optimizers.Adam(0.01), ".*head/.*": optimizers.RMSprop(0.03)}
    )
    model = compiled(model, optimizers.MultiOptimizer(several))
    assert_steps_alike(model, accelerate, 2)


@keras.saving.register_keras_serializable("test_accelerate_optimizers")
class Multiplied(optimizers.SGD):
    """With a learning rate for each variable, told apart in two ways."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.by_id, self.by_path, self.note = {}, {}, None

    def update_step(self, gradient, variable, learning_rate):
        path = getattr(variable, "path", None)  # TensorFlow's own variables have none
        factor = self.by_id.get(id(variable), 1.0) * self.by_path.get(path, 1.0)
        super().update_step(gradient, variable, learning_rate * factor)


def given_to_update_step(variable):
    return id(variable.value if keras.config.backend() == "tensorflow" else variable)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_table_of_the_users(steps):
    optimizer = Multiplied(0.1, momentum=0.5)
    model = model_and(optimizer)
    variables = model.trainable_variables
    optimizer.by_id = {given_to_update_step(v): 0.1 * i for i, v in enumerate(variables)}
    optimizer.by_path = {variables[1].path: 3.0}
    optimizer.note = note = object()
    fast = accelerate(compiled(model, optimizer))
    assert fast.optimizer.by_id.keys() == set(map(given_to_update_step, fast.trainable_variables))
    assert fast.optimizer.note is note
    assert_steps_alike(model, accelerate, steps)


def test_what_is_set_on_a_variable():
    optimizer = optimizers.SGD(0.1)
    model = model_and(optimizer)
    kernel, recurrent, bias = model.layers[1].weights
    kernel.overwrite_with_gradient = True
    recurrent.constraint, bias.regularizer = keras.constraints.NonNeg(), keras.regularizers.L2(0.3)
    fast = accelerate(compiled(model, optimizer))
    assert fast.layers[1].weights[0].overwrite_with_gradient
    assert len(fast.losses) == len(model.losses) == 1
    assert_steps_alike(model, accelerate, 1)


def test_an_optimizer_in_an_attribute():
    class Twofold(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn, self.second = layers.LSTM(U), optimizers.AdamW(0.02, weight_decay=DECAY)

        def call(self, x):
            return self.rnn(x)

    model = Twofold()
    model(X)
    model.second.exclude_from_weight_decay(var_list=model.trainable_variables[1:2])
    steps_of(model, model.second, 1)
    fast = accelerate(model)
    assert fast.second is not model.second
    for one in (model, fast):
        steps_of(one, one.second, 2)
    for theirs, ours in zip(model.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
