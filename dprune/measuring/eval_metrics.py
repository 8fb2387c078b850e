"""The metrics of an evaluation: what each needs, and what it puts into the result."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dprune.formats.class_names import NAMELESS, ClassNames
from dprune.formats.clusters import Clusters
from dprune.formats.named import NamedSamples
from dprune.measuring.moments import Measured, stoppable
from dprune.measuring.real_baseline import HeldOut, real_baseline
from dprune.measuring.settings import EvalSettings, order_name
from dprune.measuring.sides import Side
from dprune.measuring.sources import is_sampled
from dprune.measuring.trained_samples import IntArray, TrainedSamples
from dprune.metrics.catalogue import CLIPPED, METRICS, VENDI_ORDER
from dprune.metrics.frechet import frechet_distance
from dprune.metrics.frechet_infinity import FEW, FEWEST, frechet_infinity, scarce
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.namespace import Array
from dprune.runtime import Monitor

if TYPE_CHECKING:
    from dprune.measuring.groups import Groups, PredictedClasses
    from dprune.metrics.manifold import Balls

_log = logging.getLogger("dprune")

# Of the precision-recall curve, which is drawn and no more: all digits of its 2,002 numbers would be most of a result.
CURVE_DECIMALS = 6


@dataclass(frozen=True)
class ReadyPair:
    """Two sides that are ready, and how they are to be compared.

    Attributes:
        generated: generated samples.
        reference: what they are compared with.
        settings: of the metrics, and the seed of all randomness.
        monitor: asked whether to stop.
        clusters: whose shares are compared, or None.
        logits: class logits of the generated samples that take part [n, classes], or None.
        held_out: real samples that are measured as the generated ones are, or None.
        trained: what the model was trained on, None where nothing tells.
        named: what tells the keys of the generated samples and of the reference, None where nothing does.
    """

    generated: Measured
    reference: Measured
    settings: EvalSettings
    monitor: Monitor
    clusters: Clusters | None = None
    logits: Array | None = None
    held_out: HeldOut | None = None
    trained: TrainedSamples | None = None
    named: Sequence[NamedSamples | None] = (None, None)

    @property
    def sides(self) -> tuple[Side, Side]:
        """The samples of both sides, for metrics that moments do not suffice for."""
        assert self.generated.side is not None
        assert self.reference.side is not None
        return self.generated.side, self.reference.side

    @property
    def rows(self) -> tuple[Array, Array]:
        """Their features."""
        generated, reference = self.sides
        return generated.x, reference.x

    @property
    def class_names(self) -> ClassNames:
        """What the labels are called; those of the reference, where it says so."""
        sides = (self.reference.features, self.generated.features)
        return next((side.class_names for side in sides if side is not None and side.class_names), NAMELESS)

    @functools.cached_property
    def groups(self) -> dict[str, Groups]:
        """Groups of both sides by what they are: `cluster`, `class`, both or none."""
        from dprune.measuring.groups import by_class, by_cluster, by_neighbours

        found: dict[str, Groups | None] = {}
        generated, reference = self.sides
        ours, theirs = self.generated.features, self.reference.features
        assert ours is not None
        assert theirs is not None
        if self.clusters is not None:
            found["cluster"] = by_cluster(self.clusters, generated, reference, theirs)
        asked, labels = ours.labels(), theirs.labels()
        if asked is not None and not is_sampled(ours.record):
            found["class"] = by_class(generated, asked, reference, labels)
        elif labels is not None:
            # What was asked for says nothing of what came.
            found["class"] = by_neighbours(generated, asked, reference, labels, self.settings.seed)
        return {kind: groups for kind, groups in found.items() if groups is not None}

    @functools.cached_property
    def balls(self) -> Balls:
        """What balls around samples tell, of which several metrics are made in one pass."""
        from dprune.metrics.manifold import balls

        kinds = {"prdc": "manifold", **dict.fromkeys(CLIPPED, "clipped")}
        wanted = {kinds[name] for name in self.settings.names if name in kinds and obstacle(name, self) is None}
        return balls(*self.rows, self.settings.k, self.settings.density_k, self.generated.blocks, wanted)

    def training_groups(self, kind: str) -> IntArray | None:
        """Return the clusters or classes of the training samples, int64 [n], None where nothing tells."""
        if self.trained is None or self.reference.features is None:
            return None
        return self.trained.groups(kind, self.reference.features, self.clusters)


def obstacle(name: str, pair: ReadyPair) -> str | None:
    """Say why a metric cannot be computed, None where it can."""
    count, others, settings = pair.generated.count, pair.reference.count, pair.settings
    if name == "is" and pair.logits is None:
        return "the generated samples have no class logits: give --logits, or features of --model inception"
    if name == "is" and len(pair.logits if pair.logits is not None else ()) < settings.splits:
        return f"{count} generated samples are fewer than --splits {settings.splits}"
    if name == "prdc" and (count or 0) <= settings.k:
        return f"{count} generated samples have no {settings.k} neighbours each: lower --k"
    if name == "prdc" and (others or 0) <= max(settings.k, settings.density_k):
        return f"{others} reference samples are too few: lower --k and --density-k below that"
    if name in CLIPPED and (others or 0) <= settings.density_k:
        return f"{others} reference samples are too few: lower --density-k below that"
    if name == "shares" and not pair.groups:
        return "they need --clusters, or labels of the reference"
    return None


Found = tuple[dict[str, Estimate], dict[str, Any]]
"""Estimates by their key in the result, and what goes into its `details`."""
Function = Callable[[ReadyPair], Found]
FUNCTIONS: dict[str, Function] = {}
"""What computes each metric of the catalogue."""


def _computes(name: str) -> Callable[[Function], Function]:
    return lambda function: FUNCTIONS.setdefault(name, function)


@_computes("fid")
def _frechet(pair: ReadyPair) -> Found:
    (ours, replicates), (theirs, _) = pair.generated.moments, pair.reference.moments
    # One sample has no covariance, so with two of them there is no replicate.
    blocks = pair.generated.blocks
    blocks = blocks if blocks is not None and min(blocks.remaining) > 1 else None
    found = frechet_distance(ours, theirs, stoppable(replicates, pair.monitor), blocks)
    for role, moments in (("generated", ours), ("reference", theirs)):
        if moments.undersampled:
            _log.warning(
                "%d %s samples are fewer than the %d dimensions, where the Fréchet distance is mostly bias: compare "
                "it at equal counts only.", moments.count, role, moments.dimension,
            )  # fmt: skip
    metrics = {"frechet_distance": found.distance}
    details: dict[str, Any] = {"mean_term": found.mean_term, "covariance_term": found.covariance_term}
    if pair.settings.infinity:
        metrics["frechet_infinity"], details["infinity"] = _infinity(pair, found.distance, blocks)
    baseline = real_baseline(pair.generated, pair.reference, pair.held_out, pair.settings, pair.monitor)
    if baseline is not None:
        metrics |= {"real_frechet_distance": baseline.real, "frechet_distance_ratio": baseline.ratio}
        details["real_baseline"] = {
            "real": baseline.source, "count": baseline.count, "reference": baseline.rest,
            "generated": baseline.generated.value, "generated_se": baseline.generated.error,
        }  # fmt: skip
    return metrics, {"frechet": details}


def _infinity(pair: ReadyPair, distance: Estimate, blocks: Blocks | None) -> tuple[Estimate, Any]:
    """Extrapolate the distance; where that would be no distance, say why and give NaN."""
    assert pair.generated.side is not None
    x, reference = pair.generated.side.x, pair.reference
    counts, dimension = {"generated": pair.generated.count, "reference": reference.count}, x.shape[1]
    if problem := scarce(counts, dimension, FEWEST):
        _log.warning("no Fréchet distance of infinitely many samples: %s, too few to extrapolate from.", problem)
        return Estimate(math.nan), None
    theirs = reference.moments[0] if reference.side is None else reference.side.x
    found = frechet_infinity(distance, x, theirs, pair.settings.seed, blocks)
    details = {"sides": ["generated", "reference"] if found.both else ["generated"], "halves": found.halves,
               "height": found.height.value}  # fmt: skip
    if not found.both:
        _log.warning("the reference is statistics, which cannot be halved: the Fréchet distance is extrapolated "
                     "over the generated samples only.")  # fmt: skip
    if found.height.value < 0:
        _log.warning("no Fréchet distance of infinitely many samples: the extrapolation ends below zero (%.3g), "
                     "since the sets are too much alike for so few samples.", found.height.value)  # fmt: skip
        return Estimate(math.nan), details
    if problem := scarce(counts, dimension, FEW):
        _log.warning("the extrapolated Fréchet distance is uncertain: %s.", problem)
    return found.height, details


@_computes("is")
def _inception_score(pair: ReadyPair) -> Found:
    from dprune.metrics.inception_score import inception_score

    assert pair.logits is not None
    splits = pair.settings.splits
    found = inception_score(pair.logits, splits, pair.settings.seed, pair.generated.blocks)
    details = {"splits": splits, "deviation": found.deviation}
    return {"inception_score": found.score}, {"inception_score": details}


@_computes("prdc")
def _manifold(pair: ReadyPair) -> Found:
    return {key: getattr(pair.balls.manifold, key) for key in METRICS["prdc"].keys}, {}


@_computes("kid")
def _kid(pair: ReadyPair) -> Found:
    from dprune.metrics.kernel import kid

    return {"kid": kid(*pair.rows, pair.generated.blocks)}, {}


@_computes("cmmd")
def _cmmd(pair: ReadyPair) -> Found:
    from dprune.metrics.kernel import cmmd

    return {"cmmd": cmmd(*pair.rows, pair.generated.blocks)}, {}


@_computes("prd")
def _prd(pair: ReadyPair) -> Found:
    from dprune.measuring.groups import by_kmeans
    from dprune.metrics.prd import prd

    found = prd(*pair.rows, by_kmeans, pair.settings.seed, blocks=pair.generated.blocks)
    curve = {
        name: [round(value, CURVE_DECIMALS) for value in values.tolist()]
        for name, values in (("precision", found.precision), ("recall", found.recall))
    }
    details = {**curve, "clusters": found.clusters, "runs": found.runs}
    return {"prd_f_8": found.f_8, "prd_f_1_8": found.f_1_8}, {"prd": details}


@_computes("vendi")
def _vendi(pair: ReadyPair) -> Found:
    from dprune.metrics.vendi import vendi

    scores = vendi(pair.rows[0], pair.settings.vendi_orders, pair.generated.blocks)
    by_order = {order_name(q): {"value": score.value, "se": score.error} for q, score in scores.items()}
    return {"vendi": scores[VENDI_ORDER]}, {"vendi": by_order}


@_computes("shares")
def _shares(pair: ReadyPair) -> Found:
    from dprune.measuring.groups import PredictedClasses
    from dprune.metrics.shares import follow_training, shares

    metrics: dict[str, Estimate] = {}
    details: dict[str, Any] = {}
    for kind, groups in pair.groups.items():
        found = shares(groups.generated, groups.reference, len(groups.names), pair.generated.blocks)
        metrics |= {
            f"{kind}_total_variation": found.total_variation,
            f"{kind}_entropy": found.entropy,
            f"{kind}_smallest_share": found.smallest,
        }
        names = pair.class_names if kind == "class" else NAMELESS
        titles = [names.name(number) for number in groups.names] if names else groups.names
        details[kind] = {
            "names": titles,
            "by": groups.by,
            "generated": found.generated.tolist(),
            "generated_se": found.errors.tolist(),
            "reference": found.reference.tolist(),
            "reference_entropy": found.reference_entropy,
            "smallest": titles[found.smallest_group],
            "unlabelled": found.unlabelled,
        }
        if (training := pair.training_groups(kind)) is not None:
            followed = follow_training(
                groups.generated, groups.places(training), len(groups.names), pair.generated.blocks
            )
            slope = {} if followed.slope is None else {f"{kind}_training_slope": followed.slope}
            metrics |= {f"{kind}_training_variation": followed.total_variation, **slope}
            details[kind]["training"] = followed.training.tolist()
        if isinstance(groups, PredictedClasses):
            metrics |= _accuracies(groups, pair.generated.blocks)
            details[kind]["reference_predicted"] = groups.reference_count
    return metrics, {"shares": details}


@_computes("paired")
def _paired(pair: ReadyPair) -> Found:
    from dprune.measuring.same_seeds import measure_pairs

    metrics, details = measure_pairs(pair.generated, pair.reference, pair.named, pair.settings)
    return metrics, {"paired": details}


@_computes("clipped-density")
def _clipped_density(pair: ReadyPair) -> Found:
    found = pair.balls.clipped
    assert found is not None
    return {"clipped_density": found.density}, {"clipped_density": {"uncapped": found.uncapped}}


@_computes("clipped-coverage")
def _clipped_coverage(pair: ReadyPair) -> Found:
    found = pair.balls.clipped
    assert found is not None
    return {"clipped_coverage": found.coverage}, {"clipped_coverage": {"uncalibrated": found.uncalibrated}}


def _accuracies(classes: PredictedClasses, blocks: Blocks | None) -> dict[str, Estimate]:
    """Return how often generated samples show the class asked for, beside how often real ones show their own."""
    found: dict[str, Estimate] = {}
    if (right := classes.right) is not None:
        found["class_accuracy"] = (blocks or Blocks.whole(right)).mean(right)
        if classes.reference_accuracy is not None:
            found["reference_class_accuracy"] = Estimate(classes.reference_accuracy)
    return found
