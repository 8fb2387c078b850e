"""Which training generated samples come from, and what else was drawn anew before it: seeds are nested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dprune.formats.provenance import GENERATOR, Record, canonical, digest, nearest_first, parents_of, record_digest
from dprune.reporting.training_sets import model_of

LEVELS = {
    "train-vae": ("autoencoder", "autoencoders"),
    "cluster": ("clustering", "clusterings"),
    GENERATOR: ("surrogate training", "surrogate trainings"),
    "score": ("scoring", "scorings"),
    "select": ("selection", "selections"),
}
"""Commands before a training that draw at random, the earliest first, and what they make: one, and several."""


@dataclass(frozen=True)
class Origin:
    """What one command made for a training.

    Attributes:
        mark: digest of the records, equal for trainings that share what was made.
        seeds: those of the records alone.
    """

    mark: str
    seeds: str


@dataclass(frozen=True)
class Training:
    """The training behind generated samples.

    Attributes:
        mark: digest of the model's record; of the model, of the seed that a tag says, or of the samples where nothing
            better is known. Results of equal marks are of one training.
        origins: what was made before, by the command's name in `LEVELS`.
    """

    mark: str
    origins: tuple[tuple[str, Origin], ...] = ()


def drawn_anew(trainings: Sequence[Training]) -> dict[str, int]:
    """Count what was made before trainings, of all that differs in its own seeds, by the command's name."""
    found = {}
    for command in LEVELS:
        made = [dict(training.origins).get(command) for training in trainings]
        known = [origin for origin in made if origin]
        if len(known) == len(made) and len({origin.seeds for origin in known}) > 1:
            found[command] = len({origin.mark for origin in known})
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
        return Training(record_digest(model), tuple(_origins(model)))
    # A model that was made elsewhere has no record, but may have been sampled twice.
    made = next((roles["model"] for step in nearest_first(chain) if "model" in (roles := parents_of(step))), {})
    return Training(str(made.get("digest") or (f"seed {seed}" if seed is not None else samples)))


def _origins(model: Record) -> Iterator[tuple[str, Origin]]:
    found: dict[str, list[Record]] = {}
    for step in nearest_first(model):
        if step is not model:
            found.setdefault(step["command"].partition(" ")[0], []).append(step)
    for command in LEVELS:
        if steps := found.get(command):
            seeds = sorted(canonical([step.get("seed"), step.get("options", {}).get("seed")]) for step in steps)
            yield command, Origin(digest(sorted(map(record_digest, steps))), canonical(seeds))
