"""How XLA compiles in the tests: fast, since small arrays gain nothing by better loops."""

from importlib import metadata


def quick_flags() -> str:
    """For XLA_FLAGS: how to write each loop. XLA's own passes, which decide what is computed, stay.

    Keras's GRU, LSTM and SimpleRNN in `fit`: 20 s of compilation; without LLVM's optimisations 11,
    and with the older of XLA's two ways to write loops, too, 5. Small programs aren't cut into parts
    to be compiled side by side: a tenth less.
    """
    flags = "--xla_backend_optimization_level=0"
    try:
        version = metadata.version("jaxlib")
    except metadata.PackageNotFoundError:
        return flags
    # A flag that XLA doesn't know, in a later version perhaps, ends the process.
    knows = version.startswith("0.10.")
    if not knows:
        return flags
    return f"{flags} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
