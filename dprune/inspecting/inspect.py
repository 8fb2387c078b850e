"""What files hold, where they come from, and whether they are sound: the library behind `dprune info`."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from safetensors import SafetensorError

from dprune.errors import InputError
from dprune.inspecting.findings import DIGITS, Findings
from dprune.inspecting.inspect_files import inspect_array, inspect_result, inspect_tensors
from dprune.inspecting.inspect_folders import inspect_folder, inspect_shards

# What the readers raise on a manifest or header that is well-formed but says nonsense.
_NONSENSE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, MemoryError, RecursionError)


def inspect_all(sources: Sequence[str]) -> list[Findings]:
    """Inspect files one by one, then hold them together.

    Shards that follow each other are one dataset, as when the shell expanded a glob.

    Args:
        sources: files and folders of dprune, `-` for an array on stdin, or what `open_dataset` takes.

    Returns:
        Findings in the order of the sources; whatever is wrong is among their problems.
    """
    found = [_inspect(group) for group in _grouped(sources)]
    _hold_fingerprints_together(found)
    _hold_counts_together(found)
    return found


def _grouped(sources: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for source in sources:
        if groups and _is_shard(source) and _is_shard(groups[-1][-1]):
            groups[-1].append(source)
        else:
            groups.append([source])
    return groups


def _is_shard(source: str) -> bool:
    return source.endswith(".tar") and not source.startswith("@") and not os.path.isdir(source)


def _inspect(sources: Sequence[str]) -> Findings:
    name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more shards"
    try:
        return _dispatch(name, sources)
    except InputError as error:
        return Findings(name, problems=[str(error)])
    except OSError as error:
        return Findings(name, problems=[f"{name}: cannot be read: {(error.strerror or str(error)).lower()}."])
    except (*_NONSENSE, SafetensorError) as error:
        return Findings(name, problems=[f"{name}: says nonsense ({type(error).__name__}: {error}): make it again."])


def _dispatch(name: str, sources: Sequence[str]) -> Findings:
    source = sources[0]
    if len(sources) > 1 or not os.path.exists(source):
        return inspect_array(source) if source == "-" else inspect_shards(name, sources)
    if os.path.isdir(source):
        return inspect_folder(source)
    mode = os.stat(source).st_mode
    if stat.S_ISFIFO(mode):
        return inspect_array(source)
    if not stat.S_ISREG(mode):
        raise InputError(f"{source}: is neither a file nor a folder: name one that dprune made.")
    return _by_content(source)


def _by_content(path: str) -> Findings:
    """Tell a file by its first bytes; by its name only where these say nothing."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise InputError(f"{path}: is empty: make it again.")
    if head.startswith(b"\x93NUMPY") or path.endswith(".npy"):
        return inspect_array(path)
    if head[257:262] == b"ustar" or path.endswith(".tar"):
        return inspect_shards(path, [path])
    if head.lstrip().startswith(b"{"):
        return inspect_result(path)
    if head[8:9] == b"{" or path.endswith(".safetensors"):
        return inspect_tensors(path)
    raise InputError(f"{path}: is nothing that dprune makes: name shards, a store, .npy, .safetensors or .json.")


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
            f"{first.name} and {findings.name} speak of different datasets (fingerprints {_shown(first)} and "
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
                f"{findings.name}: speaks of {findings.samples:,} samples, but {other} has {count:,}: make it again."
            )


def _same_dataset(other: Findings, findings: Findings) -> bool:
    """Tell whether both speak of one dataset; a subset without provenance may be of any."""
    if findings.kind == "subset" and not findings.records:
        return True
    return other.fingerprint is not None and other.fingerprint == findings.fingerprint
