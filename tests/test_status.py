"""dprune status: outputs of each kind half-made, finished, damaged, of other options, being written, and none."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, dprune, image_bytes, sample, wait_until, warm_python, write_tar
from hypothesis import given
from hypothesis import strategies as st
from stores import latent_store
from test_sample import models  # noqa: F401 - a fixture
from test_slurm import SCRIPT, cluster, content, larger, submit  # noqa: F401 - cluster and larger are fixtures

from dprune.console import TerminalMonitor
from dprune.formats.claims import claim_beside, claim_in, claimed
from dprune.formats.latents import CODEBOOK_FILE
from dprune.formats.publish import publish_json
from dprune.formats.stores import Store
from dprune.formats.temporary import temporary
from dprune.runtime import Ranks, Silent
from dprune.scoring import progress as progress_module
from dprune.watching.job import open_status
from dprune.watching.pace import pace_since
from dprune.watching.standing import compact

PIXELS = ("--model", "pixels", "--image-size", 4, "--workers", 0)
DIT = ("--arch", "nano/4", "--batch-size", 4, "--log-every", 1, "--device", "cpu")


def status(*outputs: object) -> dict[str, Any]:
    """What `--json` tells of one output, once its exit code is held to it."""
    result = dprune("status", "--json", *outputs)
    content = json.loads(result.out)
    assert result.code == content["exit_code"]
    (found,) = content["outputs"]
    assert found["exit_code"] == result.code
    return dict(found)


def text(*outputs: object) -> str:
    return dprune("status", *outputs).out.decode()


def array(output: object, *more: object) -> str:
    result = dprune("status", "--array", *more, output)
    assert result.code in (0, 75), result.err
    return result.out.decode().strip()


def embed(shards: Path, output: Path, *more: object) -> Result:
    return dprune("embed", shards, *PIXELS, "-o", output, *more)


@contextlib.contextmanager
def worker(rank: int, world: int) -> Iterator[None]:
    """Be one of several workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(world))
        yield


@contextlib.contextmanager
def stopped_after(questions: int) -> Iterator[None]:
    """Have a real SIGTERM come when a command has asked so often whether to stop."""
    asked, real = itertools.count(), TerminalMonitor.stop_requested

    def stop_requested(self: TerminalMonitor) -> bool:
        if next(asked) == questions:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TerminalMonitor, "stop_requested", stop_requested)
        yield


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Eight shards of two samples, of which one in the second cannot be decoded."""
    for number in range(8):
        members = [part for i in range(2) for part in sample(f"s{number}{i}", 2 * number + i, i)]
        write_tar(
            tmp_path / "many" / f"{number:06d}.tar",
            [("s10.png", b"no image"), *members[2:]] if number == 1 else members,
        )
    return tmp_path / "many"


def test_a_store_half_made(many: Path, tmp_path: Path) -> None:
    store = tmp_path / "features"
    with worker(1, 4):
        embed(many, store).ok()
    found = status(store)
    assert [found[key] for key in ("state", "kind", "command")] == ["unfinished", "features", "embed"]
    assert found["exit_code"] == 75
    assert found["pieces"] == {"unit": "files", "done": 2, "total": 8}
    assert [piece["name"] for piece in found["missing"]] == [f"{n:06d}.tar" for n in (0, 2, 3, 4, 6, 7)]
    assert found["array"] == array(store) == "0,2-4,6-7"
    assert found["rerun"] == "makes 6 of 8 files"
    assert found["facts"] == {"samples": 4}
    (bad,) = found["undecodable"]
    assert (bad["shard"], bad["key"]) == ("000001.tar", "s10")
    assert "cannot be decoded" in bad["reason"]
    said = text(store)
    assert "2 of 8 (25%)" in said
    assert "s10 in 000001.tar (cannot be decoded" in said
    assert "and 1 more" in said, "six are missing, and five are named"


def test_its_list_names_the_tasks_that_complete_a_store(many: Path, tmp_path: Path) -> None:
    """With as many tasks as shards each has the shard of its number."""
    store = tmp_path / "features"
    with worker(1, 4):
        embed(many, store).ok()
    for task in numbers(array(store)):
        assert status(store)["state"] == "unfinished"
        with worker(task, 8):
            embed(many, store).ok()
    found = status(store)
    assert (found["state"], found["exit_code"], found["missing"], found["array"]) == ("complete", 0, [], "")
    assert found["rerun"] == "nothing: it is up to date"
    assert dprune("status", "--array", store).ok().out == b"\n"
    assert "up to date" in embed(many, store).ok().err


def test_fewer_tasks_than_missing_parts(many: Path, tmp_path: Path) -> None:
    with worker(1, 4):
        embed(many, tmp_path / "f").ok()
    assert array(tmp_path / "f", "--tasks", 4) == "0-3"
    assert array(tmp_path / "f", "--tasks", 1) == "0"
    assert array(tmp_path / "f", "--tasks", 100) == "0-5", "no more than there are parts to make"


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--tasks", "2")])
def test_its_list_completes_what_a_killed_array_left(
    larger: Path,  # noqa: F811
    tmp_path: Path,
    cluster: dict[str, str],  # noqa: F811
    options: tuple[str, ...],
) -> None:
    store = tmp_path / "array"
    with worker(0, 10):
        embed(larger, store).ok()
    dying = {**cluster, "AT_ONCE": "yes", "DYING": "0 1 2"}
    assert submit(SCRIPT, dying, larger, store, *PIXELS, array="0-2").code == 1
    # What is a second old may not be locked yet, and counts as held.
    wait_until(lambda: not status(store)["at_work"])
    found = status(store)
    assert found["pieces"]["done"] == len(list(store.glob("0*.safetensors"))) < 30
    missing = array(store, *options)
    assert missing == ("0-1" if options else found["array"])
    submit(SCRIPT, cluster, larger, store, *PIXELS, array=missing).ok()
    assert status(store)["state"] == "complete"
    embed(larger, tmp_path / "one").ok()
    assert content(store) == content(tmp_path / "one")


@pytest.mark.slow
def test_pieces_that_tasks_have_in_hand(larger: Path, tmp_path: Path) -> None:  # noqa: F811
    store = tmp_path / "f"
    words = [warm_python(), "-m", "dprune", "embed", str(larger), *map(str, PIXELS), "-o", str(store)]
    task = {**os.environ, "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2"}
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=task)
    wait_until(lambda: any(piece["at_work"] for piece in status(store)["missing"]))
    found = status(store)
    assert "1 process" in text(store)
    assert process.wait(60) == 0
    in_hand = [piece["position"] for piece in found["missing"] if piece["at_work"]]
    assert all(number % 2 for number in in_hand), "it begins with its share"
    found = status(store)
    assert (found["state"], found["at_work"]) == ("complete", [])


def test_parts_that_are_damaged_or_of_other_options_count_as_missing(shards: Path, tmp_path: Path) -> None:
    store = tmp_path / "f"
    embed(shards, store).ok()
    embed(shards, tmp_path / "other", "--normalize").ok()
    shutil.copy(tmp_path / "other" / "000001.safetensors", store)
    (store / "000002.safetensors").write_bytes((store / "000002.safetensors").read_bytes()[:-1])
    found = status(store)
    assert [(piece["position"], piece["reason"]) for piece in found["missing"]] == [
        (1, "made with other options"),
        (2, "damaged"),
    ]
    assert (found["state"], found["array"]) == ("unfinished", "1-2")
    assert "000001.tar (made with other options), 000002.tar (damaged)" in text(store)
    assert "shards made: 2" in embed(shards, store).ok().err
    assert status(store)["state"] == "complete"


def test_parts_by_different_networks(tmp_path: Path) -> None:
    """What no rerun mends is told as the consumer of the store would."""
    store = Store(tmp_path / "f", "features", ("a.tar", "b.tar"), (), {"command": "embed", "options": {}})
    publish_json(store.folder / "manifest.json", {
        "kind": "features", "shards": store.shards, "datasets": [],
        "provenance": {"dprune": "1", "command": "embed", "options": {}}})  # fmt: skip
    store = Store.open(store.folder, "features")
    for shard, weights in (("a.tar", "1" * 64), ("b.tar", "2" * 64)):
        store.publish_part(shard, {"features": np.zeros((1, 2), np.float16)}, "m", 1, [], {"weights": weights})
    found = status(store.folder)
    assert (found["state"], found["exit_code"]) == ("damaged", 3)
    dprune("status", store.folder).fails(3, "were made with different weights", "remove the folder")
    dprune("status", "--array", store.folder).fails(3, "were made with different weights")


def test_a_codebook_that_is_missing(tmp_path: Path) -> None:
    store = latent_store(tmp_path / "l")
    assert status(store)["facts"] == {"samples": 33, "codebook": True}
    (store / CODEBOOK_FILE).unlink()
    found = status(store)
    assert (found["state"], found["missing"], found["array"]) == ("unfinished", [], "0")
    assert found["rerun"] == "writes the codebook that all files share"
    assert status(latent_store(tmp_path / "kl", "kl"))["facts"] == {"samples": 33}


def test_encoding_and_its_autoencoder(shards: Path, tmp_path: Path) -> None:
    vae, store = tmp_path / "vae", tmp_path / "latents"
    training = ("train-vae", shards, "--preset", "tiny", "--image-size", 16, "--width", 8, "--codes", 16, "--steps", 4,
                "--batch-size", 4, "--workers", 0, "--device", "cpu", "--log-every", 1, "-o", vae)  # fmt: skip
    dprune(*training, "--stop-after", "0s").fails(75)
    found = status(vae)
    assert [found[key] for key in ("state", "kind", "command")] == ["unfinished", "run", "train-vae"]
    assert found["rerun"] == f"goes on at step {found['facts']['saved']['step']} of 4"
    dprune(*training).ok()
    assert status(vae)["state"] == "complete"
    encoding = ("encode", shards, "--vae", vae / "model.safetensors", "--workers", 0, "--device", "cpu", "-o", store)
    with worker(2, 3):
        dprune(*encoding).ok()
    found = status(store)
    assert [found[key] for key in ("state", "kind", "command", "array")] == ["unfinished", "latents", "encode", "0-1"]
    assert found["facts"] == {"samples": 6, "codebook": True}
    dprune(*encoding).ok()
    assert status(store)["state"] == "complete"


def test_living_processes_are_told_and_dead_ones_are_not(shards: Path, tmp_path: Path) -> None:
    store = tmp_path / "f"
    with worker(0, 3):
        embed(shards, store).ok()
    with claimed(claim_in(store, Ranks(1, 3)), "f", Silent()), temporary(store / "000001.safetensors"):
        found = status(store)
        assert {holder["stem"] for holder in found["at_work"]} == {"claim", "000001.safetensors"}
        assert [piece["at_work"] for piece in found["missing"]] == [True, False]
        assert "1 process, just now at 000001.tar" in text(store)
        assert embed(shards, store, "--normalize").code == 3, "and the look has not taken what it looked at"
    for left in (".claim.1-of-3.tmp", ".000001.safetensors.123-0123abcd.tmp"):
        (store / left).touch()
        os.utime(store / left, (1, 1))
    found = status(store)
    assert found["at_work"] == []
    assert [piece["at_work"] for piece in found["missing"]] == [False, False]
    assert "at work" not in text(store)


def test_a_store_whose_worker_is_killed(tmp_path: Path) -> None:
    pictures = [(f"{i}.jpg", image_bytes(i, (160, 120), "jpg")) for i in range(50)]
    for number in range(60):
        write_tar(tmp_path / "shards" / f"{number:06d}.tar", pictures)
    store = tmp_path / "f"
    words = ["embed", tmp_path / "shards", *PIXELS, "-o", store]
    process = subprocess.Popen([warm_python(), "-m", "dprune", *map(str, words)], stderr=subprocess.DEVNULL)
    wait_until(lambda: bool(list(store.glob("0*.safetensors"))))
    found = status(store)
    assert found["state"] == "unfinished"
    assert [holder["stem"] for holder in found["at_work"]].count("claim") == 1
    wait_until(lambda: status(store)["pieces"]["done"] > 2)
    process.kill()
    process.wait()
    wait_until(lambda: not status(store)["at_work"])
    found = status(store)
    done = found["pieces"]["done"]
    assert 2 < done < 60
    assert found["pieces"]["total"] == 60
    assert found["array"] == compact(n for n in range(60) if not (store / f"{n:06d}.safetensors").exists())
    assert found["pace"]["unit"] == "images/s"
    assert found["pace"]["rate"] > 0
    left = (60 - done) * 50 / found["pace"]["rate"]
    assert found["remaining_s"] == pytest.approx(left)


def test_it_leaves_everything_as_it_is(shards: Path, tmp_path: Path) -> None:
    with worker(0, 3):
        embed(shards, tmp_path / "f").ok()
    latent_store(tmp_path / "l")
    (tmp_path / "f" / ".claim.1-of-3.tmp").touch()
    before = tree(tmp_path)
    for _ in range(2):
        dprune("status", tmp_path / "f", tmp_path / "l", tmp_path / "none", shards)
        dprune("status", "--array", tmp_path / "f")
    assert tree(tmp_path) == before


def test_a_store_that_is_being_written(shards: Path, tmp_path: Path) -> None:
    """Files come, go and are replaced under its eyes."""
    embed(shards, tmp_path / "whole").ok()
    store, ends = tmp_path / "f", threading.Event()

    def write() -> None:
        for number in itertools.cycle(range(3)):
            if ends.is_set():
                return
            Store.open(tmp_path / "whole", "features")
            shutil.copytree(tmp_path / "whole", store, dirs_exist_ok=True)
            (store / f"{number:06d}.safetensors").unlink()
            with temporary(store / f"{number:06d}.safetensors") as file:
                file.write(b"half")
            if number == 2:
                shutil.rmtree(store)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        states = [status(store)["state"] for _ in range(150)]
    finally:
        ends.set()
        writer.join()
    # A copy is no publishing: what it has half written is damaged, and nothing else can come of it.
    assert set(states) <= {"complete", "unfinished", "none", "damaged"}
    assert {"unfinished"} & set(states)


def test_packing_that_was_interrupted(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed"
    words = ("pack", many, "--size", 8, "--shard-size", 3, "--workers", 0, "-o", output)
    with stopped_after(9):
        dprune(*words).fails(75)
    found = status(output)
    assert [found[key] for key in ("state", "kind", "command")] == ["unfinished", "shards", "pack"]
    done = found["pieces"]["done"]
    assert found["pieces"] == {"unit": "shards", "done": done, "total": 6}
    assert 0 < done < 6
    assert found["rerun"] == f"makes {6 - done} of 6 shards, writes the manifest"
    assert found["facts"]["of_samples"] == 16
    assert found["facts"]["samples"] + len(found["undecodable"]) == 3 * done
    dprune("status", "--array", output).fails(2, "no task of an array goes on")
    with stopped_after(10**9):
        dprune(*words).ok()
    found = status(output)
    assert (found["state"], found["pieces"]["done"]) == ("complete", 6)
    assert [bad["key"] for bad in found["undecodable"]] == ["s10"]
    (output / "000004.tar").write_bytes((output / "000004.tar").read_bytes()[:-1024])
    found = status(output)
    assert (found["state"], found["rerun"]) == ("unfinished", "makes all 6 shards again")
    assert [piece["reason"] for piece in found["missing"]] == ["cut short"]
    dprune(*words).ok()
    assert status(output)["state"] == "complete"


def test_shards_of_other_programs(shards: Path) -> None:
    found = status(shards)
    assert (found["state"], found["pieces"]["done"], found["command"]) == ("complete", 3, None)
    (shards / "000001.tar").write_bytes(b"")
    dprune("status", shards).fails(3, "000001.tar", "cut short")


def test_samples_that_were_interrupted(models: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    output, grid = tmp_path / "drawn", tmp_path / "grid.png"
    words = ("sample", models[0], "--vae", models[1], "-o", output, "--device", "cpu", "--steps", 2, "--batch-size", 2,
             "--seeds", "3-9,20-26", "--shard-size", 4, "--grid", grid, "--npz", tmp_path / "x.npz")  # fmt: skip
    with worker(2, 4):
        dprune(*words).ok()
    found = status(output)
    assert [found[key] for key in ("state", "command", "array")] == ["unfinished", "sample", "0-1,3"]
    assert found["pieces"] == {"unit": "shards", "done": 1, "total": 4}
    assert found["facts"]["missing_seeds"] == "3-9,20,25-26"
    assert [entry.partition(" ")[0] for entry in found["facts"]["exports_to_come"]] == ["--grid", "--npz"]
    assert found["rerun"].startswith("makes 3 of 4 shards, --grid ")
    for rank in (0, 1):
        with worker(rank, 4):
            dprune(*words).ok()
    assert array(output) == "3"
    assert not grid.exists()
    with worker(3, 4):
        dprune(*words).ok()
    found = status(output)
    assert (found["state"], found["facts"]["samples"], found["array"]) == ("complete", 14, "")
    assert status(grid)["state"] == status(tmp_path / "x.npz")["state"] == "complete"


def test_a_training(tmp_path: Path) -> None:
    store, run = latent_store(tmp_path / "l"), tmp_path / "run"
    words = ("train-dit", store, *DIT, "--save-every", 2, "-o", run)
    with stopped_after(3):
        dprune(*words, "--steps", 6).fails(75)
    found = status(run)
    step = found["facts"]["saved"]["step"]
    assert 0 < step < 6
    assert [found[key] for key in ("state", "kind", "command")] == ["unfinished", "run", "train-dit"]
    assert found["pieces"] == {"unit": "steps", "done": step, "total": 6}
    assert found["rerun"] == f"goes on at step {step} of 6"
    assert found["facts"]["checkpoints"] == list(range(2, step + 1, 2))
    assert found["remaining_s"] == pytest.approx((6 - step) * 4 / found["pace"]["rate"])
    dprune("status", "--array", run).fails(2, "no task of an array goes on")
    with claimed(claim_in(run, Ranks()), "run", Silent()):
        assert status(run)["rerun"] == f"goes on at step {step} of 6, once what is at work has ended"
    dprune(*words, "--steps", 6).ok()
    found = status(run)
    assert (found["state"], found["pieces"]["done"]) == ("complete", 6)
    assert "a larger --steps it goes on from step 6" in found["rerun"]
    with stopped_after(1):
        dprune(*words, "--steps", 9).fails(75)
    found = status(run)
    assert (found["state"], found["pieces"]["total"], found["facts"]["extends"]) == ("unfinished", 9, [6])
    assert 6 < found["facts"]["saved"]["step"] < 9
    assert "a training of 6 steps" in text(run)
    state = run / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    found = status(run)
    assert (found["state"], found["exit_code"]) == ("damaged", 3)
    assert dprune(*words, "--steps", 9).code == 3
    dprune("status", run).fails(3, "state.safetensors", "remove it to train from the beginning")
    state.unlink()
    assert status(run)["rerun"] == "begins again at step 0 of 9, as no state is saved yet"


def test_a_damaged_model_is_made_again(tmp_path: Path) -> None:
    store, run = latent_store(tmp_path / "l"), tmp_path / "run"
    dprune("train-dit", store, *DIT, "--steps", 2, "-o", run).ok()
    (run / "model.safetensors").write_bytes(b"cut")
    found = status(run)
    assert (found["state"], found["rerun"]) == ("unfinished", "goes on at step 2 of 2 and publishes the model")
    dprune("train-dit", store, *DIT, "--steps", 2, "-o", run).ok()
    assert status(run)["state"] == "complete"


def test_scores_by_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    store, run, output = latent_store(tmp_path / "l", vae="beef"), tmp_path / "run", tmp_path / "e.npy"
    dprune("train-dit", store, *DIT, "--steps", 2, "-o", run).ok()
    words = ("score", "el2n", store, "--model", run / "model.safetensors", "--device", "cpu", "-o", output)
    dprune("status", output).fails(3, "e.npy", "has not begun")
    with claimed(claim_beside(output, Ranks()), "e.npy", Silent()):
        assert (found := status(output))["state"] == "unfinished"
        assert found["at_work"]
    with worker(1, 2):
        dprune(*words).ok()
    found = status(output)
    assert [found[key] for key in ("state", "kind", "command", "array")] == [
        "unfinished",
        "scores",
        "score el2n",
        "0,2",
    ]
    assert found["pieces"] == {"unit": "portions", "done": 2, "total": 4}
    assert found["rerun"] == "measures 2 of 4 portions and writes the scores"
    assert [piece["name"] for piece in found["missing"]] == ["samples 0 to 8", "samples 16 to 24"]
    assert (found["facts"]["samples"], found["facts"]["of_samples"]) == (16, 32)
    with stopped_after(20), worker(0, 2):
        dprune(*words, "--batch-size", 2).fails(75)
    found = status(output)
    assert 16 < found["facts"]["samples"] < 32
    assert "are measured" in " ".join(piece["reason"] for piece in found["missing"])
    with worker(0, 2):
        dprune(*words).ok()
    found = status(output)
    assert (found["state"], found["array"], found["facts"]["shape"]) == ("complete", "", [33])
    # The same again with other options, in the place of what is there.
    with worker(1, 2):
        dprune(*words, "--sigma", 0.2, "--overwrite").ok()
    assert status(output)["state"] == "unfinished"
    dprune(*words, "--sigma", 0.2, "--overwrite").ok()
    assert status(output)["state"] == "complete"
    output.write_bytes(output.read_bytes()[:-30])
    dprune("status", output).fails(3, "e.npy", "damaged")


def test_moso_fold_by_fold(tmp_path: Path) -> None:
    store, output = latent_store(tmp_path / "l", vae="beef"), tmp_path / "m.npy"
    runs = []
    for fold in range(3):
        runs.append(tmp_path / f"fold{fold}")
        dprune("train-dit", store, *DIT, "--steps", 4, "--save-every", 4, "--fold", f"{fold}/3", "-o", runs[-1]).ok()
    words = ("score", "moso", store, "--device", "cpu", "--draws", 2, "-o", output)
    dprune(*words, runs[1], "--only-fold", 1).ok()
    found = status(output)
    assert found["pieces"] == {"unit": "folds", "done": 1, "total": 3}
    assert [found[key] for key in ("state", "command", "array")] == ["unfinished", "score moso", "0,2"]
    assert "of 2 that are not measured yet" in found["rerun"]
    dprune("status", "--array", "--tasks", 1, output).fails(2, "--tasks 1", "--array=0,2%N")
    with stopped_after(2):
        dprune(*words, runs[0], "--only-fold", 0, "--batch-size", 1).fails(75)
    assert status(output)["facts"]["mean_gradients"]
    for fold in (0, 2):
        dprune(*words, runs[fold], "--only-fold", fold).ok()
    found = status(output)
    assert (found["state"], found["pieces"]["done"], found["array"]) == ("unfinished", 3, None)
    dprune("status", "--array", output).fails(2, "without --only-fold")
    assert found["rerun"] == "nothing: without --only-fold it makes the scores of all folds"
    dprune(*words, *runs).ok()
    assert status(output)["state"] == "complete"


def test_monotonicity_counts_the_portions_of_all_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SMALLEST", 8)
    store, run, output = latent_store(tmp_path / "l", vae="beef"), tmp_path / "run", tmp_path / "mono.npy"
    dprune("train-dit", store, *DIT, "--steps", 2, "--save-every", 1, "-o", run).ok()
    words = ("score", "monotonicity", store, run, "--device", "cpu", "--draws", 2, "-o", output)
    with worker(0, 2):
        dprune(*words).ok()
    found = status(output)
    assert found["pieces"] == {"unit": "portions", "done": 4, "total": 8}
    assert found["array"] == "1,3,5,7", "the portions of both checkpoints have one numbering"
    assert [found["missing"][place]["name"] for place in (0, 2)] == [
        "step 1, samples 8 to 16",
        "step 2, samples 8 to 16",
    ]
    dprune(*words).ok()
    assert status(output)["state"] == "complete"


def test_files_that_are_there_whole_or_not_at_all(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    dprune("cluster", tmp_path / "f", "-k", 2, "-o", tmp_path / "c.safetensors").ok()
    dprune("score", "cluster-distance", tmp_path / "c.safetensors", "-o", tmp_path / "d.npy").ok()
    dprune("select", tmp_path / "d.npy", "--keep", 5, "-o", tmp_path / "k.npy").ok()
    dprune("select", tmp_path / "d.npy", "--keep", 5, "--shards", shards, "--format", "keys", "-o",
           tmp_path / "k.txt").ok()  # fmt: skip
    dprune("eval", tmp_path / "f", tmp_path / "f", "--metrics", "fid", "-o", tmp_path / "m.json").ok()
    dprune("report", tmp_path / "m.json", "-o", tmp_path / "report").ok()
    dprune("cluster", tmp_path / "f", "--sweep", "2:3:1", "-o", tmp_path / "sweep").ok()
    kinds = {"c.safetensors": ("clusters", "cluster"), "d.npy": ("scores", "score cluster-distance"),
             "k.npy": ("subset", "select"), "m.json": ("metrics", "eval"), "report": ("report", "report"),
             "sweep": ("sweep", "cluster"), "k.txt": ("keys", "select")}  # fmt: skip
    for name, (kind, command) in kinds.items():
        found = status(tmp_path / name)
        assert [found[key] for key in ("state", "kind", "command")] == ["complete", kind, command]
        assert array(tmp_path / name) == ""
    (tmp_path / "sweep" / "clusters-3.safetensors").unlink()
    found = status(tmp_path / "sweep")
    assert (found["state"], found["missing"][0]["name"]) == ("unfinished", "clusters-3.safetensors")


def test_none(tmp_path: Path) -> None:
    for name in ("none", "none.npy", "folder/none"):
        found = status(tmp_path / name)
        assert (found["state"], found["exit_code"], found["array"]) == ("none", 3, None)
        result = dprune("status", "--array", tmp_path / name).fails(3, name, "the command that makes it has not begun")
        assert result.out == b""
    (tmp_path / "empty").mkdir()
    dprune("status", tmp_path / "empty").fails(3, "there is nothing there")
    with claimed(claim_in(tmp_path / "empty", Ranks()), "empty", Silent()):
        assert (found := status(tmp_path / "empty"))["state"] == "unfinished"
        assert found["at_work"]


def test_what_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    dprune("status", tmp_path / "folder").fails(3, "folder", "that no command of dprune made")
    np.save(tmp_path / "folder" / "keep.npy", np.arange(3))
    (tmp_path / "folder" / "cut.npy").write_bytes((tmp_path / "folder" / "keep.npy").read_bytes()[:20])
    for command in ("status", "info"):
        dprune(command, tmp_path / "folder").fails(3, "holds outputs of commands and is none itself", "folder/keep.npy")
    assert status(tmp_path / "folder")["state"] == "none"
    (tmp_path / "text").write_text("mine")
    dprune("status", tmp_path / "text").fails(3, "text", "not something that dprune makes")
    os.mkfifo(tmp_path / "pipe")
    dprune("status", tmp_path / "pipe").fails(3, "pipe", "neither a file nor a folder")
    dprune("status", "-").fails(2, "stdin is not an output")
    dprune("status").fails(2, "OUTPUT")


def test_a_damaged_manifest(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "f").ok()
    manifest = tmp_path / "f" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("000001.tar", "000009.tar"))
    found = status(tmp_path / "f")
    assert (found["state"], found["exit_code"]) == ("damaged", 3)
    dprune("status", tmp_path / "f").fails(3, "manifest.json", "damaged")


def test_of_several_outputs_the_worst_counts(shards: Path, tmp_path: Path) -> None:
    embed(shards, tmp_path / "whole").ok()
    with worker(0, 3):
        embed(shards, tmp_path / "half").ok()
    whole, half, none = (tmp_path / name for name in ("whole", "half", "none"))
    assert dprune("status", whole, whole).code == 0
    assert dprune("status", half, whole).code == 75
    result = dprune("status", "--json", whole, none, half)
    assert result.code == json.loads(result.out)["exit_code"] == 3
    assert [found["state"] for found in json.loads(result.out)["outputs"]] == ["complete", "none", "unfinished"]
    dprune("status", "--array", whole, half).fails(2, "name one output")


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    dprune("status", "--tasks", 3, tmp_path).fails(2, "--tasks", "--array")
    dprune("status", "--array", "--json", tmp_path).fails(2, "--array", "--json")
    dprune("status", "--array", "--tasks", 0, tmp_path).fails(2, "--tasks")


def test_on_a_terminal_it_is_a_table_in_colour(shards: Path, tmp_path: Path) -> None:
    with worker(0, 3):
        embed(shards, tmp_path / "f").ok()
    shown = open_status([str(tmp_path / "f")]).text(100)
    assert "\x1b[" in shown
    assert "unfinished" in shown
    assert "\x1b[" not in text(tmp_path / "f")


def test_names_of_others_command_no_terminal(tmp_path: Path) -> None:
    name = tmp_path / "\x1b[2J\x07.npy"
    for shown in (text(name), open_status([str(name)]).text(80), dprune("status", name).err):
        assert "\x07" not in shown
        assert "\x1b[2J" not in shown


def test_it_does_without_torch(shards: Path, tmp_path: Path) -> None:
    with worker(0, 3):
        embed(shards, tmp_path / "f").ok()
    dprune("train-dit", latent_store(tmp_path / "l"), *DIT, "--steps", 1, "-o", tmp_path / "run").ok()
    names = [str(tmp_path / name) for name in ("f", "l", "run")]
    script = "import sys; from dprune.watching.job import open_status; open_status(sys.argv[1:]).text(None); " \
             "print(*sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    assert not {"torch", "PIL", "rich", "altair", "vl_convert", "sklearn"} & set(done.stdout.split())


def numbers(written: str) -> list[int]:
    """What SLURM makes of a list."""
    runs = [part.partition("-") for part in written.split(",")]
    return [n for first, _, last in runs for n in range(int(first), int(last or first) + 1)]


@given(st.sets(st.integers(0, 60)))
def test_lists_for_arrays(wanted: set[int]) -> None:
    written = compact(sorted(wanted))
    assert (numbers(written) if written else []) == sorted(wanted)
    assert "," not in compact(range(len(wanted)))


def test_the_pace_is_that_since_the_last_worker_began() -> None:
    made = [(1.0, 10), (2.0, 10), (100.0, 10), (104.0, 30)]
    pace = pace_since(96.0, made, "images")
    assert pace is not None
    assert (pace.rate, pace.pieces, pace.last) == (5.0, 2, 104.0)
    assert pace_since(104.0, made, "images") is None
    assert pace_since(0.0, [], "images") is None
    begun_before = pace_since(96.0, made, "images", skip=1)
    assert begun_before is not None
    assert (begun_before.rate, begun_before.pieces) == (7.5, 1)
    assert pace_since(96.0, made, "images", skip=2) is None
