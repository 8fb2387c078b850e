"""What a study consists of: its lines, the runs that they take, and the options of the commands for each run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Config = Mapping[str, Any]

# A high score is what these methods keep; their inverse and middle show if that matters.
SCORES = ("el2n", "grand", "monotonicity", "moso")
ENDS = {"": "highest", "-inverse": "lowest", "-middle": "middle"}
# What equal quotas leave, of which each cluster gives as many as the smallest has.
SMALLEST = "smallest"


@dataclass(frozen=True)
class Line:
    """A way to choose a subset, and the model that is trained on it: one line of the report.

    `keeps` are shares, where they are not those of the configuration. The candidates are the unpruned samples, or a
    long-tailed subset of them. `fold` is one of two disjoint halves, in place of a subset. At equal epochs, a model has
    as many steps as go with the size of its subset.
    """

    scores: str | None = None
    order: str = "random"
    in_clusters: bool = False
    quota: str = "proportional"
    keeps: tuple[str, ...] | None = None
    model: str = "dit"
    tailed: bool = False
    fold: int | None = None
    equal_epochs: bool = False


def known_lines() -> dict[str, Line]:
    """All lines that a configuration can name."""
    distance = Line("distance", "lowest", in_clusters=True)
    lines = {
        "unpruned": Line(keeps=("1.0",)),
        "random": Line(),
        "random-by-cluster": Line(in_clusters=True),
        "nearest": distance,
        "middle": replace(distance, order="middle"),
        "furthest": replace(distance, order="highest"),
        "equal": replace(distance, quota="equal"),
        "balanced": replace(distance, quota="equal", keeps=(SMALLEST,)),
        "proportional": replace(distance, keeps=(SMALLEST,)),
        "vae": Line(model="vae"),
        "gan": Line(model="gan"),
    }
    for score, (end, order) in itertools.product(SCORES, ENDS.items()):
        lines[score + end] = Line(score, order)
        lines[f"{score}{end}-by-cluster"] = Line(score, order, in_clusters=True)
    epochs = {f"{name}-epochs": replace(line, equal_epochs=True) for name, line in lines.items()}
    tailed = ("unpruned", "random", "balanced", "proportional")
    tails = {f"tailed-{name}": replace(lines[name], tailed=True) for name in tailed}
    halves = {f"half-{fold}": Line(keeps=("0.5",), fold=fold) for fold in (0, 1)}
    return lines | epochs | tails | halves


@dataclass(frozen=True)
class Run:
    """One training: a line at one size of the subset and one seed. `stage` is its place in the configuration."""

    name: str
    line: Line
    keep: str
    seed: int
    stage: int

    @property
    def folder(self) -> str:
        """Where its results go, inside the folder of the study."""
        return f"{self.name}-{self.keep}/{self.seed}"

    @property
    def prefix(self) -> str:
        """What clusters and distances of its candidates are called by."""
        return "tailed-" if self.line.tailed else ""


# What a configuration may leave out. README.md says what each means.
OPTIONAL: dict[str, Any] = {
    "pack": "", "weights": "", "judges": {}, "validation": "", "held_out": "10%",
    "vae": None, "scoring": None, "grand": "", "monotonicity": "", "folds": 0, "fold": None, "moso": "",
    "baselines": {}, "tailed": None, "seeds_first": False, "keep": ["models", "images"],
    "gpus": 1, "at_once": 1, "gpus_per_training": 1, "cpus": 1, "mem_mb": 8000, "time_limit": 0, "rates": {},
}  # fmt: skip
REQUIRED = ("out", "images", "samples", "embed", "cluster", "latents", "dit", "steps", "batch", "sample",
            "generated", "keeps", "seeds", "stages")  # fmt: skip


def complete(config: Config) -> Any:
    """A configuration with everything that may be left out. Raises a ValueError for what it lacks or does not know."""
    for key in REQUIRED:
        if key not in config:
            raise ValueError(f"The configuration has no {key}. Begin with a copy of one beside the Snakefile.")
    for key in config:
        if key not in REQUIRED and key not in OPTIONAL:
            raise ValueError(f"The configuration has a {key}, which means nothing. Correct or remove it.")
    found = _with_numbers({**OPTIONAL, **config})
    for name, key, value in _needs(found):
        if not value:
            raise ValueError(f"{name} needs {key}, which the configuration lacks. Copy that of imagenet.yaml.")
    return found


def _needs(config: Config) -> Iterator[tuple[str, str, Any]]:
    """What may be left out, but not by this configuration: what needs it, the key, and its value."""
    if config["latents"] != "pixels":
        yield "latents", "vae", config["vae"]
    for run in runs_of(config).values():
        line = run.line
        if line.tailed:
            yield run.name, "tailed", config["tailed"]
        if line.model != "dit":
            yield run.name, f"baselines with {line.model}", config["baselines"].get(line.model)
        if line.scores == "moso":
            yield run.name, "folds and fold", config["folds"] and config["fold"]
        elif line.scores in SCORES:
            yield run.name, "scoring", config["scoring"]


def _with_numbers(value: Any) -> Any:
    """Numbers inside `--config 'scoring={steps: 10}'` come as text."""
    if isinstance(value, dict):
        return {key: _with_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_numbers(each) for each in value]
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def runs_of(config: Config) -> dict[str, Run]:
    """All trainings of a configuration by their folders, in the order in which they should begin."""
    lines, found = known_lines(), {}
    for stage, part in enumerate(config["stages"]):
        for name, seed in itertools.product(part["lines"], part.get("seeds", config["seeds"])):
            if name not in lines:
                raise ValueError(f"stages: there is no line {name}. The lines are {', '.join(lines)}.")
            for keep in lines[name].keeps or part.get("keeps", config["keeps"]):
                run = Run(name, lines[name], str(keep), seed, stage)
                found.setdefault(run.folder, run)
    return found


def results_of(run: Run, config: Config) -> list[str]:
    """The small files, inside its folder, that a run is for. Halves of the dataset are compared with each other."""
    if run.line.fold is not None:
        return []
    return [*(f"metrics{judge}.json" for judge in judges_of(config)), "memorization.json"]


def pairs_of(config: Config) -> dict[str, tuple[str, str]]:
    """The result of each pair of models of disjoint halves, and the folders of their runs."""
    seeds = {run.seed: run.keep for run in runs_of(config).values() if run.line.fold is not None}
    return {f"halves/{seed}/paired.json": (f"half-0-{keep}/{seed}", f"half-1-{keep}/{seed}")
            for seed, keep in seeds.items()}  # fmt: skip


def outcome(run: Run, config: Config, out: str) -> list[str]:
    """The files for whose sake a run is there."""
    pairs = [f"{out}/{path}" for path, folders in pairs_of(config).items() if run.folder in folders]
    return pairs or [f"{out}/{run.folder}/{file}" for file in results_of(run, config)]


def judges_of(config: Config) -> list[str]:
    """The suffixes of the networks that measure: none of the one that also clusters, and the names of others."""
    return ["", *(f"-{name}" for name in config["judges"])]


def scores_of(runs: Mapping[str, Run]) -> set[str]:
    """The scores by training that these runs choose by."""
    return {run.line.scores for run in runs.values()} & set(SCORES)


def unwanted(config: Config) -> str:
    """What is removed from the folder of a run when its results are there, as patterns of a shell."""
    patterns = {"models": "{dit,vae,gan}/{*.safetensors,checkpoints}", "images": "generated generated.done"}
    return " ".join(pattern for kept, pattern in patterns.items() if kept not in config["keep"])


def held_out(config: Config, out: str) -> str:
    """Real images that no model sees: features of a validation set, or a share of the dataset."""
    return f"{out}/validation-features" if config["validation"] else f"{out}/held-out.npy"


def comparison(run: Run, judge: str, config: Config, out: str) -> str:
    """The reference of `dprune eval` and its options: all images, or by judges those of a validation set if any.

    Models of the long-tailed set are asked how far the shares that they generate follow those of their own images.
    """
    if judge and config["validation"]:
        return f"{out}/validation-features{judge}"
    options = f"--clusters {out}/{run.prefix}clusters.safetensors" if not judge else ""
    trained_on = f"--trained-on {out}/{run.folder}/keep.npy" if run.line.tailed else ""
    real = held_out(config, out) + (judge if config["validation"] else "")
    return f"{out}/features{judge} {options} {trained_on} --held-out {real}"


def compared(run: Run, judge: str, config: Config, out: str) -> list[str]:
    """The files that tell that these are complete."""
    clusters = f"{out}/{run.prefix}clusters.safetensors"
    if not config["validation"]:
        return [f"{out}/features{judge}.done", clusters, f"{out}/held-out.npy"]
    validation = f"{out}/validation-features{judge}.done"
    return [validation] if judge else [f"{out}/features.done", clusters, validation]


def reads(run: Run) -> list[str]:
    """What choosing a run's subset reads, inside the folder of the study."""
    line, prefix = run.line, run.prefix
    needed = [candidates(run)]
    if line.in_clusters:
        needed.append(f"{prefix}clusters.safetensors")
    if line.scores:
        needed.append(f"{prefix}{line.scores}.npy")
    if run.keep == SMALLEST and line.quota != "equal":
        needed.append(f"{prefix}{SMALLEST}.npy")
    return needed


def candidates(run: Run) -> str:
    """The samples that a run's subset is chosen from."""
    return "tailed.npy" if run.line.tailed else "unpruned.npy"


def selection(run: Run, out: str) -> str:
    """Options of `dprune select`, from files of the study's folder `out`.

    The seed also draws the subset and breaks ties: one subset cannot show what chance does.
    """
    return " ".join(_selection(run, f"{out}/{run.prefix}")) + f" --within {out}/{candidates(run)} --seed {run.seed}"


def _selection(run: Run, path: str) -> Iterator[str]:
    line = run.line
    if line.scores:
        yield f"{path}{line.scores}.npy"
    yield f"--order {line.order}"
    if run.keep != SMALLEST:
        yield f"--keep {run.keep}"
    elif line.quota != "equal":
        yield f"--as-many-as {path}{SMALLEST}.npy"
    if line.in_clusters:
        yield f"--clusters {path}clusters.safetensors"
    if line.quota == "equal":
        yield "--quota equal"


def subset(run: Run, out: str) -> str:
    """The samples that a run trains on; its fold is a half of them."""
    return f"{out}/{run.folder}/keep.npy" if run.line.fold is None else f"{out}/unpruned.npy"


def training(run: Run, config: Config, out: str) -> str:
    """Options of `dprune train-dit` for a run: its samples, its model and its steps."""
    fold = "" if run.line.fold is None else f" --fold {run.line.fold}/2"
    unlabelled = config["tailed"]["dit"] if run.line.tailed else ""
    steps = f"--steps {steps_of(run, config)} --batch-size {config['batch']}"
    return f"--subset {subset(run, out)}{fold} {config['dit']} {unlabelled} {steps} --seed {run.seed}"


def steps_of(run: Run, config: Config) -> int:
    """Steps of a run's model."""
    return max(1, round(config["steps"] * float(run.keep))) if run.line.equal_epochs else config["steps"]


def sampling(run: Run, config: Config, vae: str) -> str:
    """Options of `dprune sample` for a run; baselines draw images, not latents, and without guidance."""
    options = f"--seeds 0-{config['generated'] - 1}"
    if run.line.model != "dit":
        return options
    return f"{options} --vae {vae} {config['tailed']['sample'] if run.line.tailed else config['sample']}"


def network(suffix: str, config: Config) -> str:
    """Options of `dprune embed` for the judge with this suffix."""
    return (config["judges"][suffix[1:]] if suffix else config["embed"]).format(**config)
