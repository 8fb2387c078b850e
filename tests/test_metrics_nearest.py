"""The exact search for nearest training rows, held to reference numbers and to what must hold of any features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dprune.errors import InputError, MismatchError
from dprune.metrics.bounds import optimistic_scores, query_operand, row_operand
from dprune.metrics.copying import authenticity, calibrated_ratios, summarize
from dprune.metrics.nearest import nearest, squared_distances
from dprune.metrics.reading import SIZES, Sizes, take

PRECISIONS = ["float32", "bf16"]


@pytest.fixture(scope="module")
def oracle() -> dict[str, torch.Tensor]:
    return load_file(DATA / "metrics.safetensors")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, tiles and portions so small that a few hundred rows take many of each."""
    monkeypatch.setitem(SIZES, "cpu", Sizes(150 * 4 * 24, 128, 128 * 50, 24 * 40, 100))


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))


def brute(queries: torch.Tensor, train: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All float64 differences, sorted by distance and then by id."""
    table = torch.stack([squared_distances(query.expand_as(train), train) for query in queries])
    squares, ids = table.sort(dim=1, stable=True)
    return squares[:, :k].sqrt(), ids[:, :k]


class OnlyRows:
    """A training set that can be read by rows alone, and remembers how."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.reads = values, []
        self.shape = values.shape

    def rows(self, begin: int, end: int) -> np.ndarray:
        self.reads.append((begin, end))
        return self.values[begin:end].astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nearest_distances_and_ids_are_the_reference_ones(oracle, precision):
    found = nearest(oracle["generated"], oracle["train"], precision=precision)
    torch.testing.assert_close(found.distance[:, 0], oracle["nearest_training_distance"], rtol=0, atol=1e-6)
    assert torch.equal(found.id[:, 0], oracle["nearest_training_id"])
    summary = summarize(found.distance[:, 0], [0.0, 1.0])
    assert summary.mean == pytest.approx(oracle["value.nearest_training_distance_mean"].item(), abs=1e-6)
    assert summary.quantiles[0.5] == pytest.approx(oracle["value.nearest_training_distance_median"].item(), abs=1e-6)
    held_out = nearest(oracle["held_out"], oracle["train"], precision=precision).distance
    wanted = oracle["value.held_out_nearest_training_distance_mean"].item()
    assert float(held_out.mean()) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 3, 60])
def test_small_tiles_change_nothing(small, precision, k):
    train, queries = normal(700, 24), normal(130, 24, 1)
    found = nearest(queries, train, k, precision=precision)
    distances, ids = brute(queries, train, k)
    assert torch.equal(found.id, ids)
    assert torch.equal(found.distance, distances)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 300), st.integers(1, 20), st.integers(1, 12), st.integers(0, 10**6),
    st.sampled_from(PRECISIONS), st.sampled_from([1, 3]),
)  # fmt: skip
def test_any_shape_with_many_ties_is_right(queries, rows, k, dimension, seed, precision, levels):
    """Few whole numbers as coordinates: most distances are tied, and ties go to the lower id."""
    draw = torch.Generator().manual_seed(seed)
    train = torch.randint(-levels, levels + 1, (rows, dimension), generator=draw).float()
    points = torch.randint(-levels, levels + 1, (queries, dimension), generator=draw).float()
    found = nearest(points, train, k, precision=precision)
    distances, ids = brute(points, train, k)
    there = min(k, rows)
    assert torch.equal(found.id[:, :there], ids)
    assert torch.equal(found.distance[:, :there], distances)
    assert (found.id[:, there:] == -1).all()
    assert torch.isinf(found.distance[:, there:]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_near_ties_below_the_precision_of_the_product_are_told_apart(small, precision):
    """Rows on a sphere around the query whose radii differ by a few units of the last float32 digit."""
    query = 10 + normal(1, 24, 1)
    away = torch.nn.functional.normalize(normal(600, 24, 2), dim=1)
    train = query + away * (1 + 1e-6 * torch.randperm(600, generator=torch.Generator().manual_seed(3))[:, None])
    found = nearest(query, train, 20, precision=precision)
    distances, ids = brute(query, train, 20)
    assert torch.equal(found.id, ids)
    assert torch.equal(found.distance, distances)
    # The product alone gets it wrong, or this test would show nothing.
    rounded = (query - train.mean(0)).bfloat16().float() @ (train - train.mean(0)).bfloat16().float().T
    scores = rounded - (train - train.mean(0)).square().sum(1) / 2
    assert not torch.equal(scores.topk(20).indices, ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dimension", [1, 48, 1000])
def test_optimistic_scores_are_never_below_the_true_ones(dtype, dimension):
    queries, rows = 2 + normal(60, dimension), 2 + normal(300, dimension, 1)
    # Residuals that all point along the query, an outlier, a row at the centre, copies.
    rows[:20] = 2 + 1.00195 * torch.sign(queries[:20] - 2)
    rows[20], rows[21], rows[22:40] = 1e4 * rows[20], 2.0, queries[22:40]
    centre = torch.full((dimension,), 2.0, dtype=torch.float64)
    left, right = query_operand(queries, centre, dtype), row_operand(rows, centre, dtype, 128)
    optimistic = optimistic_scores(left.matrix, right.matrix)[:, :300].double()
    x, y = queries.double() - centre, rows.double() - centre
    true = x @ y.T - y.square().sum(1) / 2
    assert (optimistic >= true).all()
    # And not by much: by the share that rounding takes.
    size = x.norm(dim=1).outer(y.norm(dim=1)) + y.square().sum(1)
    assert (optimistic - true <= (0.02 if dtype == torch.bfloat16 else 1e-3) * size).all()


def test_low_precision_leaves_few_pairs_to_compare(oracle):
    """The bound is what makes the search fast: it must exclude nearly all pairs, also with an outlier in the block."""
    train = oracle["train"].clone()
    train[700] *= 1e4
    found = nearest(oracle["generated"], train, precision="bf16")
    assert found.compared < 4 * len(oracle["generated"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_planted_copies_are_at_exactly_zero_with_the_lowest_id(small, precision):
    train = 3 + 5 * normal(900, 24)
    train[800], train[640] = train[33], train[33]
    queries = torch.cat([train[[33, 500, 899]], 3 + normal(20, 24, 1)])
    found = nearest(queries, train, 2, precision=precision)
    assert found.id[:3, 0].tolist() == [33, 500, 899]
    assert found.id[0].tolist() == [33, 640]
    assert (found.distance[:3, 0] == 0).all()
    assert found.distance[0, 1] == 0
    assert (found.distance[3:] > 0).all()
    assert summarize(found.distance[:, 0], [0.0, 1.0]).zero_count == 3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_that_are_all_equal(small, precision):
    ones = torch.full((400, 24), 0.7)
    found = nearest(ones[:60], ones, 3, precision=precision)
    assert (found.distance == 0).all()
    assert found.id.tolist() == [[0, 1, 2]] * 60
    # Once copies fill a query's places, later blocks are not compared with it.
    assert found.compared == 60 * 150
    apart = nearest(ones[:5] + 1, ones, 2, precision=precision)
    assert apart.id.tolist() == [[0, 1]] * 5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_leaving_out_oneself(small, precision):
    train = normal(500, 24)
    train[300] = train[7]
    found = nearest(train, train, 2, exclude=torch.arange(500), precision=precision)
    _, ids = brute(train, train, 4)
    wanted = [[i for i in row.tolist() if i != own][:2] for own, row in enumerate(ids)]
    assert found.id.tolist() == wanted
    assert found.id[7, 0] == 300
    assert found.distance[300, 0] == 0
    some = torch.full((500,), -1)
    some[7] = 7
    assert nearest(train, train, exclude=some, precision=precision).id[:8, 0].tolist() == [*range(7), 300]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cells_keep_strangers_out(small, precision):
    train, queries = normal(600, 24), normal(90, 24, 1)
    draw = torch.Generator().manual_seed(2)
    rows, own = torch.randint(0, 7, (600,), generator=draw), torch.randint(0, 9, (90,), generator=draw)
    found = nearest(queries, train, 2, cells=(own, rows), precision=precision)
    for cell in range(9):
        members, askers = (rows == cell).nonzero()[:, 0], (own == cell).nonzero()[:, 0]
        if cell < 7:
            distances, ids = brute(queries[askers], train[members], 2)
            assert torch.equal(found.id[askers], members[ids])
            assert torch.equal(found.distance[askers], distances)
        else:
            assert (found.id[askers] == -1).all()
    alone = nearest(train, train, 1, cells=(rows, rows), exclude=torch.arange(600), precision=precision)
    assert (alone.id[:, 0] != torch.arange(600)).all()
    assert torch.equal(rows[alone.id[:, 0]], rows)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_without_features_are_never_found(small, precision):
    train, queries = normal(500, 24), normal(40, 24, 1)
    distances, ids = brute(queries, train, 1)
    bad = [i for i in range(0, 500, 3) if i not in ids]
    train[bad[::3]], train[bad[1::3], 5], train[bad[2::3]] = math.nan, math.inf, 1e25
    found = nearest(queries, train, 1, precision=precision)
    assert torch.equal(found.id, ids)
    assert torch.equal(found.distance, distances)
    # A single query far beyond float32 must not take the centre with it.
    queries[3] = 1e25
    far = nearest(queries, train, 1, precision=precision)
    assert far.id[3, 0] == -1
    assert torch.equal(far.id[torch.arange(40) != 3], ids[torch.arange(40) != 3])
    queries[3] = math.nan
    again = nearest(queries, train, 1, precision=precision)
    assert again.id[3, 0] == -1
    assert torch.isnan(again.distance[3, 0])
    rest = torch.arange(40) != 3
    assert torch.equal(again.id[rest], ids[rest])
    assert torch.isfinite(again.distance[:, 0]).sum() == 39
    assert (nearest(queries, torch.full((10, 24), math.nan), precision=precision).id == -1).all()


def test_the_training_set_is_read_once_in_blocks_and_may_be_half_precision(small):
    train = normal(700, 24).half()
    rows, queries = OnlyRows(train.numpy()), normal(30, 24, 1)
    found = nearest(queries, rows, 2)
    assert rows.reads == [(low, min(low + 150, 700)) for low in range(0, 700, 150)]
    distances, ids = brute(queries, train.float(), 2)
    assert torch.equal(found.id, ids)
    assert torch.equal(found.distance, distances)
    read_only = train.numpy()
    read_only.setflags(write=False)
    assert torch.equal(nearest(queries, read_only, 2).id, ids)
    assert torch.equal(take(rows, torch.tensor([0, 149, 150, 150, 699])), train[[0, 149, 150, 150, 699]].float())


def test_float64_features_keep_their_digits():
    query = torch.zeros(1, 4, dtype=torch.float64)
    train = torch.full((50, 4), 1.0, dtype=torch.float64)
    train[31, 0] -= 1e-13
    before = train.clone()
    for precision in PRECISIONS:
        found = nearest(query, train, 2, precision=precision)
        assert found.id.tolist() == [[31, 0]]
    assert torch.equal(train, before)
    assert (query == 0).all()


def test_shuffles_change_nothing():
    train, queries = normal(800, 16), normal(200, 16, 1)
    found = nearest(queries, train, 5)
    draw = torch.Generator().manual_seed(2)
    rows, order = torch.randperm(800, generator=draw), torch.randperm(200, generator=draw)
    again = nearest(queries[order], train[rows], 5)
    assert torch.equal(again.distance, found.distance[order])
    assert torch.equal(rows[again.id], found.id[order])
    assert authenticity(again, train[rows])[0] == authenticity(found, train)[0]
    assert (calibrated_ratios(again.distance) < 1).sum() == (calibrated_ratios(found.distance) < 1).sum()


def test_rotations_change_nothing():
    train, queries = normal(600, 16).double(), normal(150, 16, 1).double()
    turn = torch.linalg.qr(normal(16, 16, 2).double())[0]
    found, again = nearest(queries, train, 5), nearest(queries @ turn + 3, train @ turn + 3, 5)
    assert torch.equal(again.id, found.id)
    torch.testing.assert_close(again.distance, found.distance, rtol=1e-12, atol=0)
    assert authenticity(again, train @ turn + 3)[0] == authenticity(found, train)[0]


def test_squared_distances_do_not_depend_on_company():
    a, b = normal(400, 37), normal(400, 37, 1)
    together = squared_distances(a, b)
    assert torch.equal(together[123:124], squared_distances(a[123:124], b[123:124]))
    torch.testing.assert_close(together, (a.double() - b.double()).square().sum(1), rtol=1e-14, atol=0)
    assert (squared_distances(a, a) == 0).all()


def test_nothing_to_search_for_or_in():
    x = normal(10, 4)
    assert nearest(x[:0], x, 2).id.shape == (0, 2)
    found = nearest(x, x[:0], 2)
    assert (found.id == -1).all()
    assert math.isnan(authenticity(found, x[:0])[0])
    assert torch.isnan(calibrated_ratios(found.distance)).all()


def test_what_cannot_be_searched_is_refused():
    x = normal(10, 4)
    with pytest.raises(InputError, match="neighbours"):
        nearest(x, x, 0)
    with pytest.raises(InputError, match="floats"):
        nearest(x.long(), x)
    with pytest.raises(MismatchError, match="dimensions"):
        nearest(x, normal(10, 5))
