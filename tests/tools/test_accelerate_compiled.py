"""What a model was compiled with goes along: losses, metrics, the optimizer and its state."""

import keras
import numpy as np
import pytest
import zoo
from converted import EAGERLY, assert_same_training, trained
from keras import layers, ops
from zoo import B, D, T, U, X

from ostinato import accelerate
from support import elsewhere_in_long, on_one_backend, sample

Y = np.full((B, 1), 0.3, "float32")


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def own_metric(y_true, y_pred):
    return ops.mean(y_pred)


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1.0 + ops.cast(step, "float32"))

    def get_config(self):
        return {}


MOST_STEPS = 1 if keras.config.backend() == "torch" else 2  # Keras on PyTorch refuses more
COMPILED = {
    "schedule": {"optimizer": lambda: keras.optimizers.SGD(OwnSchedule(), momentum=0.9)},
    "clipped": {"optimizer": lambda: keras.optimizers.RMSprop(clipnorm=0.1, weight_decay=0.01)},
    "amsgrad": {"optimizer": lambda: keras.optimizers.Adam(amsgrad=True)},
    "own_loss": {"loss": OwnLoss, "metrics": lambda: [own_metric, "mae"]},
    "function": {"loss": lambda: own_metric, "weighted_metrics": lambda: ["mse"]},
    "eager": {"run_eagerly": lambda: True},
    "steps": {"steps_per_execution": lambda: MOST_STEPS, "jit_compile": lambda: False},
}


@pytest.mark.parametrize("name", sample(COMPILED, "steps"))
def test_what_it_was_compiled_with(name):
    options = {key: make() for key, make in COMPILED[name].items()}
    model, x, y = trained(zoo.own_layers, **options)
    fast = accelerate(model)
    assert fast.run_eagerly == model.run_eagerly
    assert fast.steps_per_execution == model.steps_per_execution
    assert fast.optimizer.get_config() == model.optimizer.get_config()
    assert_same_training(model, fast, x, y)


@elsewhere_in_long
def test_losses_and_metrics_by_output():
    model = zoo.shared()
    x, y = zoo.batches(model)
    model.compile(
        "adam",
        loss={"first": "mse", "second": "mae", "third": OwnLoss()},
        loss_weights={"first": 0.5, "second": 2.0, "third": 1.0},
        metrics={"second": [own_metric, keras.metrics.MeanSquaredError(name="error")]},
    )
    model.fit(x, y, epochs=1, verbose=0)
    assert_same_training(model, accelerate(model), x, y)


@elsewhere_in_long
def test_a_learning_rate_that_was_changed():
    model, *_ = trained(zoo.own_layers)
    model.optimizer.learning_rate = 1e-4
    assert float(accelerate(model).optimizer.learning_rate) == pytest.approx(1e-4)
    assert int(accelerate(model).optimizer.iterations) == 2


@elsewhere_in_long
def test_an_optimizer_built_for_other_weights_starts_anew_and_says_so():
    model, *_ = trained(zoo.sequential)
    model.layers[-1].trainable = False
    with pytest.warns(UserWarning, match="starts? anew"):
        accelerate(model)


def test_a_compile_of_ones_own_is_left_to_its_owner():
    class Compiled(keras.Sequential):
        def compile(self, extra, **options):
            super().compile(**options)
            self.extra = extra

    model = Compiled([keras.Input((T, D)), layers.LSTM(U)])
    model.compile(3, optimizer="adam", loss="mse")
    with pytest.warns(UserWarning, match="`compile` of its own"):
        fast = accelerate(model)
    assert type(fast) is Compiled
    assert not fast.compiled
    assert fast.extra == 3


@on_one_backend
def test_a_compile_of_ones_own_that_comes_with_its_config_is_carried_over():
    class Compiled(keras.Sequential):
        def compile(self, extra=0, **options):
            super().compile(**options)
            self.extra = extra

        def compile_from_config(self, config):
            self.compile(self.extra, **{k: config[k] for k in ("optimizer", "loss")})

        def get_compile_config(self):
            return {"optimizer": "sgd", "loss": "mae"}

    model = Compiled([keras.Input((T, D)), layers.LSTM(U)])
    model.compile(3, optimizer="sgd", loss="mae")
    fast = accelerate(model)
    assert (fast.compiled, fast.extra, fast.loss) == (True, 3, "mae")


def test_a_train_step_of_ones_own():
    class Counting(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = layers.LSTM(U), layers.Dense(1)
            self.seen = keras.metrics.Mean(name="seen")
            self.noise = keras.random.SeedGenerator(3)
            self.helper = self.plus_one

        def plus_one(self, x):
            return x + 1.0 + 0 * keras.random.normal((1,), seed=self.noise)

        def call(self, x):
            return self.helper(self.head(self.rnn(x)))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            self.seen.update_state(loss)
            return loss

    model = Counting()
    model.compile("adam", "mse", run_eagerly=EAGERLY)
    model.fit(X, Y, epochs=2, verbose=0)
    fast = accelerate(model)
    assert fast.helper.__self__ is fast
    assert fast.noise is not model.noise
    seen = [float(each.seen.result()) for each in (model, fast)]
    assert seen[0] == seen[1] > 0  # so far
    assert_same_training(model, fast, X, Y)


def test_loss_scaling_that_was_switched_off_stays_off():
    model = keras.Sequential([keras.Input((T, D)), layers.LSTM(U, dtype="mixed_float16")])
    model.dtype_policy = "mixed_float16"
    model.compile("sgd", "mse", auto_scale_loss=False)
    assert type(accelerate(model).optimizer) is type(model.optimizer)
