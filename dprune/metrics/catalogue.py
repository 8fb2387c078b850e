"""The metrics: what --metrics, results, messages and reports call them, and what a reader should know of each.

A new metric of `eval` is a row here and a function in `measuring.eval_metrics`. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

VENDI_ORDER = 1.0
"""Order of the Vendi score that the headline number has."""
CLASS_NEIGHBOURS = 5
"""Reference samples that say of which class a generated one is: few, so that a class of a handful can still win."""


@dataclass(frozen=True)
class Measure:
    """One number of a result.

    Attributes:
        key: in the result file.
        name: in tables and above curves.
        better: `lower`, `higher`, or empty where neither is.
        note: what it says, in one sentence.
        baseline: value that means nothing happened, None without one.
        optional: whether results leave it out where it was not asked for or there was nothing to count.
    """

    key: str
    name: str
    better: str
    note: str
    baseline: float | None = None
    optional: bool = False

    @property
    def arrow(self) -> str:
        """An arrow that points to the better end."""
        return {"lower": "↓", "higher": "↑"}.get(self.better, "")


@dataclass(frozen=True)
class Metric:
    """What one name of --metrics stands for.

    Attributes:
        name: that --metrics takes.
        title: what messages call it.
        measures: the numbers that it gives, in the order of the result.
        by_default: whether it is computed where no metrics are asked for.
    """

    name: str
    title: str
    measures: tuple[Measure, ...]
    by_default: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that results have even where the inputs do not allow the metric."""
        return tuple(measure.key for measure in self.measures if not measure.optional)


def _shares(kind: str, more: str = "") -> tuple[Measure, ...]:
    name = kind.capitalize()
    return (
        Measure(f"{kind}_total_variation", f"{name} total variation", "lower",
                f"Half the summed differences of {kind} shares to the reference's{more}.", optional=True),
        Measure(f"{kind}_entropy", f"{name} entropy", "", f"Entropy of the generated {kind} shares, in nats{more}.",
                optional=True),
        Measure(f"{kind}_smallest_share", f"Smallest {kind} share", "",
                f"Share of the {kind} with the fewest generated samples{more}.", optional=True),
        Measure(f"{kind}_training_slope", f"{name} slope", "",
                f"Slope of generated {kind} shares over those of the training set; 1 follows them, 0 knows nothing of "
                f"them{more}.", 1.0, optional=True),
        Measure(f"{kind}_training_variation", f"{name} total variation, training", "",
                f"Half the summed differences of {kind} shares to those of the training set{more}.", optional=True),
    )  # fmt: skip


_CLASSES = (
    *_shares("class", "; where classes were asked for, a sample is of the class of its nearest reference samples"),
    Measure("class_accuracy", "Class accuracy", "higher",
            "Share of generated samples whose nearest reference samples are of the class that was asked for.",
            optional=True),
    Measure("reference_class_accuracy", "Class accuracy, real", "",
            "Share of reference samples whose nearest other reference samples are of their own class: the real "
            "baseline.", optional=True),
)  # fmt: skip
PAIRED = (
    Measure("paired_cosine", "Cosine of pairs", "", "Mean cosine of the features of samples of the same seed."),
    Measure("shuffled_cosine", "Cosine of shuffled pairs", "",
            "Mean cosine of samples of different seeds: what it is without shared noise."),
    Measure("class_shuffled_cosine", "Cosine of pairs shuffled in classes", "",
            "Mean cosine of samples of different seeds and the same class: what class alone makes of it.",
            optional=True),
    Measure("paired_distance", "Distance of pairs", "",
            "Mean Euclidean distance between the features of samples of the same seed."),
    Measure("shuffled_distance", "Distance of shuffled pairs", "",
            "Mean distance between samples of different seeds: what it is without shared noise."),
    Measure("class_shuffled_distance", "Distance of pairs shuffled in classes", "",
            "Mean distance between samples of different seeds and the same class: what class alone makes of it.",
            optional=True),
    Measure("paired_retrieval", "Nearest is the partner", "",
            "Share of the samples whose nearest of the other model has the same seed; by chance it is one over their "
            "number."),
)  # fmt: skip
"""How alike two models make of the same noise; neither end is better."""
_ROWS = (
    Metric("fid", "Fréchet distance", (
        Measure("frechet_distance", "Fréchet distance", "lower",
                "Distance of two Gaussians fitted to the features; biased upwards by few samples."),
        Measure("frechet_infinity", "Fréchet distance, N→∞", "lower",
                "Fréchet distance extrapolated to infinitely many samples of both sides.", optional=True),
        Measure("real_frechet_distance", "Fréchet distance, real to real", "",
                "Fréchet distance of as many real samples, held out, to the rest of the reference: the real "
                "baseline.", optional=True),
        Measure("frechet_distance_ratio", "Fréchet distance, generated / real", "lower",
                "Fréchet distance of generated samples over that of as many real ones, both to the same rest of the "
                "reference; 1 is as good as real.", 1.0,
                optional=True),
    )),
    Metric("is", "Inception score", (
        Measure("inception_score", "Inception score", "higher",
                "Exponential of the mean divergence of the class predictions from their mean."),
    )),
    Metric("prdc", "precision and recall", (
        Measure("precision", "Precision", "higher", "Share of generated samples inside the reference's manifold."),
        Measure("recall", "Recall", "higher", "Share of reference samples inside the generated manifold."),
        Measure("f_score", "F-score", "higher", "Harmonic mean of precision and recall."),
        Measure("density", "Density", "higher", "How densely the reference surrounds generated samples."),
        Measure("coverage", "Coverage", "higher", "Share of reference samples that have a generated sample near."),
    )),
    Metric("kid", "KID", (
        Measure("kid", "KID", "lower", "Unbiased squared MMD with a cubic kernel; it may be below zero.", 0.0),
    )),
    Metric("cmmd", "CMMD", (
        Measure("cmmd", "CMMD", "lower", "Squared MMD with a Gaussian kernel, times 1,000."),
    )),
    Metric("prd", "precision-recall curve", (
        Measure("prd_f_8", "PRD F8", "higher",
                "F-score of the precision-recall curve that weighs recall 8 times as much as precision."),
        Measure("prd_f_1_8", "PRD F1/8", "higher",
                "F-score of the precision-recall curve that weighs precision 8 times as much as recall."),
    )),
    Metric("vendi", "Vendi score", (
        Measure("vendi", "Vendi score", "higher", "Effective number of distinct samples."),
    )),
    Metric("shares", "shares", _shares("cluster") + _CLASSES),
    Metric("paired", "similarity of pairs", PAIRED, by_default=False),
    Metric("clipped-density", "clipped density", (
        Measure("clipped_density", "Clipped density", "higher",
                "Share of generated samples that lie as densely among the reference as its own samples do.",
                optional=True),
    ), by_default=False),
    Metric("clipped-coverage", "clipped coverage", (
        Measure("clipped_coverage", "Clipped coverage", "higher",
                "Share of good samples that would cover the reference as the generated ones do.", optional=True),
    ), by_default=False),
)  # fmt: skip
CLIPPED = ("clipped-density", "clipped-coverage")
METRICS = {metric.name: metric for metric in _ROWS}
"""By the name that --metrics takes, in the order of results."""

MEMORIZATION = (
    Measure("nearest_distance_mean", "Generated to training", "",
            "Mean distance of a generated sample to its nearest training sample."),
    Measure("held_out_nearest_distance_mean", "Held-out to training", "",
            "Mean distance of a held-out sample to its nearest training sample: the held-out baseline."),
    Measure("train_nearest_distance_mean", "Training to rest", "",
            "Mean distance of a training sample to the nearest of the others."),
    Measure("nearest_distance_ratio", "Distance to training, generated / held-out", "",
            "Ratio of the mean nearest distances; below 1, generated samples are nearer to the training set than "
            "held-out ones are.", 1.0),
    Measure("nearest_distance_median", "Median distance", "",
            "Median distance of a generated sample to its nearest training sample."),
    Measure("zero_count", "Exact copies", "lower", "Generated samples at distance zero from a training sample."),
    Measure("authpct", "AuthPct", "higher", "Percentage of generated samples that are not nearer to a training sample "
            "than that is to the others; compare it with that of held-out samples."),
    Measure("held_out_authpct", "AuthPct, held-out", "",
            "AuthPct of held-out samples: what it is without copying."),
    Measure("copying_c_t", "C_T", "", "Meehan's statistic: far below 0 is copying, far above 0 underfitting.", 0.0),
    Measure("copying_z", "z of C_T", "", "C_T divided by the standard deviation that it has without copying.", 0.0),
    Measure("calibrated_copies", "Calibrated copies", "lower",
            "Generated samples far nearer to one training sample than to its neighbours."),
    Measure("calibrated_copies_pct", "Calibrated copies, %", "lower",
            "Percentage of generated samples far nearer to one training sample than to its neighbours."),
    Measure("held_out_calibrated_copies_pct", "Calibrated copies, held-out, %", "",
            "Calibrated copies among held-out samples: as many are flagged without any copying."),
)  # fmt: skip

LOSS_GAP = Measure(
    "loss_gap_pct", "Largest loss gap, %", "lower",
    "How much larger the diffusion loss of held-out samples is than that of training samples, in percent of that, at "
    "the noise level where this is most.", 0.0,
)  # fmt: skip
LOSS_GAP_AT = "loss_gap_pct_at_{:g}"
"""Key of the same at one noise level."""
SHARES = METRICS["shares"].measures
QUALITY = tuple(measure for metric in _ROWS for measure in metric.measures if measure not in SHARES + PAIRED)
