"""Batched extraction: decoded pieces in, one part of the feature store out for each shard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from dprune.embedding.backbones import Forward, load_backbone, try_out
from dprune.embedding.digests import HUB
from dprune.embedding.loading import Decoded, Images, Piece, cut, decoding
from dprune.embedding.settings import PCA_FILE
from dprune.errors import DpruneError, InputError
from dprune.formats.filling import undecodable
from dprune.formats.provenance import digest
from dprune.formats.weights import file_digest
from dprune.runtime import check_stop, pick_device, ranks
from dprune.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from dprune.embedding.backbones import Backbone
    from dprune.embedding.job import EmbedJob
    from dprune.embedding.settings import Settings
    from dprune.formats.provenance import Record
    from dprune.formats.shards import Shard
    from dprune.formats.stores import Store
    from dprune.runtime import Monitor

NAMES = ("features", "logits")


def extract(job: EmbedJob, store: Store, shards: Sequence[Shard], monitor: Monitor) -> None:
    """Make and publish the parts of `shards`.

    Raises:
        InputError: the weights or a shard are not sound, or features do not fit the dtype.
        MismatchError: the hub's weights are no longer those of the parts that are there.
        UsageError: the device or the image size is impossible.
        Interrupted: a signal or --stop-after ended the work; published parts stay.
        DpruneError: out of memory on the device, or workers that died.
    """
    device = pick_device(job.device, ranks().local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        backbone = load_backbone(job.settings)
        origin = _origin(job, store, shards, backbone)
        if job.settings.pca is not None:
            backbone = _with_pca(job, store, backbone, monitor)
        forward = Forward(backbone, device, getattr(torch, job.settings.precision), job.settings.normalize)
        widths = try_out(backbone, forward, job.settings)
        # Only now is it sure that these options make features, which a manifest would promise.
        store.publish_manifest()
        images = Images(shards, backbone.transform)
        _Extraction(job, store, shards, images, forward, widths, origin).run(monitor)
    except torch.OutOfMemoryError as error:
        raise DpruneError(f"{device}: out of memory: give a --batch-size below {job.batch_size}.") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DpruneError(
            "a process that decodes images died, for want of memory or of shared memory (/dev/shm): "
            f"give fewer --workers than {job.workers}."
        ) from error


def _origin(job: EmbedJob, store: Store, shards: Sequence[Shard], backbone: Backbone) -> Record:
    """Return what a part must say about weights that the record calls the hub's, whose content may change.

    Raises:
        MismatchError: the parts that stay were made with others.
    """
    if job.settings.digest != HUB:
        return {}
    assert backbone.file is not None
    origin = {"weights": file_digest(backbone.file)}
    remade = {shard.name for shard in shards}
    found = {shard: store.part(shard) for shard in store.shards if shard not in remade}
    store.check_weights({shard: part for shard, part in found.items() if part} | {"this run": origin})
    return origin


class _Extraction:
    """The loop over pieces, which come in the order of shards and rows."""

    def __init__(self, job: EmbedJob, store: Store, shards: Sequence[Shard], images: Images, forward: Forward,
                 widths: tuple[int, ...], origin: Record) -> None:  # fmt: skip
        self._job = job
        self._store = store
        self._shards = shards
        self._images = images
        self._forward = forward
        self._widths = widths
        self._origin = origin

    def run(self, monitor: Monitor) -> None:
        counts = [self._job.filling.sizes[shard.name][0] for shard in self._shards]
        pieces = [piece for number, count in enumerate(counts)
                  for piece in cut(number, range(count), self._job.batch_size)]  # fmt: skip
        pin = self._forward.device.type == "cuda"
        with decoding(self._images, pieces, self._job.workers, pin=pin) as decoded:
            monitor.start("embedding", sum(counts), "images")
            for number, shard in enumerate(self._shards):
                self._publish(shard, *self._part(shard, counts[number], decoded, monitor))

    def _part(self, shard: Shard, count: int, decoded: Iterator[Decoded], monitor: Monitor
              ) -> tuple[list[tuple[Tensor, ...]], npt.NDArray[np.int64], list[Record]]:  # fmt: skip
        """Embed one shard; its features stay on the device until all are there."""
        batches: list[tuple[Tensor, ...]] = []
        labels: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
        bad: list[Record] = []
        done = 0
        while done < count:
            check_stop(monitor)
            batch: list[Tensor] = []
            stop = min(done + self._job.batch_size, count)
            while done < stop:
                piece = next(decoded)
                _check(piece, shard, self._job.strict)
                batch.append(piece.images)
                labels.append(piece.labels)
                bad += piece.bad
                done += len(piece.images)
                monitor.advance(len(piece.images))
            batches.append(self._forward(batch))
        return batches, torch.cat(labels).numpy(), bad

    def _publish(self, shard: Shard, batches: Sequence[tuple[Tensor, ...]], labels: npt.NDArray[np.int64],
                 bad: Sequence[Record]) -> None:  # fmt: skip
        tensors: dict[str, npt.NDArray[np.generic]] = {"label": labels}
        for number, (name, width) in enumerate(zip(NAMES, self._widths, strict=False)):
            rows = torch.cat([batch[number] for batch in batches]).cpu().numpy() if batches else _none(width)
            rows[[entry["row"] for entry in bad]] = np.nan
            tensors[name] = _stored(rows, len(bad), shard, self._job.settings)
        count, members = self._job.filling.sizes[shard.name]
        self._store.publish_part(shard.name, tensors, members, count, bad, self._origin)


def _none(width: int) -> npt.NDArray[np.float32]:
    return np.empty((0, width), dtype=np.float32)


def _check(piece: Decoded, shard: Shard, strict: bool) -> None:
    if piece.error:
        raise InputError(piece.error)
    if strict and piece.bad:
        raise undecodable(shard, piece.bad[0])


def _stored(rows: npt.NDArray[np.float32], bad: int, shard: Shard, settings: Settings) -> npt.NDArray[np.floating]:
    """Cast features to the store's dtype.

    Raises:
        InputError: a number is beyond the range of that dtype or of the network's arithmetic.
    """
    with np.errstate(over="ignore"):
        stored = rows.astype(settings.dtype)
    finite = np.isfinite(stored).all(1)
    if (~finite).sum() == bad:
        return stored
    if (~np.isfinite(rows).all(1)).sum() > bad:
        remedy = "another --precision" if settings.precision != "float32" else "other --weights"
        raise InputError(f"{shard.location}: {settings.network} gives numbers that are not finite: give {remedy}.")
    largest = np.nanmax(np.abs(rows))
    raise InputError(f"{shard.location}: features up to {largest:.4g} do not fit float16: give --dtype float32.")


def _with_pca(job: EmbedJob, store: Store, backbone: Backbone, monitor: Monitor) -> Backbone:
    """Put the store's principal components behind the pixels, fitting them first if no worker has."""
    from dprune.embedding.pixels import Projection, fit_pca, publish_pca, read_pca

    path, options = store.folder / PCA_FILE, digest(job.settings.options() | {"fingerprint": job.dataset.fingerprint})
    if path in {store.path(shard) for shard in store.shards}:
        raise InputError(f"{job.dataset.title}: a shard is called pca, as is a file of the store: rename the shard.")
    pca = read_pca(path, options)
    if pca is None:
        assert job.settings.pca is not None
        fitted = fit_pca(_drawn_pixels(job, backbone, monitor), job.settings.pca)
        store.publish_manifest()
        publish_pca(path, options, fitted)
        pca = read_pca(path, options)
        assert pca is not None
    return replace(backbone, module=Projection(*pca))


def _drawn_pixels(job: EmbedJob, backbone: Backbone, monitor: Monitor) -> npt.NDArray[np.float32]:
    """Decode a seeded draw of the whole dataset's images, float32 [m, d]; bad ones are left out."""
    from dprune.embedding.pixels import PCA_SAMPLES

    count = len(job.dataset)
    ids = np.sort(generator(job.seed, "embed pca").choice(count, min(PCA_SAMPLES, count), replace=False))
    pieces: list[Piece] = []
    for number, rows in enumerate(job.dataset.split(ids)):
        pieces += cut(number, rows.tolist(), PCA_SAMPLES)
    monitor.start("fitting principal components", len(ids), "images")
    images = Images(job.dataset.shards, backbone.transform)
    found = [np.empty((0, *images.shape), dtype=np.float32)]
    with decoding(images, pieces, job.workers, pin=False) as all_decoded:
        for piece, decoded in zip(pieces, all_decoded, strict=True):
            check_stop(monitor)
            _check(decoded, job.dataset.shards[piece.shard], job.strict)
            bad = {entry["row"] for entry in decoded.bad}
            sound = decoded.images.numpy()[[row not in bad for row in piece.rows]]
            found.append(np.divide(sound, 255, dtype=np.float32))
            monitor.advance(len(piece.rows))
    pixels = np.concatenate(found)
    return pixels.reshape(len(pixels), -1)
