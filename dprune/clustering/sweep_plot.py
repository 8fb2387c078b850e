"""The picture of a sweep: inertia with its knee, and silhouette, over the number of clusters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dprune.clustering.quality import Quality
from dprune.formats.publish import publish_bytes

TABLE, PLOT = "sweep.csv", "sweep.png"
"""What lies beside the clusterings of a sweep: its table and its picture."""
INERTIA, SILHOUETTE, INK, FAINT = "#1f5fa8", "#c2571a", "#222222", "#d9d9d9"
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_sweep(path: Path, qualities: Sequence[Quality], knee: int | None, metric: str) -> None:
    """Publish the picture as PNG.

    Args:
        path: where.
        qualities: one for each k, ascending.
        knee: the k to mark, None for none.
        metric: `l2` or `cosine`, for the axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        # A Figure of its own needs neither pyplot nor a display.
        figure = Figure(figsize=(7.2, 5.6), dpi=150, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _curve(upper, qualities, "inertia", INERTIA)
        _curve(lower, qualities, "silhouette", SILHOUETTE)
        upper.set_ylabel("inertia" if metric == "l2" else "inertia (1 - cosine)")
        lower.set_ylabel("silhouette (sampled)")
        lower.set_xlabel("number of clusters k")
        upper.set_title("k-means over the number of clusters", loc="left", fontweight="bold", fontsize=12, pad=10)
        _ticks(lower, [quality.k for quality in qualities])
        if knee is not None:
            _mark_knee(upper, lower, qualities, knee)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    publish_bytes(path, buffer.getvalue())


def _curve(axes: Any, qualities: Sequence[Quality], name: str, colour: str) -> None:
    from matplotlib.ticker import EngFormatter

    values = [getattr(quality, name) for quality in qualities]
    axes.plot([quality.k for quality in qualities], values, color=colour, marker="o", markersize=5, linewidth=1.8,
              clip_on=False, zorder=3)  # fmt: skip
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.03, y=0.12)
    if name == "inertia":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _ticks(axes: Any, ks: list[int]) -> None:
    # Every k while there is room for its number, otherwise matplotlib's choice of round ones.
    if len(ks) <= 16:
        axes.set_xticks(ks)
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))


def _mark_knee(upper: Any, lower: Any, qualities: Sequence[Quality], knee: int) -> None:
    first, last = qualities[0], qualities[-1]
    at = next(quality for quality in qualities if quality.k == knee)
    upper.plot([first.k, last.k], [first.inertia, last.inertia], color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    for axes in (upper, lower):
        axes.axvline(knee, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    upper.plot([knee], [at.inertia], marker="o", markersize=12, markerfacecolor="none", markeredgecolor=INK,
               markeredgewidth=1.4, zorder=4)  # fmt: skip
    # Above the falling curve there is room on the right, and on the left once the knee is far from it.
    left = knee - first.k > 0.65 * (last.k - first.k)
    upper.annotate(f"knee at k = {knee}", (knee, 1), xycoords=("data", "axes fraction"), xytext=(-8 if left else 8, -4),
                   textcoords="offset points", va="top", ha="right" if left else "left", fontweight="bold",
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
