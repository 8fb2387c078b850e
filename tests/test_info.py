"""`dprune info`: what it tells of every kind of file, and every problem that it finds."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dprune, sample, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_latents import make_latents

from dprune.formats.arrays import write_array
from dprune.formats.clusters import Clusters
from dprune.formats.latents import open_latents
from dprune.formats.provenance import make_record, parent_record
from dprune.formats.shards import open_dataset
from dprune.formats.stores import Store
from dprune.formats.tensors import write_tensors
from dprune.inspecting.findings import describe_chain
from dprune.inspecting.job import open_info


def info(*args: object, code: int = 0, stdin: bytes = b"") -> list[dict[str, Any]]:
    """The list of findings, checked against the exit code."""
    result = dprune("info", "--json", *args, stdin=stdin)
    assert result.code == code, result.err
    files: list[dict[str, Any]] = json.loads(result.out)["files"]
    assert (code == 3) == any(file["problems"] for file in files)
    return files


def problems(*args: object) -> list[str]:
    """All problems, each one sentence."""
    found = [problem for file in info(*args, code=3) for problem in file["problems"]]
    assert all(problem.endswith(".") and "\n" not in problem for problem in found)
    return found


@pytest.fixture
def packed(shards: Path, tmp_path: Path) -> Path:
    dprune("pack", shards, "-o", tmp_path / "packed", "--shard-size", 7, "--workers", 0).ok()
    return tmp_path / "packed"


@pytest.fixture
def store(shards: Path, tmp_path: Path) -> Path:
    """A feature store of the shards, 3 features a sample."""
    return make_store(shards, tmp_path / "features")


def make_store(shards: Path, folder: Path, kind: str = "features") -> Path:
    dataset = open_dataset([str(shards)])
    parents = {"shards": parent_record(None, dataset.fingerprint)}
    record = make_record("embed", {"model": "pixels", "size": 8}, parents=parents)
    store = Store(folder, kind, tuple(shard.name for shard in dataset.shards), dataset.records, record)
    store.publish_manifest()
    for shard in dataset.shards:
        index = shard.index()
        tensors = {
            "features": np.ones((len(index), 3), dtype=np.float16),
            "label": np.zeros(len(index), dtype=np.int64),
        }
        bad = [{"row": 0, "key": "s000", "reason": "cut short"}] if shard.name == "000000.tar" else []
        store.publish_part(shard.name, tensors, index.digest, len(index), bad)
    return folder


def make_clusters(path: Path, fingerprint: str | None, sizes: list[int] | None = None) -> Path:
    assignment = np.array([0, 0, 1, 1, 1, -1], dtype=np.int32)
    distance = np.where(assignment < 0, np.nan, 0.5).astype(np.float32)
    centroids = np.zeros((2, 3), dtype=np.float32)
    counts = np.array([2, 3] if sizes is None else sizes)
    record = make_record("cluster", {"k": 2}, seed=0, fingerprint=fingerprint)
    Clusters(centroids, assignment, distance, distance, counts, record=record).write(path)
    return path


def test_shards(shards: Path) -> None:
    (file,) = info(shards)
    assert file["kind"] == "shards"
    assert file["fingerprint"] == open_dataset([str(shards)]).fingerprint
    assert file["provenance"] is None
    content = file["content"]
    assert (content["shards"], content["samples"], content["labelled"]) == (3, 18, 18)
    assert content["samples_a_shard"] == {"smallest": 5, "largest": 7}
    assert content["images"] == {"png": 18}
    assert content["keys"] == ["s000", "s001", "s002"]


@pytest.mark.parametrize("source", ["{}/*.tar", "{}/{{000000..000002}}.tar", "@{}/list.txt", "file://{}/000000.tar"])
def test_whatever_names_shards(source: str, shards: Path) -> None:
    (shards / "list.txt").write_text(f"{shards}\n")
    (file,) = info(source.format(shards))
    assert file["content"]["samples"] == (7 if source.startswith("file") else 18)


def test_shards_that_the_shell_expanded_are_one_dataset(shards: Path) -> None:
    (file,) = info(*sorted(shards.glob("*.tar")))
    assert file["fingerprint"] == open_dataset([str(shards)]).fingerprint


def test_packed_shards_have_classes_ledger_and_provenance(packed: Path) -> None:
    (packed / "classes.txt").write_text("cat\ndog\n")
    (packed / "bad.jsonl").write_text('{"key":"a","reason":"b"}\n')
    (file,) = info(packed)
    assert file["content"]["classes"] == {"cat": 6, "dog": 6, "2": 6}
    assert file["content"]["unreadable"] == 1
    assert file["provenance"]["command"] == "pack"


def test_shards_are_held_to_their_manifest(packed: Path) -> None:
    write_tar(packed / "000000.tar", sample("other", 1))
    write_tar(packed / "000001.tar", [part for i in range(7) for part in sample(f"t{i}", i)])
    (packed / "000002.tar").unlink()
    write_tar(packed / "extra.tar", sample("extra", 1))
    found = "\n".join(problems(packed))
    assert "000000.tar holds 1 samples, its manifest.json says 7" in found
    assert "000001.tar does not hold the members" in found
    assert "000002.tar is missing" in found
    assert "extra.tar is not in its manifest.json" in found


def test_all_damaged_tars_are_listed(shards: Path) -> None:
    for name, size in (("000000.tar", 0), ("000001.tar", 700), ("000002.tar", 3 * 1024)):
        data = (shards / name).read_bytes()
        (shards / name).write_bytes(data[:size])
    assert len(problems(shards)) == 3
    dprune("info", shards).fails(3, "3 problems", "000000.tar")


def test_an_interrupted_pack(packed: Path) -> None:
    (packed / ".dprune").mkdir()
    (found,) = problems(packed)
    assert "is not finished" in found


def test_a_store(store: Path, shards: Path) -> None:
    (file, _) = info(store, shards)
    assert file["kind"] == "features"
    assert file["fingerprint"] == open_dataset([str(shards)]).fingerprint
    content = file["content"]
    assert (content["parts"], content["samples"], content["labelled"], content["bad"]) == (3, 18, 18, 1)
    assert content["tensors"] == {"features": "F16 [3]", "label": "I64 []"}
    assert content["bad_keys"] == ["s000"]


def test_a_store_of_latents(tmp_path: Path) -> None:
    make_latents(tmp_path / "vq", "vq")
    (file,) = info(tmp_path / "vq")
    content = file["content"]
    assert (file["kind"], content["samples"], content["valid"], content["labelled"]) == ("latents", 7, 6, 7)
    assert content["network"] == {"kind": "vq", "channels": 3, "size": 2, "codes": 5, "image_size": 8}
    assert content["tensors"] == {"code_counts": "I64 [5] per file", "codes": "U16 [4]", "label": "I64 []",
                                  "valid": "BOOL []"}  # fmt: skip
    latents = open_latents(tmp_path / "vq")
    codes = np.concatenate(latents.mapped("codes"))[latents.valid()]
    share = np.unique(codes, return_counts=True)[1] / codes.size
    assert content["codes_used"] == len(share)
    assert content["perplexity"] == pytest.approx(np.prod(share**-share))
    assert content["std"] == latents.std.tolist()


def test_a_store_of_latents_that_its_reader_refuses(tmp_path: Path) -> None:
    store = make_latents(tmp_path / "kl", "kl")
    part = load_file(store.path("c.tar"))
    short = {**part, "mean": part["mean"][:-1]}
    store.publish_part("c.tar", short, "digest of c.tar", 4, [])
    assert "c.safetensors: its tensor 'mean' has 3 rows for 4 samples" in problems(tmp_path / "kl")[0]
    store.publish_part("c.tar", {**part, "channel_sums": np.zeros(3)}, "digest of c.tar", 4, [])
    assert any("other tensors than the first file" in problem for problem in problems(tmp_path / "kl"))
    make_latents(tmp_path / "vq", "vq")
    (tmp_path / "vq" / "codebook.safetensors").unlink()
    assert "codebook.safetensors: no such file" in problems(tmp_path / "vq")[0]


def test_a_store_with_missing_damaged_and_foreign_parts(store: Path) -> None:
    (store / "000000.safetensors").unlink()
    part = store / "000001.safetensors"
    part.write_bytes(part.read_bytes()[:-5])
    write_tensors(store / "000002.safetensors", {"features": np.ones((6, 3), dtype=np.float16)},
                  {"count": 6, "members": "x", "options": "y", "bad": []})  # fmt: skip
    first, second, third = problems(store)
    assert "lacks the file of 000000.tar" in first
    assert "000001.safetensors: is not a whole safetensors file" in second
    assert "other options" in third


def test_parts_are_held_to_their_count(store: Path) -> None:
    whole = Store.open(store, "features")
    whole.publish_part("000001.tar", {"features": np.ones((4, 2), dtype=np.float16)}, "x", 5, [])
    first, second = problems(store)
    assert "'features' has 4 rows for 5 samples" in first
    assert "other tensors than the first file" in second


def test_a_part_by_itself(store: Path) -> None:
    (file,) = info(store / "000000.safetensors")
    assert file["kind"] == "part"
    assert file["content"]["samples"] == 7


def test_scores(tmp_path: Path) -> None:
    values = np.array([3, np.nan, 1, 2, np.inf], dtype=np.float32)
    write_array(tmp_path / "s.npy", values, make_record("score random", {}, seed=3, fingerprint="f" * 64))
    (file,) = info(tmp_path / "s.npy")
    assert file["kind"] == "scores"
    content = file["content"]
    assert (content["samples"], content["not_scored"]) == (5, 1)
    assert (content["min"], content["median"], content["max"]) == (1.0, 2.5, "inf")
    assert file["provenance"]["seed"] == 3


def test_scores_of_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.full(4, np.nan, dtype=np.float32))
    assert "scores no sample" in problems(tmp_path / "s.npy")[0]


def test_a_subset_and_its_share(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    np.save(tmp_path / "keep.npy", np.array([1, 7]))
    scores, subset = info(tmp_path / "scores.npy", tmp_path / "keep.npy")
    assert scores["kind"] == "scores"
    assert subset["kind"] == "subset"
    assert subset["content"]["kept"] == 2
    assert subset["content"]["share"] == 0.25


@pytest.mark.parametrize(
    ("ids", "words"),
    [([3, 1, 2], "not sorted"), ([1, 2, 2, 5], "more than once"), ([-1, 2, 3], "count from 0"), ([0, 8], "id 8")],
)
def test_subsets_with_problems(ids: list[int], words: str, tmp_path: Path) -> None:
    write_array(tmp_path / "keep.npy", np.array(ids), make_record("select", {}, fingerprint="f"))
    write_array(tmp_path / "s.npy", np.zeros(8, dtype=np.float32), make_record("score random", {}, fingerprint="f"))
    (found,) = problems(tmp_path / "keep.npy", tmp_path / "s.npy")
    assert words in found


def test_a_subset_with_all_problems_lists_them_all(tmp_path: Path) -> None:
    write_array(tmp_path / "keep.npy", np.array([9, 3, 3, 4, 5]), make_record("select", {}))
    assert len(problems(tmp_path / "keep.npy")) == 2


def test_whole_numbers_that_nobody_described_are_no_broken_subset(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.array([9, 3, 3, 4, 5]))
    (found,) = info(tmp_path / "scores.npy")
    assert found["kind"] == "array"
    assert not found["problems"]


def test_labels_and_matrices(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([0, 1, 0, 1, -1, 1, 1]))
    np.save(tmp_path / "matrix.npy", np.zeros((4, 3), dtype=np.float32))
    labels, matrix = info(tmp_path / "labels.npy", tmp_path / "matrix.npy")
    assert labels["kind"] == "labels"
    assert labels["content"]["labels"] == 2
    assert (matrix["kind"], matrix["content"]["shape"]) == ("array", [4, 3])


def test_an_array_from_stdin(tmp_path: Path) -> None:
    write_array(tmp_path / "s.npy", np.zeros(3, dtype=np.float32), make_record("score random", {}))
    (file,) = info("-", stdin=(tmp_path / "s.npy").read_bytes())
    assert (file["name"], file["kind"], file["provenance"]["command"]) == ("stdin", "scores", "score random")


def test_clusters(tmp_path: Path) -> None:
    (file,) = info(make_clusters(tmp_path / "c.safetensors", None))
    assert file["kind"] == "clusters"
    content = file["content"]
    assert (content["samples"], content["clusters"], content["unassigned"], content["sizes"]) == (6, 2, 1, [2, 3])
    assert content["samples_a_cluster"] == {"smallest": 2, "median": 2.5, "largest": 3}


@pytest.mark.parametrize(("sizes", "words"), [([3, 2], "says that cluster 0 has 3"), ([5], "cluster 1 of 1")])
def test_cluster_sizes_are_held_to_the_assignment(sizes: list[int], words: str, tmp_path: Path) -> None:
    (found,) = problems(make_clusters(tmp_path / "c.safetensors", None, sizes))
    assert words in found


def test_a_model_and_a_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    weights = {f"blocks.{i}.weight": np.zeros((4, 4), dtype=np.float32) for i in range(9)}
    write_tensors(run / "model.safetensors", weights, make_record("train-dit", {"model": "DiT-S/2"}, fingerprint="f"))
    folder, file = info(run, run / "model.safetensors")
    assert (folder["kind"], file["kind"]) == ("run", "tensors")
    for found in (folder, file):
        assert (found["content"]["tensors"], found["content"]["values"]) == (9, 144)
        assert list(found["content"]["first_shapes"].values()) == ["F32 [4, 4]"] * 3
        assert found["provenance"]["options"] == {"model": "DiT-S/2"}


def test_tensors_that_numpy_cannot_hold(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert info(tmp_path / "m.safetensors")[0]["content"]["dtypes"] == {"BF16": 1}


def test_features_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save_file({"features": np.zeros((5, 2), dtype=np.float32), "label": np.zeros(4, dtype=np.int64)}, path)
    assert "'label' has 4 rows for 5 samples" in problems(path)[0]


def test_a_sweep(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    folder = tmp_path / "sweep"
    dprune("cluster", tmp_path / "f.npy", "--sweep", "2:4", "-o", folder, "--engine", "torch").ok()
    (file,) = info(folder)
    assert file["kind"] == "sweep"
    assert (file["content"]["k"], file["content"]["samples"]) == ([2, 3, 4], 60)
    (folder / "clusters-3.safetensors").write_bytes(b"")
    (folder / "sweep.csv").unlink()
    first, second = problems(folder)
    assert "lacks sweep.csv" in first
    assert "clusters-3.safetensors" in second


def test_the_provenance_is_a_readable_chain(packed: Path, tmp_path: Path) -> None:
    scores, keep = tmp_path / "r.npy", tmp_path / "keep.npy"
    dprune("score", "random", packed, "--seed", 5, "--tag", "method=mine", "-o", scores).ok()
    dprune("select", scores, "--keep", "0.5", "-o", keep).ok()
    short = open_dataset([str(packed)]).fingerprint[:12]
    lines = dprune("info", keep).ok().out.decode().splitlines()
    chain = [line.strip() for line in lines[lines.index("  provenance") + 1 : -1]]
    assert chain[0].startswith("select  keep=0.5")
    assert chain[1] == f"scores: score random  seed=5  tag:method=mine  fingerprint {short}"
    assert chain[2].startswith("shards: pack  shard_size=7")
    assert "shards: external, digest " in chain[3]
    assert lines[-1] == "  sound"


def test_files_of_different_datasets(packed: Path, shards: Path, tmp_path: Path) -> None:
    scores = tmp_path / "r.npy"
    dprune("score", "random", packed, "-o", scores).ok()
    write_tar(tmp_path / "other/000000.tar", sample("x", 1))
    np.save(tmp_path / "external.npy", np.zeros(3, dtype=np.float32))
    info(packed, scores, tmp_path / "external.npy")
    (found,) = problems(packed, tmp_path / "other", scores, tmp_path / "external.npy")
    assert "different datasets" in found
    assert str(tmp_path / "other") in found


def test_a_dataset_made_from_another_belongs_to_it(shards: Path, packed: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "keep.npy", np.array([0, 2, 4]))
    dprune("pack", packed, "--subset", tmp_path / "keep.npy", "-o", tmp_path / "sub", "--workers", 0).ok()
    info(tmp_path / "sub", packed, shards)


def test_counts_of_one_dataset_agree(shards: Path, tmp_path: Path) -> None:
    fingerprint = open_dataset([str(shards)]).fingerprint
    record = make_record("score random", {}, fingerprint=fingerprint)
    write_array(tmp_path / "s.npy", np.zeros(17, dtype=np.float32), record)
    assert "is of 17 samples" in "\n".join(problems(shards, tmp_path / "s.npy"))


def _nonsense(folder: Path) -> dict[str, Path]:
    (folder / "notes").mkdir()
    (folder / "notes/a.txt").write_text("hello")
    (folder / "wrong").mkdir()
    (folder / "wrong/manifest.json").write_text('{"kind": "features", "provenance": 3}')
    (folder / "broken").mkdir()
    (folder / "broken/manifest.json").write_text("{")
    (folder / "empty").mkdir()
    files = {"empty.npy": b"", "text.npy": b"hello\n", "text.txt": b"hel\0lo\n", "cut.safetensors": b"\x40" + bytes(7),
             "list.safetensors": struct.pack("<Q", 2) + b"[]", "empty.tar": b"", "zeros.tar": bytes(10240)}  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    np.savez(folder / "archive.npz", np.zeros(3))
    np.save(folder / "pickle.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    (folder / "huge.npy").write_bytes(_huge_header())
    return {path.name: path for path in folder.iterdir()} | {"missing": folder / "missing", "null": Path("/dev/null")}


def _huge_header() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def test_nonsense_gets_one_sentence(tmp_path: Path) -> None:
    for name, path in _nonsense(tmp_path).items():
        if name != "zeros.tar":
            result = dprune("info", path).fails(3, str(path))
            assert result.err.count("\n") == 1, name


def test_problems_of_all_files_are_listed(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.zeros(3, dtype=np.float32))
    files = info(tmp_path / "good.npy", tmp_path / "a", tmp_path / "b", code=3)
    assert [len(file["problems"]) for file in files] == [0, 1, 1]


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write_tar(folder / "0.tar", [])
    assert b"\\udcff" in dprune("info", folder).out
    assert b"\\udcff" in dprune("info", "--json", folder).out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_crash_it(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["a.npy", "c.safetensors", "s.tar"]))
    path = tmp_path / kind
    if kind == "a.npy":
        write_array(path, np.arange(4.0), make_record("score random", {}))
    elif kind == "c.safetensors":
        make_clusters(path, "f")
    else:
        write_tar(path, sample("a" * 120, 1, 2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 700) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert dprune("info", path).code in (0, 3)


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros(3, dtype=np.float32))
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "dprune", "info", str(tmp_path / "s.npy"), str(tmp_path / "[bold]missing\udcff")]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, env=env, check=False)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 3
    assert "\x1b[" in shown
    assert "scores" in shown
    assert "[bold]missing" in shown


def test_findings_are_text_that_the_command_prints(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros(3, dtype=np.float32))
    found = open_info([str(tmp_path / "s.npy"), str(tmp_path / "missing")])
    assert found.text(None) + "\n" == dprune("info", tmp_path / "s.npy", tmp_path / "missing").out.decode()
    assert len(found.problems) == 1
    narrow = found.text(40)
    assert "\x1b[" in narrow
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in narrow.splitlines()) == 40


def test_results_of_measurements(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, count in (("ours", 40), ("theirs", 60)):
        np.save(tmp_path / f"{name}.npy", draw.standard_normal((count, 4)))
    sides = (tmp_path / "ours.npy", tmp_path / "theirs.npy")
    dprune(
        "eval", *sides, "--metrics", "fid", "--save-stats", tmp_path / "s.safetensors", "-o", tmp_path / "e.json"
    ).ok()
    dprune("memorization", *sides, "--pairs", tmp_path / "pairs.npy", "-o", tmp_path / "m.json").ok()
    evaluated, memorized, pairs, statistics = info(
        *(tmp_path / name for name in ("e.json", "m.json", "pairs.npy", "s.safetensors"))
    )
    assert evaluated["kind"] == "metrics"
    assert evaluated["content"]["samples"] == {"generated": 40, "reference": 60}
    assert evaluated["content"]["frechet_distance"] > 0
    assert evaluated["provenance"]["command"] == "eval"
    assert memorized["kind"] == "memorization"
    assert memorized["content"]["zero_count"] == 0
    assert pairs["kind"] == "pairs"
    assert pairs["content"]["pairs"] == 40
    assert pairs["content"]["copies"] == 0
    assert statistics["kind"] == "statistics"


def test_json_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "metrics"}')
    assert "a.json: is not a result" in problems(tmp_path / "a.json")[0]


def test_a_chain_leaves_out_what_was_not_asked_for() -> None:
    options = {"pca": None, "flips": False, "color": "", "only": [], "keep": "0.25", "cfg": 0.0}
    ((depth, text),) = describe_chain(make_record("select", options, seed=0, tags={"why": ""}))
    assert depth == 0
    assert text == "select  keep=0.25  cfg=0.0  seed=0"
