"""Statistics files: count, mean and covariance of a set of features, which is all that a Fréchet distance needs."""

from __future__ import annotations

import functools
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import NPY_ERRORS, digest_array, unsound_array
from dprune.formats.kinds import kind_of
from dprune.formats.provenance import Record, checked_record, digest, parent, parent_record
from dprune.formats.regular import check_regular
from dprune.formats.tensors import read_tensors, write_tensors

STATISTICS = "eval statistics"
"""What their record calls the command that made them."""
NAMES = ("count", "mean", "covariance")
NPZ_NAMES = ("mu", "sigma")
"""What pytorch-fid, clean-fid, guided-diffusion, StyleGAN and EDM call mean and covariance in an .npz."""
SPATIAL = "mu_s"
TOLERANCE = 1e-4
"""How far rounding may take a covariance from a symmetric, positive semi-definite one, relative to its size."""
_MOST_BYTES = 1 << 30
"""A covariance of 11,585 dimensions; a small archive may unpack to any size."""
# Damaged archives raise these besides what damaged arrays do; the last is for encryption, and for compressions that
# Python lacks.
NPZ_ERRORS = (*NPY_ERRORS, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)


@dataclass(frozen=True)
class Statistics:
    """Moments of a set of features.

    Attributes:
        name: what messages call them.
        count: samples, None in files of other programs, which do not say.
        mean: float64 [d].
        covariance: with divisor count - 1, float64 [d, d].
        record: provenance, None for a file made elsewhere.
        spatial: whether statistics of spatial features lie beside them, as guided-diffusion alone writes them.
    """

    name: str
    count: int | None
    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    record: Record | None = None
    spatial: bool = False

    @functools.cached_property
    def parent(self) -> Record:
        """How a record describes them as an input."""
        return parent_record(self.record, digest([self.count, digest_array(self.mean), digest_array(self.covariance)]))

    @property
    def features(self) -> Record | None:
        """Provenance of the features that they are of, None if that is not known."""
        known = parent(self.record, "features")
        return {**known, "fingerprint": (self.record or {}).get("fingerprint")} if known else None

    @property
    def model(self) -> str | None:
        """Network that made the features, None if that is not known."""
        return self.features["options"].get("model") if self.features else None

    def write(self, path: str | Path) -> None:
        """Publish them with their record."""
        assert self.count is not None
        values = (np.array(self.count, dtype=np.int64), self.mean, self.covariance)
        write_tensors(path, dict(zip(NAMES, values, strict=True)), self.record or {})


def npz_names(path: str | Path) -> frozenset[str]:
    """Return what the arrays of an .npz are called; none where it is no archive that can be read."""
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, *NPZ_ERRORS):
        return frozenset()
    return frozenset(name.removesuffix(".npy") for name in names if name.endswith(".npy"))


def read_statistics(path: str | Path) -> Statistics:
    """Read dprune's statistics, or the .npz with `mu` and `sigma` that pytorch-fid, clean-fid and ADM use.

    Raises:
        InputError: the file is not whole, or holds no such statistics, or a covariance that is none.
    """
    spatial = False
    if kind_of(path) == "statistics":
        name, tensors, metadata = read_tensors(path)
        record = checked_record(name, metadata)
        count, mean, covariance = (tensors.get(key) for key in NAMES)
    else:
        name, count, record = str(path), None, None
        mean, covariance = _read_npz(path)
        spatial = SPATIAL in npz_names(path)
    if mean is None or covariance is None or not _are_moments(mean, covariance):
        raise InputError(f"{name}: holds no mean [d] and covariance [d, d]: give features, or what --save-stats wrote.")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{name}: holds NaN or infinity: make the statistics again, without the samples that have it.")
    moments = mean.astype(np.float64), covariance.astype(np.float64)
    if problem := _no_covariance(moments[1], max(TOLERANCE, np.finfo(covariance.dtype).eps)):
        raise InputError(f"{name}: its covariance {problem}, which no set of features has: make the statistics again.")
    return Statistics(name, _count(name, count), *moments, record, spatial)


def _no_covariance(covariance: npt.NDArray[np.float64], tolerance: float) -> str:
    """Say what tells at a glance that a matrix is no covariance; its eigenvalues tell whoever computes a distance."""
    variances = covariance.diagonal()
    slack = tolerance * float(np.abs(variances).max())
    if variances.min() < -slack:
        return f"has the negative variance {variances.min():.3g}"
    if not np.array_equal(covariance, covariance.T) and np.abs(covariance - covariance.T).max() > slack:
        return "is not symmetric"
    return ""


def _are_moments(mean: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> bool:
    fit = mean.ndim == 1 and len(mean) > 0 and covariance.shape == (len(mean), len(mean))
    return fit and mean.dtype.kind == covariance.dtype.kind == "f"


def _count(name: str, count: npt.NDArray[Any] | None) -> int | None:
    if count is None:
        return None
    if count.size != 1 or count.dtype.kind not in "iu" or count.item() < 2:
        raise InputError(f"{name}: 'count' is not the number of samples, two or more: make the statistics again.")
    return int(count.item())


def _read_npz(path: str | Path) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            mean, covariance = (_member(archive, name) for name in NPZ_NAMES)
            return mean, covariance
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except NPZ_ERRORS as error:
        if "pickle" in str(error):
            raise unsound_array(str(path), error) from error
        raise InputError(f"{path}: is not a whole .npz archive ({error}): give what --save-stats wrote.") from error


def _member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any] | None:
    """Read an array of an archive; its header is held to its size before memory is taken for it."""
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    if entry.file_size > _MOST_BYTES:
        raise ValueError(f"{name} takes {entry.file_size:,} bytes")
    with archive.open(entry) as file:
        # The directory of an archive may say less than there is.
        data = file.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise ValueError(f"{name} is not as long as the archive says")
    values: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return values
