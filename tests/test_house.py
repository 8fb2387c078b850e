"""The structure of the package: which way imports run, and that a name stands for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import dprune

ROOT = Path(dprune.__file__).parent

# From the top down. A file imports nothing from a floor above its own, whether for types or when it runs.
WORK = frozenset(["packing", "embedding", "clustering", "scoring", "selecting", "training", "encoding", "sampling"]) | {
    "measuring",
    "reporting",
    "inspecting",
    "watching",
}
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"commands", "cli", "__main__"}),
    frozenset({"options", "console", "delivery", "shell"}),
    WORK,
    frozenset({"metrics", "models", "charts", "sheets", "flow", "decoding", "parts"}),
    frozenset({"formats"}),
    frozenset({"runtime", "workers", "memory", "precision", "collectives", "noise", "seeds", "namespace", "kernels"}),
    frozenset({"errors", "signals", "__init__"}),
)
# The talk of a command, and what every floor may say.
ABOVE = FLOORS[0] | FLOORS[1]
NO_JOB = {"__init__", "score", "help", "completion"}
"""Files of commands that open none: `score` has methods that do, and the last two speak of commands alone."""
PROTOCOLS = {"command"}
"""Names that stand in many places because one protocol is kept: the click command of each module of commands/."""


def module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.AST) -> set[str]:
    """All modules of dprune that a file imports anywhere in it, blocks for types and functions included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # A package itself is no file: what counts is the module that a name comes from.
    return {name for name in found if name in FILES and name != "dprune"}


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
IMPORTS = {name: imported(tree) - {name} for name, tree in TREES.items()}


def room(name: str) -> str:
    """The package or file below dprune/ that a module belongs to."""
    return name.split(".")[1] if "." in name else "__init__"


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Every arrow that lies on a circle."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            for target in arrows[waiting.pop()] - found:
                found.add(target)
                waiting.append(target)
        return found

    below = {name: reached(name) for name in arrows}
    return [f"{name} -> {target}" for name in arrows for target in arrows[name] if name in below[target]]


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in FILES} == set().union(*FLOORS)


def test_there_is_no_circle_of_files() -> None:
    assert circles(IMPORTS) == []


def test_there_is_no_circle_of_packages() -> None:
    """A command's work may use another's, never each other's."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, targets in IMPORTS.items():
        rooms[room(name)] |= {room(target) for target in targets} - {room(name)}
    assert circles({name: rooms[name] & WORK for name in WORK}) == []


def test_no_arrow_runs_up() -> None:
    up = [f"{name} -> {t}" for name, targets in IMPORTS.items() for t in targets if floor(t) < floor(name)]
    assert up == []


def test_circles_and_arrows_up_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b -> c", "c -> b"]
    lazy = ast.parse("def f():\n    from dprune.runtime import ranks\nif TYPE_CHECKING:\n    import dprune.seeds")
    assert imported(lazy) == {"dprune.runtime", "dprune.seeds"}
    assert floor("dprune.formats.tar") < floor("dprune.runtime")


def test_the_library_neither_talks_nor_knows_the_command_line() -> None:
    for name, tree in TREES.items():
        if room(name) in ABOVE:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & {"click"}, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] != "click", name
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", name


def test_a_public_name_stands_for_one_thing() -> None:
    """No two classes or functions of different packages share a name."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].add(name.rpartition(".")[0] if name.count(".") > 1 else name)
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1 and name not in PROTOCOLS} == {}


def test_every_command_opens_its_job_in_one_way() -> None:
    """Each subcommand and score method has one open_<command> in the library, and no other way in."""
    opened = {
        node.name
        for name, tree in TREES.items()
        if room(name) in WORK
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.FunctionDef)
    }
    methods = ("random", "cluster_distance", "k_center", "herding", "el2n", "grand", "monotonicity", "moso")
    commands = [path.stem for path in (ROOT / "commands").glob("*.py") if path.stem not in NO_JOB]
    assert {f"open_{name}" for name in (*commands, *methods)} <= opened
    assert "prepare" not in opened


def test_commands_name_each_option_once() -> None:
    """No command passes on what it does not know by name."""
    for path in (ROOT / "commands").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.args.kwarg is None, f"{path.name}: {node.name} takes **{node.args.kwarg.arg}"
