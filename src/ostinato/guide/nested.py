"""The guide's cell whose input, state and output each have two parts, one of them a matrix."""

from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato import layers
from ostinato.guide import pictures
from ostinato.guide.course import (
    SEED,
    Course,
    Fact,
    Findings,
    agree,
    array,
    equal,
    shape,
    summarise,
)


class NestedCell(keras.layers.Layer):
    """Maps a vector and a matrix at each timestep, and sums up what came of each."""

    def __init__(self, unit_1: int, unit_2: int, unit_3: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit_1 = unit_1
        self.unit_2 = unit_2
        self.unit_3 = unit_3
        sizes = [layers.Shape(unit_1), layers.Shape(unit_2, unit_3)]
        self.state_size = self.output_size = sizes

    def build(self, input_shapes: Any) -> None:
        """Makes the weights for inputs of shapes (batch, i1) and (batch, i2, i3)."""
        (_, i1), (_, i2, i3) = input_shapes
        self.kernel_1 = self.add_weight(
            shape=(i1, self.unit_1),
            initializer="uniform",
            name="kernel_1",
        )
        self.kernel_2_3 = self.add_weight(
            shape=(i2, i3, self.unit_2, self.unit_3),
            initializer="uniform",
            name="kernel_2_3",
        )

    def call(self, inputs: Any, states: Any) -> Any:
        """Takes one timestep: returns its output, and the states after it."""
        input_1, input_2 = keras.tree.flatten(inputs)
        s1, s2 = states

        output_1 = ops.matmul(input_1, self.kernel_1)
        kernel_2_3 = self.kernel_2_3
        output_2_3 = ops.einsum("bij,ijkl->bkl", input_2, kernel_2_3)
        state_1 = s1 + output_1
        state_2_3 = s2 + output_2_3
        return (output_1, output_2_3), (state_1, state_2_3)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same cell again."""
        config: dict[str, Any] = super().get_config()
        config["unit_1"] = self.unit_1
        config["unit_2"] = self.unit_2  # the guide forgets the self
        config["unit_3"] = self.unit_3
        return config


def nested_model() -> Any:
    """Builds a model of two inputs and two outputs around the cell."""
    cell = NestedCell(unit_1=10, unit_2=20, unit_3=30)
    rnn = layers.RNN(cell)

    # At each timestep a vector and a matrix; any number of timesteps.
    input_1 = keras.Input((None, 32))
    input_2 = keras.Input((None, 64, 32))
    outputs = rnn((input_1, input_2))

    model = keras.Model([input_1, input_2], outputs)
    accuracy = ["accuracy", "accuracy"]  # one for each output
    model.compile(optimizer="adam", loss="mse", metrics=accuracy)
    return model


def nested(course: Course) -> Findings:
    """Trains the nested model on random data, as the guide does, and checks its arithmetic."""
    keras.utils.set_random_seed(SEED)
    model = nested_model()
    batches, timesteps = (2, 8) if course.quick else (10, 50)
    inputs, targets = _random_data(64 * batches, timesteps)
    before = model.evaluate(inputs, targets, batch_size=64, verbose=0)[0]
    model.fit(inputs, targets, batch_size=64)
    after = model.evaluate(inputs, targets, batch_size=64, verbose=0)[0]

    short = [part[:4, :5] for part in inputs]
    outputs, states, cell = _with_states(model, short)
    rebuilt = NestedCell.from_config(cell.get_config())
    facts = [
        equal(
            "The model's outputs are",
            shape(*model.outputs),
            "(None, 10), (None, 20, 30)",
        ),
        Fact("fit lowers the loss", f"{before:.2f} to {after:.2f}", after < before),
        agree("The outputs are those of the last timestep", outputs, _sums(cell, short, last=True)),
        agree("The states are NumPy's sums over all timesteps", states, _sums(cell, short)),
        equal("The cell's config makes the same cell", _units(rebuilt), _units(cell)),
    ]
    parts = {"input": [part[0, -1] for part in short]}
    parts |= {"output": [array(part)[0] for part in outputs]}
    parts |= {"state": [array(part)[0] for part in states]}
    picture = pictures.nested(parts)
    showed = "A vector and a matrix at each timestep, trained with fit"
    return Findings(showed, facts, (picture,), summarise(model))


def _units(cell: NestedCell) -> str:
    config = cell.get_config()
    return ", ".join(f"{name}={config[name]}" for name in ("unit_1", "unit_2", "unit_3"))


def _random_data(samples: int, timesteps: int) -> tuple[list[Any], list[Any]]:
    shapes = {"inputs": [(timesteps, 32), (timesteps, 64, 32)], "targets": [(10,), (20, 30)]}
    random = np.random.default_rng(SEED)
    inputs, targets = (
        [random.random((samples, *size), "float32") for size in sizes] for sizes in shapes.values()
    )
    return inputs, targets


def _with_states(model: Any, inputs: list[Any]) -> tuple[Any, Any, Any]:
    """Runs the model's cell in an RNN that returns its states."""
    cell = next(layer.cell for layer in model.layers if isinstance(layer, layers.RNN))
    outputs, *states = layers.RNN(cell, return_state=True)(tuple(inputs))
    return list(outputs), states, cell


def _sums(cell: NestedCell, inputs: list[Any], last: bool = False) -> list[Any]:
    vectors, matrices = (part[:, -1:] if last else part for part in inputs)
    return [
        np.einsum("bti,ij->bj", vectors, array(cell.kernel_1)),
        np.einsum("btij,ijkl->bkl", matrices, array(cell.kernel_2_3), optimize=True),
    ]
