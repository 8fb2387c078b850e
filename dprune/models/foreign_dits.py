"""State dicts of diffusion transformers that were made elsewhere: of facebookresearch/DiT, willisma/SiT and their kin.

They hold names and shapes alone; what these do not tell is asked of the network, see `models.probe`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dprune.errors import InputError
from dprune.formats.checked_json import shaped
from dprune.formats.tensor_files import TensorFile, is_tensor_file
from dprune.models.architectures import HEADS
from dprune.models.descriptions import DESCRIPTIONS
from dprune.models.diffusers_dits import MARK, renamed
from dprune.models.dit import DiT, DiTConfig
from dprune.models.parametrization import INFERRED, PREDICTIONS, unsaid
from dprune.models.probe import answers_of
from dprune.models.vae_config import LATENT_SCALE
from dprune.models.weights import bare_name, map_state, read_state

TRAINING_HEADS = "projectors."
"""Where REPA and what builds on it keep networks that only their training needs."""

_log = logging.getLogger("dprune")


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Read a state dict by DiT's names, without the networks that only training needs.

    Raises:
        InputError: the file is damaged, or holds no state dict, or that of another transformer.
    """
    state = read_state(path)
    if any(name.startswith(MARK) for name in state):
        return renamed(path, state)
    kept = {name: value for name, value in state.items() if not name.startswith(TRAINING_HEADS)}
    if len(kept) < len(state):
        _log.info("%s: %d tensors of projectors, which only its training needed, are ignored.", path,
                  len(state) - len(kept))  # fmt: skip
    return kept


def architecture_of(path: Path) -> tuple[int, int, int]:
    """Return width, depth and patch of a state dict made elsewhere.

    Raises:
        InputError: the file is missing, damaged, or no such network.
    """
    config, *_ = inferred(path, shapes_of(path), heads=1)
    return config.width, config.depth, config.patch


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state dict by DiT's names, without reading more of it than they take.

    Raises:
        InputError: as `read_foreign`.
    """
    found: dict[str, tuple[int, ...]]
    if is_tensor_file(path):
        found = {bare_name(name): tuple(place.shape) for name, place in TensorFile.open(path).places.items()}
    else:
        found = {name: tuple(value.shape) for name, value in map_state(path).items()}
    if any(name.startswith(MARK) for name in found):
        found = {name: tuple(value.shape) for name, value in read_foreign(path).items()}
    return found


def inferred(
    path: Path, shapes: Mapping[str, Sequence[int]], heads: int | None = None
) -> tuple[DiTConfig, list[float], list[float]]:
    """Tell the configuration by the shapes of a state dict, and heads that are not said by the width."""
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        _, tokens, _ = shapes["pos_embed"]
        rows, _ = shapes["y_embedder.embedding_table.weight"]
        outputs, _ = shapes["final_layer.linear.weight"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: is not a DiT or SiT ({error}): give what dprune train-dit made, or such a network's state dict."
        ) from error
    if heads is None and width not in HEADS:
        raise InputError(
            f"{path}: does not say how many heads it has, and DiT has no architecture of width {width} "
            f"(it has {', '.join(map(str, HEADS))}): give one of these, or what dprune train-dit made."
        )
    numbers = [name.split(".")[1] for name in shapes if name.startswith("blocks.")]
    depth = len({number for number in numbers if number.isdecimal()})
    learn_sigma = outputs == 2 * patch**2 * channels
    size = math.isqrt(tokens) * patch
    config = DiTConfig(size, channels, patch, width, depth, heads or HEADS[width], rows - 1, learn_sigma)
    # Shapes beyond reason are refused before anything of that size is made.
    shaped(str(path), {**config.as_json(), "mean": [], "std": []}, DESCRIPTIONS["dit"], "copy it again")
    return config, [0.0] * channels, [1 / LATENT_SCALE] * channels


def settle(path: Path, network: DiT, said: str) -> dict[str, str]:
    """Set what a network predicts: what is said, or what its answers to noise say.

    Args:
        path: of its file.
        network: in eval mode, on its device.
        said: one of `PREDICTIONS`, or `INFERRED`.

    Returns:
        What was inferred, as a finding.

    Raises:
        UsageError: nothing is said, and the answers are not clear.
    """
    found = answers_of(network)
    if said != INFERRED:
        if found.prediction not in (None, said):
            _log.warning("--parametrization %s: judging by its outputs on noise (%s), %s predicts %s: leave the "
                         "option out to go by that.", said, found, path, PREDICTIONS[found.prediction])  # fmt: skip
        network.config = replace(network.config, parametrization=said)
        return {}
    if found.prediction is None:
        raise unsaid(path, str(found))
    _log.info("%s predicts %s, judging by its outputs on noise (%s).", path, PREDICTIONS[found.prediction], found)
    network.config = replace(network.config, parametrization=found.prediction)
    return {"predicts": found.prediction}
