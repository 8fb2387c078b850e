"""Memory that is free, and what trainings take of it: told before, refused where it cannot be, bounded where it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import dprune
from stores import latent_store
from torch import Tensor, nn

from dprune.memory import free_host_memory, free_memory
from dprune.training.memory import BASE, GIB, MARGIN, Need, need_of

MEMINFO = "MemTotal: 24000000 kB\nMemFree: 100 kB\nMemAvailable: 2000 kB\nSwapTotal: 9 kB\nSwapFree: 0 kB\nHuge: x\n"


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/meminfo": MEMINFO, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def group(folder: str, most: str, used: int, stat: str, *, old: bool = False) -> dict[str, str]:
    limit, usage = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    place = f"sys/fs/cgroup{'/memory' if old else ''}{folder}/memory."
    return {f"{place}{limit}": f"{most}\n", f"{place}{usage}": f"{used}\n", f"{place}stat": stat}


FILES = "anon 5\ninactive_file 70000\nactive_file 30000\n"
OLD_FILES = f"{FILES}total_inactive_file 1000\ntotal_active_file 2000\n"


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("", {}, 2_048_000),
        ("0::/\n", group("", "1000000", 400_000, FILES), 700_000),
        ("0::/a/b\n", group("/a/b", "max", 1, FILES) | group("/a", "500000", 450_000, FILES), 150_000),
        ("0::/not/seen\n", group("", "300000", 350_000, "anon 1\n"), 0),
        ("7:cpu:/\n4:cpu,memory:/job\n0::/\n", group("/job", "900000", 400_000, OLD_FILES, old=True), 503_000),
        ("4:memory:/\n", group("", str(2**63 - 4096), 400_000, OLD_FILES, old=True), 2_048_000),
    ],
)
def test_what_the_machine_and_its_groups_leave(groups: str, files: dict[str, str], free: int, tmp_path: Path) -> None:
    assert free_host_memory(system(tmp_path, groups, files)) == free


def test_swap_counts_and_ranks_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = system(tmp_path, "0::/\n", group("", "1000000", 400_000, FILES))
    (root / "proc/meminfo").write_text("MemAvailable: 2000 kB\nSwapFree: 10 kB\n")
    assert free_host_memory(root) == 700_000 + 10_240
    assert free_host_memory(tmp_path / "no Linux") > 1 << 60
    whole = free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) < whole / 2


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 20)
        self.fixed = nn.Parameter(torch.zeros(5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.silu(self.linear(x)).square().sum()


def test_a_need_counts_what_is_kept_once_and_no_weights() -> None:
    need = need_of(Toy, lambda toy: toy(torch.zeros(1, 10)))
    # The input, what the activation is of, and what is squared.
    assert need == Need(4 * (200 + 20), 4 * (10 + 20 + 20))


def test_a_need_grows_with_passes() -> None:
    need = Need(weights=1000, sample=300)
    assert (need.least(1), need.least(10)) == (5000, 7000)
    assert need.likely(10) == BASE + int(MARGIN * 8000)
    assert need.largest(64, BASE + int(MARGIN * 8000)) == 8
    assert need.largest(64, 0) == 1


def has_free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr("dprune.training.job.free_memory", lambda device: int(size))


def start(run: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    return found


def test_a_transformer_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run = latent_store(tmp_path / "latents"), tmp_path / "run"
    has_free(monkeypatch, 12 * GIB)
    dprune("train-dit", store, "-o", run).fails(1, "--arch XL/2 takes at least 12.", "12.0 GiB are free", "--arch L/2")
    has_free(monkeypatch, 1000)
    dprune("train-dit", store, "-o", run, "--arch", "nano/2").fails(1, "give a device with more memory")
    assert not run.exists()


def test_an_autoencoder_that_does_not_fit(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 2 * GIB)
    args = ("train-vae", shards, "-o", tmp_path / "run", "--workers", 0)
    dprune(*args).fails(1, "images of 256 pixels takes at least 2.9 GiB", "2.0 GiB are free", "--preset tiny")
    has_free(monkeypatch, 12 * GIB)
    dprune(*args, "--micro-batch", 32).fails(1, "with 32 in a pass", "--micro-batch 2 or auto")
    assert not (tmp_path / "run").exists()


def test_passes_are_as_large_as_memory_allows_and_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = latent_store(tmp_path / "latents")
    args = ("train-dit", store, "--arch", "nano/2", "--batch-size", 12, "--steps", 2, "--log-every", 1, "-o")
    dprune(*args, tmp_path / "whole").ok()
    assert start(tmp_path / "whole")["micro_batch"] == 12
    monkeypatch.setattr(Need, "likely", lambda need, micro_batch: GIB * micro_batch)
    has_free(monkeypatch, 5.9 * GIB)
    told = dprune(*args, tmp_path / "run", "--stop-after", "0s").fails(75).err
    assert "--micro-batch 3" in told
    assert start(tmp_path / "run")["micro_batch"] == 3
    has_free(monkeypatch, 12 * GIB)
    dprune(*args, tmp_path / "run").ok()
    starts = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["micro_batch"] for line in starts if line.get("event") == "start"] == [3, 3]


def test_one_that_may_not_fit_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 0.1 * GIB)
    args = ("train-dit", latent_store(tmp_path / "latents"), "--arch", "nano/2", "--steps", 1, "--batch-size", 2)
    assert "warning: --arch nano/2 takes at least 0.0 GiB" in dprune(*args, "-o", tmp_path / "run").ok().err
