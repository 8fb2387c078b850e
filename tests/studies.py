"""Result files as a study would leave them, fabricated: real chains of provenance, numbers from a formula."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dprune.formats.provenance import digest, make_record, parent_record
from dprune.formats.publish import publish_json
from dprune.formats.results import write_result
from dprune.reporting.study.factors import count_seeds

FINGERPRINT = "f" * 64
TOTAL = 2000


def mark(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def made(record: dict[str, Any]) -> dict[str, Any]:
    """A record as the input of another file."""
    return parent_record(record, digest(record))


@dataclass(frozen=True)
class Run:
    """One trained and sampled model; the defaults are an unpruned one.

    Attributes:
        scores: command of the scores, `random` for none, `` for no subset.
        seeds: of single commands, in place of `seed`.
        packed: whether the training set was packed, so that the autoencoder may be trained on it, too.
        grouped: whether samples were chosen inside each cluster.
        baseline: `vae` or `gan` for such a model in the place of a DiT.
        network: what `encode` says of the latents; pixels have no autoencoder.
        drawn: what else the training was told of the samples, such as their `weights`.
        beside: runs whose models take part in drawing, `coarse` or `guide`.
    """

    scores: str = ""
    order: str = "lowest"
    keep: str | None = "0.25"
    seed: int = 0
    seeds: dict[str, int] = field(default_factory=dict)
    k: int = 24
    select: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    embed: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    packed: bool = False
    own_vae: bool = False
    vae_of: Run | None = None
    data: str = "digits"
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    subset: dict[str, Any] | None = None
    without: bool = False
    grouped: bool = True
    baseline: str = ""
    network: dict[str, Any] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Run] = field(default_factory=dict)

    def seed_of(self, command: str) -> int:
        return self.seeds.get(command, self.seed)

    def pack(self) -> dict[str, Any]:
        return make_record("pack", {"shard_size": 100}, parents={"images": parent_record(None, mark(self.data))})

    def features(self) -> dict[str, Any]:
        options = {"model": "inception", "dtype": "float16", **self.embed}
        return make_record("embed", options, parents={"shards": made(self.pack())})

    def clusters(self) -> dict[str, Any]:
        parents = {"features": parent_record(self.features(), mark("features", self.data))}
        return make_record("cluster", {"k": self.k, "metric": "l2"}, seed=self.seed_of("cluster"),
                           fingerprint=FINGERPRINT, parents=parents)  # fmt: skip

    def held_out(self) -> dict[str, Any]:
        return make_record("select", {"keep": "0.1", "order": "random"}, seed=0, parents={"groups": made(self.pack())})

    def chosen(self) -> dict[str, Any] | None:
        """The training subset as an input."""
        if self.subset is not None or not self.scores:
            return self.subset
        options = {"order": self.order, **({"keep": self.keep} if self.keep else {}), **self.select}
        parents = {"clusters": made(self.clusters())} if self.grouped else {}
        if self.scores != "random":
            parents["scores"] = made(
                make_record(f"score {self.scores}", self.score, seed=self.seed_of("score"),
                            parents={"clusters": made(self.clusters())}, tags=self.tags.get("score"))
            )  # fmt: skip
        if self.without:
            parents["without"] = made(self.held_out())
        return made(make_record("select", options, seed=self.seed_of("select"), fingerprint=FINGERPRINT,
                                parents=parents, tags=self.tags.get("select")))  # fmt: skip

    def shards(self, *, pruned: bool) -> dict[str, Any]:
        subset = self.chosen()
        if not pruned or subset is None:
            return self.pack()
        return make_record("pack", {"shard_size": 100}, parents={"shards": made(self.pack()), "subset": subset})

    @property
    def count(self) -> int:
        """Images that are asked for."""
        return int(count_seeds(self.sample.get("seeds", "0-499")))

    @property
    def kept(self) -> int:
        """Samples that are trained on."""
        share = self.chosen() is not None and self.keep and "." in self.keep
        return self.samples or (round(float(self.keep) * TOTAL) if share else TOTAL)

    def generated(self) -> dict[str, Any]:
        """Provenance of the generated features."""
        networks = self.networks() | {role: run.networks()["model"] for role, run in self.beside.items()}
        options = {"seeds": "0-499", **({} if self.baseline else {"steps": 20, "cfg": 2.0})}
        images = make_record("sample", options | self.sample, parents=networks, tags=self.tags.get("sample"))
        return make_record("embed", {"model": "inception", "dtype": "float16", **self.embed},
                           parents={"shards": made(images)}, tags=self.tags.get("embed"))  # fmt: skip

    def networks(self) -> dict[str, Any]:
        """Provenance of the model and its autoencoder."""
        counts = {"samples": self.kept, "of": self.kept if self.packed else TOTAL}
        if self.baseline:
            parents, subset = {"shards": made(self.shards(pruned=self.packed))}, self.chosen()
            parents |= {"subset": subset} if subset and not self.packed else {}
            options = {"width": 64, "latent_size": 128, "flip": False, "steps": 900, "batch_size": 128, **counts}
            command, seed = f"train-baseline {self.baseline}", self.seed_of("train-dit")
            model = make_record(command, options | self.train, seed=seed, parents=parents)
            return {"model": made(model)}
        vae = make_record("train-vae", {"steps": 900, "width": 16}, seed=self.seeds.get("train-vae", 0),
                          parents={"shards": made((self.vae_of or self).shards(pruned=self.own_vae))})  # fmt: skip
        decoder = {} if self.network.get("kind") == "pixels" else {"vae": made(vae)}
        latents = make_record("encode", {"flips": False, **({"network": self.network} if self.network else {})},
                              parents={"shards": made(self.shards(pruned=self.packed)), **decoder})  # fmt: skip
        parents, subset = {"latents": made(latents), **self.drawn}, self.chosen()
        if subset and not self.packed:
            parents["subset"] = subset
        options = {"arch": "nano/2", "steps": 500, "batch_size": 64, **counts, **self.train}
        model = make_record(
            "train-dit", options, seed=self.seed_of("train-dit"), parents=parents, tags=self.tags.get("train-dit")
        )
        return {"model": made(model), **decoder}


def write_metrics(path: Path, run: Run, metrics: dict[str, Any] | None = None, *, details: dict[str, Any] | None = None,
                  options: dict[str, Any] | None = None, tags: dict[str, str] | None = None, seed: int = 0,
                  counts: dict[str, Any] | None = None, **parents: Any) -> Path:  # fmt: skip
    """A file of `dprune eval`; numbers that are not given come from a formula."""
    generated = made(run.generated())
    inputs = {"generated": generated, "reference": parent_record(run.features(), mark("features", run.data)), **parents}
    record = make_record("eval", {"metrics": ["fid"], "jackknife": 20, **(options or {})}, seed=seed, parents=inputs,
                         tags=tags)  # fmt: skip
    is_own = "subset" in parents and parents["subset"] == run.chosen()
    sizes = {"generated": run.count, "reference": run.kept if is_own else TOTAL, **(counts or {})}
    sides = [_side(role, sizes[role], inputs[role]) for role in ("generated", "reference")]
    write_result(path, "metrics", quality(run) if metrics is None else metrics, details or {}, sides, record)
    return path


def write_memorization(path: Path, run: Run, metrics: dict[str, Any] | None = None, *,
                       details: dict[str, Any] | None = None, options: dict[str, Any] | None = None,
                       counts: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A file of `dprune memorization`."""
    parents = {"generated": made(run.generated()), "train": parent_record(run.features(), mark("features", run.data)),
               "held_out": made(run.held_out())}  # fmt: skip
    if (subset := run.chosen()) is not None and not run.packed:
        parents["subset"] = subset
    record = make_record("memorization", {"neighbours": 50, "alpha": 0.5, **(options or {})}, seed=0, parents=parents)
    train = TOTAL if (options or {}).get("full") else run.kept
    sizes = {"generated": run.count, "train": train, "held_out": 200, **(counts or {})}
    sides = [_side(role, sizes[role], parents[role]) for role in ("generated", "train", "held_out")]
    if details is None:
        details = histograms(run)
    write_result(path, "memorization", copies(run) if metrics is None else metrics, details, sides, record)
    return path


def _side(role: str, count: int | tuple[int, int] | None, parent: dict[str, Any]) -> dict[str, Any]:
    """A side of a result; a pair is of those that took part, and those that were dropped."""
    count, dropped = count if isinstance(count, tuple) else (count, 0)
    return {"role": role, "count": count, "dropped": dropped, "dimension": 64, "model": "inception",
            "digest": parent["digest"]}  # fmt: skip


def _severity(run: Run) -> tuple[float, np.random.Generator]:
    pruned = 1 - float(run.keep) if run.scores and run.keep and "." in run.keep else 0.0
    draw = np.random.default_rng(int(mark(run.scores, run.order, run.keep, run.seed, run.k, run.embed)[:8], 16))
    harm = {"lowest": 1.0, "highest": 1.6, "middle": 0.8, "interval": 0.6, "random": 0.7}[run.order]
    return pruned * harm + float(draw.normal(0, 0.03)), draw


def quality(run: Run) -> dict[str, Any]:
    """Quality that falls with pruning."""
    bad, draw = _severity(run)
    found = {"frechet_distance": 12 + 30 * bad**2, "inception_score": None, "precision": 0.72 - 0.15 * bad,
             "recall": 0.61 - 0.3 * bad, "f_score": 0.66 - 0.2 * bad, "density": 0.9 - 0.2 * bad,
             "coverage": 0.83 - 0.35 * bad, "kid": 0.002 + 0.01 * bad, "cmmd": 0.4 + bad, "prd_f_8": 0.9 - 0.2 * bad,
             "prd_f_1_8": 0.93 - 0.1 * bad, "vendi": 21 - 9 * bad, "cluster_total_variation": 0.05 + 0.2 * bad,
             "cluster_entropy": 2.2 - 0.3 * bad, "cluster_smallest_share": 0.04 - 0.02 * bad}  # fmt: skip
    errors = {f"{key}_se": None if value is None else abs(value) * 0.02 for key, value in found.items()}
    assert draw is not None
    return found | errors


def shares(run: Run, groups: int = 10) -> dict[str, Any]:
    """Details of quality: shares and a precision-recall curve."""
    bad, draw = _severity(run)
    reference = draw.dirichlet(np.full(groups, 8.0))
    generated = reference * np.exp(draw.normal(0, 0.1 + 0.4 * abs(bad), groups))
    angles = np.linspace(0.01, np.pi / 2 - 0.01, 1001)
    recall = np.minimum(1, np.cos(angles) * 1.2) * (1 - 0.3 * bad)
    precision = np.minimum(1, np.sin(angles) * 1.2) * (1 - 0.15 * bad)
    table = {"names": list(range(groups)), "generated": (generated / generated.sum()).tolist(),
             "reference": reference.tolist()}  # fmt: skip
    return {"shares": {"cluster": table}, "prd": {"precision": precision.tolist(), "recall": recall.tolist()}}


def copies(run: Run) -> dict[str, Any]:
    """Distances to the training set."""
    bad, _ = _severity(run)
    return {"nearest_distance_mean": 5.7 + bad, "nearest_distance_mean_se": 0.05, "nearest_distance_median": 5.6 + bad,
            "nearest_distance_quantiles": {"0.01": 3.0}, "zero_count": 0, "held_out_nearest_distance_mean": 4.5 + bad,
            "held_out_nearest_distance_median": 4.4, "nearest_distance_ratio": (5.7 + bad) / (4.5 + bad),
            "train_nearest_distance_mean": 4.4, "copying_c_t": 2.5 + bad, "copying_z": 1.2, "copying_p": 0.3,
            "authpct": 81 - 10 * bad, "calibrated_copies": 2}  # fmt: skip


def histograms(run: Run) -> dict[str, Any]:
    """Details of memorization."""
    bad, draw = _severity(run)
    edges = np.linspace(0, 12, 41)
    found = {"generated": draw.normal(5.7 + bad, 1.2, 500), "held_out": draw.normal(4.5 + bad, 1.0, 200),
             "train": draw.normal(4.4, 1.0, 400)}  # fmt: skip
    return {"histograms": {"edges": edges.tolist(),
                           **{role: np.histogram(x, edges)[0].tolist() for role, x in found.items()}}}  # fmt: skip


def rewrite(path: Path, change: Any) -> Path:
    """Change the JSON of a file, and its digest with it."""
    content = json.loads(path.read_text())
    change(content)
    publish_json(path, content)
    return path
