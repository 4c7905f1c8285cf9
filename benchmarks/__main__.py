"""`python -m benchmarks`: the table of ratios on the backend that KERAS_BACKEND names."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import keras

from benchmarks.cases import CASES
from benchmarks.timing import time_case


def main() -> None:
    """Times every case, prints a Markdown table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each contender")
    parser.add_argument("--kinds", nargs="+", default=["LSTM", "GRU"], help="LSTM GRU SimpleRNN")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    options = parser.parse_args()
    backend = keras.config.backend()
    print(
        f"\nKeras {keras.__version__} on {backend}; minimum (median) of {options.rounds} rounds\n"
    )
    print("| layer | what | Keras ms | Ostinato ms | times faster |")
    print("|---|---|---|---|---|")
    numbers = []
    for case in CASES:
        if case.kind not in options.kinds:
            continue
        for mode, timings in time_case(case, options.rounds).items():
            keras_s, ours = timings["keras"], timings["ostinato"]
            print(
                f"| {case} | {mode} | {keras_s.minimum * 1e3:.2f} ({keras_s.median * 1e3:.2f}) "
                f"| {ours.minimum * 1e3:.2f} ({ours.median * 1e3:.2f}) "
                f"| {keras_s.minimum / ours.minimum:.2f} ({keras_s.median / ours.median:.2f}) |",
                flush=True,
            )
            named = {name: asdict(timing) for name, timing in timings.items()}
            numbers.append({"backend": backend, "case": asdict(case), "mode": mode, **named})
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
