"""Token routing: in training some tokens of a sample skip the middle blocks of a transformer.

TREAD (Krause et al., 2025, arXiv 2501.04765): tokens drawn at random leave after an early block and come back, as they
were, before a late one; those that stay see each other alone in between. Nothing is added to the model or to its loss,
and samples are drawn and scored with all tokens in all blocks.
"""

from __future__ import annotations

from torch import Tensor

from dprune import noise

_EARLY, _LATE = 2, 4


def routed_blocks(depth: int) -> tuple[int, int]:
    """Return the first block that tokens skip, and the first after it that all tokens take again.

    They are 2 and depth - 4, as in the paper; models of fewer than twelve blocks keep fewer at the ends.
    """
    return min(_EARLY, depth // 4), depth - min(_LATE, depth // 3)


def kept_tokens(seed: int, ids: Tensor, visits: Tensor, tokens: int, count: int) -> Tensor:
    """Draw the tokens of each sample that skip no block.

    Args:
        seed: of the run.
        ids: of the samples, int64 [B].
        visits: how often each was visited before, int64 [B].
        tokens: of a sample.
        count: to keep.

    Returns:
        Their places, rising, int64 [B, count].
    """
    drawn = noise.bits(seed, "routed tokens", ids, visits, tokens)
    return drawn.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values


def take_out(x_BTD: Tensor, kept_BK: Tensor) -> Tensor:
    """Return the tokens at the positions that are kept, [B, K, D]."""
    return x_BTD.gather(1, _wide(kept_BK, x_BTD))


def put_back(x_BTD: Tensor, kept_BK: Tensor, tokens_BKD: Tensor) -> Tensor:
    """Return x with other tokens at the positions that are kept, each of which stands there once."""
    return x_BTD.scatter(1, _wide(kept_BK, x_BTD), tokens_BKD.to(x_BTD.dtype))


def _wide(kept_BK: Tensor, x_BTD: Tensor) -> Tensor:
    return kept_BK[:, :, None].expand(-1, -1, x_BTD.shape[2])
