"""The study of examples/study: what Snakemake would run, what it makes of the digits, and how it goes on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until, warm_python
from safetensors.numpy import load_file
from test_examples import parse

pytestmark = pytest.mark.skipif(not find_spec("snakemake"), reason="pip install 'dprune[study]'")

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "examples" / "study"


def install(folder: Path, name: str, script: str) -> None:
    """Put a command into the folder's bin."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(script)
    (folder / "bin" / name).chmod(0o755)


def environment(folder: Path, python: str = "") -> dict[str, str]:
    """The environment of an installed dprune."""
    install(folder, "dprune", f'#!/bin/sh\nexec "{python or warm_python()}" -m dprune "$@"\n')
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def command(folder: Path, configuration: str, *args: str, **changed: object) -> list[str]:
    """A command line of Snakemake for a configuration with some keys changed."""
    config = [f"{key}={value}" for key, value in {"out": folder / "out", **changed}.items()]
    snakemake = [sys.executable, "-m", "snakemake", "-d", str(folder), "-s", str(STUDY / "Snakefile")]
    return [*snakemake, "--configfile", str(STUDY / configuration), "--config", *config, "--cores", "2", *args]


def study(folder: Path, configuration: str, *args: str, **changed: object) -> str:
    """What Snakemake says about a study in `folder`, and the plan in front of it."""
    line = command(folder, configuration, *args, **changed)
    done = subprocess.run(line, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(said: str) -> dict[str, int]:
    """How many jobs of each rule a dry run lists."""
    counted = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)\n\n", said, re.MULTILINE | re.DOTALL)
    lines = counted[1].splitlines() if counted else []
    found = {rule: int(count) for rule, count in (line.split() for line in lines)}
    return {rule: count for rule, count in found.items() if rule not in ("all", "total")}


def planned(said: str) -> dict[str, int]:
    """How many jobs of each rule the plan lists."""
    rows = re.findall(r"^(\w+) +([\d,]+) +[\d.,]+ +[\d.,]+ +[\d.,]+$", said, re.MULTILINE)
    return {rule: int(count.replace(",", "")) for rule, count in rows}


PREPARED = {"pack": 1, "unpruned": 1, "encode": 1, "cluster": 1, "distance": 1, "sheet": 1, "train_scoring": 1,
            "grand": 1, "monotonicity": 1, "moso": 1, "tidy_scores": 1}  # fmt: skip
TAILED = {"cluster": 2, "distance": 2, "tailed": 1, "smallest": 1}
# By hand, from the lines of each configuration: chance, three distances, four scores from both ends or three, at four
# ratios or three; of the paper's two at .95 and .99, too, and six newer ones at .75; models of the tailed set, of
# halves, and the baselines; and lines that sample the unpruned model otherwise.
PAPER = 1 + 6 + 6 + 4 + 4 + 1 + 3 * 16 + 6
NEWER = {"order": 3, "repeat": 1}
EXPECTED = {
    "cifar10.yaml": (3 * (1 + (1 + 3 + 8 + 2 + 8) * 3 + 9 + 2 * 2 + 1 + 3 + 1), 6, 24, 9, 2,
                     {"embed": 2, "held_out": 1, "train_fold": 4, "paired": 3, "order": 5, "influence": 1, "near": 1,
                      "sigma_min": 1, "repeat": 3 * 3, "train_coarse": 3} | TAILED),
    "imagenet.yaml": (PAPER + 3, 2, 10, 2, 2, {"embed": 3, "pack_validation": 1, "train_vae": 1, "train_fold": 12,
                                               "paired": 1, "train_coarse": 1} | NEWER | TAILED),
    "celebahq.yaml": (PAPER, 2, 10, 0, 2, {"embed": 3, "pack_validation": 1, "train_vae": 1, "train_fold": 12,
                                           "paired": 1} | NEWER),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("configuration", EXPECTED)
def test_a_dry_run_lists_every_step(configuration: str, tmp_path: Path) -> None:
    subsets, halves, baselines, sampled, judges, shared = EXPECTED[configuration]
    profile = STUDY / ("gpu" if configuration == "cifar10.yaml" else "slurm")
    said = study(tmp_path, configuration, "-n", "--profile", str(profile))
    measured = subsets + baselines + sampled
    each = {"select": measured, "train_dit": subsets + halves, "train_baseline": baselines, "sample": measured + halves,
            "embed_generated": judges * measured + halves, "eval": judges * measured, "memorization": measured,
            "tidy": measured + halves}  # fmt: skip
    expected = {rule: number for rule, number in (PREPARED | shared | each).items() if number}
    assert jobs(said) == expected
    assert planned(said) == expected

    lines = re.findall(r"^Shell command: (?:torchrun.* -m )?dprune (.*)$", said, re.MULTILINE)
    assert len(lines) > 500
    # One of each kind, by the real command line.
    for line in {re.sub(r"[\d.]+", "", line): line for line in lines}.values():
        parse(shlex.split(line))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stpes": 3}, "has a stpes, which means nothing"),
        ({"stages": "[{lines: [el2m]}]"}, "there is no line el2m"),
        ({"stages": "[{lines: [gan]}]"}, "gan needs baselines with gan, which the configuration lacks"),
        ({"stages": "[{lines: [sigma-min]}]"}, "sigma-min needs sigma_min, which the configuration lacks"),
        ({"stages": "[{lines: [unguided]}]"}, "unguided needs the line unpruned with seed 0, which the configuration"),
        ({"stages": "[{lines: [influence]}]", "validation": "val"}, "influence needs held_out in place of validation"),
    ],
)
def test_a_configuration_is_read_with_care(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    line = command(tmp_path, "digits.yaml", "-n", **changed)
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_trainings_take_the_gpus_in_turn(tmp_path: Path) -> None:
    """Each by itself, with its share of all GPUs, or several through torchrun."""
    stages = "[{lines: [unpruned], seeds: [0, 1, 2, 3]}]"
    said = study(tmp_path, "digits.yaml", "-n", latents="pixels", gpus=2, at_once=3, stages=stages)
    trained = r"^Shell command: (.*)dprune train-dit .*/unpruned-1.0/([0-3])/dit$"
    assert {seed: gpu for gpu, seed in re.findall(trained, said, re.MULTILINE)} == {
        str(seed): f"CUDA_VISIBLE_DEVICES={seed % 2} " for seed in range(4)
    }
    assert said.count("gpu_share=16,") == 4 * 5 + 3
    said = study(tmp_path, "digits.yaml", "-n", latents="pixels", gpus_per_training=4, stages=stages)
    torchrun = re.findall(
        r"^Shell command: torchrun --standalone --nproc-per-node=4 -m dprune (\S+)", said, re.MULTILINE
    )
    assert {"train-dit", "sample"} <= set(torchrun)


# Two models of the digits' pixels.
TINY = {"latents": "pixels", "dit": "--arch nano/4 --lr 2e-3 --ema 0.9 --log-every 10", "batch": 16, "steps": 150,
        "generated": 30, "sample": "--steps 2", "scoring": "{steps: 20, save_every: 10}", "grand": "--draws 2",
        "keeps": "[0.5]", "stages": "[{lines: [unpruned]}, {lines: [el2n]}]"}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    said = study(folder, "digits.yaml", **TINY)
    assert "(100%) done" in said
    return folder


def prepared(finished: Path, folder: Path) -> Path:
    """A study of which everything is there but the runs: their subsets, models, images and results."""
    shutil.copytree(finished / "out", folder / "out", ignore=shutil.ignore_patterns("*-1.0", "*-0.5"))
    return folder


def results(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The small files of a study."""
    found = (
        path
        for pattern in patterns or ("*.npy", "*/*/keep.npy", "*/*/*.json")
        for path in folder.glob(f"out/{pattern}")
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_a_finished_study_has_nothing_to_do(finished: Path) -> None:
    assert len(results(finished, "*/*/metrics.json")) == 2
    assert jobs(study(finished, "digits.yaml", "-n", "-q", "rules", **TINY)) == {}


@pytest.mark.slow
def test_newer_lines_go_from_features_and_gradients_to_results(finished: Path, tmp_path: Path) -> None:
    """An order over features, influence, weights, noise levels, and a model that a checkpoint of it guides."""
    prepared(finished, tmp_path)
    names = ("k-center-by-cluster-0.5", "influence-0.5", "oversampled-0.5", "sigma-min-1.0", "guided-1.0")
    stages = f"[{{lines: [unpruned, {', '.join(name.rpartition('-')[0] for name in names)}]}}]"
    more = {"steps": 20, "influence": "--draws 2", "sigma_min": "{keep: 0.25, sigma: 0.5}",
            "guided": "{step: 10, sample: --guide-scale 2}", "stages": stages}  # fmt: skip
    study(tmp_path, "digits.yaml", **TINY | more)
    out = tmp_path / "out"
    assert {path.parts[-3] for path in out.glob("*/*/metrics.json")} == {"unpruned-1.0", *names}

    train = np.load(out / "unpruned.npy")
    weights, kept = np.load(out / "oversampled-0.5/0/weights.npy"), np.load(out / "oversampled-0.5/0/keep.npy")
    assert set(np.flatnonzero(weights)) == set(kept)
    assert weights.sum() > len(kept)
    # A quarter trains at all noise levels, and nothing is known of what is held out.
    levels = np.load(out / "sigma-min.npy")
    assert np.count_nonzero(levels[train] == 0) == round(len(train) / 4)
    assert set(levels) == {np.float32(0), np.float32(0.5)}
    # Ranks are those inside clusters: the first of each are kept.
    ranks, clusters = np.load(out / "k-center-by-cluster.npy"), load_file(out / "clusters.safetensors")["assignment"]
    kept = np.load(out / "k-center-by-cluster-0.5/0/keep.npy")
    for cluster in np.unique(clusters[train]):
        ours, left = (ids[clusters[ids] == cluster] for ids in (kept, np.setdiff1d(train, kept)))
        assert ranks[ours].max() < ranks[left].min()
    for model in ("oversampled-0.5/0/dit", "sigma-min-1.0/0/dit"):
        assert (out / model / "model.safetensors").exists()
    assert not (out / "guided-1.0/0/dit").exists()


def steps(folder: Path) -> int:
    """How many lines the logs of all trainings have on steps."""
    return sum(log.read_text().count("img_per_s") for log in folder.glob("out/*/0/dit/log.jsonl"))


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on(finished: Path, tmp_path: Path) -> None:
    """Stopped in a training, killed in another, and the same bytes at the end."""
    prepared(finished, tmp_path)
    for number, code in ((signal.SIGTERM, 1), (signal.SIGKILL, -signal.SIGKILL)):
        line = command(tmp_path, "digits.yaml", **TINY)
        # A fresh Python dies with its group.
        with subprocess.Popen(line, env=environment(tmp_path, sys.executable), start_new_session=True) as running:
            before = steps(tmp_path)
            wait_until(lambda before=before: steps(tmp_path) > before, 120)
            os.killpg(running.pid, number)
            assert running.wait(60) == code
    assert list(tmp_path.glob("out/*/0/dit/state.safetensors"))
    assert len(results(tmp_path, "*/*/metrics.json")) < 2
    # What is killed cannot take its lock away.
    study(tmp_path, "digits.yaml", "--unlock", **TINY)
    study(tmp_path, "digits.yaml", **TINY)
    assert results(tmp_path) == results(finished)


@pytest.mark.slow
def test_small_results_are_enough(finished: Path, tmp_path: Path) -> None:
    """Without models and images, and with dates in any order, only what a missing result needs is made again."""
    for name, data in results(finished).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    shutil.copy(finished / "out" / "clusters.safetensors", tmp_path / "out")
    os.utime(tmp_path / "out" / "el2n.npy")
    assert jobs(study(tmp_path, "digits.yaml", "-n", "-q", "rules", **TINY)) == {}
    (tmp_path / "out" / "el2n-0.5" / "0" / "metrics.json").unlink()
    one = ("pack", "embed", "encode", "train_dit", "sample", "embed_generated", "eval")
    assert jobs(study(tmp_path, "digits.yaml", "-n", "-q", "rules", **TINY)) == dict.fromkeys(one, 1)


# Runs a job at once, and notes with what resources.
SBATCH = r"""#!/bin/bash
number=1
# Jobs are submitted side by side: whoever makes the folder has the number.
until mkdir "$SPOOL/$number"; do number=$((number + 1)); done 2> /dev/null
for argument; do
    case $argument in --wrap=*) script=${argument#--wrap=} ;; *) printf '%s ' "$argument" ;; esac
done > "$SPOOL/$number.options"
export SLURM_JOB_ID=$number
echo RUNNING > "$SPOOL/$number.state"
(bash -c "$script" &> "$SPOOL/$number.log" && echo COMPLETED > "$SPOOL/$number.state" \
    || echo FAILED > "$SPOOL/$number.state") &> "$SPOOL/$number.shell" &
echo "$number"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
SACCT = """#!/bin/bash
cd "$SPOOL" && grep -H . *.state | sed 's/.state:/|/'
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Stand-ins for SLURM in the folder's bin."""
    scripts = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "sacctmgr": "#!/bin/sh\necho paper\n"}
    for name in ("sinfo", "squeue", "scancel", "scontrol"):
        scripts[name] = "#!/bin/sh\n"
    for name, script in scripts.items():
        install(tmp_path, name, script)
    (tmp_path / "spool").mkdir()
    return tmp_path


SLURM = ("--profile", str(STUDY / "slurm"), "--default-resources", "slurm_account=paper", "slurm_partition=gpu",
         "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
         "--latency-wait", "5")  # fmt: skip


def rule_of(options: str) -> str:
    """The rule or group of a job, by what sbatch is told."""
    return re.findall("--comment rule_([a-z]+)", options)[0]


# The first training stops as if its time were over.
IN_PIECES = r"""#!/bin/bash
[ "$1" != train-dit ] || mkdir "$SPOOL/stopped" || exec "$PYTHON" -m dprune "$@"
[ "$1" != train-dit ] || exec "$PYTHON" -m dprune "$@" --stop-after 0s
exec "$PYTHON" -m dprune "$@"
"""


@pytest.mark.slow
def test_a_cluster_is_asked_for_what_each_job_needs(finished: Path, cluster: Path) -> None:
    """A job a model, with a GPU and the time of all its steps, and one without for what needs none."""
    prepared(finished, cluster)
    changed = TINY | {
        "stages": "[{lines: [nearest]}]",
        "time_limit": 600,
        "rates": "{train: 100, sample: 100, embed: 100}",
        "mem_mb": 3000,
    }
    line = command(cluster, "digits.yaml", *SLURM, **changed)
    variables = environment(cluster) | {"SPOOL": str(cluster / "spool"), "PYTHON": warm_python()}
    install(cluster, "dprune", IN_PIECES)
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(cluster, "nearest-0.5/0/metrics.json")
    asked = [path.read_text() for path in cluster.glob("spool/*.options")]
    assert {rule_of(options) for options in asked} == {"distance", "sheet", "run"}
    for options in asked:
        alone = rule_of(options) != "run"
        # Twenty minutes a step, and one for what each takes by its rate.
        assert f"-A paper -p gpu -t {60 if alone else 10 + 3 * 21 + 2 * 20} --mem 3000 " in options
        assert re.findall("--gpus=([0-9]+)", options) == ([] if alone else ["1"])
    # What stopped before its limit went on: the log of the training begins twice.
    assert (cluster / "out/nearest-0.5/0/dit/log.jsonl").read_text().count("start") == 2


def test_pictures_that_were_kept_are_on_the_page_without_the_images(tmp_path: Path) -> None:
    """Grids of an earlier report, where only small results are left; there is no map without generated samples."""
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/b.png", "pictures/a.png", "pictures/notes.txt", "clusters.png"):
        (tmp_path / name).touch()
    shown = [f"--picture {tmp_path / name}" for name in ("clusters.png", "pictures/a.png", "pictures/b.png")]
    expected = f"--expect {tmp_path / 'expected.csv'}"
    assert arguments(tmp_path) == " ".join([*shown, expected]).split()
    for name in ("features.done", "clusters.safetensors"):
        (tmp_path / name).touch()
    assert arguments(tmp_path) == " ".join([*shown, expected]).split()
    (tmp_path / "nearest-0.5/0").mkdir(parents=True)
    (tmp_path / "nearest-0.5/0/features.done").touch()
    clusters, generated = tmp_path / "clusters.safetensors", tmp_path / "nearest-0.5/0/features"
    mapped = f"--train {tmp_path / 'features'} --clusters {clusters} --generated {generated}"
    assert arguments(tmp_path) == " ".join([*shown, mapped, expected]).split()


def arguments(out: Path) -> list[str]:
    """What a study of the digits in a folder gives to `dprune report`."""
    code = (
        "import sys, yaml, study, results\n"
        "config = {**yaml.safe_load(open('digits.yaml')), 'out': sys.argv[1]}\n"
        "print(results.arguments(study.complete(config)))"
    )
    found = subprocess.run([sys.executable, "-c", code, out], cwd=STUDY, capture_output=True, text=True, check=True)
    return found.stdout.split()
