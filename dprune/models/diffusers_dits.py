"""State dicts of DiT as diffusers names them, such as those of facebook/DiT-XL-2-256: read by DiT's own names.

diffusers splits what makes queries, keys and values, gives every block a copy of what embeds times and labels, and
leaves out the positions, whose number its configuration tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.checked_json import Object, Whole, read_json, shaped
from dprune.models.dit import positions

MARK = "transformer_blocks."
"""What names begin with in such a state dict and in no other."""
CONFIG = "config.json"
_CONFIG = Object({"sample_size": Whole(1, 512)})
_EMBEDDERS = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
_OUTSIDE: dict[str, tuple[str, ...]] = {
    "x_embedder.proj": ("pos_embed.proj",),
    "final_layer.adaLN_modulation.1": ("proj_out_1",),
    "final_layer.linear": ("proj_out_2",),
}
_INSIDE: dict[str, tuple[str, ...]] = {
    "adaLN_modulation.1": ("norm1.linear",),
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
"""Layers by DiT's names, with those of diffusers that they are made of."""


def renamed(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of diffusers' DiT by DiT's names.

    Args:
        path: of their file, which `config.json` has to lie beside.
        state: as diffusers saves it.

    Raises:
        InputError: it is another transformer, or its blocks embed times and labels each in a way of its own.
    """
    depth = len({name.split(".")[1] for name in state if name.startswith(MARK)})
    layers = _layers(depth)
    _check(path, state, layers, depth)
    found = {f"{ours}.{kind}": _joined(path, [state[f"{part}.{kind}"] for part in parts])
             for ours, parts in layers.items() for kind in ("weight", "bias")
             if all(f"{part}.{kind}" in state for part in parts)}  # fmt: skip
    return {**found, "pos_embed": _positions(path, found)}


def _layers(depth: int) -> dict[str, tuple[str, ...]]:
    """Return all layers by DiT's names, with those of diffusers that they are made of."""
    layers = {**_OUTSIDE, **{ours: (f"{MARK}0.{theirs}",) for ours, theirs in _EMBEDDERS.items()}}
    for number in range(depth):
        for ours, parts in _INSIDE.items():
            layers[f"blocks.{number}.{ours}"] = tuple(f"{MARK}{number}.{part}" for part in parts)
    return layers


def _check(path: Path, state: Mapping[str, Tensor], layers: Mapping[str, tuple[str, ...]], depth: int) -> None:
    """Refuse tensors that DiT has no place for, and copies that are not the same."""
    copies = {f"{MARK}{number}.{part}": f"{MARK}0.{part}" for number in range(depth) for part in _EMBEDDERS.values()}
    known = {part for parts in layers.values() for part in parts} | copies.keys()
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer not in known:
            raise _another(path, f"it has {name}")
        first = state.get(f"{copies.get(layer, layer)}.{kind}")
        if first is None or not torch.equal(value, first):
            raise _another(path, f"{name} is not that of its first block")


def _joined(path: Path, parts: Sequence[Tensor]) -> Tensor:
    """Put rows of several layers together."""
    if len({part.shape for part in parts}) > 1:
        raise _another(path, "its queries, keys and values are of several sizes")
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _positions(path: Path, found: Mapping[str, Tensor]) -> Tensor:
    """Return the table of positions of as many tokens as the configuration beside a file says."""
    beside = path.with_name(CONFIG)
    try:
        size = shaped(str(beside), read_json(beside), _CONFIG)["sample_size"]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the size of its latents is in the {CONFIG} that diffusers saves beside it, which is missing: "
            "copy both."
        ) from error
    weight = found.get("x_embedder.proj.weight")
    if weight is None or weight.ndim != 4 or not weight.numel():
        raise _another(path, "it has no pos_embed.proj.weight of four dimensions")
    return positions(len(weight), size // weight.shape[-1])


def _another(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: is a transformer of diffusers, but not a DiT ({reason}): give one such as "
        "facebook/DiT-XL-2-256 has, or the "
        "state dict of DiT's or SiT's own code."
    )
