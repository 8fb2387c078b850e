"""Results as points of a study: which method chose the training set, how much of it was pruned, and all else."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from dprune.errors import InputError
from dprune.formats.provenance import (
    GENERATOR,
    Record,
    digest,
    nearest_first,
    parent,
    parents_of,
    record_digest,
    training_subset,
)
from dprune.formats.results import Result
from dprune.reporting.factors import (
    ANY,
    ASIDE,
    AXES,
    COMMAND,
    IMAGES,
    OWN,
    SOURCE,
    Chain,
    Factor,
    Factors,
    Path,
    flatten,
)
from dprune.selecting.amount import Amount

UNPRUNED, EXTERNAL = "unpruned", "external"
SUBSET: Path = ("subset",)
GENERATED = "generated"
# Options that choose metrics, and inputs that only some metrics take: results that differ in whether they have them
# are comparable.
_CHOOSING = ("metrics", "fid_infinity")
_ADDING = ("clusters", "logits", "held_out")
# What chooses among candidates says nothing where all of them are kept.
_IDLE_ROLES, _IDLE_OPTIONS = ("scores", "clusters", "groups"), (COMMAND, "order", "quota", "keep")


@dataclass(frozen=True)
class Subset:
    """How the training set was chosen.

    Attributes:
        method: what scored the samples, `unpruned`, or `external`.
        order: which scores were kept; empty where there is none.
        axis: how much was to be kept, as it was asked for.
        ratio: share that was pruned, None where nothing tells.
        given: whether the model's chain names a subset at all.
    """

    method: str
    order: str
    axis: str
    ratio: Fraction | None
    given: bool

    @property
    def pruned(self) -> bool:
        """Whether anything is known to have been pruned."""
        return self.method != UNPRUNED


@dataclass(frozen=True)
class Point:
    """One result, or one folder of generated images.

    Attributes:
        subset: how the training set was chosen.
        samples: digest of the generated samples; results of the same samples are one.
        experiment: factors of how the samples were made.
        selection: factors of how the subset was chosen, beside method, order and amount.
        measure: factors of how the result was measured.
        optional: factors that only some metrics have.
        own: paths at which the training subset stands in for another input.
        result: what was measured; None for images.
        mark: digest of the content.
        training: steps, batch size and samples of the model's training, None where nothing tells.
    """

    subset: Subset
    samples: str
    experiment: Factors
    selection: Factors
    measure: Factors
    optional: Factors
    own: frozenset[Path]
    result: Result | None
    mark: str
    training: tuple[int, int, int] | None


def result_digest(result: Result) -> str:
    """Return a digest of what a result says, whatever file it is in."""
    return digest([result.kind, result.metrics, result.details, result.inputs, record_digest(result.record)])


def point_of_result(result: Result) -> Point:
    """Place a result.

    Raises:
        InputError: a tag says nonsense, or the result does not say what was generated.
    """
    generated = parents_of(result.record).get(GENERATED)
    if generated is None:
        raise InputError(f"{result.name}: does not say what was generated: measure it again with this dprune.")
    chain = generated.get("provenance")
    main = training_subset(chain)
    subset = _subset(result.name, result.record, chain, main)
    own = _digest(main)
    beside = {role: entry for role, entry in result.record["parents"].items() if role != GENERATED}
    measured = {**result.record, "parents": beside}
    # Two references are never taken for one, whatever tags say.
    measuring = flatten(measured, own=own, tags_speak=False)
    made = _made(chain, main, subset, tagged=bool(result.record.get("tags")), source=generated.get("digest", ""))
    said = {f: v for f, v in measuring.factors.items() if f.path == () and f.name.startswith("tag ")}
    # How images became features is part of the measurement.
    features = {f: v for f, v in made.factors.items() if f.path == (GENERATED,) and f.command == "embed"}
    stated = {f: v for f, v in measuring.factors.items() if f.name not in _CHOOSING and f not in said}
    # Memorization always takes the training subset for one side.
    measure = stated | features | ({} if result.kind == "memorization" else _own(measuring.own))
    optional = {f: v for f, v in measure.items() if _is_optional(result.kind, f)}
    return Point(
        subset=subset,
        samples=str(generated.get("digest", "")),
        experiment={f: v for f, v in made.factors.items() if f not in features} | said,
        selection=_selection(main, subset),
        measure={f: v for f, v in measure.items() if f not in optional},
        optional=optional,
        own=frozenset(made.own),
        result=result,
        mark=result_digest(result),
        training=_training(chain),
    )


def point_of_images(name: str, record: Record, mark: str) -> Point:
    """Place a folder of generated images by its manifest."""
    main = training_subset(record)
    subset = _subset(name, {}, record, main)
    made = _made(record, main, subset, tagged=False, source=mark)
    # How many there are changes none of them.
    experiment = {f: v for f, v in made.factors.items() if (f.command, f.name) != ("sample", IMAGES)}
    return Point(
        subset, mark, experiment, _selection(main, subset), {}, {}, frozenset(made.own), None, mark, _training(record)
    )


def _digest(main: Record | None) -> str | None:
    return str(main["digest"]) if main and "digest" in main else None


def _made(chain: Record | None, main: Record | None, subset: Subset, *, tagged: bool, source: str) -> Chain:
    """Flatten how samples were made, the choice of the training set aside."""
    if chain is None:
        return Chain({Factor((GENERATED,), "", SOURCE): ANY if tagged else source[:12]})
    flat = flatten(chain, (GENERATED,), own=_digest(main), aside=subset.pruned, quiet=tagged)
    # The subset of the training itself is no factor; that of the autoencoder is.
    own = {path for path in flat.own if any(role in ASIDE for role in path)}
    return Chain(flat.factors | _own(own), own)


def _own(paths: set[Path]) -> Factors:
    """Note where the training subset was taken for an input."""
    return {Factor(path, "", OWN): "yes" for path in paths}


def _is_optional(kind: str, factor: Factor) -> bool:
    if factor.path and factor.path[0] in _ADDING:
        return True
    return kind == "metrics" and factor.path == () and factor.command != ""


def _selection(main: Record | None, subset: Subset) -> Factors:
    if main is None:
        return {}
    if "provenance" not in main:
        # Where tags name the method, they speak for the subset.
        return {} if subset.method != EXTERNAL else {Factor(SUBSET, "", SOURCE): str(_digest(main))[:12]}
    found = flatten(main["provenance"], SUBSET).factors
    step, path = _choosing_step(main["provenance"])
    named = {Factor(path, step["command"], "order"), Factor(path, step["command"], "keep"),
             Factor((*path, "scores"), "", "command")}  # fmt: skip
    if "keep" not in step.get("options", {}):
        named.add(Factor(path, step["command"], "cap"))
    if not subset.pruned:
        return {f: v for f, v in found.items() if not _is_idle(f, found)}
    return {f: v for f, v in found.items() if f not in named}


def _is_idle(factor: Factor, found: Factors) -> bool:
    if factor.name in _IDLE_OPTIONS and factor.path == SUBSET:
        return True
    grouped = any(other.name == "only" and other.path == SUBSET for other in found)
    return len(factor.path) > 1 and factor.path[1] in _IDLE_ROLES and not grouped


def _subset(name: str, record: Record, chain: Record | None, main: Record | None) -> Subset:
    tags = _axis_tags(record, chain)
    method, order, axis, ratio = EXTERNAL, "", "", None
    if main is None and _model(chain):
        method, ratio = UNPRUNED, Fraction(0)
    elif main is not None:
        ratio = _counted_ratio(chain, main)
        if "provenance" in main:
            method, order, axis, ratio = _selected(main["provenance"], ratio)
    if "keep" in tags:
        axis = tags["keep"]
        ratio = _ratio(_amount(name, axis), ratio)
    method, order = tags.get("method", method), tags.get("order", order)
    if ratio == 0 or method == UNPRUNED:
        return Subset(UNPRUNED, "", "", Fraction(0), main is not None)
    return Subset(method, "" if order == method else order, axis, ratio, main is not None)


def _selected(record: Record, counted: Fraction | None) -> tuple[str, str, str, Fraction | None]:
    """Return method, order, amount and ratio of a subset that `select` made."""
    step, _ = _choosing_step(record)
    options = step.get("options", {})
    order = str(options.get("order", ""))
    if order == "random" or "scores" not in step.get("parents", {}):
        method = order or EXTERNAL
    else:
        method = str(parent(step, "scores").get("command", EXTERNAL)).removeprefix("score ")
    keep = options.get("keep")
    # How many the smallest group has follows from the clustering, and so from its seed.
    axis = str(keep if keep is not None else f"cap {options['cap']}" if "cap" in options else options.get("quota", ""))
    united = any(role.startswith("or") for role in step.get("parents", {}))
    alone = step is record and "cap" not in options and not united
    if keep is None:
        return method, order, axis, counted
    try:
        ratio = _ratio(Amount.parse(str(keep)), counted)
    except ValueError:
        # A count from the end, such as "all but 500".
        ratio = counted
    return method, order, axis, ratio if alone or counted is None else counted


def _choosing_step(record: Record) -> tuple[Record, Path]:
    """Find the selection that ranks, below those that only intersect or unite, and the path to it."""
    waiting = deque([(record, SUBSET)])
    while waiting:
        step, path = waiting.popleft()
        options = step.get("options", {})
        if "scores" in step.get("parents", {}) or "keep" in options or "cap" in options or "quota" in options:
            return step, path
        waiting += [
            (entry["provenance"], (*path, role))
            for role, entry in parents_of(step).items()
            if role.startswith(("within", "or")) and "provenance" in entry
        ]
    return record, SUBSET


def _ratio(amount: Amount, counted: Fraction | None) -> Fraction | None:
    return 1 - amount.value if isinstance(amount.value, Fraction) else counted


def _amount(name: str, keep: str) -> Amount:
    try:
        return Amount.parse(keep)
    except ValueError as error:
        raise InputError(f"{name}: its tag keep={keep} says no amount: {error}") from error


def _counted_ratio(chain: Record | None, main: Record) -> Fraction | None:
    """Return the share of the latents that the training left out, where the subset was given to the training."""
    step = _model(chain)
    samples, total = (step.get("options", {}).get(name) for name in ("samples", "of"))
    known = isinstance(samples, int) and isinstance(total, int) and 0 < samples <= total
    own = step.get("parents", {}).get("subset", {}).get("digest") == _digest(main)
    return 1 - Fraction(samples, total) if known and own else None


def _model(chain: Record | None) -> Record:
    """Return the record of the training of the model behind samples, empty where none is known."""
    return next((step for step in nearest_first(chain) if step.get("command") == GENERATOR), {})


def _training(chain: Record | None) -> tuple[int, int, int] | None:
    """Return steps, batch size and samples of the model's training."""
    found = [_model(chain).get("options", {}).get(name) for name in ("steps", "batch_size", "samples")]
    return (found[0], found[1], found[2]) if all(isinstance(value, int) for value in found) else None


def _axis_tags(record: Record, chain: Record | None) -> dict[str, str]:
    """Return the tags that name method, order, amount and seed, the nearest to the result first."""
    found: dict[str, str] = {}
    # What can speak of the training set: not its yardsticks, nor the autoencoder's.
    for step in (record, *nearest_first(chain, besides=(*ASIDE, "without", "clusters", "groups", "features"))):
        found |= {
            name: str(value) for name, value in step.get("tags", {}).items() if name in AXES and name not in found
        }
    return found
