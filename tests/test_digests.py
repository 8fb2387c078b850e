"""Digests of tensors, arrays and JSON: nothing in a file changes unseen, and other programs can check and make them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from conftest import dprune
from safetensors.numpy import load_file, save_file
from stores import latent_store
from studies import Run, write_metrics

from dprune.errors import InputError
from dprune.formats.arrays import read_array, write_array
from dprune.formats.digests import content_digest
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import make_record
from dprune.formats.publish import publish_json
from dprune.formats.results import read_result
from dprune.formats.statistics import Statistics
from dprune.formats.stores import Store
from dprune.formats.tensor_files import CHECK_KEY, DIGESTS_KEY, TensorFile
from dprune.formats.tensors import read_tensors, write_tensors
from dprune.models.files import publish_model

RECORD = make_record("score random", {"draws": 8, "note": "naïve"}, seed=1, fingerprint="f" * 64)
MAN = Path(__file__).parents[1] / "man" / "files.txt"


def some_tensors(path: Path) -> None:
    write_tensors(path, {"a": np.arange(5, dtype=np.uint16), "b": np.ones((2, 3)), "none": np.zeros((0, 4))}, RECORD)


def some_array(path: Path) -> None:
    write_array(path, np.arange(7, dtype=np.float32), RECORD)


def some_result(path: Path) -> None:
    write_metrics(path, Run())


def some_manifest(path: Path) -> None:
    Store(path.parent, "features", ("a.tar", "b.tar"), (), RECORD).publish_manifest()
    (path.parent / "manifest.json").rename(path)


def content_of_tensors(path: Path) -> object:
    _, tensors, record = read_tensors(path)
    return {name: (values.dtype, values.tolist()) for name, values in tensors.items()}, record


def content_of_array(path: Path) -> object:
    array = read_array(path)
    return array.values.dtype, array.values.tolist(), array.record


def content_of_result(path: Path) -> object:
    result = read_result(path)
    return result.kind, result.metrics, result.details, result.inputs, result.record


def content_of_manifest(path: Path) -> object:
    path.replace(path.parent / "manifest.json")
    try:
        content = read_manifest(path.parent)
        # A key that nobody knows, such as `check`, is left alone.
        return {name: content[name] for name in ("kind", "shards", "datasets", "provenance")}
    finally:
        (path.parent / "manifest.json").unlink()


FORMS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "tensors": (some_tensors, content_of_tensors),
    "array": (some_array, content_of_array),
    "result": (some_result, content_of_result),
    "manifest": (some_manifest, content_of_manifest),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_byte_changes_unseen(form: str, tmp_path: Path) -> None:
    write, read = FORMS[form]
    path = tmp_path / "file"
    write(path)
    data = path.read_bytes()
    whole = read(path)
    refused = 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            found = read(path)
        except InputError:
            refused += 1
        else:
            assert found == whole, f"byte {place}"
    # Spaces between JSON's words may be any white space.
    assert refused > 0.9 * len(data)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_content_is_the_same_bytes(form: str, tmp_path: Path) -> None:
    write, _ = FORMS[form]
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Files without digests, or with some of them.


def test_files_of_an_older_dprune_are_read_as_before(tmp_path: Path) -> None:
    save_file({"a": np.arange(3)}, tmp_path / "t.safetensors", {"dprune": json.dumps(RECORD)})
    assert read_tensors(tmp_path / "t.safetensors")[2] == RECORD
    np.save(tmp_path / "a.npy", np.arange(3))
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"\n" + json.dumps(RECORD).encode() + b"\n")
    assert read_array(tmp_path / "a.npy").record == RECORD
    some_result(tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    del content["check"]
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert read_result(tmp_path / "m.json").metrics
    for name in ("t.safetensors", "a.npy", "m.json"):
        assert json.loads(dprune("info", tmp_path / name, "--json").ok().out)["files"][0]["digests"] == "none"


@pytest.mark.parametrize("missing", ["dprune", DIGESTS_KEY, CHECK_KEY])
def test_some_of_the_keys_are_not_enough(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "t.safetensors"
    some_tensors(path)
    texts = {key: text for key, text in TensorFile.open(path).texts.items() if key != missing}
    save_file(load_file(path), path, texts)
    with pytest.raises(InputError, match=r"t\.safetensors: is damaged: its metadata"):
        TensorFile.open(path)


def test_a_tensor_is_checked_when_it_is_touched_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.safetensors"
    some_tensors(path)
    file = TensorFile.open(path)
    data = bytearray(path.read_bytes())
    data[file.places["b"].begin] ^= 1
    path.write_bytes(data)
    file = TensorFile.open(path)
    assert file.mapped("a").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=r"its tensor 'b' does not match its digest: copy the file"):
        file.mapped("b")
    taken: list[object] = []
    monkeypatch.setattr(
        "dprune.formats.tensor_files.content_digest", lambda data: taken.append(data) or content_digest(data)
    )
    assert TensorFile.open(path).mapped("a").tolist() == [0, 1, 2, 3, 4]
    assert not any(isinstance(data, memoryview) for data in taken)


# Through commands.


def flip(path: Path, tensor: str) -> None:
    """Flip the lowest bit in the middle of a tensor."""
    place = TensorFile.open(path).places[tensor]
    data = bytearray(path.read_bytes())
    data[(place.begin + place.end) // 2] ^= 1
    path.write_bytes(data)


def info(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dprune("info", path, "--json").out)["files"][0]
    return found


@pytest.mark.parametrize("name", ["000000.safetensors", "000002.safetensors", "codebook.safetensors"])
def test_info_checks_every_digest_of_a_store(tmp_path: Path, name: str) -> None:
    store = latent_store(tmp_path / "l")
    assert (info(store)["digests"], info(store)["problems"]) == ("whole", [])
    assert re.search(r"digests +whole", dprune("info", store).ok().out.decode())
    flip(store / name, "codebook" if "codebook" in name else "codes")
    dprune("info", store).fails(3, name, "does not match its digest")
    assert info(store)["digests"] == "damaged"
    assert info(store / name)["digests"] == "damaged"


def test_statistics_that_changed_are_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).normal(size=(50, 4))
    np.save(tmp_path / "x.npy", draw)
    path = tmp_path / "s.safetensors"
    Statistics("s", 50, draw.mean(0), np.cov(draw.T), make_record("eval", {})).write(path)
    args = ("eval", tmp_path / "x.npy", path, "--metrics", "fid", "-o", tmp_path / "m.json")
    dprune(*args).ok()
    assert info(tmp_path / "m.json")["digests"] == "whole"
    for tensor in ("mean", "covariance"):
        flip(path, tensor)
        dprune(*args, "--overwrite").fails(3, "s.safetensors", f"its tensor '{tensor}'", "does not match its digest")
        flip(path, tensor)


def test_weights_have_the_permissions_that_the_umask_says(tmp_path: Path) -> None:
    for umask in (0o022, 0o007):
        before = os.umask(umask)
        try:
            publish_model(tmp_path / "m.safetensors", {"x": torch.ones(3)}, {"kind": "vae"}, RECORD)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o666 & ~umask


def test_files_that_may_not_be_read_are_said_to_be_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_tensors(tmp_path / "c.safetensors")
    latent_store(tmp_path / "l")
    publish_model(tmp_path / "m.safetensors", {"x": torch.ones(3)}, {"kind": "vae"}, RECORD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for args in (
        ("cluster", tmp_path / "c.safetensors", "-k", "2", "-o", tmp_path / "o"),
        ("score", "cluster-distance", tmp_path / "c.safetensors", "-o", tmp_path / "o"),
        (
            "sample",
            tmp_path / "m.safetensors",
            "--vae",
            tmp_path / "m.safetensors",
            "--seeds",
            "0-1",
            "-o",
            tmp_path / "o",
        ),
        ("train-dit", tmp_path / "l", "--steps", "1", "-o", tmp_path / "o"),
    ):
        with monkeypatch.context() as patch:
            # Root may read everything.
            patch.setattr("builtins.open", refuse)
            patch.setattr("pathlib.Path.open", refuse)
            dprune(*args).fails(3, str(args[-1] if args[0] == "x" else tmp_path), "cannot be read: permission denied")


# Other programs.


def snippets() -> list[str]:
    """The programs that dprune-files(7) shows."""
    section = MAN.read_text(encoding="utf-8").split("# DIGESTS\n")[1].split("\n# ")[0]
    blocks = re.findall(r"(?:^  .*\n)+", section, re.MULTILINE)
    return ["".join(line[2:] for line in block.splitlines(keepends=True)) for block in blocks if "import" in block]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("damage", [False, True])
def test_the_programs_of_the_manual_check_files(tmp_path: Path, damage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    some_tensors(Path("clusters.safetensors"))
    some_array(Path("scores.npy"))
    some_result(Path("metrics.json"))
    found = snippets()
    assert len(found) == 4
    for name, code in zip(("clusters.safetensors", "scores.npy", "metrics.json"), found, strict=False):
        if damage:
            data = bytearray(Path(name).read_bytes())
            place = (
                len(data) - 1 if name.startswith("clusters") else data.index(b'"draws":8' if "npy" in name else b"0.")
            )
            data[place + 8 if "npy" in name else place] ^= 1
            Path(name).write_bytes(data)
            with pytest.raises(AssertionError):
                exec(code, {})
        else:
            exec(code, {})


def test_the_program_of_the_manual_makes_a_file_that_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(snippets()[-1], {})
    (path,) = tmp_path.glob("*.safetensors")
    file = TensorFile.open(path)
    assert file.digests
    file.check()
    assert xxhash.xxh3_64_hexdigest(b"") == "2d06800538d394c2"


# What somebody wrote on purpose, digests and all: one sentence, exit 3.

SHARD = {"name": "000000.tar", "count": 7, "digest": ""}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shards": []}, "shards has 0 entries"),
        ({"shards": [SHARD, SHARD]}, 'shards holds "000000.tar" twice'),
        ({"shards": [{**SHARD, "count": -1}]}, "shards[0].count is -1"),
        ({"shards": [{**SHARD, "count": "7"}]}, 'shards[0].count is "7"'),
        ({"shards": [{"name": "000000.tar"}]}, "shards[0].count is missing"),
        ({"shards": {}}, "shards is an object"),
        ({"provenance": {"command": 3}}, "its provenance is not valid"),
        ({"provenance": {**RECORD, "parents": {"x": {"record": "0" * 32}}}}, "its provenance is damaged"),
        ({"provenance": {**RECORD, "parents": 5}}, "its provenance is damaged"),
    ],
)
def test_manifests_that_say_nonsense(shards: Path, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    publish_json(shards / "manifest.json", {"kind": "shards", "shards": [SHARD], "provenance": RECORD, **changed})
    for args in (("info", shards), ("embed", shards, "--model", "pixels", "-o", tmp_path / "f")):
        result = dprune(*args)
        assert result.code == 3
        assert (
            f"manifest.json: {'' if 'damaged' in words else 'is damaged ('}{words}" in result.err + result.out.decode()
        )


@pytest.mark.parametrize(
    "text", ["[" * 5000, '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": 99999999999999999999}', "{", "\xff"]
)
def test_json_that_is_not_sound(shards: Path, tmp_path: Path, text: str) -> None:
    (shards / "manifest.json").write_bytes(text.encode("latin-1"))
    args = ("embed", shards, "--model", "pixels", "-o", tmp_path / "f")
    dprune(*args).fails(3, "manifest.json: is not valid JSON (", "copy the folder again")


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [
        ({"count": None}, {}), ({"count": 2**62}, {}), ({"count": "3"}, {}), ({"bad": 5}, {}), ({"members": []}, {}),
        ({}, {"features": np.zeros((2, 2), np.float16)}), ({}, {"features": np.zeros(3, np.float16)}),
        ({}, {"features": np.zeros((3, 2), np.int8)}), ({}, {"label": np.zeros((3, 1), np.int64)}),
        ({}, {"logits": np.zeros((9, 4), np.float32)}),
    ],
)  # fmt: skip
def test_parts_that_say_nonsense(tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    store = Store(tmp_path / "f", "features", ("a.tar",), (), RECORD)
    store.publish_manifest()
    store.publish_part("a.tar", {"features": np.ones((3, 2), np.float16), "label": np.zeros(3, np.int64)}, "m", 3, [])
    cluster = ("cluster", tmp_path / "f", "-k", "2", "-o", tmp_path / "c.safetensors")
    dprune(*cluster, "--dry-run").ok()
    _, whole, said = read_tensors(tmp_path / "f" / "a.safetensors")
    write_tensors(tmp_path / "f" / "a.safetensors", {**whole, **tensors}, {**(said or {}), **metadata})
    dprune(*cluster).fails(3, str(tmp_path / "f"), "run the dprune")


def test_headers_that_ask_for_more_than_there_is(tmp_path: Path) -> None:
    for shape, size in (([1 << 30, 2], 8 << 30), ([2], 16), ([1 << 62, 1 << 62], 8)):
        entry = {"features": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        text = json.dumps(entry).encode()
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        dprune("cluster", tmp_path / "x.safetensors", "-k", "2", "-o", tmp_path / "c").fails(3, "is not a whole")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 7 + b"\x00{" + bytes(9))
    dprune("cluster", tmp_path / "x.safetensors", "-k", "2", "-o", tmp_path / "c").fails(3, "x.safetensors")


def test_what_is_taken_for_an_array_by_mistake(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(3)}, tmp_path / "w.pt")
    (tmp_path / "f.csv").write_text("a,b\n1,2\n3,4\n")
    np.savez(tmp_path / "f.npz", features=np.ones((3, 2)))
    np.save(tmp_path / "p.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "p.pkl").write_bytes(b"\x80\x04N.")
    expected = {"w.pt": "is a torch file", "f.csv": "is text", "f.npz": "is an .npz archive",
                "p.npy": "holds pickled Python objects", "p.pkl": "is a Python pickle"}  # fmt: skip
    for name, words in expected.items():
        for args in (("cluster", tmp_path / name, "-k", "2"), ("select", tmp_path / name, "--keep", "1", "--count")):
            # Scores may be a table.
            said = "holds keys" if (args[0], name) == ("select", "f.csv") else words
            result = dprune(*args, "-o", tmp_path / "out").fails(3, name, said)
            assert "allow_pickle" not in result.err
    # Lengths of headers are binary, and may begin with a byte that is a letter.
    for name, words in {"a.safetensors": "is a safetensors file", "b.bin": "is not a .npy array"}.items():
        write_tensors(tmp_path / name, {"x": np.ones(3)}, {"pad": "x" * 40})
        if name == "b.bin":
            (tmp_path / name).write_bytes(b"Yes\x00\x01" + bytes(90))
        dprune("select", tmp_path / name, "--keep", "1", "--count", "-o", tmp_path / "out").fails(3, name, words)


def test_archives_that_say_one_thing_and_hold_another(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    whole = (tmp_path / "s.npz").read_bytes()
    args = (
        "eval",
        tmp_path / "x.npy",
        tmp_path / "s.npz",
        "--metrics",
        "fid",
        "--overwrite",
        "-o",
        tmp_path / "m.json",
    )
    dprune(*args).ok()
    directory = whole.index(b"PK\x01\x02")
    for place, size in (
        (directory + 24, 4),
        (directory + 20, 4),
        (directory + 10, 2),
        (directory + 8, 2),
        (26, 1),
        (60, 1),
    ):
        data = bytearray(whole)
        data[place : place + size] = b"\x55" * size
        (tmp_path / "s.npz").write_bytes(data)
        result = dprune(*args)
        assert result.code in (0, 3), result.err
        assert "Traceback" not in result.err
    np.savez(tmp_path / "s.npz", mu=np.array([{}], dtype=object), sigma=np.eye(3))
    dprune(*args).fails(3, "s.npz: holds pickled Python objects")


def test_large_files_are_written_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    state = {f"t{number}": torch.randn(number, 7, generator=draw) for number in range(20)}
    state |= {"bytes": torch.arange(5, dtype=torch.uint8), "turned": state["t9"].t(), "scalar": torch.tensor(3.0)}
    publish_model(tmp_path / "small.safetensors", state, {"kind": "toy"}, RECORD)
    monkeypatch.setattr("dprune.formats.tensor_files._MANY_BYTES", 0)
    publish_model(tmp_path / "large.safetensors", state, {"kind": "toy"}, RECORD)
    assert (tmp_path / "large.safetensors").read_bytes() == (tmp_path / "small.safetensors").read_bytes()
    TensorFile.open(tmp_path / "large.safetensors").check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_on_a_gpu_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.models.files._PIECE", 1000)
    monkeypatch.setattr("dprune.formats.tensor_files._MANY_BYTES", 0)
    draw = torch.Generator().manual_seed(0)
    state = {f"t{number}": torch.randn(number, 300, generator=draw) for number in range(20)}
    state |= {"turned": state["t9"].t(), "scalar": torch.tensor(3.0)}
    publish_model(tmp_path / "host.safetensors", state, {"kind": "toy"}, RECORD)
    sent = {name: value.cuda() for name, value in state.items()}
    publish_model(tmp_path / "device.safetensors", sent, {"kind": "toy"}, RECORD)
    assert (tmp_path / "device.safetensors").read_bytes() == (tmp_path / "host.safetensors").read_bytes()
