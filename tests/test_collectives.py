"""Ranks that are threads of one process, on CPUs here."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import dprune
from safetensors.numpy import load_file

from dprune.clustering.job import ClusterSettings, open_cluster
from dprune.collectives import all_gather, all_sum, from_root, gather_rows, in_group, is_root, on_devices
from dprune.errors import InputError
from dprune.formats.publish import Output
from dprune.runtime import Monitor, Silent, ranks

CPU = torch.device("cpu")


def test_threads_exchange_tensors_as_ranks_do() -> None:
    found: dict[int, list[list[int]]] = {}

    def work(device: torch.device, monitor: Monitor) -> int:
        rank = ranks().rank
        assert in_group()
        assert is_root() == (rank == 0)
        mine = torch.tensor([rank + 1])
        for _ in range(50):
            total = all_sum(mine.clone())
            assert total.item() == 6
        rows = gather_rows(torch.full((rank,), rank))
        found[rank] = [all_gather(mine).tolist(), from_root(mine.clone()).tolist(), rows.tolist()]
        return rank

    assert on_devices([CPU] * 3, work, Silent()) == 0
    assert found == {0: [[1, 2, 3], [1], [1, 2, 2]], 1: [[1, 2, 3], [1], [1]], 2: [[1, 2, 3], [1], [2, 2]]}
    assert not in_group()
    assert ranks().world == 1


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_one_thread_raises_ends_all(failing: int) -> None:
    ended = threading.Barrier(3)

    def work(device: torch.device, monitor: Monitor) -> None:
        ended.wait(10)
        if ranks().rank == failing:
            raise InputError("no")
        all_sum(torch.zeros(1))

    with pytest.raises(InputError, match="no"):
        on_devices([CPU] * 3, work, Silent())
    assert not in_group()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_clusters_do_not_depend_on_the_number_of_devices(tmp_path: Path, metric: str) -> None:
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(12, 9))[draw.integers(12, size=901)] * 4 + draw.normal(size=(901, 9))).astype(np.float32)
    x[::50] = np.nan
    np.save(tmp_path / "x.npy", x)
    found = []
    for count in (1, 3):
        settings = ClusterSettings(k=12, metric=metric, engine="torch", device="cpu")
        job = open_cluster(str(tmp_path / "x.npy"), settings, Output(str(tmp_path / f"{count}.safetensors")))
        summary = dataclasses.replace(job, devices=(CPU,) * count).run(Silent())  # type: ignore[type-var]
        assert summary["samples"] == 882
        found.append(load_file(tmp_path / f"{count}.safetensors"))
    one, three = found
    assert np.array_equal(one["assignment"], three["assignment"])
    for name in ("centroids", "distance", "second_distance"):
        np.testing.assert_allclose(one[name], three[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("devices", ["cpu,cpu", "cpu,cuda:0", "cuda:0,cuda:0", "cpu,"])
def test_several_devices_are_different_gpus(tmp_path: Path, devices: str) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), dtype=np.float32))
    dprune("cluster", tmp_path / "x.npy", "-o", tmp_path / "c", "--device", devices).fails(2, "--device")
