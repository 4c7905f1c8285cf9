"""What the examples of data-parallel training share: processes of this machine, digits, a report.

A process knows its place by the variables that torchrun sets, too: RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT. On several machines start the program on each with these; here `launch` does it.
"""

import argparse
import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import time

import numpy as np

from ostinato.guide import digits

BATCH = 256  # of all processes together: it has to be a multiple of their number
UNITS = 128
RATE = 2e-3

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no greeting from TensorFlow


def arguments(description, argv=None, **numbers):
    """Reads the command line, an option for each of `numbers`, with its default."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    asked = parser.parse_args(argv)
    if min(vars(asked).values()) < 1 or asked.epochs < 2:
        parser.error("expected numbers of 1 and more, and 2 epochs: the first isn't timed")
    parts = asked.processes * getattr(asked, "devices", 1)
    if BATCH % parts:
        parser.error(f"expected {BATCH} rows to part among {parts} devices, equally")
    return asked


def launch(file, argv, processes, seconds=math.inf, **popen):
    """Starts a program `processes` times on this machine.

    Ends all where one fails, as the rest would wait for it, or after so many seconds. `popen` is
    what subprocess.Popen takes besides.
    """
    ports = free_ports(processes)
    workers = [
        subprocess.Popen(
            [sys.executable, file, *argv],
            env={**os.environ, **place(rank, ports), **here()},
            **popen,
        )
        for rank in range(processes)
    ]
    end = time.monotonic() + seconds
    try:
        while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
            if any(worker.poll() for worker in workers):
                break
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit(f"A process failed; they returned {codes}.")


def free_ports(number):
    """Ports that nobody listens on, below those that the system gives to connections by itself."""
    found = []
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            return found
    return sys.exit("No free port between 20000 and 32000.")


def place(rank, ports):
    """The variables of one process: the usual ones, and TensorFlow's."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(ports)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(ports[0]),
        "TF_CONFIG": json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
        ),
    }


def here():
    """Settings for processes that share one machine."""
    # With two threads each, two processes would wait for one another on two cores.
    settings = {"OMP_NUM_THREADS": "1", "OSTINATO_NUM_THREADS": "1"}
    if sys.platform == "linux":  # gloo needn't ask the network who this machine is
        settings["GLOO_SOCKET_IFNAME"] = "lo"
    return settings


class Data:
    """The digits of one process: of each batch of all, its own equal part.

    Attributes:
        images: (steps, rows, 28, 28), a batch's rows of this process.
        labels: (steps, rows).
    """

    def __init__(self, rank=0, processes=1):
        if BATCH % processes:
            sys.exit(f"expected a number of processes that divides {BATCH}, got {processes}")
        shipped = digits.load(quick=True)
        steps = len(shipped.x_train) // BATCH  # whole batches only
        # Everyone shuffles all digits, by the same seed, and takes a part of its own.
        order = np.random.default_rng(0).permutation(len(shipped.x_train))[: steps * BATCH]
        order = order.reshape(steps, processes, BATCH // processes)[:, rank]
        self.images, self.labels = shipped.x_train[order], shipped.y_train[order].astype("int32")


def train(step, data, epochs):
    """Calls `step(images, labels)`, which gives the loss of all, for each batch.

    Returns the mean loss of each epoch, and the median milliseconds a step after the first epoch,
    in which frameworks compile.
    """
    losses, times = [], []
    for _ in range(epochs):
        for images, labels in zip(data.images, data.labels, strict=True):
            begin = time.perf_counter()
            losses.append(float(step(images, labels)))
            times.append(time.perf_counter() - begin)
    steps = len(data.images)
    return np.reshape(losses, (epochs, steps)).mean(axis=1), 1e3 * np.median(times[steps:])


def report(name, alone, together):
    """Prints both ways' losses and times; raises where the losses differ."""
    for way, (losses, time_of_step) in (("one alone", alone), (name, together)):
        shown = " ".join(f"{loss:.6f}" for loss in losses)
        print(f"{way:14} loss by epoch {shown}; {time_of_step:.1f} ms a step")
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)
    print(f"The same losses, {alone[1] / together[1]:.2f} times as fast.", flush=True)
