"""Engines of k-means: ways to find each point's nearest centroid. All else is shared, so results agree."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dprune.clustering.kernels import chunks, cluster_sums, half_squared_norms, rows_at_once, scores
from dprune.errors import UsageError
from dprune.kernels.available import triton_works
from dprune.memory import free_memory
from dprune.precision import float32
from dprune.runtime import pick_device, ranks, take_device

FAISS_ROWS = 16_384
FAISS_BLOCK = 1024

_log = logging.getLogger("dprune")
_precision = threading.Lock()


class Engine(Protocol):
    """Assigns the points that it was made with."""

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest of the centroids, float32 [k, d], for each point: int32 [n], on the points' device."""


class TorchEngine:
    """One matrix product and an argmax a chunk; tf32 on a GPU, float32 on a CPU."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of each point."""
        labels = torch.empty(len(self._x), dtype=torch.int32, device=self._x.device)
        step, offsets = rows_at_once(self._x, len(centroids)), half_squared_norms(centroids)
        # The precision is the process's, and so that of all threads.
        with _precision, float32(tf32=True):
            for rows, found in zip(chunks(self._x, step), chunks(labels, step), strict=True):
                found.copy_(scores(rows, centroids, offsets).argmax(1))
        return labels


class TritonEngine:
    """The torch engine's product and argmax in one kernel, for GPUs; operands rounded to as many bits as tf32 has.

    It holds the points a second time, in half their bytes.
    """

    def __init__(self, x: torch.Tensor) -> None:
        # Triton is not to be had everywhere.
        from dprune.kernels import nearest_centroid

        self._kernel = nearest_centroid
        self._points = self._kernel.scaled(x)

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of each point."""
        ours, scale = self._points
        theirs, other_scale = self._kernel.scaled(centroids)
        return self._kernel.nearest_centroid(ours, theirs, half_squared_norms(centroids) * scale * other_scale)


class FaissEngine:
    """faiss's exact search on CPU cores.

    faiss.Kmeans is left alone: it subsamples to 256 points a centroid, adds its objective up in float32, and cannot
    be stopped. One single-threaded search a core takes a quarter less CPU time than one search by all cores.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self._faiss = import_faiss()
        self._faiss.cvar.distance_compute_blas_query_bs = FAISS_BLOCK
        self._rows: npt.NDArray[np.float32] = x.numpy()

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of each point."""
        index = self._faiss.IndexFlatL2(centroids.shape[1])
        index.add(centroids.numpy())
        labels = np.empty(len(self._rows), dtype=np.int32)

        def search(low: int) -> None:
            part = slice(low, low + FAISS_ROWS)
            labels[part] = index.search(self._rows[part], 1)[1][:, 0]

        threads = self._faiss.omp_get_max_threads()
        with ThreadPoolExecutor(threads, initializer=self._faiss.omp_set_num_threads, initargs=(1,)) as pool:
            list(pool.map(search, range(0, len(labels), FAISS_ROWS)))
        return torch.from_numpy(labels)


class FaissGpuEngine:
    """faiss's exact search on one GPU, with the points already there."""

    def __init__(self, x: torch.Tensor) -> None:
        # This module teaches faiss to take tensors, which saves copying all points to the device at each iteration.
        import faiss
        import faiss.contrib.torch_utils

        self._x = x
        self._resources = faiss.StandardGpuResources()
        # One named device: faiss's own `gpu=1` means all of them, whatever rank this is.
        flat = faiss.IndexFlatL2(x.shape[1])
        self._index = faiss.index_cpu_to_gpu(self._resources, x.device.index or 0, flat)

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of each point."""
        self._index.reset()
        self._index.add(centroids.contiguous())
        _, nearest = self._index.search(self._x, 1)
        return torch.as_tensor(nearest).squeeze(1).int()


class SklearnEngine:
    """scikit-learn's prediction step on CPU cores.

    Only its assignment is used: the sums of its fit depend on the order in which threads finish, from three threads
    on, and it cannot be stopped.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self._rows = x.numpy()
        self._model: Any = None

    def assign(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return the nearest centroid of each point."""
        import sklearn

        if not len(self._rows):
            return torch.empty(0, dtype=torch.int32)
        if self._model is None:
            self._model = _fitted_model(centroids.numpy())
        self._model.cluster_centers_ = centroids.numpy()
        with sklearn.config_context(assume_finite=True):
            return torch.from_numpy(self._model.predict(self._rows))


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


def choose_engine(name: str, device: str) -> tuple[str, torch.device]:
    """Decide which engine works, and where.

    `auto` is faiss on a GPU if its GPU build is installed, otherwise torch there; on a CPU faiss, or scikit-learn
    without it. The number of ranks plays no role, so a rerun finds its output up to date whatever it runs on.

    Args:
        name: `auto`, `faiss`, `torch` or `sklearn`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the engine is not installed or cannot use the device, or several processes run without torchrun.
    """
    here = ranks()
    if here.world > 1 and not here.group:
        raise UsageError(
            "k-means needs its processes to talk to each other, and RANK and WORLD_SIZE are set without torchrun: "
            "start it by torchrun, or unset both."
        )
    faiss = import_faiss() if name in ("auto", "faiss") else None
    if name == "faiss" and faiss is None:
        raise UsageError("--engine faiss: it is not installed: install dprune[cpu] or dprune[gpu], or drop the option.")
    has_gpu = name == "torch" or (faiss is not None and hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0)
    if device == "auto" and name != "auto" and not has_gpu:
        device = "cpu"
    place = take_device(device)
    if name == "auto":
        on_gpu = "faiss" if has_gpu else "torch"
        return (on_gpu if place.type == "cuda" else "sklearn" if faiss is None else "faiss"), place
    if place.type == "cuda" and not has_gpu:
        raise UsageError(f"--engine {name} cannot use a GPU here: give --engine torch or --device cpu.")
    return name, place


def choose_devices(name: str, devices: str) -> tuple[str, tuple[torch.device, ...]]:
    """Decide which engine works, and where, on one device or on several GPUs named with commas.

    Raises:
        UsageError: see `choose_engine`; or several were named that are not GPUs, are one, or that torchrun shares out.
    """
    first, *more = devices.split(",")
    engine, place = choose_engine(name, first)
    places = place, *(pick_device(other) for other in more)
    if more and (ranks().world > 1 or any(each.type == "cpu" for each in places) or len(set(places)) < len(places)):
        raise UsageError(f"--device {devices}: several must be different GPUs, of one process: drop the others.")
    if more and engine != "torch":
        raise UsageError(f"--device {devices}: only --engine torch shares its work among GPUs.")
    return engine, places


def make_engine(name: str, x: torch.Tensor) -> Engine:
    """Build an engine for points [n, d] on their device."""
    if name == "faiss":
        return FaissEngine(x) if x.device.type == "cpu" else FaissGpuEngine(x)
    if name == "sklearn":
        return SklearnEngine(x)
    # A second copy takes half the bytes, and as many stay free.
    fits = triton_works(x.device) and free_memory(x.device) > x.nbytes
    _log.debug("k-means: %s assigns the points.", "a fused kernel" if fits else "a matrix product with an argmax")
    return TritonEngine(x) if fits else TorchEngine(x)


def warm_up(name: str, devices: Sequence[torch.device], k: int, dimension: int) -> None:
    """Have an engine's kernels compiled and loaded, which takes half a second; a thread can do it beside reading."""
    if name != "torch" or not triton_works(devices[0]):
        return
    for device in devices:
        torch.cuda.set_device(device)
        x, centroids = (torch.zeros((rows, dimension), device=device) for rows in (1, k))
        cluster_sums(x, TritonEngine(x).assign(centroids), k)
