"""Autoencoders made elsewhere: Stable Diffusion's, VQGAN's and LlamaGen's, read as ours.

Of safetensors the header tells what they are, without torch; a torch file is mapped, so that of a whole Stable
Diffusion only the autoencoder is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError, MismatchError
from dprune.formats.checked_json import ListOf, Object, Real, Text, Whole, read_json, shaped
from dprune.formats.tensor_files import TensorFile, is_tensor_file
from dprune.models.files import ModelFile
from dprune.models.identity import IMAGE_SIZE
from dprune.models.vae_config import VAEConfig
from dprune.models.vae_naming import (
    DIFFUSERS,
    DIFFUSERS_OLDER,
    Ingredients,
    Naming,
    Shapes,
    Strange,
    config_of,
    naming_of,
    renaming,
)
from dprune.models.weights import map_state, read_tensor_file

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = 32
"""Of normalisations, unless a configuration says otherwise."""
CONFIG = "config.json"
_WEIGHTS = tuple(f"diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin"))
_CLASSES = ("AutoencoderKL", "VQModel")
_FIRST = "encoder.conv_in.weight"
# Where an autoencoder lies beside other networks, best first.
_PREFIXES = ("", "first_stage_model.", "vae.")
_NOTED = ("scaling_factor", "shift_factor")
"""What a configuration says of the scale of latents."""
_CONFIG = Object(
    optional={
        "_class_name": Text(100), "norm_num_groups": Whole(1, 1 << 10), "act_fn": Text(100), "norm_type": Text(100),
        "block_out_channels": ListOf(Whole(1, 1 << 16), 1, 16), "layers_per_block": Whole(1, 128),
        "scaling_factor": Real(1e-6, 1e6), "shift_factor": Real(-1e6, 1e6), "latent_channels": Whole(1, 1 << 16),
    },
)  # fmt: skip


@dataclass(frozen=True)
class ForeignVAE(ModelFile):
    """The file of an autoencoder made elsewhere, whose `network` says of it what ours say of themselves.

    Attributes:
        prefix: of its tensors' names.
        recipe: what becomes each parameter of ours.
    """

    prefix: str
    recipe: Mapping[str, Ingredients]

    def weights(self) -> dict[str, Tensor]:
        """Read its tensors as the parameters of ours, float32.

        Raises:
            InputError: the file is not whole, or holds whole numbers where weights are to be.
        """
        import torch

        mapped = not is_tensor_file(self.path)
        state = map_state(self.path) if mapped else read_tensor_file(self.path, self.prefix)
        before = self.prefix if mapped else ""
        found = {}
        for ours, wanted in self.recipe.items():
            parts = [state[before + name].reshape(wanted.shape) for name in wanted.names]
            if not all(part.is_floating_point() for part in parts):
                raise InputError(f"{self.path}: its {wanted.names[0]} holds whole numbers: give weights as floats.")
            found[ours] = torch.cat(parts).float()
        # Nobody trains it on: how often codes were used plays no role.
        return found | ({"quantizer.usage": torch.ones(self.network["codes"])} if self.network["codes"] else {})


def weights_in(path: Path, part: str = "vae") -> Path:
    """Return the file of weights in a folder as diffusers saves a network or a pipeline; of a file, itself.

    Args:
        path: of the file or folder.
        part: of a pipeline.
    """
    if not path.is_dir():
        return path
    inside = (folder / name for folder in (path, path / part) for name in _WEIGHTS)
    return next((file for file in inside if file.is_file()), path)


def open_foreign_vae(path: Path) -> ForeignVAE:
    """Tell by its names and shapes what autoencoder a file holds.

    Args:
        path: of safetensors or of a torch file: of an autoencoder alone, or of a diffusion model with it.

    Raises:
        InputError: it holds none, one of another family, or more than one.
        MismatchError: the configuration beside it is another's.
    """
    shapes = _shapes(path)
    prefix = _prefix(path, shapes)
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        naming = naming_of(shapes)
        said = _configuration(path, naming)
        config = config_of(shapes, naming, IMAGE_SIZE, said.get("norm_num_groups", GROUPS))
        recipe = renaming(shapes, naming, config)
    except Strange as error:
        raise InputError(
            f"{path}: is an autoencoder of another family ({error}): give Stable Diffusion's (AutoencoderKL), a VQGAN "
            "of taming-transformers or latent-diffusion, LlamaGen's, or what dprune train-vae made."
        ) from error
    _check_said(path, said, config)
    network = {"kind": "vae", **config.as_json(), **{name: said[name] for name in _NOTED if name in said}}
    return ForeignVAE(path, network, None, prefix, recipe)


def _shapes(path: Path) -> Shapes:
    if is_tensor_file(path):
        return {name: place.shape for name, place in TensorFile.open(path).places.items()}
    return {name: tuple(value.shape) for name, value in map_state(path).items()}


def _prefix(path: Path, shapes: Shapes) -> str:
    """Return what stands before the names of the autoencoder in a file."""
    ends = {name.removesuffix(_FIRST) for name in shapes if name.endswith(_FIRST)}
    found = sorted(end for end in ends if not end or end.endswith("."))
    if not found:
        raise InputError(
            f"{path}: holds no autoencoder that dprune knows: give the model.safetensors of dprune train-vae, Stable "
            "Diffusion's autoencoder (AutoencoderKL), a VQGAN of taming-transformers, or LlamaGen's."
        )
    best = [prefix for prefix in _PREFIXES if prefix in found] or found
    if len(found) > 1 and best is found:
        raise InputError(f"{path}: holds several autoencoders ({', '.join(found[:3])}): give a file with one of them.")
    return best[0]


def _configuration(path: Path, naming: Naming) -> dict[str, Any]:
    """Read what lies beside a file of weights and speaks of it; empty for nothing.

    Raises:
        InputError: it is damaged.
        Strange: it is of another kind of autoencoder.
    """
    if naming not in (DIFFUSERS, DIFFUSERS_OLDER):
        return {}
    beside = path.with_name(CONFIG)
    try:
        said = read_json(beside)
    except FileNotFoundError:
        return {}
    if not isinstance(said, dict) or said.get("_class_name") not in _CLASSES:
        # A folder of downloads may hold anybody's.
        return {}
    said = {name: value for name, value in said.items() if value is not None}
    if said.get("act_fn", "silu") not in ("silu", "swish"):
        raise Strange(f"{beside} says act_fn {said['act_fn']!r}, not 'silu'")
    if said.get("norm_type", "group") != "group":
        raise Strange(f"{beside} says norm_type {said['norm_type']!r}, not 'group'")
    return dict(shaped(str(beside), said, _CONFIG))


def _check_said(path: Path, said: Mapping[str, Any], config: VAEConfig) -> None:
    """Hold a configuration to the tensors beside it."""
    found = {
        "block_out_channels": [config.width * multiplier for multiplier in config.multipliers],
        "layers_per_block": config.blocks,
        "latent_channels": config.between,
    }
    for name, value in found.items():
        if said.get(name, value) != value:
            raise MismatchError(
                f"{path.with_name(CONFIG)}: says {name} {said[name]}, and {path.name} beside it has {value}: "
                "copy both from one folder."
            )
