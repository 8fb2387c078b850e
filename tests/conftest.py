"""Fixtures: every test goes through the real command, in a process of its own or in this one."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import settings
from PIL import Image

from dprune.cli import cli

if not os.path.exists("/dev/nvidiactl"):
    # Triton reads this when it is imported: without a GPU its kernels run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if find_spec("triton") and version("triton") < "3.8":
        # Older interpreters turn arrays of one element into numbers in a way that NumPy 2.5 refuses.
        from triton.runtime import interpreter

        _patched = interpreter._patch_lang_tensor

        def _patch_lang_tensor(tensor: type, scope: Any) -> None:
            _patched(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        interpreter._patch_lang_tensor = _patch_lang_tensor
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores already: more threads would only wait for each other, which burns what they wait for.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, however busy the machine; --hypothesis-profile=default tries others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

DATA = Path(__file__).parent / "data"
WARM = Path(__file__).parent / "warm.py"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8, which lacks the halves of characters that some tests log."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    def ok(self) -> Result:
        assert self.code == 0, self.err
        return self

    def fails(self, code: int, *words: str) -> Result:
        """The command ends with `code` and one sentence that holds all `words`, never with a traceback."""
        assert self.code == code, f"exit {self.code}: {self.err}"
        errors = [line for line in self.err.splitlines() if "error: " in line.lower()]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, self.err
        return self


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    array = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS", *array):
        monkeypatch.delenv(name, raising=False)


def dprune(*args: object, stdin: bytes = b"") -> Result:
    """Run a subcommand in this process."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin, prog_name="dprune")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout_bytes, result.stderr)


def dprune_process(*args: object, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    """Run a subcommand in a process of its own."""
    command = [warm_python(), "-m", "dprune", *(str(arg) for arg in args)]
    done = subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **(env or {})}, check=False)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def hearing(*command: str) -> list[str]:
    """A command that takes SIGINT, which a shell has all that it puts into the background ignore, these tests too."""
    hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-ISc", hears, *command]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Fail rather than hang; a command may import torch in that time."""

    def fail(number: int, frame: object) -> None:
        pytest.fail(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


_servers = contextlib.ExitStack()


@functools.cache
def warm_python() -> str:
    """An interpreter whose `-m dprune` is a process of its own that need not import torch: see warm.py."""
    folder = Path(tempfile.mkdtemp(prefix="dprune-"))
    _servers.callback(shutil.rmtree, folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        command = [sys.executable, str(WARM), "--serve", str(listener.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    _servers.enter_context(server)
    launcher = folder / "python"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{WARM}" "{folder / "socket"}" "$@"\n')
    launcher.chmod(0o755)
    return str(launcher)


def pytest_unconfigure() -> None:
    _servers.close()


def torchrun(*args: object, fresh: bool = False) -> Result:
    """Run a subcommand as two ranks on this machine, whatever its host's name resolves to.

    `fresh` starts torchrun and its ranks as a user would, and has each of the three import torch.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    python = sys.executable if fresh else warm_python()
    command = [python, *launch, "-m", "dprune", *(str(arg) for arg in args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHON_EXEC": python}
    done = subprocess.run(command, capture_output=True, env=env, check=False, timeout=300)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def image_bytes(seed: int, size: tuple[int, int] = (20, 16), suffix: str = "png") -> bytes:
    """A small random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix])
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A shard made by the standard library, as other tools would make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members(folder: Path) -> dict[str, bytes]:
    """Names and contents of all shards that dprune wrote to a folder, in order."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                assert (info.mtime, info.uid, info.uname) == (0, 0, "")
                assert info.name not in found
                found[info.name] = file.read()
    return found


def sample(key: str, seed: int, label: int | None = None, suffix: str = "png") -> list[tuple[str, bytes]]:
    """The members of one sample."""
    members = [(f"{key}.{suffix}", image_bytes(seed, suffix=suffix))]
    return members if label is None else [*members, (f"{key}.cls", str(label).encode())]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 7, 5 and 6 samples with labels 0 to 2."""
    folder, row = tmp_path / "shards", 0
    for number, count in enumerate((7, 5, 6)):
        members = [part for i in range(row, row + count) for part in sample(f"s{i:03d}", i, i % 3)]
        write_tar(folder / f"{number:06d}.tar", members)
        row += count
    return folder


def places_of(sheet: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners at which a sheet [h, w, 3] shows an image, pixel by pixel."""
    height, width, _ = image.shape
    corners = np.ones((sheet.shape[0] - height + 1, sheet.shape[1] - width + 1), dtype=bool)
    for y in (0, height // 2, height - 1):
        for x in (0, width // 2, width - 1):
            corners &= (sheet[y : y + corners.shape[0], x : x + corners.shape[1]] == image[y, x]).all(2)
    found = zip(*np.nonzero(corners), strict=True)
    return [(int(y), int(x)) for y, x in found if np.array_equal(sheet[y : y + height, x : x + width], image)]
