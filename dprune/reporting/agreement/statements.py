"""What scores and subsets say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dprune.formats.readable import first_capital
from dprune.metrics.agreement import Association
from dprune.reporting.agreement.matrices import Matrix, share_text
from dprune.reporting.agreement.predictions import Prediction
from dprune.reporting.conclusions import Statement

# Rank correlations from which scores are said to order samples alike, and somewhat alike.
_ALIKE, _SOMEWHAT = 0.7, 0.3
# A chance of one in twenty, as with the stars of tables.
_RARE = 0.05


def statements(
    correlations: Matrix | None, overlaps: Sequence[Matrix], found: Sequence[Prediction]
) -> Iterator[Statement]:
    """Yield what is said of scores, of kept sets, and of what scores predict."""
    if correlations is not None and correlations.pairs:
        yield Statement("Scores", tuple(_of_scores(correlations)))
    if said := [sentence for matrix in overlaps if (sentence := _of_overlap(matrix))]:
        yield Statement("Kept sets", (said[0], *map(first_capital, said[1:])))
    yield from _of_predictions(found)


def _of_scores(matrix: Matrix) -> Iterator[str]:
    pairs, (most, least) = matrix.pairs, matrix.extremes
    value = pairs[most].value
    allowed = "" if (bound := pairs[most].most) is None else f", where their noise allows {share_text(bound)}"
    yield f"{_pair(matrix, most)} order the samples {_alike(value)} (rank correlation {share_text(value)}{allowed})."
    if len(pairs) > 1:
        yield f"Of {len(pairs)} pairs, {_pair(matrix, least)} agree least ({_value(matrix, least)})."
    for number, name in enumerate(matrix.names):
        own = [abs(cell.value) for place, cell in pairs.items() if number in place]
        if len(own) > 1 and max(own) < _SOMEWHAT:
            yield f"{first_capital(name)} orders them like none of the others ({share_text(max(own))} at most)."
    for number, name in enumerate(matrix.names):
        if (itself := matrix.cell(number, number)) is not None and itself.value < _ALIKE:
            yield f"{first_capital(name)}, scored anew, would agree with itself by {share_text(itself.value)} only."


def _alike(value: float) -> str:
    how = "much" if abs(value) >= _ALIKE else "somewhat" if abs(value) >= _SOMEWHAT else "hardly"
    return f"{how} alike" if value > 0 or how == "hardly" else f"{how} the other way round"


def _pair(matrix: Matrix, place: tuple[int, int]) -> str:
    one, other = (matrix.names[number] for number in place)
    return f"{one}, and {other}," if "," in one + other else f"{one} and {other}"


def _value(matrix: Matrix, place: tuple[int, int]) -> str:
    return share_text(matrix.cells[place].value)


def _of_overlap(matrix: Matrix) -> str:
    if not matrix.pairs:
        return ""
    most, least = matrix.extremes
    chance = "" if matrix.chance is None else f", where chance gives {share_text(matrix.chance)}"
    said = f"pruned {matrix.ratio}, {_pair(matrix, most)} keep most in common: {_value(matrix, most)}{chance}"
    return f"{said}." if most == least else f"{said}; {_pair(matrix, least)} the least: {_value(matrix, least)}."


def _of_predictions(found: Sequence[Prediction]) -> Iterator[Statement]:
    """Speak of the first metric alone, by the first backbone: the tables have the others."""
    of_first = [p for p in found if p.measure == found[0].measure and not p.comparison.is_beside]
    known = [(p, p.association) for p in of_first if p.association is not None]
    if not known:
        return
    best, association = min(known, key=lambda pair: (pair[1].spearman_p, -abs(pair[1].spearman)))
    strongest = f"with mean {best.score}, over {association.points} lines pruned {best.ratio}: {best.spearman_text}."
    yield Statement(
        f"{best.measure.name} by mean score",
        (_count([found for _, found in known]), f"The strongest is that {strongest}"),
    )


def _count(known: Sequence[Association]) -> str:
    """Say how many correlations there are that chance alone would rarely make."""
    rare, count = sum(found.spearman_p < _RARE for found in known), len(known)
    every = f"{count} rank correlation{'' if count == 1 else 's'}"
    if not rare:
        return f"no mean score of what is kept predicts it beyond chance: of {every}, none has p below {_RARE}."
    has = "has" if rare == 1 else "have"
    return (
        f"{rare} of {every} with the mean score of what is kept {has} p below {_RARE}, where chance alone makes "
        f"{_RARE * count:.2g}."
    )
