"""Questions about where samples come from, answered by their provenance."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from dprune.formats.provenance import Record

GENERATOR = "train-dit"


def training_subset(record: Record | None) -> Record | None:
    """Find the subset that the model behind generated samples was trained on.

    It may have been given to the training itself, or shards were packed from it before; the training set of the
    autoencoder, or of a model that was trained on, does not count.

    Args:
        record: provenance of generated shards, of features of these, or of the model.

    Returns:
        Its description as an input, `digest` with `provenance` or `external`, or None where none is named.
    """
    models = (step for step in _nearest_first(record) if step.get("command") == GENERATOR)
    return packed_subset(next(models, None), besides=("vae", "init"))


def packed_subset(record: Record | None, besides: Sequence[str] = ()) -> Record | None:
    """Find the nearest subset in the ancestry, such as that which the shards behind features were packed from.

    Args:
        record: provenance of features, latents or shards.
        besides: roles of ancestors that are left aside.
    """
    parents = (step.get("parents", {}) for step in _nearest_first(record, besides))
    return next((roles["subset"] for roles in parents if "subset" in roles), None)


def _nearest_first(record: Record | None, besides: Sequence[str] = ()) -> Iterator[Record]:
    """Yield a record and its ancestors, generation by generation."""
    waiting = deque([record] if record else [])
    while waiting:
        step = waiting.popleft()
        yield step
        parents = step.get("parents", {}).items()
        waiting += [parent["provenance"] for role, parent in parents if role not in besides and "provenance" in parent]
