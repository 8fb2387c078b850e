"""What people name: lists, globs and brace expressions that stand for more than there is, or for themselves."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, ends_within

from dprune.errors import InputError, UsageError
from dprune.formats import locations, whole_files
from dprune.formats.arrays import NPY_MAGIC
from dprune.formats.shards import open_dataset
from dprune.scoring.settings import parse_sigmas

# What a few characters can stand for.


def hostile_lists(folder: Path) -> dict[str, str]:
    """Lists that never end, each with a word that the sentence about it holds."""
    (folder / "self").write_text(f"@{folder}/self\n")
    (folder / "one").write_text(f"@{folder}/two\n")
    (folder / "two").write_text(f"{folder}\n@{folder}/one\n")
    (folder / "empty").write_text("\n" * 10)
    for number in range(8):
        below = "empty" if number == 0 else f"wide{number - 1}"
        (folder / f"wide{number}").write_text(f"@{folder}/{below}\n" * 20)
    for number in range(20):
        below = f"deep{number - 1}" if number else "empty"
        (folder / f"deep{number}").write_text(f"@{folder}/{below}\n")
    (folder / "nul").write_bytes(b"a\0b.tar\n")
    (folder / "bytes").write_bytes(b"\xff\xfe.tar\n")
    os.mkfifo(folder / "fifo")
    return {
        "self": "names itself", "one": "names", "wide7": "more than", "deep19": "nested more than", "nul": "no such",
        "bytes": "no such", "fifo": "no shards given",
    }  # fmt: skip


def test_lists_that_never_end_are_one_sentence(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "MOST", 1000)
    begun = time.monotonic()
    for name, words in hostile_lists(shards).items():
        with pytest.raises(InputError, match=words):
            open_dataset([f"@{shards}/{name}"])
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="is a device"):
            open_dataset([f"@{device}"])
    assert time.monotonic() - begun < 1


def test_a_list_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "LONGEST_LIST", 8)
    (tmp_path / "list").write_text("more-than-eight.tar\n")
    with pytest.raises(InputError, match="more than 8 bytes"):
        open_dataset([f"@{tmp_path}/list"])


@pytest.mark.parametrize(
    "source", ["{0..999999999}.tar", "{0..9}" * 60, "{a,{1..999999999}}{x,y}", "s3://b/{0..9999999}", "{" * 5000]
)
def test_braces_that_stand_for_too_much_are_one_sentence(source: str) -> None:
    begun = time.monotonic()
    dprune("embed", source, "--model", "pixels", "-o", "never").fails(3, "{")
    assert time.monotonic() - begun < 1


def test_sources_have_one_limit_together(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "MOST", 3)
    assert len(open_dataset([str(shards)]).shards) == 3
    for sources in ([shards, shards], [shards / "*.tar", shards / "{000000..000001}.tar"], [shards / "*", shards]):
        with pytest.raises(InputError, match="more than 3"):
            open_dataset([str(source) for source in sources])
    (shards / "more.txt").touch()
    with pytest.raises(InputError, match="more than 3"):
        open_dataset([str(shards / "*")])


def test_a_file_that_a_glob_finds_is_no_list(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)
    (shards / "@passwords.tar").write_bytes((shards / "000000.tar").read_bytes())
    assert [shard.location for shard in open_dataset(["*.tar"]).shards][-1] == "@passwords.tar"


def test_lines_of_a_list_end_at_newlines_alone(shards: Path) -> None:
    odd = shards / "a\x85b\x0cc.tar"
    odd.write_bytes((shards / "000000.tar").read_bytes())
    (shards / "list").write_text(f"{odd}\r\n\n{shards / '000001.tar'}")
    assert [shard.name for shard in open_dataset([f"@{shards}/list"]).shards] == [odd.name, "000001.tar"]


# Options.


@pytest.mark.parametrize("sweep", ["1:999999999999:1", "1:1002:1", "9" * 5000 + ":" + "9" * 5000, "1:2:" + "9" * 5000])
def test_a_sweep_has_a_limit(sweep: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    dprune("cluster", tmp_path / "x.npy", "--sweep", sweep, "-o", tmp_path / "sweep").fails(2, "--sweep", "STEP")
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("only", ["/dev/zero", "/dev/null", "fifo", "missing", "large", "bytes", "words"])
def test_groups_of_a_file_that_is_none(only: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"1 " * (5 << 20))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x001")
    (tmp_path / "words").write_text("one, two")
    for name in ("scores", "groups"):
        np.save(tmp_path / f"{name}.npy", np.arange(8))
    begun = time.monotonic()
    args = ("select", tmp_path / "scores.npy", "--groups", tmp_path / "groups.npy", "--keep", "2")
    result = dprune(*args, "--only", f"@{tmp_path / only}", "-o", tmp_path / "k.npy")
    assert result.code in (2, 3)
    result.fails(result.code, only if only != "fifo" else "--only")
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("amount", ["1.e999999999", "1e-999999999%", "1/" + "9" * 9999, "9" * 9999, "0." + "0" * 9999])
def test_an_amount_is_a_number_that_can_be_written_out(amount: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    dprune("select", tmp_path / "x.npy", "--keep", amount).fails(2, "neither a share")
    assert time.monotonic() - begun < 1


def test_noise_levels_have_a_limit() -> None:
    with pytest.raises(UsageError, match="101 noise levels"):
        parse_sigmas(",".join(str((number + 1) / 200) for number in range(101)))


NEVER = [("select", "{}", "--keep", "1", "--count"), ("select", "--within", "{}"), ("info", "{}"), ("cluster", "{}"),
         ("report", "{}"), ("pack", "SHARDS", "--subset", "{}"), ("score", "cluster-distance", "{}"),
         ("sample", "{}", "--vae", "{}", "--seeds", "0"), ("eval", "{}", "{}"), ("memorization", "{}", "{}"),
         ("pack", "{}"), ("embed", "{}", "--model", "pixels"), ("train-dit", "{}"),
         ("encode", "SHARDS", "--vae", "{}"), ("embed", "SHARDS", "--model", "timm:resnet10t", "--weights", "{}"),
         ("select", "--order", "random", "--keep", "1", "--count", "--clusters", "{}")]  # fmt: skip


@pytest.mark.parametrize("name", ["/dev/zero", "fifo"])
@pytest.mark.parametrize("args", NEVER)
def test_what_never_ends_is_not_read(args: tuple[str, ...], name: str, shards: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    place = str(tmp_path / name)
    words = [arg.replace("{}", place).replace("SHARDS", str(shards)) for arg in args]
    output = () if args[0] == "info" else ("-o", tmp_path / "out")
    with ends_within(20):
        dprune(*words, *output).fails(3, name)


# What comes through pipes.


class Endless(io.RawIOBase):
    """A pipe that never ends: what it begins with, and then one byte for ever."""

    def __init__(self, begin: bytes, fill: bytes) -> None:
        self.begin, self.fill, self.given = begin, fill, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data, self.begin = self.begin[: len(buffer)], self.begin[len(buffer) :]
        buffer[:] = data + self.fill * (len(buffer) - len(data))
        self.given += len(buffer)
        assert self.given < 10 << 20
        return len(buffer)


def npy_bytes(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    "begin", [b"", b"s0\ns1\n", npy_bytes(np.arange(4)), b"\x93NUMPY\x01\x00v\x00{", b"\x93NUMPY\x09"]
)
@pytest.mark.parametrize("fill", [b"\n", b"\0"])
def test_a_pipe_has_an_end(begin: bytes, fill: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "MOST", 1 << 20)
    monkeypatch.setattr(whole_files, "BEHIND", 1 << 20)
    with pytest.raises(InputError, match="x: goes on for more than"):
        whole_files._piped("x", io.BufferedReader(Endless(begin, fill)), b"")
    if not begin.startswith(NPY_MAGIC):
        assert len(whole_files._piped("x", io.BufferedReader(Endless(begin, fill)), NPY_MAGIC)) < 1 << 20


def test_a_pipe_may_hold_a_large_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "MOST", 1000)
    monkeypatch.setattr(whole_files, "BEHIND", 100)
    data = npy_bytes(np.zeros((1000, 100))) + b"x" * 99
    assert whole_files._piped("x", io.BytesIO(data), NPY_MAGIC) == data


def test_an_array_comes_from_another_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    data = npy_bytes(np.arange(40_000, dtype=np.float32))
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(data))
    writer.start()
    # Whoever opens it without waiting must find the other there.
    time.sleep(0.1)
    with ends_within(20):
        dprune("select", tmp_path / "fifo", "--keep", "5", "-o", tmp_path / "k.npy").ok()
    writer.join()
    assert np.load(tmp_path / "k.npy").tolist() == [0, 1, 2, 3, 4]
