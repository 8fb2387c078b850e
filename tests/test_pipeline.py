"""The whole chain as a person would type it into a shell, from images to generated images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import warm_python
from PIL import Image
from safetensors.numpy import load_file
from sklearn.neighbors import KNeighborsClassifier

from dprune.formats.provenance import parent

ROOT = Path(__file__).parents[1]


def shell(script: str, folder: Path, python: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script with `dprune` on the PATH, as in an environment where it is installed."""
    command = folder / "bin" / "dprune"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{python or warm_python()}" -m dprune "$@"\n')
    command.chmod(0o755)
    path = {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    bash = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(bash, cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, check=False)


SLOW_TO_IMPORT = {"torch", "torch._dynamo", "sympy", "triton", "torchvision", "timm", "open_clip", "huggingface_hub",
                  "webdataset", "torchdiffeq", "cleanfid", "sklearn", "scipy", "faiss", "altair",
                  "vl_convert"}  # fmt: skip
TORCH = {"torch"}
# Which of them a command imports that has something to do; torch's optimizers import its compiler.
IMPORTS = {
    "info pruned": set(),
    "pack digits --subset nearest.npy": set(),
    "score cluster-distance clusters.safetensors": set(),
    "select distance.npy --clusters clusters.safetensors --keep 3 --figure F --shards digits": set(),
    "report nearest/metrics.json --images nearest/generated": {"altair", "vl_convert"},
    "embed held-out --model pixels --image-size 8": TORCH,
    "cluster features -k 2": {"faiss"},
    "encode held-out --vae vae/model.safetensors": TORCH,
    "sample nearest/dit/model.safetensors --vae vae/model.safetensors --seeds 3 --steps 1": TORCH,
    "score el2n latents --model nearest/dit/model.safetensors --subset held-out.npy --draws 1": TORCH,
    "eval nearest/features features": TORCH,
    "memorization nearest/features features --subset nearest.npy": TORCH,
    "train-dit latents --arch nano/8 --steps 1 --batch-size 2": TORCH | {"torch._dynamo", "sympy"},
}
PRINT_IMPORTS = """
import sys
from dprune.__main__ import main
try:
    main()
except SystemExit as end:
    print("\\nIMPORTED", *(name for name in KNOWN.split() if name in sys.modules))
    raise
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the quickstart leaves."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "cache").mkdir()
    text = (ROOT / "examples" / "quickstart.sh").read_text()
    assert text.count("--arch nano/2 ") == 1
    # A quarter of the tokens halve the minutes, and the digits are no worse.
    (folder / "quickstart.sh").write_text(text.replace("--arch nano/2 ", "--arch nano/4 "))
    done = shell("export DPRUNE_CACHE=$PWD/cache; sh quickstart.sh demo", folder)
    assert done.returncode == 0, done.stderr
    assert "sound" in done.stdout
    return folder / "demo"


@pytest.mark.slow
def test_quickstart_selects_what_it_says(demo: Path) -> None:
    clusters = load_file(demo / "clusters.safetensors")
    subsets = {name: np.load(demo / f"{name}.npy") for name in ("nearest", "middle", "furthest", "equal", "held-out")}
    for name in ("nearest", "middle", "furthest"):
        assert len(subsets[name]) == 404
        assert not np.intersect1d(subsets[name], subsets["held-out"]).size
    distance = [clusters["distance"][subsets[name]].mean() for name in ("nearest", "middle", "furthest")]
    assert distance[0] < distance[1] < distance[2]
    counts = np.bincount(clusters["assignment"][subsets["equal"]])
    assert counts.min() == counts.max() > 0
    assert (np.bincount(clusters["assignment"][subsets["held-out"]]) > 0).all()


@pytest.mark.slow
def test_quickstart_leaves_a_picture_and_a_pruned_set(demo: Path) -> None:
    with Image.open(demo / "nearest.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), int)
    assert pixels.shape[1] > pixels.shape[0] > 600
    green = (pixels == (10, 125, 90)).all(2)
    assert green.any(0)[: pixels.shape[1] // 3].any(), "the nearest are framed"
    assert not green[:, -300:].any(), "the furthest are not"
    assert len(np.load(demo / "nearest.npy")) == 404
    assert (demo / "pruned" / "manifest.json").exists()


@pytest.mark.slow
def test_quickstart_shows_that_disjoint_halves_make_the_same_of_the_same_noise(demo: Path) -> None:
    found = json.loads((demo / "halves.json").read_text())
    metrics = found["metrics"]
    assert found["details"]["paired"]["pairs"] == 200
    above = metrics["paired_cosine"] - metrics["class_shuffled_cosine"]
    assert above > 5 * (metrics["paired_cosine_se"] + metrics["class_shuffled_cosine_se"])
    assert metrics["paired_retrieval"] > 0.5
    page = (demo / "report" / "report.html").read_text()
    assert page.count("unpruned, half 1 of 2, seed ") == page.count("unpruned, half 2 of 2, seed ") == 8
    assert (demo / "report" / "images" / "pairs.png").exists()


@pytest.mark.slow
def test_one_pipeline_gives_what_the_files_give(demo: Path) -> None:
    piped = """
    cd demo
    dprune cluster features -k 10 -o - | tee piped.safetensors |
      dprune score cluster-distance - |
      dprune select - --clusters clusters.safetensors --without held-out.npy --keep 0.25 | tee piped.npy |
      dprune pack digits --subset - -o piped
    dprune info piped piped.npy
    """
    done = shell(piped, demo.parent)
    assert done.returncode == 0, done.stderr
    for made, file in {"piped.npy": "nearest.npy", "piped.safetensors": "clusters.safetensors"}.items():
        assert (demo / made).read_bytes() == (demo / file).read_bytes()
    assert (demo / "piped" / "000000.tar").read_bytes() == (demo / "pruned" / "000000.tar").read_bytes()


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(demo: Path) -> None:
    done = shell("dprune select demo/distance.npy --keep 0.5 -q | head -c 10 | wc -c", demo.parent, sys.executable)
    assert "10" in done.stdout
    assert "Traceback" not in done.stderr


def images(shards: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8 x 8 images [n, 64] and labels [n] of a folder's first shard."""
    found = []
    with tarfile.open(shards / "000000.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            if member.name.endswith(".png"):
                with Image.open(file) as image:
                    small = image.convert("L").resize((8, 8), Image.Resampling.BOX)
                    found.append([np.asarray(small, float).ravel(), -1])
            elif member.name.endswith(".cls"):
                found[-1][1] = int(file.read())
    return np.stack([image for image, _ in found]), np.array([label for _, label in found])


@pytest.mark.slow
def test_generated_digits_are_recognisable(demo: Path) -> None:
    log = [json.loads(line) for line in (demo / "vae" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["held_out_psnr"] > 28
    real, real_labels = images(demo / "digits")
    drawn, labels = images(demo / "nearest" / "generated")
    assert np.bincount(labels).tolist() == [50] * 10
    # Each class by itself: a model that had forgotten one would still get nine tenths.
    seen = KNeighborsClassifier(5).fit(real, real_labels).predict(drawn)
    shares = [(seen[labels == label] == label).mean() for label in range(10)]
    assert min(shares) > 0.5, shares
    assert np.mean(shares) > 0.8, shares
    # They are no copies of what was trained on, and not all alike.
    assert len(np.unique(drawn.round(), axis=0)) > 400


@pytest.mark.slow
def test_generated_digits_remember_the_subset(demo: Path) -> None:
    record = json.loads((demo / "nearest" / "generated" / "manifest.json").read_text())["provenance"]
    model = parent(record, "model")
    assert parent(model, "subset")["options"]["order"] == "lowest"


@pytest.mark.slow
def test_the_demo_tells_pruned_from_unpruned(demo: Path) -> None:
    pruned, unpruned = (
        {
            key: value
            for name in ("metrics", "memorization")
            for key, value in json.loads((demo / run / f"{name}.json").read_text())["metrics"].items()
        }
        for run in ("nearest", "unpruned")
    )
    # A quarter near the centres gives cleaner digits of fewer kinds, nearer to what was trained on.
    assert pruned["precision"] > unpruned["precision"]
    assert pruned["recall"] < unpruned["recall"]
    assert pruned["nearest_distance_ratio"] < unpruned["nearest_distance_ratio"]
    page = (demo / "report" / "report.html").read_text()
    assert "cluster-distance lowest" not in page
    assert "data:image/png;base64," in page
    rows = (demo / "report" / "quality.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["unpruned", "nearest"]
    # Both were sampled with the same seeds.
    for table in ("quality", "memorization"):
        assert ",paired" in (demo / "report" / f"{table}.csv").read_text().splitlines()[2]


@pytest.mark.slow
@pytest.mark.parametrize("command", IMPORTS)
def test_commands_import_what_they_need(demo: Path, tmp_path: Path, command: str) -> None:
    """Start-up is mostly imports: each of these takes from a third of a second to several."""
    known, output = " ".join(sorted(SLOW_TO_IMPORT)), [] if command.startswith("info") else ["-o", tmp_path / "out"]
    arguments = [tmp_path / "figure.png" if word == "F" else word for word in command.split()]
    code = PRINT_IMPORTS.replace("KNOWN", repr(known))
    done = subprocess.run([sys.executable, "-c", code, *map(str, [*arguments, *output])], cwd=demo, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.splitlines()[-1].split()[1:])
    # The compiler brings it where there is one.
    assert found - ({"triton"} if "torch._dynamo" in found else set()) == IMPORTS[command]
