"""Engines of k-means: ways to find each point's nearest centroid. All else is shared, so results agree."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.namespace import HOST, Array, Device, device_type, host, namespace
from dprune.runtime import is_gpu, pick_device, ranks, take_device

FAISS_ROWS = 16_384
FAISS_BLOCK = 1024


class Engine(Protocol):
    """Assigns the points that it was made with."""

    def assign(self, centroids: Array) -> Array:
        """Return the nearest of the centroids, float32 [k, d], for each point: int32 [n], on the points' device."""


class FaissEngine:
    """faiss's exact search on CPU cores.

    faiss.Kmeans is left alone: it subsamples to 256 points a centroid, adds its objective up in float32, and cannot
    be stopped. One single-threaded search a core takes a quarter less CPU time than one search by all cores.
    """

    def __init__(self, x: Array) -> None:
        self._faiss = import_faiss()
        self._faiss.cvar.distance_compute_blas_query_bs = FAISS_BLOCK
        self._rows: npt.NDArray[np.float32] = host(x)

    def assign(self, centroids: Array) -> Array:
        """Return the nearest centroid of each point."""
        index = self._faiss.IndexFlatL2(centroids.shape[1])
        index.add(host(centroids))
        labels = np.empty(len(self._rows), dtype=np.int32)

        def search(low: int) -> None:
            part = slice(low, low + FAISS_ROWS)
            labels[part] = index.search(self._rows[part], 1)[1][:, 0]

        threads = self._faiss.omp_get_max_threads()
        with ThreadPoolExecutor(threads, initializer=self._faiss.omp_set_num_threads, initargs=(1,)) as pool:
            list(pool.map(search, range(0, len(labels), FAISS_ROWS)))
        return namespace(centroids).asarray(labels)


class SklearnEngine:
    """scikit-learn's prediction step on CPU cores.

    Only its assignment is used: the sums of its fit depend on the order in which threads finish, from three threads
    on, and it cannot be stopped.
    """

    def __init__(self, x: Array) -> None:
        self._rows = host(x)
        self._model: Any = None

    def assign(self, centroids: Array) -> Array:
        """Return the nearest centroid of each point."""
        import sklearn

        xp = namespace(centroids)
        if not len(self._rows):
            return xp.empty(0, dtype=xp.int32)
        if self._model is None:
            self._model = _fitted_model(host(centroids))
        self._model.cluster_centers_ = host(centroids)
        with sklearn.config_context(assume_finite=True):
            return xp.asarray(self._model.predict(self._rows))


def _fitted_model(centroids: npt.NDArray[np.float32]) -> Any:
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        # That centroids coincide is found, repaired and told by our own loop.
        warnings.simplefilter("ignore")
        return KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)


def import_faiss() -> Any:
    """Return faiss, None where it is not installed or does not load."""
    try:
        with warnings.catch_warnings():
            # SWIG's types warn at import on newer Pythons.
            warnings.simplefilter("ignore")
            import faiss
    except Exception:  # noqa: BLE001 - a GPU build without its CUDA libraries raises RuntimeError
        return None
    return faiss


def choose_engine(name: str, device: str) -> tuple[str, Device]:
    """Decide which engine works, and where.

    `auto` is faiss on a GPU if its GPU build is installed, otherwise torch there; on a CPU faiss, or scikit-learn
    without it. The number of ranks plays no role, so a rerun finds its output up to date whatever it runs on.

    Args:
        name: `auto`, `faiss`, `torch` or `sklearn`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The engine, and its device; `HOST` where nothing needs torch, which takes a second to import.

    Raises:
        UsageError: the engine is not installed or cannot use the device, or several processes run without torchrun.
    """
    here = ranks()
    if here.world > 1 and not here.group:
        raise UsageError(
            "the processes of k-means exchange data, and RANK and WORLD_SIZE are set without torchrun: "
            "start it by torchrun, or unset both."
        )
    on_gpu = is_gpu(device)
    faiss = import_faiss() if name in ("auto", "faiss") else None
    if name == "faiss" and faiss is None:
        raise UsageError("--engine faiss: it is not installed: install dprune[cpu] or dprune[gpu], or drop the option.")
    has_gpu = name == "torch" or (faiss is not None and hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0)
    if device == "auto" and not (on_gpu and (has_gpu or name == "auto")):
        device, on_gpu = "cpu", False
    if name == "auto":
        name = ("faiss" if has_gpu else "torch") if on_gpu else ("sklearn" if faiss is None else "faiss")
        has_gpu = True
    if device == "cpu" and name != "torch" and here.world == 1:
        return name, HOST
    place = take_device(device)
    if on_gpu and not has_gpu:
        raise UsageError(f"--engine {name} cannot use a GPU here: give --engine torch or --device cpu.")
    return name, place


def choose_devices(name: str, devices: str) -> tuple[str, tuple[Device, ...]]:
    """Decide which engine works, and where, on one device or on several GPUs named with commas.

    Raises:
        UsageError: see `choose_engine`; or several were named that are not GPUs, are one, or that torchrun shares out.
    """
    first, *more = devices.split(",")
    engine, place = choose_engine(name, first)
    places = place, *(pick_device(other) for other in more)
    gpus = {each for each in places if device_type(each) == "cuda"}
    if more and (ranks().world > 1 or len(gpus) < len(places)):
        raise UsageError(f"--device {devices}: several must be different GPUs, of one process: drop the others.")
    if more and engine != "torch":
        raise UsageError(f"--device {devices}: only --engine torch shares its work among GPUs.")
    return engine, places


def make_engine(name: str, x: Array) -> Engine:
    """Build an engine for points [n, d] on their device."""
    if name == "sklearn":
        return SklearnEngine(x)
    if name == "faiss" and device_type(x.device) == "cpu":
        return FaissEngine(x)
    from dprune.clustering.torch_engines import FaissGpuEngine, product_engine

    return FaissGpuEngine(x) if name == "faiss" else product_engine(x)
