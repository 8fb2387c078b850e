"""What `dprune pack` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PackSettings:
    """What is packed, and how, in the words of `dprune pack`, which says what each means."""

    size: int | None = None
    crop: str = "center"
    format: str = "png"
    subset: str | None = None
    labels: str | None = None
    keys: str = "path"
    split: str | None = None
    beside: tuple[str, ...] = ()
    image_column: str | None = None
    label_column: str | None = None
    shard_size: int = 10_000
    strict: bool = False
    workers: int | None = None

    def options(self) -> dict[str, Any]:
        """Return what provenance records."""
        resized = {} if self.size is None else {"size": self.size, "crop": self.crop, "format": self.format}
        keys = {"keys": self.keys} if self.keys == "unique" else {}
        beside = {"beside": sorted(self.beside)} if self.beside else {}
        return {**resized, "shard_size": self.shard_size, **keys, **beside}
