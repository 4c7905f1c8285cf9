"""What PyTorch does just now, of which no operation of ours knows anything."""

from typing import Any

import torch
from torch.autograd import forward_ad


def why_not_here(x: Any) -> str | None:
    """What keeps any operation of ours from a tensor like x, where it's called now; or None."""
    if x.layout != torch.strided:
        return f"the tensors are {x.layout}, and it takes dense ones"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    # torch.compile's graphs stay in the process; those of jit.trace and torch.export are saved.
    if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
        return None
    # ONNX is written by one or the other. It's asked last, as the question takes 1.8 us.
    if torch.onnx.is_in_onnx_export():
        return "ONNX has no such operation"
    return "the model is traced into a graph that has to run where Ostinato isn't installed"
