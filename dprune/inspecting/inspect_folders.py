"""What folders hold: stores, sweeps, reports and runs; of shards, see `inspect_shards`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dprune.clustering.sweep_plot import PLOT, TABLE
from dprune.errors import InputError
from dprune.formats.clip_retrieval import ClipFolder
from dprune.formats.img2dataset import warn_of_unfinished
from dprune.formats.kinds import no_output
from dprune.formats.latents import SUMS, open_latents
from dprune.formats.locations import JOURNAL
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record
from dprune.formats.stores import PART, Store
from dprune.formats.tensor_files import TensorFile
from dprune.inspecting.findings import Findings
from dprune.inspecting.inspect_files import (
    MOST_EXAMPLES,
    hold_to_digests,
    inspect_tensors,
    inspect_torch,
    row_problems,
    tensor_shapes,
)
from dprune.inspecting.inspect_shards import Look, inspect_tars
from dprune.models.files import MODEL
from dprune.models.foreign_vaes import weights_in
from dprune.models.weights import is_torch_file
from dprune.training.run import CHECKPOINTS, STATE


def inspect_folder(folder: str, kind: str, look: Look) -> Findings:
    """Inspect a folder by its manifest, or by what lies in it.

    Args:
        folder: path.
        kind: what `kind_of` says that it is.
        look: how to look at shards.

    Raises:
        InputError: it holds nothing that dprune knows, or its manifest cannot be read.
    """
    manifest = read_manifest(folder)
    unfinished = os.path.isdir(os.path.join(folder, JOURNAL))
    tars = sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar")))
    if kind in ("features", "latents"):
        findings = _store(folder, kind)
    elif kind == "clip-retrieval":
        findings = _embeddings(folder)
    elif kind == "shards" or tars or unfinished:
        warn_of_unfinished(folder, tars)
        findings = inspect_tars(folder, tars, [folder], look)
    elif kind == "sweep":
        findings = _sweep(folder, manifest)
    elif kind == "report":
        findings = _report(folder, manifest)
    elif kind == "run" or os.path.isfile(os.path.join(folder, MODEL)):
        findings = _run(folder, manifest)
    elif (weights := weights_in(Path(folder))) != Path(folder):
        findings = inspect_torch(str(weights)) if is_torch_file(weights) else inspect_tensors(str(weights))
    else:
        raise InputError(no_output(folder))
    if unfinished:
        findings.problems.insert(0, f"{folder}: is not finished: run the command that makes it again.")
    return findings


def _store(folder: str, kind: str) -> Findings:
    """Inspect a store, whose parts may be missing, damaged or of other options."""
    store = Store.open(folder, kind)
    findings = Findings(folder, kind, records=[store.record])
    parts = {shard: _part(findings, store, shard) for shard in store.shards}
    whole = {shard: part for shard, part in parts.items() if part is not None}
    for path in sorted(set(store.folder.glob("*.safetensors")) - set(map(store.path, store.shards))):
        hold_to_digests(findings, TensorFile.open(path))
    if len(whole) == len(parts) and not findings.problems:
        findings.samples, findings.fingerprint = sum(store.counts), store.fingerprint
    bad = [entry for part in whole.values() for entry in part["bad"]]
    findings.content = {
        "shards": len(parts),
        "files": len(whole),
        "samples": sum(part["count"] for part in whole.values()),
        "tensors": _tensors(findings, store, list(whole)),
        **_labels(store, list(whole)),
        "bad": len(bad),
        "bad_keys": [str(entry.get("key")) for entry in bad[:MOST_EXAMPLES]],
    }
    if kind == "latents" and not findings.problems:
        _latents(findings)
    return findings


def _embeddings(path: str) -> Findings:
    """Inspect what the inference of clip-retrieval wrote."""
    folder, findings = ClipFolder(path), Findings(path, "features")
    columns = folder.columns()
    findings.samples, findings.fingerprint = sum(folder.counts), folder.fingerprint
    findings.content = {
        "files": len(folder.parts),
        "samples": findings.samples,
        "dimension": folder.parts[0].values.shape[1],
        "dtypes": sorted({str(part.values.dtype) for part in folder.parts}),
        "columns": columns,
        "keys": folder.keys(0)[:MOST_EXAMPLES] if columns else None,
    }
    return findings


def _latents(findings: Findings) -> None:
    """Tell what the sums of a latent store say of the whole, and note what its reader would refuse."""
    try:
        latents = open_latents(findings.name)
    except InputError as error:
        findings.problems.append(str(error))
        return
    findings.content |= {"valid": int(latents.valid().sum()), "flips": latents.flips, "network": latents.network}
    if latents.codebook is not None:
        share = latents.sums[latents.sums > 0] / latents.sums.sum()
        findings.content |= {"codes_used": len(share), "perplexity": float(np.exp(-(share * np.log(share)).sum()))}
    findings.content |= {"mean": latents.mean.tolist(), "std": latents.std.tolist()}


def _part(findings: Findings, store: Store, shard: str) -> Record | None:
    """Return the metadata of a part that is sound, or note what is wrong with it."""
    path = store.path(shard)
    if not path.exists():
        findings.problems.append(f"{store.folder}: lacks the file of {shard}: {store.remedy}.")
        return None
    try:
        file = TensorFile.open(path)
    except InputError as error:
        findings.problems.append(str(error))
        return None
    hold_to_digests(findings, file)
    if problem := PART.misfit(file.metadata):
        findings.problems.append(f"{path}: is damaged ({problem}): remove the file and {store.remedy}.")
        return None
    part = store.part(shard)
    if part is None:
        findings.problems.append(f"{path}: was made with other options than the store: {store.remedy}.")
        return None
    findings.problems += row_problems(str(path), tensor_shapes(file), part["count"])
    return part


def _tensors(findings: Findings, store: Store, shards: Sequence[str]) -> dict[str, str]:
    """Describe a sample's row of each tensor, and note the parts that differ from the first."""
    described: dict[str, str] = {}
    for shard in shards:
        shapes = tensor_shapes(TensorFile.open(store.path(shard)))
        rows = {
            name: f"{dtype} {shape} per file" if name in SUMS.values() else f"{dtype} {shape[1:]}"
            for name, (dtype, shape) in shapes.items()
        }
        if described and rows != described:
            findings.problems.append(f"{store.path(shard)}: holds other tensors than the first file: make it again.")
        described = described or rows
    return described


def _labels(store: Store, shards: Sequence[str]) -> dict[str, Any]:
    """Return how many samples have a label, and how many each class has."""
    parts = (store.read(shard, "label") for shard in shards)
    labels = np.concatenate([np.empty(0, np.int64), *(part for part in parts if part is not None)])
    return {"labelled": int((labels >= 0).sum()), "classes": store.class_names.counts(labels)}


def _report(folder: str, manifest: Record) -> Findings:
    """Inspect a report by the list of its files."""
    findings = Findings(folder, "report", records=[manifest["provenance"]])
    missing = [name for name in manifest["contents"] if not os.path.isfile(os.path.join(folder, name))]
    findings.problems += [f"{folder}: lacks {name}: run the dprune report that makes it again." for name in missing]
    findings.content = {"files": len(manifest["contents"])}
    return findings


def _sweep(folder: str, manifest: Record) -> Findings:
    """Inspect the clusterings that a sweep's manifest lists, its table and its plot."""
    findings = Findings(folder, "sweep", records=[manifest["provenance"]])
    findings.fingerprint = manifest["provenance"].get("fingerprint")
    missing = [name for name in (*manifest["files"], TABLE, PLOT) if not os.path.isfile(os.path.join(folder, name))]
    findings.problems += [f"{folder}: lacks {name}: run the command that makes it again." for name in missing]
    for name in sorted(set(manifest["files"]) - set(missing)):
        try:
            clusters = inspect_tensors(os.path.join(folder, name))
        except InputError as error:
            findings.problems.append(str(error))
            continue
        findings.problems += clusters.problems
        findings.count_digests(clusters.digests == "whole")
        findings.samples = clusters.samples
    stated = manifest["provenance"].get("options", {})
    findings.content = {"k": stated.get("k"), "samples": findings.samples, "files": sorted(manifest["files"])}
    return findings


def _run(folder: str, manifest: Record) -> Findings:
    if os.path.isfile(os.path.join(folder, MODEL)):
        findings = inspect_tensors(os.path.join(folder, MODEL))
    else:
        findings = Findings(folder, "run", records=[manifest["provenance"]])
        findings.fingerprint = manifest["provenance"].get("fingerprint")
        findings.problems.append(f"{folder}: is not finished: run the command that makes it again.")
    for path in [*sorted(Path(folder).glob(f"{CHECKPOINTS}/*.safetensors")), Path(folder, STATE)]:
        if path.is_file():
            hold_to_digests(findings, TensorFile.open(path))
    findings.name, findings.kind = folder, "run"
    findings.content["files"] = sorted(os.listdir(folder))
    return findings
