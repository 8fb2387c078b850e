"""Lists of numbers as SLURM takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def compact(numbers: Iterable[int]) -> str:
    """Write ascending numbers in the shortest form that `sbatch --array=` reads, such as `3,5,10-14`."""
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(members[0][1], members[-1][1]) for members in (list(run) for _, run in runs)]
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ends)
