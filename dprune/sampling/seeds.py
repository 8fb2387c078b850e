"""The seeds that images are asked for, and the classes that they get; nothing here imports torch."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from dprune.errors import UsageError
from dprune.formats.class_lists import ClassList
from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.models.classes import IntArray, TrainedClasses

MOST_IMAGES, LARGEST_SEED = 1_000_000_000, (1 << 63) - 1
# A key is its seed with so many digits at least, so that runs with other seeds give the same seed the same key.
KEY_DIGITS = 8
BALANCED, RANDOM, PROPORTIONAL = "balanced", "random", "proportional"


@dataclass(frozen=True)
class Seeds:
    """Distinct seeds in the order in which their images are written."""

    parts: tuple[range, ...]

    @classmethod
    def parse(cls, text: str) -> Seeds:
        """Read numbers and ranges such as `3,5,9-12`; a range includes both its ends.

        Raises:
            UsageError: it is something else, or names a seed twice.
        """
        parts: list[range] = []
        for token in text.split(","):
            match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", token.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if first > last or last > LARGEST_SEED:
                raise UsageError(
                    f"--seeds {text}: {token.strip()!r} is not a seed or a range: write it as 0-49999 or 3,5,9-12."
                )
            if parts and parts[-1].stop == first:
                parts[-1] = range(parts[-1].start, last + 1)
            else:
                parts.append(range(first, last + 1))
        for one, other in itertools.pairwise(sorted(parts, key=lambda part: part.start)):
            if other.start < one.stop:
                raise UsageError(f"--seeds {text}: names {other.start} twice: give each seed once.")
        if sum(part.stop - part.start for part in parts) > MOST_IMAGES:
            raise UsageError(f"--seeds {text}: asks for more than {MOST_IMAGES:,} images: give fewer.")
        return cls(tuple(parts))

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self.parts))

    def __str__(self) -> str:
        """Return the shortest text that `parse` reads as these seeds."""
        return ",".join(f"{part.start}" if len(part) == 1 else f"{part.start}-{part.stop - 1}" for part in self.parts)

    def between(self, begin: int, end: int) -> IntArray:
        """Return the seeds at positions `begin` to `end`, int64; positions past the last are left out."""
        parts = [np.arange(part.start, part.stop, dtype=np.int64) for part in self.slice(begin, end).parts]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def slice(self, begin: int, end: int) -> Seeds:
        """Return the seeds at positions `begin` to `end`; positions past the last are left out."""
        found, first = list[range](), 0
        for part in self.parts:
            found.append(part[max(0, begin - first) : max(0, end - first)])
            first += len(part)
        return Seeds(tuple(part for part in found if part))


def key_of(seed: int) -> str:
    """Return the key of a seed's image."""
    return f"{seed:0{KEY_DIGITS}d}"


def seed_of(key: str) -> int | None:
    """Return the seed that a key says, whatever folders are before it; None where it says none.

    Programs that write a folder of images name these after their seeds, with as many digits as they like.
    """
    name = key.rpartition("/")[2]
    seed = int(name) if re.fullmatch(r"[0-9]{1,19}", name) else LARGEST_SEED + 1
    return seed if seed <= LARGEST_SEED else None


@dataclass(frozen=True)
class Classes:
    """How images get their classes.

    Attributes:
        policy: `balanced`, `random` or `proportional`, see `TrainedClasses`, or empty for a list.
        listed: classes that take turns by the seed.
    """

    policy: str
    listed: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str, names: ClassNames = NAMELESS, model: str = "the model") -> Classes:
        """Read `balanced`, `random`, `proportional`, or a list such as `3,17` or `dog,cat`.

        Args:
            text: of the option.
            names: what the model calls its classes.
            model: what messages call it.

        Raises:
            InputError: there is no class of such a name.
            UsageError: it is something else.
        """
        if text in (BALANCED, RANDOM, PROPORTIONAL):
            return cls(text)
        wanted = "balanced, random, proportional, or a list such as 3,17"
        listed = ClassList("--classes", model, names=names, otherwise=wanted).parse(text)
        if not listed or not all(map(str.strip, text.split(","))):
            raise UsageError(f"--classes {text}: give {wanted}.")
        return cls("", listed)

    def __str__(self) -> str:
        """Return what `parse` reads as this."""
        return self.policy or ",".join(map(str, self.listed))

    def labels(self, seeds: IntArray, trained: TrainedClasses) -> IntArray:
        """Return each seed's class, of those that a model was trained on unless they are listed."""
        if self.policy == RANDOM:
            return trained.random(seeds)
        if self.policy == PROPORTIONAL:
            return trained.proportional(seeds)
        if self.policy == BALANCED:
            return trained.balanced(seeds)
        return np.array(self.listed, dtype=np.int64)[seeds % len(self.listed)]
