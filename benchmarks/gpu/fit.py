"""A step of `fit` on the guide's model, with our layer and with Keras's."""

from typing import Any

import keras
import numpy as np

from benchmarks.gpu.context import Context, reason
from benchmarks.gpu.running import need_card, set_precision
from ostinato.bench import fitting
from ostinato.bench.cases import Case
from ostinato.bench.contenders import parse


def run(context: Context) -> None:
    if context.fake:
        fitting.STEPS = fitting.COMPARED = 1
    set_precision("tf32")
    backend = keras.config.backend()
    has_cuda = context.without != "cuda"
    engines = {"by plan": None, "keras": None, **({"cuda": "cuda"} if has_cuda else {})}
    for kind in context.within(("LSTM", "GRU")):
        made: dict[str, Any] = {}
        for name, engine in engines.items():
            library = "keras" if name == "keras" else "ostinato"
            try:
                with context.forced(engine):
                    contender = parse(f"{library}-{backend}")
                    made[name] = fitting.prepare(contender, Case(kind, "guide", "fit"))
            except Exception as error:  # noqa: BLE001 - the others run
                said = f"FAILED fit {kind} {name}: {reason(error)}"
                context.tell(said, error=reason(error))
                need_card(said)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for name in context.within(list(made) * (1 if context.fake else 3), needs=3):
            with context.forced(engines[name]):
                seconds[name].append(made[name].seconds())
        first = made[next(iter(made))].values(None) if made else []
        for name, taken in seconds.items():
            pairs = zip(made[name].values(None), first, strict=True)
            apart = max(float(np.abs(one - other).max()) for one, other in pairs)
            least = min(taken, default=float("nan"))
            text = f"fit {kind} {name}: {least * 1e3:.3f} ms a step, weights {apart:.1e} apart"
            context.tell(text, kind=kind, contender=name, seconds=taken, apart=apart)
