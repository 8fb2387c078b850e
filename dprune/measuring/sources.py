"""Where one side of a measurement comes from: a store or an array of features, or shards whose features are made.

Features that are made go to a store in the cache, named after the dataset and the options, so that no image is
embedded twice; an interrupted one goes on. Nothing here imports torch before features are made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dprune.embedding.job import EmbedJob, open_embed
from dprune.embedding.settings import EmbedOptions
from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array, read_ids
from dprune.formats.cache import cache_folder, writable
from dprune.formats.claims import claim_in, claimed
from dprune.formats.features import Features, open_features
from dprune.formats.kinds import kind_of
from dprune.formats.members import MemberChoice
from dprune.formats.provenance import Record, check_same_dataset, digest, nearest_first, parent_record, record_digest
from dprune.formats.publish import Output
from dprune.formats.statistics import Statistics
from dprune.precision import PRECISIONS
from dprune.runtime import Monitor, Ranks

_log = logging.getLogger("dprune")

# What two sets of features must have in common to be comparable. Precision and storage change digits alone.
SPACE = ("model", "weights", "image_size", "crop_pct", "color", "pca", "normalize")


@dataclass(frozen=True)
class Embedding:
    """How the features of shards are made, as it was asked for.

    Attributes:
        model: None for that of the other side, or else `default`.
        default: model where no side names one.
        weights: as all that follow, see `dprune embed`.
    """

    model: str | None
    default: str
    weights: str | None = None
    image_size: int | None = None
    color: str | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 256
    workers: int | None = 0
    image_member: str | None = None
    label_member: str | None = None

    @property
    def members(self) -> MemberChoice:
        """Which members of shards are images and labels."""
        return MemberChoice(self.image_member, self.label_member)

    @property
    def stated(self) -> bool:
        """Whether any option says how features are to be made."""
        given = (self.model, self.weights, self.image_size, self.color)
        return any(value is not None for value in given) or self.precision != "auto"

    def options(self, like: Record | None) -> EmbedOptions:
        """Return the options as `embed` takes them.

        Args:
            like: record of the features to be compared with, whose options hold where none is stated.

        Raises:
            UsageError: the options contradict each other.
            MismatchError: features like those cannot be made.
        """
        own = EmbedOptions(
            self.model or self.default, self.weights, self.image_size, color=self.color, precision=self.precision,
            device=self.device, batch_size=self.batch_size, workers=self.workers,
        )  # fmt: skip
        if like is None or self.model is not None:
            return own
        known = like["options"]
        if "pca" in known:
            raise MismatchError(
                "features with --pca are of a space of their own, in which no other images can be embedded: "
                "embed both sides without --pca."
            )
        precision = {dtype: name for name, dtype in PRECISIONS.items()}[known["precision"]]
        options = replace(
            own, model=known["model"], image_size=self.image_size or known.get("image_size"),
            crop_pct=known.get("crop_pct"), color=self.color or known.get("color"), normalize=known["normalize"],
            dtype=known["dtype"], precision=precision if self.precision == "auto" else self.precision,
        )  # fmt: skip
        if options.settings.options().get("weights") != known.get("weights"):
            raise MismatchError(
                f"the other side was embedded with {known['model']} and weights of SHA-256 "
                f"{str(known.get('weights'))[:12]}: give that file by --weights."
            )
        return options


@dataclass(frozen=True)
class FeatureSource:
    """Features that are there, or will be.

    Attributes:
        name: what messages call it.
        record: provenance of the features, None for those made elsewhere.
        parent: how a record describes them as an input.
        open: makes what is missing, and opens them.
    """

    name: str
    record: Record | None
    parent: Record
    open: Callable[[Monitor], Features]

    @property
    def model(self) -> str | None:
        """Network that made the features, None if that is not known."""
        return self.record["options"].get("model") if self.record else None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset, None if that is not known."""
        return self.record.get("fingerprint") if self.record else None


class SidePath(NamedTuple):
    """A path that a side of a measurement was given by, and what is there.

    Attributes:
        path: as it was given.
        holds: `shards`, `statistics` (also any .npz archive), `ids` (a vector, or stdin), or else `features`.
    """

    path: str
    holds: str

    @classmethod
    def of(cls, path: str) -> SidePath:
        """Look at the path, the only time."""
        kind = kind_of(path)
        unreadable = kind in ("missing", "file", "pipe") and not path.endswith((".npy", ".safetensors"))
        if kind in ("shards", "folder", "tar") or unreadable:
            return cls(path, "shards")
        return cls(path, _HOLDS.get(kind, "features"))


_HOLDS = {"statistics": "statistics", "zip": "statistics", "vector": "ids", "stdin": "ids"}


def open_sources(
    paths: Mapping[str, SidePath], embedding: Embedding, known: Mapping[str, Record | None] | None = None
) -> dict[str, FeatureSource]:
    """Open the sides of a measurement and hold them together.

    Args:
        paths: by role, such as `generated`; what holds no shards must hold features.
        embedding: how the features of shards are made.
        known: provenance by name of features that are no longer at hand, such as those behind statistics.

    Raises:
        InputError: one of them is missing or not sound.
        MismatchError: their features are of different spaces.
        UsageError: options about making features that make none.
    """
    ready = {role: side.path for role, side in paths.items() if side.holds != "shards"}
    shards = {role: side.path for role, side in paths.items() if side.holds == "shards"}
    if embedding.stated and not shards:
        raise UsageError("--model and its options are for shards, and all sides are features: leave them out.")
    found = {role: _ready(path) for role, path in ready.items()}
    known = dict(known or {})
    like = next((record for record in (*(source.record for source in found.values()), *known.values()) if record), None)
    if shards:
        options = embedding.options(like)
        found |= {role: _to_make(path, options, embedding.members) for role, path in shards.items()}
    sources = {role: found[role] for role in paths}
    check_space({source.name: source.record for source in sources.values()} | known)
    _warn_of_roles(sources)
    return sources


def open_with_held_out(
    paths: Mapping[str, SidePath],
    held_out: str | None,
    origin: str,
    embedding: Embedding,
    known: Mapping[str, Record | None] | None = None,
) -> tuple[dict[str, FeatureSource], Array | None]:
    """Open the sides of a measurement, and its held-out samples in the role `held_out`.

    Args:
        paths: by role.
        held_out: features or shards, or ids of samples in the role `origin`; None for none.
        origin: such as `train`; where that is no features, ids are returned without a source.
        embedding: as `open_sources` takes it.
        known: likewise.

    Returns:
        The sources by role, and the ids of the held-out samples where these were given.

    Raises:
        InputError, MismatchError, UsageError: as `open_sources` does.
    """
    if held_out is None:
        return open_sources(paths, embedding, known), None
    side = SidePath.of(held_out)
    if side.holds != "ids":
        return open_sources({**paths, "held_out": side}, embedding, known), None
    ids = read_ids(side.path)
    sources = open_sources(paths, embedding, known)
    if (whole := sources.get(origin)) is not None:
        check_same_dataset({ids.name: ids.fingerprint, whole.name: whole.fingerprint})
        sources["held_out"] = FeatureSource(ids.name, whole.record, ids.as_parent(), whole.open)
    return sources, ids


def check_held_out(sources: Mapping[str, FeatureSource | Statistics], held_ids: Array | None, origin: str) -> None:
    """Refuse held-out samples that are all samples of the role `origin`.

    Raises:
        MismatchError: they are one dataset.
    """
    whole, held_out = sources[origin], sources.get("held_out")
    if held_ids is not None or not isinstance(held_out, FeatureSource) or not isinstance(whole, FeatureSource):
        return
    if held_out.fingerprint and held_out.fingerprint == whole.fingerprint:
        raise MismatchError(
            f"{held_out.name} and {whole.name} are one dataset: give --held-out the .npy of the ids in it that "
            "the model was not trained on."
        )


def _warn_of_roles(sources: Mapping[str, FeatureSource]) -> None:
    """Say that what is measured was not generated and what it is held to was, or that both are the same."""
    generated = sources.get("generated")
    if generated is None:
        return
    for other in sources.values():
        if other is not generated and (other.name, other.parent) == (generated.name, generated.parent):
            _log.warning("%s is both sides: it is measured against itself.", other.name)
        elif generated.record and not is_sampled(generated.record) and is_sampled(other.record):
            _log.warning("%s comes from a model and %s does not: the generated samples are to be given first.",
                         other.name, generated.name)  # fmt: skip


def is_sampled(record: Record | None) -> bool:
    """Tell whether features are of images that `dprune sample` drew."""
    return any(step.get("command") == "sample" for step in nearest_first(record))


def check_space(records: dict[str, Record | None]) -> None:
    """Refuse features that different networks made.

    Args:
        records: provenance by name; None for features made elsewhere, which are taken as they are.

    Raises:
        MismatchError: two differ in the network, or in what it was given.
    """
    known = [(name, record) for name, record in records.items() if record and record.get("command") == "embed"]
    for name, record in known[1:]:
        first, options = known[0][1]["options"], record["options"]
        unlike = next((key for key in SPACE if first.get(key) != options.get(key)), None)
        if unlike is None and "pca" in options and record.get("fingerprint") != known[0][1].get("fingerprint"):
            unlike = "pca"
        if unlike:
            remedy = "embed both without --pca" if unlike == "pca" else "embed both with the same options"
            raise MismatchError(
                f"{known[0][0]} and {name} are features of different spaces ({unlike}: {first.get(unlike)}, and "
                f"{options.get(unlike)}): {remedy}."
            )


def _ready(path: str) -> FeatureSource:
    features = open_features(path)
    record = features.record
    if record is not None:
        # A store's manifest is written before all its parts are known, and cannot hold the fingerprint.
        record = {**record, "fingerprint": features.fingerprint}
    return FeatureSource(features.name, record, features.as_parent(), lambda monitor: features)


def _to_make(path: str, options: EmbedOptions, members: MemberChoice) -> FeatureSource:
    job = open_embed([path], options, Output(""), members)
    dataset = job.dataset
    if not len(dataset):
        raise InputError(f"{path}: holds no samples: give shards with images.")
    content = digest([dataset.fingerprint, record_digest(job.record)])
    job = replace(job, output=Output(str(cache_folder() / "features" / content[:32])))

    def open_made(monitor: Monitor) -> Features:
        made = job if job.complete() else _made(job, monitor)
        return open_features(made.output.path)

    record = {**job.record, "fingerprint": dataset.fingerprint}
    return FeatureSource(dataset.title, record, parent_record(job.record, content), open_made)


def _made(job: EmbedJob, monitor: Monitor) -> EmbedJob:
    """Make features in the cache, unless another process does so meanwhile, and return the job that made them."""
    folder = writable(Path(job.output.path))
    job = replace(job, output=Output(str(folder)))
    with claimed(claim_in(folder, Ranks()), str(folder), monitor, patience=math.inf):
        if not job.complete():
            _log.info("embedding %s with %s.", job.dataset.title, job.settings.network)
            made: dict[str, Any] = job.run(monitor)
            _log.debug("made %s of %s shards in %s.", made["shards_made"], made["shards"], folder)
    job.tidy()
    return job
