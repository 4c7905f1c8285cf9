"""Runs as PyTorch's tensors: what goes into the native engine, its results, and their gradients."""

import torch

from ostinato.doors import door


def tensors(case, dtype=torch.float64, grad=False):
    """The case's operands; those that have gradients ask for them if `grad`."""
    made = {}
    for name, array in case.arrays.items():
        tensor = torch.from_numpy(array)
        made[name] = tensor if tensor.dtype == torch.bool else tensor.to(dtype)
        made[name].requires_grad_(grad and name in case.differentiable)
    return made


def run(case, operands):
    return door.native_run((case.spec,), tuple(operands.values()))


def total(results):
    """A scalar of all results, each element with its own weight."""
    return sum((y * torch.cos(torch.arange(y.numel()).reshape(y.shape))).sum() for y in results)


def gradients(results, operands, retain_graph=None):
    """Of `total`, by name of the operand."""
    wanted = {name: tensor for name, tensor in operands.items() if tensor.requires_grad}
    grads = torch.autograd.grad(total(results), list(wanted.values()), retain_graph=retain_graph)
    return dict(zip(wanted, grads, strict=True))


def assert_equal(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        assert torch.equal(mine, theirs)
