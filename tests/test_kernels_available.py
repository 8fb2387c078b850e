"""Whether Triton's kernels can run, where something that they take is missing."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from dprune.kernels import available


def test_a_cpu_runs_none() -> None:
    assert not available.triton_works(torch.device("cpu"))


def test_launchers_take_a_compiler_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    monkeypatch.setattr(available.shutil, "which", lambda name: "/usr/bin/clang" if name == "clang" else None)
    assert not available.builds_launchers()
    (tmp_path / "Python.h").touch()
    assert available.builds_launchers()
    monkeypatch.setattr(available.shutil, "which", lambda name: None)
    assert not available.builds_launchers()
