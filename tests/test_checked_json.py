"""JSON that nobody vouches for, the shapes that it is held to, and digests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from dprune.errors import InputError
from dprune.formats.checked_json import (
    FileName,
    Flag,
    Hex,
    ListOf,
    Maybe,
    Object,
    OneOf,
    Real,
    Shape,
    Text,
    Whole,
    parse_json,
    read_json,
    shaped,
)
from dprune.formats.digests import content_digest, with_check, without_check
from dprune.formats.provenance import json_text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "is not valid JSON"),
        (b"\xff{}", "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "too deep"),
        (b"[" * 60 + b"]" * 60, "too deep"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "too deep"),
        (b"1e999", "a number is too large"),
        (b"[-1e999]", "a number is too large"),
        (b"9223372036854775808", "more than 64 bits"),
        (b"1" * 100_000, "more than 64 bits"),
        (b"NaN", "JSON has no NaN"),
        (b"-Infinity", "JSON has no -Infinity"),
        (b'"\\ud800"', "half of a character"),
        (b'{"\\udfff": 1}', "half of a character"),
        (b'{"a": 1, "a": 2}', '"a" occurs twice in an object'),
        (b"{} {}", "Extra data"),
    ],
)
def test_what_is_no_sound_json(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        parse_json("x.json", data)
    assert str(raised.value).startswith("x.json: is not valid JSON (")
    assert str(raised.value).endswith(": copy the file again, or remove it and make it again.")


@pytest.mark.parametrize(
    "content",
    [{"a": [1, -(2**63), 2**63 - 1, 1.5e308, None, True]}, "grün \ud83d\ude00 😀 \\ud800", [[[[]]]], "b\udcffd.png"],
)
def test_sound_json_comes_back(content: Any) -> None:
    # Python joins two halves of a character that JSON escapes one by one.
    assert parse_json("x", json_text(content).encode()) == json.loads(json_text(content))


def test_files_of_json(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(FileNotFoundError):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is a pipe: name a regular file"):
        read_json(tmp_path / "fifo")
    with pytest.raises(InputError, match="cannot be read: is a directory"):
        read_json(tmp_path)


def test_texts_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.formats.checked_json.MOST_BYTES", 1 << 20)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="too large for such a file, more than 1 MiB"):
        read_json(tmp_path / "large")


SHARDS = ListOf(Object({"name": FileName(), "count": Whole()}, {"xxh3": Hex(16)}), least=1, unique="name")


@pytest.mark.parametrize(
    ("content", "shape", "problem"),
    [
        (1, Whole(), ""),
        (True, Whole(), "it is true, not a whole number from 0"),
        (1.0, Whole(), "it is 1.0, not a whole number from 0"),
        (10**9, Whole(1, 4096), "it is 1000000000, not a whole number from 1 to 4,096"),
        ({}, Whole(1), "it is an object, not a whole number from 1"),
        (2, Real(0), ""),
        (-0.5, Real(0), "it is -0.5, not a number of at least 0"),
        (float("nan"), Real(), "it is NaN, not a number"),
        ("yes", Flag(), 'it is "yes", not true or false'),
        ("a" * 11, Text(10), "it is longer than 10 characters"),
        (None, Text(), "it is null, not text"),
        (None, Maybe(Text()), ""),
        ("vq", OneOf(("vq", "kl")), ""),
        ("xx", OneOf(("vq", "kl")), 'it is "xx", not "vq" or "kl"'),
        (["a"], OneOf(("a",)), 'it is a list, not "a"'),
        ("ABC", Hex(3), 'it is "ABC", not a digest of 3 digits'),
        ("../x", FileName(), 'it is "../x", a file outside its folder'),
        ([{"name": "a", "count": 1, "more": []}], SHARDS, ""),
        ([], SHARDS, "it has 0 entries"),
        ([{"name": "a", "count": -1}], SHARDS, "it[0].count is -1, not a whole number from 0"),
        ([{"name": "a", "count": 1}, {"count": 1}], SHARDS, "it[1].name is missing"),
        ([{"name": "a", "count": 1}] * 2, SHARDS, 'it holds "a" twice'),
        ({"shards": "a"}, Object({"shards": SHARDS}), 'shards is "a", not a list'),
        ({"a": 1}, Object(others=Text()), "a is 1, not text"),
        ([], Object(), "it is a list, not an object"),
    ],
)
def test_shapes(content: Any, shape: Shape, problem: str) -> None:
    assert shape.misfit(content) == problem
    if not problem:
        assert shaped("x", content, shape) is content
        return
    with pytest.raises(InputError) as raised:
        shaped("x", content, shape, "make it again")
    assert str(raised.value) == f"x: is damaged ({problem}): make it again."


def test_the_digest_of_bytes_however_they_come() -> None:
    data = np.random.default_rng(0).integers(0, 256, 9 << 20, dtype=np.uint8)
    expected = xxhash.xxh3_64_hexdigest(data.tobytes())
    assert content_digest(data) == content_digest(data.tobytes()) == expected
    assert content_digest(data.view(np.float16).reshape(-1, 4)) == expected
    assert content_digest(b"") == content_digest("") == content_digest(np.empty((0, 3))) == "2d06800538d394c2"


def test_json_that_carries_its_digest() -> None:
    content = {"b": [1, 2.5, None], "a": {10: "ten", 9: ("n", "ü")}, "name": "x\udcff"}
    written = with_check(content)
    read = parse_json("x", json_text(written, indent=2))
    assert without_check("x", read) == {"b": [1, 2.5, None], "a": {"10": "ten", "9": ["n", "ü"]}, "name": "x\udcff"}
    with pytest.raises(InputError, match="x: is damaged: its content does not match its digest"):
        without_check("x", {**read, "b": [1, 2.5, 0]})
    with pytest.raises(InputError, match="is damaged"):
        without_check("x", {**read, "check": None})
    assert without_check("x", {"b": 1}) == {"b": 1}
