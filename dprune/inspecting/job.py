"""What `dprune info` tells: what files hold, where they come from, and whether they are sound."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dprune.errors import InputError, unreadable
from dprune.formats.kinds import ARRAY_FILES, TENSOR_FILES, kind_of
from dprune.formats.text_tables import is_text
from dprune.inspecting.findings import DIGITS, NONSENSE, Findings
from dprune.inspecting.inspect_files import (
    inspect_array,
    inspect_result,
    inspect_tensors,
    inspect_text,
    inspect_torch,
)
from dprune.inspecting.inspect_folders import inspect_folder
from dprune.inspecting.inspect_shards import Look, inspect_shards
from dprune.inspecting.rendering import plain_text, terminal_text
from dprune.models.weights import is_torch_file

TEXTS = (".txt", ".csv", ".tsv")
"""Suffixes of lists of keys and of tables."""


@dataclass(frozen=True)
class Inspection:
    """What was found, file by file in the order in which they were given."""

    findings: list[Findings]

    @property
    def problems(self) -> list[str]:
        """All that is wrong, a sentence each."""
        return [problem for findings in self.findings for problem in findings.problems]

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"files": [findings.as_json() for findings in self.findings]}

    def text(self, columns: int | None) -> str:
        """Return it for people.

        Args:
            columns: width of the terminal that shows it, None for plain text.
        """
        if columns is None:
            return "\n\n".join(map(plain_text, self.findings))
        return "\n".join(terminal_text(findings, columns) for findings in self.findings)


def open_info(sources: Sequence[str], look: Look | None = None) -> Inspection:
    """Inspect files one by one, then hold them together.

    Shards that follow each other are one dataset, as when the shell expanded a glob.

    Args:
        sources: files and folders of dprune, `-` for an array on stdin, or what `open_dataset` takes.
        look: how to look at shards, None for the default.

    Returns:
        What was found; whatever is wrong is among its problems.
    """
    found = [_inspect(group, look or Look()) for group in _grouped(sources)]
    _hold_fingerprints_together(found)
    _hold_counts_together(found)
    return Inspection(found)


def _grouped(sources: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for together, run in itertools.groupby(sources, _is_shard):
        members = list(run)
        groups += [members] if together else [[member] for member in members]
    return groups


def _is_shard(source: str) -> bool:
    return source.endswith(".tar") and not source.startswith("@") and not os.path.isdir(source)


def _inspect(sources: Sequence[str], look: Look) -> Findings:
    name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more shards"
    try:
        return _dispatch(name, sources, look)
    except InputError as error:
        return Findings(name, problems=[str(error)])
    except OSError as error:
        return Findings(name, problems=[str(unreadable(name, error))])
    except (*NONSENSE, SafetensorError) as error:
        return Findings(name, problems=[f"{name}: makes no sense ({type(error).__name__}: {error}): make it again."])


def _dispatch(name: str, sources: Sequence[str], look: Look) -> Findings:
    source, kind = sources[0], kind_of(sources[0])
    if len(sources) > 1 or kind == "missing":
        return inspect_shards(name, sources, look)
    if os.path.isdir(source):
        return inspect_folder(source, kind, look)
    if kind == "pipe" and not stat.S_ISFIFO(os.stat(source).st_mode):
        raise InputError(f"{source}: is neither a file nor a folder: name one that dprune made.")
    if kind in ("stdin", "pipe"):
        return inspect_array(source)
    with open(source, "rb") as file:
        if not file.read(1):
            raise InputError(f"{source}: is empty: make it again.")
    if kind in ("zip", "file") and is_torch_file(source):
        return inspect_torch(source)
    # Its name tells what it is meant to be where its bytes say nothing.
    kind = Path(source).suffix if kind in ("file", "zip", "png") else kind
    if kind in (*ARRAY_FILES, ".npy"):
        return inspect_array(source)
    if kind in ("tar", ".tar"):
        return inspect_shards(source, [source], look)
    if kind in ("keys", *TEXTS) and is_text(source):
        return inspect_text(source)
    if kind == "json":
        return inspect_result(source)
    if kind in (*TENSOR_FILES, ".safetensors"):
        return inspect_tensors(source)
    raise InputError(
        f"{source}: is not something that dprune makes: name shards, a store, .npy, .safetensors or .json."
    )


def _hold_fingerprints_together(found: Sequence[Findings]) -> None:
    """Note the files that share no dataset, their own or one they were made from, with the most others."""
    known = [findings for findings in found if findings.fingerprints()]
    families: list[list[Findings]] = []
    for findings in known:
        kin = [family for family in families if any(findings.fingerprints() & f.fingerprints() for f in family)]
        families = [family for family in families if family not in kin]
        families.append([f for family in kin for f in family] + [findings])
    if len(families) < 2:
        return
    main = max(families, key=lambda family: (len(family), -min(map(known.index, family))))
    first = min(main, key=known.index)
    for findings in (f for f in known if f not in main):
        findings.problems.append(
            f"{first.name} and {findings.name} come from different datasets (fingerprints {_shown(first)} and "
            f"{_shown(findings)}): make both from the same shards."
        )


def _shown(findings: Findings) -> str:
    return (findings.fingerprint or min(findings.fingerprints()))[:DIGITS]


def _hold_counts_together(found: Sequence[Findings]) -> None:
    """Hold the numbers of samples that files of one dataset speak of, and subsets' ids, to each other."""
    for findings in found:
        others = [o for o in found if o is not findings and o.samples is not None and _same_dataset(o, findings)]
        if not others or len({other.samples for other in others}) > 1:
            continue
        count, other = others[0].samples or 0, others[0].name
        if findings.ids:
            findings.content["share"] = findings.content["kept"] / max(count, 1)
            if findings.ids[1] >= count:
                findings.problems.append(
                    f"{findings.name}: holds the id {findings.ids[1]}, but {other} has {count:,} samples: select again."
                )
        elif findings.samples is not None and findings.samples != count and not findings.problems:
            findings.problems.append(
                f"{findings.name}: is of {findings.samples:,} samples, but {other} has {count:,}: make it again."
            )


def _same_dataset(other: Findings, findings: Findings) -> bool:
    """Tell whether both speak of one dataset; a subset without provenance may be of any."""
    if findings.kind in ("subset", "mask") and not findings.records:
        return True
    return other.fingerprint is not None and other.fingerprint == findings.fingerprint
