"""Trainings of equal epochs: a smaller training set takes fewer steps, and yet they are one line over the ratios."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

from dprune.reporting.study.experiments import Point
from dprune.reporting.study.factors import ANY, EPOCHS, Factors, agree
from dprune.reporting.study.views import grouped, is_steps, line_key

# Quotas that are rounded in each group move the size of a subset, and so how many steps make an epoch.
_ROUNDED = 0.01


def by_epochs(points: Sequence[Point]) -> list[Point]:
    """Put the number of epochs in the place of the steps, where pruned models had as many as the unpruned.

    A number of steps that a line has at several pruning ratios, or that an unpruned model has, is a choice of its own
    and stays. Where nothing unpruned was trained alike, models of different steps that had as many epochs as one
    another are taken for such.
    """
    found = {point.mark: text for some, text in _of_equal_epochs(points) for point in some}
    return [_counted(point, found[point.mark]) if point.mark in found else point for point in points]


def same_epochs(one: Point, other: Point) -> bool:
    """Tell whether two models made as many passes over their own training sets, steps being whole."""
    if one.passes is None or other.passes is None:
        return True
    # Of fewer steps, the rounding is the larger share.
    (few, *some), (many, *rest) = sorted((one.passes, other.passes))
    expected = many * (rest[0] / rest[1]) * (some[1] / some[0])
    return abs(few - expected) < max(1, _ROUNDED * expected)


def steps_text(points: Sequence[Point]) -> str:
    """Write the steps of models of one line, from the largest training set to the smallest."""
    known = sorted({(-p.passes[2], p.passes[0]) for p in points if p.passes is not None})
    return ", ".join(dict.fromkeys(str(steps) for _, steps in known))


def _of_equal_epochs(points: Sequence[Point]) -> Iterator[tuple[list[Point], str]]:
    """Yield points that are lines over epochs, with how many these are."""
    known = sorted((p for p in points if p.passes is not None), key=lambda point: point.mark)
    unpruned = grouped((p for p in known if not p.subset.pruned), lambda p: (_beside_steps(p), p.passes))
    baselines = [some[0] for some in unpruned]
    alone: list[list[Point]] = []
    for some in _single_ratios(known):
        held_to = [p for p in baselines if agree(_without_steps(some[0]), _without_steps(p), some[0].own)]
        if not held_to:
            alone.append(some)
        elif all(_steps(p) != _steps(some[0]) for p in held_to):
            yield from ((some, epochs_text(p)) for p in held_to if same_epochs(some[0], p))
    for some in alone:
        alike = [p for p, *_ in alone if _beside_steps(p) == _beside_steps(some[0]) and same_epochs(p, some[0])]
        if len(set(map(_steps, alike))) > 1:
            yield some, epochs_text(alike[0])


def _single_ratios(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Yield pruned points of one number of steps, where their line has it at one ratio alone."""
    for some in grouped((p for p in points if p.subset.pruned), line_key):
        if len({p.subset.axis or p.subset.ratio for p in some}) == 1:
            yield some


def epochs_text(point: Point) -> str:
    """Write how many passes a model made over its training set."""
    assert point.passes is not None
    steps, batch, size = point.passes
    return f"{steps * batch / size:.3g}"


def _counted(point: Point, epochs: str) -> Point:
    steps = next((factor for factor in point.experiment if is_steps(factor)), None)
    if steps is None:
        return point
    return replace(point, experiment=point.experiment | {steps: ANY, steps._replace(name=EPOCHS): epochs})


def _steps(point: Point) -> int:
    assert point.passes is not None
    return point.passes[0]


def _without_steps(point: Point) -> Factors:
    return {factor: value for factor, value in point.experiment.items() if not is_steps(factor)}


def _beside_steps(point: Point) -> Hashable:
    return frozenset(_without_steps(point).items())
