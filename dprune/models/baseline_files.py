"""Files of baselines."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from dprune.errors import InputError
from dprune.formats.class_names import ClassNames
from dprune.models.baselines import KIND, BaselineConfig
from dprune.models.classes import TrainedClasses
from dprune.models.files import ModelFile, fits
from dprune.models.generator import ImageGenerator
from dprune.models.prior_vae import PriorVAE


def network_header(config: BaselineConfig, trained: TrainedClasses, names: ClassNames) -> dict[str, Any]:
    """Describe a baseline for the metadata of its file.

    Args:
        config: of the networks.
        trained: the classes, and how many samples of each were trained on.
        names: of the classes.
    """
    header = {"kind": KIND, **config.as_json()}
    if config.classes and trained.samples:
        header["class_counts"] = list(trained.samples)
    if config.classes and names:
        header["class_names"] = list(names.names)
    return header


@dataclass(frozen=True)
class LoadedBaseline:
    """A generator ready for use.

    Attributes:
        generator: in eval mode, float32, without gradients.
        trained: the classes that it was trained on.
    """

    generator: ImageGenerator
    trained: TrainedClasses


def load_baseline(file: ModelFile, device: torch.device) -> LoadedBaseline:
    """Load the generator of a baseline.

    Args:
        file: whose header says that it is one, see `ModelFile.check_kind`.
        device: where the weights go.

    Raises:
        InputError: the file is damaged.
    """
    config = BaselineConfig(**{field.name: file.network[field.name] for field in fields(BaselineConfig)})
    with torch.device("meta"):
        network = PriorVAE(config) if config.model == "vae" else ImageGenerator(config)
    state = file.weights()
    if unlike := fits(network.state_dict(), state):
        raise InputError(f"{file.path}: does not fit its own description ({unlike}): copy or make it again.")
    # Copied to memory of their own, see `load_dit`.
    own = {name: state[name].to(device, value.dtype, copy=True) for name, value in network.state_dict().items()}
    network.load_state_dict(own, assign=True)
    generator = network.generator if isinstance(network, PriorVAE) else network
    return LoadedBaseline(generator.eval().requires_grad_(False), TrainedClasses.of(file.network, config.classes))
