"""Summaries for people: names as they write them, few digits, no more fields than they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dprune.formats.readable import readable, speed

WIDTH = 100
"""Characters of a line, as help has them."""
TITLES = {
    "real_frechet_distance": "real to real",
    "frechet_distance_ratio": "generated / real",
    "frechet_infinity": "for N→∞",
    "reference_class_accuracy": "class accuracy of real samples",
    "nearest_distance_ratio": "generated / held-out",
    "held_out_authpct": "AuthPct of held-out samples",
    "calibrated_copies_pct": "calibrated copies in %",
    "held_out_calibrated_copies_pct": "calibrated copies of held-out samples in %",
    "knee": "knee at k",
    "highest_silhouette": "highest silhouette at k",
    "size_min": "smallest",
    "size_median": "median",
    "size_max": "largest",
    "split_half": "split halves",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "mfu": "MFU",
    "kl": "KL",
    "img_per_s": "speed",
    "sampling_img_per_s": "sampling",
    "decoding_and_png_img_per_s": "decoding and PNG",
    "memory_gib": "memory in GiB",
    "psnr_mean": "mean PSNR",
    "psnr_min": "lowest PSNR",
}
"""Names of fields that are not their keys with spaces; those of other metrics are in the catalogue of these."""
IN_DETAIL = {"fingerprint", "engine", "device", "distinct", "grad_norm", "lr", "page"}
"""Fields that are told with -v alone."""
AS_EXPECTED: dict[str, Any] = {
    "undecodable": 0,
    "unreadable": 0,
    "not_scored": 0,
    "without_features": 0,
    "empties_repaired": 0,
    "complete": True,
}
"""What fields say that are told with -v alone where they say this."""


UNLISTED = {
    "loss_gap_sigma": "at noise level",
    "loss_gap_by_sigma": "loss gap in % by noise level",
    "held_out_nearest_distance_median": "median of held-out",
    "copying_p": "p of C_T",
}
"""Measures that the catalogue leaves out, as tables do."""


class Told(NamedTuple):
    """A summary in words.

    Attributes:
        counts: what goes behind the name of the output.
        lines: what follows, a line each.
    """

    counts: str
    lines: list[str]


def in_words(summary: Mapping[str, Any], *, every: bool) -> Told:
    """Put a summary into words; tables of tables are for JSON.

    Args:
        summary: what a job says of its output.
        every: whether to leave nothing out.
    """
    metrics = _metrics()
    names = metrics | TITLES
    shown = {key: value for key, value in summary.items() if every or not _is_detail(key, value)}
    flat = {key: f"{_spelt(key, names)}: {_value(key, value)}"
            for key, value in shown.items() if not isinstance(value, dict)}  # fmt: skip
    counts = ", ".join(text for key, text in flat.items() if key not in metrics)
    lines = list(_wrapped([text for key, text in flat.items() if key in metrics]))
    for key, table in shown.items():
        if isinstance(table, dict) and not any(isinstance(value, dict) for value in table.values()):
            # The keys of others are names of groups.
            spelt = {name: name if key.startswith("kept_by") else _spelt(name, names) for name in table}
            named = {spelt[name]: _rounded(value) for name, value in table.items()}
            lines.append(f"{_spelt(key, names)}: {readable(named)}")
    return Told(counts, lines)


def _metrics() -> dict[str, str]:
    """Return the names of metrics by their keys, as they stand inside a sentence."""
    from dprune.metrics.catalogue import LOSS_GAP, MEMORIZATION, METRICS

    measures = [measure for metric in METRICS.values() for measure in metric.measures]
    return UNLISTED | {measure.key: _inside(measure.name) for measure in (*measures, *MEMORIZATION, LOSS_GAP)}


def _spelt(key: str, names: Mapping[str, str]) -> str:
    return names.get(key) or key.replace("_", " ")


def _inside(name: str) -> str:
    """Begin a name with a small letter, unless it is a person's or an abbreviation."""
    return name if name.startswith(("Fréchet", "Inception", "Vendi", "AuthPct")) or not name[1:2].islower() else (
        name[0].lower() + name[1:]
    )  # fmt: skip


def _is_detail(key: str, value: Any) -> bool:
    return key in IN_DETAIL or value is None or (key in AS_EXPECTED and value == AS_EXPECTED[key])


def _value(key: str, value: Any) -> str:
    if key.endswith("img_per_s") and value:
        return speed(value, "images")
    return readable(_rounded(value))


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _wrapped(texts: list[str]) -> Iterator[str]:
    """Put as many texts into a line as go into it, and no part of one into the next."""
    line = ""
    for text in texts:
        longer = f"{line}, {text}" if line else text
        if line and len(longer) > WIDTH:
            yield line
            longer = text
        line = longer
    if line:
        yield line
