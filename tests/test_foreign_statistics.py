"""Reference statistics that other programs wrote, alone and beside images in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.linalg
from conftest import Result, dprune, image_bytes, write_tar
from PIL import Image

from dprune.measuring.side_paths import SidePath

PIXELS = ("--model", "pixels", "--image-size", 4, "--workers", 0)
WIDTH = 48
"""Dimensions of these features."""


def features(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) / width**0.5
    return (rng.normal(size=(count, width)) @ mixing + 0.3 * seed).astype(np.float32)


def moments(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"mu": x.mean(0, dtype=np.float64), "sigma": np.cov(x, rowvar=False)}


def evaluated(output: Path, *args: object) -> dict[str, Any]:
    dprune("eval", *args, "-o", output).ok()
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.fixture
def their_sqrtm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give SciPy back the argument that it had when the programs of others were written."""
    now = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda a, disp=True: now(a) if disp else (now(a), 0.0))


# Written by the code of others.


def by_pytorch_fid(folder: Path, y: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """Have `pytorch_fid --save-stats` write the statistics of y, and return its distance."""
    import pytorch_fid.fid_score as theirs

    class Network:
        BLOCK_INDEX_BY_DIM: ClassVar = {2048: 3}

        def __init__(self, blocks: list[int]) -> None:
            """Take nothing, for nothing is computed."""

        def to(self, device: str) -> Network:
            return self

    monkeypatch.setattr(theirs, "InceptionV3", Network)
    monkeypatch.setattr(theirs, "get_activations", lambda *args, **options: y)
    theirs.save_fid_stats([str(folder), str(folder / "theirs.npz")], 50, "cpu", 2048)
    return folder / "theirs.npz", theirs.calculate_frechet_distance


def by_clean_fid(folder: Path, y: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """Have `make_custom_stats` of clean-fid write the statistics of y, and return its distance."""
    from cleanfid import fid as theirs

    monkeypatch.setattr(theirs.cleanfid, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(theirs, "build_feature_extractor", lambda *args, **options: None)
    monkeypatch.setattr(theirs, "get_folder_features", lambda *args, **options: y)
    theirs.make_custom_stats("faces", str(folder), device="cpu")
    return folder / "stats" / "faces_clean_custom_na.npz", theirs.frechet_distance


@pytest.mark.usefixtures("their_sqrtm")
@pytest.mark.parametrize("program", [by_pytorch_fid, by_clean_fid])
def test_the_distance_to_statistics_of_others_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Any
) -> None:
    x, y = features(400, 1), features(500, 2)
    stats, distance = program(tmp_path, y, monkeypatch)
    np.save(tmp_path / "x.npy", x)
    ours = evaluated(tmp_path / "m.json", tmp_path / "x.npy", stats)
    mine = moments(x)
    with np.load(stats) as found:
        expected = distance(mine["mu"], mine["sigma"], found["mu"], found["sigma"])
    assert ours["metrics"]["frechet_distance"] == pytest.approx(float(expected), rel=1e-6)
    assert expected > 1


# What is to be said of them.


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    members = [(f"{number:02d}.png", image_bytes(number)) for number in range(30)]
    write_tar(tmp_path / "generated" / "0.tar", members)
    return tmp_path / "generated"


def save_stats(path: Path, count: int = 100, width: int = WIDTH, **more: np.ndarray) -> Path:
    np.savez(path, **moments(features(count, 3, width)), **more)
    return path


def said(*args: object, output: Path) -> str:
    return " ".join(dprune("eval", *args, "-o", output).ok().err.split())


def test_they_come_with_a_warning_that_network_and_resize_must_be_the_same(generated: Path, tmp_path: Path) -> None:
    stats = save_stats(tmp_path / "s.npz")
    told = said(generated, stats, *PIXELS, output=tmp_path / "m.json")
    assert "s.npz does not say which network and which resize made it: unless those were pixels, the distance" in told
    assert "guided-diffusion" not in told
    np.save(tmp_path / "x.npy", features(60, 4))
    assert "unless those were the ones of the other side" in said(tmp_path / "x.npy", stats, output=tmp_path / "n.json")
    ours = tmp_path / "ours.safetensors"
    told = said(generated, generated, *PIXELS, "--metrics", "fid", "--save-stats", ours, output=tmp_path / "o.json")
    assert "does not say" not in said(generated, ours, output=tmp_path / "p.json") + told


def test_those_of_guided_diffusion_are_told_by_what_only_it_writes(generated: Path, tmp_path: Path) -> None:
    stats = save_stats(tmp_path / "s.npz", mu_s=np.zeros(7), sigma_s=np.eye(7))
    assert "guided-diffusion's, which go with --resize tensorflow" in said(
        generated, stats, *PIXELS, output=tmp_path / "m.json"
    )


def refused(generated: object, stats: Path, *args: object) -> Result:
    return dprune("eval", generated, stats, *args, "-o", stats.with_suffix(".json"))


def test_statistics_of_another_network_are_one_sentence_before_any_work(generated: Path, tmp_path: Path) -> None:
    """None of these looks for weights, of which there are none here."""
    inception, dino = save_stats(tmp_path / "i.npz", width=2048), save_stats(tmp_path / "d.npz", width=768)
    refused(generated, inception, "--model", "dinov2-b").fails(
        3, "i.npz holds statistics of 2,048 dimensions", "gives 768",
        "--model inception"
    )  # fmt: skip
    refused(generated, dino).fails(3, "d.npz holds statistics of 768", "inception gives 2,048", "network that made")
    refused(generated, inception, *PIXELS).fails(3, "pixels gives 48")
    np.save(tmp_path / "x.npy", features(60, 4))
    refused(tmp_path / "x.npy", inception).fails(3, "x.npy has 48", "i.npz holds statistics of 2,048", "inception")
    assert not list((tmp_path).glob("*.json"))


def test_inception_is_what_images_get_beside_statistics(generated: Path, tmp_path: Path) -> None:
    stats = save_stats(tmp_path / "i.npz", width=2048)
    done = dprune(
        "eval", generated, stats, "--resize", "tensorflow", "--dry-run", "--json", "-o", tmp_path / "m.json"
    ).ok()
    assert "unless those were inception and the resize tensorflow" in " ".join(done.err.split())
    records = json.loads(done.out)["provenance"]["ancestors"].values()
    options = next(record["options"] for record in records if record["command"] == "embed")
    assert (options["model"], options["resize"]) == ("inception", "tensorflow")


# Statistics and images in one file.


def images(count: int = 30, seed: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 20, 3), dtype=np.uint8)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A reference batch as guided-diffusion has them: images, and statistics of more."""
    path = tmp_path / "VIRTUAL_labeled.npz"
    return save_stats(path, 200, arr_0=images(), mu_s=np.zeros(7), sigma_s=np.eye(7))


def test_a_reference_batch_is_its_statistics_for_the_frechet_distance(
    generated: Path, batch: Path, tmp_path: Path
) -> None:
    alone = save_stats(tmp_path / "alone.npz", 200)
    expected = evaluated(tmp_path / "a.json", generated, alone, *PIXELS)["metrics"]["frechet_distance"]
    for number, args in enumerate(((), ("--metrics", "fid"))):
        told = said(generated, batch, *PIXELS, *args, output=tmp_path / f"{number}.json")
        assert "its statistics are used; --metrics with more than fid uses its images" in told
        found = json.loads((tmp_path / f"{number}.json").read_text())
        assert found["metrics"]["frechet_distance"] == expected
        assert found["inputs"][1]["count"] is None


@pytest.mark.parametrize("args", [("--metrics", "fid,kid"), ("--metrics", "fid", "--save-stats", "{}/s.safetensors")])
def test_a_reference_batch_is_its_images_where_samples_are_needed(
    generated: Path, batch: Path, tmp_path: Path, args: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "images.npz", arr_0=images())
    given = [arg.format(tmp_path) for arg in args]
    told = said(generated, batch, *PIXELS, *given, output=tmp_path / "m.json")
    assert "its images are used, not its statistics" in told
    assert "does not say" not in told
    found = json.loads((tmp_path / "m.json").read_text())
    expected = evaluated(tmp_path / "n.json", generated, tmp_path / "images.npz", *PIXELS, "--metrics", "fid,kid")
    distances = [result["metrics"]["frechet_distance"] for result in (found, expected)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-12)
    assert found["inputs"][1]["count"] == 30


def test_a_generated_batch_is_its_images(generated: Path, batch: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path / "m.json", batch, generated, "--held-out", batch, *PIXELS, "--metrics", "fid,kid")
    assert [side["count"] for side in found["inputs"]] == [30, 30, 30]
    dprune("memorization", generated, batch, *PIXELS, "-o", tmp_path / "n.json").ok()
    assert json.loads((tmp_path / "n.json").read_text())["inputs"][1]["count"] == 30


def test_images_in_an_archive_are_those_of_the_same_files(tmp_path: Path) -> None:
    pixels = images(12, seed=9)
    np.savez(tmp_path / "samples.npz", pixels, np.arange(12) % 3)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number:02d}.png")
    dprune("memorization", tmp_path / "samples.npz", tmp_path / "photos", *PIXELS, "-o", tmp_path / "m.json").ok()
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]["zero_count"] == 12


def test_archives_without_either_are_one_sentence(generated: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "floats.npz", arr_0=np.random.default_rng(0).random((4, 8, 8, 3)))
    refused(generated, tmp_path / "floats.npz", *PIXELS).fails(3, "floats.npz", "float64", "uint8")
    np.savez(tmp_path / "feats.npz", feats=features(9, 1))
    refused(generated, tmp_path / "feats.npz", *PIXELS).fails(3, "feats.npz", "feats", "options of dprune pack")
    np.savez(tmp_path / "half.npz", mu=np.zeros(3))
    refused(generated, tmp_path / "half.npz", *PIXELS).fails(3, "half.npz", "mu")
    (tmp_path / "cut.npz").write_bytes(save_stats(tmp_path / "s.npz").read_bytes()[:3000])
    refused(generated, tmp_path / "cut.npz", *PIXELS).fails(3, "cut.npz", "is not a whole .npz archive")


def test_statistics_do_not_do_where_samples_are_needed(generated: Path, tmp_path: Path) -> None:
    stats = save_stats(tmp_path / "s.npz")
    words = "s.npz: holds statistics, which have no single samples"
    dprune("memorization", generated, stats, *PIXELS, "-o", tmp_path / "m.json").fails(3, words)
    dprune("eval", generated, generated, "--held-out", stats, *PIXELS, "-o", tmp_path / "m.json").fails(3, words)


def test_statistics_are_told_by_what_they_hold(batch: Path, tmp_path: Path) -> None:
    batch.rename(tmp_path / "plain.bin")
    side = SidePath.of(str(tmp_path / "plain.bin"))
    assert (side.holds, side.has_both) == ("statistics", True)
    assert not SidePath.of(str(save_stats(tmp_path / "s.npz"))).has_both
