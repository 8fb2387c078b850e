"""Uids of DataComp: as text and in arrays, in subsets and on their way from and to the samples of shards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DATA, dprune, image_bytes, members, write_tar
from hypothesis import given
from hypothesis import strategies as st

from dprune.formats.columns import padded_ascii
from dprune.formats.uids import DIGITS, UID, UidSet, decode_digits, is_uids, parse_uids

SHARDS = DATA / "datacomp" / "shards"
HALF = st.integers(0, 2**64 - 1)


def uids_of(folder: Path) -> list[str]:
    """The uid of each sample, as its JSON says."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(info))["uid"] for info in tar if info.name.endswith(".json")]  # type: ignore[arg-type]
    return found


def array(texts: list[str]) -> np.ndarray:
    """Made as DataComp's baselines/utils.py does, in the dtype of its resharder.py."""
    uids = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in texts], np.dtype("u8,u8"))
    uids.sort()
    return uids


@given(st.lists(st.tuples(HALF, HALF), max_size=20))
def test_text_is_read_as_int_reads_it(pairs: list[tuple[int, int]]) -> None:
    texts = [f"{high:016x}{low:016x}" for high, low in pairs]
    wanted = np.array([divmod(int(text, 16), 2**64) for text in texts], UID)
    column = pa.chunked_array([texts[:7], texts[7:]], pa.string())
    for found in (parse_uids(texts), decode_digits(padded_ascii(column, DIGITS, "0"))):
        assert found.dtype == np.dtype("u8,u8")
        np.testing.assert_array_equal(found, wanted)


def test_short_texts_are_filled_up_as_datacomps_resharder_does() -> None:
    texts = ["1", "Ff", "0" * 31 + "a"]
    wanted = np.array([(0, 1), (0, 255), (0, 10)], UID)
    np.testing.assert_array_equal(parse_uids(texts), wanted)
    np.testing.assert_array_equal(decode_digits(padded_ascii(pa.chunked_array([texts]), DIGITS, "0")), wanted)


@pytest.mark.parametrize("text", ["", "x", "0" * 33, "é", "0x1", "1 ", "-1", "\uff11"])
def test_what_is_no_uid(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_uids(["12", text])
    with pytest.raises(ValueError, match=r"."):
        decode_digits(padded_ascii(pa.chunked_array([["12", text]]), DIGITS, "0"))


SMALL = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=30)


@given(SMALL, SMALL)
def test_a_set_holds_what_is_in_it(inside: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    known = UidSet(np.array(inside, UID))
    assert [tuple(uid) for uid in known.values.tolist()] == sorted(set(inside))
    order = sorted(set(inside))
    assert known.find(np.array(asked, UID)).tolist() == [order.index(u) if u in order else -1 for u in asked]


def test_a_million_uids_in_little_time() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**63, (1_000_000, 2)).astype("u8")
    texts = numbers.byteswap().tobytes().hex()
    column = pa.chunked_array([[texts[at : at + 32] for at in range(0, len(texts), 32)]])
    uids = decode_digits(padded_ascii(column, DIGITS, "0"))
    np.testing.assert_array_equal(uids["f0"], numbers[:, 0])
    assert (UidSet(uids[::3]).find(uids) >= 0).sum() == 333_334
    # In one half alone they differ, which is what a set sorted by the other does not tell.
    uids["f0"] = 7
    assert (UidSet(uids[::3]).find(uids) >= 0).sum() == 333_334


@pytest.mark.parametrize("dtype", ["u8,u8", ">u8,>u8", [("high", "u8"), ("low", "u8")]])
def test_uids_are_told_by_their_dtype(dtype: object) -> None:
    assert is_uids(np.zeros(3, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["u8", "u8,u8,u8", "i8,u8", "u4,u8", "f8,f8"])
def test_others_are_none(dtype: str) -> None:
    assert not is_uids(np.zeros(3, np.dtype(dtype)))
    assert not is_uids(np.zeros((3, 2), np.dtype("u8,u8")))


@pytest.fixture
def wanted(tmp_path: Path) -> tuple[list[int], Path]:
    """Ids of samples, and a subset of DataComp's with their uids among those of samples that were never downloaded."""
    ids = [1, 4, 10, 18]
    lost = [hashlib.md5(f"lost {number}".encode()).hexdigest() for number in range(3)]
    np.save(tmp_path / "uids.npy", array([*(uids_of(SHARDS)[number] for number in ids), *lost]))
    return ids, tmp_path / "uids.npy"


@pytest.mark.parametrize("known_by", ["table", "json", "json without pyarrow", "table without uids"])
def test_a_subset_of_datacomps_is_one_of_samples(
    wanted: tuple[list[int], Path], known_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, subset = wanted
    folder = Path(shutil.copytree(SHARDS, tmp_path / "shards"))
    for path in folder.glob("*.parquet"):
        if known_by == "json":
            path.unlink()
        elif known_by == "table without uids":
            pq.write_table(pq.read_table(path).drop_columns(["uid"]), path)
        elif known_by == "table":
            # Tables are taken where they are: another uid there is another uid.
            table = pq.read_table(path)
            others = [hashlib.md5(uid.encode()).hexdigest() for uid in table["uid"].to_pylist()]
            pq.write_table(table.set_column(0, "uid", pa.array(others)), path)
    if known_by == "table":
        np.save(subset, array([hashlib.md5(uids_of(SHARDS)[number].encode()).hexdigest() for number in ids]))
    if known_by == "json without pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = dprune("select", "--within", subset, "--shards", folder, "-o", tmp_path / "k.npy").ok()
    assert np.load(tmp_path / "k.npy").tolist() == ids
    assert ("3 of its 7 uids match no sample" in result.err) == (known_by != "table")
    np.save(tmp_path / "all.npy", np.arange(19))
    args = ("select", "--within", tmp_path / "all.npy", "--without", subset, "--shards", folder)
    dprune(*args, "-o", tmp_path / "rest.npy").ok()
    assert sorted([*np.load(tmp_path / "rest.npy"), *ids]) == list(range(19))
    dprune("pack", folder, "--subset", subset, "-o", tmp_path / "p").ok()
    dprune("pack", folder, "--subset", tmp_path / "k.npy", "-o", tmp_path / "q").ok()
    assert members(tmp_path / "p") == members(tmp_path / "q")
    assert len([name for name in members(tmp_path / "p") if name.endswith(".jpg")]) == 4


def test_what_select_writes_is_what_datacomps_resharder_reads(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([18, 3, 5]))
    args = ("select", "--within", tmp_path / "ids.npy", "--shards", SHARDS, "--format", "datacomp")
    dprune(*args, "-o", tmp_path / "u.npy").ok()
    data = (tmp_path / "u.npy").read_bytes()
    subset = np.load(tmp_path / "u.npy", mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    np.testing.assert_array_equal(subset, array([uids_of(SHARDS)[number] for number in (3, 5, 18)]))
    # Its own search, for each sample: how often it is to be taken.
    uids = [np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0] for uid in uids_of(SHARDS)]
    counts = [np.searchsorted(subset, uid, "right") - np.searchsorted(subset, uid, "left") for uid in uids]
    assert np.flatnonzero(counts).tolist() == [3, 5, 18]
    assert dprune(*args).ok().out == data
    assert "up to date" in dprune(*args, "-o", tmp_path / "u.npy").ok().err
    found = json.loads(dprune("info", tmp_path / "u.npy", "--json").ok().out)["files"][0]
    assert (found["kind"], found["content"]["uids"], found["digests"]) == ("uids", 3, "whole")
    assert found["provenance"]["options"]["format"] == "datacomp"


def shard(path: Path, uids: list[object], *, key: str = "s") -> Path:
    rows = [(f"{key}{row}", json.dumps({"uid": uid} if uid is not None else {})) for row, uid in enumerate(uids)]
    parts = [part for name, text in rows for part in ((f"{name}.png", image_bytes(1)), (f"{name}.json", text.encode()))]
    return write_tar(path, parts)


def test_samples_that_share_a_uid_are_taken_together_and_written_once(tmp_path: Path) -> None:
    shard(tmp_path / "d" / "0.tar", ["aa", "bb", "aa"])
    np.save(tmp_path / "u.npy", array(["aa".rjust(32, "0")] * 2))
    dprune("select", "--within", tmp_path / "u.npy", "--shards", tmp_path / "d", "-o", tmp_path / "k.npy").ok()
    assert np.load(tmp_path / "k.npy").tolist() == [0, 2]
    args = ("--within", tmp_path / "k.npy", "--shards", tmp_path / "d", "--format", "datacomp")
    dprune("select", *args, "-o", tmp_path / "v.npy").ok()
    assert np.load(tmp_path / "v.npy").tolist() == [(0, 0xAA)]


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        (None, "s1 has no uid"),
        (5, "s1 has no uid"),
        ("no", "'no' is not a uid"),
        ("0" * 40, "is not a uid of up to 32"),
    ],
)
def test_samples_without_uids(tmp_path: Path, uid: object, words: str) -> None:
    path = shard(tmp_path / "0.tar", ["aa", uid])
    np.save(tmp_path / "u.npy", array(["aa".rjust(32, "0")]))
    dprune("pack", path, "--subset", tmp_path / "u.npy", "-o", tmp_path / "p").fails(3, "0.tar", words)


def test_tables_that_do_not_fit(tmp_path: Path, wanted: tuple[list[int], Path]) -> None:
    folder = Path(shutil.copytree(SHARDS, tmp_path / "shards"))
    table = pq.read_table(folder / "00000001.parquet")
    args = ("select", "--within", wanted[1], "--shards", folder)
    pq.write_table(table.slice(0, 4), folder / "00000001.parquet")
    dprune(*args).fails(3, "00000001.parquet: has no row with the key '000000010004'")
    pq.write_table(table.set_column(0, "uid", pa.array(["g"] * 6)), folder / "00000001.parquet")
    dprune(*args).fails(3, "00000001.parquet: holds no uids of DataComp")
    pq.write_table(table.set_column(0, "uid", pa.array(range(6))), folder / "00000001.parquet")
    dprune(*args).fails(3, "00000001.parquet: holds no uids of DataComp")
    (folder / "00000001.parquet").write_bytes(b"PAR1")
    dprune(*args).fails(3, "00000001.parquet: is damaged or cut short")


def test_a_subset_of_others_names_nobody(tmp_path: Path) -> None:
    np.save(tmp_path / "u.npy", array(["f" * 32]))
    for args in (("select", "--within", tmp_path / "u.npy", "--shards", SHARDS), ("pack", SHARDS, "--subset",
                                                                                 tmp_path / "u.npy", "-o",
                                                                                 tmp_path / "p")):  # fmt: skip
        dprune(*args).fails(3, "u.npy", "none of its 1 uids")


def test_metadata_without_uids(tmp_path: Path, wanted: tuple[list[int], Path]) -> None:
    folder = Path(shutil.copytree(DATA / "datacomp" / "embeddings", tmp_path / "clip"))
    found = dprune("select", "--within", wanted[1], "--shards", folder, "-o", tmp_path / "rows.npy").ok()
    assert "kept: 4" in found.err
    for path in (folder / "metadata").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["uid"]), path)
    dprune("select", "--within", wanted[1], "--shards", folder).fails(3, "metadata_0.parquet", "--enable_metadata")


def test_where_nobody_knows_uids_the_way_to_ids_is_named(tmp_path: Path, wanted: tuple[list[int], Path]) -> None:
    dprune("select", "--within", wanted[1]).fails(3, "holds uids of DataComp", "--shards")
    rows = DATA / "datacomp" / "embeddings"
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(19, 4)))
    args = ("memorization", tmp_path / "x.npy", tmp_path / "x.npy", "--subset", wanted[1], "-o", tmp_path / "m")
    dprune(*args).fails(3, "uids of DataComp", "dprune select --within")
    assert "train: 4" in dprune("memorization", rows, rows, *args[3:]).ok().err
