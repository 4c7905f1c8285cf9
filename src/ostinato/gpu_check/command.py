"""`ostinato check-gpu`: a process for each framework, since a kernel that traps takes its along."""

import argparse
import importlib.util
import os
import subprocess
import sys

# The frameworks that call the kernels, and the exit statuses of their processes.
FRAMEWORKS = ("torch", "jax")
RIGHT, WRONG, NO_CARD = 0, 1, 2
_COMMAND = (sys.executable, "-u", "-m", "ostinato.gpu_check")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--backend",
        choices=FRAMEWORKS,
        help="the framework that calls the kernels (default: each that is installed)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=600.0,
        metavar="N",
        help="after so many a framework's process is ended, as one that hangs (default: 600)",
    )


def _seconds(text: str) -> float:
    found = float(text)
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text}")
    return found


def run(options: argparse.Namespace) -> int:
    """Checks; 0 where all is right, 1 where something isn't, 2 where nothing can be checked."""
    asked = (options.backend,) if options.backend else FRAMEWORKS
    found = [name for name in asked if importlib.util.find_spec(name) is not None]
    if not found:
        print(f"{' or '.join(asked)} isn't installed, which would call the kernels")
        return NO_CARD
    codes = [_run(name, options.seconds) for name in found]
    tried = [code for code in codes if code != NO_CARD]
    return max(tried) if tried else NO_CARD


def _run(backend: str, seconds: float) -> int:
    print(f"== {backend}", flush=True)
    # JAX has the float64 of the reference then, whatever the user has asked of it.
    settings = {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    # So that it takes no memory that the other framework misses.
    unless_asked = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # What the user forces for his own layers isn't for these.
    ours = {name: value for name, value in os.environ.items() if name != "OSTINATO_ENGINE"}
    environment = {**unless_asked, **ours, **settings}
    try:
        done = subprocess.run(_COMMAND, env=environment, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"ended after {seconds:.0f} s: it hangs, or `--seconds` gives it longer")
        return WRONG
    if done.returncode not in (RIGHT, WRONG, NO_CARD):
        print(f"its process ended with {done.returncode}")
        return WRONG
    return done.returncode
