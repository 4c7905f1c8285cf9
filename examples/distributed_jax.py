"""Data-parallel training on JAX: Keras's DataParallel, over processes and devices of a process.

    python examples/distributed_jax.py                  # two processes; --processes N
    python examples/distributed_jax.py --processes 1 --devices 2

Every process runs the same program, in which a batch is one array over all devices; JAX adds up
gradients. Keras's `fit` feeds it: each process gives its own part of each batch. Afterwards the
first process trains alone, on whole batches: the losses are the same.
"""

import os
import time

os.environ["KERAS_BACKEND"] = "jax"

import _parallel
import jax
import keras
import numpy as np

from ostinato.layers import LSTM


class Clock(keras.callbacks.Callback):
    """Measures the steps after the first epoch, in which XLA compiles."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.times.append((time.perf_counter() - self.begin) / self.params["steps"])


def fitted(data, epochs):
    """Trains a new model; returns the loss of each epoch and the milliseconds a step."""
    keras.utils.set_random_seed(1)  # the same in every process: it's one program
    layers = [keras.Input((28, 28)), LSTM(_parallel.UNITS), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_parallel.RATE), loss)
    clock = Clock()
    # A batch's rows of this process; the rows of all are `BATCH`.
    own = {"batch_size": data.images.shape[1], "shuffle": False}
    images, labels = (np.concatenate(array) for array in (data.images, data.labels))
    log = model.fit(images, labels, epochs=epochs, callbacks=[clock], verbose=0, **own)
    return log.history["loss"], 1e3 * np.median(clock.times[1:])


def work(epochs):
    """What each process does."""
    rank, processes = jax.process_index(), jax.process_count()
    # Each process has its own part already: Keras isn't to take parts of parts.
    parallel = keras.distribution.DataParallel(devices=jax.devices(), auto_shard_dataset=False)
    with parallel.scope():
        together = fitted(_parallel.Data(rank, processes), epochs)
    if rank == 0:
        alone = fitted(_parallel.Data(), epochs)
        _parallel.report(f"{jax.device_count()} devices", alone, together)


def main(argv=None):
    asked = _parallel.arguments(__doc__, argv, processes=2, devices=1, epochs=4)
    if "RANK" not in os.environ and asked.processes > 1:
        options = [f"--epochs={asked.epochs}", f"--devices={asked.devices}"]
        return _parallel.launch(__file__, options, asked.processes)
    # Both before JAX is used for anything else. Gloo carries arrays between processes.
    jax.config.update("jax_num_cpu_devices", asked.devices)
    if "RANK" in os.environ:
        names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
        address, port, processes, rank = (os.environ[name] for name in names)
        jax.distributed.initialize(f"{address}:{port}", int(processes), int(rank))
    return work(asked.epochs)


if __name__ == "__main__":
    main()
