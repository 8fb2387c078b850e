"""What a result keeps of its jackknife, so that the error of a difference to another result can be told from both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.errors import UsageError
from dprune.formats.arrays import digest_array
from dprune.formats.features import Features, StoreFeatures
from dprune.formats.provenance import Record, digest, parents_of
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.sampling.seeds import Seeds

DIGITS = 12
"""Of a replicate: errors of differences are made of differences of replicates, and the file is to stay small."""


def kept_replicates(estimates: Mapping[str, Estimate | None], blocks: Blocks, pairing: str | None) -> Record:
    """Return the statistics without each block, by the key of the metric, as results hold them.

    Args:
        estimates: by key; what has no error, or one of other blocks, is left out.
        blocks: of the generated samples.
        pairing: see `pairing_digest`.
    """
    replicates = {
        key: [float(f"{number:.{DIGITS}g}") for number in estimate.replicates]
        for key, estimate in estimates.items()
        if estimate is not None and estimate.replicates and math.isfinite(estimate.error)
    }
    return {"blocks": len(blocks), "sizes": list(blocks.sizes), "pairing": pairing, "replicates": replicates}


def pairing_digest(features: Features, ids: npt.NDArray[np.int64], blocks: Blocks, alike: Sequence[Any]) -> str | None:
    """Return what two results must have in common for their replicates to be paired, None where nobody knows.

    Sample i of one and sample i of the other must be drawn with the same noise and class, stand in blocks of the same
    number, and be measured in the same way. What may differ is what made images of the noise: the model with its
    training set, guidance, solver, precision.

    Args:
        features: of the generated samples.
        ids: of those that take part, int64 [n].
        blocks: of these.
        alike: what else must be the same, such as the reference.
    """
    seeds, labels = seeds_in_order(features), features.labels()
    if seeds is None:
        return None
    return digest({
        "seeds": digest_array(seeds[ids]),
        "classes": None if labels is None else digest_array(labels[ids]),
        "blocks": digest_array(blocks.labels),
        "alike": list(alike),
    })  # fmt: skip


def seeds_in_order(features: Features) -> npt.NDArray[np.int64] | None:
    """Return the seed of each sample, int64 [n], None where the features are not those of all images of one `sample`.

    `sample` writes images in the order of their seeds.
    """
    images = [entry.get("provenance", {}) for entry in parents_of(features.record).values()]
    in_order = isinstance(features, StoreFeatures) and list(features.store.shards) == sorted(features.store.shards)
    if not in_order or len(images) != 1 or images[0].get("command") != "sample":
        return None
    try:
        seeds = Seeds.parse(str(images[0].get("options", {}).get("seeds")))
    except UsageError:
        return None
    return seeds.between(0, len(seeds)) if len(seeds) == features.shape[0] else None
