"""What `dprune select` is asked for. Nothing here imports numpy."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from dprune.errors import UsageError
from dprune.selecting.amount import Amount


@dataclass(frozen=True)
class SelectSettings:
    """Which samples may be kept and how many of them, in the words of `dprune select`, which says what each means."""

    keep: Amount | None = None
    prune: Amount | None = None
    as_many_as: str | None = None
    count: bool = False
    order: str | None = None
    below: float | None = None
    above: float | None = None
    repeat: bool = False
    clusters: str | None = None
    groups: str | None = None
    quota: str = "proportional"
    cap: int | None = None
    counts: str | None = None
    tail: Fraction | None = None
    only: str | None = None
    within: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unions: tuple[str, ...] = ()
    format: str = "npy"
    figure: str | None = None
    shards: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Hold the options together.

        Raises:
            UsageError: they contradict each other.
        """
        ways = {"--keep": self.keep, "--prune": self.prune, "--as-many-as": self.as_many_as, "--counts": self.counts,
                "--tail": self.tail}  # fmt: skip
        given = [option for option, value in ways.items() if value is not None]
        if self.composed:
            given += ["--cap"] if self.cap is not None else []
            given += ["--only"] if self.only is not None and self.counts is not None else []
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other.")
        if self.quota == "equal" and self.composed and not (self.clusters and self.groups):
            raise UsageError(
                f"{given[0]} says itself how much each group gives: leave out --quota equal, or give both --clusters "
                "and --groups, and it divides the count of a class among its clusters."
            )
        if self.count and not (self.keep or self.prune):
            raise UsageError("--count says that --keep or --prune is a number of samples: give one of them.")
        for amount in filter(None, (self.keep, self.prune)):
            amount.check(counted=self.count)
        if self.below is not None and self.above is not None and self.above >= self.below:
            raise UsageError(f"--above {self.above:g} and --below {self.below:g} leave no score between them.")
        if self.repeat:
            self._check_repeat()

    def _check_repeat(self) -> None:
        others = {"--prune": self.prune, "--cap": self.cap, "--counts": self.counts, "--tail": self.tail,
                  "--or": self.unions or None}  # fmt: skip
        if given := [option for option, value in others.items() if value is not None]:
            raise UsageError(
                f"{given[0]} and --repeat exclude each other: --repeat draws of all groups alike, and --keep says how "
                "much in all."
            )
        if self.format != SelectSettings.format:
            raise UsageError(f"--repeat writes a number for each sample: leave out --format {self.format}.")

    @property
    def by_value(self) -> bool:
        """Whether scores themselves say what is kept."""
        return self.below is not None or self.above is not None

    @property
    def composed(self) -> bool:
        """Whether it is said of each group how much it gives."""
        return self.counts is not None or self.tail is not None
