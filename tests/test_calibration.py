"""The standard errors are worth what the man page says, by drawing everything again and again."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SLACK = 1.15
"""How far two hundred draws may leave what is stated."""
SMALL = (8, 300, 500)


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests/bench/calibration.py"))


@pytest.fixture(scope="module")
def stated() -> dict[str, tuple[float, float]]:
    """Lowest and highest ratio by key, as the text of the man page has them."""
    text = (ROOT / "man/sections.txt").read_text(encoding="utf-8")
    table = text.partition("## What the errors are worth\n")[2].partition("\n# ")[0]
    rows = re.findall(r"^([a-z0-9_, ]+)\n: ([\d.]+) to ([\d.]+)[,.]", table, flags=re.MULTILINE)
    return {key: (float(low), float(high)) for keys, low, high in rows for key in keys.split(", ")}


def held(found: dict[str, dict[str, float]], stated: dict[str, tuple[float, float]]) -> None:
    for key, row in found.items():
        low, high = stated[key]
        assert low / SLACK < row["fixed"] < high * SLACK, (key, row, stated[key])


@pytest.mark.slow
@pytest.mark.parametrize("metrics", ["fid,is,kid,cmmd,vendi,shares", "prdc", "clipped", "prd"])
def test_errors_are_what_the_page_says(bench: Any, stated: dict[str, tuple[float, float]], metrics: str) -> None:
    found = bench["simulate"](SMALL, metrics.split(","), 100)
    held(found, stated)


@pytest.mark.slow
def test_errors_of_balanced_classes_are_those_of_stratified_samples(
    bench: Any, stated: dict[str, tuple[float, float]]
) -> None:
    metrics = ("fid", "kid", "vendi", "prdc")
    held(bench["simulate"](SMALL, metrics, 100, balanced=True), stated)
    unaware = bench["simulate"](SMALL, ("fid", "kid", "vendi"), 50, balanced=True, stratified=False)
    assert min(row["fixed"] for row in unaware.values()) > 2


def test_the_page_speaks_of_every_metric_that_is_simulated(bench: Any, stated: dict[str, tuple[float, float]]) -> None:
    found = bench["simulate"]((4, 60, 80), bench["METRICS"], 2)
    assert found.keys() == stated.keys()
    assert all(row["deviation"] > 0 for row in found.values())
