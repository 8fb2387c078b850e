"""What to do with a file that a command does not take: the commands that make of it what is wanted.

One table tells what each parameter takes, another what commands make of what. The way through the second one, from what
was given to what is wanted, is the remedy. It is looked for when a command has failed, and so refuses nothing itself.
"""

from __future__ import annotations

import os
import shlex
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dprune.formats.provenance import Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
LOOKED_AT = 1000
"""Entries of a folder, among which there is an image if it is one of images."""
MOST_NAMES = 4
"""Of results, in a message."""


class Leg(NamedTuple):
    """A command on the way.

    Attributes:
        takes: kind of what it reads.
        command: with a place for what it reads.
        makes: kind of what it writes.
        output: as the command calls it.
    """

    takes: str
    command: str
    makes: str
    output: str


LEGS = (
    Leg("images", "pack {}", "shards", "shards"),
    Leg("archive", "pack {}", "shards", "shards"),
    Leg("shards", "embed {}", "features", "features"),
    Leg("features", "cluster {}", "clusters", "clusters.safetensors"),
    Leg("clusters", "score cluster-distance {}", "scores", "scores.npy"),
    Leg("scores", "select {} --keep 25%", "subset", "keep.npy"),
    Leg("clusters", "select --clusters {} --repeat", "weights", "weights.npy"),
    Leg("shards", "train-vae {}", "vae", "vae"),
    Leg("shards", "encode {} --vae vae", "latents", "latents"),
    Leg("latents", "train-dit {}", "dit", "dit"),
    Leg("latents", "train-dit {} --save-every epoch", "run", "dit"),
    Leg("run", "sample {} --vae vae --seeds 0-9999", "generated", "generated"),
    Leg("pixel run", "sample {} --seeds 0-9999", "generated", "generated"),
    Leg("baseline", "sample {} --seeds 0-9999", "generated", "generated"),
    Leg("generated", "embed {}", "features", "features"),
    Leg("features", "eval {} REFERENCE", "result", "metrics.json"),
)
NAMES = {
    "images": "a folder of images",
    "sources": "images, shards or tables of images",
    "shards": "a folder of shards",
    "generated": "a folder of generated images",
    "features": "a feature store",
    "latents": "a latent store",
    "clusters": "a file of clusters",
    "sweep": "a sweep of clusterings",
    "scores": "scores",
    "subset": "a subset",
    "weights": "weights of samples",
    "target": "a subset or a latent store",
    "vae": "an autoencoder",
    "dit": "a DiT",
    "run": "the run of a DiT's training",
    "pixel run": "the run of a DiT's training on pixels",
    "baseline": "the run of a baseline's training",
    "result": "a result of dprune eval or memorization",
    "report": "a report",
    "array": "an array",
    "matrix": "a matrix",
    "archive": "an archive of images",
    "table": "a JSON file",
    "samples": "images, shards or their features",
    "population": "shards, a store, clusters or an array",
    "dataset": "shards or a store",
}
_KINDS = {"vector": "array", "zip": "archive", "tar": "shards", "json": "table"}
"""Of `kind_of`, where `NAMES` calls it otherwise."""
_ACCEPTED = {
    "sources": {"images", "shards", "generated", "table", "archive"},
    "shards": {"generated"},
    "features": {"array", "matrix"},
    "latents": set[str](),
    "clusters": {"archive"},
    "scores": {"array", "archive"},
    "subset": {"array", "archive"},
    "weights": {"array", "archive"},
    "target": {"subset", "latents", "array", "archive"},
    "vae": {"archive"},
    "dit": {"run", "pixel run", "baseline", "archive"},
    "run": {"pixel run", "archive"},
    "result": {"table", "archive"},
    "samples": {"images", "shards", "generated", "features", "matrix", "archive"},
    "population": {"shards", "generated", "features", "latents", "clusters", "array", "matrix", "table"},
    "dataset": {"shards", "generated", "features", "latents"},
}
"""What does for each kind that a parameter takes, besides itself."""
TAKES = {
    "sources": "sources",
    "shards": "shards",
    "features": "features",
    "store": "latents",
    "latents": "latents",
    "clusters": "clusters",
    "scores": "scores",
    "subset": "subset",
    "within": "subset",
    "without": "subset",
    "unions": "subset",
    "vae": "vae",
    "run": "run",
    "runs": "run",
    "results": "result",
    "generated": "samples",
    "reference": "samples",
    "train": "samples",
}
"""What a parameter takes, by its name."""
TAKES_OF = {
    "sample": {"model": "dit"},
    "score el2n": {"model": "dit"},
    "score grand": {"model": "dit"},
    "score influence": {"model": "dit", "target": "target"},
    "score random": {"sources": "population"},
    "select": {"shards": "dataset"},
    "info": {"shards": "dataset"},
    "report": {"train": "features", "generated": "features"},
    "train-dit": {"weights": "weights", "curriculum": "scores"},
}
"""The same of single commands, where it differs."""


class Given(NamedTuple):
    """A path that a command was given.

    Attributes:
        parameter: its name in `TAKES`.
        name: as help calls it.
        option: as it is typed, empty for an argument.
        path: what was given.
    """

    parameter: str
    name: str
    option: str
    path: str


def kind_called(path: str) -> str:
    """Tell what a path is by its key in `NAMES`; empty where no command takes or makes such."""
    from dprune.errors import InputError
    from dprune.formats.kinds import kind_of
    from dprune.formats.manifests import read_manifest

    try:
        kind = kind_of(path)
    except InputError:
        return ""
    if kind == "folder":
        return _of_folder(path)
    if kind == "run":
        return _of_run(read_manifest(path)["provenance"])
    # Of a damaged array its reader tells; arrays of numpy and weights of torch are archives, too.
    if kind == "array" or (kind == "zip" and not _holds_images(path)):
        return ""
    kind = _KINDS.get(kind, kind)
    return kind if kind in NAMES else ""


def next_step(problem: str, command: str, given: Iterable[Given]) -> str | None:
    """Say of a path that a command does not take what makes of it what is wanted.

    Args:
        problem: what the command says of it, the path first.
        command: subcommand with its method.
        given: all paths that it was given.

    Returns:
        A sentence, None where each path may be what is wanted.
    """
    takes: Mapping[str, str] = TAKES | TAKES_OF.get(command, {})
    for parameter, _, option, path in given:
        if not problem.removeprefix(f"{option} ").startswith(path):
            continue
        wanted, found = takes.get(parameter), kind_called(path)
        if wanted == "result" and (inside := _result_in(path)):
            return f"{path}: is a folder, and dprune {command} takes the files in it: give {inside}."
        if wanted is None or found in ("", wanted, *_ACCEPTED[wanted]):
            continue
        of = option or f"dprune {command}"
        return f"{path}: is {NAMES[found]}, and {of} takes {NAMES[wanted]}: {_remedy(path, found, wanted)}."
    return None


def _of_run(record: Record) -> str:
    from dprune.formats.latents import PIXELS
    from dprune.formats.provenance import parent
    from dprune.models.vae_files import made_by

    # After a word, the record of a baseline says which.
    command = str(record.get("command", "")).partition(" ")[0]
    if kind := {"train-vae": "vae", "train-baseline": "baseline"}.get(command):
        return kind
    # What makes pixels is sampled without an autoencoder.
    return "pixel run" if made_by(parent(record, "latents")) == PIXELS else "run"


def _of_folder(path: str) -> str:
    from dprune.formats.manifests import MANIFEST

    if any(Path(path).glob("*.tar")):
        return "shards"
    places = [path]
    for place in places:
        entries = _entries(place)
        below = [entry.path for entry in entries if entry.is_dir()]
        # Pictures beside runs and stores are what commands drew.
        if any(Path(folder, MANIFEST).exists() for folder in below):
            return ""
        if any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries):
            return "images"
        # Packages hold their images several folders deep, where dprune pack finds them.
        places += below[: LOOKED_AT - len(places)]
    return ""


def _holds_images(path: str) -> bool:
    from dprune.formats.regular import ZIP_ERRORS

    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(IMAGE_SUFFIXES) for name in archive.namelist())
    except ZIP_ERRORS:
        return False


def _result_in(folder: str) -> str:
    """Return patterns of results that lie in a folder that is not dprune's, empty where there are none."""
    from dprune.formats.manifests import MANIFEST

    for pattern in ("*.json", "*/*.json", "*/*/*.json") if kind_called(folder) in ("", "images") else ():
        found = {path.name for path in Path(folder).glob(pattern)}
        if names := sorted(found - {MANIFEST}):
            # A pattern for all of them would name the manifests of the stores beside them, too.
            told = names[:MOST_NAMES] if MANIFEST in found or len(names) == 1 else ["*.json"]
            return " ".join(str(Path(folder, pattern).with_name(name)) for name in told)
    return ""


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry, _ in zip(found, range(LOOKED_AT), strict=False)]
    except OSError:
        return []


def _remedy(path: str, found: str, wanted: str) -> str:
    if not (way := _way(found, wanted)):
        last = next((step for step in LEGS if step.makes == wanted), None)
        if last is None:
            return "give one of these"
        return f"dprune {last.command.format(last.takes.upper())} -o {last.output} makes one"
    source, commands = shlex.quote(path), []
    for step in way:
        commands.append(f"dprune {step.command.format(source)} -o {step.output}")
        source = step.output
    return f"run {', then '.join(commands)}, and give {source}"


def _way(found: str, wanted: str) -> list[Leg]:
    """Return the shortest way through `LEGS` to what will do, empty where there is none."""
    ways: list[tuple[str, list[Leg]]] = [(found, [])]
    for at, way in ways:
        if at in (wanted, *_ACCEPTED[wanted]):
            return way
        # Nobody trains a model to get images that another command takes.
        ways += [
            (step.makes, [*way, step]) for step in LEGS if step.takes == at and not (way and step.makes == "generated")
        ]
    return []
