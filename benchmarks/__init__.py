"""The project's benchmark: `ostinato bench` in full, what an option costs, memory, and targets.

`python -m benchmarks` measures all of it into benchmarks/results, in parts if it has to be; see
docs/performance.md.
"""

import os

# The parent only starts processes and writes tables, but imports the package, which imports Keras.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
