"""Samples on their way into shards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A sample that is to be packed.

    Attributes:
        key: its key.
        members: (suffix, content) in the order in which they are written.
        image: which of the members is the image.
        cut: whether the image had more frames or pages, which are left out.
        trusted: whether the image was packed before, so that copying need not decode it.
    """

    key: str
    members: list[tuple[str, bytes]]
    image: int = 0
    cut: bool = False
    trusted: bool = False
