"""Verification of a store: some of its samples are encoded again, and decoded beside their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import CentreCrop, Decoded, Images, Piece, check, cut, decoding
from dprune.encoding.encoder import codebook, prepare
from dprune.encoding.job import PRECISIONS
from dprune.errors import InputError
from dprune.formats.latents import CODEBOOK_FILE, SUMS, checked_part, latent_tensors, part_sums
from dprune.formats.shards import Shard
from dprune.formats.stores import Store
from dprune.formats.tensors import map_tensor
from dprune.models.pixels import centred
from dprune.models.vae import VAE
from dprune.runtime import Monitor, check_stop, explained
from dprune.seeds import generator

if TYPE_CHECKING:
    from dprune.encoding.encoder import Encoder
    from dprune.encoding.job import EncodeJob

# Share of codes or moments that must be what the autoencoder gives. In other batches sums are rounded otherwise: in
# float32 one code in some ten thousand has another nearest neighbour then, in bfloat16 about every sixth.
LEAST_EQUAL = {"float32": 0.99, "bfloat16": 0.6}
# Moments are equal when they differ by less than this, relative to one and to their size.
TOLERANCES = {"float32": 2e-3, "bfloat16": 5e-2}
PEAK_SQUARED = 4.0
"""Images go from -1 to 1."""
_LEAST_ERROR = 1e-10


def verify(job: EncodeJob, store: Store, monitor: Monitor) -> dict[str, Any]:
    """Compare samples of this worker's parts with their images.

    Args:
        job: what made the store.
        store: whose parts are there, as far as they are this worker's.
        monitor: progress and requests to stop.

    Returns:
        `verified` samples, the `equal` share of their codes or moments, and the mean and the least peak signal-to-noise
        ratio of their decoded images, in dB.

    Raises:
        InputError: a part or the codebook is not what the autoencoder gives, or a part's sums are wrong.
    """
    vae, encoder = prepare(job)
    if job.network["kind"] == "vq" and not _same(store.read_beside(CODEBOOK_FILE).get("codebook"), codebook(vae)):
        raise InputError(
            f"{store.folder / CODEBOOK_FILE}: is not the codebook of {job.vae.path}: "
            f"remove the file and {store.remedy}."
        )
    comparison = _Comparison(job, store, vae, encoder)
    with explained(encoder.device, f"a --batch-size below {job.batch_size}"):
        comparison.run(monitor)
    return comparison.summary()


def _same(found: npt.NDArray[Any] | None, expected: npt.NDArray[np.float32]) -> bool:
    return found is not None and found.shape == expected.shape and np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def spread(total: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose positions out of `total`, one at random in each of as many equal stretches; int64, ascending."""
    count = min(count, total)
    bounds = np.arange(count + 1) * total // max(count, 1)
    return bounds[:-1] + (generator(seed, "encode verify").random(count) * np.diff(bounds)).astype(np.int64)


class _Comparison:
    """Loops over the chosen samples and adds up what they show."""

    def __init__(self, job: EncodeJob, store: Store, vae: VAE, encoder: Encoder) -> None:
        self._job = job
        self._store = store
        self._vae = vae
        self._encoder = encoder
        self._names = list(latent_tensors(job.network, job.flips))
        self._psnr: list[Tensor] = []
        # Of each shard, values that are equal and values compared.
        self._equal: dict[int, list[int]] = defaultdict(lambda: [0, 0])

    def run(self, monitor: Monitor) -> None:
        shards = self._job.filling.mine
        self._parts = [self._mapped(shard.name) for shard in shards]
        for shard, part in zip(shards, self._parts, strict=True):
            self._check_sums(shard, part)
        pieces = self._pieces()
        monitor.start("verifying", sum(len(piece.rows) for piece in pieces), "images")
        images = Images(shards, CentreCrop(self._job.network["image_size"]))
        with decoding(images, pieces, self._job.workers, pin=False) as all_decoded:
            for piece, decoded in zip(pieces, all_decoded, strict=True):
                check_stop(monitor)
                check(decoded, shards[piece.shard], self._job.filling)
                self._compare(piece, decoded)
                monitor.advance(len(piece.rows))
        self._judge()

    def _mapped(self, shard: str) -> dict[str, npt.NDArray[Any]]:
        part = self._store.part(shard)
        assert part is not None
        places = checked_part(self._store, shard, part["count"], self._job.network, self._job.flips)
        return {name: map_tensor(self._store.path(shard), place) for name, place in places.items()}

    def _check_sums(self, shard: Shard, part: dict[str, npt.NDArray[Any]]) -> None:
        expected = part_sums(self._job.network, part)
        # Another processor may add floats up in another order.
        close = 1e-9 * float(np.abs(expected).max())
        if not np.allclose(part[SUMS[self._job.network["kind"]]], expected, rtol=0, atol=close):
            raise InputError(
                f"{self._store.path(shard.name)}: its sums are not those of its samples: "
                f"remove the file and {self._store.remedy}."
            )

    def _pieces(self) -> Sequence[Piece]:
        valid = [np.flatnonzero(part["valid"]) for part in self._parts]
        stops = np.cumsum([len(rows) for rows in valid], dtype=np.int64)
        total = int(stops[-1]) if len(stops) else 0
        chosen = spread(total, self._job.verification.samples, self._job.verification.seed)
        pieces: list[Piece] = []
        for number, (rows, stop) in enumerate(zip(valid, stops, strict=True)):
            inside = chosen[(chosen >= stop - len(rows)) & (chosen < stop)] - (stop - len(rows))
            pieces += cut(number, rows[inside].tolist(), self._job.batch_size)
        return pieces

    def _compare(self, piece: Piece, decoded: Decoded) -> None:
        stored = {name: self._parts[piece.shard][name][list(piece.rows)] for name in self._names}
        for name, fresh in zip(self._names, self._encoder([decoded.images]), strict=True):
            equal = self._equals(stored[name], fresh.cpu().numpy())
            self._equal[piece.shard][0] += int(equal.sum())
            self._equal[piece.shard][1] += equal.size
        expected = centred(decoded.images.to(self._encoder.device))
        with torch.inference_mode():
            images = self._vae.decode(self._latents(stored)).float().clamp(-1, 1)
        error = (images - expected).square().flatten(1).mean(1).clamp(min=_LEAST_ERROR)
        self._psnr.append((10 * (PEAK_SQUARED / error).log10()).cpu())

    def _equals(self, stored: npt.NDArray[Any], fresh: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        if stored.dtype.kind == "u":
            same: npt.NDArray[np.bool_] = stored == fresh
            return same
        tolerance = TOLERANCES[PRECISIONS[self._job.precision]]
        return np.isclose(stored.astype(np.float64), fresh.astype(np.float64), rtol=tolerance, atol=tolerance)

    def _latents(self, stored: dict[str, npt.NDArray[Any]]) -> Tensor:
        """Return what decoding starts from, float32 [n, c, h, w]: the codes' vectors, or the means."""
        device = self._encoder.device
        if "mean" in stored:
            return torch.from_numpy(stored["mean"]).to(device, torch.float32)
        # Codes beyond the codebook are counted as unequal, and must not end the comparison before it is told.
        codes = np.minimum(stored["codes"].astype(np.int64), self._job.network["codes"] - 1)
        return self._vae.quantizer.look_up(torch.from_numpy(codes).to(device), self._job.network["size"])

    def _judge(self) -> None:
        """Raise if a part is not what the autoencoder gives, naming the worst."""
        shares = {shard: equal / compared for shard, (equal, compared) in self._equal.items()}
        worst = min(shares, key=lambda shard: shares[shard], default=None)
        if worst is None or shares[worst] >= LEAST_EQUAL[PRECISIONS[self._job.precision]]:
            return
        path = self._store.path(self._job.filling.mine[worst].name)
        what = "codes" if self._job.network["kind"] == "vq" else "moments"
        raise InputError(
            f"{path}: only {shares[worst]:.1%} of the {what} that were compared are what {self._job.vae.path} gives "
            f"for the images: remove the file and {self._store.remedy}."
        )

    def summary(self) -> dict[str, Any]:
        psnr = torch.cat(self._psnr) if self._psnr else torch.empty(0)
        if not len(psnr):
            return {"verified": 0}
        equal, compared = np.sum(list(self._equal.values()), axis=0).tolist()
        return {
            "verified": len(psnr),
            "equal": equal / compared,
            "psnr_mean": float(psnr.mean()),
            "psnr_min": float(psnr.min()),
        }
