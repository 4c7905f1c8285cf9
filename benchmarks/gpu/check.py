"""`ostinato check-gpu` as a stage: where all is right it leaves its stamp, as that does."""

from benchmarks.gpu.context import Context
from benchmarks.gpu.running import ON_TORCH
from ostinato.gpu_check import checking
from ostinato.gpu_check.configurations import configurations


def run(context: Context) -> None:
    if context.fake:
        asked = [each._replace(rows=3) for each in configurations((5,))]
        context.wrong += checking.check(asked, context.tell, context.seconds, engine=None)
        return
    if not ON_TORCH:
        import jax

        jax.config.update("jax_enable_x64", True)
    reason = checking.why_not()
    if reason is None:
        context.wrong += checking.check_and_stamp(context.tell, context.seconds - 4)
    else:
        context.wrong += 1
        context.tell(f"can't be checked: {reason}")
