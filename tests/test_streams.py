"""Streams of shards are read as shards are, whatever they hold."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import select
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import dprune, dprune_process, image_bytes, members, sample, warm_python, write_tar
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_tar import Memory

from dprune.errors import InputError, Interrupted
from dprune.formats.tar import TarMember, member_bytes, walk
from dprune.packing.streams import ForwardBytes, Stream, Streams
from dprune.runtime import Monitor, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dprune.packing.samples import Sample


@pytest.mark.parametrize("way", ["stdin", "pipe", "url", "gzip"])
def test_streams_give_the_same_shards(shards: Path, tmp_path: Path, way: str) -> None:
    tars = sorted(shards.glob("*.tar"))
    dprune("pack", *tars, "-o", tmp_path / "indexed", "--shard-size", 4).ok()
    out, stdin = tmp_path / "out", b""
    if way == "stdin":
        sources, stdin = ["-"], tars[0].read_bytes()
        dprune("pack", tars[0], "-o", tmp_path / "indexed", "--shard-size", 4, "--overwrite").ok()
    elif way == "pipe":
        sources = [f"pipe:cat {tar}" for tar in tars]
    elif way == "url":
        sources = [f"file://{tar}" for tar in tars]
    else:
        sources = [f"pipe:gzip -c {tar}" for tar in tars]
    done = dprune_process("pack", *sources, "-o", out, "--shard-size", 4, "--workers", 0, stdin=stdin)
    done.ok()
    assert list(members(out).items()) == list(members(tmp_path / "indexed").items())
    again = dprune_process("pack", *sources, "-o", out, "--shard-size", 4, stdin=stdin)
    again.fails(3, "exists and was made differently")


@pytest.mark.parametrize("cut", [700, 1024, 5000])
def test_cut_streams_are_noticed(shards: Path, tmp_path: Path, cut: int) -> None:
    data = (shards / "000000.tar").read_bytes()
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    for stdin in (data[:end], data[: end - cut]):
        dprune("pack", "-", "-o", tmp_path / "out", stdin=stdin).fails(3, "stdin")
        assert not list((tmp_path / "out").glob("manifest.json"))
    dprune("pack", "-", "-o", tmp_path / "out", stdin=b"not a tar").fails(3, "stdin")
    dprune("pack", "pipe:exit 3", "-o", tmp_path / "out").fails(3, "pipe:exit 3")


def test_streams_and_files_do_not_mix(shards: Path, tmp_path: Path) -> None:
    dprune("pack", "-", shards, "-o", tmp_path / "out").fails(2, "stdin: a stream is packed with other streams only")
    np.save(tmp_path / "k.npy", np.array([1]))
    dprune("pack", "-", "--subset", tmp_path / "k.npy", "-o", tmp_path / "out").fails(2, "pack - first")


def test_samples_of_a_stream_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = [part for i in range(20) for part in sample(f"s{i}", i)]
    tar = write_tar(tmp_path / "in.tar", originals)
    events: list[str] = []
    read, write = Streams.read, member_bytes

    def watched(self: Streams, monitor: Monitor) -> Iterator[Sample]:
        for item in read(self, monitor):
            events.append("read")
            yield item

    monkeypatch.setattr(Streams, "read", watched)
    monkeypatch.setattr(
        "dprune.formats.shard_journal.member_bytes", lambda *args: events.append("write") or write(*args)
    )
    dprune("pack", f"file://{tar}", "-o", tmp_path / "out", "--workers", 2).ok()
    assert events == ["read", "write"] * 20
    events.clear()
    dprune("pack", f"file://{tar}", "-o", tmp_path / "two", "--workers", 2, "--size", 8).ok()
    assert events.index("write") <= 41, "two chunks of eight a worker and one more"


def test_a_stream_ends_with_a_full_shard(shards: Path, tmp_path: Path) -> None:
    dprune("pack", f"file://{shards}/000002.tar", "-o", tmp_path / "out", "--shard-size", 3).ok()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    assert len(members(tmp_path / "out")) == 12


def test_repeated_keys_of_streams(tmp_path: Path) -> None:
    tar, out = write_tar(tmp_path / "in.tar", sample("same", 1)), tmp_path / "out"
    dprune("pack", f"file://{tar}", f"file://{tar}", "-o", out).fails(3, "'same'", "twice", "--keys unique")
    dprune("pack", f"file://{tar}", f"file://{tar}", "-o", out, "--keys", "unique", "--overwrite").ok()
    assert list(members(out)) == ["same.png", "same-2.png"]


@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_tars_are_read_as_streams(shards: Path, tmp_path: Path, suffix: str, module: Any) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for tar in shards.glob("*.tar"):
        (folder / f"{tar.name}.{suffix}").write_bytes(module.compress(tar.read_bytes()))
    dprune("pack", shards, "-o", tmp_path / "indexed").ok()
    for number, sources in enumerate([sorted(folder.iterdir()), [folder / "{000000..000002}.tar.*"], [folder]]):
        dprune("pack", *sources, "-o", tmp_path / f"{number}").ok()
        assert members(tmp_path / f"{number}") == members(tmp_path / "indexed")
    np.save(tmp_path / "k.npy", np.array([1]))
    dprune("pack", folder, "--subset", tmp_path / "k.npy", "-o", tmp_path / "out").fails(2, "pack", "first")
    dprune("score", "random", folder / f"000000.tar.{suffix}").fails(3, "is compressed", "run dprune pack on it")
    cut = folder / f"000001.tar.{suffix}"
    cut.write_bytes(cut.read_bytes()[:-20])
    dprune("pack", folder, "-o", tmp_path / "out").fails(3, cut.name)
    # Cut before it was compressed, at the end of a member.
    cut.write_bytes(module.compress((shards / "000001.tar").read_bytes().rstrip(b"\0")))
    dprune("pack", folder, "-o", tmp_path / "out").fails(3, cut.name, "end marker")


def test_zstd_needs_a_package(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfdsqueezed")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    dprune("pack", tmp_path / "a.tar.zst", "-o", tmp_path / "out").fails(3, "zstandard", "pipe:'zstd -dc FILE'")
    plain = io.BytesIO((shards / "000000.tar").read_bytes())
    decompressor = SimpleNamespace(stream_reader=lambda *args, **options: plain)
    monkeypatch.setitem(sys.modules, "zstandard", SimpleNamespace(ZstdDecompressor=lambda: decompressor))
    dprune("pack", tmp_path / "a.tar.zst", "-o", tmp_path / "out").ok()
    assert len(members(tmp_path / "out")) == 14


def test_streams_are_held_to_what_shards_are(tmp_path: Path) -> None:
    def refused(parts: list[tuple[str, bytes]], *words: str, tail: bytes = b"") -> None:
        tar = write_tar(tmp_path / "in.tar", parts)
        with tar.open("ab") as file:
            file.write(tail)
        for source in (tar, f"pipe:cat {tar}"):
            dprune("pack", source, "-o", tmp_path / "out").fails(3, "in.tar", *words)
            assert not (tmp_path / "out").exists()

    a, b = sample("a", 1, 0), sample("b", 2, 1)
    refused([a[0], b[0], a[1], b[1]], "'a'", "not adjacent")
    refused([*a, *b, *a], "'a'", "twice")
    refused([a[0], a[0]], "a.png", "twice")
    refused(a, "after the tar end marker", tail=write_tar(tmp_path / "b.tar", b).read_bytes())
    damaged = write_tar(tmp_path / "in.tar", a).read_bytes()
    start = damaged.index(b"a.cls")
    (tmp_path / "in.tar").write_bytes(damaged[:start] + b"x" + damaged[start + 1 :])
    dprune("pack", f"pipe:cat {tmp_path / 'in.tar'}", "-o", tmp_path / "out").fails(3, "is damaged at byte")


def test_keys_of_streams_without_an_image_are_counted(tmp_path: Path) -> None:
    labels = [("b.cls", b"1"), ("c.cls", b"2"), ("d.input.png", b"3")]
    tar = write_tar(tmp_path / "in.tar", [*sample("a", 1, 0), *labels])
    result = dprune("pack", f"pipe:cat {tar}", "-o", tmp_path / "out").ok()
    assert "3 keys have no image; their suffixes: cls (2), input.png (1): name one with --image-member" in result.err
    assert list(members(tmp_path / "out")) == ["a.png", "a.cls"]
    write_tar(tar, labels)
    dprune("pack", f"pipe:cat {tar}", "-o", tmp_path / "none").fails(
        3, "holds no image that can be used", "3 keys have no image"
    )


class Asking(Silent):
    """A monitor that asks to stop when it is told to."""

    asks = False

    def stop_requested(self) -> bool:
        return self.asks


def test_a_command_that_outlives_its_output_can_be_stopped() -> None:
    monitor = Asking()
    with contextlib.closing(Stream("pipe:echo x; exec >&-; sleep 60", monitor)) as stream:
        assert stream.read(2) == b"x\n"
        select.select([stream._file], [], [])
        threading.Timer(0.1, setattr, (monitor, "asks", True)).start()
        with pytest.raises(Interrupted):
            stream.read(1)


def test_a_command_that_ends_of_the_same_signal_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False])
    monkeypatch.setattr(Asking, "stop_requested", lambda monitor: next(answers, True))
    with contextlib.closing(Stream("pipe:exit 3", Asking())) as stream, pytest.raises(Interrupted):
        stream.read(1)


def test_a_stream_that_waits_can_be_stopped(tmp_path: Path) -> None:
    command = [warm_python(), "-m", "dprune", "pack", "-", "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "out" / ".dprune" / "manifest.json").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 75


def test_a_stream_that_fails_says_why_and_leaves_nothing(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    dprune("pack", "pipe:exit 3", "-o", out).fails(3, "pipe:exit 3", "exit code 3")
    dprune("pack", f"pipe:cat {shards}/000000.tar; exit 4", "-o", out).fails(3, "ended with exit code 4")
    dprune("pack", "nosuch://x/y.tar", "-o", out).fails(3, "nosuch://x/y.tar")
    assert not out.exists()
    dprune("pack", "sklearn:digits", "-o", out, "--workers", 0).ok()


def test_members_that_are_chosen_become_those_that_all_read(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(picture, "TIFF")
    parts = [("a.input.tif", picture.getvalue()), ("a.png", image_bytes(1)), ("a.json", b'{"label": 3}')]
    tar = write_tar(tmp_path / "in.tar", [*parts, *sample("b", 2)])
    chosen = ["--image-member", "input.tif", "--label-member", "json:label"]
    for number, source in enumerate([tar, f"pipe:cat {tar}"]):
        out = tmp_path / f"{number}"
        result = dprune("pack", source, "-o", out, *chosen, "--workers", 0).ok()
        assert "1 key has no image; their suffixes: png (1)" in result.err
        found = members(out)
        assert set(found) == {"a.png", "a.other.png", "a.json", "a.cls"}
        assert Image.open(io.BytesIO(found["a.png"])).getpixel((0, 0)) == (255, 0, 0)
        assert (found["a.other.png"], found["a.cls"]) == (image_bytes(1), b"3")
        record = json.loads((out / "manifest.json").read_text())["provenance"]
        assert record["options"]["image_member"] == "input.tif"
        assert record["findings"]["left_out"] == {"keys without an image": 1}
    dprune("pack", f"pipe:cat {tar}", "-o", tmp_path / "1").fails(3, "made differently", "image_member")


def test_links_in_streams_are_refused(tmp_path: Path) -> None:
    with tarfile.open(write_tar(tmp_path / "in.tar", sample("a", 1)), "a") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    dprune("pack", f"pipe:cat {tmp_path / 'in.tar'}", "-o", tmp_path / "out").fails(3, "links", "save it as a .tar")


# The walk


class Trickle:
    """A file that gives as few bytes at a time as it likes."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file, self._most = io.BytesIO(data), most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def walked(source: Any) -> list[tuple[str, bytes | str]] | None:
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
    assert walked(ForwardBytes("x.tar", Trickle(data, most))) == walked(Memory(data))


def test_a_stream_gives_the_members_of_the_shard(whole: bytes) -> None:
    found = walked(ForwardBytes("x.tar", Trickle(whole, 100)))
    assert found == walked(Memory(whole))
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


@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_seventy_damages_of_a_compressed_tar(tmp_path: Path, whole: bytes, suffix: str, module: Any) -> None:
    path = tmp_path / f"a.tar.{suffix}"

    def read(data: bytes) -> list[tuple[str, list[tuple[str, bytes]]]] | None:
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            return [(sample.key, sample.members) for sample in Streams([str(path)]).read(Silent())]
        return None

    packed = module.compress(whole)
    expected = read(packed)
    assert expected is not None
    other = [way for way, data in damaged(packed, suffix) if read(data) not in (None, expected)]
    assert other == []
