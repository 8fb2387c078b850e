"""dprune report of all that a study has: each kind of figure and table that a paper on pruning shows is on one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import dprune
from studies import Run, shares, write_memorization, write_metrics
from test_report import generated
from test_report_coverage import listed
from test_report_page import Node, Tree
from test_report_pairs import FIRST, SECOND, write_pairs
from test_report_pictures import draw

LINES = [
    Run(scores="random", order="random"),
    Run(scores="cluster-distance"),
    Run(scores="cluster-distance", order="highest"),
    Run(scores="el2n", order="highest", grouped=False),
    Run(scores="random", order="random", baseline="vae"),
    Run(scores="random", order="random", baseline="gan"),
]


def whole(folder: Path) -> Node:
    """The page of a study of all kinds of models, with scores, subsets, images, pairs, pictures and a map."""
    runs = [replace(run, keep=keep) for run in LINES for keep in ("0.5", "0.25")]
    runs += [Run(), Run(baseline="vae"), Run(baseline="gan")]
    files = [write_metrics(folder / f"{n}.json", run, details=shares(run)) for n, run in enumerate(runs)]
    files += [write_memorization(folder / f"{n}-m.json", run) for n, run in enumerate(runs)]
    files.append(write_pairs(folder / "pairs.json", FIRST, SECOND))
    values = np.random.default_rng(0).normal(size=(2, 200)).astype(np.float32)
    for name, score in zip(("el2n", "grand"), values, strict=True):
        np.save(folder / f"{name}.npy", score)
    np.save(folder / "train.npy", values.reshape(100, 4))
    images = [generated(folder / f"images-{n}", run) for n, run in enumerate((Run(), runs[0]))]
    images += [generated(folder / f"half-{n}", run, "0-11") for n, run in enumerate((FIRST, SECOND))]
    expected = listed(folder, *(f"moso,{ratio},moso.json" for ratio in (0.5, 0.75)), *(f"all,0,{files[-2]}",))
    options = [f"--scores={folder / 'el2n.npy'}", f"--scores={folder / 'grand.npy'}", f"--expect={expected}"]
    options += [f"--images={path}" for path in images] + [f"--picture={draw(folder / 'kept.png')}=What was kept"]
    options += [f"--{side}={folder / 'train.npy'}" for side in ("train", "generated")]
    dprune("report", *files, *options, "-o", folder / "report").ok()
    return Tree((folder / "report" / "report.html").read_text()).root


def test_every_kind_of_figure_and_table_is_on_one_page(tmp_path: Path) -> None:
    root = whole(tmp_path)
    ids = {node.attributes["id"]: node for node in root.all("") if "id" in node.attributes}
    links = [node.attributes["href"].removeprefix("#") for node in root.all("nav")[0].all("a")]
    assert links == ["results", "trainings", "lines", "quality", "shares", "memorization", "agreement", "images",
                     "pairs", "pictures", "map", "measured"]  # fmt: skip
    assert set(links) <= ids.keys()
    # Quality over the ratio, with the other kinds of models beside the diffusion model.
    charts = [figure.all("figcaption")[0].text for figure in ids["results"].all("figure")]
    assert charts == ["Fr\u00e9chet distance \u2193", "F-score \u2191", "Vendi score \u2191",
                      "Distance to training, generated / held-out"]  # fmt: skip
    named = {row.children[0].text for row in ids["results"].all("tr")}
    assert {"unpruned", "unpruned, VAE", "random, GAN", "nearest", "furthest", "EL2N, highest"} <= named
    assert "missing" in ids["trainings"].text
    # Balance, copies, what scores have in common, the same seeds, what was kept and made, and where it lies.
    assert "Share of each cluster" in ids["shares"].text
    assert "Distances to the nearest training sample" in ids["memorization"].text
    assert "Rank correlation of scores" in ids["agreement"].text
    assert len(ids["images"].all("img")) == 2 * 4
    assert len(ids["pairs"].all("img")) == 2 * 8
    assert ids["pictures"].all("figcaption")[0].text == "What was kept"
    assert ids["map"].all("figure")
