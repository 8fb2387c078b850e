"""Samples on their way into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

ROW_DIGITS = 8
"""Of keys that are row numbers."""

# Makes the suffix and the content of an image.
Maker = Callable[[], tuple[str, bytes]]


@dataclass(frozen=True)
class Sample:
    """A sample that is to be packed.

    Attributes:
        key: its key.
        members: (suffix, content) in the order in which they are written.
        image: which of the members is the image.
        cut: whether the image had more frames or pages, which are left out.
        trusted: whether the image was packed before, so that copying need not decode it.
        later: what makes the image, whose content is empty until then: work for a worker, which it is pickled for.
    """

    key: str
    members: list[tuple[str, bytes]]
    image: int = 0
    cut: bool = False
    trusted: bool = False
    later: Maker | None = None

    def whole(self) -> Sample:
        """Return the sample with its image.

        Raises:
            BadImage: it cannot be read or made.
        """
        if self.later is None:
            return self
        members = list(self.members)
        members[self.image] = self.later()
        return replace(self, members=members, later=None)


def row_keys(count: int) -> Iterator[str]:
    """Yield keys for samples that have nothing but their row numbers."""
    return (f"{row:0{ROW_DIGITS}d}" for row in range(count))
