"""`ostinato.explain`: every recurrent layer is listed, with its engine and the reason."""

import zipfile
from pathlib import Path

import keras
import pytest

import ostinato
from ostinato import layers, machine, native
from ostinato.cli import main
from ostinato.explanation import Row
from ostinato.settings import forced_engine
from support import on_one_backend

WHY_NOT = native.why_not() or (forced_engine() == "scan" and "OSTINATO_ENGINE is set")
ON_KERNEL = "scan" if WHY_NOT else "fused"
needs_native = pytest.mark.skipif(bool(WHY_NOT), reason=str(WHY_NOT))
BACKEND = keras.config.backend()


NOT_BUILT = "the layer isn't built yet"


def own(x):
    return x


class Model(keras.Model):
    """Layers wherever Keras tracks them."""

    def __init__(self):
        super().__init__(name="model")
        self.first = layers.LSTM(4, return_sequences=True, name="first")
        self.listed = [layers.GRU(3, activation=own, return_sequences=True, name="listed")]
        self.by_key = {
            "a": keras.layers.TimeDistributed(
                layers.SimpleRNN(2, name="timed"), name="time_distributed"
            )
        }
        inner = [keras.Input((3, 4)), layers.LSTM(3, name="deep")]
        self.nested = keras.Sequential(inner, name="inner")
        self.again = self.first


def rows(model):
    return {row.layer: row for row in ostinato.explain(model)}


def test_layers_are_found_wherever_they_are_and_once():
    found = rows(Model())
    timed = ["time_distributed", "time_distributed/timed"]  # Keras's own, around one of ours
    assert list(found) == ["first", "listed", *timed, "inner/deep"]
    kinds = ["LSTM", "GRU", "TimeDistributed", "SimpleRNN", "LSTM"]
    assert [row.kind for row in found.values()] == kinds


@needs_native
def test_a_row_says_what_runs():
    (row,) = ostinato.explain(layers.LSTM(3, name="a"))
    assert row == Row("a", "LSTM", "fused", native.target(), native.threads(), "")


@needs_native
def test_a_row_says_why_not_faster():
    row = rows(Model())["listed"]
    assert (row.engine, row.target, row.threads) == ("scan", BACKEND, None)
    reasons = ("activation is a function that the kernel doesn't have: own", NOT_BUILT)
    assert row.why_not_faster == "; ".join(reasons)


def test_without_the_native_engine_it_says_so(monkeypatch):
    reason = "the native engine isn't built: there was no C++ compiler at installation"
    monkeypatch.setattr(native, "why_not", lambda: reason)
    found = ostinato.explain(layers.LSTM(3))
    assert f"Native engine: not available: {reason}" in str(found)
    (row,) = found
    assert row.engine == "scan"
    assert reason in row.why_not_faster


def test_stacked_cells_have_a_row_each():
    class OwnCell(layers.LSTMCell):
        def call(self, inputs, states, training=False):
            return super().call(inputs, states, training)

    stack = [layers.LSTMCell(3, name="low"), [OwnCell(2, name="middle")], layers.GRUCell(2)]
    stack[1] = layers.StackedRNNCells(stack[1])
    found = rows(layers.RNN(stack, name="rnn"))
    assert [row.kind for row in found.values()] == ["LSTMCell", "OwnCell", "GRUCell"]
    assert found["rnn/middle"].engine == "scan"
    assert "OwnCell" in found["rnn/middle"].why_not_faster or ON_KERNEL == "scan"


def test_bidirectional_has_a_row_for_each_direction():
    found = rows(layers.Bidirectional(layers.GRU(2, name="gru"), name="both"))
    assert list(found) == ["forward_gru", "backward_gru"]
    assert {row.engine for row in found.values()} == {ON_KERNEL}


def test_a_built_layer_with_nested_inputs_is_explained():
    class Sum(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            total = inputs[0] + inputs[1] + states[0]
            return total, [total]

    layer = layers.RNN(Sum())
    layer([keras.ops.ones((2, 4, 3)), keras.ops.ones((2, 4, 3))])
    (row,) = ostinato.explain(layer)
    reason = row.why_not_faster  # none where it's compiled: there's no faster one for such a cell
    is_on_loop = row.engine == "scan"
    assert ("Sum is not a built-in cell of ostinato.layers" in reason) is is_on_loop
    with ostinato.use_engine("scan"):
        (row,) = ostinato.explain(layer)
    assert "Sum is not a built-in cell of ostinato.layers" in row.why_not_faster


def test_a_program_is_made_into_text_where_it_is_asked_for(monkeypatch):
    class Total(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            return inputs + states[0], [inputs + states[0]]

    made = []
    monkeypatch.setattr("ostinato.programs.compiling.shown", lambda *args: made.append(1) or "text")
    layer = layers.RNN(Total())
    layer.build((None, None, 3))
    (row,) = ostinato.explain(layer)
    assert row.engine == ("scan" if native.why_not() else "compiled")
    assert not made
    assert row.program == (None if native.why_not() else "text")


def test_a_cell_alone_has_a_row():
    class Holds(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="holds")
            self.cells = layers.StackedRNNCells([layers.GRUCell(2, name="low")], name="stack")

    found = {**rows(layers.LSTMCell(3, name="cell")), **rows(Holds())}
    assert list(found) == ["cell", "stack/low"]
    for row in found.values():
        assert (row.engine, row.target, row.threads) == ("scan", BACKEND, None)
        assert "a cell by itself runs one timestep" in row.why_not_faster


def test_keras_s_own_layers_are_listed_with_a_hint():
    model = keras.Sequential(
        [keras.Input((3, 4)), keras.layers.Bidirectional(keras.layers.LSTM(2), name="keras_s")]
    )
    row = rows(model)["keras_s"]
    assert row.engine == "keras"
    assert "ostinato.accelerate(model)" in row.why_not_faster
    conv = keras.layers.ConvLSTM2D(2, 2, name="conv")
    derived = type("Own", (keras.layers.GRU,), {})(2, name="own")
    assert "converts it" in rows(conv)["conv"].why_not_faster
    assert "leaves alone" in rows(derived)["own"].why_not_faster


def test_layers_of_ours_in_a_bidirectional_of_keras_have_rows_of_their_own():
    inner = layers.LSTM(2, name="inner")
    both = keras.layers.Bidirectional(inner, name="both")
    both.build((None, 3, 4))
    found = rows(both)
    assert list(found) == ["both", "forward_inner", "backward_inner"]
    assert "ostinato.accelerate(model)` converts it" in found["both"].why_not_faster
    assert found["forward_inner"].engine == found["backward_inner"].engine == ON_KERNEL


def test_forced_engines_are_shown():
    with ostinato.use_engine("scan"):
        (row,) = ostinato.explain(layers.LSTM(3))
    assert row.engine == "scan"
    assert row.why_not_faster == "`use_engine` or OSTINATO_ENGINE asks for the engine 'scan'"
    with ostinato.use_engine("fused"):
        (row,) = ostinato.explain(layers.RNN(keras.layers.LSTMCell(3)))
    assert row.engine == "none"


@needs_native
def test_checkpoints_that_an_engine_does_not_heed_are_told():
    told = "use_checkpoints or OSTINATO_CHECKPOINTS changes nothing: it keeps all for the gradients"
    asked, gru = (ostinato.use_checkpoints(n) for n in (64, 0)), layers.GRU(3)
    for checkpoints, expected in zip(asked, ([False, True], [False, False]), strict=True):
        with checkpoints:
            found = []
            for engine in ("fused", "scan"):
                with ostinato.use_engine(engine):
                    (row,) = ostinato.explain(gru)
                found.append(row.why_not_faster.endswith(told))
        assert found == expected


def test_a_built_in_cell_on_the_engine_of_programs_is_refused_in_clear_words():
    layer = layers.LSTM(3)
    layer.build((None, None, 3))
    with ostinato.use_engine("compiled"):
        (row,) = ostinato.explain(layer)
        with pytest.raises(ValueError, match="built-in cell are those of the engine 'fused'"):
            layer(keras.ops.zeros((1, 2, 3)))
    assert row.why_not_faster.endswith("built-in cell are those of the engine 'fused'")


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="explain: expected a Keras model or layer, got 3"):
        ostinato.explain(3)


def test_the_table_is_text(monkeypatch):
    monkeypatch.setattr(machine, "crowded", lambda threads, cores, load: None)
    table = ostinato.explain(Model())
    header, headings, rule, *lines = str(table).splitlines()
    assert header.startswith(f"Backend {BACKEND}. Native engine: ")
    assert headings.startswith("layer")
    assert headings.endswith("why not a faster engine")
    assert set(rule) == {"-", " "}
    assert len(lines) == len(table) == 5
    assert repr(table) == str(table)
    assert "No recurrent layers." in str(ostinato.explain(keras.layers.Dense(1)))


@needs_native
def test_more_threads_than_free_cores_are_told_under_the_table(monkeypatch):
    asked = []
    monkeypatch.setattr(machine, "crowded", lambda *about: asked.append(about) or "9 threads")
    monkeypatch.setattr(machine, "load_on_cores", lambda: 1.25)
    table = ostinato.explain(layers.LSTM(3))
    *_, last = str(table).splitlines()
    assert last == table.warning
    assert "9 threads" in last
    assert "docs/troubleshooting.md" in last
    threads = native.threads()
    if BACKEND == "torch":
        import torch

        threads = torch.get_num_threads()
        assert last.startswith("Warning: PyTorch has ")
        assert "OMP_NUM_THREADS=1 before Python starts, or torch.set_num_threads(1)" in last
    else:
        assert "OSTINATO_NUM_THREADS=1" in last
    assert asked == [(threads, machine.cores(), 1.25)]
    assert ostinato.explain(keras.layers.Dense(1)).warning is None


def test_the_command_explains_a_file(tmp_path, capsys):
    model = keras.Sequential([keras.Input((3, 4)), layers.GRU(2, name="gru")])
    model.save(tmp_path / "model.keras")
    assert main(["explain", str(tmp_path / "model.keras")]) == 0
    assert "gru" in capsys.readouterr().out


def garbage(path):
    path.write_bytes(b"garbage")


def of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "")


@on_one_backend
@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.keras", lambda path: None, "File not found"),
        ("none.h5", lambda path: None, "No such file"),
        ("garbage.keras", garbage, "expected a .keras file, which is a zip archive"),
        ("garbage.h5", garbage, "expected an HDF5 file"),
        ("garbage", garbage, "File format not supported"),
        ("other.keras", of_something_else, "expected an archive with a 'config.json'"),
        ("folder", Path.mkdir, "got a folder"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_file(tmp_path, capsys, name, make, message):
    make(tmp_path / name)
    assert main(["explain", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ostinato: error: can't load {tmp_path / name}: ")
    assert message in said
    assert said.count("\n") == 1


@needs_native
def test_a_function_of_keras_ops_is_the_kernels_too():
    (row,) = ostinato.explain(layers.LSTM(3, activation=keras.ops.tanh))
    assert row.engine == ON_KERNEL


def test_a_cell_given_its_own_call_is_no_built_in_cell():
    cell = layers.LSTMCell(3)
    cell.call = lambda inputs, states, training=False: (2 * states[0], states)
    layer = layers.RNN(cell)
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "this LSTMCell has been given its own 'call'" in row.why_not_faster
    output = layer(keras.ops.ones((2, 4, 3)), initial_state=[keras.ops.ones((2, 3))] * 2)
    assert keras.ops.convert_to_numpy(output).tolist() == [[2, 2, 2]] * 2


@needs_native
@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA takes JAX's operation")
def test_xla_on_tensorflow_is_a_reason():
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(3)])
    model.compile("sgd", "mse", jit_compile=True)
    (row,) = ostinato.explain(model)
    assert row.engine == "scan"
    assert "XLA compiles the model" in row.why_not_faster


class Leaky(keras.layers.Layer):
    """A cell of one's own."""

    state_size = output_size = 3

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, inputs, states):
        h = keras.ops.tanh(0.5 * states[0] + keras.ops.matmul(inputs, self.kernel))
        return h, [h]


class Unreadable(Leaky):
    def call(self, inputs, states):
        h = states[0] if keras.ops.sum(inputs) > 0 else inputs[:, :3]
        return h, [h]


@pytest.mark.skipif(native.why_not() is not None, reason="no native engine")
def test_a_cell_of_ones_own_is_shown_with_its_program():
    layer = layers.RNN(Leaky(), name="leaky")
    layer.build((None, None, 5))
    found = ostinato.explain(layer, program=True)
    (row,) = found
    assert (row.engine, row.threads) == ("compiled", native.threads())
    assert "v3 = mul(" in row.program or "product(x0, w0)" in row.program
    assert "training keeps" in str(found)
    assert "product(" not in str(ostinato.explain(layer))


@pytest.mark.skipif(native.why_not() is not None, reason="no native engine")
def test_a_cell_that_cant_be_compiled_has_its_reason():
    layer = layers.RNN(Unreadable())
    layer.build((None, None, 5))
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "keras.ops.sum(inputs) > 0" in row.why_not_faster
