"""`dprune cluster --assign-only` and `--fit-on`: all samples to centroids of a file, or of a fit on some of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import dprune, dprune_process, torchrun
from safetensors.numpy import load_file, save_file

from dprune.clustering import assigned
from dprune.clustering.assigned import AssignOnlyJob, FitOnJob
from dprune.clustering.assigning import assign_spans
from dprune.clustering.job import ClusterSettings, open_cluster
from dprune.clustering.single import ClusterJob, Fitted
from dprune.clustering.spans import SMALLEST, Assigned, Spans
from dprune.console import TerminalMonitor
from dprune.errors import Interrupted
from dprune.formats.features import ArrayFeatures
from dprune.formats.provenance import make_record, parent
from dprune.formats.publish import Output
from dprune.formats.stores import Store
from dprune.formats.tensors import read_metadata
from dprune.runtime import Silent
from dprune.seeds import generator
from dprune.selecting.amount import Amount

SAMPLES, DIMENSION, K = 4 * SMALLEST + 1000, 6, 7


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Five spans of points far from the origin, some without features."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9, DIMENSION)) * 4 + 20)[rng.integers(0, 9, SAMPLES)] + rng.normal(size=(SAMPLES, DIMENSION))
    x[[5, SMALLEST - 1, SMALLEST, SAMPLES - 1]] = np.nan
    x[77, 2] = np.inf
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    return tmp_path / "x.npy"


@pytest.fixture
def centroids(tmp_path: Path) -> Path:
    np.save(tmp_path / "centroids.npy", np.random.default_rng(1).normal(size=(K, DIMENSION)) * 4 + 20)
    return tmp_path / "centroids.npy"


def exact(x: np.ndarray, centroids: np.ndarray, metric: str) -> np.ndarray:
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(x[:, None] - centroids[None], axis=2)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, centroids)]
    return 1 - unit[0] @ unit[1].T


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_samples_get_the_nearest_centroids(features: Path, centroids: Path, tmp_path: Path, metric: str) -> None:
    asked = ("--centroids", centroids, "--assign-only", "--metric", metric, "--json", "-o", tmp_path / "c.safetensors")
    summary = json.loads(dprune("cluster", features, *asked).ok().out)
    found, x = load_file(tmp_path / "c.safetensors"), np.load(features)
    usable = np.isfinite(x).all(1)
    expected = exact(x[usable], np.load(centroids), metric)
    nearest = np.full(SAMPLES, -1)
    nearest[usable] = expected.argmin(1)
    np.testing.assert_array_equal(found["assignment"], nearest)
    expected.sort(1)
    for name, column in (("distance", 0), ("second_distance", 1)):
        np.testing.assert_allclose(found[name][usable], expected[:, column], rtol=1e-4, atol=1e-6)
        assert np.isnan(found[name][~usable]).all()
    assert found["sizes"].tolist() == np.bincount(found["assignment"][usable], minlength=K).tolist()
    np.testing.assert_array_equal(found["centroids"], np.load(centroids).astype(np.float32))
    assert (summary["samples"], summary["without_features"], summary["k"]) == (usable.sum(), 5, K)
    power = 2 if metric == "l2" else 1
    assert summary["inertia"] == pytest.approx((expected[:, 0] ** power).sum(), rel=1e-5)
    # What is up to date is told alike, and leaves nothing beside it.
    again = json.loads(dprune("cluster", features, *asked).ok().out)
    assert again == {**summary, "up_to_date": True, "device": None}
    assert sorted(os.listdir(tmp_path)) == ["c.safetensors", "centroids.npy", "x.npy"]


def test_one_centroid_has_no_second(features: Path, centroids: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.load(centroids)[:1])
    dprune(
        "cluster", features, "--centroids", tmp_path / "one.npy", "--assign-only", "-o", tmp_path / "c.safetensors"
    ).ok()
    found = load_file(tmp_path / "c.safetensors")
    assert np.isnan(found["second_distance"]).all()
    assert found["sizes"].tolist() == [SAMPLES - 5]


@pytest.mark.parametrize("kind", ["ranks", "array"])
def test_workers_share_the_work_and_give_the_same_bytes(
    features: Path, centroids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked = ("cluster", features, "--centroids", centroids, "--assign-only", "-v", "-o")
    dprune(*asked, tmp_path / "alone.safetensors").ok()
    expected = (tmp_path / "alone.safetensors").read_bytes()
    out, folder = tmp_path / "c.safetensors", tmp_path / ".c.safetensors.progress"
    names = ("RANK", "WORLD_SIZE") if kind == "ranks" else ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    monkeypatch.setenv(names[1], "3")
    for number in (2, 0, 1):
        monkeypatch.setenv(names[0], str(number))
        told = dprune(*asked, out).ok().err
        if kind == "array":
            # A task goes on with what nobody else is at.
            break
        done = {0: [0, 2, 3], 1: [], 2: [2]}[number]
        assert sorted(int(p.stem) for p in folder.glob("*.safetensors")) == done
        assert ("not complete" in told) == (number != 1)
    assert out.read_bytes() == expected
    assert not folder.exists()
    assert "up to date" in dprune(*asked, out).ok().err


def test_a_rerun_does_what_is_missing(
    features: Path, centroids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("cluster", features, "--centroids", centroids, "--assign-only", "-o")
    dprune(*asked, tmp_path / "alone.safetensors").ok()
    out, folder = tmp_path / "c.safetensors", tmp_path / ".c.safetensors.progress"
    with monkeypatch.context() as patch:
        patch.setattr(TerminalMonitor, "stop_requested", lambda self: len(list(folder.glob("*.safetensors"))) >= 2)
        dprune(*asked, out).fails(75, "same command")
    assert not out.exists()
    there = sorted(folder.glob("*.safetensors"))
    assert 2 <= len(there) < 5
    found = json.loads(dprune("status", out, "--json").out)["outputs"][0]
    assert (found["kind"], found["array"]) == ("clusters", f"{len(there)}-4")
    assert found["pieces"] == {"unit": "spans", "done": len(there), "total": 5}
    assert found["facts"] == {"samples": len(there) * SMALLEST, "of_samples": SAMPLES}
    assert f"assigns {5 - len(there)} of 5 spans" in dprune(*asked, out, "--dry-run").ok().out.decode()
    # One is cut short, one is of other centroids, and all others stay as they are.
    there[0].write_bytes(there[0].read_bytes()[:-1])
    np.save(tmp_path / "others.npy", np.load(centroids) + 1)
    wrong = np.zeros(SMALLEST, dtype=np.float32)
    Spans(folder, SAMPLES, "another").write(1, Assigned(wrong.astype(np.int32), wrong, wrong))
    written: list[int] = []
    write = Spans.write
    monkeypatch.setattr(Spans, "write", lambda self, n, assigned: (written.append(n), write(self, n, assigned))[1])
    dprune(*asked, out).ok()
    assert written == [0, 1, *range(len(there), 5)]
    assert out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
    dprune("cluster", features, "--centroids", tmp_path / "others.npy", "--assign-only", "-o", out).fails(
        3, "centroids"
    )


@pytest.mark.slow
def test_a_task_that_is_killed_is_made_up_for(features: Path, centroids: Path, tmp_path: Path) -> None:
    asked = ("cluster", features, "--centroids", centroids, "--assign-only", "-o")
    dprune(*asked, tmp_path / "alone.safetensors").ok()
    out, folder = tmp_path / "c.safetensors", tmp_path / ".c.safetensors.progress"
    dies = (
        "import os, signal, sys; from dprune.clustering.spans import Spans; write = Spans.write\n"
        "def last(self, number, assigned):\n write(self, number, assigned); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Spans.write = last\nfrom dprune.__main__ import main; main()"
    )
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "3"}
    done = subprocess.run(
        [sys.executable, "-c", dies, *map(str, asked), str(out)], env=env, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(folder.glob("*.safetensors"))) == 1
    dprune_process(*asked, out, env={"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}).ok()
    assert out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["alone.safetensors", "c.safetensors", "centroids.npy", "x.npy"]


def test_a_damaged_span_is_not_published(
    features: Path, centroids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.safetensors"
    write = Spans.write

    def damaging(self: Spans, number: int, assigned: Assigned) -> None:
        write(self, number, assigned)
        data = bytearray(self.path(number).read_bytes())
        data[-1] ^= 1
        self.path(number).write_bytes(data)

    monkeypatch.setattr(Spans, "write", damaging)
    dprune("cluster", features, "--centroids", centroids, "--assign-only", "-o", out).fails(3, "damaged", "remove it")
    assert not out.exists()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("subset", [False, True])
def test_fit_on_is_a_fit_and_then_an_assignment(features: Path, tmp_path: Path, metric: str, subset: bool) -> None:
    candidates = np.arange(1, SAMPLES, 3) if subset else np.arange(SAMPLES)
    np.save(tmp_path / "some.npy", candidates)
    drawn = candidates[np.sort(generator(4, "cluster fit-on").choice(len(candidates), round(.1 * len(candidates)),
                                                                      replace=False, shuffle=False))]  # fmt: skip
    np.save(tmp_path / "drawn.npy", drawn)
    more = ("--subset", tmp_path / "some.npy") if subset else ()
    how = ("-k", 12, "--metric", metric, "--seed", 4)
    summary = json.loads(dprune("cluster", features, "--fit-on", "10%", *how, *more, "--json", "-o",
                                tmp_path / "c.safetensors").ok().out)  # fmt: skip
    dprune("cluster", features, "--subset", tmp_path / "drawn.npy", *how, "-o", tmp_path / "fit.safetensors").ok()
    dprune("cluster", features, "--centroids", tmp_path / "fit.safetensors", "--assign-only", *more, "-o",
           tmp_path / "all.safetensors").ok()  # fmt: skip
    found, fit, everything = (load_file(tmp_path / f"{name}.safetensors") for name in ("c", "fit", "all"))
    np.testing.assert_array_equal(found["centroids"], fit["centroids"])
    assert found.keys() == everything.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, everything[name])
    # The metric of the clusters was known without being named.
    assert (read_metadata(tmp_path / "all.safetensors") or {})["options"]["metric"] == metric
    outside = np.setdiff1d(np.arange(SAMPLES), candidates)
    assert (found["assignment"][outside] == -1).all()
    usable = np.isfinite(np.load(features)).all(1)
    usable[outside] = False
    assert found["sizes"].sum() == summary["samples"] == usable.sum()
    assert summary["fitted_on"] == len(drawn)
    assert summary.get("left_out", 0) == len(outside)
    again = json.loads(dprune("cluster", features, "--fit-on", ".1", *how, *more, "--json", "-o",
                              tmp_path / "c.safetensors").ok().out)  # fmt: skip
    assert again == {**summary, "up_to_date": True, "device": None}
    dprune("cluster", features, "--fit-on", ".2", *how, *more, "-o", tmp_path / "c.safetensors").fails(3, "fit_on")


def test_a_stopped_fit_on_goes_on_without_another_fit(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("cluster", features, "--fit-on", "2000", "--levels", "12,3", "-o")
    dprune(*asked, tmp_path / "whole.safetensors").ok()
    out, folder = tmp_path / "c.safetensors", tmp_path / ".c.safetensors.progress"
    with monkeypatch.context() as patch:
        patch.setattr(TerminalMonitor, "stop_requested", lambda self: True)
        dprune(*asked, out).fails(75, "same command")
    assert not folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(TerminalMonitor, "stop_requested", lambda self: (folder / "000001.safetensors").exists())
        dprune(*asked, out).fails(75, "same command")
    assert "fit.safetensors" in os.listdir(folder)
    monkeypatch.setattr(ClusterJob, "fitted", None)
    dprune(*asked, out).ok()
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert load_file(out)["level_1"].shape == (12,)
    assert not folder.exists()


def test_several_devices_share_a_fit_and_stop_together(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ClusterSettings(k=9, fit_on=Amount.parse("20%"), engine="torch", device="cpu")

    def run(name: str, devices: int, monitor: Silent) -> dict[str, np.ndarray]:
        job = open_cluster(str(features), settings, Output(str(tmp_path / name)))
        assert isinstance(job, FitOnJob)
        shared = dataclasses.replace(job, fit=dataclasses.replace(job.fit, devices=(torch.device("cpu"),) * devices))
        shared.run(monitor)
        shared.tidy()
        return load_file(tmp_path / name)

    class Stops(Silent):
        """Asks to stop once a span is assigned."""

        def stop_requested(self) -> bool:
            return any((tmp_path / ".three.safetensors.progress").glob("00*.safetensors"))

    def assign_one(*inputs: Any) -> None:
        """Assign spans until a stop is asked for the second time; the first span is written behind the second."""
        asked = itertools.count()
        assign_spans(*inputs[:-1], lambda: next(asked) > 0)

    one = run("one.safetensors", 1, Silent())
    with monkeypatch.context() as patch:
        patch.setattr(assigned, "assign_spans", assign_one)
        with pytest.raises(Interrupted, match="same command"):
            run("three.safetensors", 3, Stops())
    # Each of the three made one of the five.
    assert len(list((tmp_path / ".three.safetensors.progress").glob("00*.safetensors"))) == 3
    three = run("three.safetensors", 3, Silent())
    np.testing.assert_array_equal(one["assignment"], three["assignment"])
    np.testing.assert_allclose(one["centroids"], three["centroids"], rtol=1e-5)
    assert not (tmp_path / ".three.safetensors.progress").exists()


@pytest.mark.slow
def test_two_ranks_fit_and_assign(features: Path, tmp_path: Path) -> None:
    asked = ("cluster", features, "--fit-on", "20%", "-k", 9, "--engine", "torch", "-o")
    dprune(*asked, tmp_path / "one.safetensors").ok()
    torchrun(*asked, tmp_path / "two.safetensors").ok()
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    np.testing.assert_array_equal(one["assignment"], two["assignment"])
    np.testing.assert_allclose(one["centroids"], two["centroids"], rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["one.safetensors", "two.safetensors", "x.npy"]


def test_a_store_gives_its_labels_and_levels_are_carried_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).normal(size=(900, 4)).astype(np.float32)

    def store(name: str, model: str) -> Store:
        found = Store(tmp_path / name, "features", ("a.tar", "b.tar"), (), make_record("embed", {"model": model}))
        found.publish_manifest()
        for shard, rows in zip(found.shards, (slice(0, 400), slice(400, 900)), strict=True):
            label = np.arange(900)[rows] % 3
            found.publish_part(shard, {"features": x[rows], "label": label}, f"members of {shard}", len(label), [])
        return found

    first, second = store("first", "timm:one"), store("second", "timm:another")
    clusters, out = tmp_path / "c.safetensors", tmp_path / "a.safetensors"
    dprune("cluster", first.folder, "--levels", "20,4", "-o", clusters).ok()
    caplog.clear()
    dprune("cluster", first.folder, "--centroids", clusters, "--assign-only", "-o", out).ok()
    assert "may mean nothing" not in caplog.text
    found, fitted = load_file(out), load_file(clusters)
    assert found.keys() == fitted.keys()
    for name in ("assignment", "level_1", "sizes", "label"):
        np.testing.assert_array_equal(found[name], fitted[name])
    np.testing.assert_allclose(found["distance"], fitted["distance"], rtol=1e-5)
    record = read_metadata(out) or {}
    assert record["fingerprint"] == first.fingerprint
    assert parent(record, "centroids")["options"]["levels"] == [20, 4]
    assert b"sound" in dprune("info", out).ok().out
    dprune("cluster", second.folder, "--centroids", clusters, "--assign-only", "-o", tmp_path / "b.safetensors").ok()
    assert "timm:one" in caplog.text
    assert "timm:another" in caplog.text


def test_what_is_published_is_never_held(tmp_path: Path) -> None:
    count = 1 << 20
    features = ArrayFeatures("x", np.zeros((count, 1), dtype=np.float16))
    job = AssignOnlyJob(features, 3, "l2", Output(str(tmp_path / "c.safetensors")), None, {},
                        Fitted(np.zeros((3, 1), dtype=np.float32)), "cpu")  # fmt: skip
    spans = job.spans
    for number in range(len(spans)):
        size = spans.span(number)[1] - spans.span(number)[0]
        near = np.full(size, number, dtype=np.float32)
        spans.write(number, Assigned(np.full(size, number % 3, dtype=np.int32), near, near + 1))
    tracemalloc.start()
    job.publish(job.given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert os.path.getsize(tmp_path / "c.safetensors") > 12 * count
    assert peak < count
    found = load_file(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(found["distance"], np.repeat(np.arange(len(spans)), spans.size)[:count])
    np.testing.assert_array_equal(found["assignment"], found["distance"].astype(int) % 3)
    assert found["sizes"].sum() == count


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--assign-only"], 2, ["--assign-only", "--centroids"]),
        (["--centroids", "C"], 2, ["--centroids", "--assign-only", "--init"]),
        (["--centroids", "C", "--assign-only", "-k", "3"], 2, ["--assign-only", "drop -k"]),
        (["--centroids", "C", "--assign-only", "--n-init", "3"], 2, ["--assign-only", "--n-init"]),
        (["--centroids", "C", "--assign-only", "--fit-on", "2%"], 2, ["--assign-only", "--fit-on"]),
        (["--centroids", "C", "--assign-only", "-o", "-"], 2, ["-o FILE"]),
        (["--centroids", "C", "--assign-only", "--device", "cuda:0,cuda:1"], 2, ["--device", "--assign-only"]),
        (["--centroids", "missing.npy", "--assign-only"], 3, ["missing.npy"]),
        (["--centroids", "X", "--assign-only"], 3, ["x.npy", "NaN"]),
        (["--centroids", "W", "--assign-only"], 3, ["wide.npy", "[k, 6]", "[3, 5]"]),
        (["--centroids", "N", "--assign-only"], 3, ["none.safetensors", "centroids"]),
        (["--fit-on", "half"], 2, ["--fit-on", "share"]),
        (["--fit-on", "2%", "--sweep", "2:4"], 2, ["--fit-on", "--sweep"]),
        (["--fit-on", "2%", "-o", "-"], 2, ["-o FILE"]),
        (["--fit-on", "20", "-k", "21"], 3, ["--fit-on", "20 samples", "raise it or lower -k"]),
        (["--fit-on", "99999999"], 3, ["--fit-on", "at most"]),
    ],
)
def test_what_cannot_be(
    features: Path, centroids: Path, tmp_path: Path, args: list[str], code: int, words: list[str]
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 5)))
    save_file({"assignment": np.zeros(3, dtype=np.int32)}, tmp_path / "none.safetensors")
    places = {"C": centroids, "X": features, "W": tmp_path / "wide.npy", "N": tmp_path / "none.safetensors"}
    given = [places.get(arg, arg) for arg in args]
    dprune("cluster", features, "-o", tmp_path / "c.safetensors", *given).fails(code, *words)
    assert not (tmp_path / "c.safetensors").exists()
