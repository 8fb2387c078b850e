"""`dprune cluster`, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, dprune_process, torchrun
from safetensors.numpy import load, load_file, save_file

from dprune.clustering.engines import import_faiss
from dprune.console import TerminalMonitor
from dprune.formats.provenance import make_record, parent
from dprune.formats.stores import Store
from dprune.formats.tensors import read_metadata

ENGINES = ["torch", "sklearn", *(["faiss"] if import_faiss() is not None else [])]


def blobs(n: int = 600, d: int = 8, groups: int = 6, seed: int = 0) -> np.ndarray:
    """Points around separated centres, far from the origin."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, d)) * 4 + 20
    return (centres[rng.integers(0, groups, n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", blobs())
    return tmp_path / "x.npy"


def cluster(features: Path, output: Path, *args: object) -> dict[str, np.ndarray]:
    dprune("cluster", features, "-o", output, *args).ok()
    return load_file(output)


def exact_distances(x: np.ndarray, centroids: np.ndarray, metric: str = "l2") -> np.ndarray:
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(x[:, None] - centroids[None], axis=2)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centroids)]
    return 1 - unit[0] @ unit[1].T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_output_is_a_clustering(features: Path, tmp_path: Path, metric: str, engine: str) -> None:
    found = cluster(features, tmp_path / "c.safetensors", "-k", 6, "--metric", metric, "--engine", engine)
    expected = exact_distances(np.load(features), found["centroids"], metric)
    assert np.array_equal(found["assignment"], expected.argmin(1))
    expected.sort(1)
    np.testing.assert_allclose(found["distance"], expected[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["second_distance"], expected[:, 1], rtol=1e-4, atol=1e-6)
    assert found["sizes"].tolist() == np.bincount(found["assignment"], minlength=6).tolist()
    assert {name: str(values.dtype) for name, values in found.items()} == {
        "centroids": "float32", "assignment": "int32", "distance": "float32", "second_distance": "float32",
        "sizes": "int64"}  # fmt: skip
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(found["centroids"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_inertia_is_scikit_learns_from_the_same_init(tmp_path: Path, engine: str) -> None:
    from sklearn.cluster import KMeans

    x = blobs(5000, 12, groups=40)
    start = x[::200].copy()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "start.npy", start)
    args = ("--init", tmp_path / "start.npy", "--iterations", 25, "--tolerance", 0, "--engine", engine, "--json")
    summary = json.loads(dprune("cluster", tmp_path / "x.npy", "-o", tmp_path / "c.safetensors", *args).ok().out)
    model = KMeans(len(start), init=start, n_init=1, max_iter=25, tol=0).fit(x)
    assert summary["k"] == 25
    assert summary["inertia"] == pytest.approx(model.inertia_, rel=1e-4)
    found = load_file(tmp_path / "c.safetensors")
    np.testing.assert_allclose(found["centroids"], model.cluster_centers_, atol=1e-2)
    assert summary["inertia"] == pytest.approx(np.square(found["distance"].astype(np.float64)).sum(), rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_subset_is_clustered_as_if_there_were_no_others(tmp_path: Path, engine: str, metric: str) -> None:
    x = blobs(600, 8)
    x[5] = np.nan
    chosen = np.arange(0, 600, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "some.npy", x[chosen])
    np.save(tmp_path / "ids.npy", chosen)
    # A mask says the same.
    np.save(tmp_path / "mask.npy", np.isin(np.arange(600), chosen))
    how = ("-k", 5, "--metric", metric, "--engine", engine)
    alone = cluster(tmp_path / "some.npy", tmp_path / "alone.safetensors", *how)
    for name in ("ids", "mask"):
        given = ("--subset", tmp_path / f"{name}.npy")
        found = cluster(tmp_path / "x.npy", tmp_path / f"{name}.safetensors", *how, *given)
        others = np.setdiff1d(np.arange(600), chosen)
        assert (found["assignment"][others] == -1).all()
        assert np.isnan(found["distance"][others]).all()
        assert found["sizes"].sum() == len(chosen)
        for tensor in ("assignment", "distance", "second_distance"):
            np.testing.assert_array_equal(found[tensor][chosen], alone[tensor])
        np.testing.assert_array_equal(found["centroids"], alone["centroids"])
    # What is in no cluster is never kept.
    dprune("score", "cluster-distance", tmp_path / "ids.safetensors", "-o", tmp_path / "d.npy").ok()
    dprune("select", tmp_path / "d.npy", "--clusters", tmp_path / "ids.safetensors", "--keep", "1.0", "-o",
           tmp_path / "kept.npy").ok()  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "kept.npy"), chosen)


def test_subsets_that_cannot_be_clustered(features: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.arange(4))
    np.save(tmp_path / "far.npy", np.array([0, 10**6]))
    np.save(tmp_path / "none.npy", np.arange(0))
    asked = ("cluster", features, "-o", tmp_path / "c.safetensors", "-k", 5, "--subset")
    dprune(*asked, tmp_path / "few.npy").fails(3, "few.npy", "has 4 samples", "-k")
    dprune(*asked, tmp_path / "none.npy").fails(3, "none.npy", "has 0 samples")
    dprune(*asked, tmp_path / "far.npy").fails(3, "far.npy", "1000000")
    dprune(*asked, features).fails(3, features.name)
    np.save(tmp_path / "some.npy", np.arange(20))
    summary = json.loads(dprune(*asked, tmp_path / "some.npy", "--json").ok().out)
    assert (summary["samples"], summary["left_out"], summary["without_features"]) == (
        20,
        len(np.load(features)) - 20,
        0,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_same_seed_same_bytes(tmp_path: Path, engine: str) -> None:
    np.save(tmp_path / "x.npy", blobs(4000, 16, groups=3))
    outputs = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for output, seed in zip(outputs, (3, 3, 4), strict=True):
        cluster(tmp_path / "x.npy", output, "-k", 30, "--seed", seed, "--engine", engine)
    first, second, other = (output.read_bytes() for output in outputs)
    assert first == second
    assert first != other


def test_a_store_gives_its_fingerprint_and_labels(tmp_path: Path) -> None:
    x = blobs(90)
    store = Store(tmp_path / "store", "features", ("000000.tar", "000001.tar"), (), make_record("embed", {}))
    store.publish_manifest()
    for shard, rows in zip(store.shards, (slice(0, 40), slice(40, 90)), strict=True):
        label = np.arange(90)[rows] % 3
        store.publish_part(shard, {"features": x[rows], "label": label}, f"members of {shard}", len(label), [])
    found = cluster(store.folder, tmp_path / "c.safetensors", "-k", 6)
    assert found["label"].tolist() == [i % 3 for i in range(90)]
    record = read_metadata(tmp_path / "c.safetensors")
    assert record is not None
    assert record["fingerprint"] == store.fingerprint
    assert parent(record, "features")["command"] == "embed"
    np.save(tmp_path / "x.npy", x)
    array = cluster(tmp_path / "x.npy", tmp_path / "array.safetensors", "-k", 6)
    assert "label" not in array
    assert np.array_equal(array["assignment"], found["assignment"])


def test_safetensors_features_and_their_labels(tmp_path: Path) -> None:
    save_file({"features": blobs(50).astype(np.float16), "label": np.arange(50)}, tmp_path / "x.safetensors")
    found = cluster(tmp_path / "x.safetensors", tmp_path / "c.safetensors", "-k", 3)
    assert found["label"].tolist() == list(range(50))


def test_provenance_holds_what_was_resolved(features: Path, tmp_path: Path) -> None:
    cluster(features, tmp_path / "c.safetensors", "--tag", "who=me", "--engine", "torch", "--seed", 5)
    record = read_metadata(tmp_path / "c.safetensors")
    assert record is not None
    assert record["command"] == "cluster"
    assert record["options"] == {"k": 24, "metric": "l2", "init": "kmeans++", "n_init": 1, "iterations": 100,
                                 "tolerance": 1e-4, "engine": "torch"}  # fmt: skip
    assert (record["seed"], record["tags"]) == (5, {"who": "me"})
    assert record["parents"]["features"]["external"]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rows_without_features_belong_nowhere(tmp_path: Path, metric: str) -> None:
    x = blobs(200)
    x[3], x[10, 2], x[199] = np.nan, np.inf, np.nan
    np.save(tmp_path / "x.npy", x)
    found = cluster(tmp_path / "x.npy", tmp_path / "c.safetensors", "-k", 4, "--metric", metric)
    missing = np.isin(np.arange(200), [3, 10, 199])
    assert (found["assignment"][missing] == -1).all()
    for name in ("distance", "second_distance"):
        assert np.array_equal(np.isnan(found[name]), missing)
    assert found["sizes"].sum() == 197
    np.save(tmp_path / "clean.npy", x[~missing])
    clean = cluster(tmp_path / "clean.npy", tmp_path / "clean.safetensors", "-k", 4, "--metric", metric)
    assert np.array_equal(clean["assignment"], found["assignment"][~missing])
    np.save(tmp_path / "few.npy", x[:5])
    dprune("cluster", tmp_path / "few.npy", "-o", tmp_path / "few.safetensors", "-k", 5).fails(3, "-k 5", "4 samples")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_fewer_distinct_points_than_clusters(tmp_path: Path, engine: str, init: str) -> None:
    np.save(tmp_path / "x.npy", np.repeat(blobs(5, 16), 20, axis=0))
    args = ("-k", 8, "--engine", engine, "--init", init, "-o", tmp_path / "c.safetensors")
    result = dprune("cluster", tmp_path / "x.npy", *args).ok()
    assert "warning: 3 of 8 clusters are empty" in result.err
    found = load_file(tmp_path / "c.safetensors")
    assert sorted(found["sizes"]) == [0, 0, 0, 20, 20, 20, 20, 20]
    assert found["distance"].max() < 1e-4


def test_empty_clusters_are_repaired_and_told(features: Path, tmp_path: Path) -> None:
    start = np.concatenate([np.load(features)[:4], np.full((2, 8), 1e4, dtype=np.float32)])
    np.save(tmp_path / "start.npy", start)
    args = ("--init", tmp_path / "start.npy", "-o", tmp_path / "c.safetensors", "--json")
    result = dprune("cluster", features, *args).ok()
    assert "2 empty clusters took over" in result.err
    summary = json.loads(result.out)
    assert summary["empties_repaired"] >= 2
    assert summary["size_min"] > 0


def test_one_cluster_has_no_second(features: Path, tmp_path: Path) -> None:
    found = cluster(features, tmp_path / "c.safetensors", "-k", 1)
    assert np.isnan(found["second_distance"]).all()
    np.testing.assert_allclose(found["centroids"][0], np.load(features).mean(0), rtol=1e-5)


def test_init_from_clusters_goes_on_from_them(features: Path, tmp_path: Path) -> None:
    first = cluster(features, tmp_path / "a.safetensors", "-k", 6, "--tolerance", 0)
    args = ("--init", tmp_path / "a.safetensors", "-o", tmp_path / "b.safetensors", "--json")
    summary = json.loads(dprune("cluster", features, *args).ok().out)
    assert (summary["k"], summary["iterations"]) == (6, 1)
    assert np.array_equal(load_file(tmp_path / "b.safetensors")["assignment"], first["assignment"])
    record = read_metadata(tmp_path / "b.safetensors")
    assert record is not None
    assert record["options"]["init"] == "file"
    assert parent(record, "init")["command"] == "cluster"


@pytest.mark.parametrize(
    ("start", "args", "words"),
    [
        (np.ones((3, 7), np.float32), (), ("start.npy", "[k, 8]", "[3, 7]")),
        (np.ones(8, np.float32), (), ("start.npy", "[k, 8]")),
        (np.ones((3, 8), np.float32), ("-k", 4), ("start.npy", "3 centroids", "-k is 4")),
        (np.full((3, 8), np.nan, np.float32), (), ("start.npy", "NaN")),
        (np.ones((700, 8), np.float32), (), ("600 samples", "-k")),
    ],
)
def test_init_files_that_do_not_fit(
    features: Path, tmp_path: Path, start: np.ndarray, args: tuple[object, ...], words: tuple[str, ...]
) -> None:
    np.save(tmp_path / "start.npy", start)
    result = dprune("cluster", features, "-o", tmp_path / "c.safetensors", "--init", tmp_path / "start.npy", *args)
    result.fails(3, *words)
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("-k", 8, "--sweep", "2:4:1"), 2, ("--sweep", "drop -k")),
        (("--init", "start.npy", "--sweep", "2:4:1"), 2, ("--sweep", "--init FILE")),
        (("--sweep", "4:2:1"), 2, ("4:2:1", "START:STOP:STEP")),
        (("--sweep", "2:4:0"), 2, ("2:4:0", "START:STOP:STEP")),
        (("--sweep", "lots"), 2, ("lots", "START:STOP:STEP")),
        (("--sweep", "8:1000:8"), 3, ("600 samples", "-k")),
        (("--sweep", "2:4", "-o", "-"), 2, ("--sweep", "-o DIR")),
        (("-k", 0), 2, ("-k",)),
        (("-k", 601), 3, ("600 samples", "-k")),
        (("--metric", "l1"), 2, ("--metric",)),
        (("--init", "kmean++"), 2, ("--init kmean++", "no such file")),
        (("--init", "start.npy", "--n-init", 2), 2, ("--n-init", "--init FILE")),
        (("--tolerance", -1), 2, ("--tolerance",)),
        (("--device", "cuda:99"), 2, ("--device cuda:99",)),
        (("--engine", "sklearn", "--device", "nowhere"), 2, ("--device nowhere",)),
        (("-o", "-", "--json"), 2, ("--json", "stdout")),
    ],
)
def test_bad_options(
    features: Path, tmp_path: Path, args: tuple[object, ...], code: int, words: tuple[str, ...]
) -> None:
    dprune("cluster", features, "-o", tmp_path / "c.safetensors", *args).fails(code, *words)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_bad_features(tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    dprune("cluster", tmp_path / "none.npy", "-o", out).fails(3, "none.npy", "no such file")
    np.save(tmp_path / "flat.npy", np.ones(5))
    dprune("cluster", tmp_path / "flat.npy", "-o", out).fails(3, "flat.npy", "[n, d]")
    np.save(tmp_path / "nan.npy", np.full((5, 2), np.nan))
    dprune("cluster", tmp_path / "nan.npy", "-o", out, "-k", 2).fails(3, "nan.npy", "no sample has usable features")


def test_several_processes_need_torchrun(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    dprune("cluster", features, "-o", tmp_path / "c.safetensors").fails(2, "torchrun", "WORLD_SIZE")


def test_rerun_is_up_to_date_and_other_options_need_overwrite(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    cluster(features, out, "-k", 5)
    before = out.stat().st_ino
    result = dprune("cluster", features, "-o", out, "-k", 5, "--json").ok()
    assert json.loads(result.out)["up_to_date"]
    assert "up to date" in result.err
    assert out.stat().st_ino == before
    dprune("cluster", features, "-o", out, "-k", 6).fails(3, str(out), "k: 5, not 6", "--overwrite")
    assert len(cluster(features, out, "-k", 6, "--overwrite")["sizes"]) == 6
    np.save(features, blobs(seed=9))
    dprune("cluster", features, "-o", out, "-k", 6).fails(3, "features", "--overwrite")


def test_dry_run_touches_nothing(features: Path, tmp_path: Path) -> None:
    result = dprune(
        "cluster", features, "-o", tmp_path / "c.safetensors", "--dry-run", "--json", "--engine", "sklearn"
    ).ok()
    plan = json.loads(result.out)
    assert plan["provenance"]["options"]["k"] == 24
    assert plan["provenance"]["options"]["engine"] == "sklearn"
    assert os.listdir(tmp_path) == ["x.npy"]


def test_json_summary(features: Path, tmp_path: Path) -> None:
    result = dprune("cluster", features, "-o", tmp_path / "c.safetensors", "-k", 6, "--engine", "torch", "--json").ok()
    summary = json.loads(result.out)
    sizes = load_file(tmp_path / "c.safetensors")["sizes"]
    assert summary["samples"] == 600
    assert summary["engine"] == "torch"
    assert summary["iterations"] >= 1
    assert (summary["size_min"], summary["size_max"]) == (sizes.min(), sizes.max())
    assert summary["size_median"] == np.median(sizes)
    assert summary["imbalance"] == pytest.approx(6 * np.square(sizes).sum() / 600**2)
    assert "imbalance" in result.err


def test_environment_sets_options(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPRUNE_CLUSTER_K", "3")
    assert len(cluster(features, tmp_path / "c.safetensors")["sizes"]) == 3


def test_pipe_carries_the_same_bytes(features: Path, tmp_path: Path) -> None:
    cluster(features, tmp_path / "c.safetensors", "-k", 6)
    piped = dprune_process("cluster", features, "-k", 6, "-o", "-").ok().out
    assert piped == (tmp_path / "c.safetensors").read_bytes()
    assert load(piped)["sizes"].sum() == 600


def test_without_faiss_scikit_learn_does_it(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    args = ("cluster", features, "-o", tmp_path / "c.safetensors", "--device", "cpu")
    assert json.loads(dprune(*args, "--json").ok().out)["engine"] == "sklearn"
    dprune(*args, "--overwrite", "--engine", "faiss").fails(2, "--engine faiss", "not installed", "dprune[cpu]")


def test_help_and_module_import_nothing_heavy() -> None:
    code = "import dprune.commands.cluster, sys; print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_sweep(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    summary = json.loads(dprune("cluster", features, "--sweep", "2:10:2", "-o", out, "--json").ok().out)
    assert summary["knee"] == summary["highest_silhouette"] == 6
    names = {f"clusters-{k}.safetensors" for k in (2, 4, 6, 8, 10)}
    assert set(os.listdir(out)) == names | {"manifest.json", "sweep.csv", "sweep.png"}
    cluster(features, tmp_path / "single.safetensors", "-k", 8)
    assert (out / "clusters-8.safetensors").read_bytes() == (tmp_path / "single.safetensors").read_bytes()
    table = np.genfromtxt(out / "sweep.csv", delimiter=",", names=True)
    assert table.dtype.names == ("k", "inertia", "silhouette", "imbalance")
    assert table["k"].tolist() == [2, 4, 6, 8, 10]
    assert (np.diff(table["inertia"]) < 0).all()
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "sweep"
    assert manifest["provenance"]["options"]["k"] == [2, 4, 6, 8, 10]


def test_sweep_scores_are_scikit_learns(features: Path, tmp_path: Path) -> None:
    from sklearn.metrics import silhouette_score

    dprune("cluster", features, "--sweep", "1:3", "-o", tmp_path / "sweep", "--metric", "cosine").ok()
    table = np.genfromtxt(tmp_path / "sweep" / "sweep.csv", delimiter=",", names=True)
    assert np.isnan(table["silhouette"][0])
    for row in table[1:]:
        labels = load_file(tmp_path / "sweep" / f"clusters-{int(row['k'])}.safetensors")["assignment"]
        expected = silhouette_score(np.load(features), labels, metric="cosine")
        assert row["silhouette"] == pytest.approx(expected, abs=1e-4)


def test_sweep_makes_only_what_is_missing(features: Path, tmp_path: Path) -> None:
    out, args = tmp_path / "sweep", ("cluster", features, "--sweep", "2:6:2", "-o", tmp_path / "sweep")
    dprune(*args).ok()
    assert "up to date" in dprune(*args).ok().err
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    kept = (out / "clusters-2.safetensors").stat().st_mtime_ns
    for name in ("clusters-4.safetensors", "sweep.csv", "sweep.png"):
        (out / name).unlink()
        dprune(*args).ok()
        assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    assert (out / "clusters-2.safetensors").stat().st_mtime_ns == kept
    dprune("cluster", features, "--sweep", "2:4:2", "-o", out).fails(3, "k:", "--overwrite")
    dprune("cluster", features, "--sweep", "2:4:2", "-o", out, "--overwrite").ok()
    assert not (out / "clusters-6.safetensors").exists()
    assert (out / "clusters-2.safetensors").stat().st_mtime_ns == kept


def test_sweep_leaves_foreign_folders_alone(features: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    dprune("cluster", features, "--sweep", "2:4:2", "-o", tmp_path / "mine").fails(3, "mine", "--overwrite")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_a_stopped_sweep_goes_on(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "sweep"
    dprune("cluster", features, "--sweep", "2:6:2", "-o", whole).ok()
    with monkeypatch.context() as patch:
        patch.setattr(TerminalMonitor, "stop_requested", lambda self: (out / "clusters-2.safetensors").exists())
        dprune("cluster", features, "--sweep", "2:6:2", "-o", out).fails(75, "same command")
    assert set(os.listdir(out)) == {"manifest.json", "clusters-2.safetensors"}
    dprune("cluster", features, "--sweep", "2:6:2", "-o", out).ok()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_stop_after_ends_with_75_and_no_output(features: Path, tmp_path: Path) -> None:
    dprune("cluster", features, "-o", tmp_path / "c.safetensors", "--stop-after", "0s").fails(75, "same command")
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_stop_it_between_iterations(tmp_path: Path, number: int, code: int) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60_000, 32)).astype(np.float32))
    # A shell ignores SIGINT in what it puts into the background, and so would every process that these tests start.
    listening = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    listening += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", listening, "-m", "dprune", "cluster", "x.npy", "-o", "c.safetensors", "-v"]
    command += ["-k", "200", "--init", "random", "--iterations", "100000", "--tolerance", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "iteration 2:" in line:
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(30) == code
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.slow
def test_two_ranks_agree_with_one_process(tmp_path: Path) -> None:
    x = blobs(3001, 16, groups=20)
    x[::100] = np.nan
    save_file({"features": x, "label": np.arange(3001) % 7}, tmp_path / "x.safetensors")
    args = ("-k", 20, "--metric", "l2")
    one = cluster(tmp_path / "x.safetensors", tmp_path / "one.safetensors", *args)
    result = torchrun(
        "cluster", tmp_path / "x.safetensors", "-o", tmp_path / "two.safetensors", *args, "--json", fresh=True
    ).ok()
    two = load_file(tmp_path / "two.safetensors")
    assert two.keys() == one.keys()
    for name in ("assignment", "sizes", "label"):
        assert np.array_equal(one[name], two[name]), name
    for name in ("centroids", "distance", "second_distance"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-4)
    # One line of data, from rank 0, and nothing of what torch.distributed has to say.
    assert json.loads(result.out)["samples"] == 2970
    assert read_metadata(tmp_path / "one.safetensors") == read_metadata(tmp_path / "two.safetensors")


@pytest.mark.slow
def test_two_ranks_repair_and_sweep_though_one_has_no_points(tmp_path: Path) -> None:
    x = blobs(400)
    x[:250] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "start.npy", np.concatenate([x[-3:], np.full((3, 8), 1e4, dtype=np.float32)]))
    args = ("cluster", tmp_path / "x.npy", "--init", tmp_path / "start.npy", "--engine", "torch", "-o")
    dprune(*args, tmp_path / "one.safetensors").ok()
    assert "3 empty clusters took over" in torchrun(*args, tmp_path / "two.safetensors").ok().err
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert np.array_equal(one["assignment"], two["assignment"])
    args = ("cluster", tmp_path / "x.npy", "--sweep", "4:6", "--metric", "cosine", "-o")
    dprune(*args, tmp_path / "one").ok()
    torchrun(*args, tmp_path / "two").ok()
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    tables = [np.genfromtxt(tmp_path / name / "sweep.csv", delimiter=",", skip_header=1) for name in ("one", "two")]
    np.testing.assert_allclose(*tables, rtol=1e-4)
