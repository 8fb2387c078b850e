"""The process's surroundings: ranks, stopping, progress and device.

torch is imported only by the functions that need it, so that every layer can import this module.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from dprune.errors import DpruneError, Interrupted, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many workers this process is.

    `group` is true under torchrun, whose workers share one terminal; others each have their own.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    group: bool = False


@dataclass(frozen=True)
class ArrayTask:
    """Which task of a SLURM array this process is: its number in the array, and how many tasks that has."""

    number: int
    count: int


_thread = threading.local()


@contextlib.contextmanager
def acting_as(here: Ranks) -> Iterator[None]:
    """Let this thread be one of several workers, whatever the environment says of the process."""
    _thread.ranks = here
    try:
        yield
    finally:
        del _thread.ranks


def ranks(environ: Mapping[str, str] = os.environ) -> Ranks:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, for which SLURM_LOCALID will do, unless the thread acts as another.

    Raises:
        UsageError: only one of RANK and WORLD_SIZE is set, they do not fit, or several tasks of one SLURM step
            run without them and would all do the same work.
    """
    if (here := getattr(_thread, "ranks", None)) is not None:
        return cast("Ranks", here)
    given = {name: value for name, value in environ.items() if value}
    if ("RANK" in given) != ("WORLD_SIZE" in given):
        raise UsageError("RANK and WORLD_SIZE go together: set both, or neither.")
    if "RANK" not in given:
        if given.get("SLURM_STEP_NUM_TASKS", "1") not in ("0", "1"):
            raise UsageError(
                "this SLURM step runs several tasks without RANK and WORLD_SIZE, so all would do the same work: "
                "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS inside the step."
            )
        return Ranks()
    try:
        rank, world = int(given["RANK"]), int(given["WORLD_SIZE"])
        local = int(given.get("LOCAL_RANK") or given.get("SLURM_LOCALID") or 0)
    except ValueError:
        raise UsageError("RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers.") from None
    if not 0 <= rank < world:
        raise UsageError(f"RANK={rank} is not below WORLD_SIZE={world}.")
    return Ranks(rank, world, local, group="TORCHELASTIC_RUN_ID" in environ)


def array_task(environ: Mapping[str, str] = os.environ) -> ArrayTask | None:
    """Read SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT; None where they are not set, or RANK goes before them.

    They say no more than where to begin: after `--array=3,5` the numbers are 3 and 5 and the count is 2, and each task
    of a parameter sweep has an output of its own. So a task is no rank, which would be sure that others do the rest.

    Raises:
        UsageError: they are no whole numbers.
    """
    given = {name: value for name, value in environ.items() if value}
    if getattr(_thread, "ranks", None) is not None or "RANK" in given or "SLURM_ARRAY_TASK_ID" not in given:
        return None
    try:
        task = ArrayTask(int(given["SLURM_ARRAY_TASK_ID"]), int(given.get("SLURM_ARRAY_TASK_COUNT", "1")))
    except ValueError:
        task = ArrayTask(-1, 0)
    if task.number < 0 or task.count < 1:
        raise UsageError("SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT must be whole numbers: unset both.")
    return task


class Ahead(Generic[T]):
    """What a thread works out while the process goes on; a process that ends does not wait for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._future: Future[T] = Future()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever asks gets it
            self._future.set_exception(error)

    def result(self) -> T:
        """Wait for the result; raises what the work raised."""
        return self._future.result()

    def wait(self) -> None:
        """Wait until the work has ended, one way or the other."""
        self._future.exception()


class Monitor(Protocol):
    """What long work reports to, and asks whether it should stop."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Begin a stage of `total` units (None when unknown)."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more units done."""

    def note(self, text: str) -> None:
        """Say what the work shows of itself by now, such as a loss; it stands until the next note or stage."""

    def stop_requested(self) -> bool:
        """Tell whether a signal or a deadline asks the work to end at the next safe point."""


class Silent:
    """A monitor that shows nothing and never asks to stop."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def stop_requested(self) -> bool:
        """Never."""
        return False


_current: list[Monitor] = [Silent()]


def work_for(monitor: Monitor) -> None:
    """Name the monitor of this process's work to what waits far below it, such as readers of remote files."""
    _current[0] = monitor


def current_monitor() -> Monitor:
    """Return the monitor that `work_for` named last."""
    return _current[0]


def check_stop(monitor: Monitor) -> None:
    """Raise `Interrupted` when the monitor asks to stop; to be called where all finished work is on disk."""
    if monitor.stop_requested():
        raise Interrupted("stopped; run the same command again to go on.")


def is_gpu(device: str) -> bool:
    """Tell whether `device` means a GPU, importing torch (three seconds) only where there might be one."""
    if device != "auto":
        return device.startswith("cuda")
    nodes = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
    if sys.platform == "linux" and not any(Path(node).exists() for node in nodes):
        return False
    import torch

    return torch.cuda.is_available()


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; each local rank gets a GPU of its own.

    Raises:
        UsageError: the device does not exist here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N.") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no usable GPU on this machine.")
    index: int | None = device.index
    if index is None:
        # Tasks of an array may each see one GPU of their own or all of a node's; the ranks of a group see all.
        index = local_rank if ranks().group else local_rank % torch.cuda.device_count()
    if index >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: GPU {index} does not exist, there are {torch.cuda.device_count()}.")
    return torch.device("cuda", index)


def take_device(name: str = "auto") -> torch.device:
    """Pick this worker's device, and have torch use it wherever no device is named.

    Raises:
        UsageError: the device does not exist here.
    """
    import torch

    device = pick_device(name, ranks().local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def process_group(device: torch.device | str) -> Iterator[Ranks]:
    """Join the process group that torchrun started, for work whose ranks exchange tensors; alone, do nothing.

    Args:
        device: this rank's device; tensors on a GPU travel by NCCL, those on the CPU by gloo.

    Yields:
        Which of how many ranks this process is.

    Raises:
        DpruneError: another rank ended, or never came.
    """
    here = ranks()
    if not here.group:
        yield here
        return
    import torch.distributed as dist

    try:
        with _stdout_on_stderr():
            dist.init_process_group("cpu:gloo,cuda:nccl" if is_gpu(str(device)) else "gloo")
        try:
            yield here
        finally:
            dist.destroy_process_group()
    except RuntimeError as error:
        # gloo has no kind of its own for this.
        if not isinstance(error, dist.DistError) and "by peer" not in str(error):
            raise
        raise DpruneError("another rank ended or cannot be reached: see what it says of itself.") from error


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    # gloo greets its peers on stdout in some releases of torch, and stdout is kept for data.
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def explained(device: torch.device | str, remedy: str) -> Iterator[None]:
    """Turn what torch or numpy raises for want of memory into a sentence.

    Args:
        device: that may be too small.
        remedy: what to give then, such as `a smaller --batch-size`.

    Raises:
        DpruneError: the device is out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        torch = sys.modules.get("torch")
        # On a CPU torch has no kind of its own for this.
        known = isinstance(error, MemoryError if torch is None else (torch.OutOfMemoryError, MemoryError))
        if not known and "allocate memory" not in str(error):
            raise
        raise DpruneError(f"{device}: out of memory: give {remedy}.") from error


def single_threads() -> ThreadPoolExecutor:
    """Return threads that each run torch alone.

    Sums inside an operation depend on how many threads share it; networks that see a piece of a batch in each of
    these give results that do not, so that torchrun, which allows each process one thread, gives the bytes of a
    single process. It is also no slower.
    """
    import torch

    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


def default_workers() -> int:
    """Return this process's share of the cores: torchrun starts several processes on one machine."""
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def cpu_count() -> int:
    """Cores that this process may use, which in a container or job is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
