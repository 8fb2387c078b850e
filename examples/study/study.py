"""What a study consists of: its lines, the runs that they take, and the options of the commands for each run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lines import ORDERS, SCORES, SMALLEST, Line, known_lines

Config = Mapping[str, Any]


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
    def trained(self) -> str:
        """The folder of the run whose model it samples."""
        return f"unpruned-1.0/{self.seed}" if self.line.sampled else self.folder

    @property
    def prefix(self) -> str:
        """What clusters and distances of its candidates are called by."""
        return "tailed-" if self.line.tailed else ""


# What a configuration may leave out. README.md says what each means.
OPTIONAL: dict[str, Any] = {
    "pack": "", "weights": "", "judges": {}, "validation": "", "held_out": "10%",
    "vae": None, "scoring": None, "grand": "", "monotonicity": "", "folds": 0, "fold": None, "moso": "",
    "influence": "", "sigma_min": None, "guided": None, "coarse": None,
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
            raise ValueError(f"{name} needs {key}, which the configuration lacks. Copy it from another.")
    return found


def _needs(config: Config) -> Iterator[tuple[str, str, Any]]:
    """What may be left out, but not by this configuration: what needs it, the key, and its value."""
    if config["latents"] != "pixels":
        yield "latents", "vae", config["vae"]
    runs = runs_of(config)
    for run in runs.values():
        line = run.line
        if line.tailed:
            yield run.name, "tailed", config["tailed"]
        if line.model != "dit":
            yield run.name, f"baselines with {line.model}", config["baselines"].get(line.model)
        if line.scores == "moso":
            yield run.name, "folds and fold", config["folds"] and config["fold"]
        elif line.scores in SCORES or line.curriculum:
            yield run.name, "scoring", config["scoring"]
        if line.scores == "influence":
            # Judges would measure by the images that the subset was chosen for.
            yield run.name, "held_out in place of validation", not config["validation"]
        if line.noisy:
            yield run.name, "sigma_min", config["sigma_min"]
        if line.sampled:
            yield run.name, f"the line unpruned with seed {run.seed}", run.trained in runs
            yield run.name, line.sampled, line.sampled == "unguided" or config[line.sampled]


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
    """The scores by training that these runs choose by, or order their samples by."""
    return {name for run in runs.values() for name in (run.line.scores, run.line.curriculum)} & set(SCORES)


def order(name: str, out: str) -> str:
    """Method, files and options of `dprune score` for an order over features."""
    method, *grouped = ORDERS[name].split()
    return " ".join((method, f"{out}/features", *grouped, *(f"{out}/clusters.safetensors" for _ in grouped)))


def unwanted(config: Config) -> str:
    """What is removed from the folder of a run when its results are there, as patterns of a shell."""
    patterns = {"models": "{dit,small,vae,gan}/{*.safetensors,checkpoints}", "images": "generated generated.done"}
    return " ".join(pattern for kept, pattern in patterns.items() if kept not in config["keep"])


def samplers(run: Run, config: Config) -> list[Run]:
    """Other runs that sample a run's model."""
    return [other for other in runs_of(config).values() if other.line.sampled and other.trained == run.folder]


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


def repeats(run: Run, out: str) -> str:
    """Options of `dprune select` that draw the samples of a run's small clusters as often as those of its largest."""
    clusters = f"{out}/{run.prefix}clusters.safetensors"
    return f"--repeat --clusters {clusters} --within {subset(run, out)} --seed {run.seed}"


def subset(run: Run, out: str) -> str:
    """The samples that a run trains on; its fold is a half of them."""
    return f"{out}/{run.folder}/keep.npy" if run.line.fold is None else f"{out}/unpruned.npy"


def training(run: Run, config: Config, out: str) -> str:
    """Options of `dprune train-dit` for a run: its samples, its model and its steps."""
    fold = "" if run.line.fold is None else f" --fold {run.line.fold}/2"
    unlabelled = config["tailed"]["dit"] if run.line.tailed else ""
    steps = f"--steps {steps_of(run, config)} --batch-size {config['batch']}"
    drawn = "".join(f" {option} {file}" for option, file in weights(run, out).items())
    guides = any(other.line.sampled == "guided" for other in samplers(run, config))
    saved = f" --save-every {config['guided']['step']}" if guides else ""
    return f"--subset {subset(run, out)}{fold}{drawn} {config['dit']} {unlabelled} {steps}{saved} --seed {run.seed}"


def coarse_training(run: Run, config: Config, out: str) -> str:
    """Options of `dprune train-dit` for the small model of a run."""
    steps = f"--steps {config['steps']} --batch-size {config['batch']}"
    return f"--subset {out}/{candidates(run)} {config['coarse']['dit']} {steps} --seed {run.seed}"


def weights(run: Run, out: str) -> dict[str, str]:
    """Options of `dprune train-dit` for how often, when and at which noise samples are drawn, and their files."""
    found = {
        "--weights": f"{out}/{run.folder}/weights.npy" if run.line.oversampled else "",
        "--curriculum": f"{out}/{run.line.curriculum}.npy" if run.line.curriculum else "",
        "--sigma-min": f"{out}/sigma-min.npy" if run.line.noisy else "",
    }
    return {option: file for option, file in found.items() if file}


def steps_of(run: Run, config: Config) -> int:
    """Steps of a run's model."""
    return max(1, round(config["steps"] * float(run.keep))) if run.line.equal_epochs else config["steps"]


def sampling(run: Run, config: Config, out: str, vae: str) -> str:
    """Options of `dprune sample` for a run; baselines draw images, not latents, and without guidance."""
    options = f"--seeds 0-{config['generated'] - 1}"
    if run.line.model != "dit":
        return options
    usual = config["tailed"]["sample"] if run.line.tailed else config["sample"]
    return " ".join((options, f"--vae {vae}", usual, *_sampled(run, config, out)))


def _sampled(run: Run, config: Config, out: str) -> Iterator[str]:
    """Options that take the place of the usual ones, the last of which counts."""
    line = run.line
    if line.sampled:
        yield "--cfg 1" if line.sampled == "unguided" else config[line.sampled]["sample"]
        yield from (f"--{option} {out}/{file}" for option, file in weaker(run, config).items())


def weaker(run: Run, config: Config) -> dict[str, str]:
    """The models beside the unpruned one that a run samples by, inside the folder of the study, by their options."""
    match run.line.sampled:
        case "guided":
            return {"guide": f"{run.trained}/dit/checkpoints/step-{config['guided']['step']:08d}.safetensors"}
        case "coarse":
            return {"coarse": f"{run.folder}/small/model.safetensors"}
    return {}


def network(suffix: str, config: Config) -> str:
    """Options of `dprune embed` for the judge with this suffix."""
    return (config["judges"][suffix[1:]] if suffix else config["embed"]).format(**config)
