"""Data-parallel training on PyTorch: DistributedDataParallel over gloo.

    python examples/distributed_torch.py     # two processes of this machine; --processes N

`torchrun --standalone --nproc-per-node=2` starts it as well. A Keras model is a torch.nn.Module, so
PyTorch's own wrapper takes it: each process computes the loss of its part of a batch, and the
backward pass averages gradients over all. Afterwards the first process trains alone, on whole
batches: the losses are the same.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import _parallel
import keras
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ostinato.layers import LSTM


def build():
    """The model and what trains it; the same seed, so the same first weights, in every process."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((28, 28)), LSTM(_parallel.UNITS), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    return model, torch.optim.Adam(model.parameters(), _parallel.RATE)


# Sums over processes, kept to the end. Else the group's thread may be the last to let go of a loss,
# for which it wants Python's lock; who ends the group holds that, and waits (PyTorch 2.13, gloo).
SUMS = []


def stepping(module, adam, processes=1):
    """A function that trains on a batch, and gives the loss over all processes."""

    def step(images, labels):
        scores = module(torch.as_tensor(images))
        loss = torch.nn.functional.cross_entropy(scores, torch.as_tensor(labels).long())
        adam.zero_grad()
        loss.backward()
        adam.step()
        loss = loss.detach()
        if processes > 1:
            SUMS.append(distributed.all_reduce(loss, async_op=True))
            SUMS[-1].wait()
        return loss / processes

    return step


def work(epochs):
    """What each process does."""
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    model, adam = build()
    step = stepping(DistributedDataParallel(model), adam, processes)
    together = _parallel.train(step, _parallel.Data(rank, processes), epochs)
    distributed.barrier()  # nobody leaves while another still waits for a sum
    distributed.destroy_process_group()
    if rank == 0:
        alone = _parallel.train(stepping(*build()), _parallel.Data(), epochs)
        _parallel.report(f"{processes} processes", alone, together)


def main(argv=None):
    asked = _parallel.arguments(__doc__, argv, processes=2, epochs=4)
    if "RANK" in os.environ:
        return work(asked.epochs)
    return _parallel.launch(__file__, [f"--epochs={asked.epochs}"], asked.processes)


if __name__ == "__main__":
    main()
