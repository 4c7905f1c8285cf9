"""How JAX and XLA compile in the tests: fast, since small arrays gain nothing by better loops."""

import threading
from importlib import metadata


def quick_flags() -> str:
    """For XLA_FLAGS: how to write each loop. XLA's own passes, which decide what is computed, stay.

    Keras's GRU, LSTM and SimpleRNN in `fit`: 20 s of compilation; without LLVM's optimisations 11,
    and with the older of XLA's two ways to write loops, too, 5.
    """
    flags = "--xla_backend_optimization_level=0"
    try:
        version = metadata.version("jaxlib")
    except metadata.PackageNotFoundError:
        return flags
    # A flag that XLA doesn't know, in a later version perhaps, ends the process.
    knows = version.startswith("0.10.")
    return f"{flags} --xla_cpu_use_fusion_emitters=false" if knows else flags


def share_contexts() -> None:
    """Has JAX write many programs in one MLIR context of a thread, where it makes one for each.

    Each takes 4 ms, as long as many a program of one operation takes to compile: a tenth of the
    time of JAX's tests. A context keeps what is written in it, so it's given up now and then.
    """
    from jax._src.interpreters import mlir

    make, kept = getattr(mlir, "make_ir_context", None), threading.local()
    if make is None:  # another version, which may not need it
        return

    def shared():
        kept.left = getattr(kept, "left", 0) - 1
        if kept.left < 0:
            kept.context, kept.left = make(), 200
        return kept.context

    mlir.make_ir_context = shared
