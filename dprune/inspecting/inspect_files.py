"""What single files hold: arrays, clusters, features and other safetensors."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import InputError
from dprune.formats.arrays import VECTORS, digest_array, is_mask, map_array, misshapen, read_array, stated_kind
from dprune.formats.clusters import read_clusters
from dprune.formats.kinds import kind_of
from dprune.formats.latents import FLIPPED, NAMES
from dprune.formats.provenance import Record
from dprune.formats.publish import STDOUT
from dprune.formats.results import read_result
from dprune.formats.stores import PART_KEYS
from dprune.formats.tensor_files import TensorFile, is_tensor_file
from dprune.formats.text_tables import ID, KEYS, TextTable
from dprune.formats.uids import is_uids
from dprune.formats.whole_files import read_file
from dprune.inspecting.findings import STORE_FILE, Findings
from dprune.measuring.pairs import PAIR
from dprune.models.descriptions import DESCRIPTIONS
from dprune.models.files import ModelFile
from dprune.models.vae_files import open_vae
from dprune.models.weights import bare_name

MOST_EXAMPLES = 3
_LATENTS = {name + suffix for names in NAMES.values() for name in names for suffix in ("", FLIPPED)}
_OF_TRANSFORMERS = {"x_embedder.proj.weight", "pos_embed.proj.weight"}
"""Tensors that each has one of, by DiT's names and those of diffusers."""
BY_SAMPLE = {"features", "label", "logits", "valid", "assignment", "distance"} | _LATENTS
"""Tensors with one row a sample."""


def inspect_array(path: str) -> Findings:
    """Inspect a .npy file, or stdin when `path` is a dash."""
    findings = Findings("stdin" if path == STDOUT else path, "array")
    if kind_of(path) == "matrix":
        # Rows may take more than memory.
        mapped = map_array(path)
        findings.content = {"shape": list(mapped.shape), "dtype": str(mapped.dtype)}
        findings.samples = len(mapped)
        return findings
    array = read_array(path)
    values = array.values
    findings.records = [array.record] if array.record else []
    findings.fingerprint = array.fingerprint
    findings.count_digests(array.guarded)
    findings.content = {"shape": list(values.shape), "dtype": str(values.dtype), "digest": digest_array(values)}
    findings.kind = kind_of_array(values, array.record)
    if is_uids(values):
        findings.kind = "uids"
        findings.content["uids"] = len(values)
    if is_mask(values):
        findings.kind, findings.samples = "mask", len(values)
        findings.content |= {"samples": len(values), "kept": int(values.sum())}
    if findings.kind in VECTORS and (problem := misshapen(values, findings.kind)):
        findings.problems.append(f"{findings.name}: {problem}: make it again.")
    elif describe := _DESCRIBED.get(findings.kind):
        describe(findings, values)
    return findings


def kind_of_array(values: npt.NDArray[Any], record: Record | None) -> str:
    """Tell what an array holds, by its provenance or by its values.

    Returns:
        `subset`, `weights`, `scores`, `labels`, `pairs`, or `array`.
    """
    stated = stated_kind(record)
    if stated in ("subset", "weights"):
        return stated
    if values.ndim != 1:
        return "array"
    if values.dtype.names:
        return "pairs" if values.dtype.names == PAIR.names else "array"
    if stated == "scores" or values.dtype.kind == "f":
        return "scores"
    if values.dtype.kind not in "iu":
        return "array"
    # Of whole numbers that nobody described, ids ascend and labels mostly repeat; others may be scores.
    if (np.diff(values.astype(np.float64)) > 0).all() and (not len(values) or values[0] >= 0):
        return "subset"
    return "labels" if len(np.unique(values)) * 2 <= len(values) else "array"


def _scores(findings: Findings, values: npt.NDArray[Any]) -> None:
    findings.samples = len(values)
    known = values[~np.isnan(values)].astype(np.float64)
    findings.content |= {"samples": len(values), "not_scored": len(values) - len(known)}
    if len(known):
        finite = {"min": known.min(), "median": np.median(known), "max": known.max()}
        findings.content |= {name: float(v) if math.isfinite(v) else str(v) for name, v in finite.items()}
    else:
        findings.problems.append(f"{findings.name}: scores no sample at all: make it again.")


def _weights(findings: Findings, values: npt.NDArray[Any]) -> None:
    findings.samples = len(values)
    drawn = values[values > 0].astype(np.float64)
    findings.content |= {"samples": len(values), "drawn_at_all": len(drawn), "drawn_in_all": float(drawn.sum())}
    if len(drawn):
        findings.content |= {"least": float(drawn.min()), "most": float(drawn.max())}


def _subset(findings: Findings, values: npt.NDArray[Any]) -> None:
    findings.content["kept"] = len(values)
    if not len(values):
        return
    findings.ids = (int(values.min()), int(values.max()))
    findings.content |= {"smallest_id": findings.ids[0], "largest_id": findings.ids[1]}
    if findings.ids[0] < 0:
        findings.problems.append(
            f"{findings.name}: holds the id {findings.ids[0]}, but ids count from 0: select again."
        )
    sorted_ids = np.sort(values)
    repeated = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    if len(repeated):
        findings.problems.append(f"{findings.name}: holds the id {repeated[0]} more than once: apply numpy.unique.")
    if (values != sorted_ids).any():
        findings.problems.append(f"{findings.name}: its ids are not sorted, as those of a subset are: sort them.")


def _labels(findings: Findings, values: npt.NDArray[Any]) -> None:
    findings.samples = len(values)
    groups, counts = np.unique(values[values >= 0], return_counts=True)
    findings.content |= {"samples": len(values), "unlabelled": int((values < 0).sum()), "labels": len(groups)}
    if len(groups):
        findings.content["samples_a_label"] = _spread(counts)


def _pairs(findings: Findings, values: npt.NDArray[Any]) -> None:
    distance = values["distance"]
    findings.content |= {"pairs": len(values), "copies": int((distance == 0).sum())}
    if len(values):
        findings.content["closest"] = float(distance.min())


_DESCRIBED = {"scores": _scores, "weights": _weights, "subset": _subset, "labels": _labels, "pairs": _pairs}
"""What says more of an array, by its kind."""


def inspect_text(path: str) -> Findings:
    """Inspect a list of keys or a table of samples."""
    table = TextTable(path, read_file(path))
    findings = Findings(path, "table" if table.head else "keys", records=[table.record] if table.record else [])
    findings.count_digests(table.record is not None)
    findings.fingerprint = table.record.get("fingerprint") if table.record else None
    rows, column = (table.rows, table.place([*KEYS, ID]) or 0) if table.head else (table.lines, 0)
    kept = "kept" if stated_kind(table.record) == "subset" else "rows"
    findings.content = {
        kept: len(rows),
        "columns": list(table.head),
        "ids" if table.head and table.head[column] == ID else "keys": [
            row.cells[column] for row in rows[:MOST_EXAMPLES]
        ],
    }
    return findings


def inspect_result(path: str) -> Findings:
    """Inspect what `eval` or `memorization` measured."""
    result = read_result(path)
    known = {key: value for key, value in result.metrics.items() if isinstance(value, int | float)}
    findings = Findings(path, result.kind, records=[result.record])
    findings.count_digests(result.guarded)
    findings.content = {
        "samples": {side["role"]: side.get("count") for side in result.inputs},
        "models": sorted({str(side["model"]) for side in result.inputs if side.get("model")}),
        **{key: value for key, value in known.items() if not key.endswith("_se")},
    }
    return findings


def inspect_tensors(path: str) -> Findings:
    """Inspect a safetensors file by its header; its tensors are held to their digests, and a clustering's are read."""
    findings, file = Findings(path, "tensors"), TensorFile.open(path)
    hold_to_digests(findings, file)
    metadata, shapes = file.metadata or {}, tensor_shapes(file)
    if metadata.keys() >= set(PART_KEYS):
        findings.kind = STORE_FILE
        findings.content = {"samples": metadata["count"], "bad": len(metadata["bad"])}
    elif "command" in metadata:
        findings.records = [metadata]
        findings.fingerprint = metadata.get("fingerprint")
    if "assignment" in shapes:
        _clusters(findings)
    else:
        _tensors(findings, shapes)
        findings.content |= _trained_classes(path)
        if findings.kind == "tensors" and not metadata:
            _network(findings, path)
    findings.problems += row_problems(path, shapes, metadata.get("count") if findings.kind == STORE_FILE else None)
    return findings


def inspect_torch(path: str) -> Findings:
    """Inspect a torch file, of which only an autoencoder's or a diffusion transformer's is told.

    Raises:
        InputError: it is none.
    """
    findings = Findings(path)
    _network(findings, path)
    if findings.kind == "unknown":
        raise InputError(
            f"{path}: is a file of torch's, and holds no autoencoder or DiT that dprune knows: name another file."
        )
    return findings


def _trained_classes(path: str) -> dict[str, Any]:
    """Return how many samples of each class a model was trained on, as far as its file says so."""
    file = ModelFile.open(path)
    described = DESCRIPTIONS.get(str(file.network.get("kind")))
    if described is None or described.misfit(file.network) or "class_counts" not in file.network:
        return {}
    names = file.class_names
    return {"classes": {names.name(label): count for label, count in enumerate(file.network["class_counts"])}}


def _network(findings: Findings, path: str) -> None:
    """Say what a file is where others wrote an autoencoder or a diffusion transformer to it."""
    try:
        file = open_vae(path)
    except InputError:
        _transformer(findings, path)
        return
    findings.kind = "autoencoder"
    told = {name: value for name, value in file.network.items() if name not in ("kind", "image_size")}
    findings.content |= {"network": told}


def _transformer(findings: Findings, path: str) -> None:
    if is_tensor_file(path) and not _OF_TRANSFORMERS.intersection(map(bare_name, TensorFile.open(path).places)):
        return
    # What these are is told by torch alone.
    from dprune.models.foreign_dits import inferred, shapes_of

    try:
        config, *_ = inferred(Path(path), shapes_of(Path(path)))
    except InputError:
        return
    findings.kind = "transformer"
    findings.content |= {"network": config.as_json()}


def hold_to_digests(findings: Findings, file: TensorFile) -> None:
    """Note the tensors of a file that are not what was written."""
    findings.count_digests(file.guarded)
    for name in file.places:
        try:
            file.check([name])
        except InputError as error:
            findings.problems.append(str(error))
            findings.digests = "damaged"


def tensor_shapes(file: TensorFile) -> dict[str, tuple[str, list[int]]]:
    """Return each tensor's dtype, in safetensors' letters, and shape."""
    return {name: (place.letters, list(place.shape)) for name, place in file.places.items()}


def row_problems(path: str, shapes: dict[str, tuple[str, list[int]]], count: int | None) -> list[str]:
    """Say which tensors do not have one row a sample; `count` None takes the first such tensor's rows."""
    rows = {name: shape[0] for name, (_, shape) in shapes.items() if name in BY_SAMPLE and shape}
    if count is None and (len(rows) < 2 or not rows.keys() & {"features", "assignment", "valid"}):
        return []
    expected = next(iter(rows.values())) if count is None else count
    return [
        f"{path}: its tensor {name!r} has {found:,} rows for {expected:,} samples: make it again."
        for name, found in rows.items()
        if found != expected
    ]


def _tensors(findings: Findings, shapes: dict[str, tuple[str, list[int]]]) -> None:
    sizes = {name: math.prod(shape) for name, (_, shape) in shapes.items()}
    few = list(shapes.items())[: MOST_EXAMPLES if len(shapes) > 2 * MOST_EXAMPLES else None]
    title = "shapes" if len(few) == len(shapes) else "first_shapes"
    findings.content |= {
        "tensors": len(shapes),
        "values": sum(sizes.values()),
        "dtypes": dict(Counter(dtype for dtype, _ in shapes.values())),
        title: {name: f"{dtype} {shape}" for name, (dtype, shape) in few},
    }
    if not shapes:
        findings.problems.append(f"{findings.name}: holds no tensors: make it again.")
    if "features" in shapes and findings.kind == "tensors":
        findings.kind, findings.samples = "features", shapes["features"][1][0] if shapes["features"][1] else None
    if "covariance" in shapes and findings.kind == "tensors":
        findings.kind = "statistics"


def _clusters(findings: Findings) -> None:
    clusters = read_clusters(findings.name)
    findings.kind, findings.samples = "clusters", len(clusters)
    sizes, assignment = clusters.sizes, clusters.assignment
    findings.content = {
        "samples": len(clusters),
        "unassigned": int((assignment < 0).sum()),
        "clusters": len(sizes),
        "levels": [len(sizes), *(int(above.max()) + 1 for above in clusters.levels)] if clusters.levels else None,
        "dimension": clusters.centroids.shape[1] if clusters.centroids.size else None,
        "samples_a_cluster": _spread(sizes) if len(sizes) else None,
        "sizes": sizes.tolist(),
        "labels": None if clusters.label is None else len(np.unique(clusters.label[clusters.label >= 0])),
        "classes": None if clusters.label is None else clusters.class_names.counts(clusters.label),
        "digest": clusters.as_parent()["digest"],
    }
    counted = np.bincount(assignment[assignment >= 0], minlength=len(sizes))
    if len(counted) > len(sizes):
        findings.problems.append(
            f"{findings.name}: assigns samples to cluster {len(counted) - 1} of {len(sizes)}: cluster again."
        )
    elif (wrong := np.flatnonzero(counted != sizes)).size:
        one = wrong[0]
        findings.problems.append(
            f"{findings.name}: says that cluster {one} has {sizes[one]:,} samples, but assigns {counted[one]:,} to it "
            f"({len(wrong):,} clusters are wrong): cluster again."
        )
    if (np.isnan(clusters.distance) & (assignment >= 0)).any() and not np.isnan(clusters.distance).all():
        findings.problems.append(f"{findings.name}: samples in a cluster have no distance to it: cluster again.")


def _spread(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    return {"smallest": int(counts.min()), "median": float(np.median(counts)), "largest": int(counts.max())}
