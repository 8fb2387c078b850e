"""Names of lines: as short as tells the lines of a report apart, the same wherever a line is shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dprune.formats.provenance import is_generator
from dprune.reporting.study.epochs import steps_text
from dprune.reporting.study.experiments import NAMED, Point
from dprune.reporting.study.factors import ANY, COMMAND, EPOCHS, SOURCE, Factor, Factors
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.training_sets import COMPOSING, EXTERNAL, SUBSET
from dprune.reporting.study.views import View, grouped, line_key
from dprune.reporting.study.wording import choice_name, choice_text, is_model, is_of_drawing, phrase

_Group = tuple[Mapping[Hashable, Factors], Sequence[Factors]]

_QUOTA = Factor(SUBSET, "select", "quota")
_GROUPS = ("clusters", "groups")
# Steps behind a choice of which it says enough that there was another.
_IDLE = ("within", "subset", "groups")
_OF_MODEL = (COMMAND, "arch", "steps", "batch_size")
USUAL = "Usually"
HEADINGS = ("What is kept", "Chosen", "Model", "Differs in", USUAL)
"""What `Name.about` says, in its order: the last is what holds of each line of which the others say nothing else."""


@dataclass(frozen=True)
class Name:
    """What a line is called.

    Attributes:
        label: its short name.
        family: the same without the order.
        about: all that the name leaves out, by the headings of `HEADINGS`.
    """

    label: str
    family: str
    about: tuple[tuple[str, str], ...]


class Names:
    """Names of all lines of a report.

    A factor is told where lines of one view differ in it, and then in every view, so that a line has one name.
    """

    def __init__(self, kinds: Iterable[Sequence[View]], given: Mapping[Hashable, str] | None = None) -> None:
        """Name every line.

        Args:
            kinds: views of each kind of results.
            given: labels by the keys of lines, in place of those that would be made.
        """
        every = [view for kind in kinds for view in kind]
        experiments = _Saying([(_tables(view.lines, view.experiment), []) for view in every])
        selections = _by_method(every)
        first = {line_key(points[0]): (view, points[0]) for view in reversed(every) for points in view.lines}
        of_line: dict[Hashable, list[Point]] = defaultdict(list)
        for point in (point for view in every for point in view.points):
            of_line[line_key(point)].append(point)
        self._names: dict[Hashable, Name] = {}
        for key, (view, point) in first.items():
            made = view.experiment(point)
            self._names[key] = _name(point, made, selections[_head(point)], experiments, _model(made, of_line[key]))
        self._names |= _numbered(self._names, every)
        for key, label in (given or {}).items():
            known = self._names[key]
            self._names[key] = Name(label, known.family, known.about)

    def of(self, point: Point) -> Name:
        """Return the name of the line that a point is of."""
        return self._names[line_key(point)]


class _Saying:
    """Says what sets tables apart that stand in several groups, by what differs inside any of them."""

    def __init__(self, groups: Sequence[_Group], also: Collection[Factor] = ()) -> None:
        """Find what there is to say.

        Args:
            groups: tables by the keys of their lines, which are to be told apart inside each group, and from others
                beside, which get no name.
            also: factors that are to be told, too.
        """
        # A line stands once in each view.
        tables = [*{key: table for own, _ in groups for key, table in own.items()}.values()]
        beside = [table for _, others in groups for table in others]
        self._all = Labeller([*tables, *beside])
        labellers = [Labeller([*own.values(), *others]) for own, others in groups]
        self._needed = sorted({factor for labeller in labellers for factor in labeller.needed}.union(also))
        differing = sorted({factor for labeller in labellers for factor in labeller.differing}.union(also))
        kind = next((factor for factor in differing if is_model(factor)), None)
        self._differing = [f for f in differing if kind is None or not _follows(f, kind, tables)]
        self._usual = {f: _usual(f, tables, beside) for f in self._needed if f not in also}
        self._most = {f: value for f in self._differing if (value := _most_common(table.get(f) for table in tables))}

    def shortly(self, table: Factors) -> str:
        """Say as little as tells a table apart: what most have goes without saying."""
        told = [factor for factor in self._needed if table.get(factor) != self._usual.get(factor, ANY)]
        # Only groups have quotas.
        quotas = _QUOTA in told and _QUOTA in table
        return self._all.name(table, [factor for factor in told if not (quotas and _is_grouping(factor))])

    def wholly(self, table: Factors, *, usual: bool = True) -> str:
        """Say everything in which it differs from any, without `usual` only what most others do not say, too."""
        told = [f for f in self._differing if usual or f not in self._most or table.get(f) != self._most[f]]
        return self._all.name(table, told)

    def usually(self) -> str:
        """Say what most tables have of that in which any differ."""
        return self._all.name({f: v for f, v in self._most.items() if not _is_of_model(f)}, self._differing)


def _usual(factor: Factor, tables: Sequence[Factors], beside: Sequence[Factors]) -> str:
    """Return the value that more than half of the tables have, where all have one; unknown if there is none."""
    values = [value for table in tables if (value := table.get(factor)) != ANY]
    if None in values or len({*values} | {table.get(factor) for table in beside} - {ANY}) > len({*values}):
        return ANY
    return _most_common(values)


def _most_common(values: Iterable[str | None]) -> str:
    """Return what more than half are, unknown where that is nothing."""
    known = [value for value in values if value != ANY]
    return next((str(v) for v, n in Counter(known).most_common(1) if v is not None and 2 * n > len(known)), ANY)


def _follows(factor: Factor, kind: Factor, tables: Sequence[Factors]) -> bool:
    """Tell whether a factor is of the making of models, and the same for all of one kind."""
    is_of_sampling = len(factor.path) < len(kind.path) and factor.path == kind.path[: len(factor.path)]
    if factor == kind or is_of_sampling:
        return False
    return len({(table.get(kind), table.get(factor)) for table in tables}) == len({table.get(kind) for table in tables})


def _by_method(every: Sequence[View]) -> dict[str, _Saying]:
    """Tell the choices of each method apart, and from those of the unpruned."""
    groups: dict[str, list[_Group]] = defaultdict(list)
    quotas = set()
    for view in every:
        firsts = [points[0] for points in view.lines]
        unpruned = [point for point in firsts if not point.subset.pruned]
        for some in grouped(view.lines, lambda points: _head(points[0])):
            first = some[0][0]
            beside = [_of_groups(first, point) for point in unpruned if first.subset.pruned]
            groups[_head(first)].append((_tables(some, _selection), beside))
        quotas |= {_quota(point) for point in firsts if point.subset.pruned}
    # Of two methods, too, equal quotas are another choice than quotas in proportion.
    also = (_QUOTA,) if len(quotas - {""}) > 1 else ()
    return {method: _Saying(tables, also) for method, tables in groups.items()}


def _head(point: Point) -> str:
    """Return the method of a choice, or what a baseline is named after."""
    return point.selection.get(NAMED) or point.subset.method


def _tables(lines: Iterable[Sequence[Point]], kind: Callable[[Point], Factors]) -> dict[Hashable, Factors]:
    return {line_key(points[0]): kind(points[0]) for points in lines}


def _selection(point: Point) -> Factors:
    """Return what sets a choice apart, beside what a baseline is called."""
    return {f: v for f, v in point.selection.items() if f != NAMED}


def _of_groups(point: Point, unpruned: Point) -> Factors:
    """Return how a subset was chosen, but of the groups of an unpruned one, and drawn as that is.

    One of fewer groups, or drawn otherwise, is not what it seems to be.
    """
    only = {f: v for f, v in unpruned.selection.items() if f.name == "only"}
    return {f: v for f, v in _selection(point).items() if f.name != "only" and not is_of_drawing(f)} | only


def _is_grouping(factor: Factor) -> bool:
    """Tell whether a factor says in the groups of what a subset was chosen."""
    return len(factor.path) == 2 and factor.path[1] in _GROUPS and factor.name in (COMMAND, SOURCE)


def _quota(point: Point) -> str:
    """Return how much each group gives, empty where a subset was chosen among all samples."""
    return point.selection.get(_QUOTA, "proportional") if _group_roles(point) else ""


def _group_roles(point: Point) -> list[str]:
    """Return in the groups of which inputs a subset was chosen, `clusters` or `groups` or both."""
    roles = {factor.path[1] for factor in point.selection if _is_grouping(factor)}
    return [role for role in _GROUPS if role in roles]


def _name(point: Point, experiment: Factors, choosing: _Saying, making: _Saying, model: str) -> Name:
    subset, named = point.subset, point.selection.get(NAMED)
    extras = [choosing.shortly(point.selection), making.shortly(experiment)]
    head = f"baseline: {named}" if named else choice_name(subset.method, subset.order)
    label = ", ".join(filter(None, (head, *extras)))
    family = ", ".join(filter(None, (subset.method, *extras)))
    chosen = choosing.wholly({f: v for f, v in point.selection.items() if not _is_of_choice(f, point)})
    made = making.wholly({f: v for f, v in experiment.items() if not _is_of_model(f)}, usual=False)
    said = (_kept(point), _chosen(point), model, ", ".join(filter(None, (chosen, made))), making.usually())
    return Name(label, family, tuple(zip(HEADINGS, said, strict=True)))


def _kept(point: Point) -> str:
    subset = point.subset
    if NAMED in point.selection:
        return "the baseline, which counts as unpruned"
    if not subset.pruned:
        composed = [phrase(factor, value) for factor, value in point.selection.items() if factor.name in COMPOSING]
        return f"all samples of a set with {', '.join(composed)}" if composed else "all samples"
    if subset.method == EXTERNAL:
        return "a subset made elsewhere" if not subset.order else f"the {subset.order} of scores made elsewhere"
    return choice_text(subset.method, subset.order)


def _chosen(point: Point) -> str:
    """Say among which samples a subset was chosen."""
    if not point.subset.pruned or not point.selection:
        return ""
    roles = _group_roles(point)
    count = next((v for f, v in point.selection.items() if f.path == (*SUBSET, "clusters") and f.name == "k"), "")
    each = " and ".join(role.removesuffix("s") for role in roles)
    inside = f"inside each of {count} clusters" if count and len(roles) == 1 else f"inside each {each}"
    parts = [f"{inside}, {_quota(point)} quotas" if roles else "among all samples"]
    own = {f: v for f, v in point.selection.items() if f.path == SUBSET and f.name in ("cap", "only")}
    return ", ".join([*parts, *(phrase(factor, value) for factor, value in own.items())])


def _model(experiment: Factors, points: Sequence[Point]) -> str:
    """Say which model was trained, and how long: of equal epochs, which steps these were, the largest subset first."""
    said = {f.name: phrase(f, v) for f, v in experiment.items() if _is_of_model(f) and v != ANY}
    if epochs := next((value for factor, value in experiment.items() if factor.name == EPOCHS and value != ANY), ""):
        said["steps"] = f"{steps_text(points)} training steps ({epochs} epochs each)"
    # Of a DiT its architecture says enough.
    if "arch" in said:
        said.pop(COMMAND, None)
    return ", ".join(said[name] for name in _OF_MODEL if name in said)


def _is_of_choice(factor: Factor, point: Point) -> bool:
    """Tell whether `_chosen` says it, or that candidates had groups, or, of what leaves none out, were there at all."""
    if factor.name == COMMAND and (factor.path[2:] and factor.path[-1] in _IDLE):
        return True
    if factor.name == COMMAND and not point.subset.pruned and factor.path[1:] == ("within",):
        return True
    if factor.path == SUBSET:
        return factor.name in ("quota", "cap", "only")
    return _is_grouping(factor) or (factor.path == (*SUBSET, "clusters") and factor.name == "k")


def _is_of_model(factor: Factor) -> bool:
    """Tell whether `_model` says it."""
    if is_model(factor):
        return True
    return is_generator(factor.command) and factor.path[-1:] == ("model",) and factor.name in (*_OF_MODEL, EPOCHS)


def _numbered(names: Mapping[Hashable, Name], every: Sequence[View]) -> dict[Hashable, Name]:
    """Number the lines of a view whose labels would be the same: what sets them apart has no name."""
    clashes: set[str] = set()
    for view in every:
        labels = [names[line_key(points[0])].label for points in view.lines]
        clashes |= {label for label in labels if labels.count(label) > 1}
    found = {}
    for label in clashes:
        alike = sorted((key for key, name in names.items() if name.label == label), key=_sortable)
        for number, key in enumerate(alike, 1):
            name = names[key]
            found[key] = Name(f"{label} ({number})", f"{name.family} ({number})", name.about)
    return found


def _sortable(key: Hashable) -> str:
    assert isinstance(key, tuple)
    return repr([sorted(part) if isinstance(part, frozenset) else part for part in key])
