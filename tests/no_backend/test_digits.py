"""Where the digits come from: cache, network, package; the network is never used here."""

import hashlib
import http.server
import threading

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("pygments")

from ostinato.guide import digits


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A file like MNIST's with other digits, taken for MNIST; the cache is elsewhere, empty."""
    path = tmp_path / "small.npz"
    images, labels = np.full((3, 28, 28), 255, np.uint8), np.arange(3, dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    monkeypatch.setattr(digits, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return path


@pytest.fixture
def server(small):
    """The address of a server on this machine that has the file."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/mnist.npz" else 404)
            self.end_headers()
            self.wfile.write(small.read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


def test_the_shipped_digits():
    found = digits.shipped("here")
    assert found.x_train.shape == (8500, 28, 28)
    assert found.x_test.shape == (1500, 28, 28)
    assert found.x_train.dtype == np.float32
    assert found.x_train.min() == 0
    assert found.x_train.max() == 1
    assert set(found.y_train) == set(found.y_test) == set(range(10))


def test_quick_asks_neither_cache_nor_network(monkeypatch):
    monkeypatch.setattr(digits, "cache_path", None)
    monkeypatch.setattr(digits, "fetch", None)
    found = digits.load(quick=True)
    assert (len(found.x_train), len(found.x_test)) == (1536, 320)


def test_the_cache_comes_first(small, monkeypatch):
    monkeypatch.setattr(digits, "fetch", None)
    digits.cache_path().parent.mkdir(parents=True)
    digits.cache_path().write_bytes(small.read_bytes())
    found = digits.load()
    assert len(found.x_train) == 3
    assert found.source == "MNIST, from Keras's cache"


def test_then_the_network_into_the_cache(server, monkeypatch):
    monkeypatch.setattr(digits.fetch, "__defaults__", (f"{server}/mnist.npz",))
    assert digits.load().source == "MNIST, fetched into Keras's cache"
    assert digits.load().source == "MNIST, from Keras's cache"
    assert [path.name for path in digits.cache_path().parent.iterdir()] == ["mnist.npz"]


def test_at_last_what_is_shipped(small, server, monkeypatch):
    monkeypatch.setattr(digits.fetch, "__defaults__", (f"{server}/elsewhere",))
    digits.cache_path().parent.mkdir(parents=True)
    digits.cache_path().write_bytes(b"half a download")  # isn't taken for MNIST
    found = digits.load()
    assert len(found.x_train) == 8500
    assert "as MNIST itself can't be fetched (Not Found)" in found.source


def test_a_server_that_says_nothing_is_not_waited_for(small, monkeypatch):
    with http.server.socketserver.TCPServer(("127.0.0.1", 0), None) as silent:
        monkeypatch.setattr(digits, "ANSWER_SECONDS", 0.2)
        address = f"http://127.0.0.1:{silent.server_address[1]}/mnist.npz"
        assert "timed out" in digits.fetch(digits.cache_path(), address)


def test_a_damaged_download_is_refused(server, monkeypatch):
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    reason = digits.fetch(digits.cache_path(), f"{server}/mnist.npz")
    assert reason == "came damaged from the network"
    assert not digits.cache_path().exists()
