"""Text with provenance: keys, one a line, or a table as CSV, below a first line that holds a digest and the record.

    # dprune 0123456789abcdef {"command":"select",...}
    000000012
    000000047

The first line is a comment to whoever knows it. Text without one is taken as made elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from dprune.errors import InputError
from dprune.formats.checked_json import parse_json
from dprune.formats.digests import content_digest
from dprune.formats.provenance import Record, canonical, checked_record
from dprune.formats.publish import STDOUT, publish_bytes

MARK = b"# dprune "


def write_text(path: str | Path, text: str, record: Record) -> None:
    """Publish text with its provenance, or write it to stdout without when `path` is a dash.

    What comes behind a pipe, such as xargs, is not written for dprune, and would take the first line for a key.
    """
    content = text.encode("utf-8", "surrogateescape")
    line = canonical(record).encode()
    mark = MARK + content_digest(line + content).encode() + b" " + line + b"\n"
    publish_bytes(path, content if str(path) == STDOUT else mark + content)


def parse_text(name: str, data: bytes) -> tuple[bytes, Record | None]:
    """Take the first line off a text.

    Args:
        name: what messages call it.
        data: the whole text.

    Returns:
        What is below the first line, and the provenance; all of it and None for a text made elsewhere.

    Raises:
        InputError: the text is not the one that the first line was written for, or that line is damaged.
    """
    if not data.startswith(MARK):
        return data, None
    line, _, text = data.partition(b"\n")
    check, _, content = line.removeprefix(MARK).partition(b" ")
    if check.decode("ascii", "replace") != content_digest(content + text):
        raise InputError(
            f"{name}: is not the text that its first line was written for: copy it again, or take that line out if "
            "you changed the text."
        )
    return text, checked_record(name, parse_json(f"{name} (its first line)", content))
