"""Latent stores: what an autoencoder makes of a dataset's images, as codes (`vq`), as moments (`kl`), or the images.

Sums over a part's samples are tensors of the part beside its rows: in the metadata, which every rerun reads of every
part, the counts of 16,384 codes would take more room than some parts' samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.class_names import ClassNames
from dprune.formats.provenance import Record
from dprune.formats.stores import Store
from dprune.formats.tensor_files import TensorFile

KIND = "latents"
CODEBOOK_FILE = "codebook.safetensors"
MOST_CODES = 1 << 16
"""Codes that uint16 can tell apart."""
MOST_CLASSES = 1 << 17
"""Labels that a model holds a vector of, unless there are more samples than that."""
PIXELS = "pixels"
"""The kind of latents that are the images themselves, and the word that asks for them where a file makes others."""
SUMS = {"vq": "code_counts", "kl": "channel_sums", PIXELS: "pixel_sums"}
NAMES = {"vq": ("codes",), "kl": ("mean", "logvar"), PIXELS: (PIXELS,)}
FLIPPED = "_flipped"
_LARGEST = 255
# A channel that varies less than this, relative to its mean, does so by rounding alone.
_CONSTANT = 1e-6
_ROWS_AT_ONCE = 256


class Row(NamedTuple):
    """What one sample has in a tensor of every part."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def latent_tensors(network: Record, flips: bool) -> dict[str, Row]:
    """Return the tensors that hold a part's latents, each with one row a sample.

    Args:
        network: with `kind`, `channels` and `size`.
        flips: whether the mirrored images' latents are there too; pixels need no tensor for them.
    """
    kind, size = network["kind"], network["size"]
    if kind == "vq":
        row = Row(np.dtype("<u2"), (size * size,))
    else:
        row = Row(np.dtype("u1" if kind == PIXELS else "<f2"), (network["channels"], size, size))
    suffixes = ("", FLIPPED) if flips and kind != PIXELS else ("",)
    return {name + suffix: row for suffix in suffixes for name in NAMES[kind]}


def row_tensors(network: Record, flips: bool) -> dict[str, Row]:
    """Return all tensors with one row a sample that a part holds; see `latent_tensors`."""
    return {"label": Row(np.dtype("<i8"), ()), "valid": Row(np.dtype("?"), ()), **latent_tensors(network, flips)}


def sums_shape(network: Record) -> tuple[int, ...]:
    """Return the shape of a part's sums: [K] uses of each code, or [c, 2] sums of a channel's values and squares."""
    return (network["codes"],) if network["kind"] == "vq" else (network["channels"], 2)


def sums_dtype(network: Record) -> np.dtype[Any]:
    """Return their type: sums of whole numbers are exact."""
    return np.dtype("<f8" if network["kind"] == "kl" else "<i8")


def part_sums(network: Record, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Sum up a part's valid samples, flipped ones included.

    Args:
        network: with `kind`, `channels` and `codes`.
        tensors: rows of the part by name.

    Returns:
        `vq`: how often each code occurs, int64 [K]. `kl`: float64 [c, 2], of each channel the sum of the means and the
        sum of the posterior's second moment, mean^2 + exp(logvar). `pixels`: int64 [c, 2], of each channel the sum of
        the values, 0 to 255, and of their squares. It depends on nothing but the rows.
    """
    valid = tensors["valid"]
    if network["kind"] == PIXELS:
        return _pixel_sums(tensors[PIXELS], np.flatnonzero(valid))
    if network["kind"] == "vq":
        found = [tensors[name][valid].ravel() for name in tensors if name.startswith("codes")]
        return np.bincount(np.concatenate(found), minlength=network["codes"]).astype(np.int64)
    # One sample's sums at a time, then over the samples: the order is the same however many rows are read at once.
    total = np.zeros((network["channels"], 2))
    for suffix in ("", FLIPPED):
        if f"mean{suffix}" in tensors:
            total += _moment_sums(tensors[f"mean{suffix}"][valid], tensors[f"logvar{suffix}"][valid])
    return total


def _pixel_sums(pixels: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    total = np.zeros((pixels.shape[1], 2), np.int64)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        values = pixels[rows[begin : begin + _ROWS_AT_ONCE]].astype(np.uint32)
        total += np.stack([power.sum((0, 2, 3), dtype=np.int64) for power in (values, values**2)], axis=1)
    return total


def _moment_sums(means: npt.NDArray[np.float16], logvars: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    by_sample = np.empty((len(means), means.shape[1], 2))
    for begin in range(0, len(means), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        mean, logvar = means[rows].astype(np.float64), logvars[rows].astype(np.float64)
        by_sample[rows, :, 0] = mean.sum((2, 3))
        by_sample[rows, :, 1] = (mean**2 + np.exp(logvar)).sum((2, 3))
    total: npt.NDArray[np.float64] = by_sample.sum(0)
    return total


@dataclass(frozen=True)
class Latents:
    """A latent store whose parts are all there and of the right shapes.

    Attributes:
        store: its folder, shards and counts.
        network: `kind` (`vq`, `kl` or `pixels`), `channels` of a latent, `size` of its side, `codes` in the codebook
            (0 without one) and `image_size` in pixels.
        flips: whether it stands for the mirrored images' latents too.
        codebook: float32 [K, c], None for all but `vq`.
    """

    store: Store
    network: dict[str, Any]
    flips: bool
    codebook: npt.NDArray[np.float32] | None
    _parts: tuple[TensorFile, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.store.counts)

    @property
    def record(self) -> Record:
        """Provenance of the store."""
        return self.store.record

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset."""
        return self.store.fingerprint

    @property
    def class_names(self) -> ClassNames:
        """What the labels are called."""
        return self.store.class_names

    @property
    def tensors(self) -> dict[str, Row]:
        """What one sample has in each tensor of latents."""
        return latent_tensors(self.network, self.flips)

    def part(self, number: int, name: str) -> npt.NDArray[Any]:
        """Map a tensor of one part, which is read once to see that it is whole; see `mapped`."""
        return self._parts[number].mapped(name)

    def mapped(self, name: str) -> list[npt.NDArray[Any]]:
        """Map a tensor of all parts; each is read once to see that it is whole.

        Args:
            name: one of `row_tensors`, or of the sums.

        Returns:
            A read-only array for each part, in order; [n, ...] with n of the part.

        Raises:
            InputError: one is not what was written.
        """
        return [part.mapped(name) for part in self._parts]

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the labels, int64 [N], -1 for none."""
        return np.concatenate(self.mapped("label"))

    def valid(self) -> npt.NDArray[np.bool_]:
        """Return which samples' images could be decoded, bool [N]; the others' rows are zero."""
        return np.concatenate(self.mapped("valid"))

    @functools.cached_property
    def classes(self) -> int:
        """The largest label and one, 0 where no sample has one."""
        return int(self.labels().max(initial=-1)) + 1

    @functools.cached_property
    def sums(self) -> npt.NDArray[Any]:
        """The sums of all parts, see `part_sums`, added in their order."""
        parts = self.mapped(SUMS[self.network["kind"]])
        return functools.reduce(np.add, parts, np.zeros(sums_shape(self.network), parts[0].dtype))

    @property
    def _values(self) -> int:
        """How many values of a channel the sums speak of."""
        copies = len(self.tensors) // len(NAMES[self.network["kind"]])
        return int(self.valid().sum()) * copies * int(self.network["size"]) ** 2

    @property
    def summed(self) -> bool:
        """Whether the sums can be those of the samples."""
        if self.network["kind"] == "vq":
            return int(self.sums.sum()) == self._values
        most = self._values * _LARGEST ** np.arange(1, 3) if self.network["kind"] == PIXELS else np.inf
        return bool((np.isfinite(self.sums) & (self.sums <= most)).all())

    @functools.cached_property
    def _moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and deviation of each channel, float64 [c], over all places of all valid samples."""
        if self.codebook is not None:
            share = (self.sums / max(int(self.sums.sum()), 1))[:, None]
            codebook = self.codebook.astype(np.float64)
            mean = (share * codebook).sum(0)
            variance = (share * (codebook - mean) ** 2).sum(0)
        else:
            mean, square = (self.sums / max(self._values, 1)).T
            variance = np.maximum(square - mean**2, 0)
        if self.network["kind"] == PIXELS:
            # Networks see them from -1 to 1.
            half = _LARGEST / 2
            mean, variance = mean / half - 1, variance / half**2
        std = np.sqrt(variance)
        # A constant channel becomes zero by subtracting its mean; dividing by its deviation would give no number.
        return mean, np.where(std > _CONSTANT * np.abs(mean), std, 1.0)

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """Mean of each channel over the whole store, float32 [c]."""
        return self._moments[0].astype(np.float32)

    @property
    def std(self) -> npt.NDArray[np.float32]:
        """Deviation of each channel over the whole store, the posterior's variance included, float32 [c]; never 0."""
        return self._moments[1].astype(np.float32)

    def as_parent(self) -> Record:
        """Describe it as the input of another file."""
        return self.store.as_parent()


def open_latents(path: str | Path) -> Latents:
    """Open a latent store for reading.

    Raises:
        InputError: it is none, parts of it are missing or damaged, or it holds no sample that could be decoded.
    """
    path = Path(path)
    if not path.is_dir():
        problem = "is a file" if path.exists() else "no such folder"
        raise InputError(f"{path}: {problem}: name the folder that dprune encode made.")
    store = Store.open(path, KIND)
    network, flips = _network(store)
    # Reading all parts' metadata first tells those that are missing.
    parts = tuple(checked_part(store, shard, part["count"], network, flips)
                  for shard, part in zip(store.shards, store.parts, strict=True))  # fmt: skip
    latents = Latents(store, network, flips, _codebook(store, network), parts)
    if not any(part.any() for part in latents.mapped("valid")):
        raise InputError(f"{path}: holds no image that could be decoded: encode other shards.")
    _check_sums(latents)
    _check_labels(latents)
    return latents


def _network(store: Store) -> tuple[dict[str, Any], bool]:
    """Return what the manifest says of the network and of flips."""
    options = store.record.get("options", {})
    network, flips = options.get("network"), options.get("flips")
    numbers = ("channels", "size", "codes", "image_size")
    if (
        not isinstance(network, dict)
        or network.get("kind") not in SUMS
        or not all(type(network.get(name)) is int and network[name] >= 0 for name in numbers)
        or not isinstance(flips, bool)
    ):
        raise InputError(f"{store.folder}: its manifest does not say what made the latents: {store.remedy}.")
    return network, flips


def checked_part(store: Store, shard: str, count: int, network: Record, flips: bool) -> TensorFile:
    """Open a part and look at its tensors' types and shapes.

    Raises:
        InputError: one is missing or of another shape.
    """
    expected = {name: (row.dtype, (count, *row.shape)) for name, row in row_tensors(network, flips).items()}
    expected[SUMS[network["kind"]]] = sums_dtype(network), sums_shape(network)
    path = store.path(shard)
    file = TensorFile.open(path)
    for name, (dtype, shape) in expected.items():
        found = file.places.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            is_ = f"is {found.dtype or found.letters} {list(found.shape)}" if found else "is missing"
            raise InputError(f"{path}: its tensor {name!r} {is_}, not {dtype} {list(shape)}: "
                             f"remove the file and {store.remedy}.")  # fmt: skip
    return file


def _codebook(store: Store, network: Record) -> npt.NDArray[np.float32] | None:
    if network["kind"] != "vq":
        return None
    codebook = store.read_beside(CODEBOOK_FILE).get("codebook")
    shape = (network["codes"], network["channels"])
    if codebook is None or codebook.shape != shape or codebook.dtype != np.float32 or not np.isfinite(codebook).all():
        raise InputError(
            f"{store.folder / CODEBOOK_FILE}: holds no codebook of float32 {list(shape)}: "
            f"remove the file and {store.remedy}."
        )
    return codebook


def _check_sums(latents: Latents) -> None:
    """Refuse a store whose codes were counted otherwise than its samples: no channel would be normalised right."""
    if not latents.summed or not np.isfinite(latents.std).all():
        raise InputError(
            f"{latents.store.folder}: the sums in its files do not match its {len(latents):,} samples: remove "
            f"the files and {latents.store.remedy}."
        )


def _check_labels(latents: Latents) -> None:
    """Refuse labels that are no numbers of classes: a model's table of them would take all memory there is."""
    labels = latents.labels()
    if not len(labels):
        return
    places = int(labels.argmin()), int(labels.argmax())
    lowest, largest = (int(labels[place]) for place in places)
    folder = latents.store.folder
    if lowest < -1:
        raise InputError(
            f"{folder}: sample {places[0]} has the label {lowest}, and labels are -1 (none) or count from 0: "
            f"mend the shards' .cls, and {latents.store.remedy}."
        )
    if largest >= max(MOST_CLASSES, len(labels)):
        distinct = len(np.unique(labels[labels >= 0]))
        raise InputError(
            f"{folder}: sample {places[1]} has the label {largest:,}, of {distinct:,} different labels, and a model "
            f"holds a vector for each number up to it: number the labels from 0 in the shards' .cls, and "
            f"{latents.store.remedy}."
        )
