"""Loading diffusion transformers: dprune's own files, and state dicts of facebookresearch/DiT and willisma/SiT."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import Record
from dprune.models.classes import TrainedClasses
from dprune.models.dit import DiT, DiTConfig
from dprune.models.files import ModelFile, fits
from dprune.models.foreign_dits import inferred, read_foreign, settle
from dprune.models.parametrization import VELOCITY


@dataclass(frozen=True)
class LoadedDiT:
    """A diffusion transformer ready for use, and what its latents are.

    Attributes:
        model: in eval mode, float32, without gradients.
        file: where it comes from.
        mean: of the latents, float32 [C]; latents are normalised * std + mean.
        std: of the latents, float32 [C].
        findings: what was inferred of it, for the provenance of what is made with it.
    """

    model: DiT
    file: ModelFile
    mean: Tensor
    std: Tensor
    findings: Record

    @property
    def conditional(self) -> bool:
        """Whether the model knows labels."""
        return self.model.config.classes > 0

    @property
    def network(self) -> dict[str, Any]:
        """What its file says of it, or would if dprune had written it; see `ModelFile`."""
        normalisation = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return {**self.model.config.as_json(), **self.file.network, **normalisation}

    @functools.cached_property
    def trained(self) -> TrainedClasses:
        """The classes that it was trained on."""
        return TrainedClasses.of(self.file.network, self.model.config.classes)

    def scaled(self, factor: float, shift: float) -> LoadedDiT:
        """Return it for latents z of which it saw (z - shift) * factor in its training."""
        return replace(self, mean=torch.full_like(self.mean, shift), std=torch.full_like(self.std, 1 / factor))

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
        parametrization: what a network made elsewhere predicts, see `parametrization_of`; it is asked in any case.
        heads: of a network made elsewhere, None for those of DiT's architecture of the same width.

    Raises:
        InputError: the file is missing, damaged, or no such network.
        UsageError: what a network made elsewhere predicts is to be inferred, and its answers to noise do not tell.
    """
    file = ModelFile.open(path)
    file.check_kind("dit", "a DiT", "train-dit")
    state = file.weights() if file.network else read_foreign(file.path)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    config, mean, std = _described(file) if file.network else inferred(file.path, shapes, heads)
    with torch.device("meta"):
        model = DiT(config)
    if unlike := fits(model.state_dict(), state):
        raise InputError(f"{path}: does not fit its own description ({unlike}): copy or make it again.")
    # Copied to memory of their own: those of a file may share it, and lie where products round otherwise. Filling an
    # empty network would copy them too, but imports sympy.
    own = {name: value.to(device, torch.float32, copy=True, memory_format=torch.contiguous_format)
           for name, value in state.items()}  # fmt: skip
    model.load_state_dict(own, assign=True)
    model.eval().requires_grad_(False)
    findings = {} if file.network else settle(file.path, model, parametrization)
    shift, scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return LoadedDiT(model, file, shift, scale, findings)


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


def network_metadata(
    config: DiTConfig,
    mean: Tensor,
    std: Tensor,
    label_count: int,
    class_counts: Sequence[int] | None = None,
    class_names: ClassNames | None = None,
) -> dict[str, Any]:
    """Describe a DiT for the metadata of its file, as `load_dit` reads it.

    Args:
        config: of the model.
        mean: of the latents, [C].
        std: of the latents, [C].
        label_count: largest label of the store that it was trained on, and one.
        class_counts: samples of each of these labels that it was trained on, None where there are none.
        class_names: what the labels are called, None where nobody says.
    """
    latents = {"mean": mean.tolist(), "std": std.tolist(), "label_count": label_count}
    counts = {"class_counts": list(class_counts)} if config.classes and class_counts else {}
    names = {"class_names": list(class_names.names)} if config.classes and class_names else {}
    return {"kind": "dit", **config.as_json(), **latents, **counts, **names}
