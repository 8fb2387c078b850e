"""Clipped density and coverage: the authors' numbers, their definitions in float64, and what they are made for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scipy.special import betaln, comb
from torch import Tensor

from dprune.cli import cli
from dprune.errors import InputError
from dprune.metrics import clipped as module
from dprune.metrics import distances
from dprune.metrics.clipped import expected_coverage
from dprune.metrics.jackknife import Blocks, draw_halves
from dprune.metrics.manifold import balls, clipped_balls, manifold

DATA = Path(__file__).parent / "data"
ARRAYS = load_file(DATA / "metrics.safetensors")
THEIRS = json.loads((DATA / "clipped.json").read_text())
TRAIN = ARRAYS["train"]
SIDES = {
    "generated": ARRAYS["generated"],
    "held_out": ARRAYS["held_out"],
    "mixed": torch.cat([ARRAYS["held_out"][:400], ARRAYS["generated"][:300].double() * 1.5]),
}
TIE = 1e-12


def normal(n: int, d: int = 12, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def brute(x: Tensor, y: Tensor, k: int) -> tuple[float, float]:
    """Density before its cap and coverage before calibration, by the definitions, by differences in float64."""
    a, b = x.double(), y.double()
    real, cross = ((p[:, None] - b[None]).square().sum(2) for p in (b, a))
    real.fill_diagonal_(torch.inf)
    radius = real.sort(1).values[:, k - 1]
    short = radius.clamp(max=float(np.median(radius.sqrt())) ** 2)
    own, density = ((table <= short * (1 + TIE)).sum(1).clamp(max=k).double().mean() for table in (real, cross))
    coverage = (cross < radius * (1 - TIE)).sum(0).clamp(max=k).double().mean() / k
    return float(density / own), float(coverage)


@pytest.mark.parametrize("expected", THEIRS["values"], ids=lambda v: f"{v['generated']}-{v['k']}")
def test_they_are_those_of_the_authors(expected: dict[str, float]) -> None:
    x = SIDES[str(expected["generated"])]
    found = clipped_balls(x, TRAIN, int(expected["k"]))
    assert found.uncapped == pytest.approx(expected["uncapped_density"], rel=1e-12)
    assert found.density.value == pytest.approx(min(1, expected["uncapped_density"]), rel=1e-12)
    assert found.uncalibrated == pytest.approx(expected["uncalibrated_coverage"], rel=1e-12)
    # Theirs is a whole number of samples over n + 1.
    assert found.coverage.value == pytest.approx(expected["coverage"], abs=1 / len(x))


def test_the_curve_is_that_of_the_authors() -> None:
    curve = expected_coverage(700, 1500, 5)
    for place, value in THEIRS["curve_of_700_to_1500_k5"].items():
        assert curve[int(place)] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("generated", "reference", "k"), [(40, 30, 5), (7, 6, 5), (3, 9, 5), (25, 200, 1)])
def test_the_curve_is_the_mean_of_a_beta_binomial(generated: int, reference: int, k: int) -> None:
    curve = expected_coverage(generated, reference, k)
    for good in range(generated + 1):
        inside = np.arange(good + 1)
        chances = comb(good, inside) * np.exp(
            betaln(k + inside, reference - k + good - inside) - betaln(k, reference - k)
        )
        assert chances.sum() == pytest.approx(1)
        assert curve[good] == pytest.approx((np.minimum(inside, k) / k * chances).sum(), rel=1e-9, abs=1e-12)
    assert (np.diff(curve) > 0).all()


@pytest.mark.parametrize("kind", ["normal", "whole numbers", "binary", "far from zero", "repeats", "one point"])
def test_they_are_exact_where_points_lie_on_boundaries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    tables = {
        "normal": lambda n: generator.normal(size=(n, 12)),
        "whole numbers": lambda n: generator.integers(0, 4, (n, 6)),
        "binary": lambda n: generator.integers(0, 2, (n, 16)),
        "far from zero": lambda n: generator.normal(size=(n, 12)) + 1000,
        "repeats": lambda n: np.repeat(generator.normal(size=(n // 10, 12)), 10, axis=0),
        "one point": lambda n: np.full((n, 12), 3.0),
    }
    x, y = (torch.from_numpy(tables[kind](n).astype(np.float32)) for n in (150, 170))
    expected = brute(x, y, 5)
    found = clipped_balls(x, y)
    assert (found.uncapped, found.uncalibrated) == pytest.approx(expected, rel=1e-12)
    for room, name, size in ((distances, "ROWS", 16), (module, "ROWS", 7), (distances, "COLUMNS", {"cpu": 23})):
        monkeypatch.setattr(room, name, size)
    # Without candidates to spare, all rows are doubtful where there are more.
    monkeypatch.setattr(module, "SPARE", 0)
    found = clipped_balls(x, y)
    assert (found.uncapped, found.uncalibrated) == pytest.approx(expected, rel=1e-12)


def test_one_pass_gives_what_each_gives_alone() -> None:
    x, y, blocks = SIDES["held_out"][:300], TRAIN[:400], Blocks.draw(300)
    both = balls(x, y, 3, 5, blocks)
    assert both.manifold == manifold(x, y, 3, 5, blocks)
    assert both.clipped == clipped_balls(x, y, 5, blocks)


def test_identical_sets_are_perfect() -> None:
    x = normal(300)
    found = clipped_balls(x, x)
    assert (found.density.value, found.coverage.value) == (1, 1)


def test_as_good_as_real_is_nearly_one_and_falls_with_the_share_of_bad_samples() -> None:
    y, x = normal(2000, seed=1), normal(1500, seed=2)
    good = clipped_balls(x, y)
    assert (good.density.value, good.coverage.value) == pytest.approx((1, 1), abs=0.06)
    for bad in (0.25, 0.5, 0.75, 1.0):
        x[: int(bad * 1500)] = 50
        found = clipped_balls(x, y)
        assert found.density.value == pytest.approx((1 - bad) * good.density.value, abs=0.02)
        assert found.coverage.value == pytest.approx((1 - bad) * good.coverage.value, abs=0.02)
        # Coverage as it was does not: with half of the samples bad it is still far above one half.
        assert bad != 0.5 or manifold(x, y).coverage.value > 0.75


def test_outliers_of_the_reference_do_not_hide_bad_samples() -> None:
    y, x = normal(1000), normal(800, seed=1)
    spread = normal(20, seed=3)
    y[:20] = 40 * spread / spread.norm(dim=1, keepdim=True)
    x[:400] = 15 * x[:400] / x[:400].norm(dim=1, keepdim=True)
    found = clipped_balls(x, y)
    assert found.density.value == pytest.approx(0.5, abs=0.06)
    # The balls of the outliers hold bad samples, which the density counts.
    assert manifold(x, y).density.value > 0.75


def test_dropped_modes_cost_coverage_and_no_density() -> None:
    centres = 30 * torch.eye(4, 12, dtype=torch.float64)
    y = normal(2000) + centres[torch.arange(2000) % 4]
    x = normal(1500, seed=5) + centres[torch.arange(1500) % 2]
    found = clipped_balls(x, y)
    assert found.density.value == pytest.approx(1, abs=0.05)
    # The other half is covered with twice as many samples, which is worth something.
    assert 0.5 < found.coverage.value < 0.65
    # Copies of one sample are good ones, and cover next to nothing.
    one = clipped_balls(y[7:8].expand(1500, -1) + 1e-6 * x, y)
    assert one.density.value == 1
    assert one.coverage.value < 0.02


def test_errors_equal_those_of_computing_all_anew() -> None:
    x, y, blocks = SIDES["held_out"][:403], TRAIN[:501], Blocks.draw(403, seed=4)
    found = clipped_balls(x, y, blocks=blocks)
    anew = [clipped_balls(x[blocks.labels != block], y).uncapped for block in range(20)]
    assert found.density.error == pytest.approx(blocks.estimate(found.uncapped, anew).error, rel=1e-9) != 0
    x, blocks = x[:400], Blocks.draw(400, seed=4)
    others, differences = draw_halves(501, 20, 4, "reference"), []
    for ours, theirs in zip(blocks.halves().T, others.T, strict=True):
        first, second = (clipped_balls(x[half], y[theirs]).uncalibrated for half in (~ours, ours))
        differences.append(first - second)
    found, curve = clipped_balls(x, y, blocks=blocks), expected_coverage(400, 501, 5)
    place = int(np.searchsorted(curve, found.uncalibrated))
    slope = 1 / 400 / (curve[place] - curve[place - 1])
    assert found.coverage.error == pytest.approx(slope * np.std(differences, ddof=1) / 2, rel=1e-6) != 0


def test_the_cap_takes_no_error_away() -> None:
    x, blocks = normal(200) * 0.8, Blocks.draw(200)
    found = clipped_balls(x, normal(300, seed=1), blocks=blocks)
    assert found.uncapped > found.density.value == 1
    assert found.density.error > 0
    assert blocks.estimate(1.0, found.density.replicates).error == pytest.approx(found.density.error, rel=1e-9)
    few = clipped_balls(x[:3], normal(11, seed=1), blocks=Blocks.draw(3))
    assert few.density.error >= 0
    assert math.isnan(few.coverage.error)


def test_few_samples() -> None:
    with pytest.raises(InputError, match="5 reference samples have no 5 neighbours"):
        clipped_balls(normal(30), normal(5))
    x, y = normal(2), normal(6, seed=1)
    found = clipped_balls(x, y)
    assert (found.uncapped, found.uncalibrated) == pytest.approx(brute(x, y, 5))
    bad = normal(30)
    bad[3, 1] = torch.nan
    with pytest.raises(InputError, match="1 rows of the generated"):
        clipped_balls(bad, normal(30))


# From the shell.


def test_eval_gives_them_where_they_are_asked_for(tmp_path: Path) -> None:
    x, y = SIDES["held_out"], TRAIN
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())

    def evaluate(name: str, *more: str, code: int = 0) -> dict[str, dict[str, object]]:
        sides = [str(tmp_path / side) for side in ("x.npy", "y.npy")]
        done = CliRunner().invoke(cli, ["eval", *sides, "-o", str(tmp_path / name), *more])
        assert done.exit_code == code, done.output
        return {} if code else json.loads((tmp_path / name).read_text())

    asked = evaluate("a.json", "--metrics", "prdc,clipped-density,clipped-coverage")
    expected = balls(x, y, blocks=Blocks.draw(700))
    assert expected.clipped is not None
    for key, found in (("density", expected.clipped.density), ("coverage", expected.clipped.coverage)):
        assert asked["metrics"][f"clipped_{key}"] == pytest.approx(found.value, rel=1e-12)
        assert asked["metrics"][f"clipped_{key}_se"] == pytest.approx(found.error, rel=1e-9)
    alone = evaluate("b.json", "--metrics", "clipped-density", "--density-k", "3")
    assert alone["metrics"].keys() == {"clipped_density", "clipped_density_se"}
    assert alone["provenance"]["options"]["density_k"] == 3  # type: ignore[index]
    assert "k" not in alone["provenance"]["options"]  # type: ignore[operator]
    # Results of before stay what they were.
    usual = evaluate("c.json")
    assert "clipped_density" not in usual["metrics"]
    assert not [name for name in usual["provenance"]["options"]["metrics"] if name.startswith("clipped")]  # type: ignore[index]
    evaluate("d.json", "--metrics", "clipped-density", "--density-k", "1500", code=3)
