"""`dprune train-vae` on a few small images: what is learnt, resuming, micro-batches, ranks, data that is bad."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, dprune, image_bytes, places_of, sample, torchrun, write_tar
from PIL import Image
from safetensors.torch import load_file

from dprune.formats.arrays import write_array
from dprune.formats.claims import claim_in, claimed
from dprune.formats.provenance import make_record
from dprune.formats.shards import open_dataset
from dprune.models.files import ModelFile, publish_model
from dprune.models.vae import load_vae
from dprune.runtime import Ranks, Silent
from dprune.training.images import TrainingImages
from dprune.training.run import Run
from dprune.training.vae.settings import PRESETS

CPU = torch.device("cpu")
SMALL = ("--preset", "tiny", "--image-size", "16", "--width", "8", "--codes", "16", "--batch-size", "6",
         "--workers", "0", "--log-every", "1", "--device", "cpu")  # fmt: skip
ALL_AT_ONCE = ("--gan-weight", "0.5", "--gan-start", "1", "--flip", "--steps", "4")


def train(shards: object, run: object, *args: object, steps: int = 3) -> Result:
    return dprune("train-vae", shards, *SMALL, *(() if "--steps" in args else ("--steps", steps)), "-o", run, *args)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[dict[str, float]]:
    return [line for line in log(run) if "loss" in line]


@pytest.mark.slow
def test_learns_digits(tmp_path: Path) -> None:
    dprune("pack", "sklearn:digits", "--size", 16, "-o", tmp_path / "digits").ok()
    run = tmp_path / "run"
    options = ("--preset", "tiny", "--image-size", 16, "--downsample", 4, "--width", 8, "--codes", 64, "--workers", 0)
    dprune("train-vae", tmp_path / "digits", *options, "--steps", 150, "--device", "cpu", "-o", run).ok()
    assert log(run)[-1]["train_psnr"] > 18
    assert log(run)[-1]["train_ssim"] > 0.75
    assert losses(run)[-1]["perplexity"] > 20
    assert losses(run)[-1]["codes_used"] > 0.7
    vae, _ = load_vae(run / "model.safetensors", CPU)
    assert len(vae.codes(torch.zeros(1, 3, 16, 16)).unique()) < 16


def test_run_folder(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(shards, run, "--held-out", shards / "000001.tar", "--evaluate-every", 2).ok()
    found = [line for line in log(run) if "held_out_psnr" in line]
    assert [line["step"] for line in found] == [2, 3]
    assert found[0]["held_out_ssim"] != found[1]["held_out_ssim"]
    pixels = np.asarray(Image.open(run / "pictures" / "step-00000003.png"))
    expected = TrainingImages(open_dataset([str(shards)]), np.arange(7, 12), 16, CPU, 0).load(np.arange(5))
    wanted = np.asarray(Image.fromarray(expected[1].permute(1, 2, 0).numpy()).resize((64, 64), 0))
    ((top, left),) = places_of(pixels, wanted)
    vae, file = load_vae(run / "model.safetensors", CPU)
    made = ((vae.reconstruct(expected / 127.5 - 1) + 1) * 127.5).round().clamp(0, 255)
    below = pixels[top + 68 : top + 132 : 4, left : left + 64 : 4].astype(float)
    np.testing.assert_allclose(below, made[1].permute(1, 2, 0), atol=1.01)
    assert file.record is not None
    assert file.record["fingerprint"] == open_dataset([str(shards)]).fingerprint
    assert file.record["options"]["codes"] == 16
    assert "kl_weight" not in file.record["options"]
    assert "up to date" in train(shards, run).ok().err
    train(shards, run, "--commitment", 0.5).fails(3, "commitment")


def test_the_log_counts_codes_that_images_take_not_those_that_were_revived(tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 150)).save(grey, "PNG")
    write_tar(tmp_path / "a.tar", [(f"s{number}.png", grey.getvalue()) for number in range(6)])
    run = tmp_path / "run"
    train(tmp_path / "a.tar", run, "--codes", 512, "--log-every", 2, "--stop-after", "0s", steps=4).fails(75)
    train(tmp_path / "a.tar", run, "--codes", 512, "--log-every", 2, steps=4).ok()
    whole = tmp_path / "whole"
    train(tmp_path / "a.tar", whole, "--codes", 512, "--log-every", 2, steps=4).ok()
    lines = losses(whole)
    # Latents of one colour are 16 to an image, and differ only by how near they are to its borders.
    assert all(line["codes_used"] <= 2 * 16 / 512 for line in lines)
    assert all(1 <= line["perplexity"] <= 16 for line in lines)
    assert [line["codes_revived"] for line in lines] == [512, 0]
    for name in ("codes_used", "perplexity", "codes_revived"):
        assert [line[name] for line in losses(run)] == [line[name] for line in lines]


def test_dry_run_resolves_the_preset(shards: Path, tmp_path: Path) -> None:
    plan = json.loads(
        dprune("train-vae", shards, "--width", 64, "-o", tmp_path / "run", "--dry-run", "--json").ok().out
    )
    options = plan["provenance"]["options"]
    base = PRESETS["base"]
    assert options["width"] == 64
    assert options["multipliers"] == [1, 2, 2, 4]
    assert (options["codes"], options["image_size"]) == (base["codes"], base["image_size"])
    assert not (tmp_path / "run").exists()


def test_stopped_at_every_step_ends_the_same(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path / "whole", *ALL_AT_ONCE).ok()
    for _ in range(3):
        train(shards, tmp_path / "parts", *ALL_AT_ONCE, "--stop-after", "0s").fails(75, "same command")
    train(shards, tmp_path / "parts", *ALL_AT_ONCE).ok()
    for name in ("model", "state"):
        whole, parts = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name
    assert whole["discriminator.scale"] > 0
    last = losses(tmp_path / "whole")
    assert "adversarial" not in last[0]
    assert last[3]["gan_scale"] > 0
    assert last[3]["discriminator"] > 0
    assert [line["loss"] for line in losses(tmp_path / "parts")] == [line["loss"] for line in last]


def test_a_state_that_calls_the_discriminator_a_critic_ends_the_same(shards: Path, tmp_path: Path) -> None:
    """States were saved so before; a line of the log is due after the stop, whose sums they hold."""
    options = (*ALL_AT_ONCE, "--log-every", 4)
    train(shards, tmp_path / "whole", *options).ok()
    for _ in range(3):
        train(shards, tmp_path / "former", *options, "--stop-after", "0s").fails(75, "same command")
    path = tmp_path / "former" / "state.safetensors"
    file = ModelFile.open(path)
    former = {re.sub(r"(^|^moments\.|^sum\.)discriminator\b", r"\1critic", name): value
              for name, value in file.state().items()}  # fmt: skip
    assert {"critic.scale", "moments.critic.layers.0.weight.exp_avg", "sum.critic"} <= former.keys()
    publish_model(path, former, file.network, file.record)
    assert "discriminator" not in " ".join(load_file(path))
    train(shards, tmp_path / "former", *options).ok()
    for name in ("model", "state"):
        whole, resumed = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "former"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name
    timed = {"img_per_s", "memory_gib", "mfu"}
    one, other = ({key: value for key, value in losses(tmp_path / run)[-1].items() if key not in timed}
                  for run in ("whole", "former"))  # fmt: skip
    assert one == other
    assert one["discriminator"] > 0


def test_damaged_files_of_a_run_are_made_again_or_named(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(shards, run, steps=2).ok()
    model, state = run / "model.safetensors", run / "state.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-100])
    train(shards, run, steps=2).ok()
    assert model.read_bytes() == whole
    model.unlink()
    state.write_bytes(state.read_bytes()[:-100])
    train(shards, run, steps=2).fails(3, "state.safetensors", "remove it to train from the beginning")


def test_overwriting_a_folder_spares_what_is_not_of_a_run(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    for name in ("notes.txt", "pictures/holiday.png", "pictures/step-00000009.png"):
        (run / name).write_text("x")
    train(shards, run, steps=1).fails(3, "--overwrite")
    train(shards, run, "--overwrite", steps=1).ok()
    assert (run / "pictures" / "holiday.png").exists()
    assert (run / "notes.txt").exists()
    assert not (run / "pictures" / "step-00000009.png").exists()


def test_leftovers_of_a_kill_are_removed(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path / "run", "--save-every", 1, steps=1).ok()
    names = (".state.safetensors.17-00c0ffee.tmp", "checkpoints/.step-00000001.safetensors.17-00c0ffee.tmp")
    left = [tmp_path / "run" / name for name in names]
    for path in left:
        path.write_bytes(b"x")
    assert "up to date" in train(shards, tmp_path / "run", steps=1).ok().err
    assert not any(path.exists() for path in left)


def test_one_process_at_a_time_trains_in_a_folder(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dprune.formats.claims.PATIENCE_S", 0)
    with claimed(claim_in(tmp_path / "run", Ranks()), "run", Silent()):
        train(shards, tmp_path / "run", steps=1).fails(1, "another process is making it", "another -o")
    train(shards, tmp_path / "run", steps=1).ok()
    (tmp_path / "file").touch()
    train(shards, tmp_path / "file" / "run", steps=1).fails(1, "cannot write", "give another -o")
    train(shards, "-", steps=1).fails(2, "--output -", "is a folder")


def test_the_log_is_json_whatever_the_numbers(tmp_path: Path) -> None:
    Run(tmp_path).log({"step": 1, "grad_norm": float("inf"), "loss": 0.5})
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail) == {
        "step": 1, "grad_norm": None, "loss": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_micro_batches_change_nothing(kind: str, shards: Path, tmp_path: Path) -> None:
    own = () if kind == "vq" else ("--kind", "kl", "--kl-weight", "0.01")
    small = [value for value in SMALL if kind == "vq" or value not in ("--codes", "16")]
    small = small if kind == "vq" else [*small[:2], "--image-size", "16", *small[3:]]
    for name, size in (("whole", "6"), ("cut", "2")):
        options = ("--micro-batch", size, "-o", tmp_path / name)
        dprune("train-vae", shards, *small, *own, *ALL_AT_ONCE, *options).ok()
    assert_same_curves(tmp_path / "whole", tmp_path / "cut")
    if kind == "kl":
        assert losses(tmp_path / "cut")[0]["kl"] > 0


COMPARED = {
    "loss",
    "grad_norm",
    "perplexity",
    "codes_used",
    "codes_revived",
    "gan_scale",
    "discriminator",
    "kl",
    "adversarial",
}


def assert_same_curves(one: Path, other: Path) -> None:
    for a, b in zip(losses(one), losses(other), strict=True):
        for name in a.keys() & COMPARED:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), (name, a["step"])


def test_each_copy_of_an_image_in_a_batch_is_mirrored_by_itself(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dprune.training.vae import loss

    seen, to_unit = [], loss.to_unit
    monkeypatch.setattr(loss, "to_unit", lambda pixels: seen.append(pixels) or to_unit(pixels))
    np.save(tmp_path / "keep.npy", [4])
    done = train(shards, tmp_path / "run", "--subset", tmp_path / "keep.npy", "--flip", steps=4).ok()
    said = "a batch of 6 holds each of the 1 samples 6 times, each time mirrored at random."
    assert said in " ".join(done.err.split())
    assert [line["distinct"] for line in losses(tmp_path / "run")] == [1] * 4
    mirrored = [(pixels == pixels[:1].flip(3)).flatten(1).all(1) for pixels in seen]
    assert any(0 < found.sum() < 6 for found in mirrored)
    plain = train(shards, tmp_path / "plain", "--subset", tmp_path / "keep.npy").ok()
    assert "6 times, each time alike." in " ".join(plain.err.split())


@pytest.mark.slow
def test_ranks_change_nothing(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path / "one", *ALL_AT_ONCE, "--batch-size", 7).ok()
    torchrun("train-vae", shards, *SMALL, *ALL_AT_ONCE, "--batch-size", 7, "-o", tmp_path / "two").ok()
    assert_same_curves(tmp_path / "one", tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_adversarial_gradient_is_that_of_the_sum() -> None:
    from dprune.models.discriminator import PatchGAN, generator_loss
    from dprune.models.vae import VAE, VAEConfig
    from dprune.training.vae.loss import AutoencoderObjective, ImageBatch, to_unit
    from dprune.training.vae.settings import VAEOptions

    settings = VAEOptions(preset="tiny", loss="l1", gan_weight=0.7).resolve()
    torch.manual_seed(0)
    vae, discriminator = VAE(VAEConfig("vq", 32, 8, (1, 2, 2), 1, 3, 20, False)), PatchGAN(32)
    discriminator.scale.fill_(2.0)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    micro = ImageBatch(torch.arange(2), torch.zeros(2, dtype=torch.int64), pixels, judged=True)
    loss, sums = AutoencoderObjective(vae, settings, 0, None, discriminator)(micro)
    loss.backward()
    assert all(p.grad is None for p in discriminator.parameters())
    found = vae.quantizer(vae.encode(to_unit(micro.pixels)))
    made = vae.decode(found.latents)
    plain = (made - to_unit(micro.pixels)).abs().flatten(1).mean(1).sum()
    against = generator_loss(discriminator(made)).sum()
    total = plain + 0.7 * 2 * against + (found.codebook + 0.25 * found.commitment).sum()
    torch.testing.assert_close(sums["loss"], total.detach())
    expected = torch.autograd.grad(total, list(vae.parameters()), retain_graph=True)
    for (name, parameter), gradient in zip(vae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert micro.pulls is not None
    for pull, own in zip(micro.pulls, (plain, against), strict=True):
        torch.testing.assert_close(pull, torch.autograd.grad(own, vae.last_weight, retain_graph=True)[0])


def test_gaussian_latents_are_drawn_and_diverge_as_defined() -> None:
    """Kingma and Welling (2014): mean + deviation * noise, and the divergence from a standard normal per pixel."""
    from dprune.training.vae.loss import AutoencoderObjective, ImageBatch
    from dprune.training.vae.settings import VAEOptions

    decoded = []
    settings = VAEOptions(preset="tiny", kind="kl", kl_weight=0.3).resolve()

    class Network(torch.nn.Module):
        config = settings.config

        def moments(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((len(images), 4, 8, 8), 2.0), torch.full((len(images), 4, 8, 8), 0.25).log()

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            decoded.append(latents)
            return torch.zeros(len(latents), 3, 16, 16)

    visits = torch.arange(2).repeat_interleave(8)
    micro = ImageBatch(torch.arange(16) % 8, visits, torch.full((16, 3, 16, 16), 255, dtype=torch.uint8))
    loss, sums = AutoencoderObjective(Network(), settings, 0, None, None)(micro)
    (latents,) = decoded
    assert len(latents.flatten(1).unique(dim=0)) == 16
    assert latents.mean().item() == pytest.approx(2, abs=0.03)
    assert latents.std().item() == pytest.approx(0.5, abs=0.02)
    divergence = 0.5 * (4 + 0.25 - 1 - np.log(0.25)) * 4 * 8 * 8
    assert sums["kl"].item() == pytest.approx(16 * divergence, rel=1e-5)
    # White images against grey ones are off by one everywhere.
    assert loss.item() == pytest.approx(16 * (1 + 0.3 * divergence / (3 * 16 * 16)), rel=1e-5)


def test_subset(shards: Path, tmp_path: Path) -> None:
    ids = np.array([1, 8, 15])
    write_array(
        tmp_path / "keep.npy", ids, make_record("select", {}, fingerprint=open_dataset([str(shards)]).fingerprint)
    )
    run = tmp_path / "run"
    train(shards, run, "--subset", tmp_path / "keep.npy").ok()
    assert log(run)[0]["samples"] == 3
    assert losses(run)[-1]["epoch"] == 6
    members = [part for number, i in enumerate(ids) for part in sample(f"t{number}", int(i))]
    write_tar(tmp_path / "only" / "a.tar", members)
    train(tmp_path / "only", tmp_path / "same").ok()
    assert [line["loss"] for line in losses(tmp_path / "same")] == [line["loss"] for line in losses(run)]
    record = load_vae(run / "model.safetensors", CPU)[1].record
    assert record is not None
    assert set(record["parents"]) == {"shards", "subset"}
    write_array(tmp_path / "other.npy", ids, make_record("select", {}, fingerprint="0" * 64))
    train(shards, tmp_path / "x", "--subset", tmp_path / "other.npy").fails(3, "different datasets")
    np.save(tmp_path / "far.npy", [18])
    train(shards, tmp_path / "x", "--subset", tmp_path / "far.npy").fails(3, "holds the id 18")
    np.save(tmp_path / "none.npy", np.array([], dtype=np.int64))
    train(shards, tmp_path / "x", "--subset", tmp_path / "none.npy").fails(3, "no sample")


def test_bad_images_are_stood_in_for(shards: Path, tmp_path: Path) -> None:
    members = [*sample("good", 1), ("bad.png", b"no image"), *sample("next", 2)]
    write_tar(tmp_path / "a.tar", members)
    images = TrainingImages(open_dataset([str(tmp_path / "a.tar")]), np.arange(3), 16, CPU, 0)
    loaded = images.load(np.array([1, 2, 0]))
    assert torch.equal(loaded[0], loaded[1])
    assert not torch.equal(loaded[0], loaded[2])
    told = train(tmp_path / "a.tar", tmp_path / "run", steps=1).ok().err
    assert told.count("warning: ") == 1
    assert "bad cannot be decoded" in told
    train(tmp_path / "a.tar", tmp_path / "x", "--strict").fails(3, "bad cannot be decoded", "--strict")
    write_tar(tmp_path / "b.tar", [("bad.png", b"no image"), ("worse.png", b"nor this")])
    train(tmp_path / "b.tar", tmp_path / "x").fails(3, "b.tar", "2 images in a row", "make the shards again")


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_what_it_could_hold(shards: Path, workers: int) -> None:
    dataset, ids = open_dataset([str(shards)]), np.array([0, 3, 6, 7, 9, 12, 17])
    held = TrainingImages(dataset, ids, 16, CPU, 0)
    streamed = TrainingImages(dataset, ids, 16, CPU, workers, held_bytes=0)
    assert held.held is not None
    assert streamed.held is None
    draw = np.random.default_rng(0)
    steps = [[draw.integers(0, 7, 20), draw.integers(0, 7, 3)] for _ in range(5)]
    for a, b, wanted in zip(held.batches(iter(steps)), streamed.batches(iter(steps)), steps, strict=True):
        assert [len(pixels) for pixels in a] == [len(part) for part in wanted]
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    expected = Image.open(io.BytesIO(image_bytes(9))).crop((2, 0, 18, 16))
    np.testing.assert_array_equal(held.load(np.array([4]))[0].permute(1, 2, 0), np.asarray(expected))
    endless = streamed.batches([np.arange(3)] for _ in iter(int, 1))
    assert len(next(endless)[0]) == 3
    endless.close()


def test_perceptual_terms(shards: Path, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / "r.pt")
    options = ("--perceptual", "timm:resnet10t", "--perceptual-weights", tmp_path / "r.pt")
    train(shards, tmp_path / "run", *options, "--perceptual-weight", 2, steps=1).ok()
    line = losses(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(
        line["reconstruction"] + 2 * line["perceptual"] + 1.25 * line["commitment"], rel=1e-5
    )
    assert log(tmp_path / "run")[-1]["train_perceptual"] > 0
    record = load_vae(tmp_path / "run" / "model.safetensors", CPU)[1].record
    assert record is not None
    assert len(record["options"]["perceptual_weights"]) == 64
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "w.pt")
    train(shards, tmp_path / "x", *options[:3], tmp_path / "w.pt").fails(3, "w.pt", "resnet10t")
    train(shards, tmp_path / "x", "--lpips-weights", tmp_path / "w.pt").fails(3, "lin0.model.1.weight is missing")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--perceptual", "lpips"), 2, ["--lpips-weights"]),
        (("--perceptual", "timm:resnet10t"), 2, ["--perceptual-weights", "never downloaded"]),
        (("--perceptual", "vgg"), 2, ["--perceptual vgg", "timm:NAME"]),
        (("--perceptual-weights", "x.pt"), 2, ["--perceptual-weights", "does nothing"]),
        (("--perceptual-weight", "2"), 2, ["--perceptual-weight", "does nothing"]),
        (("--lpips-weights", "missing.pt"), 3, ["--lpips-weights missing.pt"]),
        (("--gan-start", "5"), 2, ["--gan-start", "--gan-weight"]),
        (("--kind", "kl"), 2, ["--codes", "--kind kl"]),
        (("--kl-weight", "1"), 2, ["--kl-weight", "--kind vq"]),
        (("--multipliers", "1,2"), 2, ["--multipliers"]),
        (("--multipliers", "1,x,2"), 2, ["--multipliers"]),
        (("--multipliers", "1,2,2", "--downsample", "8"), 2, ["--multipliers", "--downsample 4"]),
        (("--image-size", "18"), 2, ["--image-size 18"]),
        (("--image-size", "8"), 2, ["--image-size 8"]),
        (("--width", "42"), 2, ["--width 42"]),
        (("--codes", "100000"), 2, ["--codes 100000", "65,536"]),
        (("--steps", "5", "--epochs", "2"), 2, ["--steps", "--epochs"]),
    ],
)
def test_usage(options: tuple[str, ...], code: int, words: list[str], shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path / "run", *options).fails(code, *words)
    assert not (tmp_path / "run").exists()
