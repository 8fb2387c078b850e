"""From what people name to shards: folders, globs, brace ranges, lists and URLs."""

from __future__ import annotations

import glob
import os

from dprune.errors import InputError
from dprune.formats.arrays import read_file
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.ranges import is_url

JOURNAL = ".dprune"


def expand(source: str) -> list[str]:
    """Return the shards that one word of a command line names.

    Args:
        source: a folder (its `*.tar` by name), a path, a glob, a brace range, an `@list.txt` or a URL.

    Raises:
        InputError: nothing is found, or a folder's pack is unfinished.
    """
    if source == "-" or source.startswith("pipe:"):
        raise InputError(f"{source}: a stream cannot be read by offset: run dprune pack on it first.")
    if source.startswith("@"):
        lines = read_file(source[1:]).decode().splitlines()
        return [found for line in lines if line.strip() for found in expand(line.strip())]
    if os.path.isdir(source):
        return _folder(source)
    if os.path.exists(source):
        return [source]
    if "{" in source:
        from braceexpand import braceexpand

        try:
            expanded = list(braceexpand(source))
        except ValueError:
            raise InputError(f"{source}: the braces are not balanced.") from None
        if expanded != [source]:
            return [found for name in expanded for found in expand(name)]
    if is_url(source):
        return [source]
    if found := sorted(glob.glob(source)):
        return [location for path in found for location in expand(path)]
    raise InputError(f"{source}: no such file or folder.")


def _folder(folder: str) -> list[str]:
    if os.path.isdir(os.path.join(folder, JOURNAL)):
        raise InputError(f"{folder}: is not finished: run the command that makes it again.")
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar")))
    manifest = read_manifest(folder)
    if manifest.get("kind") == "shards":
        missing = {shard["name"] for shard in manifest["shards"]} - {os.path.basename(path) for path in found}
        if missing:
            raise InputError(f"{folder}: {min(missing)} is missing, which its {MANIFEST} lists: make the set again.")
    if not found:
        raise InputError(f"{folder}: holds no .tar files.")
    return found
