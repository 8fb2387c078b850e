"""The progress of a scoring: a folder of what was measured of the samples, a piece for each span of them.

A piece holds the first of its samples that were measured, and says of which scoring; another's counts as missing. So
any number of workers fills one folder, and whoever finds it full makes the scores of it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.tensors import read_metadata, read_tensors, write_tensors

Values = npt.NDArray[np.float32]

MOST_PIECES = 64
SMALLEST, LARGEST = 256, 2048


@dataclass(frozen=True)
class Piece:
    """Samples `begin` to `end`, as positions in what is scored, of which the first `done` are measured."""

    number: int
    begin: int
    end: int
    done: int = 0

    @property
    def whole(self) -> bool:
        """Tell whether nothing is left to measure."""
        return self.begin + self.done == self.end


@dataclass(frozen=True)
class Progress:
    """What was measured of `count` samples, as far as it is on disk.

    Attributes:
        folder: that holds the pieces.
        count: samples.
        shape: of one sample's measures.
        mark: digest of all that changes the measures.
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    mark: str

    @property
    def size(self) -> int:
        """Samples of a piece: the same for any number of workers, and enough pieces to go round."""
        wanted = -(-self.count // MOST_PIECES)
        return min(LARGEST, max(SMALLEST, -(-wanted // SMALLEST) * SMALLEST))

    def pieces(self, rank: int = 0, world: int = 1) -> list[Piece]:
        """Return a worker's pieces, whether measured or not."""
        starts = range(0, self.count, self.size)
        return [self._piece(number, starts[number]) for number in range(rank, len(starts), world)]

    def _piece(self, number: int, begin: int) -> Piece:
        end = min(begin + self.size, self.count)
        try:
            metadata = read_metadata(self._path(number)) or {}
        except InputError:
            metadata = {}
        known = metadata.get("mark") == self.mark and type(metadata.get("count")) is int
        return Piece(number, begin, end, min(metadata["count"], end - begin) if known else 0)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def read(self, piece: Piece) -> Values:
        """Read what is measured of a piece, float32 [done, *shape].

        Raises:
            InputError: the file is not whole.
        """
        if not piece.done:
            return np.empty((0, *self.shape), np.float32)
        name, tensors, _ = read_tensors(self._path(piece.number))
        values = tensors.get("measures")
        if values is None or values.shape != (piece.done, *self.shape) or values.dtype != np.float32:
            raise InputError(f"{name}: does not hold what it says: remove it and run the same command again.")
        return values

    def write(self, piece: Piece, values: Values) -> None:
        """Publish what is measured of a piece.

        Args:
            piece: any state of it.
            values: measures of its first samples, float32 [done, *shape].
        """
        write_tensors(self._path(piece.number), {"measures": values}, {"mark": self.mark, "count": len(values)})

    def values(self) -> Values | None:
        """Return all measures, float32 [count, *shape], or None while some are missing."""
        pieces = self.pieces()
        if not all(piece.whole for piece in pieces):
            return None
        out = np.empty((self.count, *self.shape), np.float32)
        for piece in pieces:
            out[piece.begin : piece.end] = self.read(piece)
        return out

    def remove(self) -> None:
        """Remove the folder, which another worker may be doing as well."""
        shutil.rmtree(self.folder, ignore_errors=True)


def progress_folder(output: str | Path) -> Path:
    """Return where the progress of an output is kept: beside it, and hidden."""
    path = Path(output)
    return path.with_name(f".{path.name}.progress")
