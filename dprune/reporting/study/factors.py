"""What a provenance chain says of an experiment, as a flat table of factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dprune.errors import DpruneError
from dprune.formats.provenance import DRAWING, Record, canonical, parents_of
from dprune.formats.statistics import STATISTICS

Path = tuple[str, ...]
Factors = dict["Factor", str]

ANY = ""
"""Value of a factor that is not known, and so fits all: tags speak for what has no provenance."""
GENERATED = "generated"
"""Role of the samples that were measured."""
SOURCE, COMMAND, OWN, IMAGES, COUNT = "source", "command", "own subset", "images", "N"
EPOCHS = "epochs"
"""What stands for the number of steps where these are in proportion to the samples; `--epochs` is recorded as steps."""
AXES = ("method", "order", "keep", "seed")
"""Tags that say where people's own results belong."""
ASIDE = ("vae", "init", "coarse", "guide", *DRAWING)
"""Roles of ancestors whose training set is not that of the model."""

_DIGITS = 12
_SEEDS = ("seed", "seeds")
# What follows from the subset and its dataset, and how far samples were ranked: the first ranks are the same.
_DERIVED = dict.fromkeys(("train-dit", "train-baseline", "train-vae"), ("samples", "of")) | {"score": ("up_to",)}


class Factor(NamedTuple):
    """One recorded choice.

    Attributes:
        path: roles that lead from the result to the record that holds it.
        command: of that record.
        name: of the option, or `tag NAME`, `command`, `N` for a number of samples, `source` for the digest of something
            made elsewhere.
    """

    path: Path
    command: str
    name: str


@dataclass
class Chain:
    """A flattened chain.

    Attributes:
        factors: values by factor, in the JSON that records hold, strings without quotes.
        own: where the model's training subset occurs; nothing below it is among the factors.
    """

    factors: Factors = field(default_factory=dict)
    own: set[Path] = field(default_factory=set)


def flatten(
    record: Record | None,
    path: Path = (),
    *,
    own: str | None = None,
    aside: bool = True,
    quiet: bool = False,
    tags_speak: bool = True,
    chain: Chain | None = None,
) -> Chain:
    """List every recorded option, tag and source of a chain; seeds, versions and what follows from them are left out.

    Shards that were packed from a subset stand where the shards that they were packed from would.

    Args:
        record: provenance, or an input described as external.
        path: roles that led to it.
        own: digest of the model's training subset, at which the descent stops.
        aside: whether it stops there in the ancestry of the autoencoder, too.
        quiet: whether a record on the way has tags, which then stand for the digests of what has no provenance.
        tags_speak: whether tags may do so.
        chain: what was found so far.
    """
    chain = Chain() if chain is None else chain
    if record is None:
        return chain
    command = str(record["command"])
    if command != STATISTICS:
        _add(chain, Factor(path, "", COMMAND), command)
    for name, value in _choices(command, record):
        _add(chain, Factor(path, command, name), value)
    quiet = quiet or (tags_speak and bool(record.get("tags")))
    for role, parent in parents_of(record).items():
        place = path if _is_transparent(command, role, record) else (*path, role)
        beside = not aside and any(name in ASIDE for name in place)
        if own is not None and parent.get("digest") == own and not beside:
            chain.own.add(place)
        elif "provenance" in parent:
            # No tag makes one of two datasets.
            hushed = quiet and not (command == "encode" and role == "shards")
            flatten(parent["provenance"], place, own=own, aside=aside, quiet=hushed, tags_speak=tags_speak, chain=chain)
        else:
            source = ANY if quiet else str(parent.get("digest", "unknown"))[:_DIGITS]
            _add(chain, Factor(place, "", SOURCE), source)
    return chain


def _is_transparent(command: str, role: str, record: Record) -> bool:
    if command == STATISTICS:
        return role == "features"
    return command == "pack" and role == "shards" and "subset" in record.get("parents", {})


def _add(chain: Chain, factor: Factor, value: str) -> None:
    # Of steps that share a path, what the last one did counts.
    chain.factors.setdefault(factor, value)


def _choices(command: str, record: Record) -> Iterator[tuple[str, str]]:
    for name, value in _flat_options(record.get("options", {})):
        if command == "sample" and name == "seeds":
            yield IMAGES, count_seeds(str(value))
        elif name not in _SEEDS and name not in _DERIVED.get(command.partition(" ")[0], ()):
            yield name, text(value)
    for name, value in record.get("tags", {}).items():
        if name not in AXES:
            yield f"tag {name}", text(value)


def _flat_options(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat_options(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def text(value: Any) -> str:
    """Write an option's value as labels show it."""
    if isinstance(value, str):
        return value or "(empty)"
    if isinstance(value, list):
        return ",".join(text(item) for item in value)
    return {True: "yes", False: "no", None: "none"}[value] if isinstance(value, bool | None) else canonical(value)


def count_seeds(seeds: str) -> str:
    """Return how many images `--seeds` asked for: which seeds they were makes no difference."""
    from dprune.sampling.seeds import Seeds

    try:
        return str(len(Seeds.parse(seeds)))
    except DpruneError:
        return seeds


def agree(some: Factors, others: Factors, besides: set[Path] | frozenset[Path] = frozenset()) -> bool:
    """Tell whether two tables say the same; an unknown value fits any.

    Args:
        some: factors.
        others: factors.
        besides: paths below which they may differ.
    """
    for factor in some.keys() | others.keys():
        if any(factor.path[: len(path)] == path for path in besides):
            continue
        one, other = some.get(factor), others.get(factor)
        if one != other and ANY not in (one, other):
            return False
    return True
