"""Summaries in words: names as people write them, few digits, no run-on lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import dprune

from dprune.metrics.catalogue import MEMORIZATION, METRICS
from dprune.shell.summaries import WIDTH, in_words


def test_measures_have_their_names_and_few_digits() -> None:
    summary = {"generated": 1500, "frechet_distance": 12.345678, "real_frechet_distance": 3.0, "prd_f_8": 0.98765,
               "prd_f_1_8": 0.5, "kid": -0.000123456, "f_score": 1 / 3, "inception_score": 2.0}  # fmt: skip
    found = in_words(summary, every=False)
    assert found.counts == "generated: 1,500"
    assert ", ".join(found.lines) == (
        "Fréchet distance: 12.35, real to real: 3, PRD F8: 0.9877, PRD F1/8: 0.5, KID: -0.0001235, F-score: 0.3333, "
        "Inception score: 2"
    )


def test_lines_end_between_measures() -> None:
    measures = [*(measure for metric in METRICS.values() for measure in metric.measures), *MEMORIZATION]
    lines = in_words({measure.key: 123.456 for measure in measures}, every=False).lines
    assert all(len(line) <= WIDTH for line in lines)
    assert sum(line.count(": 123.5") for line in lines) == len(measures)
    assert not any("_" in line.replace("C_T", "") for line in lines)


@pytest.mark.parametrize(
    ("summary", "every", "counts"),
    [
        ({"img_per_s": 0.25, "lr": 1e-4, "mfu": 0.38}, False, "speed: 4 s/image, MFU: 0.38"),
        ({"img_per_s": 561.7, "lr": 1e-4, "mfu": 0.38}, True, "speed: 562 images/s, learning rate: 0.0001, MFU: 0.38"),
        ({"images": 9, "undecodable": 0, "complete": True, "sampling_img_per_s": None}, False, "images: 9"),
        ({"images": 9, "undecodable": 2, "complete": False}, False, "images: 9, undecodable: 2, complete: no"),
        ({"kept": 3, "fingerprint": "ab"}, True, "kept: 3, fingerprint: ab"),
        ({"kept": 3, "fingerprint": "ab"}, False, "kept: 3"),
    ],
)
def test_what_is_as_expected_is_left_out(summary: dict[str, object], every: bool, counts: str) -> None:
    assert in_words(summary, every=every).counts == counts


def test_tables_have_a_line_each_and_keep_the_names_of_groups() -> None:
    table = {"split_half": 0.912345, "reliability": 0.95, "draws_for_0.8": 4}
    found = in_words(
        {"EL2N": table, "kept_by_class": {"sea_cow": 2}, "against": {"kid": {"difference": 1}}}, every=False
    )
    assert found.lines[0] == "EL2N: split halves: 0.9123, reliability: 0.95, draws for 0.8: 4"
    assert found.lines[1] == "kept by class: sea_cow: 2"
    assert len(found.lines) == 2


def test_verbose_commands_leave_nothing_out(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.arange(8, dtype=np.float32))
    select = ("select", tmp_path / "scores.npy", "--keep", "2", "-o")
    assert dprune(*select, tmp_path / "a.npy").ok().err.endswith("(kept: 2, candidates: 8)\n")
    assert "fingerprint: none" in dprune("-v", *select, tmp_path / "b.npy").ok().err
