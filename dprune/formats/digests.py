"""Digests by which a reader knows that a file still holds what was written: XXH3-64, as 16 hexadecimal digits.

They guard against accidents, such as flipped bits, not against people: who wants to can make new ones. What tells one
input from another in provenance is SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xxhash

from dprune.errors import InputError
from dprune.formats.checked_json import AGAIN
from dprune.formats.provenance import canonical

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHECK_KEY = "check"
"""Where a JSON object holds the digest of all its other keys."""
_PIECE = 4 << 20

RunningDigest = xxhash.xxh3_64
"""A digest of bytes that come in pieces: `update(bytes)`, then `hexdigest()`."""


def content_digest(data: Buffer | str) -> str:
    """Return the digest of bytes that lie next to each other, such as a memory map's, or of a text in UTF-8."""
    view = memoryview(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
    running = RunningDigest()
    if view.nbytes:
        flat = view.cast("B")
        # In pieces, so that other threads and signals get their turn in between.
        for begin in range(0, len(flat), _PIECE):
            running.update(flat[begin : begin + _PIECE])
    return running.hexdigest()


def with_check(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a JSON object the digest of its canonical form, see `without_check`."""
    rest = {key: value for key, value in content.items() if key != CHECK_KEY}
    # As it will be read: tuples as lists, keys as texts, and in their order.
    as_read = json.loads(canonical(rest))
    return {**rest, CHECK_KEY: content_digest(canonical(as_read))}


def without_check(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object without the digest that `with_check` added, once that is found to be right.

    One without a digest, which an older dprune or another program wrote, is returned as it is.

    Args:
        name: what messages call the file that it is from.
        content: parsed JSON.

    Raises:
        InputError: the digest is wrong.
    """
    rest = {key: value for key, value in content.items() if key != CHECK_KEY}
    if CHECK_KEY in content and content[CHECK_KEY] != content_digest(canonical(rest)):
        raise changed(name, "its content")
    return rest


def changed(name: str, what: str) -> InputError:
    """Describe a file whose digest is wrong.

    Args:
        name: what messages call the file.
        what: is not as it was written.
    """
    return InputError(f"{name}: is damaged: {what} does not match its digest: {AGAIN}.")
