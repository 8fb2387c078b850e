"""Outputs that are there whole or not at all: single files, and folders of a few."""

from __future__ import annotations

from pathlib import Path

from dprune.clustering.sweep_plot import PLOT, TABLE
from dprune.errors import InputError
from dprune.formats.arrays import map_array, read_array, stated_kind
from dprune.formats.kinds import ARRAY_FILES, TENSOR_FILES
from dprune.formats.manifests import read_manifest
from dprune.formats.provenance import Record, checked_record
from dprune.formats.results import read_result
from dprune.formats.shard_journal import ends
from dprune.formats.tensors import read_metadata
from dprune.formats.text_tables import TextTable
from dprune.formats.whole_files import read_file
from dprune.watching.folders import names_in
from dprune.watching.standing import UNFINISHED, Missing, Standing, Tally


def file_standing(path: str, kind: str) -> Standing:
    """Look at a file, which is published whole; arrays and results are held to their digests, of others the header is.

    Raises:
        InputError: it is damaged, or nothing that dprune makes.
    """
    if kind == "matrix":
        return Standing(path, "array", facts={"shape": list(map_array(path).shape)})
    if kind in ARRAY_FILES:
        array = read_array(path)
        named = stated_kind(array.record) or "array"
        return Standing(path, named, record=array.record, facts={"shape": list(array.values.shape)})
    if kind == "keys":
        table = TextTable(path, read_file(path))
        return Standing(path, kind, record=table.record, facts={"kept": len(table.rows if table.head else table.lines)})
    if kind in TENSOR_FILES:
        return Standing(path, kind, record=_record(path))
    if kind == "json":
        result = read_result(path)
        return Standing(path, result.kind, record=result.record)
    if kind == "tar" and not ends(Path(path)):
        raise InputError(f"{path}: is cut short: copy it again, or make it again.")
    if kind in ("tar", "png", "zip"):
        return Standing(path, {"tar": "shard", "png": "picture", "zip": "archive"}[kind])
    raise InputError(f"{path}: is not something that dprune makes: name an output of a command.")


def _record(path: str) -> Record | None:
    content = dict(read_metadata(path) or {})
    return checked_record(path, content) if "command" in content else None


def folder_of_files(folder: str, kind: str) -> Standing:
    """Look at a sweep or a report, whose manifest lists its files.

    Raises:
        InputError: the manifest is damaged.
    """
    manifest, names = read_manifest(folder), names_in(Path(folder))
    listed = [*manifest["files"], TABLE, PLOT] if kind == "sweep" else manifest["contents"]
    missing = [Missing(number, name) for number, name in enumerate(listed) if name not in names]
    found = Standing(folder, kind, record=manifest["provenance"], missing=missing)
    found.tally = Tally("files", len(listed) - len(missing), len(listed))
    if missing:
        found.state, found.rerun = UNFINISHED, "makes all of it again"
    return found
