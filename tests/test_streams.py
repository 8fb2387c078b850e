"""Streams of shards are read as shards are, whatever they hold."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from conftest import sample, write_tar
from hypothesis import given
from hypothesis import strategies as st
from test_tar import Memory

from dprune.errors import InputError
from dprune.formats.tar import TarMember, walk
from dprune.packing.streams import ForwardBytes


class Trickle:
    """A file that gives as few bytes at a time as it likes."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def members(source: Any) -> list[tuple[str, bytes | str]] | None:
    """Names and contents, None for what is refused."""
    with contextlib.suppress(InputError):
        return [
            (entry.name, source.read(entry.offset, entry.size) if isinstance(entry, TarMember) else entry.target)
            for entry in walk(source)
        ]
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    parts = [part for i in range(3) for part in sample("n" * 120 * i + f"k{i}", i, i)]
    return write_tar(tmp_path_factory.mktemp("tar") / "a.tar", parts).read_bytes()


@given(st.binary(max_size=600), st.integers(0, 9000), st.integers(-1200, 1200), st.sampled_from([1, 512, 7000]))
def test_a_damaged_stream_gives_what_the_damaged_shard_does(
    whole: bytes, noise: bytes, begin: int, skip: int, most: int
) -> None:
    data = whole[:begin] + noise + whole[max(0, begin + len(noise) + skip) :]
    assert members(ForwardBytes("x.tar", Trickle(data, most))) == members(Memory(data))


def test_a_stream_gives_the_members_of_the_shard(whole: bytes) -> None:
    found = members(ForwardBytes("x.tar", Trickle(whole, 100)))
    assert found == members(Memory(whole))
    assert found is not None
    assert len(found) == 6


def test_a_stream_is_not_read_backwards(whole: bytes) -> None:
    stream = ForwardBytes("x.tar", Trickle(whole, 100))
    assert stream.read(1000, 20) == whole[1000:1020]
    assert stream.read(1000, 40) == whole[1000:1040]
    with pytest.raises(InputError, match=r"x.tar: "):
        stream.read(999, 1)
    assert stream.read(len(whole) + 5, 1) == b""
    assert stream.size == len(whole)
