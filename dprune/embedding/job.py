"""The job of `dprune embed`: which parts of a feature store are this worker's, and which are missing.

Nothing here imports torch, so that a store that is up to date is recognised at once.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dprune.errors import InputError
from dprune.formats.outputs import existing_record
from dprune.formats.provenance import digest, make_record, without_version
from dprune.formats.shards import Dataset, Shard, read_manifest
from dprune.formats.stores import Store
from dprune.runtime import cpu_count, ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dprune.embedding.settings import Settings
    from dprune.formats.provenance import Record
    from dprune.runtime import Monitor

KIND = "features"
PCA_FILE = "pca.safetensors"
_log = logging.getLogger("dprune")


@dataclass(frozen=True)
class EmbedJob:
    """Features of a dataset, as far as they are this worker's to make.

    Attributes:
        dataset: the shards.
        settings: what changes the features.
        seed: chooses the images that principal components are fitted to.
        strict: whether an image that cannot be decoded ends the work.
        device: name of the device.
        batch_size: images in one forward pass.
        workers: processes that decode.
        tags: what the user wants to be remembered.
    """

    dataset: Dataset
    settings: Settings
    seed: int
    strict: bool
    device: str
    batch_size: int
    workers: int
    tags: Mapping[str, str]

    @functools.cached_property
    def record(self) -> Record:
        """Provenance of the store.

        It names the dataset by its shards and their provenance, since a worker walks only the shards that it
        embeds; principal components depend on every image, so with them it holds the fingerprint.
        """
        fitted = self.settings.pca is not None
        records = [without_version(record) for record in self.dataset.records]
        content = digest({"shards": [shard.name for shard in self.dataset.shards], "provenance": records})
        return make_record(
            "embed",
            self.settings.options(),
            seed=self.seed if fitted else None,
            fingerprint=self.dataset.fingerprint if fitted else None,
            parents=self.dataset.parents(content),
            tags=self.tags,
        )

    @functools.cached_property
    def mine(self) -> tuple[Shard, ...]:
        """The shards that this worker embeds."""
        here = ranks()
        return self.dataset.shards[here.rank :: here.world]

    @functools.cached_property
    def sizes(self) -> dict[str, tuple[int, str]]:
        """Samples and digest of the members of each of this worker's shards."""
        found = {}
        for shard in self.mine:
            index = shard.index()
            if not len(index):
                _log.warning("%s holds no samples.", shard.location)
            found[shard.name] = (len(index), index.digest)
        return found

    def store(self, output: str) -> Store:
        """Return the store at `output`, whatever is there now."""
        names = tuple(shard.name for shard in self.dataset.shards)
        return Store(Path(output), KIND, names, self.dataset.records, self.record)

    def existing(self, output: str) -> Mapping[str, Any] | None:
        """Return the provenance of what stands at `output`.

        Raises:
            InputError: it is a folder of another kind, whose manifest --overwrite must not replace.
        """
        kind = read_manifest(output).get("kind", KIND)
        if kind != KIND:
            raise InputError(f"{output}: is a folder of {kind}, not of features: give another -o.")
        return existing_record(output)

    def complete(self, output: str) -> bool:
        """Tell whether this worker's parts are all there and no killed run left anything behind."""
        return not self.missing(self.store(output)) and not self._leftovers(Path(output))

    def missing(self, store: Store) -> list[Shard]:
        """Return this worker's shards without a part that was made from their members with these options.

        Raises:
            InputError: with --strict, a part has an image that could not be decoded.
        """
        # All shards are walked first: a damaged one had better be known before hours of work.
        found, sizes = [], self.sizes
        for shard in self.mine:
            part = store.part(shard.name)
            if part is None or part["members"] != sizes[shard.name][1]:
                found.append(shard)
            elif self.strict and part["bad"]:
                raise undecodable(shard, part["bad"][0])
        return found

    def run(self, output: str, monitor: Monitor) -> dict[str, Any]:
        """Make the missing parts and return counts over all of this worker's parts."""
        store = self.store(output)
        missing = self.missing(store)
        self._tidy(store)
        if missing:
            from dprune.embedding.extract import extract

            extract(self, store, missing, monitor)
        else:
            store.publish_manifest()
        return self._summary(store, len(missing))

    def _summary(self, store: Store, made: int) -> dict[str, Any]:
        parts = [part for part in (store.part(shard.name) for shard in self.mine) if part]
        bad = [(shard.name, entry) for shard, part in zip(self.mine, parts) for entry in part["bad"]]
        if bad:
            _log.warning(
                "%d images could not be decoded (first: %s in %s, %s); their rows are NaN and the parts list them.",
                len(bad), bad[0][1]["key"], bad[0][0], bad[0][1]["reason"],
            )  # fmt: skip
        images = sum(part["count"] for part in parts)
        return {"images": images, "undecodable": len(bad), "shards": len(parts), "shards_made": made}

    def _leftovers(self, folder: Path) -> list[Path]:
        """Temporary files of killed runs; what another worker may be writing now is left alone."""
        here = ranks()
        parts = {f"{shard.name.removesuffix('.tar')}.safetensors" for shard in self.mine}
        found = []
        for name in os.listdir(folder) if folder.is_dir() else ():
            match = re.fullmatch(r"\.(.+)\.(\d+)\.tmp", name)
            if match and (
                match[1] in parts
                or int(match[2]) == here.rank
                or (here.rank == 0 and int(match[2]) >= here.world)
            ):  # fmt: skip
                found.append(folder / name)
        return found

    def _tidy(self, store: Store) -> None:
        """Remove what killed runs left, and what belongs to the other options or shards of a store overwritten."""
        for path in self._leftovers(store.folder):
            path.unlink(missing_ok=True)
        if ranks().rank > 0 or not read_manifest(store.folder):
            return
        wanted = {store.path(shard) for shard in store.shards}
        wanted |= {store.folder / PCA_FILE} if self.settings.pca else set()
        old = Store.open(store.folder, KIND)
        for path in {*map(old.path, old.shards), store.folder / PCA_FILE} - wanted:
            path.unlink(missing_ok=True)


def default_workers() -> int:
    """Return this process's share of the cores: torchrun starts several processes on one machine."""
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def undecodable(shard: Shard, entry: Mapping[str, Any]) -> InputError:
    """Describe an image that --strict does not forgive."""
    return InputError(
        f"{shard.location}: {entry['key']} {entry['reason']}: replace it, or leave --strict out to get a row of NaN."
    )
