"""How far a store of features or latents is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dprune.errors import MismatchError
from dprune.formats.latents import CODEBOOK_FILE
from dprune.formats.manifests import MANIFEST
from dprune.formats.provenance import Record
from dprune.formats.stores import MISSING, Store
from dprune.formats.temporary import stem_of
from dprune.watching.at_work import makers_in, pieces_held
from dprune.watching.folders import look_at, names_in, time_of
from dprune.watching.pace import pace_since
from dprune.watching.standing import DAMAGED, UNFINISHED, UP_TO_DATE, Missing, Standing, Tally


class _Look(NamedTuple):
    """A part by its header: its metadata and when it was made, or why it counts as missing."""

    metadata: Record | None
    made: float
    reason: str


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
    makers = makers_in(store.folder, names)
    stems, in_hand = {holder.stem for holder in makers}, pieces_held(makers)
    missing = [
        Missing(
            number,
            shard,
            looks[shard].reason if shard in looks else "",
            number in in_hand or stem_of(store.path(shard).name) in stems,
        )
        for number, shard in enumerate(store.shards)
        if shard not in parts
    ]
    found = Standing(folder, kind, record=store.record, missing=missing, shared=True, at_work=makers)
    found.tally = Tally("parts", len(parts), len(store.shards))
    found.facts = {"samples": sum(part["count"] for part in parts.values())}
    found.ledger = [
        {"shard": shard, "key": bad["key"], "reason": bad["reason"]}
        for shard, part in parts.items()
        for bad in part["bad"]
    ]
    _tell_rerun(found, store)
    if found.state == UNFINISHED:
        made = [(look.made, look.metadata["count"]) for look in looks.values() if look.metadata]
        found.pace = pace_since(time_of(store.folder / MANIFEST), made, "images")
        if found.pace and found.pace.rate and parts:
            found.remaining = len(missing) * found.facts["samples"] / len(parts) / found.pace.rate
    try:
        store.check_weights(parts)
    except MismatchError as error:
        found.state, found.rerun = DAMAGED, "ends at once, as there are parts by different networks"
        found.problems.append(str(error))
    return found


def _look(store: Store, shard: str) -> _Look:
    file, reason = store.look(shard)
    if file is None:
        return _Look(None, 0.0, "" if reason == MISSING else reason)
    return _Look(file.metadata, file.version[-1] / 1e9, "")


def _tell_rerun(found: Standing, store: Store) -> None:
    """Say what a rerun makes of a store, its shared codebook included."""
    assert found.tally is not None
    rerun = []
    if found.missing:
        rerun.append(f"makes {len(found.missing):,} of {found.tally.total:,} parts")
    if _wants_codebook(store):
        found.facts["codebook"] = store.has_beside(CODEBOOK_FILE)
        if not found.facts["codebook"]:
            rerun.append("writes the codebook that all parts share")
    found.state = UNFINISHED if rerun else found.state
    found.rerun = " and ".join(rerun) or UP_TO_DATE


def _wants_codebook(store: Store) -> bool:
    network = store.record.get("options", {}).get("network")
    return isinstance(network, dict) and network.get("kind") == "vq"
