"""From what people name to shards: folders, globs, brace ranges, lists and URLs.

A few characters can stand for more than any machine holds, and a list can name itself: all of it is bounded.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from dprune.errors import InputError
from dprune.formats import braces
from dprune.formats.clip_retrieval import is_clip_folder
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.ranges import is_url
from dprune.formats.whole_files import read_file

JOURNAL = ".dprune"
MOST = 1_000_000
"""Locations that all sources together may stand for; a list counts as one."""
LONGEST_LIST = 64 << 20
DEEPEST_LIST = 16
LONGEST_NAME = 4096
"""Of paths, as systems have it, and of globs, where a longer one can take long to be looked for."""


def expand(sources: Sequence[str]) -> list[str]:
    """Return the shards that the words of a command line name, in order.

    Args:
        sources: folders (their `*.tar` by name), paths, globs, brace ranges, `@list.txt` and URLs.

    Raises:
        InputError: nothing is found, a folder's pack is unfinished, a list names itself, or it is all too much.
    """
    expansion = _Expansion()
    return [location for source in sources for location in expansion.named(source, ())]


class _Expansion:
    """The sources of one command, which together stand for so many locations at most."""

    def __init__(self) -> None:
        self._left = MOST

    def _bound(self, source: str, number: int) -> None:
        """Refuse a number of locations that is too large to be gone through."""
        if number > self._left:
            raise InputError(f"{source}: there are more than {MOST:,} shards with it: name fewer.")

    def _count(self, source: str, number: int = 1) -> None:
        self._bound(source, number)
        self._left -= number

    def named(self, source: str, lists: tuple[str, ...]) -> Iterator[str]:
        """Yield what one word names, which stands in the lists that it was come to by."""
        if source == "-" or source.startswith("pipe:"):
            raise InputError(f"{source}: a stream cannot be read by offset: run dprune pack on it first.")
        exists = os.path.exists(source)
        if source.startswith("@") and not exists:
            yield from self._listed(source[1:], lists)
        elif "{" in source and not exists:
            words = _words(source)
            self._bound(source, words.count)
            for word in words:
                yield from self._found(word)
        else:
            yield from self._found(source)

    def _found(self, word: str) -> Iterator[str]:
        exists = os.path.exists(word)
        if is_url(word) and not exists:
            self._count(word)
            yield word
            return
        paths = [word] if exists else self._globbed(word)
        for path in paths:
            inside = _folder(path) if os.path.isdir(path) else [path]
            self._count(word, len(inside))
            yield from inside

    def _globbed(self, pattern: str) -> list[str]:
        found: list[str] = []
        possible = "\0" not in pattern and len(pattern) <= LONGEST_NAME
        for path in glob.iglob(pattern) if possible else ():
            found.append(path)
            self._bound(pattern, len(found))
        if not found:
            raise InputError(f"{pattern}: no such file or folder.")
        return sorted(found)

    def _listed(self, path: str, lists: tuple[str, ...]) -> Iterator[str]:
        place = os.path.realpath(path)
        if place in lists:
            raise InputError(f"{path}: is a list that names itself, or a list that names it: take that line out.")
        if len(lists) == DEEPEST_LIST:
            raise InputError(f"{path}: lists are nested more than {DEEPEST_LIST} deep: name fewer.")
        # Empty lists may be named so often that reading them never ends.
        self._count(path)
        for line in read_file(path, LONGEST_LIST).decode("utf-8", "surrogateescape").split("\n"):
            if word := line.strip():
                yield from self.named(word, (*lists, place))


def _words(source: str) -> braces.Words:
    try:
        return braces.parse(source)
    except ValueError as error:
        raise InputError(f"{source}: {error}: put a backslash before one that belongs to a name.") from None


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
        features = " but embeddings, which dprune cluster takes as features" if is_clip_folder(folder) else ""
        raise InputError(f"{folder}: holds no .tar files{features}.")
    return found
