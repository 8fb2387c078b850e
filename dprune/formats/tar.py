"""Tar, as far as WebDataset shards need it: a walk over the headers, and members written with fixed headers."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from dprune.errors import InputError

BLOCK = 512
END_MARKER = bytes(2 * BLOCK)
MOST_PADDING = 1 << 20
MOST_EMPTY = 20 * BLOCK
"""What tar writes for an archive without members, one record of zeros."""

_REGULAR = b"0\0" + b"7"
_PAX, _PAX_GLOBAL = b"x", b"g"
_WITHOUT_CONTENT = b"123456"
_HARD_LINK, _SYMBOLIC_LINK = b"1", b"2"
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"L", b"K", b"S"

COMPRESSED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_LONGEST_EXTENDED = 1 << 20
_LONGEST_NUMBER = 10
_LONGEST_CHAIN = 40

_NAME_BYTES = 100
_LARGEST_OCTAL = 8**11 - 1
_BLANK = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
# Of all fields but name, size and checksum, the last of which counts as spaces.
_BLANK_SUM = sum(_BLANK[:124]) + sum(_BLANK[136:148]) + 8 * 32 + sum(_BLANK[156:])


class Bytes(Protocol):
    """Random access to the bytes of a file."""

    name: str
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the file."""


class TarMember(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: as the tar states it.
        offset: where its content begins, right behind its header.
        size: of its content in bytes.
        header: CRC-32 of that header, by which whoever reads the content later knows that it is still there.
    """

    name: str
    offset: int
    size: int
    header: int


class TarLink(NamedTuple):
    """A hard or symbolic link in a tar, and the name that it leads to, as the tar's members are named."""

    name: str
    target: str


def size_in_tar(size: int) -> int:
    """Size of a member's content with the padding behind it."""
    return -(-size // BLOCK) * BLOCK


def walk(source: Bytes) -> Iterator[TarMember | TarLink]:
    """Yield the regular files and links of a tar, reading its headers and nothing else.

    Raises:
        InputError: the file is no tar, is compressed, is cut short, lacks the end marker, or holds sparse files.
    """
    position, extended = 0, dict[str, str]()
    while True:
        header = source.read(position, BLOCK)
        if header.count(0) == BLOCK:
            _check_rest(source, position)
            return
        if position == 0 and header.startswith(COMPRESSED_MAGIC):
            raise InputError(f"{source.name}: is compressed: unpack it, or run dprune pack on it.")
        if len(header) < BLOCK:
            raise truncated(source, min(position, source.size))
        _check(source, header, position)
        kind, content = header[156:157], position + BLOCK
        try:
            length = _number(header[124:136])
            if kind in (_PAX, _GNU_LONG_NAME, _GNU_LONG_LINK):
                extended |= _extended(source, kind, content, length)
            elif kind != _PAX_GLOBAL:
                _refuse_sparse(source, kind, extended)
                # Links and folders may state a size, but no content follows them.
                length = 0 if kind in _WITHOUT_CONTENT else _natural(extended.get("size", str(length)), 10)
                name = extended.get("path") or _name(header)
                if kind in _REGULAR:
                    yield TarMember(name, content, length, zlib.crc32(header))
                elif kind in (_HARD_LINK, _SYMBOLIC_LINK):
                    yield _link(kind, name, extended.get("linkpath") or _decode(header[157:257].split(b"\0")[0]))
                extended = {}
        except ValueError:
            raise _damaged(source, position) from None
        position = content + size_in_tar(length)
        if position > source.size:
            raise truncated(source, source.size)


def follow(entries: Iterable[TarMember | TarLink]) -> list[TarMember | TarLink]:
    """Put the content that links lead to in their place; those that lead to no member of the tar stay links."""
    found = list(entries)
    if not any(isinstance(entry, TarLink) for entry in found):
        return found
    places = {posixpath.normpath(entry.name): entry for entry in found}
    return [_target(entry, places) if isinstance(entry, TarLink) else entry for entry in found]


def _target(link: TarLink, places: dict[str, TarMember | TarLink]) -> TarMember | TarLink:
    entry: TarMember | TarLink = link
    for _ in range(_LONGEST_CHAIN):
        if isinstance(entry, TarMember):
            return entry._replace(name=link.name)
        entry = places.get(entry.target, entry)
    return link


def _link(kind: bytes, name: str, target: str) -> TarLink:
    # Hard links are named from the top of the tar, symbolic ones from the folder that they are in.
    return TarLink(
        name, posixpath.normpath(posixpath.join(posixpath.dirname(name), target) if kind == _SYMBOLIC_LINK else target)
    )


def _refuse_sparse(source: Bytes, kind: bytes, extended: dict[str, str]) -> None:
    """Refuse a file that is stored without its holes, by GNU's kind of member or by pax fields."""
    if kind == _GNU_SPARSE or any(field.startswith("GNU.sparse.") for field in extended):
        raise InputError(f"{source.name}: holds sparse files, which shards must not: write it without --sparse.")


def _check_rest(source: Bytes, position: int) -> None:
    """Refuse content behind the end marker: joined tars, or a download whose last part was never filled in.

    Writers pad tars to records of a few KiB, so little and only zeros may follow.
    """
    rest = source.read(position, MOST_PADDING + 1)
    if len(rest) > MOST_PADDING or rest.strip(b"\0"):
        raise InputError(
            f"{source.name}: goes on after the tar end marker at byte {position:,}, so samples are missing: "
            "copy or make the shard again."
        )
    if position == 0 and not len(END_MARKER) <= len(rest) <= MOST_EMPTY:
        raise InputError(f"{source.name}: is {len(rest):,} zero bytes, not a tar file: copy or make the shard again.")


def truncated(source: Bytes, position: int) -> InputError:
    """Describe a tar that ends too early."""
    return InputError(
        f"{source.name}: ends after {position:,} bytes without a tar end marker, so samples are missing: "
        "copy or make the shard again."
    )


def _damaged(source: Bytes, position: int) -> InputError:
    return InputError(f"{source.name}: is damaged at byte {position:,}: copy or make the shard again.")


def _check(source: Bytes, header: bytes, position: int) -> None:
    """Hold the header to its checksum (the sum of its bytes, the checksum field read as spaces)."""
    try:
        stated = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        stated = -1
    if stated == sum(header) - sum(header[148:156]) + 8 * 32:
        return
    if position == 0:
        raise InputError(f"{source.name}: is not a tar file.")
    raise _damaged(source, position)


def _number(field: bytes) -> int:
    """Read an octal field, or GNU's base-256 form for sizes over 8 GiB."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _natural(field.split(b"\0")[0].strip() or b"0", 8)


def _natural(text: bytes | str, base: int) -> int:
    number = int(text, base)
    # A size below zero would walk backwards, and never end.
    if number < 0:
        raise ValueError(text)
    return number


def _extended(source: Bytes, kind: bytes, content: int, length: int) -> dict[str, str]:
    """Read a header that speaks of the next member: a name in GNU's form, or pax fields."""
    if content + length > source.size:
        raise truncated(source, source.size)
    if length > _LONGEST_EXTENDED:
        raise ValueError(length)
    extra = source.read(content, length)
    if kind == _PAX:
        return _pax_fields(extra)
    return {"path" if kind == _GNU_LONG_NAME else "linkpath": _decode(extra.rstrip(b"\0"))}


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _decode(prefix + b"/" + name if prefix else name)


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax_fields(extra: bytes) -> dict[str, str]:
    fields, begin = {}, 0
    while begin < len(extra) and extra[begin]:
        space = extra.find(b" ", begin, begin + _LONGEST_NUMBER)
        end = begin + int(extra[begin : max(space, begin)])
        if not space + 2 < end <= len(extra):
            raise ValueError(end)
        key, _, value = extra[space + 1 : end].removesuffix(b"\n").partition(b"=")
        fields[_decode(key)] = _decode(value)
        begin = end
    return fields


def read_member(source: Bytes, offset: int, size: int, header: int) -> bytes:
    """Read the content of a member that a walk found; see `TarMember`.

    Raises:
        InputError: the file has become another since: the member's header is not before it, or it is cut short.
    """
    data = source.read(offset - BLOCK, BLOCK + size)
    if len(data) < BLOCK + size or zlib.crc32(memoryview(data)[:BLOCK]) != header:
        raise changed_meanwhile(source.name)
    return data[BLOCK:]


def changed_meanwhile(name: str) -> InputError:
    """Describe a shard that is not what it was when the work began."""
    return InputError(f"{name}: was changed or cut while it was read: run the command again.")


def member_bytes(name: str, content: bytes) -> bytes:
    """Return a member whose bytes depend on its name and content alone: no time, owner or host."""
    return b"".join((_header(name, len(content)), content, bytes(size_in_tar(len(content)) - len(content))))


def _header(name: str, size: int) -> bytes:
    if not name.isascii() or len(name) > _NAME_BYTES or size > _LARGEST_OCTAL:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    # The standard library takes as long to format a header as a digest of the content does to be taken.
    text, octal = name.encode(), b"%011o\0" % size
    total = _BLANK_SUM + sum(text) + sum(octal)
    return b"".join((text.ljust(_NAME_BYTES, b"\0"), _BLANK[100:124], octal, _BLANK[136:148], b"%06o\0 " % total,
                     _BLANK[156:]))  # fmt: skip
