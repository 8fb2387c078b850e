"""Subsets as text: one key a line, below a first line that holds a digest and the provenance.

    # dprune 0123456789abcdef {"command":"select",...}
    000000012
    000000047

The first line is a comment to whoever knows it and no key to anybody else. Lists without one are taken as made
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dprune.errors import InputError
from dprune.formats.checked_json import parse_json
from dprune.formats.digests import content_digest
from dprune.formats.provenance import Record, canonical, checked_record
from dprune.formats.publish import publish_bytes

MARK = b"# dprune "


def write_keys(path: str | Path, keys: Sequence[str], record: Record) -> None:
    """Publish keys with their provenance, or write both to stdout when `path` is a dash.

    Raises:
        InputError: a key holds the end of a line.
    """
    if broken := next((key for key in keys if "\n" in key or "\r" in key), None):
        raise InputError(f"the key {broken!r} is more than one line: write ids, by --format npy.")
    lines = "".join(f"{key}\n" for key in keys).encode("utf-8", "surrogateescape")
    line = canonical(record).encode()
    publish_bytes(path, MARK + content_digest(line + lines).encode() + b" " + line + b"\n" + lines)


def parse_keys(name: str, data: bytes) -> tuple[list[str], Record | None]:
    """Read a list of keys.

    Args:
        name: what messages call it.
        data: the whole text.

    Returns:
        The keys in their order, and their provenance, None for a list made elsewhere.

    Raises:
        InputError: the keys are not those that the first line speaks of, or that line is damaged.
    """
    record = None
    if data.startswith(MARK):
        line, _, data = data.partition(b"\n")
        check, _, content = line.removeprefix(MARK).partition(b" ")
        if check.decode("ascii", "replace") != content_digest(content + data):
            raise InputError(
                f"{name}: holds other keys than its first line says: copy it again, or take that line out if you "
                "changed them."
            )
        record = checked_record(name, parse_json(f"{name} (its first line)", content))
    lines = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    return [key for key in lines if key], record
