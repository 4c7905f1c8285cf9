"""What keeps any engine of built-in cells from a run, in words that they share."""

from ostinato.engines.interface import Question

FLOATS = ("float32", "float64", "float16", "bfloat16")


def of_tensors(question: Question, what: str) -> list[str]:
    """Why `what` ("the kernel") can't take such tensors, each a clause; empty where it can."""
    found = []
    if question.dtype not in FLOATS:
        found.append(f"the cell computes in {question.dtype}, {what} in floats")
    if question.rank != 3:
        inputs = "a nest of tensors" if question.rank is None else f"of {question.rank} dimensions"
        found.append(f"the inputs are {inputs}, not one tensor (batch, timesteps, features)")
    return found
