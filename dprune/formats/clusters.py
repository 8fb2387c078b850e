"""clusters.safetensors: centroids, and for each sample its cluster and how far it is from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import digest_array
from dprune.formats.class_names import NAMELESS, ClassNames, parse_names
from dprune.formats.provenance import Record, checked_record, digest, parent_record
from dprune.formats.tensors import read_tensors, write_tensors

TENSORS = ("centroids", "assignment", "distance", "second_distance", "sizes", "label")
"""What the file holds, each the attribute of that name."""
LEVEL = "level_{}"
"""What the tensors of `Clusters.levels` are called, numbered from 1."""
MOST_CLUSTERS = 1 << 17
"""Numbers of clusters, unless there are more samples than that."""


@dataclass(frozen=True)
class Clusters:
    """A clustering of a dataset.

    Attributes:
        centroids: float32 [k, d].
        assignment: each sample's cluster, int32 [N]; -1 for samples without features.
        distance: distance to the own centroid, Euclidean or 1 - cosine, float32 [N]; NaN where the assignment is -1.
        second_distance: distance to the second nearest centroid, float32 [N]; NaN likewise, and for k=1.
        sizes: samples in each cluster, int64 [k].
        label: class labels that the features carried, int64 [N] with -1 for none; None where they carried none.
        record: provenance, None for a clustering made elsewhere.
        name: what messages call it.
        class_names: what the labels are called; in the file uint8, the bytes of a classes.txt.
        levels: for each level above these clusters, the lowest first, in which of its clusters each of those of the
            level below is, int32 [k of the level below]; empty where there is one level alone.
    """

    centroids: npt.NDArray[np.float32]
    assignment: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    second_distance: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64] | None = None
    record: Record | None = None
    name: str = "clusters"
    class_names: ClassNames = NAMELESS
    levels: tuple[npt.NDArray[np.int32], ...] = ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.assignment)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset."""
        return self.record.get("fingerprint") if self.record else None

    def as_parent(self) -> Record:
        """Describe the clustering as the input of another file."""
        every = (self.centroids, self.assignment, self.distance, *self.levels)
        content = digest([digest_array(values) for values in every])
        return parent_record(self.record, content)

    def write(self, path: str | Path) -> None:
        """Publish the clustering with its record."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        known = {name: values for name, values in tensors.items() if values is not None}
        if self.class_names:
            known["class_names"] = np.frombuffer(self.class_names.content, dtype=np.uint8)
        known |= level_tensors(self.levels)
        write_tensors(path, known, self.record or {})


def read_clusters(path: str | Path) -> Clusters:
    """Read a clustering, or stdin when `path` is a dash; one made elsewhere needs `assignment` and `distance` alone.

    Raises:
        InputError: the file is not whole, or its arrays do not fit together.
    """
    name, tensors, metadata = read_tensors(path)
    if "assignment" not in tensors or tensors["assignment"].ndim != 1:
        raise InputError(f"{name}: holds no clusters: a tensor 'assignment' of shape [N] is missing.")
    assignment, count = _assignment(name, tensors["assignment"]), len(tensors["assignment"])
    missing = np.full(count, np.nan, dtype=np.float32)
    label = tensors.get("label")
    clusters = Clusters(
        centroids=tensors.get("centroids", np.empty((0, 0), dtype=np.float32)),
        assignment=assignment,
        distance=tensors.get("distance", missing).astype(np.float32),
        second_distance=tensors.get("second_distance", missing).astype(np.float32),
        sizes=tensors.get("sizes", np.bincount(assignment[assignment >= 0])).astype(np.int64),
        label=None if label is None else label.astype(np.int64),
        record=checked_record(name, metadata),
        name=name,
        class_names=_class_names(tensors.get("class_names")),
        levels=tuple(read_levels(name, tensors)),
    )
    for tensor in ("distance", "second_distance", "label"):
        values = getattr(clusters, tensor)
        if values is not None and values.shape != (count,):
            raise InputError(f"{name}: '{tensor}' has shape {list(values.shape)}, but there are {count:,} samples.")
    if len(clusters.centroids) and count and assignment.max() >= len(clusters.centroids):
        raise InputError(f"{name}: cluster {assignment.max()} has no centroid: there are {len(clusters.centroids)}.")
    if clusters.levels and assignment.max(initial=-1) >= len(clusters.levels[0]):
        raise InputError(f"{name}: cluster {assignment.max()} has no place in the levels: cluster again.")
    return clusters


def level_tensors(levels: tuple[npt.NDArray[np.int32], ...]) -> dict[str, npt.NDArray[np.int32]]:
    """Return the levels above clusters by the names that they have in a file."""
    return {LEVEL.format(number): above for number, above in enumerate(levels, 1)}


def read_levels(name: str, tensors: Mapping[str, npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.int32]]:
    """Yield the levels above clusters, the lowest first.

    Args:
        name: what messages call the file.
        tensors: that it holds.

    Raises:
        InputError: one is no vector of numbers of clusters, or does not fit the next.
    """
    count, number = 0, 1
    while (above := tensors.get(LEVEL.format(number))) is not None:
        if above.ndim != 1 or above.dtype.kind not in "iu" or (above < 0).any() or len(above) < count:
            raise InputError(f"{name}: {LEVEL.format(number)!r} does not say of each cluster where it belongs.")
        count, number = int(above.max(initial=-1)) + 1, number + 1
        yield above.astype(np.int32)


def _class_names(values: npt.NDArray[Any] | None) -> ClassNames:
    """Read names of classes; what is no text has none, since a file made elsewhere may hold anything."""
    return NAMELESS if values is None or values.dtype != np.uint8 else parse_names(values.tobytes())


def _assignment(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Refuse what are no numbers of clusters: a list of their sizes would take all memory, others would be cut off."""
    if values.dtype.kind not in "iu":
        raise InputError(f"{name}: 'assignment' holds {values.dtype}: number the clusters from 0, -1 for none.")
    if len(values) and int(values.max()) >= max(MOST_CLUSTERS, len(values)):
        raise InputError(
            f"{name}: sample {values.argmax()} is of cluster {int(values.max()):,}, and there are {len(values):,} "
            "samples: number the clusters from 0, as numpy.unique does with return_inverse."
        )
    return np.maximum(values.astype(np.int64), -1).astype(np.int32)
