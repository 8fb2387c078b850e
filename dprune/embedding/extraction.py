"""Batched extraction: decoded pieces in, one part of the feature store out for each shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from dprune.decoding import Images, Piece, checked, cut
from dprune.embedding.backbones import Backbone
from dprune.embedding.forward import Forward, load_backbone, try_out, wake
from dprune.embedding.pixels import PCA_SAMPLES, Projection, fit_pca, publish_pca, read_pca
from dprune.embedding.settings import HUB, PCA_FILE, EmbedSettings
from dprune.errors import InputError, UsageError
from dprune.formats.filling import Filling
from dprune.formats.provenance import Record, digest
from dprune.formats.shards import Shard
from dprune.models.weights import file_digest
from dprune.parts import Finish, Part, parts
from dprune.runtime import Monitor, explained, take_device
from dprune.seeds import generator

if TYPE_CHECKING:
    from dprune.embedding.device_decoding import Decode

NAMES = ("features", "logits")


def extract(settings: EmbedSettings, filling: Filling, numbers: Iterable[int], monitor: Monitor) -> None:
    """Make and publish the parts of shards, by number."""
    given, store = settings.given, filling.store
    device, precision = take_device(given.device), getattr(torch, settings.precision)
    with explained(device, f"a --batch-size below {given.batch_size}"), ThreadPoolExecutor(1) as aside:
        # While the network's library is imported and its weights are read, the GPU loads its own.
        awake = aside.submit(wake, device, precision)
        decode = _decoder(settings, device, aside)
        backbone = load_backbone(settings)
        origin = _origin(settings, filling, backbone)
        if given.pca is not None:
            backbone = _with_pca(settings, filling, backbone, monitor)
        awake.result()
        forward = Forward(backbone, device, precision, given.normalize)
        widths = try_out(backbone, forward, settings)
        images, finish = _reading(settings, filling.dataset.shards, backbone, device, decode)
        # Only now is it sure that these options make features, which a manifest would promise.
        store.publish_manifest()
        made = parts(numbers, images, forward, filling, given.batch_size, given.workers, "embedding", monitor, finish)
        with closing(made):
            for part in made:
                size, tensors = filling.sizes[part.shard.name], _tensors(settings, part, widths)
                keys = part.shard.stored_keys()
                store.publish_part(part.shard.name, tensors, size.members, size.count, part.bad, origin, keys)


def _decoder(settings: EmbedSettings, device: torch.device, aside: ThreadPoolExecutor) -> Future[Decode] | None:
    """Find what decodes JPEGs on the device, if they are to be decoded there; it is tried out aside."""
    if settings.given.decode == "cpu":
        return None
    from dprune.embedding.device_decoding import first_working, jpeg_decoders

    return aside.submit(first_working, jpeg_decoders(device))


def _reading(
    settings: EmbedSettings, shards: Sequence[Shard], backbone: Backbone, device: torch.device,
    decode: Future[Decode] | None,
) -> tuple[Images, Finish | None]:  # fmt: skip
    """Return what reads images, and what decodes them on the device if they are to be decoded there.

    Raises:
        UsageError: nothing can decode them there, or the network's preprocessing is more than a resize and a crop.
    """
    if decode is None:
        return Images(shards, backbone.transform), None
    from dprune.embedding.device_decoding import DeviceDecoder
    from dprune.embedding.encoded import EncodedImages

    if backbone.geometry is None:
        raise UsageError(
            f"--decode gpu: the preprocessing of {settings.network} is more than a resize and a crop: leave it out."
        )
    images = EncodedImages(shards, backbone.transform)
    return images, DeviceDecoder(images, backbone.geometry, device, decode.result())


def _origin(settings: EmbedSettings, filling: Filling, backbone: Backbone) -> Record:
    """Return what a part must say about weights that the record calls the hub's, whose content may change."""
    if settings.digest != HUB:
        return {}
    assert backbone.file is not None
    origin = {"weights": file_digest(backbone.file)}
    found = {shard.name: part for shard in filling.dataset.shards if (part := filling.part(shard)) is not None}
    filling.store.check_weights(found | {"this run": origin})
    return origin


def _tensors(settings: EmbedSettings, part: Part, widths: tuple[int, ...]) -> dict[str, npt.NDArray[np.generic]]:
    tensors: dict[str, npt.NDArray[np.generic]] = {"label": part.labels.numpy()}
    for number, (name, width) in enumerate(zip(NAMES, widths, strict=False)):
        rows = part.output(number, (width,))
        rows[[entry["row"] for entry in part.bad]] = np.nan
        tensors[name] = _stored(settings, rows, len(part.bad), part.shard)
    return tensors


def _stored(settings: EmbedSettings, rows: npt.NDArray[np.float32], bad: int, shard: Shard) -> npt.NDArray[np.floating]:
    """Cast features to the store's dtype, unless a number is beyond the range of that or the network's arithmetic."""
    with np.errstate(over="ignore"):
        stored = rows.astype(settings.given.dtype)
    finite = np.isfinite(stored).all(1)
    if (~finite).sum() == bad:
        return stored
    if (~np.isfinite(rows).all(1)).sum() > bad:
        remedy = "another --precision" if settings.precision != "float32" else "other --weights"
        raise InputError(f"{shard.location}: {settings.network} gives numbers that are not finite: give {remedy}.")
    largest = np.nanmax(np.abs(rows))
    raise InputError(f"{shard.location}: features up to {largest:.4g} do not fit float16: give --dtype float32.")


def _with_pca(settings: EmbedSettings, filling: Filling, backbone: Backbone, monitor: Monitor) -> Backbone:
    """Put the store's principal components behind the pixels, fitting them first if no worker has."""
    count, store = settings.given.pca, filling.store
    path = store.folder / PCA_FILE
    assert count is not None
    options = digest(settings.options() | {"fingerprint": filling.dataset.fingerprint})
    pca = read_pca(path, options)
    if pca is None:
        fitted = fit_pca(_drawn_pixels(settings, filling, backbone, monitor), count)
        store.publish_manifest()
        publish_pca(path, options, fitted)
        pca = read_pca(path, options)
        assert pca is not None
    return replace(backbone, module=Projection(*pca))


def _drawn_pixels(
    settings: EmbedSettings, filling: Filling, backbone: Backbone, monitor: Monitor
) -> npt.NDArray[np.float32]:
    """Decode a seeded draw of the whole dataset's images, float32 [m, d]; bad ones are left out."""
    given, dataset, count = settings.given, filling.dataset, len(filling.dataset)
    ids = np.sort(generator(given.seed, "embed pca").choice(count, min(PCA_SAMPLES, count), replace=False))
    pieces: list[Piece] = []
    for number, rows in enumerate(dataset.split(ids)):
        pieces += cut(number, rows.tolist(), PCA_SAMPLES)
    images = Images(dataset.shards, backbone.transform)
    found = [np.empty((0, *images.shape), dtype=np.float32)]
    with closing(checked(images, pieces, filling, given.workers, "fitting principal components", monitor)) as drawn:
        for piece, decoded in drawn:
            bad = {entry["row"] for entry in decoded.bad}
            sound = decoded.images.numpy()[[row not in bad for row in piece.rows]]
            found.append(np.divide(sound, 255, dtype=np.float32))
    pixels = np.concatenate(found)
    return pixels.reshape(len(pixels), -1)
