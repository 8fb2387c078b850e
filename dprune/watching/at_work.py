"""Which processes make an output just now, by the claims that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dprune.formats.claims import CLAIM, PIECE, TASK
from dprune.formats.temporary import Holder, holders, stem_of
from dprune.watching.folders import names_in


def makers_in(folder: Path, names: set[str] | None = None) -> list[Holder]:
    """Return what living processes hold in a folder that they fill, whose `names` may have been listed before."""
    return holders(folder, names_in(folder) if names is None else names)


def makers_of(path: Path) -> list[Holder]:
    """Return what living processes hold of a file beside which they have their claims."""
    stem = stem_of(path.name) if path.name else ""
    return [holder for holder in makers_in(path.parent) if holder.stem == stem]


def pieces_held(found: Sequence[Holder]) -> set[int]:
    """Return the numbers of the pieces that tasks of an array have in hand."""
    return {int(holder.mark.partition("-")[0]) for holder in found if holder.stem == PIECE}


def processes(found: Sequence[Holder]) -> int:
    """Count the processes behind what they hold, as far as that tells them apart."""
    workers = {holder for holder in found if holder.stem in (CLAIM, TASK)}
    # Beside a file all have its name; a process that only publishes has no claim.
    return len(workers or {holder.mark for holder in found if holder.stem != PIECE})
