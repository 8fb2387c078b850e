"""Loading diffusion transformers: dprune's own files, and state dicts of facebookresearch/DiT and willisma/SiT."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.models.architectures import HEADS
from dprune.models.classes import TrainedClasses
from dprune.models.dit import DiT, DiTConfig
from dprune.models.files import ModelFile, fits
from dprune.models.parametrization import VELOCITY
from dprune.models.weights import read_state

# What DiT and SiT multiply the latents of Stable Diffusion's autoencoder with.
LATENT_SCALE = 0.18215


@dataclass(frozen=True)
class LoadedDiT:
    """A diffusion transformer ready for use, and what its latents are.

    Attributes:
        model: in eval mode, float32, without gradients.
        file: where it comes from.
        mean: of the latents, float32 [C]; latents are normalised * std + mean.
        std: of the latents, float32 [C].
    """

    model: DiT
    file: ModelFile
    mean: Tensor
    std: Tensor

    @property
    def conditional(self) -> bool:
        """Whether the model knows labels."""
        return self.model.config.classes > 0

    @functools.cached_property
    def trained(self) -> TrainedClasses:
        """The classes that it was trained on."""
        return TrainedClasses.of(self.file.network, self.model.config.classes)

    def denormalised(self, latents: Tensor) -> Tensor:
        """Bring normalised latents [B, C, H, W] to the scale that the autoencoder decodes."""
        return latents * self.std[:, None, None] + self.mean[:, None, None]


def load_dit(
    path: str | Path, device: torch.device, parametrization: str = VELOCITY, heads: int | None = None
) -> LoadedDiT:
    """Load a diffusion transformer.

    Files made elsewhere tell their configuration by the shapes of their tensors, except for what is said here; their
    latents are those of Stable Diffusion's autoencoder as DiT and SiT scale them.

    Args:
        path: a `model.safetensors` of dprune, or a safetensors or torch file of a state dict.
        device: where the weights go.
        parametrization: what a network made elsewhere predicts, see `parametrization_of`.
        heads: of a network made elsewhere, None for those of DiT's architecture of the same width.

    Raises:
        InputError: the file is missing, damaged, or no such network.
    """
    file = ModelFile.open(path)
    file.check_kind("dit", "a DiT", "train-dit")
    state = file.weights() if file.network else read_state(file.path)
    config, mean, std = _described(file) if file.network else _inferred(file.path, state, heads)
    if not file.network:
        config = replace(config, parametrization=parametrization)
    with torch.device("meta"):
        model = DiT(config)
    if unlike := fits(model.state_dict(), state):
        raise InputError(f"{path}: does not fit the DiT that it is said to be ({unlike}): copy or make it again.")
    # Copied to memory of their own: those of a file may share it, and lie where products round otherwise. Filling an
    # empty network would copy them too, but imports sympy.
    own = {name: value.to(device, torch.float32, copy=True, memory_format=torch.contiguous_format)
           for name, value in state.items()}  # fmt: skip
    model.load_state_dict(own, assign=True)
    scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return LoadedDiT(model.eval().requires_grad_(False), file, *scale)


def _described(file: ModelFile) -> tuple[DiTConfig, list[float], list[float]]:
    """Read what dprune wrote beside its weights."""
    config = DiTConfig(**{field.name: _value(file.network, field) for field in fields(DiTConfig)})
    mean, std = ([float(value) for value in file.network[name]] for name in ("mean", "std"))
    if not len(mean) == len(std) == config.channels:
        raise InputError(
            f"{file.path}: its description is damaged (it does not normalise every channel): make it again."
        )
    return config, mean, std


def _value(network: dict[str, Any], field: Field[Any]) -> Any:
    return network.get(field.name, VELOCITY) if field.name == "parametrization" else network[field.name]


def architecture_of(path: Path) -> tuple[int, int, int]:
    """Return width, depth and patch of a state dict made elsewhere.

    Raises:
        InputError: the file is missing, damaged, or no such network.
    """
    config, *_ = _inferred(path, read_state(path), heads=1)
    return config.width, config.depth, config.patch


def _inferred(
    path: Path, state: dict[str, Tensor], heads: int | None = None
) -> tuple[DiTConfig, list[float], list[float]]:
    """Tell the configuration by the shapes of a state dict, and heads that are not said by the width."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        _, tokens, _ = shapes["pos_embed"]
        rows, _ = shapes["y_embedder.embedding_table.weight"]
        outputs, _ = shapes["final_layer.linear.weight"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: is no DiT or SiT ({error}): give what dprune train-dit made, or such a network's state dict."
        ) from error
    if heads is None and width not in HEADS:
        raise InputError(
            f"{path}: does not say how many heads it has, and DiT has no architecture of width {width} "
            f"(it has {', '.join(map(str, HEADS))}): give such a one, or what dprune train-dit made."
        )
    numbers = [name.split(".")[1] for name in shapes if name.startswith("blocks.")]
    depth = len({number for number in numbers if number.isdecimal()})
    learn_sigma = outputs == 2 * patch**2 * channels
    size = math.isqrt(tokens) * patch
    config = DiTConfig(size, channels, patch, width, depth, heads or HEADS[width], rows - 1, learn_sigma)
    return config, [0.0] * channels, [1 / LATENT_SCALE] * channels


def network_metadata(
    config: DiTConfig, mean: Tensor, std: Tensor, label_count: int, class_counts: Sequence[int] | None = None
) -> dict[str, Any]:
    """Describe a DiT for the metadata of its file, as `load_dit` reads it.

    Args:
        config: of the model.
        mean: of the latents, [C].
        std: of the latents, [C].
        label_count: largest label of the store that it was trained on, and one.
        class_counts: samples of each of these labels that it was trained on, None where there are none.
    """
    latents = {"mean": mean.tolist(), "std": std.tolist(), "label_count": label_count}
    counts = {"class_counts": list(class_counts)} if config.classes and class_counts else {}
    return {"kind": "dit", **config.as_json(), **latents, **counts}
