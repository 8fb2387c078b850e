"""How far features move when the GPU decodes JPEGs instead of Pillow, beside other changes of the last digits, as JSON.

    python tests/bench/embed_differences.py shards --model timm:resnet10t --weights w.safetensors --image-size 224

Cosine distances between the features of one image, mean and largest, and the share of images that k-means' centres,
found with Pillow's, would give to another cluster. Beside the decoder stand what bf16 changes against float32, and what
storing features as float16 changes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import command

from dprune.formats.clusters import read_clusters
from dprune.formats.features import open_features

Features = npt.NDArray[np.float64]


def features(args: argparse.Namespace, folder: Path, decode: str, precision: str) -> Features:
    store = folder / f"{decode}-{precision}"
    command("embed", *args.shards, "--model", args.model, "--weights", args.weights, "--image-size", args.image_size,
            "--decode", decode, "--precision", precision, "--dtype", "float32", "--device", args.device, "-q",
            "-o", store)  # fmt: skip
    found = open_features(store)
    return found.rows(0, found.shape[0]).astype(np.float64)


def distances(one: Features, other: Features) -> dict[str, float]:
    """Cosine distances of rows, of which those of images that cannot be decoded are none."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found = 1 - (one * other).sum(1) / lengths
    return {"mean": float(np.nanmean(found)), "largest": float(np.nanmax(found))}


def moved(centroids: Features, one: Features, other: Features) -> float:
    def nearest(rows: Features) -> npt.NDArray[np.int64]:
        return ((centroids**2).sum(1) - 2 * rows @ centroids.T).argmin(1)

    return float((nearest(one) != nearest(other)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("-k", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways = {(decode, precision): features(args, folder, decode, precision)
                for decode in ("cpu", "gpu") for precision in ("fp32", "bf16")}  # fmt: skip
        command("cluster", folder / "cpu-fp32", "-k", args.k, "--device", args.device, "-q", "-o", folder / "c")
        centroids = read_clusters(folder / "c").centroids.astype(np.float64)
    exact, pairs = ways["cpu", "fp32"], dict[str, tuple[Features, Features]]()
    pairs["decoder, float32"] = (exact, ways["gpu", "fp32"])
    pairs["decoder, bf16"] = (ways["cpu", "bf16"], ways["gpu", "bf16"])
    pairs["bf16, Pillow"] = (exact, ways["cpu", "bf16"])
    pairs["float16 in the store"] = (exact, exact.astype(np.float16).astype(np.float64))
    result: dict[str, Any] = {"images": len(exact), "model": args.model, "k": args.k}
    for name, pair in pairs.items():
        result[name] = distances(*pair) | {"moved": moved(centroids, *pair)}
    result["different images"] = distances(exact, np.roll(exact, 1, 0))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
