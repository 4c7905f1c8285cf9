"""The command `ostinato`, also `python -m ostinato`."""

import argparse
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato import __version__, backend
from ostinato.bench import command as bench_command
from ostinato.gpu_check import command as gpu_command

if TYPE_CHECKING:
    from ostinato.streaming.stream import Stream

# What the optional dependencies of pyproject.toml bring, as far as the commands need it.
EXTRAS = {"guide": ("jinja2", "matplotlib", "pygments"), "bench": ("matplotlib",)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the process's exit status."""
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        _check_settings()
        return command(options)
    except _CommandError as error:
        line = " ".join(str(error).split())  # Keras's errors have several
        print(f"{parser.prog}: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped", file=sys.stderr)
        return 130  # as shells have it of a process that Ctrl+C ends
    except BrokenPipeError:  # `ostinato explain ... | head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _CommandError(Exception):
    """Something that the user can put right; shown without a traceback."""


def _guide(options: argparse.Namespace) -> int:
    _require("guide", "the report")
    _choose_backend(options.backend)
    from ostinato.guide import course

    try:
        return course.run(epochs=options.epochs, output=options.output, quick=options.quick)
    except OSError as error:
        raise _CommandError(f"can't write the report into {options.output}: {error}") from None


def _loaded(load: Callable[..., Any], file: Any) -> Any:
    """The model in a file; what is wrong with that is told in a line."""
    try:
        return load(file, compile=False)
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _CommandError(f"can't load {file}: {_reason(error, file)}") from None


def _explain(options: argparse.Namespace) -> int:
    _check_file(options.file)
    _choose_backend(options.backend)
    # They import Keras, so they have to wait for the backend.
    from ostinato import conversion, explanation
    from ostinato.conversion import loading

    model = _loaded(loading.load_unchanged, options.file)
    found = explanation.explain(model)
    print(found)
    if sum(row.engine == "keras" for row in found) > len(conversion.left_alone(model)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table has what is left alone
            try:
                fast = conversion.accelerate(model)
            except ValueError as error:
                raise _CommandError(f"can't accelerate {options.file}: {error}") from None
        print("\nAfter `ostinato.accelerate(model)`:")
        print(replace(explanation.explain(fast), warning=None))  # it's under the first table
    return 0


# What `ostinato export` writes, by how its file ends: a method of a stream.
WRITERS = {".c": "save_c", ".json": "save_rtneural", ".stream": "save"}


def _export(options: argparse.Namespace) -> int:
    ending = Path(options.output).suffix
    if ending not in WRITERS:
        raise _CommandError(
            f"can't write {options.output}: expected a name that ends in {', '.join(WRITERS)}"
        )
    try:
        getattr(_stream_of(options), WRITERS[ending])(options.output)
    except (OSError, RuntimeError, ValueError) as error:
        raise _CommandError(f"can't write {options.output}: {error}") from None
    print(f"Wrote {options.output}" + (" and its header." if ending == ".c" else "."))
    return 0


def _stream_of(options: argparse.Namespace) -> "Stream":
    """The stream in a file, or of the model in it."""
    if Path(options.file).suffix == ".stream":  # which needs no Keras
        from ostinato.streaming.stream import Stream

        return Stream.load(options.file)
    _check_file(options.file)
    _choose_backend(options.backend)
    from ostinato.conversion import loading
    from ostinato.streaming.opening import stream

    model = _loaded(loading.load_model, options.file)
    return stream(model)


def _check_file(file: str) -> None:
    """Refuses what is no model's file, before a framework is imported."""
    path = Path(file)
    if not path.exists():
        raise _CommandError(f"can't load {file}: File not found (No such file or directory)")
    if path.is_file() and path.suffix not in (".keras", ".h5", ".hdf5", ".json"):
        raise _CommandError(
            f"can't load {file}: File format not supported: expected a .keras, .h5 or .json file"
        )


def _reason(error: Exception, file: str) -> str:
    """What is wrong, without the configs that Keras wraps around it; and the way out."""
    ours = f"load_model: {file}: "
    if str(error).startswith(ours):
        return str(error).removeprefix(ours)
    reason = str(error).rpartition("Exception encountered:")[2].partition("Full object config:")[0]
    return (
        f"{reason.strip()} (A model with classes, functions or lambdas of yours can be explained "
        "in Python, where they are: `print(ostinato.explain(model))`.)"
    )


def _bench(options: argparse.Namespace) -> int:
    if options.output:
        _require("bench", "the chart that --output asks for")
    return bench_command.run(options)  # contenders are processes, each with its own backend


def _require(extra: str, what: str) -> None:
    """Refuses a command for which an optional dependency is missing."""
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise _CommandError(
            f"{what} needs {' and '.join(missing)}, which Ostinato's extra '{extra}' brings: "
            f"`pip install '.[{extra}]'` in a clone, or `pip install {' '.join(missing)}`"
        )


def _check_settings() -> None:
    """Refuses an engine or a precision in the environment that there isn't, as the layers would."""
    try:
        importlib.import_module("ostinato.settings")
    except ValueError as error:
        raise _CommandError(str(error)) from None


def _choose_backend(requested: str | None) -> None:
    try:
        choice = backend.choose(requested)
    except ImportError as error:
        raise _CommandError(str(error).removeprefix("ostinato: ")) from None
    print(f"Backend: {choice.name} ({choice.reason}).", flush=True)
    # Errors of TensorFlow's C++ still show; its greeting and its notes on the CPU don't.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ostinato",
        description="Keras's recurrent layers, whole, on JAX, PyTorch and TensorFlow.",
        epilog="To begin with: `ostinato guide --quick`, which runs the guide in a minute or two "
        "and writes a report to look at. `ostinato COMMAND --help` has each command's options.",
    )
    parser.add_argument("--version", action="version", version=f"ostinato {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    guide = commands.add_parser(
        "guide",
        help="run the Keras RNN guide on real digits and write a report",
        description="Runs every section of the Keras RNN guide with Ostinato's layers, on real "
        "handwritten digits, and writes a report with pictures.",
    )
    _add_backend(guide)
    guide.add_argument(
        "--epochs",
        type=bench_command.positive,
        metavar="N",
        help="epochs of the longer training, in the section after the guide's own epoch "
        "(default: 3 to 10, by how many digits there are)",
    )
    guide.add_argument(
        "--output",
        default="ostinato-guide",
        metavar="DIR",
        help="folder for the report (default: %(default)s)",
    )
    guide.add_argument(
        "--quick", action="store_true", help="a part of the digits and few steps, to see it run"
    )
    guide.set_defaults(command=_guide)

    explain = commands.add_parser(
        "explain",
        help="show which engine runs each recurrent layer of a saved model",
        description="Loads a model's .keras, .h5 or .json file and prints a table of its recurrent "
        "layers: which engine runs each on this machine, and why not a faster one.",
    )
    explain.add_argument("file", metavar="FILE", help="a model that Keras 3 or 2 has saved")
    _add_backend(explain)
    explain.set_defaults(command=_explain)

    _add_export(commands)

    bench = commands.add_parser(
        "bench",
        help="time Ostinato's layers beside Keras's and torch.nn's, where installed",
        description="Times Ostinato's layers beside torch.nn's, tf_keras's and Keras's own, on "
        "every backend that is installed, in one run; the results have to agree.",
    )
    bench_command.add_options(bench)
    bench.set_defaults(command=_bench)
    _add_check_gpu(commands)
    return parser


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = commands.add_parser(
        "export",
        help="write a saved model as C, or as RTNeural's JSON, to run a timestep at a time",
        description="Loads a model's .keras, .h5 or .json file, or a stream's .stream file, and "
        "writes its stream: as C99 with its header (NAME.c), as the JSON that RTNeural reads "
        "(NAME.json), or as what ostinato.Stream.load reads (NAME.stream).",
    )
    export.add_argument("file", metavar="FILE", help="a model, or a stream")
    export.add_argument("output", metavar="OUTPUT", help="NAME.c, NAME.json or NAME.stream")
    _add_backend(export)
    export.set_defaults(command=_export)


def _add_check_gpu(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check_gpu = commands.add_parser(
        "check-gpu",
        help="check Ostinato's CUDA kernel on the GPU that is here, so that layers may take it",
        description="Runs Ostinato's CUDA kernel on the NVIDIA GPU that is here, in a process for "
        "each framework, beside the portable engine in float64: values and gradients of every kind "
        "of cell and every option. Where all is right, layers take it by themselves from then on, "
        "as long as the card, its driver, NVRTC and Ostinato stay what they are.",
    )
    gpu_command.add_options(check_gpu)
    check_gpu.set_defaults(command=gpu_command.run)


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=backend.BACKENDS,
        help="what Keras runs on (default: what KERAS_BACKEND names, else the first installed of "
        f"{', '.join(backend.BACKENDS)})",
    )
