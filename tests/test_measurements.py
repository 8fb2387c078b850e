"""dprune report: what ways of measuring are called, and in which order they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import Run, write_metrics

from dprune.formats.results import read_result
from dprune.reporting.study.experiments import point_of_result
from dprune.reporting.study.grouping import Comparison, compare

NEAREST = Run(scores="cluster-distance")
RESNET = {"model": "timm:resnet10t", "crop_pct": 1.0, "image_size": 64, "precision": "bfloat16"}
PIXELS = {"model": "pixels", "color": "rgb", "image_size": 16}


@pytest.fixture
def compared(tmp_path: Path):
    """Compare results of runs, each measured with the features that some options say."""

    def go(*features: dict[str, object], run: Run = NEAREST) -> list[Comparison]:
        files = [write_metrics(tmp_path / f"{n}.json", replace(run, embed=some)) for n, some in enumerate(features)]
        return compare([point_of_result(read_result(str(file))) for file in files])

    return go


@pytest.mark.parametrize(
    ("features", "titles"),
    [
        ([RESNET], [""]),
        ([PIXELS, RESNET], ["resnet10t", "pixels"]),
        ([RESNET, {"model": "dinov2"}], ["dinov2", "resnet10t"]),
        # Options say more where the backbone does not tell.
        ([RESNET, RESNET | {"image_size": 32}], ["image size 32", "image size 64"]),
        ([RESNET, RESNET | {"image_size": 32}, PIXELS],
         ["resnet10t, image size 32", "resnet10t, image size 64", "pixels"]),
        ([RESNET, RESNET | {"model": "hf:somebody/resnet10t"}], ["hf:somebody/resnet10t", "timm:resnet10t"]),
    ],
)  # fmt: skip
def test_measurements_are_called_by_their_backbones(compared, features, titles) -> None:
    assert [comparison.title for comparison in compared(*features)] == titles


def test_the_backbone_of_the_clusters_comes_first_and_then_that_of_most_points(tmp_path: Path) -> None:
    by_resnet = replace(NEAREST, embed=RESNET).chosen()
    measured = (PIXELS, PIXELS, PIXELS, {"model": "inception"}, RESNET, {"model": "dinov2"}, {"model": "dinov2"})
    runs = [replace(NEAREST, subset=by_resnet, embed=features, seed=n) for n, features in enumerate(measured)]
    files = [write_metrics(tmp_path / f"{n}.json", run) for n, run in enumerate(runs)]
    found = compare([point_of_result(read_result(str(file))) for file in files])
    assert [comparison.title for comparison in found] == ["resnet10t", "pixels", "dinov2", "inception"]


def test_in_what_the_tables_differ_is_said_without_what_follows_from_the_backbone(compared) -> None:
    found = compared(RESNET, RESNET | {"image_size": 32}, PIXELS)
    assert {comparison.beside for comparison in found} == {
        ("the model of the features (pixels, resnet10t)", "image size (32, 64)")
    }
