"""What is right and how fast it is on an NVIDIA GPU: `python -m benchmarks.gpu`, in eight minutes.

It runs from a plain checkout, beside PyTorch and JAX alone: Keras, and the native engine for the
machine's Python, come along in build/gpu (`make gpu-carry`).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "build" / "gpu"

# Behind all others: what the machine has is taken first. In tests/ are the reference in float64
# and the cases that are compared with it.
for _path in (ROOT / "src", CARRIED, ROOT / "tests"):
    if str(_path) not in sys.path:
        sys.path.append(str(_path))

import ostinato  # noqa: E402

if (CARRIED / "ostinato").is_dir():
    ostinato.__path__.append(str(CARRIED / "ostinato"))  # the native engine, if it isn't installed
