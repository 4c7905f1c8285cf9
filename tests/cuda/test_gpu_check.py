"""`ostinato check-gpu`: what it finds, the stamp that it leaves, and what the plan makes of it."""

import shutil
import sys
from argparse import Namespace

import keras
import pytest

import ostinato
from ostinato import cli, layers

if keras.config.backend() != "torch":
    pytest.skip("on one backend; test_jax.py has JAX's", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import torch

from ostinato.cuda import driver, nvrtc, stamp
from ostinato.cuda.layout import BLOCK, GRID
from ostinato.doors import door
from ostinato.gpu_check import checking, command, comparing
from ostinato.gpu_check.configurations import GRU, OWN, Configuration, configurations
from ostinato.layers import planning

SMALL = Configuration(GRU, 9, (("reset_after", False),), has_mask=True, rows=4)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(comparing, "TIMESTEPS", 5)


def test_what_is_right_is_told_and_what_is_wrong(card, monkeypatch):
    card(8, GRID)
    own = Configuration(OWN, 9, has_states=True, resets="fresh states", rows=4)
    told = []
    assert checking.check([SMALL, own], told.append) == 0
    assert [line.partition(" ")[0] for line in told] == ["right", "right"]
    assert "GRU, 9 units, float32: reset_after=False, masked, 4 rows: values off by" in told[0]

    def nearly(text):  # a product that forgets some of its depth
        return text.replace("k < CHUNK / DEPTH;", "k < CHUNK / DEPTH - 1;")

    card(16, BLOCK, nearly)
    assert checking.check([SMALL._replace(units=16)], told.append) == 1
    assert told[-1].startswith("WRONG GRU")


def test_other_bits_each_time_are_wrong():
    assert comparing.Found(1e-7, 1e-7, True).is_right("float32")
    for found in ((1e-3, 0.0, True), (0.0, float("nan"), True), (0.0, 0.0, False)):
        assert not comparing.Found(*found).is_right("float32")


def test_a_kernel_that_traps_ends_it_and_what_does_not_fit_is_no_fault(card, monkeypatch):
    def hangs(text):  # one block of each group never comes
        return text.replace("  b.meetings = 0;", "  b.meetings = 0; if (b.number == 1) return;")

    card(8, GRID, hangs)
    told = []
    assert checking.check([SMALL, SMALL], told.append) == 2
    assert "FAILED GRU" in told[0]
    assert "a thread trapped" in told[0]
    assert told[1] == "1 more aren't tried, as the card may be lost"
    card(8, GRID)
    monkeypatch.setattr(planning, "why_no_cuda", lambda: "there's no room")
    assert checking.check([SMALL], told.append) == 1  # nothing was right
    assert "refused GRU" in told[-1]
    assert "there's no room" in told[-1]
    assert checking.check([SMALL], told.append, seconds=-1) == 1
    assert told[-1] == "no time for 1 more"


def test_every_option_is_tried_in_each_way_that_blocks_meet():
    from ostinato.layers import arguments

    for units in (64, 128, 512):
        of_size = list(configurations((units,)))
        options = {name for each in of_size for name, _ in each.options}
        assert options >= {*("activation", "recurrent_activation", "use_bias", "reset_after")}
        assert options >= {"dropout", "recurrent_dropout", "go_backwards", "zero_output_for_mask"}
        assert {each.products for each in of_size} == {"float32", "tf32", "bfloat16"}
        assert {each.resets for each in of_size} == {"", "zeros", "fresh states"}
        assert len({each.kind for each in of_size if each.is_for_all}) == 3
    # What isn't tried changes nothing that a kernel sees.
    outside = {"return_state", "stateful", "unroll"}
    assert set(arguments.LOOP) <= options | outside | {"return_sequences"}


@pytest.fixture
def on_gpu(card, no_driver, monkeypatch):
    """The plan is told that tensors are on a GPU; kernels run as on a card that is none."""
    card(16, BLOCK)
    monkeypatch.setattr(door, "device_of", lambda x: "cuda")
    monkeypatch.setattr(door, "cudnn_why_not", lambda x: None)
    monkeypatch.setattr(door, "native_why_not", lambda x: "the tensors are on cuda:0")
    monkeypatch.setattr(nvrtc, "version", lambda: (12, 9))
    monkeypatch.setattr(checking, "what_is_tried", lambda: [SMALL])


def engines(*made):
    model = keras.Sequential([keras.Input((None, 4)), *made])
    return [(row.engine, row.why_not_faster) for row in ostinato.explain(model)]


def test_with_a_stamp_the_plan_takes_what_cudnn_has_not(on_gpu):
    def stack():
        return (
            layers.LSTM(9, return_sequences=True),
            layers.GRU(9, reset_after=False, return_sequences=True),
            layers.RNN(comparing.GatedCell(9), return_sequences=True),
            layers.GRU(9, recurrent_dropout=0.2),
        )

    before = "cuDNN has no GRU with reset_after=False"
    unchecked = "Ostinato's CUDA kernel isn't checked on this card: run `ostinato check-gpu`"
    found = engines(*stack())
    assert [engine for engine, _ in found] == ["cudnn", "scan", "scan", "cudnn"]
    assert found[1][1] == f"{before}; {unchecked}"
    assert found[3][1].startswith("in training scan: ")
    told = []
    assert checking.check_and_stamp(told.append) == 0
    assert told[0].startswith("a card that is none, a driver of CUDA 12.4; ")
    assert "from now on" in told[-1]
    found = engines(*stack())
    assert [engine for engine, _ in found] == ["cudnn", "cuda", "cuda", "cudnn"]
    assert found[1][1] == before
    assert found[3][1].startswith("in training cuda: ")
    layer, x = layers.GRU(9, reset_after=False, recurrent_dropout=0.2), torch.randn(2, 3, 4)
    own = layer(x, training=True).detach()
    layer.cell.seed_generator.state.assign([0, 0])
    with ostinato.use_engine("scan"):
        assert own.shape == layer(x).shape


def test_a_stamp_is_for_what_was_checked(on_gpu, monkeypatch):
    assert checking.check_and_stamp(lambda text: None) == 0
    for change in (
        (driver, "described", lambda card: "another card, or another driver"),
        (driver, "card", lambda number: (80, 108, 166912)),
        (nvrtc, "version", lambda: (13, 0)),
        (stamp, "_sources", lambda: "others"),
        (door, "cuda_launcher", lambda: "torch 9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            assert engines(layers.GRU(9, reset_after=False))[0][0] == "scan"
        assert engines(layers.GRU(9, reset_after=False))[0][0] == "cuda"


def test_a_call_reads_no_file(on_gpu):
    """Layers ask for the stamp in every call, where it is and where it isn't."""
    opened, watching = [], [True]  # a hook can't be taken away again

    def hook(event, args):
        if watching and event == "open":
            opened.append(args[0])

    sys.addaudithook(hook)
    layer, x = layers.GRU(9, reset_after=False), torch.randn(2, 3, 4)
    for is_checked in (False, True):
        if is_checked:
            assert checking.check_and_stamp(lambda text: None) == 0
        layer(x)
        opened.clear()
        layer(x)
        assert opened == []
        assert engines(layer)[0][0] == ("cuda" if is_checked else "scan")
    stamp.take(0, door.cuda_launcher())
    watching.clear()
    assert any(str(path).endswith(".json") for path in opened)  # it would have been seen
    assert engines(layer)[0][0] == "scan"


def test_what_was_right_once_and_is_no_more_loses_its_stamp(on_gpu, monkeypatch):
    assert checking.check_and_stamp(lambda text: None) == 0
    monkeypatch.setitem(comparing.TOLERANCES, "float32", 0.0)
    told = []
    assert checking.check_and_stamp(told.append) == 1
    assert told[-1] == "1 of 1 aren't right: the plan doesn't take the engine by itself"
    assert engines(layers.GRU(9, reset_after=False))[0][0] == "scan"


def test_an_error_that_is_no_refusal_is_a_fault(card, monkeypatch):
    card(16, BLOCK)
    tried = iter([comparing.compare, _raise])
    monkeypatch.setattr(checking, "compare", lambda *args: next(tried)(*args))
    told = []
    assert checking.check([SMALL, SMALL, SMALL], told.append) == 2
    assert told[1] == f"FAILED {SMALL}: shapes that don't fit"


def _raise(*args):
    raise ValueError("shapes\n that don't fit")


def test_a_stamp_of_another_process_goes_where_something_is_wrong(on_gpu, monkeypatch):
    def wrong(*args):
        stamp.leave(0, door.cuda_launcher())
        return 1

    monkeypatch.setattr(checking, "check", wrong)
    assert checking.check_and_stamp(lambda text: None) == 1
    assert not stamp.is_there(0, door.cuda_launcher())


def test_a_stamp_that_can_not_be_taken_away_is_said(on_gpu, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    stamp.leave(0, door.cuda_launcher())
    monkeypatch.setattr(stamp.Path, "unlink", refuse)
    told = []
    assert checking.check_and_stamp(told.append) == 1
    assert told[1].startswith("nothing is tried, as the stamp of before can't be taken away")


def test_a_folder_that_can_not_be_looked_into_has_no_stamp(on_gpu, monkeypatch):
    monkeypatch.setenv("OSTINATO_CACHE", "x" * 5000)  # as for others' folders, but for root too
    assert engines(layers.GRU(9, reset_after=False))[0][0] == "scan"
    monkeypatch.delenv("OSTINATO_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(nvrtc.Path, "home", homeless)
    assert engines(layers.GRU(9, reset_after=False))[0][0] == "scan"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_that_are_none_are_refused(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["check-gpu", "--seconds", seconds])
    assert ended.value.code == 2
    assert f"--seconds: {'invalid' if seconds == 'soon' else 'expected'}" in capsys.readouterr().err


def test_a_cache_that_can_not_be_written_to_is_said(on_gpu, monkeypatch):
    monkeypatch.setenv("OSTINATO_CACHE", "/dev/null/nowhere")
    told = []
    assert checking.check_and_stamp(told.append) == 1
    assert "set OSTINATO_CACHE" in told[-1]


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("exit(0)", 0, ""),
        ("exit(1)", 1, ""),
        ("exit(2)", 2, ""),
        ("import os; os.abort()", 1, "its process ended with -6"),
        ("import time; time.sleep(60)", 1, "ended after 2 s: it hangs"),
        ("import os; exit('OSTINATO_ENGINE' in os.environ)", 0, ""),
        ("import os; exit(os.environ['KERAS_BACKEND'] != 'torch')", 0, ""),
        ("import os; exit(os.environ['JAX_ENABLE_X64'] != '1')", 0, ""),
    ],
)
def test_the_command_waits_for_a_process_of_its_own(program, code, said, monkeypatch, capsys):
    monkeypatch.setattr(command, "_COMMAND", (sys.executable, "-c", program))
    monkeypatch.setenv("OSTINATO_ENGINE", "scan")
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    assert command.run(Namespace(backend="torch", seconds=2.0)) == code
    printed = capsys.readouterr().out
    assert printed.startswith("== torch")
    assert said in printed


def test_one_framework_that_sees_no_card_does_not_count(monkeypatch):
    program = "import os; exit(2 if os.environ['KERAS_BACKEND'] == 'jax' else 0)"
    monkeypatch.setattr(command, "_COMMAND", (sys.executable, "-c", program))
    assert command.run(Namespace(backend=None, seconds=30.0)) == 0
    assert command.run(Namespace(backend="jax", seconds=30.0)) == 2
    monkeypatch.setattr(command, "FRAMEWORKS", ("no_such_framework",))
    assert command.run(Namespace(backend=None, seconds=30.0)) == 2
