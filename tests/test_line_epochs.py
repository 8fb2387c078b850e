"""dprune report: models of equal epochs are one line beside those of equal steps, and both are held to the unpruned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import Run, write_memorization, write_metrics

from dprune.formats.results import read_result
from dprune.reporting.study.experiments import point_of_result
from dprune.reporting.study.grouping import Comparison, compare, compare_kinds

RANDOM = Run(scores="random", order="random", grouped=False)
NEAREST = Run(scores="cluster-distance")
UNPRUNED = Run(train={"steps": 1001})
KEPT = {"0.5": 501, "0.25": 250, "0.1": 100}
"""Steps by the share that is kept, rounded to either side."""


def of_steps(run: Run, steps: int = 1001) -> list[Run]:
    return [replace(run, keep=keep, train={"steps": steps}) for keep in KEPT]


def of_epochs(run: Run, times: int = 1) -> list[Run]:
    return [replace(run, keep=keep, train={"steps": steps * times}) for keep, steps in KEPT.items()]


@pytest.fixture
def compared(tmp_path: Path):
    """Compare runs."""

    def go(*runs: Run) -> Comparison:
        files = [write_metrics(tmp_path / f"{number}.json", run) for number, run in enumerate(runs)]
        (found,) = compare([point_of_result(read_result(str(file))) for file in files])
        return found

    return go


def shape(comparison: Comparison) -> dict[str, list[float]]:
    return {line.label: [cell.ratio for cell in line.cells] for line in comparison.lines}


def model(comparison: Comparison, label: str) -> str:
    return next(dict(line.about)["Model"] for line in comparison.lines if line.label == label)


RATIOS = [0.5, 0.75, 0.9]


def test_equal_epochs_are_a_line_beside_equal_steps_and_held_to_the_same_unpruned(compared) -> None:
    found = compared(UNPRUNED, *of_steps(RANDOM), *of_epochs(RANDOM), *of_epochs(NEAREST))
    assert shape(found) == {
        "unpruned": [0.0],
        "random": RATIOS,
        "random, equal epochs": RATIOS,
        "nearest, equal epochs": RATIOS,
    }
    assert {line.unpruned for line in found.pruned} == {("unpruned",)}
    said = model(found, "nearest, equal epochs")
    assert "501, 250, 100 training steps (32 epochs each)" in said
    assert "1001 training steps," in model(found, "random") + ","


def test_a_single_ratio_of_equal_epochs_is_known_by_the_unpruned(compared) -> None:
    found = compared(UNPRUNED, *of_steps(RANDOM), of_epochs(RANDOM)[1])
    assert shape(found) == {"unpruned": [0.0], "random": RATIOS, "random, equal epochs": [0.75]}
    # Of no unpruned model, nothing tells what its steps are equal to.
    found = compared(*of_steps(RANDOM), of_epochs(RANDOM)[1])
    assert shape(found) == {"random, 250 training steps": [0.75], "random, 1001 training steps": RATIOS}


def test_equal_epochs_alone_go_without_saying(compared) -> None:
    for beside in ((), (UNPRUNED,)):
        found = compared(*beside, *of_epochs(RANDOM), of_epochs(NEAREST)[0])
        assert {label: ratios for label, ratios in shape(found).items() if label != "unpruned"} == {
            "random": RATIOS,
            "nearest": [0.5],
        }
        assert "501, 250, 100 training steps" in model(found, "random")


def test_without_an_unpruned_model_equal_epochs_are_known_by_each_other(compared) -> None:
    found = compared(*of_steps(RANDOM), *of_epochs(RANDOM))
    assert shape(found) == {"random": RATIOS, "random, equal epochs": RATIOS}


def test_fewer_steps_at_every_ratio_are_no_equal_epochs(compared) -> None:
    """Half the steps are as many epochs as those of the unpruned at one of the ratios."""
    found = compared(UNPRUNED, *of_steps(RANDOM), *of_steps(RANDOM, 501))
    assert shape(found) == {"unpruned": [0.0], "random, 501 training steps": RATIOS, "random": RATIOS}
    assert {line.label: line.unpruned for line in found.pruned} == {
        "random, 501 training steps": (),
        "random": ("unpruned",),
    }


def test_each_line_of_epochs_is_held_to_its_own_unpruned(compared) -> None:
    twice = Run(train={"steps": 2002})
    found = compared(UNPRUNED, twice, *of_epochs(RANDOM), *of_epochs(RANDOM, times=2)[1:])
    assert {line.label: line.unpruned for line in found.pruned} == {
        "random, 32 epochs": ("unpruned, 1001 training steps",),
        "random, 64.1 epochs": ("unpruned, 2002 training steps",),
    }


def test_what_only_memorization_was_measured_of_is_the_same_line(tmp_path: Path) -> None:
    """Its results alone have no unpruned model to know the epochs by."""
    steps, epochs = of_steps(RANDOM), of_epochs(RANDOM)
    quality = [write_metrics(tmp_path / f"q{n}.json", run) for n, run in enumerate([UNPRUNED, *steps, *epochs])]
    distances = [write_memorization(tmp_path / f"m{n}.json", run) for n, run in enumerate([*steps, epochs[1]])]
    kinds = {"metrics": quality, "memorization": distances}
    found = compare_kinds(
        {kind: [point_of_result(read_result(str(file))) for file in files] for kind, files in kinds.items()}
    )
    assert shape(found["memorization"][0]) == {"random": RATIOS, "random, equal epochs": [0.75]}
