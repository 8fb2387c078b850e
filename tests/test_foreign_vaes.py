"""Autoencoders made elsewhere: read by their own names, and held to what the code of others makes of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import FOLDER, SEEN, image, tensors
from safetensors.numpy import save_file

from dprune.models.vae import VAE, load_vae

CPU = torch.device("cpu")
LAYOUTS = sorted(path.stem for path in FOLDER.glob("*.layout"))


def saved(path: Path, name: str) -> Path:
    """Write an autoencoder as its own library names the tensors, with its configuration where there is one."""
    path.parent.mkdir(exist_ok=True, parents=True)
    save_file(tensors(name), path)
    config = FOLDER / f"{name}.json"
    if config.exists():
        (path.parent / "config.json").write_bytes(config.read_bytes())
    return path


def apart(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def held_to(vae: VAE, name: str) -> None:
    kept = np.load(FOLDER / f"{name}.npz")
    encoded = vae.encode(torch.from_numpy(image()))
    if vae.config.kind == "kl":
        latents, expected = encoded.chunk(2, dim=1)[0], kept["moments"]
    else:
        expected = kept["encoded"]
        codes = vae.codes(torch.from_numpy(image()))
        assert codes.flatten().tolist() == kept["codes"].tolist()
        assert len(codes.unique()) > 7
        latents = vae.quantizer.look_up(codes, encoded.shape[2])
    assert apart(encoded, expected) < 1e-5
    assert apart(vae.decode(latents)[SEEN], kept["decoded"]) < 1e-5
    print(name, apart(encoded, expected), apart(vae.decode(latents)[SEEN], kept["decoded"]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_of_others_code(name: str, tmp_path: Path) -> None:
    vae, file = load_vae(saved(tmp_path / "vae.safetensors", name), CPU)
    assert file.network["kind"] == "vae"
    held_to(vae, name)
