"""manifest.json: what a folder of dprune's is, what it holds, and what made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.checked_json import FileName, Hex, ListOf, Object, Text, Whole, read_json, shaped
from dprune.formats.digests import without_check
from dprune.formats.provenance import checked_record

MANIFEST = "manifest.json"
REMEDY = "copy the folder again, or make it again"
# Files that a manifest names may get removed: it can name none outside its folder.
_NAMES = ListOf(FileName(), unique=True)
_STORE = Object({"shards": ListOf(FileName(), least=1, unique=True), "datasets": ListOf(Text())})
_SHARD = Object({"name": FileName(), "count": Whole(), "digest": Text()}, {"xxh3": Hex(16)})
_SHAPES = {
    "shards": Object({"shards": ListOf(_SHARD, least=1, unique="name")}),
    "features": _STORE,
    "latents": _STORE,
    "sweep": Object({"files": _NAMES}),
    "report": Object({"contents": ListOf(Text())}),
}
"""What the manifests of each kind hold besides `kind` and `provenance`."""


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return a folder's manifest, empty if it has none.

    Raises:
        InputError: the manifest is not one of dprune's.
    """
    path = Path(folder) / MANIFEST
    try:
        content = read_json(path, REMEDY)
    except FileNotFoundError:
        return {}
    return checked_manifest(str(path), content)


def checked_manifest(name: str, content: Any) -> dict[str, Any]:
    """Return parsed JSON that is a manifest, empty if it is something else.

    Raises:
        InputError: the manifest is damaged.
    """
    if not isinstance(content, dict):
        return {}
    manifest = without_check(name, content)
    if not (isinstance(manifest.get("provenance"), dict) and isinstance(manifest.get("kind"), str)):
        return {}
    if checked_record(name, manifest["provenance"]) is None and manifest["provenance"]:
        raise InputError(f"{name}: is damaged (its provenance is not valid): {REMEDY}.")
    shaped(name, manifest, _SHAPES.get(manifest["kind"], Object()), REMEDY)
    return manifest
