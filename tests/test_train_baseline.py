"""`dprune train-baseline` on a few small images: what is learnt, resuming, micro-batches, ranks, bad data, sampling."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, dprune, members, sample, torchrun, write_tar
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from dprune.formats.arrays import write_array
from dprune.formats.provenance import make_record, training_subset
from dprune.formats.shards import open_dataset
from dprune.models.baselines import BaselineConfig
from dprune.models.files import ModelFile
from dprune.models.generator import ImageGenerator
from dprune.models.prior_vae import PriorVAE
from dprune.models.projection_discriminator import ProjectionDiscriminator, Spectral
from dprune.training.baseline.augmentation import Augmentation, coloured, cut_out, translated
from dprune.training.baseline.loss import BoundObjective, GeneratorObjective, JudgingObjective, LabelledImages
from dprune.training.baseline.settings import GAN_RATES, PLANS, PRESETS, VAE_PLAN

CPU = torch.device("cpu")
SMALL = ("--preset", "tiny", "--width", "16", "--latent-size", "8", "--batch-size", "6", "--workers", "0",
         "--log-every", "1", "--device", "cpu")  # fmt: skip
MODELS = ("vae", "gan")
GAN_AT_ONCE = ("--augment", "cutout,colour,translation", "--flip")


def train(model: str, shards: object, run: object, *args: object, steps: int = 3) -> Result:
    return dprune("train-baseline", model, shards, *SMALL, "--steps", steps, "-o", run, *args)


def all_at_once(model: str) -> tuple[str, ...]:
    return GAN_AT_ONCE if model == "gan" else ("--flip", "--kl-weight", "0.5")


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[dict[str, float]]:
    return [line for line in log(run) if "loss" in line]


def assert_same_images(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """Sums of a convolution are rounded otherwise in batches of another size, which may move a value by one."""
    assert ours.keys() == theirs.keys()
    for name, content in ours.items():
        if name.endswith(".png"):
            one, other = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (content, theirs[name]))
            assert np.abs(one - other).max() <= 1, name
        else:
            assert content == theirs[name]


def batch(count: int = 4, side: int = 8) -> LabelledImages:
    ids = torch.arange(count)
    return LabelledImages(ids, ids % 2, ids % 3 - 1, torch.rand(count, 3, side, side) * 2 - 1)


@pytest.mark.slow
def test_a_vae_learns_digits(tmp_path: Path) -> None:
    dprune("pack", "sklearn:digits", "--size", 8, "-o", tmp_path / "digits").ok()
    options = ("--preset", "tiny", "--steps", 120, "--lr", "2e-3", "--workers", 0, "--device", "cpu")
    dprune("train-baseline", "vae", tmp_path / "digits", *options, "-o", tmp_path / "run").ok()
    dprune("sample", tmp_path / "run", "--seeds", "0-99", "-o", tmp_path / "made", "--npz", tmp_path / "made.npz").ok()
    with np.load(tmp_path / "made.npz") as found:
        images, labels = found["arr_0"].mean(3) / 255 * 16, found["arr_1"]
    assert labels.tolist() == [seed % 10 for seed in range(100)]
    digits = load_digits()
    means = np.stack([digits.images[digits.target == label].mean(0) for label in range(10)])
    nearest = np.square(images[:, None] - means).sum((2, 3)).argmin(1)
    assert (nearest == labels).mean() > 0.8
    assert images[labels == 3].std(0).mean() > 0.5, "they are not one image"


@pytest.mark.parametrize("model", MODELS)
def test_run_folder(model: str, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(model, shards, run, "--evaluate-every", 2, "--save-every", 2).ok()
    assert [path.name for path in sorted((run / "pictures").iterdir())] == ["step-00000002.png", "step-00000003.png"]
    file, dataset = ModelFile.open(run), open_dataset([str(shards)])
    assert file.record is not None
    assert file.record["command"] == f"train-baseline {model}"
    assert file.record["fingerprint"] == dataset.fingerprint
    assert (file.record["options"]["samples"], file.record["options"]["of"]) == (len(dataset), len(dataset))
    assert {name: file.network[name] for name in ("kind", "model", "image_size", "width", "latent_size")} == {
        "kind": "baseline", "model": model, "image_size": 16, "width": 16, "latent_size": 8,
    }  # fmt: skip
    assert sum(file.network["class_counts"]) <= len(dataset)
    names = load_file(run / "model.safetensors")
    assert not any("discriminator" in name or "left" in name for name in names), "only what makes images is published"
    assert {name.split(".")[0] for name in names} >= ({"encoder", "generator"} if model == "vae" else {"blocks"})
    assert "up to date" in train(model, shards, run).ok().err
    train(model, shards, run, "--lr", 0.5).fails(3, "lr")
    train(model, shards, run, "--save-every", 2, steps=4).ok()
    assert (run / "model-step-00000003.safetensors").is_file()
    (found,) = json.loads(dprune("info", run / "model.safetensors", "--json").ok().out)["files"]
    assert sum(found["content"]["classes"].values()) == sum(file.network["class_counts"])
    assert f"by dprune train-baseline {model}" in dprune("status", run).ok().out.decode()


@pytest.mark.parametrize("model", MODELS)
def test_stopped_at_every_step_ends_the_same(model: str, shards: Path, tmp_path: Path) -> None:
    options = all_at_once(model)
    train(model, shards, tmp_path / "whole", *options, steps=4).ok()
    for _ in range(3):
        train(model, shards, tmp_path / "parts", *options, "--stop-after", "0s", steps=4).fails(75, "same command")
    train(model, shards, tmp_path / "parts", *options, steps=4).ok()
    for name in ("model", "state"):
        whole, parts = ((tmp_path / run / f"{name}.safetensors").read_bytes() for run in ("whole", "parts"))
        assert whole == parts, name
    assert [line["loss"] for line in losses(tmp_path / "parts")] == [
        line["loss"] for line in losses(tmp_path / "whole")
    ]


COMPARED = {"loss", "kl", "error", "grad_norm", "discriminator", "generator_grad_norm", "discriminator_grad_norm"}


def assert_same_curves(one: Path, other: Path, model: str) -> None:
    for a, b in zip(losses(one), losses(other), strict=True):
        compared = a.keys() & COMPARED
        assert len(compared) == 4
        for name in compared:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4), (model, name, a["step"])


@pytest.mark.parametrize("model", MODELS)
def test_micro_batches_change_nothing(model: str, shards: Path, tmp_path: Path) -> None:
    for name, size in (("whole", 6), ("cut", 4)):
        train(model, shards, tmp_path / name, *all_at_once(model), "--micro-batch", size).ok()
    assert_same_curves(tmp_path / "whole", tmp_path / "cut", model)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_ranks_change_nothing(model: str, shards: Path, tmp_path: Path) -> None:
    options = (*all_at_once(model), "--batch-size", 7)
    train(model, shards, tmp_path / "one", *options).ok()
    torchrun("train-baseline", model, shards, *SMALL, "--steps", 3, *options, "-o", tmp_path / "two").ok()
    assert_same_curves(tmp_path / "one", tmp_path / "two", model)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-2, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_subset(shards: Path, tmp_path: Path) -> None:
    ids, fingerprint = np.array([1, 8, 15]), open_dataset([str(shards)]).fingerprint
    write_array(tmp_path / "keep.npy", ids, make_record("select", {}, fingerprint=fingerprint))
    run = tmp_path / "run"
    told = train("gan", shards, run, "--subset", tmp_path / "keep.npy").ok().err
    assert "holds each of the 3 samples 2 times, each time with another noise" in " ".join(told.split())
    assert log(run)[0]["samples"] == 3
    record = ModelFile.open(run).record
    assert record is not None
    assert (record["options"]["samples"], record["options"]["of"]) == (3, len(open_dataset([str(shards)])))
    found = training_subset(record)
    assert found is not None
    assert found["digest"] == record["parents"]["subset"]["digest"]
    write_array(tmp_path / "other.npy", ids, make_record("select", {}, fingerprint="0" * 64))
    train("vae", shards, tmp_path / "x", "--subset", tmp_path / "other.npy").fails(3, "different datasets")
    np.save(tmp_path / "none.npy", np.array([], dtype=np.int64))
    train("vae", shards, tmp_path / "x", "--subset", tmp_path / "none.npy").fails(3, "no sample")


def test_labels_are_asked_for(tmp_path: Path) -> None:
    bare = write_tar(tmp_path / "bare.tar", [part for number in range(4) for part in sample(f"s{number}", number)])
    train("gan", bare, tmp_path / "run").fails(3, "no remaining sample has a label", "--unconditional")
    train("gan", bare, tmp_path / "run", "--unconditional").ok()
    assert ModelFile.open(tmp_path / "run").network["classes"] == 0
    dprune("sample", tmp_path / "run", "--seeds", "0-3", "-o", tmp_path / "made").ok()
    assert list(members(tmp_path / "made")) == [f"{seed:08d}.png" for seed in range(4)]
    dprune("sample", tmp_path / "run", "--seeds", 0, "--classes", 1, "-o", tmp_path / "x").fails(2, "without classes")
    some = [*sample("a", 1, 2), *sample("b", 2), *sample("c", 3, 0)]
    write_tar(tmp_path / "some.tar", some)
    told = " ".join(train("vae", tmp_path / "some.tar", tmp_path / "some").ok().err.split())
    assert "1 of the 3 samples have no label" in told
    assert "no sample of 1 of the 3 classes is left" in told
    assert ModelFile.open(tmp_path / "some").network["class_counts"] == [1, 0, 1]
    dprune("sample", tmp_path / "some", "--seeds", "0-3", "-o", tmp_path / "drawn").ok()
    labels = [content for name, content in members(tmp_path / "drawn").items() if name.endswith(".cls")]
    assert b"1" not in labels


def test_bad_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("good", 1, 0), ("bad.png", b"no image"), ("bad.cls", b"0")])
    told = train("vae", tmp_path / "a.tar", tmp_path / "run", steps=1).ok().err
    assert "bad cannot be decoded" in told
    train("vae", tmp_path / "a.tar", tmp_path / "x", "--strict").fails(3, "bad cannot be decoded", "--strict")
    write_tar(tmp_path / "b.tar", [("bad.png", b"no image"), ("bad.cls", b"0"), *sample("good", 1, 0)])
    train("vae", tmp_path / "b.tar", tmp_path / "y", steps=1).ok()
    assert ModelFile.open(tmp_path / "y").network["image_size"] == 16, "of the first that can be decoded"
    write_tar(tmp_path / "c.tar", [("bad.png", b"no image"), ("bad.cls", b"0")])
    train("vae", tmp_path / "c.tar", tmp_path / "z").fails(3, "holds no image that can be decoded: give other")


@pytest.mark.parametrize(("size", "side"), [((4, 4), None), ((12, 40), None), ((512, 300), None), ((20, 16), 16)])
def test_images_of_any_size_are_cropped_to_one_that_is_made(
    size: tuple[int, int], side: int | None, tmp_path: Path
) -> None:
    from conftest import image_bytes

    first = [("a.png", image_bytes(0, size)), ("a.cls", b"0")]
    write_tar(tmp_path / "a.tar", [*first, ("b.png", image_bytes(1, (9, 31))), ("b.cls", b"1")])
    if side is None:
        words = (f"the first image has {min(size)} pixels", "8, 16, 32, 64, 128 or 256", "--image-size")
        train("vae", tmp_path / "a.tar", tmp_path / "x").fails(2, *words)
        assert not (tmp_path / "x").exists()
    given = () if side else ("--image-size", 8)
    train("vae", tmp_path / "a.tar", tmp_path / "run", *given, steps=1).ok()
    assert ModelFile.open(tmp_path / "run").network["image_size"] == (side or 8)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("vae", ("--augment", "colour"), ["--augment", "a VAE", "leave it out"]),
        ("vae", ("--discriminator-rate", "2"), ["--discriminator-rate", "a VAE", "leave it out"]),
        ("gan", ("--kl-weight", "2"), ["--kl-weight", "a GAN", "leave it out"]),
        ("gan", ("--augment", "colour,rain"), ["'rain'", "cutout"]),
        ("gan", ("--width", "40"), ["--width 40", "multiple of 16"]),
        ("gan", ("--image-size", "24"), ["--image-size 24"]),
        ("gan", ("--image-size", "512"), ["--image-size 512"]),
        ("dit", (), ["'dit'", "gan"]),
    ],
)
def test_usage(model: str, options: tuple[str, ...], words: list[str], shards: Path, tmp_path: Path) -> None:
    train(model, shards, tmp_path / "run", *options).fails(2, *words)
    assert not (tmp_path / "run").exists()


def test_presets_are_those_of_the_help(shards: Path, tmp_path: Path) -> None:
    for preset in PRESETS:
        for model in MODELS:
            options = ("--preset", preset, "-o", tmp_path / "run", "--dry-run", "--json")
            plan = json.loads(dprune("train-baseline", model, shards, *options).ok().out)["provenance"]["options"]
            assert {name: plan[name] for name in ("width", "latent_size")} == PRESETS[preset]
            assert (plan["steps"], plan["batch_size"]) == (PLANS[preset]["steps"], PLANS[preset]["batch_size"])
            assert plan["lr"] == (VAE_PLAN["lr"] if model == "vae" else GAN_RATES[preset])
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    write_tar(folder / "a.tar", [part for row in range(12) for part in sample(f"s{row}", row, row % 4)])
    for model in MODELS:
        train(model, folder / "a.tar", folder / model, "--save-every", 2, "--ema", 0.5).ok()
    return {model: folder / model for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_an_image_depends_on_its_seed_alone(model: str, runs: dict[str, Path], tmp_path: Path) -> None:
    def drawn(name: str, *options: object) -> dict[str, bytes]:
        dprune("sample", runs[model], "-o", tmp_path / name, *options).ok()
        return members(tmp_path / name)

    many = drawn("many", "--seeds", "0-39", "--batch-size", 64, "--shard-size", 40, "--grid", tmp_path / "g.png")
    assert len({content for name, content in many.items() if name.endswith(".png")}) == 40
    for name, options in (("few", ("--seeds", "3,17-21", "--batch-size", 2)),
                          ("cut", ("--seeds", "0-39", "--batch-size", 16, "--shard-size", 7))):  # fmt: skip
        some = drawn(name, *options)
        assert_same_images(some, {key: many[key] for key in some})
    assert [many[f"{seed:08d}.cls"] for seed in range(5)] == [b"0", b"1", b"2", b"3", b"0"]
    listed = drawn("listed", "--seeds", "0-3", "--classes", "2,1")
    assert [listed[f"{seed:08d}.cls"] for seed in range(4)] == [b"2", b"1", b"2", b"1"]
    assert_same_images({"1.png": listed["00000001.png"]}, {"1.png": many["00000001.png"]})
    assert "up to date" in dprune("sample", runs[model], "-o", tmp_path / "few", "--seeds", "3,17-21").ok().err
    kept = runs[model] / "checkpoints" / "step-00000002.safetensors"
    dprune("sample", kept, "-o", tmp_path / "kept", "--seeds", "0-3").ok()
    assert members(tmp_path / "kept")["00000000.png"] != many["00000000.png"]


def test_workers_share_the_shards(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dprune("sample", runs["gan"], "-o", tmp_path / "one", "--seeds", "0-8", "--shard-size", 3).ok()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        dprune("sample", runs["gan"], "-o", tmp_path / "two", "--seeds", "0-8", "--shard-size", 3).ok()
    assert members(tmp_path / "two") == members(tmp_path / "one")


@pytest.mark.parametrize(
    "option",
    [("--vae", "x"), ("--cfg", "1"), ("--cfg-interval", "0,1"), ("--solver", "euler"), ("--steps", "60"),
     ("--quantize",), ("--no-quantize",), ("--parametrization", "velocity")],
    ids=" ".join,
)  # fmt: skip
def test_what_only_diffusion_models_have_is_refused(
    option: tuple[str, ...], runs: dict[str, Path], tmp_path: Path
) -> None:
    words = (f"{option[0]} is for diffusion models", "is a GAN, which makes images in one pass", "leave it out")
    dprune("sample", runs["gan"], "--seeds", 0, *option, "-o", tmp_path / "out").fails(2, *words)
    assert not (tmp_path / "out").exists()


def test_other_commands_name_what_they_want(runs: dict[str, Path], shards: Path, tmp_path: Path) -> None:
    model = runs["gan"] / "model.safetensors"
    dprune("encode", shards, "--vae", model, "-o", tmp_path / "l").fails(3, "kind baseline, not an autoencoder")
    dprune("sample", model, "--seeds", 0, "--classes", 9, "-o", tmp_path / "x").fails(2, "has classes 0 to 3")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model.read_bytes()[:-64])
    dprune("sample", damaged, "--seeds", 0, "-o", tmp_path / "x").fails(3, "damaged.safetensors")


def test_the_bound_is_that_of_its_definition() -> None:
    """Kingma and Welling (2014): a Gaussian likelihood of the pixels, and the divergence from a standard normal."""
    torch.manual_seed(0)
    vae, micro = PriorVAE(BaselineConfig("vae", 8, 16, 5, 2)), batch()
    loss, sums = BoundObjective(vae, 0.7, seed=0)(micro)
    mean, logvar = vae.encoder(micro.images, micro.labels)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(sums["kl"], divergence.sum().detach())
    numbers = 3 * 8 * 8
    # The error of what was made tells what was drawn; a likelihood of that mean square is Gaussian's.
    deviation = vae.log_deviation.exp()
    likelihood = sums["error"] / (2 * deviation**2) + 4 * (deviation.log() + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(loss, likelihood + 0.7 * divergence.sum() / numbers)
    loss.backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())


def test_each_network_of_a_gan_is_trained_by_its_own_objective() -> None:
    torch.manual_seed(0)
    config = BaselineConfig("gan", 8, 16, 5, 2)
    generator, discriminator = ImageGenerator(config), ProjectionDiscriminator(config)
    plain = Augmentation((), 0)
    for objective, own, other in (
        (GeneratorObjective(generator, discriminator, plain, 0), generator, discriminator),
        (JudgingObjective(discriminator, generator, plain, 0), discriminator, generator),
    ):
        loss, _ = objective(batch())
        loss.backward()
        assert set(objective.parameters()) == set(own.parameters())
        assert all(parameter.grad is not None for parameter in own.parameters())
        assert all(parameter.grad is None for parameter in other.parameters())
        own.zero_grad()


def test_a_generator_of_flat_images_still_learns() -> None:
    torch.manual_seed(0)
    config = BaselineConfig("gan", 8, 16, 5, 2)
    generator, weight = ImageGenerator(config), torch.randn(3, 8, 8)
    gradients = []
    for bias in (0.0, -20.0):
        generator.zero_grad()
        nn.init.constant_(generator.last.bias, bias)
        (generator(torch.randn(4, 5), torch.tensor([0, 1, 0, 1])) * weight).sum().backward()
        gradients.append(generator.last.weight.grad.norm())
    assert gradients[1] == pytest.approx(gradients[0], rel=0.5), "images are far below black"


def test_weights_are_divided_by_their_largest_singular_values() -> None:
    torch.manual_seed(0)
    discriminator = ProjectionDiscriminator(BaselineConfig("gan", 8, 16, 5, 2))
    for _ in range(60):
        discriminator.follow_weights()
    layers = [layer for layer in discriminator.modules() if isinstance(getattr(layer, "spectral", None), Spectral)]
    # Three convolutions in each block, but for the skip of equal channels; the last layer and the classes.
    assert len(layers) == 3 + 3 + 1 + 1
    for layer in layers:
        largest = torch.linalg.svdvals(layer.spectral(layer).detach().flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=0.02)


def test_augmentation_by_hand() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 16, 16) + 0.1

    def drawing(value: float) -> Any:
        return lambda purpose: torch.full((3,), value)

    assert torch.equal(translated(images, drawing(0.5)), images)
    moved = translated(images, drawing(0.99))
    assert torch.equal(moved[:, :, 2:, 2:], images[:, :, :-2, :-2])
    assert not moved[:, :, :2].any()
    cut = cut_out(images, drawing(0.5))
    assert (cut == 0).sum() == 3 * 3 * 8 * 8
    assert torch.equal(cut[:, :, :4], images[:, :, :4])
    assert (cut_out(images, drawing(0.001)) == 0).sum() == 3 * 3 * 4 * 4
    torch.testing.assert_close(coloured(images, drawing(0.5)), images)
    grey = coloured(images, drawing(1e-9))
    assert grey.std(1).max() < 1e-5
    assert grey.mean().item() == pytest.approx(images.mean().item() - 0.5, abs=1e-5)


def test_every_visit_and_role_is_changed_by_itself() -> None:
    images, ids = torch.ones(64, 3, 16, 16), torch.zeros(64, dtype=torch.int64)
    change, visits = Augmentation(("colour", "translation", "cutout"), 0), torch.arange(64)
    one, other = change(images, "images", ids, visits), change(images, "generator", ids, visits)
    assert len(one.flatten(1).unique(dim=0)) > 60
    assert not torch.equal(one, other)
    assert torch.equal(change(images[5:9], "images", ids[5:9], visits[5:9]), one[5:9])
    images.requires_grad_()
    Augmentation(("translation", "cutout"), 0)(images, "images", ids, visits).sum().backward()
    assert images.grad is not None
    assert set(images.grad.unique().tolist()) == {0, 1}, "what is cut out or moved away has no gradient"
