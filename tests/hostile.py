"""Files that mean harm, or none: what readers may meet, by names that say what is wrong with them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
from conftest import image_bytes
from safetensors.numpy import save


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
    "empty": b"",
    "zeros": bytes(2048),
    "one": b"\x00",
    "text": b"hello\nworld\n",
    "bytes": bytes(range(256)) * 8,
    "script": b"#!/bin/sh\necho owned\n",
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b"<svg onload='alert(1)'/>",
    "csv": b"a,b\n1,2\n",
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00cos\nsystem\n(S'echo owned'\ntR.",
    "elf": b"\x7fELF" + bytes(60),
    "png": image_bytes(0),
    "bomb": png(100_000, 100_000),
    "wide": png(0x7FFFFFFF, 1),
    "cut png": image_bytes(0)[:60],
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "xz": b"\xfd7zXZ\x00" + bytes(40),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(40),
    "bz": b"BZh9" + bytes(40),
    "deep json": b"[" * 100_000,
    "deep table": b'{"a":' * 100_000,
    "json": b"{}",
    "json list": b"[]",
    "json number": b"1e999",
    "json nan": b'{"kind": NaN}',
    "json huge": b'{"kind": ' + b"9" * 5000 + b"}",
    "json half": b'{"kind": "\\ud800"}',
    "json utf-16": '{"a": 1}'.encode("utf-16"),
    "json types": json.dumps(
        {"kind": ["metrics"], "metrics": 3, "details": None, "inputs": {}, "provenance": {"command": 1}}
    ).encode(),
    "npy none": npy(""),
    "npy code": npy("__import__('os').system('echo owned')"),
    "npy deep": npy("(" * 5000),
    "npy huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000,)}"),
    "npy product": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
    "npy negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}"),
    "npy version": npy("{}", version=b"\x09\x09"),
    "npy object": array([{"a": 1}], object),
    "npy text": array(["a", "b"]),
    "npy complex": array([1j, 2]),
    "npy scalar": array(3.0),
    "npy void": array([(1, 2)], [("a", "i4"), ("b", "f8")]),
    "npy dates": array(["2020-01-01"], "M8[D]"),
    "npy nan": array([[np.nan] * 3] * 12),
    "npy inf": array([[np.inf] * 3] * 12),
    "npy large": array([[1e308] * 3] * 12),
    "npy none of": array(np.zeros((0, 3))),
    "npy flat": array(np.zeros((3, 0))),
    "npy ids": array([2**63], np.uint64),
    "npy minus": array([-(2**63)]),
    "npy deep shape": array(np.zeros((1,) * 30)),
    "npy flags": array([True, False] * 6),
    "zip": zipped("a.txt", b"x"),
    "zip slip": zipped("../../../tmp/owned.png", image_bytes(0)),
    "zip bomb": zipped("a.png", bytes(50 << 20)),
    "npz": zipped("mu.npy", array([1.0])),
    "cut zip": zipped("a.png", image_bytes(0))[:50],
    "tensors none": tensors({}),
    "tensors long": tensors({}, length=1 << 62),
    "tensors deep": tensors(b'{"a":' * 50_000),
    "tensors list": tensors(b"[]"),
    "tensors past": tensors({"features": {**F4, "data_offsets": [0, 1 << 60]}}),
    "tensors huge": tensors({"features": {**F4, "shape": [1 << 40, 1 << 40]}}, bytes(16)),
    "tensors negative": tensors({"features": {**F4, "shape": [-1, 4]}}, bytes(16)),
    "tensors type": tensors({"features": {**F4, "dtype": "X9"}}, bytes(16)),
    "tensors overlap": tensors({"features": F4, "label": F4}, bytes(16)),
    "tensors metadata": tensors({"__metadata__": {"dprune": "[" * 9999}, "features": F4}, bytes(16)),
    "tensors kinds": tensors(
        {
            "__metadata__": {
                "dprune": json.dumps(
                    {"command": "x", "network": {"kind": "dit", "depth": 10**9, "heads": {}, "width": "a"}}
                )
            },
            "features": F4,
        },
        bytes(16),
    ),
    "tensors odd": save(
        {
            "\x1b[31m": np.ones(2),
            "features": np.ones((2, 2, 2), np.int64),
            "mean": np.zeros(0),
            "covariance": np.ones((2, 3)),
        }
    ),
    "tar up": tar(lambda info: setattr(info, "name", "../../../tmp/owned.png"), image_bytes(0)),
    "tar root": tar(lambda info: setattr(info, "name", "/tmp/owned.png"), image_bytes(0)),
    "tar nul": tar(lambda info: None, image_bytes(0), "a\x01b\x1b[31m.png"),
    "tar long": tar(lambda info: None, image_bytes(0), "x" * 70_000 + ".png"),
    "tar none": tar(lambda info: None, b"", "dir/"),
    "tar size": header(SIZE, b"77777777777"),
    "tar minus": header(SIZE, b"-0000000001"),
    "tar base": header(SIZE, b"\xff" * 12),
    "tar base huge": header(SIZE, b"\x80" + b"\xff" * 11),
    "tar letters": header(SIZE, b"hello"),
    "tar link": header(KIND, b"2"),
    "tar fifo": header(KIND, b"6"),
    "tar device": header(KIND, b"3"),
    "tar sparse": header(KIND, b"S"),
    "tar pax": header(KIND, b"x"),
    "tar global": header(KIND, b"g"),
    "tar longname": header(KIND, b"L"),
    "tar cut": tar(lambda info: None, image_bytes(0))[:700],
    "tar image": tar(lambda info: None, b"no image"),
    "tar bomb": tar(lambda info: None, png(60_000, 60_000)),
    "tar label": tar(lambda info: None, b"9" * 5000, "a.cls"),
    "tar svg": tar(lambda info: None, b"<svg/>"),
    "tar float": tar(lambda info: info.pax_headers.update(size="1e9"), image_bytes(0)),
    "tar pax size": tar(lambda info: info.pax_headers.update(size="-5"), image_bytes(0)),
    "tar pax map": tar(
        lambda info: info.pax_headers.update({"GNU.sparse.map": "9,9,9", "GNU.sparse.major": "1"}), image_bytes(0)
    ),
}
