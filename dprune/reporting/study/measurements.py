"""What ways of measuring are called, and which of them a report speaks of first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dprune.reporting.study.factors import ANY, GENERATED, Factor, Factors
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.views import View

_MODEL = Factor((GENERATED,), "embed", "model")
_PIXELS = "pixels"


class MeasurementName(NamedTuple):
    """One way of measuring among several.

    Attributes:
        title: what sets it apart, in as few words as do; empty for a single one.
        backbone: model of its features, where others have another one; else empty.
        place: by which it is sorted: first the backbone of the clusters, then that of most points, pixels last.
    """

    title: str
    backbone: str
    place: tuple[bool, int, bool, str, str]


def measurements(found: Sequence[View]) -> list[MeasurementName]:
    """Name each of several ways of measuring by its backbone, and by other options where several have the same."""
    names = _backbone_names([view.measure for view in found])
    groups = {name: [view for view, other in zip(found, names, strict=True) if other == name] for name in names}
    naming = {name: Labeller([view.measure for view in some]) for name, some in groups.items()}
    made = []
    for view, name in zip(found, names, strict=True):
        backbone, several = name if len(groups) > 1 else "", len(groups[name]) > 1
        said = _said(naming[name], view.measure) if several else ""
        title = ", ".join(filter(None, (backbone, said)))
        made.append(MeasurementName(title, backbone, _place(view, title, groups[name], backbone)))
    return made


def differences(found: Sequence[View]) -> tuple[str, ...]:
    """List in what ways of measuring differ, with the values; options that only one backbone has go with it."""
    names = _backbone_names([view.measure for view in found])
    several = sorted(set(names))
    backbones = [f"the model of the features ({', '.join(several)})"] if len(several) > 1 else []
    inside = [
        Labeller([view.measure for view, other in zip(found, names, strict=True) if other == name]).apart()
        for name in several
    ]
    return tuple(dict.fromkeys([*backbones, *(text for texts in inside for text in texts)]))


def _said(naming: Labeller, measure: Factors) -> str:
    return naming.name(measure) or naming.name(measure, naming.differing) or "default options"


def _backbone_names(measures: Sequence[Factors]) -> list[str]:
    """Return the models of features, without where they are from unless two of that name are from elsewhere."""
    whole = [measure.get(_MODEL, ANY) for measure in measures]
    short = {name: name.rpartition(":")[2].rpartition("/")[2] or name for name in whole}
    unique = len(set(short.values())) == len(short)
    return [short[name] if unique else name for name in whole]


def _place(view: View, title: str, alike: Sequence[View], backbone: str) -> tuple[bool, int, bool, str, str]:
    if not backbone:
        return False, 0, False, "", title
    clustered = any(view.measure.get(_MODEL) in _of_clusters(other) for other in alike)
    points = sum(len(other.points) for other in alike)
    return not clustered, -points, backbone == _PIXELS, backbone, title


def _of_clusters(view: View) -> set[str]:
    """Return the backbones of the features that samples were clustered by, before some were chosen."""
    every: Iterable[tuple[Factor, str]] = (pair for line in view.lines for pair in line[0].selection.items())
    return {value for f, value in every if (f.command, f.name) == _MODEL[1:] and "clusters" in f.path}
