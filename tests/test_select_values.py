"""dprune select by value, at intervals, and with samples that come again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import dprune, sample, write_tar
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dprune.errors import InputError
from dprune.formats.arrays import write_array
from dprune.formats.provenance import make_record, with_findings
from dprune.selecting.amount import Amount
from dprune.selecting.ranking import MOST_REPEATS, allot_draws, rank


def array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


def record_of(data: bytes) -> dict:
    return json.loads(data.splitlines()[-1])


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """0, .01, ..., .99 in float32, in no order, and one without."""
    values = np.random.default_rng(0).permutation(100).astype(np.float32) / 100
    np.save(tmp_path / "s.npy", np.append(values, np.float32(np.nan)))
    return tmp_path / "s.npy"


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Of 5, 20 and 75 samples, and one in none."""
    np.save(tmp_path / "g.npy", np.append(np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [5, 20, 75])), -1))
    return tmp_path / "g.npy"


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [(["--below", 0.25], 0, 25), (["--above", 0.25], 26, 100), (["--above", 0.25, "--below", 0.75], 26, 75)],
)
def test_bounds_keep_what_is_strictly_within_them(scores: Path, bounds: list, low: int, high: int) -> None:
    """Also where float32 holds a bound as another number than the command line does."""
    kept = array(dprune("select", scores, *bounds).ok().out)
    np.testing.assert_array_equal(np.sort(np.load(scores)[kept]), np.arange(low, high, dtype=np.float32) / 100)


def test_shares_and_quotas_are_of_what_the_bounds_leave(scores: Path, groups: Path) -> None:
    values, labels = np.load(scores), np.load(groups)
    done = dprune("select", scores, "--below", 0.5, "--keep", "50%", "--order", "highest").ok()
    np.testing.assert_array_equal(np.sort(values[array(done.out)]), np.arange(25, 50, dtype=np.float32) / 100)
    assert record_of(done.out)["findings"] == {"candidates": 50, "kept": 25, "scored": 100}
    kept = array(dprune("select", scores, "--below", 0.5, "--groups", groups, "--quota", "equal").ok().out)
    least = min(((labels == group) & (values < 0.5)).sum() for group in range(3))
    np.testing.assert_array_equal(np.bincount(labels[kept]), [least] * 3)
    assert (values[kept] < 0.5).all()


def test_a_record_names_the_bounds_and_those_without_stay_what_they_were(scores: Path) -> None:
    plain = record_of(dprune("select", scores, "--keep", 5).ok().out)
    assert plain["options"] == {"keep": "5", "order": "lowest"}
    assert plain["findings"] == {"candidates": 100, "kept": 5}
    bounded = record_of(dprune("select", scores, "--below", 0.5).ok().out)
    assert bounded["options"] == {"below": 0.5, "order": "lowest"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--below", -1], 3, ["s.npy: no score of the 100 samples", "is below -1", "between 0 and 0.99"]),
        (["--above", 0.5, "--below", 0.5], 2, ["leave no score between them"]),
        (["--below", "nan"], 2, ["not a finite number"]),
    ],
)
def test_bounds_that_nothing_is_within_are_an_error(scores: Path, arguments: list, code: int, words: list) -> None:
    dprune("select", scores, *arguments).fails(code, *words)


def test_bounds_need_scores(groups: Path) -> None:
    dprune("select", "--groups", groups, "--below", 1).fails(2, "--below and --above need SCORES")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 1 << 32))
def test_intervals_are_the_middles_of_equal_spans(sizes: list[int], seed: int) -> None:
    """Against exact fractions, group by group."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = rng.normal(size=len(groups)).astype(np.float32)
    counts = rng.integers(0, np.array(sizes) + 1)
    ranking = rank(np.arange(len(groups)), values, groups, "interval", 0)
    kept = ranking.keep(counts, "interval")
    for group, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True)):
        ranks = [(2 * i + 1) * size // (2 * count) for i in range(count)]
        ids = np.flatnonzero(groups == group)
        ids = ids[np.argsort(values[ids])]
        assert len(set(ranks)) == count
        np.testing.assert_array_equal(np.sort(ids[ranks]), kept[groups[kept] == group])


def test_an_interval_favours_neither_end(scores: Path) -> None:
    values = np.load(scores)
    kept = array(dprune("select", scores, "--keep", 10, "--order", "interval").ok().out)
    np.testing.assert_allclose(np.sort(values[kept]), np.arange(0.05, 1, 0.1), atol=1e-6)
    every = array(dprune("select", scores, "--keep", "100%", "--order", "interval").ok().out)
    np.testing.assert_array_equal(every, np.arange(100))


def test_ties_of_an_interval_follow_the_seed(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros(1000, np.float32))
    first, again, other = (
        array(dprune("select", tmp_path / "s.npy", "--keep", 100, "--order", "interval", "--seed", seed).ok().out)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 350 < first.mean() < 650


def test_small_groups_are_repeated_as_often_as_the_largest_comes(groups: Path) -> None:
    done = dprune("select", "--groups", groups, "--repeat").ok()
    weights, labels = array(done.out), np.load(groups)
    assert weights.dtype == np.float32
    assert weights[labels == 0].tolist() == [15] * 5
    assert weights[labels == 1].sum() == 75
    assert set(weights[labels == 1].tolist()) == {3, 4}
    assert weights[labels == 2].tolist() == [1] * 75
    assert weights[-1] == 0
    assert record_of(done.out)["options"] == {"order": "random", "quota": "equal", "repeat": True}
    assert record_of(done.out)["findings"] == {"candidates": 100, "kept": 100, "drawn": 225}


@pytest.mark.parametrize("order", ["lowest", "highest", "middle", "interval", "random"])
def test_who_comes_once_more_is_said_by_the_order(scores: Path, groups: Path, order: str) -> None:
    """Draws are even to one, exact in number, and the odd ones are what the order would keep of the group."""
    arguments = ["select", scores, "--groups", groups, "--order", order]
    weights = array(dprune(*arguments, "--repeat", "--keep", 95).ok().out)
    labels, values = np.load(groups), np.load(scores)
    draws = [int(weights[labels == group].sum()) for group in range(3)]
    assert draws == [32, 32, 31]
    for group, (each, rest) in enumerate([(6, 2), (1, 12), (0, 31)]):
        members = np.flatnonzero((labels == group) & ~np.isnan(values))
        more = members[weights[members] == each + 1]
        assert (weights[members] >= each).all()
        assert len(more) == rest
        np.save(scores.with_name("only.npy"), members)
        plain = array(dprune(*arguments, "--within", scores.with_name("only.npy"), "--keep", rest).ok().out)
        np.testing.assert_array_equal(more, plain)


def test_draws_are_a_share_of_the_candidates_too(scores: Path, groups: Path) -> None:
    arguments = ["select", scores, "--groups", groups, "--below", 0.5, "--repeat", "--keep", "100%"]
    weights = array(dprune(*arguments).ok().out)
    assert weights.sum() == 50
    assert not weights[~(np.load(scores) < 0.5)].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prune", "50%"], "--prune and --repeat exclude each other"),
        (["--cap", 3], "--cap and --repeat exclude each other"),
        (["--tail", 0.1], "--tail and --repeat exclude each other"),
        (["--or", "x.npy"], "--or and --repeat exclude each other"),
        (["--format", "csv"], "leave out --format csv"),
    ],
)
def test_what_makes_no_sense_of_repeats(groups: Path, arguments: list, words: str) -> None:
    dprune("select", "--groups", groups, "--repeat", *arguments).fails(2, words)


def test_repeats_need_groups(scores: Path) -> None:
    dprune("select", scores, "--repeat").fails(2, "--repeat", "need groups")


def test_more_repeats_than_float32_counts_are_refused() -> None:
    sizes = np.array([1, 7])
    assert allot_draws(sizes, Amount(2 * MOST_REPEATS), "lowest").tolist() == [MOST_REPEATS] * 2
    with pytest.raises(InputError, match="more than 16,777,216 times"):
        allot_draws(sizes, Amount(2 * MOST_REPEATS + 1), "lowest")


def test_levels_above_the_groups_are_drawn_alike_too() -> None:
    """Two of five groups are one region of the data, and three another."""
    above = [np.array([0, 0, 1, 1, 1])]
    draws = allot_draws(np.array([4, 10, 1, 2, 3]), None, "lowest", above)
    assert draws.tolist() == [13, 12, 9, 8, 8]
    assert allot_draws(np.array([4, 10, 1, 2, 3]), Amount(12), "lowest", above).tolist() == [3, 3, 2, 2, 2]


def test_weights_are_known_for_what_they_are(tmp_path: Path, groups: Path) -> None:
    weights = tmp_path / "w.npy"
    dprune("select", "--groups", groups, "--repeat", "-o", weights).ok()
    assert "up to date" in dprune("select", "--groups", groups, "--repeat", "-o", weights).ok().err
    (found,) = json.loads(dprune("info", weights, "--json").ok().out)["files"]
    assert found["kind"] == "weights"
    assert found["content"]["drawn_in_all"] == 225
    dprune("select", "--within", weights).fails(3, "holds weights, not a subset", "train-dit --weights", "--above 0")
    dprune("select", "--groups", weights, "--cap", 3).fails(3, "holds weights, not groups")
    np.testing.assert_array_equal(array(dprune("select", weights, "--above", 0).ok().out), np.arange(100))


def test_keeping_more_than_was_ranked_is_said(tmp_path: Path) -> None:
    values = np.minimum(np.arange(10), 4).astype(np.float32)
    record = with_findings(make_record("score k-center", {"up_to": "4"}), {"ranked": 4})
    write_array(tmp_path / "ranks.npy", values, record)
    assert "ranks" not in dprune("select", tmp_path / "ranks.npy", "--keep", 4).ok().err
    assert "ranks 4 samples and 5 are kept" in dprune("select", tmp_path / "ranks.npy", "--keep", 5).ok().err


def test_the_picture_frames_what_an_interval_and_a_bound_keep(tmp_path: Path) -> None:
    shards = tmp_path / "shards" / "000000.tar"
    write_tar(shards, [part for row in range(12) for part in sample(f"s{row:02}", row)])
    np.save(tmp_path / "s.npy", np.arange(12, dtype=np.float32))
    np.save(tmp_path / "g.npy", np.repeat([0, 1], [4, 8]))
    for number, (arguments, said) in enumerate((
        (["--keep", 4, "--order", "interval"], "4 of 12 candidates kept (framed)"),
        (["--below", 6], "6 of 12 candidates kept (framed)"),
        (["--groups", tmp_path / "g.npy", "--repeat"], "12 of 12 candidates kept (framed); a row for each group"),
    )):  # fmt: skip
        picture = tmp_path / f"{number}.png"
        dprune("select", tmp_path / "s.npy", *arguments, "--shards", shards, "--figure", picture,
               "-o", tmp_path / f"{number}.npy").ok()  # fmt: skip
        # What a bound leaves out is shown, too, and not framed.
        assert Image.open(picture).text["Description"].endswith(said)
