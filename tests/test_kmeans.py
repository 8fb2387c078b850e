"""k-means below the command: its kernels, init, engines and the knee of a sweep, against plain numpy."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dprune.clustering import engines
from dprune.clustering.engines import choose_engine, import_faiss, make_engine
from dprune.clustering.kernels import RunningSums, cluster_sums, nearest_two, own_squared_distances
from dprune.clustering.kmeans import KMeansSettings, fit, lloyd
from dprune.clustering.points import Points, load_points
from dprune.clustering.quality import find_knee, imbalance
from dprune.clustering.starts import greedy_kmeans_plus_plus, initial_centroids
from dprune.clustering.torch_engines import FaissGpuEngine
from dprune.errors import InputError, UsageError
from dprune.formats.features import ArrayFeatures
from dprune.namespace import HOST
from dprune.precision import float32
from dprune.runtime import Silent
from dprune.seeds import generator

CPU = torch.device("cpu")
HAS_FAISS = import_faiss() is not None
ENGINES = [pytest.param("faiss", marks=pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")),
           "torch", "sklearn"]  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def points_of(values: np.ndarray, metric: str = "l2") -> Points:
    return load_points(ArrayFeatures("test", values), metric, CPU, Silent())


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 3000])
def test_cluster_sums_are_exact_with_empty_clusters(n: int) -> None:
    x = random(n, 5)
    # Clusters 0, 4 and the last two are empty, and cluster 2 is longer than a segment.
    labels = torch.from_numpy(np.random.default_rng(1).choice([1, 2, 2, 2, 3, 5], n).astype(np.int32))
    sums, counts = cluster_sums(x, labels, 8)
    expected = torch.zeros(8, 5, dtype=torch.float64).index_add_(0, labels.long(), x.double())
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)
    assert counts.tolist() == np.bincount(labels, minlength=8).tolist()


def test_running_sums_follow_the_points_that_move() -> None:
    x, labels = random(2000, 5), torch.randint(0, 7, (2000,), dtype=torch.int32)
    running = RunningSums(x, 7)
    for share in (1.0, 0.9, 0.1, 0.01, 0.0):
        labels = torch.where(torch.rand(2000) < share, torch.randint(0, 7, (2000,), dtype=torch.int32), labels)
        sums, counts = running.update(labels)
        expected = torch.zeros(7, 5, dtype=torch.float64).index_add_(0, labels.long(), x.double())
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(counts, torch.bincount(labels.long(), minlength=7))


def test_float64_carries_sums_that_float32_would_lose() -> None:
    x = torch.ones((20_000_000, 1))
    sums, _ = cluster_sums(x, torch.zeros(len(x), dtype=torch.int32), 1)
    # Adding ones in float32 stops at 2**24.
    assert sums.item() == 20_000_000


def test_nearest_two_agrees_with_float64_far_from_the_origin() -> None:
    x = points_of(random(500, 16).numpy() + 300).x
    centroids = x[::50].clone()
    labels, near, far = nearest_two(x, centroids)
    distances = torch.cdist(x.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = distances.sort(1).values
    assert (near[::50] == 0).all()
    torch.testing.assert_close(near.double(), expected[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(far.double(), expected[:, 1], rtol=1e-5, atol=1e-5)
    assert labels.dtype == torch.int32


def test_nearest_two_gives_ties_to_the_first_and_repeats_nothing() -> None:
    centroids = torch.tensor([[5.0, 0], [1, 0], [-1, 0], [1, 0]])
    labels, near, far = nearest_two(torch.tensor([[0.0, 0], [1, 0]]), centroids)
    assert labels.tolist() == [1, 1]
    assert near.tolist() == [1, 0]
    assert far.tolist() == [1, 2]


@pytest.mark.parametrize("k", [1, 3])
def test_second_distance_is_nan_without_a_second_centroid(k: int) -> None:
    labels, near, far = nearest_two(random(10, 4), torch.ones(k, 4))
    assert labels.tolist() == [0] * 10
    assert torch.isfinite(near).all()
    assert torch.isnan(far).all()


def test_arrays_of_numpy_and_torch_give_the_same() -> None:
    x = random(3000, 5).numpy()
    x[1], x[2] = 0, -0.0
    centroids = np.concatenate([x[:40], x[:3]])
    labels = np.random.default_rng(1).choice([1, 2, 2, 2, 3, 5], len(x)).astype(np.int32)
    draws = generator(0, "draws").random((20, 5))
    kinds = [tuple(convert(array) for array in (x, centroids, labels)) for convert in (np.asarray, torch.from_numpy)]
    for function in (
        lambda x, centroids, labels: cluster_sums(x, labels, 8),
        lambda x, centroids, labels: nearest_two(x, centroids),
        lambda x, centroids, labels: (own_squared_distances(x, labels, centroids),),
        lambda x, centroids, labels: (greedy_kmeans_plus_plus(x, draws),),
    ):
        ours, theirs = (function(*arrays) for arrays in kinds)
        for one, other in zip(ours, theirs, strict=True):
            assert isinstance(one, np.ndarray)
            assert one.dtype == other.numpy().dtype
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_clusterings_on_the_host_are_those_of_torch(metric: str) -> None:
    values = random(2000, 6).numpy() + 1
    values[7], values[9, 2] = 0, np.nan
    # Two clusters start far from all points and must be repaired.
    start = np.concatenate([values[20:28], values[:2] * 1e4 if metric == "l2" else values[20:22]])
    settings = KMeansSettings(10, metric, "file", centroids=start, engine="sklearn")
    solutions = []
    for device in (HOST, CPU):
        points = load_points(ArrayFeatures("test", values), metric, device, Silent())
        solutions.append(fit(points, settings, 0, Silent()))
    ours, theirs = solutions
    assert isinstance(ours.centroids, np.ndarray)
    assert (ours.iterations, ours.repaired) == (theirs.iterations, theirs.repaired)
    assert ours.repaired >= 2
    assert ours.inertia == pytest.approx(theirs.inertia, rel=1e-6)
    np.testing.assert_allclose(ours.centroids, theirs.centroids.numpy(), rtol=1e-4, atol=1e-5)


def test_own_squared_distances() -> None:
    x, centroids = random(100, 6), random(4, 6, seed=1)
    labels = torch.arange(100, dtype=torch.int32) % 4
    expected = (x - centroids[labels.long()]).square().sum(1)
    torch.testing.assert_close(own_squared_distances(x, labels, centroids), expected)


def test_the_precision_of_products_and_convolutions_is_put_back() -> None:
    def flags() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = flags()
    with float32(tf32=True):
        assert flags() == ("high", True)
        with float32(tf32=False):
            assert flags() == ("highest", False)
        with pytest.raises(ZeroDivisionError), float32(tf32=False):
            _ = 1 / 0
        assert flags() == ("high", True)
    assert flags() == before


def test_greedy_init_finds_every_separated_group() -> None:
    centres = random(20, 8) * 50
    x = (centres.repeat(30, 1) + random(600, 8, seed=2) * 0.1)[torch.randperm(600, generator=torch.Generator())]
    for seed in range(5):
        chosen = greedy_kmeans_plus_plus(x, generator(seed, "draws").random((20, 5)))
        assert len(torch.cdist(chosen, centres).argmin(1).unique()) == 20


def test_greedy_init_draws_no_point_twice_while_others_are_left() -> None:
    x = random(30, 3)
    chosen = greedy_kmeans_plus_plus(x, generator(0, "draws").random((30, 4)))
    assert len(torch.unique(chosen, dim=0)) == 30


def test_greedy_init_survives_fewer_distinct_points_than_clusters() -> None:
    x = torch.eye(3).repeat(10, 1)
    chosen = greedy_kmeans_plus_plus(x, generator(0, "draws").random((6, 3)))
    assert len(torch.unique(chosen[:3], dim=0)) == 3


def test_greedy_init_is_as_good_as_scikit_learns() -> None:
    from sklearn.cluster import kmeans_plusplus

    x = random(1500, 10) * torch.linspace(0.2, 3, 10)
    ours, theirs = [], []
    for seed in range(5):
        draws = generator(seed, "draws").random((40, 5))
        ours.append(nearest_two(x, greedy_kmeans_plus_plus(x, draws))[1].square().sum().item())
        centroids, _ = kmeans_plusplus(x.numpy(), 40, random_state=seed)
        theirs.append(nearest_two(x, torch.from_numpy(centroids))[1].square().sum().item())
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)


def test_sample_is_seeded_sorted_and_without_repeats() -> None:
    points = points_of(random(1000, 3).numpy())
    rows, chosen = points.sample(50, 0, "a")
    assert (np.diff(chosen) > 0).all()
    assert torch.equal(rows, points.x[torch.from_numpy(chosen)])
    assert np.array_equal(points.sample(50, 0, "a")[1], chosen)
    assert not np.array_equal(points.sample(50, 1, "a")[1], chosen)
    assert len(points.sample(5000, 0, "a")[1]) == 1000


def test_init_takes_a_tenth_or_a_hundred_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    points = points_of(random(300, 2).numpy())
    take = Points.sample

    def sample(self: Points, count: int, *args: object) -> object:
        asked.append(count)
        return take(self, count, *args)

    monkeypatch.setattr(Points, "sample", sample)
    initial_centroids(points, 3, "kmeans++", 0)
    monkeypatch.setattr("dprune.clustering.starts.SMALLEST_SAMPLE", 10)
    initial_centroids(points, 3, "kmeans++", 0)
    assert asked == [100_000, 30]


@pytest.mark.parametrize(("k", "trials"), [(1, 2), (3, 3), (20, 4), (21, 5)])
def test_init_draws_what_its_seed_says(k: int, trials: int) -> None:
    """2 + log k candidates a step, as scikit-learn tries; another number would change published clusters."""
    points = points_of(random(300, 2).numpy())
    draws = generator(5, "k-means++ 1").random((k, trials))
    assert torch.equal(initial_centroids(points, k, "kmeans++", 5, 1), greedy_kmeans_plus_plus(points.x, draws))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree(engine: str, metric: str) -> None:
    points = points_of(random(20_000, 12).numpy() + 2, metric)
    centroids = points.x[::2000].clone()
    expected = nearest_two(points.x, centroids)[0]
    found = make_engine(engine, points.x).assign(centroids)
    assert found.dtype == torch.int32
    assert (found != expected).float().mean() < 1e-4
    solution = fit(points, KMeansSettings(10, metric, iterations=3, engine=engine), 0, Silent())
    reference = fit(points, KMeansSettings(10, metric, iterations=3, engine="torch"), 0, Silent())
    torch.testing.assert_close(solution.centroids, reference.centroids, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_take_ranks_without_points(engine: str) -> None:
    assert len(make_engine(engine, torch.empty(0, 3)).assign(random(4, 3))) == 0


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_inertia_of_a_solution_is_that_of_its_assignment(metric: str) -> None:
    points = points_of(random(2000, 6).numpy() + 1, metric)
    solution = fit(points, KMeansSettings(8, metric, iterations=200, tolerance=0.0), 0, Silent())
    squares = nearest_two(points.x, solution.centroids)[1].double().square().sum().item()
    assert solution.inertia == pytest.approx(squares / 2 if metric == "cosine" else squares, rel=1e-5)


def test_more_iterations_are_never_worse() -> None:
    points = points_of(random(1000, 4).numpy())
    runs = [
        fit(points, KMeansSettings(20, init="random", iterations=i, tolerance=0.0), 0, Silent()) for i in range(1, 8)
    ]
    inertias = [run.inertia for run in runs]
    assert inertias == sorted(inertias, reverse=True)


def test_the_best_of_several_starts_is_kept() -> None:
    points = points_of(random(1000, 4).numpy())
    engine, settings = make_engine("torch", points.x), KMeansSettings(20, n_init=5)
    starts = [initial_centroids(points, 20, "kmeans++", 0, run) for run in range(5)]
    inertias = [lloyd(points, engine, start, settings, Silent()).inertia for start in starts]
    assert len(set(inertias)) == 5
    assert min(inertias) not in (inertias[0], inertias[-1])
    assert fit(points, settings, 0, Silent()).inertia == min(inertias)


def test_empty_clusters_take_over_the_furthest_points() -> None:
    values = np.concatenate([random(100, 2).numpy(), [[40.0, 0], [0, 60.0]]]).astype(np.float32)
    points = points_of(values)
    start = points.place(torch.tensor([[0.0, 0], [1e4, 0], [0, 1e4]]))
    solution = lloyd(points, make_engine("torch", points.x), start, KMeansSettings(3), Silent())
    assert solution.repaired == 2
    labels = nearest_two(points.x, solution.centroids)[0]
    assert sorted(np.bincount(labels, minlength=3)) == [1, 1, 100]
    # Centroids that were only just given a point do not rest, however much they may move.
    lax = lloyd(points, make_engine("torch", points.x), start, KMeansSettings(3, tolerance=1e12), Silent())
    assert lax.iterations == 2
    assert (nearest_two(points.x, lax.centroids)[0] == labels).all()


def test_points_that_are_not_numbers_or_have_no_direction_are_left_out() -> None:
    values = random(6, 3).numpy()
    values[1, 2], values[2, 0], values[4] = np.nan, np.inf, 0
    assert points_of(values).valid.tolist() == [True, False, False, True, True, True]
    assert points_of(values, "cosine").valid.tolist() == [True, False, False, True, False, True]
    with pytest.raises(InputError, match="no sample has usable features"):
        points_of(np.full((4, 3), np.nan, dtype=np.float32))


def test_more_clusters_than_points_is_an_error() -> None:
    with pytest.raises(InputError, match="-k 4 is more than the 3 samples"):
        fit(points_of(random(3, 2).numpy()), KMeansSettings(4), 0, Silent())


@pytest.mark.parametrize(
    ("engine", "device", "faiss_gpus", "expected"),
    [
        ("auto", "cpu", None, "sklearn"),
        ("auto", "cpu", 0, "faiss"),
        ("auto", "cpu", 2, "faiss"),
        ("auto", "cuda", None, "torch"),
        ("auto", "cuda", 0, "torch"),
        ("auto", "cuda", 2, "faiss"),
        ("torch", "cuda", None, "torch"),
        ("faiss", "cuda", 2, "faiss"),
    ],
)
def test_engine_choice(
    engine: str, device: str, faiss_gpus: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, faiss_gpus, device)
    on_host = expected in ("faiss", "sklearn") and device == "cpu"
    assert choose_engine(engine, "auto") == (expected, HOST if on_host else torch.device(device))


@pytest.mark.parametrize(("engine", "gpus"), [("faiss", 0), ("sklearn", None)])
def test_engines_without_a_gpu_stay_on_the_cpu_unless_told(
    engine: str, gpus: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, gpus, "cuda")
    assert choose_engine(engine, "auto") == (engine, HOST)
    with pytest.raises(UsageError, match=f"--engine {engine} cannot use a GPU here"):
        choose_engine(engine, "cuda")


def stand_in(monkeypatch: pytest.MonkeyPatch, faiss_gpus: int | None, device: str) -> None:
    """Pretend that this machine has a device, and faiss in no, a CPU or a GPU build."""
    faiss = ModuleType("faiss")
    faiss.get_num_gpus = lambda: faiss_gpus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", faiss if faiss_gpus is not None else None)
    monkeypatch.setattr(engines, "is_gpu", lambda name: (device if name == "auto" else name) == "cuda")
    monkeypatch.setattr(engines, "take_device", lambda name: torch.device(device if name == "auto" else name))


@pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed")
def test_faiss_on_a_gpu_by_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU build can be had here: its calls go to the CPU index, with tensors, as they would there."""
    import faiss

    asked = []

    def to_gpu(resources: object, device: int, index: faiss.IndexFlatL2) -> faiss.IndexFlatL2:
        asked.append((resources, device))
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    points = points_of(random(1000, 7).numpy())
    engine = FaissGpuEngine(points.x)
    for centroids in (points.x[:9].clone(), points.x[9:30].clone()):
        assert torch.equal(engine.assign(centroids), nearest_two(points.x, centroids)[0])
    assert asked == [("resources", 0)]


def test_faiss_that_does_not_load_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise RuntimeError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert import_faiss() is None
    assert choose_engine("auto", "cpu") == ("sklearn", HOST)


def test_knee_is_the_point_furthest_from_the_chord() -> None:
    ks = [2, 4, 6, 8, 10]
    assert find_knee(ks, [100, 40, 10, 8, 6]) == 6
    assert find_knee(ks, [1e9, 9e8, 8.5e8, 8.2e8, 8.1e8]) == 6
    assert find_knee(ks[:2], [3, 1]) is None
    assert find_knee(ks, [1, 1, 1, 1, 1]) is None
    assert find_knee(ks, [100, 99, 95, 80, 0]) is None


def test_imbalance_is_one_when_equal_and_k_when_all_in_one() -> None:
    assert imbalance(np.array([5, 5, 5])) == pytest.approx(1)
    assert imbalance(np.array([0, 0, 9])) == pytest.approx(3)
