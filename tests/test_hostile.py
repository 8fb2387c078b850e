"""Hostile command lines and files, each wherever one is taken: a result or one sentence, never a traceback or a hang."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import Result, dprune, ends_within, image_bytes, sample, write_tar
from safetensors.numpy import save
from stores import latent_store
from studies import Run, write_metrics
from test_cli import subcommands
from test_sample import make_dit, make_vae

SECONDS = 20
"""For all that one test gives one command, which may import torch in that time."""

Sound = dict[str, str]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Files that every command takes, by the names that command lines below call them by."""
    folder = tmp_path_factory.mktemp("sound")
    write_tar(folder / "shards" / "0.tar", [part for i in range(6) for part in sample(f"s{i}", i, i % 3)])
    draw = np.random.default_rng(0)
    for name, values in {
        "features": draw.normal(size=(12, 3)).astype(np.float32), "scores": draw.normal(size=12).astype(np.float32),
        "keep": np.arange(0, 12, 2), "groups": np.arange(12) % 3, "all": np.arange(33, dtype=np.float32) / 33,
    }.items():  # fmt: skip
        np.save(folder / f"{name}.npy", values)
    vae = make_vae(folder / "vae.safetensors")
    make_dit(folder / "dit.safetensors", vae)
    latent_store(folder / "latents")
    write_metrics(folder / "metrics.json", Run())
    files = {path.stem: str(path) for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPRUNE_CACHE", str(folder / "cache"))
        dprune("cluster", files["features"], "-k", 2, "-o", folder / "clusters.safetensors").ok()
    return files | {"clusters": str(folder / "clusters.safetensors")}


def misdeed(result: Result, *words: object) -> str:
    """Say what is wrong with how a command ended, if people were not told in one sentence what to do."""
    errors = [line for line in result.err.splitlines() if "error: " in line.lower()]
    fine = result.code in (0, 2, 3) and len(errors) == (result.code != 0) and "Traceback" not in result.err
    return "" if fine else f"{words}: exit {result.code}: {result.err[-400:]}"


# Command lines.

VALUES = ["", " ", "-", "--", "0", "-1", "nan", "inf", "-inf", "1e309", "1e-400", "0x10", "1_000", "٣", "½", "9" * 30, "9" * 5000,
          "-" + "9" * 30, "1:2", "1:999999999999:1", "0-99999999999999", "1/0", "1e999999999", "1,,2", ",", "a,b", "@", "@/dev/zero",
          "/dev/null", "/dev/zero", "/", ".", "..", "~", "{0..999999999}", "{", "[", "*", "none\x1b[31m", "\udcff", "x" * 100_000, "x" * 300,
          "pipe:true", "hf://", "://", "s3://", "memory://x", "cuda:99", "timm:", "timm:none", "open_clip:x/y", "=", "a=", "=b", "3h99999999999d"]  # fmt: skip

LINES = {
    ("pack",): ["{shards}"],
    ("embed",): ["{shards}", "--model", "pixels"],
    ("cluster",): ["{features}"],
    ("score", "cluster-distance"): ["{clusters}"],
    ("score", "random"): ["{features}"],
    ("score", "el2n"): ["{latents}", "--model", "{dit}"],
    ("score", "grand"): ["{latents}", "--model", "{dit}"],
    ("score", "monotonicity"): ["{latents}", "--run", "{latents}"],
    ("score", "moso"): ["{latents}"],
    ("select",): ["{scores}", "--keep", "2"],
    ("train-vae",): ["{shards}", "--preset", "tiny"],
    ("encode",): ["{shards}", "--vae", "{vae}"],
    ("train-dit",): ["{latents}", "--arch", "nano/2"],
    ("sample",): ["{dit}", "--vae", "{vae}", "--seeds", "0"],
    ("eval",): ["{features}", "{features}"],
    ("memorization",): ["{features}", "{features}"],
    ("report",): ["{metrics}"],
    ("info",): ["{keep}"],
}


def line(words: list[str], sound: Sound) -> list[str]:
    return [word.format(**sound) for word in words]


@pytest.mark.parametrize("path", [path for path, command in subcommands() if not isinstance(command, click.Group)],
                         ids=" ".join)  # fmt: skip
def test_any_value_of_any_option(path: tuple[str, ...], sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = dict(subcommands())[path]
    words = line(LINES.get(path, ["{scores}"]), sound)
    found = []
    for option in (p for p in command.params if isinstance(p, click.Option) and not p.is_flag and not p.count):
        for value in VALUES:
            own = [] if path == ("info",) else ["--dry-run", *(["-o", "out"] if option.name != "output" else [])]
            with ends_within(SECONDS):
                result = dprune(*path, *words, max(option.opts, key=len), value, *own)
                found.append(misdeed(result, option.opts, value[:40]))
    assert not "\n".join(filter(None, found))


# Files.


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def array(values: object, dtype: object = None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype=dtype), allow_pickle=True)
    return buffer.getvalue()


def tensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tar(change: Callable[[tarfile.TarInfo], None], content: bytes = b"", name: str = "a.png") -> bytes:
    buffer, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size = len(content)
    change(info)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def header(field: slice, value: bytes) -> bytes:
    """A tar of one image whose header says something else in a field."""
    data = bytearray(tar(lambda info: None, image_bytes(0)))
    data[field] = value.ljust(field.stop - field.start, b"\0")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def png(width: int, height: int) -> bytes:
    """An image that says to be of some size."""
    data = bytearray(image_bytes(0))
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data)


SIZE, KIND = slice(124, 136), slice(156, 157)
F4 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
FILES: dict[str, bytes] = {
    "empty": b"", "zeros": bytes(2048), "one": b"\x00", "text": b"hello\nworld\n", "bytes": bytes(range(256)) * 8,
    "script": b"#!/bin/sh\necho owned\n", "html": b"<html><script>alert(1)</script></html>", "svg": b"<svg onload='alert(1)'/>",
    "csv": b"a,b\n1,2\n", "pickle": b"\x80\x04\x95\x1d\x00\x00\x00cos\nsystem\n(S'echo owned'\ntR.", "elf": b"\x7fELF" + bytes(60),
    "png": image_bytes(0), "bomb": png(100_000, 100_000), "wide": png(0x7FFFFFFF, 1), "cut png": image_bytes(0)[:60],
    "gzip": b"\x1f\x8b\x08" + bytes(40), "xz": b"\xfd7zXZ\x00" + bytes(40), "zstd": b"\x28\xb5\x2f\xfd" + bytes(40), "bz": b"BZh9" + bytes(40),
    "deep json": b"[" * 100_000, "deep table": b'{"a":' * 100_000, "json": b"{}", "json list": b"[]", "json number": b"1e999",
    "json nan": b'{"kind": NaN}', "json huge": b'{"kind": ' + b"9" * 5000 + b"}", "json half": b'{"kind": "\\ud800"}', "json utf-16": '{"a": 1}'.encode("utf-16"),
    "json types": json.dumps({"kind": ["metrics"], "metrics": 3, "details": None, "inputs": {}, "provenance": {"command": 1}}).encode(),
    "npy none": npy(""), "npy code": npy("__import__('os').system('echo owned')"), "npy deep": npy("(" * 5000),
    "npy huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000,)}"),
    "npy product": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
    "npy negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}"),
    "npy version": npy("{}", version=b"\x09\x09"), "npy object": array([{"a": 1}], object), "npy text": array(["a", "b"]),
    "npy complex": array([1j, 2]), "npy scalar": array(3.0), "npy void": array([(1, 2)], [("a", "i4"), ("b", "f8")]), "npy dates": array(["2020-01-01"], "M8[D]"),
    "npy nan": array([[np.nan] * 3] * 12), "npy inf": array([[np.inf] * 3] * 12), "npy large": array([[1e308] * 3] * 12), "npy none of": array(np.zeros((0, 3))),
    "npy flat": array(np.zeros((3, 0))), "npy ids": array([2**63], np.uint64), "npy minus": array([-(2**63)]), "npy deep shape": array(np.zeros((1,) * 30)), "npy flags": array([True, False] * 6),
    "zip": zipped("a.txt", b"x"), "zip slip": zipped("../../../tmp/owned.png", image_bytes(0)), "zip bomb": zipped("a.png", bytes(50 << 20)),
    "npz": zipped("mu.npy", array([1.0])), "cut zip": zipped("a.png", image_bytes(0))[:50],
    "tensors none": tensors({}), "tensors long": tensors({}, length=1 << 62), "tensors deep": tensors(b'{"a":' * 50_000), "tensors list": tensors(b"[]"),
    "tensors past": tensors({"features": {**F4, "data_offsets": [0, 1 << 60]}}), "tensors huge": tensors({"features": {**F4, "shape": [1 << 40, 1 << 40]}}, bytes(16)),
    "tensors negative": tensors({"features": {**F4, "shape": [-1, 4]}}, bytes(16)), "tensors type": tensors({"features": {**F4, "dtype": "X9"}}, bytes(16)),
    "tensors overlap": tensors({"features": F4, "label": F4}, bytes(16)), "tensors metadata": tensors({"__metadata__": {"dprune": "[" * 9999}, "features": F4}, bytes(16)),
    "tensors kinds": tensors({"__metadata__": {"dprune": json.dumps({"command": "x", "network": {"kind": "dit", "depth": 10**9, "heads": {}, "width": "a"}})}, "features": F4}, bytes(16)),
    "tensors odd": save({"\x1b[31m": np.ones(2), "features": np.ones((2, 2, 2), np.int64), "mean": np.zeros(0), "covariance": np.ones((2, 3))}),
    "tar up": tar(lambda info: setattr(info, "name", "../../../tmp/owned.png"), image_bytes(0)), "tar root": tar(lambda info: setattr(info, "name", "/tmp/owned.png"), image_bytes(0)),
    "tar nul": tar(lambda info: None, image_bytes(0), "a\x01b\x1b[31m.png"), "tar long": tar(lambda info: None, image_bytes(0), "x" * 70_000 + ".png"), "tar none": tar(lambda info: None, b"", "dir/"),
    "tar size": header(SIZE, b"77777777777"), "tar minus": header(SIZE, b"-0000000001"), "tar base": header(SIZE, b"\xff" * 12), "tar base huge": header(SIZE, b"\x80" + b"\xff" * 11), "tar letters": header(SIZE, b"hello"),
    "tar link": header(KIND, b"2"), "tar fifo": header(KIND, b"6"), "tar device": header(KIND, b"3"), "tar sparse": header(KIND, b"S"), "tar pax": header(KIND, b"x"), "tar global": header(KIND, b"g"),
    "tar longname": header(KIND, b"L"), "tar cut": tar(lambda info: None, image_bytes(0))[:700], "tar image": tar(lambda info: None, b"no image"), "tar bomb": tar(lambda info: None, png(60_000, 60_000)),
    "tar label": tar(lambda info: None, b"9" * 5000, "a.cls"), "tar svg": tar(lambda info: None, b"<svg/>"), "tar float": tar(lambda info: info.pax_headers.update(size="1e9"), image_bytes(0)),
    "tar pax size": tar(lambda info: info.pax_headers.update(size="-5"), image_bytes(0)), "tar pax map": tar(lambda info: info.pax_headers.update({"GNU.sparse.map": "9,9,9", "GNU.sparse.major": "1"}), image_bytes(0)),
}  # fmt: skip
TAKERS = {
    "pack": ["pack", "FILE", "--size", "8", "--workers", "0"], "pack keys": ["pack", "{shards}", "--subset", "FILE", "--workers", "0"],
    "embed": ["embed", "FILE", "--model", "pixels", "--image-size", "4", "--workers", "0"],
    "weights": ["embed", "{shards}", "--model", "timm:resnet10t", "--weights", "FILE", "--workers", "0"],
    "cluster": ["cluster", "FILE", "-k", "2"], "init": ["cluster", "{features}", "--init", "FILE"],
    "distance": ["score", "cluster-distance", "FILE"], "random": ["score", "random", "FILE"],
    "scored": ["score", "el2n", "{latents}", "--model", "FILE"], "latents": ["score", "el2n", "FILE", "--model", "{dit}"],
    "select": ["select", "FILE", "--keep", "2"], "within": ["select", "{scores}", "--keep", "2", "--within", "FILE"],
    "of clusters": ["select", "{scores}", "--keep", "2", "--clusters", "FILE"], "groups": ["select", "{scores}", "--keep", "2", "--groups", "FILE"],
    "only": ["select", "{scores}", "--keep", "2", "--groups", "{groups}", "--only", "@FILE"],
    "vae": ["encode", "{shards}", "--vae", "FILE", "--workers", "0"], "images": ["encode", "FILE", "--vae", "{vae}", "--workers", "0"],
    "train": ["train-dit", "FILE", "--arch", "nano/2", "--dry-run"], "subset": ["train-dit", "{latents}", "--arch", "nano/2", "--subset", "FILE", "--dry-run"],
    "begin": ["train-dit", "{latents}", "--arch", "nano/2", "--init", "FILE", "--dry-run"], "drawn": ["train-dit", "{latents}", "--arch", "nano/2", "--weights", "FILE", "--dry-run"],
    "sample": ["sample", "FILE", "--vae", "{vae}", "--seeds", "0", "--dry-run"], "decoder": ["sample", "{dit}", "--vae", "FILE", "--seeds", "0", "--dry-run"],
    "generated": ["eval", "FILE", "{features}"], "reference": ["eval", "{features}", "FILE"], "copies": ["memorization", "FILE", "{features}"],
    "report": ["report", "FILE"], "list": ["embed", "@FILE", "--model", "pixels"], "info": ["info", "FILE"],
}  # fmt: skip


@pytest.mark.parametrize("taker", TAKERS)
def test_any_file_anywhere(taker: str, sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    found = []
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in (*FILES, "fifo", "folder", "/dev/null", "/dev/zero", "missing"):
        words = [word.replace("FILE", name) for word in line(TAKERS[taker], sound)]
        output = [] if taker == "info" else ["-o", f"of {name.replace('/', ' ')}"]
        with ends_within(SECONDS):
            found.append(misdeed(dprune(*words, *output), taker, name))
    assert not "\n".join(filter(None, found))
    assert not Path("/tmp/owned.png").exists()
