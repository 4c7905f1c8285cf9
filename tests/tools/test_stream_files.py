"""Streams and states in files: there and back, tampered with, and where there is no Keras."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import ostinato
from ostinato import native
from ostinato.layers import RNN
from ostinato.streaming.packed import encoded
from support import on_one_backend
from tools.stream_zoo import ZOO, Own, Peephole, gru, lstm, stack
from tools.streamed import N, assert_nests_close, data_for, floats

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(native.why_not() is not None, reason="no native engine here"),
]
NATIVE = [
    "LSTM", "GRU reset before of 64 to 33", "RNN of cells under a mask", "dicts",
    "Embedding with a mask", "all merges", "float64", "trained BatchNormalization",
    "cells of one's own under a mask", "an activation of one's own",
]  # fmt: skip


@pytest.mark.parametrize("name", NATIVE)
def test_there_and_back(name, tmp_path):
    case, path = ZOO[name], tmp_path / "model.stream"
    model = case.make()
    data = data_for(model, case.padding)
    stream = ostinato.stream(model, streams=N)
    stream.run(data)
    stream.save(path)
    loaded = ostinato.Stream.load(path)
    assert (loaded.name, loaded.streams) == (stream.name, N)
    assert_nests_close(loaded.state, stream.state, 0)
    assert_nests_close(loaded.run(data), stream.run(data), 0)
    loaded.save(path)
    assert_nests_close(ostinato.Stream.load(path).run(data), stream.run(data), 0)


@pytest.fixture(scope="module")
def model():
    """Layers of several kinds."""
    own = RNN([Own(2), Peephole(2)], return_sequences=True, name="own")
    return stack(layers.Masking(), lstm(5, name="a"), layers.Dense(4), own, gru(3, name="b"))


def test_another_number_of_streams(model, tmp_path):
    stream, data = ostinato.stream(model), data_for(model, 0.0)
    stream.run(data[0])
    stream.save(tmp_path / "model")
    loaded = ostinato.Stream.load(tmp_path / "model", streams=N)
    assert_nests_close(loaded.run(data), ostinato.stream(model, streams=N).run(data), 0)
    for wrong in (0, -1, 2.0, "2"):
        with pytest.raises(ValueError, match="expected a positive number of streams or None"):
            ostinato.Stream.load(tmp_path / "model", streams=wrong)


def test_one_that_was_loaded_has_no_model(model, tmp_path):
    ostinato.stream(model).save(tmp_path / "model")
    with pytest.raises(ValueError, match="refresh: it was loaded from a file, and has no model"):
        ostinato.Stream.load(tmp_path / "model").refresh()


def test_states_that_the_operations_do_not_have(saved, tmp_path):
    about, arrays = parts(saved)
    about["states"].pop()
    write(tmp_path / "model", about, arrays)
    with pytest.raises(ValueError, match=r"model: expected a stream .* states aren't"):
        ostinato.Stream.load(tmp_path / "model")


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_another_way_than_a_file(model, act):
    with pytest.raises(TypeError, match=r"stream of .*: can't be copied or pickled; .*`save`"):
        act(ostinato.stream(model))


def test_what_keras_runs_cannot_be_saved(tmp_path):
    stream = ostinato.stream(ZOO["a cell of all rows"].make())
    with pytest.raises(ValueError, match=r"save: only a stream on the native engine.*OfAllRows"):
        stream.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name", ["LSTM, masked", "a cell of all rows under a mask", "cells of one's own under a mask"]
)
def test_states(name, tmp_path):
    model = ZOO[name].make()
    data = data_for(model, 0.0)
    stream, other = (ostinato.stream(model, streams=N) for _ in range(2))
    stream.run(data)
    stream.save_state(tmp_path / "state")
    other.load_state(tmp_path / "state")
    assert_nests_close(other.run(data), stream.run(data), 0)


def test_states_of_others(model, tmp_path):
    path = tmp_path / "state"
    ostinato.stream(model).save_state(path)
    stream = ostinato.stream(model, streams=2)
    with pytest.raises(ValueError, match=r"expected the states .*\(2, 5\).*got .*\(1, 5\)"):
        stream.load_state(path)
    with pytest.raises(ValueError, match="expected the states"):
        ostinato.stream(stack(lstm(5, name="other"))).load_state(path)
    about, arrays = parts(path.read_bytes())
    for changed in (
        {**arrays, f"state{len(arrays)}": arrays["state0"]},
        {**arrays, "more": arrays["state0"]},
        {name: array for name, array in arrays.items() if name != "state0"},
    ):
        write(tmp_path / "changed", about, changed)
        with pytest.raises(ValueError, match="expected the states of as many layers"):
            ostinato.stream(model).load_state(tmp_path / "changed")
    ostinato.stream(model).save(path)
    with pytest.raises(ValueError, match="expected states that `save_state` wrote"):
        stream.load_state(path)
    stream.save_state(path)
    with pytest.raises(ValueError, match=r"expected a stream that `Stream.save` wrote"):
        ostinato.Stream.load(path)


def test_files_of_before_layers_of_one_name_went_by_their_paths(tmp_path):
    inner = keras.Sequential([keras.Input((None, 3)), lstm(4, name="r")], name="inner")
    x = keras.Input((None, 3))
    model = keras.Model(x, gru(2, name="r")(inner(x)))
    data = floats(7, 3)
    stream = ostinato.stream(model)
    stream.run(data)
    for name, save in (("state", stream.save_state), ("stream", stream.save)):
        save(tmp_path / name)
        about, arrays = parts((tmp_path / name).read_bytes())
        text = json.dumps(about)
        assert "inner/r" in text
        write(tmp_path / f"old {name}", json.loads(text.replace("inner/r", "r")), arrays)
    for name in ("state", "old state"):
        other = ostinato.stream(model)
        other.load_state(tmp_path / name)
        assert_nests_close(other.state, stream.state, 0)
    after = stream.run(data)
    for name, keys in (("stream", {"inner/r", "r"}), ("old stream", {"r"})):
        loaded = ostinato.Stream.load(tmp_path / name)
        assert set(loaded.state) == keys
        assert_nests_close(loaded.run(data), after, 0)


# --- files that are something else ----------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The bytes of a stream's file."""
    path = tmp_path_factory.mktemp("saved") / "model"
    ostinato.stream(model, streams=2).save(path)
    return path.read_bytes()


def parts(saved):
    """A file's description and arrays."""
    with np.load(io.BytesIO(saved)) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("about"))), arrays


def write(path, about, arrays):
    """A file of these."""
    with path.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def of_numpy(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def of_zip(**members):
    """The bytes of a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"PK\x03\x04 and no more",
        of_numpy(np.zeros(3)),
        of_zip(about="text"),
        of_zip(**{"about.npy": of_numpy(np.array("[1, 2]"))}),
        of_zip(**{"about.npy": of_numpy(np.array("{"))}),
        of_zip(**{"about.npy": of_numpy(np.array("[" * 100_000))}),
        of_zip(**{"about.npy": of_numpy(np.array('{"format": "ostinato stream 2"}'))}),
        of_zip(**{"about.npy": of_numpy(np.array('{"format": "ostinato stream 1"}'))}),
        of_zip(**{"weight0.npy": of_numpy(np.zeros(3))}),
    ],
)
def test_foreign_files(content, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model: expected a .*got"):
        ostinato.Stream.load(path)


def test_what_a_foreign_file_is(tmp_path):
    path = tmp_path / "model"
    stack(lstm(2)).save(tmp_path / "model.keras")
    for name in ("config.json", "garbage"):
        if name == "garbage":
            path.write_bytes(b"garbage")
        else:
            path.write_bytes((tmp_path / "model.keras").read_bytes())
        with pytest.raises(ValueError, match="expected a stream that") as caught:
            ostinato.Stream.load(path)
        assert "pickle" not in str(caught.value)
        assert (name == "garbage") == ("no archive of arrays" in str(caught.value))
        assert (name == "config.json") == ("other entries: ['config.json'" in str(caught.value))


@pytest.mark.parametrize("path", [5, None])
def test_what_is_no_path(model, path):
    for read in (ostinato.Stream.load, ostinato.stream(model).load_state):
        with pytest.raises(ValueError, match=f"expected the path of .* wrote, got {path}"):
            read(path)
    with pytest.raises(ValueError, match=f"save: expected the path of a file, got {path}"):
        ostinato.stream(model).save(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        ostinato.Stream.load(tmp_path / "none")


def loaded_or_refused(path):
    """A stream from a file; None where it's refused with a ValueError."""
    try:
        return ostinato.Stream.load(path)
    except ValueError:
        return None


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files(saved, tmp_path_factory, data):
    """A bit flipped or the end cut off: an error, or the same numbers."""
    path = tmp_path_factory.getbasetemp() / "damaged"
    damaged = bytearray(saved)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(saved) - 1)) :]
    else:
        damaged[data.draw(st.integers(0, len(saved) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    stream = loaded_or_refused(path)
    if stream is not None:
        stream.run(floats(2, 3, 3))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([2**24, 2**31, 2**63, -(2**63)]),
    st.floats(), st.sampled_from(["", "tanh", "float64", "bool"]), st.lists(st.integers(0, 9)),
    st.dictionaries(st.sampled_from(["dict", "list", "x"]), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300)
@given(data=st.data())
def test_tampered_descriptions(saved, tmp_path_factory, data):
    """Any value of the description changed: an error, or a stream that runs."""
    about, arrays = parts(saved)
    place, key = about, data.draw(st.sampled_from(sorted(about)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 9)):
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
    place[key] = data.draw(ODD)
    path = tmp_path_factory.getbasetemp() / "tampered"
    write(path, about, arrays)
    stream = loaded_or_refused(path)
    if stream is not None:
        lead = () if stream.streams is None else (stream.streams,)
        stream.run(floats(*lead, 3, 3))


@pytest.mark.parametrize(
    "name", ["weight0", "weight3", "weight6", "initial1", "state0", "state2", "routine0"]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[..., :-1] if a.ndim else np.zeros(2, a.dtype),
        lambda a: a.astype("int32"),
        lambda a: a.astype(">f8"),
        lambda a: np.array(3.0),
        lambda a: a.astype("S0"),
        None,
    ],
)
def test_tampered_arrays(saved, tmp_path, name, change):
    about, arrays = parts(saved)
    array = arrays.pop(name)
    if change is not None:
        arrays[name] = change(array)
    write(tmp_path / "model", about, arrays)
    with pytest.raises(ValueError, match="expected") as caught:
        ostinato.Stream.load(tmp_path / "model")
    assert str(caught.value).startswith(f"{tmp_path / 'model'}: expected ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda about, arrays: arrays["routine1"].__setitem__(0, 9),
            "routine 1: version: .*1, got 9",
        ),
        (
            lambda about, arrays: about["routine_operations"].reverse(),
            "another version of Ostinato",
        ),
        (lambda about, arrays: about["routine_operations"].append("new"), "another version of O"),
        (lambda about, arrays: about.pop("routine_operations"), "no 'routine_operations'"),
        (lambda about, arrays: about.pop("routines"), "the number of a routine"),
    ],
)
def test_routines_of_other_versions(saved, tmp_path, change, message):
    about, arrays = parts(saved)
    change(about, arrays)
    write(tmp_path / "model", about, arrays)
    with pytest.raises(ValueError, match=f"model: expected a .*{message}"):
        ostinato.Stream.load(tmp_path / "model")


def test_models_without_cells_of_ones_own_are_what_they_were(tmp_path):
    ostinato.stream(stack(lstm(3))).save(tmp_path / "model")
    about, _ = parts((tmp_path / "model").read_bytes())
    assert about["format"] == "ostinato stream 1"
    assert "routines" not in about


# --- the engine by itself -------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-2, 12), st.sampled_from([2**20, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)])
)


@settings(max_examples=300)
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), NUMBERS), max_size=4),
    cut=st.integers(0, 2000),
    extra=st.lists(NUMBERS, max_size=13),
)
def test_specs_of_all_kinds(model, edits, cut, extra):
    """Whatever integers the core gets, it makes a program of them or says what is wrong."""
    program = ostinato.stream(model)._runner.program
    spec = encoded(program)
    for place, number in edits:
        spec[place % len(spec)] = number
    spec = spec[: cut if cut < 5 or not edits else len(spec)] + extra
    if spec and spec[0] > 1000:
        spec[0] %= 1000  # so many streams are allowed, and their memory is the caller's wish
    if len(spec) > 2 and spec[2] > 10_000 and spec[2] <= 2**24:
        spec[2] = 10_000
    views = [(a.ctypes.data, native.FLOAT32, a.shape) for a in program.weights]
    try:
        made = native.Program(native.FLOAT32, spec, views)
    except ValueError:
        return
    made.run((floats(spec[0], 1, max(spec[2], 1)),), (np.empty((spec[0], 1, 3), "float32"),), 1)


# --- without Keras --------------------------------------------------------------------------------

WITHOUT = """
import sys
for name in ("keras", "jax", "jaxlib", "torch", "tensorflow"):
    sys.modules[name] = None  # not found
import numpy as np
import ostinato
stream = ostinato.Stream.load(sys.argv[1])
np.save(sys.argv[3], stream.run(np.load(sys.argv[2])))
stream.save(sys.argv[1])
try:
    ostinato.stream
except ImportError as error:
    print(error)
"""


def test_where_there_is_no_keras(model, tmp_path):
    data, stream = floats(2, 6, 3), ostinato.stream(model, streams=2)
    stream.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", data)
    paths = [str(tmp_path / name) for name in ("model", "x.npy", "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *paths],
        env={key: os.environ[key] for key in os.environ if key != "KERAS_BACKEND"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "None of jax, torch and tensorflow is installed" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), stream.run(data))
    assert_nests_close(ostinato.Stream.load(tmp_path / "model").state, stream.state, 0)
