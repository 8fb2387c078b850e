"""The Inception network of FID against pytorch-fid and clean-fid, with random weights in the published layout."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, dprune, sample, write_tar
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

NAME = "pt_inception-2015-12-05-6726825d.pth"


def embed(shards: object, store: object, *args: object) -> Result:
    return dprune("embed", shards, "--model", "inception", "-o", store, "--workers", 0, "--device", "cpu", *args)


@pytest.fixture(scope="module")
def reference() -> Any:
    """torchvision's network as pytorch-fid changes it, with random weights that keep the features' scale."""
    import pytorch_fid.inception as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *args, **options: None)
        network = theirs.fid_inception_v3()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.bias)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.7, 1.3)
    return network.eval()


@pytest.fixture(scope="module")
def weights(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / NAME
    torch.save(reference.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    images, members = [], []
    for number, size in enumerate([(299, 299), (64, 48), (400, 310)]):
        rough = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        images.append(np.asarray(image))
        members.append((f"{number}.png", buffer.getvalue()))
    return write_tar(tmp_path_factory.mktemp("photos") / "a.tar", members), images


def their_model(network: Any, *, resize: bool) -> Any:
    """pytorch-fid's model around its network."""
    import pytorch_fid.inception as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "fid_inception_v3", lambda: network)
        return theirs.InceptionV3([3], resize_input=resize).eval()


def by_pytorch_fid(network: Any, images: list[np.ndarray]) -> np.ndarray:
    """Features of images [h, w, 3] in 0 to 255 that pytorch-fid resizes and scales."""
    model = their_model(network, resize=True)
    with torch.inference_mode():
        batches = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255 for image in images]
        return np.concatenate([model(batch)[0].flatten(1).numpy() for batch in batches])


def by_the_graph(network: Any, images: list[np.ndarray]) -> np.ndarray:
    """Features of images [299, 299, 3] in 0 to 255 at the scale that clean-fid and the original graph have."""
    from cleanfid.inception_torchscript import InceptionV3W

    wrapper = InceptionV3W.__new__(InceptionV3W)
    torch.nn.Module.__init__(wrapper)
    model = their_model(network, resize=False)
    # What it loads from TorchScript is the network without any scale; pytorch-fid's would scale once more.
    wrapper.layers, wrapper.resize_inside = torch.nn.Sequential(*model.blocks, torch.nn.Flatten()), False
    with torch.inference_mode():
        return wrapper(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).numpy()


def resized_for(resize: str, images: list[np.ndarray]) -> list[np.ndarray]:
    from cleanfid.resize import build_resizer

    from dprune.embedding.resizing import tensorflow_resize

    if resize == "clean":
        return [build_resizer("clean")(image) for image in images]
    # Held to torch-fidelity's below.
    return [tensorflow_resize(Image.fromarray(image)).permute(1, 2, 0).numpy() for image in images]


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["clean", "pytorch", "tensorflow"])
def test_features_and_logits(reference: Any, weights: Path, photos: Any, tmp_path: Path, resize: str) -> None:
    args = () if resize == "clean" else ("--resize", resize)
    embed(photos[0], tmp_path / "f", "--weights", weights, "--dtype", "float32", *args).ok()
    part = load_file(tmp_path / "f" / "a.safetensors")
    if resize == "pytorch":
        features = by_pytorch_fid(reference, photos[1])
    else:
        features = by_the_graph(reference, resized_for(resize, photos[1]))
    logits = torch.nn.functional.linear(torch.from_numpy(features), reference.fc.weight).detach().numpy()
    assert features.std() > 0.1
    assert np.abs(features[0] - features[1]).max() > 0.1
    np.testing.assert_allclose(part["features"], features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(part["logits"], logits, rtol=1e-4, atol=1e-4)
    assert part["logits"].shape == (3, 1008)
    options = json.loads((tmp_path / "f" / "manifest.json").read_text())["provenance"]["options"]
    assert (options["precision"], options["resize"]) == ("float32", resize)


def test_resizes_are_clean_fid_s(photos: Any) -> None:
    from cleanfid.resize import build_resizer

    from dprune.embedding.resizing import clean_resize, pytorch_resize

    for image in photos[1]:
        ours = clean_resize(Image.fromarray(image)).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours, build_resizer("clean")(image))
        ours = pytorch_resize(Image.fromarray(image)).permute(1, 2, 0).numpy()
        # clean-fid clips what rounding took beyond, which pytorch-fid does not.
        np.testing.assert_array_equal(ours.clip(0, 255), build_resizer("legacy_pytorch")(image))


def test_the_resize_of_tensorflow_is_torch_fidelity_s() -> None:
    from data.resizing.make import EVERY, SHAPES, pattern

    from dprune.embedding.resizing import tensorflow_resize

    expected = np.load(Path(__file__).parent / "data" / "resizing" / "expected.npz")
    for height, width in SHAPES:
        ours = tensorflow_resize(Image.fromarray(pattern(height, width)))
        np.testing.assert_array_equal(ours[0, ::EVERY, ::EVERY].numpy(), expected[f"{height}x{width}"])
    assert tuple(tensorflow_resize(Image.new("RGB", (1, 1), "white"))[:, 0, 0]) == (255, 255, 255)


def test_other_networks_have_no_such_resize(photos: Any, tmp_path: Path) -> None:
    done = dprune("embed", photos[0], "--model", "pixels", "--resize", "clean", "-o", tmp_path / "f")
    done.fails(2, "--resize clean: pixels takes no such option")


def test_features_of_two_resizes_are_of_different_spaces(weights: Path, tmp_path: Path) -> None:
    shards = one(tmp_path)
    for resize in ("clean", "tensorflow"):
        embed(shards, tmp_path / resize, "--weights", weights, "--resize", resize).ok()
    done = dprune("eval", tmp_path / "clean", tmp_path / "tensorflow", "-o", tmp_path / "m.json")
    done.fails(3, "different spaces (resize: clean, and tensorflow)")


def one(folder: Path) -> Path:
    return write_tar(folder / "a.tar", sample("x", 1))


def test_safetensors_of_the_file(reference: Any, weights: Path, tmp_path: Path) -> None:
    """A safetensors keeps no count of batches where the published file has none."""
    state = {key: value for key, value in reference.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    for name, path in (("a", weights), ("b", tmp_path / "w.safetensors")):
        embed(one(tmp_path), tmp_path / name, "--weights", path).ok()
    a, b = (load_file(tmp_path / name / "a.safetensors") for name in "ab")
    np.testing.assert_array_equal(a["features"], b["features"])


def test_undecodable_images_have_no_logits(weights: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.png", b"junk")])
    embed(tmp_path / "a.tar", tmp_path / "f", "--weights", weights).ok()
    part = load_file(tmp_path / "f" / "a.safetensors")
    assert np.isnan(part["features"]).all()
    assert np.isnan(part["logits"]).all()


def test_weights_that_are_missing(photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPRUNE_WEIGHTS_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    everything = (NAME, "95,628,359 bytes", "6726825d0af5f729", "https://github.com/mseitzer/pytorch-fid",
                  str(tmp_path / "own"), str(tmp_path / "hub" / "checkpoints"), "--weights FILE")  # fmt: skip
    embed(photos[0], tmp_path / "f", "--model", "inception").fails(3, *everything)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "inception-2015-12-05.pt").write_bytes(b"TorchScript")
    embed(photos[0], tmp_path / "f").fails(3, *everything, "logits are not reliable")
    assert not (tmp_path / "f").exists()


def test_weights_found_by_name_are_checked(
    weights: Path, photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dprune.embedding import inception, settings
    from dprune.models.weights import file_digest

    monkeypatch.setenv("DPRUNE_WEIGHTS_DIR", str(weights.parent))
    embed(photos[0], tmp_path / "f").fails(3, str(weights), "is not the published file", "--weights")
    for module in (inception, settings):
        monkeypatch.setattr(module, "INCEPTION_SHA256", file_digest(weights))
    embed(one(tmp_path), tmp_path / "f").ok()
    assert "is up to date" in embed(one(tmp_path), tmp_path / "f", "--weights", weights).ok().err


def test_weights_of_another_network(reference: Any, photos: Any, tmp_path: Path) -> None:
    state = dict(reference.state_dict())
    state["fc.weight"] = torch.zeros(1000, 2048)
    torch.save(state, tmp_path / "w.pth")
    embed(photos[0], tmp_path / "f", "--weights", tmp_path / "w.pth").fails(3, "w.pth", "size mismatch for fc.weight")
