"""The Keras RNN guide, every section run for real, with a report: `ostinato guide`."""

import importlib.util
import sys


def run(*, epochs: int | None, output: str, quick: bool) -> int:
    """Runs the guide and writes the report.

    Args:
        epochs: How long the digits are trained, after the guide's own epoch. None chooses by how
            many digits there are.
        output: The folder that report.html goes to; it's made where it's missing.
        quick: A fraction of the data and the steps, to see it run.

    Returns:
        The exit status: 0 if every section showed what it should, 1 if one didn't, 2 if the guide
        can't be run at all.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print(
            "ostinato guide: the pictures need matplotlib; install it with "
            "`pip install matplotlib`",
            file=sys.stderr,
        )
        return 2
    from ostinato.guide import running  # needs matplotlib, and Keras's backend chosen

    return running.run(epochs=epochs, output=output, quick=quick)
