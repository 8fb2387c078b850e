"""Image towers of open_clip, with the settings of the tag that their weights were published under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dprune.embedding.backbones import Backbone, check_patches, close_names
from dprune.embedding.geometry import read_geometry
from dprune.embedding.weights import HubFile, fetch, hushed
from dprune.errors import InputError, UsageError
from dprune.models.imports import without_compiler
from dprune.models.weights import misfit, read_state

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


class ImageTower(nn.Module):
    """The image half of a CLIP model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, 3, h, w] to embeddings [n, d], not normalised."""
        embedding: Tensor = self.model.encode_image(x)  # type: ignore[operator]
        return embedding


def load_clip(name: str, weights: Path | None, image_size: int | None) -> Backbone:
    """Load the image tower of a CLIP model.

    Args:
        name: `ARCH/TAG`; the tag decides preprocessing and activation also when the weights come from a file. With
            a file, `ARCH` alone takes OpenAI's preprocessing and the architecture's own activation.
        weights: file, None for the hub's.
        image_size: side in pixels, None for the architecture's; positions are resampled.

    Raises:
        InputError: no such architecture or tag, or the weights are missing, damaged or another network's.
        UsageError: the network cannot take the image size, or neither tag nor weights are given.
    """
    with hushed(), without_compiler():
        import open_clip
    arch, _, tag = name.partition("/")
    if arch not in (known := open_clip.list_models()):
        raise InputError(f"--model open_clip:{name}: open_clip has no such architecture: {close_names(arch, known)}")
    config = _tag(arch, tag)
    if not config and weights is None:
        raise UsageError(f"--model open_clip:{name}: name a tag, as in open_clip:{arch}/openai, or give --weights.")
    path = weights or fetch(_hub_file(name, config))
    model = _create(arch, name, config, path, image_size)
    transform, normalize = _split(model.visual.preprocess_cfg)
    geometry = read_geometry(transform.transforms)
    return Backbone(transform, tuple(normalize.mean), tuple(normalize.std), ImageTower(model), path, geometry)


def _split(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return open_clip's steps on PIL images, ending in bytes, and its normalisation; scaling lies between them."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose, PILToTensor

    *steps, _, normalize = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
    return Compose([*steps, PILToTensor()]), normalize


def _tag(arch: str, tag: str) -> dict[str, Any]:
    import open_clip

    known = open_clip.list_pretrained_tags_by_model(arch)
    if tag and tag not in known:
        close = f"use {' or '.join(known)}." if known else "it has no published weights, so give --weights FILE."
        raise InputError(f"--model open_clip:{arch}/{tag}: open_clip knows no such weights: {close}")
    return dict(open_clip.get_pretrained_cfg(arch, tag)) if tag else {}


def _hub_file(name: str, config: dict[str, Any]) -> HubFile:
    repo, _, file = config.get("hf_hub", "").rpartition("/")
    names = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if file.endswith((".bin", ".pth")):
        names = (f"{file[:-4]}.safetensors", file)
    return HubFile(f"open_clip:{name}", repo, names, config.get("url", ""), Path.home() / ".cache" / "clip")


def _create(arch: str, name: str, config: dict[str, Any], path: Path, image_size: int | None) -> Any:
    import open_clip

    try:
        with hushed():
            model = open_clip.create_model(
                arch,
                pretrained=None,
                pretrained_text=False,
                force_image_size=image_size,
                force_quick_gelu=bool(config.get("quick_gelu")),
                force_preprocess_cfg={key: config[key] for key in PREPROCESSING if key in config},
            )
            check_patches(model.visual, image_size, f"open_clip:{name}")
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except UsageError:
        raise
    except Exception as error:
        # Reading the file alone tells a damaged one from one that does not fit.
        read_state(path)
        raise misfit(path, f"open_clip:{name}", error) from error
    return model
