"""A walker that feels its steps alone says where home is. Now and then it's carried home unawares.

    python examples/walking_home.py

Path integration, as desert ants do it: where one is is the sum of all steps since home. An episode
ends after 5 to 40 steps, when the walker is set down at home again, of which it feels nothing.
Written in NumPy: rows of 60 timesteps, each with as many episodes as fit.

The same GRU learns from the same rows twice. With `resets` its states are fresh where an episode
begins. Without, it can't know what of all that it remembers is of the walk before. Then both live
as streams, a thousand walkers at a time, each carried home when its own time has come.
The baseline says that home is here.
"""

import _shared  # first: it chooses the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import ostinato
from ostinato.layers import GRU

UNITS, TIMESTEPS, BATCH, SHORTEST, LONGEST = 48, 60, 64, 5, 40


def walks(rows, seed, timesteps=TIMESTEPS):
    """Steps (rows, T, 2), where episodes begin (rows, T), and positions (rows, T, 2)."""
    rng = np.random.default_rng(seed)
    turns = rng.uniform(0, 2 * np.pi, (rows, 1)) + rng.normal(0, 0.5, (rows, timesteps)).cumsum(1)
    lengths = rng.uniform(0.05, 0.15, (rows, timesteps, 1))
    steps = (lengths * np.stack([np.cos(turns), np.sin(turns)], axis=-1)).astype("float32")
    begins = np.zeros((rows, timesteps), bool)
    for row in begins:
        times = rng.integers(SHORTEST, LONGEST + 1, timesteps // SHORTEST).cumsum()
        row[[0, *times[times < timesteps]]] = True
    positions, here = np.zeros_like(steps), np.zeros((rows, 2), "float32")
    for t in range(timesteps):
        here = np.where(begins[:, t, None], 0, here) + steps[:, t]
        positions[:, t] = here
    return steps, begins, positions


def made(with_resets):
    """The model; it's told where episodes begin, or only has a place for it."""
    keras.utils.set_random_seed(1)
    steps, begins = keras.Input((None, 2)), keras.Input((None,), dtype="bool")
    layer = GRU(UNITS, return_sequences=True)
    hidden = layer(steps, resets=begins) if with_resets else layer(steps)
    model = keras.Model([steps, begins], layers.Dense(2)(hidden))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    return model


def apart(a, b):
    """The mean distance of positions."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


def lived(model, with_resets, steps, begins):
    """What streams say, step by step; the walkers' episodes begin each at its own time."""
    gru, dense = (layer for layer in model.layers if layer.weights)
    stream = ostinato.stream(keras.Sequential([keras.Input((None, 2)), gru, dense]), len(steps))
    told = (begins.T if with_resets else np.zeros_like(begins.T),)
    return np.stack(
        [stream.step(x, resets=anew) for x, anew in zip(steps.swapaxes(0, 1), *told, strict=True)],
        axis=1,
    )


def draw(losses, errors, walk, said, path):
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4))
    for name, loss in losses.items():
        left.plot(loss, label=name)
    left.set(title="Error in training", xlabel="epoch", yscale="log")
    left.legend()
    _shared.bars(middle, list(errors), list(errors.values()), "Off by, mean", _shared.TEAL, "%.3f")
    right.plot(*walk.T, color=_shared.INK, label="where it is")
    for name, path_said in said.items():
        right.plot(*path_said.T, ".", label=name)
    right.set(title="The last episode of one walker")
    right.set_aspect("equal", adjustable="datalim")
    right.legend(fontsize=8, loc="lower right")
    _shared.picture(figure, path)


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=25, rows=2048)
    steps, begins, positions = walks(asked.rows, seed=0)
    unseen, unseen_begins, truth = walks(1000, seed=1)
    losses, errors, answers = {}, {"home is here": apart(0 * truth, truth)}, {}
    for name, with_resets in (("with resets", True), ("without", False)):
        model = made(with_resets)
        fitted = model.fit([steps, begins], positions, BATCH, asked.epochs, verbose=0)
        losses[name] = fitted.history["loss"]
        answers[name] = lived(model, with_resets, unseen, unseen_begins)
        errors[name] = apart(answers[name], truth)
        print(f"{name:12} an error of {losses[name][-1]:.5f} in training", flush=True)
    episode = slice(int(np.flatnonzero(unseen_begins[0])[-1]), None)
    said = {name: answer[0, episode] for name, answer in answers.items()}
    draw(losses, errors, truth[0, episode], said, asked.output / "walking_home.png")
    for name, error in errors.items():
        print(
            f"As streams, {name}: off by {error:.3f} of a distance of {errors['home is here']:.3f}"
        )
    return {"losses": losses, "errors": errors}


if __name__ == "__main__":
    main()
