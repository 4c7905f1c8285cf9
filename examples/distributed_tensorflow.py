"""Data-parallel training on TensorFlow: MirroredStrategy and MultiWorkerMirroredStrategy.

    python examples/distributed_tensorflow.py           # two processes; --processes N
    python examples/distributed_tensorflow.py --processes 1 --devices 2

One loop of one's own does for both: each replica computes its part of the loss of a batch, and the
optimizer adds up the gradients of all. (Keras's `fit` takes a MirroredStrategy, too; over several
processes it fails.) Afterwards the first process trains alone: the losses are the same.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import _parallel
import keras
import tensorflow as tf

from ostinato.layers import LSTM

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


def training(strategy, replicas=1):
    """A function that trains a new model on a batch, and gives the loss over all replicas.

    The function's arguments are the rows of this process, which has so many `replicas`.
    """
    with strategy.scope():
        keras.utils.set_random_seed(1)  # the same in every process
        layers = [keras.Input((28, 28)), LSTM(_parallel.UNITS), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        adam = keras.optimizers.Adam(_parallel.RATE)
        adam.build(model.trainable_variables)

    def replica(images, labels):
        with tf.GradientTape() as tape:
            losses = LOSS(labels, model(images, training=True))
            # The sum over this replica's rows, by the number of all rows.
            loss = tf.nn.compute_average_loss(losses, global_batch_size=_parallel.BATCH)
        gradients = tape.gradient(loss, model.trainable_variables)
        adam.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(images, labels):
        return strategy.reduce("SUM", strategy.run(replica, (images, labels)), axis=None)

    def split(rows):
        """Consecutive rows to each replica of this process."""
        if replicas == 1:
            return tf.convert_to_tensor(rows)
        parts = tf.split(rows, replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    return lambda images, labels: step(split(images), split(labels))


def work(epochs, devices):
    """What each process does."""
    rank = int(os.environ.get("RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if processes > 1:  # before TensorFlow is used for anything else; it reads TF_CONFIG
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    together = _parallel.train(training(strategy, devices), _parallel.Data(rank, processes), epochs)
    if rank == 0:
        single = tf.distribute.get_strategy()
        alone = _parallel.train(training(single), _parallel.Data(), epochs)
        _parallel.report(f"{strategy.num_replicas_in_sync} replicas", alone, together)
    if processes > 1:  # nobody leaves before the others: they'd take it for a failure
        strategy.reduce("SUM", tf.constant(0.0), axis=None)


def main(argv=None):
    asked = _parallel.arguments(__doc__, argv, processes=2, devices=1, epochs=4)
    if "RANK" in os.environ or asked.processes == 1:
        return work(asked.epochs, asked.devices)
    if asked.devices > 1:
        raise SystemExit("expected several processes or several devices, got both")
    return _parallel.launch(__file__, [f"--epochs={asked.epochs}"], asked.processes)


if __name__ == "__main__":
    main()
