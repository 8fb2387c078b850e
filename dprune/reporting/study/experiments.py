"""Results as points of a study: which method chose the training set, how much of it was pruned, and all else."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

from dprune.errors import InputError
from dprune.formats.provenance import DRAWING, Record, generator_of, parents_of, training_subset
from dprune.formats.results import Result, result_digest
from dprune.reporting.study.factors import (
    ANY,
    ASIDE,
    COUNT,
    GENERATED,
    IMAGES,
    OWN,
    SOURCE,
    Chain,
    Factor,
    Factors,
    Path,
    flatten,
)
from dprune.reporting.study.training_sets import (
    EXTERNAL,
    SUBSET,
    Subset,
    axis_tags,
    model_of,
    selection_factors,
    training_set,
    unevenly_drawn,
    unpruned,
)
from dprune.reporting.study.trainings import Training, training_of
from dprune.reporting.study.wording import choice_name, is_of_drawing

Choice = Hashable
"""How a training set was chosen: equal for all results whose models differ in seeds or options of training alone."""

AGAINST, UNKNOWN = "against", "unknown"
LOSSES, MODEL = "losses", (GENERATED, "model")
"""Role of losses that were measured, and what stands for the path to a model that generated nothing."""
NAMED = Factor(SUBSET, "", "baseline")
"""What the selection of a training set holds that counts as unpruned since the user says so."""
_OTHERS = ("reference", "train", "held_out")
# What changes no number of others: the training set is that of the model, whether somebody names it or not.
_NO_MEASURE = (GENERATED, AGAINST, "trained_on")
# Options that change no number that a result has without them, and inputs that only some metrics take: results that
# differ in whether they have them are comparable.
_CHOOSING = ("metrics", "fid_infinity", "jackknife")
_ADDING = ("clusters", "logits", "held_out")
# Share of unusable samples up to which what was asked for counts: a bias that goes as 1/N moves by no more than that.
_FEW = 0.01


@dataclass(frozen=True)
class Point:
    """One result, or one folder of generated images.

    Attributes:
        subset: how the training set was chosen.
        choice: the same in one value, also where it is named as the baseline.
        samples: digest of the generated samples; results of the same samples are one.
        experiment: factors of how the samples were made.
        selection: factors of how the subset was chosen, beside method, order and amount.
        measure: factors of how the result was measured.
        open_measure: the same with the training subset as any other: what is all that there is to the unpruned is a
            set of its own to the pruned.
        optional: factors that only some metrics have.
        own: paths at which the training subset stands in for another input.
        result: what was measured; None for images.
        mark: digest of the content.
        training: which the samples are of; results of one differ in the sampling alone.
        passes: steps, batch size and samples of the model's training, None where nothing tells.
    """

    subset: Subset
    choice: Choice
    samples: str
    experiment: Factors
    selection: Factors
    measure: Factors
    open_measure: Factors
    optional: Factors
    own: frozenset[Path]
    result: Result | None
    mark: str
    training: Training
    passes: tuple[int, int, int] | None


def point_of_result(result: Result, baselines: Collection[Choice] = ()) -> Point:
    """Place a result; training sets that were chosen as `baselines` say are unpruned.

    Raises:
        InputError: a tag says nonsense, or the result does not say what was generated.
    """
    generated = parents_of(result.record).get(GENERATED)
    if generated is None:
        raise InputError(f"{result.name}: does not say what was generated: measure it again with this dprune.")
    chain = generated.get("provenance")
    main = training_subset(chain)
    samples = _samples(generated)
    known = training_set(result.name, result.record, chain, main)
    told = _told(chain, main, known, tagged=bool(result.record.get("tags")))
    subset, selection, choice = _chosen(known, main, samples, baselines, told)
    own = _digest(main)
    beside = {role: entry for role, entry in result.record["parents"].items() if role not in _NO_MEASURE}
    measured = {**result.record, "parents": beside}
    # Two references are never taken for one, whatever tags say.
    measuring = flatten(measured, own=own, tags_speak=False)
    made = _made(chain, main, subset, tagged=bool(result.record.get("tags")), source=samples)
    said = {f: v for f, v in measuring.factors.items() if f.path == () and f.name.startswith("tag ")}
    # How images became features is part of the measurement.
    features = {f: v for f, v in made.factors.items() if f.path == (GENERATED,) and f.command == "embed"}
    # Memorization always takes the training subset for one side.
    owned = {} if result.kind == "memorization" else _own(measuring.own)
    measure, opened = (
        {f: v for f, v in factors.items() if f.name not in _CHOOSING and f not in said} | features | counts
        for factors, counts in (
            (measuring.factors | owned, _counts_beside(result, measuring.own)),
            (flatten(measured, tags_speak=False).factors, _counts_beside(result, set())),
        )
    )
    optional = {f: v for f, v in measure.items() if _is_optional(result.kind, f)}
    return Point(
        subset=subset,
        choice=choice,
        samples=samples,
        experiment={f: v for f, v in _counted(made.factors, result).items() if f not in {*features, *told}} | said,
        selection=selection,
        measure={f: v for f, v in measure.items() if f not in optional},
        open_measure={f: v for f, v in opened.items() if not _is_optional(result.kind, f)},
        optional=optional,
        own=frozenset(made.own),
        result=result,
        mark=result_digest(result),
        training=training_of(chain, samples, axis_tags(result.record, chain, main).get("seed")),
        passes=_passes(chain),
    )


def point_of_losses(result: Result, baselines: Collection[Choice] = ()) -> Point:
    """Place a result that is of the losses of samples by their model; nothing was generated.

    Raises:
        InputError: a tag says nonsense.
    """
    chain = parents_of(result.record)[LOSSES].get("provenance")
    main, mark = training_subset(chain), result_digest(result)
    known = training_set(result.name, result.record, chain, main)
    network, tagged = generator_of(chain), bool(result.record.get("tags"))
    told = _told(network, main, known, tagged=tagged, role=MODEL)
    subset, selection, choice = _chosen(known, main, mark, baselines, told)
    made = _made(network, main, subset, tagged=tagged, source=mark, role=MODEL)
    # Which samples were scored follows from the training set.
    scored = flatten({**chain, "parents": {}}, (GENERATED,)).factors if chain else {}
    return Point(
        subset=subset,
        choice=choice,
        samples=mark,
        experiment={f: v for f, v in made.factors.items() if f not in told} | scored,
        selection=selection,
        measure={},
        open_measure={},
        optional={},
        own=frozenset(made.own),
        result=result,
        mark=mark,
        training=training_of(chain, mark, axis_tags(result.record, chain, main).get("seed")),
        passes=_passes(chain),
    )


def point_of_images(name: str, record: Record, mark: str, baselines: Collection[Choice] = ()) -> Point:
    """Place a folder of generated images by its manifest; see `point_of_result`."""
    main = training_subset(record)
    known = training_set(name, {}, record, main)
    told = _told(record, main, known, tagged=False)
    subset, selection, choice = _chosen(known, main, mark, baselines, told)
    made = _made(record, main, subset, tagged=False, source=mark)
    return Point(
        subset=subset,
        choice=choice,
        samples=mark,
        # How many there are changes none of them.
        experiment={
            f: v for f, v in made.factors.items() if (f.command, f.name) != ("sample", IMAGES) and f not in told
        },
        selection=selection,
        measure={},
        open_measure={},
        optional={},
        own=frozenset(made.own),
        result=None,
        mark=mark,
        training=training_of(record, mark, axis_tags({}, record, main).get("seed")),
        passes=_passes(record),
    )


def _samples(generated: Record) -> str:
    """Return the digest of generated samples, also where it is statistics of them that were measured."""
    behind = parents_of(generated.get("provenance")).get("features")
    return str((behind or generated).get("digest", ""))


def _chosen(
    subset: Subset, main: Record | None, samples: str, baselines: Collection[Choice], told: Factors
) -> tuple[Subset, Factors, Choice]:
    """Return a training set as it counts, what else sets its choice apart, and the choice itself.

    What its samples are drawn by is of the choice: all of them, drawn unlike each other, are held to the unpruned.
    """
    selection = selection_factors(main, subset) | told
    subset = unevenly_drawn(given=subset.given) if told and not subset.pruned else subset
    # Of what is not known to have been trained at all, nothing but the samples themselves tells.
    known = subset.given or subset.method != EXTERNAL
    name = f"{subset.method} {subset.order}".strip(), subset.axis or subset.ratio
    choice = *name, frozenset(selection.items()), "" if known else samples
    if choice not in baselines or not subset.pruned:
        return subset, selection, choice
    named = unpruned(given=subset.given)
    # What provenance says to be unpruned is another training set.
    ratio = None if subset.ratio is None else f"pruned {float(subset.ratio):.3g}"
    said = {NAMED: ", ".join(filter(None, (choice_name(subset.method, subset.order), ratio)))}
    return named, selection_factors(main, named) | told | said, choice


def _told(
    chain: Record | None, main: Record | None, subset: Subset, *, tagged: bool, role: Path = (GENERATED,)
) -> Factors:
    """List what the training was told of its samples: how often, at which noise and when each is drawn."""
    flat = flatten(chain, role, own=_digest(main), aside=subset.pruned, quiet=tagged)
    every = flat.factors | _own(flat.own)
    return {factor: value for factor, value in every.items() if is_of_drawing(factor)}


def _digest(main: Record | None) -> str | None:
    return str(main["digest"]) if main and "digest" in main else None


def _made(
    chain: Record | None,
    main: Record | None,
    subset: Subset,
    *,
    tagged: bool,
    source: str,
    role: Path = (GENERATED,),
) -> Chain:
    """Flatten how samples were made, or what else has a `role`, the choice of the training set aside."""
    if chain is None:
        return Chain({Factor(role, "", SOURCE): ANY if tagged else source[:12]})
    flat = flatten(chain, role, own=_digest(main), aside=subset.pruned, quiet=tagged)
    # The subset of the training itself is no factor; that of the autoencoder is.
    own = {path for path in flat.own if any(role in ASIDE and role not in DRAWING for role in path)}
    return Chain(flat.factors | _own(own), own)


def _own(paths: set[Path]) -> Factors:
    """Note where the training subset was taken for an input."""
    return {Factor(path, "", OWN): "yes" for path in paths}


def _asked_counts(result: Result) -> dict[str, str]:
    """Return how many samples each side was to have; where more than a few were dropped, how many there are."""
    return {side["role"]: _asked(side.get("count"), side.get("dropped", 0)) for side in result.inputs}


def _asked(count: int | None, dropped: int) -> str:
    if count is None:
        return UNKNOWN
    return str(count + dropped if dropped <= _FEW * (count + dropped) else count)


def _counted(made: Factors, result: Result) -> Factors:
    """Put the number of generated samples in the place of how many images were asked for."""
    count = _asked_counts(result).get(GENERATED, UNKNOWN)
    asked = next((f for f in made if f.path[:-1] == (GENERATED,) and (f.command, f.name) == ("sample", IMAGES)), None)
    if count == UNKNOWN and asked:
        count = made[asked]
    return {f: v for f, v in made.items() if f != asked} | {Factor((GENERATED,), "", COUNT): count}


def _counts_beside(result: Result, own: set[Path]) -> Factors:
    """Return the numbers of samples of the other sides; that of a side which the training subset makes is no choice."""
    subset_of = "train" if result.kind == "memorization" else "reference"
    chosen = {subset_of if path == SUBSET else path[0] for path in own}
    counts = _asked_counts(result)
    return {Factor((r,), "", COUNT): ANY if r in chosen else counts[r] for r in _OTHERS if r in counts}


def _is_optional(kind: str, factor: Factor) -> bool:
    if factor.path and factor.path[0] in _ADDING:
        return True
    return kind == "metrics" and factor.path == () and factor.command != ""


def _passes(chain: Record | None) -> tuple[int, int, int] | None:
    """Return steps, batch size and samples of the model's training."""
    found = [model_of(chain).get("options", {}).get(name) for name in ("steps", "batch_size", "samples")]
    return (found[0], found[1], found[2]) if all(isinstance(value, int) for value in found) else None
