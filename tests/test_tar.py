"""The walk over tar headers, held to the standard library's and to webdataset's reading of the same files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import write_tar
from hypothesis import example, given
from hypothesis import strategies as st

from dprune.errors import InputError
from dprune.formats.members import split_name
from dprune.formats.tar import BLOCK, END_MARKER, TarMember, follow, member_bytes, read_member, walk

LONG = "folder/" + "n" * 130 + ".jpg"
UNICODE = "Straße/猫 é.jpg"


@dataclass
class Memory:
    """Bytes in memory, read as a shard is."""

    data: bytes
    name: str = "x.tar"
    stated: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.stated is None else self.stated

    def read(self, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert size >= 0
        return self.data[offset : offset + size]


def tar_bytes(members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def found(data: bytes) -> list[tuple[str, bytes]]:
    entries = follow(walk(Memory(data)))
    return [(m.name, read_member(Memory(data), *m[1:])) for m in entries if isinstance(m, TarMember)]


def with_checksum(header: bytes) -> bytes:
    total = sum(header[:148]) + sum(header[156:]) + 8 * 32
    return header[:148] + b"%06o\0 " % total + header[156:]


def header_of(name: str, **fields: bytes) -> bytes:
    """A header with some fields overwritten and its checksum right."""
    header = bytearray(member_bytes(name, b"")[:BLOCK])
    for field, value in fields.items():
        begin = {"size": 124, "kind": 156}[field]
        header[begin : begin + len(value)] = value
    return with_checksum(bytes(header))


MEMBERS = [("a.jpg", b"x" * 700), ("a.cls", b"3"), ("empty.json", b""), (LONG, b"y" * 512), (UNICODE, b"z")]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_those_of_the_standard_library(form: int) -> None:
    assert found(tar_bytes(MEMBERS, form)) == MEMBERS


def test_ustar_prefixes() -> None:
    members = [("d" * 90 + "/" + "n" * 90 + ".jpg", b"1")]
    assert found(tar_bytes(members, tarfile.USTAR_FORMAT)) == members


def test_own_members_are_read_by_the_standard_library_and_by_the_walk() -> None:
    data = b"".join(member_bytes(name, content) for name, content in MEMBERS) + END_MARKER
    assert found(data) == MEMBERS
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(m.name, tar.extractfile(m).read()) for m in tar] == MEMBERS  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.uname) for m in tar.getmembers()} == {(0, 0, "")}


@given(st.text(max_size=120), st.integers(0, 3000))
@example("a" * 100, 8)
@example("a" * 101, 8)
@example("d/" + "ä" * 60, 0)
def test_headers_are_those_of_the_standard_library(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return
    assert member_bytes(name, b"x" * size).startswith(header + b"x" * size)


def test_names_that_are_no_unicode_survive() -> None:
    name = b"\xff.jpg".decode("utf-8", "surrogateescape")
    assert found(member_bytes(name, b"1") + END_MARKER) == [(name, b"1")]


def tar_with(*entries: tuple[str, bytes, str | bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of members by name, type, and content or the name that a link leads to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


FILE, HARD, SYMBOLIC = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_links_inside_a_tar_are_followed(form: int) -> None:
    long = "d/" + "n" * 140 + ".jpg"
    data = tar_with(
        ("early.jpg", SYMBOLIC, "d/../late.jpg"), ("d/a.jpg", FILE, b"abc"), ("b.jpg", HARD, "d/a.jpg"),
        ("d/c.jpg", SYMBOLIC, "./a.jpg"), ("e.jpg", SYMBOLIC, "d/c.jpg"), (long, FILE, b"long"), ("f.jpg", HARD, long),
        ("late.jpg", FILE, b"late"), form=form,
    )  # fmt: skip
    assert found(data) == [
        ("early.jpg", b"late"), ("d/a.jpg", b"abc"), ("b.jpg", b"abc"), ("d/c.jpg", b"abc"), ("e.jpg", b"abc"),
        (long, b"long"), ("f.jpg", b"long"), ("late.jpg", b"late"),
    ]  # fmt: skip


def test_links_that_lead_nowhere_stay_links_however_long_their_chain() -> None:
    chain = [(f"{number}.jpg", SYMBOLIC, f"{number + 1}.jpg") for number in range(2000)]
    data = tar_with(("a.jpg", SYMBOLIC, "/etc/passwd"), ("b.jpg", SYMBOLIC, "../x"), ("c.jpg", HARD, "c.jpg"), *chain)
    begun = time.monotonic()
    links = follow(walk(Memory(data)))
    assert time.monotonic() - begun < 1
    assert [entry[:2] for entry in links[:3]] == [("a.jpg", "/etc/passwd"), ("b.jpg", "../x"), ("c.jpg", "c.jpg")]
    assert not any(isinstance(entry, TarMember) for entry in links)


def test_whatever_is_no_file_is_passed_over() -> None:
    data = tar_with(
        ("l" * 120, tarfile.DIRTYPE, "t" * 120), ("m" * 120, HARD, "t" * 120), ("p", tarfile.FIFOTYPE, ""),
        ("a.jpg", FILE, b"abc"),
    )  # fmt: skip
    assert found(data) == [("a.jpg", b"abc")]


def test_the_size_that_a_folder_states_is_not_skipped() -> None:
    data = header_of("folder/", size=b"00000001000\0", kind=b"5") + member_bytes("a.jpg", b"1") + END_MARKER
    assert found(data) == [("a.jpg", b"1")]


def test_a_global_pax_header_changes_nothing() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "hello"}) as tar:
        info = tarfile.TarInfo("a.jpg")
        tar.addfile(info)
    assert found(buffer.getvalue()) == [("a.jpg", b"")]


@pytest.mark.parametrize("size", [5, 9 << 30])
def test_sizes_in_base_256(size: int) -> None:
    field = bytes([0x80]) + size.to_bytes(11, "big")
    data = header_of("a.jpg", size=field) + b"12345"
    walked = walk(Memory(data, stated=BLOCK + (-(-size // BLOCK) * BLOCK) + 2 * BLOCK))
    assert next(walked)[:3] == ("a.jpg", BLOCK, size)


def test_sizes_in_pax_fields() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 9 << 30
    data = info.tobuf(tarfile.PAX_FORMAT)
    assert next(walk(Memory(data, stated=10 << 30)))[:3] == ("a.jpg", len(data), 9 << 30)


WHOLE = tar_bytes(MEMBERS[:2])


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 513, 1211, 1535, 1536, 2047, 2048, 2049, 2560, 2561, 3071])
def test_a_tar_that_was_cut_is_refused_wherever(cut: int) -> None:
    # 1536 and 2560 are ends of members, where other readers just see fewer samples.
    with pytest.raises(InputError, match=r"x\.tar: ends after .* without a tar end marker"):
        found(WHOLE[:cut])


def test_one_block_of_the_end_marker_is_enough() -> None:
    assert found(WHOLE[: 2560 + BLOCK]) == MEMBERS[:2]


def test_an_empty_tar_has_no_members() -> None:
    assert found(tar_bytes([])) == found(END_MARKER) == []


@pytest.mark.parametrize("size", [BLOCK, 20_480, 500_000])
def test_zeros_are_no_empty_tar(size: int) -> None:
    with pytest.raises(InputError, match=f"is {size:,} zero bytes, not a tar file"):
        found(bytes(size))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_are_named_so(compress: object) -> None:
    with pytest.raises(InputError, match="is compressed: unpack it"):
        found(compress(WHOLE))  # type: ignore[operator]


def test_other_files_are_no_tars() -> None:
    with pytest.raises(InputError, match="is not a tar file"):
        found(b"hello" * 200)


@pytest.mark.parametrize("place", [0, 100, 130, 150, 157, 400])
def test_a_wrong_checksum_is_found(place: int) -> None:
    data = bytearray(WHOLE)
    data[1536 + place] ^= 0x41
    with pytest.raises(InputError, match="is damaged at byte 1,536"):
        found(bytes(data))


@pytest.mark.parametrize("size", [b"-0000001000\0", b"9999999\0", b"\xff" + b"\xff" * 11])
def test_sizes_that_are_no_sizes(size: bytes) -> None:
    with pytest.raises(InputError, match=r"damaged at byte 0|end marker"):
        found(header_of("a.jpg", size=size) + bytes(4096))


@pytest.mark.parametrize(
    "field", [b"", b"x path=a\n", b"0 path=a\n", b"99 path=a\n", b"-5 path=a\n", b"16 size=-512000\n", b"9 size=x\n"]
)
def test_pax_fields_that_are_none(field: bytes) -> None:
    extended = header_of("PaxHeader", kind=b"x", size=b"%011o\0" % len(field)) + field.ljust(BLOCK * bool(field), b"\0")
    data = extended + member_bytes("a.jpg", b"1") + END_MARKER
    if field:
        with pytest.raises(InputError, match="is damaged at byte"):
            found(data)
    else:
        assert found(data) == [("a.jpg", b"1")]


def test_a_pax_header_without_bounds_is_not_read() -> None:
    with pytest.raises(InputError, match="damaged"):
        list(walk(Memory(header_of("PaxHeader", kind=b"x", size=b"77777777777\0"), stated=1 << 40)))


def test_sparse_members_are_refused() -> None:
    with pytest.raises(InputError, match="sparse"):
        found(header_of("a.jpg", kind=b"S") + END_MARKER)


@pytest.mark.parametrize("fields", [{"GNU.sparse.size": "9", "GNU.sparse.map": "0,3"}, {"GNU.sparse.major": "1"}])
def test_sparse_members_of_the_pax_form_are_refused(fields: dict[str, str]) -> None:
    info = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
    info.size, info.pax_headers = 3, fields
    with pytest.raises(InputError, match=r"holds sparse files.*without --sparse"):
        found(info.tobuf(tarfile.PAX_FORMAT) + b"abc".ljust(BLOCK, b"\0") + END_MARKER)


def test_pax_fields_take_time_in_proportion_to_their_length() -> None:
    fields = b"9 aaaa=b\n" * 110_000
    data = header_of("x", kind=b"x", size=b"%011o\0" % len(fields)) + fields.ljust(
        -(-len(fields) // BLOCK) * BLOCK, b"\0"
    )
    begun = time.monotonic()
    assert found(data + member_bytes("a.jpg", b"1") + END_MARKER) == [("a.jpg", b"1")]
    assert time.monotonic() - begun < 1


def test_a_member_is_read_only_behind_the_header_that_was_walked() -> None:
    data = tar_bytes(MEMBERS)
    (first, second, *_) = (entry for entry in follow(walk(Memory(data))) if isinstance(entry, TarMember))
    assert read_member(Memory(data), *first[1:]) == MEMBERS[0][1]
    for other in (tar_bytes(MEMBERS[::-1]), data[: first.offset + 5]):
        with pytest.raises(InputError, match="was changed or cut while it was read"):
            read_member(Memory(other), *first[1:])
    with pytest.raises(InputError, match="was changed"):
        read_member(Memory(data), first.offset, first.size, second.header)


@given(st.binary(max_size=1500), st.integers(0, 3000))
def test_noise_never_crashes_or_hangs(noise: bytes, begin: int) -> None:
    data = WHOLE[:begin] + noise + WHOLE[begin + len(noise) :]
    with contextlib.suppress(InputError):
        found(data)


NAMES = ["a.jpg", "a.b.c", "A.JPG", "d/a.jpg", "d.e/a.jpg", "d.e/f", "plain", ".hidden", ".a.jpg", "./a.jpg",
         "__meta__/a.jpg", "__meta__", "__a.b__", "d/__a.b__", "a.", UNICODE, LONG, "a b.jpg", "/abs/a.jpg", "../a.jpg",
         "__a.jpg", "_x_.jpg", "d/", "a..jpg"]  # fmt: skip


def test_names_split_as_in_webdataset(tmp_path: Path) -> None:
    from webdataset.tariterators import base_plus_ext, tar_file_iterator

    path = write_tar(tmp_path / "x.tar", [(name, b"") for name in NAMES])
    with path.open("rb") as file:
        seen = [member["fname"] for member in tar_file_iterator(file)]
    for name in NAMES:
        theirs = base_plus_ext(name) if name in seen else (None, None)
        assert split_name(name) == (None if theirs[0] is None else (theirs[0], theirs[1].lower())), name


def test_a_hidden_file_in_a_folder_is_no_sample() -> None:
    # webdataset takes it as a member of the sample "d/"; macOS puts such files beside every image.
    assert split_name("d/.a.jpg") is None


def test_what_follows_the_end_marker_is_no_padding() -> None:
    data = tar_bytes(MEMBERS[:2], tarfile.PAX_FORMAT)
    assert found(data + bytes(100_000)) == found(data)
    for tail in (data, bytes(1 << 21)):
        with pytest.raises(InputError, match="after the tar end marker"):
            found(data + tail)
