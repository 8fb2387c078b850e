"""Seeds that belong to samples, ranks, and the stop flag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Result, hearing, wait_until

from dprune import console
from dprune.console import TerminalMonitor
from dprune.errors import Interrupted, UsageError
from dprune.formats.readable import clock, speed
from dprune.runtime import (
    ArrayTask,
    Ranks,
    Silent,
    acting_as,
    array_task,
    check_stop,
    cpu_count,
    default_workers,
    pick_device,
    ranks,
)
from dprune.seeds import generator, hash_ids, purpose_key, uniform_ids
from dprune.signals import STOPS

IDS = np.arange(1_000_000)


def test_hashes_of_a_million_ids_are_all_different() -> None:
    hashes = np.sort(hash_ids(0, "ties", IDS))
    assert hashes.dtype == np.uint64
    assert (hashes[1:] != hashes[:-1]).all()


def test_every_bit_of_a_hash_is_a_coin() -> None:
    hashes = hash_ids(3, "ties", IDS[:100_000])
    shares = [((hashes >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
    # Five deviations of a fair coin over 100,000 tosses.
    assert max(abs(share - 0.5) for share in shares) < 0.008


def test_uniforms_are_uniform() -> None:
    uniforms = uniform_ids(0, "score random", IDS)
    assert uniforms.dtype == np.float32
    assert 0 <= uniforms.min() < uniforms.max() < 1
    counts = np.histogram(uniforms, bins=256, range=(0, 1))[0]
    expected = len(IDS) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 255 degrees of freedom have a deviation of 22.6.
    assert abs(chi_square - 255) < 5 * 22.6


@pytest.mark.parametrize("other", [(1, "ties"), (0, "noise"), (-0, "ties ")])
def test_seeds_and_purposes_are_unrelated(other: tuple[int, str]) -> None:
    ids = IDS[:100_000]
    one, two = uniform_ids(0, "ties", ids), uniform_ids(*other, ids)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.016
    assert abs(np.corrcoef(one[1:], two[:-1])[0, 1]) < 0.016


def test_neighbouring_ids_are_unrelated() -> None:
    uniforms = uniform_ids(0, "ties", IDS[:100_000])
    for lag in (1, 2, 256):
        assert abs(np.corrcoef(uniforms[lag:], uniforms[:-lag])[0, 1]) < 0.016


def test_a_hash_depends_on_the_id_alone() -> None:
    every = hash_ids(5, "ties", IDS[:100])
    np.testing.assert_array_equal(hash_ids(5, "ties", np.array([[7], [99]])), every[[[7], [99]]])
    assert len(hash_ids(5, "ties", np.array([], dtype=np.int64))) == 0


def test_hashes_stay_what_they_are() -> None:
    # A change would break ties otherwise than in subsets that people have published.
    assert purpose_key(0, "ties") == int.from_bytes(bytes.fromhex(DIGEST)[:8], "little")
    ids = np.array([0, 1, 2**40 + 3])
    expected = [0x781DD51B61D3A071, 0xC8C4B4A44940D3D4, 0xBB8A7F4F69EA8235]
    assert hash_ids(0, "ties", ids).tolist() == expected
    assert (uniform_ids(0, "ties", ids) * 2**24).tolist() == [value >> 40 for value in expected]
    assert generator(0, "init").integers(0, 2**32, 3).tolist() == [2004482497, 1111145670, 1385170805]


DIGEST = "73c9d7e26eb6c01a2ce30af2336a5dea4a20f4ad5f95a48ca494e99b91b7b492"


def test_hashes_are_those_of_their_definition() -> None:
    """Steele, Lea and Flood's finalizer in whole numbers, which is what SplitMix64's first output pins."""
    below = 2**64

    def finalize(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % below
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % below
        return bits ^ bits >> 31

    step = 0x9E3779B97F4A7C15
    assert finalize(step) == 0xE220A8397B1DCDAF
    ids = [0, 1, 7, 999_999, 2**62]
    expected = [finalize(finalize((i + 1) * step % below) ^ purpose_key(3, "ties")) for i in ids]
    assert hash_ids(3, "ties", np.array(ids)).tolist() == expected


def test_alone_there_is_one_rank() -> None:
    assert ranks({}) == Ranks(0, 1, 0, False)


def test_ranks_of_an_array_job_and_of_torchrun() -> None:
    assert ranks({"RANK": "3", "WORLD_SIZE": "8"}) == Ranks(3, 8, 0, False)
    group = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}
    assert ranks(group) == Ranks(3, 8, 1, True)
    assert ranks({"RANK": "0", "WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"}).world == 2


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "0"}, "go together"),
        ({"WORLD_SIZE": "2"}, "go together"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "whole numbers"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "go together"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "whole numbers"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, r"export RANK=\$SLURM_PROCID"),
    ],
)
def test_ranks_that_contradict_themselves(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ranks(environ)


def test_a_task_of_an_array_is_no_rank() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"}
    assert ranks(array) == Ranks()
    assert array_task(array) == ArrayTask(5, 2)
    assert array_task({"SLURM_ARRAY_TASK_ID": "5"}) == ArrayTask(5, 1)
    assert array_task({"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_ID": ""}) is None
    assert array_task({**array, "RANK": "1", "WORLD_SIZE": "4"}) is None
    with acting_as(Ranks(1, 4)):
        assert array_task(array) is None


@pytest.mark.parametrize("wrong", [{"ID": "x"}, {"ID": "-1"}, {"COUNT": "0"}, {"COUNT": "1.5"}])
def test_an_array_that_cannot_be(wrong: dict[str, str]) -> None:
    given = {"ID": "1", "COUNT": "2", **wrong}
    with pytest.raises(UsageError, match="must be whole numbers: unset both"):
        array_task({f"SLURM_ARRAY_TASK_{name}": value for name, value in given.items()})


def test_a_command_with_half_a_rank_is_a_usage_error() -> None:
    env = {**os.environ, "RANK": "0"}
    env.pop("WORLD_SIZE", None)
    command = [sys.executable, "-m", "dprune", "info", "missing"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "dprune: error: RANK and WORLD_SIZE go together: set both, or neither.\n"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("group", [True, False])
def test_of_a_group_rank_0_talks_and_tasks_of_an_array_all_do(
    rank: int, group: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"RANK": str(rank), "WORLD_SIZE": "2"} | ({"TORCHELASTIC_RUN_ID": "x"} if group else {})
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    console.set_verbosity(0)
    console.say("said")
    console.emit("data")
    console.fail("broken")
    out, err = capsys.readouterr()
    talks = rank == 0 or not group
    assert (out == "data\n") == ("said" in err) == talks
    assert "error: broken" in err, "each rank may have a reason of its own"


def test_devices_that_do_not_exist() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match=f"--device {name}"):
            pick_device(name)


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert str(pick_device("cuda")) == "cuda:0"
    assert str(pick_device("auto", 3)) == "cuda:3"
    assert str(pick_device("cuda:2", 3)) == "cuda:2"
    # A task of an array that sees a node's four GPUs, and a rank of a group, which would share one with another.
    assert str(pick_device("cuda", 6)) == "cuda:2"
    for name, value in {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "6", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="GPU 6 does not exist, there are 4"):
        pick_device("cuda", 6)


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dprune.runtime.cpu_count", lambda: 7)
    for processes, workers in (("1", 7), ("2", 3), ("8", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert default_workers() == workers
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert default_workers() == 7


def test_there_is_a_core() -> None:
    assert cpu_count() >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_ask_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with TerminalMonitor() as monitor:
        check_stop(monitor)
        os.kill(os.getpid(), number)
        assert monitor.stop_requested()
        with pytest.raises(Interrupted, match="run the same command again") as caught:
            check_stop(monitor)
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) == before


def test_the_first_ctrl_c_asks_to_stop_and_the_second_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("dprune.signals.leave", left.append)
    monkeypatch.setattr("dprune.signals.taken", lambda: [*STOPS, signal.SIGINT])

    def job(monitor: TerminalMonitor) -> None:
        with monitor:
            os.kill(os.getpid(), signal.SIGINT)
            assert monitor.stop_requested()
            assert not left
            os.kill(os.getpid(), signal.SIGINT)
            assert left == [signal.SIGINT]
            check_stop(monitor)

    with pytest.raises(Interrupted) as caught:
        job(TerminalMonitor())
    assert caught.value.exit_code == 130
    with pytest.raises(KeyboardInterrupt):
        job(TerminalMonitor(resumes=False))


SLOW_IMPORT = """
import os, pathlib, time
pathlib.Path(os.environ["READY"]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)])
def test_signals_while_it_imports(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "click.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    env = {**os.environ, "READY": str(tmp_path / "ready"), "PYTHONPATH": path}
    process = subprocess.Popen([*hearing(sys.executable), "-m", "dprune"], env=env, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    Result(process.returncode, b"", err).fails(code)


def test_more_of_ctrl_c_to_the_very_end(tmp_path: Path) -> None:
    """Up to the moment in which the interpreter is gone."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32))
    command = [*hearing(sys.executable), "-m", "dprune", "cluster", "x.npy", "-o", "c.safetensors", "-v", "-k", "50"]
    command += ["--init", "random", "--iterations", "10000000", "--tolerance", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            if "iteration 2:" in line:
                process.send_signal(signal.SIGINT)
            said += line
            if "error: " in line:
                break
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        said += process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "stopped" in said


def test_deadlines_ask_to_stop() -> None:
    with TerminalMonitor(0.0) as monitor:
        assert monitor.stop_requested()
    with TerminalMonitor(1000.0) as monitor:
        assert not monitor.stop_requested()
    check_stop(Silent())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as the first and only entry; lines of progress come every five of them."""
    seconds = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 5)
    console.set_verbosity(0)
    return seconds


@pytest.mark.parametrize(
    ("total", "done", "seconds", "line"),
    [
        (30_000, 25, 100, "26 of 30,000 images, 4 s/image, 33 h left"),
        (1_000, 15, 10, "16 of 1,000 images, 1.5 images/s, 00:10:56 left"),
        (1_000_000, 250_000, 100, "250,001 of 1,000,000 images, 2,500 images/s, 00:04:59 left"),
        (None, 126, 10, "127 images, 13 images/s"),
        (None, 1, 300, "2 images, 300 s/image"),
    ],
)
def test_lines_of_progress(
    total: int | None, done: int, seconds: int, line: str, now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = TerminalMonitor()
    monitor.start("sample", total, "images")
    now[0] = 4
    monitor.advance()
    now[0] += seconds
    monitor.advance(done)
    assert capsys.readouterr().err == f"dprune: sample: {line}\n"


def test_bars_of_progress_say_the_same(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with TerminalMonitor() as monitor:
        monitor.start("sample", 30_000, "images")
        for done in (1, 25):
            monitor.advance(done)
            now[0] += 100
        monitor.note("loss 0.5")
        bar = monitor._bar
        assert bar is not None
        shown = [str(column.render(bar.tasks[0])) for column in bar.columns if not isinstance(column, str)]
    assert "4 s/image, 33 h left, loss 0.5" in shown


def test_slow_work_is_told_by_the_unit_and_expected_once_it_is_measured(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = TerminalMonitor()
    monitor.start("training", 1000, "steps")
    for seconds in (90, 32, 32):
        now[0] += seconds
        monitor.advance()
        monitor.note("loss 0.412")
    monitor.start("sampling", None, "images")
    for seconds in (40, 40):
        now[0] += seconds
        monitor.advance(60)
    assert capsys.readouterr().err.splitlines() == [
        "dprune: training: 1 of 1,000 steps",
        "dprune: training: 2 of 1,000 steps, 32 s/step, 08:52:16 left, loss 0.412",
        "dprune: training: 3 of 1,000 steps, 32 s/step, 08:51:44 left, loss 0.412",
        "dprune: sampling: 60 images",
        "dprune: sampling: 120 images, 1.5 images/s",
    ]


def test_speed_is_that_of_the_last_minutes() -> None:
    measured = console.Speedometer()
    measured.mark(0, 5000)
    assert measured.rate() is None
    for second in range(1, 1001):
        measured.mark(second, 5000 + 10 * second if second < 500 else 10000 + 2 * (second - 500))
    assert measured.rate() == pytest.approx(2)
    measured.mark(1000.2, 11001)
    assert measured.rate() == pytest.approx(2, rel=0.01)


def test_no_speed_is_told_of_none_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without samples is work, too, and no time can be told from it."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monitor = console.TerminalMonitor()
    monitor.start("reading", 9, "samples")
    for count in (4, 0):
        now[0] += 40
        monitor.advance(count)
    assert capsys.readouterr().err.splitlines()[-1] == "dprune: reading: 4 of 9 samples"


@pytest.mark.parametrize(
    ("rate", "said"), [(0.3125, "3.2 s/step"), (0.011, "91 s/step"), (1, "1 steps/s"), (12.4, "12 steps/s")]
)
def test_rates(rate: float, said: str) -> None:
    assert speed(rate, "steps") == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(59, "00:00:59"), (86399, "23:59:59"), (119000, "33 h"), (4e6, "1,111 h")]
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert clock(seconds) == said
