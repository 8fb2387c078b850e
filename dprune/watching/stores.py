"""How far a store of features or latents is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dprune.errors import MismatchError
from dprune.formats.latents import CODEBOOK_FILE
from dprune.formats.manifests import MANIFEST
from dprune.formats.provenance import Record
from dprune.formats.stores import MISSING, Store
from dprune.formats.temporary import Holder, stem_of
from dprune.watching.folders import look_at, makers_in, names_in, pieces_held, time_of
from dprune.watching.pace import pace_since
from dprune.watching.standing import DAMAGED, UNFINISHED, UP_TO_DATE, Missing, Standing, Tally


class _Look(NamedTuple):
    """A part by its header: its metadata and when it was made, or why it counts as missing."""

    metadata: Record | None = None
    made: float = 0.0
    reason: str = ""


def store_standing(folder: str, kind: str) -> Standing:
    """Look at the parts of a store, which count as for a rerun: those of other options, and damaged ones, are missing.

    The shards themselves are not looked at: that one of them has changed since is for the rerun to find.

    Raises:
        InputError: its manifest is damaged.
    """
    store, names = Store.open(folder, kind), names_in(Path(folder))
    there = [shard for shard in store.shards if store.path(shard).name in names]
    looks = look_at(there, lambda shard: _look(store, shard))
    parts = {shard: look.metadata for shard, look in looks.items() if look.metadata is not None}
    found = Standing(folder, kind, record=store.record, shared=True, at_work=makers_in(store.folder, names))
    found.tally = Tally("files", len(parts), len(store.shards))
    found.missing = _missing(store, looks, found.at_work)
    found.facts = {"samples": sum(part["count"] for part in parts.values())}
    found.undecodable = _undecodable(parts)
    _tell_rerun(found, store)
    if found.state == UNFINISHED:
        made = [(look.made, look.metadata["count"]) for look in looks.values() if look.metadata]
        left = len(found.missing) * found.facts["samples"] / len(parts) if parts else None
        found.expect(pace_since(time_of(store.folder / MANIFEST), made, "images"), left)
    _tell_of_mixtures(found, store, parts)
    return found


def _missing(store: Store, looks: Mapping[str, _Look], makers: Sequence[Holder]) -> list[Missing]:
    stems, in_hand, found = {holder.stem for holder in makers}, pieces_held(makers), []
    for number, shard in enumerate(store.shards):
        look = looks.get(shard, _Look())
        if look.metadata is None:
            at_work = number in in_hand or stem_of(store.path(shard).name) in stems
            found.append(Missing(number, shard, look.reason, at_work))
    return found


def _undecodable(parts: Mapping[str, Record]) -> list[Record]:
    bad = ((shard, entry) for shard, part in parts.items() for entry in part["bad"])
    return [{"shard": shard, "key": entry["key"], "reason": entry["reason"]} for shard, entry in bad]


def _tell_of_mixtures(found: Standing, store: Store, parts: Mapping[str, Record]) -> None:
    """Note parts by different networks, which a rerun refuses."""
    try:
        store.check_weights(parts)
    except MismatchError as error:
        found.state, found.rerun = DAMAGED, "ends at once, as its files were made by different networks"
        found.problems.append(str(error))


def _look(store: Store, shard: str) -> _Look:
    file, reason = store.look(shard)
    if file is None:
        return _Look(reason="" if reason == MISSING else reason)
    return _Look(file.metadata, file.version[-1] / 1e9)


def _tell_rerun(found: Standing, store: Store) -> None:
    """Say what a rerun makes of a store, its shared codebook included."""
    assert found.tally is not None
    rerun = []
    if found.missing:
        rerun.append(f"makes {len(found.missing):,} of {found.tally.total:,} files")
    if _wants_codebook(store):
        found.facts["codebook"] = store.has_beside(CODEBOOK_FILE)
        if not found.facts["codebook"]:
            rerun.append("writes the codebook that all files share")
    found.state = UNFINISHED if rerun else found.state
    found.rerun = " and ".join(rerun) or UP_TO_DATE


def _wants_codebook(store: Store) -> bool:
    network = store.record.get("options", {}).get("network")
    return isinstance(network, dict) and network.get("kind") == "vq"
