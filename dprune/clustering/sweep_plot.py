"""The picture of a sweep: inertia with its knee, and silhouette, over the number of clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dprune.clustering.quality import Quality
from dprune.formats.publish import publish_bytes

TABLE, PLOT = "sweep.csv", "sweep.png"
"""What lies beside the clusterings of a sweep: its table and its picture."""


def draw_sweep(path: Path, qualities: Sequence[Quality], knee: int | None, metric: str) -> None:
    """Publish the picture as PNG.

    Args:
        path: where.
        qualities: one for each k, ascending.
        knee: the k to mark, None for none.
        metric: `l2` or `cosine`, for the axis.
    """
    from dprune.charts.sweep import sweep_curves

    ks, inertia = [quality.k for quality in qualities], [quality.inertia for quality in qualities]
    silhouette = [None if math.isnan(quality.silhouette) else quality.silhouette for quality in qualities]
    unit = "inertia" if metric == "l2" else "inertia (1 - cosine)"
    publish_bytes(path, sweep_curves(ks, inertia, silhouette, knee, unit).on_paper("png"))
