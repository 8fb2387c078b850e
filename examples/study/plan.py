"""What a study costs: jobs, GPU-hours and time limits, from the measured rates of its configuration.

python plan.py imagenet.yaml            what is missing
python plan.py imagenet.yaml --gpus 16  and how long that takes on so many GPUs
"""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict
from collections.abc import Iterator

import study
import yaml
from study import Config, Run

# A job may take this many times what its rate says, and this many minutes to begin.
PATIENCE, START = 1.5, 20
# A job stops by itself this many minutes before its limit, and goes on in the next.
MARGIN = 5
# Rules whose jobs share their work among the GPUs of a training.
SPREAD = {"train_vae", "train_scoring", "grand", "monotonicity", "train_fold", "moso", "influence", "train_dit",
          "train_coarse", "train_baseline", "sample"}  # fmt: skip


def work(rule: str, config: Config, run: Run | None) -> tuple[float, str]:
    """How many images a job of this rule passes through a network, and the rate that says how fast."""
    samples, batch = config["samples"], config["batch"]
    match rule:
        case "embed" | "encode":
            return samples, rule
        case "embed_generated":
            return config["generated"], "embed"
        case "train_vae":
            return config["vae"]["steps"] * config["vae"]["batch"], "autoencoder"
        case "train_scoring":
            return config["scoring"]["steps"] * batch, "train"
        case "train_fold":
            return config["fold"]["steps"] * batch, "train"
        case "grand":
            return samples * draws(config["grand"]), "grand"
        case "monotonicity":
            return samples * draws(config["monotonicity"]) * checkpoints(config), "loss"
        case "moso":
            return samples * draws(config["moso"]) * config["fold"]["checkpoints"], "moso"
        case "influence":
            return samples * draws(config["influence"]), "moso"
        case "train_dit":
            return study.steps_of(run, config) * batch, "train"
        case "train_coarse":
            return config["steps"] * batch, "train_coarse"
        case "train_baseline":
            baseline = config["baselines"][run.line.model]
            return baseline["steps"] * baseline["batch"], f"train_{run.line.model}"
        case "sample":
            return config["generated"], "sample" if run.line.model == "dit" else f"sample_{run.line.model}"
    return 0, ""


def draws(options: str) -> int:
    """Noises of each sample that a score is the mean of."""
    words = options.split()
    return int(words[words.index("--draws") + 1]) if "--draws" in words else 8


def checkpoints(config: Config) -> int:
    """How many checkpoints the scoring run keeps."""
    steps, every = config["scoring"]["steps"], config["scoring"]["save_every"]
    return math.ceil(steps * config["batch"] / config["samples"]) if every == "epoch" else steps // every


def hours(rule: str, config: Config, run: Run | None = None) -> float:
    """GPU-hours of a job of this rule; none where the configuration has no rate."""
    images, rate = work(rule, config, run)
    return images / config["rates"][rate] / 3600 if config["rates"].get(rate) else 0.0


def minutes(rule: str, config: Config, run: Run | None = None) -> int:
    """How long a job may take, whatever the limit of the machine; a training without a rate takes all of that."""
    if rule.startswith("train_") and not hours(rule, config, run):
        return config["time_limit"] or START
    gpus = config["gpus_per_training"] if rule in SPREAD else 1
    alone = hours(rule, config, run) * config["at_once"] / gpus
    return math.ceil(START + PATIENCE * 60 * alone)


def limit(rule: str, config: Config, run: Run | None = None) -> int:
    """The time limit of a job in minutes."""
    needed, most = minutes(rule, config, run), config["time_limit"]
    if rule.startswith("train_") and run is not None:
        # One job of a cluster does all of a run.
        most -= sum(minutes(other, config, run) for other, _ in pipeline(run, config) if other != rule)
    return min(needed, max(most, 2 * MARGIN)) if config["time_limit"] else needed


def pieces(rule: str, config: Config) -> int:
    """How often a job may be tried again: as often as its time limit can cut it, and twice more for other trouble."""
    shared: list[Run | None] = [None for name, _ in preparation(config) if name == rule]
    runs = [run for run in study.runs_of(config).values() if rule in dict(pipeline(run, config))]
    needed = max((minutes(rule, config, run) for run in shared + runs), default=0)
    return 2 + (needed // (config["time_limit"] - MARGIN) if config["time_limit"] else 0)


def pipeline(run: Run, config: Config) -> Iterator[tuple[str, str]]:
    """The jobs that make a run's results: their rules, and the files in its folder that tell that they are done."""
    if run.line.fold is None:
        yield "select", "keep.npy"
    if run.line.oversampled:
        yield "repeat", "weights.npy"
    if run.line.sampled == "coarse":
        yield "train_coarse", "small/model.safetensors"
    elif not run.line.sampled:
        yield "train_dit" if run.line.model == "dit" else "train_baseline", f"{run.line.model}/model.safetensors"
    yield "sample", "generated.done"
    for judge in study.judges_of(config) if run.line.fold is None else [""]:
        yield "embed_generated", f"features{judge}.done"
    for result in study.results_of(run, config):
        yield "eval" if result.startswith("metrics") else "memorization", result
    if study.unwanted(config):
        yield "tidy", "tidied"


def preparation(config: Config) -> Iterator[tuple[str, str]]:
    """The jobs that runs share, likewise."""
    runs = study.runs_of(config).values()
    tails = ["", "tailed-"] if any(run.line.tailed for run in runs) else [""]
    yield "pack", "images.done"
    for judge in study.judges_of(config):
        if not (judge and config["validation"]):
            yield "embed", f"features{judge}.done"
        if config["validation"]:
            yield "embed", f"validation-features{judge}.done"
    yield ("pack_validation", "validation.done") if config["validation"] else ("held_out", "held-out.npy")
    yield "unpruned", "unpruned.npy"
    if config["latents"] == "vae":
        if not config["validation"]:
            yield "pack_training", "training.done"
            yield "pack_held_out", "held-out.done"
        yield "train_vae", "vae/model.safetensors"
    yield "encode", "latents.done"
    if len(tails) > 1:
        yield "tailed", "tailed.npy"
    for tail in tails:
        yield "cluster", f"{tail}clusters.safetensors"
        mine = [run.line for run in runs if run.prefix == tail]
        if any(line.scores == "distance" or line.noisy for line in mine):
            yield "distance", f"{tail}distance.npy"
            if not tail and any(line.scores == "distance" for line in mine):
                yield "sheet", "clusters.png"
        if any(study.SMALLEST in (line.keeps or ()) and line.quota != "equal" for line in mine):
            yield "smallest", f"{tail}{study.SMALLEST}.npy"
    if any(run.line.noisy for run in runs):
        yield from (("near", "near.npy"), ("sigma_min", "sigma-min.npy"))
    for order in study.ORDERS:
        if any(run.line.scores == order for run in runs):
            yield "order", f"{order}.npy"
    scores = study.scores_of(study.runs_of(config))
    yield from _scoring(config, scores)
    if "models" not in config["keep"] and scores:
        yield "tidy_scores", "scores.tidied"
    for pair in study.pairs_of(config):
        yield "paired", pair


def _scoring(config: Config, scores: set[str]) -> Iterator[tuple[str, str]]:
    if scores & {"el2n", "grand", "monotonicity", "influence"}:
        yield "train_scoring", "scoring/model.safetensors"
    if scores & {"el2n", "grand"}:
        yield "grand", "grand.npy"
    if "monotonicity" in scores:
        yield "monotonicity", "monotonicity.npy"
    if "influence" in scores:
        yield "influence", "influence.npy"
    if "moso" in scores:
        for fold in range(config["folds"]):
            yield "train_fold", f"fold-{fold}/model.safetensors"
        yield "moso", "moso.npy"


def table(config: Config, gpus: int) -> str:
    """What a whole study takes, and what is left of it where some results are there."""
    out, jobs, left = config["out"], defaultdict(list), defaultdict(float)
    runs = study.runs_of(config)
    missing = {folder for folder, run in runs.items() if not all(map(os.path.exists, study.outcome(run, config, out)))}
    for rule, file in preparation(config):
        jobs[rule].append(hours(rule, config))
        left[rule] += hours(rule, config) if missing and not os.path.exists(f"{out}/{file}") else 0
    for folder, run in runs.items():
        for rule, file in pipeline(run, config):
            jobs[rule].append(hours(rule, config, run))
            undone = folder in missing and not os.path.exists(f"{out}/{folder}/{file}")
            left[rule] += jobs[rule][-1] if undone else 0
    # Models whose images were measured, and that are wanted once more.
    for folder in {runs[folder].trained for folder in missing} - missing:
        again = not os.path.exists(f"{out}/{folder}/dit/model.safetensors")
        left["train_dit"] += hours("train_dit", config, runs[folder]) if again else 0
    total, rest = sum(map(sum, jobs.values())), sum(left.values())
    lines = [f"{'step':16}{'jobs':>7}{'GPU-hours each':>16}{'all':>10}{'left':>10}"]
    for rule, each in jobs.items():
        lines.append(f"{rule:16}{len(each):7,}{sum(each) / len(each):16,.3f}{sum(each):10,.2f}{left[rule]:10,.2f}")
    lines.append(f"{'in all':16}{sum(map(len, jobs.values())):7,}{'':16}{total:10,.2f}{rest:10,.2f}")
    on = f"{gpus} GPUs" if gpus > 1 else "one GPU"
    lines.append(f"{len(runs):,} trainings, of which {len(runs) - len(missing):,} are measured. "
                 f"What is left takes {rest / gpus:,.1f} hours on {on}.")  # fmt: skip
    unknown = sorted({rate for rate in _rates(config) if rate and not config["rates"].get(rate)})
    if unknown:
        lines.append(f"Counted as nothing, since rates has no number for them: {', '.join(unknown)}.")
    return "\n".join(lines)


def _rates(config: Config) -> Iterator[str]:
    yield from (work(rule, config, None)[1] for rule, _ in preparation(config))
    for run in study.runs_of(config).values():
        yield from (work(rule, config, run)[1] for rule, _ in pipeline(run, config))


def main() -> None:
    """Print the table of a configuration."""
    parser = argparse.ArgumentParser(description="What a study costs, from the measured rates of its configuration.")
    parser.add_argument("configuration", help="such as imagenet.yaml")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs that share the study [default: 1]")
    arguments = parser.parse_args()
    try:
        with open(arguments.configuration, encoding="utf-8") as file:
            print(table(study.complete(yaml.safe_load(file)), arguments.gpus))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
