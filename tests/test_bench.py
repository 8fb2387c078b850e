"""The benchmarks run, in every mode that a CPU has, and hold to what dprune makes public."""

from __future__ import annotations

import ast
import io
import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import image_bytes, warm_python, write_tar
from PIL import Image
from safetensors.torch import save_file

from dprune.embedding import device_decoding

BENCH = Path(__file__).parent / "bench"
FILES = sorted(BENCH.glob("*.py"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a benchmark as `python tests/bench/NAME.py` would, and returns the last JSON that it printed."""
    monkeypatch.syspath_prepend(BENCH)
    threads = torch.get_num_threads()

    def run(name: str, *args: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
        text = capsys.readouterr().out
        found: dict[str, Any] = json.loads(text if text.startswith("{\n") else text.splitlines()[-1])
        return found

    yield run
    torch.set_num_threads(threads)


def test_kmeans_beside_others(bench: Any) -> None:
    found = bench("kmeans", "--samples", 400, "--dimension", 8, "-k", 5, "--iterations", 3, "--repeats", 1)
    assert {"scikit-learn", "dprune sklearn", "dprune torch"} <= found["runs"].keys()
    for row in found["runs"].values():
        assert row["inertia_of_scikit_learn"] == pytest.approx(1, abs=1e-3)


def test_kmeans_by_its_parts(bench: Any) -> None:
    sizes = ("--samples", 600, "--dimension", 8, "-k", 5, "--iterations", 3, "--repeats", 1)
    found = bench("kmeans", "--parts", *sizes)
    assert found["inertia_of_plain"] == pytest.approx(1, abs=1e-5)
    assert found["centroids_unlike_plain"] < 1e-4
    assert found["product_tflops"].keys() == {"tf32", "bf16", "ieee"}
    assert found["peak_gib"] == 0
    assert found["engine"] == "TorchEngine"


def test_kmeans_on_a_sample(bench: Any) -> None:
    sizes = ("--samples", 6000, "--dimension", 8, "-k", 5, "--iterations", 3, "--repeats", 1)
    found = bench("kmeans", "--fit-on", *sizes)
    assert found["seconds"].keys() == {"full", "fit_on", "assign", "read"}
    assert 0.9 < found["inertia_of_full"] < 1.5


@pytest.mark.slow
def test_kmeans_whole_commands(bench: Any) -> None:
    sizes = ("--samples", 600, "--dimension", 8, "-k", 5, "--iterations", 3, "--repeats", 1)
    found = bench("kmeans", "--command", *sizes)
    assert found["seconds"].keys() == {"one device", "two ranks", "torchrun alone"}


def test_duplicates_beside_numpy_and_by_its_parts(bench: Any) -> None:
    sizes = ("--samples", 400, "--dimension", 8, "--clusters", 5, "--repeats", 1)
    found = bench("duplicates", *sizes)
    assert found["largest_difference"] < 1e-5
    found = bench("duplicates", "--parts", *sizes)
    assert found["in_clusters"]["copies_found"] >= found["in_clusters"]["copies"] == 4
    assert found["in_clusters"]["streamed_unlike"] == 0
    assert found["command_s"] > 0


def test_orders(bench: Any) -> None:
    sizes = ("--samples", 600, "--dimension", 8, "--plain-steps", 20, "--plain-rows", 300)
    found = bench("orders", *sizes)
    assert found["ranked"] == 60
    for method in ("k_center", "herding"):
        assert found[method]["same_as_plain"] > 0.9
        assert found[method]["us_a_step"] > 0


@pytest.mark.slow
def test_orders_whole_commands(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())
    found = bench("orders", "--command", "--samples", 200, "--dimension", 8)
    assert found["seconds"].keys() == {"k-center", "herding"}


def test_nearest_beside_faiss(bench: Any) -> None:
    sizes = ("--queries", 120, "--rows", 400, "--dimension", 16, "--neighbours", 1, 3, "--classes", 5, "--repeats", 1)
    found = bench("nearest", *sizes)
    for k in ("1", "3"):
        assert found["neighbours"][k]["wrong"] == 0
        assert found["neighbours"][k]["copies_found"] == 100


def test_nearest_by_its_parts(bench: Any) -> None:
    sizes = ("--queries", 120, "--rows", 400, "--dimension", 16, "--neighbours", 2, "--classes", 5, "--repeats", 1)
    found = bench("nearest", "--parts", *sizes)
    assert found["k=2"]["same_in_float32_and_streamed"]
    assert (found["k=2"]["wrong"], found["plain_wrong_ids"]) == (0, 0)


def test_metrics_beside_others(bench: Any) -> None:
    sizes = ("--samples", 60, "--dimension", 12, "--frechet-dimension", 16, "--repeats", 1)
    found = bench("metrics", *sizes)
    assert found["frechet"]["relative_difference"] < 1e-6
    assert found["vendi"]["values"]["dprune"] == pytest.approx(next(
        value for name, value in found["vendi"]["values"].items() if name != "dprune"))  # fmt: skip
    manifolds = found["manifold"]["values"]
    theirs = next(value for name, value in manifolds.items() if not name.startswith("dprune"))
    assert manifolds["dprune"]["density"] == pytest.approx(theirs["density"], abs=1e-6)
    clipped = found["clipped"]["values"]
    for key in ("density", "coverage"):
        assert clipped["dprune"][key] == pytest.approx(clipped["authors' way"][key], abs=1e-6)


def test_metrics_alone(bench: Any) -> None:
    found = bench("metrics", "--own", "--samples", 60, "--dimension", 12, "--repeats", 1)
    assert (
        found["times"].keys()
        == found["values"].keys()
        >= {"frechet", "kid", "cmmd", "manifold", "clipped", "vendi", "prd"}
    )


@pytest.mark.parametrize("plain", [True, False])
def test_dit(bench: Any, plain: bool) -> None:
    sizes = ("--arch", "nano/8", "--batches", 2, "--sample", 2, "--steps", 2, "--train-steps", 4, "--log-every", 1,
             "--samples", 8, "--plain-batch", 2, "--device", "cpu")  # fmt: skip
    found = bench("dit", *sizes, *(() if plain else ("--no-plain",)))
    assert found["train_2"]["micro_batch"] == 2
    assert all(found[name]["img_per_s"] > 0 for name in ("train_2", "sample_2"))
    assert plain == ("train_plainly" in found) == ("sample_plainly" in found)


def test_dit_by_its_kernels(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.models.dit.DiT.compile_blocks", lambda model: None)
    sizes = ("--arch", "nano/2", "--side", 4, "--batches", 2, "--sample", "", "--train-steps", 3, "--log-every", 1,
             "--samples", 8, "--device", "cpu", "--no-plain", "--profile")  # fmt: skip
    compiled, fused = bench("dit", *sizes)["profile"]
    assert (compiled["path"], fused["path"]) == ("compiled", "plain")
    assert compiled["ms"] > 0
    assert fused["kernels_ms"] == {}


def test_companions(bench: Any) -> None:
    sizes = ("--arch", "nano/8", "--small", "nano/16", "--until", "0.5,0.7", "--cfg", "1,4", "--side", 16, "--batch", 2)
    found = bench("companions", *sizes, "--steps", 4, "--repeats", 1, "--device", "cpu")
    assert found["cfg_1"].keys() - found["cfg_4"].keys() == {"guide"}
    # Steps begin at 0, .25, .5 and .75, of which two are before .5 and three before .7.
    first, second = (found["cfg_4"][name] for name in ("until_0.5", "until_0.7"))
    alone = [found["cfg_4"][name]["seconds"][0] for name in ("model", "small")]
    assert first["floor_speedup"] == pytest.approx(2 * alone[0] / sum(alone))
    assert second["floor_speedup"] == pytest.approx(4 * alone[0] / (alone[0] + 3 * alone[1]))
    assert first["flop_speedup"] < second["flop_speedup"] < found["cfg_4"]["small"]["flop_speedup"]


@pytest.mark.slow
def test_ranks(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())
    for name, value in {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHON_EXEC": warm_python()}.items():
        monkeypatch.setenv(name, value)
    sizes = ("--arch", "nano/8", "--per-rank", 2, "--train-steps", 3, "--log-every", 1, "--samples", 8)
    one, two = bench("ranks", *sizes, "--device", "cpu")["runs"]
    assert (one["ranks"], two["ranks"], one["of_so_many"]) == (1, 2, 1)
    assert two["of_so_many"] == pytest.approx(two["img_per_s"] / (2 * one["img_per_s"]))


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_encode(bench: Any, tmp_path: Path, kind: str) -> None:
    write_tar(tmp_path / "shards" / "000000.tar", [(f"{i}.png", image_bytes(i, (32, 32))) for i in range(6)])
    sizes = ("--preset", "tiny", "--train-steps", 2, "--codes", 64, "--count", 4, "--batch-size", 4, "--repeats", 1,
             "--workers", 0, "--device", "cpu")  # fmt: skip
    found = bench("encode", tmp_path / "shards", "--kind", kind, *sizes)
    assert found["images"] == 4
    for name, row in found["runs"].items():
        assert all(row[key] > 0 for key in ("network_img_per_s", "loop_img_per_s"))
        assert abs(row["psnr_change"]) < (1 if name == "bf16" else 0.2)
        assert row["codes_differ" if kind == "vq" else "mean_error"] < 0.2


@pytest.mark.parametrize("plain", [True, False])
def test_vae(bench: Any, plain: bool) -> None:
    sizes = ("--preset", "tiny", "--batch", 2, "--steps", 3, "--log-every", 1, "--images", 3, "--forward", 2,
             "--plain-batch", 2, "--repeats", 1, "--device", "cpu")  # fmt: skip
    found = bench("vae", *sizes, *(() if plain else ("--no-plain", "--modes", "mse", "--precisions", "float32")))
    assert found["forward_float32"]["path"] == "plain"
    assert found["train_mse"]["img_per_s"] > 0
    assert plain == ("train_judged" in found) == ("train_plainly" in found) == ("forward_bfloat16_plainly" in found)


@pytest.mark.parametrize("layout", ["small", "small-vq"])
def test_foreign_vaes(bench: Any, layout: str) -> None:
    sizes = ("--side", 32, "--batch-size", 2, "--repeats", 1, "--device", "cpu")
    found = bench("foreign_vaes", "--layout", layout, *sizes)
    for rows in found["precisions"].values():
        assert rows.keys() == {"readable", "readable, channels last", "as used: plain"}
        for row in rows.values():
            assert 0 < row["encoded_unlike"] < 0.1
            assert row.get("codes_equal", 1) > 0.9
            assert row["encode_img_per_s"] > 0


@pytest.mark.parametrize(("samples", "more"), [(16, ()), (0, ("--no-loop",))])
def test_grand(bench: Any, samples: int, more: tuple[str, ...]) -> None:
    sizes = ("--arch", "nano/2", "--batch", 2, "--side", 4, "--repeats", 1, "--device", "cpu", "--samples", samples)
    found = bench("grand", *sizes, *more)
    assert all(
        found[kind]["samples_per_s"] > 0 for kind in ("el2n", "grand", "grand_dot", "influence", "mean_gradient")
    )
    assert bool(samples) == ("command_grand_8" in found) == ("command_influence_1" in found) == ("loop" in found)


def test_digests(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())
    sizes = ("--samples", 40, "--dimension", 8, "--shards", 2, "--side", 4, "--scored", 6, "-k", 2, "--arch", "nano/2",
             "--images", 4, "--repeats", 1, "--work", tmp_path)  # fmt: skip
    found = bench("digests", *sizes)
    assert {name: sorted(entry) for name, entry in found.items()} == {
        "features": ["cluster", "mib", "read", "write"], "latents": ["mib", "read", "score", "write"],
        "model": ["load", "mib", "write"], "shards": ["embed_first", "embed_known", "mib", "write"],
    }  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_order(bench: Any) -> None:
    found = bench("order", "--samples", 50, "--batch", 8, "--epochs", 3, "--repeats", 1)
    assert found["orders"].keys() == {"plain", "weights", "curriculum", "both"}
    assert all(
        found[name]["within"] and found[name]["levels_us"] > 0 for name in ("times_uniform", "times_logit-normal")
    )


@pytest.mark.parametrize("npz", [False, True])
def test_tables(bench: Any, tmp_path: Path, npz: bool) -> None:
    # No warm Python here: it may be done before the first look at its memory.
    sizes = ("--rows", 60, "--first", 20, "--side", 8, "--row-group", 16, "--workers", 0, "--work", tmp_path)
    found = bench("tables", *sizes, *(("--npz",) if npz else ()))
    assert (found["first"]["samples"], found["pack"]["samples"]) == (20, 60)
    assert min(found["pack"][name] for name in ("rows_per_s", "main_mib", "all_mib")) > 0
    assert npz == ("loop" not in found)
    assert not list(tmp_path.iterdir())


def test_chain(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"n{number % 2}_{number}.JPEG", image_bytes(number, (40, 32), "jpg"))
    sizes = ("--count", 10, "--preset", "tiny", "--vae-steps", 2, "--arch", "nano/2", "--dit-steps", 2,
             "--log-every", 1, "--batch-size", 4, "--images", 3, "--sample-steps", 2, "--device", "cpu")  # fmt: skip
    found = bench("chain", tmp_path / "photos.zip", *sizes, "--work", tmp_path)
    (chain,) = found["rounds"]
    names = ["pack", "train-vae", "encode", "train-dit", "sample"]
    assert list(chain) == [*names, "total_s"]
    assert chain["total_s"] == pytest.approx(sum(chain[name]["wall_s"] for name in names), abs=0.05)
    for name, file in zip(names, ("000000.tar", "log: step 2", "000000.safetensors", "log: step 2", "000000.tar")):
        assert 0 < chain[name]["seen_s"][file] <= chain[name]["wall_s"]
    assert all(chain[name]["img_per_s"] > 0 for name in ("train-vae", "train-dit"))
    assert [path.name for path in tmp_path.iterdir()] == ["photos.zip"]


def test_chain_runs_the_tree_that_is_asked_for(tmp_path: Path) -> None:
    """Wherever it is started, a folder with another dprune in it included."""
    tree = tmp_path / "tree" / "dprune"
    tree.mkdir(parents=True)
    (tree / "__init__.py").touch()
    (tree / "__main__.py").write_text("raise SystemExit('the stand-in ran')")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("n0_0.JPEG", image_bytes(0))
    command = [sys.executable, BENCH / "chain.py", tmp_path / "photos.zip", "--count", "1", "--work", tmp_path]
    done = subprocess.run([*command, "--tree", tree.parent], cwd=BENCH.parents[1], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(BENCH.parents[1])}, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "the stand-in ran" in done.stderr


@pytest.mark.slow
def test_embed(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(image_bytes(number, (40, 32), "jpg"))
    found = bench("embed", photos, "--count", 6, "--per-shard", 4, "--name", "test_vit.r160_in1k", "--image-size", 32,
                  "--device", "cpu", "--batch-size", 4, "--workers", 0, "--warmup", 1, "--repeats", 1,
                  "--work", tmp_path / "work")  # fmt: skip
    assert found["images"] == 6
    assert found["forward_img_s"] > 0
    assert all(found["decode_cpu"][name] > 0 for name in ("decode_img_s", "loop_img_s", "start_s", "command_s"))


@pytest.mark.slow
def test_embed_differences(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: list[torch.Tensor]) -> list[torch.Tensor]:
        images = [Image.open(io.BytesIO(one.numpy().tobytes())) for one in data]
        return [torch.from_numpy(np.asarray(image).transpose(2, 0, 1) ^ 1) for image in images]

    monkeypatch.setattr(device_decoding, "jpeg_decoders", lambda device: {"Pillow": decode})
    import timm

    write_tar(tmp_path / "a.tar", [(f"{i}.jpg", image_bytes(i, (40, 32), "jpg")) for i in range(6)])
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit.r160_in1k", num_classes=0).state_dict(), weights)
    found = bench("embed_differences", tmp_path / "a.tar", "--model", "timm:test_vit.r160_in1k", "--weights", weights,
                  "--image-size", 32, "--device", "cpu", "-k", 2)  # fmt: skip
    assert found["images"] == 6
    assert 0 < found["decoder, float32"]["mean"] < found["different images"]["mean"]
    assert all(0 <= found[name]["moved"] <= 1 for name in ("decoder, bf16", "bf16, Pillow", "float16 in the store"))


@pytest.mark.slow
def test_study(bench: Any, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(40):
            archive.writestr(f"{number % 10}/{number}.jpg", image_bytes(number, (32, 32), "jpg"))
    save_file(timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / "weights.safetensors")
    sizes = ("--arch", "nano/2", "--batch", 4, "--steps", 3, "--vae-steps", 2, "--rate-steps", 5, "--drawn", 20)
    more = ("--sample-steps", 1, "--seeds", 2, "--variants", "plain,muon", "--more=--log-every 1", "--device", "cpu")
    found = bench("study", tmp_path / "images.zip", tmp_path / "weights.safetensors", *sizes, *more)
    assert found["runs"].keys() == {"plain", "muon"}
    for row in found["runs"].values():
        assert (row["steps"], len(row["seeds"])) == (3, 2)
        assert min(row["mean"], row["step"]) > 0
        assert row["seeds"][0]["seconds"] > 0


def private_names(path: Path) -> list[str]:
    """What a file takes of dprune that is not for others: names imported, and attributes of what was imported."""
    tree, found, ours = ast.parse(path.read_text()), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dprune":
            ours |= {alias.asname or alias.name for alias in node.names}
            found += [part for part in [*node.module.split("."), *(a.name for a in node.names)] if part.startswith("_")]
        elif isinstance(node, ast.Import):
            named = [alias for alias in node.names if alias.name.partition(".")[0] == "dprune"]
            ours |= {(alias.asname or alias.name).partition(".")[0] for alias in named}
            found += [part for alias in named for part in alias.name.split(".") if part.startswith("_")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            base: ast.AST = node.value
            while isinstance(base, ast.Attribute | ast.Call | ast.Subscript):
                base = base.func if isinstance(base, ast.Call) else base.value
            if isinstance(base, ast.Name) and base.id in ours:
                found.append(node.attr)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_benchmarks_use_public_names_alone(path: Path) -> None:
    assert private_names(path) == []


def test_private_names_are_found(tmp_path: Path) -> None:
    lines = ["import dprune.flow as f", "from dprune.seeds import _mix, hash_ids", "from dprune import noise",
             "f._dopri5()", "noise.bits(1)._philox", "self._own", "hash_ids.__doc__"]  # fmt: skip
    (tmp_path / "x.py").write_text("\n".join(lines))
    assert sorted(private_names(tmp_path / "x.py")) == ["_dopri5", "_mix", "_philox"]
