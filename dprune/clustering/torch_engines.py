"""Engines of k-means on tensors: matrix products anywhere, and on GPUs a fused kernel or faiss."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch

from dprune.clustering.kernels import chunks, cluster_sums, half_squared_norms, rows_at_once, scores
from dprune.kernels.available import triton_works
from dprune.memory import free_memory
from dprune.namespace import Device
from dprune.precision import float32

_log = logging.getLogger("dprune")
_precision = threading.Lock()


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


def product_engine(x: torch.Tensor) -> TorchEngine | TritonEngine:
    """Build the faster engine of matrix products that fits points [n, d]."""
    # A second copy takes half the bytes, and as many stay free.
    fits = triton_works(x.device) and free_memory(x.device) > x.nbytes
    _log.debug("k-means: %s assigns the points.", "a fused kernel" if fits else "a matrix product with an argmax")
    return TritonEngine(x) if fits else TorchEngine(x)


def warm_up(devices: Sequence[Device], k: int, dimension: int) -> None:
    """Have the kernels compiled and loaded, which takes half a second; a thread can do it beside reading."""
    for device in map(torch.device, devices):
        if not triton_works(device):
            return
        torch.cuda.set_device(device)
        x, centroids = (torch.zeros((rows, dimension), device=device) for rows in (1, k))
        cluster_sums(x, TritonEngine(x).assign(centroids), k)
