"""The batch scripts under examples/slurm, run by stand-ins for sbatch, srun and scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Result, dprune, image_bytes, warm_python, write_tar
from stores import latent_store

EXAMPLES = Path(__file__).parents[1] / "examples" / "slurm"
SCRIPT = EXAMPLES / "embed.sbatch"

# Runs the tasks of an array one after another, and a task again when it was requeued.
SBATCH = """#!/bin/bash
array=$(grep -oP '^#SBATCH --array=0-\\K[0-9]+' "$1")
export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_COUNT=$((array + 1))
export SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=$array
for SLURM_ARRAY_TASK_ID in $(seq 0 "$array"); do
    export SLURM_ARRAY_TASK_ID
    bash "$@" || failed=1
    while [ -e "$SPOOL/requeue-77_$SLURM_ARRAY_TASK_ID" ]; do
        rm "$SPOOL/requeue-77_$SLURM_ARRAY_TASK_ID"
        unset DPRUNE_EMBED_STOP_AFTER failed
        bash "$@" || failed=1
    done
done
exit "${failed:-0}"
"""
# One step with one task, which gets what the batch script exported; srun passes signals on.
SRUN = """#!/bin/bash
[ "$1" = dprune ] || exit 9
echo "$RANK of $WORLD_SIZE" >> "$SPOOL/steps"
export SLURM_STEP_NUM_TASKS=1
shift
exec "$PYTHON" -m dprune "$@"
"""
SCONTROL = """#!/bin/bash
[ "$1" = requeue ] && echo "$2" >> "$SPOOL/requeued" && touch "$SPOOL/requeue-$2"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with stand-ins for SLURM on its PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "spool").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SPOOL": str(tmp_path / "spool"),
            "PYTHON": warm_python()}  # fmt: skip


def submit(script: Path, environment: dict[str, str], *args: object) -> Result:
    command = ["sbatch", str(script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def smaller(script: Path, folder: Path, tasks: int) -> Path:
    """The script with fewer tasks than it has, to keep the test short."""
    path = folder / script.name
    text = script.read_text()
    assert "#SBATCH --array=0-7\n" in text
    path.write_text(text.replace("--array=0-7", f"--array=0-{tasks - 1}"))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PIXELS = ("--model", "pixels", "--image-size", "8", "--workers", "0")


@pytest.mark.slow
def test_an_array_makes_the_store_of_one_process(shards: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    submit(smaller(SCRIPT, tmp_path, 2), cluster, shards, tmp_path / "array", *PIXELS).ok()
    dprune("embed", shards, *PIXELS, "-o", tmp_path / "one").ok()
    assert content(tmp_path / "array") == content(tmp_path / "one")
    assert (tmp_path / "spool" / "steps").read_text() == "0 of 2\n1 of 2\n"
    assert not (tmp_path / "spool" / "requeued").exists()


@pytest.mark.slow
def test_a_stopped_task_is_requeued(shards: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    environment = {**cluster, "DPRUNE_EMBED_STOP_AFTER": "0s"}
    submit(smaller(SCRIPT, tmp_path, 1), environment, shards, tmp_path / "array", *PIXELS).ok()
    dprune("embed", shards, *PIXELS, "-o", tmp_path / "one").ok()
    assert content(tmp_path / "array") == content(tmp_path / "one")
    assert (tmp_path / "spool" / "requeued").read_text() == "77_0\n"


@pytest.mark.slow
def test_the_signal_before_the_limit(tmp_path: Path, cluster: dict[str, str]) -> None:
    """SLURM signals the batch shell alone; the script tells dprune and waits for it."""
    pictures = [(f"{i}.jpg", image_bytes(i, (160, 120), "jpg")) for i in range(50)]
    for number in range(60):
        write_tar(tmp_path / "shards" / f"{number:06d}.tar", pictures)
    environment = {**cluster, "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
    command = ["bash", str(SCRIPT), str(tmp_path / "shards"), str(tmp_path / "f"), *PIXELS]
    shell = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("f/0*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.01)
    shell.send_signal(signal.SIGUSR1)
    _, said = shell.communicate(timeout=60)
    assert shell.returncode == 75, said
    assert "run the same command again" in said
    assert (tmp_path / "spool" / "requeued").read_text() == "77_0\n"


def test_usage(cluster: dict[str, str]) -> None:
    environment = {**cluster, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode
    assert "usage: sbatch embed.sbatch SHARDS STORE" in done.stderr


# torchrun with one worker, whose exit code it hides.
TORCHRUN = """#!/bin/bash
[ "$1 $2 $3 $4" = "--standalone --nproc-per-node=4 -m dprune" ] || exit 9
shift 4
"$PYTHON" -m dprune "$@" || exit 1
"""


@pytest.mark.slow
def test_training_is_requeued_until_its_model_is_there(cluster: dict[str, str], tmp_path: Path) -> None:
    torchrun = tmp_path / "bin" / "torchrun"
    torchrun.write_text(TORCHRUN)
    torchrun.chmod(0o755)
    latents, run = latent_store(tmp_path / "latents"), tmp_path / "run"
    environment = {**cluster, "SLURM_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "4"}

    def job(*more: str) -> int:
        options = ("--arch", "nano/4", "--batch-size", "4", "--steps", "2", *more)
        command = ["bash", EXAMPLES / "train.sbatch", latents, run, *options]
        return subprocess.run(command, env=environment, check=False).returncode

    requeued = tmp_path / "spool" / "requeued"
    assert job("--stop-after", "0s") == 1
    assert requeued.read_text() == "77\n"
    assert job() == 0
    assert (run / "model.safetensors").exists()
    assert requeued.read_text() == "77\n"
    # A failure that saved nothing is not tried again and again.
    assert job("--lr", "0.5") == 1
    assert requeued.read_text() == "77\n"
