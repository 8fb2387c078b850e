"""dprune report: a VAE or a GAN beside a diffusion model, each held to its own of all samples."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from conftest import dprune
from studies import Run, write_memorization, write_metrics
from test_report_page import Node, Tree

RANDOM = Run(scores="random", order="random", grouped=False)
NEAREST = Run(scores="cluster-distance")


def study(folder: Path, *runs: Run) -> Path:
    """Results of each of them at two ratios, and of each kind of model that they are of with all samples."""
    kinds = dict.fromkeys(run.baseline for run in runs)
    every = [replace(run, keep=keep) for run in runs for keep in ("0.5", "0.25")]
    for number, run in enumerate([*every, *(Run(baseline=kind) for kind in kinds)]):
        write_metrics(folder / f"{number}.json", run)
        write_memorization(folder / f"{number}-m.json", run)
    dprune("report", *sorted(folder.glob("*.json")), "-o", folder / "report").ok()
    return folder / "report"


def rows(report: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((report / name).read_text().splitlines()))


def legend(root: Node) -> list[str]:
    return [node.text for node in root.all("ul", class_="legend lines")[0].all("li")]


def test_lines_are_called_by_the_kind_of_their_model_and_held_to_their_own(tmp_path: Path) -> None:
    report = study(tmp_path, *(replace(RANDOM, baseline=kind) for kind in ("", "vae", "gan")))
    for name in ("quality.csv", "memorization.csv"):
        assert {(row["line"], row["pruned"], row["baseline"]) for row in rows(report, name)} == {
            (f"{line}, {kind}", ratio, held and f"{held}, {kind}")
            for kind in ("DiT", "VAE", "GAN")
            for line, ratio, held in (("unpruned", "0.0", ""), ("random", "0.5", "unpruned"),
                                      ("random", "0.75", "unpruned"))
        }  # fmt: skip
    lines = rows(report, "lines.csv")
    models = {row["Line"]: row["Model"] for row in lines}
    assert models["random, GAN"] == "GAN, 900 training steps, batch size 128"
    assert models["random, DiT"] == "nano/2, 500 training steps, batch size 64"
    text = (report / "summary.md").read_text()
    assert "**Fr\u00e9chet distance (DiT, guidance 2)**: " in text
    assert "**Fr\u00e9chet distance (GAN, VAE)**: " in text
    # What all models of a kind share goes without saying, but not how they were sampled.
    differing = {row["Line"]: row["Differs in"] for row in lines}
    assert differing["random, DiT"] == "guidance 2, 20 sampling steps"
    assert differing["random, GAN"] == ""


def test_options_in_which_models_of_one_kind_differ_are_told(tmp_path: Path) -> None:
    gan = replace(RANDOM, baseline="gan")
    report = study(tmp_path, RANDOM, NEAREST, replace(NEAREST, order="highest"), gan, replace(gan, train={"width": 32}))
    labels = {row["Line"] for row in rows(report, "lines.csv")}
    assert labels == {
        "unpruned", "random", "nearest", "furthest",
        "unpruned, GAN, training width 64", "random, GAN, training width 32", "random, GAN, training width 64",
    }  # fmt: skip


def test_among_diffusion_models_only_the_others_are_called_by_their_kind(tmp_path: Path) -> None:
    report = study(tmp_path, RANDOM, NEAREST, replace(NEAREST, order="highest"), replace(RANDOM, baseline="gan"))
    root = Tree((report / "report.html").read_text()).root
    assert legend(root) == ["unpruned", "unpruned, GAN", "random", "random, GAN", "nearest", "furthest"]


def test_subsets_of_baselines_are_told_also_where_they_were_packed(tmp_path: Path) -> None:
    report = study(tmp_path, replace(RANDOM, baseline="gan", packed=True), replace(NEAREST, baseline="gan"))
    assert {row["Line"]: row["Pruned"] for row in rows(report, "lines.csv")} == {
        "unpruned": "0", "random": "0.5, 0.75", "nearest": "0.5, 0.75"
    }  # fmt: skip
