"""What a side of a measurement was given by: told by what is there, once, before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from dprune.errors import InputError
from dprune.formats.kinds import kind_of
from dprune.formats.members import MemberChoice
from dprune.formats.npz_images import IMAGES
from dprune.formats.shards import Dataset, open_dataset
from dprune.formats.statistics import NPZ_NAMES, npz_names
from dprune.formats.text_tables import is_text
from dprune.packing.sources import is_called_an_image
from dprune.packing.unpacked import as_dataset, is_unpacked, open_images

PROTO, PROTOCOLS = 0x80, range(2, 6)
"""How pickles begin: an opcode, and which version of the protocol."""
_HOLDS = {"statistics": "statistics", "vector": "ids", "stdin": "ids", "keys": "ids", "pipe": "ids"}


class SidePath(NamedTuple):
    """A path that a side of a measurement was given by, and what is there.

    Attributes:
        path: as it was given.
        holds: `shards`, `images` that were not packed, `statistics`, `ids` (a vector, a pipe or text), or `features`.
    """

    path: str
    holds: str

    @classmethod
    def of(cls, path: str) -> SidePath:
        """Look at the path, the only time.

        Raises:
            InputError: it is a pickle, or a single image.
        """
        kind = kind_of(path)
        if kind == "file" and _is_pickle(path):
            raise InputError(
                f"{path}: is a pickle, which can run anything while it is read, so dprune reads none: load it where it "
                "is trusted, and save its mean and covariance with np.savez(FILE, mu=..., sigma=...)."
            )
        if is_called_an_image(path) and os.path.isfile(path):
            raise InputError(f"{path}: is one image, and a side of a measurement is many: give the folder it lies in.")
        if kind == "zip" and npz_names(path).issuperset(NPZ_NAMES):
            return cls(path, "statistics")
        if kind in ("folder", "zip", "file", "missing") and is_unpacked(path):
            return cls(path, "images")
        if kind == "file" and is_text(path):
            return cls(path, "ids")
        unreadable = kind in ("missing", "file") and not path.endswith((".npy", ".safetensors"))
        if kind in ("shards", "folder", "tar") or unreadable:
            return cls(path, "shards")
        return cls(path, _HOLDS.get(kind, "features"))

    @property
    def has_both(self) -> bool:
        """Whether there are images beside the statistics, as in the reference batches of guided-diffusion."""
        return self.holds == "statistics" and not npz_names(self.path).isdisjoint(IMAGES)

    def as_images(self) -> SidePath:
        """Return the images that lie beside statistics in one file, where there are such; else the same."""
        return self._replace(holds="images") if self.has_both else self


def _is_pickle(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == PROTO and head[1] in PROTOCOLS


def open_sides_images(paths: Sequence[str], members: MemberChoice) -> Dataset:
    """Open the images of a side for looking at them.

    Args:
        paths: shards, or a single place of images that were not packed.
        members: which members of shards are images and labels.

    Raises:
        InputError: there are none.
        UsageError: they are of several splits.
    """
    sides = [SidePath.of(path).as_images() for path in paths]
    if len(sides) == 1 and sides[0].holds == "images":
        return as_dataset(paths[0], open_images(paths[0]))
    return open_dataset(paths, members)
