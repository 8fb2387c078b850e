"""Diffusion on pixels: the store without an autoencoder, and what is trained, scored and sampled by it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result, dprune, image_bytes, sample, write_tar
from PIL import Image
from safetensors.numpy import load_file

from dprune import noise
from dprune.flow import flow_loss
from dprune.formats.arrays import read_array
from dprune.formats.latents import CODEBOOK_FILE, PIXELS, SUMS, Latents, open_latents
from dprune.formats.provenance import make_record, parents_of
from dprune.formats.shards import open_dataset
from dprune.models.dit_files import load_dit
from dprune.models.files import publish_model
from dprune.models.vae import VAE, load_vae
from dprune.models.vae_config import VAEConfig
from dprune.training.dit.latents import LatentBatch, TrainingLatents
from dprune.training.order import Visits

CPU = torch.device("cpu")
SIDE = 16
SMALL = ("--arch", "nano/8", "--batch-size", "6", "--log-every", "1", "--lr", "1e-3")


def encode(shards: object, store: object, *args: object) -> Result:
    return dprune("encode", shards, "--vae", PIXELS, "-o", store, "--workers", "0", *args)


def cropped(seed: int) -> np.ndarray:
    """The middle square of an image of conftest, uint8 [3, 16, 16]."""
    image = np.asarray(Image.open(io.BytesIO(image_bytes(seed))))
    return image[:, 2:18].transpose(2, 0, 1)


def held(latents: Latents) -> np.ndarray:
    return np.concatenate(latents.mapped(PIXELS))


@pytest.fixture
def store(shards: Path, tmp_path: Path) -> Path:
    encode(shards, tmp_path / "latents").ok()
    return tmp_path / "latents"


def train(store: object, run: Path, *args: object, steps: int = 6) -> Result:
    return dprune("train-dit", store, *SMALL, "--steps", steps, "-o", run, *args)


def drawn(folder: Path) -> dict[str, np.ndarray]:
    with tarfile.open(folder / "000000.tar") as tar:
        return {name[:-4]: np.asarray(Image.open(tar.extractfile(name)))
                for name in tar.getnames() if name.endswith(".png")}  # fmt: skip


def test_pixels_are_stored_as_they_are(shards: Path, tmp_path: Path) -> None:
    result = encode(shards, tmp_path / "l", "--verify", 99, "--json").ok()
    assert "images become 16 pixels wide, as the first one is" in result.err
    summary = json.loads(result.out)
    assert (summary["images"], summary["verified"], summary["equal"]) == (18, 18, 1.0)
    latents = open_latents(tmp_path / "l")
    assert latents.network == {"kind": "pixels", "channels": 3, "size": SIDE, "codes": 0, "image_size": SIDE}
    np.testing.assert_array_equal(held(latents), np.stack([cropped(seed) for seed in range(18)]))
    assert latents.labels().tolist() == [i % 3 for i in range(18)]
    assert latents.fingerprint == open_dataset([str(shards)]).fingerprint
    assert not (tmp_path / "l" / CODEBOOK_FILE).exists()
    assert list(parents_of(latents.record)) == ["shards"], "there is no file of an autoencoder"
    assert set(latents.record["options"]) == {"network", "flips"}


@pytest.mark.parametrize("flips", [[], ["--flips"]])
def test_sums_are_those_of_all_pixels(flips: list[str], shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "000003.tar", [*sample("a", 90), ("b.png", b"junk"), *sample("c", 91)])
    encode(shards, tmp_path / "l", *flips).ok()
    latents = open_latents(tmp_path / "l")
    assert np.flatnonzero(~latents.valid()).tolist() == [19]
    values = held(latents)[latents.valid()].astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(latents.mean, values.mean((0, 2, 3)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(latents.std, values.std((0, 2, 3)), rtol=1e-6)
    assert list(latents.tensors) == [PIXELS], "what is mirrored is read from what is there"


def test_images_are_resized_as_asked(shards: Path, tmp_path: Path) -> None:
    encode(shards, tmp_path / "l", "--image-size", 8).ok()
    assert held(open_latents(tmp_path / "l")).shape == (18, 3, 8, 8)
    encode(shards, tmp_path / "l").fails(3, "image_size: 8, not 16", "--overwrite")
    plan = json.loads(encode(shards, tmp_path / "m", "--image-size", 8, "--flips", "--dry-run", "--json").ok().out)
    assert plan["work"]["bytes"] == 18 * 3 * 8 * 8


def test_the_first_image_that_can_be_decoded_tells_the_size(tmp_path: Path) -> None:
    write_tar(tmp_path / "s" / "000000.tar", [])
    write_tar(tmp_path / "s" / "000001.tar", [("a.png", b"junk"), *sample("b", 1)])
    encode(tmp_path / "s", tmp_path / "l").ok()
    latents = open_latents(tmp_path / "l")
    assert (latents.network["size"], latents.valid().tolist()) == (SIDE, [False, True])
    assert not held(latents)[0].any()
    write_tar(tmp_path / "bad.tar", [("a.png", b"junk")])
    encode(tmp_path / "bad.tar", tmp_path / "m").fails(3, "holds no image that can be decoded: give other shards")


def test_two_tasks_and_a_rerun_make_the_store_of_one(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(shards, tmp_path / "one").ok()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, made in (("1", 1), ("0", 2), ("0", 0)):
        monkeypatch.setenv("RANK", rank)
        assert json.loads(encode(shards, tmp_path / "two", "--json").ok().out)["shards_made"] == made
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_up_to_date_without_torch(shards: Path, store: Path) -> None:
    script = (
        "import sys; from dprune.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: assert not {'torch', 'safetensors.torch'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", script, "encode", shards, "--vae", PIXELS, "-o", store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr


def test_pixels_that_are_not_the_images_are_found(shards: Path, store: Path) -> None:
    opened = open_latents(store).store
    part = load_file(opened.path("000001.tar"))
    part[PIXELS] = part[PIXELS][::-1].copy()
    opened.publish_part("000001.tar", part, opened.parts[1]["members"], 5, [])
    encode(shards, store, "--verify", 18).fails(3, "000001.safetensors: only ", "of the pixels", "match what")
    part[SUMS[PIXELS]] = part[SUMS[PIXELS]] + 256 * 256 * 5 * SIDE**2
    opened.publish_part("000001.tar", part, opened.parts[1]["members"], 5, [])
    dprune("train-dit", store, "-o", store.parent / "run").fails(3, "the sums in its files do not match")


def test_what_an_encoder_alone_can_do_is_refused(shards: Path, store: Path, tmp_path: Path) -> None:
    encode(shards, tmp_path / "l", "--precision", "bf16").fails(2, "--precision bf16: --vae pixels encodes nothing")
    train(store, tmp_path / "run").ok()
    dprune("sample", tmp_path / "run", "--seeds", "0-3", "--no-quantize", "-o", tmp_path / "g").fails(
        2, "--no-quantize: pixels has no codes"
    )


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_training_sees_the_pixels_and_their_mirror_images(place: str, shards: Path, tmp_path: Path) -> None:
    encode(shards, tmp_path / "l", "--flips").ok()
    latents = open_latents(tmp_path / "l")
    training = TrainingLatents(latents, np.arange(18), CPU, place, seed=0)
    visits = Visits(np.tile(np.arange(18), 20), np.repeat(np.arange(20), 18))
    values = training.batch(visits).latents
    assert values.dtype == torch.float32
    assert (values.mean((0, 2, 3)).abs().max(), (values.std((0, 2, 3)) - 1).abs().max()) < (1e-3, 1e-3)
    expected = (held(latents) / 127.5 - 1 - latents.mean[:, None, None]) / latents.std[:, None, None]
    plain = torch.from_numpy(expected[visits.positions].astype(np.float32))
    is_plain, is_flipped = (torch.isclose(values, one, atol=1e-5).flatten(1).all(1) for one in (plain, plain.flip(3)))
    assert torch.equal(is_plain, ~is_flipped)
    assert 0.4 < is_flipped.float().mean() < 0.6


def test_samples_are_pixels_without_an_autoencoder(store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", "--vae", PIXELS, steps=4).ok()
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["step-00000004.png"]
    arguments = ("--seeds", "0-9", "--steps", "3", "-o", tmp_path / "g")
    dprune("sample", tmp_path / "run", *arguments).ok()
    assert "up to date" in dprune("sample", tmp_path / "run", "--vae", PIXELS, *arguments).ok().err
    images = drawn(tmp_path / "g")
    assert [image.shape for image in images.values()] == [(SIDE, SIDE, 3)] * 10
    record = json.loads((tmp_path / "g" / "manifest.json").read_text())["provenance"]
    assert list(parents_of(record)) == ["model"]
    assert "quantize" not in record["options"]


@pytest.mark.parametrize(("arch", "told"), [("nano/4", False), ("nano/8", True), ("S/8", False)])
def test_patches_that_noise_does_not_go_through_are_told(arch: str, told: bool, store: Path, tmp_path: Path) -> None:
    plan = train(store, tmp_path / "run", "--arch", arch, "--dry-run").ok()
    assert ("a patch has 192 numbers, and the model is 128 wide" in plan.err) == told


def test_patches_of_16_pixels(shards: Path, tmp_path: Path) -> None:
    encode(shards, tmp_path / "l", "--image-size", 32).ok()
    train(tmp_path / "l", tmp_path / "run", "--arch", "nano/16").ok()
    dprune("sample", tmp_path / "run", "--seeds", "0-1", "--steps", "2", "-o", tmp_path / "g").ok()
    assert [image.shape for image in drawn(tmp_path / "g").values()] == [(32, 32, 3)] * 2


def test_what_goes_beyond_black_and_white_is_clamped(store: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run").ok()
    loaded = load_dit(tmp_path / "run" / "model.safetensors", CPU)
    state = loaded.model.state_dict()
    # Velocities so large that each value ends far beyond the range.
    state["final_layer.linear.bias"] = torch.tensor([40.0, -40.0] * (state["final_layer.linear.bias"].numel() // 2))
    publish_model(tmp_path / "run" / "model.safetensors", state, loaded.file.network, loaded.file.record)
    dprune("sample", tmp_path / "run", "--seeds", "0-3", "--steps", "4", "-o", tmp_path / "g").ok()
    for image in drawn(tmp_path / "g").values():
        assert set(np.unique(image)) == {0, 255}


def test_pixels_and_latents_are_not_mixed(shards: Path, store: Path, tmp_path: Path) -> None:
    config = VAEConfig("kl", SIDE, 8, (1,), 1, 3, 0, l2_codes=False)
    vae = tmp_path / "vae.safetensors"
    network = {"kind": "vae", **config.as_json()}
    publish_model(vae, VAE(config).state_dict(), network, make_record("train-vae", {}))
    dprune("encode", shards, "--vae", vae, "-o", tmp_path / "kl").ok()
    for name, latents in (("on-pixels", store), ("on-kl", tmp_path / "kl")):
        train(latents, tmp_path / name).ok()
    draw = ("--seeds", "0-3", "--steps", "2", "-o", tmp_path / "g")
    dprune("sample", tmp_path / "on-kl", *draw).fails(2, "--vae is missing", "on-kl makes latents")
    dprune("sample", tmp_path / "on-kl", "--vae", PIXELS, *draw).fails(3, "is not the autoencoder that made")
    dprune("sample", tmp_path / "on-pixels", "--vae", vae, *draw).fails(3, "made the latents", "give --vae pixels")
    train(store, tmp_path / "run", "--vae", vae).fails(3, "is not the autoencoder that made", "give --vae pixels")
    wrong = ("score", "el2n", store, "--model", tmp_path / "on-kl", "-o", tmp_path / "e.npy")
    dprune(*wrong).fails(3, "on-kl/model.safetensors was trained on latents of another autoencoder")


def test_a_file_that_is_called_pixels_is_given_by_its_path(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = VAEConfig("kl", SIDE, 8, (1, 2), 1, 4, 0, l2_codes=False)
    network = {"kind": "vae", **config.as_json()}
    publish_model(PIXELS, VAE(config).state_dict(), network, make_record("train-vae", {}))
    dprune("encode", shards, "--vae", f"./{PIXELS}", "-o", "l").ok()
    assert open_latents("l").network["kind"] == "kl"


def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, tmp_path / "whole", steps=8).ok()
    batch, taken = TrainingLatents.batch, []

    def stopped(self: TrainingLatents, visits: Visits) -> LatentBatch:
        taken.append(visits)
        if len(taken) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, visits)

    monkeypatch.setattr(TrainingLatents, "batch", stopped)
    train(store, tmp_path / "cut", steps=8).fails(75, "run the same command again")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    train(store, tmp_path / "cut", steps=8).ok()
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_scores_are_those_of_a_loop_in_float64(store: Path, tmp_path: Path) -> None:
    """EL2N: the mean over draws of the squared error of the velocity, with the bank of noises that samples share."""
    train(store, tmp_path / "run", "--save-every", "3").ok()
    dprune("score", "el2n", store, "--model", tmp_path / "run", "--sigma", ".3", "--draws", "4", "-o",
           tmp_path / "e.npy").ok()  # fmt: skip
    latents, loaded = open_latents(store), load_dit(tmp_path / "run" / "model.safetensors", CPU)
    np.testing.assert_allclose(loaded.mean, latents.mean)
    mean, std = (torch.from_numpy(values).double()[:, None, None] for values in (latents.mean, latents.std))
    x = (torch.from_numpy(held(latents)).double() / 127.5 - 1 - mean) / std
    labels, network = torch.from_numpy(latents.labels()), loaded.model.double()
    losses = []
    for draw in range(4):
        name, pair = "noise of scores at 0.3", torch.tensor([draw // 2])
        one = noise.normal(0, name, pair, 0, (3, SIDE, SIDE)).double()
        drawn = (-one if draw % 2 else one).expand_as(x)
        losses.append(flow_loss(network, x, drawn, torch.full((18,), 0.7).double(), labels))
    np.testing.assert_allclose(read_array(tmp_path / "e.npy").values, torch.stack(losses).mean(0), rtol=2e-5)
    for method, *source in (("grand", "--model", "run"), ("monotonicity", "run")):
        places = [tmp_path / name if name == "run" else name for name in source]
        dprune("score", method, store, *places, "--draws", "4", "-o", tmp_path / f"{method}.npy").ok()
        assert np.isfinite(read_array(tmp_path / f"{method}.npy").values).all()


def test_the_identity_changes_nothing() -> None:
    vae, file = load_vae(PIXELS, CPU)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert not list(vae.parameters())
    assert torch.equal(vae.reconstruct(images), images)
    assert torch.equal(vae.decode(vae.snap(vae.encode(images))), images)
    assert file.digest == PIXELS
