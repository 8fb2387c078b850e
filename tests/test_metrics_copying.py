"""What is told from nearest distances, held to reference numbers and to what must hold of any features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file
from test_metrics_nearest import brute, normal

from dprune.errors import InputError, MismatchError
from dprune.metrics.copying import (
    authenticity,
    calibrated_ratios,
    copying_test,
    copying_test_in_cells,
    histogram_edges,
    mann_whitney_z,
    summarize,
)
from dprune.metrics.nearest import nearest, squared_distances


@pytest.fixture(scope="module")
def oracle() -> dict[str, torch.Tensor]:
    return load_file(DATA / "metrics.safetensors")


def test_copying_test_gives_the_reference_values(oracle):
    cells = (oracle["cells_generated"], oracle["cells_held_out"], oracle["cells_train"])
    sets = (oracle["generated"], oracle["held_out"], oracle["train"])
    found = copying_test_in_cells(*sets, cells, tau=20 / 1200)
    assert found.c_t == pytest.approx(oracle["value.data_copying_c_t"].item(), abs=1e-9)
    assert found.z < 2 * found.c_t
    assert found.p < 1e-100
    assert copying_test_in_cells(*sets, cells) == found
    near, far = (nearest(x, oracle["train"]).distance[:, 0] for x in sets[:2])
    assert mann_whitney_z(near, far) == pytest.approx(oracle["value.data_copying_z_u"].item(), abs=1e-9)


def test_authenticity_follows_its_definition(oracle):
    generated, train = oracle["generated"], oracle["train"]
    found = nearest(generated, train)
    authpct, authentic = authenticity(found, train)
    _, two = brute(train, train, 2)
    own = torch.arange(len(train))
    other = torch.where(two[:, 0] == own, two[:, 1], two[:, 0])
    rest = squared_distances(train, train[other]).sqrt()
    wanted = rest[found.id[:, 0]] < found.distance[:, 0]
    assert torch.equal(authentic, wanted)
    assert authpct == 100 * int(wanted.sum()) / len(wanted)
    # The 200 near copies are not authentic, and neither is the training set itself.
    assert (~authentic).sum() >= 200
    assert authenticity(nearest(train, train), train)[0] == 0
    # As near as the training sample's own neighbour is not farther.
    line = torch.tensor([[0.0], [1.0]])
    assert authenticity(nearest(line - 1, line), line)[1].tolist() == [False, False]
    assert authenticity(nearest(line - 1.5, line), line)[1].tolist() == [True, False]
    far = generated + 1000
    assert authenticity(nearest(far, train), train)[0] == 100


def blobs(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of four clusters, and to which each belongs."""
    cells = torch.arange(rows) % 4
    return normal(rows, 8, seed) + 30 * torch.nn.functional.one_hot(cells, 8), cells


def test_copies_drive_the_copying_test_far_below_zero():
    train, rows = blobs(1200, 1)
    held_out, others = blobs(400, 2)
    fresh, own = blobs(600, 3)
    honest = copying_test_in_cells(fresh, held_out, train, (own, others, rows))
    assert abs(honest.z) < 4
    assert honest.cells == 4
    assert honest.weight == 1
    copies = copying_test_in_cells(train[:600], held_out, train, (rows[:600], others, rows))
    assert copies.c_t < -10
    assert copies.p < 1e-20
    # A model that has learned half of its samples by heart, with a little noise.
    half = torch.cat([train[:300] + 0.05 * normal(300, 8, 4), fresh[300:]])
    overfitted = copying_test_in_cells(half, held_out, train, (torch.cat([rows[:300], own[300:]]), others, rows))
    assert copies.c_t < overfitted.c_t < honest.c_t - 3
    assert overfitted.p < 1e-6
    blurred = copying_test_in_cells(3 * normal(600, 8, 5), held_out, train, (own, others, rows))
    assert blurred.c_t > 10


def test_copying_test_counts_cells_as_it_says():
    near, far = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([2.5, 9.0])
    cells = torch.tensor([0, 0, 0, 0, 1])
    found = copying_test(near, far, cells, torch.tensor([0, 1]), tau=0.3)
    u = 2  # of 1, 2, 3, 4 against 2.5
    wanted = (u - (4 * 1 / 2 - 0.5)) / math.sqrt(4 * 1 * 6 / 12)
    assert found.c_t == pytest.approx(wanted)
    assert (found.cells, found.weight) == (1, 0.5)
    assert found.p == pytest.approx(0.5 * (1 + math.erf(found.z / math.sqrt(2))))
    # A share of exactly tau does not count.
    assert copying_test(near, far, cells, torch.tensor([0, 1]), tau=0.2).cells == 1
    assert copying_test(near, far, cells, torch.tensor([0, 1]), tau=0.19).cells == 2
    nothing = copying_test(near, far, cells, torch.tensor([5, 6]))
    assert math.isnan(nothing.c_t)
    assert nothing.cells == 0
    with pytest.raises(MismatchError):
        copying_test(near, far, cells[:3], torch.tensor([0, 1]))


def test_mann_whitney_counts_ties_one_half():
    tied = torch.ones(30)
    assert mann_whitney_z(tied, tied) == 0
    a, b = normal(80, 1)[:, 0], normal(50, 1, 1)[:, 0]
    u = float(((a[:, None] > b).double() + 0.5 * (a[:, None] == b)).sum())
    assert mann_whitney_z(a, b) == pytest.approx((u - 2000) / math.sqrt(80 * 50 * 131 / 12))
    assert mann_whitney_z(a, b) == pytest.approx(-mann_whitney_z(b, a))


def test_calibrated_ratio_flags_what_is_unusually_near(oracle):
    found = nearest(oracle["generated"], oracle["train"], 50)
    ratios = calibrated_ratios(found.distance)
    assert (ratios < 1).sum() == 200
    torch.testing.assert_close(ratios, found.distance[:, 0] / (0.5 * found.distance.mean(1)))
    assert torch.equal((ratios < 1).nonzero()[:, 0], (oracle["nearest_training_distance"] < 1).nonzero()[:, 0])
    odd = torch.tensor([[0.0, 0.0, 0.0], [3.0, 5.0, math.inf], [math.nan] * 3])
    ratios = calibrated_ratios(odd)
    assert ratios[:2].tolist() == [0.0, 1.5]
    assert torch.isnan(ratios[2])
    with pytest.raises(InputError):
        calibrated_ratios(odd[:, :1])


def test_summaries_agree_with_numpy():
    values = normal(1001, 1)[:, 0].abs().double()
    values[:4] = 0
    edges = histogram_edges([values])
    found = summarize(torch.cat([values, torch.tensor([math.nan, math.inf])]), edges)
    assert found.zero_count == 4
    assert found.mean == pytest.approx(values.mean().item(), rel=1e-14)
    assert found.quantiles[0.5] == float(np.median(values.numpy()))
    for level, value in found.quantiles.items():
        assert value == pytest.approx(float(np.quantile(values.numpy(), level)), rel=1e-14)
    assert found.histogram == np.histogram(values.numpy(), edges)[0].tolist()
    assert sum(found.histogram) == 1001
    edges = histogram_edges([values, 7 * values], bins=9)
    assert len(edges) == 10
    assert summarize(values, edges).histogram == np.histogram(values.numpy(), edges)[0].tolist()
    empty = summarize(torch.tensor([math.nan]), edges)
    assert (empty.zero_count, sum(empty.histogram)) == (0, 0)
    assert math.isnan(empty.quantiles[0.5])
