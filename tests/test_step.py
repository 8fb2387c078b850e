"""Steps that are captured once and replayed: the same bits as steps that are taken one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stores import latent_store
from torch import Tensor

from dprune.training import replays
from dprune.training.replays import WARM_UP, Replays

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on a GPU alone")


class Micro(NamedTuple):
    rows: Tensor
    labels: Tensor


class Recorded:
    """Stands for a graph: the work runs on inputs that lie where they lay when it was made."""

    made = 0

    def __init__(self, work: Any, batch: Sequence[Any]) -> None:
        type(self).made += 1
        self.work, self.batch = work, [type(micro)(*(part.clone() for part in micro)) for micro in batch]

    def __call__(self, batch: Sequence[Any]) -> Any:
        for held, given in zip(self.batch, batch, strict=True):
            torch._foreach_copy_(list(held), list(given))
        return self.work(self.batch)


class Refusing(Recorded):
    def __init__(self, work: Any, batch: Sequence[Any]) -> None:
        super().__init__(work, batch)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


def batch(number: int, rows: int = 3) -> list[Micro]:
    return [Micro(torch.full((rows,), number), torch.zeros(rows))]


def total(micros: Sequence[Micro]) -> float:
    return sum(float(micro.rows.sum()) for micro in micros)


@pytest.fixture(autouse=True)
def _always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LEAST_SHARE", 0.0)
    Recorded.made = Refusing.made = 0


def test_a_graph_takes_over_after_warm_up() -> None:
    replay = Replays(CPU, Recorded)
    for number in range(WARM_UP + 4):
        assert replay("a", total, batch(number)) == 3 * number
        assert Recorded.made == (number >= WARM_UP)


def test_what_launches_something_else_is_captured_anew() -> None:
    replay = Replays(CPU, Recorded)
    for key, rows, graphs in (("a", 3, 1), ("a", 2, 2), ("b", 2, 3)):
        for number in range(WARM_UP + 2):
            assert replay(key, total, batch(number, rows)) == rows * number
        assert Recorded.made == graphs


def test_what_may_not_be_captured_never_is() -> None:
    replay = Replays(CPU, Recorded)
    assert [replay(None, total, batch(number)) for number in range(WARM_UP + 2)] == [0, 3, 6, 9, 12]
    assert not Recorded.made


def test_work_that_keeps_the_device_busy_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LEAST_SHARE", 2.0)
    replay = Replays(CPU, Recorded)
    assert [replay("a", total, batch(number)) for number in range(WARM_UP + 2)] == [0, 3, 6, 9, 12]
    assert not Recorded.made


def test_a_capture_that_fails_is_tried_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "dprune")
    replay = Replays(CPU, Refusing)
    assert [replay("a", total, batch(number)) for number in range(WARM_UP + 2)] == [0, 3, 6, 9, 12]
    assert Refusing.made == 1
    assert "a step cannot be captured, and stays as it is: operation not permitted when stream is capturing" in (
        caplog.text
    )
    assert "more" not in caplog.text


class Captures(Replays):
    """Captures on a CPU, by what stands for a graph."""

    def __init__(self, *_: Any) -> None:
        super().__init__(CPU, Recorded)


def small(store: Path, run: Path, *more: object) -> dict[str, bytes]:
    from conftest import dprune

    options = ("--arch", "nano/2", "--batch-size", 6, "--steps", 9, "--log-every", 4, "--lr", "1e-3", "--warmup", 4)
    dprune("train-dit", store, *options, *more, "-o", run).ok()
    return {name: (run / name).read_bytes() for name in ("model.safetensors", "state.safetensors")}


@pytest.mark.parametrize("more", [(), ("--micro-batch", "4", "--clip", "0.5", "--schedule", "cosine")])
def test_training_by_replays_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    store = latent_store(tmp_path / "latents")
    plain = small(store, tmp_path / "plain", *more)
    monkeypatch.setattr("dprune.training.step.may_capture", lambda *_: True)
    monkeypatch.setattr("dprune.training.step.Replays", Captures)
    monkeypatch.setattr("dprune.training.dit.task.DiTTask.capture_key", lambda *_: "dit")
    assert small(store, tmp_path / "replayed", *more) == plain
    assert Recorded.made == 1


@gpu
@pytest.mark.parametrize("more", [(), ("--micro-batch", "4", "--clip", "0.5", "--schedule", "cosine")])
def test_a_captured_step_gives_the_bits_of_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: tuple[str, ...]
) -> None:
    caplog.set_level("DEBUG", "dprune")
    store = latent_store(tmp_path / "latents")
    captured = small(store, tmp_path / "captured", *more)
    assert "steps become a graph" in caplog.text
    assert "cannot be captured" not in caplog.text
    monkeypatch.setattr("dprune.training.step.may_capture", lambda *_: False)
    assert small(store, tmp_path / "plain", *more) == captured
