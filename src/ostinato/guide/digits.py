"""Handwritten digits: the real MNIST where it can be had, else 10,000 of its digits, shipped here.

Keras's own loader isn't asked to download: it waits for as long as the network does, and fails
with a bare Exception.
"""

import hashlib
import http.client
import importlib.resources
import os
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# As in keras.datasets.mnist.
ADDRESS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

ANSWER_SECONDS = 5.0  # for a server to say something
DOWNLOAD_SECONDS = 60.0  # for all of the 11 MB


@dataclass(frozen=True)
class Digits:
    """Images as (digits, 28 rows, 28 columns) in [0, 1], their labels, and where they're from."""

    x_train: Any
    y_train: Any
    x_test: Any
    y_test: Any
    source: str

    def __str__(self) -> str:
        return f"{len(self.x_train):,} to train on, {len(self.x_test):,} unseen; {self.source}"

    def part(self, train: int, test: int) -> "Digits":
        """Returns the first `train` and `test` of them."""
        images = self.x_train[:train], self.y_train[:train], self.x_test[:test], self.y_test[:test]
        return Digits(*images, self.source)


def load(*, quick: bool = False) -> Digits:
    """Returns MNIST from Keras's cache or the network; else, or if `quick`, what's shipped."""
    if quick:
        return shipped("a small part of MNIST, shipped with Ostinato").part(1536, 320)
    cache = cache_path()
    if is_mnist(cache):
        return _read(cache, "MNIST, from Keras's cache")
    reason = fetch(cache)
    if reason is None:
        return _read(cache, "MNIST, fetched into Keras's cache")
    return shipped(f"a part of MNIST shipped with Ostinato, as MNIST itself {reason}")


def shipped(source: str) -> Digits:
    """Returns the 10,000 digits that come with this package."""
    file = importlib.resources.files("ostinato.guide") / "data" / "mnist10k.npz"
    with importlib.resources.as_file(file) as path:
        return _read(path, source)


def cache_path() -> Path:
    """Returns where keras.datasets.mnist keeps its file."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "datasets" / "mnist.npz"


def is_mnist(path: Path) -> bool:
    """Says whether the file is there and is MNIST, whole."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


def fetch(path: Path, address: str = ADDRESS) -> str | None:
    """Downloads MNIST to `path` in bounded time. Returns why it couldn't, or None."""
    reasons: list[str | None] = []
    # Looking up a name has no time limit of its own, hence the thread.
    download = threading.Thread(
        target=lambda: reasons.append(_download(path, address)), daemon=True
    )
    download.start()
    download.join(ANSWER_SECONDS + DOWNLOAD_SECONDS)
    return reasons[0] if reasons else "took too long to fetch"


def _download(path: Path, address: str) -> str | None:
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    received = bytearray()
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
            while block := answer.read(1 << 16):
                received += block
                if time.monotonic() > deadline:
                    return "took too long to fetch"
        if hashlib.sha256(received).hexdigest() != SHA256:
            return "came damaged from the network"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(received)
        partial.replace(path)  # so that no other program sees half a file
    except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
        reason = getattr(error, "reason", error)
        return f"can't be fetched ({getattr(reason, 'strerror', None) or reason})"
    return None


def _read(path: Path, source: str) -> Digits:
    with np.load(path) as file:
        x_train, x_test = (file[name].astype("float32") / 255 for name in ("x_train", "x_test"))
        return Digits(x_train, file["y_train"], x_test, file["y_test"], source)
