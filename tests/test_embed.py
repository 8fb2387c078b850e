"""`dprune embed` on shards good and bad, alone and shared; networks with weights are in test_backbones.py."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, dprune, dprune_process, image_bytes, sample, warm_python, write_tar
from PIL import Image
from safetensors.numpy import load_file

from dprune.errors import InputError
from dprune.formats.features import open_features
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store
from dprune.formats.temporary import temporary
from dprune.formats.tensors import read_metadata, write_tensors

PIXELS = ("--model", "pixels", "--image-size", "8", "--workers", "0")


def embed(shards: object, store: object, *args: object) -> Result:
    return dprune("embed", shards, *PIXELS, "-o", store, *args)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def squashed(data: bytes, mode: str = "RGB") -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC).convert(mode)
    return np.asarray(image, dtype=np.float32).reshape(8, 8, -1).transpose(2, 0, 1).ravel() / 255


def test_pixels(shards: Path, tmp_path: Path) -> None:
    result = embed(shards, tmp_path / "f", "--json", "--batch-size", "3").ok()
    assert json.loads(result.out) == {"output": str(tmp_path / "f"), "up_to_date": False, "images": 18,
                                      "undecodable": 0, "shards": 3, "shards_made": 3}  # fmt: skip
    features = open_features(tmp_path / "f")
    expected = np.stack([squashed(image_bytes(i)) for i in range(18)])
    np.testing.assert_array_equal(features.rows(0, 18), expected.astype(np.float16).astype(np.float32))
    assert features.dtype == np.float16
    for begin, end in ((0, 0), (0, 7), (5, 13), (7, 12), (12, 18), (17, 18)):
        part = np.empty((end - begin, features.shape[1]), dtype=np.float16)
        features.fill(part, begin, end)
        np.testing.assert_array_equal(part, expected[begin:end].astype(np.float16))
    labels = features.labels()
    assert labels is not None
    assert labels.tolist() == [i % 3 for i in range(18)]
    assert features.fingerprint == open_dataset([str(shards)]).fingerprint
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["provenance"]["options"] == {
        "model": "pixels", "image_size": 8, "color": "rgb", "normalize": False, "dtype": "float16",
        "precision": "float32",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(manifest)


def test_grey_unit_length_float32(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f", "--color", "grey", "--normalize", "--dtype", "float32").ok()
    part = load_file(tmp_path / "f" / "000000.safetensors")
    assert part["features"].dtype == np.float32
    grey = squashed(image_bytes(0), "L")
    np.testing.assert_allclose(part["features"][0], grey / np.linalg.norm(grey), atol=1e-6)


def test_samples_without_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("x", 1), *sample("y", 2, 5)])
    embed(tmp_path / "a.tar", tmp_path / "f").ok()
    assert load_file(tmp_path / "f" / "a.safetensors")["label"].tolist() == [-1, 5]
    labels = open_features(tmp_path / "f").labels()
    assert labels is not None
    assert labels.tolist() == [-1, 5]
    write_tar(tmp_path / "b.tar", [*sample("x", 1), *sample("y", 2)])
    embed(tmp_path / "b.tar", tmp_path / "g").ok()
    assert open_features(tmp_path / "g").labels() is None, "no label at all"


def test_up_to_date_without_torch(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    before = content(tmp_path / "f")
    code = (
        "import sys\nfrom dprune.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'timm', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "embed", str(shards), *PIXELS, "-o", str(tmp_path / "f")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is up to date" in done.stderr
    assert done.stdout.strip() == "[]"
    assert content(tmp_path / "f") == before


def test_dry_run_touches_nothing(shards: Path, tmp_path: Path) -> None:
    plan = json.loads(embed(shards, tmp_path / "f", "--dry-run", "--json").ok().out)
    assert plan["provenance"]["options"]["model"] == "pixels"
    assert not (tmp_path / "f").exists()


def test_other_options_need_overwrite(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f", "--pca", 4).ok()
    embed(shards, tmp_path / "f", "--pca", 5).fails(3, "options pca: 4, not 5", "--overwrite")
    embed(shards, tmp_path / "f", "--color", "grey", "--overwrite").ok()
    embed(shards, tmp_path / "g", "--color", "grey").ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")


def test_fewer_shards_need_overwrite(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    (shards / "000002.tar").unlink()
    embed(shards, tmp_path / "f").fails(3, "made differently")
    embed(shards, tmp_path / "f", "--overwrite").ok()
    assert sorted(content(tmp_path / "f")) == ["000000.safetensors", "000001.safetensors", "manifest.json"]
    assert open_features(tmp_path / "f").fingerprint == open_dataset([str(shards)]).fingerprint


def test_what_is_no_store_is_not_overwritten(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    embed(shards, tmp_path / "mine").fails(3, "no provenance", "--overwrite")
    manifest = {"kind": "shards", "provenance": {"command": "pack", "options": {}}}
    manifest["shards"] = [{"name": "000000.tar", "count": 7, "digest": ""}]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    embed(shards, shards, "--overwrite").fails(3, "is a folder of shards", "-o")
    assert json.loads((shards / "manifest.json").read_text()) == manifest


def test_resumes_by_shard(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    whole = content(tmp_path / "f")
    (tmp_path / "f" / "000001.safetensors").unlink()
    kept = (tmp_path / "f" / "000000.safetensors").stat().st_mtime_ns
    summary = json.loads(embed(shards, tmp_path / "f", "--json").ok().out)
    assert summary["shards_made"] == 1
    assert content(tmp_path / "f") == whole
    assert (tmp_path / "f" / "000000.safetensors").stat().st_mtime_ns == kept


def test_changed_shards_are_made_again(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    before = content(tmp_path / "f")
    write_tar(shards / "000001.tar", sample("new", 99, 2))
    embed(shards, tmp_path / "f").fails(3, "made differently", "members of 000001.tar", "--overwrite")
    assert content(tmp_path / "f") == before
    assert json.loads(embed(shards, tmp_path / "f", "--json", "--overwrite").ok().out)["shards_made"] == 1
    np.testing.assert_allclose(open_features(tmp_path / "f").rows(7, 8)[0], squashed(image_bytes(99)), atol=1e-3)
    assert open_features(tmp_path / "f").fingerprint == open_dataset([str(shards)]).fingerprint


def test_another_dataset_with_shards_of_the_same_names(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_tar(tmp_path / name / "000000.tar", sample(f"x{number}", number))
    embed(tmp_path / "a", tmp_path / "f").ok()
    embed(tmp_path / "b", tmp_path / "f").fails(3, "made differently", "members of 000000.tar", "--overwrite")
    assert "is up to date" in embed(tmp_path / "a", tmp_path / "f").ok().err
    embed(tmp_path / "b", tmp_path / "f", "--overwrite").ok()
    np.testing.assert_allclose(open_features(tmp_path / "f").rows(0, 1)[0], squashed(image_bytes(1)), atol=1e-3)


def test_each_worker_knows_its_own_shards(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker walks no shard of another's to find out whether the store is its dataset's."""
    embed(shards, tmp_path / "f").ok()
    write_tar(shards / "000001.tar", sample("new", 99, 2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "is up to date" in embed(shards, tmp_path / "f").ok().err
    monkeypatch.setenv("RANK", "1")
    embed(shards, tmp_path / "f").fails(3, "members of 000001.tar")


def test_stopping_keeps_finished_parts(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f", "--stop-after", "0s").fails(75, "run the same command again")
    assert sorted(content(tmp_path / "f")) == ["manifest.json"]
    embed(shards, tmp_path / "f").ok()
    embed(shards, tmp_path / "g").ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_the_whole_group(number: signal.Signals, tmp_path: Path) -> None:
    """Batch systems signal every process of a job, decoding workers too."""
    many_shards(tmp_path / "shards", shards=40, images=50)
    command = start(tmp_path / "shards", tmp_path / "f", "--workers", "2")
    wait_for(lambda: len(list((tmp_path / "f").glob("0*.safetensors"))) > 0)
    os.killpg(command.pid, number)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 75, said
    assert "Traceback" not in said
    assert 0 < len(list((tmp_path / "f").glob("0*.safetensors"))) < 40
    embed(tmp_path / "shards", tmp_path / "f").ok()
    embed(tmp_path / "shards", tmp_path / "g").ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    many_shards(tmp_path / "shards", shards=30, images=40)
    embed(tmp_path / "shards", tmp_path / "whole", "--pca", 8).ok()
    moments = random.Random(7)
    for parts in (0, 5, 17):
        command = start(tmp_path / "shards", tmp_path / "f", "--pca", "8", "--workers", "2")
        wait_for(lambda: len(list(tmp_path.glob("f/0*.safetensors"))) >= parts)  # noqa: B023
        time.sleep(moments.uniform(0, 3 if parts == 0 else 0.1))
        os.killpg(command.pid, signal.SIGKILL)
        command.communicate()
    embed(tmp_path / "shards", tmp_path / "f", "--pca", 8).ok()
    assert content(tmp_path / "f") == content(tmp_path / "whole")


def many_shards(folder: Path, shards: int, images: int) -> None:
    pictures = [image_bytes(seed, (160, 120), "jpg") for seed in range(images)]
    for number in range(shards):
        write_tar(folder / f"{number:06d}.tar", [(f"{number}-{i}.jpg", data) for i, data in enumerate(pictures)])


def start(shards: Path, store: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dprune", "embed", str(shards), *PIXELS, "-o", str(store), *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(happened: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_leftovers_of_killed_runs_go(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    whole = content(tmp_path / "f")
    for name in (".000001.safetensors.3-00c0ffee.tmp", ".manifest.json.5-0badcafe.tmp", ".claim.0-of-1.tmp"):
        (tmp_path / "f" / name).write_bytes(b"half")
    embed(shards, tmp_path / "f").ok()
    assert content(tmp_path / "f") == whole


def test_temporary_files_of_other_workers_stay(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "f").mkdir()
    with temporary(tmp_path / "f" / "000001.safetensors") as busy:
        embed(shards, tmp_path / "f").ok()
        assert Path(busy.name).exists()
    assert not (tmp_path / "f" / "000001.safetensors").exists()


def test_two_tasks_make_the_store_of_one(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--pca", 5)
    embed(shards, tmp_path / "one", *options).ok()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, made in (("1", 1), ("0", 2), ("0", 0)):
        monkeypatch.setenv("RANK", rank)
        summary = json.loads(embed(shards, tmp_path / "two", *options, "--json").ok().out)
        assert summary["shards_made"] == made
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_more_tasks_than_shards(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "9")
    monkeypatch.setenv("RANK", "8")
    assert json.loads(embed(shards, tmp_path / "f", "--json").ok().out)["images"] == 0


def test_several_tasks_of_a_step_without_rank(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    embed(shards, tmp_path / "f").fails(2, "RANK=$SLURM_PROCID")


def test_pca_is_that_of_scikit_learn(shards: Path, tmp_path: Path) -> None:
    from sklearn.decomposition import PCA

    embed(shards, tmp_path / "f", "--pca", 6, "--dtype", "float32").ok()
    pixels = np.stack([squashed(image_bytes(i)) for i in range(18)])
    expected = PCA(6, svd_solver="full").fit_transform(pixels.astype(np.float64))
    features = open_features(tmp_path / "f").rows(0, 18)
    np.testing.assert_allclose(np.abs(features), np.abs(expected), atol=1e-5)
    components = load_file(tmp_path / "f" / "pca.safetensors")["components"]
    assert (components[np.arange(6), np.abs(components).argmax(1)] > 0).all()


def test_rounding_is_no_direction_to_vary_in() -> None:
    from dprune.embedding.pixels import fit_pca

    draw = np.random.default_rng(0)
    for count in (40, 8):
        flat = (draw.normal(size=(count, 3)) @ draw.normal(size=(3, 12))).astype(np.float32)
        assert fit_pca(flat, 3)[1].shape == (3, 12)
        with pytest.raises(InputError, match="vary in 3 directions"):
            fit_pca(flat, 4)


def test_pca_depends_on_the_whole_dataset(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f", "--pca", 6).ok()
    write_tar(shards / "000001.tar", sample("new", 99, 2))
    embed(shards, tmp_path / "f", "--pca", 6).fails(3, "fingerprint")
    embed(shards, tmp_path / "f", "--pca", 6, "--overwrite").ok()
    embed(shards, tmp_path / "g", "--pca", 6).ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")


def test_pca_of_the_first_worker_wins(shards: Path, tmp_path: Path) -> None:
    """A worker that was slower must project with what the first has published."""
    embed(shards, tmp_path / "f", "--pca", 2, "--dtype", "float32").ok()
    path = tmp_path / "f" / "pca.safetensors"
    fixed = {"mean": np.zeros(192, np.float32), "components": np.eye(2, 192, dtype=np.float32)}
    write_tensors(path, fixed, read_metadata(path) or {})
    (tmp_path / "f" / "000000.safetensors").unlink()
    embed(shards, tmp_path / "f", "--pca", 2, "--dtype", "float32").ok()
    np.testing.assert_array_equal(open_features(tmp_path / "f").rows(0, 1)[0], squashed(image_bytes(0))[:2])


def test_pca_is_published_once(tmp_path: Path) -> None:
    from dprune.embedding.pixels import publish_pca, read_pca

    path = tmp_path / "pca.safetensors"
    for number in range(3):
        mean = np.full(4, number, np.float32)
        publish_pca(path, "these options", (mean, np.zeros((2, 4), np.float32)))
        found = read_pca(path, "these options")
        assert found is not None
        assert found[0][0] == 0
    assert read_pca(path, "others") is None
    assert [path.name for path in tmp_path.iterdir()] == ["pca.safetensors"]


def test_pca_of_too_many_components(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f", "--pca", 18).fails(3, "18 images", "17 directions")
    assert not (tmp_path / "f").exists()
    embed(shards, tmp_path / "f", "--pca", 193).fails(2, "only 192 values")
    embed(shards, tmp_path / "f", "--image-size", 100, "--pca", 3).fails(2, "smaller --image-size")


def blank(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "junk": (b"no image at all", "cannot be decoded"),
    "cut": (image_bytes(3, (64, 64), "jpg")[:700], "cannot be decoded"),
    "bomb": (blank(14_000, 14_000), "too many pixels"),
    "thread": (blank(1, 2_000_000), "too long and thin"),
    "empty": (b"", "cannot be decoded"),
}


def test_undecodable_images(tmp_path: Path) -> None:
    members = [*sample("a", 1, 4), *((f"{key}.png", data) for key, (data, _) in BAD.items()), *sample("z", 2, 4)]
    write_tar(tmp_path / "a.tar", members)
    result = embed(tmp_path / "a.tar", tmp_path / "f").ok()
    assert "warning: 5 images could not be decoded (first: junk in a.tar" in result.err
    bad = Store.open(tmp_path / "f", "features").parts[0]["bad"]
    assert [(entry["row"], entry["key"]) for entry in bad] == list(enumerate(BAD, 1))
    for entry in bad:
        assert BAD[entry["key"]][1] in entry["reason"]
    features = open_features(tmp_path / "f").rows(0, 7)
    assert np.isnan(features).all(1).tolist() == [False, *[True] * 5, False]
    np.testing.assert_allclose(features[6], squashed(image_bytes(2)), atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
def test_thin_images_are_refused_before_they_grow(size: tuple[int, int], tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The guard is the one that pack has."""
    from dprune.formats.images import check_shape

    asked = []

    def spy(target: tuple[int, int]) -> None:
        asked.append(target)
        check_shape(target)

    monkeypatch.setattr("dprune.decoding.check_shape", spy)
    write_tar(tmp_path / "a.tar", [("thin.png", blank(*size))])
    embed(tmp_path / "a.tar", tmp_path / "f", "--image-size", "16").ok()
    embed(tmp_path / "a.tar", tmp_path / "g", "--image-size", "8").ok()
    assert asked == [tuple(16 * side for side in size), tuple(8 * side for side in size)]
    assert "too long and thin" in Store.open(tmp_path / "f", "features").parts[0]["bad"][0]["reason"]
    assert Store.open(tmp_path / "g", "features").parts[0]["bad"] == []


def test_strict(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("a", 1), ("b.png", b"junk")])
    embed(tmp_path / "a.tar", tmp_path / "f", "--strict").fails(3, "a.tar: b ", "--strict")
    embed(tmp_path / "a.tar", tmp_path / "f").ok()
    embed(tmp_path / "a.tar", tmp_path / "f", "--strict").fails(3, "a.tar: b ", "--strict")


def test_pca_leaves_undecodable_images_out(tmp_path: Path) -> None:
    good = [part for i in range(9) for part in sample(f"s{i}", i)]
    write_tar(tmp_path / "good.tar", good)
    write_tar(tmp_path / "bad.tar", [*good, ("x.png", b"junk")])
    for name in ("good", "bad"):
        embed(tmp_path / f"{name}.tar", tmp_path / name, "--pca", 3).ok()
    pca = [load_file(tmp_path / name / "pca.safetensors")["components"] for name in ("good", "bad")]
    np.testing.assert_array_equal(*pca)


def test_damaged_shards(shards: Path, tmp_path: Path) -> None:
    path = shards / "000001.tar"
    whole = path.read_bytes()
    for data, word in ((whole[:3000], "without a tar end marker"), (whole[:2048], "without a tar end marker"),
                       (b"x" * 2000, "is not a tar file")):  # fmt: skip
        path.write_bytes(data)
        embed(shards, tmp_path / "f").fails(3, "000001.tar", word)
    assert not (tmp_path / "f").exists()


def test_repeated_and_scattered_keys(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*sample("x", 1), *sample("y", 2), *sample("x", 3)])
    embed(tmp_path / "a.tar", tmp_path / "f").fails(3, "'x' are not adjacent, or the key occurs twice")


def test_unicode_and_long_keys(tmp_path: Path) -> None:
    keys = ["Ærøskøbing/猫", "ü" * 80, "k" * 180]
    write_tar(tmp_path / "ß 1.tar", [part for i, key in enumerate(keys) for part in sample(key, i, i)])
    embed(tmp_path / "ß 1.tar", tmp_path / "f").ok()
    np.testing.assert_allclose(open_features(tmp_path / "f").rows(2, 3)[0], squashed(image_bytes(2)), atol=1e-3)


def test_empty_shard(shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "000001.tar", [])
    assert "000001.tar holds no samples" in embed(shards, tmp_path / "f").ok().err
    part = load_file(tmp_path / "f" / "000001.safetensors")
    assert part["features"].shape == (0, 192)
    assert part["features"].dtype == np.float16
    assert part["label"].shape == (0,)
    assert open_features(tmp_path / "f").shape == (13, 192)


@pytest.mark.slow
def test_worker_processes(shards: Path, tmp_path: Path) -> None:
    """What goes wrong in a worker is one sentence, and its pieces come in order."""
    embed(shards, tmp_path / "f", "--batch-size", 4).ok()
    options = (*PIXELS, "--workers", "3", "--batch-size", "4")
    dprune_process("embed", shards, *options, "-o", tmp_path / "g").ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")
    write_tar(shards / "000002.tar", [*sample("a", 1), ("a.cls", b"seven")])
    dprune_process("embed", shards, *options, "-o", tmp_path / "h").fails(3, "a.cls holds b'seven'")


@pytest.mark.slow
def test_a_worker_that_dies(tmp_path: Path) -> None:
    many_shards(tmp_path / "shards", shards=40, images=60)
    command = start(tmp_path / "shards", tmp_path / "f", "--workers", "2")
    wait_for(lambda: len(list((tmp_path / "f").glob("0*.safetensors"))) > 0)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = command.communicate(timeout=60)
    Result(command.returncode, b"", said).fails(1, "a worker process was killed", "--workers")


@pytest.mark.slow
@pytest.mark.skipif(subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0, reason="needs to mount")
def test_a_full_dev_shm_is_not_needed(shards: Path, tmp_path: Path) -> None:
    options = [str(shards), "--model", "pixels", "--image-size", "64", "--workers", "2", "-o"]
    command = [sys.executable, "-m", "dprune", "embed", *options, str(tmp_path / "f")]
    mount = 'mount -t tmpfs -o size=4k tmpfs /dev/shm; echo > /dev/shm/full; exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", *command], stderr=subprocess.PIPE, timeout=60,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    dprune("embed", *options, tmp_path / "g").ok()
    assert content(tmp_path / "f") == content(tmp_path / "g")


@pytest.mark.slow
@pytest.mark.parametrize("label", [b"cat", b"9" * 20])
def test_what_goes_wrong_in_a_worker_ends_the_command(tmp_path: Path, label: bytes) -> None:
    write_tar(tmp_path / "a.tar", [("a.png", image_bytes(0)), ("a.cls", label), *sample("b", 1)])
    command = [warm_python(), "-m", "dprune", "embed", tmp_path / "a.tar", "--model", "pixels", "--workers", "2"]
    done = subprocess.run([*command, "-o", tmp_path / "f"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "a.cls" in done.stderr


def test_no_such_things(tmp_path: Path, shards: Path) -> None:
    embed(tmp_path / "nowhere", tmp_path / "f").fails(3, "no such file or folder")
    embed(shards, tmp_path / "f", "--device", "cuda").fails(2, "--device cuda")
    embed(shards, tmp_path / "f", "--device", "abacus").fails(2, "--device abacus")
    embed(shards, tmp_path / "f", "--image-size", 0).fails(2, "image-size")


def test_a_full_disk(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(shards, tmp_path / "whole", "--pca", 2).ok()

    sync = os.fsync

    def full(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for name in ("manifest.json", "pca.safetensors", "000001.safetensors"):
        embed(shards, tmp_path / "f", "--pca", 2).fails(1, f"cannot write {tmp_path / 'f'}", name, "no space left")
    name = "nothing"
    embed(shards, tmp_path / "f", "--pca", 2).ok()
    assert content(tmp_path / "f") == content(tmp_path / "whole")
