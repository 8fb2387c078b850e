"""Vector quantisation: latents become the nearest of a table of codes (van den Oord et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dprune.precision import float32

# Distances that exist at once: 32,768 tokens against 16,384 codes would take 2 GiB.
MOST_DISTANCES = 1 << 25
USAGE_DECAY = 0.99
DEAD_BELOW = 0.03


class Quantized(NamedTuple):
    """Latents after quantisation.

    Attributes:
        latents: the codes' vectors, whose gradient passes to the encoder unchanged; float32 [B, c, h, w].
        codes: int64 [B, h * w], row by row.
        tokens: what was quantised, of unit length where codes are; float32 [B * h * w, c], without gradient.
        codebook: squared distance that pulls the codes to the latents, a mean a sample; [B].
        commitment: the same that pulls the latents to the codes; [B].
    """

    latents: Tensor
    codes: Tensor
    tokens: Tensor
    codebook: Tensor
    commitment: Tensor


def nearest_codes(latents_NC: Tensor, codebook_KC: Tensor) -> Tensor:
    """Find the nearest code of each vector in float32, whatever precision matrix products have around it.

    Args:
        latents_NC: float32 [N, c].
        codebook_KC: float32 [K, c].

    Returns:
        int64 [N]; the first of several that are equally near.
    """
    # The vector's own square is the same for all codes.
    return highest_scores(latents_NC, 2 * codebook_KC, -codebook_KC.square().sum(1))


def highest_scores(latents_NC: Tensor, weight_KC: Tensor, bias_K: Tensor) -> Tensor:
    """Return which of K linear functions is the highest at each vector; as `nearest_codes`."""
    rows = max(1, MOST_DISTANCES // len(weight_KC))
    with float32(tf32=False), torch.autocast(latents_NC.device.type, enabled=False):
        found = [torch.addmm(bias_K, chunk, weight_KC.T).argmax(1) for chunk in latents_NC.split(rows)]
    return torch.cat(found)


def _tokens(latents_BCHW: Tensor) -> Tensor:
    """Return the vector of each place, [B * h * w, c], without gradient."""
    return latents_BCHW.detach().permute(0, 2, 3, 1).flatten(0, 2)


class Quantizer(nn.Module):
    """A table of codes and how often each is used.

    Usage is relative: 1 where a code takes as many tokens as the mean code. It begins at 0, so that the first
    revival replaces every code by an output of the encoder: codes drawn without looking at the data would mostly lie
    where the encoder's outputs are not, and a few of them would take all tokens.

    Args:
        codes: K.
        channels: of a code.
        normalized: whether codes and latents are brought to unit length, so that the nearest is the most similar
            (Yu et al., "Vector-quantized image modeling with improved VQGAN", 2022).
        scored: whether a linear layer scores the codes, as where they were learnt by a Gumbel softmax (Jang et al.,
            2017): what comes from the encoder then gets the code of the highest score.

    Attributes:
        nearest: `nearest_codes`, or what `quicken_vae` puts in its place.
    """

    usage: Tensor

    def __init__(self, codes: int, channels: int, normalized: bool, *, scored: bool = False) -> None:
        super().__init__()
        self.normalized = normalized
        self.nearest: Callable[[Tensor, Tensor], Tensor] = nearest_codes
        self.embedding = nn.Parameter(torch.empty(codes, channels))
        nn.init.uniform_(self.embedding, -1 / codes, 1 / codes)
        self.register_buffer("usage", torch.zeros(codes))
        self.scores = nn.Linear(channels, codes) if scored else None

    @property
    def codebook(self) -> Tensor:
        """The vectors that decoding uses, float32 [K, c]."""
        return F.normalize(self.embedding, dim=1) if self.normalized else self.embedding

    def forward(self, latents_BCHW: Tensor) -> Quantized:
        """Quantise latents, float32 [B, c, h, w]."""
        z_BCHW = F.normalize(latents_BCHW, dim=1) if self.normalized else latents_BCHW
        tokens_NC = _tokens(z_BCHW)
        codes_BT = self.nearest(tokens_NC, self.codebook.detach()).view(len(z_BCHW), -1)
        e_BCHW = self.look_up(codes_BT, z_BCHW.shape[2])
        codebook = (z_BCHW.detach() - e_BCHW).square().flatten(1).mean(1)
        commitment = (z_BCHW - e_BCHW.detach()).square().flatten(1).mean(1)
        return Quantized(z_BCHW + (e_BCHW - z_BCHW).detach(), codes_BT, tokens_NC, codebook, commitment)

    def codes(self, latents_BCHW: Tensor) -> Tensor:
        """Return the nearest code of each place, int64 [B, h * w]; length does not matter where they are normalised."""
        return self.nearest(_tokens(latents_BCHW).float(), self.codebook.detach()).view(len(latents_BCHW), -1)

    def chosen(self, encoded_BCHW: Tensor) -> Tensor:
        """Return the code of each place of what an encoder gives, int64 [B, h * w]: the nearest, unless scores say."""
        if self.scores is None:
            return self.codes(encoded_BCHW)
        found = highest_scores(_tokens(encoded_BCHW).float(), self.scores.weight, self.scores.bias)
        return found.view(len(encoded_BCHW), -1)

    def look_up(self, codes_BT: Tensor, height: int) -> Tensor:
        """Return the vectors of codes as latents [B, c, h, w]."""
        found_BTC: Tensor = F.embedding(codes_BT, self.codebook)
        latents: Tensor = found_BTC.unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        return latents

    def counts(self, codes: Tensor) -> Tensor:
        """Count how often each code occurs, float32 [K]."""
        return torch.zeros_like(self.usage).index_add_(
            0, codes.flatten(), torch.ones_like(codes, dtype=torch.float32).flatten()
        )

    def observe(self, counts_K: Tensor) -> None:
        """Move usage towards that of one global batch, given how often it took each code."""
        relative = counts_K * (len(counts_K) / counts_K.sum())
        self.usage.lerp_(relative, 1 - USAGE_DECAY)

    def revive(self, candidates_KC: Tensor) -> Tensor:
        """Replace codes that are hardly used, each by its candidate, and count them as used evenly from now on.

        Returns:
            Which codes those are, bool [K]. Whoever keeps moments or averages of the codes has to reset these rows.
        """
        dead_K = self.usage < DEAD_BELOW
        with torch.no_grad():
            self.embedding.copy_(torch.where(dead_K[:, None], candidates_KC, self.embedding))
        self.usage.masked_fill_(dead_K, 1.0)
        return dead_K


def code_use(counts_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of the codes that occur at all, and the perplexity of their distribution, given their counts."""
    p_K = counts_K / counts_K.sum().clamp(min=1)
    perplexity: Tensor = torch.special.entr(p_K).sum().exp()
    return (counts_K > 0).float().mean(), perplexity
