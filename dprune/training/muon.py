"""Muon: momentum whose update of a matrix is brought near an orthogonal one.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the learning rate adjusted as in
"Muon is scalable for LLM training" (Liu et al., 2025), so that an update is as large as one of AdamW. It takes the
steps that torch.optim.Muon takes, for all matrices of one shape at once: a transformer has as many of these as blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dprune.collectives import all_sum, in_group
from dprune.runtime import ranks

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
UPDATE_RMS = 0.2
"""Of AdamW's updates, which those of Muon match."""
_LEAST_NORM = 1e-7


class Muon(Optimizer):
    """Trains matrices.

    Args:
        matrices: what is trained, of two dimensions.
        lr: learning rate, a float or a tensor, which means what it means to AdamW.
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float | Tensor, weight_decay: float) -> None:
        # Captured graphs may hold its steps, given a rate that is a tensor.
        defaults = {"lr": lr, "weight_decay": weight_decay, "capturable": True}
        super().__init__(matrices, defaults)
        self._alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in matrices:
            self.state[parameter] = {"momentum": torch.zeros_like(parameter)}
            self._alike.setdefault(tuple(parameter.shape), []).append(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; every matrix has a gradient."""
        for parameters in self._alike.values():
            self._step(list(parameters))

    def _step(self, parameters: list[Tensor]) -> None:
        rate, decay = (self.param_groups[0][name] for name in ("lr", "weight_decay"))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        moments = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(moments, gradients, 1 - MOMENTUM)
        first = parameters[0]
        ahead = first.new_empty((len(parameters), *first.shape), dtype=arithmetic_of(first))
        torch._foreach_copy_(list(ahead.unbind()), torch._foreach_lerp(gradients, moments, MOMENTUM))
        updates = _shared_out(ahead) * (rate * UPDATE_RMS * max(first.shape) ** 0.5)
        if decay:
            torch._foreach_mul_(parameters, 1 - rate * decay)
        torch._foreach_sub_(parameters, list(updates.unbind()))


def arithmetic_of(parameter: Tensor) -> torch.dtype:
    """Return in what matrices are orthogonalised: on a GPU bf16, whose rounding is far less than what is left of it."""
    return torch.bfloat16 if parameter.device.type == "cuda" else parameter.dtype


def _shared_out(matrices: Tensor) -> Tensor:
    """Orthogonalise what all ranks hold alike, each rank its share."""
    if not in_group():
        return orthogonalised(matrices)
    here = ranks()
    begin, end = (len(matrices) * rank // here.world for rank in (here.rank, here.rank + 1))
    found = torch.zeros_like(matrices)
    if begin < end:
        found[begin:end] = orthogonalised(matrices[begin:end])
    whole: Tensor = all_sum(found)
    return whole


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices near 1 by Newton and Schulz's iteration.

    Args:
        matrices: [n, a, b] of any float type, which is that of the arithmetic.

    Returns:
        Of the shape and type of `matrices`, with singular values of about 0.7 to 1.2 where those of the input were not
        tiny.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        # a x + factor x in one product, without a copy of x.
        factor.diagonal(dim1=1, dim2=2).add_(a)
        x = torch.bmm(factor, x)
    return (x.mT if tall else x).contiguous()
