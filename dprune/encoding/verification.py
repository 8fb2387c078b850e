"""Verification of a store: some of its samples are encoded again, and decoded beside their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.decoding import CentreCrop, Decoded, Images, Piece, checked, cut
from dprune.encoding.encoder import Encoder, codebook, load_encoder
from dprune.encoding.settings import EncodeSettings
from dprune.errors import InputError
from dprune.formats.filling import Filling
from dprune.formats.latents import CODEBOOK_FILE, PIXELS, SUMS, checked_part, latent_tensors, part_sums
from dprune.formats.provenance import Record
from dprune.formats.shards import Shard
from dprune.formats.stores import Store
from dprune.models.files import ModelFile
from dprune.models.pixels import centred, centred_psnr
from dprune.models.vae_files import latent_network
from dprune.runtime import Monitor, explained, take_device
from dprune.seeds import generator

# Share of codes or moments that must be what the autoencoder gives. In other batches sums are rounded otherwise: in
# float32 one code in some ten thousand has another nearest neighbour then, with ten bits one in a hundred, in bfloat16
# about every eighth.
LEAST_EQUAL = {"float32": 0.99, "tfloat32": 0.9, "float16": 0.9, "bfloat16": 0.6}
# Moments are equal when they differ by less than this, relative to one and to their size.
TOLERANCES = {"float32": 2e-3, "tfloat32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
COMPARED = {"vq": "codes", "kl": "moments", PIXELS: PIXELS}
# Another processor may add floats up in another order.
SUM_TOLERANCE = 1e-9

Tensors = dict[str, npt.NDArray[Any]]


def verify(vae: ModelFile, settings: EncodeSettings, filling: Filling, monitor: Monitor) -> dict[str, Any]:
    """Compare samples of this worker's parts with their images; in an array, of all that are there.

    Args:
        vae: what made the store.
        settings: how it was made, and how many samples are compared.
        filling: which parts are this worker's, and where they are.
        monitor: progress and requests to stop.

    Returns:
        `verified` samples, the `equal` share of their codes or moments, and the mean and the least peak signal-to-noise
        ratio of their decoded images, in dB.

    Raises:
        InputError: a part or the codebook is not what the autoencoder gives, or a part's sums are wrong.
    """
    network, device, store = latent_network(vae), take_device(settings.device), filling.store
    there = filling.parts()
    shards = [shard for shard in filling.dataset.shards if shard.name in there]
    with explained(device, f"a --batch-size below {settings.batch_size}"):
        encoder = load_encoder(vae, settings, device)
        if network["kind"] == "vq" and not _same(store.read_beside(CODEBOOK_FILE).get("codebook"), encoder):
            raise InputError(
                f"{store.folder / CODEBOOK_FILE}: is not the codebook of {vae.path}: "
                f"remove the file and {store.remedy}."
            )
        parts = [_mapped(store, shard, network, settings.flips) for shard in shards]
        comparison = _Comparison(network, settings, encoder, parts)
        images = Images(shards, CentreCrop(network["image_size"]))
        pieces = _chosen(parts, settings)
        with closing(checked(images, pieces, filling, settings.workers, "verifying", monitor)) as all_decoded:
            for piece, decoded in all_decoded:
                comparison.add(piece, decoded)
    share, worst = comparison.worst()
    if worst is not None and share < LEAST_EQUAL[settings.dtype]:
        what = COMPARED[network["kind"]]
        raise InputError(
            f"{store.path(shards[worst].name)}: only {share:.1%} of the {what} that were compared match what "
            f"{vae.path} gives for the images: remove the file and {store.remedy}."
        )
    return comparison.summary()


def _same(found: npt.NDArray[Any] | None, encoder: Encoder) -> bool:
    expected = codebook(encoder.vae)
    return found is not None and found.shape == expected.shape and np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def _mapped(store: Store, shard: Shard, network: Record, flips: bool) -> Tensors:
    """Map a part's tensors and add its sums up again."""
    part = store.part(shard.name)
    assert part is not None
    file = checked_part(store, shard.name, part["count"], network, flips)
    tensors = {name: file.mapped(name) for name in file.places}
    expected = part_sums(network, tensors)
    close = SUM_TOLERANCE * float(np.abs(expected).max())
    if not np.allclose(tensors[SUMS[network["kind"]]], expected, rtol=0, atol=close):
        raise InputError(
            f"{store.path(shard.name)}: its sums do not match its samples: remove the file and {store.remedy}."
        )
    return tensors


def stratified(total: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose positions out of `total`, one at random in each of as many equal stretches; int64, ascending."""
    count = min(count, total)
    bounds = np.arange(count + 1) * total // max(count, 1)
    return bounds[:-1] + (generator(seed, "encode verify").random(count) * np.diff(bounds)).astype(np.int64)


def _chosen(parts: Sequence[Tensors], settings: EncodeSettings) -> list[Piece]:
    """Spread the samples that are compared over the valid ones of all parts."""
    valid = [np.flatnonzero(part["valid"]) for part in parts]
    stops = np.cumsum([len(rows) for rows in valid], dtype=np.int64)
    chosen = stratified(int(stops[-1]) if len(stops) else 0, settings.verify, settings.seed)
    pieces: list[Piece] = []
    for number, (rows, stop) in enumerate(zip(valid, stops, strict=True)):
        inside = chosen[(chosen >= stop - len(rows)) & (chosen < stop)] - (stop - len(rows))
        pieces += cut(number, rows[inside].tolist(), settings.batch_size)
    return pieces


class _Comparison:
    """Adds up what the chosen samples show."""

    def __init__(self, network: Record, settings: EncodeSettings, encoder: Encoder, parts: Sequence[Tensors]) -> None:
        self._network, self._encoder, self._parts = network, encoder, parts
        self._names = list(latent_tensors(network, settings.flips))
        self._tolerance = TOLERANCES[settings.dtype]
        self._psnr: list[Tensor] = []
        # Of each shard, values that are equal and values compared.
        self._equal: dict[int, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, piece: Piece, decoded: Decoded) -> None:
        """Compare what is stored of some samples with what is made of their images anew."""
        stored = {name: self._parts[piece.shard][name][list(piece.rows)] for name in self._names}
        *latents, _ = self._encoder([decoded.images])
        for name, fresh in zip(self._names, latents, strict=True):
            equal = self._equals(stored[name], fresh.cpu().numpy())
            self._equal[piece.shard][0] += int(equal.sum())
            self._equal[piece.shard][1] += equal.size
        with torch.inference_mode():
            images = self._encoder.vae.decode(self._latents(stored))
        self._psnr.append(centred_psnr(images, centred(decoded.images.to(self._encoder.device))).cpu())

    def _equals(self, stored: npt.NDArray[Any], fresh: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        if stored.dtype.kind == "u":
            same: npt.NDArray[np.bool_] = stored == fresh
            return same
        tolerance = self._tolerance
        return np.isclose(stored.astype(np.float64), fresh.astype(np.float64), rtol=tolerance, atol=tolerance)

    def _latents(self, stored: Tensors) -> Tensor:
        """Return what decoding starts from, float32 [n, c, h, w]: the codes' vectors, the means, or the images."""
        device = self._encoder.device
        if "mean" in stored:
            return torch.from_numpy(stored["mean"]).to(device, torch.float32)
        if PIXELS in stored:
            return centred(torch.from_numpy(stored[PIXELS]).to(device))
        # Codes beyond the codebook are counted as unequal, and must not end the comparison before it is told.
        codes = np.minimum(stored["codes"].astype(np.int64), self._network["codes"] - 1)
        return self._encoder.vae.quantizer.look_up(torch.from_numpy(codes).to(device), self._network["size"])

    def worst(self) -> tuple[float, int | None]:
        """Return the least share of equal values and the position of its shard, None where nothing was compared."""
        shares = ((equal / compared, shard) for shard, (equal, compared) in self._equal.items())
        return min(shares, default=(1.0, None))

    def summary(self) -> dict[str, Any]:
        """Return how many samples were compared, the share of equal values, and how well they are reconstructed, dB."""
        if not self._psnr:
            return {"verified": 0}
        psnr = torch.cat(self._psnr)
        equal, compared = np.sum(list(self._equal.values()), axis=0).tolist()
        return {
            "verified": len(psnr),
            "equal": equal / compared,
            "psnr_mean": float(psnr.mean()),
            "psnr_min": float(psnr.min()),
        }
