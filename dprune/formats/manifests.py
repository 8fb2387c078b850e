"""manifest.json: what a folder of dprune's is, what it holds, and what made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dprune.errors import InputError
from dprune.formats.provenance import checked_record

MANIFEST = "manifest.json"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return a folder's manifest, empty if it has none.

    Raises:
        InputError: the manifest is not one of dprune's.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from error
    if not (isinstance(content, dict) and isinstance(content.get("provenance"), dict) and "kind" in content):
        return {}
    checked_record(str(path), content["provenance"])
    _check_manifest(path, content)
    return content


def _check_manifest(path: Path, content: dict[str, Any]) -> None:
    """Refuse a manifest that lacks what its kind has, or names files outside its folder, which may get removed."""
    needed = {"shards": ("shards",), "features": ("shards", "datasets"), "latents": ("shards", "datasets")}
    lists = [content.get(name, []) for name in ("shards", "datasets", "files")]
    whole = all(name in content for name in needed.get(str(content["kind"]), ()))
    if not whole or not all(isinstance(entries, list) for entries in lists):
        raise InputError(f"{path}: is damaged: make the folder again.")
    entries = [entry.get("name") if isinstance(entry, dict) else entry for entry in (*lists[0], *lists[2])]
    if not all(isinstance(name, str) and name not in ("", ".", "..") and name == Path(name).name for name in entries):
        raise InputError(f"{path}: names files outside its folder: do not trust where it comes from.")
