"""Which training generated samples come from, and what else was drawn anew before it: seeds are nested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dprune.formats.provenance import Record, canonical, digest, nearest_first, parents_of, record_digest
from dprune.reporting.study.training_sets import model_of

LEVELS = {
    "train-vae": ("autoencoder", "autoencoders"),
    "cluster": ("clustering", "clusterings"),
    "train-dit": ("earlier training", "earlier trainings"),
    "score": ("scoring", "scorings"),
    "select": ("selection", "selections"),
}
"""Commands before a training that draw at random, the earliest first, and what they make: one, and several."""


@dataclass(frozen=True)
class Origin:
    """What one command made for a training.

    Attributes:
        mark: digest of what was made, equal for trainings that share it, also where other seeds made the same.
        seeds: that it was made with.
    """

    mark: str
    seeds: str


@dataclass(frozen=True)
class Training:
    """The training behind generated samples.

    Attributes:
        mark: digest of what the model's record says and of its inputs; where there is none, of the model, the seed that
            a tag says, or the samples. Results of equal marks are of one training.
        origins: what was made before, by the command's name in `LEVELS`.
    """

    mark: str
    origins: tuple[tuple[str, Origin], ...] = field(default=(), compare=False)


def drawn_anew(trainings: Sequence[Training]) -> dict[str, int]:
    """Count what was made before trainings, of all that differs by its own seeds, by the command's name."""
    found = {}
    for command in LEVELS:
        known = [origin for t in trainings if (origin := dict(t.origins).get(command)) is not None]
        marks, seeds = {origin.mark for origin in known}, {origin.seeds for origin in known}
        if len(known) == len(trainings) and len(marks) > 1 and len(seeds) > 1:
            found[command] = len(marks)
    return found


def training_of(chain: Record | None, samples: str, seed: str | None = None) -> Training:
    """Identify the training behind generated samples.

    Args:
        chain: provenance of the samples.
        samples: their digest.
        seed: that a tag gives them.
    """
    model = model_of(chain)
    if model:
        # Not of the inputs' records: the same subset is the same, whatever seed broke ties that were none.
        inputs = {role: entry.get("digest") for role, entry in model.get("parents", {}).items()}
        return Training(record_digest({**model, "parents": inputs}), tuple(_origins(model)))
    # A model that was made elsewhere has no record, but may have been sampled twice.
    made = next((roles["model"] for step in nearest_first(chain) if "model" in (roles := parents_of(step))), {})
    return Training(str(made.get("digest") or (f"seed {seed}" if seed is not None else samples)))


def _origins(model: Record) -> Iterator[tuple[str, Origin]]:
    found: dict[str, dict[str, Record]] = {}
    for step in nearest_first(model):
        for entry in parents_of(step).values():
            made = entry.get("provenance", {})
            found.setdefault(str(made.get("command")).partition(" ")[0], {})[str(entry.get("digest"))] = made
    for command in LEVELS:
        if steps := found.get(command):
            seeds = sorted(
                canonical([made.get("seed"), made.get("options", {}).get("seed")]) for made in steps.values()
            )
            yield command, Origin(digest(sorted(steps)), canonical(seeds))
