"""The benchmark: its data, its contenders, the refusal of wrong results, its files."""

import json
import re
import sys
from itertools import product
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from benchmarks import cells, cliff, targets, verdicts
from benchmarks import prepare as eager_calls

from ostinato.bench import command, contenders, measuring, results, tables
from ostinato.bench.cases import KINDS, Case, select
from ostinato.bench.contenders import NAMES, Contender, parse
from ostinato.bench.measuring import Measured, Pace
from ostinato.bench.prepared import prepare
from ostinato.bench.process import ContenderFailedError, OutOfTimeError, Process, processes
from ostinato.cli import main
from ostinato.doors import door
from support import crossed, on_one_backend, sample

HERE = keras.config.backend()
OURS, KERAS = f"ostinato-{HERE}", f"keras-{HERE}"


def run_of(case, minima, engine=None):
    """A run as the file of numbers has it, of contenders and their seconds."""
    row = {"kind": case.kind, "size": case.size, "mode": case.mode, "engine": engine}
    measured = [vars(Measured(name, minimum=s, median=2 * s)) for name, s in minima.items()]
    return {**row, "measured": measured}


def test_all_cases():
    everything = select(KINDS, ["S", "guide"], ["infer", "train", "fit"])
    assert len(everything) == 3 * (2 + 1)
    assert {case.size for case in everything if case.mode == "fit"} == {"guide"}


def test_half_of_the_padded_timesteps_are_valid():
    case = Case("LSTM", "M-padded", "train")
    mask = case.mask()
    assert mask.mean() == pytest.approx(0.5, abs=0.01)
    assert mask.any(axis=1).all()
    assert not case.cotangent()[~mask].any()


@pytest.mark.parametrize("half", [cliff._right, cliff._left])
def test_half_of_the_timesteps_are_valid_in_the_cliffs_padding(half):
    assert half(Case("LSTM", "M", "train"))["mask"].mean() == pytest.approx(0.5, abs=0.01)


def test_preparing_a_call_is_measured_without_the_operation(monkeypatch):
    operation, count = door.native_run, []
    monkeypatch.setattr(door, "native_run", lambda *given: count.append(1) or operation(*given))
    calls = eager_calls._calls(Case("GRU", "S", "infer"), whole=False)
    times = eager_calls._times(calls, 1, whole=False)
    assert len(count) == len(calls) == 4  # once each, for its results
    assert all(len(found) == 1 and found[0] > 0 for found in times.values())


def test_names_name_one_contender_each():
    assert len(NAMES) == len(contenders.ALL)
    assert all(parse(name) == contender for name, contender in NAMES.items())
    assert parse("ostinato-jax-scan") == Contender("ostinato", "jax", "scan")


def test_contenders_in_bfloat16_are_compared_with_one_another():
    case = Case("LSTM", "S", "infer")
    theirs = {"torch.nn": 0.8, "torch.nn-bfloat16": 0.6}
    run = run_of(case, {"ostinato-jax": 1.0, "ostinato-jax-bfloat16": 0.5, **theirs})
    assert tables.compare(run).peer == NAMES["torch.nn"]
    assert tables.compare(run, "bfloat16").ratio == pytest.approx(1.2)
    row = tables.by_precision([run]).splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "1000 ms", "500 ms", "2.00", "600 ms", "torch.nn (bfloat16)", "1.20"
    ]  # fmt: skip
    assert tables.by_precision([run_of(case, {"ostinato-jax": 1.0})]) == ""
    assert parse("ostinato-jax-bfloat16-scan").title == "Ostinato (JAX, bfloat16, scan)"


def test_what_is_not_installed_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    here, absent = contenders.choose(["tf_keras", OURS], None)
    assert [c.name for c in here] == [OURS]
    assert absent == {"tf_keras": "tf_keras isn't installed"}


def test_the_engine_is_forced_on_ours_alone():
    here, _ = contenders.choose([OURS, KERAS], "scan")
    assert [c.environment().get("OSTINATO_ENGINE") for c in here] == ["scan", None]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_contenders_in_bfloat16_agree_with_float32(mode):
    case = Case("GRU", "S", mode)
    names = [OURS, f"{OURS}-bfloat16", *(["torch.nn-bfloat16"] if HERE == "torch" else [])]
    prepared = [prepare(NAMES[name], case) for name in names]
    expected, *found = (each.values(each.run()) for each in prepared)
    for values in found:
        assert measuring.compare(expected, values, measuring.TOLERANCES["bfloat16"])[1] == ""
        assert measuring.compare(expected, values)[1] != ""


@pytest.mark.parametrize(
    ("kind", "mode"),
    sample([*product(KINDS, ["infer", "train"])], (KINDS[0], "infer"), (KINDS[1], "train")),
)
def test_contenders_of_this_backend_agree(kind, mode):
    small = Case(kind, "M-padded", mode)
    names = [OURS, KERAS, *(["torch.nn"] if HERE == "torch" else [])]
    names += ["tf_keras"] if HERE == "tensorflow" and not NAMES["tf_keras"].missing() else []
    prepared = [prepare(NAMES[name], small) for name in names]
    expected, *others = (one.values(one.run()) for one in prepared)
    assert len(expected) == (1 if mode == "infer" else 5)
    for values in others:
        assert measuring.compare(expected, values)[1] == ""
    assert prepared[0].engine.startswith(("fused", "scan"))
    assert prepared[0].seconds() > 0


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    crossed(KINDS, ["onnxruntime", "openvino", "openvino-bfloat16"], ["B2", "M-padded"]),
)
def test_runtimes_of_onnx_graphs_agree(kind, name, size):
    if HERE != "jax":
        pytest.skip("is the same on every backend")
    if missing := NAMES[name].missing():
        pytest.skip(f"{missing} isn't installed")
    case = Case(kind, size, "infer")
    ours, theirs = (prepare(NAMES[each], case) for each in (OURS, name))
    expected, values = (each.values(each.run()) for each in (ours, theirs))
    tolerance = measuring.TOLERANCES[NAMES[name].dtype]
    assert measuring.compare(expected, values, tolerance)[1] == ""
    assert "bf16" in theirs.engine or NAMES[name].dtype == "float32"
    assert theirs.seconds() > 0


def test_runtimes_run_inference_alone():
    here, absent = contenders.choose(["onnxruntime", "openvino-bfloat16"], None)
    assert len(here) + len(absent) == 2
    assert {NAMES[n].modes for n in ("onnxruntime", "openvino-bfloat16")} == {("infer",)}
    assert NAMES["openvino-bfloat16"].title == "OpenVINO (bfloat16)"
    assert NAMES["onnxruntime"].environment().get("KERAS_BACKEND") != "onnx"


def test_fit_learns_the_same():
    case = Case("GRU", "guide", "fit")
    ours, theirs = (prepare(NAMES[name], case) for name in (OURS, KERAS))
    assert measuring.compare(ours.values(None), theirs.values(None))[1] == ""
    assert 0 < ours.seconds() < 10


@pytest.mark.skipif(HERE == "tensorflow", reason="bare sgemm is taken from JAX and PyTorch")
def test_the_limit_is_products_alone():
    limit = prepare(NAMES[f"sgemm-{HERE}"], Case("LSTM", "S", "train"))
    assert limit.seconds() > 0
    assert limit.values(limit.run()) == []
    assert limit.engine == "84 products"


def test_other_results_are_refused():
    right = [np.ones((2, 3)), np.arange(4.0)]
    assert measuring.compare(right, [right[0] * (1 + 1e-6), right[1]]) == (pytest.approx(1e-6), "")
    assert "differ by 1.0e-03" in measuring.compare(right, [right[0] * 1.001, right[1]])[1]
    assert "differ by inf" in measuring.compare(right, [right[0] * np.nan, right[1]])[1]
    assert "shapes" in measuring.compare(right, right[:1])[1]


class Pretender(Process):
    """A contender without a process; `fails` at a method, after a few calls of it that go well."""

    def __init__(self, name, value=1.0, fails="", error=None, after=0):
        super().__init__(NAMES[name])
        self.value, self.fails, self.after = value, fails, after
        self.error = error or ContenderFailedError("ValueError: no")
        self.rounds = 0

    def ask(self, method, *arguments, limit):
        if method == self.fails:
            self.after -= 1
            if self.after < 0:
                raise self.error
        self.rounds += method == "round"
        answers = {"prepare": ([np.full(3, self.value)], "an engine"), "round": [0.25, 0.5]}
        return answers.get(method)


def test_turns_are_taken_by_those_that_agree():
    all_of_them = [
        Pretender("ostinato-jax", 1.0),
        Pretender("keras-jax", 2.0),
        Pretender("torch.nn", 1.0, fails="prepare"),
        Pretender("keras-torch", 1.0, fails="round"),
    ]
    pace = Pace(rounds=2, pause=0)
    said = []
    ours, other, failed, later = measuring.measure(
        all_of_them, Case("LSTM", "S", "infer"), pace, said.append
    )
    assert (ours.minimum, ours.median, ours.runs, ours.rounds) == (0.25, 0.375, 4, [0.25, 0.25])
    assert other.trouble == "refused: its results differ by 1.0e+00 of scale"
    assert failed.trouble == later.trouble == "failed: ValueError: no"
    assert [p.rounds for p in all_of_them] == [2, 0, 0, 0]
    assert said[-1] == "measuring"
    line = tables.troubles([{**run_of(Case("LSTM", "S", "infer"), {}), "measured": [vars(other)]}])
    assert line[0].endswith(
        "inference: Keras (JAX) refused: its results differ by 1.0e+00 of scale"
    )


def test_a_contender_out_of_time_is_named_and_what_it_had_counts():
    late = OutOfTimeError("no result in 20 s")
    all_of_them = [
        Pretender("ostinato-jax"),
        Pretender("keras-torch", fails="prepare", error=late),
        Pretender("torch.nn", fails="round", error=late, after=1),
        Pretender("keras-jax", fails="load", error=OutOfTimeError("no result in 120 s")),
    ]
    case, pace = Case("LSTM", "S", "infer"), Pace(rounds=3, pause=0)
    ours, never, later, unloaded = measuring.measure(all_of_them, case, pace, lambda what: None)
    assert (ours.trouble, ours.too_slow, ours.runs) == ("", False, 6)
    assert (never.trouble, never.too_slow, never.runs) == ("stopped: no result in 20 s", True, 0)
    assert (later.trouble, later.too_slow, later.runs) == ("", True, 2)
    assert (unloaded.trouble, unloaded.too_slow) == ("stopped: no result in 120 s", True)


def test_who_is_prepared_has_a_turn_though_the_case_is_out_of_time(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(clock))
    all_of_them = [Pretender("ostinato-jax"), Pretender("keras-jax")]
    pace = Pace(pause=0, limit=9)
    ours, theirs = measuring.measure(all_of_them, Case("LSTM", "S", "infer"), pace, lambda _: None)
    assert [ours.runs, theirs.runs] == [2, 2]


def test_nothing_is_begun_when_the_case_is_out_of_time():
    all_of_them = [Pretender("ostinato-jax"), Pretender("keras-jax")]
    found = measuring.measure(
        all_of_them, Case("LSTM", "S", "infer"), Pace(limit=-1), lambda what: None
    )
    assert [one.trouble for one in found] == [measuring.OVER] * 2
    assert not any(one.too_slow for one in found)


@on_one_backend
def test_a_process_that_fails_or_takes_too_long_says_why_and_starts_again():
    with processes([NAMES[OURS]]) as (process,):
        with pytest.raises(ContenderFailedError, match="expected a prepared case before a round"):
            process.ask("round", 0.0)
        with pytest.raises(OutOfTimeError, match=r"no result in 0\.01 s"):
            process.ask("prepare", Case("LSTM", "XL", "train"), limit=0.01)
        assert process._process is None
        values, engine = process.ask("prepare", Case("LSTM", "S", "infer"))
        assert values[0].shape == (64, 28, 64)
        assert engine
        assert all(seconds > 0 for seconds in process.ask("round", 0.0))


def test_numbers_are_kept_by_case(tmp_path):
    path = tmp_path / "deep" / "numbers.json"
    case = Case("LSTM", "S", "infer")
    kept = results.Results(path)
    for seconds in (1.0, 2.0):
        kept.put("runs", run_of(case, {OURS: seconds}), results.CASE_KEY)
    kept.put("runs", run_of(case, {OURS: 3.0}, "scan"), results.CASE_KEY)
    again = results.Results(path).section("runs")
    assert [run["measured"][0]["minimum"] for run in again] == [2.0, 3.0]


def test_numbers_of_two_machines_are_not_mixed(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text(json.dumps({"machine": {"cpu": "Another", "cores": 64}}))
    with pytest.raises(ValueError, match=r"got .*numbers.json of Another, 64 cores"):
        results.Results(path).put("runs", {"kind": "LSTM"}, ("kind",))


def test_the_best_peer_is_compared_with():
    case = Case("LSTM", "S", "train")
    seconds = {"ostinato-torch": 0.5, "ostinato-jax": 1.0, "torch.nn": 3.0, "keras-jax": 2.0}
    found = tables.compare(run_of(case, {**seconds, "sgemm-torch": 0.1}))
    assert (found.ours.name, found.peer.name, found.ratio) == ("ostinato-jax", "keras-jax", 2.0)
    assert tables.compare(run_of(case, {"ostinato-jax": 1.0, "sgemm-jax": 1.0})) is None


def test_verdicts():
    kept = results.Results()
    kept.put(
        "runs",
        run_of(
            Case("LSTM", "S", "train"),
            {"ostinato-jax": 1.0, "keras-jax": 2.0, "torch.nn": 2.3, "sgemm-torch": 0.5},
        ),
        results.CASE_KEY,
    )
    row = {"backend": "jax", "kind": "LSTM", "size": "S", "mode": "train", "option": "dropout"}
    kept.put("cliff", {**row, "ratio": 1.3, "engine": "scan"}, cliff.KEY)
    for name, size in (("ostinato-jax", 100 << 20), ("torch.nn", 200 << 20)):
        memory = {"kind": "LSTM", "size": "L", "contender": name, "bytes": size}
        kept.put("memory", memory, ("kind", "size", "contender"))
    measured = [v for v in verdicts.verdicts(kept) if v.met is not None]
    found = {v.what: (v.got, v.met) for v in measured}
    assert found == {
        "LSTM S, training step": (2.0, False),  # 2.2 is wanted
        "JAX, LSTM S": (2.0, False),  # 2.8
        "LSTM S": (0.5, False),  # 60 % of bare sgemm
        "JAX, dropout: LSTM S, training step": (1.3, False),
        "JAX, LSTM": (0.5, True),
    }
    page = verdicts.page(kept)
    assert "missed: LSTM S, training step: 2.00, wanted >= 2.20" in page
    assert "1.30 (scan)" in page


def test_every_target_of_the_issue_is_there():
    assert len(targets.PEERS) == 3 * 6 * 2 + 3 * 4
    assert targets.PEERS["GRU", "L", "infer"] == 1.6
    assert targets.PEERS["SimpleRNN", "odd", "train"] == 1.2
    assert set(targets.CLIFF) <= set(cliff.OPTIONS)


@pytest.fixture
def measured_at_once(monkeypatch):
    """Stands in for the measuring."""
    cases = []

    def measure(able, case, pace, say):
        cases.append(case)
        names = [p.contender.name for p in able]
        return [Measured(name, "e", 0.001 * (1 + i), 0.002, 9) for i, name in enumerate(names)]

    monkeypatch.setattr(command, "measure", measure)
    return cases


def test_the_command(measured_at_once, capsys, tmp_path):
    arguments = ["bench", "--kinds", "GRU", "--cases", "S", "guide", "--contenders", OURS, KERAS]
    arguments += ["--output", str(tmp_path)]
    assert main(arguments) == 0
    assert [case.mode for case in measured_at_once] == ["infer", "train", "fit"]
    shown = capsys.readouterr().out
    assert "GRU S (B64 T28 D28 U64), training step" in shown
    assert "2.00" in shown
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 3
    assert NAMES[KERAS].title in (tmp_path / "peers.md").read_text()
    drawn = ElementTree.parse(tmp_path / "speed.svg").getroot()
    assert "Made by: " in "".join(drawn.itertext())
    # what is there isn't measured again
    assert main([*arguments, "--resume"]) == 0
    assert len(measured_at_once) == 3


def test_who_is_too_slow_takes_part_in_no_further_case(monkeypatch, capsys):
    able_in = []

    def measure(able, case, pace, say):
        names = [p.contender.name for p in able]
        able_in.append((pace.limit, names))
        slow = [Measured(KERAS, trouble="stopped: no result in 3 s", too_slow=True)]
        return [Measured(OURS, minimum=0.001, runs=1), *(slow if KERAS in names else [])]

    monkeypatch.setattr(command, "measure", measure)
    arguments = ["bench", "--cases", "S", "--kinds", "GRU", "--contenders", OURS, KERAS]
    assert main([*arguments, "--limit", "9"]) == 1
    assert able_in == [(9, [OURS, KERAS]), (9, [OURS])]
    shown = capsys.readouterr().out
    assert re.search(r"Keras \(\w+\) +takes part in no further case", shown)
    assert "No time: GRU S (B64 T28 D28 U64), inference: Keras" in shown


def test_what_there_is_is_shown_when_it_is_interrupted(monkeypatch, capsys, tmp_path):
    done = []

    def measure(able, case, pace, say):
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return [Measured(OURS, minimum=0.001), Measured(KERAS, minimum=0.003)]

    monkeypatch.setattr(command, "measure", measure)
    assert main(["bench", "--quick", "--contenders", OURS, KERAS, "--output", str(tmp_path)]) == 130
    shown = capsys.readouterr().out
    assert "Stopped. What there is so far:" in shown
    assert "3.00" in shown
    assert "3.00" in (tmp_path / "peers.md").read_text()


def test_the_quick_form(measured_at_once):
    assert main(["bench", "--quick", "--contenders", OURS, KERAS]) == 0
    assert measured_at_once == list(command.QUICK_CASES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "fit", "--cases", "S"], "bench: --cases S --modes fit: no such case"),
        (
            ["--quick", "--cases", "guide", "--modes", "infer", "train"],
            "bench: --cases guide --modes infer train: no such case",
        ),
        (
            ["--quick", "--resume"],
            "bench: --resume goes on with a file of numbers: name it by --js",
        ),
    ],
)
def test_options_that_ask_for_nothing(measured_at_once, capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not measured_at_once


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"machine": {"cpu": "Another", "cores": 64}}), "of Another, 64 cores"),
        ("half a fi", "expected a file of numbers, got "),
        ("{}", "expected a file of numbers, got "),
        (None, "File exists"),
    ],
)
def test_a_file_that_numbers_cannot_go_into(measured_at_once, tmp_path, capsys, content, message):
    path = tmp_path / "numbers.json"
    path.write_text(content or "")
    file = path if content else path / "below" / "a file"
    assert main(["bench", "--quick", "--contenders", OURS, "--json", str(file)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("bench: ")
    assert message in shown or (content is None and "Not a directory" in shown)
    assert not measured_at_once


def test_a_folder_that_is_a_file_is_refused_before_the_measuring(
    measured_at_once, tmp_path, capsys
):
    (tmp_path / "taken").write_text("")
    files = ["--json", str(tmp_path / "a.json"), "--output", str(tmp_path / "taken")]
    assert main(["bench", "--quick", "--contenders", OURS, *files]) == 2
    assert "File exists" in capsys.readouterr().err
    assert not measured_at_once


def test_contenders_that_run_none_of_the_cases(measured_at_once, capsys):
    assert main(["bench", "--modes", "fit", "--contenders", "sgemm-jax", "torch.nn"]) == 1
    assert "torch.nn runs none." in capsys.readouterr().out
    assert not measured_at_once


def test_a_contender_without_a_time_shows_in_the_status(monkeypatch, capsys):
    trouble = Measured(KERAS, trouble="refused: its results differ by 1.0e+00 of scale")
    monkeypatch.setattr(command, "measure", lambda *_: [Measured(OURS, minimum=1.0), trouble])
    assert main(["bench", "--quick", "--contenders", OURS, KERAS]) == 1
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "XXL"], "invalid choice: 'XXL'"),
        (["--contenders", "cudnn"], "invalid choice: 'cudnn'"),
        (["--rounds", "0"], "expected a positive whole number, got '0'"),
    ],
)
def test_bad_options(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["bench", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["TwoInputs", "AttentionGRU"])
def test_a_cell_of_ones_own_is_measured_beside_the_portable_loop_and_the_lstm(cell):
    row = cells.measure(cells.Case(cell, "tiny", "train"), rounds=1)
    assert row["engine"] == "compiled"
    assert 0 < row["difference"] < 1e-4
    assert min(row["seconds"], row["scan"], row["lstm"]) > 0


def test_the_targets_of_cells(tmp_path):
    found = results.Results(tmp_path / "numbers.json")
    for cell, seconds in {"PlainLSTM": 1.1, "Elman": 2.5}.items():
        row = {"backend": "jax", "cell": cell, "size": "S", "mode": "train", "engine": "compiled"}
        found.put("cells", {**row, "seconds": seconds, "scan": 2.0, "lstm": 1.0}, cells.KEY)
    for engine, size in {"ours": 3, "scan": 2}.items():
        row = {"backend": "jax", "cell": "Elman", "engine": engine, "bytes": size}
        found.put("cells_memory", row, cells.MEMORY_KEY)
    met = {v.what: (v.got, v.met) for v in verdicts.verdicts(found) if v.met is not None}
    assert met == {
        "JAX, PlainLSTM S, training step": (1.1, True),
        "JAX, slowest of 2 cells, S, training step": (0.8, False),
        "JAX, of 2": (2.0, False),
        "JAX, Elman": (1.5, False),
    }
    assert " | 2.50      | 0.80  " in verdicts.page(found)
