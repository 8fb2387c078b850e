"""Networks of timm, with the preprocessing that timm records for their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dprune.embedding.backbones import Backbone, check_patches, close_names
from dprune.embedding.geometry import read_geometry
from dprune.embedding.weights import HubFile, fetch, hushed
from dprune.errors import InputError, UsageError
from dprune.models.imports import without_compiler
from dprune.models.undrawn import Undrawn
from dprune.models.weights import misfit, read_state


def load_timm(
    name: str, weights: Path | None, image_size: int | None, crop_pct: float | None, option: str = "--model"
) -> Backbone:
    """Load a network of timm without its classifier.

    Args:
        name: as in `timm.create_model`, with or without tag.
        weights: file, None for the hub's.
        image_size: side in pixels, None for the one that the weights were published for.
        crop_pct: share of the resized image that the centre crop keeps, None for the published one.
        option: that named the network, for messages.

    Raises:
        InputError: no such network, or its weights are missing, damaged or another network's.
        UsageError: the network cannot take the image size.
    """
    with hushed(), without_compiler():
        from timm.data import create_transform, resolve_data_config
    config = _config(name, option)
    path = weights or fetch(_hub_file(name, config))
    model = _create(name, config, path, image_size)
    asked = {"input_size": (3, image_size, image_size) if image_size else None, "crop_pct": crop_pct}
    data = resolve_data_config(args=asked, model=model)
    transform = create_transform(**data, is_training=False, normalize=False)
    geometry = read_geometry(transform.transforms)
    return Backbone(transform, tuple(data["mean"]), tuple(data["std"]), model, path, geometry)


def _config(name: str, option: str) -> Any:
    """Return timm's record of a network's published weights."""
    import timm
    from timm.models import get_pretrained_cfg

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        known = [*timm.list_models(), *timm.list_models(pretrained=True)]
        raise InputError(f"{option} timm:{name}: timm has no such network: {close_names(name, known)}")
    try:
        return get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = list(timm.list_models(f"{base}.*", pretrained=True))
        close = close_names(name, tags) if not tags else f"use {' or '.join(tags)}."
        raise InputError(f"{option} timm:{name}: timm knows no weights called {tag}: {close}") from error


def _hub_file(name: str, config: Any) -> HubFile:
    single = (config.hf_hub_filename,) if config and config.hf_hub_filename else None
    url = config.url if config and isinstance(config.url, str) else ""
    repo = (config.hf_hub_id or "") if config else ""
    names = single or ("model.safetensors", "pytorch_model.bin")
    return HubFile(f"timm:{name}", repo, names, url, Path(torch.hub.get_dir()) / "checkpoints")


def _create(name: str, config: Any, path: Path, image_size: int | None) -> nn.Module:
    """Create the network with the classifier that the file holds, load the file strictly, then drop the classifier.

    timm's own way to leave the classifier out loads the rest leniently: a wrong file would pass for a right one.
    """
    import timm

    state = read_state(path)
    classes = _classes(state, config)
    sized = {"img_size": image_size} if image_size and config and config.fixed_input_size else {}
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0, "custom_load": False}
    try:
        # All that is not drawn is loaded, strictly.
        with hushed(), Undrawn():
            model: nn.Module = timm.create_model(
                name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **sized
            )
    except Exception as error:
        if sized and "state_dict" not in str(error):
            raise UsageError(f"--image-size {image_size}: timm:{name} cannot take this size ({error}).") from error
        raise misfit(path, f"timm:{name}", error) from error
    check_patches(model, image_size, f"timm:{name}")
    if classes:
        model.reset_classifier(0)  # type: ignore[operator]
    return model


def _classes(state: dict[str, torch.Tensor], config: Any) -> int:
    """Return how many classes the classifier in the file has, 0 where there is none."""
    names = config.classifier if config else None
    for name in (names,) if isinstance(names, str) else names or ():
        if f"{name}.weight" in state:
            return len(state[f"{name}.weight"])
    return 0
