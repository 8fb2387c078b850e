"""How far folders of shards are that `pack` and `sample` make."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dprune.errors import InputError, UsageError
from dprune.formats.beside import mark_of
from dprune.formats.checked_json import Object, Text, parse_json, shaped
from dprune.formats.manifests import MANIFEST, read_manifest
from dprune.formats.provenance import Record
from dprune.formats.shard_journal import FinishedShard, Journal, ends
from dprune.formats.shards import BAD
from dprune.formats.temporary import Holder, stem_of
from dprune.formats.whole_files import read_file
from dprune.sampling.seeds import Seeds
from dprune.watching.folders import look_at, makers_in, names_in, pieces_held, time_of
from dprune.watching.pace import pace_since
from dprune.watching.standing import UNFINISHED, Missing, Standing, Tally

_BAD = Object({"key": Text(), "reason": Text()})


def finished_shards(folder: str) -> Standing:
    """Look at shards that a manifest says are all there.

    Raises:
        InputError: the manifest is damaged.
    """
    manifest, place = read_manifest(folder), Path(folder)
    listed = {shard["name"]: shard["count"] for shard in manifest["shards"]}
    whole = look_at(listed, lambda name: ends(place / name))
    missing = [
        Missing(number, name, "cut short" if (place / name).exists() else "")
        for number, name in enumerate(listed)
        if not whole[name]
    ]
    found = Standing(folder, "shards", record=manifest["provenance"], missing=missing)
    found.tally = Tally("shards", sum(whole.values()), len(listed))
    found.facts = {"samples": sum(count for name, count in listed.items() if whole[name])}
    found.undecodable, found.at_work = _unreadable(place), makers_in(place)
    if missing:
        # A journal is only kept until all is there, so nothing tells whose the others are.
        found.state, found.rerun = UNFINISHED, f"makes all {len(listed):,} shards again"
    return found


def shards_of_others(folder: str) -> Standing | None:
    """Look at shards without a manifest, which other programs made; return None where there are none."""
    place = Path(folder)
    tars = sorted(name for name in names_in(place) if name.endswith(".tar"))
    if not tars:
        return None
    cut = [name for name, whole in look_at(tars, lambda name: ends(place / name)).items() if not whole]
    if cut:
        raise InputError(f"{place / cut[0]}: is cut short: copy it again, or make it again.")
    return Standing(folder, "shards", tally=Tally("shards", len(tars), len(tars)))


def _unreadable(folder: Path) -> list[Record]:
    path = folder / BAD
    if not path.is_file():
        return []
    lines = read_file(path).rstrip(b"\n").split(b"\n")
    entries = [shaped(str(path), parse_json(str(path), line), _BAD) for line in lines]
    return [{"shard": None, "key": entry["key"], "reason": entry["reason"]} for entry in entries]


def begun_shards(folder: str) -> Standing | None:
    """Look at shards in the making, by their journal; return None where no journal says anything."""
    place = Path(folder)
    journal, names = Journal(place), names_in(place)
    manifest, plan = journal.manifest(), journal.plan()
    if manifest.get("kind") != "journal":
        return None
    made = _made(journal)
    found = Standing(folder, "shards", UNFINISHED, manifest["provenance"], at_work=makers_in(place, names))
    found.shared = found.command == "sample"
    found.tally = Tally("shards", len(made), plan.get("shards"))
    found.missing = _missing(found.tally.total or 0, made, names, found.at_work)
    found.undecodable = [{"shard": shard.name, **bad} for shard in made.values() for bad in shard.bad]
    found.facts = {"samples": sum(shard.count for shard in made.values()), "of_samples": plan.get("samples"),
                   "exports_to_come": _exports(place, plan)}  # fmt: skip
    if found.shared:
        found.facts["missing_seeds"] = _seeds(found.record or {}, found.missing)
    found.rerun = _rerun(found, resumes=plan.get("resumes", True))
    _tell_pace(found, journal, made)
    return found


def _made(journal: Journal) -> dict[int, FinishedShard]:
    entries = (re.fullmatch(r"(\d{6})\.json", name) for name in names_in(journal.path))
    noted = look_at(sorted(int(entry[1]) for entry in entries if entry), journal.noted)
    return {number: shard for number, shard in noted.items() if shard is not None}


def _exports(folder: Path, plan: Record) -> list[str]:
    """Return files beside the folder that are not made yet, each with its option."""
    missing = [entry for entry in plan.get("exports", []) if mark_of(folder / entry["path"]) != entry["mark"]]
    return [f"{entry['option']} {os.path.relpath(folder / entry['path'])}" for entry in missing]


def _tell_pace(found: Standing, journal: Journal, made: Mapping[int, FinishedShard]) -> None:
    times = look_at(made, lambda number: time_of(journal.folder / made[number].name))
    done = [(times[number], shard.count + len(shard.bad)) for number, shard in made.items()]
    wanted = found.facts["of_samples"]
    left = None if wanted is None else wanted - sum(count for _, count in done)
    found.expect(pace_since(time_of(journal.path / MANIFEST), done, "images"), left)


def _missing(total: int, made: Mapping[int, FinishedShard], names: set[str], makers: Sequence[Holder]) -> list[Missing]:
    stems, in_hand, found = {holder.stem for holder in makers}, pieces_held(makers), []
    for number in (number for number in range(total) if number not in made):
        name = f"{number:06d}.tar"
        reason = "not noted as whole" if name in names else ""
        found.append(Missing(number, name, reason, number in in_hand or stem_of(name) in stems))
    return found


def _seeds(record: Record, missing: Sequence[Missing]) -> str | None:
    """Return the seeds of images that are to come, as `--seeds` takes them."""
    options = record.get("options", {})
    try:
        seeds, size = Seeds.parse(options["seeds"]), int(options["shard_size"])
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        return None
    parts = [seeds.slice(piece.position * size, (piece.position + 1) * size) for piece in missing]
    # Reading them joins the runs that go on from one shard to the next.
    return str(Seeds.parse(",".join(map(str, parts)))) if parts else None


def _rerun(found: Standing, *, resumes: bool) -> str:
    assert found.tally is not None
    if not resumes:
        return "begins again: a stream can be read only once"
    total = found.tally.total
    if total is None:
        return f"goes on after the {found.tally.done:,} shards that are finished"
    steps = [f"makes {len(found.missing):,} of {total:,} shards"] if found.missing else []
    steps += found.facts["exports_to_come"]
    return ", ".join([*steps, "writes the manifest"])
