"""`python -m benchmarks.gpu [STAGE ...]`: all stages, or some; see `stages`."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.gpu import ROOT
from benchmarks.gpu.stages import STAGES, answer, run_all

NAMES = {stage.name: stage for stage in STAGES}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(NAMES)} (all)")
    parser.add_argument("--output", type=Path, help="($OUT, else benchmarks/measured/gpu)")
    parser.add_argument("--fake", action="store_true", help="tiny, without a GPU: a trial")
    parser.add_argument("--inside", action="store_true", help="in this process")
    parser.add_argument("--seconds", type=float, default=60.0, help="inside: how long")
    parser.add_argument("--without", default="", help="inside: an engine that is left out")
    asked = parser.parse_args()
    unknown = [name for name in asked.stages if name not in NAMES]
    if unknown:
        parser.error(f"expected stages among {', '.join(NAMES)}, got {' '.join(unknown)}")
    stages = [NAMES[name] for name in asked.stages or NAMES]
    default = ROOT / ("build/gpu-fake" if asked.fake else "benchmarks/measured/gpu")
    output = asked.output or Path(os.environ.get("OUT") or default)
    output.mkdir(parents=True, exist_ok=True)
    results = output.resolve() / "results.jsonl"
    if asked.inside:
        return max(answer(stage, results, asked.seconds, without=asked.without) for stage in stages)
    results.write_text("", encoding="utf-8")
    if asked.fake:
        backend = os.environ["KERAS_BACKEND"]
        of_backend = [stage for stage in stages if stage.backend == backend]
        return max(answer(stage, results, asked.seconds, fake=True) for stage in of_backend)
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        return min(1, run_all(stages, results, log))


if __name__ == "__main__":
    sys.exit(main())
