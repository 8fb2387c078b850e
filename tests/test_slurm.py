"""The batch scripts under examples/slurm, run by stand-ins for sbatch, srun and scontrol."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Result, dprune, image_bytes, warm_python, write_tar
from PIL import Image
from stores import latent_store

EXAMPLES = Path(__file__).parents[1] / "examples" / "slurm"
SCRIPT = EXAMPLES / "embed.sbatch"

# Runs the tasks of an array, all at once with AT_ONCE, and a task again when it was requeued.
SBATCH = """#!/bin/bash
array=$(grep -oP '^#SBATCH --array=\\K\\S+' "$1")
case $1 in --array=*) array=${1#--array=}; shift;; esac
tasks=$(for range in ${array//,/ }; do seq "${range%-*}" "${range#*-}"; done)
export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_COUNT=$(wc -w <<< "$tasks")
export SLURM_ARRAY_TASK_MIN=$(head -n1 <<< "$tasks") SLURM_ARRAY_TASK_MAX=$(tail -n1 <<< "$tasks")
run_task() {
    export SLURM_ARRAY_TASK_ID=$1
    shift
    bash "$@" || touch "$SPOOL/failed"
    while [ -e "$SPOOL/requeue-77_$SLURM_ARRAY_TASK_ID" ]; do
        rm "$SPOOL/requeue-77_$SLURM_ARRAY_TASK_ID"
        rm -f "$SPOOL/failed"
        unset DPRUNE_EMBED_STOP_AFTER
        bash "$@" || touch "$SPOOL/failed"
    done
}
rm -f "$SPOOL/failed"
for task in $tasks; do
    if [ -n "$AT_ONCE" ]; then run_task "$task" "$@" & else run_task "$task" "$@"; fi
done
wait
[ ! -e "$SPOOL/failed" ]
"""
# One step with one task; srun passes signals on. Tasks in DYING are killed once their output has a manifest and claims.
SRUN = """#!/bin/bash
[ "$1" = dprune ] || exit 9
[ -z "$RANK$WORLD_SIZE" ] || exit 8
echo "$SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT" >> "$SPOOL/steps"
export SLURM_STEP_NUM_TASKS=1
shift
case " $DYING " in *" $SLURM_ARRAY_TASK_ID "*)
    "$PYTHON" -m dprune "$@" &
    until [ -e "$4/manifest.json" ] && ls -A "$4" | grep -q '^[.]piece'; do kill -0 $! || break; sleep 0.02; done \
        2> "$SPOOL/silence"
    kill -KILL $!
    exit 137;;
esac
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


def submit(script: Path, environment: dict[str, str], *args: object, array: str = "") -> Result:
    command = ["sbatch", *([f"--array={array}"] if array else []), str(script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PIXELS = ("--model", "pixels", "--image-size", "8", "--workers", "0")


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """Thirty shards of twenty photographs that take seconds to decode, so that a kill finds some of them left."""
    photograph = io.BytesIO()
    Image.open(io.BytesIO(image_bytes(0))).resize((700, 525)).save(photograph, "JPEG")
    pictures = [(f"{i}.jpg", photograph.getvalue()) for i in range(20)]
    for number in range(30):
        write_tar(tmp_path / "larger" / f"{number:06d}.tar", pictures)
    return tmp_path / "larger"


@pytest.mark.slow
def test_an_array_makes_the_store_of_one_process(larger: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    at_once = {**cluster, "AT_ONCE": "yes"}
    submit(SCRIPT, at_once, larger, tmp_path / "array", *PIXELS, array="0-2").ok()
    dprune("embed", larger, *PIXELS, "-o", tmp_path / "one").ok()
    assert content(tmp_path / "array") == content(tmp_path / "one")
    assert sorted((tmp_path / "spool" / "steps").read_text().splitlines()) == ["0 of 3", "1 of 3", "2 of 3"]
    assert not (tmp_path / "spool" / "requeued").exists()


@pytest.mark.slow
def test_what_killed_tasks_leave_the_others_make(larger: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    dying = {**cluster, "AT_ONCE": "yes", "DYING": "1 2"}
    assert submit(SCRIPT, dying, larger, tmp_path / "array", *PIXELS, array="0-3").code == 1
    dprune("embed", larger, *PIXELS, "-o", tmp_path / "one").ok()
    parts = {name for name in content(tmp_path / "array") if name.endswith(".safetensors")}
    assert len(parts) == 30
    again = submit(SCRIPT, cluster, larger, tmp_path / "array", *PIXELS, array="1-2").ok()
    assert again.err.count("up to date") == 2
    assert content(tmp_path / "array") == content(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("array", ["1,3", "3", "100-102", "status"])
def test_an_array_submitted_again_in_part_completes_the_store(
    larger: Path, tmp_path: Path, cluster: dict[str, str], array: str
) -> None:
    dying = {**cluster, "AT_ONCE": "yes", "DYING": "0 1 2 3"}
    assert submit(SCRIPT, dying, larger, tmp_path / "array", *PIXELS, array="0-3").code == 1
    assert len(list((tmp_path / "array").glob("0*.safetensors"))) < 30
    if array == "status":
        array = dprune("status", "--array", "--tasks", 3, tmp_path / "array").out.decode().strip()
        assert array == "0-2"
    submit(SCRIPT, {**cluster, "AT_ONCE": "yes"}, larger, tmp_path / "array", *PIXELS, array=array).ok()
    assert dprune("status", "--array", tmp_path / "array").ok().out.strip() == b""
    dprune("embed", larger, *PIXELS, "-o", tmp_path / "one").ok()
    assert content(tmp_path / "array") == content(tmp_path / "one")


@pytest.mark.slow
def test_each_task_of_a_sweep_makes_all_of_its_output(shards: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    script = tmp_path / "sweep.sbatch"
    script.write_text(
        "#!/bin/bash\n#SBATCH --array=4-6\n"
        'srun dprune embed "$1" --output "$2-$SLURM_ARRAY_TASK_ID" --model pixels --image-size "$SLURM_ARRAY_TASK_ID"\n'
    )
    submit(script, {**cluster, "AT_ONCE": "yes"}, shards, tmp_path / "f").ok()
    for size in (4, 5, 6):
        dprune("embed", shards, "--model", "pixels", "--image-size", size, "-o", tmp_path / "one").ok()
        assert content(tmp_path / f"f-{size}") == content(tmp_path / "one")
        shutil.rmtree(tmp_path / "one")


@pytest.mark.slow
def test_a_stopped_task_is_requeued(shards: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    environment = {**cluster, "DPRUNE_EMBED_STOP_AFTER": "0s"}
    submit(SCRIPT, environment, shards, tmp_path / "array", *PIXELS, array="0").ok()
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
