"""Agreement in tables of words, the same on the page and in Markdown, and what these tables mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dprune.metrics.agreement import DRAWN, EXACT, FEWEST
from dprune.reporting.agreement.findings import Agreement
from dprune.reporting.agreement.matrices import Matrix, share_text
from dprune.reporting.agreement.predictions import Prediction
from dprune.reporting.cell_texts import measure_head
from dprune.reporting.markup import markdown
from dprune.reporting.word_tables import WordTable, markdown_word_table

CORRELATIONS, OVERLAPS, PREDICTIONS = (
    "Rank correlation of scores",
    "What methods keep in common",
    "What the mean score predicts",
)
_OF_CORRELATIONS = (
    "Spearman's rank correlation of each two scores, over the samples that both scored; its 95% interval, told where "
    "one points at it, is by Fisher's z. On the diagonal is what a score would correlate with itself if it were scored "
    "anew with other noise, as its halves tell; it is empty where no noise is in a score, or nothing tells of it. Two "
    "scores of independent noise correlate by the root of the product of these at most; with the same noise, such as "
    "EL2N and GraNd of one pass have, they may by more."
)
_OF_OVERLAPS = (
    "The share of the kept samples that two lines have in common. Where a line has several seeds, it is the mean over "
    "their sets, and the diagonal is that between seeds. Blue is more than chance gives, orange less."
)
_OF_ENDS = "No subsets were given: these are the lowest and the highest by each score, among all samples."
_OF_PREDICTIONS = (
    "Over the lines of one pruning ratio that were trained and sampled alike, how the mean score of what a line kept "
    "goes with what was measured: Spearman's rank correlation, and Pearson's. In brackets is the two-sided p of a "
    f"permutation test, exact up to {EXACT} lines and of {DRAWN + 1:,} permutations beyond; no test is made of "
    f"fewer than {FEWEST}."
)


@dataclass(frozen=True)
class Question:
    """One question with what answers it.

    Attributes:
        heading: above it.
        notes: what it means.
        matrices: that are drawn and told.
        tables: of it.
    """

    heading: str
    notes: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    tables: tuple[WordTable, ...]


def questions_of(agreement: Agreement) -> list[Question]:
    """Return what there is to tell, in its order."""
    found = []
    if (matrix := agreement.correlations) is not None:
        found.append(Question(CORRELATIONS, (_OF_CORRELATIONS,), (matrix,), (_matrix_table(matrix),)))
    if overlaps := agreement.overlaps:
        notes = [_OF_OVERLAPS, _chance(overlaps), *([] if agreement.inputs.subsets else [_OF_ENDS])]
        found.append(
            Question(OVERLAPS, tuple(filter(None, notes)), tuple(overlaps), tuple(map(_matrix_table, overlaps)))
        )
    if known := agreement.predictions:
        tables = (
            _prediction_table(known, "Rank correlation", lambda prediction: prediction.spearman_text),
            _prediction_table(known, "Linear correlation", lambda prediction: prediction.pearson_text),
        )
        found.append(Question(PREDICTIONS, (_OF_PREDICTIONS,), (), tables))
    return found


def _chance(overlaps: Sequence[Matrix]) -> str:
    """Say what two random subsets share at each ratio that is known."""
    told = [
        f"{share_text(matrix.chance)} ± {share_text(matrix.chance_half)} pruned {matrix.ratio}"
        for matrix in overlaps
        if matrix.chance is not None and matrix.chance_half is not None
    ]
    return f"In 95% of cases two random subsets share {'; '.join(told)}." if told else ""


def _matrix_table(matrix: Matrix) -> WordTable:
    places = range(len(matrix.names))
    cells = [[matrix.cell(row, column) for column in places] for row in places]
    rows = [(name, *("" if cell is None else share_text(cell.value) for cell in cells[row]))
            for row, name in enumerate(matrix.names)]  # fmt: skip
    return WordTable(matrix.title, ("", *matrix.names), tuple(("", row) for row in rows))


def _prediction_table(found: Sequence[Prediction], caption: str, told: Callable[[Prediction], str]) -> WordTable:
    """Write a row for each score at each ratio, a column for each metric."""
    measures = list(dict.fromkeys(prediction.measure for prediction in found))
    rows: dict[tuple[str, str], dict[str, Prediction]] = {}
    for p in found:
        group = ", ".join(filter(None, (f"pruned {p.ratio}", p.measurement)))
        rows.setdefault((group, p.score), {})[p.measure.key] = p
    texts = []
    for (group, score), known in rows.items():
        counts = sorted({len(p.places) for p in known.values()})
        lines = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        cells = (told(known[m.key]) if m.key in known else "" for m in measures)
        texts.append((group, (score, lines, *cells)))
    return WordTable(caption, ("Mean of", "Lines", *map(measure_head, measures)), tuple(texts))


def markdown_agreement(agreement: Agreement) -> str:
    """Write all of it as Markdown."""
    return "\n".join(map(_markdown_question, questions_of(agreement)))


def _markdown_question(question: Question) -> str:
    notes = "".join(markdown(note) + "\n\n" for note in question.notes)
    return f"## {question.heading}\n\n{notes}" + "\n".join(map(markdown_word_table, question.tables))
