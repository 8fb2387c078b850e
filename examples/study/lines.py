"""The lines of a study: ways to choose a subset, to train on it and to sample the model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

# A high score is what these methods keep; their inverse and middle show if that matters, and every m-th sample of the
# sorted scores shows what their whole range does.
SCORES = ("el2n", "grand", "monotonicity", "moso", "influence")
ENDS = {"": "highest", "-inverse": "lowest", "-middle": "middle", "-interval": "interval"}
# Orders over features, of which the first are kept, and the options of `dprune score` that make each. Copies are looked
# for inside clusters.
ORDERS = {
    "k-center": "k-center",
    "k-center-by-cluster": "k-center --clusters",
    "herding": "herding",
    "herding-by-cluster": "herding --clusters",
    "duplicates": "duplicates --clusters",
}
# What equal quotas leave, of which each cluster gives as many as the smallest has.
SMALLEST = "smallest"


@dataclass(frozen=True)
class Line:
    """A way to choose a subset, and the model that is trained on it: one line of the report.

    `keeps` are shares, where they are not those of the configuration. The candidates are the unpruned samples, or a
    long-tailed subset of them. `fold` is one of two disjoint halves, in place of a subset. At equal epochs, a model has
    as many steps as go with the size of its subset.

    Samples of small clusters may be `oversampled`, those of a low score come first (`curriculum`), and those that
    distance would prune train at high noise only (`noisy`). A line that is `sampled` otherwise has no model of its own:
    it draws from the unpruned one's.
    """

    scores: str | None = None
    order: str = "random"
    in_clusters: bool = False
    quota: str = "proportional"
    keeps: tuple[str, ...] | None = None
    model: str = "dit"
    tailed: bool = False
    fold: int | None = None
    equal_epochs: bool = False
    oversampled: bool = False
    curriculum: str | None = None
    noisy: bool = False
    sampled: str | None = None


def known_lines() -> dict[str, Line]:
    """All lines that a configuration can name."""
    lines = _choices()
    epochs = {f"{name}-epochs": replace(line, equal_epochs=True) for name, line in lines.items()}
    tailed = ("unpruned", "random", "balanced", "proportional")
    tails = {f"tailed-{name}": replace(lines[name], tailed=True) for name in tailed}
    tails["tailed-oversampled"] = replace(tails["tailed-unpruned"], oversampled=True)
    halves = {f"half-{fold}": Line(keeps=("0.5",), fold=fold) for fold in (0, 1)}
    sampled = {name: Line(keeps=("1.0",), sampled=name) for name in ("unguided", "guided", "coarse")}
    return lines | epochs | _weighted() | tails | halves | sampled


def _choices() -> dict[str, Line]:
    distance = Line("distance", "lowest", in_clusters=True)
    lines = {
        "unpruned": Line(keeps=("1.0",)),
        "random": Line(),
        "random-by-cluster": Line(in_clusters=True),
        "nearest": distance,
        "middle": replace(distance, order="middle"),
        "furthest": replace(distance, order="highest"),
        "interval": replace(distance, order="interval"),
        "equal": replace(distance, quota="equal"),
        "balanced": replace(distance, quota="equal", keeps=(SMALLEST,)),
        "proportional": replace(distance, keeps=(SMALLEST,)),
        "vae": Line(model="vae"),
        "gan": Line(model="gan"),
    }
    for score, (end, order) in itertools.product(SCORES, ENDS.items()):
        lines[score + end] = Line(score, order)
        lines[f"{score}{end}-by-cluster"] = Line(score, order, in_clusters=True)
    for order in ORDERS:
        lines[order] = Line(order, "lowest", in_clusters=order.endswith("-by-cluster"))
    return lines


def _weighted() -> dict[str, Line]:
    """Lines of which not all samples are drawn as often, as early or at every noise."""
    return {
        "oversampled": Line(oversampled=True),
        "curriculum": Line(curriculum="el2n"),
        "sigma-min": Line(keeps=("1.0",), noisy=True),
    }
