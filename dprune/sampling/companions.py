"""Other transformers that take part in drawing; nothing here imports torch.

A small one that draws the first part of the way, which a large one ends (coarse to fine; Briq et al., arXiv
2605.08398), and a weaker one that the model is guided away from (autoguidance; Karras et al., arXiv 2406.02507).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dprune.errors import MismatchError
from dprune.formats.provenance import parent
from dprune.models.classes import TrainedClasses
from dprune.models.files import ModelFile
from dprune.models.foreign_vaes import weights_in
from dprune.models.parametrization import parametrization_of, recorded
from dprune.models.vae_files import check_made

COARSE, GUIDE = "coarse", "guide"
"""Roles of companions, as records and options call them."""


@dataclass(frozen=True)
class Companion:
    """A transformer that takes part in drawing, whose header was read.

    Attributes:
        role: `COARSE` or `GUIDE`.
        file: of the transformer.
        parametrization: what it predicts, see `parametrization_of`.
    """

    role: str
    file: ModelFile
    parametrization: str

    @classmethod
    def open(cls, role: str, path: str, parametrization: str | None) -> Companion:
        """Read the header of what an option names.

        Args:
            role: see above.
            path: of a file or folder, as the model's.
            parametrization: what weights made elsewhere predict, None for nothing said; dprune's say it themselves.

        Raises:
            InputError: the file is missing, damaged or of another kind.
        """
        file = ModelFile.open(weights_in(Path(path), "transformer"))
        file.check_kind("dit", "a DiT", "train-dit")
        file.digest_ahead()
        return cls(role, file, parametrization_of(file, None if file.network else parametrization))

    @property
    def options(self) -> dict[str, str]:
        """What provenance holds of it beside its file."""
        return {f"{self.role}_{name}": value for name, value in recorded(self.parametrization).items()}

    def check(self, network: Mapping[str, Any], model: ModelFile, of_model: Mapping[str, Any]) -> None:
        """Hold it to the model beside which it draws.

        Args:
            network: its configuration, as the metadata of dprune's files holds it, with the normalisation of latents.
            model: file of the model.
            of_model: the same of the model.

        Raises:
            MismatchError: its latents or its classes are others.
        """
        ours, theirs = _latents(network), _latents(of_model)
        if ours != theirs:
            self._refuse(f"draws latents of {_shape(network)}", model, _shape(of_model))
        if any(network[name] != of_model[name] for name in ("mean", "std")):
            self._refuse("normalises latents by other numbers", model, "its own")
        counts = [TrainedClasses.of(one, one["classes"]).count for one in (network, of_model)]
        # Of a weaker one that knows no classes the guidance is towards the labels, too.
        if counts[0] != counts[1] and not (self.role == GUIDE and counts[0] == 0):
            self._refuse(f"knows {counts[0]:,} classes", model, f"{counts[1]:,}")
        if (named := self.file.class_names) and model.class_names and counts[0] and named != model.class_names:
            self._refuse("calls its classes by other names", model, "its own")

    def check_headers(self, model: ModelFile, vae: ModelFile) -> None:
        """Hold it to the model and the autoencoder as far as their files say what they are; see `check`."""
        if self.file.network and model.network:
            self.check(self.file.network, model, model.network)
        latents = parent(self.file.record, "latents")
        check_made(vae, latents, f"the latents that --{self.role} {self.file.path} was trained on")

    def _refuse(self, what: str, model: ModelFile, instead: str) -> None:
        raise MismatchError(
            f"--{self.role} {self.file.path}: {what}, and {model.path} {instead}: "
            "give a model that was trained on the same latents and classes."
        )


def _latents(network: Mapping[str, Any]) -> tuple[int, int]:
    return network["channels"], network["input_size"]


def _shape(network: Mapping[str, Any]) -> str:
    channels, size = _latents(network)
    return f"{channels} x {size} x {size}"
