"""The gap of the loss between training and held-out samples: by hand, from the shell, and in a report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from dprune.cli import cli
from dprune.formats.arrays import read_array, write_array
from dprune.formats.digests import CHECK_KEY
from dprune.formats.provenance import make_record, parent_record
from dprune.metrics.loss_gap import loss_gap

SIGMAS = (0.06, 0.5, 0.9)
RISES = (1.01, 1.4, 1.1)
COUNT = 60
FINGERPRINT = "f" * 64
TRAINED = np.arange(0, COUNT, 3)


def run(*args: Any, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert done.exit_code == code, done.output
    return done


def made(path: Path, record: dict[str, Any], losses: npt.NDArray[np.float32]) -> Path:
    """Write what `score el2n --per-sigma` writes: losses [levels, N]."""
    write_array(path, losses.mean(0), record)
    for sigma, values in zip(SIGMAS, losses, strict=True):
        one = {**record, "options": {**record["options"], "sigma": [sigma]}}
        write_array(path.with_name(f"{path.stem}.s{sigma:g}.npy"), values, one)
    return path


def some_losses(seed: int = 0, rises: tuple[float, ...] = RISES) -> npt.NDArray[np.float32]:
    losses = np.random.default_rng(seed).uniform(0.9, 1.1, (len(SIGMAS), COUNT))
    return np.where(np.isin(np.arange(COUNT), TRAINED), losses, losses * np.array(rises)[:, None]).astype(np.float32)


def scored(folder: Path, *, seed: int = 0, order: str = "random", rises: tuple[float, ...] = RISES) -> Path:
    """Make losses by a model that was trained on a subset, and that subset."""
    folder.mkdir()
    chosen = make_record("select", {"order": order, "keep": str(len(TRAINED))}, seed=seed, fingerprint=FINGERPRINT)
    write_array(folder / "keep.npy", TRAINED, chosen)
    subset = read_array(folder / "keep.npy").as_parent()
    model = make_record("train-dit", {"arch": "nano/4", "steps": 9, "samples": len(TRAINED), "of": COUNT}, seed=seed,
                        fingerprint=FINGERPRINT, parents={"subset": subset})  # fmt: skip
    record = make_record("score el2n", {"sigma": list(SIGMAS), "draws": 8}, seed=0, fingerprint=FINGERPRINT,
                         parents={"model": parent_record(model, f"{seed:064d}")})  # fmt: skip
    return made(folder / "el2n.npy", record, some_losses(seed, rises))


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    return scored(tmp_path / "one")


def gap(losses: Path, *more: Any, code: int = 0) -> dict[str, Any]:
    place = losses.parent / "gap.json"
    run("memorization", "--losses", losses, "-o", place, *more, code=code)
    return {} if code else json.loads(place.read_text())


def test_it_is_what_is_found_by_hand() -> None:
    training, held = np.array([1, 2, 3], dtype=np.float32), np.array([3, 5], dtype=np.float32)
    found = loss_gap(training, held)
    assert (found.training.value, found.held_out.value, found.gap.value, found.relative.value) == (2, 4, 2, 100)
    assert found.training.error == pytest.approx(1 / math.sqrt(3))
    assert found.held_out.error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found.gap.error == pytest.approx(math.sqrt(1 / 3 + 1))
    # Of first order: each mean moves the ratio on its own.
    assert found.relative.error == pytest.approx(100 * math.hypot(1 / 2, 4 * (1 / math.sqrt(3)) / 4))
    many = loss_gap(np.full(10**6, 0.1, dtype=np.float32), np.full(7, 0.1, dtype=np.float32))
    assert many.gap.value == pytest.approx(0, abs=1e-14)


def test_the_errors_are_the_deviations() -> None:
    draw = np.random.default_rng(0)
    found = [loss_gap(draw.gamma(4, size=80), 1.2 * draw.gamma(4, size=150)) for _ in range(600)]
    for name in ("gap", "relative"):
        values, errors = zip(*((getattr(f, name).value, getattr(f, name).error) for f in found), strict=True)
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_the_gap_from_the_shell(losses: Path) -> None:
    found = gap(losses, "--subset", losses.parent / "keep.npy")
    values, held = some_losses().astype(np.float64), np.setdiff1d(np.arange(COUNT), TRAINED)
    table = found["details"]["loss_gap"]
    assert table["sigma"] == list(SIGMAS)
    for place, sigma in enumerate(SIGMAS):
        ours, theirs = values[place][TRAINED].mean(), values[place][held].mean()
        assert table["training"][place] == pytest.approx(ours, rel=1e-12)
        assert table["gap"][place] == pytest.approx(theirs - ours, rel=1e-9)
        assert found["metrics"][f"loss_gap_pct_at_{sigma:g}"] == pytest.approx(100 * (theirs / ours - 1), rel=1e-9)
    assert found["metrics"]["loss_gap_sigma"] == 0.5
    assert found["metrics"]["loss_gap_pct"] == found["metrics"]["loss_gap_pct_at_0.5"] == pytest.approx(40, abs=5)
    assert [side["count"] for side in found["inputs"]] == [20, 40]
    assert found["provenance"]["parents"].keys() == {"losses", "subset"}
    again = run("memorization", "--losses", losses, "--subset", losses.parent / "keep.npy", "-o",
                losses.parent / "gap.json", "--json")  # fmt: skip
    assert json.loads(again.stdout)["loss_gap_sigma"] == 0.5
    assert "up to date" in again.stderr


def test_held_out_samples_may_be_ids_or_losses_of_another_store(losses: Path) -> None:
    keep, folder = losses.parent / "keep.npy", losses.parent
    np.save(folder / "held.npy", np.array([1, 2, 4, 5]))
    assert gap(losses, "--subset", keep, "--held-out", folder / "held.npy")["inputs"][1]["count"] == 4
    np.save(folder / "held.npy", np.array([1, 3]))
    gap(losses, "--subset", keep, "--held-out", folder / "held.npy", "--overwrite", code=3)
    record = read_array(losses).record
    assert record is not None
    other = made(folder / "val.npy", {**record, "fingerprint": "e" * 64}, some_losses(5)[:, 30:])
    found = gap(losses, "--subset", keep, "--held-out", other, "--overwrite")
    assert [side["count"] for side in found["inputs"]] == [20, 30]
    unlike = {**record, "options": {**record["options"], "draws": 2}}
    made(other, unlike, some_losses(5)[:, 30:])
    gap(losses, "--subset", keep, "--held-out", other, "--overwrite", code=3)


def test_samples_without_a_loss_are_left_out(losses: Path, tmp_path: Path) -> None:
    record, values = read_array(losses).record, some_losses()
    assert record is not None
    values[1, [0, 1, 2]] = np.nan
    made(losses, record, values)
    found = gap(losses, "--subset", losses.parent / "keep.npy")
    assert [(side["count"], side["dropped"]) for side in found["inputs"]] == [(19, 1), (38, 2)]
    assert all(math.isfinite(value) for value in found["metrics"].values())
    values[1, TRAINED[1:]] = np.nan
    made(losses, record, values)
    gap(losses, "--subset", losses.parent / "keep.npy", "--overwrite", code=3)


def test_what_does_not_belong_together_is_refused(losses: Path, tmp_path: Path) -> None:
    keep = losses.parent / "keep.npy"
    gap(losses, code=3)  # Its model was trained on a subset.
    np.save(tmp_path / "other.npy", TRAINED[1:])
    gap(losses, "--subset", tmp_path / "other.npy", code=3)
    foreign = make_record("select", {"order": "random"}, fingerprint="e" * 64)
    write_array(tmp_path / "foreign.npy", TRAINED, foreign)
    gap(losses, "--subset", tmp_path / "foreign.npy", code=3)
    gap(losses, "--subset", keep, "--neighbours", 7, code=2)
    run("memorization", "a", "b", "--losses", losses, "-o", tmp_path / "x.json", code=2)
    run("memorization", "a", "-o", tmp_path / "x.json", code=2)
    run("memorization", "--losses", keep, "-o", tmp_path / "x.json", code=3)
    level = losses.with_name("el2n.s0.5.npy")
    whole = level.read_bytes()
    level.write_bytes(whole[:200])
    gap(losses, "--subset", keep, code=3)
    level.unlink()
    assert "--per-sigma" in run("memorization", "--losses", losses, "--subset", keep, "-o", "-", code=3).stderr


def test_losses_made_elsewhere(tmp_path: Path) -> None:
    for sigma, values in zip(SIGMAS, some_losses(), strict=True):
        np.save(tmp_path / f"mine.s{sigma:g}.npy", values)
    np.save(tmp_path / "mine.npy", some_losses().mean(0))
    np.save(tmp_path / "keep.npy", TRAINED)
    found = gap(tmp_path / "mine.npy", "--subset", tmp_path / "keep.npy")
    assert found["metrics"]["loss_gap_sigma"] == 0.5
    gap(tmp_path / "mine.npy", "--overwrite", code=3)
    np.save(tmp_path / "alone.npy", some_losses().mean(0))
    gap(tmp_path / "alone.npy", "--subset", tmp_path / "keep.npy", "--overwrite", code=3)


def test_a_subset_chosen_by_scores_is_warned_of(tmp_path: Path) -> None:
    for order in ("lowest", "interval", "random"):
        losses, out = scored(tmp_path / order, order=order), tmp_path / f"{order}.json"
        done = run("memorization", "--losses", losses, "--subset", losses.parent / "keep.npy", "-o", out)
        assert ("chosen by scores" in done.stderr) == (order == "lowest")


def test_a_model_that_drew_by_weights_may_not_have_seen_all(tmp_path: Path) -> None:
    np.save(tmp_path / "drawn.npy", TRAINED)
    for role, code in (("weights", 0), ("curriculum", 3)):
        drawn = {role: {"digest": "d" * 64, "external": True}}
        counts = {"samples": len(TRAINED), "of": COUNT}
        model = make_record("train-dit", {"arch": "nano/4", **counts}, fingerprint=FINGERPRINT, parents=drawn)
        record = make_record("score el2n", {"sigma": list(SIGMAS)}, fingerprint=FINGERPRINT,
                             parents={"model": parent_record(model, "a" * 64)})  # fmt: skip
        gap(made(tmp_path / f"{role}.npy", record, some_losses()), "--subset", tmp_path / "drawn.npy", code=code)
    np.save(tmp_path / "more.npy", np.arange(len(TRAINED) + 1))
    gap(tmp_path / "weights.npy", "--subset", tmp_path / "more.npy", "--overwrite", code=3)
    gap(tmp_path / "weights.npy", "--overwrite", code=3)


def test_the_report_shows_it(tmp_path: Path) -> None:
    results = []
    for seed, rises in ((0, RISES), (1, (1.02, 1.5, 1.1))):
        losses = scored(tmp_path / str(seed), seed=seed, rises=rises)
        gap(losses, "--subset", losses.parent / "keep.npy")
        results.append(losses.parent / "gap.json")
    one = scored(tmp_path / "lowest", order="lowest", seed=3)
    gap(one, "--subset", one.parent / "keep.npy")
    done = run("report", *results, one.parent / "gap.json", "--format", "png", "-o", tmp_path / "report", "--json")
    assert json.loads(done.stdout)["lines"] == 2
    page = (tmp_path / "report" / "report.html").read_text()
    assert 'id="loss-gap"' in page
    assert "noise level" in page
    assert 'scope="rowgroup">pruned 0.' in page[page.index('id="loss-gap"') :]
    table = (tmp_path / "report" / "loss-gap.md").read_text()
    # Seeds of one line are averaged, with an interval over trainings.
    assert len([row for row in table.splitlines() if row.startswith("| 0.")]) == 2
    rows = (tmp_path / "report" / "loss-gap.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(SIGMAS)
    assert (tmp_path / "report" / "loss-gap-01.png").stat().st_size > 1000
    assert "Loss gap" in (tmp_path / "report" / "summary.md").read_text()
    damaged = json.loads(results[0].read_text())
    del damaged["details"]["loss_gap"]["gap"], damaged[CHECK_KEY]
    results[0].write_text(json.dumps(damaged))
    run("report", results[0], "-o", tmp_path / "damaged", code=3)
