"""How JAX and XLA compile in the tests: fast, since small arrays gain nothing by better loops."""

import threading
from importlib import metadata


def _is_known() -> bool:
    """Whether this JAX is of those of which the rest is known."""
    try:
        return metadata.version("jaxlib").startswith("0.10.")
    except metadata.PackageNotFoundError:
        return False


def quick_flags() -> str:
    """For XLA_FLAGS: how to write each loop. XLA's own passes, which decide what is computed, stay.

    Keras's GRU, LSTM and SimpleRNN in `fit`: 20 s of compilation; without LLVM's optimisations 11,
    and with the older of XLA's two ways to write loops, too, 5. Small programs aren't cut into
    parts to be compiled side by side: a tenth less.
    """
    flags = "--xla_backend_optimization_level=0"
    if not _is_known():  # a flag that XLA doesn't know ends the process
        return flags
    return f"{flags} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def share_context() -> None:
    """Has JAX write all programs of a thread in one MLIR context, where it makes one for each.

    To make one is more than half of what it takes to write a small program: of the layers' tests a
    sixth. There's no public setting for it.
    """
    if not _is_known():
        return
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    make, of_thread = mlir.make_ir_context, threading.local()

    def shared():
        if ir.Context.current is not None:  # a program within another
            return make()
        if not hasattr(of_thread, "context"):
            of_thread.context = make()
        return of_thread.context

    mlir.make_ir_context = shared
