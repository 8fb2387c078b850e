"""How the training set behind a result was chosen: by which method, and how much of the candidates it left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain as joined

from dprune.errors import InputError
from dprune.formats.provenance import FINDINGS_KEY, Record, generator_of, nearest_first, parent, parents_of
from dprune.reporting.study.factors import ASIDE, AXES, COMMAND, SOURCE, Factor, Factors, Path, flatten, text
from dprune.selecting.amount import Amount

UNPRUNED, EXTERNAL = "unpruned", "external"
EVERY = "all samples"
"""Method of what leaves no sample out, but draws them unlike each other."""
SUBSET: Path = ("subset",)
EXAMPLE = "as_many_as"
"""Role of a subset that says how much another keeps, and nothing else of it."""
_BOUNDS = ("keep", "cap", "quota")
_BY_VALUE = ("above", "below")
# What says of each group how many samples it gives: by chance, the set is no choice, but what others choose from.
COMPOSING = ("counts", "tail")
# What chooses among candidates says nothing where all of them are kept.
_IDLE_ROLES, _IDLE_OPTIONS = ("scores", "clusters", "groups"), (COMMAND, "order", *_BOUNDS, *_BY_VALUE)
_POOLS = ("within", "or")
# Roles that cannot speak of the training set: its candidates, its real baselines, and what the autoencoder is from.
_SILENT = (*ASIDE, *_POOLS, EXAMPLE, "without", "clusters", "groups", "features")
_LONGEST = 24


@dataclass(frozen=True)
class Subset:
    """How the training set was chosen.

    Attributes:
        method: what scored the samples, `unpruned`, or `external`.
        order: which scores were kept; empty where there is none.
        axis: how much was to be kept, as it was asked for.
        ratio: share of the candidates that was pruned, None where nothing tells.
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


def unpruned(*, given: bool) -> Subset:
    """Describe a training set that leaves no candidate out."""
    return Subset(UNPRUNED, "", "", Fraction(0), given)


def unevenly_drawn(*, given: bool) -> Subset:
    """Describe a training set that leaves no candidate out, but draws them unlike each other."""
    return Subset(EVERY, "", "", Fraction(0), given)


def training_set(name: str, record: Record, chain: Record | None, main: Record | None) -> Subset:
    """Tell how a training set was chosen; tags speak before all else.

    Args:
        name: what messages call the result.
        record: of the result, empty for images.
        chain: provenance of the generated samples.
        main: the training subset, as the provenance of an input.

    Raises:
        InputError: a tag says nonsense.
    """
    given, tags = main is not None, axis_tags(record, chain, main)
    found = Subset(EXTERNAL, "", "", None, given)
    if main is None and model_of(chain):
        found = unpruned(given=False)
    elif main is not None:
        counted = _counted_ratio(chain, main)
        found = Subset(EXTERNAL, "", "", counted, given)
        found = _selected(main["provenance"], counted) if "provenance" in main else found
    method, axis, ratio = found.method, found.axis, found.ratio
    if "keep" in tags:
        axis, ratio = tags["keep"], _tagged_ratio(name, tags["keep"], ratio)
        # Somebody pruned before dprune saw the samples.
        method = EXTERNAL if ratio and method == UNPRUNED else method
    method, order = tags.get("method", method), tags.get("order", found.order)
    if ratio == 0 or method == UNPRUNED:
        return unpruned(given=given)
    return Subset(method, "" if order == method else order, axis, ratio, given)


def selection_factors(main: Record | None, subset: Subset) -> Factors:
    """List what else sets the choice of a training set apart, beside method, order and amount."""
    if main is None:
        return {}
    if "provenance" not in main:
        # Where tags name the method, they speak for the subset.
        return {} if subset.method != EXTERNAL else {Factor(SUBSET, "", SOURCE): str(main.get("digest"))[:12]}
    # Where there are groups, that each gives the same share goes without saying.
    record = _written(main["provenance"])
    # All of a composed set is what is chosen within it.
    place = (*SUBSET, "within") if _composes(record) else SUBSET
    flat = _composed_alone(flatten(record, place).factors)
    found = {factor: value for factor, value in flat.items() if (factor.name, value) != ("quota", "proportional")}
    if place != SUBSET:
        return found
    step, path = _choosing_step(record)
    found = {f: v for f, v in found.items() if f.path[: len(path) + 1] != (*path, EXAMPLE)}
    found.pop(Factor(path, step["command"], "format"), None)
    if not subset.pruned:
        return {f: v for f, v in found.items() if not _is_idle(f, found, path)}
    named = {Factor(path, step["command"], "order"), Factor(path, step["command"], "keep"),
             Factor((*path, "scores"), "", COMMAND)}  # fmt: skip
    if _by_value(step):
        named |= {Factor(path, step["command"], name) for name in _BY_VALUE}
    elif "keep" not in _options(step):
        named |= {Factor(path, step["command"], name) for name in ("cap", *COMPOSING)}
    return {f: v for f, v in found.items() if f not in named}


def _composed_alone(factors: Factors) -> Factors:
    """Leave out of steps that composed a set what goes without saying beside how they did."""
    steps = {f.path: f.command for f in factors if f.name in COMPOSING}
    by_chance = [
        (path, command) for path, command in steps.items() if factors.get(Factor(path, command, "order")) == "random"
    ]
    said = {Factor(path, *rest) for path, command in by_chance for rest in (("", COMMAND), (command, "order"))}
    return {factor: value for factor, value in factors.items() if factor not in said}


def _written(record: Record) -> Record:
    """Return the choice itself where a subset is only the same in the ids, keys or uids of another file."""
    while not _chooses(record) and list(parents_of(record)) == ["within"] and (inner := parent(record, "within")):
        record = inner
    return record


def _is_idle(factor: Factor, found: Factors, path: Path) -> bool:
    if factor.path == path:
        return factor.name in _IDLE_OPTIONS
    grouped = any(other.path == path and other.name == "only" for other in found)
    return factor.path[: len(path)] == path and factor.path[len(path)] in _IDLE_ROLES and not grouped


def _selected(record: Record, counted: Fraction | None) -> Subset:
    """Describe a subset that `select` made.

    Args:
        record: of the subset.
        counted: share of its dataset that is not in it, None where that is not known.
    """
    step, _ = _choosing_step(record)
    options = _options(step)
    if not _chooses(step):
        return unpruned(given=True) if _is_composed(record) else Subset(EXTERNAL, "", "", counted, given=True)
    if _keeps_all(step):
        return unpruned(given=True)
    ratio = _ratio(record, step, counted)
    if _takes_groups(step):
        groups = text(options["only"])
        names = _names_of(step) or groups
        shown = names if len(names) <= _LONGEST else f"{groups.count(',') + 1} groups"
        return Subset(f"only {shown}", "", "only", ratio, given=True)
    order, axis = _by_value(step) or str(options.get("order", "")), _axis(step)
    if order == "random":
        return Subset(order, order, axis, ratio, given=True)
    if "scores" not in step.get("parents", {}):
        return Subset(EXTERNAL, "", axis, ratio, given=True)
    return Subset(score_name(parent(step, "scores")), order, axis, ratio, given=True)


def _axis(step: Record) -> str:
    """Return how much a selection was to keep: of another subset as much as that was to."""
    options, example = _options(step), parents_of(step).get(EXAMPLE)
    if bounds := _by_value(step):
        return bounds
    if example is not None:
        made = example.get("provenance")
        return _axis(_choosing_step(made)[0]) if made else f"as many as {example.get('digest')}"
    # How many the smallest group has follows from the clustering, and so from its seed.
    named = next((f"{name} {options[name]}" for name in ("cap", *COMPOSING) if name in options), None)
    return str(options.get("keep", named or options.get("quota", "")))


def _by_value(step: Record) -> str:
    """Return between which values a selection keeps all scores, empty where something else bounds it, or nothing."""
    options = _options(step)
    others = {"keep", "cap", *COMPOSING} & options.keys() or options.get("quota") == "equal"
    if others or EXAMPLE in step.get("parents", {}):
        return ""
    return " and ".join(f"{name} {text(options[name])}" for name in _BY_VALUE if name in options)


def _is_bounded(step: Record) -> bool:
    """Tell whether the values of scores leave samples out, besides whatever else does."""
    return any(name in _options(step) for name in _BY_VALUE)


def score_name(record: Record) -> str:
    """Return the method that scores are by, as its command calls it."""
    method = str(record.get("command", EXTERNAL)).removeprefix("score ")
    # Standard errors are scores, too.
    values = _options(record).get("values")
    return f"{method} {text(values)}" if values else method


def _ratio(record: Record, step: Record, counted: Fraction | None) -> Fraction | None:
    """Return the share of the candidates that a choice left out, as it was asked for where that is a share."""
    asked, found = _share(_options(step).get("keep")), _left_out(step)
    if step is not record:
        # What came after the choice changed how many there are.
        return counted if counted is not None or asked is None else 1 - asked
    united = any(role.startswith("or") for role in step.get("parents", {}))
    if asked is not None and not united and "cap" not in _options(step) and not _is_bounded(step):
        return 1 - asked
    known = found if found is not None else counted
    return known if known is not None or asked is None else 1 - asked


def _choosing_step(record: Record) -> tuple[Record, Path]:
    """Find the selection that chooses, below those that only intersect or unite, and the path to it.

    One that keeps all its candidates is taken where none leaves any out.
    """
    waiting, idle = deque([(record, SUBSET)]), None
    while waiting:
        step, path = waiting.popleft()
        if not _chooses(step):
            waiting += [
                (entry["provenance"], (*path, role))
                for role, entry in parents_of(step).items()
                if role.startswith(_POOLS) and "provenance" in entry
            ]
        elif not _keeps_all(step):
            return step, path
        else:
            idle = idle or (step, path)
    return idle or (record, SUBSET)


def _names_of(step: Record) -> str:
    """Return what the groups are called that a selection took, empty where it does not say so of all of them."""
    names, groups = step.get(FINDINGS_KEY, {}).get("only"), _options(step).get("only")
    # Findings are held to no shape.
    if not isinstance(names, list) or not isinstance(groups, list) or len(names) != len(groups):
        return ""
    return ", ".join(map(str, names))


def _chooses(step: Record) -> bool:
    """Tell whether a selection does more than intersect or unite subsets, or compose a set by chance."""
    parents = step.get("parents", {})
    chooses = "scores" in parents or EXAMPLE in parents or any(name in _options(step) for name in _BOUNDS)
    return chooses and not _composes(step)


def _composes(step: Record) -> bool:
    """Tell whether a selection says of each group how many samples it gives, which are drawn by chance."""
    options = _options(step)
    return any(name in options for name in COMPOSING) and options.get("order") == "random"


def _is_composed(record: Record) -> bool:
    """Tell whether a subset was composed, or is what intersections and unions made of such a set."""
    if _composes(record):
        return True
    pools = (entry.get("provenance") for role, entry in parents_of(record).items() if role.startswith(_POOLS))
    return any(_is_composed(made) for made in pools if made and not _chooses(record))


def _takes_groups(step: Record) -> bool:
    """Tell whether all that a selection does is to take some groups whole."""
    options = _options(step)
    others = {"keep", "cap", *_BY_VALUE} & options.keys()
    return "only" in options and not others and options.get("quota") != "equal"


def _keeps_all(step: Record) -> bool:
    """Tell whether a selection keeps all its candidates: what was none of these is not pruned."""
    if (found := _left_out(step)) is not None:
        return found == 0
    options = _options(step)
    if _is_bounded(step):
        return False
    if "keep" in options:
        return _share(options["keep"]) == 1 and "cap" not in options
    if EXAMPLE in step.get("parents", {}) or any(name in options for name in COMPOSING):
        return False
    return "cap" not in options and options.get("quota") != "equal" and not _takes_groups(step)


def _left_out(step: Record) -> Fraction | None:
    """Return the share of its candidates that a selection found to leave out, None where it does not say."""
    findings = step.get(FINDINGS_KEY, {})
    of = "every_group" if _takes_groups(step) else "scored" if _is_bounded(step) else "candidates"
    whole, kept = findings.get(of), findings.get("kept")
    if not (isinstance(whole, int) and isinstance(kept, int) and 0 <= kept <= whole and whole):
        return None
    return 1 - Fraction(kept, whole)


def _options(step: Record) -> Record:
    found: Record = step.get("options", {})
    return found


def _share(keep: object) -> Fraction | None:
    """Read an amount that is a share; counts, also those from the end (`all but 500`), are none."""
    try:
        value = Amount.parse(str(keep)).value
    except ValueError:
        return None
    return value if isinstance(value, Fraction) else None


def _tagged_ratio(name: str, keep: str, counted: Fraction | None) -> Fraction | None:
    try:
        value = Amount.parse(keep).value
    except ValueError as error:
        raise InputError(f"{name}: its tag keep={keep} says no amount: {error}") from error
    # As a count it would be one sample, which nobody trains on.
    return 1 - Fraction(value) if isinstance(value, Fraction) or value == 1 else counted


def _counted_ratio(chain: Record | None, main: Record) -> Fraction | None:
    """Return the share of the latents that the training left out, where the subset was given to the training."""
    step = model_of(chain)
    samples, total = (_options(step).get(name) for name in ("samples", "of"))
    if not (isinstance(samples, int) and isinstance(total, int) and 0 < samples <= total):
        return None
    own = step.get("parents", {}).get("subset", {}).get("digest") == main.get("digest")
    return 1 - Fraction(samples, total) if own else None


def model_of(chain: Record | None) -> Record:
    """Return the record of the training of the model behind samples, empty where none is known."""
    return generator_of(chain) or {}


def axis_tags(record: Record, chain: Record | None, main: Record | None) -> dict[str, str]:
    """Return the tags that name method, order, amount and seed, the nearest to the result first."""
    found: dict[str, str] = {}
    for step in joined([record], nearest_first(chain, _SILENT), _choices(main)):
        found |= {
            name: str(value) for name, value in step.get("tags", {}).items() if name in AXES and name not in found
        }
    return found


def _choices(main: Record | None) -> Iterator[Record]:
    """Yield the records that lead to a choice below intersections and unions."""
    if main is not None and "provenance" in main:
        step, _ = _choosing_step(main["provenance"])
        yield from nearest_first(step, _SILENT)
