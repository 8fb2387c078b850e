"""The sides of a measurement, opened and held together: stores or arrays of features, or images that get features."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dprune.embedding.settings import INCEPTION_DIMENSION
from dprune.errors import InputError, MismatchError, UsageError
from dprune.formats.arrays import Array
from dprune.formats.features import Features, Unlabelled, open_features
from dprune.formats.named import NamedSamples
from dprune.formats.named_sources import NamedShards
from dprune.formats.provenance import Record, check_same_dataset, nearest_first
from dprune.formats.statistics import Statistics
from dprune.formats.subsets import read_chosen
from dprune.measuring.making import Embedding, Making, SideImages
from dprune.measuring.side_paths import SidePath
from dprune.runtime import Monitor, Silent

_log = logging.getLogger("dprune")

# What two sets of features must have in common to be comparable. Precision and storage change digits alone.
SPACE = ("model", "weights", "image_size", "crop_pct", "resize", "color", "pca", "normalize")


@dataclass(frozen=True)
class FeatureSource:
    """Features that are there, or will be.

    Attributes:
        name: what messages call it.
        record: provenance of the features, None for those made elsewhere.
        parent: how a record describes them as an input.
        open: makes what is missing, and opens them.
        fingerprint: of the dataset, None if that is not known.
        named: what tells the keys of the samples, None where nothing does.
    """

    name: str
    record: Record | None
    parent: Record
    open: Callable[[Monitor], Features]
    fingerprint: str | None
    named: NamedSamples | None = None

    @property
    def model(self) -> str | None:
        """Network that made the features, None if that is not known."""
        return self.record["options"].get("model") if self.record else None


def open_sources(
    paths: Mapping[str, SidePath], embedding: Embedding, statistics: Sequence[Statistics] = ()
) -> dict[str, FeatureSource]:
    """Open the sides of a measurement and hold them together.

    Args:
        paths: by role, such as `generated`; what holds no images must hold features.
        embedding: how the features of images are made.
        statistics: of features that are no longer at hand, which the sides are held to.

    Raises:
        InputError: one of them is missing or not sound.
        MismatchError: their features are of different spaces.
        UsageError: options about making features that make none.
    """
    images = {role: side for role, side in paths.items() if side.holds in ("shards", "images")}
    if embedding.stated and not images:
        raise UsageError("--model and its options are for images, and all sides are features: leave them out.")
    _check_samples(paths.values())
    _check_members(images, embedding)
    found = {role: _ready(side.path) for role, side in paths.items() if role not in images}
    for source in found.values():
        _check_width(statistics, source.open(Silent()).shape[1], f"{source.name} has")
    known = {some.name: some.features for some in statistics}
    like = next((record for record in (*(source.record for source in found.values()), *known.values()) if record), None)
    if images:
        options = embedding.options(like)
        _check_width(statistics, options.settings.dimension, f"{options.settings.network} gives")
        opened = {role: SideImages.open(side, embedding.members) for role, side in images.items()}
        for role, some in opened.items():
            labelled = functools.partial(_share_classes, role, opened, tuple(paths))
            found[role] = _to_make(Making.plan(some, options), labelled)
    sources = {role: found[role] for role in paths}
    check_space({source.name: source.record for source in sources.values()} | known)
    _warn_of_roles(sources)
    return sources


def _check_samples(sides: Iterable[SidePath]) -> None:
    if useless := next((side.path for side in sides if side.holds == "statistics"), None):
        raise InputError(f"{useless}: holds statistics, which have no single samples: give images or features.")


def _check_members(images: Mapping[str, SidePath], embedding: Embedding) -> None:
    if embedding.members.options() and "shards" not in (side.holds for side in images.values()):
        raise UsageError("--image-member and --label-member are for shards, and no side is shards: leave them out.")


def _share_classes(role: str, opened: Mapping[str, SideImages], sides: Iterable[str]) -> bool:
    """Tell whether the labels of a side's images number the same classes as those of all other sides do.

    Folders may be classes, batches or dates: what numbers the same is what has the same names. Whoever packed images
    has said that their folders are classes.
    """
    images = opened[role]
    others = [opened.get(other) for other in sides if other != role]
    if images.source is None or not images.classes:
        return True
    return all(other is not None and other.classes == images.classes for other in others)


def _check_width(statistics: Sequence[Statistics], width: int | None, whose: str) -> None:
    """Refuse features of other dimensions than those behind statistics of other programs, before any work.

    Args:
        statistics: which the features are held to.
        width: dimension of the features, None where it is not known yet.
        whose: the features, with a verb.

    Raises:
        MismatchError: a dimension differs.
    """
    for some in statistics:
        stated = len(some.mean)
        if some.features is None and width not in (None, stated):
            like = "--model inception" if stated == INCEPTION_DIMENSION else "the network that made the statistics"
            raise MismatchError(
                f"{some.name} holds statistics of {stated:,} dimensions, and {whose} {width:,}: embed the images with "
                f"{like}."
            )


def open_with_held_out(
    paths: Mapping[str, SidePath],
    held_out: str | None,
    origin: str,
    embedding: Embedding,
    statistics: Sequence[Statistics] = (),
) -> tuple[dict[str, FeatureSource], Array | None]:
    """Open the sides of a measurement, and its held-out samples in the role `held_out`.

    Args:
        paths: by role.
        held_out: features or images, or ids of samples in the role `origin`; None for none.
        origin: such as `train`; where that is no features, ids are returned without a source.
        embedding: as `open_sources` takes it.
        statistics: likewise.

    Returns:
        The sources by role, and the ids of the held-out samples where these were given.

    Raises:
        InputError, MismatchError, UsageError: as `open_sources` does.
    """
    if held_out is None:
        return open_sources(paths, embedding, statistics), None
    side = SidePath.of(held_out).as_images()
    if side.holds != "ids":
        return open_sources({**paths, "held_out": side}, embedding, statistics), None
    sources = open_sources(paths, embedding, statistics)
    whole = sources.get(origin)
    ids = read_chosen(side.path, None if whole is None else whole.named)
    if whole is not None:
        check_same_dataset({ids.name: ids.fingerprint, whole.name: whole.fingerprint})
        sources["held_out"] = FeatureSource(ids.name, whole.record, ids.as_parent(), whole.open, whole.fingerprint)
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
            f"{held_out.name} and {whole.name} are the same dataset: give --held-out the ids in it that "
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
            _log.warning("%s comes from a model and %s does not: give the generated samples first.",
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
    return FeatureSource(features.name, record, features.as_parent(), lambda monitor: features, features.fingerprint,
                         features.named)  # fmt: skip


def _to_make(making: Making, labelled: Callable[[], bool]) -> FeatureSource:
    def opened(monitor: Monitor) -> Features:
        features = making.open(monitor)
        return features if labelled() else Unlabelled(features)

    dataset = making.job.dataset
    record = {**making.job.record, "fingerprint": dataset.fingerprint}
    return FeatureSource(dataset.title, record, making.parent, opened, dataset.fingerprint, NamedShards(dataset))
