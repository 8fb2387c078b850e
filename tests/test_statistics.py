"""Statistics files, result files, and what provenance answers about generated samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune
from safetensors.numpy import save_file

from dprune.errors import InputError
from dprune.formats.kinds import kind_of
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import difference, make_record, packed_subset, training_subset
from dprune.formats.results import read_result, summarized, write_result
from dprune.formats.statistics import Statistics, read_statistics

RECORD = make_record("eval", {"metrics": ["fid"]})


def statistics(record: dict[str, Any] | None = None, d: int = 3) -> Statistics:
    x = np.random.default_rng(0).normal(size=(50, d))
    return Statistics("s", 50, x.mean(0), np.cov(x.T), record)


# Statistics.


def test_statistics_are_read_as_written(tmp_path: Path) -> None:
    embedded = make_record("embed", {"model": "pixels"})
    parents = {"features": {"digest": "d", "provenance": embedded}}
    record = make_record("eval statistics", {}, fingerprint="f", parents=parents)
    written, path = statistics(record), tmp_path / "s.safetensors"
    written.write(path)
    assert kind_of(path) == "statistics"
    found = read_statistics(path)
    assert (found.count, found.record, found.model) == (50, record, "pixels")
    assert np.array_equal(found.mean, written.mean)
    assert np.array_equal(found.covariance, written.covariance)
    assert found.features is not None
    assert difference(found.features, {**embedded, "fingerprint": "f"}) == ""
    assert found.parent == written.parent
    assert found.parent["provenance"] == record


def test_statistics_of_other_programs(tmp_path: Path) -> None:
    expected = statistics()
    np.savez(tmp_path / "s", mu=expected.mean.astype(np.float32), sigma=expected.covariance)
    found = read_statistics(tmp_path / "s.npz")
    assert (found.count, found.record, found.features, found.model) == (None, None, None, None)
    assert (found.mean.dtype, found.parent["external"]) == (np.float64, True)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    assert found.parent["digest"] != expected.parent["digest"]


def test_other_files_are_no_statistics(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 3)))
    save_file({"features": np.ones((3, 3))}, tmp_path / "x.safetensors")
    found = {kind_of(tmp_path / name) for name in ("x.npy", "x.safetensors", "none", ".")}
    assert not found & {"statistics", "zip"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mean": None}, "no mean [d] and covariance [d, d]"),
        ({"mean": np.zeros(4)}, "no mean [d] and covariance [d, d]"),
        ({"mean": np.zeros((3, 1))}, "no mean [d] and covariance [d, d]"),
        ({"mean": np.zeros(3, dtype=int)}, "no mean [d] and covariance [d, d]"),
        ({"mean": np.zeros(0), "covariance": np.zeros((0, 0))}, "no mean [d] and covariance [d, d]"),
        ({"covariance": np.full((3, 3), np.nan)}, "NaN or infinity"),
        ({"covariance": np.diag([1.0, np.inf, 1.0])}, "NaN or infinity"),
        ({"mean": np.array([0, 0, -np.inf])}, "NaN or infinity"),
        ({"covariance": -np.eye(3)}, "negative variance -1"),
        ({"covariance": np.diag([1.0, -0.01, 1e-9])}, "negative variance -0.01"),
        ({"covariance": np.eye(3) + 2 * np.eye(3, k=1)}, "not symmetric"),
        ({"count": np.array(1)}, "'count'"),
        ({"count": np.array(-5)}, "'count'"),
        ({"count": np.array([5, 6])}, "'count'"),
        ({"count": np.array(5.0)}, "'count'"),
    ],
)
def test_statistics_that_are_none(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    tensors = {"count": np.array(9), "mean": np.zeros(3), "covariance": np.eye(3), **changed}
    path = tmp_path / "s.safetensors"
    save_file({name: values for name, values in tensors.items() if values is not None}, path)
    with pytest.raises(InputError) as error:
        read_statistics(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("count", "offset"), [(2, 0.0), (20, 0.4), (20, 30.0), (200, 0.4)])
def test_covariances_of_few_samples_pass_whatever_their_rounding(
    dtype: type, count: int, offset: float, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(count, 60)) * np.exp(draw.normal(size=60)) + offset).astype(np.float32)
    np.savez(tmp_path / "s.npz", mu=x.mean(0), sigma=np.cov(x.T.astype(np.float64)).astype(dtype))
    one_pass = x.T @ x / np.float32(count) - np.outer(x.mean(0), x.mean(0))
    np.savez(tmp_path / "one-pass.npz", mu=x.mean(0), sigma=one_pass)
    np.savez(tmp_path / "constant.npz", mu=x.mean(0), sigma=np.zeros((60, 60), dtype))
    for name in ("s", "one-pass", "constant"):
        read_statistics(tmp_path / f"{name}.npz")


def test_a_distance_of_no_covariances_is_refused(tmp_path: Path) -> None:
    """Singular values of their parts that are real would give 1e-32."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    for name, sigma in {"indefinite": [[1.0, 2], [2, 1]], "asymmetric": [[1.0, 2], [0, 1]]}.items():
        np.savez(tmp_path / f"{name}.npz", mu=np.zeros(2), sigma=np.array(sigma))
        for sides in ((f"{name}.npz", f"{name}.npz"), (f"{name}.npz", "x.npy"), ("x.npy", f"{name}.npz")):
            run = dprune("eval", *(tmp_path / side for side in sides), "-o", tmp_path / "m.json")
            run.fails(3, f"{name}.npz", "its covariance")
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "other names", "pickled"])
def test_archives_that_are_not_whole(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.npz"
    names = ("a", "b") if damage == "other names" else ("mu", "sigma")
    objects = np.array([{}, {}], dtype=object)
    np.savez(path, **dict(zip(names, (objects if damage == "pickled" else np.zeros(3), np.eye(3)), strict=True)))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[data.index(b"NUMPY") + 140] ^= 255
    path.write_bytes(data[:-60] if damage == "cut" else data)
    with pytest.raises(InputError, match=r"s\.npz: (is not a whole .npz|holds no mean|holds pickled)"):
        read_statistics(path)


# Results.


def test_results_are_read_as_written_and_hold_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    metrics = {"kid": 0.25, "kid_se": math.nan, "vendi": math.inf, "f_score": np.float64(0.5)}
    details = {"vendi": {2.0: {"value": 1.5, "se": -math.inf}}, "counts": (1, 2)}
    write_result(path, "metrics", metrics, details, [{"role": "generated", "count": None}], RECORD)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    found = read_result(path)
    assert (found.name, found.kind, found.record) == (str(path), "metrics", RECORD)
    assert found.metrics == {"kid": 0.25, "kid_se": None, "vendi": None, "f_score": 0.5}
    assert found.details == {"vendi": {"2.0": {"value": 1.5, "se": None}}, "counts": [1, 2]}
    assert found.inputs == [{"role": "generated", "count": None}]
    assert existing_record(path) == RECORD


def test_a_summary_holds_counts_and_finite_numbers() -> None:
    metrics = {"kid": 0.25, "kid_se": 0.1, "vendi": math.nan, "quantiles": {"0.5": 1.0}, "zero_count": 0, "c_t": None}
    inputs = [{"role": "generated", "count": 7}, {"role": "reference", "count": None}]
    assert summarized(metrics, inputs) == {"generated": 7, "kid": 0.25, "zero_count": 0}


def whole() -> dict[str, Any]:
    return {"kind": "metrics", "metrics": {}, "details": {}, "inputs": [], "provenance": RECORD}


@pytest.mark.parametrize(
    "content",
    [
        "", "no json", "[]", '{"kind": "metrics"}', "[" * 100_000,
        *(json.dumps({**whole(), name: value}) for name, value in (
            ("kind", "images"), ("metrics", []), ("details", None), ("inputs", {}), ("inputs", [{"role": 3}]),
            ("inputs", ["generated"]), ("provenance", {}), ("provenance", {"command": 5}))),
    ],
)  # fmt: skip
def test_other_json_is_no_result(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(InputError, match="give what dprune eval or dprune memorization wrote"):
        read_result(path)
    path.write_text(json.dumps(whole()))
    assert read_result(path).inputs == []


def test_a_missing_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_result(tmp_path / "none.json")


def test_other_json_is_not_replaced_unless_told(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)))
    path = tmp_path / "m.json"
    path.write_text('{"mine": 1}')
    args = ("eval", tmp_path / "x.npy", tmp_path / "x.npy", "--metrics", "fid", "-o", path)
    dprune(*args).fails(3, "m.json", "no provenance", "--overwrite")
    assert path.read_text() == '{"mine": 1}'


# Ancestry.


def known(command: str, **parents: dict[str, Any]) -> dict[str, Any]:
    """A parent made by a command from other parents."""
    return {"digest": f"of {command}", "provenance": make_record(command, {}, parents=parents)}


KEEP, OTHER = {"digest": "keep", "external": True}, {"digest": "other", "external": True}


def features_of(model: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = known("embed", shards=known("sample", model=model, vae=known("train-vae")))["provenance"]
    return record


def test_the_subset_given_to_the_training_is_found() -> None:
    chosen = known("select", scores=known("score random"), within=OTHER)
    model = known("train-dit", latents=known("encode", shards=known("pack")), subset=chosen)
    for record in (features_of(model), model["provenance"]):
        found = training_subset(record)
        assert found is not None
        assert found["digest"] == chosen["digest"]
        assert difference(found["provenance"], chosen["provenance"]) == ""


def test_the_subset_that_the_shards_were_packed_from_is_found() -> None:
    latents = known("encode", shards=known("pack", subset=KEEP), vae=known("train-vae", shards=known("pack")))
    assert training_subset(features_of(known("train-dit", latents=latents))) == KEEP
    both = known("train-dit", latents=latents, subset=OTHER)
    assert training_subset(features_of(both)) == OTHER


def test_subsets_of_others_do_not_count() -> None:
    vae = known("train-vae", shards=known("pack", subset=OTHER))
    before = known("train-dit", latents=known("encode"), subset=OTHER)
    latents = known("encode", shards=known("pack"), vae=vae)
    assert training_subset(features_of(known("train-dit", latents=latents, init=before, vae=vae))) is None


def test_samples_of_unknown_origin_name_no_subset() -> None:
    assert training_subset(None) is None
    assert training_subset(known("embed", shards=known("pack", subset=KEEP))["provenance"]) is None
    assert training_subset(features_of({"digest": "d", "external": True})) is None


def test_the_subset_behind_features() -> None:
    assert packed_subset(known("embed", shards=known("pack", subset=KEEP))["provenance"]) == KEEP
    assert packed_subset(known("embed", shards=known("pack"))["provenance"]) is None
    assert packed_subset(None) is None
