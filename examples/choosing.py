"""What subsets keep: classes, cover, likeness to the whole and copies, as a table with a line for each METHOD.

python choosing.py FEATURES METHOD-KEEP.npy... [--clusters clusters.safetensors] [--json FILE]

It compares all pairs of samples in memory: 10,000 take 2 GB, and ten times as many a hundred times that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

# Cosines from which two images count as near copies of each other.
NEAR = (0.95, 0.99)


class Whole:
    """All samples: their labels, and how alike any two are."""

    def __init__(self, features: str) -> None:
        parts = [load_file(part) for part in sorted(Path(features).glob("*.safetensors"))]
        rows = np.concatenate([part["features"] for part in parts]).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.labels = np.concatenate([part["label"] for part in parts])
        self.cosine = np.clip(rows @ rows.T, -1, 1)
        np.fill_diagonal(self.cosine, 1)
        squares = 2 - 2 * self.cosine
        # The usual bandwidth: the median distance of two samples.
        self.kernel = np.exp(-squares / (2 * np.median(squares[np.triu_indices(len(rows), 1)])))
        self.mean_embedding = self.kernel.mean(1, dtype=np.float64)

    def measure(self, kept: np.ndarray) -> dict[str, float]:
        """Measure what a subset keeps of the whole."""
        among = self.cosine[np.ix_(kept, kept)]
        np.fill_diagonal(among, -1)
        closest, near = self.cosine[:, kept].max(1), among.max(1)
        means = self.kernel[np.ix_(kept, kept)].mean(dtype=np.float64), self.mean_embedding.mean()
        discrepancy = means[0] + means[1] - 2 * self.mean_embedding[kept].mean()
        return {
            "kept": len(kept),
            **shares(self.labels, kept, "class"),
            "radius": float(np.sqrt(2 - 2 * closest.min())),
            "distance": float(np.sqrt(2 - 2 * closest).mean()),
            "discrepancy": float(1000 * np.sqrt(max(discrepancy, 0))),
            **{f"copies_{bound}": float((near >= bound).mean()) for bound in NEAR},
        }


def shares(groups: np.ndarray, kept: np.ndarray, name: str) -> dict[str, float]:
    """How evenly a subset holds the groups: the smallest share over that in the whole, and how many have under half."""
    found, whole = np.unique(groups[groups >= 0], return_counts=True)
    ours = np.array([np.sum(groups[kept] == group) for group in found])
    ratio = ours / whole * whole.sum() / ours.sum()
    return {f"smallest_{name}": float(ratio.min()), f"halved_{name}": int((ratio < 0.5).sum())}


COLUMNS = {
    "smallest_class": ("smallest class", "{:.2f}"),
    "halved_class": ("classes under half", "{:.0f}"),
    "smallest_cluster": ("smallest cluster", "{:.2f}"),
    "radius": ("covering radius", "{:.2f}"),
    "distance": ("mean distance", "{:.2f}"),
    "discrepancy": ("discrepancy x 1000", "{:.1f}"),
    "copies_0.95": ("with a copy, cosine .95", "{:.0%}"),
    "copies_0.99": (".99", "{:.0%}"),
}


def table(found: dict[str, dict[str, float]]) -> str:
    """Write the measurements as a table of Markdown, those of a method's subsets in one line."""
    columns = {key: column for key, column in COLUMNS.items() if key in next(iter(found.values()))}
    rows: dict[str, list[dict[str, float]]] = {}
    for name, values in found.items():
        rows.setdefault(name.rpartition("-")[0], []).append(values)
    lines = [f"| kept | {' | '.join(title for title, _ in columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for method, subsets in rows.items():
        cells = (" / ".join(form.format(each[key]) for each in subsets) for key, (_, form) in columns.items())
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of some subsets."""
    parser = argparse.ArgumentParser(description="What subsets keep of the whole, as a table.")
    parser.add_argument("features", help="feature store")
    parser.add_argument("subsets", nargs="+", help="ids that are kept, in files METHOD-KEEP.npy")
    parser.add_argument("--clusters", help="tell the shares of these clusters, too")
    parser.add_argument("--json", help="write the numbers to this file")
    arguments = parser.parse_args()
    whole, found = Whole(arguments.features), {}
    for subset in arguments.subsets:
        kept = np.load(subset)
        found[Path(subset).stem] = whole.measure(kept)
        if arguments.clusters:
            clusters = load_file(arguments.clusters)["assignment"]
            found[Path(subset).stem] |= shares(clusters, kept, "cluster")
    print(table(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
