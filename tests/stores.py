"""Stores for tests, made without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dprune.formats.latents import CODEBOOK_FILE, KIND, SUMS, part_sums
from dprune.formats.provenance import digest, make_record, parent_record
from dprune.formats.stores import Store

COUNTS = (20, 0, 13)


def latent_store(
    folder: Path, kind: str = "vq", *, flips: bool = False, labels: bool = True, unlabelled: int = 0, vae: str = "",
    counts: tuple[int, ...] = COUNTS, **options: object,
) -> Path:  # fmt: skip
    """A store of 33 random samples in three parts, one of them empty; the last sample could not be decoded.

    The first `unlabelled` samples of the first part have no label. With other `counts` parts have so many samples.
    Provenance records further `options`.
    """
    draw = np.random.default_rng(0)
    network = {"kind": kind, "channels": 3, "size": 4, "codes": 50 if kind == "vq" else 0, "image_size": 16}
    parents = {"vae": {"digest": vae, "external": True}} if vae else None
    record = make_record("encode", {"network": network, "flips": flips, **options}, parents=parents)
    shards = tuple(f"{number:06d}.tar" for number in range(len(counts)))
    store = Store(folder, KIND, shards, (), record)
    store.publish_manifest()
    if kind == "vq":
        store.publish_beside(CODEBOOK_FILE, {"codebook": draw.normal(2, 3, (50, 3)).astype(np.float32)})
    for number, (shard, count) in enumerate(zip(shards, counts, strict=True)):
        tensors = {
            "label": draw.integers(0, 5, count) if labels else np.full(count, -1),
            "valid": np.ones(count, dtype=bool),
        }
        if number == 2:
            tensors["valid"][-1] = False
        if not number:
            tensors["label"][:unlabelled] = -1
        for flip in ("", "_flipped")[: 1 + flips]:
            if kind == "vq":
                tensors[f"codes{flip}"] = draw.integers(0, 50, (count, 16)).astype(np.uint16)
            else:
                tensors[f"mean{flip}"] = draw.normal(1, 2, (count, 3, 4, 4)).astype(np.float16)
                tensors[f"logvar{flip}"] = draw.normal(-1, 0.1, (count, 3, 4, 4)).astype(np.float16)
        tensors[SUMS[kind]] = part_sums(network, tensors)
        store.publish_part(shard, tensors, f"members{number}", count, [])
    return folder


def generated_features(folder: Path, x: np.ndarray, label: np.ndarray | None = None, *, model: str = "all",
                       shard_size: int = 50, shards: tuple[str, ...] = (), keys: Sequence[str] | None = None,
                       subset: dict[str, Any] | None = None, fingerprint: str | None = None,
                       space: dict[str, Any] | None = None, trained: dict[str, Any] | None = None,
                       told: dict[str, Any] | None = None, **options: Any) -> Path:  # fmt: skip
    """Features `x` [n, d] as those of images that `sample` drew from a model with the seeds 0 to n - 1.

    Options of its training are `trained`, and arrays that told it of each sample `told`.

    Their keys are kept where they are given, as an older dprune did not.
    """
    latents = {"digest": model, "external": True}
    inputs = {"latents": latents, **({"subset": subset} if subset else {}), **(told or {})}
    made = make_record("train-dit", {"steps": 5, **(trained or {})}, fingerprint=fingerprint, parents=inputs)
    options = {"seeds": f"0-{len(x) - 1}", "steps": 20, "cfg": 1.0, **options}
    images = make_record("sample", options, parents={"model": parent_record(made, model)})
    record = make_record("embed", {"model": "pixels", "dtype": "float32", **(space or {})},
                         parents={"shards": parent_record(images, digest(images))})  # fmt: skip
    count = -(-len(x) // shard_size)
    store = Store(folder, "features", shards or tuple(f"{n:06d}.tar" for n in range(count)), (), record)
    store.publish_manifest()
    label = np.full(len(x), -1) if label is None else label
    for number, shard in enumerate(store.shards):
        rows = slice(number * shard_size, (number + 1) * shard_size)
        tensors = {"features": x[rows].astype(np.float32), "label": label[rows].astype(np.int64)}
        named = None if keys is None else keys[rows]
        store.publish_part(shard, tensors, f"members{number}", len(x[rows]), [], keys=named)
    return folder
