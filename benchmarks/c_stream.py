"""A stream's step in C beside the stream's own: `python -m benchmarks.c_stream`, on any backend.

The file that `Stream.save_c` writes, compiled by $CC (cc), in turns with `Stream.step`, and with
`Stream.run`, which is the engine's step without a call from Python. LSTM alone, features as units.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

UNITS = (16, 64, 128)
ROUNDS, STEPS = 25, 2000
OPTIONS = ("-O3 -march=native", "-O2")
MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "model.h"
int main(int count, char **words) {
  static model_stream stream;
  static float x[64 * model_x_size], y[model_y_size];
  const int steps = atoi(words[1]);
  double best = 1e9;
  int i, turn;
  for (i = 0; i < 64 * model_x_size; ++i) x[i] = (float)(i * 7 % 13 - 6) / 6.0f;
  model_reset(&stream);
  for (turn = 0; turn < 5; ++turn) {
    const clock_t begin = clock();
    double took;
    for (i = 0; i < steps; ++i) model_step(&stream, x + i % 64 * model_x_size, y);
    took = (double)(clock() - begin) / CLOCKS_PER_SEC / steps * 1e6;
    if (took < best) best = took;
  }
  printf("%.6f %.9g", best, (double)y[0]);
  return count > 2;
}
"""


def measure(units: int) -> dict[str, float]:
    """Microseconds a timestep, by contender; the least of all turns.

    Raises:
        RuntimeError: if they don't give the same.
    """
    import ostinato

    layer = ostinato.layers.LSTM(units, return_sequences=True)
    layer.build((None, None, units))
    stream = ostinato.stream(layer)
    numbers = np.arange(64 * units).reshape(64, units) * 7 % 13 - 6
    xs = np.resize(numbers / 6, (STEPS, units)).astype("float32")
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        programs = {options: _compiled(stream, Path(folder), options) for options in OPTIONS}
        for _ in range(ROUNDS):
            for name, took in _turn(stream, xs, programs).items():
                best[name] = min(took, best.get(name, took))
    return best


def _compiled(stream: "ostinato.Stream", folder: Path, options: str) -> Path:  # noqa: F821
    stream.save_c(folder / "model.c")
    (folder / "main.c").write_text(MAIN)
    program = folder / f"program{options.replace(' ', '')}"
    command = [os.environ.get("CC", "cc"), *options.split(), "main.c", "model.c", "-lm"]
    subprocess.run([*command, "-o", str(program)], cwd=folder, check=True)
    return program


def _turn(
    stream: "ostinato.Stream",  # noqa: F821
    xs: np.ndarray,
    programs: dict[str, Path],
) -> dict[str, float]:
    stream.reset()
    begin = time.perf_counter()
    for x in xs:
        stream.step(x)
    middle = time.perf_counter()
    stream.run(xs)
    end = time.perf_counter()
    last = stream.run(np.tile(xs, (3, 1)))[-1, 0]
    took = {
        "stream.step": (middle - begin) / STEPS * 1e6,
        "stream.run": (end - middle) / STEPS * 1e6,
    }
    for options, program in programs.items():
        ran = subprocess.run([program, str(STEPS)], capture_output=True, text=True, check=True)
        took[f"C, {options}"], there = map(float, ran.stdout.split())
        if abs(there - last) > 1e-5:
            raise RuntimeError(f"the C gives {there}, expected {last}.")
    return took


def main() -> None:
    """Prints a table."""
    print(f"| LSTM, us a timestep | {' | '.join(map(str, UNITS))} |\n|---{'|---' * len(UNITS)}|")
    columns = [measure(units) for units in UNITS]
    for name in columns[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:.2f}' for column in columns)} |")


if __name__ == "__main__":
    main()
