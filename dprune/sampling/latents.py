"""From the noise of seeds to latents: by a transformer, and by others that take part in that."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dprune.flow import Guidance, Velocity, guided, solve, start
from dprune.models.dit import DiT
from dprune.models.paths import quicken_dit

_log = logging.getLogger("dprune")


def ready(model: DiT, precision: torch.dtype, *, compiles: bool) -> DiT:
    """Prepare a transformer for sampling, in place.

    Args:
        model: on its device.
        precision: of its arithmetic; weights of layers are held in it, so that nothing is cast at each call.
        compiles: whether to compile the blocks.
    """
    if precision != torch.float32:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(precision)
        # What passes between the blocks takes the wider type of tokens and positions, and is most of what they move.
        model.pos_embed.data = model.pos_embed.data.to(precision)
    if model.pos_embed.device.type == "cuda":
        # The values of a token come out side by side, as the blocks want them.
        model.x_embedder.to(memory_format=torch.channels_last)
    path = quicken_dit(model, precision, compiles=compiles)
    _log.debug("the transformer's blocks run by the path: %s.", path)
    return model


class Companions(NamedTuple):
    """Other transformers that take part in drawing, each as `ready` returns it.

    Attributes:
        coarse: draws the first part of the way, by itself.
        until: time at which that part ends.
        weaker: what the model is guided away from.
    """

    coarse: DiT | None = None
    until: float = 0.0
    weaker: DiT | None = None


ALONE = Companions()


def sample_latents(
    model: DiT,
    labels: Tensor,
    seeds: Tensor,
    guidance: Guidance,
    solver: str = "euler",
    steps: int = 60,
    precision: torch.dtype = torch.float32,
    companions: Companions = ALONE,
) -> Tensor:
    """Turn the noise of seeds into latents, without waiting for the device.

    Args:
        model: as `ready` returns it.
        labels: int64 [B], on the device of the model; zeros for an unconditional model.
        seeds: int64 [B], on the same device.
        guidance: towards the labels, which is the coarse model's too, and away from the weaker one.
        solver: see `solve`.
        steps: of the solver; dopri5 does not use them.
        precision: of the models' arithmetic; the state is float32 whatever it is.
        companions: of the model, none by default.

    Returns:
        Normalised latents, float32 [B, C, H, W].
    """
    config, (coarse, until, weaker) = model.config, companions

    def flow(model: DiT, guidance: Guidance, weaker: Velocity | None = None) -> Velocity:
        def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
                out: Tensor = model(x, t, y)
            return out

        # One without classes has a single row, also where the others have several.
        known = labels if model.config.classes else torch.zeros_like(labels)
        return guided(network, known, model.config.classes, guidance, weaker)

    with torch.no_grad():
        state, begun = start(seeds, (config.channels, config.input_size, config.input_size)), 0.0
        if coarse is not None:
            alone = replace(guidance, weaker_scale=1.0)
            state, begun = solve(flow(coarse, alone), state, solver, steps, span=(0.0, until)), until
        away = None if weaker is None else flow(weaker, Guidance())
        return solve(flow(model, guidance, away), state, solver, steps, span=(begun, 1.0))
