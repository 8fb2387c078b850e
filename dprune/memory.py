"""How much memory is free: what this machine, container or job still gives."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNLIMITED = 1 << 60


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; of the machine's, this process's share of what its ranks share."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_host_memory(root: Path = Path("/")) -> int:
    """Return the bytes that the system and the limits of this process's groups leave, caches and swap included.

    Args:
        root: where /proc and /sys are.
    """
    try:
        found = _table((root / "proc/meminfo").read_text(encoding="ascii"), 1024)
    except OSError:
        # Not Linux.
        return sys.maxsize
    free = min(found.get("MemAvailable", sys.maxsize), *_left_by_groups(root), sys.maxsize)
    return free + found.get("SwapFree", 0)


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yield what each limit on this process's control groups, of either version, leaves."""
    for folder, limit, usage in _groups(root):
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            used = int((folder / usage).read_text(encoding="ascii"))
            files = _table((folder / "memory.stat").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if most.isdigit() and int(most) < UNLIMITED:
            # The system drops what it has cached of files before it kills anyone.
            cached = sum(files.get(f"total_{name}", files.get(name, 0)) for name in ("inactive_file", "active_file"))
            yield max(0, int(most) - used + cached)


def _groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder of each control group that may limit memory, and the names of its limit and its usage."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # A container may see its own group as the root, under whatever path.
        folder = base / path.lstrip("/")
        yield from ((group, *names) for group in (folder, *folder.parents) if group.is_relative_to(base))


def _table(text: str, unit: int = 1) -> dict[str, int]:
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdigit()}
